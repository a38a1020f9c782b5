//! Whole packets: Ethernet (up to two VLAN tags), IPv4 or IPv6, TCP.
//!
//! Parsing looks at the headers only; how the payload becomes shared slices is up to who owns the buffers.
//! Building writes the headers of a [`Segment`] into a buffer, the payload goes after them as it is.
//!
//! A segment from a sender on the same host may have a *partial* checksum: its field holds the folded sum of the
//! pseudo-header, for a network interface to complete. No interface ever did, and nothing was at risk on the way.

use super::checksum::{Checksum, tcp_pseudo_header};
use super::{Ecn, Flags, OptionsTooLong, Segment, SeqNumber, TcpOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most octets of headers that [`emit_headers`] writes: Ethernet with a VLAN tag, IPv6, TCP with all options.
pub const MAX_HEADERS: usize = 14 + 4 + 40 + 60;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_QINQ: u16 = 0x88a8;
const PROTOCOL_TCP: u8 = 6;

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
    /// Neither IPv4 nor IPv6.
    #[error("not an IP packet")]
    NotIp,
    /// Another transport protocol.
    #[error("not a TCP segment")]
    NotTcp,
    /// A fragment: the kernel puts those together.
    #[error("an IP fragment")]
    Fragment,
    /// A header or the payload is not all there, or its length field can't be right.
    #[error("the packet is shorter than its headers say")]
    Truncated,
    /// The checksum of the IPv4 header is wrong.
    #[error("the checksum of the IPv4 header is wrong")]
    IpChecksum,
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
    /// Time to live, or hop limit.
    pub ttl: u8,
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

/// Parses the headers of a frame. `head` is the frame's first buffer (which must hold all headers), `frame_len` the
/// length of the frame over all its buffers.
pub fn parse_headers(head: &[u8], frame_len: usize) -> Result<ParsedHeaders, ParseError> {
    let (&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1], _) =
        head.split_first_chunk::<14>().ok_or(ParseError::Truncated)?;
    let mut link =
        LinkHeader { src_mac: [s0, s1, s2, s3, s4, s5], dst_mac: [d0, d1, d2, d3, d4, d5], vlan: None };
    let mut ethertype = u16::from_be_bytes([t0, t1]);
    let mut ip_offset = 14;
    for _ in 0..2 {
        if !matches!(ethertype, TYPE_VLAN | TYPE_QINQ) {
            break;
        }
        let [tci0, tci1, type0, type1] = array_at(head, ip_offset).ok_or(ParseError::Truncated)?;
        link.vlan = link.vlan.or(Some(u16::from_be_bytes([tci0, tci1])));
        ethertype = u16::from_be_bytes([type0, type1]);
        ip_offset += 4;
    }
    let parsed = match ethertype {
        TYPE_IPV4 => parse_ip(head, ip_offset, frame_len, parse_ipv4),
        TYPE_IPV6 => parse_ip(head, ip_offset, frame_len, parse_ipv6),
        _ => return Err(ParseError::NotIp),
    }?;
    Ok(ParsedHeaders { link, ..parsed })
}

/// Parses the headers of an IP packet without a link header (as on a TUN interface). Offsets count from the IP
/// header.
pub fn parse_ip_headers(head: &[u8], packet_len: usize) -> Result<ParsedHeaders, ParseError> {
    match head.first().map(|first| first >> 4) {
        Some(4) => parse_ip(head, 0, packet_len, parse_ipv4),
        Some(6) => parse_ip(head, 0, packet_len, parse_ipv6),
        Some(_) => Err(ParseError::NotIp),
        None => Err(ParseError::Truncated),
    }
}

fn array_at<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..)?.first_chunk::<N>().copied()
}

/// What an IP header says, relative to itself.
struct IpFields {
    src: IpAddr,
    dst: IpAddr,
    ecn: Ecn,
    ttl: u8,
    /// Octets before the TCP header.
    header_len: usize,
    /// Octets of the packet, headers included.
    total_len: usize,
}

fn ecn_of(traffic_class: u8) -> Ecn {
    match traffic_class & 3 {
        0 => Ecn::NotEct,
        1 => Ecn::Ect1,
        2 => Ecn::Ect0,
        _ => Ecn::Ce,
    }
}

fn parse_ipv4(packet: &[u8]) -> Result<IpFields, ParseError> {
    let (&[version, tos, l0, l1, _, _, f0, f1, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3], _) =
        packet.split_first_chunk::<20>().ok_or(ParseError::Truncated)?;
    if version >> 4 != 4 {
        return Err(ParseError::NotIp);
    }
    let header_len = usize::from(version & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([l0, l1]));
    let header = packet.get(..header_len).filter(|header| header.len() >= 20).ok_or(ParseError::Truncated)?;
    if total_len < header_len {
        return Err(ParseError::Truncated);
    }
    let mut sum = Checksum::new();
    sum.add(header);
    if !sum.is_valid() {
        return Err(ParseError::IpChecksum);
    }
    if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        return Err(ParseError::Fragment);
    }
    if protocol != PROTOCOL_TCP {
        return Err(ParseError::NotTcp);
    }
    Ok(IpFields {
        src: Ipv4Addr::new(s0, s1, s2, s3).into(),
        dst: Ipv4Addr::new(d0, d1, d2, d3).into(),
        ecn: ecn_of(tos),
        ttl,
        header_len,
        total_len,
    })
}

fn parse_ipv6(packet: &[u8]) -> Result<IpFields, ParseError> {
    let [version, class, _, _, l0, l1, next, hop_limit] = array_at(packet, 0).ok_or(ParseError::Truncated)?;
    if version >> 4 != 6 {
        return Err(ParseError::NotIp);
    }
    let src: [u8; 16] = array_at(packet, 8).ok_or(ParseError::Truncated)?;
    let dst: [u8; 16] = array_at(packet, 24).ok_or(ParseError::Truncated)?;
    let total_len = 40 + usize::from(u16::from_be_bytes([l0, l1]));
    let (mut next, mut header_len) = (next, 40);
    // Extension headers (RFC 8200 section 4); more than eight of them are for the kernel to wonder about.
    for _ in 0..8 {
        match next {
            PROTOCOL_TCP => {
                return Ok(IpFields {
                    src: Ipv6Addr::from(src).into(),
                    dst: Ipv6Addr::from(dst).into(),
                    ecn: ecn_of(class >> 4),
                    ttl: hop_limit,
                    header_len,
                    total_len,
                });
            }
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let [after, words, _, segments_left] =
                    array_at(packet, header_len).ok_or(ParseError::Truncated)?;
                if next == 43 && segments_left != 0 {
                    return Err(ParseError::NotTcp);
                }
                next = after;
                header_len += 8 + usize::from(words) * 8;
            }
            44 => {
                let [after, _, o0, o1] = array_at(packet, header_len).ok_or(ParseError::Truncated)?;
                // An "atomic fragment" is whole (RFC 6946).
                if u16::from_be_bytes([o0, o1]) & 0xfff9 != 0 {
                    return Err(ParseError::Fragment);
                }
                next = after;
                header_len += 8;
            }
            _ => return Err(ParseError::NotTcp),
        }
    }
    Err(ParseError::NotTcp)
}

fn parse_ip(
    head: &[u8],
    ip_offset: usize,
    frame_len: usize,
    parse: fn(&[u8]) -> Result<IpFields, ParseError>,
) -> Result<ParsedHeaders, ParseError> {
    let ip = parse(head.get(ip_offset..).ok_or(ParseError::Truncated)?)?;
    let tcp_offset = ip_offset + ip.header_len;
    if frame_len < ip_offset + ip.total_len {
        return Err(ParseError::Truncated);
    }
    let tcp_len = ip.total_len.checked_sub(ip.header_len).ok_or(ParseError::Truncated)?;
    let tcp = head.get(tcp_offset..).ok_or(ParseError::Truncated)?;
    let (&[s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, w0, w1, c0, c1, _, _], _) =
        tcp.split_first_chunk::<20>().ok_or(ParseError::Truncated)?;
    let header_len = usize::from(offset >> 4) * 4;
    let header = tcp.get(..header_len).ok_or(ParseError::Truncated)?;
    let options = header.get(20..).ok_or(ParseError::Truncated)?;
    let payload_len = tcp_len.checked_sub(header_len).ok_or(ParseError::Truncated)?;
    let flags = Flags(u16::from(offset & 1) << 8 | u16::from(flags));
    let mut sum = tcp_pseudo_header(ip.src, ip.dst, tcp_len as u32);
    let pseudo_header = sum.folded();
    sum.add(header);
    let mut segment = Segment::new(
        SocketAddr::new(ip.src, u16::from_be_bytes([s0, s1])),
        SocketAddr::new(ip.dst, u16::from_be_bytes([d0, d1])),
    );
    segment.seq = SeqNumber(u32::from_be_bytes([q0, q1, q2, q3]));
    segment.ack = SeqNumber(u32::from_be_bytes([a0, a1, a2, a3]));
    segment.flags = flags;
    segment.window = u16::from_be_bytes([w0, w1]);
    segment.options = TcpOptions::parse(options, flags);
    segment.ecn = ip.ecn;
    Ok(ParsedHeaders {
        segment,
        link: LinkHeader::default(),
        ip_offset,
        tcp_offset,
        payload_offset: tcp_offset + header_len,
        payload_len,
        ttl: ip.ttl,
        checksum: u16::from_be_bytes([c0, c1]),
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
        .ok_or(ParseError::Truncated)?;
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
            out.put(&TYPE_VLAN.to_be_bytes());
            out.put(&vlan.to_be_bytes());
        }
        out.put(&if ipv6 { TYPE_IPV6 } else { TYPE_IPV4 }.to_be_bytes());
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
