//! NewReno (RFC 5681): one segment more per round trip, half the window on loss, a fifth off for a congestion mark
//! (RFC 8511).

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, Path, PerPath, additive};
use crate::Instant;

const BETA_LOSS: f64 = 0.5;
/// A marking queue is short: less is needed to empty it (RFC 8511 section 3).
const BETA_ECN: f64 = 0.8;

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    slow_start: SlowStart,
    credit: f64,
}

/// The algorithm.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Reno {
    paths: PerPath<State>,
}

impl CongestionControl for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }

    fn on_ack(&mut self, now: Instant, path: usize, ack: &Ack, paths: &mut [Path]) {
        let (state, path) = (self.paths.at(path), &mut paths[path]);
        if state.slow_start.leaves(now, ack, path) {
            path.cwnd += additive(path, ack.delivered, path.mss as f64, &mut state.credit);
        }
    }

    fn on_congestion(&mut self, _now: Instant, path: usize, cause: Cause, paths: &mut [Path]) {
        paths[path].reduce(if cause == Cause::Loss { BETA_LOSS } else { BETA_ECN });
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_halves_the_window_and_a_mark_takes_a_fifth() {
        for (cause, expected) in [(Cause::Loss, 50_000), (Cause::EcnEcho, 80_000)] {
            let mut paths = [Path::new(1000)];
            paths[0].cwnd = 100_000;
            Reno::default().on_congestion(Instant::ZERO, 0, cause, &mut paths);
            assert_eq!(paths[0].ssthresh, expected);
        }
    }
}
