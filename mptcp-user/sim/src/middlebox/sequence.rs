//! Boxes that protect hosts with guessable initial sequence numbers by replacing them.

use super::flows::Flows;
use super::{Middlebox, Way};
use crate::Random;
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, Segment};

/// Shifts the sequence numbers of each connection and direction. DSS mappings survive it because they count
/// from the subflow's initial sequence number (RFC 8684 section 3.3.1).
#[derive(Debug)]
pub struct SequenceRandomiser {
    translate_sack: bool,
    random: Random,
    flows: Flows<[u32; 2]>,
}

impl SequenceRandomiser {
    /// A box that also shifts SACK blocks, or, as some do, forgets to.
    pub fn new(translate_sack: bool, random: Random) -> Self {
        Self { translate_sack, random, flows: Flows::new() }
    }
}

impl Middlebox for SequenceRandomiser {
    fn name(&self) -> String {
        let sack = if self.translate_sack { "" } else { " that leaves SACK blocks alone" };
        format!("sequence number randomiser{sack}")
    }
    fn process(&mut self, now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        let [own, other] = self.flows.offsets(now, way, &segment, &mut self.random);
        segment.seq += own;
        if segment.flags.has(Flags::ACK) {
            segment.ack = segment.ack - other;
        }
        if self.translate_sack {
            for block in &mut segment.options.sack {
                block.start = block.start - other;
                block.end = block.end - other;
            }
        }
        out.push(segment);
    }
}
