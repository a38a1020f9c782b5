//! The queue of data that a subflow failed to deliver in time: it is to be sent again on another subflow.
//!
//! Ranges leave in the order in which they came. A tree beside the queue finds the neighbours of a new range, because a
//! path that falls silent brings thousands of ranges at once where subflows took turns, and a peer can make it do so again
//! and again: comparing each with all others takes 86 ms for 11,000 ranges.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// A range to be sent again, on another subflow than `not_on` if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reinjection {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) not_on: usize,
}

/// Where a range ends, and the subflow that did not deliver it.
type Rest = (u64, usize);

/// Disjoint ranges of data offsets, first come, first sent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reinjections {
    /// First offsets of the ranges.
    order: VecDeque<u64>,
    /// The ranges by their first offsets: the same as in `order`.
    ranges: BTreeMap<u64, Rest>,
}

impl Reinjections {
    /// Queues those bytes of `start..end` that are not queued yet. A range that continues one of the same subflow becomes
    /// part of it.
    pub(crate) fn add(&mut self, start: u64, end: u64, not_on: usize) {
        let mut next = start;
        while next < end {
            let before = self.ranges.range_mut(..=next).next_back().map(|(_, rest)| rest);
            if let Some((known, _)) = before
                && *known > next
            {
                next = *known;
                continue;
            }
            let joined = before.filter(|(known, subflow)| *known == next && *subflow == not_on);
            // The borrow of the neighbour ends here, so that the one behind can be looked up.
            let joins = joined.is_some();
            let until = self.ranges.range(next..).next().map_or(end, |(start, _)| end.min(*start));
            if joins {
                if let Some((_, (known, _))) = self.ranges.range_mut(..next).next_back() {
                    *known = until;
                }
            } else {
                self.order.push_back(next);
                self.ranges.insert(next, (until, not_on));
            }
            next = until;
        }
    }

    /// The next range, as far as it is not before `una`.
    pub(crate) fn first(&mut self, una: u64) -> Option<Reinjection> {
        self.release(una);
        let start = *self.order.front()?;
        let (end, not_on) = *self.ranges.get(&start)?;
        Some(Reinjection { start, end, not_on })
    }

    /// Forgets what is before `una` at the front of the queue.
    pub(crate) fn release(&mut self, una: u64) {
        while let Some(&start) = self.order.front()
            && start < una
        {
            self.advance(una - start);
        }
    }

    /// Takes bytes from the front of the next range, at most all of it.
    pub(crate) fn advance(&mut self, bytes: u64) {
        let Some(start) = self.order.pop_front() else { return };
        let Some((end, not_on)) = self.ranges.remove(&start) else { return };
        let rest = start.saturating_add(bytes);
        if rest < end {
            self.order.push_front(rest);
            self.ranges.insert(rest, (end, not_on));
        }
    }

    /// A subflow is gone: its place may be another's soon, which is as good as any for what this one did not deliver.
    pub(crate) fn forget_subflow(&mut self, place: usize) {
        for (_, subflow) in self.ranges.values_mut().filter(|(_, subflow)| *subflow == place) {
            *subflow = usize::MAX;
        }
    }

    /// Forgets all ranges.
    pub(crate) fn clear(&mut self) {
        self.order.clear();
        self.ranges.clear();
    }

    /// The ranges in the order in which they leave.
    #[cfg(test)]
    pub(crate) fn queue(&self) -> Vec<(u64, u64, usize)> {
        let range = |start: &u64| (*start, self.ranges[start].0, self.ranges[start].1);
        self.order.iter().map(range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_missing_is_queued() {
        let mut queue = Reinjections::default();
        queue.add(100, 200, 0);
        queue.add(300, 400, 0);
        queue.add(50, 450, 1);
        assert_eq!(queue.queue(), [(100, 200, 0), (300, 400, 0), (50, 100, 1), (200, 300, 1), (400, 450, 1)]);
        queue.add(450, 460, 1);
        assert_eq!(queue.queue()[4], (400, 460, 1));
        queue.add(0, 500, 0);
        assert_eq!(queue.queue()[5..], [(0, 50, 0), (460, 500, 0)]);
    }

    proptest! {
        /// Whatever comes: ranges are disjoint, hold exactly what was added and neither sent nor acknowledged, and queue and
        /// tree agree.
        #[test]
        fn each_byte_is_queued_once(steps in prop::collection::vec((0u8..3, 0u64..200, 0u64..60, 0usize..3), 0..60)) {
            let mut queue = Reinjections::default();
            let (mut wanted, mut una) = ([false; 300], 0);
            for (what, start, len, not_on) in steps {
                match what {
                    0 => {
                        let start = start.max(una);
                        queue.add(start, start + len, not_on);
                        wanted[start as usize..(start + len) as usize].fill(true);
                    }
                    1 => {
                        una = una.max(start);
                        wanted[..una as usize].fill(false);
                    }
                    _ => {
                        if let Some(first) = queue.first(una) {
                            let sent = len.min(first.end - first.start);
                            wanted[first.start as usize..(first.start + sent) as usize].fill(false);
                            queue.advance(sent);
                        }
                    }
                }
                let mut held = [0; 300];
                for (start, end, _) in queue.queue() {
                    prop_assert!(start < end);
                    for count in &mut held[start as usize..end as usize] {
                        *count += 1;
                    }
                }
                prop_assert_eq!(queue.order.len(), queue.ranges.len());
                for (place, count) in held.iter().enumerate().skip(una as usize) {
                    prop_assert_eq!(*count, u8::from(wanted[place]), "at {}", place);
                }
            }
        }
    }
}
