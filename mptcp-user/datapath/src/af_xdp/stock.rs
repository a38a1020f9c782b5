//! The frames that packets are received into, and how many of them the kernel has.
//!
//! It writes into them in turn. If it has all, each is long out of every cache when its turn comes; so it gets no more than
//! what has come at once lately needs, and first of all those that were used last.

use super::frames::Share;
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
    /// As `least` once packets have come: an interface without any is content with little.
    least_active: u32,
    /// Frames that are spare, or with the kernel.
    owned: u32,
    /// Where more come from.
    share: Option<Share>,
    /// Rounds in a row with no more than an eighth of the level.
    quiet: u32,
}

impl Stock {
    /// All frames are spare. The kernel is to have at least `least` of them.
    pub(super) fn new(frames: Vec<u64>, least: u32) -> Self {
        let all = frames.len() as u32;
        let least = least.min(all);
        Self {
            spare: frames,
            with_kernel: 0,
            level: least,
            least,
            all,
            least_active: least,
            owned: all,
            share: None,
            quiet: 0,
        }
    }

    /// Frames come from `share` as they are needed: `idle` of them before the first packet, `active` after
    /// it, and up to `all`.
    pub(super) fn shared(share: Share, (idle, active, all): (u32, u32, u32)) -> Self {
        let mut spare = Vec::new();
        let owned = share.take(idle.min(all), &mut spare);
        Self {
            spare,
            with_kernel: 0,
            level: owned,
            least: idle.min(all),
            all,
            least_active: active.min(all),
            owned,
            share: Some(share),
            quiet: 0,
        }
    }

    /// The kernel is to have more.
    fn raise(&mut self, level: u32) {
        self.level = level.min(self.all);
        if let Some(share) = &self.share
            && self.level > self.owned
        {
            self.owned += share.take(self.level - self.owned, &mut self.spare);
            self.level = self.level.min(self.owned);
        }
    }

    /// So many frames with packets waited at the beginning of a round.
    pub(super) fn waiting(&mut self, frames: u32) {
        if frames > 0 && self.least < self.least_active {
            self.least = self.least_active;
            self.raise(self.level.max(self.least));
        }
        if frames > self.level / 2 {
            self.raise(2 * self.level);
            self.quiet = 0;
        } else if frames > self.level / 8 {
            self.quiet = 0;
        } else if frames > 0 {
            self.quiet += 1;
            if self.quiet >= QUIET {
                self.level = (self.level / 2).max(self.least.min(self.level));
                self.quiet = 0;
            }
        }
    }

    /// The kernel has filled the frame at this address, and it has been looked at.
    pub(super) fn back(&mut self, addr: u64) {
        self.with_kernel = self.with_kernel.saturating_sub(1);
        match &self.share {
            Some(share) if self.owned > self.level => {
                self.owned -= 1;
                share.give_back([addr]);
            }
            _ => self.spare.push(addr),
        }
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
    use super::super::frames::Frames;
    use super::super::ring::memory_pair;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_idle_queue_has_few_frames_and_a_busy_one_takes_what_others_do_not_need() {
        let frames = Arc::new(Frames::new(512).expect("memory"));
        let queue = || Stock::shared(Share::new(&frames), (16, 64, 400));
        let (mut busy, idle) = (queue(), queue());
        assert_eq!(frames.count().0, 512 - 32);
        let (mut fill, mut kernel) = memory_pair(512);
        busy.waiting(1);
        busy.supply(&mut fill);
        assert_eq!(kernel.available(u32::MAX), 64);
        for _ in 0..10 {
            busy.waiting(busy.level);
            busy.supply(&mut fill);
        }
        assert_eq!((kernel.available(u32::MAX), frames.count().0), (400, 512 - 16 - 400));
        let mut late = queue();
        late.waiting(64);
        assert_eq!((late.level, frames.count().0), (96, 0), "all that there is");
        drop(late);
        for _ in 0..10 * QUIET {
            busy.waiting(1);
        }
        for _ in 0..2000 {
            let addr = kernel.peek(0).expect("a frame");
            kernel.take(1);
            kernel.release();
            busy.back(addr);
            busy.supply(&mut fill);
        }
        assert_eq!((kernel.available(u32::MAX), frames.count().0), (64, 512 - 16 - 64));
        drop((busy, idle));
        assert_eq!(frames.count().0, 512);
    }

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
