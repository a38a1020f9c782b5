//! Applications on a connection, which check that the bytes they get are the bytes that were sent.

use bytes::Bytes;
use mptcp_proto::{CloseReason, ConnectionId, Endpoint, FallbackReason, Instant};
use std::time::Duration;

/// An application.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Traffic {
    /// Octets it sends.
    pub send: u64,
    /// After the first octet, which lets further subflows come, it waits for so long.
    pub pause: Duration,
    /// Octets per call.
    pub chunk: usize,
    /// Octets per second that it reads; none: all at once.
    pub read_rate: Option<u64>,
    /// Finish its direction when all is sent; otherwise when the peer has finished too.
    pub finish_first: bool,
    /// Abort the connection when this many octets have been handed over or received.
    pub abort_after: Option<u64>,
}

impl Traffic {
    /// Sends that many octets and finishes; reads all at once.
    pub fn send(octets: u64) -> Self {
        Self {
            send: octets,
            pause: Duration::ZERO,
            chunk: 65_536,
            read_rate: None,
            finish_first: true,
            abort_after: None,
        }
    }
}

/// `len` octets of the stream of a seed from `offset` on. Every octet depends on its place.
pub fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut octets = Vec::with_capacity(len + 8);
    let mut block = offset / 8;
    while octets.len() < len + 8 {
        let mut word = (seed ^ block).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        octets.extend_from_slice(&(word ^ (word >> 32)).to_le_bytes());
        block += 1;
    }
    octets.drain(..(offset % 8) as usize);
    octets.truncate(len);
    octets
}

/// How an application's connection went.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Outcome {
    /// The connection was established.
    pub connected: Option<Instant>,
    /// Octets handed over.
    pub sent: u64,
    /// Octets received; all were the right ones.
    pub received: u64,
    /// When the last octet was received.
    pub received_at: Option<Instant>,
    /// The end of the peer's data was received.
    pub end: Option<Instant>,
    /// Longest time between two arrivals of data.
    pub longest_pause: Duration,
    /// Why the connection ended, and when.
    pub closed: Option<(Instant, CloseReason)>,
    /// It continued as regular TCP.
    pub fell_back: Option<FallbackReason>,
    /// A box on the way changes octets and the connection is regular TCP by now, which can't notice.
    pub unprotected: bool,
    /// Nothing of it is left.
    pub released: bool,
}

/// One application with one connection.
#[derive(Debug)]
pub struct App {
    connection: ConnectionId,
    traffic: Traffic,
    /// Seed of what it sends, and of what it expects.
    seeds: (u64, u64),
    outcome: Outcome,
    /// A box on the way changes octets: only Multipath TCP with checksums must notice.
    changer: bool,
    finished: bool,
    aborted: bool,
    next_read: Option<Instant>,
    /// When it begins to send, while that is to come.
    next_write: Option<Instant>,
    scratch: Vec<Bytes>,
}

/// How often a slow reader reads.
const READ_INTERVAL: Duration = Duration::from_millis(20);

impl App {
    /// An application for a connection; `changer`: something on the way changes octets.
    pub fn new(connection: ConnectionId, traffic: Traffic, seeds: (u64, u64), changer: bool) -> Self {
        Self {
            connection,
            traffic,
            seeds,
            outcome: Outcome::default(),
            changer,
            finished: false,
            aborted: false,
            next_read: None,
            next_write: None,
            scratch: Vec::new(),
        }
    }
    /// Its connection.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }
    /// How it went so far.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }
    /// Bytes that it has handed over, the end counted.
    pub fn offered(&self) -> u64 {
        self.outcome.sent + u64::from(self.finished)
    }
    /// Bytes that it has received, the end counted.
    pub fn taken(&self) -> u64 {
        self.outcome.received + u64::from(self.outcome.end.is_some())
    }
    /// It does not read all at once.
    pub fn is_slow(&self) -> bool {
        self.traffic.read_rate.is_some()
    }
    /// When it wants to act by itself.
    pub fn next_wakeup(&self) -> Option<Instant> {
        if self.outcome.closed.is_some() {
            return None;
        }
        [self.next_read, self.next_write].into_iter().flatten().min()
    }

    /// The connection is established.
    pub fn connected(&mut self, now: Instant, endpoint: &mut Endpoint) {
        self.outcome.connected = Some(now);
        self.outcome.received_at = Some(now);
        if self.traffic.read_rate.is_some() {
            self.next_read = Some(now + READ_INTERVAL);
        }
        if !self.traffic.pause.is_zero() {
            self.next_write = Some(now + self.traffic.pause);
        }
        self.write(now, endpoint);
    }
    /// The connection continues as regular TCP.
    pub fn fell_back(&mut self, reason: FallbackReason) {
        self.outcome.fell_back = Some(reason);
    }
    /// Hands over what fits into the send buffer.
    pub fn write(&mut self, now: Instant, endpoint: &mut Endpoint) {
        while self.outcome.sent < self.traffic.send && !self.aborted {
            if self.next_write.is_some() && self.outcome.sent > 0 {
                return;
            }
            let room = endpoint.send_capacity(self.connection);
            let left = usize::try_from(self.traffic.send - self.outcome.sent).unwrap_or(usize::MAX);
            let first = if self.next_write.is_some() { 1 } else { usize::MAX };
            let len = self.traffic.chunk.min(room).min(left).min(first);
            if len == 0 {
                return;
            }
            let octets = pattern(self.seeds.0, self.outcome.sent, len);
            endpoint.send(now, self.connection, octets.into());
            self.outcome.sent += len as u64;
            self.maybe_abort(now, endpoint);
        }
        let may_finish = self.traffic.finish_first || self.outcome.end.is_some();
        if may_finish && !self.finished && !self.aborted {
            self.finished = true;
            endpoint.finish(now, self.connection);
        }
    }
    /// Data, or their end, wait.
    ///
    /// # Panics
    /// When they are not what the peer sent.
    pub fn readable(&mut self, now: Instant, endpoint: &mut Endpoint) {
        if self.traffic.read_rate.is_none() {
            self.read(now, usize::MAX, endpoint);
        }
    }
    /// Its time has come.
    pub fn wake(&mut self, now: Instant, endpoint: &mut Endpoint) {
        if self.next_write.is_some_and(|at| at <= now) {
            self.next_write = None;
            self.write(now, endpoint);
        }
        let (Some(at), Some(rate)) = (self.next_read, self.traffic.read_rate) else { return };
        if at <= now && self.outcome.closed.is_none() {
            self.next_read = Some(now + READ_INTERVAL);
            let octets = (rate as f64 * READ_INTERVAL.as_secs_f64()).max(1.0) as usize;
            self.read(now, octets, endpoint);
        }
    }
    /// The connection is over: reads what is left and lets go.
    pub fn closed(&mut self, now: Instant, reason: CloseReason, endpoint: &mut Endpoint) {
        self.read(now, usize::MAX, endpoint);
        assert!(self.outcome.closed.is_none(), "closed twice: {:?}, then {reason:?}", self.outcome.closed);
        self.outcome.closed = Some((now, reason));
        endpoint.release(now, self.connection);
    }
    /// Nothing is left of the connection.
    pub fn released(&mut self) {
        assert!(!self.outcome.released, "released twice");
        self.outcome.released = true;
    }

    fn read(&mut self, now: Instant, limit: usize, endpoint: &mut Endpoint) {
        let plain =
            |endpoint: &Endpoint| endpoint.info(self.connection).is_none_or(|info| info.fallback.is_some());
        self.outcome.unprotected |= self.changer && plain(endpoint);
        let mut left = limit;
        while left > 0 && self.outcome.end.is_none() {
            let (octets, end) = endpoint.recv(self.connection, left.min(1 << 20), &mut self.scratch);
            assert_eq!(octets, self.scratch.iter().map(Bytes::len).sum::<usize>());
            for chunk in self.scratch.drain(..) {
                let expected = pattern(self.seeds.1, self.outcome.received, chunk.len());
                if chunk != expected && !self.outcome.unprotected {
                    let wrong = chunk.iter().zip(&expected).take_while(|(got, want)| got == want).count();
                    panic!("octet {} of the stream is wrong", self.outcome.received + wrong as u64);
                }
                self.outcome.received += chunk.len() as u64;
            }
            if octets > 0 {
                let before = self.outcome.received_at.replace(now).unwrap_or(now);
                self.outcome.longest_pause = self.outcome.longest_pause.max(now - before);
                endpoint.consumed(now, self.connection, octets);
                self.maybe_abort(now, endpoint);
            }
            if end {
                self.outcome.end = Some(now);
                self.write(now, endpoint);
            }
            if octets == 0 {
                return;
            }
            left -= octets;
        }
    }

    fn maybe_abort(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let aborts = |limit| self.outcome.sent >= limit || self.outcome.received >= limit;
        if self.traffic.abort_after.is_some_and(aborts) && !self.aborted {
            self.aborted = true;
            endpoint.abort(now, self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_the_same_however_it_is_cut() {
        let whole = pattern(9, 0, 1000);
        for (offset, len) in [(0, 10), (3, 8), (7, 100), (16, 0), (501, 499)] {
            assert_eq!(pattern(9, offset as u64, len), whole[offset..offset + len]);
        }
        assert_ne!(pattern(10, 0, 8), whole[..8]);
    }
}
