//! A timer that is a descriptor, for those who wait for descriptors only.

use mptcp_proto::Instant;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A timer (`timerfd_create(2)`) on the clock of [`Instant`]. Its descriptor is readable once the time has come, until
/// it is set anew.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
    due: Option<Instant>,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: timerfd_create(TimerfdClockId::Monotonic, flags)?, due: None })
    }

    /// Sets it to `due`, or to never.
    pub fn set(&mut self, due: Option<Instant>) {
        if due.is_none() && self.due.is_none() {
            return;
        }
        self.due = due;
        // Zero would be never.
        let nanos = due.map_or(0, |due| due.as_nanos().max(1));
        let value =
            Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 };
        let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // It fails for times out of range only.
        let _ = timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &setting);
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
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::time::{ClockId, clock_gettime};
    use std::time::Duration;

    fn now() -> Instant {
        let time = clock_gettime(ClockId::Monotonic);
        Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn rings_within(timer: &Timer, millis: i64) -> bool {
        let timeout = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        poll(&mut [PollFd::new(timer, PollFlags::IN)], Some(&timeout)) == Ok(1)
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
