//! The system calls on AF_XDP sockets, with checked results.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `socket(AF_XDP, SOCK_RAW)`.
pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers involved.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option of level `SOL_XDP`.
pub(super) fn set_option<T>(fd: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for the length given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of level `SOL_XDP`; the kernel must fill at least the whole of `T`.
///
/// # Safety
/// Every bit pattern must be a valid `T`.
pub(super) unsafe fn get_option<T>(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for the length given.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, value.as_mut_ptr().cast(), &raw mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < size_of::<T>() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's AF_XDP structures are too old"));
    }
    // SAFETY: the kernel wrote all of it, the rest is zero, and the caller vouches for the bit patterns.
    Ok(unsafe { value.assume_init() })
}

/// Binds to a queue of an interface.
pub(super) fn bind(
    fd: BorrowedFd<'_>,
    interface: u32,
    queue: u32,
    flags: u16,
    shared_umem: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared_umem.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: `address` is a whole sockaddr_xdp of the length given.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel knows packets of several buffers (Linux 6.6); none if this process may not ask.
pub(super) fn knows_multi_buffer() -> Option<bool> {
    let fd = socket().ok()?;
    // The flag is looked at before the interface, which does not exist.
    let refused = bind(fd.as_fd(), 0, 0, libc::XDP_USE_SG, None).err()?;
    Some(refused.raw_os_error() != Some(libc::EINVAL))
}

/// Makes the kernel look at the transmit ring.
pub(super) fn kick_transmit(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an empty message: no pointer is followed.
    let result =
        unsafe { libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the driver look at the fill ring and its receive queue.
pub(super) fn kick_receive(fd: BorrowedFd<'_>) {
    // The result carries no news: the rings say what there is.
    // SAFETY: an empty buffer: no pointer is followed.
    unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}
