//! One endpoint, and a peer that sends exactly the segments that a test wants: packet exchanges, as scripts
//! try them.

use crate::wire::{Flags, SackBlock, Segment, SeqNumber, TcpOptions, Timestamps, segmentize};
use crate::{
    CloseReason, ConnectionConfig, ConnectionId, ConnectionInfo, Endpoint, EndpointConfig, Event, Instant,
    ListenerId, LocalAddress,
};
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The peer's MSS, and what its packets of data have where there are no timestamps.
pub(super) const MSS: u32 = 1000;

/// The endpoint under test and the other side's view of the connection. Offsets count from the first octet of
/// data.
pub(super) struct Script {
    pub(super) now: Instant,
    pub(super) endpoint: Endpoint,
    pub(super) connection: Option<ConnectionId>,
    pub(super) closed: Option<CloseReason>,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Our initial sequence number, once a SYN was seen, and the peer's next one.
    pub(super) iss: SeqNumber,
    pub(super) seq: SeqNumber,
    /// The window field that the peer sends.
    pub(super) window: u16,
    stamps: bool,
    /// Whatever the endpoint has sent since this was looked at last.
    pub(super) sent: Vec<Segment>,
}

/// What the peer's SYN or SYN/ACK offers beside its MSS.
#[derive(Clone, Copy, Default)]
pub(super) struct Offer {
    pub(super) sack: bool,
    pub(super) timestamps: bool,
    pub(super) scale: Option<u8>,
}

impl Script {
    fn new() -> (Self, ListenerId) {
        let now = Instant::from_nanos(5_000_000_000);
        let mut endpoint = Endpoint::new(EndpointConfig::default(), [3; 32]);
        let address = IpAddr::from([10, 0, 0, 1]);
        endpoint.add_local_address(now, LocalAddress { address, interface: 1, mtu: 1500, backup: false });
        let config = ConnectionConfig { multipath: false, ..ConnectionConfig::default() };
        let local = SocketAddr::new(address, 5000);
        let listener = endpoint.listen(local, config).unwrap();
        let script = Self {
            now,
            endpoint,
            connection: None,
            closed: None,
            local,
            peer: SocketAddr::from(([10, 0, 0, 2], 40_000)),
            iss: SeqNumber(0),
            seq: SeqNumber(77_000),
            window: 60_000,
            stamps: false,
            sent: Vec::new(),
        };
        (script, listener)
    }

    /// An endpoint that listens.
    pub(super) fn listening() -> Self {
        Self::new().0
    }

    /// A connection that the endpoint has opened and whose SYN has left.
    pub(super) fn connecting(config: &ConnectionConfig) -> Self {
        let mut script = Self::new().0;
        let config = ConnectionConfig { multipath: false, ..config.clone() };
        script.local.set_port(40_001);
        let (now, local, peer) = (script.now, script.local, script.peer);
        script.connection = Some(script.endpoint.connect(now, local, peer, config).unwrap());
        script.poll();
        script.iss = script.sent.pop().unwrap().seq;
        script
    }

    /// The peer answers the SYN.
    pub(super) fn answer(&mut self, offer: Offer) {
        self.stamps = offer.timestamps;
        let mut answer = self.segment(0);
        answer.flags = Flags::SYN.with(Flags::ACK);
        answer.options = self.offer(offer);
        answer.ack = self.iss + 1;
        self.seq += 1;
        self.give(answer);
        assert_eq!(self.sent.pop().map(|segment| segment.flags), Some(Flags::ACK));
    }

    /// An established connection whose round trips take 100 ms so far.
    pub(super) fn connected(offer: Offer) -> Self {
        let mut script = Self::connecting(&ConnectionConfig::default());
        script.pass(Duration::from_millis(100));
        script.answer(offer);
        script
    }

    pub(super) fn offer(&self, offer: Offer) -> TcpOptions {
        TcpOptions {
            mss: Some(MSS as u16),
            sack_permitted: offer.sack,
            window_scale: offer.scale,
            timestamps: offer.timestamps.then(|| self.stamp()),
            ..TcpOptions::default()
        }
    }

    fn stamp(&self) -> Timestamps {
        Timestamps { value: self.now.as_millis() as u32, echo: 0 }
    }

    /// A segment of the peer that acknowledges everything before an offset of our data.
    pub(super) fn segment(&self, ack: u32) -> Segment {
        let mut segment = Segment::new(self.peer, self.local);
        segment.flags = Flags::ACK;
        (segment.seq, segment.ack, segment.window) = (self.seq, self.iss + 1 + ack, self.window);
        segment.options.timestamps = self.stamps.then(|| self.stamp());
        segment
    }

    /// The endpoint takes a segment and answers.
    pub(super) fn give(&mut self, segment: Segment) {
        self.endpoint.handle_segment(self.now, segment);
        self.poll();
    }

    /// The peer acknowledges, with SACK blocks.
    pub(super) fn ack(&mut self, ack: u32, blocks: &[(u32, u32)]) {
        let mut segment = self.segment(ack);
        for (start, end) in blocks {
            let first = self.iss + 1;
            segment.options.sack.push(SackBlock { start: first + *start, end: first + *end });
        }
        self.give(segment);
    }

    /// The application writes.
    pub(super) fn write(&mut self, octets: u32) {
        let (now, connection) = (self.now, self.connection.unwrap());
        self.endpoint.send(now, connection, Bytes::from(vec![0; octets as usize]));
        self.poll();
    }

    pub(super) fn poll(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Accepted { connection, .. } => self.connection = Some(connection),
                Event::Closed(_, reason) => self.closed = Some(reason),
                _ => {}
            }
        }
        while let Some(segment) = self.endpoint.poll_transmit(self.now) {
            self.sent.extend(segmentize(&segment));
        }
    }

    /// Time passes.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.endpoint.next_timeout().filter(|at| *at <= end) {
            self.now = next.max(self.now);
            self.endpoint.handle_timeout(self.now);
            self.poll();
        }
        self.now = end;
    }

    /// Data sent since this was asked last: offset of each packet, and its length. Segments without data are
    /// left out.
    pub(super) fn data(&mut self) -> Vec<(u32, u32)> {
        let data = self.sent.drain(..).filter(|segment| !segment.payload.is_empty());
        data.map(|segment| (segment.seq.distance(self.iss + 1) as u32, segment.payload.len() as u32))
            .collect()
    }

    /// The same where all packets are full: their numbers.
    pub(super) fn packets(&mut self) -> Vec<u32> {
        let data = self.data();
        assert!(data.iter().all(|(start, len)| start % MSS == 0 && *len == MSS), "{data:?}");
        data.into_iter().map(|(start, _)| start / MSS).collect()
    }

    pub(super) fn info(&self) -> ConnectionInfo {
        self.endpoint.info(self.connection.unwrap()).unwrap()
    }
}
