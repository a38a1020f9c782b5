//! The table of goodput per congestion control, loss, delay and rate: a change of the engine that costs throughput
//! shows as a changed table.
//!
//! A cell that differs by more than a tenth fails. When the change is meant, write the table anew with
//! `MPTCP_UPDATE=1 cargo test -p mptcp-user --test goodput` and commit it with the change.

use mptcp_user::proto::ConnectionConfig;
use mptcp_user::sim::{LinkConfig, PathConfig, Side, Simulation, SimulationConfig, Traffic};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// The loss-based coupled algorithms are Reno on one path, as their own tests show.
const ALGORITHMS: [&str; 3] = ["cubic", "reno", "bbr"];
const RATES: [u64; 2] = [10, 100];
/// One-way delays in milliseconds.
const DELAYS: [u64; 4] = [1, 20, 100, 200];
const LOSSES: [f64; 4] = [0.0, 0.1, 1.0, 3.0];
/// How long each transfer runs.
const SPAN: Duration = Duration::from_secs(10);
/// A few losses more or less early in a transfer make a great difference: with losses a cell is the mean of so many.
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
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let rows = std::sync::Mutex::new(vec![[0.0; LOSSES.len()]; conditions.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let place = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                    && let Some((algorithm, rate, delay)) = conditions.get(place)
                {
                    let row = LOSSES.map(|loss| goodput(algorithm, *rate, *delay, loss));
                    rows.lock().unwrap()[place] = row;
                }
            });
        }
    });
    let mut text = String::from(
        "# Goodput in Mb/s of one connection over one path, mean of the first 10 seconds, slow start included.\n\
         # The delay is that of each direction: the round-trip time is twice that. Queue of one bandwidth-delay product,\n\
         # MTU 1500, random loss of data packets; with loss, the mean of three runs.\n\
         algorithm rate_mbps  delay_ms  loss_0%  loss_0.1%  loss_1%  loss_3%\n",
    );
    for ((algorithm, rate, delay), row) in conditions.iter().zip(rows.into_inner().unwrap()) {
        let [none, tenth, one, three] = row;
        let _ = writeln!(
            text,
            "{algorithm:<9} {rate:>9} {delay:>9} {none:>8.2} {tenth:>10.2} {one:>8.2} {three:>8.2}"
        );
    }
    text
}

fn cells(table: &str) -> Vec<(String, Vec<f64>)> {
    let rows = table.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words[..3].join(" "), words[3..].iter().map(|cell| cell.parse().unwrap()).collect())
    })
    .collect()
}

#[test]
fn goodput_is_what_the_committed_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goodput.txt");
    let now = table();
    if std::env::var_os("MPTCP_UPDATE").is_some() {
        std::fs::write(&path, &now).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let (was, is) = (cells(&committed), cells(&now));
    assert_eq!(was.len(), is.len(), "the table has other rows: {now}");
    let mut changed = Vec::new();
    for ((name, was), (_, is)) in was.iter().zip(&is) {
        for ((was, is), loss) in was.iter().zip(is).zip(LOSSES) {
            if (was - is).abs() > was * 0.1 + 0.05 {
                changed.push(format!("{name}, loss {loss}%: {was} Mb/s before, {is:.2} now"));
            }
        }
    }
    assert!(
        changed.is_empty(),
        "goodput changed; if that is meant, run it with MPTCP_UPDATE=1:\n{}\n{now}",
        changed.join("\n")
    );
}
