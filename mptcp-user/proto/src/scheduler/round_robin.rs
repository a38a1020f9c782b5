//! One subflow after the other, those without room left out.

use super::{Candidate, Pick, Queue, Scheduler};

/// The policy.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct RoundRobin {
    last: usize,
}

impl Scheduler for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn pick(&mut self, candidates: &[Candidate], queue: &Queue) -> Option<Pick> {
        let usable = |place: &usize| candidates[*place].takes(queue.waiting());
        let next = (0..candidates.len())
            .filter(usable)
            .find(|place| candidates[*place].subflow > self.last)
            .or_else(|| (0..candidates.len()).find(usable))?;
        self.last = candidates[next].subflow;
        Some(queue.next_on(next))
    }
}
