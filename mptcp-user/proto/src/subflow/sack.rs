//! SACK blocks as they come in: which of them can be believed (RFC 2018 section 3, RFC 2883 section 5).
//!
//! Some boxes replace the sequence numbers of a connection and forget those in SACK blocks. What arrives then lies
//! outside of everything that was sent, always and by the same distance. Such a subflow does without SACK, in both
//! directions, and finds losses by duplicate acknowledgments (RFC 6582) instead.

use super::send::SendSide;
use crate::wire::SackBlock;
use arrayvec::ArrayVec;

/// Acknowledgments in a row whose blocks are all impossible before SACK is given up: as many as make duplicate
/// acknowledgments a loss.
const PATIENCE: u8 = 3;
/// A duplicate is reported soon after it came: no further back than the window, and at least this.
const DUPLICATE_REACH: i64 = 1 << 20;

/// What the SACK option of one acknowledgment says, in offsets of sequence space.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Octets that have arrived beyond the acknowledged ones.
    pub(crate) arrived: ArrayVec<(u64, u64), 4>,
    /// The first block reports so many octets that came twice.
    pub(crate) duplicate: Option<u64>,
}

/// Judges the SACK blocks of one subflow's peer.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct SackIntake {
    /// At least one block was possible.
    sound: bool,
    /// Acknowledgments in a row without a possible block.
    impossible: u8,
}

impl SackIntake {
    /// Takes the blocks of an acknowledgment of everything before `ack`. None: they have been impossible so often,
    /// and never anything else, that someone on the path spoils them.
    pub(crate) fn take(&mut self, snd: &SendSide, ack: u64, blocks: &[SackBlock]) -> Option<Blocks> {
        let mut taken = Blocks::default();
        let (ack, nxt) = (ack as i64, snd.nxt as i64);
        let reach = DUPLICATE_REACH.max(snd.edge.saturating_sub(snd.una) as i64);
        for (place, block) in blocks.iter().enumerate() {
            let (start, end) = (snd.offset(block.start), snd.offset(block.end));
            if start >= end || end > nxt {
                continue;
            }
            // A duplicate is told first: below the acknowledged octets, or within the second block.
            let within = |other: &SackBlock| snd.offset(other.start) <= start && end <= snd.offset(other.end);
            let below = start >= 1.max(ack - reach) && end <= ack;
            if place == 0 && (below || (start >= ack && blocks.get(1).is_some_and(within))) {
                taken.duplicate = Some((end - start) as u64);
            } else if start >= ack {
                let _ = taken.arrived.try_push((start as u64, end as u64));
            }
        }
        if taken != Blocks::default() {
            self.sound = true;
        } else if !blocks.is_empty() && !self.sound {
            self.impossible += 1;
            if self.impossible >= PATIENCE {
                return None;
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SeqNumber;

    /// A sender with a window of 100 kB that has sent octets 1 to 50 000, of which 20 000 are acknowledged.
    fn sender() -> SendSide {
        let mut snd = SendSide::new(SeqNumber(u32::MAX - 30_000));
        (snd.una, snd.nxt, snd.edge) = (20_000, 50_000, 120_000);
        snd
    }

    fn blocks(snd: &SendSide, ranges: &[(u64, u64)]) -> Vec<SackBlock> {
        ranges.iter().map(|(start, end)| SackBlock { start: snd.seq(*start), end: snd.seq(*end) }).collect()
    }

    #[test]
    fn blocks_in_flight_have_arrived_and_one_before_them_came_twice() {
        let snd = sender();
        let mut intake = SackIntake::default();
        let given = blocks(&snd, &[(15_000, 16_000), (30_000, 31_000), (40_000, 50_000)]);
        let taken = intake.take(&snd, 20_000, &given).unwrap();
        assert_eq!(taken.arrived[..], [(30_000, 31_000), (40_000, 50_000)]);
        assert_eq!(taken.duplicate, Some(1000));
        let given = blocks(&snd, &[(30_000, 30_500), (30_000, 31_000)]);
        let taken = intake.take(&snd, 20_000, &given).unwrap();
        assert_eq!((&taken.arrived[..], taken.duplicate), (&[(30_000, 31_000)][..], Some(500)));
    }

    #[test]
    fn impossible_blocks_are_neither_arrivals_nor_duplicates() {
        let snd = sender();
        let mut intake = SackIntake::default();
        let impossible = [(40_000, 50_001), (31_000, 30_000), (60_000, 70_000)];
        for range in impossible {
            let mut fresh = SackIntake::default();
            assert_eq!(fresh.take(&snd, 20_000, &blocks(&snd, &[range])), Some(Blocks::default()));
        }
        // Far behind the acknowledged octets: two billion octets ago as a sequence number.
        let far = SackBlock { start: snd.seq(20_000) - 2_000_000_000, end: snd.seq(20_000) - 1_999_999_000 };
        assert_eq!(intake.take(&snd, 20_000, &[far]), Some(Blocks::default()));
    }

    #[test]
    fn sack_is_given_up_when_no_block_was_ever_possible() {
        let snd = sender();
        let wrong = blocks(&snd, &[(900_000, 901_000)]);
        let mut intake = SackIntake::default();
        assert!(intake.take(&snd, 20_000, &wrong).is_some());
        assert!(intake.take(&snd, 20_000, &[]).is_some());
        assert!(intake.take(&snd, 20_000, &wrong).is_some());
        assert!(intake.take(&snd, 20_000, &wrong).is_none());
        let mut sound = SackIntake::default();
        assert!(sound.take(&snd, 20_000, &blocks(&snd, &[(30_000, 31_000)])).is_some());
        assert!((0..10).all(|_| sound.take(&snd, 20_000, &wrong).is_some()));
    }
}
