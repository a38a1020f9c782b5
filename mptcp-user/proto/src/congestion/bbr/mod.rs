//! BBR, version 3 (draft-ietf-ccwg-bbr): sends at the rate at which the path was seen to deliver, with about one
//! bandwidth-delay product in flight, and takes loss as a sign only where there is more than a little of it.
//!
//! [`model`] is what it believes of the path, [`probe_bw`] how it keeps looking for more; here is how it begins, how it
//! measures the path's delay, and what follows for rate and window. Paths are not coupled.

mod model;
mod probe_bw;

use super::{Ack, Cause, CongestionControl, Path, PerPath, RateSample};
use crate::Instant;
use model::{Model, UNBOUNDED};
use probe_bw::{Cycle, Phase};
use std::time::Duration;

/// 4 ln 2: the smallest gain that doubles the delivery rate each round.
const STARTUP_GAIN: f64 = 2.773;
const DRAIN_GAIN: f64 = 0.35;
const CWND_GAIN: f64 = 2.0;
/// Sent slower than the estimate, so that queues do not build up.
const PACING_MARGIN: f64 = 0.99;
/// The pipe is full when the rate has not grown by a quarter for so many rounds.
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
/// Losses in a round of start-up that end it, if enough was lost.
const FULL_LOSS_EVENTS: u32 = 6;
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);
const PROBE_RTT_GAIN: f64 = 0.5;
/// The round-trip time assumed for the first rate, while there is none.
const FIRST_RTT: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum State {
    Startup,
    Drain,
    ProbeBw(Phase),
    ProbeRtt,
}

/// Whether the rate still grows (section 5.3.1.2).
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct FullPipe {
    rate: u64,
    rounds: u32,
    /// Now; and once, so that start-up is over.
    now: bool,
    reached: bool,
}

impl FullPipe {
    fn reset(&mut self, rate: u64) {
        (self.rate, self.rounds, self.now) = (rate, 0, false);
    }

    fn sample(&mut self, rate: &RateSample, round_start: bool) {
        if self.now || !round_start || rate.app_limited {
            return;
        }
        let bw = rate.rate.unwrap_or(0);
        if bw as f64 >= self.rate as f64 * FULL_GROWTH {
            self.reset(bw);
            return;
        }
        self.rounds += 1;
        self.now = self.rounds >= FULL_ROUNDS;
        self.reached |= self.now;
    }
}

/// One path's state.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Flow {
    state: State,
    model: Model,
    full_pipe: FullPipe,
    cycle: Cycle,
    idle_restart: bool,
    /// The window before recovery or a probe of the round-trip time.
    prior_cwnd: u64,
    /// Short-term bounds before the last congestion, for undo.
    prior_bounds: (u64, u64),
    /// A probe of the round-trip time: when it may end, and whether a round went by.
    probe_rtt_until: Option<Instant>,
    probe_rtt_round: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            state: State::Startup,
            model: Model::new(),
            full_pipe: FullPipe::default(),
            cycle: Cycle::new(),
            idle_restart: false,
            prior_cwnd: 0,
            prior_bounds: (UNBOUNDED, UNBOUNDED),
            probe_rtt_until: None,
            probe_rtt_round: false,
        }
    }
}

impl Flow {
    fn on_ack(&mut self, now: Instant, ack: &Ack, path: &mut Path) {
        if let Some(rate) = &ack.rate {
            self.update_model(now, ack, rate, path);
        }
        self.set_pacing_rate(self.pacing_gain(), path);
        self.set_window(ack, path);
    }

    fn update_model(&mut self, now: Instant, ack: &Ack, rate: &RateSample, path: &mut Path) {
        if let Some(loss) = &ack.loss {
            self.judge_loss(now, loss, rate.total_delivered, path);
        }
        let probing = matches!(self.state, State::Startup | State::ProbeBw(Phase::Refill | Phase::Up));
        self.model.sample(ack, rate, !probing, path);
        self.model.measure_aggregate(now, ack.delivered, path.cwnd);
        self.full_pipe.sample(rate, self.model.round_start);
        self.leave_startup(now, rate, path);
        self.update_cycle(now, ack, rate, path);
        self.model.measure_rtt(now, ack.rtt);
        self.check_probe_rtt(now, rate, path);
        self.model.advance(rate);
    }

    /// The pipe is full, or the queue behind it: what start-up has queued is drained, then the cycle begins.
    fn leave_startup(&mut self, now: Instant, rate: &RateSample, path: &Path) {
        if self.state == State::Startup {
            let lost =
                self.model.loss_events >= FULL_LOSS_EVENTS && Model::too_much_lost(rate.lost, rate.in_flight);
            if lost {
                self.full_pipe.reached = true;
                let bdp = self.model.bdp(self.model.max_bw(), path);
                self.model.inflight_hi = bdp.max(self.model.inflight_latest);
            }
            if self.full_pipe.reached {
                self.state = State::Drain;
            }
        }
        if self.state == State::Drain && path.in_flight <= self.inflight(self.model.max_bw(), 1.0, path) {
            self.start_down(now, rate.total_delivered);
        }
    }

    /// Every few seconds the path must be nearly empty for a moment, or its delay can't be seen (section 5.3.4).
    fn check_probe_rtt(&mut self, now: Instant, rate: &RateSample, path: &mut Path) {
        if self.state != State::ProbeRtt && self.model.probe_rtt_expired && !self.idle_restart {
            self.prior_cwnd = path.cwnd;
            self.state = State::ProbeRtt;
            self.probe_rtt_until = None;
            self.stop_probing();
            self.model.start_round(rate.total_delivered);
        }
        if self.state == State::ProbeRtt {
            match self.probe_rtt_until {
                None if path.in_flight <= self.probe_rtt_window(path) => {
                    self.probe_rtt_until = Some(now + PROBE_RTT_DURATION);
                    self.probe_rtt_round = false;
                    self.model.start_round(rate.total_delivered);
                }
                None => {}
                Some(_) => {
                    self.probe_rtt_round |= self.model.round_start;
                    if self.probe_rtt_round {
                        self.leave_probe_rtt(now, rate.total_delivered, path);
                    }
                }
            }
        }
        self.idle_restart &= rate.delivered == 0;
    }

    fn leave_probe_rtt(&mut self, now: Instant, delivered: u64, path: &mut Path) {
        if self.probe_rtt_until.is_none_or(|until| now < until) {
            return;
        }
        self.model.rtt_probed(now);
        path.cwnd = path.cwnd.max(self.prior_cwnd);
        self.model.reset_lower_bounds();
        if self.full_pipe.reached {
            self.start_down(now, delivered);
            self.start_cruise(now);
        } else {
            self.state = State::Startup;
        }
    }

    fn probe_rtt_window(&self, path: &Path) -> u64 {
        let bdp = self.model.bdp(self.model.bw(), path);
        ((bdp as f64 * PROBE_RTT_GAIN) as u64).max(Model::min_window(path))
    }

    fn pacing_gain(&self) -> f64 {
        match self.state {
            State::Startup => STARTUP_GAIN,
            State::Drain => DRAIN_GAIN,
            State::ProbeBw(Phase::Down) => 0.9,
            State::ProbeBw(Phase::Up) => 1.25,
            State::ProbeBw(Phase::Cruise | Phase::Refill) | State::ProbeRtt => 1.0,
        }
    }

    fn cwnd_gain(&self) -> f64 {
        match self.state {
            State::ProbeRtt => PROBE_RTT_GAIN,
            State::ProbeBw(Phase::Up) => CWND_GAIN + 0.25,
            _ => CWND_GAIN,
        }
    }

    fn set_pacing_rate(&self, gain: f64, path: &mut Path) {
        let rate = (self.model.bw() as f64 * gain * PACING_MARGIN) as u64;
        // Until the pipe is known to be full, a lower estimate is one that is not complete.
        if rate > 0 && (self.full_pipe.reached || path.pacing_rate.is_none_or(|current| rate > current)) {
            path.pacing_rate = Some(rate);
        }
    }

    /// Before anything is known: the initial window per round trip.
    fn set_first_rate(path: &mut Path) {
        let rtt = path.srtt.unwrap_or(FIRST_RTT).as_secs_f64().max(1e-6);
        path.pacing_rate = Some((path.cwnd as f64 / rtt * STARTUP_GAIN) as u64);
    }

    /// Octets in flight for a rate and a gain, with what bursts and delayed acknowledgments need on top.
    fn inflight(&self, bw: u64, gain: f64, path: &Path) -> u64 {
        let bdp = (self.model.bdp(bw, path) as f64 * gain) as u64;
        let up = if self.state == State::ProbeBw(Phase::Up) { 2 * path.mss } else { 0 };
        bdp.max(3 * path.quantum(None)).max(Model::min_window(path)) + up
    }

    fn set_window(&self, ack: &Ack, path: &mut Path) {
        let gained = self.model.bdp(self.model.bw(), path) as f64 * self.cwnd_gain();
        let most = self.inflight(self.model.bw(), self.cwnd_gain(), path);
        let most = most.max((gained as u64).saturating_add(self.model.aggregate()));
        if let Some(loss) = &ack.loss {
            path.cwnd = path.cwnd.saturating_sub(loss.octets).max(path.mss);
        }
        if ack.recovered {
            path.cwnd = path.cwnd.max(self.prior_cwnd);
        }
        if self.full_pipe.reached {
            path.cwnd = (path.cwnd + ack.delivered).min(most);
        } else if path.cwnd < most || self.model.max_bw() == 0 {
            path.cwnd += ack.delivered;
        }
        let bound = match self.state {
            State::ProbeBw(Phase::Cruise) => self.model.with_headroom(path),
            State::ProbeBw(_) => self.model.inflight_hi,
            State::ProbeRtt => self.model.with_headroom(path).min(self.probe_rtt_window(path)),
            State::Startup | State::Drain => UNBOUNDED,
        };
        let bound = bound.min(self.model.inflight_lo).max(Model::min_window(path));
        path.cwnd = path.cwnd.max(Model::min_window(path)).min(bound);
    }
}

/// The algorithm.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Bbr {
    paths: PerPath<Flow>,
}

impl CongestionControl for Bbr {
    fn name(&self) -> &'static str {
        "bbr"
    }

    fn rules_recovery(&self) -> bool {
        true
    }

    fn on_ack(&mut self, now: Instant, path: usize, ack: &Ack, paths: &mut [Path]) {
        self.paths.at(path).on_ack(now, ack, &mut paths[path]);
    }

    fn on_congestion(&mut self, _now: Instant, path: usize, cause: Cause, paths: &mut [Path]) {
        let flow = self.paths.at(path);
        if flow.state != State::ProbeRtt {
            flow.prior_cwnd = paths[path].cwnd;
        }
        flow.prior_bounds = (flow.model.bw_lo, flow.model.inflight_lo);
        // A mark is as good a reason as a loss to give way where no probe is under way.
        flow.model.loss_in_round |= cause == Cause::EcnEcho;
    }

    fn on_undo(&mut self, path: usize) {
        let flow = self.paths.at(path);
        flow.model.loss_in_round = false;
        (flow.model.bw_lo, flow.model.inflight_lo) = flow.prior_bounds;
    }

    fn on_restart(&mut self, now: Instant, index: usize, _: Duration, _: Duration, paths: &mut [Path]) {
        let (flow, path) = (self.paths.at(index), &mut paths[index]);
        if path.pacing_rate.is_none() {
            Flow::set_first_rate(path);
            return;
        }
        flow.idle_restart = true;
        flow.model.restart_aggregate(now);
        if matches!(flow.state, State::ProbeBw(_)) {
            flow.set_pacing_rate(1.0, path);
        }
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = Flow::default();
    }
}

#[cfg(test)]
mod tests;
