//! Round-trip time and retransmission timeout (RFC 6298).

use super::Instant;
use std::time::Duration;

/// Before there is a measurement (RFC 6298 section 2.1).
const INITIAL_RTO: Duration = Duration::from_secs(1);
/// The same where the SYN was repeated and no answer told the round-trip time: the path may be slow (section
/// 5.7).
const FALLBACK_RTO: Duration = Duration::from_secs(3);
/// RFC 6298 section 2.4 asks for a second; every deployed stack, the Linux kernel among them, takes 200 ms.
const MIN_RTO: Duration = Duration::from_millis(200);
/// Backed-off timeouts grow up to this.
const MAX_RTO: Duration = Duration::from_secs(60);
/// How long a minimum is believed before the path is measured anew.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(300);

/// Estimator of one path.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct RttEstimator {
    srtt: Option<Duration>,
    rttvar: Duration,
    min: Duration,
    min_at: Instant,
    /// The handshake had to be repeated and gave no measurement.
    repeated: bool,
}

impl RttEstimator {
    pub(crate) fn new() -> Self {
        Self {
            srtt: None,
            rttvar: Duration::ZERO,
            min: Duration::MAX,
            min_at: Instant::ZERO,
            repeated: false,
        }
    }

    /// Takes a measurement: alpha 1/8, beta 1/4 (RFC 6298 section 2.3).
    pub(crate) fn sample(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.max(Duration::from_micros(1));
        if rtt <= self.min || now - self.min_at > MIN_RTT_WINDOW {
            self.min = rtt;
            self.min_at = now;
        }
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    /// The handshake is complete after repetitions, and has not told how long a round trip takes.
    pub(crate) fn handshake_repeated(&mut self) {
        self.repeated = true;
    }

    pub(crate) fn srtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Variation of the round-trip time.
    pub(crate) fn rttvar(&self) -> Duration {
        self.rttvar
    }

    pub(crate) fn min(&self) -> Option<Duration> {
        self.srtt.map(|_| self.min)
    }

    /// Timeout without back-off. The variance term has the floor, as in Linux, so that a steady path of 300 ms
    /// does not time out at 301 ms.
    pub(crate) fn rto(&self) -> Duration {
        match self.srtt {
            None if self.repeated => FALLBACK_RTO,
            None => INITIAL_RTO,
            Some(srtt) => (srtt + (self.rttvar * 4).max(MIN_RTO)).min(MAX_RTO),
        }
    }

    /// Timeout after `expiries` timeouts in a row (RFC 6298 section 5.5).
    pub(crate) fn backed_off(&self, expiries: u32) -> Duration {
        (self.rto() * (1 << expiries.min(10))).min(MAX_RTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_sets_and_the_next_ones_smooth() {
        let mut rtt = RttEstimator::new();
        assert_eq!(rtt.rto(), INITIAL_RTO);
        rtt.sample(Instant::ZERO, Duration::from_millis(100));
        assert_eq!(rtt.srtt(), Some(Duration::from_millis(100)));
        assert_eq!(rtt.rto(), Duration::from_millis(300));
        for _ in 0..100 {
            rtt.sample(Instant::ZERO, Duration::from_millis(500));
        }
        assert!(rtt.srtt().unwrap() > Duration::from_millis(495));
        assert_eq!(rtt.min(), Some(Duration::from_millis(100)));
        assert_eq!(rtt.backed_off(30), MAX_RTO);
    }

    #[test]
    fn an_old_minimum_is_forgotten() {
        let mut rtt = RttEstimator::new();
        rtt.sample(Instant::ZERO, Duration::from_millis(1));
        rtt.sample(Instant::ZERO + MIN_RTT_WINDOW * 2, Duration::from_millis(50));
        assert_eq!(rtt.min(), Some(Duration::from_millis(50)));
    }
}
