//! The cost of acknowledgments for a sender with very much in flight: ordinary ones, and those of a peer that
//! makes its SACK blocks to cost as much as possible.

use bytes::Bytes;
use mptcp_proto::wire::{Flags, SackBlock, Segment, SeqNumber};
use mptcp_proto::{ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Event, Instant, LocalAddress};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Octets that the application hands over at once.
const CHUNK: usize = 64_000;
/// Octets of payload in a packet: an MTU of 1500 without timestamps.
const PACKET: u32 = 1460;
/// Round-trip time of the path while the flight grows.
const RTT: Duration = Duration::from_millis(20);
/// The peer's first sequence number.
const PEER_ISS: SeqNumber = SeqNumber(1000);
/// The peer's window scale, with which its window is a gigabyte.
const SCALE: u8 = 14;

/// The pattern of a peer's SACK blocks, which never repeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocks {
    /// Single octets, here and there.
    Octets,
    /// Every other packet.
    Packets,
}

/// A sender of regular TCP, and a peer that acknowledges as it is told.
pub struct Acknowledgments {
    now: Instant,
    sender: Endpoint,
    connection: ConnectionId,
    local: SocketAddr,
    peer: SocketAddr,
    chunk: Bytes,
    una: SeqNumber,
    nxt: SeqNumber,
    /// Where the next SACK block begins, from the first octet in flight on.
    next_block: u32,
}

impl Acknowledgments {
    /// A connection with at least so many octets in flight.
    ///
    /// # Panics
    /// If the window does not grow as far.
    pub fn new(in_flight: u32) -> Self {
        let mut sender = Endpoint::new(EndpointConfig::default(), [7; 32]);
        let address = IpAddr::from([10, 0, 0, 1]);
        let now = Instant::from_nanos(1);
        sender.add_local_address(now, LocalAddress { address, interface: 1, mtu: 1500, backup: false });
        let local = SocketAddr::new(address, 30_000);
        let peer = SocketAddr::from(([10, 0, 0, 2], 5000));
        let config = ConnectionConfig {
            multipath: false,
            send_buffer: 4 * in_flight as usize,
            congestion: "reno".into(),
            ..ConnectionConfig::default()
        };
        let connection = sender.connect(now, local, peer, config).expect("a free port");
        let mut flow = Self {
            now,
            sender,
            connection,
            local,
            peer,
            chunk: Bytes::from(vec![0; CHUNK]),
            una: SeqNumber(0),
            nxt: SeqNumber(0),
            next_block: PACKET,
        };
        let syn = flow.sender.poll_transmit(now).expect("a SYN");
        (flow.una, flow.nxt) = (syn.seq + 1, syn.seq + 1);
        let mut answer = flow.acknowledgment(flow.una);
        answer.flags = Flags::SYN.with(Flags::ACK);
        answer.seq = PEER_ISS;
        answer.options.mss = Some(PACKET as u16);
        answer.options.window_scale = Some(SCALE);
        answer.options.sack_permitted = true;
        flow.take(answer);
        for _ in 0..40 {
            if flow.in_flight() >= in_flight {
                return flow;
            }
            flow.now += RTT;
            flow.una = flow.nxt;
            let all = flow.acknowledgment(flow.una);
            flow.take(all);
        }
        panic!("{} octets in flight", flow.in_flight());
    }

    /// Octets in flight, as the peer sees it.
    pub fn in_flight(&self) -> u32 {
        self.nxt.distance(self.una) as u32
    }

    /// The next two packets are acknowledged, and two others leave.
    pub fn ordinary(&mut self) {
        self.una += 2 * PACKET;
        let two = self.acknowledgment(self.una);
        self.take(two);
    }

    /// Nothing is acknowledged, and SACK blocks say that something has arrived.
    pub fn hostile(&mut self, blocks: Blocks) {
        let mut acknowledgment = self.acknowledgment(self.una);
        let (octets, step) = match blocks {
            // The step is prime to the packets, so that every octet has its turn.
            Blocks::Octets => (1, 1009),
            Blocks::Packets => (PACKET, 2 * PACKET),
        };
        for _ in 0..4 {
            if self.next_block + octets >= self.in_flight() {
                self.next_block = PACKET + if blocks == Blocks::Octets { self.next_block % 1009 } else { 0 };
            }
            let start = self.una + self.next_block;
            acknowledgment.options.sack.push(SackBlock { start, end: start + octets });
            self.next_block += step;
        }
        self.take(acknowledgment);
    }

    fn acknowledgment(&self, ack: SeqNumber) -> Segment {
        let mut segment = Segment::new(self.peer, self.local);
        segment.flags = Flags::ACK;
        (segment.seq, segment.ack, segment.window) = (PEER_ISS + 1, ack, u16::MAX);
        segment
    }

    /// The sender takes a segment and sends what it may.
    fn take(&mut self, segment: Segment) {
        self.now += Duration::from_micros(1);
        self.sender.handle_segment(self.now, segment);
        if self.sender.next_timeout().is_some_and(|at| at <= self.now) {
            self.sender.handle_timeout(self.now);
        }
        while let Some(event) = self.sender.poll_event() {
            assert!(!matches!(event, Event::Closed(..)), "{event:?}");
        }
        loop {
            while let room @ 1.. = self.sender.send_capacity(self.connection) {
                self.sender.send(self.now, self.connection, self.chunk.slice(..room.min(CHUNK)));
            }
            let mut sent = false;
            while let Some(segment) = self.sender.poll_transmit(self.now) {
                let end = segment.seq + segment.payload.len() as u32;
                if end.distance(self.nxt) > 0 {
                    self.nxt = end;
                }
                sent = true;
            }
            if !sent {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// The cost of one in the cheapest of several runs, so that other load on the machine does not count.
    fn cost(mut acknowledge: impl FnMut()) -> f64 {
        let runs = (0..10).map(|_| {
            let start = Instant::now();
            for _ in 0..500 {
                acknowledge();
            }
            start.elapsed().as_secs_f64() / 500.0
        });
        runs.fold(f64::INFINITY, f64::min)
    }

    /// The kind of CVE-2019-11477 and CVE-2019-11478.
    #[test]
    fn hostile_blocks_cost_about_as_much_as_an_acknowledgment_however_many_there_were() {
        let mut flow = Acknowledgments::new(16 << 20);
        let ordinary = cost(|| flow.ordinary());
        for blocks in [Blocks::Octets, Blocks::Packets] {
            let mut flow = Acknowledgments::new(16 << 20);
            // Very many records, as where acknowledgments come for two packets each.
            for _ in 0..6000 {
                flow.ordinary();
            }
            for _ in 0..100_000 {
                flow.hostile(blocks);
            }
            let hostile = cost(|| flow.hostile(blocks));
            assert!(hostile < 5.0 * ordinary, "{blocks:?}: {hostile:e} s, ordinary {ordinary:e} s");
        }
    }
}
