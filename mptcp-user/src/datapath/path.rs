//! Which way segments take: interface, next hop, link-layer address.
//!
//! The kernel's answers are cached per pair of addresses, and asked again when it says that something changed. A
//! next hop whose link-layer address is not known is resolved by the kernel; a few segments wait for it.

use super::netlink::{Neighbour, Netlink, Reachability, Route, RouteKind};
use crate::proto::Instant;
use crate::wire::Segment;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Pairs of addresses in the cache; at this many, all are forgotten.
const MAX_ROUTES: usize = 1 << 16;
/// Pairs of addresses whose SYNs came in elsewhere than where our address is; at this many, all are forgotten.
const MAX_ARRIVALS: usize = 1 << 12;
/// Next hops that are being resolved at once: bounds what a flood of spoofed SYNs can make us ask.
const MAX_PENDING: usize = 1024;
/// Segments that wait for one next hop.
const MAX_WAITING: usize = 64;
/// How long to wait before the kernel is asked again to resolve a next hop.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
/// How long it is believed that there is no route, unless routes change.
const NO_ROUTE_AGAIN: Duration = Duration::from_secs(2);
/// How long the kernel's own way to a destination is believed, unless routes change: whoever opens one connection after
/// the other asks once.
const OWN_WAY_AGAIN: Duration = Duration::from_millis(100);
/// How often a next hop in use that the kernel holds for stale is confirmed.
const CONFIRM_AGAIN: Duration = Duration::from_secs(20);

/// Where a segment goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hop {
    /// Out by this interface to this link-layer address.
    Ready {
        /// Interface index.
        interface: u32,
        /// Link-layer address of the next hop.
        mac: [u8; 6],
    },
    /// To a next hop that is not resolved yet.
    Resolving {
        /// Interface index.
        interface: u32,
        /// IP address of the next hop.
        next_hop: IpAddr,
    },
    /// Nowhere.
    NoRoute,
}

struct CachedRoute {
    generation: u64,
    hop: Hop,
    /// When to ask again although nothing is known to have changed: where there was no way.
    expires: Option<Instant>,
    /// The next hop is known but stale, and should be confirmed now and then.
    stale: Option<(u32, IpAddr)>,
}

#[derive(Default)]
struct NextHop {
    mac: Option<[u8; 6]>,
    stale: bool,
    asked: Option<Instant>,
    waiting: VecDeque<Segment>,
}

/// Routes and next hops.
pub(super) struct Paths {
    netlink: Netlink,
    /// Interfaces that may be used, by the addresses they have.
    locals: HashMap<IpAddr, u32>,
    routes: HashMap<(IpAddr, IpAddr), CachedRoute>,
    /// Where SYNs of a peer came in, if not by the interface of the address they were for.
    arrivals: HashMap<(IpAddr, IpAddr), u32>,
    next_hops: HashMap<(u32, IpAddr), NextHop>,
    /// The kernel's own way to where a connection was opened last: until when it is believed, and in which generation.
    own_way: Option<(IpAddr, Route, Instant, u64)>,
    pending: usize,
    /// Raised when anything changes that a cached answer may depend on.
    generation: u64,
}

impl Paths {
    /// Asks the kernel for what it knows of neighbours.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub(super) fn new(netlink: Netlink) -> io::Result<Self> {
        let mut paths = Self::without_neighbours(netlink);
        paths.refresh()?;
        Ok(paths)
    }

    fn without_neighbours(netlink: Netlink) -> Self {
        Self {
            netlink,
            locals: HashMap::new(),
            routes: HashMap::new(),
            arrivals: HashMap::new(),
            next_hops: HashMap::new(),
            own_way: None,
            pending: 0,
            generation: 0,
        }
    }

    /// The socket to ask the kernel with.
    pub(super) fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// From now on `address` is sent from by `interface`.
    pub(super) fn add_local(&mut self, address: IpAddr, interface: u32) {
        self.locals.insert(address, interface);
        self.generation += 1;
    }

    /// The address is not to be sent from any more.
    pub(super) fn remove_local(&mut self, address: IpAddr) {
        self.locals.remove(&address);
        self.generation += 1;
    }

    /// The interface that has an address.
    pub(super) fn interface_of(&self, address: IpAddr) -> Option<u32> {
        self.locals.get(&address).copied()
    }

    /// Addresses to send from, with their interfaces.
    pub(super) fn locals(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        self.locals.iter().map(|(address, interface)| (*address, *interface))
    }

    /// Routes changed: ask again.
    pub(super) fn forget_routes(&mut self) {
        self.generation += 1;
    }

    /// News were lost: all next hops are asked for again.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        self.generation += 1;
        for neighbour in self.netlink.neighbours()? {
            self.learn(&neighbour);
        }
        Ok(())
    }

    /// A SYN came in. Where it came in by another interface than that of the address it is for, and the kernel's own
    /// answers to its sender leave by that one, ours do too: the sender may be bound to the link. (A forged SYN can make
    /// us do no more than what the kernel does anyway.)
    pub(super) fn arrived(&mut self, interface: u32, local: IpAddr, remote: IpAddr) {
        let elsewhere = self.interface_of(local) != Some(interface);
        let known = self.arrivals.get(&(local, remote)).copied();
        if known == elsewhere.then_some(interface) {
            return;
        }
        self.routes.remove(&(local, remote));
        if !elsewhere {
            self.arrivals.remove(&(local, remote));
            return;
        }
        if self.arrivals.len() >= MAX_ARRIVALS {
            self.arrivals.clear();
        }
        self.arrivals.insert((local, remote), interface);
    }

    /// The kernel's own way to a peer, if that is the one its SYN came by.
    fn way_back(&mut self, local: IpAddr, remote: IpAddr) -> Option<Route> {
        let arrival = *self.arrivals.get(&(local, remote))?;
        let route = self.netlink.route(remote, Some(local), None).ok().flatten()?;
        (route.kind == RouteKind::Unicast && route.interface == arrival).then_some(route)
    }

    /// The kernel's own way from an address of an interface that is not used, such as an address of the
    /// loopback interface: if it is over one that is.
    fn way_from_elsewhere(&mut self, local: IpAddr, remote: IpAddr) -> Option<Route> {
        let route = self.netlink.route(remote, Some(local), None).ok().flatten()?;
        let used = self.locals.values().any(|interface| *interface == route.interface);
        (route.kind == RouteKind::Unicast && used).then_some(route)
    }

    /// The way that the kernel would take to a destination by itself.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub(super) fn own_way(&mut self, now: Instant, remote: IpAddr) -> io::Result<Option<Route>> {
        if let Some((known, route, expires, generation)) = self.own_way
            && (known, generation) == (remote, self.generation)
            && now < expires
        {
            return Ok(Some(route));
        }
        let route = self.netlink.route(remote, None, None)?;
        self.own_way = route.map(|route| (remote, route, now + OWN_WAY_AGAIN, self.generation));
        Ok(route)
    }

    /// Which way a segment between two addresses goes.
    #[inline]
    pub(super) fn hop(&mut self, now: Instant, local: IpAddr, remote: IpAddr) -> Hop {
        if let Some(cached) = self.routes.get(&(local, remote))
            && cached.generation == self.generation
            && cached.expires.is_none_or(|due| now < due)
        {
            let hop = cached.hop;
            if let Some((interface, next_hop)) = cached.stale {
                self.confirm(now, interface, next_hop);
            }
            return hop;
        }
        self.look_up(now, local, remote)
    }

    #[cold]
    fn look_up(&mut self, now: Instant, local: IpAddr, remote: IpAddr) -> Hop {
        let way = match (self.way_back(local, remote), self.interface_of(local)) {
            (Some(route), _) => Some((route.interface, route)),
            (None, Some(own)) => {
                self.netlink.route_over(remote, local, own).ok().flatten().map(|route| (own, route))
            }
            (None, None) => self.way_from_elsewhere(local, remote).map(|route| (route.interface, route)),
        };
        let Some((interface, route)) = way else {
            self.remember((local, remote), Hop::NoRoute, Some(now + NO_ROUTE_AGAIN), None);
            return Hop::NoRoute;
        };
        let next_hop = route.next_hop(remote);
        let entry = self.next_hops.get(&(interface, next_hop));
        let (hop, stale) = match entry.map(|entry| (entry.mac, entry.stale)) {
            Some((Some(mac), stale)) => {
                (Hop::Ready { interface, mac }, stale.then_some((interface, next_hop)))
            }
            _ => (Hop::Resolving { interface, next_hop }, None),
        };
        self.remember((local, remote), hop, None, stale);
        if let Some((interface, next_hop)) = stale {
            self.confirm(now, interface, next_hop);
        }
        hop
    }

    fn remember(
        &mut self,
        pair: (IpAddr, IpAddr),
        hop: Hop,
        expires: Option<Instant>,
        stale: Option<(u32, IpAddr)>,
    ) {
        if self.routes.len() >= MAX_ROUTES {
            self.routes.clear();
        }
        self.routes.insert(pair, CachedRoute { generation: self.generation, hop, expires, stale });
    }

    fn confirm(&mut self, now: Instant, interface: u32, next_hop: IpAddr) {
        if let Some(entry) = self.next_hops.get_mut(&(interface, next_hop))
            && entry.asked.is_none_or(|asked| now - asked >= CONFIRM_AGAIN)
        {
            entry.asked = Some(now);
            // Without an answer the old address is as good as any.
            let _ = self.netlink.resolve(interface, next_hop);
        }
    }

    /// Lets a segment wait for its next hop, and the kernel resolve that. The oldest one goes when too many wait;
    /// `false` if none at all can be taken.
    pub(super) fn wait(&mut self, now: Instant, interface: u32, next_hop: IpAddr, segment: Segment) -> bool {
        let key = (interface, next_hop);
        if !self.next_hops.contains_key(&key) {
            if self.pending >= MAX_PENDING {
                return false;
            }
            self.pending += 1;
            self.next_hops.insert(key, NextHop::default());
        }
        let Some(entry) = self.next_hops.get_mut(&key) else { return false };
        if entry.waiting.len() >= MAX_WAITING {
            entry.waiting.pop_front();
        }
        entry.waiting.push_back(segment);
        if entry.asked.is_none_or(|asked| now - asked >= RESOLVE_AGAIN) {
            entry.asked = Some(now);
            if let Err(error) = self.netlink.resolve(interface, next_hop) {
                tracing::debug!("the kernel does not resolve {next_hop}: {error}");
            }
        }
        true
    }

    /// Takes in what the kernel says about a neighbour. Gives the segments that waited for it, and whether it can be
    /// reached now.
    pub(super) fn learn(&mut self, neighbour: &Neighbour) -> Option<(bool, VecDeque<Segment>)> {
        let key = (neighbour.interface, neighbour.address);
        match (neighbour.reachability, neighbour.mac) {
            (Reachability::Confirmed | Reachability::Stale, Some(mac)) => {
                let entry = self.next_hops.entry(key).or_insert_with(|| {
                    self.pending += 1;
                    NextHop::default()
                });
                if entry.mac.is_none() {
                    self.pending = self.pending.saturating_sub(1);
                }
                let stale = neighbour.reachability == Reachability::Stale;
                if entry.mac != Some(mac) || entry.stale != stale {
                    self.generation += 1;
                }
                entry.mac = Some(mac);
                entry.stale = stale;
                let waiting = std::mem::take(&mut entry.waiting);
                (!waiting.is_empty()).then_some((true, waiting))
            }
            (Reachability::Failed, _) => {
                let entry = self.next_hops.remove(&key)?;
                self.generation += 1;
                if entry.mac.is_none() {
                    self.pending = self.pending.saturating_sub(1);
                }
                (!entry.waiting.is_empty()).then_some((false, entry.waiting))
            }
            // Under way; or known without an Ethernet address, which is nothing for us.
            _ => None,
        }
    }

    /// Forgets all next hops of an interface that is gone.
    pub(super) fn forget_interface(&mut self, interface: u32) {
        self.arrivals.retain(|_, arrival| *arrival != interface);
        let before = self.next_hops.len();
        let mut pending = 0;
        self.next_hops.retain(|(of, _), entry| {
            let keep = *of != interface;
            pending += usize::from(keep && entry.mac.is_none());
            keep
        });
        self.pending = pending;
        if self.next_hops.len() != before {
            self.generation += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        Paths::without_neighbours(Netlink::new().expect("netlink"))
    }

    fn neighbour(last: u8, reachability: Reachability) -> Neighbour {
        let known = matches!(reachability, Reachability::Confirmed | Reachability::Stale);
        Neighbour {
            interface: u32::MAX,
            address: IpAddr::from([192, 0, 2, last]),
            mac: known.then_some([2, 0, 0, 0, 0, last]),
            reachability,
        }
    }

    fn segment(port: u16) -> Segment {
        Segment::new(([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], 80).into())
    }

    #[test]
    fn segments_wait_for_their_next_hop_and_leave_in_order() {
        let mut paths = paths();
        let next_hop = IpAddr::from([192, 0, 2, 2]);
        for port in 1..=100 {
            // There is no such interface: the kernel refuses, which must not matter here.
            assert!(paths.wait(Instant::ZERO, u32::MAX, next_hop, segment(port)));
        }
        assert!(paths.learn(&neighbour(2, Reachability::Pending)).is_none());
        let (reachable, waiting) = paths.learn(&neighbour(2, Reachability::Confirmed)).expect("segments");
        let ports: Vec<u16> = waiting.iter().map(|segment| segment.src.port()).collect();
        assert!(reachable);
        assert_eq!(ports, (100 - MAX_WAITING as u16 + 1..=100).collect::<Vec<_>>(), "the oldest are dropped");
        assert!(paths.learn(&neighbour(2, Reachability::Stale)).is_none());
        assert_eq!(paths.pending, 0);
    }

    #[test]
    fn a_next_hop_that_does_not_answer_gives_its_segments_back() {
        let mut paths = paths();
        assert!(paths.wait(Instant::ZERO, u32::MAX, IpAddr::from([192, 0, 2, 2]), segment(1)));
        let (reachable, waiting) = paths.learn(&neighbour(2, Reachability::Failed)).expect("segments");
        assert!(!reachable);
        assert_eq!(waiting.len(), 1);
        assert_eq!((paths.pending, paths.next_hops.len()), (0, 0));
    }

    #[test]
    fn a_flood_of_unresolvable_next_hops_is_bounded() {
        let mut paths = paths();
        let mut taken = 0;
        for host in 0..3000u32 {
            let next_hop = IpAddr::from((0x0a00_0000 + host).to_be_bytes());
            taken += usize::from(paths.wait(Instant::ZERO, u32::MAX, next_hop, segment(1)));
        }
        assert_eq!(taken, MAX_PENDING);
        paths.forget_interface(u32::MAX);
        assert_eq!((paths.pending, paths.next_hops.len()), (0, 0));
    }

    #[test]
    fn addresses_that_are_not_ours_have_no_route() {
        let mut paths = paths();
        let (local, remote) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!(paths.hop(Instant::ZERO, local, remote), Hop::NoRoute);
    }
}
