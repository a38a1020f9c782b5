//! Waiting for many descriptors, with nanosecond timeouts.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// An epoll instance (epoll(7)).
pub(super) struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers involved.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) } })
    }

    /// Another descriptor of the same instance: readable while any of those added is ready.
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// From now on tells when `fd` is readable, if it does not already. A descriptor leaves by itself when it is closed.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        unless(libc::EEXIST, self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, key))
    }

    /// Adds `fd` without telling anything about it until it is [armed](Self::arm_writable).
    pub(super) fn add_disarmed(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLONESHOT as u32, key)
    }

    /// Tells once when `fd` is writable.
    pub(super) fn arm_writable(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, (libc::EPOLLOUT | libc::EPOLLONESHOT) as u32, key)
    }

    /// No longer tells anything about `fd`, if it did.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        unless(libc::ENOENT, self.control(libc::EPOLL_CTL_DEL, fd, 0, 0))
    }

    fn control(&self, operation: libc::c_int, fd: BorrowedFd<'_>, events: u32, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: key };
        // SAFETY: `event` is valid for the call.
        let result =
            unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits, at most for `timeout`; gives the keys of descriptors that are ready.
    pub(super) fn wait<'a>(
        &self,
        keys: &'a mut [u64; 64],
        timeout: Option<Duration>,
    ) -> io::Result<&'a [u64]> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let timespec = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().min(1 << 30) as libc::time_t,
            tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
        });
        let timeout = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `events` has room for as many as it says; `timeout` is null or valid; no signal mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(&[]) } else { Err(error) };
        }
        let count = (count as usize).min(keys.len());
        for (key, event) in keys.iter_mut().zip(&events[..count]) {
            *key = event.u64;
        }
        Ok(&keys[..count])
    }
}

/// An error that says that there was nothing to do is none.
fn unless(nothing_to_do: libc::c_int, result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.raw_os_error() == Some(nothing_to_do) { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn what_came_before_a_descriptor_was_added_is_told_and_what_comes_after_it_left_is_not() {
        let (epoll, mut keys) = (Epoll::new().expect("epoll"), [0; 64]);
        let (read, mut write) = io::pipe().expect("pipe");
        let mut told = || epoll.wait(&mut keys, Some(Duration::ZERO)).expect("waits").to_vec();
        write.write_all(b"x").expect("writes");
        assert!(told().is_empty());
        for _ in 0..2 {
            epoll.add(read.as_fd(), 7).expect("adds");
            assert_eq!(told(), [7]);
        }
        for _ in 0..2 {
            epoll.remove(read.as_fd()).expect("removes");
            assert!(told().is_empty());
        }
    }
}
