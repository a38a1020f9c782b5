//! Transparent proxies: boxes that end a TCP connection and begin another one in its place, with the
//! addresses of both ends (RFC 8684 section 6, "performance enhancing proxies"; RFC 3135).
//!
//! The two connections are regular TCP of this project's own engine. Proxies differ in their treatment of
//! Multipath TCP options.

use super::{Middlebox, Way};
use crate::Random;
use bytes::Bytes;
use mptcp_proto::wire::{Flags, MptcpOption, OPTION_SPACE, Segment, segmentize};
use mptcp_proto::{
    CloseReason, ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Event, Instant, ListenerId,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// A proxy's treatment of Multipath TCP options, which it does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passing {
    /// They end at the proxy, as all options do.
    Nothing,
    /// Options of SYNs are copied to the other side's SYNs: both ends believe that they speak Multipath TCP.
    Syn,
    /// Options of later segments are copied, too, each once, with the next segment that leaves.
    All,
}

/// A client's address and the server's.
type Pair = (SocketAddr, SocketAddr);

/// The two connections that a proxied one is made of.
struct Proxied {
    /// With the client, in the server's name.
    inside: Option<ConnectionId>,
    /// With the server, in the client's name.
    outside: ConnectionId,
    /// The client's SYN, until the server has answered.
    syn: Option<Segment>,
    /// Options of the SYNs: the client's, and the server's.
    opening: [Vec<MptcpOption>; 2],
    /// Options of later segments that wait for a segment to leave with: forward, and back.
    later: [VecDeque<MptcpOption>; 2],
    /// Whether the end of the stream has been passed on: the client's, the server's.
    ended: [bool; 2],
    closed: [bool; 2],
}

/// A proxy between clients and servers.
pub struct TcpProxy {
    passing: Passing,
    /// In the servers' names.
    inside: Endpoint,
    /// In the clients' names.
    outside: Endpoint,
    pairs: BTreeMap<Pair, Proxied>,
    listeners: BTreeMap<SocketAddr, ListenerId>,
    /// Segments that have to leave.
    out: Vec<(Way, Segment)>,
    deadline: Option<Instant>,
    scratch: Vec<Bytes>,
}

/// Connections at once; SYNs beyond that are dropped.
const MAX_PAIRS: usize = 4096;
/// Options of one direction that wait; the oldest are forgotten.
const MAX_LATER: usize = 8;

fn config() -> ConnectionConfig {
    ConnectionConfig {
        multipath: false,
        send_buffer: 256 << 10,
        receive_buffer: 256 << 10,
        user_timeout: Duration::from_secs(120),
        ..ConnectionConfig::default()
    }
}

impl TcpProxy {
    /// A proxy without connections.
    pub fn new(passing: Passing, mut random: Random) -> Self {
        let mut endpoint = || Endpoint::new(EndpointConfig::default(), random.seed());
        Self {
            passing,
            inside: endpoint(),
            outside: endpoint(),
            pairs: BTreeMap::new(),
            listeners: BTreeMap::new(),
            out: Vec::new(),
            deadline: None,
            scratch: Vec::new(),
        }
    }

    fn take_from_client(&mut self, now: Instant, segment: Segment) {
        let pair = (segment.src, segment.dst);
        let opens = segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK);
        match self.pairs.get_mut(&pair) {
            // A SYN sent again while the server has not answered yet; perhaps with other options.
            Some(proxied) if opens && proxied.syn.is_some() => {
                proxied.opening[0] = segment.options.mptcp.to_vec();
                proxied.syn = Some(segment);
                return;
            }
            Some(proxied) => proxied.keep(self.passing, Way::Forward, &segment),
            None if opens => {
                if self.pairs.len() < MAX_PAIRS {
                    self.open(now, pair, segment);
                }
                return;
            }
            None => {}
        }
        self.inside.handle_segment(now, segment);
    }

    fn open(&mut self, now: Instant, pair: Pair, syn: Segment) {
        if !self.listeners.contains_key(&pair.1) {
            if self.listeners.len() >= MAX_PAIRS {
                return;
            }
            let Ok(listener) = self.inside.listen(pair.1, config()) else { return };
            self.listeners.insert(pair.1, listener);
        }
        let Ok(outside) = self.outside.connect(now, pair.0, pair.1, config()) else { return };
        let opening = [syn.options.mptcp.to_vec(), Vec::new()];
        let proxied = Proxied {
            inside: None,
            outside,
            syn: Some(syn),
            opening,
            later: Default::default(),
            ended: [false; 2],
            closed: [false; 2],
        };
        self.pairs.insert(pair, proxied);
    }

    fn take_from_server(&mut self, now: Instant, segment: Segment) {
        if let Some(proxied) = self.pairs.get_mut(&(segment.dst, segment.src)) {
            if segment.flags.has(Flags::SYN) {
                proxied.opening[1] = segment.options.mptcp.to_vec();
            } else {
                proxied.keep(self.passing, Way::Reverse, &segment);
            }
        }
        self.outside.handle_segment(now, segment);
    }

    /// Does all there is to do: events, octets from one side to the other, segments out.
    fn work(&mut self, now: Instant) {
        self.inside.handle_timeout(now);
        self.outside.handle_timeout(now);
        // Each round moves something; a connection's buffers bound how often.
        for _ in 0..10_000 {
            let mut busy = false;
            while let Some(event) = self.outside.poll_event() {
                busy = true;
                self.outside_event(now, &event);
            }
            while let Some(event) = self.inside.poll_event() {
                busy = true;
                self.inside_event(now, &event);
            }
            busy |= self.copy(now);
            busy |= self.transmit(now);
            if !busy {
                break;
            }
        }
        let timeouts = [self.inside.next_timeout(), self.outside.next_timeout()];
        self.deadline = timeouts.into_iter().flatten().min();
    }

    fn outside_event(&mut self, now: Instant, event: &Event) {
        let find = |pairs: &BTreeMap<Pair, Proxied>, id| {
            pairs.iter().find(|(_, proxied)| proxied.outside == id).map(|(pair, _)| *pair)
        };
        match *event {
            Event::Connected(id) => {
                let pair = find(&self.pairs, id);
                let syn = pair.and_then(|pair| self.pairs.get_mut(&pair)).and_then(|pair| pair.syn.take());
                if let Some(syn) = syn {
                    self.inside.handle_segment(now, syn);
                }
            }
            Event::Closed(id, reason) => {
                let Some(pair) = find(&self.pairs, id) else { return };
                let Some(proxied) = self.pairs.get_mut(&pair) else { return };
                proxied.closed[1] = true;
                if let Some(syn) = proxied.syn.take() {
                    // The client hears what the proxy heard.
                    if reason == CloseReason::Refused {
                        let mut answer = Segment::new(pair.1, pair.0);
                        answer.flags = Flags::RST.with(Flags::ACK);
                        answer.ack = syn.seq + 1;
                        self.out.push((Way::Reverse, answer));
                    }
                    proxied.closed[0] = true;
                } else if reason != CloseReason::Finished
                    && let Some(inside) = proxied.inside
                {
                    self.inside.abort(now, inside);
                }
                self.forget_closed(now, pair);
            }
            _ => {}
        }
    }

    fn inside_event(&mut self, now: Instant, event: &Event) {
        match *event {
            Event::Accepted { connection, .. } => {
                let Some(info) = self.inside.info(connection) else { return };
                let Some(subflow) = info.subflows.first() else { return };
                if let Some(proxied) = self.pairs.get_mut(&(subflow.remote, subflow.local)) {
                    proxied.inside = Some(connection);
                }
            }
            Event::Closed(id, reason) => {
                let found = self.pairs.iter_mut().find(|(_, proxied)| proxied.inside == Some(id));
                let Some((&pair, proxied)) = found else {
                    self.inside.release(now, id);
                    return;
                };
                proxied.closed[0] = true;
                if reason != CloseReason::Finished {
                    self.outside.abort(now, proxied.outside);
                }
                self.forget_closed(now, pair);
            }
            _ => {}
        }
    }

    /// Lets a pair go of which both connections are over. The bytes of a connection that is over have been
    /// passed on: its end was.
    fn forget_closed(&mut self, now: Instant, pair: Pair) {
        let Some(proxied) = self.pairs.get(&pair) else { return };
        if proxied.closed != [true, true] {
            return;
        }
        if let Some(inside) = proxied.inside {
            self.inside.release(now, inside);
        }
        self.outside.release(now, proxied.outside);
        self.pairs.remove(&pair);
    }

    /// Octets and ends, from either side to the other.
    fn copy(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for proxied in self.pairs.values_mut() {
            let Some(inside) = proxied.inside else { continue };
            let outside = proxied.outside;
            let (from, to) = (&mut self.inside, &mut self.outside);
            busy |= pass(now, from, inside, to, outside, &mut proxied.ended[0], &mut self.scratch);
            let (from, to) = (&mut self.outside, &mut self.inside);
            busy |= pass(now, from, outside, to, inside, &mut proxied.ended[1], &mut self.scratch);
        }
        busy
    }

    fn transmit(&mut self, now: Instant) -> bool {
        let mut leaving = Vec::new();
        while let Some(segment) = self.outside.poll_transmit(now) {
            leaving.extend(segmentize(&segment).map(|packet| (Way::Forward, packet)));
        }
        while let Some(segment) = self.inside.poll_transmit(now) {
            leaving.extend(segmentize(&segment).map(|packet| (Way::Reverse, packet)));
        }
        let busy = !leaving.is_empty();
        for (way, mut packet) in leaving {
            let pair = match way {
                Way::Forward => (packet.src, packet.dst),
                Way::Reverse => (packet.dst, packet.src),
            };
            if let Some(proxied) = self.pairs.get_mut(&pair) {
                proxied.dress(self.passing, way, &mut packet);
            }
            self.out.push((way, packet));
        }
        busy
    }
}

/// Passes on what has come, and its end.
fn pass(
    now: Instant,
    from: &mut Endpoint,
    source: ConnectionId,
    to: &mut Endpoint,
    sink: ConnectionId,
    ended: &mut bool,
    scratch: &mut Vec<Bytes>,
) -> bool {
    let room = to.send_capacity(sink);
    if *ended || room == 0 {
        return false;
    }
    let (octets, end) = from.recv(source, room, scratch);
    for chunk in scratch.drain(..) {
        to.send(now, sink, chunk);
    }
    if octets > 0 {
        from.consumed(now, source, octets);
    }
    if end {
        *ended = true;
        to.finish(now, sink);
    }
    octets > 0 || end
}

impl Proxied {
    /// Remembers the options of a segment that came in.
    fn keep(&mut self, passing: Passing, way: Way, segment: &Segment) {
        if passing == Passing::All && !segment.flags.has(Flags::SYN) {
            let later = &mut self.later[usize::from(way == Way::Reverse)];
            later.extend(segment.options.mptcp.iter().cloned());
            let surplus = later.len().saturating_sub(MAX_LATER);
            later.drain(..surplus);
        }
    }

    /// Gives a segment that leaves the options it is to carry.
    fn dress(&mut self, passing: Passing, way: Way, packet: &mut Segment) {
        let place = usize::from(way == Way::Reverse);
        if packet.flags.has(Flags::SYN) {
            if passing != Passing::Nothing {
                packet.options.mptcp = self.opening[place].iter().take(4).cloned().collect();
                if packet.options.wire_len() > OPTION_SPACE {
                    packet.options.mptcp.clear();
                }
            }
            return;
        }
        while let Some(option) = self.later[place].pop_front() {
            if packet.options.mptcp.is_full() {
                self.later[place].push_front(option);
                return;
            }
            packet.options.mptcp.push(option);
            if packet.options.wire_len() > OPTION_SPACE {
                if let Some(option) = packet.options.mptcp.pop() {
                    self.later[place].push_front(option);
                }
                return;
            }
        }
    }
}

impl Middlebox for TcpProxy {
    fn name(&self) -> String {
        let passing = match self.passing {
            Passing::Nothing => "",
            Passing::Syn => " that copies unknown options of SYNs",
            Passing::All => " that copies unknown options",
        };
        format!("transparent proxy{passing}")
    }
    fn process(&mut self, now: Instant, way: Way, segment: Segment, out: &mut Vec<Segment>) {
        match way {
            Way::Forward => self.take_from_client(now, segment),
            Way::Reverse => self.take_from_server(now, segment),
        }
        self.work(now);
        // Segments in the same direction leave at once; answers leave when the chain asks.
        let mut rest = Vec::new();
        for (direction, packet) in self.out.drain(..) {
            if direction == way {
                out.push(packet);
            } else {
                rest.push((direction, packet));
            }
        }
        self.out = rest;
    }
    fn next_timeout(&self) -> Option<Instant> {
        if self.out.is_empty() { self.deadline } else { Some(Instant::ZERO) }
    }
    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<(Way, Segment)>) {
        self.work(now);
        out.append(&mut self.out);
    }
}
