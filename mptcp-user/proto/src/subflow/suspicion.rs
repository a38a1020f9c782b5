//! When a subflow's path is suspected dead: an acknowledgment is overdue.
//!
//! Unlike the retransmission timeout this counts from when the segment was sent, not from the last
//! acknowledgment: where data flows, one is due every moment, and its absence tells much sooner. A suspicion
//! sends octets twice and leaves the path's window alone, and it is only acted upon where another path can
//! take over. So it may be bolder than a timeout.
//!
//! There are three steps. The peer is asked over an idle path for its Data ACK: the answer says which octets
//! it lacks, and they are the first to leave then. The path is suspected where another subflow works. It is
//! suspected, too, where another subflow would have to be opened first.

use crate::Instant;
use crate::rtt::RttEstimator;
use std::time::Duration;

/// The least time after an acknowledgment was due before the first step: more than queues vary by within a
/// round trip.
const LEAST_QUESTION: Duration = Duration::from_millis(15);
/// The same before the second step: more than schedulers usually hold a process back.
const LEAST_EARLY: Duration = Duration::from_millis(40);
/// The same before the third step, and before any where one segment is in flight: its acknowledgment may be
/// delayed.
const LEAST_LATE: Duration = Duration::from_millis(100);
/// A path that was silent went on by itself. It is not suspected early for an equal silence until so much
/// later.
const LULL_MEMORY: Duration = Duration::from_secs(60);

/// The next step against a silent path.
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
    /// A step was due since something was delivered.
    begun: bool,
    /// The peer has been asked, and its answer is waited for.
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
            begun: false,
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

    /// Something was delivered. `by_itself`: what was sent first, not what the retransmission timer has sent
    /// again.
    pub(super) fn delivered(&mut self, now: Instant, by_itself: bool) {
        if self.begun && by_itself && now > self.expected {
            let silence = (now - self.expected).min(LEAST_LATE);
            if silence >= self.lull || now - self.lull_at >= LULL_MEMORY {
                (self.lull, self.lull_at) = (silence, now);
            }
        }
        self.last_delivery = now;
        (self.taken, self.begun, self.asked, self.at) = (false, false, false, None);
    }

    /// The next step, if it is due. `alone`: one segment is in flight.
    pub(super) fn expire(&mut self, now: Instant, alone: bool) -> Option<Step> {
        if self.at.is_none_or(|at| at > now) {
            return None;
        }
        if alone && now < self.late {
            (self.step, self.at) = (Step::Late, Some(self.late));
            return None;
        }
        let step = self.step;
        (self.step, self.at) = match step {
            Step::Ask => (Step::Early, Some(self.early)),
            Step::Early => (Step::Late, Some(self.late)),
            Step::Late => (Step::Late, None),
        };
        self.taken |= step == Step::Late;
        self.begun = true;
        Some(step)
    }

    /// The peer has been asked, and its answer is expected within `wait`. The second step is put off until
    /// then.
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

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// A steady path of 50 ms.
    fn steady() -> RttEstimator {
        let mut rtt = RttEstimator::new();
        for _ in 0..100 {
            rtt.sample(at(0), 50 * MILLI);
        }
        rtt
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Every step that is due at some time, with that time in milliseconds.
    fn steps(suspicion: &mut Suspicion, alone: bool) -> Vec<(u64, Step)> {
        let due = |millis| Some((millis, suspicion.expire(at(millis), alone)?));
        (0..3000).filter_map(due).collect()
    }

    /// Something was delivered at this time, and more was sent then.
    fn delivered(suspicion: &mut Suspicion, millis: u64) {
        suspicion.delivered(at(millis), true);
        suspicion.arm(at(millis), &steady());
    }

    #[test]
    fn the_peer_is_asked_then_the_path_is_suspected_then_replaced() {
        let mut suspicion = Suspicion::new();
        suspicion.arm(at(1000), &steady());
        assert_eq!(
            steps(&mut suspicion, false),
            [(1065, Step::Ask), (1090, Step::Early), (1150, Step::Late)]
        );
        assert_eq!(suspicion.deadline(), None);
    }

    #[test]
    fn the_acknowledgment_of_a_lone_segment_may_be_delayed() {
        let mut suspicion = Suspicion::new();
        suspicion.arm(at(1000), &steady());
        assert_eq!(steps(&mut suspicion, true), [(1150, Step::Late)]);
    }

    #[test]
    fn a_delivery_within_the_last_round_trip_puts_it_off() {
        let mut suspicion = Suspicion::new();
        suspicion.delivered(at(1200), true);
        suspicion.arm(at(1000), &steady());
        assert_eq!(steps(&mut suspicion, false)[0], (1215, Step::Ask));
    }

    #[test]
    fn a_path_whose_round_trips_vary_is_given_more_time() {
        let mut rtt = steady();
        rtt.sample(at(0), 130 * MILLI);
        let mut suspicion = Suspicion::new();
        suspicion.arm(at(1000), &rtt);
        // 4 deviations of 20 ms, beyond the mean of 60 ms.
        assert_eq!(
            steps(&mut suspicion, false),
            [(1090, Step::Ask), (1140, Step::Early), (1160, Step::Late)]
        );
    }

    #[test]
    fn a_silence_that_ended_by_itself_is_not_suspected_again_for_a_minute() {
        let mut suspicion = Suspicion::new();
        suspicion.arm(at(1000), &steady());
        assert_eq!(suspicion.expire(at(1065), false), Some(Step::Ask));
        assert_eq!(suspicion.expire(at(1090), false), Some(Step::Early));
        suspicion.take();
        delivered(&mut suspicion, 1110);
        // It lasted for 60 ms: a quarter more than that.
        assert_eq!(suspicion.expire(at(1234), false), None);
        delivered(&mut suspicion, 1234);
        assert_eq!(suspicion.expire(at(1234 + 50 + 75), false), Some(Step::Early));
        delivered(&mut suspicion, 1364);
        assert_eq!(suspicion.expire(at(1364 + 50 + 99), false), None, "longer silences count");
        delivered(&mut suspicion, 70_000);
        assert_eq!(suspicion.expire(at(70_065), false), Some(Step::Ask), "forgotten");
    }

    #[test]
    fn an_outage_that_a_timeout_ended_teaches_nothing() {
        let mut suspicion = Suspicion::new();
        suspicion.arm(at(1000), &steady());
        assert_eq!(suspicion.expire(at(1065), false), Some(Step::Ask));
        suspicion.delivered(at(1110), false);
        suspicion.arm(at(1110), &steady());
        assert_eq!(suspicion.expire(at(1175), false), Some(Step::Ask));
    }

    #[test]
    fn an_answer_is_waited_for_and_no_longer_than_for_the_last_step() {
        for (wait, answer, early) in
            [(50, Some(1115), 1115), (50, None, 1115), (500, None, 1150), (50, Some(1070), 1090)]
        {
            let mut suspicion = Suspicion::new();
            suspicion.arm(at(1000), &steady());
            assert_eq!(suspicion.expire(at(1065), false), Some(Step::Ask));
            suspicion.wait_for_answer(at(1065), wait * MILLI);
            if let Some(answer) = answer {
                assert_eq!(suspicion.expire(at(answer - 1), false), None);
                suspicion.answered(at(answer));
            }
            assert_eq!(steps(&mut suspicion, false)[0], (early, Step::Early), "{wait} {answer:?}");
        }
    }

    #[test]
    fn what_is_suspected_stays_so_until_something_is_delivered() {
        let mut suspicion = Suspicion::new();
        suspicion.arm(at(1000), &steady());
        suspicion.take();
        suspicion.arm(at(1200), &steady());
        assert_eq!(steps(&mut suspicion, false), []);
    }

    #[test]
    fn a_pause_begins_the_wait_again() {
        let mut suspicion = Suspicion::new();
        suspicion.arm(at(1000), &steady());
        suspicion.resume(at(2000), 950 * MILLI, &steady());
        assert_eq!(steps(&mut suspicion, false)[0], (2065, Step::Ask));
    }
}
