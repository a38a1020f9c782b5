//! What BBR believes of a path: how fast it delivers, how long it takes, how much it holds (draft-ietf-ccwg-bbr
//! section 5.5). Octets, octets per second.

use crate::Instant;
use crate::congestion::{Ack, Path, RateSample};
use std::time::Duration;

/// No bound.
pub(super) const UNBOUNDED: u64 = u64::MAX;
/// Share of the packets sent in a round that may be lost before the flight counts as too large.
const LOSS_THRESH: f64 = 0.02;
/// What is left of a bound after a round with losses.
pub(super) const BETA: f64 = 0.7;
/// Share of the longest safe flight that is left to others.
const HEADROOM: f64 = 0.15;
/// Smallest window, in segments.
const MIN_SEGMENTS: u64 = 4;
const MIN_RTT_FILTER: Duration = Duration::from_secs(10);
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);
/// Rounds for which the largest aggregate of acknowledgments is remembered: in two halves.
const AGGREGATE_ROUNDS: u64 = 5;

/// The model of one path.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Model {
    /// Highest rate in this and in the last cycle of bandwidth probing.
    rates: [u64; 2],
    /// Short-term bounds, from losses while not probing; and the long-term one of what is safe in flight.
    pub(super) bw_lo: u64,
    pub(super) inflight_lo: u64,
    pub(super) inflight_hi: u64,
    bw_latest: u64,
    pub(super) inflight_latest: u64,
    /// Smallest round-trip time of the last ten seconds, and the one that probing for it maintains.
    pub(super) min_rtt: Option<Duration>,
    min_rtt_at: Instant,
    probe_rtt_min: Option<Duration>,
    probe_rtt_min_at: Instant,
    pub(super) probe_rtt_expired: bool,
    /// The packet-timed round: what must be delivered for the next one, and whether it began just now.
    next_round: u64,
    pub(super) round_start: bool,
    pub(super) rounds: u64,
    /// The round over which losses are judged.
    loss_round: u64,
    loss_round_start: bool,
    pub(super) loss_in_round: bool,
    pub(super) loss_events: u32,
    /// Acknowledgments in aggregates: what came beyond the estimated rate since, and the most of late.
    aggregate_at: Instant,
    aggregate_acked: u64,
    aggregates: [u64; 2],
    aggregate_round: u64,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            rates: [0; 2],
            bw_lo: UNBOUNDED,
            inflight_lo: UNBOUNDED,
            inflight_hi: UNBOUNDED,
            bw_latest: 0,
            inflight_latest: 0,
            min_rtt: None,
            min_rtt_at: Instant::ZERO,
            probe_rtt_min: None,
            probe_rtt_min_at: Instant::ZERO,
            probe_rtt_expired: false,
            next_round: 0,
            round_start: false,
            rounds: 0,
            loss_round: 0,
            loss_round_start: false,
            loss_in_round: false,
            loss_events: 0,
            aggregate_at: Instant::ZERO,
            aggregate_acked: 0,
            aggregates: [0; 2],
            aggregate_round: 0,
        }
    }

    /// The highest rate at which the path has delivered of late.
    pub(super) fn max_bw(&self) -> u64 {
        self.rates[0].max(self.rates[1])
    }
    /// The rate to send at.
    pub(super) fn bw(&self) -> u64 {
        self.max_bw().min(self.bw_lo)
    }
    /// Octets in flight that keep a path of the rate `bw` busy.
    pub(super) fn bdp(&self, bw: u64, path: &Path) -> u64 {
        match self.min_rtt {
            Some(rtt) => (u128::from(bw) * rtt.as_nanos() / 1_000_000_000) as u64,
            None => path.cwnd,
        }
    }
    pub(super) fn min_window(path: &Path) -> u64 {
        MIN_SEGMENTS * path.mss
    }
    /// The long-term bound, with room for others to come in.
    pub(super) fn with_headroom(&self, path: &Path) -> u64 {
        if self.inflight_hi == UNBOUNDED {
            return UNBOUNDED;
        }
        let headroom = ((self.inflight_hi as f64 * HEADROOM) as u64).max(path.mss);
        self.inflight_hi.saturating_sub(headroom).max(Self::min_window(path))
    }
    /// Octets that acknowledgments of late told of all at once, beyond the rate.
    pub(super) fn aggregate(&self) -> u64 {
        self.aggregates[0].max(self.aggregates[1])
    }

    /// Whether more of what was sent in a round was lost than a path at its limit loses.
    pub(super) fn too_much_lost(lost: u64, in_flight: u64) -> bool {
        lost as f64 > in_flight as f64 * LOSS_THRESH
    }

    /// Takes the latest delivery signals (section 5.5.10), rounds and rates. `bounding`: losses now are not of our
    /// own making, so that the short-term bounds follow them.
    pub(super) fn sample(&mut self, ack: &Ack, rate: &RateSample, bounding: bool, path: &Path) {
        self.round_start = rate.prior_delivered >= self.next_round;
        if self.round_start {
            self.start_round(rate.total_delivered);
            self.rounds += 1;
        }
        let bw = rate.rate.unwrap_or(0);
        if bw >= self.max_bw() || !rate.app_limited {
            self.rates[1] = self.rates[1].max(bw);
        }
        self.bw_latest = self.bw_latest.max(bw);
        self.inflight_latest = self.inflight_latest.max(rate.delivered);
        self.loss_round_start = rate.prior_delivered >= self.loss_round;
        if self.loss_round_start {
            self.loss_round = rate.total_delivered;
        }
        if ack.loss.is_some() {
            self.loss_in_round = true;
            self.loss_events += 1;
        }
        if self.loss_round_start {
            if bounding && self.loss_in_round {
                self.lower_bounds(path);
            }
            self.loss_in_round = false;
        }
    }

    /// Once everything has looked at this round's signals: the next one begins with those of this acknowledgment.
    pub(super) fn advance(&mut self, rate: &RateSample) {
        if self.loss_round_start {
            self.bw_latest = rate.rate.unwrap_or(0);
            self.inflight_latest = rate.delivered;
            self.loss_events = 0;
        }
    }

    /// What is sent from now on makes up a round.
    pub(super) fn start_round(&mut self, delivered: u64) {
        self.next_round = delivered;
    }

    fn lower_bounds(&mut self, path: &Path) {
        let fade = |bound: u64, default: u64| {
            let bound = if bound == UNBOUNDED { default } else { bound };
            (bound as f64 * BETA) as u64
        };
        self.bw_lo = fade(self.bw_lo, self.max_bw()).max(self.bw_latest);
        self.inflight_lo = fade(self.inflight_lo, path.cwnd).max(self.inflight_latest);
    }

    pub(super) fn reset_lower_bounds(&mut self) {
        (self.bw_lo, self.inflight_lo) = (UNBOUNDED, UNBOUNDED);
    }

    pub(super) fn reset_signals(&mut self) {
        self.loss_in_round = false;
        (self.bw_latest, self.inflight_latest) = (0, 0);
    }

    /// A cycle of probing is over: the rates of the one before it are forgotten.
    pub(super) fn next_cycle(&mut self) {
        self.rates = [self.rates[1], 0];
    }

    /// Takes the round-trip time (section 5.5.7).
    pub(super) fn measure_rtt(&mut self, now: Instant, rtt: Option<Duration>) {
        self.probe_rtt_expired = now - self.probe_rtt_min_at > PROBE_RTT_INTERVAL;
        if let Some(rtt) = rtt
            && (self.probe_rtt_expired || self.probe_rtt_min.is_none_or(|min| rtt < min))
        {
            self.probe_rtt_min = Some(rtt);
            self.probe_rtt_min_at = now;
        }
        let expired = now - self.min_rtt_at > MIN_RTT_FILTER;
        if let Some(probed) = self.probe_rtt_min
            && (expired || self.min_rtt.is_none_or(|min| probed < min))
        {
            self.min_rtt = Some(probed);
            self.min_rtt_at = self.probe_rtt_min_at;
        }
    }

    /// The path was empty for long enough: what was measured meanwhile stands.
    pub(super) fn rtt_probed(&mut self, now: Instant) {
        self.probe_rtt_min_at = now;
    }

    /// Takes what was acknowledged, to see how much of it comes at once (section 5.5.9).
    pub(super) fn measure_aggregate(&mut self, now: Instant, acked: u64, cwnd: u64) {
        let expected = u128::from(self.bw()) * (now - self.aggregate_at).as_nanos() / 1_000_000_000;
        let mut expected = expected as u64;
        if self.aggregate_acked <= expected {
            self.restart_aggregate(now);
            expected = 0;
        }
        self.aggregate_acked += acked;
        if self.rounds >= self.aggregate_round + AGGREGATE_ROUNDS {
            self.aggregate_round = self.rounds;
            self.aggregates = [self.aggregates[1], 0];
        }
        let extra = (self.aggregate_acked - expected.min(self.aggregate_acked)).min(cwnd);
        self.aggregates[1] = self.aggregates[1].max(extra);
    }

    pub(super) fn restart_aggregate(&mut self, now: Instant) {
        (self.aggregate_at, self.aggregate_acked) = (now, 0);
    }
}
