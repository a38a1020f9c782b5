//! Which way segments take: interface, next hop, link-layer address.
//!
//! The kernel's answers are cached per pair of addresses, and asked again when it says that something changed. A
//! next hop whose link-layer address is not known is resolved by the kernel; a few segments wait for it.

use super::netlink::{
    Answer, Flow, Neighbour, Netlink, Question, Reachability, Route, RouteKind, RouteLimits, Verdict,
};
use mptcp_proto::wire::Segment;
use mptcp_proto::{Instant, SubflowSlot};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Pairs of addresses in the cache; at this many, all are forgotten.
const MAX_ROUTES: usize = 1 << 16;
/// Pairs of addresses whose SYNs came in elsewhere than where our address is; at this many, all are forgotten.
const MAX_ARRIVALS: usize = 1 << 12;
/// Next hops that are being resolved at once: bounds what a flood of spoofed SYNs can make us ask.
const MAX_PENDING: usize = 1024;
/// Packets are never made smaller than this: the engine's floors with their headers.
const MIN_MTU_V4: u32 = 552;
const MIN_MTU_V6: u32 = 1280;
/// How long subflows are told that the MTU of their route is another one: as often as they send something.
const RENEWED: Duration = Duration::from_secs(60);
/// An MSS that is announced is never smaller (`net.ipv4.route.min_adv_mss`).
const MIN_ADVERTISED: u32 = 256;
/// Questions about subflows may take one part in so many of the time, and this much at once.
const WALKING_SHARE: u32 = 20;
const WALKING_BURST: Duration = Duration::from_millis(200);
/// Subflows that we have begun and that the engine has not told of yet: it does so in the same round.
const MAX_OPENING: usize = 1 << 16;
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
pub enum Hop {
    /// Out by this interface to this link-layer address.
    Ready {
        /// Interface index.
        interface: u32,
        /// Link-layer address of the next hop.
        mac: [u8; 6],
        /// How large packets may be, by the route.
        limits: PathLimits,
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

/// Whether an address means another host on each link.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The subflows that we have begun: for them the host's policy counts. An answer goes back by the interface
/// that the question came in by.
#[derive(Default)]
struct Begun {
    /// Those that the engine has not told of yet.
    opening: HashSet<(SocketAddr, SocketAddr)>,
    slots: HashSet<SubflowSlot>,
    /// How many there are between two addresses.
    pairs: HashMap<(IpAddr, IpAddr), u32>,
}

/// Bounds the time that is spent on questions about subflows that path managers want: peers can make them
/// want some, and a routing table may be large.
#[derive(Default)]
struct Walks {
    /// Time spent that has not been made up for.
    debt: Duration,
    /// Until when it has.
    since: Instant,
}

impl Walks {
    /// Whether there is time for another question.
    fn may_begin(&mut self, now: Instant) -> bool {
        self.debt = self.debt.saturating_sub((now - self.since) / WALKING_SHARE);
        self.since = now;
        self.debt < WALKING_BURST
    }

    fn took(&mut self, time: Duration) {
        self.debt += time;
    }
}

/// How large the packets on a path may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathLimits {
    /// Octets of a packet, IP header included; 0: as many as the interface takes.
    pub mtu: u32,
    /// Largest MSS to announce; 0: what the MTU makes it.
    pub mss: u16,
    /// The MTU was set to stay: what routers say does not count, and they may cut packets.
    pub locked: bool,
    /// The route had another MTU a moment ago, which subflows may still go by.
    pub renewed: bool,
}

impl PathLimits {
    /// As `ipv4_default_advmss` and `ip6_default_advmss` of the kernel have it: a route's MTU lowers what is
    /// announced, too.
    fn new(limits: &RouteLimits, ipv6: bool, link_mtu: u32) -> Self {
        // Many routes only repeat what the link says: a router's advertisement for one.
        let limits = RouteLimits { mtu: limits.mtu.filter(|mtu| *mtu < link_mtu), ..*limits };
        let headers = if ipv6 { 60 } else { 40 };
        let mtu = limits.mtu.map_or(0, |mtu| mtu.max(if ipv6 { MIN_MTU_V6 } else { MIN_MTU_V4 }));
        let from_mtu = limits.mtu.map(|mtu| mtu.saturating_sub(headers).max(MIN_ADVERTISED));
        let mss = from_mtu.into_iter().chain(limits.advmss).min().unwrap_or(0);
        Self { mtu, mss: mss.min(u32::from(u16::MAX)) as u16, locked: limits.locked, renewed: false }
    }
}

struct CachedRoute {
    generation: u64,
    hop: Hop,
    limits: PathLimits,
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
pub struct Paths {
    netlink: Netlink,
    /// Interfaces that may be used, by the addresses they have.
    locals: HashMap<IpAddr, u32>,
    routes: HashMap<(IpAddr, IpAddr), CachedRoute>,
    /// Where SYNs of a peer came in, if not by the interface of the address they were for.
    arrivals: HashMap<(IpAddr, IpAddr), u32>,
    next_hops: HashMap<(u32, IpAddr), NextHop>,
    /// The kernel's own way to where a connection was opened last: until when it is believed, and in which generation.
    own_way: Option<(SocketAddr, Answer, Instant, u64)>,
    /// Names and MTUs of the interfaces that may be used.
    interfaces: HashMap<u32, (String, u32)>,
    begun: Begun,
    /// Subflows that may not be begun: in which generation, and until when that is believed.
    refused: HashMap<(IpAddr, SocketAddr), (u64, Instant)>,
    walks: Walks,
    /// The user asks for every route that leads there, whatever the host's rules say.
    any_route: bool,
    /// The user that this process belongs to: there may be rules for it.
    user: u32,
    pending: usize,
    /// Raised when anything changes that a cached answer may depend on.
    generation: u64,
}

impl Paths {
    /// Asks the kernel for what it knows of neighbours.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub fn new(netlink: Netlink) -> io::Result<Self> {
        let mut paths = Self::without_neighbours(netlink);
        paths.refresh()?; // nothing waits yet
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
            interfaces: HashMap::new(),
            begun: Begun::default(),
            refused: HashMap::new(),
            walks: Walks::default(),
            any_route: false,
            // SAFETY: no pointers involved; the call can't fail.
            user: unsafe { libc::geteuid() },
            pending: 0,
            generation: 0,
        }
    }

    /// From now on every route over the right interface will do, whatever the host's rules say. What the host
    /// refuses stays refused.
    pub fn take_any_route(&mut self) {
        self.any_route = true;
        self.generation += 1;
    }

    /// Whether the host's rules do not count.
    pub fn takes_any_route(&self) -> bool {
        self.any_route
    }

    /// What an interface is called, since there may be rules for it, and how large its packets may be.
    pub fn set_interface(&mut self, interface: u32, name: &str, mtu: u32) {
        let known = self.interfaces.get(&interface);
        if known.is_none_or(|known| (&known.0[..], known.1) != (name, mtu)) {
            self.interfaces.insert(interface, (name.to_owned(), mtu));
            self.generation += 1;
        }
    }

    fn mtu_of(&self, interface: u32) -> u32 {
        self.interfaces.get(&interface).map_or(u32::MAX, |known| known.1)
    }

    /// Whether we may begin a subflow between these ends; the reason if not. Path managers ask again and
    /// again, so a no is remembered for a while.
    pub fn may_begin(&mut self, now: Instant, local: IpAddr, remote: SocketAddr) -> Result<(), String> {
        if let Some((generation, until)) = self.refused.get(&(local, remote))
            && *generation == self.generation
            && now < *until
        {
            return Err("no way, as a moment ago".into());
        }
        if !self.walks.may_begin(now) {
            return Err("the routing tables take too long to look through".into());
        }
        let start = std::time::Instant::now();
        let verdict = self.verdict(local, remote.ip(), Some(remote.port()));
        self.walks.took(start.elapsed());
        let reason = match verdict {
            Ok(Verdict::Allowed(_)) => return Ok(()),
            Ok(Verdict::Elsewhere(interface)) => {
                format!("the host sends packets for there out by interface {interface}")
            }
            Ok(Verdict::Refused(_)) => "the host's routing refuses packets to there".into(),
            Ok(Verdict::Own) => "an address of this host".into(),
            Ok(Verdict::NotForTcp) => "a broadcast or multicast address".into(),
            Ok(Verdict::NoRoute) => "no route".into(),
            Err(error) => format!("asking for a route: {error}"),
        };
        if self.refused.len() >= MAX_ARRIVALS {
            self.refused.clear();
        }
        self.refused.insert((local, remote), (self.generation, now + NO_ROUTE_AGAIN));
        Err(reason)
    }

    /// We have begun a subflow: its segments go by the host's policy as long as it lives.
    pub fn begin(&mut self, local: SocketAddr, remote: SocketAddr) {
        if self.begun.opening.len() < MAX_OPENING {
            self.begun.opening.insert((local, remote));
        }
    }

    /// A subflow has a slot now.
    pub fn subflow_added(&mut self, slot: SubflowSlot, local: SocketAddr, remote: SocketAddr) {
        if self.begun.opening.remove(&(local, remote)) && self.begun.slots.insert(slot) {
            let count = self.begun.pairs.entry((local.ip(), remote.ip())).or_default();
            *count += 1;
            if *count == 1 {
                self.routes.remove(&(local.ip(), remote.ip()));
            }
        }
    }

    /// A subflow has left its slot.
    pub fn subflow_removed(&mut self, slot: SubflowSlot, local: IpAddr, remote: IpAddr) {
        if self.begun.slots.remove(&slot)
            && let Some(count) = self.begun.pairs.get_mut(&(local, remote))
        {
            *count -= 1;
            if *count == 0 {
                self.begun.pairs.remove(&(local, remote));
                self.routes.remove(&(local, remote));
            }
        }
    }

    /// What the host's policy says of a subflow that we want to begin.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub fn verdict(&mut self, local: IpAddr, remote: IpAddr, port: Option<u16>) -> io::Result<Verdict> {
        let Some(interface) = self.interface_of(local) else { return Ok(Verdict::NoRoute) };
        if is_link_local(remote) && !is_link_local(local) {
            // Only an address of the same kind says which link is meant.
            return Ok(Verdict::NoRoute);
        }
        let interface_name = self.interfaces.get(&interface).map_or("", |known| &known.0);
        let flow =
            Flow { source: local, destination: remote, port, interface, interface_name, user: self.user };
        let verdict = self.netlink.policy(&flow)?;
        if !self.any_route || !matches!(verdict, Verdict::Elsewhere(_) | Verdict::NoRoute) {
            return Ok(verdict);
        }
        let route = self.netlink.route_over(remote, local, interface)?;
        Ok(route.map_or(verdict, Verdict::Allowed))
    }

    /// The socket to ask the kernel with.
    pub fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// From now on `address` is sent from by `interface`.
    pub fn add_local(&mut self, address: IpAddr, interface: u32) {
        self.locals.insert(address, interface);
        self.generation += 1;
    }

    /// The address is not to be sent from any more.
    pub fn remove_local(&mut self, address: IpAddr) {
        self.locals.remove(&address);
        self.generation += 1;
    }

    /// The interface that has an address.
    pub fn interface_of(&self, address: IpAddr) -> Option<u32> {
        self.locals.get(&address).copied()
    }

    /// Addresses to send from, with their interfaces.
    pub fn locals(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        self.locals.iter().map(|(address, interface)| (*address, *interface))
    }

    /// Routes changed: ask again.
    pub fn forget_routes(&mut self) {
        self.generation += 1;
    }

    /// News were lost: all next hops are asked for again. Gives what waited for those that are known now, as
    /// [`learn`](Self::learn) does.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub fn refresh(&mut self) -> io::Result<Vec<(bool, VecDeque<Segment>)>> {
        self.generation += 1;
        let neighbours = self.netlink.neighbours()?;
        let known: HashSet<(u32, IpAddr)> =
            neighbours.iter().map(|neighbour| (neighbour.interface, neighbour.address)).collect();
        self.next_hops.retain(|key, entry| known.contains(key) || !entry.waiting.is_empty());
        self.pending = self.next_hops.values().filter(|entry| entry.mac.is_none()).count();
        Ok(neighbours.iter().filter_map(|neighbour| self.learn(neighbour)).collect())
    }

    /// A SYN came in. Where it came in by another interface than that of the address it is for, and the kernel's own
    /// answers to its sender leave by that one, ours do too: the sender may be bound to the link. (A forged SYN can make
    /// us do no more than what the kernel does anyway.)
    pub fn arrived(&mut self, interface: u32, local: IpAddr, remote: IpAddr) {
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
    fn way_from_elsewhere(&mut self, local: IpAddr, remote: IpAddr) -> io::Result<Option<Route>> {
        let question = Question { source: Some(local), ..Question::to(remote) };
        let way = self.netlink.ask_route(&question)?.way();
        let used = |route: &Route| self.locals.values().any(|interface| *interface == route.interface);
        Ok(way.filter(|route| route.kind == RouteKind::Unicast && used(route)))
    }

    /// The way that the kernel would take to a destination by itself.
    ///
    /// # Errors
    /// Netlink does not answer.
    pub fn own_way(&mut self, now: Instant, remote: SocketAddr) -> io::Result<Answer> {
        if let Some((known, answer, expires, generation)) = self.own_way
            && (known, generation) == (remote, self.generation)
            && now < expires
        {
            return Ok(answer);
        }
        let question = Question { port: Some(remote.port()), ..Question::to(remote.ip()) };
        let answer = self.netlink.ask_route(&question)?;
        self.own_way = Some((remote, answer, now + OWN_WAY_AGAIN, self.generation));
        Ok(answer)
    }

    /// The way for an answer to what came in for this address: out by its interface, unless the host refuses
    /// it.
    fn answering_way(&mut self, local: IpAddr, remote: IpAddr, interface: u32) -> io::Result<Option<Route>> {
        let link = is_link_local(remote).then_some(interface);
        let question = Question { source: Some(local), interface: link, ..Question::to(remote) };
        match self.netlink.ask_route(&question)? {
            Answer::Way(route) if route.kind != RouteKind::Unicast => Ok(None),
            Answer::Way(route) if route.interface == interface => Ok(Some(route)),
            Answer::Refused(_) => Ok(None),
            _ => self.netlink.route_over(remote, local, interface),
        }
    }

    /// How large the packets between two addresses may be.
    pub fn limits(&mut self, now: Instant, local: IpAddr, remote: IpAddr) -> PathLimits {
        self.hop(now, local, remote);
        self.routes.get(&(local, remote)).map_or(PathLimits::default(), |cached| cached.limits)
    }

    /// Which way a segment between two addresses goes.
    #[inline]
    pub fn hop(&mut self, now: Instant, local: IpAddr, remote: IpAddr) -> Hop {
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
        let way = if self.begun.pairs.contains_key(&(local, remote)) {
            self.verdict(local, remote, None).map(|verdict| match verdict {
                Verdict::Allowed(route) => Some(route),
                _ => None,
            })
        } else {
            match (self.way_back(local, remote), self.interface_of(local)) {
                (Some(route), _) => Ok(Some(route)),
                (None, Some(own)) => self.answering_way(local, remote, own),
                (None, None) => self.way_from_elsewhere(local, remote),
            }
        };
        let Ok(Some(route)) = way else {
            let expires = Some(now + NO_ROUTE_AGAIN);
            self.remember((local, remote), Hop::NoRoute, PathLimits::default(), expires, None);
            return Hop::NoRoute;
        };
        let interface = route.interface;
        let mut limits = PathLimits::new(&route.limits, remote.is_ipv6(), self.mtu_of(interface));
        let mut expires = route.limits.expires.map(|seconds| now + Duration::from_secs(seconds.into()));
        if let Some(before) = self.routes.get(&(local, remote)).map(|cached| cached.limits)
            && before.mtu != 0
            && before.mtu != limits.mtu
        {
            limits.renewed = true;
            expires = Some(expires.map_or(now + RENEWED, |expires| expires.min(now + RENEWED)));
        }
        let next_hop = route.next_hop(remote);
        let entry = self.next_hops.get(&(interface, next_hop));
        let (hop, stale) = match entry.map(|entry| (entry.mac, entry.stale)) {
            Some((Some(mac), stale)) => {
                (Hop::Ready { interface, mac, limits }, stale.then_some((interface, next_hop)))
            }
            _ => (Hop::Resolving { interface, next_hop }, None),
        };
        self.remember((local, remote), hop, limits, expires, stale);
        if let Some((interface, next_hop)) = stale {
            self.confirm(now, interface, next_hop);
        }
        hop
    }

    fn remember(
        &mut self,
        pair: (IpAddr, IpAddr),
        hop: Hop,
        limits: PathLimits,
        expires: Option<Instant>,
        stale: Option<(u32, IpAddr)>,
    ) {
        if self.routes.len() >= MAX_ROUTES {
            self.routes.clear();
        }
        self.routes.insert(pair, CachedRoute { generation: self.generation, hop, limits, expires, stale });
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
    pub fn wait(&mut self, now: Instant, interface: u32, next_hop: IpAddr, segment: Segment) -> bool {
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
    pub fn learn(&mut self, neighbour: &Neighbour) -> Option<(bool, VecDeque<Segment>)> {
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
    pub fn forget_interface(&mut self, interface: u32) {
        self.arrivals.retain(|_, arrival| *arrival != interface);
        self.interfaces.remove(&interface);
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

    #[test]
    fn questions_about_subflows_take_a_small_part_of_the_time() {
        let mut walks = Walks::default();
        let second = |number: u64| Instant::from_nanos(number * 1_000_000_000);
        for _ in 0..199 {
            assert!(walks.may_begin(second(100)));
            walks.took(Duration::from_millis(1));
        }
        // A table of a million routes.
        assert!(walks.may_begin(second(100)));
        walks.took(Duration::from_secs(2));
        assert!(!walks.may_begin(second(101)) && !walks.may_begin(second(139)));
        assert!(walks.may_begin(second(141)));
    }
}
