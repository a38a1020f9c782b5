//! Nexthop objects (`ip nexthop`): routes may name one instead of an interface and a gateway.
//!
//! The crate that reads rtnetlink's other messages does not know these. Layout: `linux/nexthop.h`.

use super::raw;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_GETNEXTHOP: u16 = 106;
/// Octets of `struct nhmsg`; its flags are the last four.
const HEADER: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const RTNH_F_DEAD: u32 = 1;
/// Octets of `struct nexthop_grp`, which begins with the identifier of a member.
const MEMBER: usize = 8;

/// Where packets go by one nexthop object. A blackhole has no interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NextHopWay {
    pub(super) interface: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) dead: bool,
}

enum Object {
    Way(NextHopWay),
    Group(Vec<u32>),
}

/// All nexthop objects by identifier.
#[derive(Default)]
pub(super) struct NextHops {
    objects: HashMap<u32, Object>,
}

impl NextHops {
    /// Asks the kernel, in the calling thread's network namespace.
    pub(super) fn read() -> io::Result<Self> {
        let mut objects = HashMap::new();
        raw::dump(RTM_GETNEXTHOP, &[0; HEADER], |kind, message| {
            if kind == RTM_NEWNEXTHOP {
                objects.extend(parse(message));
            }
        })?;
        Ok(Self { objects })
    }

    /// The ways of an object: several of a group.
    pub(super) fn ways(&self, id: u32) -> impl Iterator<Item = NextHopWay> + '_ {
        let members: &[u32] = match self.objects.get(&id) {
            Some(Object::Group(members)) => members,
            _ => &[],
        };
        // A group has no groups in it.
        std::iter::once(id).chain(members.iter().copied()).filter_map(|id| match self.objects.get(&id) {
            Some(Object::Way(way)) if way.interface != 0 => Some(*way),
            _ => None,
        })
    }
}

fn parse(message: &[u8]) -> Option<(u32, Object)> {
    let flags = u32::from_ne_bytes(message.get(4..HEADER)?.try_into().ok()?);
    let mut way = NextHopWay { interface: 0, gateway: None, dead: flags & RTNH_F_DEAD != 0 };
    let (mut id, mut group) = (None, None);
    let number = |value: &[u8]| value.try_into().ok().map(u32::from_ne_bytes);
    raw::attributes(message.get(HEADER..)?, |kind, value| match kind {
        NHA_ID => id = number(value),
        NHA_OIF => way.interface = number(value).unwrap_or(0),
        NHA_GATEWAY => {
            way.gateway = match value.len() {
                4 => <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
                _ => <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
            };
        }
        NHA_GROUP => {
            let members = value.chunks_exact(MEMBER).filter_map(|member| number(&member[..4]));
            group = Some(members.collect::<Vec<u32>>());
        }
        _ => {}
    });
    Some((id?, group.map_or(Object::Way(way), Object::Group)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets = (4 + value.len() as u16).to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.extend(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    fn object(attributes: &[Vec<u8>]) -> Vec<u8> {
        [vec![0; HEADER], attributes.concat()].concat()
    }

    #[test]
    fn a_group_has_the_ways_of_its_members() {
        let way = |id: u32, interface: u32, gateway: [u8; 4]| {
            object(&[
                attribute(NHA_ID, &id.to_ne_bytes()),
                attribute(NHA_OIF, &interface.to_ne_bytes()),
                attribute(NHA_GATEWAY, &gateway),
            ])
        };
        let mut members = Vec::new();
        for id in [1u32, 2, 3] {
            members.extend(id.to_ne_bytes());
            members.extend([0; 4]);
        }
        let group = object(&[attribute(NHA_ID, &9u32.to_ne_bytes()), attribute(NHA_GROUP, &members)]);
        // The third member is a blackhole.
        let blackhole = object(&[attribute(NHA_ID, &3u32.to_ne_bytes()), attribute(4, &[])]);
        let messages = [way(1, 7, [10, 0, 0, 1]), way(2, 8, [10, 0, 1, 1]), blackhole, group];
        let objects = NextHops { objects: messages.iter().filter_map(|message| parse(message)).collect() };
        let gateways: Vec<_> = objects.ways(9).map(|way| (way.interface, way.gateway)).collect();
        let ip = |octets: [u8; 4]| Some(IpAddr::from(octets));
        assert_eq!(gateways, [(7, ip([10, 0, 0, 1])), (8, ip([10, 0, 1, 1]))]);
        assert_eq!(objects.ways(1).count(), 1);
        assert_eq!(objects.ways(3).count() + objects.ways(4).count(), 0);
    }

    #[test]
    fn truncated_messages_are_no_objects() {
        let whole =
            object(&[attribute(NHA_ID, &1u32.to_ne_bytes()), attribute(NHA_OIF, &2u32.to_ne_bytes())]);
        for length in 0..whole.len() {
            let _ = parse(&whole[..length]);
        }
        assert!(parse(&whole[..HEADER + 4]).is_none());
    }
}
