//! The protocol engine alone: two endpoints hand each other super-segments in memory, no system calls.
//!
//! `cargo bench -p mptcp-sim --bench engine`.

#![allow(missing_docs)] // of what criterion's macros make

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mptcp_sim::Direct;

fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine/bulk");
    for (name, paths, checksum) in
        [("one-path", 1, false), ("two-paths", 2, false), ("six-paths", 6, false), ("checksum", 2, true)]
    {
        let mut bench = Direct::new(paths, 1500, &Direct::spread(checksum));
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
