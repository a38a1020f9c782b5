//! Everything on every subflow, so that the data comes as early as the best of them could bring it at any moment.
//!
//! Each subflow goes through the stream by itself. One that is slow does not lag: it goes on where the peer's data-level
//! acknowledgment is, so that nothing is sent (for the first time on it) that has arrived already.

use super::{Candidate, Pick, Queue, Scheduler, fastest};

/// The policy.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Redundant;

impl Scheduler for Redundant {
    fn name(&self) -> &'static str {
        "redundant"
    }

    fn duplicates(&self) -> bool {
        true
    }

    fn pick(&mut self, candidates: &[Candidate], queue: &Queue) -> Option<Pick> {
        if queue.again {
            return fastest(candidates, |candidate| candidate.takes(queue.waiting()))
                .map(|place| queue.next_on(place));
        }
        // What was not sent at all comes last on each subflow: octets behind it are needed sooner.
        let next = |candidate: &Candidate| candidate.carried.clamp(queue.una, queue.start);
        let place = fastest(candidates, |candidate| {
            let left = queue.end - next(candidate);
            left > 0 && candidate.takes(left)
        })?;
        Some(Pick { candidate: place, start: next(&candidates[place]), end: queue.end })
    }
}
