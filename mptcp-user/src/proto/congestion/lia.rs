//! LIA, the coupled congestion control of RFC 6356: in sum as aggressive as one TCP on the best path.

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, Path, PerPath, additive};
use crate::proto::Instant;

#[derive(Debug, Default)]
struct State {
    slow_start: SlowStart,
    credit: f64,
}

/// The algorithm.
#[derive(Debug, Default)]
pub(super) struct Lia {
    paths: PerPath<State>,
}

/// Octets per window's worth acknowledged that all subflows together may gain, over `mss`, times this path's
/// window over the total: alpha of RFC 6356 section 3, in octets.
fn alpha(paths: &[Path]) -> (f64, f64) {
    let (mut best, mut sum, mut total) = (0.0f64, 0.0f64, 0.0f64);
    for path in paths.iter().filter(|path| path.active) {
        let rtt = path.srtt.map_or(1e-3, |rtt| rtt.as_secs_f64()).max(1e-6);
        let cwnd = path.cwnd as f64;
        best = best.max(cwnd / (rtt * rtt));
        sum += cwnd / rtt;
        total += cwnd;
    }
    if sum == 0.0 { (1.0, 0.0) } else { (total * best / (sum * sum), total) }
}

impl CongestionControl for Lia {
    fn name(&self) -> &'static str {
        "lia"
    }

    fn on_ack(&mut self, _now: Instant, index: usize, ack: &Ack, paths: &mut [Path]) {
        let state = self.paths.at(index);
        if !state.slow_start.leaves(ack, &mut paths[index]) {
            return;
        }
        let (alpha, total) = alpha(paths);
        let path = &mut paths[index];
        // min(alpha * acked * mss / total, acked * mss / cwnd)
        let coupled = if total > 0.0 { alpha * path.cwnd as f64 / total } else { 1.0 };
        path.cwnd += additive(path, ack.delivered, coupled.min(1.0) * path.mss as f64, &mut state.credit);
    }

    fn on_congestion(&mut self, _now: Instant, path: usize, _cause: Cause, paths: &mut [Path]) {
        paths[path].reduce(0.5);
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Two equal paths: each gains a quarter of what Reno would (RFC 6356: alpha is 1/2 and the window half the total).
    #[test]
    fn two_equal_paths_are_together_no_more_aggressive_than_one() {
        let mut paths = [Path::new(1000), Path::new(1000)];
        for path in &mut paths {
            path.cwnd = 100_000;
            path.ssthresh = 50_000;
            path.srtt = Some(Duration::from_millis(50));
            path.active = true;
        }
        let mut lia = Lia::default();
        let ack = Ack { delivered: 100_000, limited: true, ..Ack::default() };
        lia.on_ack(Instant::ZERO, 0, &ack, &mut paths);
        assert!((100_249..=100_250).contains(&paths[0].cwnd), "{}", paths[0].cwnd);
    }
}
