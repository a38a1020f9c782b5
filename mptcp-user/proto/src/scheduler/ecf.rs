//! ECF, earliest completion first (Lim, Nahum, Towsley, Gibbens: "ECF: An MPTCP path scheduler to manage heterogeneous
//! paths", CoNEXT 2017).
//!
//! When the fast path has no room, a slow one is used only if the data that wait would take the fast path longer than the
//! slow one. Having waited once makes it wait a little more readily, so that the decision does not flap.

use super::{Candidate, Pick, Queue, Scheduler, fastest};

/// How much more readily: beta of the paper.
const HYSTERESIS: f64 = 0.25;

/// The policy.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Ecf {
    waits: bool,
}

impl Scheduler for Ecf {
    fn name(&self) -> &'static str {
        "ecf"
    }

    fn pick(&mut self, candidates: &[Candidate], queue: &Queue) -> Option<Pick> {
        let fast = fastest(candidates, |_| true)?;
        let place = fastest(candidates, |candidate| candidate.takes(queue.waiting()))?;
        if place == fast {
            return Some(queue.next_on(place));
        }
        let (fast, slow) = (&candidates[fast], &candidates[place]);
        let waiting = queue.waiting() as f64;
        let rounds = |candidate: &Candidate| waiting / candidate.cwnd.max(1) as f64;
        let margin = fast.rttvar.max(slow.rttvar).as_secs_f64();
        let patience = if self.waits { 1.0 + HYSTERESIS } else { 1.0 };
        if (1.0 + rounds(fast)) * fast.rtt() < patience * (slow.rtt() + margin) {
            // Waiting is worth it only if the slow path would need longer than the two rounds it takes at most.
            if rounds(slow) * slow.rtt() >= 2.0 * fast.rtt() + margin {
                self.waits = true;
                return None;
            }
        } else {
            self.waits = false;
        }
        Some(queue.next_on(place))
    }
}
