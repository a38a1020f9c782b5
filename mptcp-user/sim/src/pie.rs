//! Proportional integral controller enhanced (PIE, RFC 8033): drops at the tail, with a probability that
//! follows the time packets wait.

use super::random::Random;
use mptcp_proto::Instant;
use std::time::Duration;

/// How often the probability is computed anew (section 5.2, T_UPDATE).
const UPDATE: Duration = Duration::from_millis(15);
/// How long a burst is let through (section 5.2, MAX_BURST).
const MAX_BURST: Duration = Duration::from_millis(150);
const ALPHA: f64 = 0.125;
const BETA: f64 = 1.25;
/// Below this probability ECN-capable packets are marked instead of dropped (section 5.1).
const MARK_BELOW: f64 = 0.1;
/// Octets of two mean packets: shorter queues are left alone (section 4.1).
const SHORT: usize = 2 * 1514;
/// Updates made up for after an idle time; long before, the probability is nothing.
const MAX_UPDATES: u32 = 1000;

/// The fate of a packet that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Enqueue,
    /// Drop it, or mark it if it is ECN-capable.
    MarkOrDrop,
    Drop,
}

/// The controller of one queue.
#[derive(Debug)]
pub(super) struct Pie {
    random: Random,
    probability: f64,
    /// Sum of the probabilities since the last drop: drops come neither in bursts nor too far apart (section
    /// 5.4).
    accumulated: f64,
    delay: Duration,
    burst: Duration,
    next_update: Instant,
}

impl Pie {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            probability: 0.0,
            accumulated: 0.0,
            delay: Duration::ZERO,
            burst: MAX_BURST,
            next_update: Instant::ZERO,
        }
    }

    /// Brings the probability up to date. `head`: since when the first packet of the queue waits.
    pub(super) fn update(&mut self, now: Instant, target: Duration, head: Option<Instant>) {
        for _ in 0..MAX_UPDATES {
            if self.next_update > now {
                return;
            }
            let at = if self.next_update == Instant::ZERO { now } else { self.next_update };
            let delay = head.map_or(Duration::ZERO, |since| at.saturating_since(since));
            self.step(delay, target);
            self.next_update = at + UPDATE;
        }
        self.next_update = now + UPDATE;
    }

    /// Section 4.2, with the parameters scaled for small probabilities.
    fn step(&mut self, delay: Duration, target: Duration) {
        let (now, old, aim) = (delay.as_secs_f64(), self.delay.as_secs_f64(), target.as_secs_f64());
        let scale = match self.probability {
            p if p < 0.000_001 => 2048.0,
            p if p < 0.000_01 => 512.0,
            p if p < 0.000_1 => 128.0,
            p if p < 0.001 => 32.0,
            p if p < 0.01 => 8.0,
            p if p < 0.1 => 2.0,
            _ => 1.0,
        };
        let mut change = (ALPHA * (now - aim) + BETA * (now - old)) / scale;
        if self.probability >= 0.1 {
            change = change.min(0.02);
        }
        self.probability += change;
        if delay.is_zero() && self.delay.is_zero() {
            self.probability *= 0.98;
        }
        if delay > Duration::from_millis(250) {
            self.probability += 0.02;
        }
        self.probability = self.probability.clamp(0.0, 1.0);
        self.burst = self.burst.saturating_sub(UPDATE);
        if self.probability == 0.0 && delay < target / 2 && self.delay < target / 2 {
            self.burst = MAX_BURST;
        }
        self.delay = delay;
    }

    /// Section 4.1, with the derandomisation of section 5.4.
    pub(super) fn judge(&mut self, target: Duration, octets: usize) -> Fate {
        if !self.burst.is_zero() {
            return Fate::Enqueue;
        }
        if self.probability == 0.0 {
            self.accumulated = 0.0;
        }
        if (self.delay < target / 2 && self.probability < 0.2) || octets <= SHORT {
            return Fate::Enqueue;
        }
        self.accumulated += self.probability;
        let drop = match self.accumulated {
            sum if sum < 0.85 => false,
            sum if sum >= 8.5 => true,
            _ => self.random.chance(self.probability),
        };
        if !drop {
            return Fate::Enqueue;
        }
        self.accumulated = 0.0;
        if self.probability < MARK_BELOW { Fate::MarkOrDrop } else { Fate::Drop }
    }
}
