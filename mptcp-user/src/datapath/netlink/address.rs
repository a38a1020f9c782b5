//! Addresses of interfaces.

use super::Netlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use std::io;
use std::net::IpAddr;

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
        let (mut local, mut address) = (None, None);
        for attribute in message.attributes {
            match attribute {
                // On point-to-point links, `Address` is the other end's.
                AddressAttribute::Local(own) => local = Some(own),
                AddressAttribute::Address(own) => address = Some(own),
                AddressAttribute::Flags(flags) if flags.intersects(unusable_long) => {
                    deprecated |= flags.contains(AddressFlags::Deprecated);
                    preferred &=
                        flags.contains(AddressFlags::Optimistic) && !flags.contains(AddressFlags::Dadfailed);
                }
                _ => {}
            }
        }
        let address = local.or(address)?;
        let global =
            matches!(header.scope, AddressScope::Universe | AddressScope::Site | AddressScope::Other(_))
                && !address.is_loopback()
                && !address.is_unspecified();
        Some(Self { address, interface: header.index, global, preferred, deprecated })
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
