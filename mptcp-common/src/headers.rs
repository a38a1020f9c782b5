//! Ethernet, VLAN tags, IPv4, IPv6 and TCP headers of one packet (IEEE 802.3, 802.1Q, 802.1ad; RFC 791, 8200,
//! 9293).
//!
//! The decoder accepts packets that this stack can own: a whole, unfragmented TCP segment, or an ICMP error
//! about one. For everything else there is a [`Reason`], and the packet is the kernel's. Checksums are not
//! looked at here: the XDP program would have to read the whole packet, so user space verifies them.

use crate::address::Address;
use crate::icmp::Quote;
use crate::maps::SubflowKey;
use crate::octets::{Octets, View};

/// Octets of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Octets of the shortest packet that is looked into: an ICMP error that quotes 8 octets of a segment has 56,
/// a TCP segment 54.
const SHORTEST: usize = ETHERNET_LEN + 20 + 20;
/// VLAN tags that are looked through.
pub const MAX_VLANS: usize = 2;
/// Extension headers of IPv6 that are looked through.
pub const MAX_EXTENSIONS: usize = 6;
/// Octets that the extension headers of IPv6 may take together. Real ones take a few dozen; the bound keeps
/// every offset small enough for the verifier.
pub const MAX_EXTENSIONS_LEN: usize = 512;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// FIN in [`Headers::flags`].
pub const TCP_FIN: u16 = 0x01;
/// SYN in [`Headers::flags`].
pub const TCP_SYN: u16 = 0x02;
/// RST in [`Headers::flags`].
pub const TCP_RST: u16 = 0x04;
/// ACK in [`Headers::flags`].
pub const TCP_ACK: u16 = 0x10;

/// Why a packet is none that this stack could own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It ends inside a header.
    Truncated,
    /// Neither IPv4 nor IPv6, or behind more than two VLAN tags.
    NotIp,
    /// The version field of the IP header is not what the EtherType says, or the header is shorter than it
    /// can be.
    IpHeader,
    /// The length in the IP header is less than the headers, or more than the packet (where all of it is in
    /// reach).
    IpLength,
    /// A fragment: it has to be reassembled first.
    Fragment,
    /// More or longer IPv6 extension headers than are looked through, or a route that doesn't end here.
    ExtensionHeaders,
    /// A packet of IPv6 with an IPv4-mapped address, which must not appear on the wire (RFC 4942 section
    /// 2.2).
    MappedAddress,
    /// Neither TCP nor an ICMP error about TCP.
    NotTcp,
    /// The TCP header is shorter than it can be, or longer than the packet.
    TcpHeader,
}

impl Reason {
    /// The reason in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Truncated => "it ends inside a header",
            Reason::NotIp => "neither IPv4 nor IPv6",
            Reason::IpHeader => "malformed IP header",
            Reason::IpLength => "the IP length can't be right",
            Reason::Fragment => "a fragment",
            Reason::ExtensionHeaders => "too many IPv6 extension headers",
            Reason::MappedAddress => "IPv4-mapped address in an IPv6 packet",
            Reason::NotTcp => "neither TCP nor an ICMP error about TCP",
            Reason::TcpHeader => "malformed TCP header",
        }
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The layers under the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Whether it is IPv6.
    pub v6: bool,
    /// Traffic class or type of service; the two low bits are the ECN code point (RFC 3168).
    pub traffic_class: u8,
    /// VLAN tags seen.
    pub vlans: u8,
    /// Tag control information of the tags, the outer one first; 0 where there is none.
    pub tci: [u16; MAX_VLANS],
    /// Protocol after the IP headers.
    pub protocol: u8,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Offset after the last octet that belongs to the IP packet: padding of the frame is beyond it.
    pub end: usize,
}

impl Network {
    /// Decodes the packet up to the transport header.
    #[inline(always)]
    pub fn decode<O: Octets>(octets: &O) -> Result<Self, Reason> {
        let Link { ethertype, mut l3, vlans, tci } = Link::decode(octets)?;
        // No TCP segment is shorter, and with less to tell one packet from another the verifier has less to
        // do.
        if octets.view::<SHORTEST>(0).is_none() {
            return Err(Reason::Truncated);
        }
        let vlans = octets.blur(vlans) as u8;
        l3 = octets.blur(l3);
        let network =
            if ethertype == ETHERTYPE_IPV4 { Self::ipv4(octets, l3)? } else { Self::ipv6(octets, l3)? };
        if O::WHOLE && !octets.reaches(network.end) {
            return Err(Reason::IpLength);
        }
        Ok(Self { vlans, tci, ..network })
    }

    /// Decodes an IP packet that has no link header, as on a TUN interface.
    #[inline(always)]
    pub fn decode_ip<O: Octets>(octets: &O) -> Result<Self, Reason> {
        let network = match octets.view::<1>(0).ok_or(Reason::Truncated)?.u8::<0>() >> 4 {
            4 => Self::ipv4(octets, 0)?,
            6 => Self::ipv6(octets, 0)?,
            _ => return Err(Reason::NotIp),
        };
        if O::WHOLE && !octets.reaches(network.end) {
            return Err(Reason::IpLength);
        }
        Ok(network)
    }

    /// RFC 791 section 3.1.
    #[inline(always)]
    fn ipv4<O: Octets>(octets: &O, l3: usize) -> Result<Self, Reason> {
        let header = octets.view::<20>(l3).ok_or(Reason::Truncated)?;
        let first = header.u8::<0>();
        let header_len = ((first & 15) as usize) << 2;
        if first >> 4 != 4 || header_len < 20 {
            return Err(Reason::IpHeader);
        }
        if !octets.reaches(l3 + header_len) {
            return Err(Reason::Truncated);
        }
        let len = header.u16::<2>() as usize;
        if len < header_len {
            return Err(Reason::IpLength);
        }
        // "More fragments" or a fragment offset; "don't fragment" is the bit above.
        if header.u16::<6>() & 0x3fff != 0 {
            return Err(Reason::Fragment);
        }
        let mut dst = Address::from_v4_word(header.raw32::<16>());
        dst.0[0] = octets.forget(dst.0[0].into()) as u32;
        Ok(Self {
            src: Address::from_v4_word(header.raw32::<12>()),
            dst,
            v6: false,
            traffic_class: header.u8::<1>(),
            vlans: 0,
            tci: [0; MAX_VLANS],
            protocol: header.u8::<9>(),
            l3,
            l4: octets.blur(l3 + header_len),
            end: l3 + len,
        })
    }

    /// RFC 8200 sections 3 and 4.
    #[inline(always)]
    fn ipv6<O: Octets>(octets: &O, l3: usize) -> Result<Self, Reason> {
        let header = octets.view::<40>(l3).ok_or(Reason::Truncated)?;
        let first = header.u16::<0>();
        if first >> 12 != 6 {
            return Err(Reason::IpHeader);
        }
        let src =
            Address([header.raw32::<8>(), header.raw32::<12>(), header.raw32::<16>(), header.raw32::<20>()]);
        let dst =
            Address([header.raw32::<24>(), header.raw32::<28>(), header.raw32::<32>(), header.raw32::<36>()]);
        if src.is_v4() || dst.is_v4() {
            return Err(Reason::MappedAddress);
        }
        let (protocol, l4) = extensions(octets, header.u8::<6>(), l3 + 40)?;
        let end = l3 + 40 + header.u16::<4>() as usize;
        if l4 > end {
            return Err(Reason::IpLength);
        }
        Ok(Self {
            src,
            dst,
            v6: true,
            traffic_class: (first >> 4) as u8,
            vlans: 0,
            tci: [0; MAX_VLANS],
            protocol,
            l3,
            l4: octets.blur(l4),
            end,
        })
    }
}

/// The layer under IP.
pub(crate) struct Link {
    pub(crate) ethertype: u16,
    /// Offset of the IP header.
    pub(crate) l3: usize,
    vlans: usize,
    tci: [u16; MAX_VLANS],
}

impl Link {
    /// Decodes Ethernet header and VLAN tags in front of IP.
    #[inline(always)]
    pub(crate) fn decode<O: Octets>(octets: &O) -> Result<Self, Reason> {
        let ethernet = octets.view::<ETHERNET_LEN>(0).ok_or(Reason::Truncated)?;
        let mut ethertype = ethernet.u16::<12>();
        let mut l3 = ETHERNET_LEN;
        let mut vlans = 0;
        let mut tci = [0; MAX_VLANS];
        if is_vlan(ethertype) {
            let tag = octets.view::<4>(l3).ok_or(Reason::Truncated)?;
            (tci[0], ethertype) = (tag.u16::<0>(), tag.u16::<2>());
            l3 += 4;
            vlans += 1;
            if is_vlan(ethertype) {
                let tag = octets.view::<4>(l3).ok_or(Reason::Truncated)?;
                (tci[1], ethertype) = (tag.u16::<0>(), tag.u16::<2>());
                l3 += 4;
                vlans += 1;
            }
        }
        if ethertype != ETHERTYPE_IPV4 && ethertype != ETHERTYPE_IPV6 {
            return Err(Reason::NotIp);
        }
        Ok(Self { ethertype, l3, vlans, tci })
    }
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// Walks the extension headers of IPv6 from `at` on, the first being of type `next`: the protocol after them
/// and its offset (RFC 8200 section 4).
#[inline(always)]
pub(crate) fn extensions<O: Octets>(octets: &O, next: u8, at: usize) -> Result<(u8, usize), Reason> {
    extensions_within::<O, MAX_EXTENSIONS, MAX_EXTENSIONS_LEN>(octets, next, at)
}

/// Hop-by-hop options (RFC 8200 section 4.3).
pub(crate) const HOP_BY_HOP: u8 = 0;
/// Routing header (section 4.4).
pub(crate) const ROUTING: u8 = 43;
/// Fragment header (section 4.5).
pub(crate) const FRAGMENT: u8 = 44;
/// Destination options (section 4.6).
pub(crate) const DESTINATION: u8 = 60;

/// As [`extensions`], through at most `MAX` headers that take at most `LEN` octets.
#[inline(always)]
fn extensions_within<O: Octets, const MAX: usize, const LEN: usize>(
    octets: &O,
    next: u8,
    at: usize,
) -> Result<(u8, usize), Reason> {
    let mut next = next;
    let mut len = 0;
    let mut left = MAX;
    while next == HOP_BY_HOP || next == ROUTING || next == FRAGMENT || next == DESTINATION {
        if left == 0 || len > LEN {
            return Err(Reason::ExtensionHeaders);
        }
        left -= 1;
        len = octets.blur(len);
        let header = octets.view::<8>(at + len).ok_or(Reason::Truncated)?;
        if next == FRAGMENT {
            // An atomic fragment is a whole packet (RFC 6946).
            if header.u16::<2>() & 0xfff9 != 0 {
                return Err(Reason::Fragment);
            }
            len += 8;
        } else {
            // Segments left: it goes on to somewhere else.
            if next == ROUTING && header.u8::<3>() != 0 {
                return Err(Reason::ExtensionHeaders);
            }
            len += (header.u8::<1>() as usize + 1) << 3;
        }
        next = header.u8::<0>();
    }
    if len > LEN {
        return Err(Reason::ExtensionHeaders);
    }
    Ok((next, at + len))
}

/// Extension headers that [`buried`] looks through.
pub const MAX_BURIED: usize = 32;
/// Octets that these may take together.
pub const MAX_BURIED_LEN: usize = 1400;

/// The four-tuple of a whole TCP segment behind more or longer extension headers than [`Network::decode`]
/// looks through. Such a segment is of no use, but it must be known whose it is: the kernel would answer it.
#[inline(always)]
pub fn buried<O: Octets>(octets: &O) -> Option<SubflowKey> {
    let Link { ethertype, l3, .. } = Link::decode(octets).ok()?;
    if ethertype != ETHERTYPE_IPV6 {
        return None;
    }
    let l3 = octets.blur(l3);
    let header = octets.view::<40>(l3)?;
    let (protocol, l4) =
        extensions_within::<O, MAX_BURIED, MAX_BURIED_LEN>(octets, header.u8::<6>(), l3 + 40).ok()?;
    if protocol != PROTOCOL_TCP {
        return None;
    }
    let ports = octets.view::<4>(octets.blur(l4))?;
    Some(SubflowKey {
        local: Address([
            header.raw32::<24>(),
            header.raw32::<28>(),
            header.raw32::<32>(),
            header.raw32::<36>(),
        ]),
        remote: Address([
            header.raw32::<8>(),
            header.raw32::<12>(),
            header.raw32::<16>(),
            header.raw32::<20>(),
        ]),
        local_port: ports.u16::<2>(),
        remote_port: ports.u16::<0>(),
    })
}

/// All headers of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// The layers below.
    pub network: Network,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// The nine flag bits, AE (RFC 9768) down to FIN.
    pub flags: u16,
    /// Window, not scaled.
    pub window: u16,
    /// Offset of the payload.
    pub payload: usize,
    /// Octets of payload.
    pub payload_len: usize,
}

impl Headers {
    /// Decodes the TCP header that follows `network` (RFC 9293 section 3.1).
    #[inline(always)]
    pub fn decode<O: Octets>(octets: &O, network: Network) -> Result<Self, Reason> {
        let header = octets.view::<20>(network.l4).ok_or(Reason::Truncated)?;
        let offset_and_flags = header.u16::<12>();
        let header_len = ((offset_and_flags >> 12) as usize) << 2;
        let payload = network.l4 + header_len;
        if header_len < 20 || payload > network.end {
            return Err(Reason::TcpHeader);
        }
        if !octets.reaches(payload) {
            return Err(Reason::Truncated);
        }
        let payload_len = octets.forget((network.end - payload) as u64) as usize;
        Ok(Self {
            network,
            src_port: header.u16::<0>(),
            dst_port: header.u16::<2>(),
            seq: header.u32::<4>(),
            ack: header.u32::<8>(),
            flags: offset_and_flags & 0x1ff,
            window: header.u16::<14>(),
            payload: octets.blur(payload),
            payload_len,
        })
    }
    /// Offset of the TCP options; they end where the payload begins.
    #[inline(always)]
    pub const fn options(&self) -> usize {
        self.network.l4 + 20
    }
    /// Whether all `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
    /// ECN code point of the IP header: 0 not capable, 1 ECT(1), 2 ECT(0), 3 congestion experienced.
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        self.network.traffic_class & 3
    }
}

/// The kind of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet {
    /// A TCP segment.
    Tcp(Headers),
    /// An ICMP or ICMPv6 error that quotes a TCP segment.
    Icmp(Network, Quote),
}

/// Decodes a packet that begins with its Ethernet header.
///
/// # Errors
/// A [`Reason`], if it is neither a whole TCP segment nor an ICMP error about one.
#[inline(always)]
pub fn decode<O: Octets>(octets: &O) -> Result<Packet, Reason> {
    let network = Network::decode(octets)?;
    if network.protocol == PROTOCOL_TCP {
        return Ok(Packet::Tcp(Headers::decode(octets, network)?));
    }
    Ok(Packet::Icmp(network, Quote::decode(octets, &network)?))
}
