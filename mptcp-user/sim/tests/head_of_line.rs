//! How long octets wait at the receiver for earlier ones that come over a slower path, where the receive
//! window is small, and what opportunistic retransmission and penalisation change (RFC 8041 section 4.2).
//!
//! A cell that differs by more than a tenth fails. When the change is meant, write the table anew with
//! `MPTCP_UPDATE=1 cargo test -p mptcp-sim --test head_of_line` and commit it with the change.

mod table;

use mptcp_proto::{ConnectionConfig, Opportunism};
use mptcp_sim::{LinkConfig, PathConfig, Side, Simulation, SimulationConfig, Traffic};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

/// How long a transfer runs.
const SPAN: Duration = Duration::from_secs(20);
/// Sending octets again may not bring less than this share of what the connection does without it.
const LEAST: f64 = 0.97;

/// Megabits per second and one-way delay in milliseconds of both paths; per cent lost on both.
type Links = ([(u64, u64); 2], f64);
const WIFI_3G: [(u64, u64); 2] = [(8, 20), (2, 150)];
const LINKS: [(&str, Links); 3] = [
    ("wifi-3g", (WIFI_3G, 0.0)),
    ("30/10,1/50ms", ([(30, 1), (10, 50)], 0.0)),
    ("wifi-3g,1%", (WIFI_3G, 1.0)),
];
/// Octets that the receiver can hold.
const BUFFERS: [usize; 4] = [64 << 10, 128 << 10, 256 << 10, 1 << 20];
const POLICIES: [(&str, Opportunism); 3] =
    [("off", Opportunism::Off), ("retransmit", Opportunism::Retransmit), ("penalise", Opportunism::Penalise)];

/// Megabits per second; milliseconds: median, 99th percentile, maximum; per cent sent on two paths.
fn run((links, loss): &Links, buffer: usize, opportunism: Opportunism) -> [f64; 5] {
    let address = |path: usize, host: u8| IpAddr::from([10, path as u8 + 1, 0, host]);
    let paths = links.iter().enumerate().map(|(place, &(rate, delay))| {
        let link = LinkConfig::new(rate * 1_000_000, Duration::from_millis(delay)).with_loss(loss / 100.0);
        PathConfig::new(address(place, 1), address(place, 2), link)
    });
    let config = SimulationConfig {
        check_wire: false,
        head_of_line: true,
        ..SimulationConfig::new(1, paths.collect())
    };
    let mut simulation = Simulation::new(&config);
    let connection = ConnectionConfig { receive_buffer: buffer, opportunism, ..ConnectionConfig::default() };
    simulation.listen(connection.clone(), Traffic::send(0)).unwrap();
    simulation.connect(address(0, 1), address(0, 2), connection, Traffic::send(1 << 40)).unwrap();
    let end = simulation.now() + SPAN;
    simulation.run_until(end, |_| false);
    let received = simulation.outcomes(Side::Server)[0].received as f64;
    let waits = simulation.head_of_line().unwrap();
    let [median, high, longest] = [0.5, 0.99, 1.0].map(|share| waits.quantile(share).as_secs_f64() * 1e3);
    let again = simulation.info(Side::Client, 0).unwrap().bytes_reinjected as f64;
    [received * 8.0 / 1e6 / SPAN.as_secs_f64(), median, high, longest, again / received * 100.0]
}

#[test]
fn octets_wait_for_earlier_ones_as_the_committed_table_says() {
    let mut conditions = Vec::new();
    for (name, links) in &LINKS {
        for buffer in BUFFERS {
            for (policy, opportunism) in POLICIES {
                conditions.push((name, links, buffer, policy, opportunism));
            }
        }
    }
    let measured =
        table::measure(&conditions, |&(_, links, buffer, _, opportunism)| run(links, buffer, opportunism));
    let mut now = String::from(
        "# Head-of-line delay, and what opportunistic retransmission and penalisation do to it. wifi-3g: 8 Mb/s 20 ms and 2 Mb/s\n\
         # 150 ms, one way; 30/10: 30 Mb/s 1 ms and 10 Mb/s 50 ms; 1%: lost both ways. The receiver holds so many octets at\n\
         # most. Twenty seconds of bulk data. p50, p99, max: how long an octet waits for earlier ones, in milliseconds. again: octets sent on both paths,\n\
         # per cent of those received.\n\
         condition      buffer opportunism   Mb/s    p50_ms   p99_ms   max_ms   again\n",
    );
    for ((name, _, buffer, policy, _), [rate, p50, p99, max, again]) in conditions.iter().zip(&measured) {
        let _ = writeln!(
            now,
            "{name:<14} {:>5}K {policy:<11} {rate:>6.2} {p50:>9.1} {p99:>8.1} {max:>8.1} {again:>7.2}",
            buffer >> 10
        );
    }
    table::compare("head_of_line.txt", &now, 3, 0.1);
    for policies in measured.chunks(POLICIES.len()) {
        assert!(policies[1][0] >= policies[0][0] * LEAST, "what is sent again costs throughput\n{now}");
    }
    let again =
        |policy: usize| measured.chunks(POLICIES.len()).map(|policies| policies[policy][4]).sum::<f64>();
    assert!(again(1) > 0.0 && again(2) > 0.0, "nothing was sent again\n{now}");
}
