//! OLIA, opportunistic linked increases (draft-khalili-mptcp-congestion-control; Khalili et al., "MPTCP is not
//! Pareto-optimal", 2012): in sum as aggressive as one TCP on the best path, like LIA, and moves window from the paths
//! that have most of it to better ones that have less.

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, Path, PerPath, additive};
use crate::proto::Instant;

#[derive(Debug, Default)]
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
#[derive(Debug, Default)]
pub(super) struct Olia {
    paths: PerPath<State>,
}

fn rtt(path: &Path) -> f64 {
    path.srtt.map_or(1e-3, |rtt| rtt.as_secs_f64()).max(1e-6)
}

impl Olia {
    /// What moves between the paths: positive for the best ones that do not have the largest window, if there are
    /// such, and negative for those that have.
    fn shift(&mut self, index: usize, paths: &[Path]) -> f64 {
        let (mut count, mut widest, mut best) = (0u32, 0u64, 0.0f64);
        let quality = |state: &State, path: &Path| state.span() as f64 / rtt(path).powi(2);
        for (place, path) in paths.iter().enumerate().filter(|(_, path)| path.active) {
            count += 1;
            widest = widest.max(path.cwnd);
            best = best.max(quality(self.paths.at(place), path));
        }
        let (mut collected, mut wide, mut own_collected) = (0u32, 0u32, false);
        for (place, path) in paths.iter().enumerate().filter(|(_, path)| path.active) {
            if path.cwnd == widest {
                wide += 1;
            } else if quality(self.paths.at(place), path) >= best {
                collected += 1;
                own_collected |= place == index;
            }
        }
        if own_collected {
            1.0 / f64::from(count * collected)
        } else if collected > 0 && paths[index].cwnd == widest {
            -1.0 / f64::from(count * wide)
        } else {
            0.0
        }
    }
}

impl CongestionControl for Olia {
    fn name(&self) -> &'static str {
        "olia"
    }

    fn on_ack(&mut self, _now: Instant, index: usize, ack: &Ack, paths: &mut [Path]) {
        let state = self.paths.at(index);
        state.since_loss += ack.delivered;
        if !state.slow_start.leaves(ack, &mut paths[index]) {
            return;
        }
        let shift = self.shift(index, paths);
        let active = paths.iter().filter(|path| path.active);
        let rates: f64 = active.map(|path| path.cwnd as f64 / rtt(path)).sum();
        let path = &mut paths[index];
        // For each octet: (w / rtt^2) / (sum of w / rtt)^2 + shift / w, in segments; `additive` takes it per window.
        let own = path.cwnd as f64 / rtt(path);
        let increase = if rates > 0.0 { (own / rates).powi(2) } else { 1.0 } + shift;
        let least = path.cwnd.min(super::MIN_SEGMENTS * path.mss);
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
    fn a_window_that_shrinks_keeps_two_segments() {
        let mut olia = Olia::default();
        olia.paths.at(1).between_losses = 5_000_000;
        let mut both = paths([2_100, 2_000]);
        both[0].ssthresh = 1000;
        for _ in 0..50 {
            gain(&mut olia, 0, &mut both);
            both[1].cwnd = both[0].cwnd - 1;
        }
        assert!(both[0].cwnd >= 2000, "{}", both[0].cwnd);
    }
}
