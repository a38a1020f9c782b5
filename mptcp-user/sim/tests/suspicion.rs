//! The price of suspicion: octets that go over a second path although the first one only jitters, stalls or
//! loses. `failover.rs` has the other side, how long the stream stands still when a path is really dead.
//!
//! A figure that differs by more than a tenth fails. When the change is meant, write the table anew with
//! `MPTCP_UPDATE=1 cargo test -p mptcp-sim --test suspicion` and commit it with the change.
//! `docs/failover.md` shows it.

mod table;

use mptcp_proto::ConnectionConfig;
use mptcp_sim::{Action, LinkConfig, PathConfig, PathId, Side, Simulation, SimulationConfig, Traffic};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

const MILLI: Duration = Duration::from_millis(1);
/// How long a transfer runs.
const SPAN: Duration = Duration::from_secs(30);
/// Runs of each condition.
const SEEDS: u64 = 4;
const WIFI: PathId = PathId(0);

#[derive(Clone, Copy)]
struct Condition {
    path_manager: &'static str,
    /// Milliseconds by which the delay of each packet deviates, up or down.
    jitter: u32,
    /// Per cent.
    loss: f64,
    /// Milliseconds for which Wi-Fi delivers nothing, once in a second, and everything at once afterwards.
    stall: u32,
}

fn conditions() -> Vec<Condition> {
    let mut all = Vec::new();
    for path_manager in ["full-mesh", "backup"] {
        for jitter in [0, 5, 10, 20] {
            for loss in [0.0, 0.1, 1.0, 3.0] {
                all.push(Condition { path_manager, jitter, loss, stall: 0 });
            }
        }
        for stall in [30, 60, 90, 150, 250] {
            for loss in [0.0, 1.0] {
                all.push(Condition { path_manager, jitter: 0, loss, stall });
            }
        }
    }
    all
}

/// Megabits delivered per second, and per cent of the octets that went over another path, too.
fn run(condition: &Condition, seed: u64) -> (f64, f64) {
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    let server = address("203.0.113.1");
    let link = |rate: u64| LinkConfig {
        jitter: condition.jitter * MILLI,
        ..LinkConfig::new(rate * 1_000_000, 25 * MILLI).with_loss(condition.loss / 100.0)
    };
    let paths = vec![
        PathConfig::new(address("192.0.2.1"), server, link(20)),
        PathConfig::new(address("198.51.100.1"), server, link(10)),
    ];
    let config = SimulationConfig { check_wire: false, ..SimulationConfig::new(seed, paths) };
    let connection =
        ConnectionConfig { path_manager: condition.path_manager.into(), ..ConnectionConfig::default() };
    let mut simulation = Simulation::new(&config);
    simulation.listen(connection.clone(), Traffic::send(0)).unwrap();
    simulation.connect(address("192.0.2.1"), server, connection, Traffic::send(1 << 40)).unwrap();
    let end = simulation.now() + SPAN;
    while condition.stall > 0 && simulation.now() < end {
        // The packets behind the late one don't overtake it.
        let late = LinkConfig { delay: link(20).delay + condition.stall * MILLI, ..link(20) };
        simulation.schedule(Duration::ZERO, Action::Reconfigure(WIFI, Box::new([late, link(20)])));
        simulation.schedule(5 * MILLI, Action::Reconfigure(WIFI, Box::new([link(20), link(20)])));
        let next = simulation.now() + 977 * MILLI;
        simulation.run_until(next.min(end), |_| false);
    }
    simulation.run_until(end, |_| false);
    let received = simulation.outcomes(Side::Server)[0].received as f64;
    let info = simulation.info(Side::Client, 0).unwrap();
    (received * 8.0 / 1e6 / SPAN.as_secs_f64(), info.bytes_reinjected as f64 / received * 100.0)
}

fn table() -> String {
    let conditions = conditions();
    let measured = table::measure(&conditions, |condition| {
        let runs: Vec<_> = (1..=SEEDS).map(|seed| run(condition, seed)).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| runs.iter().map(of).sum::<f64>() / SEEDS as f64;
        (mean(|run| run.0), mean(|run| run.1))
    });
    let mut text = String::from(
        "# Octets that went over another path, too, although no path was dead. Wi-Fi (20 Mb/s) and cellular (10 Mb/s), 25 ms one\n\
         # way each, queues of one bandwidth-delay product, 30 seconds of bulk data, mean of 4 runs. jitter: milliseconds by which the\n\
         # delay of each packet deviates, up or down, on both paths. loss: per cent, both paths, both ways. stall: milliseconds for\n\
         # which Wi-Fi delivers nothing, once in a second. twice: per cent of the octets delivered.\n\
         mode      jitter loss stall   Mb/s  twice\n",
    );
    for (condition, (rate, twice)) in conditions.iter().zip(measured) {
        let Condition { path_manager, jitter, loss, stall } = condition;
        let _ = writeln!(text, "{path_manager:<9} {jitter:>6} {loss:>4} {stall:>5} {rate:>6.2} {twice:>6.2}");
    }
    text
}

#[test]
fn jitter_and_loss_cost_what_the_committed_table_says() {
    let now = table();
    table::compare("suspicion.txt", &now, 4, 0.2);
    // The goal with which suspicion came to be earlier.
    let later = table::rows(include_str!("suspicion-100ms.txt"), 4);
    for ((name, now), (same, later)) in table::rows(&now, 4).into_iter().zip(later) {
        assert_eq!(name, same);
        assert!(
            now[1] <= later[1] + 1.0,
            "{name}: {} % sent twice, {} % while it was later",
            now[1],
            later[1]
        );
    }
}
