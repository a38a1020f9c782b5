//! An IP address of either family in 16 octets.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
///
/// The words hold the octets in the order of the wire, so that an address goes from a packet into a map key
/// as four loads and four stores. A packet of IPv6 whose addresses are of the mapped form is never decoded
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
    /// Whether a TCP segment may come from here, or go here: the address can be one host's, and a host can
    /// have it on a link (RFC 9293 section 3.9.2.3, MUST-57 and MUST-63; RFC 1122 sections 3.2.1.3 and
    /// 4.2.3.10; RFC 4291 section 2). Not so are unspecified, multicast and loopback addresses, of IPv4 also
    /// 0/8 and 240/4 with the limited broadcast address, of IPv6 also the IPv4-compatible ones. Which
    /// addresses are a subnet's broadcast address only the host knows
    /// ([`LOCAL_BROADCAST`](crate::maps::LOCAL_BROADCAST)).
    #[inline(always)]
    pub const fn is_unicast(&self) -> bool {
        let words = &self.0;
        if self.is_v4() {
            let first = u32::from_be(words[3]) >> 24;
            first.wrapping_sub(1) < 223 && first != 127
        } else {
            (words[0] | words[1] | words[2]) != 0 && u32::from_be(words[0]) >> 24 != 0xff
        }
    }
    /// Whether the address means something on one link only: IPv6's fe80::/10 (RFC 4291 section 2.5.6).
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn only_addresses_that_one_host_can_have_on_a_link_are_unicast() {
        for text in [
            "1.0.0.0",
            "10.9.1.2",
            "126.255.255.255",
            "128.0.0.1",
            "169.254.1.1",
            "192.0.2.1",
            "223.255.255.255",
            "2001:db8::1",
            "fe80::1",
            "fd00::1",
            "64:ff9b::1",
            "::1:0:0:0",
            // The mapped form of an address of IPv4 is that address.
            "::ffff:192.0.2.1",
        ] {
            assert!(address(text).is_unicast(), "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.0.0.53",
            "127.255.255.255",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.9",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::192.0.2.1",
            "ff02::1",
            "ff0e::1",
            "::ffff:127.0.0.1",
            "::ffff:224.0.0.1",
            "::ffff:0.0.0.0",
            "::ffff:255.255.255.255",
        ] {
            assert!(!address(text).is_unicast(), "{text}");
        }
    }

    #[test]
    fn link_local_addresses_are_those_of_one_block() {
        assert!(address("fe80::1").is_link_local() && address("febf::1").is_link_local());
        for text in ["fe7f::1", "fec0::1", "2001:db8::1", "169.254.1.1"] {
            assert!(!address(text).is_link_local(), "{text}");
        }
    }
}
