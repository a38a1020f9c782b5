//! Slow start with HyStart++ (RFC 9406): leaves before the first loss when the round-trip time rises.
//!
//! Two things differ from the RFC, both because a subflow often has to pause: the window is shared, and others have octets
//! that come first. While it pauses a queue that it made drains. That the round-trip time falls then does not show that it
//! had risen by chance, and does not lead back to slow start; and as conservative slow start, too, doubles the window in
//! three rounds, it ends as soon as the round-trip time has risen once more in it.

use super::{Ack, Path};
use std::time::Duration;

const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const RTT_SAMPLES: u32 = 8;
const CSS_GROWTH_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;
/// After a pause the first round begins with an empty queue, and the second one may have begun within the pause.
const UNDISTURBED: u32 = 2;

/// State of one path.
#[derive(Debug, Default, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct SlowStart {
    last_round_min: Option<Duration>,
    round_min: Option<Duration>,
    samples: u32,
    /// Rounds since the window was last not what limited the sender, up to `UNDISTURBED`.
    undisturbed: u32,
    /// Conservative slow start: the smallest round-trip time when it began, and rounds since.
    conservative: Option<(Duration, u32)>,
}

impl SlowStart {
    /// Whether it is congestion avoidance that may grow the window now: slow start, which has grown it otherwise, is
    /// over, and the window was what limited the sender.
    pub(super) fn leaves(&mut self, ack: &Ack, path: &mut Path) -> bool {
        if path.in_slow_start() {
            self.on_ack(ack, path);
            return false;
        }
        ack.limited
    }

    /// Grows the window for an acknowledgment in slow start.
    pub(super) fn on_ack(&mut self, ack: &Ack, path: &mut Path) {
        if ack.round {
            self.last_round_min = self.round_min.take().or(self.last_round_min);
            self.samples = 0;
            self.undisturbed = (self.undisturbed + 1).min(UNDISTURBED);
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
                if *rounds >= CSS_ROUNDS {
                    self.end(path);
                    return;
                }
            }
        }
        if let Some(rtt) = ack.rtt {
            self.samples += 1;
            self.round_min = Some(self.round_min.map_or(rtt, |min| min.min(rtt)));
        }
        let growth = match &self.conservative {
            Some(_) => ack.delivered / CSS_GROWTH_DIVISOR,
            None => ack.delivered,
        };
        if !ack.limited {
            self.undisturbed = 0;
        } else {
            path.cwnd = (path.cwnd + growth).min(path.ssthresh.max(path.cwnd));
        }
        let (Some(current), true) = (self.round_min, self.samples >= RTT_SAMPLES) else { return };
        let rises = |last: Duration| current >= last + (last / 8).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
        match self.conservative {
            Some((baseline, _)) if current < baseline && self.undisturbed >= UNDISTURBED => {
                self.conservative = None;
            }
            Some((baseline, rounds)) if rounds > 0 && rises(baseline) => self.end(path),
            Some(_) => {}
            None if self.last_round_min.is_some_and(rises) => self.conservative = Some((current, 0)),
            None => {}
        }
    }

    /// Congestion avoidance begins.
    fn end(&mut self, path: &mut Path) {
        path.ssthresh = path.cwnd;
        self.conservative = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1000;

    /// A round in which this path's window is acknowledged, with these round-trip times in milliseconds.
    fn round(state: &mut SlowStart, path: &mut Path, rtts: [u64; 10], limited: bool) {
        let delivered = path.cwnd / rtts.len() as u64;
        for (place, rtt) in rtts.into_iter().enumerate() {
            let rtt = Some(Duration::from_millis(rtt));
            state.on_ack(&Ack { delivered, rtt, limited, round: place == 0, ..Ack::default() }, path);
        }
    }

    /// Round-trip times have risen from 50 to 90 ms, and slow start has become a conservative one.
    fn conservative() -> (SlowStart, Path) {
        let (mut state, mut path) = (SlowStart::default(), Path::new(MSS));
        round(&mut state, &mut path, [50; 10], true);
        round(&mut state, &mut path, [90; 10], true);
        assert!(state.conservative.is_some() && path.in_slow_start());
        (state, path)
    }

    #[test]
    fn a_rise_by_chance_leads_back_to_slow_start() {
        let (mut state, mut path) = conservative();
        round(&mut state, &mut path, [50; 10], true);
        assert!(state.conservative.is_none());
        let before = path.cwnd;
        round(&mut state, &mut path, [50; 10], true);
        assert_eq!(path.cwnd, 2 * before);
    }

    /// The bug that this was: on a path of 10 Mb/s with room for half a second, used beside a faster one, the window grew to
    /// more than twice of what path and queue held.
    #[test]
    fn a_queue_that_drained_in_a_pause_does_not_lead_back_to_slow_start() {
        let (mut state, mut path) = conservative();
        round(&mut state, &mut path, [90; 10], false);
        let before = path.cwnd;
        round(&mut state, &mut path, [50; 10], true);
        assert!(state.conservative.is_some());
        assert!(path.cwnd <= before + before / CSS_GROWTH_DIVISOR, "{} after {before}", path.cwnd);
    }

    #[test]
    fn round_trip_times_that_go_on_rising_end_it() {
        let (mut state, mut path) = conservative();
        round(&mut state, &mut path, [95; 10], true);
        assert!(path.in_slow_start());
        round(&mut state, &mut path, [110; 10], true);
        assert!(!path.in_slow_start());
        assert_eq!(path.ssthresh, path.cwnd);
    }
}
