//! NewReno (RFC 5681): one segment more per round trip, half the window on loss.

use super::slow_start::SlowStart;
use super::{Ack, CongestionControl, Path, PerPath, additive};
use crate::proto::Instant;

#[derive(Debug, Default)]
struct State {
    slow_start: SlowStart,
    credit: f64,
}

/// The algorithm.
#[derive(Debug, Default)]
pub(super) struct Reno {
    paths: PerPath<State>,
}

impl CongestionControl for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }

    fn on_ack(&mut self, _now: Instant, path: usize, ack: &Ack, paths: &mut [Path]) {
        let (state, path) = (self.paths.at(path), &mut paths[path]);
        if path.in_slow_start() {
            state.slow_start.on_ack(ack, path);
        } else if ack.limited {
            path.cwnd += additive(path, ack.delivered, path.mss as f64, &mut state.credit);
        }
    }

    fn on_congestion(&mut self, _now: Instant, path: usize, paths: &mut [Path]) {
        let path = &mut paths[path];
        path.reduce(path.cwnd, 0.5);
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = State::default();
    }
}
