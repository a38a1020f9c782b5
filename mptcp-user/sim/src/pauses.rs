//! How long data may be waited for: no longer than the timers explain.
//!
//! While a sender has data that its peer lacks, the peer must hear of some of it again and again. Without
//! losses an acknowledgment, or a timer, leads to the next packet after a round trip or a retransmission
//! timeout at the latest. Each loss may cost a timeout, and each timeout in a row takes twice as long as the
//! one before (RFC 6298 section 5.5). Losses close to each other count once: one timeout repeats them all.

use mptcp_proto::Instant;
use std::time::Duration;

/// Losses within this time of each other are one: shorter than any retransmission timeout.
const TOGETHER: Duration = Duration::from_millis(150);
/// Rounding, delayed acknowledgments, probes of windows.
const SLACK: Duration = Duration::from_millis(500);

/// One direction of the data.
#[derive(Clone, Copy, Debug)]
struct Watch {
    since: Instant,
    offered: u64,
    taken: u64,
}

/// A pause that came to its end, and what may explain it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    pub(super) lasted: Duration,
    /// Times at which packets were lost, during it and shortly before.
    pub(super) losses: u32,
}

impl Pause {
    /// How long it may have lasted where a round trip takes `latency` at most, queues included, and a
    /// retransmission timeout `rto`.
    pub(super) fn limit(&self, latency: Duration, rto: Duration) -> Duration {
        // Of many losses in a row the timers explain anything.
        (rto * ((2 << self.losses.min(16)) - 1)).saturating_add(latency + SLACK)
    }
}

/// Watches both directions of one connection.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    watches: [Option<Watch>; 2],
    lost: u64,
    losses: Vec<Instant>,
}

impl Pauses {
    /// So many packets were lost in all by now.
    pub(super) fn lost(&mut self, now: Instant, lost: u64) {
        if lost > std::mem::replace(&mut self.lost, lost)
            && self.losses.last().is_none_or(|last| now - *last >= TOGETHER)
        {
            self.losses.push(now);
        }
    }

    /// In a direction, so much was offered by now, and so much taken by the other side. Gives the pause that
    /// ended with that; losses count that happened up to `before` ahead of it.
    pub(super) fn progress(
        &mut self,
        now: Instant,
        direction: usize,
        (offered, taken): (u64, u64),
        before: Duration,
    ) -> Option<Pause> {
        let watch = self.watches[direction].replace(Watch { since: now, offered, taken })?;
        let waited = watch.offered > watch.taken;
        if taken == watch.taken {
            if waited {
                // It goes on.
                self.watches[direction] = Some(Watch { since: watch.since, offered, taken });
            }
            return None;
        }
        let explains = |at: &&Instant| now - **at <= now - watch.since + before;
        let losses = self.losses.iter().rev().take_while(explains).count() as u32;
        waited.then_some(Pause { lasted: now - watch.since, losses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn only_what_is_waited_for_can_pause() {
        let mut pauses = Pauses::default();
        let before = Duration::from_millis(100);
        assert!(pauses.progress(at(0), 0, (0, 0), before).is_none());
        assert!(pauses.progress(at(5000), 0, (100, 0), before).is_none(), "nothing was there");
        assert!(pauses.progress(at(5500), 0, (200, 0), before).is_none());
        let pause = pauses.progress(at(6000), 0, (200, 50), before).unwrap();
        assert_eq!((pause.lasted, pause.losses), (Duration::from_secs(1), 0));
        for (millis, lost) in [(6000, 1), (6050, 9), (6400, 10), (6500, 10), (7100, 11)] {
            pauses.lost(at(millis), lost);
        }
        let pause = pauses.progress(at(8000), 0, (200, 200), before).unwrap();
        assert_eq!((pause.lasted, pause.losses), (Duration::from_secs(2), 3));
        assert!(pauses.progress(at(9000), 0, (300, 200), before).is_none());
        let pause = pauses.progress(at(9100), 0, (300, 300), before).unwrap();
        assert_eq!((pause.lasted, pause.losses), (Duration::from_millis(100), 0));
        let rto = Duration::from_millis(200);
        assert_eq!(pause.limit(Duration::ZERO, rto), Duration::from_millis(700));
        assert_eq!(Pause { losses: 2, ..pause }.limit(Duration::ZERO, rto), Duration::from_millis(1900));
    }
}
