//! Neighbours: which link-layer address an IP address has on a link. The kernel finds out (ARP, RFC 826; neighbour
//! discovery, RFC 4861), we ask and listen.

use super::{Netlink, family_of};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

/// How far the kernel is with a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reachability {
    /// The address is known and was confirmed, or needs no confirmation.
    Confirmed,
    /// The address is known but may be out of date: usable, and worth asking for confirmation.
    Stale,
    /// Resolution is under way.
    Pending,
    /// Nobody answered.
    Failed,
}

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Index of the interface.
    pub interface: u32,
    /// The neighbour's IP address.
    pub address: IpAddr,
    /// Its link-layer address, once known.
    pub mac: Option<[u8; 6]>,
    /// How far the kernel is with it.
    pub reachability: Reachability,
}

impl Neighbour {
    pub(super) fn parse(message: NeighbourMessage) -> Option<Self> {
        let header = message.header;
        if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
            return None; // a bridge's forwarding entry
        }
        let (mut address, mut mac) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(ip));
                }
                NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.try_into().ok(),
                _ => {}
            }
        }
        let reachability = match header.state {
            NeighbourState::Reachable
            | NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Delay
            | NeighbourState::Probe => Reachability::Confirmed,
            NeighbourState::Stale => Reachability::Stale,
            NeighbourState::Failed => Reachability::Failed,
            _ => Reachability::Pending,
        };
        Some(Self { interface: header.ifindex, address: address?, mac, reachability })
    }
}

impl Netlink {
    /// The kernel's neighbour tables of both families.
    pub fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let answers = self.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => Neighbour::parse(message),
                _ => None,
            })
            .collect())
    }

    /// Makes the kernel resolve a neighbour, or confirm one it knows, as if it had a packet for it (`NTF_USE`).
    /// The outcome is a [`Change::Neighbour`](super::Change::Neighbour). Needs CAP_NET_ADMIN.
    pub fn resolve(&mut self, interface: u32, address: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = interface;
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
    }
}
