//! BLEST, blocking estimation (Ferlin, Alay, Mehani, Boreli: "BLEST: Blocking estimation-based MPTCP scheduler for
//! heterogeneous networks", IFIP Networking 2016).
//!
//! While an octet is under way on a slow path, the fast one goes on; if it gets so far that the peer's window ends before
//! the slow octet arrives, it has to stop. So a slow path is used only if the window is large enough for what the fast
//! one is expected to send in the meantime.

use super::{Candidate, Pick, Queue, Scheduler, fastest};
use crate::Instant;
use std::time::Duration;

/// The estimate of what the fast path sends is corrected by this factor, which grows with each round trip of the slow
/// path in which the window was in the way and shrinks with each in which it was not.
const FIRST: f64 = 1.2;
const LEAST: f64 = 1.0;
const MOST: f64 = 1.3;
const STEP: f64 = 0.05;

/// The policy.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Blest {
    factor: f64,
    /// Start of this round of the correction, and whether the window was in the way in it.
    since: Option<Instant>,
    blocked: bool,
}

impl Default for Blest {
    fn default() -> Self {
        Self { factor: FIRST, since: None, blocked: false }
    }
}

impl Blest {
    fn correct(&mut self, now: Instant, round: Duration) {
        if now.saturating_since(*self.since.get_or_insert(now)) > round {
            let step = if std::mem::take(&mut self.blocked) { STEP } else { -STEP };
            self.factor = (self.factor + step).clamp(LEAST, MOST);
            self.since = Some(now);
        }
    }

    /// Octets that the fast path sends during a round trip of the slow one: its window grows by a segment with each of
    /// its own round trips.
    fn meanwhile(&self, fast: &Candidate, slow: &Candidate) -> f64 {
        let rounds = slow.rtt() / fast.rtt().max(1e-6);
        let segments = fast.cwnd as f64 / fast.mss.max(1) as f64 + (rounds - 1.0) / 2.0;
        fast.mss as f64 * segments * rounds * self.factor
    }
}

impl Scheduler for Blest {
    fn name(&self) -> &'static str {
        "blest"
    }

    fn pick(&mut self, candidates: &[Candidate], queue: &Queue) -> Option<Pick> {
        let fast = fastest(candidates, |_| true)?;
        let place = fastest(candidates, |candidate| candidate.takes(queue.waiting()))?;
        if place == fast {
            return Some(queue.next_on(place));
        }
        let (fast, slow) = (&candidates[fast], &candidates[place]);
        self.correct(queue.now, slow.srtt.unwrap_or_default());
        // What is left of the window once the slow path has one segment more under way.
        let left = (queue.edge - queue.una) as f64 - (slow.in_flight + slow.mss) as f64;
        (self.meanwhile(fast, slow) <= left).then(|| queue.next_on(place))
    }

    fn on_blocked(&mut self, _now: Instant) {
        self.blocked = true;
    }
}
