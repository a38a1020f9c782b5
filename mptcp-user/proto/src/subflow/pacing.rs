//! Pacing: when the next segment may leave, so that a window does not leave as one burst.
//!
//! Segments leave in bursts of up to a millisecond's worth, whatever the rate: the timer runs a thousand times a second
//! at most, and super-segments stay large.

use crate::Instant;
use std::time::Duration;

/// How much time a burst may be ahead of the rate, and how much of it a late driver may make up for.
const BURST: Duration = Duration::from_millis(1);

/// The pacer of one subflow's sender.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Pacer {
    /// When everything sent so far is paid for.
    paid_at: Instant,
    /// The burst under way may go on.
    open: bool,
    /// Something waits for its departure time.
    waiting: bool,
}

impl Pacer {
    /// Whether a segment may leave now.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        self.open || self.paid_at <= now
    }

    /// Octets leave at a rate of so many octets a second.
    pub(super) fn sent(&mut self, now: Instant, octets: u64, rate: u64) {
        let nanos = u128::from(octets) * 1_000_000_000 / u128::from(rate.max(1));
        let spent = Duration::from_nanos(nanos as u64);
        // Time not used is lost, but for what the driver's clock is coarse.
        let earliest = Instant::ZERO + now.saturating_since(Instant::ZERO + BURST);
        self.paid_at = self.paid_at.max(earliest) + spent;
        self.open = self.paid_at <= now + BURST;
    }

    /// Something would leave if it might.
    pub(super) fn wait(&mut self) {
        self.waiting = true;
    }

    /// The next departure, if something waits for it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.then_some(self.paid_at)
    }

    /// The time of departure has come.
    pub(super) fn release(&mut self) {
        self.waiting = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as soon as it may for a second; gives octets and the number of waits.
    fn second(segment: u64, rate: u64) -> (u64, u64) {
        let start = Instant::from_nanos(5_000_000_000);
        let mut pacer = Pacer::default();
        let (mut now, mut sent, mut waits) = (start, 0, 0);
        while now - start < Duration::from_secs(1) {
            if pacer.may_send(now) {
                pacer.sent(now, segment, rate);
                sent += segment;
            } else {
                pacer.wait();
                now = pacer.deadline().unwrap();
                pacer.release();
                waits += 1;
            }
        }
        (sent, waits)
    }

    #[test]
    fn the_rate_is_kept_and_the_timer_runs_a_thousand_times_a_second_at_most() {
        for (segment, rate) in
            [(2800, 125_000), (2800, 1_250_000), (64_000, 125_000_000), (64_000, 5_000_000_000)]
        {
            let (sent, waits) = second(segment, rate);
            assert!(sent.abs_diff(rate) <= rate / 50 + 2 * segment, "{sent} of {rate}");
            assert!(waits <= 1001, "{waits} timers at {rate}");
        }
    }

    #[test]
    fn time_that_was_not_used_is_lost() {
        let mut pacer = Pacer::default();
        let now = Instant::from_nanos(60_000_000_000);
        pacer.sent(now, 10_000, 1_000_000);
        assert!(!pacer.may_send(now + Duration::from_millis(8)));
        assert!(pacer.may_send(now + Duration::from_millis(9)));
    }
}
