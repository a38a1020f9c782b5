//! Two hosts, a network between them, and what happens.

use super::head_of_line::HeadOfLine;
use super::middlebox::BoxConfig;
use super::network::{Network, PathConfig, PathId};
use super::pauses::Pauses;
use super::random::Random;
use super::traffic::{App, Outcome, Traffic};
use super::{LinkConfig, LinkStats};
use mptcp_proto::audit::{Audit, Side};
use mptcp_proto::wire::{Segment, coalesce};
use mptcp_proto::{
    ConnectError, ConnectionConfig, ConnectionInfo, Counters, Endpoint, EndpointConfig, Event, Instant,
    ListenError, LocalAddress,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Port that the server listens on.
pub const SERVER_PORT: u16 = 80;

/// Something that happens at a time set in advance.
#[derive(Clone, Debug)]
pub enum Action {
    /// A path goes down, unnoticed by the hosts, or up.
    SetUp(PathId, bool),
    /// Both directions of a path change, forward and reverse.
    Reconfigure(PathId, Box<[LinkConfig; 2]>),
    /// The routers of a path forget all connections, and say nothing.
    Forget(PathId),
    /// A host gets an address.
    AddAddress(Side, LocalAddress),
    /// A host loses an address.
    RemoveAddress(Side, IpAddr),
    /// The process of a host makes no round for so long, as after SIGSTOP. Packets that arrive meanwhile
    /// wait.
    Stop(Side, Duration),
    /// The client opens a connection between two addresses.
    Connect(IpAddr, IpAddr, Box<ConnectionConfig>, Traffic),
}

struct Host {
    endpoint: Endpoint,
    apps: Vec<App>,
    next_port: u16,
    /// The application of each accepted connection.
    accepts: Traffic,
    added: BTreeSet<(SocketAddr, SocketAddr)>,
    tokens: BTreeSet<u32>,
    /// The process makes no round until then.
    stopped_until: Option<Instant>,
    /// Segments that came meanwhile, as far as rings have room for them.
    waiting: Vec<Segment>,
}

/// How a simulation is to be run.
#[derive(Clone, Debug)]
pub struct SimulationConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// The paths.
    pub paths: Vec<PathConfig>,
    /// Build and parse each packet on its way.
    pub check_wire: bool,
    /// Judge each segment where it is sent, by what its sender was told: see `audit`.
    pub audit: bool,
    /// Judge how long data was waited for, where one connection is all there is: see `pauses`.
    pub judge_pauses: bool,
    /// Measure how long octets wait for earlier ones at the server: see `head_of_line`.
    pub head_of_line: bool,
    /// Hand packets that arrive together to the engine as super-segments.
    pub coalesce: bool,
    /// Print all that happens.
    pub log: bool,
}

impl SimulationConfig {
    /// These paths, each packet checked, nothing printed.
    pub fn new(seed: u64, paths: Vec<PathConfig>) -> Self {
        Self {
            seed,
            paths,
            check_wire: true,
            audit: true,
            judge_pauses: false,
            head_of_line: false,
            coalesce: false,
            log: false,
        }
    }
    /// The longest time that a packet and its answer take on any path, queues included.
    fn latency(&self) -> Duration {
        let one_way = |link: &LinkConfig| {
            let octets = link.queue_octets.min(link.queue_packets.saturating_mul(1514)) + 1514;
            let queue = link.rate.map_or(0.0, |rate| octets as f64 * 8.0 / rate as f64);
            link.delay + link.jitter + link.reorder_by + Duration::from_secs_f64(queue)
        };
        let paths = self.paths.iter().map(|path| one_way(&path.forward) + one_way(&path.reverse));
        paths.max().unwrap_or_default()
    }
    /// Whether some box on some path changes octets of the payload.
    pub fn changes_octets(&self) -> bool {
        let mut boxes = self.paths.iter().flat_map(|path| &path.boxes);
        boxes.any(|config| matches!(config, BoxConfig::PayloadChanger { .. }))
    }
}

/// Two hosts with an engine each, in virtual time.
pub struct Simulation {
    now: Instant,
    network: Network,
    hosts: [Host; 2],
    schedule: BTreeMap<(Instant, u64), Action>,
    scheduled: u64,
    seed: u64,
    coalesce: bool,
    audit: Option<Audit>,
    /// Pauses, and the longest time that a packet and its answer take.
    pauses: Option<(Pauses, Duration)>,
    head_of_line: Option<HeadOfLine>,
    /// Some box changes octets.
    changer: bool,
    log: bool,
    segments: u64,
}

/// Segments that wait for a stopped process; more are lost, as where a ring is full.
const MAX_WAITING: usize = 2048;
/// Most rounds of work at one point in time: beyond that, something answers itself for ever.
const MAX_ROUNDS: usize = 100_000;

impl Simulation {
    /// Two hosts whose addresses are those of the paths.
    pub fn new(config: &SimulationConfig) -> Self {
        let mut random = Random::new(config.seed);
        let network = Network::new(&config.paths, config.check_wire, random.fork());
        let mut host = || Host {
            endpoint: {
                let mut endpoint = Endpoint::new(EndpointConfig::default(), random.seed());
                endpoint.watch_decisions(config.log);
                endpoint
            },
            apps: Vec::new(),
            next_port: 40_000,
            accepts: Traffic::send(0),
            added: BTreeSet::new(),
            tokens: BTreeSet::new(),
            stopped_until: None,
            waiting: Vec::new(),
        };
        let hosts = [host(), host()];
        let mut simulation = Self {
            now: Instant::from_nanos(1_000_000_000),
            network,
            hosts,
            schedule: BTreeMap::new(),
            scheduled: 0,
            seed: config.seed,
            coalesce: config.coalesce,
            audit: config.audit.then(Audit::default),
            pauses: config.judge_pauses.then(|| (Pauses::default(), config.latency())),
            head_of_line: config.head_of_line.then(HeadOfLine::default),
            changer: config.changes_octets(),
            log: config.log,
            segments: 0,
        };
        let mut known = BTreeSet::new();
        for path in &config.paths {
            for (side, address) in [(Side::Client, path.client), (Side::Server, path.server)] {
                if known.insert((side, address)) {
                    simulation.apply(Action::AddAddress(side, local_address(address, known.len() as u32)));
                }
            }
        }
        simulation
    }
    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }
    /// Packets that arrived so far.
    pub fn segments(&self) -> u64 {
        self.segments
    }
    /// The server listens on all its addresses; that is what its applications do.
    pub fn listen(&mut self, config: ConnectionConfig, traffic: Traffic) -> Result<(), ListenError> {
        let server = &mut self.hosts[Side::Server as usize];
        server.accepts = traffic;
        let all = SocketAddr::from(([0u16; 8], SERVER_PORT));
        server.endpoint.listen(all, config).map(|_| ())
    }
    /// The client opens a connection now.
    pub fn connect(
        &mut self,
        client: IpAddr,
        server: IpAddr,
        config: ConnectionConfig,
        traffic: Traffic,
    ) -> Result<(), ConnectError> {
        let seeds = (self.seed ^ 1, self.seed ^ 2);
        let host = &mut self.hosts[Side::Client as usize];
        let local = SocketAddr::new(client, host.fresh_port());
        let connection =
            host.endpoint.connect(self.now, local, SocketAddr::new(server, SERVER_PORT), config)?;
        host.apps.push(App::new(connection, traffic, seeds, self.changer));
        Ok(())
    }
    /// Plans something, some time after now.
    pub fn schedule(&mut self, after: Duration, action: Action) {
        self.scheduled += 1;
        self.schedule.insert((self.now + after, self.scheduled), action);
    }
    /// How the connections of a side went, in the order in which they began.
    pub fn outcomes(&self, side: Side) -> Vec<Outcome> {
        self.hosts[side as usize].apps.iter().map(|app| *app.outcome()).collect()
    }
    /// How long octets have waited for earlier ones at the server, if that was to be measured.
    pub fn head_of_line(&self) -> Option<&HeadOfLine> {
        self.head_of_line.as_ref()
    }
    /// The state of a side's n-th connection.
    pub fn info(&self, side: Side, index: usize) -> Option<ConnectionInfo> {
        let host = &self.hosts[side as usize];
        host.endpoint.info(host.apps.get(index)?.connection())
    }
    /// The counters of a side.
    pub fn counters(&self, side: Side) -> &Counters {
        self.hosts[side as usize].endpoint.counters()
    }
    /// Counters of a path, forward and back.
    pub fn stats(&self, path: PathId) -> Option<(LinkStats, LinkStats)> {
        self.network.stats(path)
    }

    /// Runs until nothing is left to happen, all connections are released, or `limit` is over. Says whether
    /// all connections are released.
    ///
    /// # Panics
    /// When the engine breaks a promise: a wrong octet, an endless exchange, a timer that does not move on.
    pub fn run(&mut self, limit: Duration) -> bool {
        let end = self.now + limit;
        self.run_until(end, |simulation| {
            simulation.schedule.is_empty()
                && !simulation.hosts[0].apps.is_empty()
                && simulation.hosts.iter().all(|host| host.apps.iter().all(|app| app.outcome().released))
                // A connection that the server has not noticed yet is on its way.
                && simulation.hosts.iter().all(|host| host.endpoint.connections().is_empty())
        })
    }

    /// Runs until `done` says so or the end has come. Gives what `done` said last.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_until(&mut self, end: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            let next = [
                self.network.next_event(),
                self.schedule.first_key_value().map(|((at, _), _)| *at),
                self.hosts[0].next_event(),
                self.hosts[1].next_event(),
            ]
            .into_iter()
            .flatten()
            .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                self.settle();
                return done(self);
            };
            assert!(next > self.now, "something that was due at {next:?} is still due at {:?}", self.now);
            self.now = next;
        }
    }

    /// Does all that is due now.
    fn settle(&mut self) {
        for _ in 0..MAX_ROUNDS {
            let mut busy = false;
            while let Some(entry) = self.schedule.first_entry()
                && entry.key().0 <= self.now
            {
                let action = entry.remove();
                self.apply(action);
                busy = true;
            }
            for host in &mut self.hosts {
                busy |= host.go_on(self.now);
            }
            busy |= self.deliver();
            for side in Side::BOTH {
                let host = &mut self.hosts[side as usize];
                if host.is_stopped(self.now) {
                    continue;
                }
                if host.endpoint.next_timeout().is_some_and(|at| at <= self.now) {
                    host.endpoint.handle_timeout(self.now);
                    busy = true;
                }
                for app in &mut host.apps {
                    if app.next_wakeup().is_some_and(|at| at <= self.now) {
                        app.wake(self.now, &mut host.endpoint);
                        busy = true;
                    }
                }
                while let Some(event) = self.hosts[side as usize].endpoint.poll_event() {
                    self.handle_event(side, &event);
                    busy = true;
                }
                while let Some(segment) = self.hosts[side as usize].endpoint.poll_transmit(self.now) {
                    self.print_decisions(side);
                    if self.log {
                        eprintln!("{:?} {side:?} sends {segment:?}", self.now);
                    }
                    if let Some(audit) = &mut self.audit {
                        let endpoint = &self.hosts[side as usize].endpoint;
                        audit.sent(side, &segment, || owner(endpoint, &segment));
                    }
                    self.network.send(self.now, side, &segment);
                    busy = true;
                }
                self.print_decisions(side);
            }
            if !busy {
                self.watch_pauses();
                return;
            }
        }
        let timeouts = self.hosts.each_mut().map(|host| host.endpoint.next_timeout());
        panic!("the hosts do not come to rest at {:?}; their next timers: {timeouts:?}", self.now);
    }

    /// Prints what a side has decided; nothing is kept unless all is to be printed.
    fn print_decisions(&mut self, side: Side) {
        while let Some(decided) = self.hosts[side as usize].endpoint.poll_decision() {
            eprintln!("{:?} {side:?} decides {:?}", decided.time, decided.decision);
        }
    }

    /// Judges how long data was waited for.
    fn watch_pauses(&mut self) {
        let Some((pauses, latency)) = &mut self.pauses else { return };
        pauses.lost(self.now, self.network.lost());
        let [client, server] = &self.hosts;
        let ([first], [second]) = (&client.apps[..], &server.apps[..]) else { return };
        for (direction, from, to) in [(0, first, second), (1, second, first)] {
            if to.is_slow() || from.outcome().closed.is_some() {
                continue;
            }
            let amounts = (from.offered(), to.taken());
            let before = *latency + Duration::from_secs(1);
            let Some(pause) = pauses.progress(self.now, direction, amounts, before) else { continue };
            if pause.lasted < Duration::from_millis(900) {
                continue;
            }
            let info = self.hosts[direction].endpoint.info(from.connection());
            let timeouts = info.iter().flat_map(|info| info.subflows.iter().map(|subflow| subflow.rto));
            let rto = timeouts.max().unwrap_or_default().max(Duration::from_millis(200));
            let limit = pause.limit(*latency, rto);
            assert!(
                pause.lasted <= limit,
                "data was waited for until {:?}: {pause:?}, which {limit:?} would explain\n{info:#?}",
                self.now
            );
        }
    }

    /// Hands over what has arrived.
    fn deliver(&mut self) -> bool {
        let mut busy = false;
        while let Some((side, report)) = self.network.poll_report(self.now) {
            busy = true;
            if self.log {
                eprintln!("{:?} {side:?} is told {report:?}", self.now);
            }
            let host = &mut self.hosts[side as usize];
            if !host.is_stopped(self.now) {
                host.endpoint.handle_unreachable(self.now, report);
            }
        }
        let mut held: Option<(Side, Segment)> = None;
        while let Some((side, segment)) = self.network.poll(self.now) {
            busy = true;
            self.segments += 1;
            if self.log {
                eprintln!("{:?} {side:?} gets {segment:?}", self.now);
            }
            if let Some(audit) = &mut self.audit {
                audit.arrived(side, &segment);
            }
            if let (Side::Server, Some(watch)) = (side, &mut self.head_of_line) {
                watch.arrived(self.now, &segment);
            }
            let segment = match held.take() {
                Some((to, mut first)) if to == side => match coalesce(&mut first, segment, 65_000) {
                    Ok(()) => {
                        held = Some((to, first));
                        continue;
                    }
                    Err(segment) => {
                        self.hosts[to as usize].take(self.now, first);
                        *segment
                    }
                },
                Some((to, first)) => {
                    self.hosts[to as usize].take(self.now, first);
                    segment
                }
                None => segment,
            };
            if self.coalesce {
                held = Some((side, segment));
            } else {
                self.hosts[side as usize].take(self.now, segment);
            }
        }
        if let Some((side, segment)) = held {
            self.hosts[side as usize].take(self.now, segment);
        }
        busy
    }

    fn apply(&mut self, action: Action) {
        if self.log {
            eprintln!("{:?} {action:?}", self.now);
        }
        match action {
            Action::SetUp(path, up) => self.network.set_up(path, up),
            Action::Forget(path) => self.network.forget(path),
            Action::Reconfigure(path, links) => self.network.reconfigure(path, links[0], links[1]),
            Action::AddAddress(side, _) | Action::RemoveAddress(side, _)
                if self.hosts[side as usize].is_stopped(self.now) =>
            {
                // The news wait in the socket's buffer.
                let at = self.hosts[side as usize].stopped_until.unwrap_or(self.now);
                self.schedule(at - self.now, action);
            }
            Action::Stop(side, stopped) => {
                let host = &mut self.hosts[side as usize];
                host.stopped_until = host.stopped_until.max(Some(self.now + stopped));
            }
            Action::AddAddress(side, address) => {
                self.hosts[side as usize].endpoint.add_local_address(self.now, address);
            }
            Action::RemoveAddress(side, address) => {
                self.hosts[side as usize].endpoint.remove_local_address(self.now, address);
            }
            Action::Connect(client, server, config, traffic) => {
                if let Err(error) = self.connect(client, server, *config, traffic) {
                    panic!("can't connect from {client} to {server}: {error}");
                }
            }
        }
    }

    fn handle_event(&mut self, side: Side, event: &Event) {
        if self.log {
            eprintln!("{:?} {side:?} event {event:?}", self.now);
        }
        let now = self.now;
        let host = &mut self.hosts[side as usize];
        let endpoint = &mut host.endpoint;
        let app = |apps: &mut [App], id| apps.iter().position(|app| app.connection() == id);
        match *event {
            Event::Connected(id) => {
                if let Some(place) = app(&mut host.apps, id) {
                    host.apps[place].connected(now, endpoint);
                }
            }
            Event::Accepted { connection, .. } => {
                let seeds = (self.seed ^ 2, self.seed ^ 1);
                let mut app = App::new(connection, host.accepts, seeds, self.changer);
                app.connected(now, endpoint);
                host.apps.push(app);
            }
            Event::Readable(id) => {
                if let Some(place) = app(&mut host.apps, id) {
                    host.apps[place].readable(now, endpoint);
                }
            }
            Event::Writable(id) => {
                if let Some(place) = app(&mut host.apps, id) {
                    host.apps[place].write(now, endpoint);
                }
            }
            Event::FellBack(id, reason) => {
                if let Some(place) = app(&mut host.apps, id) {
                    host.apps[place].fell_back(reason);
                }
            }
            Event::Closed(id, reason) => {
                if let Some(place) = app(&mut host.apps, id) {
                    host.apps[place].closed(now, reason, endpoint);
                }
            }
            Event::Rests(_) => {}
            Event::Released(id) => {
                if let Some(place) = app(&mut host.apps, id) {
                    host.apps[place].released();
                }
            }
            Event::SubflowAdded { local, remote, .. } => {
                assert!(host.added.insert((local, remote)), "a subflow {local} > {remote} was there already");
            }
            Event::SubflowRemoved { local, remote, .. } => {
                assert!(host.added.remove(&(local, remote)), "no subflow {local} > {remote} was there");
            }
            Event::TokenAdded(token) => assert!(host.tokens.insert(token), "a token was added twice"),
            Event::TokenRemoved(token) => assert!(host.tokens.remove(&token), "a token was not there"),
            Event::SubflowWanted { connection, local, remote, .. } => {
                if self.network.route(side, local, remote.ip()).is_some() {
                    let local = SocketAddr::new(local, host.fresh_port());
                    host.endpoint.open_subflow(now, connection, local, remote);
                } else {
                    host.endpoint.open_subflow_failed(now, connection, local, remote);
                }
            }
        }
    }

    /// Checks that nothing was left behind, after all connections were released.
    ///
    /// # Panics
    /// When something was.
    pub fn check_nothing_left(&self) {
        for side in Side::BOTH {
            let host = &self.hosts[side as usize];
            assert!(host.added.is_empty(), "{side:?} still has subflows {:?}", host.added);
            assert!(host.tokens.is_empty(), "{side:?} still has tokens {:?}", host.tokens);
        }
    }
}

/// A number for the connection of an endpoint that a segment is of.
fn owner(endpoint: &Endpoint, segment: &Segment) -> Option<u64> {
    let has = |info: ConnectionInfo| {
        info.subflows.iter().any(|subflow| (subflow.local, subflow.remote) == (segment.src, segment.dst))
    };
    let id = endpoint.connections().into_iter().find(|id| endpoint.info(*id).is_some_and(has))?;
    Some(id.number())
}

impl Host {
    fn fresh_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
        port
    }
    fn is_stopped(&self, now: Instant) -> bool {
        self.stopped_until.is_some_and(|until| until > now)
    }
    /// A segment has arrived.
    fn take(&mut self, now: Instant, segment: Segment) {
        if !self.is_stopped(now) {
            self.endpoint.handle_segment(now, segment);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push(segment);
        }
    }
    /// The process runs again. It handles the packets that came meanwhile before any timer.
    fn go_on(&mut self, now: Instant) -> bool {
        let over = self.stopped_until.is_some_and(|until| until <= now);
        if over {
            self.stopped_until = None;
            for segment in std::mem::take(&mut self.waiting) {
                self.endpoint.handle_segment(now, segment);
            }
        }
        over
    }
    fn next_event(&mut self) -> Option<Instant> {
        if self.stopped_until.is_some() {
            return self.stopped_until;
        }
        self.apps.iter().filter_map(App::next_wakeup).chain(self.endpoint.next_timeout()).min()
    }
}

/// An address on an Ethernet interface.
pub fn local_address(address: IpAddr, interface: u32) -> LocalAddress {
    LocalAddress { address, interface, mtu: 1500, backup: false }
}
