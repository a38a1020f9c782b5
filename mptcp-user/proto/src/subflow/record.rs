//! Something in flight: a (super-)segment, and what became of each packet of it.
//!
//! The peer's SACK blocks are rounded inwards to the packets that were sent: a peer acknowledges whole
//! packets, and blocks that begin at any octet must not make anything that is kept grow. One bit per packet
//! holds what is known of it.

use super::rate::Snapshot;
use crate::Instant;
use crate::wire::Payload;

/// Packets of one record that can be told apart. In a record of more packets some of them share a fate.
pub(crate) const MAX_PACKETS: u64 = 64;

/// A data sequence mapping as it was sent; retransmissions repeat it unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TxMapping {
    /// Offset in the data stream of the first octet.
    pub(crate) data: u64,
    /// Relative subflow sequence number of the first octet.
    pub(crate) subflow_seq: u32,
    /// Octets, without a DATA_FIN.
    pub(crate) len: u16,
    /// The data ends with the mapping.
    pub(crate) fin: bool,
    /// DSS checksum, where negotiated.
    pub(crate) checksum: Option<u16>,
}

/// Packets of a record: bit `n` is the packet that begins `n` packet sizes behind the record's origin.
pub(super) type Packets = u64;

/// A (super-)segment or the part of one that was sent at a time of its own.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Offset in sequence space: the SYN is 0, the first data 1.
    pub(crate) start: u64,
    pub(crate) payload: Payload,
    pub(crate) mapping: Option<TxMapping>,
    /// The subflow's FIN comes after the payload.
    pub(crate) fin: bool,
    /// Octets of it in each packet, as it was sent last.
    packet: u64,
    /// Octets that each bit of `sacked` and `lost` stands for: a packet, or several where there are more than
    /// bits.
    unit: u64,
    /// Where the packet begins that the first bit stands for: at `start`, or before it if the packet was
    /// acknowledged in part.
    origin: u64,
    /// It is a probe of the path's MTU: one packet, larger than others are. Not any more once it is sent
    /// again.
    pub(super) probe: bool,
    pub(super) sent_at: Instant,
    pub(crate) retransmitted: bool,
    /// What the rate sampler knew when it was sent last.
    pub(super) snapshot: Snapshot,
    /// The peer has them out of order.
    pub(super) sacked: Packets,
    /// They are believed lost and were not sent again. Never those that are SACKed.
    pub(super) lost: Packets,
}

impl Record {
    /// Something that is sent for the first time, in packets of `packet` octets.
    pub(super) fn new(
        now: Instant,
        start: u64,
        payload: Payload,
        mapping: Option<TxMapping>,
        fin: bool,
        packet: u64,
    ) -> Self {
        let (retransmitted, sacked, lost, probe) = (false, 0, 0, false);
        let snapshot = Snapshot::default();
        let (unit, origin, sent_at) = (0, start, now);
        let mut record = Self {
            start,
            payload,
            mapping,
            fin,
            packet,
            unit,
            origin,
            probe,
            sent_at,
            retransmitted,
            snapshot,
            sacked,
            lost,
        };
        record.cut_into(packet);
        record
    }

    /// It leaves in packets of this size; nothing is known of them.
    pub(super) fn cut_into(&mut self, packet: u64) {
        self.packet = packet.max(1);
        self.tell_apart(packet);
    }

    /// Its packets have exactly so many octets, which depends on the options that they carry; nothing is
    /// known of them.
    pub(super) fn tell_apart(&mut self, packet: u64) {
        let packet = packet.max(1);
        let several = self.len().div_ceil(packet.saturating_mul(MAX_PACKETS)).max(1);
        self.unit = packet.saturating_mul(several).min(self.len().max(1));
        self.origin = self.start;
        (self.sacked, self.lost) = (0, 0);
    }

    /// The part of the data stream that it has.
    pub(super) fn data(&self) -> Option<(u64, u64)> {
        self.data_of(self.start, self.end())
    }

    /// The part of the data stream that it has between two offsets of its own.
    fn data_of(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let mapping = self.mapping?;
        let skipped = (self.start as u32).wrapping_sub(mapping.subflow_seq);
        let start = mapping.data + u64::from(skipped);
        let octets = self.payload.len() as u64;
        Some((start + (from - self.start).min(octets), start + (to - self.start).min(octets)))
    }

    /// Octets of sequence space.
    pub(super) fn len(&self) -> u64 {
        self.payload.len() as u64 + u64::from(self.fin)
    }

    /// Offset behind the last octet.
    pub(super) fn end(&self) -> u64 {
        self.start + self.len()
    }

    /// Octets in its largest packet.
    pub(super) fn largest_packet(&self) -> u64 {
        self.len().min(self.packet)
    }

    /// All packets.
    pub(super) fn all(&self) -> Packets {
        first((self.end() - self.origin).div_ceil(self.unit))
    }

    /// Packets of unknown fate.
    pub(super) fn undecided(&self) -> Packets {
        self.all() & !(self.sacked | self.lost)
    }

    /// Packets that the peer is not known to have.
    pub(super) fn missing(&self) -> Packets {
        self.all() & !self.sacked
    }

    /// Packets that lie in `from..to` wholly, as far as the record reaches.
    pub(super) fn within(&self, from: u64, to: u64) -> Packets {
        let skipped =
            if from <= self.start { 0 } else { (from.min(self.end()) - self.origin).div_ceil(self.unit) };
        let reached = match to {
            to if to >= self.end() => u64::MAX,
            to => to.saturating_sub(self.origin) / self.unit,
        };
        self.all() & first(reached) & !first(skipped)
    }

    /// Where a packet begins, as far as it belongs to the record.
    fn packet_start(&self, packet: u32) -> u64 {
        (self.origin + u64::from(packet) * self.unit).clamp(self.start, self.end())
    }

    /// Octets of these packets.
    pub(super) fn octets(&self, packets: Packets) -> u64 {
        let packets = packets & self.all();
        if packets == 0 {
            return 0;
        }
        let (low, high) = (packets.trailing_zeros(), 63 - packets.leading_zeros());
        let before = if low == 0 { self.start - self.origin } else { 0 };
        let behind = (self.origin + u64::from(high + 1) * self.unit).saturating_sub(self.end());
        u64::from(packets.count_ones()) * self.unit - before - behind
    }

    /// Octets of these packets before `offset`.
    pub(super) fn octets_before(&self, packets: Packets, offset: u64) -> u64 {
        if offset >= self.end() {
            return self.octets(packets);
        }
        let whole = (offset - self.origin) / self.unit;
        let cut = self.origin + whole * self.unit;
        let mut octets = self.octets(packets & first(whole));
        if packets & bit(whole) != 0 {
            octets += offset - cut.max(self.start);
        }
        octets
    }

    /// From where to where the first packets among these reach that follow each other.
    pub(super) fn first_run(&self, packets: Packets) -> (u64, u64) {
        let low = packets.trailing_zeros().min(63);
        let len = (packets >> low).trailing_ones();
        (self.packet_start(low), self.packet_start(low + len))
    }

    /// From where to where the last packets among these reach that follow each other.
    pub(super) fn last_run(&self, packets: Packets) -> (u64, u64) {
        let high = 64 - packets.leading_zeros();
        let len = (packets << (64 - high.max(1))).leading_ones();
        (self.packet_start(high.saturating_sub(len)), self.packet_start(high))
    }

    /// The parts of the data stream in these packets.
    pub(super) fn data_in(&self, mut packets: Packets) -> impl Iterator<Item = (u64, u64)> + '_ {
        std::iter::from_fn(move || {
            if packets == 0 {
                return None;
            }
            let (from, to) = self.first_run(packets);
            let behind = (to - self.origin).div_ceil(self.unit);
            packets &= !first(behind);
            self.data_of(from, to)
        })
    }

    /// Cuts it in two; the first part, which stays here, gets `octets`. Both keep what is known of their
    /// packets.
    pub(super) fn split_off(&mut self, octets: u64) -> Self {
        let mut rest = self.clone();
        self.payload.truncate(octets as usize);
        self.fin = false;
        rest.skip(self.len());
        let all = self.all();
        (self.sacked, self.lost) = (self.sacked & all, self.lost & all);
        rest
    }

    /// Forgets the first octets.
    pub(super) fn skip(&mut self, octets: u64) {
        self.payload.advance(octets as usize);
        self.start += octets;
        let whole = (self.start - self.origin) / self.unit;
        self.origin += whole * self.unit;
        self.sacked = self.sacked.checked_shr(whole as u32).unwrap_or(0);
        self.lost = self.lost.checked_shr(whole as u32).unwrap_or(0);
    }
}

/// The first packets, so many.
fn first(packets: u64) -> Packets {
    if packets >= MAX_PACKETS { Packets::MAX } else { (1 << packets) - 1 }
}

fn bit(packet: u64) -> Packets {
    if packet >= MAX_PACKETS { 0 } else { 1 << packet }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(len: usize, packet: u64) -> Record {
        Record::new(Instant::ZERO, 100, vec![0; len].into(), None, false, packet)
    }

    #[test]
    fn packets_are_those_that_lie_in_a_range_wholly() {
        let record = record(3500, 1000);
        assert_eq!(record.all(), 0b1111);
        assert_eq!(record.within(0, 5000), 0b1111);
        assert_eq!(record.within(101, 3599), 0b0110);
        assert_eq!(record.within(1100, 2100), 0b0010);
        assert_eq!(record.within(1500, 1501), 0);
        assert_eq!(record.octets(0b1010), 1500);
        assert_eq!(record.first_run(0b0110), (1100, 3100));
        assert_eq!(record.last_run(0b1101), (2100, 3600));
        assert_eq!(record.last_run(0b1011), (3100, 3600));
    }

    #[test]
    fn a_record_of_more_packets_than_bits_tells_groups_of_them_apart() {
        let record = record(64_000, 48);
        assert!(record.all().count_ones() <= 64);
        assert_eq!(record.octets(record.all()), 64_000);
        assert_eq!(record.within(100, 100 + 48 * 21 - 1), 0);
        assert_eq!(record.within(100, 100 + 48 * 21), 1);
    }

    proptest! {
        /// Against a record that remembers each octet.
        #[test]
        fn whatever_is_cut_off_the_rest_keeps_what_is_known_of_its_octets(
            len in 1usize..9000, packet in 150u64..2000, sacked: u64, lost: u64,
            cuts in prop::collection::vec((any::<bool>(), 1u64..3000), 1..5),
        ) {
            let mut record = record(len, packet);
            record.sacked = sacked & record.all();
            record.lost = lost & record.all() & !record.sacked;
            let packet_of = |octet: u64| (octet - 100) / packet;
            let known: Vec<_> = (100..record.end())
                .map(|octet| (record.sacked & bit(packet_of(octet)) != 0, record.lost & bit(packet_of(octet)) != 0))
                .collect();
            for (keep_front, octets) in cuts {
                if octets >= record.len() {
                    continue;
                }
                let rest = record.split_off(octets);
                for part in [&record, &rest] {
                    let range = (part.start - 100) as usize..(part.end() - 100) as usize;
                    let known = &known[range.clone()];
                    let count = |which: fn(&(bool, bool)) -> bool| {
                        known.iter().filter(|known| which(known)).count() as u64
                    };
                    prop_assert_eq!(part.octets(part.sacked), count(|k| k.0));
                    prop_assert_eq!(part.octets(part.lost), count(|k| k.1));
                    prop_assert_eq!(part.octets(part.undecided()), count(|k| !k.0 && !k.1));
                    let half = part.start + part.len() / 2;
                    let before = known[..(half - part.start) as usize].iter().filter(|k| k.0).count() as u64;
                    prop_assert_eq!(part.octets_before(part.sacked, half), before);
                }
                if !keep_front {
                    record = rest;
                }
            }
        }
    }
}
