//! How often something may be done that a peer can bring about: at once so many times, later so many times in
//! a while.

use crate::Instant;
use std::time::Duration;

/// An allowance that fills again as time passes.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Attempts {
    used: u32,
    since: Instant,
}

impl Attempts {
    fn refill(&mut self, now: Instant, each: Duration) {
        let passed = now.saturating_since(self.since).as_nanos() / each.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if self.used <= passed {
            (self.used, self.since) = (0, now);
        } else if passed > 0 {
            self.used -= passed;
            self.since += each * passed;
        }
    }

    /// How many are left out of `most`, of which another one comes back after `each`.
    pub(super) fn left(&mut self, now: Instant, most: usize, each: Duration) -> usize {
        self.refill(now, each);
        most.saturating_sub(self.used as usize)
    }

    /// One was made.
    pub(super) fn spend(&mut self, now: Instant) {
        if self.used == 0 {
            self.since = now;
        }
        self.used = self.used.saturating_add(1);
    }

    /// When another one may be made.
    pub(super) fn next(&self, each: Duration) -> Instant {
        self.since + each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_one_after_the_other() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::from_nanos(77_000_000_000));
        let each = Duration::from_millis(500);
        let mut made = 0;
        for _ in 0..1000 {
            if attempts.left(now, 8, each) > 0 {
                attempts.spend(now);
                made += 1;
            }
            now += Duration::from_millis(10);
        }
        assert!((26..=28).contains(&made), "{made} in ten seconds");
        attempts.spend(now);
        assert!(attempts.left(now, 8, each) == 0 && attempts.next(each) <= now + each);
        assert_eq!(attempts.left(now + Duration::from_secs(60), 8, each), 8);
    }
}
