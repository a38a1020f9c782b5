//! An exchange between two engines in which a script of octets decides what becomes of each packet: the form
//! of a simulation that a fuzzer can search. Each input that a fuzzer found stays in `fuzz/corpus`, and a
//! test replays it.

use super::simulation::{SERVER_PORT, local_address};
use mptcp_proto::audit::Side;
use mptcp_proto::wire::packet::{LinkHeader, emit_frame, parse_headers};
use mptcp_proto::wire::{Segment, segmentize};
use mptcp_proto::{ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Event, Instant, Unreachable};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Most decisions of one script.
const MAX_STEPS: usize = 2000;
/// Most packets under way; more are lost.
const MAX_UNDER_WAY: usize = 256;
/// Most segments that an engine may send without having received anything and without time passing.
const MAX_BURST: usize = 10_000;

/// The script, octet by octet; zeros after its end.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl Script<'_> {
    pub(super) fn octet(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }
    pub(super) fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.octet(), self.octet(), self.octet(), self.octet()])
    }
}

struct Host {
    endpoint: Endpoint,
    connections: Vec<ConnectionId>,
    next_port: u16,
    /// Subflows that there are.
    subflows: usize,
}

struct Run<'a> {
    script: Script<'a>,
    now: Instant,
    hosts: [Host; 2],
    under_way: VecDeque<(Side, Segment)>,
}

fn addresses(side: Side) -> [IpAddr; 2] {
    let host = side as u8 + 1;
    [Ipv4Addr::new(10, host, 0, 1).into(), Ipv4Addr::new(10, host, 1, 1).into()]
}

/// Runs a script from the first SYN on, between hosts of one address each: one subflow.
///
/// # Panics
/// When an engine does, or when it sends without end.
pub fn run_script(script: &[u8]) {
    let (mut run, _) = Run::new(script, 1);
    run.play();
}

/// Runs a script that begins when the subflows between all addresses of the two hosts are established, data
/// having crossed: four of them, unless the two do not speak Multipath TCP or a subflow less.
///
/// # Panics
/// When an engine does, or when it sends without end.
pub fn run_multipath_script(script: &[u8]) {
    let (mut run, multipath) = Run::new(script, 2);
    run.establish(multipath);
    run.play();
}

impl<'a> Run<'a> {
    fn new(script: &'a [u8], count: usize) -> (Self, bool) {
        let mut script = Script(script);
        let options = script.octet();
        let config = ConnectionConfig {
            multipath: options & 1 == 0,
            checksum: options & 2 != 0,
            receive_buffer: if options & 4 != 0 { 20_000 } else { 1 << 20 },
            send_buffer: if options & 8 != 0 { 20_000 } else { 1 << 20 },
            ..ConnectionConfig::default()
        };
        let now = Instant::from_nanos(1_000_000_000);
        let host = |side: Side| {
            let mut endpoint = Endpoint::new(EndpointConfig::default(), [side as u8 + 1; 32]);
            for (index, address) in addresses(side).into_iter().take(count).enumerate() {
                endpoint.add_local_address(now, local_address(address, index as u32 + 1));
            }
            Host { endpoint, connections: Vec::new(), next_port: 40_000, subflows: 0 }
        };
        let mut run = Run { script, now, hosts: Side::BOTH.map(host), under_way: VecDeque::new() };
        let listening = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT));
        let server = ConnectionConfig { multipath: options & 16 == 0, ..config.clone() };
        run.hosts[1].endpoint.listen(listening, server).expect("nothing listens yet");
        let local = SocketAddr::new(addresses(Side::Client)[0], 39_999);
        let remote = SocketAddr::new(addresses(Side::Server)[0], SERVER_PORT);
        let connection =
            run.hosts[0].endpoint.connect(now, local, remote, config).expect("nothing connects yet");
        run.hosts[0].connections.push(connection);
        (run, options & 17 == 0)
    }

    /// Lets packets pass until all subflows are there and some data has crossed in both directions.
    fn establish(&mut self, multipath: bool) {
        let expected = if multipath { 4 } else { 1 };
        let mut sent = false;
        for _ in 0..MAX_STEPS {
            self.settle();
            if let Some((to, packet)) = self.under_way.pop_front() {
                self.deliver(to, packet);
            } else if !sent && self.hosts.iter().all(|host| !host.connections.is_empty()) {
                // Without data from the server the client does not know that it has both keys.
                sent = true;
                for host in &mut self.hosts {
                    let room = host.endpoint.send_capacity(host.connections[0]).min(10_000);
                    host.endpoint.send(self.now, host.connections[0], vec![7; room].into());
                }
            } else if sent && self.hosts.iter().all(|host| host.subflows >= expected) {
                return;
            } else {
                self.wait_for_timer();
            }
        }
        panic!("of {expected} subflows {} are established", self.hosts[0].subflows);
    }

    /// Plays the script to its end, and leaves both alone then.
    fn play(&mut self) {
        for _ in 0..MAX_STEPS {
            if self.script.0.is_empty() {
                break;
            }
            self.settle();
            self.step();
        }
        // Left alone, both come to an end in bounded time.
        self.under_way.clear();
        for _ in 0..MAX_STEPS {
            self.settle();
            self.under_way.clear();
            let next = self.hosts.iter_mut().filter_map(|host| host.endpoint.next_timeout()).min();
            let Some(next) = next else { return };
            self.now = next.max(self.now);
            for host in &mut self.hosts {
                host.endpoint.handle_timeout(self.now);
            }
        }
    }

    /// Lets both engines say and send what they want.
    fn settle(&mut self) {
        for side in Side::BOTH {
            let host = &mut self.hosts[side as usize];
            for _ in 0..MAX_BURST {
                let Some(event) = host.endpoint.poll_event() else { break };
                host.handle(self.now, &event);
            }
            let mut sent = 0;
            while let Some(segment) = host.endpoint.poll_transmit(self.now) {
                sent += 1;
                assert!(sent < MAX_BURST, "{side:?} sends without end");
                for mut packet in segmentize(&segment) {
                    packet.options.truncate_to_wire();
                    if self.under_way.len() < MAX_UNDER_WAY {
                        self.under_way.push_back((side.peer(), packet));
                    }
                }
            }
        }
    }

    /// One decision.
    fn step(&mut self) {
        let decision = self.script.octet();
        match decision {
            0..=99 => {
                if let Some((to, packet)) = self.under_way.pop_front() {
                    self.deliver(to, packet);
                } else {
                    self.wait_for_timer();
                }
            }
            100..=109 => _ = self.under_way.pop_front(),
            110..=119 => {
                if let Some((to, packet)) = self.under_way.front().cloned() {
                    self.deliver(to, packet);
                }
            }
            120..=129 => {
                if let Some(late) = self.under_way.pop_front() {
                    self.under_way.push_back(late);
                }
            }
            130..=179 => {
                if let Some((to, packet)) = self.under_way.pop_front() {
                    let changes = decision % 4 + 1;
                    if let Some(changed) = self.change(&packet, changes) {
                        self.deliver(to, changed);
                    }
                }
            }
            180..=189 => {
                // Somebody who has seen a packet makes up one of his own, the original still under way.
                if let Some((to, packet)) = self.under_way.front().cloned()
                    && let Some(forged) = self.change(&packet, 6)
                {
                    self.deliver(to, forged);
                }
            }
            190..=199 => self.now += Duration::from_millis(u64::from(self.script.octet())),
            200..=209 => self.wait_for_timer(),
            210..=245 => self.application(decision),
            _ => self.event(decision),
        }
    }

    fn deliver(&mut self, to: Side, packet: Segment) {
        self.now += Duration::from_micros(50);
        self.hosts[to as usize].endpoint.handle_segment(self.now, packet);
    }

    fn wait_for_timer(&mut self) {
        let next = self.hosts.iter_mut().filter_map(|host| host.endpoint.next_timeout()).min();
        if let Some(next) = next {
            self.now = next.max(self.now);
            for host in &mut self.hosts {
                host.endpoint.handle_timeout(self.now);
            }
        }
    }

    /// The packet with some octets changed, checksums made right again, if it still parses.
    fn change(&mut self, packet: &Segment, changes: u8) -> Option<Segment> {
        let mut frame = Vec::new();
        emit_frame(packet, Some(&LinkHeader::default()), &mut frame).ok()?;
        for _ in 0..changes {
            // Mostly in the TCP header and its options.
            let at = 34 + usize::from(self.script.octet());
            let value = self.script.octet();
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        let parsed = parse_headers(&frame, frame.len()).ok()?;
        let payload = frame.get(parsed.payload_offset..parsed.payload_offset + parsed.payload_len)?.to_vec();
        let mut segment = parsed.segment;
        segment.payload = payload.into();
        Some(segment)
    }

    fn application(&mut self, decision: u8) {
        let choice = self.script.octet();
        let host = &mut self.hosts[usize::from(decision % 2)];
        let Some(connection) = host.connections.get(usize::from(choice >> 4) % host.connections.len().max(1))
        else {
            return;
        };
        let (connection, endpoint) = (*connection, &mut host.endpoint);
        match decision {
            210..=219 => {
                let room = endpoint.send_capacity(connection);
                let octets = room.min(usize::from(choice) * 300);
                endpoint.send(self.now, connection, vec![choice; octets].into());
            }
            220..=229 => {
                let mut out = Vec::new();
                let (octets, _) = endpoint.recv(connection, usize::from(choice) * 300, &mut out);
                endpoint.consumed(self.now, connection, octets);
            }
            230..=235 => endpoint.finish(self.now, connection),
            236..=238 => endpoint.abort(self.now, connection),
            239..=241 => endpoint.release(self.now, connection),
            _ => {
                let _ = endpoint.info(connection);
            }
        }
    }

    fn event(&mut self, decision: u8) {
        let choice = self.script.octet();
        let side = Side::BOTH[usize::from(choice & 1)];
        let address = addresses(side)[usize::from(choice >> 1 & 1)];
        let endpoint = &mut self.hosts[side as usize].endpoint;
        match decision {
            246..=247 => endpoint.remove_local_address(self.now, address),
            248..=249 => endpoint.add_local_address(self.now, local_address(address, 1)),
            _ => {
                let Some((_, packet)) = self.under_way.front() else { return };
                let seq = packet.seq;
                let unreachable = Unreachable {
                    local: packet.src,
                    remote: packet.dst,
                    seq: if choice & 4 != 0 { self.script.word() } else { seq.0 },
                    mtu: (choice & 8 != 0).then(|| self.script.word() >> (choice >> 3)),
                    hard: choice & 16 != 0,
                };
                for host in &mut self.hosts {
                    host.endpoint.handle_unreachable(self.now, unreachable);
                }
            }
        }
    }
}

impl Host {
    fn handle(&mut self, now: Instant, event: &Event) {
        match *event {
            Event::Accepted { connection, .. } => self.connections.push(connection),
            Event::SubflowAdded { .. } => self.subflows += 1,
            Event::SubflowRemoved { .. } => self.subflows -= 1,
            Event::SubflowWanted { connection, local, remote, .. } => {
                let local = SocketAddr::new(local, self.next_port);
                self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
                self.endpoint.open_subflow(now, connection, local, remote);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// All that fuzzers found worth keeping.
    #[test]
    fn the_corpora_run_without_a_finding() {
        for (target, run) in [("engine", run_script as fn(&[u8])), ("subflows", run_multipath_script)] {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
            let Ok(files) = std::fs::read_dir(&corpus) else { continue };
            for file in files {
                let file = file.expect("the corpus can be read").path();
                let script = std::fs::read(&file).expect("the corpus can be read");
                if let Err(panic) = std::panic::catch_unwind(|| run(&script)) {
                    eprintln!("{} fails", file.display());
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    /// The beginning of the scripts with several subflows, for all sets of options.
    #[test]
    fn all_subflows_are_there_before_a_script_begins() {
        for options in 0..32 {
            run_multipath_script(&[options]);
        }
    }
}
