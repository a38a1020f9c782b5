//! What keeps a connection from being slower than its best path alone, whatever the policy. Two things could make it so:
//!
//! * The last octets of what is to be sent arrive on a slow path, later than the fast one would have brought all of it.
//!   That can be foreseen: such a path is not offered. But its round-trip time may have been measured when its neighbour had to be found
//!   or its queues were full, and what carries nothing is never measured again: from time to time it is given a copy, too.
//! * Octets on a slow path hold up the window that all paths share, and the fast one has to stop. With a slow path in use
//!   no more than a window can be delivered in each of its round trips: if the fast one alone delivers more, the slow one is
//!   not offered. But the peer may make its window just as large as the paths that are used need: for it to grow there must
//!   be data on the slow one. So from time to time that is given a copy of what is under way already, which holds up
//!   nothing; often while the window grows, and ever more seldom once it does not. Where losses on the way make it slower than that, whether it costs more than it brings can't be
//!   foreseen, so it is measured: the path is barred for a while, and after it
//!   what the connection delivered is compared with what it delivered before. If the path was no loss, the next time is
//!   longer; if it was, it is left alone for longer. In between it is probed.

use super::{Candidate, Candidates, Queue};
use crate::Instant;
use std::time::Duration;

/// A rate is measured over so many round trips of the slow path at least.
const SHORTEST_LOOK: u32 = 2;
/// The first bar lasts for so many of its round trips, those that follow twice as long each, up to so many doublings.
const BAR: u32 = 4;
const MAX_DOUBLINGS: u32 = 5;
/// A path that was missed is left alone for so many times the length of the bar.
const PARDON: u32 = 16;
/// A path that is left out gets a copy after so many of its round trips, while the window grows by this
/// factor from one to the next; if not, each time after twice as many, up to `MAX_DOUBLINGS`.
const COPY: u32 = 2;
const GROWN: f64 = 1.25;
/// The connection must do about as well without the path for a bar to have been right.
const ENOUGH: f64 = 0.95;

/// What is known of one path.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Trial {
    /// Barred until then, the bar being so long and the rate before so high (octets per second).
    bar: Option<(Instant, Duration, f64)>,
    /// Bars in a row that were right.
    right: u32,
    pardoned_until: Instant,
    /// When it was given a copy last, how many have been in vain in a row, and the largest window so far.
    copied_at: Option<Instant>,
    in_vain: u32,
    window: f64,
}

/// The guard of one connection.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Guard {
    trials: Vec<Trial>,
    /// When the present way of using the paths began, and what the peer had acknowledged then.
    mark: Option<(Instant, u64)>,
    /// The octet that held up the window when that was last looked into.
    looked_at: Option<u64>,
}

impl Guard {
    /// The path in this place is a new one.
    pub(crate) fn on_reset(&mut self, subflow: usize) {
        if let Some(trial) = self.trials.get_mut(subflow) {
            *trial = Trial::default();
        }
    }

    /// Takes the candidates out that would only hold up the others. Gives the subflow, if there is one, that is to carry a
    /// full packet of what others have under way already.
    pub(crate) fn admit(&mut self, candidates: &mut Candidates, queue: &Queue) -> Option<usize> {
        self.mark.get_or_insert((queue.now, queue.una));
        self.end_bars(queue.now, queue.una);
        if candidates.len() < 2 {
            return None;
        }
        let barred = |candidate: &Candidate| {
            self.trials.get(candidate.subflow).is_some_and(|trial| trial.bar.is_some())
        };
        if !candidates.iter().all(barred) {
            candidates.retain(|candidate| !barred(candidate));
        }
        let waiting = queue.waiting();
        let done = candidates.iter().map(|candidate| candidate.rtt() / 2.0 + candidate.departure(waiting));
        let earliest = done.fold(f64::INFINITY, f64::min);
        let window = queue.edge.saturating_sub(queue.una) as f64;
        let all = candidates.clone();
        let mut copy = None;
        candidates.retain(|candidate| {
            let rtt = candidate.rtt();
            let held_up = |other: &Candidate| other.rtt() < rtt && other.rate() * rtt > window;
            let too_small = all.iter().any(held_up);
            let left_out = too_small || rtt / 2.0 > earliest;
            if left_out && copy.is_none() && candidate.in_flight == 0 && candidate.room >= candidate.mss {
                copy = self.wants_copy(candidate, queue, window).then_some(candidate.subflow);
            }
            !left_out
        });
        copy
    }

    /// Whether it is time for a copy on this path, which is left out; then there will be one.
    fn wants_copy(&mut self, candidate: &Candidate, queue: &Queue, window: f64) -> bool {
        let trial = self.trial(candidate.subflow);
        if window >= trial.window * GROWN {
            (trial.window, trial.in_vain) = (window, 0);
        }
        let wait = candidate.srtt.unwrap_or_default() * (COPY << trial.in_vain);
        if queue.again
            || queue.start - queue.una < candidate.mss
            || trial.copied_at.is_some_and(|last| queue.now < last + wait)
        {
            return false;
        }
        trial.copied_at = Some(queue.now);
        trial.in_vain = (trial.in_vain + 1).min(MAX_DOUBLINGS);
        true
    }

    fn trial(&mut self, subflow: usize) -> &mut Trial {
        if subflow >= self.trials.len() {
            self.trials.resize(subflow + 1, Trial::default());
        }
        &mut self.trials[subflow]
    }

    /// Whether it is worth finding out what holds up the window: not twice for the same octet.
    pub(crate) fn looks_into(&mut self, una: u64) -> bool {
        self.looked_at.replace(una) != Some(una)
    }

    /// The window has run out while a path with a shorter round-trip time had room, because of an octet on `subflow`.
    pub(crate) fn blocked(&mut self, now: Instant, una: u64, subflow: usize, srtt: Duration) {
        let (since, start) = *self.mark.get_or_insert((now, una));
        let trial = self.trial(subflow);
        if trial.bar.is_some() || now < trial.pardoned_until || now - since < srtt * SHORTEST_LOOK {
            return;
        }
        let length = srtt * (BAR << trial.right);
        trial.bar = Some((now + length, length, rate((since, start), (now, una))));
        self.mark = Some((now, una));
    }

    fn end_bars(&mut self, now: Instant, una: u64) {
        let Some(mark) = self.mark else { return };
        for trial in &mut self.trials {
            let Some((until, length, before)) = trial.bar else { continue };
            if now < until {
                continue;
            }
            trial.bar = None;
            if rate(mark, (now, una)) >= before * ENOUGH {
                trial.right = (trial.right + 1).min(MAX_DOUBLINGS);
            } else {
                trial.right = 0;
                trial.pardoned_until = now + length * PARDON;
            }
            self.mark = Some((now, una));
        }
    }
}

/// Octets per second between two looks.
fn rate(from: (Instant, u64), to: (Instant, u64)) -> f64 {
    (to.1 - from.1) as f64 / (to.0 - from.0).as_secs_f64().max(1e-6)
}
