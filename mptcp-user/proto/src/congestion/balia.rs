//! BALIA, balanced linked adaptation (draft-walid-mptcp-congestion-control-04): increase and decrease both depend on how
//! much faster the best path is, a compromise between friendliness to others and quick reactions. Slow start and the rest
//! are as in RFC 5681, but for the smallest threshold, which is one segment where there are several paths.

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, Path, PerPath, additive, coupled, least_segments};
use crate::Instant;

/// No loss takes more than this share of half the window.
const MAX_DECREASE: f64 = 1.5;

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    slow_start: SlowStart,
    credit: f64,
}

/// The algorithm.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Balia {
    paths: PerPath<State>,
}

/// How much faster the fastest path is than this one (alpha of the draft), and this one's share of all; of octets per
/// second that a path carries (x of the draft).
fn balance(index: usize, paths: &[Path]) -> (f64, f64) {
    let own = (paths[index].cwnd as f64 / paths[index].rtt()).max(1.0);
    let rates = coupled(index, paths).map(|(_, path, window)| window / path.rtt());
    let (best, sum) = rates.fold((own, 0.0), |(best, sum), rate| (best.max(rate), sum + rate));
    (best / own, own / sum.max(own))
}

impl CongestionControl for Balia {
    fn name(&self) -> &'static str {
        "balia"
    }

    fn on_ack(&mut self, now: Instant, index: usize, ack: &Ack, paths: &mut [Path]) {
        let state = self.paths.at(index);
        if !state.slow_start.leaves(now, ack, &mut paths[index]) {
            return;
        }
        let (alpha, share) = balance(index, paths);
        let path = &mut paths[index];
        // x / rtt / (sum of x)^2 * (1 + alpha) / 2 * (4 + alpha) / 5 for each segment: times w, for each window.
        let increase = share * share * (1.0 + alpha) / 2.0 * (4.0 + alpha) / 5.0;
        path.cwnd += additive(path, ack.delivered, increase * path.mss as f64, &mut state.credit);
    }

    fn on_congestion(&mut self, _now: Instant, index: usize, _cause: Cause, paths: &mut [Path]) {
        let (alpha, _) = balance(index, paths);
        let least = least_segments(paths);
        paths[index].reduce_to(1.0 - alpha.min(MAX_DECREASE) / 2.0, least);
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::avoiding as paths;
    use super::*;

    /// Alpha is 1 on the best path. Alone it is Reno; of two equal ones each gains a quarter.
    #[test]
    fn the_best_path_gains_by_the_square_of_its_share() {
        for (second, expected) in [(false, 1000), (true, 250)] {
            let mut paths = paths([100_000, 100_000]);
            paths[1].active = second;
            let ack = Ack { delivered: 100_000, limited: true, ..Ack::default() };
            Balia::default().on_ack(Instant::ZERO, 0, &ack, &mut paths);
            assert!(paths[0].cwnd.abs_diff(100_000 + expected) <= 1, "{}", paths[0].cwnd);
            Balia::default().on_congestion(Instant::ZERO, 0, Cause::Loss, &mut paths);
            assert!(paths[0].ssthresh.abs_diff(50_000) <= expected / 2 + 1, "{}", paths[0].ssthresh);
        }
    }

    /// A path with a third of the best one's rate: alpha is 3, its share 1/4. It gains (1/16)(4/2)(7/5) of a segment
    /// for a window, and loses three quarters of the window at once.
    #[test]
    fn a_slower_path_gains_faster_than_its_share_and_gives_way_sooner() {
        let mut paths = paths([150_000, 50_000]);
        let ack = Ack { delivered: 50_000, limited: true, ..Ack::default() };
        Balia::default().on_ack(Instant::ZERO, 1, &ack, &mut paths);
        assert!(paths[1].cwnd.abs_diff(50_175) <= 1, "{}", paths[1].cwnd);
        paths[1].cwnd = 50_000;
        Balia::default().on_congestion(Instant::ZERO, 1, Cause::Loss, &mut paths);
        assert_eq!(paths[1].ssthresh, 12_500);
    }

    /// 20000 octets at 10 ms (2e6 per second) and 80000 at 100 ms (8e5). On the first alpha is 1 and the share 20/28: it
    /// gains 1000 * (20/28)^2 for a window and loses half of it. On the second alpha is 2.5, the share 8/28: it gains
    /// 1000 * (8/28)^2 * 3.5 / 2 * 6.5 / 5, and loses three quarters.
    #[test]
    fn round_trip_times_count_as_the_draft_says() {
        use std::time::Duration;
        for (index, gain, threshold) in [(0, 510, 10_000), (1, 185, 20_000)] {
            let mut paths = paths([20_000, 80_000]);
            paths[0].srtt = Some(Duration::from_millis(10));
            paths[1].srtt = Some(Duration::from_millis(100));
            Balia::default().on_congestion(Instant::ZERO, index, Cause::Loss, &mut paths);
            assert_eq!(paths[index].ssthresh, threshold);
            let before = paths[index].cwnd;
            let ack = Ack { delivered: before, limited: true, ..Ack::default() };
            Balia::default().on_ack(Instant::ZERO, index, &ack, &mut paths);
            assert!((gain - 1..=gain).contains(&(paths[index].cwnd - before)), "{}", paths[index].cwnd);
        }
    }

    #[test]
    fn a_congested_path_keeps_one_segment_beside_others_and_two_alone() {
        for (others, expected) in [(true, 1000), (false, 2000)] {
            let mut paths = paths([2000, 100_000]);
            paths[1].active = others;
            Balia::default().on_congestion(Instant::ZERO, 0, Cause::Loss, &mut paths);
            assert_eq!(paths[0].ssthresh, expected);
        }
    }
}
