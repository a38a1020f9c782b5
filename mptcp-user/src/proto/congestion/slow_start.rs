//! Slow start with HyStart++ (RFC 9406): leaves before the first loss when the round-trip time rises.

use super::{Ack, Path};
use std::time::Duration;

const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const RTT_SAMPLES: u32 = 8;
const CSS_GROWTH_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;

/// State of one path.
#[derive(Debug, Default, Clone)]
pub(super) struct SlowStart {
    last_round_min: Option<Duration>,
    round_min: Option<Duration>,
    samples: u32,
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
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
                if *rounds >= CSS_ROUNDS {
                    path.ssthresh = path.cwnd;
                    self.conservative = None;
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
        if ack.limited {
            path.cwnd = (path.cwnd + growth).min(path.ssthresh.max(path.cwnd));
        }
        let (Some(current), true) = (self.round_min, self.samples >= RTT_SAMPLES) else { return };
        match self.conservative {
            Some((baseline, _)) if current < baseline => self.conservative = None,
            Some(_) => {}
            None => {
                if let Some(last) = self.last_round_min {
                    let threshold = (last / 8).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                    if current >= last + threshold {
                        self.conservative = Some((current, 0));
                    }
                }
            }
        }
    }
}
