//! Delivery-rate samples (draft-cheng-iccrg-delivery-rate-estimation): how fast the network delivered what was sent
//! in the last round trip, and whether it could have been faster.

use crate::Instant;
use crate::congestion::{LossSample, RateSample};
use std::time::Duration;

/// What was known when a record was sent.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Snapshot {
    sent_at: Instant,
    /// Octets delivered by then, and when the last of them were.
    delivered: u64,
    delivered_at: Instant,
    /// When the first of those in flight was sent.
    first_sent_at: Instant,
    /// Octets lost by then.
    lost: u64,
    /// Octets in flight, these included.
    in_flight: u64,
    app_limited: bool,
}

/// The sampler of one subflow's sender.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct RateSampler {
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// Until so much is delivered, samples tell what the application sent rather than what the path could carry.
    app_limited_until: u64,
    /// What was known when the newest record that the current acknowledgment delivered was sent.
    newest: Option<Snapshot>,
}

impl RateSampler {
    /// Octets leave, `in_flight` others being on their way, and `lost` having been lost so far.
    pub(super) fn sent(&mut self, now: Instant, octets: u64, in_flight: u64, lost: u64) -> Snapshot {
        if in_flight == 0 {
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        Snapshot {
            sent_at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            lost,
            in_flight: in_flight + octets,
            app_limited: self.app_limited_until > self.delivered,
        }
    }

    /// Octets were delivered that were sent with this snapshot.
    pub(super) fn delivered(&mut self, now: Instant, octets: u64, snapshot: &Snapshot) {
        self.delivered += octets;
        self.delivered_at = now;
        let order = |snapshot: &Snapshot| (snapshot.delivered, snapshot.sent_at);
        if self.newest.as_ref().is_none_or(|newest| order(snapshot) >= order(newest)) {
            self.newest = Some(*snapshot);
        }
    }

    /// There is nothing to send, although the window would let more out.
    pub(super) fn application_limited(&mut self, in_flight: u64) {
        self.app_limited_until = self.delivered + in_flight.max(1);
    }

    /// The sample of the acknowledgment whose deliveries have been told.
    pub(super) fn take(&mut self, lost: u64, min_rtt: Option<Duration>) -> Option<RateSample> {
        let newest = self.newest.take()?;
        self.first_sent_at = newest.sent_at;
        let delivered = self.delivered - newest.delivered;
        let interval = (newest.sent_at - newest.first_sent_at).max(self.delivered_at - newest.delivered_at);
        // A shorter time than the path takes comes of acknowledgments that were held back and then sent together.
        let rate = (!interval.is_zero() && Some(interval) >= min_rtt)
            .then(|| (u128::from(delivered) * 1_000_000_000 / interval.as_nanos()) as u64);
        Some(RateSample {
            rate,
            delivered,
            prior_delivered: newest.delivered,
            total_delivered: self.delivered,
            lost: lost.saturating_sub(newest.lost),
            in_flight: newest.in_flight,
            app_limited: newest.app_limited,
        })
    }
}

impl Snapshot {
    /// What losing the record says, `octets` having been lost since the last report and `lost` in all.
    pub(super) fn loss(&self, octets: u64, lost: u64) -> LossSample {
        LossSample {
            octets,
            since_sent: lost.saturating_sub(self.lost),
            in_flight: self.in_flight,
            app_limited: self.app_limited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// Ten records of 1000 octets, one each millisecond, delivered 50 ms later: a megabyte per second.
    #[test]
    fn a_steady_flow_has_the_rate_of_its_deliveries() {
        let mut sampler = RateSampler::default();
        let sent: Vec<_> = (0..10).map(|place| sampler.sent(at(place), 1000, place * 1000, 0)).collect();
        let mut rate = None;
        for (place, snapshot) in sent.iter().enumerate() {
            sampler.delivered(at(50 + place as u64), 1000, snapshot);
            rate = sampler.take(0, Some(Duration::from_millis(50))).unwrap().rate;
        }
        // The first flight says how much was delivered in one round trip and the time it took to be sent.
        assert_eq!(rate, Some(10_000 * 1000 / 59));
        let later: Vec<_> = (60..70).map(|time| sampler.sent(at(time), 1000, 10_000, 0)).collect();
        for (place, snapshot) in later.iter().enumerate() {
            sampler.delivered(at(110 + place as u64), 1000, snapshot);
            rate = sampler.take(0, Some(Duration::from_millis(50))).unwrap().rate;
        }
        assert_eq!(rate, Some(10_000 * 1000 / 60));
    }

    #[test]
    fn what_the_application_did_not_send_is_not_held_against_the_path() {
        let mut sampler = RateSampler::default();
        let first = sampler.sent(at(0), 1000, 0, 0);
        sampler.application_limited(1000);
        let second = sampler.sent(at(1), 1000, 1000, 0);
        sampler.delivered(at(50), 1000, &first);
        assert!(!sampler.take(0, None).unwrap().app_limited);
        let third = sampler.sent(at(50), 1000, 1000, 0);
        sampler.delivered(at(51), 1000, &second);
        assert!(sampler.take(0, None).unwrap().app_limited);
        sampler.delivered(at(100), 1000, &third);
        assert!(!sampler.take(0, None).unwrap().app_limited);
    }

    #[test]
    fn acknowledgments_that_come_together_are_no_measurement() {
        let mut sampler = RateSampler::default();
        let first = sampler.sent(at(0), 1000, 0, 0);
        sampler.delivered(at(10), 1000, &first);
        assert_eq!(sampler.take(0, Some(Duration::from_millis(20))).unwrap().rate, None);
    }
}
