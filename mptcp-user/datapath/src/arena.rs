//! Memory for received payload: large blocks, cut from the front into shared slices, used again when all slices of
//! a block are gone. No allocation per packet, and the working set stays small enough for the caches.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Of more than so many, those that nobody has needed for a while are freed.
const KEPT: usize = 8;

/// A source of slices for payload.
pub struct Arena {
    /// Octets of a block.
    size: usize,
    /// What is left of the block in use.
    current: BytesMut,
    /// Used-up blocks, the oldest first; their slices may still be somewhere.
    retired: VecDeque<BytesMut>,
    /// So many used-up blocks may be held on to by their slices before they are counted.
    bound: usize,
    /// How many there are when they are counted next.
    count_at: usize,
    /// They were counted, and most are held on to.
    wanting: bool,
    /// The slices that hold on to blocks are few and long-lived.
    tight: bool,
}

impl Arena {
    /// An arena whose blocks have `size` octets. When slices hold on to more than `bound` octets, it
    /// [asks](Self::wants_compaction) for the slices to be copied.
    pub fn new(size: usize, bound: usize) -> Self {
        let bound = (bound / size).max(2 * KEPT);
        Self {
            size,
            current: BytesMut::zeroed(size),
            retired: VecDeque::new(),
            bound,
            count_at: bound,
            wanting: false,
            tight: false,
        }
    }

    /// Slices hold on to so many blocks that they had better be copied: however short a slice is, its block
    /// waits for it.
    pub fn wants_compaction(&self) -> bool {
        self.wanting
    }

    /// All slices that could be have been copied. What still holds on to blocks does so for as long as it
    /// likes.
    pub fn compacted(&mut self) {
        self.count();
        self.wanting = false;
        self.count_at = self.retired.len() + self.bound;
    }

    /// Slices that are given away for long had better be copied.
    pub fn is_tight(&self) -> bool {
        self.tight && self.retired.len() > self.bound / 4
    }

    /// Frees the used-up blocks that no slice holds on to.
    fn count(&mut self) {
        let size = self.size;
        self.retired.retain_mut(|block| {
            block.clear();
            !block.try_reclaim(size)
        });
        self.tight = self.retired.len() > self.bound / 4;
    }

    /// A slice of `len` octets that `write` fills.
    #[inline]
    pub fn slice(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> Bytes {
        if self.current.len() < len {
            self.next_block(len);
        }
        let mut slice = self.current.split_to(len);
        write(&mut slice);
        slice.freeze()
    }

    #[cold]
    fn next_block(&mut self, len: usize) {
        let used = std::mem::take(&mut self.current);
        // The block that is in the caches, free again where whoever reads keeps up; then the oldest, the likeliest to be free.
        // Looking at a few bounds the search.
        self.retired.push_front(used);
        for _ in 0..self.retired.len().min(5) {
            let Some(mut block) = self.retired.pop_front() else { break };
            block.clear();
            if len <= self.size && block.try_reclaim(self.size) {
                let capacity = self.size.min(block.capacity());
                // SAFETY: the block was made of zeroed octets, all of them initialised, and has been reclaimed from
                // its start: nobody else refers to it.
                unsafe { block.set_len(capacity) };
                self.current = block;
                self.trim();
                return;
            }
            self.retired.push_back(block);
        }
        if self.retired.len() >= self.count_at {
            self.count();
            // Where less than a quarter was free, counting again soon would find as little.
            self.wanting = self.retired.len() > self.count_at / 4 * 3;
            self.count_at = self.bound.max(self.retired.len() / 3 * 4);
        }
        self.current = BytesMut::zeroed(self.size.max(len));
    }

    /// Frees a block where more than half of them are free: what once was much need not be again.
    fn trim(&mut self) {
        let middle = self.retired.len() / 2;
        if self.retired.len() > KEPT
            && let Some(block) = self.retired.get_mut(middle)
        {
            block.clear();
            if block.try_reclaim(self.size) {
                self.retired.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_keep_their_octets_while_blocks_are_used_again() {
        let mut arena = Arena::new(1000, 100_000);
        let mut kept = VecDeque::new();
        for round in 0..2000usize {
            let len = round * 31 % 700;
            kept.push_back((round, arena.slice(len, |octets| octets.fill(round as u8))));
            if kept.len() > 20 {
                kept.pop_front();
            }
            for (round, slice) in &kept {
                assert_eq!(slice.len(), round * 31 % 700);
                assert!(slice.iter().all(|octet| *octet == *round as u8));
            }
        }
        assert!(arena.retired.len() < 40, "blocks are found again: {}", arena.retired.len());
    }

    #[test]
    fn what_was_needed_once_is_given_back_by_and_by() {
        let mut arena = Arena::new(1000, 300_000);
        let held: Vec<Bytes> = (0..200).map(|_| arena.slice(1000, |octets| octets.fill(1))).collect();
        assert!(arena.retired.len() > 150);
        drop(held);
        for _ in 0..200 {
            arena.slice(1000, |octets| octets.fill(2));
        }
        assert!(arena.retired.len() <= KEPT, "{} blocks", arena.retired.len());
    }

    #[test]
    fn slices_that_hold_on_to_many_blocks_are_to_be_copied() {
        let mut arena = Arena::new(1000, 50_000);
        let (mut held, mut compactions) = (VecDeque::new(), 0);
        for round in 0..5000 {
            // A short slice that is kept, in each block.
            held.push_back(arena.slice(10, |octets| octets.fill(1)));
            arena.slice(990, |octets| octets.fill(2));
            assert!(arena.retired.len() <= 60, "{} blocks in round {round}", arena.retired.len());
            if arena.wants_compaction() {
                compactions += 1;
                for slice in &mut held {
                    *slice = Bytes::copy_from_slice(slice);
                }
                arena.compacted();
                assert!(!arena.wants_compaction() && !arena.is_tight());
            }
        }
        assert!((50..=150).contains(&compactions), "{compactions}");
        assert!(held.iter().all(|slice| slice == &[1; 10][..]));
    }

    #[test]
    fn slices_that_can_t_be_copied_are_not_asked_for_again_and_again() {
        let mut arena = Arena::new(1000, 50_000);
        let (mut held, mut compactions) = (Vec::new(), 0);
        for _ in 0..500 {
            held.push(arena.slice(1000, |octets| octets.fill(1)));
            if arena.wants_compaction() {
                compactions += 1;
                arena.compacted();
                assert!(arena.is_tight());
            }
        }
        assert!(compactions <= 11, "{compactions}");
        drop(held);
        for _ in 0..2000 {
            arena.slice(1000, |octets| octets.fill(1));
            assert!(!arena.wants_compaction());
        }
        assert!(arena.retired.len() <= KEPT, "{} blocks", arena.retired.len());
    }

    #[test]
    fn a_slice_longer_than_a_block_is_possible() {
        let mut arena = Arena::new(100, 10_000);
        assert_eq!(arena.slice(250, |octets| octets.fill(1)), vec![1; 250]);
        assert_eq!(arena.slice(50, |octets| octets.fill(2)), vec![2; 50]);
    }
}
