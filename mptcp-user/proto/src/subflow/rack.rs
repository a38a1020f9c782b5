//! RACK: which segments are lost, by the time at which they were sent (RFC 8985 section 6).

use super::scoreboard::{Delivery, Scoreboard};
use crate::Instant;
use std::time::Duration;

/// State of one subflow's sender.
#[derive(Debug, Default, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Rack {
    /// Send time and end of the segment sent last among those delivered.
    newest: Option<(Instant, u64)>,
    /// Its round-trip time.
    rtt: Duration,
    /// Segments were seen to be delivered in another order than sent.
    pub(super) reordering_seen: bool,
    /// Multiplier of the reordering window, and how many recoveries it is kept for.
    window_mult: u32,
    window_persist: u32,
    /// Round in which a D-SACK last widened the window.
    dsack_round: Option<u64>,
}

impl Rack {
    /// A segment was delivered for the first time (step 2).
    pub(super) fn delivered(&mut self, now: Instant, delivery: &Delivery, min_rtt: Option<Duration>) {
        let rtt = now - delivery.sent_at;
        // An acknowledgment this early is for the original, not for the retransmission.
        if delivery.retransmitted && min_rtt.is_some_and(|min| rtt < min) {
            return;
        }
        self.rtt = rtt;
        if self.newest.is_none_or(|newest| newest < (delivery.sent_at, delivery.end)) {
            self.newest = Some((delivery.sent_at, delivery.end));
        }
    }

    /// A D-SACK came: reordering is wider than believed (step 4). `una` and `nxt` bound the current round.
    pub(super) fn duplicate_reported(&mut self, una: u64, nxt: u64) {
        if self.dsack_round.is_none_or(|round| una >= round) {
            self.dsack_round = Some(nxt);
            self.window_mult = (self.window_mult + 1).min(64);
            self.window_persist = 16;
        }
    }

    /// A recovery ended: the widened window fades.
    pub(super) fn recovery_ended(&mut self) {
        self.window_persist = self.window_persist.saturating_sub(1);
        if self.window_persist == 0 {
            self.window_mult = 0;
        }
    }

    /// How much later than expected a segment may still be delivered (step 4).
    pub(super) fn reordering_window(
        &self,
        recovering: bool,
        sacked_segments: u64,
        min_rtt: Option<Duration>,
        srtt: Option<Duration>,
    ) -> Duration {
        if !self.reordering_seen && (recovering || sacked_segments >= 3) {
            return Duration::ZERO;
        }
        let window = min_rtt.unwrap_or_default() * (self.window_mult + 1) / 4;
        window.min(srtt.unwrap_or_default())
    }

    /// Finds what must be believed lost (step 5): whether there is any, and how long until something else must be
    /// unless it is delivered before.
    pub(super) fn detect_losses(
        &self,
        now: Instant,
        window: Duration,
        board: &mut Scoreboard,
    ) -> (bool, Option<Duration>) {
        let Some(newest) = self.newest else { return (false, None) };
        board.judge(newest, |sent_at| (sent_at + self.rtt + window).saturating_since(now))
    }
}
