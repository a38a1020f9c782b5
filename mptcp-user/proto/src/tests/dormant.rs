//! Connections on which nothing happens are written down, and nobody can tell.

use super::pair::{Host, Pair, PathConfig, pattern};
use crate::dormant::Dormant;
use crate::{CloseReason, ConnectionConfig, KeepAlive, SubflowInfo, SubflowState};
use std::time::Duration;

/// This side's connection, if it is dormant.
fn written(host: &Host) -> Option<&Dormant> {
    host.endpoint.dormant(host.connection?)
}

/// A pair over two paths that has exchanged so many octets, of which nothing is under way any more.
fn at_rest(config: &ConnectionConfig, octets: usize) -> Pair {
    // With this seed connections rest after 100 ms.
    let mut pair = Pair::new(3, vec![PathConfig::default(); 2], false, config);
    pair.send_only(pattern(octets, 1), pattern(octets, 2));
    let rest = pair.run_until(Duration::from_secs(10), |pair| {
        pair.server.connection.is_some()
            && pair.client.received.len() == octets
            && [&pair.client, &pair.server].iter().all(|host| written(host).is_some())
    });
    assert!(rest, "{}", pair.tail());
    pair
}

#[test]
fn a_connection_with_two_subflows_rests_in_little_memory_and_goes_on_as_if_nothing_had_been() {
    for congestion in ConnectionConfig::congestion_algorithms() {
        for scheduler in ConnectionConfig::schedulers() {
            let config = ConnectionConfig {
                congestion: congestion.into(),
                scheduler: scheduler.into(),
                ..ConnectionConfig::default()
            };
            let mut pair = at_rest(&config, 300_000);
            for host in [&pair.client, &pair.server] {
                let dormant = written(host).expect("at rest");
                assert!(
                    Dormant::new(&dormant.wake()) == *dormant,
                    "{congestion}, {scheduler}: not what was written"
                );
                let octets = dormant.len();
                assert!(octets < 1536, "{congestion}, {scheduler}: {octets} octets");
            }
            let before = [pair.client.info(), pair.server.info()];
            assert_eq!(before[0].subflows.len(), 2);
            assert!(written(&pair.client).is_some(), "asking wakes nobody");
            assert_eq!(before, [pair.client.info(), pair.server.info()]);
            let (up, down) = (pattern(400_000, 1), pattern(500_000, 2));
            pair.send(up.clone(), down.clone());
            assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
            assert!(pair.server.received == up && pair.client.received == down);
            assert_eq!(pair.client.closed, Some(CloseReason::Finished));
        }
    }
}

#[test]
fn keep_alives_are_sent_by_connections_at_rest_and_a_peer_that_is_gone_is_noticed() {
    let second = Duration::from_secs(1);
    let keep_alive = Some(KeepAlive { idle: second * 5, interval: second, probes: 3 });
    let mut pair = at_rest(&ConnectionConfig { keep_alive, ..ConnectionConfig::default() }, 1000);
    let packets = pair.packets;
    assert!(!pair.run_until(second * 20, |_| false));
    assert!(pair.packets > packets, "probes are sent");
    assert!(pair.client.closed.is_none());
    assert!(pair.run_until(second, |pair| written(&pair.client).is_some()), "and it rests again");
    pair.paths.iter_mut().for_each(|path| path.up = false);
    assert!(pair.run(second * 120), "{}", pair.tail());
}

#[test]
fn a_reset_an_abort_and_the_end_of_an_address_reach_connections_at_rest() {
    let mut pair = at_rest(&ConnectionConfig::default(), 1000);
    let client = pair.client.connection.expect("open");
    pair.client.endpoint.remove_local_address(pair.now, super::pair::address(1, 1, false));
    pair.run_until(Duration::from_secs(3), |_| false);
    let established = |subflow: &&SubflowInfo| subflow.state == SubflowState::Established;
    assert_eq!(pair.server.info().subflows.iter().filter(established).count(), 1);
    assert!(written(&pair.server).is_some(), "and they rest again");
    pair.client.endpoint.abort(pair.now, client);
    assert!(pair.run(Duration::from_secs(1)), "{}", pair.tail());
    assert_eq!(pair.server.closed, Some(CloseReason::Reset));
}

#[test]
fn checks_of_the_path_cost_a_connection_at_rest_few_octets() {
    let octets = |path_check, wait| {
        let mut pair = at_rest(&ConnectionConfig { path_check, ..ConnectionConfig::default() }, 64);
        pair.run_until(Duration::from_secs(wait), |_| false);
        [&pair.client, &pair.server].map(|host| written(host).expect("at rest").len())
    };
    let usual = ConnectionConfig::default().path_check;
    let without = octets(None, 0);
    for wait in [0, 50, 3600] {
        let with = octets(usual, wait);
        println!("after {wait} s: {with:?} octets of two subflows, {without:?} without checks");
        assert!(
            with.iter().zip(without).all(|(with, without)| *with < without + 64),
            "{with:?}, {without:?}"
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn how_long_writing_and_reading_take() {
    const TIMES: u32 = 100_000;
    let pair = at_rest(&ConnectionConfig::default(), 64);
    for host in [&pair.client, &pair.server] {
        let dormant = written(host).expect("at rest");
        let time = |action: &dyn Fn()| {
            let start = std::time::Instant::now();
            (0..TIMES).for_each(|_| action());
            start.elapsed() / TIMES
        };
        let read = time(&|| drop(std::hint::black_box(dormant.wake())));
        let connection = dormant.wake();
        let write = time(&|| drop(std::hint::black_box(Dormant::new(&connection))));
        println!("{} octets: {write:?} to write, {read:?} to read", dormant.len());
    }
}
