//! Memory for what applications write: blocks that all streams of a stack fill in turn.
//!
//! A block is free again when the last of the slices that were cut from it is gone, which is when the peer has acknowledged
//! them, and whoever needs one next gets the one that became free last: it is in the caches, and there are never many more
//! blocks than hold something.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Octets of a block.
pub(super) const BLOCK: usize = 64 << 10;
/// The first block of a stream has so many octets, each one after it twice as many; none of these is used again. What is
/// smaller has memory of its own: who says little now and then keeps no block for it.
const FIRST: usize = 512;
/// So many free blocks are kept, and one more for each so many that are in use.
const KEPT: usize = 8;
const KEPT_PER: usize = 4;

/// The blocks of a stack.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    stock: Mutex<Stock>,
}

#[derive(Debug, Default)]
struct Stock {
    /// The one that became free last is at the end.
    free: VecDeque<BytesMut>,
    in_use: usize,
}

impl Blocks {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        // Nothing panics while it is locked.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> BytesMut {
        let mut stock = self.stock();
        stock.in_use += 1;
        let block = stock.free.pop_back();
        drop(stock);
        block.unwrap_or_else(|| BytesMut::zeroed(BLOCK))
    }

    fn give_back(&self, block: Option<BytesMut>) {
        let mut stock = self.stock();
        stock.in_use -= 1;
        stock.free.extend(block);
        let kept = KEPT + stock.in_use / KEPT_PER;
        let surplus = stock.free.len().saturating_sub(kept);
        // Freed when the lock is not held any more.
        let surplus: Vec<_> = stock.free.drain(..surplus).collect();
        drop(stock);
        drop(surplus);
    }
}

/// A block of which slices may be somewhere. It goes with the last of them.
#[derive(Debug)]
struct Home {
    blocks: Arc<Blocks>,
    /// What was left when it was used up: all of the block, once no slice refers to it.
    rest: OnceLock<BytesMut>,
}

impl Drop for Home {
    fn drop(&mut self) {
        let block = self.rest.take().and_then(|mut block| {
            block.clear();
            if !block.try_reclaim(BLOCK) {
                return None;
            }
            let capacity = BLOCK.min(block.capacity());
            // SAFETY: the block was made of zeroed octets, all of them initialised, and has been reclaimed from its start:
            // nobody else refers to it.
            unsafe { block.set_len(capacity) };
            Some(block)
        });
        self.blocks.give_back(block);
    }
}

/// A slice that keeps the way home. The octets go first.
struct Slice {
    octets: Bytes,
    _home: Arc<Home>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// The block that one stream is filling.
#[derive(Debug, Default)]
pub(super) struct Filling {
    left: BytesMut,
    home: Option<Arc<Home>>,
    /// Octets of the next block.
    next: usize,
}

impl Filling {
    /// A slice of `len` octets, at most [`BLOCK`], that `write` fills.
    pub(super) fn slice(&mut self, blocks: &Arc<Blocks>, len: usize, write: impl FnOnce(&mut [u8])) -> Bytes {
        if len < FIRST {
            let mut own = BytesMut::zeroed(len);
            write(&mut own);
            return own.freeze();
        }
        if self.left.len() < len {
            self.next_block(blocks, len);
        }
        let mut slice = self.left.split_to(len);
        write(&mut slice);
        let octets = slice.freeze();
        let Some(home) = self.home.clone() else { return octets };
        if self.left.is_empty() {
            self.retire();
        }
        Bytes::from_owner(Slice { octets, _home: home })
    }

    #[cold]
    fn next_block(&mut self, blocks: &Arc<Blocks>, len: usize) {
        self.retire();
        self.next = (2 * self.next).max(FIRST).max(len.next_power_of_two()).min(BLOCK);
        if self.next < BLOCK {
            self.left = BytesMut::zeroed(self.next);
        } else {
            self.left = blocks.take();
            self.home = Some(Arc::new(Home { blocks: blocks.clone(), rest: OnceLock::new() }));
        }
    }

    fn retire(&mut self) {
        let rest = std::mem::take(&mut self.left);
        if let Some(home) = self.home.take() {
            let _ = home.rest.set(rest);
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.retire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Blocks {
        /// In use, and free.
        fn count(&self) -> (usize, usize) {
            let stock = self.stock();
            (stock.in_use, stock.free.len())
        }
    }

    #[test]
    fn slices_keep_their_octets_while_blocks_are_used_again() {
        let blocks = Arc::new(Blocks::default());
        let mut streams: Vec<Filling> = (0..5).map(|_| Filling::default()).collect();
        let mut held = VecDeque::new();
        for round in 0..3000usize {
            let len = round * 7919 % BLOCK;
            let fill = round as u8;
            held.push_back((len, fill, streams[round % 5].slice(&blocks, len, |octets| octets.fill(fill))));
            if held.len() > 30 {
                // Not in the order in which they were cut.
                held.swap_remove_back(round % 30);
            }
            for (len, fill, slice) in &held {
                assert_eq!(slice.len(), *len);
                assert!(slice.iter().all(|octet| octet == fill));
            }
        }
        let (in_use, free) = blocks.count();
        assert!(in_use <= 5 + held.len(), "{in_use} blocks for what {} hold", held.len());
        assert!(free <= KEPT + in_use / KEPT_PER, "{free} free");
    }

    #[test]
    fn what_was_needed_once_is_given_back() {
        let blocks = Arc::new(Blocks::default());
        let mut stream = Filling::default();
        let held: Vec<Bytes> =
            (0..200).map(|_| stream.slice(&blocks, BLOCK, |octets| octets.fill(1))).collect();
        assert_eq!(blocks.count(), (200, 0));
        drop(held);
        assert_eq!(blocks.count(), (0, KEPT));
        // One that is not used up waits for its stream.
        drop(stream.slice(&blocks, BLOCK / 2, |octets| octets.fill(2)));
        assert_eq!(blocks.count(), (1, KEPT - 1));
        drop(stream);
        assert_eq!(blocks.count(), (0, KEPT));
    }

    #[test]
    fn the_block_that_became_free_last_is_filled_next() {
        let blocks = Arc::new(Blocks::default());
        let mut stream = Filling::default();
        let mut slice = || stream.slice(&blocks, BLOCK, |octets| octets.fill(1));
        let (first, second, third) = (slice(), slice(), slice());
        let (one, two) = (first.as_ptr(), second.as_ptr());
        drop((first, second));
        let (fourth, fifth) = (slice(), slice());
        assert_eq!((fourth.as_ptr(), fifth.as_ptr()), (two, one));
        assert!(![one, two].contains(&third.as_ptr()));
    }

    #[test]
    fn one_who_says_little_has_little() {
        let blocks = Arc::new(Blocks::default());
        let mut stream = Filling::default();
        for _ in 0..10 {
            stream.slice(&blocks, FIRST - 1, |octets| octets.fill(1));
        }
        assert_eq!(stream.left.capacity(), 0);
        assert!(stream.home.is_none());
        let mut sizes = Vec::new();
        for _ in 0..400 {
            assert_eq!(stream.slice(&blocks, FIRST, |octets| octets.fill(3)), vec![3; FIRST]);
            sizes.push(stream.next);
        }
        assert_eq!((sizes[0], sizes[399]), (FIRST, BLOCK));
        assert_eq!(blocks.count(), (1, 0));
    }
}
