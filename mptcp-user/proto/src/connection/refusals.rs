//! Pairs of addresses between which a subflow did not work out, and when each may be tried again.
//!
//! * The peer refused for good (a RST in answer to the SYN, MP_TCPRST without flag T): not before our address
//!   changes or an
//!   ADD_ADDR names the peer's anew (RFC 8684 sections 3.4.1, 3.6 and 3.9.3).
//! * The host has no way: not before its routes or addresses change. No timer runs for that.
//! * Silence, or a reason that passes: after a wait that doubles. Pairs that have never worked are given up
//!   after a few
//!   attempts.
//!
//! A refusal in force is never forgotten. A full table refuses every pair that it does not know, so that the
//! number of attempts is bounded, whatever the two sides announce.

use crate::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Pairs that are remembered: sixteen addresses of ours by 32 of the peer's.
const MAX_REFUSED: usize = 512;
/// First wait before a failed pair of addresses is tried again; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest at first: what a path that has come back may be left unused without anybody having said so.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Failures after which the wait doubles again.
const PATIENT_AFTER: u32 = 12;
/// The longest of all.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// Failures after which a pair that has never worked is given up.
const MOST_FAILURES: u32 = 8;
/// How long no way is asked for again between two addresses, when there is something else to do and nothing
/// was heard of routes that changed: what they depend on is not all told (rules, for one).
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Why a pair of addresses is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Why {
    /// Nothing was heard, or the reason passes.
    Passing,
    /// The peer does not want it.
    Refused,
    /// This host has no way.
    NoWay,
}

/// Until when a pair is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Until {
    /// It may be tried; how often it has failed is remembered.
    Over,
    /// This time, when a timer expires.
    Time(Instant),
    /// This time, or a change of routes or addresses. No timer runs.
    Routes(Instant),
    /// A change of the address, or of what the peer says of its own.
    Change,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Refusal {
    until: Until,
    failures: u32,
    /// A subflow was established between the two, or another one to the peer's address.
    worked: bool,
}

/// All of a connection.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Refusals {
    all: BTreeMap<(IpAddr, SocketAddr), Refusal>,
}

impl Refusal {
    fn holds(&self, now: Instant) -> bool {
        match self.until {
            Until::Over => false,
            Until::Time(until) | Until::Routes(until) => until > now,
            Until::Change => true,
        }
    }

    fn wait(&self) -> Duration {
        let doubled = FIRST_RETRY * (1 << self.failures.min(20));
        if self.failures < PATIENT_AFTER {
            return doubled.min(MAX_RETRY);
        }
        (MAX_RETRY * (1 << (self.failures - PATIENT_AFTER + 1).min(10))).min(LONGEST_RETRY)
    }
}

impl Refusals {
    /// A subflow did not work out; `worked`: there is reason to believe that the pair can work at all.
    pub(super) fn add(
        &mut self,
        now: Instant,
        (local, remote): (IpAddr, SocketAddr),
        why: Why,
        worked: bool,
    ) {
        if !self.all.contains_key(&(local, remote)) && self.all.len() >= MAX_REFUSED && !self.make_room(now) {
            // As one that is not known it is refused all the same.
            return;
        }
        let entry = self.all.entry((local, remote));
        let refusal = entry.or_insert(Refusal { until: Until::Over, failures: 0, worked });
        refusal.worked |= worked;
        let counts = !refusal.holds(now);
        match why {
            Why::Refused => refusal.until = Until::Change,
            // Several segments may show the same failure.
            _ if !counts => return,
            Why::NoWay => refusal.until = Until::Routes(now + ASK_AGAIN),
            Why::Passing if !refusal.worked && refusal.failures + 1 >= MOST_FAILURES => {
                refusal.until = Until::Change;
            }
            Why::Passing => refusal.until = Until::Time(now + refusal.wait()),
        }
        refusal.failures = refusal.failures.saturating_add(u32::from(counts && why == Why::Passing));
    }

    /// Forgets one that is not in force.
    fn make_room(&mut self, now: Instant) -> bool {
        let over = self.all.iter().find(|(_, refusal)| !refusal.holds(now)).map(|(pair, _)| *pair);
        over.is_some_and(|pair| self.all.remove(&pair).is_some())
    }

    /// Whether a subflow between the two is not to be tried now.
    pub(super) fn holds(&self, now: Instant, local: IpAddr, remote: SocketAddr) -> bool {
        match self.all.get(&(local, remote)) {
            Some(refusal) => refusal.holds(now),
            None => self.is_full(now),
        }
    }

    /// Whether the peer does not want a subflow between the two.
    pub(super) fn is_final(&self, local: IpAddr, remote: SocketAddr) -> bool {
        self.all.get(&(local, remote)).is_some_and(|refusal| refusal.until == Until::Change)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.all.len() >= MAX_REFUSED && self.all.values().all(|refusal| refusal.holds(now))
    }

    /// When the next one is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let times = self.all.values().filter_map(|refusal| match refusal.until {
            Until::Time(until) => Some(until),
            _ => None,
        });
        times.min()
    }

    /// Time has passed: whether any is over.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for refusal in self.all.values_mut() {
            if matches!(refusal.until, Until::Time(until) if until <= now) {
                refusal.until = Until::Over;
                any = true;
            }
        }
        any
    }

    /// A subflow between the two works.
    pub(super) fn worked(&mut self, local: IpAddr, remote: SocketAddr) {
        self.all.remove(&(local, remote));
    }

    /// What failed from this address may work now.
    pub(super) fn forgive_local(&mut self, local: IpAddr) {
        self.all.retain(|(known, _), _| *known != local);
    }

    /// The peer has named this address anew, or has taken it back.
    pub(super) fn forgive_remote(&mut self, remote: SocketAddr) {
        self.all.retain(|(_, known), _| *known != remote);
    }

    /// Whether any pair with this address of the peer's is refused until it is named anew.
    pub(super) fn waits_for(&self, remote: SocketAddr) -> bool {
        self.all.iter().any(|((_, known), refusal)| *known == remote && refusal.until == Until::Change)
    }

    /// Routes have changed: whether there was no way for any pair.
    pub(super) fn forgive_routes(&mut self) -> bool {
        let before = self.all.len();
        self.all.retain(|_, refusal| !matches!(refusal.until, Until::Routes(_)));
        self.all.len() < before
    }

    /// Whether there is no way for any pair.
    pub(super) fn lacks_routes(&self) -> bool {
        self.all.values().any(|refusal| matches!(refusal.until, Until::Routes(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: u32) -> (IpAddr, SocketAddr) {
        (IpAddr::from([10, 0, 0, 1]), SocketAddr::from((number.to_be_bytes(), 80)))
    }

    #[test]
    fn a_full_table_forgets_nothing_that_is_in_force_and_refuses_the_rest() {
        let (mut refusals, now) = (Refusals::default(), Instant::ZERO);
        let many = 3 * MAX_REFUSED as u32;
        for number in 0..many {
            refusals.add(now, pair(number), Why::NoWay, false);
        }
        assert_eq!(refusals.all.len(), MAX_REFUSED);
        assert!((0..2 * many).all(|number| refusals.holds(now, pair(number).0, pair(number).1)));
        assert_eq!(refusals.deadline(), None, "nothing wakes a connection for a way that there is not");
        assert!(refusals.lacks_routes() && refusals.forgive_routes() && !refusals.lacks_routes());
        assert!(!refusals.holds(now, pair(0).0, pair(0).1));
    }

    #[test]
    fn silence_is_waited_for_ever_longer_and_given_up_where_nothing_ever_worked() {
        let attempts = |worked: bool, time: Duration| {
            let (mut refusals, mut now, mut attempts) = (Refusals::default(), Instant::ZERO, 0);
            loop {
                refusals.add(now, pair(1), Why::Passing, worked);
                attempts += 1;
                match refusals.deadline() {
                    Some(next) if next < Instant::ZERO + time => now = next,
                    _ => return attempts,
                }
                assert!(refusals.expire(now) && !refusals.holds(now, pair(1).0, pair(1).1));
            }
        };
        let day = Duration::from_secs(86_400);
        assert_eq!(attempts(false, day), MOST_FAILURES);
        assert!((30..60).contains(&attempts(true, day)), "{}", attempts(true, day));
        assert!(
            attempts(true, Duration::from_secs(180)) > 9,
            "a path that is back is not left unused for long"
        );
    }

    #[test]
    fn who_refuses_is_asked_again_only_when_something_has_changed() {
        let (mut refusals, now) = (Refusals::default(), Instant::ZERO);
        let later = now + Duration::from_secs(1 << 20);
        let ((local, remote), other) = (pair(1), pair(2).1);
        let forgiven: [fn(&mut Refusals); 2] =
            [|all| all.forgive_local(pair(1).0), |all| all.forgive_remote(pair(1).1)];
        for forgive in forgiven {
            refusals.add(now, (local, remote), Why::Refused, true);
            refusals.add(now, (local, remote), Why::Passing, true);
            assert!(!refusals.expire(later) && refusals.deadline().is_none());
            refusals.forgive_remote(other);
            refusals.forgive_routes();
            assert!(refusals.holds(later, local, remote) && refusals.waits_for(remote));
            forgive(&mut refusals);
            assert!(!refusals.holds(now, local, remote));
        }
    }
}
