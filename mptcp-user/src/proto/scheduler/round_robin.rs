//! One subflow after the other, those without room left out.

use super::{Candidate, Scheduler};

/// The policy.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    last: usize,
}

impl Scheduler for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn pick(&mut self, candidates: &[Candidate], waiting: u64) -> Option<usize> {
        let usable = |index: &usize| candidates[*index].takes(waiting);
        let next = (0..candidates.len())
            .filter(usable)
            .find(|index| candidates[*index].subflow > self.last)
            .or_else(|| (0..candidates.len()).find(usable))?;
        self.last = candidates[next].subflow;
        Some(next)
    }
}
