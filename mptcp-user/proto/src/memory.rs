//! What all buffers of an endpoint may hold together, and how much of that one buffer may take.
//!
//! The rule is that of dynamic thresholds (Choudhury and Hahne, 1998): no buffer may grow beyond a share of what is still
//! free. While there is plenty, that binds nobody; as it becomes less, all windows become smaller by themselves, the
//! large ones first, and a newcomer always finds something. What was promised is kept. Only a peer that fills what it
//! should not, or very many at once, can reach the limit: then octets are dropped before they are acknowledged.

/// One buffer may take this part of what is free.
const SHARE: u64 = 4;
/// What a connection may have in each direction however little is left: a few segments, so that it goes on.
const LEAST: u64 = 16 << 10;
/// Part of the limit that is left for what fills gaps when the rest is gone.
const RESERVE: u64 = 8;
/// What keeping one piece of a stream costs beside its octets: its place in the tables, and its reference to them.
pub(crate) const PIECE: u64 = 256;

/// The budget of an endpoint, in octets.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    used: u64,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Octets held, with what holding them costs.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// A connection holds `now` octets, `before` having been known of.
    pub(crate) fn settle(&mut self, before: u64, now: u64) {
        self.used = (self.used + now).saturating_sub(before);
    }

    /// The largest capacity that one buffer may have now.
    pub(crate) fn share(&self) -> u64 {
        (self.limit.saturating_sub(self.used) / SHARE).max(LEAST)
    }

    /// Nothing is kept any more that can't be used at once.
    pub(crate) fn is_full(&self) -> bool {
        self.used >= self.limit
    }

    /// Nothing is taken any more but what somebody waits for.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.used >= self.limit + self.limit / RESERVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_share_what_is_left_and_nobody_gets_nothing() {
        let mut memory = Memory::new(100 << 20);
        assert_eq!(memory.share(), 25 << 20);
        // Everybody takes as much as is allowed: there is always some left.
        let mut buffers = vec![0; 1000];
        for _ in 0..50 {
            for held in &mut buffers {
                if *held < memory.share() {
                    *held += 10_000;
                    memory.settle(0, 10_000);
                }
            }
        }
        assert!(!memory.is_full(), "{memory:?}");
        assert!(buffers.iter().all(|held| *held >= 100_000));
        let used = memory.used();
        memory.settle(used, 200 << 20);
        assert!(memory.is_exhausted());
        assert_eq!(memory.share(), LEAST);
        memory.settle(200 << 20, 0);
        assert_eq!((memory.used(), memory.share()), (0, 25 << 20));
    }
}
