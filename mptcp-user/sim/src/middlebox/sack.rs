//! A box, or a peer, whose SACK blocks are wrong.

use super::{Middlebox, Way};
use crate::Random;
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, OPTION_SPACE, SackBlock, Segment};

/// Replaces the SACK blocks of some acknowledgments by blocks that begin and end at any octet within 64 KiB
/// above the acknowledgment, and name what never arrived. RFC 2018 section 8 lets a sender rely on none of
/// them.
#[derive(Debug)]
pub struct SackLiar {
    random: Random,
}

impl SackLiar {
    /// A box that lies in one acknowledgment of four.
    pub fn new(random: Random) -> Self {
        Self { random }
    }
}

impl Middlebox for SackLiar {
    fn name(&self) -> String {
        "SACK liar".into()
    }
    fn process(&mut self, _now: Instant, _way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        let plain = segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::SYN);
        if plain && self.random.chance(0.25) {
            let honest = segment.options.sack.clone();
            segment.options.sack.clear();
            for _ in 0..self.random.between(1, 3) {
                let start = segment.ack + self.random.between(1, 65_000) as u32;
                let end = start + self.random.between_log(1, 30_000) as u32;
                segment.options.sack.push(SackBlock { start, end });
            }
            if segment.options.wire_len() > OPTION_SPACE {
                segment.options.sack = honest;
            }
        }
        out.push(segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks are put in where there is room for them, and nothing else changes.
    #[test]
    fn some_acknowledgments_carry_other_blocks() {
        let mut liar = SackLiar::new(Random::new(1));
        let mut segment = Segment::new(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        segment.flags = Flags::ACK;
        let mut out = Vec::new();
        for _ in 0..100 {
            liar.process(Instant::ZERO, Way::Forward, segment.clone(), &mut out);
        }
        let lies = out.iter().filter(|segment| !segment.options.sack.is_empty()).count();
        assert!((10..50).contains(&lies), "{lies} of 100");
        for mut passed in out {
            assert!(passed.options.wire_len() <= OPTION_SPACE);
            passed.options.sack.clear();
            assert_eq!(passed, segment);
        }
    }
}
