//! The pair that the engine's own tests drive. Everything in it follows from one seed.

use crate::audit::{Audit, Side};
use crate::wire::{Segment, segmentize};
use crate::{
    CloseReason, ConnectionConfig, ConnectionId, ConnectionInfo, Endpoint, EndpointConfig, Event, Instant,
    ListenerId, LocalAddress,
};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What a path does to segments.
#[derive(Clone, Debug)]
pub(super) struct PathConfig {
    pub(super) delay: Duration,
    /// Probability that a packet is lost, and that it is held back by up to another delay.
    pub(super) loss: f64,
    pub(super) reorder: f64,
    pub(super) up: bool,
    /// Larger packets disappear.
    pub(super) mtu: usize,
}

impl Default for PathConfig {
    fn default() -> Self {
        Self { delay: Duration::from_millis(5), loss: 0.0, reorder: 0.0, up: true, mtu: usize::MAX }
    }
}

/// One side: an endpoint with a simple application.
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    pub(super) connection: Option<ConnectionId>,
    pub(super) received: Vec<u8>,
    pub(super) ended: bool,
    pub(super) closed: Option<CloseReason>,
    pub(super) events: Vec<Event>,
    to_send: Vec<u8>,
    offered: usize,
    finish: bool,
    finished: bool,
    /// The engine took no more: nothing is offered before it says that there is room again.
    full: bool,
    /// Octets the application reads at most before it must be asked to read more.
    pub(super) read_limit: usize,
    next_port: u16,
}

/// Changes or drops segments on their way; `true` in the first argument: from the client.
pub(super) type Middlebox = Box<dyn FnMut(bool, Segment) -> Option<Segment>>;

/// Sees segments, and when they leave.
pub(super) type TimedWitness = Box<dyn FnMut(Instant, &Segment)>;
/// Sees segments.
pub(super) type Witness = Box<dyn FnMut(&Segment)>;

/// Client, server, and the network between them. Path `i` has the client's address 10.i.0.1 and the server's
/// 10.i.0.2 (fd00:i::1 and fd00:i::2).
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) client: Host,
    pub(super) server: Host,
    pub(super) paths: Vec<PathConfig>,
    pub(super) middlebox: Option<Middlebox>,
    /// Sees what a path's MTU drops.
    pub(super) dropped: Option<Witness>,
    /// Sees what the server sends, and when.
    pub(super) sent: Option<TimedWitness>,
    /// Judges each segment where it is sent.
    pub(super) audit: Option<Audit>,
    pub(super) listener: ListenerId,
    /// Segments that each host's link takes per tenth of a millisecond.
    pub(super) budget: usize,
    /// The client's process is stopped until then.
    pub(super) stopped: Option<Instant>,
    backlogged: bool,
    in_flight: BTreeMap<(Instant, u64), (bool, Segment)>,
    sequence: u64,
    rng: ChaCha12Rng,
    pub(super) packets: u64,
    pub(super) log: Vec<String>,
}

pub(super) fn address(path: usize, host: u8, v6: bool) -> IpAddr {
    if v6 { format!("fd00:{path}::{host}").parse().unwrap() } else { IpAddr::from([10, path as u8, 0, host]) }
}

const PORT: u16 = 5000;

impl Pair {
    pub(super) fn new(seed: u64, paths: Vec<PathConfig>, v6: bool, config: &ConnectionConfig) -> Self {
        Self::with_configs(seed, paths, v6, config, config)
    }

    pub(super) fn with_configs(
        seed: u64,
        paths: Vec<PathConfig>,
        v6: bool,
        client_config: &ConnectionConfig,
        server_config: &ConnectionConfig,
    ) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let now = Instant::from_nanos(rng.random_range(0..1_000_000_000_000));
        let mut host = |number: u8| {
            // Whether and how soon connections are written down must make no difference.
            let rest_after = Duration::from_millis([100, 0, 3][seed as usize % 3]);
            let config = EndpointConfig { rest_after, ..EndpointConfig::default() };
            let mut endpoint = Endpoint::new(config, rng.random());
            for path in 0..paths.len() {
                let local = LocalAddress {
                    address: address(path, number, v6),
                    interface: path as u32 + 1,
                    mtu: 1500,
                    backup: false,
                };
                endpoint.add_local_address(now, local);
            }
            Host {
                endpoint,
                connection: None,
                received: Vec::new(),
                ended: false,
                closed: None,
                events: Vec::new(),
                to_send: Vec::new(),
                offered: 0,
                finish: false,
                finished: false,
                full: false,
                read_limit: usize::MAX,
                next_port: 40_000,
            }
        };
        let (mut client, mut server) = (host(1), host(2));
        let to = SocketAddr::new(address(0, 2, v6), PORT);
        let listener = server.endpoint.listen(to, server_config.clone()).unwrap();
        let from = SocketAddr::new(address(0, 1, v6), 39_999);
        client.connection = Some(client.endpoint.connect(now, from, to, client_config.clone()).unwrap());
        Self {
            now,
            client,
            server,
            paths,
            middlebox: None,
            audit: None,
            dropped: None,
            sent: None,
            listener,
            budget: usize::MAX,
            stopped: None,
            backlogged: false,
            in_flight: BTreeMap::new(),
            sequence: 0,
            rng,
            packets: 0,
            log: Vec::new(),
        }
    }

    /// Gives both applications what to send, and lets them finish after it.
    pub(super) fn send(&mut self, client: Vec<u8>, server: Vec<u8>) {
        for (host, octets) in [(&mut self.client, client), (&mut self.server, server)] {
            host.to_send = octets;
            host.finish = true;
        }
    }

    /// Gives both applications what to send; neither finishes.
    pub(super) fn send_only(&mut self, client: Vec<u8>, server: Vec<u8>) {
        self.client.to_send = client;
        self.server.to_send = server;
    }

    /// Transfers this much in each direction and closes: all of it arrives, and both ends know that. Gives what client
    /// and server know at the end.
    pub(super) fn exchange(&mut self, up: usize, down: usize) -> (ConnectionInfo, ConnectionInfo) {
        let (up, down) = (pattern(up, 1), pattern(down, 2));
        self.send(up.clone(), down.clone());
        assert!(self.run(Duration::from_secs(120)), "{}", self.tail());
        assert!(self.server.received == up && self.client.received == down);
        let finished = Some(CloseReason::Finished);
        assert_eq!((self.client.closed, self.server.closed), (finished, finished));
        (self.client.info(), self.server.info())
    }

    /// Opens another connection between the same hosts, whose applications begin anew.
    pub(super) fn reopen(&mut self, from: SocketAddr, to: SocketAddr, config: &ConnectionConfig) {
        for host in [&mut self.client, &mut self.server] {
            host.begin_anew();
        }
        let connection = self.client.endpoint.connect(self.now, from, to, config.clone());
        self.client.connection = Some(connection.expect("the four-tuple is free"));
    }

    /// Runs until nothing happens any more before `limit` has passed, or `done` says so.
    pub(super) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Pair) -> bool) -> bool {
        let end = self.now + limit;
        let mut rounds = 0u64;
        loop {
            rounds += 1;
            assert!(rounds < 3_000_000, "time does not pass any more at {:?}\n{}", self.now, self.tail());
            self.backlogged = false;
            self.stopped = self.stopped.filter(|until| *until > self.now);
            for from_client in [true, false] {
                if !from_client || self.stopped.is_none() {
                    self.drive(from_client);
                }
            }
            if done(self) {
                return true;
            }
            let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let client = self.stopped.or_else(|| self.client.endpoint.next_timeout());
            let timers = [client, self.server.endpoint.next_timeout()];
            let room = self.backlogged.then(|| self.now + Duration::from_micros(100));
            let Some(next) = timers.into_iter().flatten().chain(arrival).chain(room).min() else {
                return false;
            };
            if next > end {
                self.now = end;
                return false;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.in_flight.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let (at, sequence) = *entry.key();
                let (from_client, segment) = entry.remove();
                if let Some(until) = self.stopped.filter(|until| !from_client && *until > self.now) {
                    // It waits for the process, in the order in which it came.
                    self.in_flight.insert((until.max(at), sequence), (from_client, segment));
                    continue;
                }
                if let Some(audit) = &mut self.audit {
                    audit.arrived(if from_client { Side::Server } else { Side::Client }, &segment);
                }
                let host = if from_client { &mut self.server } else { &mut self.client };
                host.endpoint.handle_segment(self.now, segment);
            }
            if self.stopped.is_none_or(|until| until <= self.now) {
                self.client.endpoint.handle_timeout(self.now);
            }
            self.server.endpoint.handle_timeout(self.now);
        }
    }

    /// Runs until both sides are closed.
    pub(super) fn run(&mut self, limit: Duration) -> bool {
        self.run_until(limit, |pair| pair.client.closed.is_some() && pair.server.closed.is_some())
    }

    fn drive(&mut self, is_client: bool) {
        let now = self.now;
        for round in 0.. {
            assert!(round < 100_000, "endless output at {:?}\n{}", self.now, self.tail());
            let host = if is_client { &mut self.client } else { &mut self.server };
            host.application(now);
            let mut quiet = true;
            let mut events = 0;
            while let Some(event) = host.endpoint.poll_event() {
                quiet = false;
                events += 1;
                assert!(
                    events < 20_000,
                    "events that bring about others without end, the last one {event:?}"
                );
                host.on_event(now, event);
            }
            let mut sent = Vec::new();
            while sent.len() < self.budget
                && let Some(segment) = host.endpoint.poll_transmit(now)
            {
                sent.push(segment);
            }
            if let Some(event) = host.endpoint.poll_event() {
                quiet = false;
                host.on_event(now, event);
            }
            let full = sent.len() == self.budget;
            self.backlogged |= full;
            quiet &= sent.is_empty() || full;
            for segment in sent {
                self.transmit(is_client, segment);
            }
            if quiet {
                break;
            }
        }
    }

    /// A segment leaves: cut into packets, each of which meets its fate on the path that its addresses name.
    #[allow(clippy::needless_pass_by_value)] // it leaves
    fn transmit(&mut self, from_client: bool, segment: Segment) {
        assert!(segment.options.wire_len() <= 40, "options too long: {segment:?}");
        if let (false, Some(sent)) = (from_client, &mut self.sent) {
            sent(self.now, &segment);
        }
        if let Some(audit) = &mut self.audit {
            audit.sent(if from_client { Side::Client } else { Side::Server }, &segment, || Some(0));
        }
        let path = path_of(segment.src.ip());
        for packet in segmentize(&segment) {
            let mtu = packet.payload.len() + packet.options.wire_len() + 20;
            assert!(mtu <= 1480, "packet of {mtu} octets: {packet:?}");
            self.transmit_packet(from_client, path, packet);
        }
    }

    fn transmit_packet(&mut self, from_client: bool, path: usize, packet: Segment) {
        self.packets += 1;
        assert!(self.packets < 3_000_000, "the two sides never stop talking");
        let config = self.paths[path].clone();
        let headers = if packet.src.is_ipv4() { 40 } else { 60 };
        let size = packet.payload.len() + packet.options.wire_len() + headers;
        let lost = !config.up || size > config.mtu || self.rng.random_bool(config.loss);
        if self.log.len() < 100_000 {
            self.log.push(format!("{:?} {}{packet:?}", self.now, if lost { "LOST " } else { "" }));
        }
        if size > config.mtu
            && let Some(dropped) = &mut self.dropped
        {
            dropped(&packet);
        }
        if lost {
            return;
        }
        let Some(packet) = (match &mut self.middlebox {
            Some(middlebox) => middlebox(from_client, packet),
            None => Some(packet),
        }) else {
            return;
        };
        let mut delay = config.delay;
        if self.rng.random_bool(config.reorder) {
            delay += config.delay.mul_f64(self.rng.random());
        }
        self.sequence += 1;
        self.in_flight.insert((self.now + delay, self.sequence), (from_client, packet));
    }

    /// The last packets, for the message of a failing test.
    pub(super) fn tail(&self) -> String {
        let from = self.log.len().saturating_sub(60);
        self.log[from..].join("\n")
    }
}

pub(super) fn path_of(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(address) => usize::from(address.octets()[1]),
        IpAddr::V6(address) => usize::from(address.segments()[1]),
    }
}

impl Host {
    fn application(&mut self, now: Instant) {
        let Some(id) = self.connection else { return };
        while self.offered < self.to_send.len() && !self.full {
            let room = self.endpoint.send_capacity(id).min(self.to_send.len() - self.offered).min(60_000);
            if room == 0 {
                self.full = true;
                break;
            }
            let chunk = Bytes::copy_from_slice(&self.to_send[self.offered..self.offered + room]);
            self.offered += room;
            self.endpoint.send(now, id, chunk);
        }
        if self.finish && !self.finished && self.offered == self.to_send.len() {
            self.finished = true;
            self.endpoint.finish(now, id);
        }
        self.read(now);
    }

    /// What the endpoint knows of the connection.
    pub(super) fn info(&self) -> ConnectionInfo {
        self.endpoint.info(self.connection.unwrap()).unwrap()
    }

    fn begin_anew(&mut self) {
        self.connection = None;
        self.received.clear();
        self.to_send.clear();
        self.events.clear();
        (self.ended, self.closed, self.offered) = (false, None, 0);
        (self.finish, self.finished, self.full) = (false, false, false);
    }

    /// Reads what there is, as far as the limit allows.
    pub(super) fn read(&mut self, now: Instant) {
        let Some(id) = self.connection else { return };
        let mut out = Vec::new();
        let limit = self.read_limit.saturating_sub(self.received.len());
        if limit == 0 || self.ended {
            return;
        }
        let (octets, ended) = self.endpoint.recv(id, limit, &mut out);
        for chunk in out {
            self.received.extend_from_slice(&chunk);
        }
        self.ended |= ended;
        if octets > 0 {
            self.endpoint.consumed(now, id, octets);
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match &event {
            Event::Accepted { connection, .. } => {
                self.connection = Some(*connection);
                self.full = false;
            }
            Event::Connected(_) | Event::Writable(_) => self.full = false,
            Event::Closed(_, reason) => self.closed = Some(*reason),
            Event::SubflowWanted { connection, local, remote, .. } => {
                self.next_port += 1;
                if path_of(*local) == path_of(remote.ip()) {
                    let local = SocketAddr::new(*local, self.next_port);
                    self.endpoint.open_subflow(now, *connection, local, *remote);
                } else {
                    self.endpoint.open_subflow_failed(now, *connection, *local, *remote);
                }
            }
            _ => {}
        }
        self.events.push(event);
    }
}

/// Octets that tell where they belong.
pub(super) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut octets = vec![0; len];
    ChaCha12Rng::seed_from_u64(seed).fill(&mut octets[..]);
    octets
}
