//! Schedulers: which subflow carries the next octets.
//!
//! To add a policy, write a file with one type that implements [`Scheduler`] and name it in [`POLICIES`].

mod lowest_rtt;
mod round_robin;

use std::fmt::Debug;
use std::time::Duration;

/// A subflow that could carry data, as a scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Index of the subflow in its connection.
    pub(crate) subflow: usize,
    /// Smoothed round-trip time.
    pub(crate) srtt: Option<Duration>,
    /// Octets that congestion window and the subflow's own window let through now.
    pub(crate) room: u64,
    /// Payload of a full packet.
    pub(crate) mss: u64,
    /// Congestion window and octets in flight.
    #[allow(dead_code)] // for policies that estimate completion times
    pub(crate) cwnd: u64,
}

/// A policy. The candidates are those that may be used at all: the backups among the subflows only if there is
/// nothing else, the stale ones only if there are no others.
pub(crate) trait Scheduler: Send + Debug {
    /// Name by which it is chosen.
    fn name(&self) -> &'static str;
    /// Which candidate (its place in the list) carries the next octets, `waiting` of which there are; none: wait.
    fn pick(&mut self, candidates: &[Candidate], waiting: u64) -> Option<usize>;
}

/// Constructor by name.
type Policy = (&'static str, fn() -> Box<dyn Scheduler>);

/// All policies.
pub(crate) const POLICIES: &[Policy] = &[
    ("lowest-rtt", || Box::new(lowest_rtt::LowestRtt)),
    ("round-robin", || Box::new(round_robin::RoundRobin::default())),
];

/// A scheduler by its name.
pub(crate) fn by_name(name: &str) -> Option<Box<dyn Scheduler>> {
    POLICIES.iter().find(|(known, _)| *known == name).map(|(_, make)| make())
}

impl Candidate {
    /// Whether there is room for a full packet, or for all that waits: smaller ones are not worth their header
    /// (RFC 9293 section 3.8.6.2.1).
    fn takes(&self, waiting: u64) -> bool {
        self.room >= self.mss.min(waiting)
    }
}
