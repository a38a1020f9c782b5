//! OLIA, opportunistic linked increases (draft-khalili-mptcp-congestion-control-05; Khalili et al., "MPTCP is not
//! Pareto-optimal", 2012): in sum as aggressive as one TCP on the best path, like LIA, and moves window from the paths
//! that have most of it to better ones that have less. Slow start, and what a loss does, are as in RFC 5681, but for the
//! smallest threshold, which is one segment where there are several paths.
//!
//! Which path is best: where a TCP would carry most. With `l` octets between two losses that is about sqrt(2 l) / rtt, so
//! the paths are ranked by l / rtt^2, as the authors' implementation for Linux does. (The draft's text has been read as
//! l^2 / rtt, too; the two differ only between paths whose round-trip times do.)

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, Path, PerPath, additive, coupled, least_segments};
use crate::Instant;

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    slow_start: SlowStart,
    credit: f64,
    /// Octets acknowledged since the last loss, and between the last two.
    since_loss: u64,
    between_losses: u64,
}

impl State {
    /// Octets between losses, the estimate that the increases go by.
    fn span(&self) -> u64 {
        self.since_loss.max(self.between_losses)
    }
}

/// The algorithm.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Olia {
    paths: PerPath<State>,
}

impl Olia {
    /// alpha of the draft, what moves between the paths: positive for the best ones that do not have the largest window,
    /// if there are such ("collected"), and negative for those that have.
    fn shift(&mut self, index: usize, paths: &[Path]) -> f64 {
        let quality = |state: &State, path: &Path| state.span() as f64 / path.rtt().powi(2);
        let (mut count, mut widest, mut best) = (0u32, 0.0f64, 0.0f64);
        for (place, path, window) in coupled(index, paths) {
            count += 1;
            widest = widest.max(window);
            best = best.max(quality(self.paths.at(place), path));
        }
        let (mut collected, mut wide, mut own_collected, mut own_wide) = (0u32, 0u32, false, false);
        for (place, path, window) in coupled(index, paths) {
            if window >= widest {
                wide += 1;
                own_wide |= place == index;
            } else if quality(self.paths.at(place), path) >= best {
                collected += 1;
                own_collected |= place == index;
            }
        }
        match () {
            () if own_collected => 1.0 / f64::from(count * collected),
            () if own_wide && collected > 0 => -1.0 / f64::from(count * wide),
            () => 0.0,
        }
    }
}

impl CongestionControl for Olia {
    fn name(&self) -> &'static str {
        "olia"
    }

    fn on_ack(&mut self, now: Instant, index: usize, ack: &Ack, paths: &mut [Path]) {
        let state = self.paths.at(index);
        state.since_loss += ack.delivered;
        if !state.slow_start.leaves(now, ack, &mut paths[index]) {
            return;
        }
        let shift = self.shift(index, paths);
        let rates: f64 = coupled(index, paths).map(|(_, path, window)| window / path.rtt()).sum();
        let smallest = least_segments(paths);
        let path = &mut paths[index];
        // For each octet: (w / rtt^2) / (sum of w / rtt)^2 + shift / w, in segments; `additive` takes it per window.
        let own = path.cwnd as f64 / path.rtt();
        let increase = (own / rates).powi(2) + shift;
        let least = path.cwnd.min(smallest * path.mss);
        let octets = increase * path.mss as f64;
        let credit = &mut self.paths.at(index).credit;
        path.cwnd += additive(path, ack.delivered, octets, credit);
        if *credit <= -1.0 {
            let whole = (-*credit) as u64;
            *credit += whole as f64;
            path.cwnd = path.cwnd.saturating_sub(whole).max(least);
        }
    }

    fn on_congestion(&mut self, _now: Instant, path: usize, _cause: Cause, paths: &mut [Path]) {
        let state = self.paths.at(path);
        state.between_losses = std::mem::take(&mut state.since_loss);
        let least = least_segments(paths);
        paths[path].reduce_to(0.5, least);
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::avoiding as paths;
    use super::*;

    fn gain(olia: &mut Olia, index: usize, paths: &mut [Path; 2]) -> i64 {
        let before = paths[index].cwnd;
        let ack = Ack { delivered: before, limited: true, ..Ack::default() };
        olia.on_ack(Instant::ZERO, index, &ack, paths);
        paths[index].cwnd as i64 - before as i64
    }

    /// Equal windows: nothing is shifted, and each path gains (1/2)^2 of a segment for a window.
    #[test]
    fn two_equal_paths_gain_a_quarter_each() {
        let mut paths = paths([100_000, 100_000]);
        assert!((249..=250).contains(&gain(&mut Olia::default(), 0, &mut paths)));
    }

    /// The second path is better (more between losses) and has less window: it is given 1/2 a segment for a window
    /// (two paths, one collected), and the first loses as much.
    #[test]
    fn window_moves_to_the_better_path_that_has_less() {
        let mut olia = Olia::default();
        olia.paths.at(0).between_losses = 1_000_000;
        olia.paths.at(1).between_losses = 5_000_000;
        let mut both = paths([150_000, 50_000]);
        // (3/4)^2 - 1/2 and (1/4)^2 + 1/2.
        assert!((61..=63).contains(&gain(&mut olia, 0, &mut both)));
        let mut both = paths([150_000, 50_000]);
        assert!((561..=563).contains(&gain(&mut olia, 1, &mut both)));
    }

    /// The widest of two nearly equal windows gains (1/2)^2 - 1/2 of a segment for a window: it shrinks.
    #[test]
    fn a_window_that_shrinks_keeps_one_segment() {
        let mut olia = Olia::default();
        olia.paths.at(1).between_losses = 5_000_000;
        let mut both = paths([2_100, 2_000]);
        both.iter_mut().for_each(|path| path.ssthresh = 1000);
        for _ in 0..50 {
            gain(&mut olia, 0, &mut both);
            both[1].cwnd = both[0].cwnd - 1;
        }
        assert_eq!(both[0].cwnd, 1000);
    }

    /// 20000 octets at 10 ms (2e6 per second) and 80000 at 100 ms (8e5). The second has the largest window. Neither has
    /// lost anything, and by what was acknowledged the first is better: it is collected. It gains
    /// 1000 * ((20/28)^2 + 1/2) for its window, the other 1000 * ((8/28)^2 - 1/2).
    #[test]
    fn round_trip_times_count_as_the_draft_says() {
        use std::time::Duration;
        for (index, expected) in [(0, 1010), (1, -418)] {
            let mut olia = Olia::default();
            (0..2).for_each(|place| olia.paths.at(place).since_loss = 1_000_000);
            let mut both = paths([20_000, 80_000]);
            both[0].srtt = Some(Duration::from_millis(10));
            both[1].srtt = Some(Duration::from_millis(100));
            let gained = gain(&mut olia, index, &mut both);
            assert!((expected - 1..=expected + 1).contains(&gained), "{gained}");
        }
    }

    /// Three paths, two of them equally good and smaller: each is given 1/6 of a segment for a window, and the largest
    /// loses 1/3.
    #[test]
    fn paths_share_what_is_shifted() {
        let mut olia = Olia::default();
        (1..3).for_each(|place| olia.paths.at(place).between_losses = 5_000_000);
        let [a, b] = paths([200_000, 100_000]);
        let mut three = [a, b.clone(), b];
        for (index, expected) in [(0, -1.0 / 3.0), (1, 1.0 / 6.0), (2, 1.0 / 6.0)] {
            assert!((olia.shift(index, &three) - expected).abs() < 1e-9);
        }
        // One that carries nothing has no part in it: two paths, one collected.
        three[2].limited = false;
        assert!((olia.shift(0, &three) + 0.5).abs() < 1e-9);
    }

    /// The octets between the last two losses count until more than that have come since.
    #[test]
    fn the_larger_of_two_intervals_between_losses_counts() {
        let mut olia = Olia::default();
        let mut both = paths([100_000, 100_000]);
        for (octets, span) in [(70_000, 70_000), (50_000, 70_000), (30_000, 80_000)] {
            let ack = Ack { delivered: octets, ..Ack::default() };
            olia.on_ack(Instant::ZERO, 0, &ack, &mut both);
            assert_eq!(olia.paths.at(0).span(), span);
            if octets == 70_000 {
                olia.on_congestion(Instant::ZERO, 0, Cause::Loss, &mut both);
                assert_eq!(both[0].ssthresh, 50_000);
            }
        }
    }

    #[test]
    fn a_congested_path_keeps_one_segment_beside_others_and_two_alone() {
        for (others, expected) in [(true, 1000), (false, 2000)] {
            let mut paths = paths([2000, 100_000]);
            paths[1].active = others;
            Olia::default().on_congestion(Instant::ZERO, 0, Cause::Loss, &mut paths);
            assert_eq!(paths[0].ssthresh, expected);
        }
    }
}
