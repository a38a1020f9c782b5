//! wVegas, weighted Vegas (draft-xu-mptcp-congestion-control; Cao, Xu, Fu, "Delay-based congestion control for multipath
//! TCP", 2012, algorithm 1): keeps a few segments in the queues of all paths together, more of them where more is delivered. Gives
//! way to algorithms that fill queues.

use super::slow_start::SlowStart;
use super::{Ack, Cause, CongestionControl, MIN_SEGMENTS, Path, PerPath};
use crate::Instant;
use std::time::Duration;

/// Segments queued by all paths together, and by each at least.
const TOTAL_ALPHA: f64 = 10.0;
const MIN_ALPHA: f64 = 2.0;
/// Segments queued that end slow start, and that are a queue at all.
const GAMMA: f64 = 1.0;

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    slow_start: SlowStart,
    /// Sum and number of the round-trip times in this round.
    rtts: (Duration, u32),
    /// Segments that this path may queue, and the rate at which it last did (octets per second).
    alpha: f64,
    rate: f64,
    /// Smallest queueing delay of late.
    queue_delay: Option<Duration>,
}

/// The algorithm.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct WVegas {
    paths: PerPath<State>,
}

impl WVegas {
    /// This path's share of the segments that may be queued, by the rates at which the paths last queued theirs.
    fn weigh(&mut self, index: usize, rate: f64, paths: &[Path]) {
        self.paths.at(index).rate = rate;
        let active = |place: &usize| paths[*place].active;
        let sum: f64 = (0..paths.len()).filter(active).map(|place| self.paths.at(place).rate).sum();
        self.paths.at(index).alpha = (TOTAL_ALPHA * rate / sum.max(rate)).max(MIN_ALPHA);
    }

    /// A round is over, its mean round-trip time being `rtt`.
    fn end_round(&mut self, index: usize, rtt: Duration, limited: bool, paths: &mut [Path]) {
        let base = paths[index].min_rtt.unwrap_or(rtt).min(rtt);
        let (seconds, cwnd) = (rtt.as_secs_f64(), paths[index].cwnd as f64);
        let queued = cwnd * (rtt - base).as_secs_f64() / seconds / paths[index].mss as f64;
        if paths[index].in_slow_start() {
            if queued > GAMMA {
                // What fits without a queue, and one segment.
                let path = &mut paths[index];
                let fits = (cwnd * base.as_secs_f64() / seconds) as u64 + path.mss;
                path.cwnd = path.cwnd.min(fits);
                path.ssthresh = path.cwnd;
            }
            return;
        }
        if queued >= self.paths.at(index).alpha.max(MIN_ALPHA) {
            self.weigh(index, cwnd / seconds, paths);
        }
        let (state, path) = (self.paths.at(index), &mut paths[index]);
        let least = MIN_SEGMENTS * path.mss;
        if queued > state.alpha.max(MIN_ALPHA) {
            path.cwnd = (path.cwnd - path.mss).max(least);
        } else if queued < state.alpha.max(MIN_ALPHA) && limited {
            path.cwnd += path.mss;
        }
        path.ssthresh = path.ssthresh.min(path.cwnd);
        // Less than a segment is noise: the queue is empty, and the base known.
        let delay = if queued < GAMMA { Duration::ZERO } else { rtt - base };
        let smallest = state.queue_delay.map_or(delay, |smallest| smallest.min(delay));
        state.queue_delay = Some(smallest);
        if !smallest.is_zero() && delay >= smallest * 2 {
            // The queue has doubled, and was never empty: once it is, it shows what the base is.
            path.cwnd = ((path.cwnd as f64 * base.as_secs_f64() / seconds / 2.0) as u64).max(least);
            path.ssthresh = path.ssthresh.min(path.cwnd);
            state.queue_delay = None;
        }
    }
}

impl CongestionControl for WVegas {
    fn name(&self) -> &'static str {
        "wvegas"
    }

    fn on_ack(&mut self, now: Instant, index: usize, ack: &Ack, paths: &mut [Path]) {
        let state = self.paths.at(index);
        if let Some(rtt) = ack.rtt {
            state.rtts.0 += rtt;
            state.rtts.1 += 1;
        }
        if paths[index].in_slow_start() {
            state.slow_start.on_ack(now, ack, &mut paths[index]);
        }
        if ack.round && state.rtts.1 > 0 {
            let (sum, count) = std::mem::take(&mut state.rtts);
            self.end_round(index, sum / count, ack.limited, paths);
        }
    }

    fn on_congestion(&mut self, _now: Instant, path: usize, _cause: Cause, paths: &mut [Path]) {
        paths[path].reduce(0.5);
    }

    fn on_timeout(&mut self, now: Instant, path: usize, paths: &mut [Path]) {
        // It carries nothing now, and takes nothing from the share of the others.
        self.paths.at(path).rate = 0.0;
        self.on_congestion(now, path, Cause::Loss, paths);
    }

    fn on_reset(&mut self, path: usize) {
        *self.paths.at(path) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(cwnd: u64, base: u64) -> Path {
        let min_rtt = Some(Duration::from_millis(base));
        Path { cwnd, ssthresh: 10_000, min_rtt, active: true, ..Path::new(1000) }
    }

    fn round(wvegas: &mut WVegas, index: usize, rtt: u64, paths: &mut [Path]) -> i64 {
        let before = paths[index].cwnd as i64;
        let rtt = Some(Duration::from_millis(rtt));
        let ack = Ack { delivered: 1000, rtt, limited: true, round: true, ..Ack::default() };
        wvegas.on_ack(Instant::ZERO, index, &ack, paths);
        paths[index].cwnd as i64 - before
    }

    /// One path may queue ten segments: a window of 100 at 100 ms over a base of 95 ms has five in the queue, over one of
    /// 85 ms fifteen.
    #[test]
    fn one_path_keeps_ten_segments_in_the_queue() {
        let mut wvegas = WVegas::default();
        let mut paths = [path(100_000, 85)];
        assert_eq!(round(&mut wvegas, 0, 100, &mut paths), -1000);
        let mut paths = [path(100_000, 95)];
        assert_eq!(round(&mut wvegas, 0, 100, &mut paths), 1000);
    }

    /// The paths share the ten by their rates: one with four fifths of it all may queue eight.
    #[test]
    fn the_share_of_the_queue_follows_the_share_of_the_rate() {
        let mut wvegas = WVegas::default();
        let mut paths = [path(160_000, 80), path(40_000, 80)];
        for index in [0, 1, 0, 1] {
            round(&mut wvegas, index, 100, &mut paths);
        }
        assert!((7.9..8.1).contains(&wvegas.paths.at(0).alpha), "{}", wvegas.paths.at(0).alpha);
        assert!((1.9..2.1).contains(&wvegas.paths.at(1).alpha), "{}", wvegas.paths.at(1).alpha);
    }

    #[test]
    fn a_queue_that_has_doubled_is_drained() {
        let mut wvegas = WVegas::default();
        let mut paths = [path(100_000, 80)];
        round(&mut wvegas, 0, 90, &mut paths);
        round(&mut wvegas, 0, 105, &mut paths);
        // Half of what fits without a queue: 80 / (2 * 105) of the window.
        assert!((36_000..39_000).contains(&paths[0].cwnd), "{}", paths[0].cwnd);
    }

    /// Noise of 20 and 50 microseconds: less than a tenth of a segment is queued.
    #[test]
    fn noise_is_no_queue_that_doubles() {
        let mut wvegas = WVegas::default();
        let mut paths = [path(100_000, 80)];
        for micros in [80_020, 80_050, 80_200] {
            let rtt = Some(Duration::from_micros(micros));
            let ack = Ack { delivered: 1000, rtt, limited: true, round: true, ..Ack::default() };
            wvegas.on_ack(Instant::ZERO, 0, &ack, &mut paths);
        }
        assert_eq!(paths[0].cwnd, 103_000);
    }

    /// Fifty segments, and one for the acknowledgment, at 100 ms over a base of 95 ms: 48.45 fit without a queue.
    #[test]
    fn slow_start_ends_when_a_segment_is_queued_and_leaves_one_there() {
        let mut paths = [path(50_000, 95)];
        paths[0].ssthresh = u64::MAX;
        round(&mut WVegas::default(), 0, 100, &mut paths);
        assert!(!paths[0].in_slow_start());
        assert_eq!(paths[0].cwnd, 49_450);
    }

    /// Of two equal paths each may queue five segments; once the other has timed out, this one all ten.
    #[test]
    fn a_path_that_timed_out_leaves_its_share_to_the_others() {
        let mut wvegas = WVegas::default();
        let mut paths = [path(100_000, 80), path(100_000, 80)];
        for index in [0, 1, 0, 1] {
            round(&mut wvegas, index, 100, &mut paths);
        }
        assert!((4.9..5.1).contains(&wvegas.paths.at(0).alpha), "{}", wvegas.paths.at(0).alpha);
        wvegas.on_timeout(Instant::ZERO, 1, &mut paths);
        round(&mut wvegas, 0, 100, &mut paths);
        assert!((9.9..10.1).contains(&wvegas.paths.at(0).alpha), "{}", wvegas.paths.at(0).alpha);
    }
}
