//! ICMP and ICMPv6 errors that quote a TCP segment (RFC 792, RFC 1191, RFC 4443).

use crate::address::Address;
use crate::headers::{self, Network, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, Reason};
use crate::octets::{Octets, View};

/// The part of an ICMP error that is about a segment that went the other way.
///
/// Any host can send such a message. Before user space acts on it, it checks that the quoted sequence number
/// is in flight (RFC 5927 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// Source of the quoted segment: the receiver of the error.
    pub local: Address,
    /// Destination of the quoted segment.
    pub remote: Address,
    /// Its source port.
    pub local_port: u16,
    /// Its destination port.
    pub remote_port: u16,
    /// Its sequence number.
    pub seq: u32,
    /// Whether the segment was too big for a link (fragmentation needed, packet too big).
    pub too_big: bool,
    /// MTU of that link in octets; 0 if the message doesn't say (RFC 1191 section 5).
    pub mtu: u32,
    /// Whether the condition won't go away by itself: port or protocol unreachable, administratively
    /// prohibited (RFC 1122 section 4.2.3.9, RFC 4443 section 3.1).
    pub hard: bool,
}

/// The meaning of type and code.
#[derive(Clone, Copy)]
struct Meaning {
    too_big: bool,
    mtu: u32,
    hard: bool,
}

const SOFT: Meaning = Meaning { too_big: false, mtu: 0, hard: false };
const HARD: Meaning = Meaning { too_big: false, mtu: 0, hard: true };

impl Quote {
    /// Decodes the error message that follows `network`.
    #[inline(always)]
    pub fn decode<O: Octets>(octets: &O, network: &Network) -> Result<Self, Reason> {
        if network.v6 {
            if network.protocol == PROTOCOL_ICMPV6 { Self::v6(octets, network) } else { Err(Reason::NotTcp) }
        } else if network.protocol == PROTOCOL_ICMP {
            Self::v4(octets, network)
        } else {
            Err(Reason::NotTcp)
        }
    }

    #[inline(always)]
    fn v4<O: Octets>(octets: &O, network: &Network) -> Result<Self, Reason> {
        let header = octets.view::<8>(network.l4).ok_or(Reason::Truncated)?;
        let meaning = match (header.u8::<0>(), header.u8::<1>()) {
            (3, 4) => Meaning { too_big: true, mtu: u32::from(header.u16::<6>()), hard: false },
            (3, 2 | 3 | 9 | 10 | 13) => HARD,
            (3, _) | (11 | 12, _) => SOFT,
            _ => return Err(Reason::NotTcp),
        };
        let inner = network.l4 + 8;
        let quoted = octets.view::<20>(inner).ok_or(Reason::Truncated)?;
        let first = quoted.u8::<0>();
        let header_len = ((first & 15) as usize) << 2;
        if first >> 4 != 4 || header_len < 20 {
            return Err(Reason::IpHeader);
        }
        // The first fragment has the ports; the others don't.
        if quoted.u16::<6>() & 0x1fff != 0 {
            return Err(Reason::Fragment);
        }
        if quoted.u8::<9>() != PROTOCOL_TCP {
            return Err(Reason::NotTcp);
        }
        let local = Address::from_v4_word(quoted.raw32::<12>());
        let remote = Address::from_v4_word(quoted.raw32::<16>());
        Self::ports(octets, network, inner + header_len, local, remote, meaning)
    }

    #[inline(always)]
    fn v6<O: Octets>(octets: &O, network: &Network) -> Result<Self, Reason> {
        let header = octets.view::<8>(network.l4).ok_or(Reason::Truncated)?;
        let meaning = match (header.u8::<0>(), header.u8::<1>()) {
            (2, _) => Meaning { too_big: true, mtu: header.u32::<4>(), hard: false },
            (1, 1 | 4 | 5 | 6) | (4, 1) => HARD,
            (1 | 3 | 4, _) => SOFT,
            _ => return Err(Reason::NotTcp),
        };
        let inner = network.l4 + 8;
        let quoted = octets.view::<40>(inner).ok_or(Reason::Truncated)?;
        if quoted.u8::<0>() >> 4 != 6 {
            return Err(Reason::IpHeader);
        }
        let local =
            Address([quoted.raw32::<8>(), quoted.raw32::<12>(), quoted.raw32::<16>(), quoted.raw32::<20>()]);
        let remote =
            Address([quoted.raw32::<24>(), quoted.raw32::<28>(), quoted.raw32::<32>(), quoted.raw32::<36>()]);
        if local.is_v4() || remote.is_v4() {
            return Err(Reason::MappedAddress);
        }
        let (protocol, l4) = headers::extensions(octets, quoted.u8::<6>(), inner + 40)?;
        if protocol != PROTOCOL_TCP {
            return Err(Reason::NotTcp);
        }
        Self::ports(octets, network, l4, local, remote, meaning)
    }

    /// The eight octets of the segment that every error quotes.
    #[inline(always)]
    fn ports<O: Octets>(
        octets: &O,
        network: &Network,
        at: usize,
        local: Address,
        remote: Address,
        meaning: Meaning,
    ) -> Result<Self, Reason> {
        if at + 8 > network.end {
            return Err(Reason::Truncated);
        }
        let ports = octets.view::<8>(at).ok_or(Reason::Truncated)?;
        Ok(Self {
            local,
            remote,
            local_port: ports.u16::<0>(),
            remote_port: ports.u16::<2>(),
            seq: ports.u32::<4>(),
            too_big: meaning.too_big,
            mtu: meaning.mtu,
            hard: meaning.hard,
        })
    }
}
