//! Addresses of interfaces.

use super::Netlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// An address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Index of the interface that has it.
    pub interface: u32,
    /// Usable beyond this link: neither link-local nor host-local.
    pub global: bool,
    /// Usable for new connections: duplicate address detection is over and the address is not deprecated.
    pub preferred: bool,
    /// No longer for new connections, those that have it keep it (RFC 4862 section 5.5.4).
    pub deprecated: bool,
    /// Not yet an address of this host, or never: duplicate address detection goes on or has found another
    /// (RFC 4862 section 5.4).
    pub tentative: bool,
    /// Broadcast addresses of its subnet (RFC 1122 section 3.2.1.3).
    pub broadcasts: [Option<Ipv4Addr>; 2],
}

/// The broadcast address of the subnet of an address: with as many ones as the host's part has bits. Links
/// with two ends have none (RFC 3021).
fn broadcast(address: IpAddr, prefix: u8) -> Option<Ipv4Addr> {
    let IpAddr::V4(address) = address else { return None };
    (prefix < 31).then(|| Ipv4Addr::from(u32::from(address) | u32::MAX.unbounded_shr(u32::from(prefix))))
}

impl Address {
    pub(super) fn parse(message: AddressMessage) -> Option<Self> {
        let header = message.header;
        let unusable =
            AddressHeaderFlags::Tentative | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Dadfailed;
        let unusable_long = AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
        let mut preferred = !header.flags.intersects(unusable)
            || header.flags.contains(AddressHeaderFlags::Optimistic)
                && !header.flags.contains(AddressHeaderFlags::Dadfailed);
        let mut deprecated = header.flags.contains(AddressHeaderFlags::Deprecated);
        // An optimistic address can be used while its detection goes on (RFC 4429).
        let pending = header.flags.contains(AddressHeaderFlags::Tentative)
            && !header.flags.contains(AddressHeaderFlags::Optimistic);
        let mut tentative = pending || header.flags.contains(AddressHeaderFlags::Dadfailed);
        let (mut local, mut address, mut given) = (None, None, None);
        for attribute in message.attributes {
            match attribute {
                // On point-to-point links, `Address` is the other end's.
                AddressAttribute::Local(own) => local = Some(own),
                AddressAttribute::Address(own) => address = Some(own),
                AddressAttribute::Broadcast(told) => given = Some(told),
                AddressAttribute::Flags(flags) if flags.intersects(unusable_long) => {
                    deprecated |= flags.contains(AddressFlags::Deprecated);
                    preferred &=
                        flags.contains(AddressFlags::Optimistic) && !flags.contains(AddressFlags::Dadfailed);
                    let pending =
                        flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
                    tentative |= pending || flags.contains(AddressFlags::Dadfailed);
                }
                _ => {}
            }
        }
        let computed = address.or(local).and_then(|subnet| broadcast(subnet, header.prefix_len));
        let address = local.or(address)?;
        let global =
            matches!(header.scope, AddressScope::Universe | AddressScope::Site | AddressScope::Other(_))
                && !address.is_loopback()
                && !address.is_unspecified();
        Some(Self {
            address,
            interface: header.index,
            global,
            preferred,
            deprecated,
            tentative,
            broadcasts: [given, computed],
        })
    }
}

impl Netlink {
    /// All addresses of all interfaces, in the kernel's order (primary addresses first).
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let answers = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => Address::parse(message),
                _ => None,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_with_more_than_two_hosts_have_a_broadcast_address() {
        let of = |text: &str, prefix| broadcast(text.parse().expect("an address"), prefix);
        assert_eq!(of("10.9.1.2", 24), Some(Ipv4Addr::new(10, 9, 1, 255)));
        assert_eq!(of("10.9.1.2", 8), Some(Ipv4Addr::new(10, 255, 255, 255)));
        assert_eq!(of("10.9.1.2", 30), Some(Ipv4Addr::new(10, 9, 1, 3)));
        assert_eq!(of("10.9.1.2", 0), Some(Ipv4Addr::BROADCAST));
        assert_eq!((of("10.9.1.2", 31), of("10.9.1.2", 32), of("2001:db8::1", 64)), (None, None, None));
    }
}
