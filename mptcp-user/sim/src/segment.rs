//! Segments as packets of the simulator.

use super::link::Packet;
use super::queue::Queued;
use super::random::Random;
use mptcp_proto::wire::packet::{ChecksumStatus, LinkHeader, emit_frame, parse_frame};
use mptcp_proto::wire::{Ecn, Segment};

/// Octets of the frame that carries a segment: Ethernet, IP and TCP headers, options, payload.
pub fn frame_len(segment: &Segment) -> usize {
    let ip = if segment.src.is_ipv6() { 40 } else { 20 };
    14 + ip + 20 + segment.options.wire_len() + segment.payload.len()
}

impl Queued for Segment {
    fn wire_len(&self) -> usize {
        frame_len(self)
    }
    fn mark_congestion(&mut self) -> bool {
        let capable = self.ecn != Ecn::NotEct;
        if capable {
            self.ecn = Ecn::Ce;
        }
        capable
    }
}

impl Packet for Segment {
    /// Flips a bit of the frame. The receiver notices by the checksums, unless the bit is one that nothing
    /// covers and nothing depends on.
    fn corrupt(&mut self, random: &mut Random) -> bool {
        let mut frame = Vec::new();
        if emit_frame(self, Some(&LinkHeader::default()), &mut frame).is_err() {
            return false;
        }
        let bit = random.between(0, frame.len() as u64 * 8 - 1) as usize;
        frame[bit / 8] ^= 1 << (bit % 8);
        match parse_frame(&frame) {
            Ok((segment, ChecksumStatus::Valid)) => {
                *self = segment;
                true
            }
            _ => false,
        }
    }
}

/// Builds the packet that a segment is on the wire and parses it again: the segment that the simulator hands
/// over as a value would have survived the real thing.
///
/// # Panics
/// When it would not have: that is what the check is for.
pub fn check_on_the_wire(segment: &Segment) {
    let mut frame = Vec::new();
    if let Err(error) = emit_frame(segment, Some(&LinkHeader::default()), &mut frame) {
        panic!("{segment:?} can't be sent: {error}");
    }
    assert_eq!(frame.len(), frame_len(segment));
    match parse_frame(&frame) {
        Ok((mut parsed, status)) => {
            assert_ne!(status, ChecksumStatus::Wrong, "{segment:?}");
            assert!(parsed.payload.to_vec() == segment.payload.to_vec(), "{segment:?}");
            parsed.payload = segment.payload.clone();
            assert!(parsed == *segment, "sent {segment:?}, received {parsed:?}");
        }
        Err(error) => panic!("{segment:?} can't be received: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_nearly_always_noticed() {
        let mut random = Random::new(3);
        let mut segment = Segment::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        segment.payload = vec![9; 1000].into();
        let mut survived = 0;
        for _ in 0..1000 {
            let mut damaged = segment.clone();
            if damaged.corrupt(&mut random) {
                survived += 1;
                // Only what the TCP checksum does not cover: MAC addresses.
                assert!(damaged.payload.to_vec() == segment.payload.to_vec());
                assert_eq!((damaged.src, damaged.dst, damaged.seq), (segment.src, segment.dst, segment.seq));
            }
        }
        assert!(survived < 60, "{survived}");
    }
}
