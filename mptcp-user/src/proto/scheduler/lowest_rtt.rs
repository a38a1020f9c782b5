//! The subflow with the lowest round-trip time that has room; the next one when its window is full.

use super::{Candidate, Scheduler};

/// The policy.
#[derive(Debug)]
pub(super) struct LowestRtt;

impl Scheduler for LowestRtt {
    fn name(&self) -> &'static str {
        "lowest-rtt"
    }

    fn pick(&mut self, candidates: &[Candidate], waiting: u64) -> Option<usize> {
        (0..candidates.len())
            .filter(|index| candidates[*index].takes(waiting))
            .min_by_key(|index| candidates[*index].srtt.unwrap_or_default())
    }
}
