//! CUBIC (RFC 9438). Windows inside are in segments, time in seconds, as in the RFC's formulas.

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, Path, PerPath};
use crate::Instant;
use std::time::Duration;

const C: f64 = 0.4;
const BETA: f64 = 0.7;
/// After a congestion mark (RFC 8511 section 3).
const BETA_ECN: f64 = 0.85;
/// Additive increase of the Reno-friendly estimate (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

#[derive(Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Curve {
    w_max: f64,
    k: f64,
    epoch: Option<Instant>,
    w_est: f64,
    cwnd_prior: f64,
    credit: f64,
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    slow_start: SlowStart,
    #[serde(with = "crate::dormant::sparse")]
    curve: Curve,
    /// The curve before the last reduction, for undo.
    #[serde(with = "crate::dormant::sparse")]
    before: Curve,
    last_ack: Option<Instant>,
}

/// The algorithm.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Cubic {
    paths: PerPath<State>,
}

impl CongestionControl for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
    }

    fn on_ack(&mut self, now: Instant, path: usize, ack: &Ack, paths: &mut [Path]) {
        let (state, path) = (self.paths.at(path), &mut paths[path]);
        if path.in_slow_start() {
            state.slow_start.on_ack(now, ack, path);
            return;
        }
        let since = state.last_ack.replace(now).map_or_else(Default::default, |last| now - last);
        let curve = &mut state.curve;
        if !ack.limited {
            // Time in which the application did not fill the window does not move the curve (section 5.8).
            if let Some(epoch) = &mut curve.epoch {
                *epoch += since;
            }
            return;
        }
        let mss = path.mss as f64;
        let cwnd = path.cwnd as f64 / mss;
        let epoch = *curve.epoch.get_or_insert_with(|| {
            curve.w_est = cwnd;
            if curve.w_max <= cwnd {
                curve.w_max = cwnd;
                curve.k = 0.0;
            } else {
                curve.k = ((curve.w_max - cwnd) / C).cbrt();
            }
            now
        });
        let srtt = path.srtt.unwrap_or_default().as_secs_f64();
        let t = (now - epoch).as_secs_f64();
        let acked = ack.delivered as f64 / mss;
        let w_cubic = |t: f64| C * (t - curve.k).powi(3) + curve.w_max;
        let alpha = if curve.w_est < curve.cwnd_prior { ALPHA } else { 1.0 };
        curve.w_est += alpha * acked / cwnd;
        let increase = if w_cubic(t) < curve.w_est {
            (curve.w_est - cwnd).max(0.0)
        } else {
            let target = w_cubic(t + srtt).clamp(cwnd, 1.5 * cwnd);
            (target - cwnd) / cwnd * acked
        };
        curve.credit += increase * mss;
        let whole = curve.credit.max(0.0) as u64;
        curve.credit -= whole as f64;
        path.cwnd += whole;
    }

    fn on_congestion(&mut self, _now: Instant, path: usize, cause: Cause, paths: &mut [Path]) {
        let (state, path) = (self.paths.at(path), &mut paths[path]);
        let cwnd = path.cwnd as f64 / path.mss as f64;
        state.before = state.curve.clone();
        let curve = &mut state.curve;
        // Fast convergence (section 4.7).
        curve.w_max = if curve.w_max > cwnd { cwnd * (1.0 + BETA) / 2.0 } else { cwnd };
        curve.cwnd_prior = cwnd;
        curve.epoch = None;
        path.reduce(if cause == Cause::Loss { BETA } else { BETA_ECN });
    }

    fn on_restart(&mut self, now: Instant, path: usize, idle: Duration, rto: Duration, paths: &mut [Path]) {
        let state = self.paths.at(path);
        if let Some(epoch) = &mut state.curve.epoch {
            *epoch += idle;
        }
        state.last_ack = Some(now);
        paths[path].decay(idle, rto);
    }

    fn on_undo(&mut self, path: usize) {
        let state = self.paths.at(path);
        state.curve = state.before.clone();
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a loss the window returns to where it was after K seconds (section 4.2), and grows beyond it only then.
    #[test]
    fn the_window_is_back_where_it_was_after_k_seconds() {
        let mut paths = [Path::new(1000)];
        paths[0].cwnd = 1000 * 1000;
        paths[0].srtt = Some(Duration::from_millis(100));
        let mut cubic = Cubic::default();
        cubic.on_congestion(Instant::ZERO, 0, Cause::Loss, &mut paths);
        paths[0].cwnd = paths[0].ssthresh;
        assert_eq!(paths[0].cwnd, 700_000);
        let k = ((1000.0f64 - 700.0) / C).cbrt();
        let (mut now, mut reached) = (Instant::ZERO, None);
        for _ in 0..200 {
            let ack = Ack { delivered: paths[0].cwnd / 10, limited: true, ..Ack::default() };
            for _ in 0..10 {
                cubic.on_ack(now, 0, &ack, &mut paths);
                now += Duration::from_millis(10);
            }
            if paths[0].cwnd >= 995_000 && reached.is_none() {
                reached = Some(now.as_nanos() as f64 / 1e9);
            }
        }
        let reached = reached.unwrap();
        assert!((reached - k).abs() < 0.3 * k, "reached after {reached} s, K is {k} s");
        assert!(paths[0].cwnd > 1_100_000);
    }
}
