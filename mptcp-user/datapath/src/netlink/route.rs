//! Routes.
//!
//! A subflow belongs to an interface: the one that has its local address. Its packets leave there even where
//! the kernel prefers another link (a laptop with two default routes has no policy routing, and yet both its
//! paths can be used). [`policy`](super::policy) decides which of these ways the host's rules allow.
//! [`Netlink::route_over`] finds a way without regard to the rules, for answers to what came in by the
//! interface, and for users who ask for it.

use super::nexthop::NextHops;
use super::{Netlink, family_of};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
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
    /// The table says nothing of them: the next rule decides.
    Throw,
}

/// Octets that the packets of a route may have, as its metrics and the kernel's cache of path MTUs say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouteLimits {
    /// MTU of the route, where it has one of its own.
    pub mtu: Option<u32>,
    /// The MTU was set to stay: what routers say does not count.
    pub locked: bool,
    /// MSS to announce, where the route has one of its own.
    pub advmss: Option<u32>,
    /// Seconds until the kernel forgets the MTU, if it is one that a router told.
    pub expires: Option<u32>,
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
    /// How large packets may be.
    pub limits: RouteLimits,
    /// Metric: lower is better.
    pub metric: u32,
    /// Length of the destination's prefix in bits.
    pub prefix: u8,
    /// The table it is in.
    pub table: u32,
    /// The destination is the link's own prefix: the kernel made the route when the link got its address, or
    /// when a router advertised the prefix.
    pub connected: bool,
    /// The interface is down.
    pub dead: bool,
    /// The nexthop object that says where packets go, where the message does not say it itself.
    pub(super) nexthop: Option<u32>,
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
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::NhId(id) => route.nexthop = Some(*id),
            RouteAttribute::Metrics(metrics) => route.limits.read(metrics),
            RouteAttribute::CacheInfo(info) if info.expires > 0 => {
                // In ticks of 1/100 s (USER_HZ).
                route.limits.expires = Some((info.expires / 100).max(1));
            }
            _ => {}
        }
    }
}

impl RouteLimits {
    fn read(&mut self, metrics: &[RouteMetric]) {
        const RTAX_MTU: u32 = 2;
        for metric in metrics {
            match metric {
                RouteMetric::Mtu(mtu) => self.mtu = Some(*mtu).filter(|mtu| *mtu > 0),
                RouteMetric::Advmss(mss) => self.advmss = Some(*mss).filter(|mss| *mss > 0),
                RouteMetric::Lock(locked) => self.locked = locked >> RTAX_MTU & 1 == 1,
                _ => {}
            }
        }
    }
}

impl Route {
    /// The ways a message describes with their destination: several for a multipath route.
    pub(super) fn parse(message: &RouteMessage) -> Vec<(Option<IpAddr>, Route)> {
        let header = &message.header;
        let advertised = matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra);
        let route = Route {
            kind: match header.kind {
                RouteType::Unicast => RouteKind::Unicast,
                RouteType::Local => RouteKind::Local,
                RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Refused,
                RouteType::Throw => RouteKind::Throw,
                _ => RouteKind::Other,
            },
            interface: 0,
            gateway: None,
            source: None,
            limits: RouteLimits::default(),
            metric: 0,
            prefix: header.destination_prefix_length,
            table: u32::from(header.table),
            connected: false,
            dead: header.flags.contains(RouteFlags::Dead),
            nexthop: None,
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
                    way.dead |= next_hop.flags.contains(RouteNextHopFlags::Dead);
                    apply(&mut way, &next_hop.attributes);
                    ways.push((destination, way));
                }
            }
        }
        if ways.is_empty() {
            ways.push((destination, route));
        }
        for (_, way) in &mut ways {
            way.connected = advertised && way.prefix > 0 && way.gateway.is_none() && way.nexthop.is_none();
        }
        ways
    }

    /// The neighbour that packets for `destination` are handed to.
    pub fn next_hop(&self, destination: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(destination)
    }
}

/// Whether `address` is in the prefix.
pub(super) fn contains(prefix: Option<IpAddr>, length: u8, address: IpAddr) -> bool {
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

/// The kernel's answer to the question for a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// This way.
    Way(Route),
    /// The host refuses packets to there, by a route or a rule.
    Refused(Refusal),
    /// There is no route.
    NoRoute,
}

impl Answer {
    /// The way, if there is one.
    pub fn way(self) -> Option<Route> {
        match self {
            Answer::Way(route) => Some(route),
            _ => None,
        }
    }
}

/// How the host refuses packets: the types of routes and rules that ip-route(8) and ip-rule(8) describe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Dropped, and the sender is told that this is policy.
    Prohibit,
    /// Dropped silently.
    Blackhole,
    /// Dropped, and the sender is told that there is no way.
    Unreachable,
}

impl Refusal {
    /// By the name that `ip` has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Prohibit => "prohibit",
            Refusal::Blackhole => "blackhole",
            Refusal::Unreachable => "unreachable",
        }
    }

    fn from_error(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            libc::EACCES => Some(Refusal::Prohibit),
            libc::EINVAL => Some(Refusal::Blackhole),
            libc::EHOSTUNREACH => Some(Refusal::Unreachable),
            _ => None,
        }
    }
}

/// Errors that mean "there is no such route", rather than "the question failed".
fn no_route(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::ESRCH | libc::ENODEV | libc::EAGAIN))
}

/// A question for a way.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Where to.
    pub destination: IpAddr,
    /// From which address; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// By which interface; `None` leaves it to the kernel.
    pub interface: Option<u32>,
    /// TCP port of the destination, for rules that go by it.
    pub port: Option<u16>,
}

impl Question {
    /// The way that a socket which is bound to nothing takes.
    pub fn to(destination: IpAddr) -> Self {
        Self { destination, source: None, interface: None, port: None }
    }

    fn message(&self, flags: RouteFlags) -> RouteMessage {
        let bits = if self.destination.is_ipv4() { 32 } else { 128 };
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(self.destination);
        message.header.destination_prefix_length = bits;
        message.header.flags = flags;
        message.attributes.push(RouteAttribute::Destination(self.destination.into()));
        if let Some(source) = self.source {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(source.into()));
        }
        message.attributes.extend(self.interface.map(RouteAttribute::Oif));
        message.attributes.push(RouteAttribute::IpProto(libc::IPPROTO_TCP as u8));
        message.attributes.extend(self.port.map(RouteAttribute::Dport));
        message
    }
}

impl Netlink {
    /// The way the kernel itself would take, with what its cache of path MTUs knows.
    pub fn ask_route(&mut self, question: &Question) -> io::Result<Answer> {
        self.query(question, RouteFlags::empty())
    }

    /// The way the kernel itself would take to `destination`. `None`: no route, or a refusal.
    pub fn route(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u32>,
    ) -> io::Result<Option<Route>> {
        Ok(self.ask_route(&Question { source, interface, ..Question::to(destination) })?.way())
    }

    fn query(&mut self, question: &Question, flags: RouteFlags) -> io::Result<Answer> {
        let answers = match self.ask(RouteNetlinkMessage::GetRoute(question.message(flags)), 0) {
            Err(error) if no_route(&error) => return Ok(Answer::NoRoute),
            Err(error) => return Refusal::from_error(&error).map(Answer::Refused).ok_or(error),
            Ok(answers) => answers,
        };
        let mut ways = Vec::new();
        for answer in answers {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                ways.extend(Route::parse(&message));
            }
        }
        let ways = self.resolve_nexthops(ways)?;
        let fits = |way: &Route| question.interface.is_none_or(|interface| way.interface == interface);
        Ok(ways.into_iter().map(|(_, way)| way).find(fits).map_or(Answer::NoRoute, Answer::Way))
    }

    /// Puts the ways of nexthop objects in the place of those that only name one. The kernel leaves the rest
    /// out of tables and matches if `net.ipv4.nexthop_compat_mode` is 0.
    pub(super) fn resolve_nexthops(
        &mut self,
        ways: Vec<(Option<IpAddr>, Route)>,
    ) -> io::Result<Vec<(Option<IpAddr>, Route)>> {
        let names_only =
            |way: &Route| way.interface == 0 && way.nexthop.is_some() && way.kind == RouteKind::Unicast;
        if !ways.iter().any(|(_, way)| names_only(way)) {
            return Ok(ways);
        }
        let objects = NextHops::read()?;
        let mut resolved = Vec::with_capacity(ways.len());
        for (destination, way) in ways {
            match way.nexthop.filter(|_| names_only(&way)) {
                None => resolved.push((destination, way)),
                Some(id) => resolved.extend(objects.ways(id).map(|next| {
                    let (interface, gateway) = (next.interface, next.gateway);
                    (destination, Route { interface, gateway, dead: way.dead || next.dead, ..way })
                })),
            }
        }
        Ok(resolved)
    }

    /// The best way to `destination` from `source` over one interface, whatever the rules say: what the
    /// kernel finds for a socket that is bound to the interface, else the longest prefix, then the lowest
    /// metric, of any table. `None`: no route.
    pub fn route_over(
        &mut self,
        destination: IpAddr,
        source: IpAddr,
        interface: u32,
    ) -> io::Result<Option<Route>> {
        // Asked for a resolved route over an interface that has none, the kernel assumes that the destination is on
        // the link. Asked for the entry of the table that matches, it does not assume.
        for source in [Some(source), None] {
            let question = Question { source, interface: Some(interface), ..Question::to(destination) };
            if let Answer::Way(route) = self.query(&question, RouteFlags::FibMatch)?
                && route.kind == RouteKind::Unicast
            {
                return Ok(Some(self.with_cached_mtu(&question, route)?));
            }
        }
        let candidates = self.routes_over(interface, family_of(destination))?;
        Ok(candidates
            .into_iter()
            .filter(|(prefix, route)| contains(*prefix, route.prefix, destination))
            .map(|(_, route)| route)
            .min_by_key(|route| (std::cmp::Reverse(route.prefix), route.metric)))
    }

    /// A way from a table, with what the kernel's cache of path MTUs knows of it.
    pub(super) fn with_cached_mtu(&mut self, question: &Question, route: Route) -> io::Result<Route> {
        let resolved = self.ask_route(question)?.way();
        let same = resolved
            .filter(|resolved| (resolved.interface, resolved.gateway) == (route.interface, route.gateway));
        Ok(same.map_or(route, |resolved| Route { limits: resolved.limits, ..route }))
    }

    /// Whether there is a default route over an interface, in any table, for the family of `address`.
    pub fn has_default_route(&mut self, interface: u32, address: IpAddr) -> io::Result<bool> {
        let routes = self.routes_over(interface, family_of(address))?;
        Ok(routes.iter().any(|(_, route)| route.prefix == 0))
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
        let mut ways = Vec::new();
        let dumped = self.dump_each(RouteNetlinkMessage::GetRoute(message), |answer| match answer {
            RouteNetlinkMessage::NewRoute(message) if !message.header.flags.contains(RouteFlags::Cloned) => {
                ways.extend(Route::parse(&message));
            }
            _ => {}
        });
        match dumped {
            Err(error) if no_route(&error) => return Ok(Vec::new()),
            other => other?,
        }
        let mut ways = self.resolve_nexthops(ways)?;
        ways.retain(|(_, route)| route.interface == interface && route.kind == RouteKind::Unicast);
        Ok(ways)
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
