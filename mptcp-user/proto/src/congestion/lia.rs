//! LIA, the coupled congestion control of RFC 6356: in sum as aggressive as one TCP on the best path. Only the increase in
//! congestion avoidance differs from RFC 5681 (section 3); the smallest threshold is two segments as there.

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, Path, PerPath, additive, coupled};
use crate::Instant;

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    slow_start: SlowStart,
    credit: f64,
}

/// The algorithm.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Lia {
    paths: PerPath<State>,
}

/// The window of the path in place `index` over the sum of all, times alpha (RFC 6356 section 3, equation 2): the octets
/// that it gains for each that is acknowledged, over MSS / cwnd_i, which is Reno's.
fn share(index: usize, paths: &[Path]) -> f64 {
    let (mut best, mut sum) = (0.0f64, 0.0);
    for (_, path, window) in coupled(index, paths) {
        best = best.max(window / path.rtt().powi(2));
        sum += window / path.rtt();
    }
    // The sum of the windows stands in alpha and under it.
    paths[index].cwnd as f64 * best / (sum * sum)
}

impl CongestionControl for Lia {
    fn name(&self) -> &'static str {
        "lia"
    }

    fn on_ack(&mut self, now: Instant, index: usize, ack: &Ack, paths: &mut [Path]) {
        let state = self.paths.at(index);
        if !state.slow_start.leaves(now, ack, &mut paths[index]) {
            return;
        }
        // Not more than Reno (equation 1).
        let increase = share(index, paths).min(1.0) * paths[index].mss as f64;
        let path = &mut paths[index];
        path.cwnd += additive(path, ack.delivered, increase, &mut state.credit);
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
    use super::super::avoiding as paths;
    use super::*;
    use std::time::Duration;

    /// Octets that a path gains for a window's worth.
    fn gain(index: usize, paths: &mut [Path]) -> i64 {
        let before = paths[index].cwnd;
        let ack = Ack { delivered: before, limited: true, ..Ack::default() };
        Lia::default().on_ack(Instant::ZERO, index, &ack, paths);
        paths[index].cwnd as i64 - before as i64
    }

    /// Two equal paths: each gains a quarter of what Reno would (alpha is 1/2 and the window half the total).
    #[test]
    fn two_equal_paths_are_together_no_more_aggressive_than_one() {
        assert!((249..=250).contains(&gain(0, &mut paths([100_000, 100_000]))));
    }

    /// 20000 octets at 10 ms and 80000 at 100 ms. In octets and seconds: the largest w / rtt^2 is 2e8, the sum of w / rtt
    /// 2.8e6, so that alpha is 1e5 * 2e8 / 7.84e12 = 2.551. The first gains 2.551 * 1000 / 5 for its window; the second
    /// would gain 2.551 * 1000 * 4 / 5 = 2041, which is more than Reno's 1000.
    #[test]
    fn unequal_paths_gain_as_equation_1_says_and_never_more_than_reno() {
        for (index, expected) in [(0, 510), (1, 1000)] {
            let mut paths = paths([20_000, 80_000]);
            paths[0].srtt = Some(Duration::from_millis(10));
            paths[1].srtt = Some(Duration::from_millis(100));
            let gained = gain(index, &mut paths);
            assert!((expected - 1..=expected).contains(&gained), "{gained}");
        }
    }

    /// An acknowledgment of two segments on the first of two equal paths of 10 segments: 2000 * 1000 / 10000 / 4 octets.
    #[test]
    fn one_acknowledgment_gains_in_proportion_to_what_it_acknowledges() {
        let mut paths = paths([10_000, 10_000]);
        paths.iter_mut().for_each(|path| path.ssthresh = 2000);
        let ack = Ack { delivered: 2000, limited: true, ..Ack::default() };
        Lia::default().on_ack(Instant::ZERO, 0, &ack, &mut paths);
        assert!((10_049..=10_050).contains(&paths[0].cwnd), "{}", paths[0].cwnd);
    }

    /// Section 3: cwnd_total takes an idle path as nothing, and one in fast recovery as its threshold.
    #[test]
    fn a_path_that_carries_nothing_holds_nobody_back() {
        let mut paths = paths([100_000, 100_000]);
        paths[1].limited = false;
        assert!((999..=1000).contains(&gain(0, &mut paths)));
        (paths[0].cwnd, paths[1].limited) = (100_000, true);
        (paths[1].recovering, paths[1].cwnd, paths[1].ssthresh) = (true, 1000, 100_000);
        assert!((249..=250).contains(&gain(0, &mut paths)));
    }

    #[test]
    fn a_loss_halves_the_window_down_to_two_segments() {
        for (window, expected) in [(100_000, 50_000), (2500, 2000)] {
            let mut paths = paths([window, 100_000]);
            Lia::default().on_congestion(Instant::ZERO, 0, Cause::Loss, &mut paths);
            assert_eq!(paths[0].ssthresh, expected);
        }
    }
}
