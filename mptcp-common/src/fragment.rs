//! Fragments of IPv4 and IPv6 packets (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! A peer, or a router on the way to it, may cut a segment of ours. Only the first fragment has the ports, so
//! the XDP program remembers whose the first is, and user space puts them together.

use crate::address::Address;
use crate::headers::{
    DESTINATION, ETHERTYPE_IPV4, FRAGMENT, HOP_BY_HOP, Link, MAX_EXTENSIONS, MAX_EXTENSIONS_LEN, ROUTING,
    Reason,
};
use crate::maps::FragmentKey;
use crate::octets::{Octets, View};

/// One fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Source, destination and identification: the same in all fragments of a packet.
    pub key: FragmentKey,
    /// Protocol of the packet. Of IPv6 the first header in the fragmentable part.
    pub protocol: u8,
    /// Place of the fragment's octets in the packet's fragmentable part.
    pub offset: usize,
    /// Whether other fragments follow.
    pub more: bool,
    /// Offset of the IP header in the frame.
    pub l3: usize,
    /// Offset in the frame of the octet that says which header comes next: the protocol of IPv4, and of IPv6
    /// the next header field in front of the fragment header.
    pub next_at: usize,
    /// Offset of the first octet after the headers that each fragment has: of the fragment header for IPv6.
    pub headers_end: usize,
    /// Offset of the fragment's octets.
    pub data: usize,
    /// Offset after the last of them.
    pub end: usize,
}

impl Fragment {
    /// Decodes a fragment in a frame.
    ///
    /// # Errors
    /// A [`Reason`] if it is none, or malformed.
    #[inline(always)]
    pub fn decode<O: Octets>(octets: &O) -> Result<Self, Reason> {
        let link = Link::decode(octets)?;
        let l3 = octets.blur(link.l3);
        let fragment =
            if link.ethertype == ETHERTYPE_IPV4 { Self::ipv4(octets, l3)? } else { Self::ipv6(octets, l3)? };
        if fragment.data >= fragment.end || O::WHOLE && !octets.reaches(fragment.end) {
            return Err(Reason::IpLength);
        }
        Ok(fragment)
    }

    #[inline(always)]
    fn ipv4<O: Octets>(octets: &O, l3: usize) -> Result<Self, Reason> {
        let header = octets.view::<20>(l3).ok_or(Reason::Truncated)?;
        let first = header.u8::<0>();
        let header_len = ((first & 15) as usize) << 2;
        if first >> 4 != 4 || header_len < 20 {
            return Err(Reason::IpHeader);
        }
        let place = header.u16::<6>();
        if place & 0x3fff == 0 {
            return Err(Reason::Truncated);
        }
        let data = octets.blur(l3 + header_len);
        Ok(Self {
            key: FragmentKey {
                src: Address::from_v4_word(header.raw32::<12>()),
                dst: Address::from_v4_word(header.raw32::<16>()),
                id: u32::from(header.u16::<4>()),
            },
            protocol: header.u8::<9>(),
            offset: ((place & 0x1fff) as usize) << 3,
            more: place & 0x2000 != 0,
            l3,
            next_at: l3 + 9,
            headers_end: data,
            data,
            end: l3 + header.u16::<2>() as usize,
        })
    }

    #[inline(always)]
    fn ipv6<O: Octets>(octets: &O, l3: usize) -> Result<Self, Reason> {
        let header = octets.view::<40>(l3).ok_or(Reason::Truncated)?;
        if header.u8::<0>() >> 4 != 6 {
            return Err(Reason::IpHeader);
        }
        let src =
            Address([header.raw32::<8>(), header.raw32::<12>(), header.raw32::<16>(), header.raw32::<20>()]);
        let dst =
            Address([header.raw32::<24>(), header.raw32::<28>(), header.raw32::<32>(), header.raw32::<36>()]);
        if src.is_v4() || dst.is_v4() {
            return Err(Reason::MappedAddress);
        }
        let end = l3 + 40 + header.u16::<4>() as usize;
        let (mut next, mut next_at, mut at) = (header.u8::<6>(), l3 + 6, l3 + 40);
        let mut left = MAX_EXTENSIONS;
        while next == HOP_BY_HOP || next == ROUTING || next == DESTINATION {
            if left == 0 || at > l3 + 40 + MAX_EXTENSIONS_LEN {
                return Err(Reason::ExtensionHeaders);
            }
            left -= 1;
            at = octets.blur(at);
            let extension = octets.view::<8>(at).ok_or(Reason::Truncated)?;
            if next == ROUTING && extension.u8::<3>() != 0 {
                return Err(Reason::ExtensionHeaders);
            }
            next = extension.u8::<0>();
            next_at = octets.blur(at);
            at += (extension.u8::<1>() as usize + 1) << 3;
        }
        if next != FRAGMENT || at > l3 + 40 + MAX_EXTENSIONS_LEN {
            return Err(Reason::Truncated);
        }
        at = octets.blur(at);
        let fragment = octets.view::<8>(at).ok_or(Reason::Truncated)?;
        let place = fragment.u16::<2>();
        if place & 0xfff9 == 0 {
            return Err(Reason::Truncated);
        }
        Ok(Self {
            key: FragmentKey { src, dst, id: fragment.u32::<4>() },
            protocol: fragment.u8::<0>(),
            offset: (place & 0xfff8) as usize,
            more: place & 1 != 0,
            l3,
            next_at,
            headers_end: at,
            data: at + 8,
            end,
        })
    }
}
