//! The blocks of octets that the peer has reported out of order, already rounded to packets: they tell which
//! part of a report is news, however often the rest of it was reported before.

use std::collections::BTreeMap;

/// What keeping one block costs, about.
const COST: usize = 48;

/// Disjoint blocks that do not touch each other, start to end.
#[derive(Debug, Default)]
pub(super) struct Sacked {
    blocks: BTreeMap<u64, u64>,
}

impl Sacked {
    /// The first part of `from..to` that is in no block.
    pub(super) fn first_gap(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let covered = self.blocks.range(..=from).next_back().map_or(from, |(_, &end)| end.max(from));
        if covered >= to {
            return None;
        }
        let next = self.blocks.range(covered..to).next().map_or(to, |(&start, _)| start);
        Some((covered, next))
    }

    /// Adds a gap, or a part of one.
    pub(super) fn fill(&mut self, start: u64, end: u64) {
        let end = self.blocks.remove(&end).unwrap_or(end);
        match self.blocks.range_mut(..start).next_back() {
            Some((_, last)) if *last == start => *last = end,
            _ => {
                self.blocks.insert(start, end);
            }
        }
    }

    /// Everything before `offset` is acknowledged.
    pub(super) fn acknowledge(&mut self, offset: u64) {
        while let Some(entry) = self.blocks.first_entry() {
            if *entry.key() >= offset {
                break;
            }
            let end = entry.remove();
            if end > offset {
                self.blocks.insert(offset, end);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }

    /// What keeping them costs, in octets.
    pub(super) fn cost(&self) -> usize {
        self.blocks.len() * COST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_until_they_are_filled() {
        let mut sacked = Sacked::default();
        sacked.fill(30, 40);
        sacked.fill(10, 20);
        assert_eq!(sacked.first_gap(0, 100), Some((0, 10)));
        assert_eq!(sacked.first_gap(10, 100), Some((20, 30)));
        assert_eq!(sacked.first_gap(12, 20), None);
        assert_eq!(sacked.first_gap(35, 50), Some((40, 50)));
        sacked.fill(20, 30);
        assert_eq!(sacked.blocks.len(), 1);
        assert_eq!(sacked.first_gap(10, 40), None);
        sacked.acknowledge(25);
        assert_eq!(sacked.first_gap(25, 50), Some((40, 50)));
        sacked.acknowledge(40);
        assert_eq!(sacked.cost(), 0);
    }
}
