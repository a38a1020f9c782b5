//! Schedulers: which octets go on which subflow.
//!
//! To add a policy, write a file with one type that implements [`Scheduler`] and name it in [`POLICIES`].
//! `docs/extending.md` shows one; the file `example` beside this one is the same, compiled and tried by the tests.
//!
//! What all have in common is not their business: subflows marked as backup, and those whose path is suspected dead, are
//! left out before a policy is asked ([`best_tier`]), and so are paths that would only hold up the others ([`Guard`]).

mod blest;
mod ecf;
#[cfg(test)]
mod example;
mod guard;
mod lowest_rtt;
mod redundant;
mod round_robin;
#[cfg(test)]
mod tests;

use super::Instant;
use super::dormant::Written;
use arrayvec::ArrayVec;
pub(crate) use guard::Guard;
use std::fmt::Debug;
use std::time::Duration;

/// Most subflows that are looked at.
const MAX_CANDIDATES: usize = 64;

/// The subflows among which a scheduler picks.
pub(crate) type Candidates = ArrayVec<Candidate, MAX_CANDIDATES>;

/// A subflow that could carry data, as a scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Index of the subflow in its connection.
    pub(crate) subflow: usize,
    /// Smoothed round-trip time, and its variation.
    pub(crate) srtt: Option<Duration>,
    pub(crate) rttvar: Duration,
    /// Octets that congestion window, pacing and the subflow's own window let through now.
    pub(crate) room: u64,
    /// Payload of a full packet.
    pub(crate) mss: u64,
    /// Congestion window.
    pub(crate) cwnd: u64,
    /// The window doubles with each round trip.
    pub(crate) slow_start: bool,
    /// Octets in flight.
    pub(crate) in_flight: u64,
    /// Octets per second at which the window leaves, where it is paced.
    pub(crate) pacing_rate: Option<u64>,
    /// Either side asked to use it only if there is nothing else.
    pub(crate) backup: bool,
    /// Its path is suspected dead.
    pub(crate) stale: bool,
    /// End of the highest octets it ever carried.
    pub(crate) carried: u64,
}

/// What there is to send. Offsets count from the first octet of the data stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    pub(crate) now: Instant,
    /// First octet that the peer has not acknowledged at the data level.
    pub(crate) una: u64,
    /// The octets to be sent next, as far as the peer's window lets them through.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where the peer's window ends, or the room for octets that may have to be sent again.
    pub(crate) edge: u64,
    /// These octets were sent before, on a subflow that failed to deliver them.
    pub(crate) again: bool,
}

impl Queue {
    /// Octets that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.end - self.start
    }

    /// The next octets on this candidate (its place in the list).
    fn next_on(&self, candidate: usize) -> Pick {
        Pick { candidate, start: self.start, end: self.end }
    }
}

/// These octets on that candidate: as many of them as it has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pick {
    /// Place in the list of candidates.
    pub(crate) candidate: usize,
    /// From `una` to `start` of the [`Queue`].
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// A policy. The candidates are those that may be used at all: the backups among the subflows only if there is
/// nothing else, the stale ones only if there are no others.
pub(crate) trait Scheduler: Written + Send + Debug {
    /// Name by which it is chosen.
    fn name(&self) -> &'static str;
    /// Which candidate carries which octets; none: wait until something changes.
    fn pick(&mut self, candidates: &[Candidate], queue: &Queue) -> Option<Pick>;
    /// Whether it sends octets on several subflows. Then it is asked also when nothing new waits, and nothing else
    /// repeats on one subflow what another was slow to deliver.
    fn duplicates(&self) -> bool {
        false
    }
    /// New octets waited, a subflow had room for them, and only the peer's window was in the way.
    fn on_blocked(&mut self, _now: Instant) {}
}

/// Name, what it is for, and constructor.
type Policy = (&'static str, &'static str, fn() -> Box<dyn Scheduler>);

/// All policies.
pub(crate) const POLICIES: &[Policy] = &[
    (
        "lowest-rtt",
        "the path with the shortest round-trip time that has room; good for nearly everything",
        || Box::new(lowest_rtt::LowestRtt),
    ),
    ("round-robin", "one path after the other; shows what all of them can carry", || {
        Box::new(round_robin::RoundRobin::default())
    }),
    (
        "redundant",
        "everything on all paths; shortest delay whatever a path does, at the price of capacity",
        || Box::new(redundant::Redundant),
    ),
    (
        "blest",
        "as lowest-rtt, but leaves a slow path alone that would make the peer's window run out",
        || Box::new(blest::Blest::default()),
    ),
    ("ecf", "as lowest-rtt, but waits for the fast path where it finishes earlier than the slow one", || {
        Box::new(ecf::Ecf::default())
    }),
];

/// A scheduler by its name.
pub(crate) fn by_name(name: &str) -> Option<Box<dyn Scheduler>> {
    POLICIES.iter().find(|(known, ..)| *known == name).map(|(_, _, make)| make())
}

/// Keeps the subflows that are to be used by preference: neither stale nor backup; else backups; else stale ones.
pub(crate) fn best_tier(candidates: &mut Candidates) {
    let tier = |candidate: &Candidate| u8::from(candidate.backup) + 2 * u8::from(candidate.stale);
    let best = candidates.iter().map(tier).min();
    candidates.retain(|candidate| Some(tier(candidate)) == best);
}

impl Candidate {
    /// Whether there is room for a full packet, or for all that waits: smaller ones are not worth their header
    /// (RFC 9293 section 3.8.6.2.1).
    fn takes(&self, waiting: u64) -> bool {
        self.room >= self.mss.min(waiting)
    }

    /// Round-trip time in seconds; a path that was never measured counts as instant, so that it will be.
    fn rtt(&self) -> f64 {
        self.srtt.unwrap_or_default().as_secs_f64()
    }

    /// Octets per second that it carries when it is used: no more than a window in a round trip, whatever the pacing rate.
    /// That can be far too high for seconds, since BBR takes a token bucket that was full for the path's bandwidth.
    fn rate(&self) -> f64 {
        let per_round_trip = self.cwnd as f64 / self.rtt().max(1e-6);
        self.pacing_rate.map_or(per_round_trip, |rate| per_round_trip.min(rate as f64))
    }

    /// How long `octets` need to leave from now on, in seconds.
    fn departure(&self, octets: u64) -> f64 {
        let missing = octets.saturating_sub(self.room) as f64;
        match self.pacing_rate {
            Some(_) => missing / self.rate().max(1.0),
            None if self.slow_start => self.rtt() * (1.0 + missing / self.cwnd.max(1) as f64).log2(),
            None => self.rtt() * missing / self.cwnd.max(1) as f64,
        }
    }
}

/// The candidate with the shortest round-trip time, among all or among those for which `usable` holds.
fn fastest(candidates: &[Candidate], usable: impl Fn(&Candidate) -> bool) -> Option<usize> {
    (0..candidates.len())
        .filter(|place| usable(&candidates[*place]))
        .min_by_key(|place| candidates[*place].srtt.unwrap_or_default())
}
