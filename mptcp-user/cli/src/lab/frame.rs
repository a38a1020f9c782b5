//! Frames as packets of the emulator.
//!
//! A frame comes with the header that `PACKET_VNET_HDR` puts before it: whether its checksum is partial, and
//! whether it is a super-segment.

use bytes::Bytes;
use mptcp_common::headers::{Headers, Network, PROTOCOL_TCP};
use mptcp_proto::wire::Checksum;
use mptcp_proto::wire::packet::{ChecksumMode, LinkHeader, MAX_HEADERS, emit_headers, parse_headers};
use mptcp_proto::wire::{Flags, Segment, segmentize};
use mptcp_sim::{Packet, Queued, Random, frame_len};

/// Octets before the IP header, which the MTU does not count.
const ETHERNET_LEN: usize = 14;

/// Length of `struct virtio_net_hdr`.
pub(super) const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// One frame on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    octets: Vec<u8>,
    /// Where the checksum is to be summed from and put, if that is still to be done.
    partial: Option<(usize, usize)>,
    /// GSO type and size, for super-segments that can't be cut here.
    gso: (u8, u16),
}

impl Frame {
    /// A whole frame, nothing left to be done to it.
    pub fn new(octets: Vec<u8>) -> Self {
        Self { octets, partial: None, gso: (GSO_NONE, 0) }
    }
    /// Its octets, from the Ethernet header on.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The header for `PACKET_VNET_HDR`.
    pub(super) fn vnet_header(&self) -> [u8; VNET_LEN] {
        let mut header = [0; VNET_LEN];
        if let Some((start, offset)) = self.partial {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&(start as u16).to_ne_bytes());
            header[8..10].copy_from_slice(&(offset as u16).to_ne_bytes());
        }
        if self.gso.0 != GSO_NONE {
            header[1] = self.gso.0;
            let headers = decode(&self.octets).map_or(128, |headers| headers.payload);
            header[2..4].copy_from_slice(&(self.octets.len().min(headers) as u16).to_ne_bytes());
            header[4..6].copy_from_slice(&self.gso.1.to_ne_bytes());
        }
        header
    }

    /// Takes in a frame with its vnet header; super-segments are cut into packets.
    pub(super) fn receive(vnet: &[u8; VNET_LEN], octets: &[u8], mut take: impl FnMut(Frame)) {
        let word = |at: usize| u16::from_ne_bytes([vnet[at], vnet[at + 1]]);
        let partial = (vnet[0] & NEEDS_CSUM != 0).then(|| (usize::from(word(6)), usize::from(word(8))));
        let gso_size = word(4);
        let kind = vnet[1] & !GSO_ECN;
        if matches!(kind, GSO_TCPV4 | GSO_TCPV6)
            && gso_size > 0
            && cut(octets, usize::from(gso_size), &mut take).is_some()
        {
            return;
        }
        take(Frame { octets: octets.to_vec(), partial, gso: (vnet[1], gso_size) });
    }

    /// Computes the checksum that was left for later.
    fn complete_checksum(&mut self) {
        if let Some((start, offset)) = self.partial.take()
            && let Some(covered) = self.octets.get(start..)
        {
            let mut sum = Checksum::new();
            sum.add(covered);
            if let Some(field) = self.octets.get_mut(start + offset..start + offset + 2) {
                field.copy_from_slice(&sum.finish().to_be_bytes());
            }
        }
    }

    /// The TCP segment in it, with its Ethernet header, if it is one that can be built again without loss.
    pub(super) fn segment(&self) -> Option<(LinkHeader, Segment)> {
        if self.gso.0 != GSO_NONE {
            return None;
        }
        let parsed = parse_headers(&self.octets, self.octets.len()).ok()?;
        let payload = self.octets.get(parsed.payload_offset..parsed.payload_offset + parsed.payload_len)?;
        // A wrong checksum must stay wrong.
        if self.partial.is_none()
            && parsed.verify_checksum([payload]) == mptcp_proto::wire::packet::ChecksumStatus::Wrong
        {
            return None;
        }
        let mut segment = parsed.segment;
        segment.payload = Bytes::copy_from_slice(payload).into();
        Some((parsed.link, segment))
    }

    /// Builds frames from a segment that a box made, as many as it takes on a link with this MTU.
    pub(super) fn from_segment(
        link: &LinkHeader,
        segment: &Segment,
        mtu: usize,
    ) -> impl Iterator<Item = Self> {
        let headers = frame_len(segment) - ETHERNET_LEN - segment.payload.len();
        let room = mtu.saturating_sub(headers).clamp(1, usize::from(u16::MAX));
        let gso_size = if segment.payload.len() > room { room as u16 } else { 0 };
        let whole = Segment { gso_size, ..segment.clone() };
        let packets: Vec<_> = segmentize(&whole).filter_map(|packet| Self::emit(link, &packet)).collect();
        packets.into_iter()
    }

    /// Builds a frame, its checksum partial.
    fn emit(link: &LinkHeader, segment: &Segment) -> Option<Self> {
        let mut headers = [0; MAX_HEADERS];
        let layout = emit_headers(segment, Some(link), ChecksumMode::Partial, &mut headers).ok()?;
        let mut octets = Vec::with_capacity(layout.len + segment.payload.len());
        octets.extend_from_slice(&headers[..layout.len]);
        segment.payload.chunks().iter().for_each(|chunk| octets.extend_from_slice(chunk));
        Some(Self { octets, partial: Some((layout.csum_start, layout.csum_offset)), gso: (GSO_NONE, 0) })
    }
}

impl Queued for Frame {
    fn wire_len(&self) -> usize {
        self.octets.len()
    }
    fn mark_congestion(&mut self) -> bool {
        let Ok(network) = Network::decode(&self.octets.as_slice()) else { return false };
        if network.traffic_class & 3 == 0 {
            return false;
        }
        if network.v6 {
            if let Some(octet) = self.octets.get_mut(network.l3 + 1) {
                *octet |= 0x30;
            }
        } else if let Some(header) = self.octets.get_mut(network.l3..network.l4) {
            header[1] |= 3;
            finish_ipv4(header);
        }
        true
    }
}

impl Packet for Frame {
    fn corrupt(&mut self, random: &mut Random) -> bool {
        self.complete_checksum();
        // The Ethernet header would only lead it astray.
        let bits = self.octets.len().saturating_sub(14) as u64 * 8;
        if bits > 0 {
            let bit = random.between(0, bits - 1) as usize;
            self.octets[14 + bit / 8] ^= 1 << (bit % 8);
        }
        true
    }
}

/// Most octets of a merged frame.
const MAX_MERGED: usize = 65_000;

impl Frame {
    /// Appends the packet that follows this one in its stream, if the two can have been cut from one
    /// super-segment: the kernel then carries both at the price of one, as a receiver with receive offload
    /// would. Gives it back otherwise.
    pub(super) fn merge(&mut self, next: Frame) -> Result<(), Frame> {
        match self.try_merge(&next) {
            Some(()) => Ok(()),
            None => Err(next),
        }
    }

    fn try_merge(&mut self, next: &Frame) -> Option<()> {
        let joinable = self.partial.is_some() && self.partial == next.partial && next.gso.0 == GSO_NONE;
        if !joinable || self.octets.len() + next.octets.len() > MAX_MERGED {
            return None;
        }
        let ours = decode(&self.octets)?;
        let theirs = decode(&next.octets)?;
        let size = if self.gso.0 == GSO_NONE { ours.payload_len } else { usize::from(self.gso.1) };
        let (l3, l4) = (ours.network.l3, ours.network.l4);
        let last_only = Flags::FIN.with(Flags::PSH);
        let ends = last_only.with(Flags::SYN).with(Flags::RST).with(Flags::URG);
        let fits = size > 0
            && theirs.payload_len > 0
            && theirs.payload_len <= size
            && ours.payload_len.is_multiple_of(size)
            && (l3, l4, ours.payload) == (theirs.network.l3, theirs.network.l4, theirs.payload)
            && ours.network.v6 == theirs.network.v6
            && theirs.seq == ours.seq.wrapping_add(ours.payload_len as u32)
            && ours.flags & (ends.0 | Flags::CWR.0) == 0
            && ours.flags == theirs.flags & !last_only.0;
        // All octets of the headers are the same but lengths, identification, sequence number, flags,
        // checksums.
        let differing = |at: usize| {
            let in_ip = at >= l3 && at < l4;
            let ip = if ours.network.v6 {
                in_ip && matches!(at - l3, 4 | 5)
            } else {
                in_ip && matches!(at - l3, 2..=5 | 10 | 11)
            };
            ip || (at >= l4 && matches!(at - l4, 4..=7 | 13 | 16 | 17))
        };
        let same = || {
            let (a, b) = (&self.octets[..ours.payload], &next.octets[..ours.payload]);
            a.iter().zip(b).enumerate().all(|(at, (a, b))| a == b || differing(at))
        };
        // Padding of a short frame is not payload.
        let whole = self.octets.len() == ours.network.end && next.octets.len() == theirs.network.end;
        if !fits || !whole || !same() {
            return None;
        }
        self.octets.extend_from_slice(&next.octets[theirs.payload..]);
        self.octets[l4 + 13] |= next.octets[l4 + 13];
        self.gso = (if ours.network.v6 { GSO_TCPV6 } else { GSO_TCPV4 }, size as u16);
        set_lengths(&mut self.octets, &ours.network);
        Some(())
    }
}

fn decode(octets: &[u8]) -> Option<Headers> {
    let network = Network::decode(&octets).ok()?;
    if network.protocol != PROTOCOL_TCP {
        return None;
    }
    Headers::decode(&octets, network).ok()
}

/// Sets the length of the IP packet to that of the frame, and the TCP checksum to the sum of the
/// pseudo-header.
fn set_lengths(octets: &mut [u8], network: &Network) {
    let tcp_len = octets.len() - network.l4;
    let ip = &mut octets[network.l3..];
    let mut sum = Checksum::new();
    if network.v6 {
        ip[4..6].copy_from_slice(&((network.l4 - network.l3 - 40 + tcp_len) as u16).to_be_bytes());
        sum.add(&ip[8..40]);
    } else {
        let header = &mut ip[..network.l4 - network.l3];
        header[2..4].copy_from_slice(&((network.l4 - network.l3 + tcp_len) as u16).to_be_bytes());
        finish_ipv4(header);
        sum.add(&header[12..20]);
    }
    sum.add_u32(tcp_len as u32);
    sum.add_u16(u16::from(PROTOCOL_TCP));
    octets[network.l4 + 16..network.l4 + 18].copy_from_slice(&sum.folded().to_be_bytes());
}

/// Computes the checksum of an IPv4 header anew.
fn finish_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let mut sum = Checksum::new();
    sum.add(header);
    header[10..12].copy_from_slice(&sum.finish().to_be_bytes());
}

/// Cuts a super-segment into packets, all other octets of the headers left as they are: unknown options too.
fn cut(octets: &[u8], size: usize, take: &mut impl FnMut(Frame)) -> Option<()> {
    let headers = decode(octets)?;
    let network = headers.network;
    let header = octets.get(..headers.payload)?;
    let payload = octets.get(headers.payload..headers.payload + headers.payload_len)?;
    let count = payload.len().div_ceil(size).max(1);
    let last_only = Flags::FIN.with(Flags::PSH).0 as u8;
    for index in 0..count {
        let part = payload.get(index * size..((index + 1) * size).min(payload.len()))?;
        let mut octets = Vec::with_capacity(header.len() + part.len());
        octets.extend_from_slice(header);
        octets.extend_from_slice(part);
        if !network.v6 {
            let field = network.l3 + 4;
            let id = u16::from_be_bytes([header[field], header[field + 1]]).wrapping_add(index as u16);
            octets[field..field + 2].copy_from_slice(&id.to_be_bytes());
        }
        set_lengths(&mut octets, &network);
        let tcp = &mut octets[network.l4..];
        tcp[4..8].copy_from_slice(&headers.seq.wrapping_add((index * size) as u32).to_be_bytes());
        if index + 1 < count {
            tcp[13] &= !last_only;
        }
        if index > 0 {
            tcp[13] &= !(Flags::CWR.0 as u8);
        }
        take(Frame { octets, partial: Some((network.l4, 16)), gso: (GSO_NONE, 0) });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_proto::wire::SeqNumber;
    use mptcp_proto::wire::packet::{ChecksumStatus, parse_frame};

    fn segment(v6: bool) -> Segment {
        let (src, dst) =
            if v6 { ("[2001:db8::1]:1", "[2001:db8::2]:2") } else { ("10.0.0.1:1", "10.0.0.2:2") };
        let mut segment = Segment::new(src.parse().unwrap(), dst.parse().unwrap());
        segment.seq = SeqNumber(u32::MAX - 2000);
        segment.flags = Flags::ACK.with(Flags::PSH).with(Flags::CWR);
        segment.ecn = mptcp_proto::wire::Ecn::Ect0;
        segment.payload = (0..5000).map(|i| (i * 7) as u8).collect::<Vec<_>>().into();
        segment.gso_size = 1400;
        segment
    }

    fn received(segment: &Segment) -> Vec<Frame> {
        let mut headers = [0; MAX_HEADERS];
        let layout =
            emit_headers(segment, Some(&LinkHeader::default()), ChecksumMode::Partial, &mut headers).unwrap();
        let mut octets = headers[..layout.len].to_vec();
        octets.extend(segment.payload.to_vec());
        let mut frames = Vec::new();
        Frame::receive(&layout.virtio_net_header(), &octets, |frame| frames.push(frame));
        frames
    }

    #[test]
    fn a_super_segment_becomes_the_packets_that_an_interface_would_send() {
        for v6 in [false, true] {
            let frames = received(&segment(v6));
            let expected: Vec<_> = segmentize(&segment(v6)).collect();
            assert_eq!(frames.len(), expected.len());
            for (mut frame, expected) in frames.into_iter().zip(expected) {
                assert_eq!(frame.vnet_header()[0], NEEDS_CSUM);
                let (parsed, status) = parse_frame(frame.octets()).unwrap();
                assert_eq!(status, ChecksumStatus::Partial);
                assert_eq!(parsed, expected);
                frame.complete_checksum();
                assert_eq!(frame.vnet_header(), [0; VNET_LEN]);
                assert_eq!(parse_frame(frame.octets()).unwrap(), (expected, ChecksumStatus::Valid));
            }
        }
    }

    #[test]
    fn packets_that_follow_each_other_are_merged_into_what_they_were_cut_from() {
        for v6 in [false, true] {
            let mut whole = segment(v6);
            whole.flags = Flags::ACK.with(Flags::PSH);
            let mut frames = received(&whole).into_iter();
            let mut merged = frames.next().unwrap();
            for frame in frames.clone() {
                assert!(merged.merge(frame).is_ok());
            }
            assert!(merged.merge(frames.next().unwrap()).is_err(), "an old one does not follow");
            let mut again = Vec::new();
            Frame::receive(&merged.vnet_header(), merged.octets(), |frame| again.push(frame));
            assert_eq!(again, received(&whole));
        }
        let mut frames = received(&segment(false));
        let (mut other, first) = (frames.remove(1), &mut frames[0]);
        other.octets[14 + 1] ^= 3;
        finish_ipv4(&mut other.octets[14..34]);
        assert!(first.merge(other).is_err(), "another ECN code point");
    }

    #[test]
    fn damage_makes_the_checksum_wrong_even_where_it_was_partial() {
        let mut random = Random::new(1);
        let mut noticed = 0;
        for _ in 0..200 {
            let mut frame = received(&segment(false)).remove(0);
            assert!(frame.corrupt(&mut random));
            noticed += usize::from(!matches!(parse_frame(frame.octets()), Ok((_, ChecksumStatus::Valid))));
        }
        assert_eq!(noticed, 200);
    }

    #[test]
    fn congestion_is_marked_in_the_header_of_either_family() {
        for v6 in [false, true] {
            let mut frame = received(&segment(v6)).remove(0);
            assert!(frame.mark_congestion());
            assert_eq!(parse_frame(frame.octets()).unwrap().0.ecn, mptcp_proto::wire::Ecn::Ce);
        }
        let mut arp = Frame::new(vec![0; 60]);
        assert!(!arp.mark_congestion());
    }

    #[test]
    fn a_segment_goes_through_a_frame_unchanged() {
        let frame = received(&segment(true)).remove(1);
        let (link, segment) = frame.segment().unwrap();
        let built: Vec<_> = Frame::from_segment(&link, &segment, 1500).map(|frame| frame.octets).collect();
        assert_eq!(built, [frame.octets]);
    }

    #[test]
    fn what_a_box_made_too_long_leaves_in_several_packets() {
        for v6 in [false, true] {
            let whole = segment(v6);
            let frames: Vec<_> = Frame::from_segment(&LinkHeader::default(), &whole, 1500).collect();
            assert_eq!(frames.len(), 4);
            let mut payload = Vec::new();
            for frame in frames {
                assert!(frame.octets().len() <= 1514);
                payload.extend(frame.segment().unwrap().1.payload.to_vec());
            }
            assert_eq!(payload, whole.payload.to_vec());
        }
    }
}
