//! Routes.
//!
//! A subflow belongs to an interface: the one that has its local address. Its packets must leave there even where
//! the routing tables would send them elsewhere (a laptop with two default routes has no policy routing, and yet
//! both its paths can be used). So the kernel is asked for a route to the destination *over that interface*, with
//! its policy rules; if they lead elsewhere, all tables are searched for a route over it.

use super::{Netlink, family_of};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

/// What becomes of packets on a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteKind {
    /// They leave by the interface.
    Unicast,
    /// They are for this host.
    Local,
    /// Broadcast or multicast: nothing for TCP.
    Other,
    /// They are dropped: unreachable, prohibit or blackhole.
    Refused,
}

/// A way to a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// What becomes of packets.
    pub kind: RouteKind,
    /// Interface they leave by.
    pub interface: u32,
    /// Router they go to; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address the kernel would take.
    pub source: Option<IpAddr>,
    /// MTU of the route, where it has one of its own.
    pub mtu: Option<u32>,
    /// Metric: lower is better.
    pub metric: u32,
    /// Length of the destination's prefix in bits.
    pub prefix: u8,
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// Gateway and metrics of a route or one of its next hops.
fn apply(route: &mut Route, attributes: &[RouteAttribute]) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(gateway) => route.gateway = address_of(gateway),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => route.gateway = Some((*gateway).into()),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => route.gateway = Some((*gateway).into()),
            RouteAttribute::PrefSource(source) => route.source = address_of(source),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(interface) => route.interface = *interface,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = Some(*mtu);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Route {
    /// The ways a message describes: several for a multipath route.
    fn parse(message: &RouteMessage) -> Vec<(Option<IpAddr>, Route)> {
        let header = &message.header;
        let route = Route {
            kind: match header.kind {
                RouteType::Unicast => RouteKind::Unicast,
                RouteType::Local => RouteKind::Local,
                RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Refused,
                _ => RouteKind::Other,
            },
            interface: 0,
            gateway: None,
            source: None,
            mtu: None,
            metric: 0,
            prefix: header.destination_prefix_length,
        };
        let mut route = route;
        apply(&mut route, &message.attributes);
        let destination = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(destination) => address_of(destination),
            _ => None,
        });
        let mut ways = Vec::new();
        for attribute in &message.attributes {
            if let RouteAttribute::MultiPath(next_hops) = attribute {
                for next_hop in next_hops {
                    let mut way = route;
                    way.interface = next_hop.interface_index;
                    apply(&mut way, &next_hop.attributes);
                    ways.push((destination, way));
                }
            }
        }
        if ways.is_empty() {
            ways.push((destination, route));
        }
        ways
    }

    /// The neighbour that packets for `destination` are handed to.
    pub fn next_hop(&self, destination: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(destination)
    }
}

/// Whether `address` is in the prefix.
fn contains(prefix: Option<IpAddr>, length: u8, address: IpAddr) -> bool {
    match (prefix, address) {
        (None, _) => length == 0,
        (Some(IpAddr::V4(prefix)), IpAddr::V4(address)) => {
            let differing = u32::from(prefix) ^ u32::from(address);
            differing.leading_zeros() >= u32::from(length)
        }
        (Some(IpAddr::V6(prefix)), IpAddr::V6(address)) => {
            let differing = u128::from(prefix) ^ u128::from(address);
            differing.leading_zeros() >= u32::from(length)
        }
        _ => false,
    }
}

/// Errors that mean "there is no such route", rather than "the question failed".
fn no_route(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ESRCH | libc::ENODEV
        )
    )
}

impl Netlink {
    /// The way the kernel itself would take to `destination`. `None`: no route.
    pub fn route(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u32>,
    ) -> io::Result<Option<Route>> {
        self.query(destination, source, interface, RouteFlags::empty())
    }

    fn query(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u32>,
        flags: RouteFlags,
    ) -> io::Result<Option<Route>> {
        let bits = if destination.is_ipv4() { 32 } else { 128 };
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = bits;
        message.header.flags = flags;
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        if let Some(source) = source {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(source.into()));
        }
        if let Some(interface) = interface {
            message.attributes.push(RouteAttribute::Oif(interface));
        }
        match self.ask(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => Route::parse(&message)
                    .into_iter()
                    .map(|(_, way)| way)
                    .find(|way| interface.is_none_or(|interface| way.interface == interface)),
                _ => None,
            })),
            Err(error) if no_route(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The best way to `destination` from `source` over one interface: what the kernel's policy says for that
    /// source and interface, else the longest prefix, then the lowest metric, of any table. `None`: no route.
    pub fn route_over(
        &mut self,
        destination: IpAddr,
        source: IpAddr,
        interface: u32,
    ) -> io::Result<Option<Route>> {
        // Asked for a resolved route over an interface that has none, the kernel assumes that the destination is on
        // the link. Asked for the entry of the table that matches, it does not assume.
        for source in [Some(source), None] {
            let matched = self.query(destination, source, Some(interface), RouteFlags::FibMatch)?;
            if let Some(route) = matched
                && route.kind == RouteKind::Unicast
            {
                return Ok(Some(route));
            }
        }
        let candidates = self.routes_over(interface, family_of(destination))?;
        Ok(candidates
            .into_iter()
            .filter(|(prefix, route)| contains(*prefix, route.prefix, destination))
            .map(|(_, route)| route)
            .min_by_key(|route| (std::cmp::Reverse(route.prefix), route.metric)))
    }

    /// All unicast routes over one interface, of any table, with their destinations (`None`: the default).
    fn routes_over(
        &mut self,
        interface: u32,
        family: AddressFamily,
    ) -> io::Result<Vec<(Option<IpAddr>, Route)>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes.push(RouteAttribute::Oif(interface));
        let answers = match self.dump(RouteNetlinkMessage::GetRoute(message)) {
            Err(error) if no_route(&error) => Vec::new(),
            answers => answers?,
        };
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message)
                    if !message.header.flags.contains(RouteFlags::Cloned) =>
                {
                    Some(Route::parse(message))
                }
                _ => None,
            })
            .flatten()
            .filter(|(_, route)| route.interface == interface && route.kind == RouteKind::Unicast)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_contain_what_they_should() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        assert!(contains(None, 0, ip("1.2.3.4")) && contains(None, 0, ip("fd00::1")));
        assert!(contains(Some(ip("10.1.0.0")), 16, ip("10.1.255.9")));
        assert!(!contains(Some(ip("10.1.0.0")), 16, ip("10.2.0.1")));
        assert!(contains(Some(ip("10.1.2.3")), 32, ip("10.1.2.3")));
        assert!(!contains(Some(ip("10.1.2.3")), 32, ip("10.1.2.2")));
        assert!(contains(Some(ip("fd00:1::")), 64, ip("fd00:1::99")));
        assert!(!contains(Some(ip("fd00:1::")), 64, ip("fd00:2::99")));
        assert!(!contains(Some(ip("fd00:1::")), 0, ip("10.0.0.1")));
    }

    #[test]
    fn the_kernel_says_that_loopback_is_local() {
        let mut netlink = Netlink::new().expect("netlink");
        let route = netlink.route(IpAddr::from([127, 0, 0, 1]), None, None).expect("answer").expect("route");
        assert_eq!(route.kind, RouteKind::Local);
    }
}
