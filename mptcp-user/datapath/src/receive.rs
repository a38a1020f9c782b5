//! From a frame in the UMEM to a [`Segment`]: parsed, its checksum verified, its payload copied out once.

use super::arena::Arena;
use mptcp_proto::wire::packet::{ParseError, parse_headers};
use mptcp_proto::wire::{Checksum, Payload, Segment};

/// Payload up to this length comes from an arena of small blocks: a few octets that wait for an application must
/// not hold on to a large one.
const SMALL: usize = 1024;
const SMALL_BLOCK: usize = 16 << 10;
/// A block waits for the slowest of those that have something in it: the smaller it is, the fewer wait for others. Two super-segments.
const LARGE_BLOCK: usize = 128 << 10;

/// Part of the memory limit that slices may hold on to beside their own length, in each size of blocks, and
/// what they may in any case.
const PART: u64 = 32;
const LEAST_BOUND: u64 = 1 << 20;

/// Why a packet was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DropReason {
    /// It can't be parsed.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// Its TCP checksum is wrong.
    #[error("wrong TCP checksum")]
    Checksum,
}

/// Counters of received packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ReceiveCounters {
    /// Packets taken out of the rings (super-segments count once).
    pub packets: u64,
    /// Octets of payload in them.
    pub octets: u64,
    /// Packets that could not be parsed.
    pub malformed: u64,
    /// Packets with a wrong TCP checksum.
    pub bad_checksum: u64,
    /// Packets that were put together with the one before.
    pub coalesced: u64,
    /// Packets whose octets were not copied because nobody would have taken them.
    #[serde(default)]
    pub refused: u64,
    /// Times that all octets that waited were copied, because they held on to much more memory than they
    /// filled.
    #[serde(default)]
    pub compactions: u64,
    /// Rounds in which packets were received.
    pub batches: u64,
}

/// Makes segments of packets.
pub struct Receiver {
    large: Arena,
    small: Arena,
    /// What was counted so far.
    pub counters: ReceiveCounters,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::with_limit(1 << 30)
    }
}

impl Receiver {
    /// A receiver for an endpoint that may hold `limit` octets.
    pub fn with_limit(limit: u64) -> Self {
        let bound = usize::try_from((limit / PART).clamp(LEAST_BOUND, 32 << 20)).unwrap_or(1 << 20);
        Self {
            large: Arena::new(LARGE_BLOCK, bound),
            small: Arena::new(SMALL_BLOCK, bound),
            counters: ReceiveCounters::default(),
        }
    }

    /// Slices hold on to much more memory than they fill: those that wait are to be copied.
    pub fn wants_compaction(&self) -> bool {
        self.large.wants_compaction() || self.small.wants_compaction()
    }

    /// They have been.
    pub fn compacted(&mut self) {
        self.counters.compactions += 1;
        self.large.compacted();
        self.small.compacted();
    }

    /// Slices that are given away for long had better be copied.
    pub fn is_tight(&self) -> bool {
        self.large.is_tight() || self.small.is_tight()
    }

    /// Parses a packet that lies in several buffers, the headers in the first.
    ///
    /// # Errors
    /// The packet is to be dropped.
    pub fn segment(&mut self, buffers: &[&[u8]]) -> Result<Segment, DropReason> {
        self.segment_if(buffers, |_, _| true)
    }

    /// As [`segment`](Self::segment), but octets that are not `wanted`, which is asked with the headers and
    /// their number, are verified and left where they are: the payload is [hollow](Payload::hollow) then.
    ///
    /// # Errors
    /// The packet is to be dropped.
    pub fn segment_if(
        &mut self,
        buffers: &[&[u8]],
        wanted: impl FnOnce(&Segment, usize) -> bool,
    ) -> Result<Segment, DropReason> {
        self.counters.packets += 1;
        let result = self.parse(buffers, wanted);
        match &result {
            Ok(segment) => self.counters.octets += segment.payload.len() as u64,
            Err(DropReason::Malformed(_)) => self.counters.malformed += 1,
            Err(DropReason::Checksum) => self.counters.bad_checksum += 1,
        }
        result
    }

    fn parse(
        &mut self,
        buffers: &[&[u8]],
        wanted: impl FnOnce(&Segment, usize) -> bool,
    ) -> Result<Segment, DropReason> {
        let head = buffers.first().copied().unwrap_or_default();
        let frame_len = buffers.iter().map(|buffer| buffer.len()).sum();
        let headers = parse_headers(head, frame_len)?;
        let len = headers.payload_len;
        if len == 0 {
            let valid = headers.has_partial_checksum() || headers.has_valid_checksum(Checksum::new());
            return if valid { Ok(headers.segment) } else { Err(DropReason::Checksum) };
        }
        let partial = headers.has_partial_checksum();
        let mut sum = Checksum::new();
        if !wanted(&headers.segment, len) {
            self.counters.refused += 1;
            let mut skip = headers.payload_offset;
            let mut left = if partial { 0 } else { len };
            for buffer in buffers {
                let octets = buffer.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(buffer.len());
                sum.add(&octets[..octets.len().min(left)]);
                left = left.saturating_sub(octets.len());
            }
            if !partial && !headers.has_valid_checksum(sum) {
                return Err(DropReason::Checksum);
            }
            let mut segment = headers.segment;
            segment.payload = Payload::hollow(len);
            return Ok(segment);
        }
        let arena = if len <= SMALL { &mut self.small } else { &mut self.large };
        let payload = arena.slice(len, |mut to| {
            let mut skip = headers.payload_offset;
            for buffer in buffers {
                let from = buffer.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(buffer.len());
                let part = from.len().min(to.len());
                let (now, later) = to.split_at_mut(part);
                if partial {
                    now.copy_from_slice(&from[..part]);
                } else {
                    sum.add_copying(&from[..part], now);
                }
                to = later;
            }
        });
        if !partial && !headers.has_valid_checksum(sum) {
            return Err(DropReason::Checksum);
        }
        let mut segment = headers.segment;
        segment.payload.push(payload);
        Ok(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_proto::wire::packet::{ChecksumMode, LinkHeader, MAX_HEADERS, emit_headers};
    use mptcp_proto::wire::{Flags, SeqNumber};

    fn frame(len: usize, ipv6: bool, mode: ChecksumMode) -> (Segment, Vec<u8>) {
        let (src, dst) = if ipv6 { ("[fd00::1]:1", "[fd00::2]:2") } else { ("10.0.0.1:1", "10.0.0.2:2") };
        let mut segment = Segment::new(src.parse().expect("address"), dst.parse().expect("address"));
        segment.flags = Flags::ACK;
        segment.seq = SeqNumber(77);
        segment.payload = (0..len).map(|i| (i * 31) as u8).collect::<Vec<_>>().into();
        let mut headers = [0; MAX_HEADERS];
        let layout = emit_headers(&segment, Some(&LinkHeader::default()), mode, &mut headers).expect("fits");
        let mut frame = headers[..layout.len].to_vec();
        frame.extend(segment.payload.to_vec());
        (segment, frame)
    }

    #[test]
    fn packets_in_any_number_of_buffers_give_the_same_segment() {
        let mut receiver = Receiver::default();
        for len in [0, 1, 1400, 1447, 60_000] {
            for ipv6 in [false, true] {
                for mode in [ChecksumMode::Full, ChecksumMode::Partial] {
                    let (segment, frame) = frame(len, ipv6, mode);
                    for piece in [frame.len(), 3840, 1001, 100] {
                        let buffers: Vec<&[u8]> = frame.chunks(piece).collect();
                        let got = receiver.segment(&buffers).expect("a segment");
                        assert_eq!(got.payload.to_vec(), segment.payload.to_vec());
                        assert_eq!((got.src, got.dst, got.seq), (segment.src, segment.dst, segment.seq));
                    }
                }
            }
        }
        assert_eq!(receiver.counters.bad_checksum, 0);
    }

    #[test]
    fn octets_that_nobody_wants_are_verified_and_not_copied() {
        let mut receiver = Receiver::default();
        for mode in [ChecksumMode::Full, ChecksumMode::Partial] {
            let (segment, frame) = frame(1447, true, mode);
            for piece in [frame.len(), 1001, 100] {
                let buffers: Vec<&[u8]> = frame.chunks(piece).collect();
                let got = receiver.segment_if(&buffers, |headers, octets| {
                    assert_eq!((headers.seq, octets), (segment.seq, 1447));
                    false
                });
                let got = got.expect("a segment");
                assert!(got.payload.is_hollow() && got.seq_len() == 1447);
            }
        }
        let (_, mut broken) = frame(1447, false, ChecksumMode::Full);
        broken[1000] ^= 1;
        assert_eq!(receiver.segment_if(&[&broken], |_, _| false), Err(DropReason::Checksum));
        assert_eq!(receiver.counters.refused, 7);
    }

    #[test]
    fn every_flipped_bit_of_the_segment_is_noticed() {
        let mut receiver = Receiver::default();
        let (_, frame) = frame(61, false, ChecksumMode::Full);
        // From the TCP header on; 14 + 20 octets are Ethernet's and IP's.
        for bit in 34 * 8..frame.len() * 8 {
            let mut broken = frame.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let (front, back) = broken.split_at(60);
            assert!(receiver.segment(&[front, back]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn truncated_packets_are_dropped() {
        let mut receiver = Receiver::default();
        let (_, frame) = frame(500, true, ChecksumMode::Full);
        for len in 0..frame.len() {
            assert!(receiver.segment(&[&frame[..len]]).is_err(), "{len} octets");
        }
        assert!(receiver.segment(&[]).is_err());
    }
}
