//! Peers that connections are accepted from and made to, by prefix: the user's rules.

use mptcp_common::maps::{PEERS_ACCEPTED, PEERS_REFUSED, PEERS_UNRULED};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that begin with the same bits.
///
/// ```
/// use mptcp_proto::Prefix;
///
/// let prefix: Prefix = "192.0.2.0/24".parse()?;
/// assert!(prefix.contains("192.0.2.7".parse().unwrap()));
/// assert!(!prefix.contains("2001:db8::1".parse().unwrap()));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The first `length` bits of an address; the others don't matter. None if the address has not as many.
    /// IPv4-mapped addresses mean IPv4.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        Some(match address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(length.into())?).unwrap_or(0);
                Self { address: Ipv4Addr::from(u32::from(ip) & mask).into(), length }
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(length.into())?).unwrap_or(0);
                match (ip.to_ipv4_mapped(), length.checked_sub(96)) {
                    (Some(mapped), Some(length)) => Self::new(mapped.into(), length)?,
                    _ => Self { address: Ipv6Addr::from(u128::from(ip) & mask).into(), length },
                }
            }
        })
    }

    /// The lowest address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits are the same.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address has the prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.length) == Some(*self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// ADDRESS/LENGTH, or an address alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a prefix such as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.7");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length = match length {
            // A sign would be taken for a part of the number.
            Some(length) if length.bytes().all(|octet| octet.is_ascii_digit()) => {
                length.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, length).ok_or_else(wrong)
    }
}

/// Rules for peers. The longest prefix that a peer's address has decides; of two that are equal, the refusal.
/// An address without any is refused if any prefix is accepted, and accepted otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerRules {
    /// Each prefix once, with whether its peers are accepted.
    rules: Vec<(Prefix, bool)>,
}

impl PeerRules {
    /// Peers with this prefix are accepted, and others only if they have an accepted prefix, too.
    pub fn allow(&mut self, prefix: Prefix) {
        if self.rules.iter().all(|(known, _)| *known != prefix) {
            self.rules.push((prefix, true));
        }
    }

    /// Peers with this prefix are refused.
    pub fn deny(&mut self, prefix: Prefix) {
        match self.rules.iter_mut().find(|(known, _)| *known == prefix) {
            Some((_, accepted)) => *accepted = false,
            None => self.rules.push((prefix, false)),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, bool)> + '_ {
        self.rules.iter().copied()
    }

    /// Whether connections with this address are accepted and made.
    pub fn accept(&self, address: IpAddr) -> bool {
        let fits = self.rules.iter().filter(|(prefix, _)| prefix.contains(address));
        match fits.max_by_key(|(prefix, _)| prefix.length) {
            Some((_, accepted)) => *accepted,
            None => self.others() != PEERS_REFUSED,
        }
    }

    /// What becomes of addresses without any of the prefixes, as the XDP program wants it.
    pub fn others(&self) -> u32 {
        if self.rules.is_empty() {
            PEERS_UNRULED
        } else if self.allows_any() {
            PEERS_REFUSED
        } else {
            PEERS_ACCEPTED
        }
    }

    fn allows_any(&self) -> bool {
        self.rules.iter().any(|(_, accepted)| *accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn prefixes_are_read_as_people_write_them() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ] {
            assert_eq!(prefix(text).to_string(), shown);
        }
        for wrong in [
            "",
            "/",
            "192.0.2.0/",
            "192.0.2.0/33",
            "192.0.2/24",
            "::/129",
            "::/-1",
            "::/+1",
            "host",
            "1.2.3.4/8/8",
        ] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_has_the_addresses_of_its_family_that_begin_like_it() {
        assert!(
            prefix("10.0.0.0/8").contains(ip("10.255.0.1")) && !prefix("10.0.0.0/8").contains(ip("11.0.0.0"))
        );
        assert!(prefix("::/0").contains(ip("2001:db8::1")) && !prefix("::/0").contains(ip("192.0.2.1")));
        assert!(!prefix("::/0").contains(ip("::ffff:192.0.2.1")));
        assert!(prefix("0.0.0.0/0").contains(ip("::ffff:192.0.2.1")));
        assert!(!prefix("0.0.0.0/0").contains(ip("2001:db8::1")));
    }

    #[test]
    fn the_longest_prefix_decides_and_allowing_some_refuses_the_others() {
        let rules = |allow: &[&str], deny: &[&str]| {
            let mut rules = PeerRules::default();
            allow.iter().for_each(|text| rules.allow(prefix(text)));
            deny.iter().for_each(|text| rules.deny(prefix(text)));
            rules
        };
        let none = rules(&[], &[]);
        assert!(none.accept(ip("192.0.2.1")) && none.others() == PEERS_UNRULED);
        let some = rules(&["10.0.0.0/8", "10.1.2.0/24"], &["10.1.0.0/16"]);
        for (address, accepted) in [
            ("10.2.0.1", true),
            ("10.1.3.1", false),
            ("10.1.2.1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(some.accept(ip(address)), accepted, "{address}");
        }
        let denied = rules(&[], &["10.0.0.0/8"]);
        assert!(!denied.accept(ip("10.0.0.1")) && denied.accept(ip("192.0.2.1")) && denied.accept(ip("::2")));
        // In whatever order.
        let both = rules(&["10.0.0.0/8"], &["10.0.0.0/8"]);
        assert!(!both.accept(ip("10.0.0.1")));
        let mut other = rules(&[], &["10.0.0.0/8"]);
        other.allow(prefix("10.0.0.0/8"));
        assert!(!other.accept(ip("10.0.0.1")));
    }
}
