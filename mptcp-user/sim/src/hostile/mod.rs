//! One engine against a peer that has the keys and lies, on a host whose links come and go: the form of a
//! simulation that a fuzzer can search for denials of service.
//!
//! A script of octets decides what the peer sends (any option, on any subflow, in any order), what the host's
//! network and application do (no route, an address gone, a reader that stops, a process that was stopped for
//! hours), and how time passes. Three things must hold whatever it says:
//!
//! * one call leads to a bounded number of events and segments;
//! * the memory that the engine counts stays below its limit, and the memory that it really holds stays near
//!   to it;
//! * every connection ends, once the peer has gone silent and the application has left.

mod peer;

use super::script::Script;
use super::simulation::{SERVER_PORT, local_address};
use mptcp_proto::wire::packet::{LinkHeader, emit_frame, parse_headers};
use mptcp_proto::wire::{Flags, Segment};
use mptcp_proto::{
    ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Event, Instant, KeepAlive, SubflowSlot,
    Unreachable,
};
use peer::Peer;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Most decisions of one script.
const MAX_STEPS: usize = 1500;
/// Most repetitions of decisions in one script, all together.
const MAX_REPEATED: usize = 6000;
/// Decisions from this number on repeat the next one.
const REPEAT: u8 = 244;
/// Most events that one call may lead to. Addresses of both ends make 3 × 32 pairs at most, for few
/// connections.
const MAX_EVENTS: usize = 2000;
/// Most segments that one call may lead to.
const MAX_SEGMENTS: usize = 6000;
/// Octets that all connections may hold.
const MEMORY: u64 = 4 << 20;
/// Octets beside the counted ones: tables, connections, queues.
const UNCOUNTED: u64 = 4 << 20;
/// Calls of timers until all must have ended, and the time that this may take.
const MAX_TIMERS: usize = 20_000;
const MAX_PARTING: Duration = Duration::from_secs(24 * 3600);

struct Run<'a> {
    script: Script<'a>,
    now: Instant,
    endpoint: Endpoint,
    peer: Peer,
    connections: Vec<ConnectionId>,
    /// The last segment that the peer has sent, to be sent again or changed.
    last: Option<Segment>,
    /// Whether the driver finds a way for the subflows that are wanted.
    routes: bool,
    /// Whether the peer answers SYNs by itself.
    answers: bool,
    repeated: usize,
    next_port: u16,
    peer_port: u16,
    live: &'a dyn Fn() -> u64,
    base: u64,
}

/// An address of the host.
fn host_address(index: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, index % 3, 1).into()
}

/// Runs a script. `live` gives the octets that are allocated at the moment.
///
/// # Panics
/// When the engine does, when one call has effects without bound, when memory is held beyond its limit, or
/// when a connection never ends.
pub fn run_hostile_script(script: &[u8], live: &dyn Fn() -> u64) {
    let mut run = Run::new(script, live);
    run.play();
    run.end();
}

impl<'a> Run<'a> {
    fn new(octets: &'a [u8], live: &'a dyn Fn() -> u64) -> Self {
        let base = live();
        let mut script = Script(octets);
        let (options, more) = (script.octet(), script.octet());
        let config = ConnectionConfig {
            checksum: options & 2 != 0,
            max_subflows: if options & 8 != 0 { 32 } else { 8 },
            receive_buffer: if options & 16 != 0 { 20_000 } else { 1 << 20 },
            send_buffer: if options & 32 != 0 { 20_000 } else { 1 << 20 },
            keep_alive: (options & 64 != 0).then(KeepAlive::default),
            path_manager: ["full-mesh", "ndiffports", "backup", "signal"][usize::from(more & 3)].into(),
            ..ConnectionConfig::default()
        };
        let limits =
            EndpointConfig { max_connections: 64, backlog: 4, memory: MEMORY, ..EndpointConfig::default() };
        let now = Instant::from_nanos(1_000_000_000);
        let mut endpoint = Endpoint::new(limits, [3; 32]);
        for index in 0..3 {
            endpoint.add_local_address(now, local_address(host_address(index), u32::from(index) + 1));
        }
        let listening = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT));
        endpoint.listen(listening, config.clone()).expect("nothing listens yet");
        let peer = Peer::new(options);
        let mut run = Self {
            script,
            now,
            endpoint,
            peer,
            connections: Vec::new(),
            last: None,
            routes: more & 4 == 0,
            answers: more & 8 == 0,
            repeated: 0,
            next_port: 40_000,
            peer_port: 20_000,
            live,
            base,
        };
        run.establish(options & 1 == 0, config);
        run
    }

    /// The connection that all is about: opened by the host or by the peer, as an honest peer would.
    fn establish(&mut self, client: bool, config: ConnectionConfig) {
        let to = SocketAddr::new(host_address(0), SERVER_PORT);
        if client {
            let (local, remote) =
                (SocketAddr::new(host_address(0), 39_999), SocketAddr::new(peer::address(0), 443));
            let connection =
                self.endpoint.connect(self.now, local, remote, config).expect("a free four-tuple");
            self.connections.push(connection);
            let answers = std::mem::replace(&mut self.answers, true);
            self.settle();
            self.answers = answers;
        } else {
            let syn = self.peer.syn(0, self.peer_port, to, 0);
            self.deliver(syn);
            self.settle();
            if let Some(ack) = self.peer.third_ack(0, 0) {
                self.deliver(ack);
            }
        }
        self.settle();
        if let Some(data) = self.peer.bulk(0, 10) {
            self.deliver(data);
        }
        self.settle();
    }

    fn play(&mut self) {
        for _ in 0..MAX_STEPS {
            if self.script.0.is_empty() {
                return;
            }
            let mut rest = self.script.0;
            let mut times = 1;
            if self.script.octet() >= REPEAT {
                // The decision that follows, again and again, with the same octets.
                times = usize::from(self.script.octet()).min(MAX_REPEATED - self.repeated);
                self.repeated += times;
                rest = self.script.0;
            }
            for repetition in 0..times.max(1) {
                self.script.0 = rest;
                self.peer.salt = repetition as u8;
                let decision = self.script.octet();
                self.step(decision);
                self.settle();
            }
        }
    }

    fn step(&mut self, decision: u8) {
        let which = decision % 8;
        match decision {
            0..=31 => {
                let segment = self.peer.data(which, &mut self.script);
                self.send(segment);
            }
            32..=47 => {
                let size = self.script.octet();
                let segment = self.peer.bulk(which, size);
                self.send(segment);
            }
            48..=79 => {
                let segment = self.peer.acknowledge(which, &mut self.script);
                self.send(segment);
            }
            80..=103 => {
                let segment = self.peer.signal(which, &mut self.script);
                self.send(segment);
            }
            104..=119 => {
                let (kind, choice) = (decision % 3, self.script.octet());
                self.peer_port = self.peer_port.checked_add(1).unwrap_or(20_000);
                let to = SocketAddr::new(host_address(choice >> 2), SERVER_PORT);
                let syn = self.peer.syn(kind, self.peer_port, to, choice);
                self.send(Some(syn));
            }
            120..=135 => {
                let choice = self.script.octet();
                let segment = self.peer.third_ack(which, choice);
                self.send(segment);
            }
            136..=143 => {
                let choice = self.script.octet();
                let segment = self.peer.syn_ack(choice);
                self.send(segment);
            }
            144..=151 => {
                let again = self.last.clone();
                self.send(again);
            }
            152..=159 => {
                let changed = self.last.clone().and_then(|last| self.change(&last, which + 1));
                self.send(changed);
            }
            160..=191 => self.application(decision),
            192..=215 => self.host(decision),
            216..=227 => self.now += Duration::from_millis(u64::from(self.script.octet())),
            228..=239 => self.wait_for_timer(),
            // The process was stopped: time has passed, and what came meanwhile is attended to first.
            _ => self.now += Duration::from_secs(u64::from(self.script.octet()) * 30),
        }
    }

    fn send(&mut self, segment: Option<Segment>) {
        if let Some(segment) = segment {
            self.last = Some(segment.clone());
            self.deliver(segment);
        }
    }

    fn deliver(&mut self, segment: Segment) {
        self.now += Duration::from_micros(50);
        self.endpoint.handle_segment(self.now, segment);
    }

    fn wait_for_timer(&mut self) {
        if let Some(next) = self.endpoint.next_timeout() {
            self.now = next.max(self.now);
            self.endpoint.handle_timeout(self.now);
        }
    }

    /// The segment with some octets of its header changed, if it still parses.
    fn change(&mut self, segment: &Segment, changes: u8) -> Option<Segment> {
        let mut frame = Vec::new();
        let bare = Segment { payload: mptcp_proto::wire::Payload::new(), ..segment.clone() };
        emit_frame(&bare, Some(&LinkHeader::default()), &mut frame).ok()?;
        for _ in 0..changes {
            let at = 46 + usize::from(self.script.octet() % 64);
            let value = self.script.octet();
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        let mut changed = parse_headers(&frame, frame.len()).ok()?.segment;
        changed.payload = segment.payload.clone();
        Some(changed)
    }

    fn application(&mut self, decision: u8) {
        let choice = self.script.octet();
        let Some(&connection) = self.connections.get(usize::from(choice & 3)) else { return };
        let endpoint = &mut self.endpoint;
        match decision {
            160..=171 => {
                let octets = endpoint.send_capacity(connection).min(usize::from(choice) * 300);
                endpoint.send(self.now, connection, vec![choice; octets].into());
            }
            172..=181 => {
                let mut out = Vec::new();
                let (octets, _) = endpoint.recv(connection, usize::from(choice) * 300, &mut out);
                endpoint.consumed(self.now, connection, octets);
            }
            182..=184 => endpoint.finish(self.now, connection),
            185..=186 => endpoint.abort(self.now, connection),
            187..=188 => {
                endpoint.release(self.now, connection);
                self.connections.retain(|known| *known != connection);
            }
            _ => {
                let info = endpoint.info(connection);
                let slot = info.and_then(|info| info.subflows.first().map(|subflow| subflow.slot));
                if let Some(slot) = slot {
                    endpoint.set_backup(self.now, connection, SubflowSlot(slot), choice & 8 != 0);
                }
            }
        }
    }

    fn host(&mut self, decision: u8) {
        let choice = self.script.octet();
        let address = host_address(choice);
        match decision {
            192..=197 => self.endpoint.remove_local_address(self.now, address),
            198..=203 => {
                let local = local_address(address, u32::from(choice % 3) + 1);
                self.endpoint.add_local_address(self.now, local);
            }
            204..=207 => self.routes = choice & 1 == 0,
            208..=211 => self.answers = choice & 1 == 0,
            _ => {
                let Some(last) = &self.last else { return };
                let unreachable = Unreachable {
                    local: last.dst,
                    remote: last.src,
                    seq: last.ack.0.wrapping_sub(u32::from(choice >> 3)),
                    mtu: (choice & 1 != 0).then(|| u32::from(choice) * 8),
                    hard: choice & 2 != 0,
                };
                self.endpoint.handle_unreachable(self.now, unreachable);
            }
        }
    }

    /// Attends to all that one call led to.
    fn settle(&mut self) {
        self.events();
        let mut sent = 0;
        while let Some(segment) = self.endpoint.poll_transmit(self.now) {
            sent += 1;
            assert!(sent < MAX_SEGMENTS, "one call leads to segments without end: {segment:?}");
            let waits = self.peer.observe(&segment);
            if waits && self.answers && !segment.flags.has(Flags::ACK) {
                let answer = self.peer.syn_ack(0);
                self.send(answer);
            }
        }
        self.events();
        let counted = self.endpoint.memory_used();
        assert!(counted <= MEMORY + MEMORY / 4, "{counted} octets are held of {MEMORY}");
        let live = (self.live)().saturating_sub(self.base);
        assert!(
            live <= MEMORY + MEMORY / 4 + UNCOUNTED,
            "{live} octets are allocated, {counted} are counted"
        );
    }

    fn events(&mut self) {
        for _ in 0..MAX_EVENTS {
            let Some(event) = self.endpoint.poll_event() else { return };
            match event {
                Event::Accepted { connection, .. } => self.connections.push(connection),
                Event::Released(connection) => self.connections.retain(|known| *known != connection),
                Event::SubflowWanted { connection, local, remote, .. } if self.routes => {
                    let local = SocketAddr::new(local, self.next_port);
                    self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
                    self.endpoint.open_subflow(self.now, connection, local, remote);
                }
                Event::SubflowWanted { connection, local, remote, .. } => {
                    self.endpoint.open_subflow_failed(self.now, connection, local, remote);
                }
                _ => {}
            }
        }
        panic!("one call leads to events without end");
    }

    /// The peer says nothing more and the application leaves: all ends, by timers alone.
    fn end(&mut self) {
        self.answers = false;
        for connection in std::mem::take(&mut self.connections) {
            self.endpoint.release(self.now, connection);
        }
        self.settle();
        let limit = self.now + MAX_PARTING;
        for _ in 0..MAX_TIMERS {
            let Some(next) = self.endpoint.next_timeout() else {
                let left = self.endpoint.connections();
                let info: Vec<_> = left.iter().map(|id| self.endpoint.info(*id)).collect();
                assert!(left.is_empty(), "connections are left that no timer ends: {info:#?}");
                return;
            };
            self.now = next.max(self.now);
            let left = self.endpoint.connections();
            assert!(
                self.now < limit || left.is_empty(),
                "a connection lives after a day of silence: {:#?}",
                left.iter().map(|id| self.endpoint.info(*id)).collect::<Vec<_>>()
            );
            self.endpoint.handle_timeout(self.now);
            self.settle();
            for connection in std::mem::take(&mut self.connections) {
                self.endpoint.release(self.now, connection);
            }
        }
        let left = self.endpoint.connections();
        assert!(left.is_empty(), "{} connections live after {MAX_TIMERS} timers", left.len());
    }
}
