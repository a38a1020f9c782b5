//! An IP address of either family in 16 octets.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
///
/// The words hold the octets in the order of the wire, so that an address goes from a packet into a map key as
/// four loads and four stores. A packet of IPv6 whose addresses are of the mapped form is never decoded
/// ([`Reason::MappedAddress`](crate::headers::Reason::MappedAddress)), so the families can't be confused.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address(pub [u32; 4]);

/// The third word of an IPv4 address.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// The unspecified address of IPv6, `::`.
    pub const ANY_V6: Address = Address([0; 4]);
    /// The unspecified address of IPv4, `0.0.0.0`.
    pub const ANY_V4: Address = Address::from_v4_word(0);

    /// An IPv4 address from its four octets as they lie in memory.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Address([0, 0, MAPPED, word])
    }
    /// Whether this is an address of IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        (self.0[0] | self.0[1]) == 0 && self.0[2] == MAPPED
    }
    /// The unspecified address of the same family.
    #[inline(always)]
    pub const fn any(&self) -> Self {
        if self.is_v4() { Self::ANY_V4 } else { Self::ANY_V6 }
    }
    /// The octets in the order of the wire.
    #[inline]
    pub fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (out, word) in octets.chunks_exact_mut(4).zip(self.0) {
            out.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }
    /// The address of the standard library: IPv4 addresses come out as such.
    #[inline]
    pub fn ip(&self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(self.0[3].to_ne_bytes()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.octets()))
        }
    }
}

impl From<IpAddr> for Address {
    /// An IPv6 address of the mapped form is taken for the IPv4 address that it stands for.
    #[inline]
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(v4) => return Self::from_v4_word(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, octets) in words.iter_mut().zip(octets.as_chunks().0) {
            *word = u32::from_ne_bytes(*octets);
        }
        Address(words)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.ip(), f)
    }
}
