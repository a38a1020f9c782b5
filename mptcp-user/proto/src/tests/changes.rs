//! Addresses and listeners that come and go under very many connections.

use super::pair::{Pair, PathConfig, address};
use crate::{ConnectionConfig, LocalAddress, SubflowStart, SubflowState};
use std::net::SocketAddr;
use std::time::Duration;

const MANY: u16 = 1500;

#[test]
#[ignore = "a measurement"]
fn how_long_a_change_takes() {
    let mut pair = many(8_000);
    let (now, ip) = (pair.now, address(1, 1, false));
    let begin = std::time::Instant::now();
    pair.client.endpoint.remove_local_address(now, ip);
    let (call, mut longest, mut segments, mut steps) = (begin.elapsed(), Duration::ZERO, 0, 0);
    while let Some(next) = pair.client.endpoint.next_timeout() {
        let (begin, next) = (std::time::Instant::now(), next.max(pair.now));
        if next > now + Duration::from_secs(60) {
            break;
        }
        pair.now = next;
        pair.client.endpoint.handle_timeout(next);
        let mut some = 0;
        while pair.client.endpoint.poll_event().is_some() {}
        while some < 256 && pair.client.endpoint.poll_transmit(next).is_some() {
            some += 1;
        }
        (segments, steps) = (segments + some, steps + 1);
        longest = longest.max(begin.elapsed());
    }
    println!("the call took {call:?}; then {segments} segments in {steps} rounds of {longest:?} at most");
}

/// A pair with so many connections over two paths, all of them at rest, every third of which has one subflow
/// and wants no more.
fn many(number: u16) -> Pair {
    let all = ConnectionConfig { subflow_start: SubflowStart::AT_ONCE, ..ConnectionConfig::default() };
    let one = ConnectionConfig { max_subflows: 1, ..all.clone() };
    // With this seed connections rest after 100 ms.
    let mut pair = Pair::new(3, vec![PathConfig::default(); 2], false, &all);
    for number in 1..number {
        let from = SocketAddr::new(address(0, 1, false), 10_000 + number);
        let config = if number % 3 == 0 { &one } else { &all };
        let to = SocketAddr::new(address(0, 2, false), 5000);
        let now = pair.now;
        pair.client.endpoint.connect(now, from, to, config.clone()).expect("free");
        pair.run_until(Duration::from_millis(1), |_| false);
    }
    pair.run_until(Duration::from_secs(60), |_| false);
    assert_eq!((pair.client.endpoint.awake(), subflows(&pair)), (0, [number, number - (number - 1) / 3]));
    pair
}

/// Established subflows of the client on each path.
fn subflows(pair: &Pair) -> [u16; 2] {
    let mut count = [0; 2];
    for id in pair.client.endpoint.connections() {
        for subflow in pair.client.endpoint.info(id).expect("there").subflows {
            if subflow.state == SubflowState::Established {
                count[super::pair::path_of(subflow.local.ip())] += 1;
            }
        }
    }
    count
}

#[test]
fn an_address_that_goes_and_comes_back_wakes_those_concerned_and_few_at_a_time() {
    let mut pair = many(MANY);
    let second = subflows(&pair)[1];
    let (now, ip) = (pair.now, address(1, 1, false));
    for there in [false, true] {
        if there {
            let local = LocalAddress { address: ip, interface: 2, mtu: 1500, backup: false };
            pair.client.endpoint.add_local_address(pair.now, local);
        } else {
            pair.client.endpoint.remove_local_address(now, ip);
        }
        assert!(pair.client.endpoint.awake() <= 64, "{} in one call", pair.client.endpoint.awake());
        let begin = pair.now;
        let mut most = 0;
        let done = if there { second } else { 0 };
        // Not at every round: looking at all connections takes its time.
        while subflows(&pair)[1] != done {
            assert!(pair.now - begin < Duration::from_secs(30), "{:?}", subflows(&pair));
            for _ in 0..10 {
                pair.run_until(Duration::from_millis(10), |_| false);
                most = most.max(pair.client.endpoint.awake());
            }
        }
        assert!(most <= usize::from(MANY) / 2, "{most} awake at a time");
        let took = pair.now - begin;
        assert!(took > Duration::from_millis(100), "{took:?}");
        pair.run_until(Duration::from_secs(10), |_| false);
        assert_eq!((pair.client.endpoint.awake(), subflows(&pair)[0]), (0, MANY));
    }
}

#[test]
fn what_happens_to_a_connection_that_has_not_been_told_yet_does_not_go_wrong() {
    let mut pair = many(MANY);
    let (now, ip) = (pair.now, address(1, 1, false));
    pair.client.endpoint.remove_local_address(now, ip);
    let last = *pair.client.endpoint.connections().last().expect("many");
    assert!(pair.client.endpoint.dormant(last).is_some(), "its turn comes later");
    pair.client.endpoint.send(now, last, vec![1; 1000].into());
    while let Some(segment) = pair.client.endpoint.poll_transmit(now) {
        assert_ne!(segment.src.ip(), ip, "{segment:?}");
    }
}

#[test]
fn a_change_that_concerns_nobody_wakes_nobody() {
    let mut pair = many(MANY);
    let packets = pair.packets;
    let now = pair.now;
    pair.client.endpoint.routes_changed(now);
    pair.client.endpoint.remove_local_address(now, "10.7.7.7".parse().unwrap());
    // IPv6 is of no use for connections to IPv4 addresses.
    let local = LocalAddress { address: address(1, 1, true), interface: 2, mtu: 1500, backup: false };
    pair.client.endpoint.add_local_address(now, local);
    let mut most = 0;
    for _ in 0..200 {
        pair.run_until(Duration::from_millis(10), |_| false);
        most = most.max(pair.client.endpoint.awake());
    }
    // An address that is not used may have the same bit as one that is.
    assert_eq!(pair.packets, packets);
    assert!(most <= 200, "{most} woken");
}

#[test]
fn half_open_connections_of_a_listener_that_is_closed_end() {
    let mut pair = Pair::new(3, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let now = pair.now;
    let client = pair.client.connection.expect("opening");
    pair.client.endpoint.abort(now, client);
    for number in 0..1000 {
        pair.server.endpoint.handle_segment(now, super::flood::spoofed_syn(number, true));
    }
    assert_eq!(pair.server.endpoint.connections().len(), 1000);
    let listener = pair.listener;
    pair.server.endpoint.close_listener(now, listener);
    pair.run_until(Duration::from_millis(500), |_| false);
    assert!(pair.server.endpoint.connections().is_empty());
}
