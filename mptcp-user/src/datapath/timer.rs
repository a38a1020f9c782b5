//! A timer that is a descriptor, for those who wait for descriptors only.

use mptcp_proto::Instant;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

/// A timer (`timerfd_create(2)`) on the clock of [`Instant`]. Its descriptor is readable once the time has come, until
/// it is set anew.
#[derive(Debug)]
pub(super) struct Timer {
    fd: OwnedFd,
    due: Option<Instant>,
}

impl Timer {
    /// A timer that is not set.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers involved.
        let raw =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) }, due: None })
    }

    /// Sets it to `due`, or to never.
    pub(super) fn set(&mut self, due: Option<Instant>) {
        if due.is_none() && self.due.is_none() {
            return;
        }
        self.due = due;
        // Zero would be never.
        let nanos = due.map_or(0, |due| due.as_nanos().max(1));
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as libc::time_t,
            tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
        };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: `setting` is readable, and nobody wants the old one. It fails for times out of range only.
        unsafe {
            libc::timerfd_settime(
                self.fd.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &raw const setting,
                null_mut(),
            );
        }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn now() -> Instant {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is writable.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn rings_within(timer: &Timer, millis: i32) -> bool {
        let mut poll = libc::pollfd { fd: timer.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        unsafe { libc::poll(&raw mut poll, 1, millis) == 1 }
    }

    #[test]
    fn it_rings_when_it_is_due_until_it_is_set_anew() {
        let mut timer = Timer::new().expect("timerfd");
        assert!(!rings_within(&timer, 0));
        timer.set(Some(now() + Duration::from_millis(1)));
        assert!(rings_within(&timer, 10_000) && rings_within(&timer, 0));
        timer.set(Some(now() + Duration::from_secs(1000)));
        assert!(!rings_within(&timer, 0));
        // What is past is due.
        timer.set(Some(Instant::ZERO));
        assert!(rings_within(&timer, 10_000));
        timer.set(None);
        assert!(!rings_within(&timer, 0));
    }
}
