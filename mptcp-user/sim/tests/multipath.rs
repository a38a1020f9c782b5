//! The gain of several paths, per scheduler: throughput over the sum of the rates and over the best path
//! alone, and how long 64 KiB take. And the time limit of the Linux kernel's `simult_flows` self-test, in
//! virtual time.
//!
//! A cell that differs by more than a tenth fails. When the change is meant, write the table anew with
//! `MPTCP_UPDATE=1 cargo test -p mptcp-sim --test multipath` and commit it with the change.

mod table;

use mptcp_proto::ConnectionConfig;
use mptcp_sim::{LinkConfig, PathConfig, Side, Simulation, SimulationConfig, Traffic};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

/// How long a transfer runs whose throughput is measured.
const SPAN: Duration = Duration::from_secs(20);
/// Runs where there are losses.
const SEEDS: u64 = 3;
/// The transfer whose time is measured, and how long the connection is quiet before it, so that all subflows
/// are there.
const BURST: u64 = 64 << 10;
const QUIET: Duration = Duration::from_secs(3);
/// No scheduler may bring less than this share of what the best path alone does: the rest is the cost of
/// finding out that a path is not worth using.
const LEAST: f64 = 0.97;

/// Nor may a burst on an idle connection take longer than so many times the time that it takes there. A
/// path's rate is not known before it was used, and two that look alike may turn out to be unequal.
const LONGEST: f64 = 1.2;

/// Megabits per second, one-way delay in milliseconds, per cent lost.
type Link = (u64, u64, f64);

struct Condition {
    name: &'static str,
    links: &'static [Link],
    /// Octets that the receiver can hold.
    buffer: usize,
}

const fn condition(name: &'static str, links: &'static [Link]) -> Condition {
    Condition { name, links, buffer: 8 << 20 }
}

const fn small(name: &'static str, links: &'static [Link], buffer: usize) -> Condition {
    Condition { name, links, buffer }
}

const CONDITIONS: [Condition; 13] = [
    condition("10/10,1/1ms", &[(10, 1, 0.0), (10, 1, 0.0)]),
    condition("10/10,1/50ms", &[(10, 1, 0.0), (10, 50, 0.0)]),
    condition("10/10,50/50ms", &[(10, 50, 0.0), (10, 50, 0.0)]),
    condition("30/10,1/1ms", &[(30, 1, 0.0), (10, 1, 0.0)]),
    condition("30/10,1/50ms", &[(30, 1, 0.0), (10, 50, 0.0)]),
    condition("30/10,50/50ms", &[(30, 50, 0.0), (10, 50, 0.0)]),
    condition("wifi-3g", &[(8, 20, 0.0), (2, 150, 0.0)]),
    condition("lossy-long", &[(30, 20, 1.0), (30, 200, 0.0)]),
    condition("10/10/10", &[(10, 20, 0.0), (10, 20, 0.0), (10, 20, 0.0)]),
    condition("30/10/5", &[(30, 10, 0.0), (10, 30, 0.0), (5, 60, 0.0)]),
    small("wifi-3g,64K", &[(8, 20, 0.0), (2, 150, 0.0)], 64 << 10),
    small("wifi-3g,256K", &[(8, 20, 0.0), (2, 150, 0.0)], 256 << 10),
    small("30/10,1/50ms,128K", &[(30, 1, 0.0), (10, 50, 0.0)], 128 << 10),
];

fn addresses(path: usize) -> (IpAddr, IpAddr) {
    (IpAddr::from([10, path as u8 + 1, 0, 1]), IpAddr::from([10, path as u8 + 1, 0, 2]))
}

/// A connection whose subflows go over these paths, one each.
fn simulation(links: &[Link], buffer: usize, scheduler: &str, seed: u64) -> (Simulation, ConnectionConfig) {
    let paths = links.iter().enumerate().map(|(place, &(rate, delay, loss))| {
        let link = LinkConfig::new(rate * 1_000_000, Duration::from_millis(delay));
        let (client, server) = addresses(place);
        let lossy = link.with_loss(loss / 100.0);
        PathConfig { forward: lossy, reverse: lossy, ..PathConfig::new(client, server, link) }
    });
    let config = SimulationConfig { check_wire: false, ..SimulationConfig::new(seed, paths.collect()) };
    let connection = ConnectionConfig {
        scheduler: scheduler.into(),
        receive_buffer: buffer,
        ..ConnectionConfig::default()
    };
    (Simulation::new(&config), connection)
}

/// Starts a connection from the first path on that sends that to either side.
fn start(simulation: &mut Simulation, connection: ConnectionConfig, up: Traffic, down: Traffic) {
    let (client, server) = addresses(0);
    simulation.listen(connection.clone(), down).unwrap();
    simulation.connect(client, server, connection, up).unwrap();
}

/// Megabits of payload per second.
fn throughput(links: &[Link], buffer: usize, scheduler: &str) -> f64 {
    let seeds = if links.iter().any(|link| link.2 > 0.0) { SEEDS } else { 1 };
    let run = |seed| {
        let (mut simulation, connection) = simulation(links, buffer, scheduler, seed);
        start(&mut simulation, connection, Traffic::send(1 << 40), Traffic::send(0));
        let end = simulation.now() + SPAN;
        simulation.run_until(end, |_| false);
        let received = simulation.outcomes(Side::Server).first().map_or(0, |outcome| outcome.received);
        received as f64 * 8.0 / 1e6 / SPAN.as_secs_f64()
    };
    (1..=seeds).map(run).sum::<f64>() / seeds as f64
}

/// Milliseconds from the first octet's being handed over until the last one is read.
fn completion(links: &[Link], buffer: usize, scheduler: &str) -> f64 {
    let seeds = if links.iter().any(|link| link.2 > 0.0) { 4 * SEEDS } else { 1 };
    let run = |seed| {
        let (mut simulation, connection) = simulation(links, buffer, scheduler, seed);
        let up = Traffic { pause: QUIET, ..Traffic::send(BURST + 1) };
        start(&mut simulation, connection, up, Traffic { finish_first: false, ..Traffic::send(0) });
        let end = simulation.now() + Duration::from_secs(60);
        let all = |simulation: &Simulation| {
            simulation.outcomes(Side::Server).first().is_some_and(|outcome| outcome.received == BURST + 1)
        };
        assert!(simulation.run_until(end, all));
        let subflows = simulation.info(Side::Client, 0).map_or(0, |info| info.subflows.len());
        assert_eq!(subflows, links.len());
        let began = simulation.outcomes(Side::Client)[0].connected.unwrap() + QUIET;
        (simulation.now() - began).as_secs_f64() * 1e3
    };
    (1..=seeds).map(run).sum::<f64>() / seeds as f64
}

/// The best path alone: the highest throughput, the shortest time.
fn alone(condition: &Condition) -> (f64, f64) {
    let each = |measure: fn(&[Link], usize, &str) -> f64| {
        condition.links.iter().map(move |link| measure(&[*link], condition.buffer, "lowest-rtt"))
    };
    (each(throughput).fold(0.0, f64::max), each(completion).fold(f64::INFINITY, f64::min))
}

fn table() -> String {
    let measured = table::measure(&CONDITIONS, |condition| {
        let alone = alone(condition);
        let of = |scheduler: &str| {
            let (links, buffer) = (condition.links, condition.buffer);
            (throughput(links, buffer, scheduler), completion(links, buffer, scheduler))
        };
        (alone, ConnectionConfig::schedulers().map(|name| (name, of(name))).collect::<Vec<_>>())
    });
    let mut text = String::from(
        "# Several paths, per scheduler. Rates in Mb/s, delays one way, queues of one bandwidth-delay product (at least ten\n\
         # packets), MTU 1500, CUBIC on each path. wifi-3g: 8 Mb/s 20 ms and 2 Mb/s 150 ms. lossy-long: 30 Mb/s 20 ms with 1 %\n\
         # loss both ways and 30 Mb/s 200 ms (mean of several runs). 10/10/10: 20 ms each. 30/10/5: 10, 30 and 60 ms. Buffers of\n\
         # 8 MiB unless the condition says less. Throughput: goodput of the first twenty seconds, slow start included, over the sum\n\
         # of the rates and over the goodput of the best path alone (\"alone\"). 64KiB_ms: time for 64 KiB on an idle connection.\n\
         condition         scheduler   Mb/s  over_sum  over_best  64KiB_ms\n",
    );
    for (condition, ((best, soonest), schedulers)) in CONDITIONS.iter().zip(measured) {
        let sum = condition.links.iter().map(|link| link.0).sum::<u64>() as f64;
        let mut row = |name: &str, rate: f64, time: f64| {
            let (of_sum, of_best) = (rate / sum, rate / best);
            let name = format!("{:<17} {name:<10}", condition.name);
            let _ = writeln!(text, "{name} {rate:>6.2} {of_sum:>9.3} {of_best:>10.3} {time:>9.1}");
        };
        row("alone", best, soonest);
        for (name, (rate, time)) in schedulers {
            row(name, rate, time);
        }
    }
    text
}

#[test]
fn several_paths_bring_what_the_committed_table_says_and_never_less_than_the_best_alone() {
    let now = table();
    table::compare("multipath.txt", &now, 2, 0.05);
    let mut alone = f64::NAN;
    for (name, figures) in table::rows(&now, 2) {
        if name.ends_with(" alone") {
            alone = figures[3];
        }
        assert!(figures[2] >= LEAST, "{name} is slower than the best path alone\n{now}");
        assert!(figures[3] <= alone * LONGEST, "{name} takes longer than the best path alone\n{now}");
    }
}

/// Two paths as in the kernel's `simult_flows.sh` (delays in milliseconds, one way) and as in this project's
/// goals.
const SIMULTANEOUS: [[Link; 2]; 11] = [
    [(10, 0, 0.0), (10, 0, 0.0)],
    [(10, 1, 0.0), (10, 25, 0.0)],
    [(10, 25, 0.0), (10, 1, 0.0)],
    [(10, 0, 0.0), (3, 0, 0.0)],
    [(10, 1, 0.0), (3, 25, 0.0)],
    [(10, 25, 0.0), (3, 1, 0.0)],
    [(10, 1, 0.0), (10, 50, 0.0)],
    [(10, 50, 0.0), (10, 50, 0.0)],
    [(30, 1, 0.0), (10, 50, 0.0)],
    [(30, 50, 0.0), (10, 1, 0.0)],
    [(30, 50, 0.0), (10, 50, 0.0)],
];
/// Octets that the kernel's test transfers.
const SIMULTANEOUS_SIZE: u64 = 16 << 20;

/// size × 8 / (0.9 × (r1 + r2)) + 450 ms, in each direction.
#[test]
fn two_paths_are_used_at_once_within_the_time_that_the_kernel_allows_itself() {
    let both = SIMULTANEOUS.iter().flat_map(|links| [(links, false), (links, true)]);
    let times = table::measure(&both.collect::<Vec<_>>(), |(links, down)| {
        let (mut simulation, connection) = simulation(&links[..], 8 << 20, "lowest-rtt", 1);
        let (data, nothing) = (Traffic::send(SIMULTANEOUS_SIZE), Traffic::send(0));
        let (up, back) = if *down { (nothing, data) } else { (data, nothing) };
        let begin = simulation.now();
        start(&mut simulation, connection, up, back);
        let receiver = if *down { Side::Client } else { Side::Server };
        let ended = |simulation: &Simulation| {
            simulation.outcomes(receiver).first().is_some_and(|outcome| outcome.received == SIMULTANEOUS_SIZE)
        };
        assert!(simulation.run_until(begin + Duration::from_secs(60), ended), "{links:?}");
        let end = simulation.now();
        let rate = (links[0].0 + links[1].0) as f64 * 1e6;
        let limit = SIMULTANEOUS_SIZE as f64 * 8.0 / (0.9 * rate) + 0.45;
        (**links, *down, (end - begin).as_secs_f64(), limit)
    });
    let late: Vec<_> = times.iter().filter(|(.., time, limit)| time > limit).collect();
    assert!(late.is_empty(), "{late:#?}\nof {times:#?}");
}
