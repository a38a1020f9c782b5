//! Memory mappings that unmap themselves.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A private or shared mapping of a whole number of pages, readable and writable.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory without thread affinity; whoever shares it orders the accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above; `Mapping` itself gives out nothing but its address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Anonymous zeroed memory, of huge pages if the system has some to spare.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        const HUGE_PAGE: usize = 2 << 20;
        if len.is_multiple_of(HUGE_PAGE)
            && let Ok(mapping) = Self::map(len, flags | libc::MAP_HUGETLB | libc::MAP_POPULATE, -1, 0)
        {
            return Ok(mapping);
        }
        let mapping = Self::map(len, flags, -1, 0)?;
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_POPULATE_WRITE] {
            // SAFETY: the mapping just made. Where the kernel does not take the advice, pages come as they are touched.
            unsafe { libc::madvise(mapping.start.as_ptr().cast(), len, advice) };
        }
        Ok(mapping)
    }

    /// A part of what a file descriptor offers for mapping: the rings of a socket.
    pub(super) fn of_fd(fd: BorrowedFd<'_>, offset: libc::off_t, len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    fn map(len: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice disturbs no other memory.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapping at address 0"))?;
        Ok(Self { start, len })
    }

    /// First octet of the mapping.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in octets.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
