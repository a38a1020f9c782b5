//! Application-level gateways: boxes that rewrite what the application says, like those that put an address
//! into FTP's PORT command.

use super::flows::Flows;
use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, Payload, Segment, SeqNumber};
use std::collections::BTreeMap;

/// Replaces octets in the payload that goes one way. The replacement may have another length: sequence
/// numbers and acknowledgments are shifted so that both ends see a consistent TCP connection. Multipath TCP
/// notices by its checksum (RFC 8684 section 3.3.1), or by mappings that do not fit any more.
#[derive(Debug)]
pub struct PayloadChanger {
    way: Way,
    needle: Vec<u8>,
    replacement: Vec<u8>,
    /// Changes made so far, all connections together.
    changes: u64,
    /// Most changes per connection.
    limit: usize,
    flows: Flows<Changes>,
}

/// The changes in one direction of one connection.
#[derive(Debug)]
struct Changes {
    initial: SeqNumber,
    /// Positions, as the sender counts them from the initial sequence number, where a needle began.
    at: BTreeMap<u32, ()>,
    /// Position up to which payload was searched.
    searched: u32,
}

impl PayloadChanger {
    /// A box that replaces the first `limit` occurrences of `needle` in each connection.
    pub fn new(way: Way, needle: &[u8], replacement: &[u8], limit: usize) -> Self {
        Self {
            way,
            needle: needle.to_vec(),
            replacement: replacement.to_vec(),
            changes: 0,
            limit,
            flows: Flows::new(),
        }
    }
    /// How many replacements were made.
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

/// The two lengths of a replacement.
#[derive(Clone, Copy)]
struct Lengths {
    needle: u32,
    replacement: u32,
}

impl Changes {
    /// Where a position of the sender is after the changes. Monotonous: a cut through a needle maps to a cut
    /// through its replacement.
    fn translate(&self, position: u32, lengths: Lengths) -> u32 {
        let mut result = position;
        for at in self.at.keys().take_while(|at| **at < position) {
            let end = at + lengths.needle;
            if position >= end {
                result = result.wrapping_add(lengths.replacement).wrapping_sub(lengths.needle);
            } else {
                let inside = position - at;
                result = result - inside + inside.min(lengths.replacement);
            }
        }
        result
    }
    /// Which position of the sender an acknowledged position stands for: not further than what was received
    /// whole.
    fn translate_back(&self, position: u32, lengths: Lengths) -> u32 {
        let mut result = position;
        for at in self.at.keys() {
            if *at >= result {
                break;
            }
            if result >= at + lengths.replacement {
                result = result.wrapping_add(lengths.needle).wrapping_sub(lengths.replacement);
            } else {
                return *at;
            }
        }
        result
    }
}

impl Middlebox for PayloadChanger {
    fn name(&self) -> String {
        format!("payload changer, {} octets to {}", self.needle.len(), self.replacement.len())
    }
    fn process(&mut self, now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        let lengths =
            Lengths { needle: self.needle.len() as u32, replacement: self.replacement.len() as u32 };
        let forward = way == self.way;
        let own_initial = segment.seq;
        let opens = forward && segment.flags.has(Flags::SYN);
        let changes = self.flows.of(now, way, &segment, || Changes {
            initial: own_initial,
            at: BTreeMap::new(),
            searched: 0,
        });
        if opens && changes.initial != segment.seq {
            *changes = Changes { initial: segment.seq, at: BTreeMap::new(), searched: 0 };
        }
        if !forward {
            if segment.flags.has(Flags::ACK) {
                let initial = changes.initial;
                let back =
                    |seq: SeqNumber| initial + changes.translate_back(seq.0.wrapping_sub(initial.0), lengths);
                segment.ack = back(segment.ack);
                for block in &mut segment.options.sack {
                    (block.start, block.end) = (back(block.start), back(block.end));
                }
            }
            out.push(segment);
            return;
        }
        let start = segment.seq.0.wrapping_sub(changes.initial.0);
        let payload = segment.payload.to_vec();
        let end = start.wrapping_add(payload.len() as u32);
        if start > end || start > u32::MAX / 2 {
            // Before the initial sequence number, or beyond what one box remembers.
            out.push(segment);
            return;
        }
        if end > changes.searched && !payload.is_empty() && !self.needle.is_empty() {
            let mut from = changes.searched.max(start);
            while changes.at.len() < self.limit
                && let Some(rest) = payload.get((from - start) as usize..)
                && let Some(found) = rest.windows(self.needle.len()).position(|window| window == self.needle)
            {
                let at = from + found as u32;
                changes.at.insert(at, ());
                self.changes += 1;
                from = at + lengths.needle;
            }
            changes.searched = end;
        }
        let mut changed = Vec::with_capacity(payload.len());
        let mut position = start;
        for at in changes.at.keys().copied().collect::<Vec<_>>() {
            let after = at + lengths.needle;
            if after <= start || at >= end {
                continue;
            }
            if at > position {
                changed.extend_from_slice(&payload[(position - start) as usize..(at - start) as usize]);
            }
            let cut = |position: u32| {
                if position >= after {
                    self.replacement.len()
                } else {
                    (position.saturating_sub(at) as usize).min(self.replacement.len())
                }
            };
            changed.extend_from_slice(&self.replacement[cut(start)..cut(end)]);
            position = after.min(end);
        }
        changed.extend_from_slice(&payload[(position - start) as usize..]);
        segment.seq = changes.initial + changes.translate(start, lengths);
        segment.payload = Payload::from(changed);
        out.push(segment);
    }
}
