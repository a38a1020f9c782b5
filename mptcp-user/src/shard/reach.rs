//! Which of our addresses peers can have a way to.
//!
//! A host with containers or virtual machines has addresses that only these can reach: a bridge without a
//! port to the outside, with a private prefix, and without a default route. A peer elsewhere that is told of
//! such an address (ADD_ADDR) tries it in its own network, where another host may have it.

use super::Shard;
use mptcp_proto::AddressUse;
use std::net::IpAddr;

/// Kinds of interfaces that lead into containers and virtual machines when they are ports of a bridge.
const INSIDE: [&str; 4] = ["veth", "tun", "dummy", "ifb"];

impl Shard {
    /// What an address of an interface in use is for.
    pub(super) fn address_use(&mut self, interface: u32, address: IpAddr) -> AddressUse {
        if is_link_local(address) {
            return AddressUse::Existing;
        }
        let bridge = self
            .attachment(interface)
            .is_some_and(|attachment| attachment.report.driver.as_deref() == Some("bridge"));
        if bridge && is_private(address) && self.is_inside(interface, address) {
            return AddressUse::Link;
        }
        AddressUse::Any
    }

    /// Whether a bridge has no port that leads out of this host, and no default route.
    fn is_inside(&mut self, bridge: u32, address: IpAddr) -> bool {
        let netlink = self.paths.netlink();
        // If it can't be told, the address is announced.
        let Ok(links) = netlink.links() else { return false };
        let leads_out = links.iter().any(|link| {
            link.controller == Some(bridge)
                && !link.kind.as_deref().is_some_and(|kind| INSIDE.contains(&kind))
        });
        !leads_out && !netlink.has_default_route(bridge, address).unwrap_or(true)
    }

    /// Routes or ports may have changed: bridges lead out of this host, or no longer.
    pub(super) fn look_at_bridges(&mut self) {
        let bridges = self
            .attachments
            .iter()
            .filter(|attachment| attachment.up && attachment.report.driver.as_deref() == Some("bridge"));
        let addresses: Vec<(u32, IpAddr)> = bridges
            .flat_map(|bridge| bridge.report.addresses.iter().map(|address| (bridge.index, *address)))
            .collect();
        for (interface, address) in addresses {
            let address_use = self.address_use(interface, address);
            self.endpoint.set_address_use(address, address_use);
        }
    }

    /// Whether routes matter to what peers are told of.
    pub(super) fn has_bridges(&self) -> bool {
        self.attachments.iter().any(|attachment| attachment.report.driver.as_deref() == Some("bridge"))
    }
}

/// Whether an address means something on one link only (RFC 3927, RFC 4291 section 2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Whether an address may be another host's in another network (RFC 1918, RFC 6598, RFC 4193).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_link_local_addresses_are_known() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        for private in ["10.0.0.1", "172.17.0.1", "192.168.1.1", "100.64.0.1", "100.127.255.1", "fd00::1"] {
            assert!(is_private(ip(private)) && !is_link_local(ip(private)), "{private}");
        }
        for public in ["172.32.0.1", "100.128.0.1", "192.0.2.1", "2001:db8::1"] {
            assert!(!is_private(ip(public)), "{public}");
        }
        for local in ["169.254.1.1", "fe80::1"] {
            assert!(is_link_local(ip(local)) && !is_private(ip(local)), "{local}");
        }
    }
}
