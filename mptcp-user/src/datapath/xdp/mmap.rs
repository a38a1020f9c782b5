//! Arrays of the XDP program, mapped into this process: read and written without system calls.

use super::XdpError;
use mptcp_common::maps::Telemetry;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A mapping of a memory-mappable array map.
struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: plain memory, accessed only through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, len: usize) -> Result<Self, XdpError> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, len }),
            _ => Err(XdpError::System { call: "mapping a BPF array", source: io::Error::last_os_error() }),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}

/// Octets between elements of an array of `u32`: the kernel rounds up to 8.
const PORT_STRIDE: usize = 8;

/// How many subflows and listeners use each local port.
pub(super) struct Ports(Mapping);

impl Ports {
    pub(super) fn new(map: BorrowedFd<'_>) -> Result<Self, XdpError> {
        Ok(Self(Mapping::new(map, 65536 * PORT_STRIDE)?))
    }
    fn users(&self, port: u16) -> &AtomicU32 {
        // SAFETY: inside the mapping, aligned to 8, and accessed by atomics only.
        unsafe { self.0.start.byte_add(usize::from(port) * PORT_STRIDE).cast().as_ref() }
    }
    pub(super) fn add(&self, port: u16) {
        self.users(port).fetch_add(1, Ordering::Relaxed);
    }
    pub(super) fn remove(&self, port: u16) {
        self.users(port).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Words of a [`Telemetry`] entry.
const WORDS: usize = size_of::<Telemetry>() / 8;

/// The telemetry array.
pub(super) struct TelemetryArray {
    mapping: Mapping,
    slots: u32,
}

impl TelemetryArray {
    pub(super) fn new(map: BorrowedFd<'_>, slots: u32) -> Result<Self, XdpError> {
        Ok(Self { mapping: Mapping::new(map, slots as usize * size_of::<Telemetry>())?, slots })
    }
    fn words(&self, slot: u32) -> Option<&[AtomicU64; WORDS]> {
        if slot >= self.slots {
            return None;
        }
        // SAFETY: inside the mapping, aligned to 64, and accessed by atomics only.
        Some(unsafe { self.mapping.start.byte_add(slot as usize * size_of::<Telemetry>()).cast().as_ref() })
    }
    pub(super) fn read(&self, slot: u32) -> Option<Telemetry> {
        let words = self.words(slot)?;
        let mut copy = [0; WORDS];
        for (copy, word) in copy.iter_mut().zip(words) {
            *copy = word.load(Ordering::Relaxed);
        }
        // SAFETY: 64 octets, any value of which is a `Telemetry`: integers without padding.
        Some(unsafe { std::mem::transmute::<[u64; WORDS], Telemetry>(copy) })
    }
    pub(super) fn clear(&self, slot: u32) {
        for word in self.words(slot).into_iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
    }
}
