//! Data crosses, over one path and over several, whatever the network does.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::audit::Audit;
use crate::{CloseReason, ConnectionConfig, EcnPolicy, SubflowState, Versions};
use std::time::Duration;

/// Runs a transfer both ways and checks all that must hold at its end.
fn transfer(pair: &mut Pair, up: usize, down: usize, limit: Duration) {
    let (to_server, to_client) = (pattern(up, 1), pattern(down, 2));
    pair.send(to_server.clone(), to_client.clone());
    let done = pair.run(limit);
    assert!(
        done,
        "not done at {:?}: {:?} {:?}\n{:#?}\n{:#?}\n{}",
        pair.now,
        pair.client.closed,
        pair.server.closed,
        pair.client.connection.and_then(|id| pair.client.endpoint.info(id)),
        pair.server.connection.and_then(|id| pair.server.endpoint.info(id)),
        pair.tail()
    );
    let closed = (pair.client.closed, pair.server.closed);
    assert!(
        pair.server.received == to_server,
        "client to server: {} of {up}, {closed:?}\n{}",
        pair.server.received.len(),
        pair.tail()
    );
    assert!(pair.client.received == to_client, "server to client: {} of {down}", pair.client.received.len());
    assert!(
        pair.client.ended && pair.server.ended,
        "{closed:?} {:?} {:?}\n{}",
        pair.client.ended,
        pair.server.ended,
        pair.tail()
    );
    assert_eq!(pair.client.closed, Some(CloseReason::Finished), "{}", pair.tail());
    assert_eq!(pair.server.closed, Some(CloseReason::Finished), "{}", pair.tail());
}

#[test]
fn nothing_at_all_is_transferred_and_closed() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    transfer(&mut pair, 0, 0, Duration::from_secs(10));
}

#[test]
//= RFC 8684 3.4.1-8 (test)
//= RFC 8684 3.7-2 (test)
//= RFC 8684 3.9.1-1 (test)
fn two_paths_carry_one_stream_in_both_families() {
    for v6 in [false, true] {
        let mut pair = Pair::new(2, vec![PathConfig::default(); 2], v6, &ConnectionConfig::default());
        transfer(&mut pair, 5_000_000, 100_000, Duration::from_secs(30));
        let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
        assert_eq!(info.fallback, None);
        assert_eq!(info.subflows.len(), 2, "{info:#?}");
        for subflow in &info.subflows {
            assert!(subflow.bytes_sent > 200_000, "{info:#?}");
            assert!(matches!(subflow.state, SubflowState::TimeWait | SubflowState::Closed));
            assert_eq!((subflow.bytes_retransmitted, subflow.timeouts), (0, 0), "{info:#?}");
        }
    }
}

#[test]
fn the_checksum_holds_over_clean_paths() {
    let config = ConnectionConfig { checksum: true, ..ConnectionConfig::default() };
    let mut pair =
        Pair::with_configs(3, vec![PathConfig::default(); 2], false, &ConnectionConfig::default(), &config);
    transfer(&mut pair, 1_000_000, 300_000, Duration::from_secs(30));
    let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
    assert!(info.checksum && info.fallback.is_none());
}

#[test]
//= RFC 8684 3.3.5-2 (test)
fn random_networks_deliver_the_stream_exactly() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect(name));
    let seeds = match number("MPTCP_PAIR_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("MPTCP_PAIR_FIRST").unwrap_or(0);
            first..first + number("MPTCP_PAIR_SEEDS").unwrap_or(300)
        }
    };
    let algorithms: Vec<_> = ConnectionConfig::congestion_algorithms().collect();
    let schedulers: Vec<_> = ConnectionConfig::schedulers().collect();
    for seed in seeds {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(seed);
        let paths = (0..rng.random_range(1..5))
            .map(|_| PathConfig {
                delay: Duration::from_micros(rng.random_range(10..100_000)),
                loss: if rng.random_bool(0.3) { 0.0 } else { rng.random_range(0.0..0.1) },
                reorder: if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..0.3) },
                ..PathConfig::default()
            })
            .collect();
        let config = ConnectionConfig {
            checksum: rng.random_bool(0.3),
            multipath: rng.random_bool(0.9),
            versions: if rng.random_bool(0.25) { Versions::Zero } else { Versions::Auto },
            ecn: if rng.random_bool(0.3) { EcnPolicy::Ask } else { EcnPolicy::Accept },
            congestion: algorithms[rng.random_range(0..algorithms.len())].into(),
            scheduler: schedulers[rng.random_range(0..schedulers.len())].into(),
            receive_buffer: 1 << rng.random_range(12..24),
            nagle: rng.random_bool(0.2),
            connect_timeout: Duration::from_secs(600),
            user_timeout: Duration::from_secs(600),
            ..ConnectionConfig::default()
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut pair = Pair::new(seed, paths, rng.random_bool(0.5), &config);
            pair.audit = Some(Audit::default());
            let sizes = [0, 1, 1000, 100_000, 400_000];
            let (up, down) = (sizes[rng.random_range(0..5)], sizes[rng.random_range(0..5)]);
            transfer(&mut pair, up, down, Duration::from_secs(3600));
        }));
        if let Err(panic) = result {
            eprintln!("replay: MPTCP_PAIR_SEED={seed} cargo test -p mptcp-proto random_networks_deliver");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
//= RFC 8684 3.3.6-1 (test)
//= RFC 8684 3.3.6-2 (test)
fn a_path_that_dies_in_the_middle_costs_less_than_a_second() {
    let mut pair = Pair::new(4, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let data = pattern(20_000_000, 1);
    pair.send(data.clone(), Vec::new());
    assert!(pair.run_until(Duration::from_secs(10), |pair| pair.server.received.len() > 5_000_000));
    pair.paths[1].up = false;
    let cut = pair.now;
    assert!(
        pair.run_until(Duration::from_secs(10), |pair| pair.server.received.len() == 20_000_000),
        "{}",
        pair.tail()
    );
    assert!(pair.server.received == data);
    assert!(pair.now - cut < Duration::from_secs(2), "{:?}", pair.now - cut);
    let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
    assert!(info.bytes_reinjected > 0);
}

#[test]
fn an_address_that_goes_takes_its_subflow_with_it_and_one_that_comes_brings_one() {
    let mut pair = Pair::new(5, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let data = pattern(20_000_000, 1);
    pair.send(data.clone(), Vec::new());
    assert!(pair.run_until(Duration::from_secs(10), |pair| pair.server.received.len() > 3_000_000));
    let now = pair.now;
    pair.client.endpoint.remove_local_address(now, address(0, 1, false));
    assert!(pair.run_until(Duration::from_secs(10), |pair| pair.server.received.len() > 8_000_000));
    let info = pair.server.endpoint.info(pair.server.connection.unwrap()).unwrap();
    assert!(
        info.subflows.iter().filter(|subflow| subflow.state == SubflowState::Established).count() == 1,
        "{info:#?}"
    );
    let local = crate::LocalAddress { address: address(0, 1, false), interface: 1, mtu: 1500, backup: false };
    let now = pair.now;
    pair.client.endpoint.add_local_address(now, local);
    assert!(pair.run(Duration::from_secs(30)), "{}", pair.tail());
    assert!(pair.server.received == data);
    let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
    assert_eq!(info.subflows.len(), 3, "{info:#?}");
}

#[test]
//= RFC 8684 3.3.5-1 (test)
fn a_reader_that_stops_closes_the_window_and_opens_it_again() {
    let config = ConnectionConfig { receive_buffer: 100_000, ..ConnectionConfig::default() };
    let mut pair = Pair::new(6, vec![PathConfig::default(); 2], false, &config);
    let data = pattern(1_000_000, 1);
    pair.server.read_limit = 50_000;
    pair.send(data.clone(), Vec::new());
    pair.run_until(Duration::from_secs(30), |_| false);
    assert_eq!(pair.server.received.len(), 50_000);
    let info = pair.server.endpoint.info(pair.server.connection.unwrap()).unwrap();
    assert!(info.receive_queue >= 95_000 && info.receive_queue <= 101_000, "{info:#?}");
    // The window update that follows is lost; only probes can find out.
    pair.server.read_limit = usize::MAX;
    for path in &mut pair.paths {
        path.up = false;
    }
    pair.run_until(Duration::from_millis(100), |_| false);
    for path in &mut pair.paths {
        path.up = true;
    }
    assert!(pair.run(Duration::from_secs(100)), "{}", pair.tail());
    assert!(pair.server.received == data);
}

#[test]
fn nagle_sends_small_writes_together_while_one_is_under_way() {
    for (nagle, expected) in [(false, 10), (true, 2)] {
        let config = ConnectionConfig { nagle, ..ConnectionConfig::default() };
        let mut pair = Pair::new(7, vec![PathConfig::default()], false, &config);
        let connected = |pair: &Pair| pair.server.connection.is_some();
        assert!(pair.run_until(Duration::from_secs(1), connected));
        pair.run_until(Duration::from_millis(100), |_| false);
        let (id, before) = (pair.client.connection.unwrap(), pair.log.len());
        for _ in 0..10 {
            let now = pair.now;
            pair.client.endpoint.send(now, id, vec![7; 10].into());
            pair.run_until(Duration::from_micros(100), |_| false);
        }
        assert!(pair.run_until(Duration::from_secs(1), |pair| pair.server.received.len() == 100));
        let info = pair.client.endpoint.info(id).unwrap();
        let data = |line: &&String| line.contains(":39999 > ") && !line.contains(" len 0 ");
        let sent = pair.log[before..].iter().filter(data).count();
        assert_eq!(info.bytes_sent, 100);
        assert_eq!(sent, expected, "{}", pair.tail());
    }
}

#[test]
fn what_ends_in_a_packet_that_is_not_full_leaves_in_one_super_segment() {
    for (nagle, expected) in [(false, 1), (true, 2)] {
        let config = ConnectionConfig { nagle, ..ConnectionConfig::default() };
        let near = PathConfig { delay: Duration::from_micros(20), ..PathConfig::default() };
        let mut pair = Pair::new(8, vec![near], false, &config);
        // The first segment carries the keys and is never a super-segment.
        pair.send_only(b"hello".to_vec(), Vec::new());
        assert!(pair.run_until(Duration::from_secs(1), |pair| pair.server.received.len() == 5));
        pair.run_until(Duration::from_millis(100), |_| false);
        let (id, now) = (pair.client.connection.unwrap(), pair.now);
        let sent = |pair: &Pair| pair.client.endpoint.info(id).unwrap().subflows[0].segments_sent;
        let (request, before) = (pattern(10_000, 1), sent(&pair));
        pair.client.endpoint.send(now, id, request.clone().into());
        assert!(pair.run_until(Duration::from_secs(1), |pair| pair.server.received[5..] == request));
        assert_eq!(sent(&pair) - before, expected, "{}", pair.tail());
    }
}
