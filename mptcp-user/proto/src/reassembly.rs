//! Octets that arrive out of order, kept by their offset in the stream until the gap before them is filled.
//!
//! Used at both levels: offsets count from the start of the subflow's stream, or from the first octet of data,
//! as 64-bit numbers that never wrap.

use super::Instant;
use super::memory::PIECE;
use crate::wire::{JOINED, Payload, SMALL};
use std::collections::BTreeMap;

/// Octets that follow each other, and when they came: small pieces that were put together, the first of them.
#[derive(Debug)]
struct Range {
    octets: Payload,
    arrived: Instant,
    /// It shares no memory with anything else.
    own: bool,
}

impl Range {
    fn len(&self) -> usize {
        self.octets.len()
    }
}

/// Ranges beyond the next expected octet, disjoint, keyed by their first offset.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reassembly {
    #[serde(skip)]
    ranges: BTreeMap<u64, Range>,
    /// The same octets as contiguous blocks, start to end: what SACK tells the peer, however many segments
    /// a block came in.
    #[serde(skip)]
    blocks: BTreeMap<u64, u64>,
    octets: usize,
    /// First offsets of ranges that may hold on to more memory than they fill; those that were taken since
    /// included.
    #[serde(skip)]
    loose: Vec<u64>,
}

impl Reassembly {
    /// Octets held.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    /// Octets held, and what holding them costs.
    pub(crate) fn cost(&self) -> u64 {
        self.octets as u64 + PIECE * self.ranges.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Keeps what is new of `payload` at `start`. Of octets that came twice the first ones stay: a peer that
    /// sends different octets for one offset can't change what was received. Gives how many octets were new.
    #[allow(clippy::needless_pass_by_value)] // its slices are kept
    pub(crate) fn insert(&mut self, now: Instant, start: u64, payload: Payload) -> usize {
        let before = self.octets;
        let end = start + payload.len() as u64;
        let mut at = start;
        if let Some((&first, held)) = self.ranges.range(..=start).next_back() {
            at = at.max(first + held.len() as u64);
        }
        while at < end {
            let next =
                self.ranges.range(at..end).next().map(|(&first, held)| (first, first + held.len() as u64));
            let (gap_end, resume) = next.unwrap_or((end, end));
            if at < gap_end {
                let part = payload.slice((at - start) as usize, (gap_end - start) as usize);
                self.octets += part.len();
                self.keep(now, at, part);
            }
            at = resume;
        }
        if self.octets > before {
            self.merge(start, end);
        }
        self.octets - before
    }

    /// Keeps octets that were not there. Small pieces, which a peer may make as small as it likes, are put behind the one
    /// before, or get memory of their own: they must not hold on to much larger blocks.
    fn keep(&mut self, now: Instant, at: u64, mut part: Payload) {
        if part.len() < SMALL {
            if let Some((&first, held)) = self.ranges.range_mut(..at).next_back()
                && first + held.len() as u64 == at
                && held.len() + part.len() <= JOINED
            {
                held.octets.append_joined(part);
                return;
            }
            part.detach_small();
            self.ranges.insert(at, Range { octets: part, arrived: now, own: true });
            return;
        }
        self.ranges.insert(at, Range { octets: part, arrived: now, own: false });
        if self.loose.len() > 2 * self.ranges.len() + 16 {
            let ranges = &self.ranges;
            self.loose.retain(|start| ranges.get(start).is_some_and(|range| !range.own));
        }
        self.loose.push(at);
    }

    /// Gives all that is held memory of its own, exactly as much as it needs. Each octet is copied once at
    /// most, however often this is called.
    pub(crate) fn compact(&mut self) {
        for start in std::mem::take(&mut self.loose) {
            if let Some(range) = self.ranges.get_mut(&start)
                && !std::mem::replace(&mut range.own, true)
            {
                range.octets.detach();
            }
        }
    }

    /// Adds `start..end` to the blocks, all of which is held now.
    fn merge(&mut self, mut start: u64, mut end: u64) {
        if let Some((&first, &last)) = self.blocks.range(..=start).next_back()
            && last >= start
        {
            start = first;
            end = end.max(last);
        }
        while let Some((&first, &last)) = self.blocks.range(start..=end).next() {
            end = end.max(last);
            self.blocks.remove(&first);
        }
        self.blocks.insert(start, end);
    }

    /// Forgets the blocks before `next`.
    fn cut_blocks(&mut self, next: u64) {
        while let Some(entry) = self.blocks.first_entry() {
            if *entry.key() >= next {
                break;
            }
            let end = entry.remove();
            if end > next {
                self.blocks.insert(next, end);
            }
        }
    }

    /// Takes the range that begins at or before `next` and reaches beyond it, cut to begin there. Ranges that
    /// lie wholly before `next` are dropped. With it, when it came.
    pub(crate) fn take(&mut self, next: u64) -> Option<(Payload, Instant)> {
        while let Some(entry) = self.ranges.first_entry() {
            let start = *entry.key();
            if start > next {
                return None;
            }
            let Range { octets: mut payload, arrived, .. } = entry.remove();
            self.octets -= payload.len();
            let end = start + payload.len() as u64;
            self.cut_blocks(end);
            if end > next {
                payload.advance((next - start) as usize);
                return Some((payload, arrived));
            }
        }
        None
    }

    /// The contiguous block around `offset`: what a SACK block for it covers.
    pub(crate) fn block_around(&self, offset: u64) -> Option<(u64, u64)> {
        let (&start, &end) = self.blocks.range(..=offset).next_back()?;
        (end > offset).then_some((start, end))
    }

    /// The first octets of `start..end` that are held already and follow each other.
    pub(crate) fn first_overlap(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        if self.blocks.is_empty() {
            return None;
        }
        if let Some((_, last)) = self.block_around(start) {
            return Some((start, last.min(end)));
        }
        let (&first, &last) = self.blocks.range(start..end).next()?;
        Some((first, last.min(end)))
    }

    /// End of the last octet held.
    pub(crate) fn end(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(&start, held)| start + held.len() as u64)
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.loose = Vec::new();
        self.ranges.clear();
        self.blocks.clear();
        self.octets = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_octets_for_an_offset_stay() {
        let mut held = Reassembly::default();
        assert_eq!(held.insert(Instant::ZERO, 10, b"abc".to_vec().into()), 3);
        assert_eq!(held.insert(Instant::ZERO, 8, b"zzXXXzz".to_vec().into()), 4);
        assert_eq!(held.block_around(12), Some((8, 15)));
        assert_eq!(held.take(7), None);
        let mut all = Vec::new();
        let mut next = 8;
        while let Some((payload, _)) = held.take(next) {
            next += payload.len() as u64;
            all.extend(payload.to_vec());
        }
        assert_eq!(all, b"zzabczz");
        assert!(held.is_empty() && held.octets() == 0);
    }

    #[test]
    fn single_octets_that_follow_each_other_cost_little_more_than_themselves() {
        let block = bytes::Bytes::from(vec![7; 20_000]);
        let mut held = Reassembly::default();
        for at in 0..20_000usize {
            held.insert(Instant::ZERO, 100 + at as u64, block.slice(at..=at).into());
        }
        assert!(held.cost() < 20_000 + 10 * PIECE, "{}", held.cost());
        assert_eq!(held.block_around(100), Some((100, 20_100)));
        let mut next = 100;
        while let Some((payload, _)) = held.take(next) {
            next += payload.len() as u64;
        }
        assert_eq!((next, held.cost()), (20_100, 0));
    }

    #[test]
    fn what_is_held_lets_go_of_larger_blocks_once_it_is_compacted() {
        let mut held = Reassembly::default();
        let mut blocks = Vec::new();
        for at in 0..50u64 {
            let block = bytes::Bytes::from(vec![at as u8; 128 << 10]);
            held.insert(Instant::ZERO, 10 + at * 2000, block.slice(..1500).into());
            blocks.push(block);
        }
        assert!(blocks.iter().all(|block| !block.is_unique()));
        held.compact();
        assert!(blocks.iter().all(bytes::Bytes::is_unique));
        let before: Vec<_> = held.ranges.values().map(|range| range.octets.chunks()[0].as_ptr()).collect();
        held.compact();
        let after: Vec<_> = held.ranges.values().map(|range| range.octets.chunks()[0].as_ptr()).collect();
        assert_eq!(before, after, "copied once");
        for at in 0..50u64 {
            let (payload, _) = held.take(10 + at * 2000).expect("held");
            assert_eq!(payload.to_vec(), vec![at as u8; 1500]);
        }
    }

    #[test]
    fn ranges_that_come_and_go_leave_no_trace() {
        let mut held = Reassembly::default();
        for at in 0..10_000u64 {
            held.insert(Instant::ZERO, 1 + at * 2000, vec![0; 2000].into());
            assert!(held.take(1 + at * 2000).is_some());
        }
        assert!(held.loose.len() <= 20, "{}", held.loose.len());
    }

    proptest! {
        #[test]
        fn any_order_and_overlap_gives_the_stream(pieces in prop::collection::vec((0u64..200, 1usize..60), 1..60)) {
            let stream: Vec<u8> = (0..=255).collect();
            let mut held = Reassembly::default();
            let mut have = [false; 256];
            for &(start, len) in &pieces {
                let end = (start as usize + len).min(stream.len());
                let fresh = have[start as usize..end].iter().filter(|octet| !**octet).count();
                have[start as usize..end].fill(true);
                let octets = stream[start as usize..end].to_vec();
                prop_assert_eq!(held.insert(Instant::ZERO, start, octets.into()), fresh);
            }
            prop_assert_eq!(held.octets(), have.iter().filter(|octet| **octet).count());
            let mut next = 0u64;
            while let Some((&start, _)) = held.ranges.first_key_value() {
                let block = held.block_around(start).unwrap();
                prop_assert!(have[block.0 as usize..block.1 as usize].iter().all(|octet| *octet));
                prop_assert!(block.1 == 256 || !have[block.1 as usize]);
                next = next.max(start);
                while let Some((payload, _)) = held.take(next) {
                    prop_assert_eq!(payload.to_vec(), &stream[next as usize..next as usize + payload.len()]);
                    next += payload.len() as u64;
                }
                prop_assert_eq!(next, block.1);
            }
        }
    }
}
