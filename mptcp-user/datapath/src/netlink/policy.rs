//! Which ways the host's routing policy allows to a subflow.
//!
//! The kernel's own way for the subflow's two addresses is always allowed if it leaves by the interface of
//! our address. Where the kernel prefers another interface, this module goes through the host's rules and
//! tables as the kernel does (`ip rule`, `ip route`), with one difference: routes over *other plain links*
//! are passed over where they are no more than topology. A plain link is an interface that leads to a
//! network, no tunnel. Two kinds of routes are passed over:
//!
//! * the prefix of another link, which the kernel put there with the link's address;
//! * a route to the same prefix, in the same table, that is preferred to ours only for its metric.
//!
//! Everything else decides: a route over a tunnel, a longer prefix that somebody put there, a rule that leads
//! to another table, a refusal. So all links of a host with two default routes can be used, and a tunnel that
//! takes all traffic (by rules, by two half default routes, or by a lower metric) is not left.

use super::Netlink;
use super::route::{Answer, Question, Refusal, Route, RouteKind, contains};
use super::rule::{Action, Rule};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

/// Rules that are looked at: `goto` may not lead round in a circle, this is for what it does instead.
const MAX_RULES: usize = 4096;

/// The ends of a subflow that is to leave by an interface.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Our address.
    pub source: IpAddr,
    /// The peer's address.
    pub destination: IpAddr,
    /// The peer's port, for rules that go by it.
    pub port: Option<u16>,
    /// Index of the interface.
    pub interface: u32,
    /// Name of the interface.
    pub interface_name: &'a str,
    /// The user that this process belongs to.
    pub user: u32,
}

/// What the host's policy says of a [`Flow`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may go this way, which leaves by the interface.
    Allowed(Route),
    /// The host sends it out by another interface.
    Elsewhere(u32),
    /// The host refuses it.
    Refused(Refusal),
    /// The destination is this host.
    Own,
    /// Broadcast or multicast.
    NotForTcp,
    /// There is no route.
    NoRoute,
}

/// A route of a table with its ways: several if it is a multipath route, at least one.
struct Entry {
    first: Route,
    others: Vec<Route>,
}

impl Entry {
    fn new(mut ways: impl Iterator<Item = Route>) -> Option<Self> {
        let first = ways.next()?;
        Some(Self { first, others: ways.collect() })
    }

    fn ways(&self) -> impl Iterator<Item = &Route> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The way over an interface.
    fn over(&self, interface: u32) -> Option<Route> {
        self.ways().copied().find(|way| way.interface == interface && !way.dead)
    }
}

/// Goes through rules and tables. `entries` are the routes that contain the destination, of all tables;
/// `plain` are the interfaces whose routes may be passed over.
fn judge(rules: &[Rule], entries: &[Entry], plain: &HashSet<u32>, flow: &Flow<'_>) -> Verdict {
    let mut place = 0;
    for _ in 0..MAX_RULES {
        let Some(rule) = rules.get(place) else { break };
        place += 1;
        if !rule.matches(flow) {
            continue;
        }
        match rule.action {
            Action::Refuse(refusal) => return Verdict::Refused(refusal),
            Action::Goto(priority) => {
                // Only forward, as the kernel has it.
                let target = rules.iter().position(|rule| rule.priority >= priority);
                place = target.map_or(place, |target| target.max(place));
            }
            Action::Nothing => {}
            Action::Table { table, suppressed } => {
                if let Some(verdict) = search(table, suppressed, entries, plain, flow) {
                    return verdict;
                }
            }
        }
    }
    Verdict::NoRoute
}

/// Searches one table. `None`: the next rule decides.
fn search(
    table: u32,
    suppressed: Option<u8>,
    entries: &[Entry],
    plain: &HashSet<u32>,
    flow: &Flow<'_>,
) -> Option<Verdict> {
    let mut matching: Vec<&Entry> = entries.iter().filter(|entry| entry.first.table == table).collect();
    matching.sort_by_key(|entry| (Reverse(entry.first.prefix), entry.first.metric));
    for (place, entry) in matching.iter().enumerate() {
        let first = &entry.first;
        match first.kind {
            RouteKind::Unicast => {}
            RouteKind::Refused => {
                // Which of the three it is, the kernel's own answer tells.
                return Some(Verdict::Refused(Refusal::Prohibit));
            }
            RouteKind::Throw => return None,
            RouteKind::Local => return Some(Verdict::Own),
            RouteKind::Other => return Some(Verdict::NotForTcp),
        }
        let Some(living) = entry.ways().find(|way| !way.dead) else { continue };
        let way = entry.over(flow.interface);
        let alternative = || {
            let rest = matching[place + 1..].iter();
            rest.take_while(|next| next.first.prefix == first.prefix)
                .any(|next| next.first.kind == RouteKind::Unicast && next.over(flow.interface).is_some())
        };
        if way.is_none()
            && entry.ways().all(|way| way.dead || plain.contains(&way.interface))
            && (first.connected && is_routed(flow.destination) || alternative())
        {
            continue;
        }
        if suppressed.is_some_and(|bits| first.prefix <= bits) {
            return None;
        }
        return Some(way.map_or(Verdict::Elsewhere(living.interface), Verdict::Allowed));
    }
    None
}

impl Netlink {
    /// What the host's policy says of a flow. Asks for all rules and routes only where the kernel's own way
    /// leaves by another interface.
    pub fn policy(&mut self, flow: &Flow<'_>) -> io::Result<Verdict> {
        let own = Question { source: Some(flow.source), port: flow.port, ..Question::to(flow.destination) };
        let bound = Question { interface: Some(flow.interface), ..own };
        if is_link_local(flow.destination) {
            // On every link there is one of that name; the interface says which is meant.
            return Ok(match self.ask_route(&bound)? {
                Answer::Way(route) if route.kind == RouteKind::Unicast => Verdict::Allowed(route),
                Answer::Way(route) if route.kind == RouteKind::Local => Verdict::Own,
                Answer::Refused(refusal) => Verdict::Refused(refusal),
                _ => Verdict::NoRoute,
            });
        }
        match self.ask_route(&own)? {
            Answer::Refused(refusal) => return Ok(Verdict::Refused(refusal)),
            Answer::Way(route) => match route.kind {
                RouteKind::Local => return Ok(Verdict::Own),
                RouteKind::Unicast if is_link_local(flow.source) && route.gateway.is_some() => {
                    // A router does not forward what comes from there (RFC 4291 section 2.5.6).
                    return Ok(Verdict::NoRoute);
                }
                RouteKind::Unicast if route.interface == flow.interface => {
                    return Ok(Verdict::Allowed(route));
                }
                RouteKind::Unicast => {}
                _ => return Ok(Verdict::NotForTcp),
            },
            Answer::NoRoute => {}
        }
        let rules = self.rules(flow.destination)?;
        let entries = self.routes_that_contain(flow)?;
        let plain = self.links()?.iter().filter(|link| link.is_plain()).map(|link| link.index).collect();
        let verdict = judge(&rules, &entries, &plain, flow);
        let Verdict::Allowed(route) = verdict else { return Ok(verdict) };
        self.with_cached_mtu(&bound, route).map(Verdict::Allowed)
    }

    /// The routes of all tables that a flow could take.
    fn routes_that_contain(&mut self, flow: &Flow<'_>) -> io::Result<Vec<Entry>> {
        let mut message = RouteMessage::default();
        message.header.address_family = super::family_of(flow.destination);
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        let mut found: Vec<Vec<(Option<IpAddr>, Route)>> = Vec::new();
        self.dump_each(RouteNetlinkMessage::GetRoute(message), |answer| {
            if let RouteNetlinkMessage::NewRoute(message) = answer
                && may_match(&message, flow)
            {
                let ways = Route::parse(&message);
                // IPv6 lists the members of an ECMP route as routes of their own, on some kernels.
                if ways.first().is_some_and(|(prefix, way)| contains(*prefix, way.prefix, flow.destination)) {
                    found.push(ways);
                }
            }
        })?;
        let mut entries = Vec::with_capacity(found.len());
        for ways in found {
            let ways = self.resolve_nexthops(ways)?;
            entries.extend(Entry::new(ways.into_iter().map(|(_, way)| way)));
        }
        Ok(entries)
    }
}

/// Whether a route is one of a table, and for packets like ours.
fn may_match(message: &RouteMessage, flow: &Flow<'_>) -> bool {
    let header = &message.header;
    let source = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Source(RouteAddress::Inet6(prefix)) => Some(IpAddr::V6(*prefix)),
        _ => None,
    });
    !header.flags.contains(RouteFlags::Cloned)
        && header.tos == 0
        && (header.source_prefix_length == 0 || contains(source, header.source_prefix_length, flow.source))
}

/// Whether an address means another host on each link, so that the kernel has to be told the interface.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Whether a destination on another link may also be reached through a router of ours.
fn is_routed(address: IpAddr) -> bool {
    !matches!(address, IpAddr::V4(ip) if ip.is_link_local())
}
