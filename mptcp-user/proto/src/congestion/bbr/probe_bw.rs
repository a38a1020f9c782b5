//! BBR's cycle of probing for bandwidth (draft-ietf-ccwg-bbr section 5.3.3): drain what the last probe queued, cruise,
//! fill the pipe, probe upwards until the path says stop.

use super::model::{BETA, Model, UNBOUNDED};
use super::{Flow, State};
use crate::Instant;
use crate::congestion::{Ack, LossSample, Path, RateSample};
use std::time::Duration;

/// Part of the cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) enum Phase {
    Down,
    Cruise,
    Refill,
    Up,
}

/// Which part of a probe the acknowledgments that come now tell of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Feedback {
    None,
    Starting,
    Probing,
    Stopping,
}

/// State of the cycle.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Cycle {
    since: Instant,
    feedback: Feedback,
    /// How long to cruise at most, and since which round.
    wait: Duration,
    rounds_at: u64,
    /// Losses count against the long-term bound.
    samples: bool,
    /// Octets by which the bound grows for a window's worth acknowledged; doubles each round.
    growth: u64,
}

impl Cycle {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::ZERO,
            feedback: Feedback::None,
            wait: Duration::ZERO,
            rounds_at: 0,
            samples: false,
            growth: 0,
        }
    }
}

/// Longest time between two probes in rounds, so that a Reno flow beside us can win its share back.
const RENO_ROUNDS: u64 = 63;

/// A number below `below` that looks random: flows that share a bottleneck must not probe in step.
fn scatter(seed: u64, below: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % below
}

impl Flow {
    /// Slows down to let the queue drain that the probe has made.
    pub(super) fn start_down(&mut self, now: Instant, delivered: u64) {
        self.model.reset_signals();
        let seed = now.as_nanos() ^ delivered;
        self.cycle.wait = Duration::from_millis(2000 + scatter(seed, 1000));
        // Up to a round less than otherwise.
        self.cycle.rounds_at = self.model.rounds.saturating_sub(scatter(seed >> 1, 2));
        self.cycle.feedback = Feedback::Stopping;
        self.enter_phase(now, Phase::Down);
        self.model.start_round(delivered);
    }

    fn enter_phase(&mut self, now: Instant, phase: Phase) {
        self.cycle.since = now;
        self.state = State::ProbeBw(phase);
    }

    pub(super) fn start_cruise(&mut self, now: Instant) {
        self.enter_phase(now, Phase::Cruise);
    }

    fn start_refill(&mut self, now: Instant, delivered: u64) {
        self.model.reset_lower_bounds();
        self.cycle.growth = 0;
        self.cycle.feedback = Feedback::None;
        self.enter_phase(now, Phase::Refill);
        self.model.start_round(delivered);
    }

    fn start_up(&mut self, now: Instant, rate: &RateSample, path: &Path) {
        self.cycle.feedback = Feedback::Starting;
        self.cycle.growth = path.mss;
        self.full_pipe.reset(rate.rate.unwrap_or(0));
        self.enter_phase(now, Phase::Up);
        self.model.start_round(rate.total_delivered);
    }

    /// Moves on in the cycle, after an acknowledgment.
    pub(super) fn update_cycle(&mut self, now: Instant, ack: &Ack, rate: &RateSample, path: &Path) {
        if !self.full_pipe.reached {
            return;
        }
        self.adapt_upper_bound(now, ack, rate, path);
        let State::ProbeBw(phase) = self.state else { return };
        match phase {
            Phase::Down | Phase::Cruise if self.is_time_to_probe(now, path) => {
                self.start_refill(now, rate.total_delivered);
            }
            Phase::Down if self.is_drained(path) => self.start_cruise(now),
            Phase::Down | Phase::Cruise => {}
            Phase::Refill if self.model.round_start => {
                // From here on losses are of the probe's making.
                self.cycle.samples = true;
                self.start_up(now, rate, path);
            }
            Phase::Refill => {}
            Phase::Up => {
                if ack.limited && path.cwnd >= self.model.inflight_hi {
                    // The bound is what keeps the rate from growing, not the path.
                    self.full_pipe.reset(rate.rate.unwrap_or(0));
                } else if self.full_pipe.now {
                    self.start_down(now, rate.total_delivered);
                }
            }
        }
    }

    fn is_drained(&self, path: &Path) -> bool {
        path.in_flight <= self.model.with_headroom(path)
            && path.in_flight <= self.inflight(self.model.max_bw(), 1.0, path)
    }

    fn target_inflight(&self, path: &Path) -> u64 {
        self.model.bdp(self.model.bw(), path).min(path.cwnd)
    }

    fn is_time_to_probe(&self, now: Instant, path: &Path) -> bool {
        let rounds = (self.target_inflight(path) / path.mss.max(1)).min(RENO_ROUNDS);
        now - self.cycle.since > self.cycle.wait || self.model.rounds - self.cycle.rounds_at >= rounds
    }

    /// The longest safe flight follows what the path has taken without much loss, or has not.
    fn adapt_upper_bound(&mut self, now: Instant, ack: &Ack, rate: &RateSample, path: &Path) {
        if self.model.round_start {
            match self.cycle.feedback {
                Feedback::Starting => self.cycle.feedback = Feedback::Probing,
                Feedback::Stopping => {
                    self.cycle.samples = false;
                    self.cycle.feedback = Feedback::None;
                    if matches!(self.state, State::ProbeBw(_)) && !rate.app_limited {
                        self.model.next_cycle();
                    }
                }
                Feedback::None | Feedback::Probing => {}
            }
        }
        if Model::too_much_lost(rate.lost, rate.in_flight) {
            self.flight_too_large(now, rate.in_flight, rate.app_limited, rate.total_delivered, path);
            return;
        }
        if self.model.inflight_hi == UNBOUNDED {
            return;
        }
        self.model.inflight_hi = self.model.inflight_hi.max(rate.in_flight);
        if self.state == State::ProbeBw(Phase::Up) && ack.limited && path.cwnd >= self.model.inflight_hi {
            let growth = u128::from(ack.delivered) * u128::from(self.cycle.growth);
            self.model.inflight_hi += (growth / u128::from(path.cwnd.max(1))) as u64;
            if self.model.round_start {
                self.cycle.growth = (self.cycle.growth * 2).min(path.cwnd);
            }
        }
    }

    /// Something was lost: if the flight it was part of has lost too much, the probe has gone too far.
    pub(super) fn judge_loss(&mut self, now: Instant, loss: &LossSample, delivered: u64, path: &Path) {
        if self.cycle.samples && Model::too_much_lost(loss.since_sent, loss.in_flight) {
            self.flight_too_large(now, loss.in_flight, loss.app_limited, delivered, path);
        }
    }

    fn flight_too_large(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        delivered: u64,
        path: &Path,
    ) {
        if !std::mem::take(&mut self.cycle.samples) {
            return;
        }
        if !app_limited {
            let least = (self.target_inflight(path) as f64 * BETA) as u64;
            self.model.inflight_hi = in_flight.max(least);
        }
        if self.state == State::ProbeBw(Phase::Up) {
            self.start_down(now, delivered);
        }
    }

    /// Acknowledgments from here on tell of no probe any more.
    pub(super) fn stop_probing(&mut self) {
        self.cycle.feedback = Feedback::Stopping;
    }
}
