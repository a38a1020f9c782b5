//! Whole packets: Ethernet (up to two VLAN tags), IPv4 or IPv6, TCP.
//!
//! Parsing looks at the headers only, with the decoder that the XDP program has too; how the payload becomes shared slices is up to who owns the buffers.
//! Building writes the headers of a [`Segment`] into a buffer, the payload goes after them as it is.
//!
//! A segment from a sender on the same host may have a *partial* checksum: its field holds the folded sum of the
//! pseudo-header, for a network interface to complete. No interface ever did, and nothing was at risk on the way.

use super::checksum::{Checksum, tcp_pseudo_header};
use super::{Ecn, Flags, OptionsTooLong, Segment, SeqNumber, TcpOptions};
use mptcp_common::headers::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Headers, Network, PROTOCOL_ICMP, PROTOCOL_ICMPV6,
    PROTOCOL_TCP, Reason,
};
use mptcp_common::octets::{Octets, View};
use std::net::{IpAddr, SocketAddr};

/// Most octets of headers that [`emit_headers`] writes: Ethernet with a VLAN tag, IPv6, TCP with all options.
pub const MAX_HEADERS: usize = 14 + 4 + 40 + 60;

/// An Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkHeader {
    /// Source address.
    pub src_mac: [u8; 6],
    /// Destination address.
    pub dst_mac: [u8; 6],
    /// Tag control information of the (outer) VLAN tag, where there is one.
    pub vlan: Option<u16>,
}

/// Why a frame is not a TCP segment for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// The headers are not those of a whole TCP segment.
    #[error("{0}")]
    Headers(Reason),
    /// An ICMP error.
    #[error("an ICMP error")]
    Icmp,
    /// The checksum of the IPv4 header is wrong.
    #[error("the checksum of the IPv4 header is wrong")]
    IpChecksum,
}

impl From<Reason> for ParseError {
    fn from(reason: Reason) -> Self {
        Self::Headers(reason)
    }
}

/// What the headers of a frame say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParsedHeaders {
    /// The segment, its payload still empty.
    pub segment: Segment,
    /// The Ethernet header.
    pub link: LinkHeader,
    /// Where the IP header begins in the frame.
    pub ip_offset: usize,
    /// Where the TCP header begins.
    pub tcp_offset: usize,
    /// Where the payload begins.
    pub payload_offset: usize,
    /// Octets of payload, by the IP header's length: Ethernet's padding is left out.
    pub payload_len: usize,
    /// The checksum field of the TCP header.
    pub checksum: u16,
    /// Folded sum of the pseudo-header.
    pseudo_header: u16,
    /// Folded sum of the pseudo-header and the TCP header with its checksum.
    headers: u16,
}

/// What verifying a checksum came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumStatus {
    /// It is right.
    Valid,
    /// It was left to an interface to compute: the segment comes from this host.
    Partial,
    /// It is wrong.
    Wrong,
}

impl ParsedHeaders {
    /// Whether the checksum field holds just the pseudo-header's sum, as in segments from this host.
    #[inline]
    pub fn has_partial_checksum(&self) -> bool {
        // The two forms of zero are one number.
        self.checksum % 0xffff == self.pseudo_header % 0xffff
    }
    /// Whether the checksum is right, given the sum of the payload's octets.
    #[inline]
    pub fn has_valid_checksum(&self, payload: Checksum) -> bool {
        let mut sum = payload;
        if self.payload_len % 2 == 1 {
            sum.add(&[0]);
        }
        sum.add_u16(self.headers);
        sum.is_valid()
    }
    /// Verifies the checksum: whether it is partial first, which costs nothing, then over the payload's octets.
    pub fn verify_checksum<'a>(&self, payload: impl IntoIterator<Item = &'a [u8]>) -> ChecksumStatus {
        if self.has_partial_checksum() {
            return ChecksumStatus::Partial;
        }
        let mut sum = Checksum::new();
        for chunk in payload {
            sum.add(chunk);
        }
        if self.has_valid_checksum(sum) { ChecksumStatus::Valid } else { ChecksumStatus::Wrong }
    }
}

/// The part of a packet that lies in its first buffer.
struct Head<'a>(&'a [u8]);

impl<'a> Octets for Head<'a> {
    type View<const N: usize> = &'a [u8; N];
    const WHOLE: bool = false;

    #[inline]
    fn view<const N: usize>(&self, offset: usize) -> Option<&'a [u8; N]> {
        self.0.view(offset)
    }
    #[inline]
    fn reaches(&self, end: usize) -> bool {
        self.0.reaches(end)
    }
}

/// Parses the headers of a frame. `head` is the frame's first buffer (which must hold all headers), `frame_len` the
/// length of the frame over all its buffers.
pub fn parse_headers(head: &[u8], frame_len: usize) -> Result<ParsedHeaders, ParseError> {
    let network = Network::decode(&Head(head))?;
    let link = match head {
        &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] => LinkHeader {
            src_mac: [s0, s1, s2, s3, s4, s5],
            dst_mac: [d0, d1, d2, d3, d4, d5],
            vlan: (network.vlans > 0).then_some(network.tci[0]),
        },
        _ => return Err(Reason::Truncated.into()),
    };
    parse_network(head, frame_len, network, link)
}

/// Parses the headers of an IP packet without a link header (as on a TUN interface). Offsets count from the IP
/// header.
pub fn parse_ip_headers(head: &[u8], packet_len: usize) -> Result<ParsedHeaders, ParseError> {
    parse_network(head, packet_len, Network::decode_ip(&Head(head))?, LinkHeader::default())
}

fn ecn_of(code_point: u8) -> Ecn {
    match code_point & 3 {
        0 => Ecn::NotEct,
        1 => Ecn::Ect1,
        2 => Ecn::Ect0,
        _ => Ecn::Ce,
    }
}

fn parse_network(
    head: &[u8],
    frame_len: usize,
    network: Network,
    link: LinkHeader,
) -> Result<ParsedHeaders, ParseError> {
    if frame_len < network.end {
        return Err(Reason::IpLength.into());
    }
    if network.protocol != PROTOCOL_TCP {
        return Err(if matches!(network.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6) {
            ParseError::Icmp
        } else {
            Reason::NotTcp.into()
        });
    }
    let headers = Headers::decode(&Head(head), network)?;
    if !network.v6 {
        let mut sum = Checksum::new();
        sum.add(head.get(network.l3..network.l4).ok_or(Reason::Truncated)?);
        if !sum.is_valid() {
            return Err(ParseError::IpChecksum);
        }
    }
    let tcp = head.get(network.l4..headers.payload).ok_or(Reason::Truncated)?;
    let checksum = tcp.view::<20>(0).ok_or(Reason::Truncated)?.u16::<16>();
    let options = head.get(headers.options()..headers.payload).ok_or(Reason::Truncated)?;
    let (src, dst) = (network.src.ip(), network.dst.ip());
    let mut sum = tcp_pseudo_header(src, dst, (network.end - network.l4) as u32);
    let pseudo_header = sum.folded();
    sum.add(tcp);
    let flags = Flags(headers.flags);
    let mut segment =
        Segment::new(SocketAddr::new(src, headers.src_port), SocketAddr::new(dst, headers.dst_port));
    segment.seq = SeqNumber(headers.seq);
    segment.ack = SeqNumber(headers.ack);
    segment.flags = flags;
    segment.window = headers.window;
    segment.options = TcpOptions::parse(options, flags);
    segment.ecn = ecn_of(headers.ecn());
    Ok(ParsedHeaders {
        segment,
        link,
        ip_offset: network.l3,
        tcp_offset: network.l4,
        payload_offset: headers.payload,
        payload_len: headers.payload_len,
        checksum,
        pseudo_header,
        headers: sum.folded(),
    })
}

/// Parses a whole frame that lies in one slice, verifying its checksum; the payload is copied. For tests, captures
/// and slow paths.
pub fn parse_frame(frame: &[u8]) -> Result<(Segment, ChecksumStatus), ParseError> {
    with_payload(parse_headers(frame, frame.len())?, frame)
}

/// Like [`parse_frame`], for a packet without a link header.
pub fn parse_ip_packet(packet: &[u8]) -> Result<(Segment, ChecksumStatus), ParseError> {
    with_payload(parse_ip_headers(packet, packet.len())?, packet)
}

fn with_payload(parsed: ParsedHeaders, frame: &[u8]) -> Result<(Segment, ChecksumStatus), ParseError> {
    let payload = frame
        .get(parsed.payload_offset..parsed.payload_offset + parsed.payload_len)
        .ok_or(Reason::Truncated)?;
    let status = parsed.verify_checksum([payload]);
    let mut segment = parsed.segment;
    segment.payload = payload.to_vec().into();
    Ok((segment, status))
}

/// Why a segment can't be made a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EmitError {
    /// The options do not fit.
    #[error(transparent)]
    Options(#[from] OptionsTooLong),
    /// Headers and payload together are longer than an IP packet may be.
    #[error("the segment is longer than an IP packet can be: {octets} octets")]
    TooLong {
        /// Length of the IP packet it would be.
        octets: usize,
    },
    /// The two addresses are of two families.
    #[error("source and destination address are of different families")]
    FamilyMismatch,
    /// The buffer does not hold the headers; [`MAX_HEADERS`] always suffice.
    #[error("the buffer is too small for the headers")]
    BufferTooSmall,
}

/// What to put into the checksum field.
#[derive(Clone, Copy, Debug)]
pub enum ChecksumMode {
    /// The pseudo-header's sum; the interface (or the kernel) completes it. The only one for super-segments.
    Partial,
    /// The checksum, reading the segment's payload.
    Full,
    /// The checksum, given the sum of the payload's octets (as [`Checksum::add_copying`] leaves it).
    PayloadSummed(Checksum),
}

/// Where things are in the headers that were built. All counts are octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderLayout {
    /// Length of all headers.
    pub len: usize,
    /// Where the IP header begins.
    pub ip_offset: usize,
    /// Where the TCP header begins, which is where the checksum's coverage does.
    pub csum_start: usize,
    /// Where the checksum field is, from `csum_start`.
    pub csum_offset: usize,
    /// Payload octets per packet, where the segment is to be cut.
    pub gso_size: Option<u16>,
    /// Whether the packet is IPv6.
    pub ipv6: bool,
    /// Whether the segment has CWR, which only the first of the packets may carry.
    pub cwr: bool,
}

impl HeaderLayout {
    /// The header that `PACKET_VNET_HDR` wants before a frame whose checksum is partial: `struct virtio_net_hdr`, in
    /// the machine's byte order.
    pub fn virtio_net_header(&self) -> [u8; 10] {
        const NEEDS_CSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        const GSO_TCPV6: u8 = 4;
        const GSO_ECN: u8 = 0x80;
        let mut header = [0; 10];
        header[0] = NEEDS_CSUM;
        if let Some(gso_size) = self.gso_size {
            header[1] = if self.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 } | if self.cwr { GSO_ECN } else { 0 };
            header[4..6].copy_from_slice(&gso_size.to_ne_bytes());
        }
        header[2..4].copy_from_slice(&(self.len as u16).to_ne_bytes());
        header[6..8].copy_from_slice(&(self.csum_start as u16).to_ne_bytes());
        header[8..10].copy_from_slice(&(self.csum_offset as u16).to_ne_bytes());
        header
    }
}

/// Writes octets one after the other into a buffer whose size was checked.
struct Cursor<'a> {
    buf: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, octets: &[u8]) {
        self.buf[self.at..self.at + octets.len()].copy_from_slice(octets);
        self.at += octets.len();
    }
}

/// Writes the headers of a segment to the front of `buf`; the frame is those, then the payload. `link` is left out
/// for interfaces without link headers. IP: DF set, no options, TTL 64, ECN as the segment says.
pub fn emit_headers(
    segment: &Segment,
    link: Option<&LinkHeader>,
    mode: ChecksumMode,
    buf: &mut [u8],
) -> Result<HeaderLayout, EmitError> {
    let options = segment.options.emit()?;
    let tcp_header_len = 20 + options.len();
    let tcp_len = tcp_header_len + segment.payload.len();
    let (link_len, ipv6) =
        (link.map_or(0, |link| if link.vlan.is_some() { 18 } else { 14 }), segment.src.is_ipv6());
    let ip_len = if ipv6 { 40 } else { 20 };
    let len = link_len + ip_len + tcp_header_len;
    if ip_len + tcp_len > if ipv6 { 40 + 0xffff } else { 0xffff } {
        return Err(EmitError::TooLong { octets: ip_len + tcp_len });
    }
    let buf = buf.get_mut(..len).ok_or(EmitError::BufferTooSmall)?;
    let mut out = Cursor { buf, at: 0 };
    if let Some(link) = link {
        out.put(&link.dst_mac);
        out.put(&link.src_mac);
        if let Some(vlan) = link.vlan {
            out.put(&ETHERTYPE_VLAN.to_be_bytes());
            out.put(&vlan.to_be_bytes());
        }
        out.put(&if ipv6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes());
    }
    match (segment.src, segment.dst) {
        (SocketAddr::V4(src), SocketAddr::V4(dst)) => {
            let total = (ip_len + tcp_len) as u16;
            let mut header = [0; 20];
            header[0] = 0x45;
            header[1] = segment.ecn as u8;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[4..6].copy_from_slice(&identification(segment).to_be_bytes());
            header[6] = 0x40;
            header[8] = 64;
            header[9] = PROTOCOL_TCP;
            header[12..16].copy_from_slice(&src.ip().octets());
            header[16..20].copy_from_slice(&dst.ip().octets());
            let mut sum = Checksum::new();
            sum.add(&header);
            header[10..12].copy_from_slice(&sum.finish().to_be_bytes());
            out.put(&header);
        }
        (SocketAddr::V6(src), SocketAddr::V6(dst)) => {
            let first = 6 << 28 | (segment.ecn as u32) << 20 | flow_label(segment);
            out.put(&first.to_be_bytes());
            out.put(&(tcp_len as u16).to_be_bytes());
            out.put(&[PROTOCOL_TCP, 64]);
            out.put(&src.ip().octets());
            out.put(&dst.ip().octets());
        }
        _ => return Err(EmitError::FamilyMismatch),
    }
    let csum_start = out.at;
    out.put(&segment.src.port().to_be_bytes());
    out.put(&segment.dst.port().to_be_bytes());
    out.put(&segment.seq.0.to_be_bytes());
    out.put(&segment.ack.0.to_be_bytes());
    let [accurate_ecn, flags] = (segment.flags.0 & 0x1ff).to_be_bytes();
    out.put(&[((tcp_header_len / 4) << 4) as u8 | accurate_ecn, flags]);
    out.put(&segment.window.to_be_bytes());
    out.put(&[0; 4]);
    out.put(&options);
    let mut sum = tcp_pseudo_header(segment.src.ip(), segment.dst.ip(), tcp_len as u32);
    let checksum = match mode {
        ChecksumMode::Partial => sum.folded(),
        ChecksumMode::Full => {
            sum.add(&out.buf[csum_start..]);
            sum.add_payload(&segment.payload);
            sum.finish()
        }
        ChecksumMode::PayloadSummed(payload) => {
            sum.add(&out.buf[csum_start..]);
            sum.add_checksum(payload);
            sum.finish()
        }
    };
    const CSUM_OFFSET: usize = 16;
    let field = csum_start + CSUM_OFFSET;
    out.buf[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(HeaderLayout {
        len,
        ip_offset: link_len,
        csum_start,
        csum_offset: CSUM_OFFSET,
        gso_size: (segment.packets() > 1).then_some(segment.gso_size),
        ipv6,
        cwr: segment.flags.has(Flags::CWR),
    })
}

/// Appends a segment as one whole frame with its full checksum.
pub fn emit_frame(
    segment: &Segment,
    link: Option<&LinkHeader>,
    frame: &mut Vec<u8>,
) -> Result<(), EmitError> {
    let mut headers = [0; MAX_HEADERS];
    let layout = emit_headers(segment, link, ChecksumMode::Full, &mut headers)?;
    frame.extend_from_slice(&headers[..layout.len]);
    for chunk in segment.payload.chunks() {
        frame.extend_from_slice(chunk);
    }
    Ok(())
}

/// Mixes two words well enough to spread them over links and queues.
const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// An identification for a packet that is never fragmented: anything will do (RFC 6864 section 4.1), but some
/// boxes compress headers better, and some captures read better, when it moves with the data.
fn identification(segment: &Segment) -> u16 {
    (mix(u64::from(segment.seq.0), u64::from(segment.ack.0) << 32) >> 16) as u16
}

/// A flow label that is the same for all packets of a subflow and differs between subflows (RFC 6437).
fn flow_label(segment: &Segment) -> u32 {
    let mut hash = u64::from(segment.src.port()) << 16 | u64::from(segment.dst.port());
    for address in [segment.src.ip(), segment.dst.ip()] {
        hash = match address {
            IpAddr::V4(address) => mix(hash, u64::from(address.to_bits())),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                mix(mix(hash, bits as u64), (bits >> 64) as u64)
            }
        };
    }
    // Zero means "no label".
    ((hash >> 40) as u32 & 0xf_ffff).max(1)
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
