//! RACK: which segments are lost, by the time at which they were sent (RFC 8985 section 6).

use crate::proto::Instant;
use std::time::Duration;

/// State of one subflow's sender.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rack {
    /// Send time and end of the segment sent last among those delivered.
    newest: Option<(Instant, u64)>,
    /// Its round-trip time.
    rtt: Duration,
    /// Segments were seen to be delivered in another order than sent.
    pub(crate) reordering_seen: bool,
    /// Multiplier of the reordering window, and how many recoveries it is kept for.
    window_mult: u32,
    window_persist: u32,
    /// Round in which a D-SACK last widened the window.
    dsack_round: Option<u64>,
}

impl Rack {
    /// A segment was delivered for the first time (step 2).
    pub(crate) fn delivered(
        &mut self,
        now: Instant,
        sent_at: Instant,
        end: u64,
        retransmitted: bool,
        min_rtt: Option<Duration>,
    ) {
        let rtt = now - sent_at;
        // An acknowledgment this early is for the original, not for the retransmission.
        if retransmitted && min_rtt.is_some_and(|min| rtt < min) {
            return;
        }
        self.rtt = rtt;
        if self.newest.is_none_or(|newest| newest < (sent_at, end)) {
            self.newest = Some((sent_at, end));
        }
    }

    /// A D-SACK came: reordering is wider than believed (step 4). `una` and `nxt` bound the current round.
    pub(crate) fn duplicate_reported(&mut self, una: u64, nxt: u64) {
        if self.dsack_round.is_none_or(|round| una >= round) {
            self.dsack_round = Some(nxt);
            self.window_mult = (self.window_mult + 1).min(64);
            self.window_persist = 16;
        }
    }

    /// A recovery ended: the widened window fades.
    pub(crate) fn recovery_ended(&mut self) {
        self.window_persist = self.window_persist.saturating_sub(1);
        if self.window_persist == 0 {
            self.window_mult = 0;
        }
    }

    /// How much later than expected a segment may still be delivered (step 4).
    pub(crate) fn reordering_window(
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

    /// Whether a segment was sent before the newest one delivered, so that it can be judged at all.
    pub(crate) fn sent_before(&self, sent_at: Instant, end: u64) -> bool {
        self.newest.is_some_and(|newest| (sent_at, end) < newest)
    }

    /// Time until the segment must be believed lost; zero: it is.
    pub(crate) fn remaining(&self, now: Instant, sent_at: Instant, window: Duration) -> Duration {
        (sent_at + self.rtt + window).saturating_since(now)
    }
}
