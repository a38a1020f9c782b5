//! The table of goodput per congestion control, loss, delay and rate: a change of the engine that costs
//! throughput shows as a changed table.
//!
//! A cell that differs by more than a tenth fails. When the change is meant, write the table anew with
//! `MPTCP_UPDATE=1 cargo test -p mptcp-sim --test goodput` and commit it with the change.

mod table;

use mptcp_proto::ConnectionConfig;
use mptcp_sim::{LinkConfig, PathConfig, Side, Simulation, SimulationConfig, Traffic};
use std::fmt::Write as _;
use std::time::Duration;

/// The loss-based coupled algorithms are Reno on one path, as their own tests show.
const ALGORITHMS: [&str; 3] = ["cubic", "reno", "bbr"];
const RATES: [u64; 2] = [10, 100];
/// One-way delays in milliseconds.
const DELAYS: [u64; 4] = [1, 20, 100, 200];
const LOSSES: [f64; 4] = [0.0, 0.1, 1.0, 3.0];
/// How long each transfer runs.
const SPAN: Duration = Duration::from_secs(10);
/// A few losses more or less early in a transfer make a great difference: with losses a cell is the mean of
/// so many.
const SEEDS: u64 = 3;

/// Mean over as many runs as it takes.
fn goodput(algorithm: &str, rate: u64, delay: u64, loss: f64) -> f64 {
    let seeds = if loss > 0.0 { SEEDS } else { 1 };
    (1..=seeds).map(|seed| run(algorithm, rate, delay, loss, seed)).sum::<f64>() / seeds as f64
}

/// Megabits of payload per second over one path whose queue holds one bandwidth-delay product.
fn run(algorithm: &str, rate: u64, delay: u64, loss: f64, seed: u64) -> f64 {
    let link = LinkConfig::new(rate * 1_000_000, Duration::from_millis(delay));
    let (client, server) = ("10.1.0.1".parse().unwrap(), "10.2.0.1".parse().unwrap());
    let path = PathConfig { forward: link.with_loss(loss / 100.0), ..PathConfig::new(client, server, link) };
    let config =
        SimulationConfig { check_wire: false, audit: false, ..SimulationConfig::new(seed, vec![path]) };
    let connection = ConnectionConfig { congestion: algorithm.into(), ..ConnectionConfig::default() };
    let mut simulation = Simulation::new(&config);
    simulation.listen(connection.clone(), Traffic::send(0)).unwrap();
    simulation.connect(client, server, connection, Traffic::send(1 << 40)).unwrap();
    let end = simulation.now() + SPAN;
    simulation.run_until(end, |_| false);
    let received = simulation.outcomes(Side::Server).first().map_or(0, |outcome| outcome.received);
    received as f64 * 8.0 / 1e6 / SPAN.as_secs_f64()
}

/// One row per algorithm, rate and delay; one column per loss.
fn table() -> String {
    let mut conditions = Vec::new();
    for algorithm in ALGORITHMS {
        for rate in RATES {
            for delay in DELAYS {
                conditions.push((algorithm, rate, delay));
            }
        }
    }
    let rows = table::measure(&conditions, |(algorithm, rate, delay)| {
        LOSSES.map(|loss| goodput(algorithm, *rate, *delay, loss))
    });
    let mut text = String::from(
        "# Goodput in Mb/s of one connection over one path, mean of the first 10 seconds, slow start included.\n\
         # The delay is that of each direction: the round-trip time is twice that. Queue of one bandwidth-delay product,\n\
         # MTU 1500, random loss of data packets; with loss, the mean of three runs.\n\
         algorithm rate_mbps  delay_ms  loss_0%  loss_0.1%  loss_1%  loss_3%\n",
    );
    for ((algorithm, rate, delay), row) in conditions.iter().zip(rows) {
        let [none, tenth, one, three] = row;
        let _ = writeln!(
            text,
            "{algorithm:<9} {rate:>9} {delay:>9} {none:>8.2} {tenth:>10.2} {one:>8.2} {three:>8.2}"
        );
    }
    text
}

#[test]
fn goodput_is_what_the_committed_table_says() {
    table::compare("goodput.txt", &table(), 3, 0.05);
}
