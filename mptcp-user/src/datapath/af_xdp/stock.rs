//! The frames that packets are received into, and how many of them the kernel has.
//!
//! It writes into them in turn. If it has all, each is long out of every cache when its turn comes; so it gets no more than
//! what has come at once lately needs, and first of all those that were used last.

use super::ring::Producer;

/// Rounds with few packets after which the kernel gets fewer frames.
const QUIET: u32 = 16384;

/// The frames of one receive queue.
pub(super) struct Stock {
    /// Those that the kernel does not have; the one used last is at the end.
    spare: Vec<u64>,
    with_kernel: u32,
    /// What it is to have, between these bounds.
    level: u32,
    least: u32,
    all: u32,
    /// Rounds in a row with no more than an eighth of the level.
    quiet: u32,
}

impl Stock {
    /// All frames are spare. The kernel is to have at least `least` of them.
    pub(super) fn new(frames: Vec<u64>, least: u32) -> Self {
        let all = frames.len() as u32;
        let least = least.min(all);
        Self { spare: frames, with_kernel: 0, level: least, least, all, quiet: 0 }
    }

    /// So many frames with packets waited at the beginning of a round.
    pub(super) fn waiting(&mut self, frames: u32) {
        if frames > self.level / 2 {
            self.level = (2 * self.level).min(self.all);
            self.quiet = 0;
        } else if frames > self.level / 8 {
            self.quiet = 0;
        } else if frames > 0 {
            self.quiet += 1;
            if self.quiet >= QUIET {
                self.level = (self.level / 2).max(self.least);
                self.quiet = 0;
            }
        }
    }

    /// The kernel has filled the frame at this address, and it has been looked at.
    pub(super) fn back(&mut self, addr: u64) {
        self.with_kernel = self.with_kernel.saturating_sub(1);
        self.spare.push(addr);
    }

    /// Gives the kernel what it lacks.
    pub(super) fn supply(&mut self, fill: &mut Producer<u64>) {
        let before = self.with_kernel;
        while self.with_kernel < self.level
            && let Some(addr) = self.spare.pop()
        {
            // Never full: there are no more frames than entries.
            fill.push(addr);
            self.with_kernel += 1;
        }
        if self.with_kernel > before {
            fill.submit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::memory_pair;
    use super::*;

    #[test]
    fn the_kernel_gets_what_was_used_last_and_more_only_when_much_comes_at_once() {
        let (mut fill, mut kernel) = memory_pair(64);
        let mut stock = Stock::new((0..64).collect(), 8);
        stock.supply(&mut fill);
        assert_eq!(kernel.available(u32::MAX), 8);
        for _ in 0..100 {
            stock.waiting(1);
            let addr = kernel.peek(0).expect("a frame");
            kernel.take(1);
            kernel.release();
            stock.back(addr);
            stock.supply(&mut fill);
            assert!(addr >= 56, "the same few frames: {addr}");
        }
        for (waiting, level) in [(4, 8), (5, 16), (8, 16), (9, 32), (32, 64), (64, 64)] {
            stock.waiting(waiting);
            stock.supply(&mut fill);
            assert_eq!(kernel.available(u32::MAX), level, "{waiting} waiting");
        }
        for _ in 0..3 * QUIET {
            stock.waiting(1);
            // Rounds without packets say nothing.
            stock.waiting(0);
        }
        assert_eq!(stock.level, 8);
        // What it has too many of is taken as it is used.
        for _ in 0..56 {
            let addr = kernel.peek(0).expect("a frame");
            kernel.take(1);
            kernel.release();
            stock.back(addr);
            stock.supply(&mut fill);
        }
        assert_eq!(kernel.available(u32::MAX), 8);
    }
}
