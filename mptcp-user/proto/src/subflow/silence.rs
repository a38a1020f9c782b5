//! How long a subflow is silent before its path is checked. Routers that translate addresses forget
//! four-tuples over which nothing happens, and do not say so.
//!
//! The longer a silence lasts, the later the next check comes, so that a four-tuple that was forgotten is
//! found after as long again at most, and a connection that is idle for long costs little. A path that does
//! not answer is tried again likewise, ever more seldom, in the end once in a day and a half.

use crate::Instant;
use std::time::Duration;

/// Silence before the first check. Each check that is answered doubles it.
const FIRST_CHECK: Duration = Duration::from_secs(30);
/// The same where octets came as a stream, which breaks off more seldom than requests do.
const FIRST_IN_STREAM: Duration = Duration::from_secs(5);
/// How long octets have to come without a pause to be a stream, in seconds, and how long a pause lasts.
const STREAM: u32 = 2;
const PAUSE: Duration = Duration::from_secs(1);
/// The least of [`path_check`](crate::ConnectionConfig::path_check) that is respected.
const LEAST: Duration = Duration::from_secs(1);
/// Probes of one check, and the least time between them.
const PROBES: u8 = 3;
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// Wait before something is done about a silent path once more. It doubles each time.
const AGAIN: Duration = Duration::from_secs(30);
/// How often waits double: up to a day and a half.
const DOUBLINGS: u8 = 12;
/// A pause of the process after which checks are put off, so that those of many connections do not come at
/// once.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// The silence of one subflow.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Silence {
    /// Probes since anything was heard.
    unanswered: u8,
    /// Checks that were answered since there was anything else to hear.
    answered: u8,
    /// How often something was done about the silence.
    retries: u8,
    /// When the next step is due. Before the first probe: no check before this time.
    next: Instant,
    /// Probes have not been answered since then.
    since: Option<Instant>,
    /// When the peer has last checked the path.
    asked: Instant,
    /// Beginning of what has come without a pause, in seconds.
    stream: u32,
}

/// The next step against a silent subflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// Its peer is to be made to answer.
    Probe,
    /// It does not answer.
    Silent,
    /// It may still answer.
    Wait,
}

fn seconds(time: Instant) -> u32 {
    (time.as_millis() / 1000) as u32
}

/// `wait`, and up to a quarter more: `spread` differs between subflows, so that those that fall silent
/// together are not checked together.
fn spread_out(wait: Duration, spread: u32) -> Duration {
    // Reckoned often: shifts instead of divisions.
    wait + Duration::from_nanos((wait.as_nanos() as u64 >> 18) * u64::from(spread >> 16))
}

impl Silence {
    /// The subflow begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        *self = Self { stream: seconds(now), ..Self::default() };
    }

    /// Something was heard, `before` having been the last time; `news`: it was more than an answer. Whether
    /// the subflow was known to be silent.
    pub(crate) fn broken(&mut self, now: Instant, before: Instant, news: bool) -> bool {
        if now - before > PAUSE {
            self.stream = seconds(now);
        }
        if news {
            self.answered = 0;
        } else if self.unanswered > 0 {
            self.answered = (self.answered + 1).min(DOUBLINGS);
        }
        (self.unanswered, self.retries, self.next) = (0, 0, Instant::ZERO);
        self.since.take().is_some()
    }

    /// The peer checks the path: as good as a check of ours that is answered.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = now;
        if self.unanswered == 0 {
            self.answered = (self.answered + 1).min(DOUBLINGS);
        }
    }

    /// Probes are not answered.
    pub(crate) fn is_known(&self) -> bool {
        self.since.is_some()
    }

    /// An answer to a probe may come any moment.
    pub(crate) fn is_asking(&self) -> bool {
        self.unanswered > 0 && self.since.is_none()
    }

    /// When something is to be done about a subflow over which something was last `heard` then. `longest`:
    /// silence without a check; `ours`: this side opened it, and checks before the other does.
    pub(crate) fn due(&self, heard: Instant, longest: Duration, ours: bool, spread: u32) -> Instant {
        if self.unanswered > 0 || self.since.is_some() {
            return self.next;
        }
        let streamed = self.answered == 0 && seconds(heard).saturating_sub(self.stream) >= STREAM;
        let first = if streamed { FIRST_IN_STREAM } else { FIRST_CHECK };
        let mut wait = (first * (1 << self.answered.min(DOUBLINGS))).min(longest.max(LEAST));
        if !ours {
            wait = wait * 3 / 2;
        }
        (heard.max(self.asked) + spread_out(wait, spread)).max(self.next)
    }

    /// It is time for that, or data is not acknowledged.
    pub(crate) fn check(&mut self, now: Instant, rto: Duration) -> Check {
        self.step(now, PROBES, rto.max(PROBE_WAIT))
    }

    /// The retransmission timer has expired, which makes up for all probes but one: that is small, in case it
    /// is the size of the others that they are lost for. `fresh`: what is not acknowledged is worth another
    /// attempt.
    pub(crate) fn timed_out(&mut self, now: Instant, rto: Duration, fresh: bool) -> Check {
        if fresh {
            (self.unanswered, self.retries) = (0, 0);
            self.next = self.next.min(now);
        }
        self.step(now, 1, rto)
    }

    fn step(&mut self, now: Instant, probes: u8, pace: Duration) -> Check {
        if self.since.is_none() && self.unanswered < probes {
            self.unanswered += 1;
            self.next = now + pace;
            return Check::Probe;
        }
        if now < self.next {
            return Check::Wait;
        }
        self.since.get_or_insert(now);
        self.next = now + AGAIN * (1 << self.retries);
        self.retries = (self.retries + 1).min(DOUBLINGS);
        Check::Silent
    }

    /// When the subflow is to be left, if it stays silent for `limit`.
    pub(crate) fn left_at(&self, limit: Duration) -> Option<Instant> {
        Some(self.since? + limit)
    }

    /// After a pause of the process, in which the peer may have answered in vain. A probe that leaves now is
    /// answered within `answer`. Whether one is to leave.
    pub(crate) fn resume(
        &mut self,
        now: Instant,
        (pause, answer): (Duration, Duration),
        limit: Duration,
        spread: u32,
    ) -> bool {
        let long = pause >= LONG_PAUSE;
        let soon = if long { now + FIRST_CHECK * (spread >> 16) / (1 << 16) } else { now };
        let Some(since) = self.since else {
            if self.unanswered > 0 {
                // The last one, which may have been in vain, is sent once more.
                self.unanswered -= 1;
                self.next = now;
            } else if long {
                self.next = self.next.max(soon);
            }
            return false;
        };
        if long && !(now..soon).contains(&self.next) {
            self.next = soon;
        }
        let least = (soon + answer).as_nanos().saturating_sub(limit.as_nanos() as u64);
        self.since = Some((since + pause).max(Instant::from_nanos(least)).min(soon));
        !long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn begun() -> (Silence, Instant) {
        let (mut silence, now) = (Silence::default(), Instant::from_nanos(5_000_000_000_000));
        silence.begin(now);
        (silence, now)
    }

    /// Times of the checks of a day, each of which is answered after 50 ms.
    fn checks(longest: Duration, ours: bool, spread: u32) -> Vec<Duration> {
        let (mut silence, begin) = begun();
        let (mut heard, mut times) = (begin, Vec::new());
        while heard - begin < 24 * HOUR {
            let due = silence.due(heard, longest, ours, spread);
            assert_eq!(silence.check(due, SECOND), Check::Probe);
            times.push(due - begin);
            let answer = due + SECOND / 20;
            assert!(!silence.broken(answer, heard, false));
            heard = answer;
        }
        times
    }

    #[test]
    fn checks_come_after_as_long_again_at_most_and_cost_little() {
        let longest = Duration::from_secs(1500);
        for (spread, in_first_hour) in [(0, 7), (u32::MAX, 6)] {
            let times = checks(longest, true, spread);
            assert_eq!(times.iter().filter(|time| **time < HOUR).count(), in_first_hour);
            assert!((50..=65).contains(&times.len()), "{}", times.len());
            for (before, after) in times.iter().zip(&times[1..]) {
                assert!(*after - *before <= (*before * 2).min(longest) * 5 / 4 + SECOND, "{times:?}");
            }
        }
        assert!(checks(longest, false, 0).len() < checks(longest, true, 0).len(), "the other side waits");
        assert_eq!(
            checks(10 * SECOND, true, 0)[..3].iter().map(Duration::as_secs).collect::<Vec<_>>(),
            [10, 20, 30]
        );
    }

    #[test]
    fn those_that_fall_silent_together_are_checked_one_after_the_other() {
        let (silence, now) = begun();
        let due = |number: u32| silence.due(now, HOUR, true, number.wrapping_mul(0x9e37_79b9)) - now;
        let mut times: Vec<_> = (0..10_000).map(due).collect();
        times.sort_unstable();
        assert!(*times.last().unwrap() <= FIRST_CHECK * 5 / 4 && times[0] >= FIRST_CHECK);
        let most = times
            .iter()
            .map(|time| times.iter().filter(|other| time.abs_diff(**other).as_millis() < 5).count());
        assert!(most.max().unwrap() < 30);
    }

    #[test]
    fn a_stream_that_breaks_off_is_checked_soon() {
        let (mut silence, mut now) = begun();
        for _ in 0..100 {
            let next = now + SECOND / 10;
            silence.broken(next, now, true);
            now = next;
        }
        assert_eq!(silence.due(now, HOUR, true, 0) - now, FIRST_IN_STREAM);
        let later = now + 5 * SECOND;
        silence.broken(later, now, true);
        assert_eq!(silence.due(later, HOUR, true, 0) - later, FIRST_CHECK);
    }

    #[test]
    fn what_does_not_answer_is_tried_ever_more_seldom() {
        let (mut silence, begin) = begun();
        let (mut at, mut silent) = (silence.due(begin, HOUR, true, 0), Vec::new());
        while at - begin < 1000 * HOUR {
            if silence.check(at, SECOND) == Check::Silent {
                silent.push(at - begin);
            }
            let next = silence.due(begin, HOUR, true, 0);
            assert!(next > at);
            at = next;
        }
        assert!(silent[0] <= FIRST_CHECK + 4 * SECOND);
        assert!(silent.len() < 50, "{silent:?}");
        let longest = AGAIN * (1 << DOUBLINGS);
        for three in silent.windows(3) {
            let waits = (three[1] - three[0], three[2] - three[1]);
            assert!(waits.1 > waits.0 || waits.1 == longest, "{waits:?}");
        }
        assert!(silence.broken(at, begin, true), "it was known");
        assert!(silence.due(at, HOUR, true, 0) <= at + FIRST_CHECK);
    }

    #[test]
    fn a_pause_is_followed_by_a_probe() {
        let (mut silence, begin) = begun();
        let times = (5 * SECOND, SECOND);
        let mut now = begin + 60 * SECOND;
        for _ in 0..PROBES {
            assert_eq!(silence.check(now, SECOND), Check::Probe);
            now += SECOND;
        }
        silence.resume(now, times, HOUR, 0);
        assert_eq!(silence.check(now, SECOND), Check::Probe);
        assert_eq!(silence.check(now, SECOND), Check::Wait);
        now += SECOND;
        assert_eq!(silence.check(now, SECOND), Check::Silent);
        // Close to the end of the wait, and far beyond it.
        for pause in [SECOND / 10, HOUR] {
            let mut silence = silence;
            now = silence.left_at(HOUR).unwrap() + pause;
            let asks = silence.resume(now, (pause, SECOND), HOUR, 1 << 31);
            let asked = if asks { now } else { silence.due(begin, HOUR, true, 0) };
            assert!(asked >= now && silence.left_at(HOUR).unwrap() >= asked + SECOND);
        }
    }
}
