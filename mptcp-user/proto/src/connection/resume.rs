//! After a pause: the process was stopped, the machine suspended, or the application kept the thread to
//! itself.
//!
//! Silence during a pause proves nothing: the peer's acknowledgments may have come while nobody looked, or
//! been dropped where they waited. So the time of the pause does not count, and what asks whether a path or
//! the peer is alive asks again: nothing is suspected, and nothing given up, before a probe that left after
//! the pause has gone unanswered.

use super::Connection;
use crate::Instant;
use crate::info::SubflowState;
use crate::subflow::Subflow;
use std::time::Duration;

/// A call that comes so much later than was asked for ends a pause. A scheduler that holds the thread up for
/// less is no reason to ask anybody anything.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// Part of the least pause for each connection that is not at rest: several times what asking one peer costs.
pub(crate) const ASKING: Duration = Duration::from_micros(20);
/// The least time in which a probe may be answered (RFC 6298 section 2.1: the first guess at the RTO).
const ANSWER: Duration = Duration::from_secs(1);

/// The longest that a wait which was over in a pause goes on: it may have begun shortly before the end of the
/// pause.
const LONGEST: Duration = Duration::from_secs(120);

/// A wait for a deadline goes on: the pause does not count, and an answer that is asked for now may still
/// come. One that is not over yet may have begun after the pause, and is long enough as it is.
fn go_on(deadline: &mut Option<Instant>, now: Instant, pause: Duration, answer: Duration) {
    if let Some(at) = deadline {
        let shifted = if *at <= now { (*at + pause).min(now + LONGEST) } else { *at };
        *at = shifted.max(now + answer);
    }
}

/// A wait of `limit` that began at `since` goes on likewise.
fn began(since: Instant, now: Instant, pause: Duration, limit: Duration, answer: Duration) -> Instant {
    let latest = Instant::from_nanos((now + answer).as_nanos().saturating_sub(limit.as_nanos() as u64));
    (since + pause).max(latest).min(now)
}

impl Connection {
    /// A pause has ended, and all that came meanwhile has been taken. Whether there is something to send.
    pub(crate) fn resume(&mut self, now: Instant, pause: Duration) -> bool {
        if self.closed.is_some() {
            return false;
        }
        let slowest = self.subflows.iter().flatten().map(|subflow| subflow.rtt.rto()).max();
        let answer = slowest.unwrap_or_default().clamp(ANSWER, 4 * ANSWER);
        go_on(&mut self.patience, now, pause, answer);
        go_on(&mut self.parting, now, pause, answer);
        let limit = self.user_timeout;
        if let Some(since) = &mut self.data_waits_since {
            *since = began(*since, now, pause, limit, answer);
        }
        let probes = self.config.keep_alive.map_or(u32::MAX, |keep_alive| keep_alive.probes);
        let mut due = self.deadline.wanted.is_some_and(|wanted| wanted <= now);
        for subflow in self.subflows.iter_mut().flatten() {
            subflow.snd.progress = began(subflow.snd.progress, now, pause, limit, answer);
            due |= subflow.snd.resume(now, pause, &subflow.rtt);
            resume_subflow(subflow, now, pause, answer, probes);
            let (times, spread) = ((pause, answer), subflow.spread());
            if subflow.silence.resume(now, times, limit, spread) {
                subflow.window_probe_due = true;
                due = true;
            }
        }
        due
    }
}

fn resume_subflow(subflow: &mut Subflow, now: Instant, pause: Duration, answer: Duration, probes: u32) {
    subflow.heard = (subflow.heard + pause).min(now);
    // The last one, which was in vain, is sent once more.
    subflow.keep_alives = subflow.keep_alives.min(probes.saturating_sub(1));
    go_on(&mut subflow.must_answer_by, now, pause, answer);
    if subflow.handshake_deadline.is_some_and(|at| at <= now) {
        if subflow.state == SubflowState::FinWait2 {
            go_on(&mut subflow.handshake_deadline, now, pause, answer);
        } else {
            // What leaves now does not count as an attempt.
            subflow.handshake_sends = subflow.handshake_sends.saturating_sub(1);
        }
    }
}
