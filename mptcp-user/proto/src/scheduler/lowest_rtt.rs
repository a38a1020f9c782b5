//! The subflow with the lowest round-trip time that has room; the next one when its window is full.

use super::{Candidate, Pick, Queue, Scheduler, fastest};

/// The policy.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct LowestRtt;

impl Scheduler for LowestRtt {
    fn name(&self) -> &'static str {
        "lowest-rtt"
    }

    fn pick(&mut self, candidates: &[Candidate], queue: &Queue) -> Option<Pick> {
        fastest(candidates, |candidate| candidate.takes(queue.waiting())).map(|place| queue.next_on(place))
    }
}
