//! How many SYN/ACKs may be repeated unasked.
//!
//! A SYN may come under a false name. Its answer then goes to somebody who has not asked for it, and whoever sends such
//! SYNs would have each of them multiplied by the repetitions. To send none is not the answer: a third ACK that is lost
//! would leave a client established whose server speaks first, both waiting for ever, and RFC 9293 section 3.8.1 has all
//! segments retransmitted that occupy sequence space. So a SYN/ACK is repeated as often as a lost third ACK makes
//! plausible, and repetitions have to be paid for: by handshakes that were completed, and by a small allowance for the
//! time that passes. Beyond that an endpoint sends no more packets than it receives before handshakes are complete. Somebody
//! who does answer, with a reset, has ended the matter before the first repetition.

use super::Instant;
use std::time::Duration;

/// Repetitions that may leave at once.
const MOST: u32 = 64;
/// How long it takes until another one may.
const REFILL: Duration = Duration::from_millis(100);

/// The budget of an endpoint.
#[derive(Debug)]
pub(super) struct SynAckBudget {
    left: u32,
    refilled: Instant,
}

impl Default for SynAckBudget {
    fn default() -> Self {
        Self { left: MOST, refilled: Instant::ZERO }
    }
}

impl SynAckBudget {
    /// A peer has completed a handshake.
    pub(super) fn earn(&mut self) {
        self.left = (self.left + 1).min(MOST);
    }

    /// Whether one may be repeated now; then it is.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let passed = now.saturating_since(self.refilled).as_nanos() / REFILL.as_nanos();
        if passed > 0 {
            self.left = self.left.saturating_add(u32::try_from(passed).unwrap_or(MOST)).min(MOST);
            self.refilled = now;
        }
        let enough = self.left > 0;
        self.left -= u32::from(enough);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_paid_for_by_completed_handshakes_and_by_time() {
        let mut now = Instant::from_nanos(1_000_000_000);
        let mut budget = SynAckBudget::default();
        let spend = |budget: &mut SynAckBudget, now| (0..1000).filter(|_| budget.spend(now)).count();
        assert_eq!(spend(&mut budget, now), 64);
        for _ in 0..5 {
            budget.earn();
        }
        assert_eq!(spend(&mut budget, now), 5);
        now += Duration::from_secs(1);
        assert_eq!(spend(&mut budget, now), 10);
        now += Duration::from_secs(1000);
        assert_eq!(spend(&mut budget, now), 64);
    }
}
