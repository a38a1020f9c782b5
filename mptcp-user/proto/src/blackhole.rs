//! Destinations that do not like Multipath TCP: on the way there, SYNs with MP_CAPABLE disappear, or the data that follows
//! is tampered with (RFC 8684 section 3.7). For a while they are connected to with regular TCP, which saves the seconds
//! until the option is left out. The wait doubles with each failure that comes after it, and all is forgotten once
//! Multipath TCP works. The Linux kernel does the same for the whole host (`net.mptcp.blackhole_timeout`); here each
//! destination, an address and a port, has an entry of its own.

use super::Instant;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Most destinations remembered: one more pushes out the one whose time is over first.
const MAX_DESTINATIONS: usize = 1024;
/// The wait doubles so many times at most, as in the Linux kernel.
const MAX_DOUBLINGS: u32 = 6;

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    until: Instant,
}

/// All of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Blackholes {
    destinations: BTreeMap<SocketAddr, Entry>,
}

/// A destination that is remembered as one that does not like Multipath TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct BlackholeInfo {
    /// Address and port.
    pub destination: SocketAddr,
    /// Failures, each after the wait that the one before had brought.
    pub failures: u32,
    /// How long regular TCP will still be spoken with it; zero: the next connection tries again.
    pub left: Duration,
}

impl Blackholes {
    /// Whether to speak regular TCP with it now.
    pub(crate) fn avoids(&self, now: Instant, destination: SocketAddr) -> bool {
        self.destinations.get(&destination).is_some_and(|entry| entry.until > now)
    }

    /// Multipath TCP did not work. `first` is the first wait; gives the wait if it has just begun.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        destination: SocketAddr,
        first: Duration,
    ) -> Option<Duration> {
        if first.is_zero() || self.avoids(now, destination) {
            // Connections that were under way when it became known are no further failures.
            return None;
        }
        if self.destinations.len() >= MAX_DESTINATIONS && !self.destinations.contains_key(&destination) {
            let oldest = self.destinations.iter().min_by_key(|(_, entry)| entry.until);
            if let Some(oldest) = oldest.map(|(destination, _)| *destination) {
                self.destinations.remove(&oldest);
            }
        }
        let entry = self.destinations.entry(destination).or_insert(Entry { failures: 0, until: now });
        let wait = first.saturating_mul(1 << entry.failures.min(MAX_DOUBLINGS));
        entry.failures = entry.failures.saturating_add(1);
        entry.until = now + wait;
        Some(wait)
    }

    /// Multipath TCP works.
    pub(crate) fn worked(&mut self, destination: SocketAddr) {
        self.destinations.remove(&destination);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.destinations.clear();
    }

    /// What is remembered.
    pub(crate) fn info(&self, now: Instant) -> Vec<BlackholeInfo> {
        let info = |(destination, entry): (&SocketAddr, &Entry)| BlackholeInfo {
            destination: *destination,
            failures: entry.failures,
            left: if entry.until > now { entry.until - now } else { Duration::ZERO },
        };
        self.destinations.iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn destination(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    #[test]
    fn the_wait_doubles_six_times_and_begins_anew_after_a_success() {
        let mut known = Blackholes::default();
        let mut now = Instant::ZERO;
        for times in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            assert!(!known.avoids(now, destination(1)));
            assert_eq!(known.failed(now, destination(1), HOUR), Some(HOUR * times));
            assert_eq!(known.failed(now, destination(1), HOUR), None, "one failure is counted once");
            now += HOUR * times;
        }
        known.worked(destination(1));
        assert_eq!(known.failed(now, destination(1), HOUR), Some(HOUR));
    }

    #[test]
    fn without_a_wait_nothing_is_remembered() {
        let mut known = Blackholes::default();
        assert_eq!(known.failed(Instant::ZERO, destination(1), Duration::ZERO), None);
        assert!(known.info(Instant::ZERO).is_empty());
    }

    #[test]
    fn the_number_is_bounded_and_the_soonest_to_be_over_goes_first() {
        let mut known = Blackholes::default();
        for number in 0..5000 {
            let now = Instant::ZERO + Duration::from_secs(u64::from(number));
            known.failed(now, destination(number), HOUR);
        }
        assert_eq!(known.info(Instant::ZERO).len(), MAX_DESTINATIONS);
        let now = Instant::ZERO + Duration::from_secs(5000);
        assert!(known.avoids(now, destination(4999)) && !known.avoids(now, destination(3000)));
    }
}
