//! How long the stream stands still when a path dies without anybody saying so, in simulated time; and how
//! soon a path that comes back is used again. `cargo xtask bench --scenario failover` measures the same over
//! real interfaces.
//!
//! The expectations are those of the modes' users: 100 ms in the median and 200 ms at most, where another
//! subflow exists already and round trips take 50 ms. `suspicion.rs` has the price.

use mptcp_proto::{ConnectionConfig, ConnectionInfo};
use mptcp_sim::{Action, LinkConfig, PathConfig, PathId, Side, Simulation, SimulationConfig, Traffic};
use std::net::IpAddr;
use std::time::Duration;

const WIFI: PathId = PathId(0);
const MILLI: Duration = Duration::from_millis(1);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Wi-Fi (20 Mb/s, 25 ms one way) and a cellular link of this rate in Mb/s and one-way delay.
fn network(seed: u64, cellular: (u64, u32), path_manager: &str) -> Simulation {
    let server = address("203.0.113.1");
    let link = |rate: u64, delay: u32| LinkConfig::new(rate * 1_000_000, MILLI * delay);
    let wifi = PathConfig::new(address("192.0.2.1"), server, link(20, 25));
    let cellular = PathConfig::new(address("198.51.100.1"), server, link(cellular.0, cellular.1));
    let config = SimulationConfig { check_wire: false, ..SimulationConfig::new(seed, vec![wifi, cellular]) };
    let connection = ConnectionConfig { path_manager: path_manager.into(), ..ConnectionConfig::default() };
    let mut simulation = Simulation::new(&config);
    simulation.listen(connection.clone(), Traffic::send(0)).unwrap();
    simulation.connect(address("192.0.2.1"), server, connection, Traffic::send(1 << 40)).unwrap();
    simulation
}

fn run(simulation: &mut Simulation, time: Duration) {
    let end = simulation.now() + time;
    simulation.run_until(end, |_| false);
}

fn client(simulation: &Simulation) -> ConnectionInfo {
    simulation.info(Side::Client, 0).unwrap()
}

/// The longest time without data, in milliseconds, that begins within a second after Wi-Fi's death, somewhat
/// later than two seconds after the beginning. `told`: the sender's interface goes down.
fn pause(seed: u64, cellular: (u64, u32), path_manager: &str, told: bool) -> u128 {
    let mut simulation = network(seed, cellular, path_manager);
    run(&mut simulation, 2000 * MILLI + 7 * MILLI * seed as u32);
    simulation.schedule(Duration::ZERO, Action::SetUp(WIFI, false));
    if told {
        let address = address("192.0.2.1");
        simulation.schedule(Duration::ZERO, Action::RemoveAddress(Side::Client, address));
    }
    let (death, arrived) = (simulation.now(), |simulation: &Simulation| {
        simulation.outcomes(Side::Server)[0].received_at.expect("data")
    });
    let (mut last, mut longest) = (arrived(&simulation), Duration::ZERO);
    while last < death + 1000 * MILLI {
        assert!(simulation.now() < death + 5000 * MILLI, "{path_manager}: nothing arrived any more");
        run(&mut simulation, MILLI);
        let now = arrived(&simulation);
        longest = longest.max(now - last);
        last = now;
    }
    let outcome = simulation.outcomes(Side::Server)[0];
    assert!(outcome.closed.is_none() && outcome.received > 2_000_000, "{outcome:?}");
    longest.as_millis()
}

/// Times of death: in each phase between two losses, and in recovery.
const DEATHS: u64 = 60;

/// The same over many times of death: the median, and the longest.
fn pauses(cellular: (u64, u32), path_manager: &str, told: bool) -> (u128, u128) {
    let pause = |seed| (pause(seed, cellular, path_manager, told), seed);
    let mut pauses: Vec<_> = (1..=DEATHS).map(pause).collect();
    pauses.sort_unstable();
    let (longest, seed) = pauses[pauses.len() - 1];
    let median = pauses[pauses.len() / 2].0;
    println!("{path_manager} {cellular:?} {told}: p50 {median} ms, longest {longest} ms (seed {seed})");
    (median, longest)
}

#[test]
fn a_dead_path_costs_100_ms_where_another_subflow_exists_and_never_more_than_200() {
    for (path_manager, told) in
        [("full-mesh", false), ("backup", false), ("full-mesh", true), ("backup", true)]
    {
        let (median, longest) = pauses((10, 25), path_manager, told);
        assert!(median <= 100 && longest <= 200, "{path_manager} {told}: {median} ms, longest {longest} ms");
    }
}

#[test]
fn a_slow_reserve_costs_what_its_rate_and_delay_make() {
    // Bytes that the receiver had already acknowledged on the path that died are sent first.
    assert!(pauses((2, 75), "full-mesh", false).1 < 400);
    assert!(pauses((2, 75), "backup", false).1 < 400);
}

#[test]
//= RFC 8684 3.3.3-7 (test)
fn a_single_path_is_replaced_within_half_a_second() {
    assert!(pauses((10, 25), "single-path", false).1 < 500);
}

#[test]
fn a_path_that_comes_back_is_used_again_within_two_seconds() {
    for path_manager in ["full-mesh", "backup"] {
        for outage in [1, 8, 30] {
            let mut simulation = network(outage, (10, 25), path_manager);
            run(&mut simulation, 2000 * MILLI);
            simulation.schedule(Duration::ZERO, Action::SetUp(WIFI, false));
            run(&mut simulation, Duration::from_secs(outage));
            let probes = simulation.stats(WIFI).unwrap().0.down_drops;
            simulation.schedule(Duration::ZERO, Action::SetUp(WIFI, true));
            run(&mut simulation, 2000 * MILLI);
            let before = simulation.stats(WIFI).unwrap().0.delivered_octets;
            run(&mut simulation, 1000 * MILLI);
            let now = simulation.stats(WIFI).unwrap().0.delivered_octets;
            let info = client(&simulation);
            assert!(
                now - before > 1_000_000,
                "{path_manager} after {outage} s: {} octets\n{info:#?}",
                now - before
            );
            // The bytes queued and in flight when it died, and a segment a second.
            assert!(probes < 400 + 2 * outage, "{path_manager}: {probes} packets in {outage} s");
        }
    }
}

#[test]
fn a_backup_is_idle_while_the_regular_path_works() {
    let mut simulation = network(1, (10, 25), "backup");
    run(&mut simulation, 5000 * MILLI);
    let info = client(&simulation);
    assert_eq!(info.subflows.len(), 2, "{info:#?}");
    assert!(!info.subflows[0].backup && info.subflows[1].backup, "{info:#?}");
    assert!(info.subflows[0].bytes_sent > 5_000_000 && info.subflows[1].bytes_sent == 0, "{info:#?}");
}

#[test]
fn a_single_path_connection_has_one_subflow_before_and_after() {
    let mut simulation = network(1, (10, 25), "single-path");
    run(&mut simulation, 3000 * MILLI);
    assert_eq!(client(&simulation).subflows.len(), 1);
    simulation.schedule(Duration::ZERO, Action::SetUp(WIFI, false));
    run(&mut simulation, 3000 * MILLI);
    let info = client(&simulation);
    let living: Vec<_> =
        info.subflows.iter().filter(|subflow| format!("{:?}", subflow.state) == "Established").collect();
    assert_eq!(living.len(), 1, "{info:#?}");
    assert_eq!(living[0].local.ip(), address("198.51.100.1"));
}

#[test]
fn a_single_path_moves_when_its_address_goes() {
    let mut simulation = network(1, (10, 25), "single-path");
    run(&mut simulation, 2000 * MILLI);
    simulation.schedule(Duration::ZERO, Action::RemoveAddress(Side::Client, address("192.0.2.1")));
    run(&mut simulation, 3000 * MILLI);
    let outcome = simulation.outcomes(Side::Server)[0];
    assert!(outcome.closed.is_none() && outcome.longest_pause < 300 * MILLI, "{outcome:?}");
    assert!(simulation.now() - outcome.received_at.unwrap() < 100 * MILLI, "it goes on: {outcome:?}");
}

#[test]
fn what_is_lost_with_the_only_subflow_goes_over_the_one_that_takes_its_place() {
    let mut simulation = network(1, (10, 25), "single-path");
    run(&mut simulation, 2000 * MILLI);
    simulation.schedule(Duration::ZERO, Action::SetUp(WIFI, false));
    simulation.schedule(Duration::ZERO, Action::RemoveAddress(Side::Client, address("192.0.2.1")));
    run(&mut simulation, 3000 * MILLI);
    let outcome = simulation.outcomes(Side::Server)[0];
    assert!(outcome.closed.is_none() && outcome.longest_pause < 300 * MILLI, "{outcome:?}");
    assert!(simulation.now() - outcome.received_at.unwrap() < 100 * MILLI, "it goes on: {outcome:?}");
}
