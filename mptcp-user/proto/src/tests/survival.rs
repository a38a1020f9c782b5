//! Connections that lose carrier, address or route for a while, and go on.

use super::pair::{Host, Pair, PathConfig, address, pattern};
use crate::wire::{Flags, Join, MptcpOption, Segment};
use crate::{CloseReason, ConnectionConfig, Event, KeepAlive, LocalAddress, SubflowInfo, SubflowState};
use std::net::IpAddr;
use std::time::Duration;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// More than any test takes.
const OCTETS: usize = 30_000_000;

/// A host loses something, or gets it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Carrier,
    Address,
    Route,
}

const LOSSES: [Loss; 3] = [Loss::Carrier, Loss::Address, Loss::Route];

fn local(path: usize, host: u8, v6: bool) -> LocalAddress {
    LocalAddress { address: address(path, host, v6), interface: path as u32 + 1, mtu: 1500, backup: false }
}

/// A window that makes the data last.
fn slow(config: &ConnectionConfig) -> ConnectionConfig {
    ConnectionConfig { receive_buffer: 30_000, ..config.clone() }
}

/// Both applications send all the time.
fn busy(seed: u64, paths: usize, v6: bool, config: &ConnectionConfig) -> Pair {
    let mut pair = Pair::new(seed, vec![PathConfig::default(); paths], v6, &slow(config));
    pair.send_only(pattern(OCTETS, 1), pattern(OCTETS, 2));
    pair.run_until(300 * MILLI, |_| false);
    assert!(pair.server.connection.is_some());
    pair
}

fn side(pair: &mut Pair, client: bool) -> (&mut Host, u8) {
    if client { (&mut pair.client, 1) } else { (&mut pair.server, 2) }
}

fn lose(pair: &mut Pair, client: bool, path: usize, v6: bool, loss: Loss) {
    pair.paths[path].up = false;
    if loss == Loss::Route {
        // What was under way comes; what is sent after that finds no route.
        pair.run_until(20 * MILLI, |_| false);
    }
    let now = pair.now;
    let (host, number) = side(pair, client);
    let gone = address(path, number, v6);
    match loss {
        Loss::Carrier => host.endpoint.suspend_local_address(now, gone),
        Loss::Address => host.endpoint.remove_local_address(now, gone),
        Loss::Route => {
            for subflow in established(host).iter().filter(|subflow| subflow.local.ip() == gone) {
                host.endpoint.route_lost(now, subflow.local, subflow.remote);
            }
        }
    }
}

fn give_back(pair: &mut Pair, client: bool, path: usize, v6: bool, loss: Loss) {
    pair.paths[path].up = true;
    let now = pair.now;
    let (host, number) = side(pair, client);
    match loss {
        Loss::Carrier | Loss::Address => host.endpoint.add_local_address(now, local(path, number, v6)),
        Loss::Route => {
            // The last attempt found no route, as all before.
            for subflow in established(host) {
                host.endpoint.route_lost(now, subflow.local, subflow.remote);
            }
            host.endpoint.routes_changed(now);
        }
    }
}

fn established(host: &Host) -> Vec<SubflowInfo> {
    let subflows = host.info().subflows.into_iter();
    subflows.filter(|subflow| subflow.state == SubflowState::Established).collect()
}

fn received(pair: &Pair) -> (usize, usize) {
    (pair.client.received.len(), pair.server.received.len())
}

/// Both streams bring something new within this time, and what they bring is right.
fn goes_on(pair: &mut Pair, within: Duration, context: &str) {
    let log = pair.log.len();
    let before = received(pair);
    let open = |pair: &Pair| pair.client.closed.is_none() && pair.server.closed.is_none();
    assert!(open(pair), "{context}: {:?} {:?}", pair.client.closed, pair.server.closed);
    let both = pair.run_until(within, |pair| {
        let now = received(pair);
        now.0 > before.0 && now.1 > before.1
    });
    let now = received(pair);
    let tail: String = pair.log[log..].iter().flat_map(|line| line.chars().take(150).chain(['\n'])).collect();
    assert!(both, "{context}: {before:?} is {now:?} after {within:?}\n{tail}");
    assert!(open(pair), "{context}: {:?} {:?}", pair.client.closed, pair.server.closed);
    assert!(pair.server.received[..] == pattern(OCTETS, 1)[..now.1], "{context}");
    assert!(pair.client.received[..] == pattern(OCTETS, 2)[..now.0], "{context}");
}

#[test]
fn a_second_without_the_only_path_costs_no_more_than_that() {
    for loss in LOSSES {
        for client in [true, false] {
            for v6 in [false, true] {
                // A path that the client alone has lost is found again by its own doing: a server is told by
                // it, and one that has lost it itself waits for nobody either.
                let mut pair = busy(1 + u64::from(v6), 1, v6, &ConnectionConfig::default());
                lose(&mut pair, client, 0, v6, loss);
                pair.run_until(SECOND, |_| false);
                give_back(&mut pair, client, 0, v6, loss);
                goes_on(&mut pair, 300 * MILLI, &format!("{loss:?}, client {client}, v6 {v6}"));
            }
        }
    }
}

#[test]
fn an_absence_may_last_nearly_as_long_as_the_user_timeout() {
    for loss in LOSSES {
        let config =
            ConnectionConfig { user_timeout: Duration::from_secs(90), ..ConnectionConfig::default() };
        let mut pair = busy(3, 1, false, &config);
        lose(&mut pair, true, 0, false, loss);
        pair.run_until(Duration::from_secs(80), |_| false);
        give_back(&mut pair, true, 0, false, loss);
        goes_on(&mut pair, 300 * MILLI, &format!("{loss:?}"));
    }
}

#[test]
fn an_address_that_does_not_come_back_ends_the_connection_after_the_user_timeout() {
    for idle in [false, true] {
        let config =
            ConnectionConfig { user_timeout: Duration::from_secs(20), ..ConnectionConfig::default() };
        let mut pair = if idle {
            let mut pair = Pair::new(4, vec![PathConfig::default()], false, &config);
            pair.send_only(pattern(10_000, 1), Vec::new());
            pair.run_until(SECOND, |_| false);
            pair
        } else {
            busy(4, 1, false, &config)
        };
        lose(&mut pair, true, 0, false, Loss::Address);
        let begin = pair.now;
        let closed = pair.run_until(Duration::from_secs(60), |pair| pair.client.closed.is_some());
        assert!(closed, "idle {idle}");
        let time = pair.now - begin;
        assert!((20 * SECOND..40 * SECOND).contains(&time), "idle {idle}: {time:?}");
    }
}

#[test]
fn the_connection_moves_to_the_address_that_comes_instead() {
    for (path_manager, max_subflows) in
        [("full-mesh", 8), ("none", 8), ("ndiffports", 8), ("single-path", 8), ("full-mesh", 1)]
    {
        let config = ConnectionConfig {
            path_manager: path_manager.into(),
            max_subflows,
            ..ConnectionConfig::default()
        };
        let context = format!("{path_manager}, {max_subflows}");
        let mut pair = Pair::with_configs(
            5,
            vec![PathConfig::default(); 2],
            false,
            &slow(&config),
            &slow(&ConnectionConfig::default()),
        );
        // The second address of the client does not exist yet; the server has both, since paths are pairs
        // here.
        let now = pair.now;
        pair.client.endpoint.remove_local_address(now, address(1, 1, false));
        pair.send_only(pattern(OCTETS, 1), pattern(OCTETS, 2));
        pair.run_until(500 * MILLI, |_| false);
        lose(&mut pair, true, 0, false, Loss::Address);
        pair.run_until(SECOND, |_| false);
        let now = pair.now;
        pair.client.endpoint.add_local_address(now, local(1, 1, false));
        goes_on(&mut pair, 300 * MILLI, &context);
        // The peer is told that the old one is gone, and forgets its subflow.
        pair.run_until(5 * SECOND, |_| false);
        for host in [&pair.client, &pair.server] {
            let left = established(host);
            assert!(left.len() == 1 && left[0].local.ip() != address(0, 1, false), "{context}: {left:#?}");
        }
    }
}

#[test]
fn a_regular_tcp_connection_outlives_its_address() {
    let config = ConnectionConfig { multipath: false, ..ConnectionConfig::default() };
    for loss in LOSSES {
        for client in [true, false] {
            let mut pair = busy(6, 1, false, &config);
            lose(&mut pair, client, 0, false, loss);
            pair.run_until(SECOND, |_| false);
            give_back(&mut pair, client, 0, false, loss);
            goes_on(&mut pair, 300 * MILLI, &format!("{loss:?}, client {client}"));
        }
    }
}

#[test]
fn a_flap_of_one_of_two_paths_costs_no_handshake_and_a_long_one_is_told() {
    let mut removals = Vec::new();
    for time in [500 * MILLI, 5 * SECOND] {
        let mut pair = busy(7, 2, false, &ConnectionConfig::default());
        let before: Vec<_> = established(&pair.client).iter().map(|subflow| subflow.local).collect();
        assert_eq!(before.len(), 2);
        let told = std::sync::Arc::new(std::sync::Mutex::new(0));
        let count = told.clone();
        pair.middlebox = Some(Box::new(move |_, segment: Segment| {
            let removes = |option: &MptcpOption| matches!(option, MptcpOption::RemoveAddr(_));
            *count.lock().unwrap() += usize::from(segment.options.mptcp.iter().any(removes));
            Some(segment)
        }));
        lose(&mut pair, true, 1, false, Loss::Carrier);
        goes_on(&mut pair, 400 * MILLI, "the other path");
        pair.run_until(time, |_| false);
        give_back(&mut pair, true, 1, false, Loss::Carrier);
        pair.run_until(2 * SECOND, |_| false);
        let after = established(&pair.client);
        assert_eq!(after.len(), 2, "{after:#?}");
        assert!(after.iter().all(|subflow| !subflow.stale), "{after:#?}");
        let same = after.iter().all(|subflow| before.contains(&subflow.local));
        removals.push((*told.lock().unwrap() > 0, same));
    }
    assert_eq!(removals, [(false, true), (true, false)]);
}

/// A sender that backs off, as every regular TCP does, and that no acknowledgment makes hurry: what a kernel
/// does.
#[test]
fn a_peer_that_waits_for_its_own_timer_is_made_to_send_by_a_new_subflow() {
    let mut pair = busy(8, 1, false, &ConnectionConfig::default());
    lose(&mut pair, true, 0, false, Loss::Carrier);
    pair.run_until(2 * SECOND, |_| false);
    // Nothing that is acknowledged on the old four-tuple makes the server send.
    pair.middlebox = Some(Box::new(|from_client, segment: Segment| {
        let old = from_client && segment.src.port() == 39_999 && !segment.flags.has(Flags::RST);
        (!old).then_some(segment)
    }));
    give_back(&mut pair, true, 0, false, Loss::Carrier);
    goes_on(&mut pair, 300 * MILLI, "by a new subflow");
    pair.run_until(SECOND, |_| false);
    let left = established(&pair.client);
    assert!(left.len() == 1 && left[0].local.port() != 39_999, "{left:#?}");
    assert_eq!(established(&pair.server).len(), 1);
}

#[test]
fn a_peer_that_knows_the_connection_no_more_ends_it() {
    let mut pair = busy(9, 2, false, &ConnectionConfig::default());
    let now = pair.now;
    for path in 0..2 {
        pair.client.endpoint.remove_local_address(now, address(path, 1, false));
    }
    let id = pair.server.connection.unwrap();
    pair.server.endpoint.abort(now, id);
    pair.middlebox = Some(Box::new(|from_client, segment: Segment| {
        // The news of its end is lost.
        (from_client || segment.options.join().is_some() || segment.src.port() != 5000).then_some(segment)
    }));
    pair.run_until(SECOND, |_| false);
    pair.middlebox = None;
    pair.client.endpoint.add_local_address(pair.now, local(0, 1, false));
    let closed = pair.run_until(20 * SECOND, |pair| pair.client.closed.is_some());
    assert!(closed, "{:#?}", pair.client.info().subflows);
    assert_eq!(pair.client.closed, Some(CloseReason::Reset));
}

#[test]
fn attempts_to_join_again_are_few() {
    let mut pair = busy(10, 1, false, &ConnectionConfig::default());
    lose(&mut pair, true, 0, false, Loss::Address);
    pair.run_until(SECOND, |_| false);
    // The address is there, but nothing gets through.
    let joins = std::sync::Arc::new(std::sync::Mutex::new(0));
    let count = joins.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment: Segment| {
        let join = matches!(segment.options.join(), Some(Join::Syn { .. }));
        *count.lock().unwrap() += usize::from(from_client && join);
        None
    }));
    give_back(&mut pair, true, 0, false, Loss::Address);
    for _ in 0..1000 {
        // Routes that change a hundred times a second.
        let now = pair.now;
        pair.client.endpoint.routes_changed(now);
        pair.run_until(10 * MILLI, |_| false);
    }
    let joins = *joins.lock().unwrap();
    assert!((1..=60).contains(&joins), "{joins} SYNs in ten seconds");
    assert!(pair.client.closed.is_none());
}

#[test]
fn idle_connections_send_nothing_when_the_carrier_is_back() {
    let config = ConnectionConfig { keep_alive: None::<KeepAlive>, ..ConnectionConfig::default() };
    let mut pair = Pair::new(11, vec![PathConfig::default()], false, &config);
    pair.send_only(pattern(10_000, 1), pattern(10_000, 2));
    pair.run_until(20 * SECOND, |_| false);
    pair.now += 20 * SECOND;
    lose(&mut pair, true, 0, false, Loss::Carrier);
    pair.run_until(SECOND, |_| false);
    pair.now += SECOND;
    let packets = pair.packets;
    give_back(&mut pair, true, 0, false, Loss::Carrier);
    pair.run_until(SECOND, |_| false);
    assert_eq!(pair.packets, packets, "{}", pair.tail());
    assert!(pair.client.events.iter().all(|event| !matches!(event, Event::Closed(..))));
    let gone: IpAddr = address(0, 1, false);
    assert!(established(&pair.client).iter().all(|subflow| subflow.local.ip() == gone && !subflow.stale));
}
