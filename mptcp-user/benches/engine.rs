//! The protocol engine alone: two endpoints hand each other super-segments in memory, no system calls.
//!
//! `cargo bench -p mptcp-user --bench engine`. Octets are not copied here, so this is the cost of the protocol:
//! per (super-)segment sent, received and acknowledged.

#![allow(missing_docs)] // of what criterion's macros make

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mptcp_user::proto::{
    ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Event, Instant, LocalAddress,
};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const CHUNK: usize = 64_000;
/// One-way delay of the network between the two.
const DELAY: Duration = Duration::from_micros(50);

struct Bench {
    now: Instant,
    ends: [Endpoint; 2],
    connections: [Option<ConnectionId>; 2],
    chunk: Bytes,
    received: u64,
    next_port: u16,
}

fn address(path: u8, host: u8) -> IpAddr {
    IpAddr::from([10, path, 0, host])
}

impl Bench {
    fn new(paths: u8, mtu: u32, config: &ConnectionConfig) -> Self {
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
        Self { now, ends, connections, chunk: Bytes::from(vec![0; CHUNK]), received: 0, next_port: 30_001 }
    }

    /// One round: both ends talk, then time passes.
    fn round(&mut self) {
        for end in 0..2 {
            if let (0, Some(id)) = (end, self.connections[0]) {
                while self.ends[0].send_capacity(id) >= CHUNK {
                    self.ends[0].send(self.now, id, self.chunk.clone());
                }
            }
            while let Some(event) = self.ends[end].poll_event() {
                self.on_event(end, event);
            }
            let (first, second) = self.ends.split_at_mut(1);
            let (sender, receiver) =
                if end == 0 { (&mut first[0], &mut second[0]) } else { (&mut second[0], &mut first[0]) };
            while let Some(segment) = sender.poll_transmit(self.now) {
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

fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/bulk");
    for (name, paths, checksum) in
        [("one-path", 1, false), ("two-paths", 2, false), ("six-paths", 6, false), ("checksum", 2, true)]
    {
        let config = ConnectionConfig { checksum, ..ConnectionConfig::default() };
        let mut bench = Bench::new(paths, 1500, &config);
        while bench.received < 100 << 20 {
            bench.round();
        }
        let octets: u64 = 16 << 20;
        group.throughput(Throughput::Bytes(octets));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let until = bench.received + octets;
                while bench.received < until {
                    bench.round();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bulk);
criterion_main!(benches);
