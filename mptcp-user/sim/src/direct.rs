//! Two engines that hand each other super-segments in memory, without a network between them.
//!
//! Octets are not copied here, so what it takes is the cost of the protocol: per (super-)segment sent,
//! received and acknowledged.

use bytes::Bytes;
use mptcp_proto::{ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Event, Instant, LocalAddress};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Octets that the application hands over at once: a super-segment.
const CHUNK: usize = 64_000;
/// One-way delay of the network between the two.
const DELAY: Duration = Duration::from_micros(50);

/// Two engines and what passes between them; the client sends, the server reads.
pub struct Direct {
    now: Instant,
    ends: [Endpoint; 2],
    connections: [Option<ConnectionId>; 2],
    chunk: Bytes,
    /// Octets that the receiving application has read.
    pub received: u64,
    /// Segments that were handed over, super-segments and acknowledgments alike.
    pub segments: u64,
    next_port: u16,
}

fn address(path: u8, host: u8) -> IpAddr {
    IpAddr::from([10, path, 0, host])
}

impl Direct {
    /// A connection over so many paths, whose sender never lacks data.
    ///
    /// # Panics
    /// Where the configuration names what there is not.
    pub fn new(paths: u8, mtu: u32, config: &ConnectionConfig) -> Self {
        let now = Instant::from_nanos(1);
        let mut ends = [1, 2].map(|host| {
            let mut end = Endpoint::new(EndpointConfig::default(), [host; 32]);
            for path in 0..paths {
                let local = LocalAddress {
                    address: address(path, host),
                    interface: u32::from(path) + 1,
                    mtu,
                    backup: false,
                };
                end.add_local_address(now, local);
            }
            end
        });
        let to = SocketAddr::new(address(0, 2), 5000);
        ends[1].listen(to, config.clone()).expect("a free port");
        let from = SocketAddr::new(address(0, 1), 30_000);
        let connection = ends[0].connect(now, from, to, config.clone()).expect("a free port");
        let connections = [Some(connection), None];
        Self {
            now,
            ends,
            connections,
            chunk: Bytes::from(vec![0; CHUNK]),
            received: 0,
            segments: 0,
            next_port: 30_001,
        }
    }

    /// Choices that make a connection use all its paths: the one with the lowest round-trip time alone would
    /// do.
    pub fn spread(checksum: bool) -> ConnectionConfig {
        ConnectionConfig { checksum, scheduler: "round-robin".into(), ..ConnectionConfig::default() }
    }

    /// One round: both ends talk, then time passes.
    pub fn round(&mut self) {
        for end in 0..2 {
            if let (0, Some(id)) = (end, self.connections[0]) {
                while let room @ 1.. = self.ends[0].send_capacity(id) {
                    self.ends[0].send(self.now, id, self.chunk.slice(..room.min(CHUNK)));
                }
            }
            while let Some(event) = self.ends[end].poll_event() {
                self.on_event(end, event);
            }
            let (first, second) = self.ends.split_at_mut(1);
            let (sender, receiver) =
                if end == 0 { (&mut first[0], &mut second[0]) } else { (&mut second[0], &mut first[0]) };
            while let Some(segment) = sender.poll_transmit(self.now) {
                self.segments += 1;
                receiver.handle_segment(self.now + DELAY, segment);
            }
            self.now += DELAY;
            self.ends[end].handle_timeout(self.now);
        }
        if let Some(id) = self.connections[1] {
            let mut out = Vec::new();
            let (octets, _) = self.ends[1].recv(id, usize::MAX, &mut out);
            self.received += octets as u64;
            self.ends[1].consumed(self.now, id, octets);
        }
    }

    #[allow(clippy::needless_pass_by_value)] // an event is attended to once
    fn on_event(&mut self, end: usize, event: Event) {
        match event {
            Event::Accepted { connection, .. } => self.connections[end] = Some(connection),
            Event::SubflowWanted { connection, local, remote, .. } => {
                let (IpAddr::V4(ours), IpAddr::V4(theirs)) = (local, remote.ip()) else { return };
                if ours.octets()[1] == theirs.octets()[1] {
                    self.next_port += 1;
                    let local = SocketAddr::new(local, self.next_port);
                    self.ends[end].open_subflow(self.now, connection, local, remote);
                } else {
                    self.ends[end].open_subflow_failed(self.now, connection, local, remote);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_over_all_paths() {
        for paths in [1, 6] {
            let mut direct = Direct::new(paths, 1500, &Direct::spread(false));
            let busy = |direct: &Direct| {
                let info =
                    direct.connections[0].and_then(|id| direct.ends[0].info(id)).expect("a connection");
                info.subflows.iter().filter(|subflow| subflow.bytes_acked > 1 << 20).count()
            };
            let mut rounds = 0;
            while busy(&direct) < usize::from(paths) {
                direct.round();
                rounds += 1;
                assert!(
                    rounds < 20_000,
                    "{} of {paths} paths after {} octets",
                    busy(&direct),
                    direct.received
                );
            }
            assert!(direct.received >= u64::from(paths) << 20);
            assert!(direct.segments > direct.received / 65_535);
        }
    }
}
