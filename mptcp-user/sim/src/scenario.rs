//! Random topologies, impairments, middleboxes and traffic, all from one seed, and what must hold in each of
//! them.
//!
//! The invariant: the byte stream arrives exactly once, in order, complete, or the end that lacks something
//! learns that it does. An end that was told "closed by both sides" may rely on it that the other has
//! everything.
//!
//! Where a box changes octets, checksums are in use, and the invariant holds as long as the connection has
//! not fallen back: regular TCP can't notice, and delivers what the box made of it (RFC 8684 section 3.7).

use super::link::{LinkConfig, Loss};
use super::middlebox::{Action as FilterAction, BoxConfig, OptionKind, Way, When};
use super::queue::Discipline;
use super::simulation::{Action, Simulation, SimulationConfig, local_address};
use super::{Outcome, PathConfig, PathId, Random, Side, Traffic};
use mptcp_proto::{CloseReason, ConnectionConfig};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// The kind of network of a random scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Rates, delays and queues only: everything must arrive, and nobody may fall back or give up.
    Clean,
    /// Loss, reordering, duplication, damage, jitter too: everything must arrive.
    Lossy,
    /// Middleboxes too.
    Middleboxes,
    /// Paths and addresses come and go, routers forget connections, processes are stopped for minutes,
    /// applications abort.
    Dynamic,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 4] = [Kind::Clean, Kind::Lossy, Kind::Middleboxes, Kind::Dynamic];
}

/// One simulated run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The kind of network.
    pub kind: Kind,
    /// Network and seed.
    pub config: SimulationConfig,
    /// How the client connects.
    pub client: ConnectionConfig,
    /// How the server accepts.
    pub server: ConnectionConfig,
    /// The client's application.
    pub client_traffic: Traffic,
    /// The server's application.
    pub server_traffic: Traffic,
    /// Actions, by time after the connection attempt.
    pub actions: Vec<(Duration, Action)>,
    /// When it must be over.
    pub limit: Duration,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn random(seed: u64, kind: Kind) -> Self {
        let mut random = Random::new(seed);
        let paths = random_paths(&mut random, kind);
        let mut connection = || random_connection(&mut random, kind);
        let (mut client, mut server) = (connection(), connection());
        let slowest =
            paths.iter().flat_map(|path| [path.forward.rate, path.reverse.rate]).flatten().min().unwrap_or(1);
        // The slowest path takes no more than half a minute for it without losses.
        let most = (slowest / 8 * 30).min(2_000_000);
        let traffic = |random: &mut Random| random_traffic(random, kind, most);
        let (client_traffic, mut server_traffic) = (traffic(&mut random), traffic(&mut random));
        // One of them has to be the first.
        server_traffic.finish_first |= !client_traffic.finish_first;
        let mut actions =
            if kind == Kind::Dynamic { random_actions(&mut random, &paths) } else { Vec::new() };
        if kind == Kind::Dynamic {
            actions.extend(random_forgetting(seed, paths.len()));
        }
        let config = SimulationConfig {
            check_wire: random.chance(0.25),
            judge_pauses: matches!(kind, Kind::Clean | Kind::Lossy),
            coalesce: random.chance(0.5),
            ..SimulationConfig::new(seed, paths)
        };
        if config.changes_octets() {
            (client.checksum, server.checksum) = (true, true);
        }
        Self {
            kind,
            config,
            client,
            server,
            client_traffic,
            server_traffic,
            actions,
            limit: Duration::from_secs(3600),
        }
    }

    /// Runs it.
    ///
    /// # Panics
    /// When the engine breaks a promise.
    pub fn run(&self) -> [Outcome; 2] {
        let mut simulation = Simulation::new(&self.config);
        simulation.listen(self.server.clone(), self.server_traffic).expect("the server listens");
        let path = &self.config.paths[0];
        let (client, server) = (path.client, path.server);
        simulation
            .connect(client, server, self.client.clone(), self.client_traffic)
            .expect("the client connects");
        for (after, action) in &self.actions {
            simulation.schedule(*after, action.clone());
        }
        let over = simulation.run(self.limit);
        let outcome = |side| simulation.outcomes(side).first().copied().unwrap_or_default();
        let outcomes = Side::BOTH.map(outcome);
        self.judge(&outcomes);
        if over {
            simulation.check_nothing_left();
        } else {
            for side in Side::BOTH {
                self.excuse(&simulation, side, &outcomes);
            }
        }
        outcomes
    }

    /// A connection that is not over at the end: only where the peer is gone without a word getting through,
    /// and nothing is left to send that would show it.
    fn excuse(&self, simulation: &Simulation, side: Side, outcomes: &[Outcome; 2]) {
        let (own, peer) = (&outcomes[side as usize], &outcomes[side.peer() as usize]);
        if own.released || own.connected.is_none() {
            return;
        }
        // The server's application never learns of a connection whose third ACK did not come.
        let peer_failed = peer.connected.is_none()
            || peer.closed.is_some_and(|(_, reason)| reason != CloseReason::Finished);
        let info = simulation.info(side, 0);
        let idle = info.as_ref().is_some_and(|info| info.send_queue == 0);
        let excused = !matches!(self.kind, Kind::Clean | Kind::Lossy) && peer_failed && idle;
        assert!(excused, "not over after {:?}: {side:?} {info:#?} {outcomes:#?}", self.limit);
    }

    fn judge(&self, outcomes: &[Outcome; 2]) {
        let traffics = [self.client_traffic, self.server_traffic];
        let must_succeed = matches!(self.kind, Kind::Clean | Kind::Lossy);
        for side in Side::BOTH {
            let (own, peer) = (&outcomes[side as usize], &outcomes[side.peer() as usize]);
            if own.unprotected || peer.unprotected {
                // With octets put in or left out, not even the length is what it was.
                continue;
            }
            let expected = traffics[side.peer() as usize].send;
            assert!(own.received <= expected, "{side:?} received more than was sent: {own:?}");
            if own.end.is_some() {
                assert_eq!(own.received, expected, "{side:?} was told of an end that is none: {own:?}");
            }
            let Some((_, reason)) = own.closed else {
                // A server that never heard of the connection, or whose peer is gone: see `excuse`.
                continue;
            };
            if reason == CloseReason::Finished {
                assert!(own.end.is_some(), "{side:?} finished without the end of the data: {own:?}");
                assert_eq!(own.sent, traffics[side as usize].send);
                assert_eq!(
                    peer.received, own.sent,
                    "{side:?} finished, but its peer lacks data: {own:?} {peer:?}"
                );
            } else {
                assert!(!must_succeed, "{side:?} failed: {own:?}, peer {peer:?}");
            }
            if self.kind == Kind::Clean {
                assert_eq!(own.fell_back, None, "{side:?} fell back");
            }
        }
    }
}

fn address(v6: bool, host: u8, interface: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, host.into(), interface.into(), 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, host, interface, 1).into()
    }
}

fn random_paths(random: &mut Random, kind: Kind) -> Vec<PathConfig> {
    let addresses = |random: &mut Random, host: u8| -> Vec<IpAddr> {
        let count = random.between(1, 3) as u8;
        (0..count).map(|interface| address(random.chance(0.3), host, interface)).collect()
    };
    let mut clients = addresses(random, 1);
    let servers = addresses(random, 2);
    // The first two are the ends of the initial subflow.
    clients[0] = address(servers[0].is_ipv6(), 1, 0);
    let mut paths = Vec::new();
    for client in &clients {
        for server in &servers {
            let initial = paths.is_empty();
            if client.is_ipv6() != server.is_ipv6() || !(initial || random.chance(0.8)) {
                continue;
            }
            let rate = random.between_log(300_000, 200_000_000);
            let delay = Duration::from_micros(random.between_log(50, 150_000));
            let mut path = PathConfig::new(*client, *server, random_link(random, kind, rate, delay));
            if random.chance(0.5) {
                let rate = random.between_log(300_000, 200_000_000);
                path.reverse = random_link(random, kind, rate, delay);
            }
            if kind != Kind::Clean && random.chance(0.2) {
                // Less than the links say, and a router that says so or not.
                let least = if client.is_ipv6() { 1280 } else { 580 };
                let mtu = Some(random.between(least, 1500) as usize);
                let reports_mtu = random.chance(0.4);
                path.forward = LinkConfig { mtu, reports_mtu, ..path.forward };
                if random.chance(0.5) {
                    path.reverse = LinkConfig { mtu, reports_mtu, ..path.reverse };
                }
            }
            if kind == Kind::Middleboxes {
                for _ in 0..random.between(0, 2) {
                    let external = address(client.is_ipv6(), 3, paths.len() as u8);
                    path.boxes.push(random_box(random, external));
                }
            }
            paths.push(path);
        }
    }
    paths
}

fn random_link(random: &mut Random, kind: Kind, rate: u64, delay: Duration) -> LinkConfig {
    let mut link = LinkConfig::new(rate, delay);
    link.queue_octets = (link.queue_octets as f64 * random.between(1, 4) as f64) as usize + 30_000;
    if random.chance(0.2) {
        link.discipline = Discipline::CODEL;
    }
    if kind == Kind::Clean {
        return link;
    }
    if random.chance(0.3) {
        link.queue_packets = random.between(4, 50) as usize;
    }
    if random.chance(0.5) {
        link.loss = Loss::Random(random.between_log(1, 500) as f64 / 10_000.0);
    } else if random.chance(0.3) {
        link.loss = Loss::GilbertElliott {
            to_bad: random.between_log(1, 100) as f64 / 10_000.0,
            to_good: random.between(10, 80) as f64 / 100.0,
            loss_good: 0.0,
            loss_bad: random.between(30, 100) as f64 / 100.0,
        };
    }
    if random.chance(0.3) {
        link.jitter = delay / random.between(2, 20) as u32;
        link.jitter_reorders = random.chance(0.3);
    }
    if random.chance(0.3) {
        link.reorder = random.between_log(1, 100) as f64 / 1000.0;
        link.reorder_by = Duration::from_micros(random.between_log(100, 50_000));
    }
    if random.chance(0.3) {
        link.duplicate = random.between_log(1, 50) as f64 / 1000.0;
    }
    if random.chance(0.3) {
        link.corrupt = random.between_log(1, 20) as f64 / 1000.0;
    }
    link
}

fn random_box(random: &mut Random, external: IpAddr) -> BoxConfig {
    const OPTIONS: [OptionKind; 9] = [
        OptionKind::Mss,
        OptionKind::WindowScale,
        OptionKind::Sack,
        OptionKind::Timestamps,
        OptionKind::Mptcp,
        OptionKind::MpCapable,
        OptionKind::MpJoin,
        OptionKind::Dss,
        OptionKind::AddAddr,
    ];
    match random.between(0, 11) {
        0..=2 => BoxConfig::Option {
            option: *random.pick(&OPTIONS),
            when: *random.pick(&[When::Always, When::Syn, When::NotSyn, When::Data]),
            way: *random.pick(&[None, Some(Way::Forward), Some(Way::Reverse)]),
            action: *random.pick(&[FilterAction::Strip, FilterAction::Strip, FilterAction::Drop]),
        },
        3 => BoxConfig::MssClamp { mss: random.between(536, 1400) as u16 },
        4 => BoxConfig::TimestampRewriter,
        5 => BoxConfig::SequenceRandomiser { translate_sack: random.chance(0.7) },
        6 => {
            BoxConfig::Splitter { size: random.between(200, 1400) as u16, repeat_options: random.chance(0.5) }
        }
        7 => BoxConfig::Coalescer {
            limit: random.between(3000, 60_000) as usize,
            hold: Duration::from_micros(random.between(10, 2000)),
            careless: random.chance(0.3),
        },
        8 => BoxConfig::Nat { external, idle: Duration::from_secs(120) },
        9 => BoxConfig::PayloadChanger {
            way: *random.pick(&[Way::Forward, Way::Reverse]),
            // One octet in 256 is one of these.
            needle: vec![random.between(0, 255) as u8],
            replacement: vec![0x5a; random.between(0, 3) as usize],
            limit: random.between(1, 20) as usize,
        },
        10 => BoxConfig::SackLiar,
        _ => BoxConfig::EcnBleacher,
    }
}

fn random_connection(random: &mut Random, kind: Kind) -> ConnectionConfig {
    let defaults = ConnectionConfig::default();
    let algorithms: Vec<_> = ConnectionConfig::congestion_algorithms().collect();
    ConnectionConfig {
        checksum: random.chance(0.3),
        max_subflows: random.between(1, 8) as usize,
        announce_addresses: random.chance(0.8),
        send_buffer: random.between_log(16_384, 4 << 20) as usize,
        receive_buffer: random.between_log(16_384, 4 << 20) as usize,
        congestion: (*random.pick(&algorithms)).into(),
        scheduler: (*random.pick(&["lowest-rtt", "lowest-rtt", "round-robin", "redundant", "blest", "ecf"]))
            .into(),
        multipath: kind == Kind::Clean || random.chance(0.95),
        ..defaults
    }
}

fn random_traffic(random: &mut Random, kind: Kind, most: u64) -> Traffic {
    let send = if random.chance(0.1) { 0 } else { random.between_log(1, most) };
    Traffic {
        send,
        pause: Duration::ZERO,
        chunk: random.between_log(1, 200_000) as usize,
        read_rate: random.chance(0.15).then(|| random.between_log(50_000, 10_000_000)),
        finish_first: random.chance(0.8),
        abort_after: (kind == Kind::Dynamic && random.chance(0.15)).then(|| random.between(0, send)),
    }
}

/// Routers forget, at times. A generator of its own draws it, so that seeds mean what they meant.
fn random_forgetting(seed: u64, paths: usize) -> Vec<(Duration, Action)> {
    let mut random = Random::new(seed ^ u64::from_be_bytes(*b"forgets!"));
    let count = if random.chance(0.3) { random.between(1, 3) } else { 0 };
    let forgetting = |_| {
        let at = Duration::from_millis(random.between_log(1, 20_000));
        (at, Action::Forget(PathId(random.between(0, paths as u64 - 1) as usize)))
    };
    (0..count).map(forgetting).collect()
}

fn random_actions(random: &mut Random, paths: &[PathConfig]) -> Vec<(Duration, Action)> {
    let mut actions = Vec::new();
    for _ in 0..random.between(1, 6) {
        let at = Duration::from_millis(random.between_log(1, 20_000));
        let later = at + Duration::from_millis(random.between_log(10, 30_000));
        let place = random.between(0, paths.len() as u64 - 1) as usize;
        let path = &paths[place];
        match random.between(0, 3) {
            0 => {
                actions.push((at, Action::SetUp(PathId(place), false)));
                if random.chance(0.8) {
                    actions.push((later, Action::SetUp(PathId(place), true)));
                }
            }
            1 => {
                let (side, address) = if random.chance(0.7) {
                    (Side::Client, path.client)
                } else {
                    (Side::Server, path.server)
                };
                actions.push((at, Action::RemoveAddress(side, address)));
                if random.chance(0.8) {
                    actions.push((later, Action::AddAddress(side, local_address(address, place as u32 + 1))));
                }
            }
            2 => {
                let side = *random.pick(&Side::BOTH);
                let stopped = Duration::from_millis(random.between_log(100, 200_000));
                actions.push((at, Action::Stop(side, stopped)));
            }
            _ => {
                let rate = random.between_log(300_000, 100_000_000);
                let delay = Duration::from_micros(random.between_log(100, 200_000));
                let link = random_link(random, Kind::Lossy, rate, delay);
                actions.push((at, Action::Reconfigure(PathId(place), Box::new([link, link]))));
            }
        }
    }
    actions
}
