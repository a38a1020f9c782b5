//! Which addresses a peer may name for us to connect to (ADD_ADDR, RFC 8684 sections 3.4.1 and 5).
//!
//! A peer that has the keys can name any address, and each of them gets SYNs with the token in them. Without
//! bounds that lets a server look into its clients' networks: addresses of this host, of the link, of the
//! site, and those where cloud providers keep secrets of the host are never connected to for a peer that is
//! not there itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Reach {
    /// Not at all: nothing that a connection could be made to.
    None,
    /// One link.
    Link,
    /// A site, or the customers of one provider.
    Site,
    /// The internet.
    World,
}

/// Where virtual machines ask their host for keys and configuration. (169.254.169.254 does not reach beyond
/// its link, and 192.0.0.192 is reserved.)
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        // RFC 6890; 224.0.0.0/4 is multicast, and above that are reserved addresses and broadcast.
        [0 | 127 | 224..=255, ..] | [192, 0, 0, _] => Reach::None,
        [169, 254, ..] => Reach::Link,
        // RFC 1918; RFC 6598; RFC 2544.
        [10, ..] | [172, 16..32, ..] | [192, 168, ..] | [100, 64..128, ..] | [198, 18..20, ..] => Reach::Site,
        _ => Reach::World,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // Unspecified, loopback, mapped and compatible IPv4 addresses; discard-only (RFC 6666); multicast.
        [0, 0, 0, 0, ..] | [0x100, 0, 0, 0, ..] | [0xff00..=0xffff, ..] => Reach::None,
        [0xfe80..0xfec0, ..] => Reach::Link,
        // RFC 4193; site-local addresses of old; translation within a site (RFC 8215).
        [0xfc00..0xfe00 | 0xfec0..0xff00, ..] | [0x64, 0xff9b, 1, ..] => Reach::Site,
        // Translated (RFC 6052), and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => translated(embedded(high, low)),
        _ => Reach::World,
    }
}

/// An IPv4 address that another one stands for.
fn translated(address: Ipv4Addr) -> Reach {
    if METADATA.contains(&IpAddr::V4(address)) { Reach::None } else { reach_v4(address) }
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

/// Whether an address that a peer names may be connected to, where the peer itself is reached at `peer`: one
/// that reaches as far as that one does, or farther.
pub(super) fn may_be_named(address: IpAddr, peer: IpAddr) -> bool {
    let named = reach(address);
    let forbidden = named == Reach::None || METADATA.contains(&address);
    address == peer || (!forbidden && named >= reach(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(address: &str, peer: &str) -> bool {
        may_be_named(address.parse().unwrap(), peer.parse().unwrap())
    }

    #[test]
    fn nothing_is_connected_to_that_the_peer_is_not_among() {
        let peers =
            ["198.51.100.1", "2001:db8::1", "10.0.0.1", "fd12::1", "100.64.0.1", "169.254.7.7", "fe80::1"];
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.8.8.8",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.0.192",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:198.51.100.1",
            "::10.0.0.1",
            "ff02::1",
            "ff0e::1",
            "100::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::127.0.0.1",
            "2002:7f00:1::1",
            "64:ff9b::168.63.129.16",
        ];
        for peer in peers {
            for address in never {
                assert!(!may(address, peer), "{address} named by {peer}");
            }
        }
        let links = ["169.254.1.2", "fe80::2", "febf::1"];
        let sites = ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.2", "198.18.0.1"];
        let sites =
            sites.iter().chain(&["fc00::1", "fd12:3456::1", "fec0::1", "64:ff9b::10.0.0.1", "64:ff9b:1::1"]);
        let world = ["203.0.113.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2001:db8::2"];
        for (peer, link, site) in [
            ("203.0.113.9", false, false),
            ("2001:db8::9", false, false),
            ("192.168.7.7", false, true),
            ("fd77::7", false, true),
            ("169.254.7.7", true, true),
            ("fe80::7", true, true),
        ] {
            assert!(links.iter().all(|address| may(address, peer) == link), "{peer}");
            assert!(sites.clone().all(|address| may(address, peer) == site), "{peer}");
            assert!(world.iter().all(|address| may(address, peer)), "{peer}");
        }
        assert!(may("127.0.0.1", "127.0.0.1"), "another port of the same address");
    }
}
