//! Slow start with HyStart++ (RFC 9406): leaves before the first loss when the round-trip time rises.
//!
//! Two things differ from the RFC, both because a subflow often has to pause: the window is shared, and others have octets
//! that come first. While it pauses a queue that it made drains. That the round-trip time falls then does not show that it
//! had risen by chance, and does not lead back to slow start; and as conservative slow start, too, doubles the window in
//! three rounds, it ends as soon as the round-trip time has risen once more in it.
//!
//! On a path that has to carry the stream instead of one that may be dead, slow start ends still earlier: the
//! lost segments of a window that is twice of what the path holds would make the stream stand still for the
//! second time. The length of the trains of acknowledgments tells when the path is full (Ha and Rhee, "Taming
//! the elephants", 2011). Elsewhere that costs too much where losses have other causes: a tenth of the
//! goodput of the first ten seconds at 0.1 %.

use super::{Ack, Path};
use crate::Instant;
use std::time::Duration;

const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const RTT_SAMPLES: u32 = 8;
/// Acknowledgments count as a train on paths that are at least so long: on shorter ones processors bunch
/// them.
const LEAST_TRAIN_RTT: Duration = Duration::from_millis(8);
/// A gap in the train is a larger part of the round-trip time than one in so many.
const TRAIN_GAPS: u32 = 4;
const CSS_GROWTH_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;
/// After a pause the first round begins with an empty queue, and the second one may have begun within the pause.
const UNDISTURBED: u32 = 2;

/// Acknowledgments that follow each other without a gap: for less than half of a round trip, half of it, or
/// all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Train {
    Short,
    Half,
    Whole,
}

/// State of one path.
#[derive(Debug, Default, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct SlowStart {
    last_round_min: Option<Duration>,
    round_min: Option<Duration>,
    samples: u32,
    /// Rounds since the window was last not what limited the sender, up to `UNDISTURBED`.
    undisturbed: u32,
    /// When the first of the acknowledgments came that have followed each other without a gap, and the last.
    train: Option<(Instant, Instant)>,
    /// Conservative slow start: the smallest round-trip time when it began, and rounds since.
    conservative: Option<(Duration, u32)>,
}

impl SlowStart {
    /// Whether it is congestion avoidance that may grow the window now: slow start, which has grown it otherwise, is
    /// over, and the window was what limited the sender.
    pub(super) fn leaves(&mut self, now: Instant, ack: &Ack, path: &mut Path) -> bool {
        if path.in_slow_start() {
            self.on_ack(now, ack, path);
            return false;
        }
        ack.limited
    }

    /// Grows the window for an acknowledgment in slow start.
    pub(super) fn on_ack(&mut self, now: Instant, ack: &Ack, path: &mut Path) {
        let train = self.follow_train(now, ack, path);
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
            Some((baseline, rounds)) if train == Train::Whole || rounds > 0 && rises(baseline) => {
                self.end(path);
            }
            Some(_) => {}
            None if train != Train::Short || self.last_round_min.is_some_and(rises) => {
                self.conservative = Some((current, 0));
            }
            None => {}
        }
    }

    /// How long acknowledgments have come without a gap. Half a round trip: half of the path is filled, or
    /// more, and after two more doublings the window would be more than path and queue hold. A whole round
    /// trip: the path is full.
    fn follow_train(&mut self, now: Instant, ack: &Ack, path: &Path) -> Train {
        let Some(rtt) = path.min_rtt.filter(|rtt| path.careful && *rtt >= LEAST_TRAIN_RTT) else {
            return Train::Short;
        };
        let (begin, last) = self.train.unwrap_or((now, now));
        let begin = if !ack.limited || now - last > rtt / TRAIN_GAPS { now } else { begin };
        self.train = Some((begin, now));
        match now - begin {
            long if long >= rtt => Train::Whole,
            long if long >= rtt / 2 => Train::Half,
            _ => Train::Short,
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
            state.on_ack(
                Instant::ZERO,
                &Ack { delivered, rtt, limited, round: place == 0, ..Ack::default() },
                path,
            );
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

    /// Acknowledgments every two milliseconds, for so many milliseconds from then on, on a path of 50 ms.
    fn train(state: &mut SlowStart, path: &mut Path, from: u64, millis: u64) {
        path.min_rtt = Some(Duration::from_millis(50));
        for at in (from..=from + millis).step_by(2) {
            let (now, rtt) = (Instant::ZERO + Duration::from_millis(at), path.min_rtt);
            state.on_ack(now, &Ack { delivered: MSS, rtt, limited: true, ..Ack::default() }, path);
        }
    }

    #[test]
    fn a_path_that_carries_the_stream_alone_is_full_when_acknowledgments_come_without_a_gap() {
        let (mut state, mut path) = (SlowStart::default(), Path { careful: true, ..Path::new(MSS) });
        train(&mut state, &mut path, 1000, 24);
        assert!(state.conservative.is_none());
        train(&mut state, &mut path, 1026, 0);
        assert!(state.conservative.is_some(), "half of a round trip");
        train(&mut state, &mut path, 1028, 20);
        assert!(path.in_slow_start());
        train(&mut state, &mut path, 1050, 0);
        assert!(!path.in_slow_start(), "a whole one");
    }

    #[test]
    fn a_gap_in_the_acknowledgments_begins_a_new_train() {
        let (mut state, mut path) = (SlowStart::default(), Path { careful: true, ..Path::new(MSS) });
        for burst in 0..10 {
            train(&mut state, &mut path, 1000 + 50 * burst, 20);
        }
        assert!(state.conservative.is_none() && path.in_slow_start());
    }

    #[test]
    fn elsewhere_the_length_of_the_train_says_nothing() {
        let (mut state, mut path) = (SlowStart::default(), Path::new(MSS));
        train(&mut state, &mut path, 1000, 200);
        assert!(state.conservative.is_none() && path.in_slow_start());
    }
}
