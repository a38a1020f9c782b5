//! Waiting for many descriptors, with nanosecond timeouts.

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// An epoll instance (epoll(7)).
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// An instance that waits for nothing.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Another descriptor of the same instance: readable while any of those added is ready.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// From now on tells when `fd` is readable, if it does not already. A descriptor leaves by itself when it is closed.
    ///
    /// # Errors
    /// The descriptor can't be waited for, or the user has no watches left.
    pub fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let added = epoll::add(&self.fd, fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN);
        unless(Errno::EXIST, added)
    }

    /// Adds `fd` without telling anything about it until it is [armed](Self::arm_writable).
    ///
    /// # Errors
    /// As [`add`](Self::add), or it is there already.
    pub fn add_disarmed(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(key), epoll::EventFlags::ONESHOT)?)
    }

    /// Tells once when `fd` is writable.
    ///
    /// # Errors
    /// The descriptor was not added.
    pub fn arm_writable(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let events = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        Ok(epoll::modify(&self.fd, fd, epoll::EventData::new_u64(key), events)?)
    }

    /// No longer tells anything about `fd`, if it did.
    ///
    /// # Errors
    /// The descriptor can't be waited for.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        unless(Errno::NOENT, epoll::delete(&self.fd, fd))
    }

    /// Waits, at most for `timeout`; gives the keys of descriptors that are ready.
    ///
    /// # Errors
    /// The kernel has no `epoll_pwait2` (it came with Linux 5.11).
    pub fn wait<'a>(&self, keys: &'a mut [u64; 64], timeout: Option<Duration>) -> io::Result<&'a [u64]> {
        const NOTHING: epoll::Event =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [NOTHING; 64];
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().min(1 << 30) as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let count = match epoll::wait(&self.fd, &mut events[..], timeout.as_ref()) {
            Err(Errno::INTR) => 0,
            count => count?,
        };
        for (key, event) in keys.iter_mut().zip(&events[..count]) {
            *key = event.data.u64();
        }
        Ok(&keys[..count])
    }
}

/// An error that says that there was nothing to do is none.
fn unless(nothing_to_do: Errno, result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error == nothing_to_do => Ok(()),
        result => Ok(result?),
    }
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
