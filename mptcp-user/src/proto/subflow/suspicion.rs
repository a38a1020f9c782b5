//! When a subflow's path is suspected dead: an acknowledgment is overdue.
//!
//! Unlike the retransmission timeout this counts from when the segment was sent, not from the last acknowledgment: where
//! data flows, one is due every moment, and its absence tells much sooner. A suspicion sends octets twice and leaves the
//! path's window alone, and it is only acted upon where another path can take over. So it may be bolder than a timeout.
//!
//! There are three steps. The peer is asked over an idle path for its Data ACK: the answer says which octets it lacks,
//! and they are the first to leave then. The path is suspected where another subflow works. It is suspected, too, where
//! another subflow would have to be opened first.

use crate::proto::Instant;
use crate::proto::rtt::RttEstimator;
use std::time::Duration;

/// The least time after an acknowledgment was due before the first step: more than queues vary by within a round trip.
const LEAST_QUESTION: Duration = Duration::from_millis(15);
/// The same before the second step: more than schedulers usually hold a process back.
const LEAST_EARLY: Duration = Duration::from_millis(40);
/// The same before the third step, and before any where one segment is in flight: its acknowledgment may be delayed.
const LEAST_LATE: Duration = Duration::from_millis(100);
/// A path that was silent and then went on by itself may be as silent again for so long without being suspected early.
const LULL_MEMORY: Duration = Duration::from_secs(60);

/// What is to be done about a silent path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) enum Step {
    /// The peer is to be asked over another path for what it has.
    #[default]
    Ask,
    /// The path is suspected dead if another subflow works.
    Early,
    /// The path is suspected dead.
    Late,
}

/// The suspicion against one subflow's path.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Suspicion {
    /// When the next step is due unless something is delivered before, and which it is.
    at: Option<Instant>,
    step: Step,
    /// When an acknowledgment was expected, and when the second and the third step are due.
    expected: Instant,
    early: Instant,
    late: Instant,
    /// The question that the answer to was waited for longer than `early`: when it was asked.
    asked: bool,
    /// It is suspected already; nothing was delivered since.
    taken: bool,
    last_delivery: Instant,
    /// The longest recent silence that ended by itself, and when it did.
    lull: Duration,
    lull_at: Instant,
    /// The longest that an acknowledgment may be overdue, whatever the path is like.
    pub(super) limit: Duration,
}

impl Suspicion {
    pub(super) fn new() -> Self {
        Self {
            at: None,
            step: Step::Ask,
            expected: Instant::ZERO,
            early: Instant::ZERO,
            late: Instant::ZERO,
            asked: false,
            taken: false,
            last_delivery: Instant::ZERO,
            lull: Duration::ZERO,
            lull_at: Instant::ZERO,
            limit: Duration::MAX,
        }
    }

    /// When the next step is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    pub(super) fn is_armed(&self) -> bool {
        self.at.is_some()
    }

    /// The oldest segment in flight was sent at this time.
    pub(super) fn arm(&mut self, sent_at: Instant, rtt: &RttEstimator) {
        let Some(srtt) = rtt.srtt().filter(|_| !self.taken) else { return };
        self.expected = (sent_at + srtt).max(self.last_delivery);
        let varies = rtt.rttvar() * 4;
        let late = varies.max(LEAST_LATE).min(self.limit);
        let lull =
            if self.expected - self.lull_at < LULL_MEMORY { self.lull * 5 / 4 } else { Duration::ZERO };
        let early = varies.max(LEAST_EARLY).max(lull).min(late);
        let question = (early * 3 / 8).max(LEAST_QUESTION).max(lull);
        (self.early, self.late) = (self.expected + early, self.expected + late);
        (self.step, self.at) = if question < early {
            (Step::Ask, Some(self.expected + question))
        } else {
            (Step::Early, Some(self.early))
        };
    }

    /// Something was delivered. `by_itself`: what was sent first, not what the retransmission timer has sent again.
    pub(super) fn delivered(&mut self, now: Instant, by_itself: bool) {
        let begun = self.taken || self.step != Step::Ask && self.at.is_some();
        if begun && by_itself && now > self.expected {
            let silence = (now - self.expected).min(LEAST_LATE);
            if silence >= self.lull || now - self.lull_at >= LULL_MEMORY {
                (self.lull, self.lull_at) = (silence, now);
            }
        }
        self.last_delivery = now;
        (self.taken, self.at, self.asked) = (false, None, false);
    }

    /// The next step, if it is due. `alone`: one segment is in flight.
    pub(super) fn expire(&mut self, now: Instant, alone: bool) -> Option<Step> {
        if self.at.is_none_or(|at| at > now) {
            return None;
        }
        let step = self.step;
        (self.step, self.at) = match step {
            _ if alone && now < self.late => (Step::Late, Some(self.late)),
            Step::Ask => (Step::Early, Some(self.early)),
            Step::Early => (Step::Late, Some(self.late)),
            Step::Late => (Step::Late, None),
        };
        if alone && now < self.late {
            return None;
        }
        self.taken |= step == Step::Late;
        Some(step)
    }

    /// The peer has been asked: with its answer, at the latest after `wait`, is early enough.
    pub(super) fn wait_for_answer(&mut self, now: Instant, wait: Duration) {
        if self.step == Step::Early && self.at.is_some() {
            self.asked = true;
            self.at = Some((now + wait).clamp(self.early, self.late));
        }
    }

    /// The peer has answered.
    pub(super) fn answered(&mut self, now: Instant) {
        if std::mem::take(&mut self.asked) && self.step == Step::Early && self.at.is_some() {
            self.at = Some(self.early.max(now));
        }
    }

    /// The path counts as dead until something is delivered on it.
    pub(super) fn take(&mut self) {
        (self.taken, self.at) = (true, None);
    }

    /// A pause of the process has ended: what came meanwhile has been taken, and the wait begins again.
    pub(super) fn resume(&mut self, now: Instant, pause: Duration, rtt: &RttEstimator) {
        if self.at.take().is_some() {
            self.last_delivery = (self.last_delivery + pause).min(now);
            self.arm(now, rtt);
        }
    }

    /// Nothing is in flight any more.
    pub(super) fn clear(&mut self) {
        self.at = None;
    }
}
