//! Paths between the addresses of two hosts.

use super::link::{Link, LinkConfig, LinkStats};
use super::middlebox::{BoxConfig, Chain, Way};
use super::random::Random;
use super::segment::{check_on_the_wire, frame_len};
use mptcp_proto::audit::Side;
use mptcp_proto::wire::{Flags, Segment, segmentize};
use mptcp_proto::{Instant, Unreachable};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// A path of the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct PathId(pub usize);

/// A path between an address of the client and one of the server.
#[derive(Clone, PartialEq, Debug)]
pub struct PathConfig {
    /// The client's address.
    pub client: IpAddr,
    /// The server's address.
    pub server: IpAddr,
    /// From the client to the server.
    pub forward: LinkConfig,
    /// From the server to the client.
    pub reverse: LinkConfig,
    /// Middleboxes between the client and the link.
    pub boxes: Vec<BoxConfig>,
    /// The packets go through the links of the path in this place instead: a bottleneck that both share.
    pub shares: Option<usize>,
}

impl PathConfig {
    /// A path with the same link both ways and nothing in between.
    pub fn new(client: IpAddr, server: IpAddr, link: LinkConfig) -> Self {
        Self { client, server, forward: link, reverse: link, boxes: Vec::new(), shares: None }
    }
    /// The client's address as the server sees it: that of the last NAT.
    fn client_outside(&self) -> IpAddr {
        let external = |config: &BoxConfig| match config {
            BoxConfig::Nat { external, .. } => Some(*external),
            _ => None,
        };
        self.boxes.iter().rev().find_map(external).unwrap_or(self.client)
    }
}

/// How often boxes may answer each other at one point in time.
const MAX_ANSWERS: usize = 1000;

struct Path {
    client: IpAddr,
    outside: IpAddr,
    server: IpAddr,
    /// Place of the path whose links carry the packets.
    carrier: usize,
    chain: Chain,
    /// Connections that have begun since the routers forgot all; none, if they have not.
    known: Option<BTreeSet<(SocketAddr, SocketAddr)>>,
    forward: Link<Segment>,
    reverse: Link<Segment>,
}

impl Path {
    /// Whether routers let a packet pass: one of a connection whose SYN they have seen.
    fn passes(&mut self, way: Way, packet: &Segment) -> bool {
        let Some(known) = &mut self.known else { return true };
        let tuple = match way {
            Way::Forward => (packet.src, packet.dst),
            Way::Reverse => (packet.dst, packet.src),
        };
        if way == Way::Forward && packet.flags.has(Flags::SYN) {
            known.insert(tuple);
        }
        known.contains(&tuple)
    }

    /// The ICMP error of the router before the link to the sender of packets that are too long for it, and
    /// its time of arrival there. Where boxes may have changed the packet beyond recognition there is none.
    fn report(&self, now: Instant, from: Side, segment: &Segment) -> Option<(Instant, Unreachable)> {
        let link = match from {
            Side::Client if self.chain.is_empty() => &self.forward,
            Side::Client => return None,
            Side::Server => &self.reverse,
        };
        let mtu = link.config().mtu.filter(|_| link.config().reports_mtu)?;
        let packet = segmentize(segment).find(|packet| link.config().is_too_long(frame_len(packet)))?;
        let report = Unreachable {
            local: packet.src,
            remote: packet.dst,
            seq: packet.seq.0,
            mtu: u32::try_from(mtu).ok(),
            hard: false,
        };
        Some((now + link.config().delay, report))
    }
}

/// All paths between two hosts.
pub struct Network {
    paths: Vec<Path>,
    arrived: VecDeque<(Side, Segment)>,
    /// Reports of routers on their way, by time of arrival and number.
    reports: BTreeMap<(Instant, u64), (Side, Unreachable)>,
    reported: u64,
    /// Build and parse each packet on its way.
    check_wire: bool,
    unroutable: u64,
}

impl Network {
    /// A network of these paths. With `check_wire`, each segment is built as a packet and parsed again where
    /// it is sent.
    pub fn new(paths: &[PathConfig], check_wire: bool, mut random: Random) -> Self {
        let paths = paths
            .iter()
            .enumerate()
            .map(|(place, config)| Path {
                carrier: config.shares.filter(|other| *other < paths.len()).unwrap_or(place),
                client: config.client,
                outside: config.client_outside(),
                server: config.server,
                chain: Chain::new(config.boxes.iter().map(|config| config.build(random.fork())).collect()),
                known: None,
                forward: Link::new(config.forward, random.fork()),
                reverse: Link::new(config.reverse, random.fork()),
            })
            .collect();
        Self {
            paths,
            arrived: VecDeque::new(),
            reports: BTreeMap::new(),
            reported: 0,
            check_wire,
            unroutable: 0,
        }
    }

    /// The path that a segment of that side takes.
    pub fn route(&self, from: Side, src: IpAddr, dst: IpAddr) -> Option<PathId> {
        let place = self.paths.iter().position(|path| match from {
            Side::Client => (src, dst) == (path.client, path.server),
            Side::Server => (src, dst) == (path.server, path.outside),
        });
        place.map(PathId)
    }

    /// Sends a segment, cut into packets if it is a super-segment. Without a path it is lost.
    ///
    /// # Panics
    /// With `check_wire`, when a packet does not survive being built and parsed.
    pub fn send(&mut self, now: Instant, from: Side, segment: &Segment) {
        let Some(PathId(place)) = self.route(from, segment.src.ip(), segment.dst.ip()) else {
            self.unroutable += 1;
            return;
        };
        if let Some((at, report)) = self.paths[place].report(now, from, segment) {
            self.reported += 1;
            self.reports.insert((at, self.reported), (from, report));
        }
        let carrier = self.paths[place].carrier;
        for mut packet in segmentize(segment) {
            packet.options.truncate_to_wire();
            if self.check_wire {
                check_on_the_wire(&packet);
            }
            if from == Side::Client && !self.paths[place].passes(Way::Forward, &packet) {
                continue;
            }
            match from {
                Side::Client if self.paths[place].chain.is_empty() => {
                    self.paths[carrier].forward.push(now, packet);
                }
                Side::Client => {
                    let mut out = Vec::new();
                    self.paths[place].chain.process(now, Way::Forward, packet, &mut out);
                    out.into_iter().for_each(|packet| self.paths[carrier].forward.push(now, packet));
                }
                Side::Server => self.paths[carrier].reverse.push(now, packet),
            }
        }
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Instant> {
        self.paths
            .iter()
            .flat_map(|path| {
                [path.forward.next_event(), path.reverse.next_event(), path.chain.next_timeout()]
            })
            .flatten()
            .chain(self.reports.keys().next().map(|(at, _)| *at))
            .min()
    }

    /// The next report of a router that has arrived somewhere.
    pub fn poll_report(&mut self, now: Instant) -> Option<(Side, Unreachable)> {
        let entry = self.reports.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// The next packet that has arrived somewhere.
    pub fn poll(&mut self, now: Instant) -> Option<(Side, Segment)> {
        if let Some(arrival) = self.arrived.pop_front() {
            return Some(arrival);
        }
        let mut released = Vec::new();
        let mut out = Vec::new();
        for path in &mut self.paths {
            while let Some(packet) = path.reverse.pop(now) {
                path.chain.process(now, Way::Reverse, packet, &mut out);
                out.retain(|packet| path.passes(Way::Reverse, packet));
                self.arrived.extend(out.drain(..).map(|packet| (Side::Client, packet)));
            }
            // After what came in: boxes may have an answer to it.
            for _ in 0..MAX_ANSWERS {
                if path.chain.next_timeout().is_none_or(|at| at > now) {
                    break;
                }
                path.chain.handle_timeout(now, &mut released);
                for (way, packet) in released.drain(..) {
                    match way {
                        Way::Forward => path.forward.push(now, packet),
                        Way::Reverse if path.passes(Way::Reverse, &packet) => {
                            self.arrived.push_back((Side::Client, packet));
                        }
                        Way::Reverse => {}
                    }
                }
            }
            while let Some(packet) = path.forward.pop(now) {
                self.arrived.push_back((Side::Server, packet));
            }
        }
        self.arrived.pop_front()
    }

    /// Packets that were lost on the way, for whatever reason.
    pub fn lost(&self) -> u64 {
        let lost = |stats: LinkStats| {
            let queue = stats.queue_drops + stats.managed_drops;
            queue + stats.lost + stats.corrupted + stats.too_long + stats.down_drops
        };
        self.paths.iter().map(|path| lost(path.forward.stats()) + lost(path.reverse.stats())).sum()
    }
    /// Takes a path down or up.
    pub fn set_up(&mut self, path: PathId, up: bool) {
        if let Some(path) = self.paths.get_mut(path.0) {
            path.forward.set_up(up);
            path.reverse.set_up(up);
        }
    }
    /// The routers of a path forget all connections, as one that translates addresses does when it is
    /// restarted, or when nothing happens for long. They say nothing, and let only those pass whose SYN they
    /// see.
    pub fn forget(&mut self, path: PathId) {
        if let Some(path) = self.paths.get_mut(path.0) {
            path.known = Some(BTreeSet::new());
        }
    }
    /// Changes both directions of a path.
    pub fn reconfigure(&mut self, path: PathId, forward: LinkConfig, reverse: LinkConfig) {
        if let Some(path) = self.paths.get_mut(path.0) {
            path.forward.reconfigure(forward);
            path.reverse.reconfigure(reverse);
        }
    }
    /// Counters of a path, forward and back.
    pub fn stats(&self, path: PathId) -> Option<(LinkStats, LinkStats)> {
        self.paths.get(path.0).map(|path| (path.forward.stats(), path.reverse.stats()))
    }
    /// Segments for which there was no path.
    pub fn unroutable(&self) -> u64 {
        self.unroutable
    }
}
