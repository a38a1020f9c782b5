//! Memory for received payload: large blocks, cut from the front into shared slices, used again when all slices of
//! a block are gone. No allocation per packet, and the working set stays small enough for the caches.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Blocks kept for reuse; those beyond are freed when their last slice goes.
const MAX_RETIRED: usize = 256;
/// Of more than so many, those that nobody has needed for a while are freed.
const KEPT: usize = 8;

/// A source of slices for payload.
pub(super) struct Arena {
    /// Octets of a block.
    size: usize,
    /// What is left of the block in use.
    current: BytesMut,
    /// Used-up blocks, the oldest first; their slices may still be somewhere.
    retired: VecDeque<BytesMut>,
}

impl Arena {
    /// An arena whose blocks have `size` octets.
    pub(super) fn new(size: usize) -> Self {
        Self { size, current: BytesMut::zeroed(size), retired: VecDeque::new() }
    }

    /// A slice of `len` octets that `write` fills.
    #[inline]
    pub(super) fn slice(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> Bytes {
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
            if self.retired.len() < MAX_RETIRED {
                self.retired.push_back(block);
            }
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
        let mut arena = Arena::new(1000);
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
        let mut arena = Arena::new(1000);
        let held: Vec<Bytes> = (0..200).map(|_| arena.slice(1000, |octets| octets.fill(1))).collect();
        assert!(arena.retired.len() > 150);
        drop(held);
        for _ in 0..200 {
            arena.slice(1000, |octets| octets.fill(2));
        }
        assert!(arena.retired.len() <= KEPT, "{} blocks", arena.retired.len());
    }

    #[test]
    fn a_slice_longer_than_a_block_is_possible() {
        let mut arena = Arena::new(100);
        assert_eq!(arena.slice(250, |octets| octets.fill(1)), vec![1; 250]);
        assert_eq!(arena.slice(50, |octets| octets.fill(2)), vec![2; 50]);
    }
}
