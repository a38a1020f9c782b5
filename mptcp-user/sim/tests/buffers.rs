//! Buffers that grow with what the paths need, and windows that a slow path holds up, over whole networks.
//! The engine's own tests have the rest (`mptcp-proto`, `tests/buffers.rs`).

use mptcp_proto::{ConnectionConfig, Counter, HeadOfLineInfo, Opportunism};
use mptcp_sim::{LinkConfig, PathConfig, Side, Simulation, SimulationConfig, Traffic};
use std::time::Duration;

/// Octets per second in the last five of `seconds` seconds.
fn rate(
    paths: &[PathConfig],
    config: &ConnectionConfig,
    traffic: Traffic,
    seconds: u64,
) -> (f64, Simulation) {
    let setup = SimulationConfig { check_wire: false, ..SimulationConfig::new(7, paths.to_vec()) };
    let mut simulation = Simulation::new(&setup);
    simulation.listen(config.clone(), Traffic { send: 0, finish_first: false, ..traffic }).unwrap();
    let sender = Traffic { read_rate: None, ..traffic };
    simulation.connect(paths[0].client, paths[0].server, config.clone(), sender).unwrap();
    let mut received = [0; 2];
    for (place, span) in [seconds - 5, 5].into_iter().enumerate() {
        let end = simulation.now() + Duration::from_secs(span);
        simulation.run_until(end, |_| false);
        received[place] = simulation.outcomes(Side::Server)[0].received;
    }
    ((received[1] - received[0]) as f64 / 5.0, simulation)
}

fn path(number: u8, megabits: u64, delay: u64) -> PathConfig {
    let link = LinkConfig::new(megabits * 1_000_000, Duration::from_millis(delay));
    PathConfig::new([10, number, 0, 1].into(), [10, number, 0, 2].into(), link)
}

#[test]
fn buffers_grow_until_two_unequal_paths_are_full() {
    let config = ConnectionConfig::default();
    let paths = [path(1, 30, 10), path(2, 30, 100)];
    let alone = rate(&paths[..1], &config, Traffic::send(1 << 40), 10).0;
    let (both, simulation) = rate(&paths, &config, Traffic::send(1 << 40), 20);
    let info = simulation.info(Side::Server, 0).unwrap();
    assert!(both >= 0.9 * 2.0 * alone, "{both} of twice {alone}\n{info:#?}");
    let product = (both * 0.2) as u64;
    assert!(info.receive_buffer >= 2 * product && info.receive_buffer <= 16 << 20, "{info:#?}");
    let info = simulation.info(Side::Client, 0).unwrap();
    assert!(info.send_buffer >= 2 * product && info.send_buffer <= 16 << 20, "{info:#?}");
}

#[test]
fn a_slow_reader_and_an_idle_connection_keep_small_buffers() {
    let config = ConnectionConfig::default();
    let slow = Traffic { read_rate: Some(100_000), ..Traffic::send(1 << 40) };
    let (_, simulation) = rate(&[path(1, 30, 10)], &config, slow, 20);
    let info = simulation.info(Side::Server, 0).unwrap();
    assert_eq!(info.receive_buffer, 128 << 10, "{info:#?}");
    let (_, simulation) = rate(&[path(1, 30, 10)], &config, Traffic::send(1000), 20);
    for side in Side::BOTH {
        let info = simulation.info(side, 0);
        assert!(info.is_none_or(|info| info.receive_buffer == 128 << 10 && info.send_buffer == 128 << 10));
    }
}

/// 8 Mb/s, 20 ms and 2 Mb/s, 150 ms, a hundredth lost on both, and 128 KiB of window: again and again it
/// waits for an octet on the slow path. The counters show the reaction, and bytes sent again count
/// as reinjected.
#[test]
fn what_is_done_about_a_window_that_is_held_up_is_counted() {
    let mut paths = [path(1, 8, 20), path(2, 2, 150)];
    for path in &mut paths {
        (path.forward, path.reverse) = (path.forward.with_loss(0.01), path.reverse.with_loss(0.01));
    }
    let done = |opportunism| {
        let config =
            ConnectionConfig { receive_buffer: 128 << 10, opportunism, ..ConnectionConfig::default() };
        let (_, simulation) = rate(&paths, &config, Traffic::send(1 << 40), 20);
        let count = |counter| simulation.counters(Side::Client).get(counter);
        [Counter::OpportuneRetrans, Counter::Penalised, Counter::MptcpRetrans].map(count)
    };
    let [[off, off_penalised, _], [again, again_penalised, sent], [both, penalised, _]] =
        [Opportunism::Off, Opportunism::Retransmit, Opportunism::Penalise].map(done);
    assert_eq!([off, off_penalised, again_penalised], [0; 3]);
    assert!(again > 0 && sent >= again, "{sent} reinjected, {again} of them for the window");
    assert!(both > 0 && penalised > 0 && penalised <= both, "{penalised} penalties, {both} occasions");
}

/// Of two paths, one 40 ms longer than the other, each carries half. The bytes of the shorter one wait.
#[test]
fn how_long_octets_wait_is_known_where_they_are_received() {
    let paths = [path(1, 8, 10), path(2, 8, 50)];
    let (_, simulation) = rate(&paths, &ConnectionConfig::default(), Traffic::send(1 << 40), 10);
    let [client, server] = [Side::Client, Side::Server].map(|side| simulation.info(side, 0).unwrap());
    let waits = server.head_of_line;
    assert!(waits.octets > server.bytes_received / 4 && waits.octets < server.bytes_received, "{waits:?}");
    assert!(waits.mean > Duration::from_millis(5) && waits.mean < waits.longest, "{waits:?}");
    assert!(waits.longest < Duration::from_secs(1), "{waits:?}");
    assert_eq!(client.head_of_line, HeadOfLineInfo::default());
}
