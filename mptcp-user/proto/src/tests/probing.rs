//! Four-tuples that a router on the way forgets, and does not say so.

use super::pair::{Host, Pair, PathConfig, address, pattern};
use crate::counters::Counter;
use crate::wire::{Flags, Segment};
use crate::{
    AddressUse, CloseReason, ConnectionConfig, InterfaceRule, InterfaceUse, SubflowInfo, SubflowState,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// More than any test takes.
const OCTETS: usize = 30_000_000;

/// From now on nothing passes from and to these ports of the client's.
fn forget(pair: &mut Pair, ports: &[u16]) {
    let ports = ports.to_vec();
    pair.middlebox = Some(Box::new(move |_, segment: Segment| {
        let forgotten = ports.contains(&segment.src.port()) || ports.contains(&segment.dst.port());
        (!forgotten).then_some(segment)
    }));
}

fn is_open(subflow: &SubflowInfo) -> bool {
    subflow.state == SubflowState::Established && subflow.confirmed
}

/// Ports of the client's subflows that work, as this side sees it.
fn working(host: &Host, client: bool) -> Vec<u16> {
    let open = host.info().subflows.into_iter();
    open.filter(|subflow| is_open(subflow) && !subflow.stale)
        .map(|subflow| if client { subflow.local.port() } else { subflow.remote.port() })
        .collect()
}

fn ports(pair: &Pair) -> Vec<u16> {
    working(&pair.client, true)
}

/// A connection that has been used, and is idle now.
fn idle(seed: u64, paths: usize, config: &ConnectionConfig) -> Pair {
    let mut pair = Pair::new(seed, vec![PathConfig::default(); paths], false, config);
    pair.send_only(pattern(10_000, 1), pattern(10_000, 2));
    pair.run_until(SECOND, |_| false);
    assert_eq!(ports(&pair).len(), paths);
    pair
}

/// A window that makes the data last.
fn slow() -> ConnectionConfig {
    ConnectionConfig { receive_buffer: 30_000, ..ConnectionConfig::default() }
}

/// A connection in use by client, server, or both.
fn busy(paths: usize, up: usize, down: usize) -> Pair {
    let mut pair = Pair::new(2, vec![PathConfig::default(); paths], false, &slow());
    pair.send_only(pattern(up, 1), pattern(down, 2));
    pair.run_until(3 * SECOND, |_| false);
    assert_eq!(ports(&pair).len(), paths);
    pair
}

fn counter(host: &Host, counter: Counter) -> u64 {
    host.endpoint.counters().get(counter)
}

/// Both hosts' packets from now on, and the SYNs among them. Nothing passes.
fn count_lost(pair: &mut Pair) -> Arc<Mutex<(usize, usize)>> {
    let sent = Arc::new(Mutex::new((0, 0)));
    let count = sent.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        let mut count = count.lock().unwrap();
        count.0 += usize::from(from_client);
        count.1 += usize::from(from_client && segment.flags.has(Flags::SYN));
        None
    }));
    sent
}

/// The server says something to an idle client, who gets it within this time.
fn reaches_client(pair: &mut Pair, within: Duration) -> bool {
    let (now, id) = (pair.now, pair.server.connection.unwrap());
    let received = pair.client.received.len();
    pair.server.endpoint.send(now, id, vec![7; 1000].into());
    pair.run_until(within, |pair| pair.client.received.len() == received + 1000)
}

#[test]
fn a_sender_whose_four_tuple_is_dead_goes_on_from_another_port() {
    let mut pair = busy(1, OCTETS, OCTETS);
    forget(&mut pair, &[39_999]);
    let before = (pair.client.received.len(), pair.server.received.len());
    let begin = pair.now;
    let on = pair.run_until(5 * SECOND, |pair| {
        pair.client.received.len() > before.0 + 100_000 && pair.server.received.len() > before.1 + 100_000
    });
    println!("a busy sender goes on after {:?}", pair.now - begin);
    assert!(on, "{}", pair.tail());
    assert!(pair.client.received[..] == pattern(OCTETS, 2)[..pair.client.received.len()]);
    assert!(pair.server.received[..] == pattern(OCTETS, 1)[..pair.server.received.len()]);
    pair.run_until(SECOND, |_| false);
    assert!(!ports(&pair).contains(&39_999));
    assert_eq!(counter(&pair.client, Counter::SubflowDoubled), 1);
}

#[test]
fn a_path_that_is_back_before_the_other_subflow_is_there_goes_on_with_the_old_one() {
    // While the third timeout is waited for, and while SYNs are lost.
    for outage in [1000, 1600, 2500] {
        let mut pair = busy(1, OCTETS, OCTETS);
        count_lost(&mut pair);
        pair.run_until(outage * MILLI, |_| false);
        pair.middlebox = None;
        let before = pair.server.received.len();
        assert!(pair.run_until(4 * SECOND, |pair| pair.server.received.len() > before + 100_000));
        pair.run_until(5 * SECOND, |_| false);
        assert_eq!(ports(&pair).len(), 1, "{outage} ms");
        let open =
            pair.client.info().subflows.into_iter().filter(|subflow| subflow.state != SubflowState::Closed);
        assert_eq!(open.count(), 1, "{outage} ms");
        assert!(pair.server.received[..] == pattern(OCTETS, 1)[..pair.server.received.len()]);
    }
}

#[test]
fn losses_alone_open_no_other_subflow() {
    let path = PathConfig { loss: 0.15, ..PathConfig::default() };
    let mut doubled = 0;
    for seed in 0..5 {
        let mut pair = Pair::new(seed, vec![path.clone()], false, &slow());
        pair.send_only(pattern(OCTETS, 1), pattern(OCTETS, 2));
        pair.run_until(2 * MINUTE, |_| false);
        doubled += counter(&pair.client, Counter::SubflowDoubled);
        println!(
            "seed {seed}: doubled {doubled}, {} timeouts, {} octets",
            counter(&pair.client, Counter::Timeouts),
            pair.server.received.len()
        );
    }
    assert!(doubled <= 3, "{doubled} in ten minutes");
}

#[test]
fn a_receiver_of_a_stream_that_breaks_off_opens_another_way_for_it() {
    let mut pair = busy(1, 0, OCTETS);
    forget(&mut pair, &[39_999]);
    let (before, begin) = (pair.client.received.len(), pair.now);
    let on = pair.run_until(10 * SECOND, |pair| pair.client.received.len() > before + 100_000);
    println!("a busy receiver goes on after {:?}", pair.now - begin);
    assert!(on, "{}", pair.tail());
    assert!(pair.client.received[..] == pattern(OCTETS, 2)[..pair.client.received.len()]);
}

#[test]
fn one_of_two_four_tuples_that_dies_is_replaced() {
    for (up, down) in [(OCTETS, OCTETS), (OCTETS, 0), (0, OCTETS)] {
        let mut pair = busy(2, up, down);
        let before = ports(&pair);
        forget(&mut pair, &before[1..]);
        let replaced = |pair: &Pair| {
            let after = ports(pair);
            after.len() == 2 && after.contains(&before[0]) && !after.contains(&before[1])
        };
        let begin = pair.now;
        assert!(pair.run_until(45 * SECOND, replaced), "{up} {down}: {before:?} {:?}", ports(&pair));
        println!("one of two, {up} octets up, {down} down: replaced after {:?}", pair.now - begin);
        pair.run_until(SECOND, |_| false);
        assert!(
            pair.client
                .info()
                .subflows
                .iter()
                .filter(|subflow| subflow.state == SubflowState::Established)
                .count()
                == 2
        );
    }
}

#[test]
fn of_two_four_tuples_in_use_one_that_dies_is_replaced_soon() {
    let config = ConnectionConfig { scheduler: "round-robin".into(), ..slow() };
    let mut pair = Pair::new(2, vec![PathConfig::default(); 2], false, &config);
    pair.send_only(pattern(OCTETS, 1), Vec::new());
    pair.run_until(3 * SECOND, |_| false);
    let before = ports(&pair);
    for dead in [0, 1] {
        let (dead, begin) = (ports(&pair)[dead], pair.now);
        forget(&mut pair, &[dead]);
        let replaced = |pair: &Pair| {
            let open = pair.client.info().subflows.into_iter().filter(is_open);
            ports(pair).len() == 2 && open.filter(|subflow| subflow.local.port() == dead).count() == 0
        };
        assert!(pair.run_until(5 * SECOND, replaced), "{before:?} {:?}\n{}", ports(&pair), pair.tail());
        println!("one of two in use: replaced after {:?}", pair.now - begin);
        let received = pair.server.received.len();
        pair.run_until(SECOND, |_| false);
        assert!(pair.server.received.len() > received + 100_000);
        assert!(pair.server.received[..] == pattern(OCTETS, 1)[..pair.server.received.len()]);
    }
}

#[test]
fn a_client_that_only_waits_notices_that_its_four_tuple_is_dead() {
    for paths in [1, 2] {
        let mut pair = idle(1, paths, &ConnectionConfig::default());
        let before = ports(&pair);
        forget(&mut pair, &before);
        let begin = pair.now;
        let replaced = |pair: &Pair| {
            let after = ports(pair);
            after.len() == paths && after.iter().all(|port| !before.contains(port))
        };
        assert!(pair.run_until(MINUTE, replaced), "{before:?} {:?}", ports(&pair));
        println!("{paths} idle paths: all replaced after {:?}", pair.now - begin);
        assert!(reaches_client(&mut pair, 2 * SECOND), "{}", pair.tail());
        assert!(pair.client.closed.is_none() && pair.server.closed.is_none());
        // The server is rid of those that the client's resets do not reach, in time.
        pair.run_until(HOUR, |_| false);
        assert_eq!(working(&pair.server, false).len(), paths);
        let known = pair.server.info().subflows;
        assert_eq!(known.iter().filter(|subflow| subflow.state == SubflowState::Established).count(), paths);
    }
}

#[test]
fn what_the_client_writes_on_a_path_known_to_be_dead_is_worth_another_attempt() {
    let mut pair = idle(1, 1, &ConnectionConfig::default());
    count_lost(&mut pair);
    pair.run_until(10 * HOUR, |_| false);
    forget(&mut pair, &[39_999]);
    let (now, id) = (pair.now, pair.client.connection.unwrap());
    pair.client.endpoint.send(now, id, vec![7; 1000].into());
    let received = pair.server.received.len();
    assert!(
        pair.run_until(5 * SECOND, |pair| pair.server.received.len() == received + 1000),
        "{}",
        pair.tail()
    );
}

#[test]
fn an_idle_connection_costs_few_packets_an_hour_and_rests_between_them() {
    for paths in [1, 2] {
        let mut pair = idle(3, paths, &ConnectionConfig::default());
        let packets = pair.packets;
        pair.run_until(HOUR, |_| false);
        let first = pair.packets - packets;
        pair.run_until(10 * HOUR, |_| false);
        let later = pair.packets - packets - first;
        println!("{paths} subflows: {first} packets in the first hour, {later} in the next ten");
        let paths = paths as u64;
        assert!((8 * paths..=20 * paths).contains(&first), "{first}");
        assert!((30 * paths..=70 * paths).contains(&later), "{later}");
        assert_eq!((pair.client.endpoint.awake(), pair.server.endpoint.awake()), (0, 0));
        assert_eq!(counter(&pair.server, Counter::PathProbe), 0, "one side is enough");
        assert_eq!(counter(&pair.client, Counter::SubflowDoubled), 0);
    }
    let config = ConnectionConfig { path_check: None, ..ConnectionConfig::default() };
    let mut pair = idle(3, 1, &config);
    let packets = pair.packets;
    pair.run_until(10 * HOUR, |_| false);
    assert_eq!(pair.packets, packets, "none, if it is switched off");
}

#[test]
fn a_server_checks_where_its_client_does_not() {
    let off = ConnectionConfig { path_check: None, ..ConnectionConfig::default() };
    let mut pair =
        Pair::with_configs(3, vec![PathConfig::default(); 2], false, &off, &ConnectionConfig::default());
    pair.send_only(pattern(10_000, 1), pattern(10_000, 2));
    pair.run_until(MINUTE, |_| false);
    assert_eq!(counter(&pair.server, Counter::PathProbe), 2);
    let before = ports(&pair);
    forget(&mut pair, &before[..1]);
    let stale = |pair: &Pair| working(&pair.server, false) == [before[1]];
    assert!(pair.run_until(3 * MINUTE, stale));
    // What it says goes over the other one at once.
    assert!(reaches_client(&mut pair, 20 * MILLI));
    pair.run_until(16 * MINUTE, |_| false);
    let left = pair.server.info().subflows.into_iter();
    assert_eq!(left.filter(|subflow| subflow.state == SubflowState::Established).count(), 1);
    // The last one is not ended.
    forget(&mut pair, &before);
    pair.run_until(24 * HOUR, |_| false);
    assert!(pair.server.closed.is_none() && pair.client.closed.is_none());
    assert_eq!(pair.server.endpoint.awake(), 0, "at rest all the same");
    pair.middlebox = None;
    assert!(reaches_client(&mut pair, 2 * SECOND));
    pair.run_until(SECOND, |_| false);
    assert_eq!(working(&pair.server, false).len(), 1);
}

#[test]
fn a_path_that_stays_dead_is_tried_ever_more_seldom_and_the_connection_lives() {
    for paths in [1, 2] {
        let mut pair = idle(1, paths, &ConnectionConfig::default());
        let sent = count_lost(&mut pair);
        let mut hours = Vec::new();
        for hours_passed in [1, 9, 90] {
            let before = *sent.lock().unwrap();
            pair.run_until(hours_passed * HOUR, |_| false);
            let after = *sent.lock().unwrap();
            hours.push((after.0 - before.0, after.1 - before.1));
        }
        println!("{paths} paths, packets and SYNs into nothing in 1, 9 and 90 hours: {hours:?}");
        assert!(hours[0].0 < 100 * paths && hours[1].0 < 60 * paths && hours[2].0 < 60 * paths);
        assert!(pair.client.closed.is_none() && pair.server.closed.is_none());
        assert_eq!(pair.client.endpoint.awake(), 0, "at rest all the same");
        pair.middlebox = None;
        assert!(reaches_client(&mut pair, 2 * SECOND), "{}", pair.tail());
    }
}

#[test]
fn an_idle_path_that_comes_back_goes_on_without_another_subflow() {
    let mut pair = idle(1, 1, &ConnectionConfig::default());
    // The check finds nobody, and the attempt to open another subflow does not get through either.
    let mut silent = count_lost(&mut pair);
    pair.run_until(45 * SECOND, |_| false);
    assert!(silent.lock().unwrap().1 > 0 && ports(&pair).is_empty());
    pair.middlebox = None;
    let (now, id) = (pair.now, pair.server.connection.unwrap());
    pair.server.endpoint.send(now, id, vec![7; 1000].into());
    pair.run_until(2 * MINUTE, |_| false);
    assert_eq!(ports(&pair), [39_999]);
    assert_eq!(counter(&pair.client, Counter::SubflowRecover), 1);
    // The same before it has come so far.
    silent = count_lost(&mut pair);
    pair.run_until(MINUTE, |_| *silent.lock().unwrap() == (2, 0));
    pair.middlebox = None;
    pair.run_until(MINUTE, |_| false);
    assert_eq!((ports(&pair), counter(&pair.client, Counter::SubflowDoubled)), (vec![39_999], 1));
}

#[test]
fn large_packets_that_disappear_are_no_reason_for_another_subflow() {
    let mut pair = Pair::new(2, vec![PathConfig::default()], false, &slow());
    pair.send_only(pattern(OCTETS, 1), Vec::new());
    pair.run_until(SECOND, |_| false);
    pair.paths[0].mtu = 1000;
    let before = pair.server.received.len();
    assert!(pair.run_until(20 * SECOND, |pair| pair.server.received.len() > before + 100_000));
    assert_eq!((ports(&pair), counter(&pair.client, Counter::SubflowDoubled)), (vec![39_999], 0));
}

#[test]
fn regular_tcp_is_not_checked() {
    let config = ConnectionConfig { multipath: false, ..ConnectionConfig::default() };
    let mut pair =
        Pair::with_configs(1, vec![PathConfig::default()], false, &ConnectionConfig::default(), &config);
    pair.send_only(pattern(10_000, 1), pattern(10_000, 2));
    pair.run_until(SECOND, |_| false);
    let packets = pair.packets;
    pair.run_until(10 * HOUR, |_| false);
    assert_eq!(pair.packets, packets);
    // Nor is it when data is not acknowledged.
    forget(&mut pair, &[39_999]);
    let (now, id) = (pair.now, pair.client.connection.unwrap());
    pair.client.endpoint.send(now, id, vec![7; 1000].into());
    pair.run_until(MINUTE, |_| false);
    assert_eq!(counter(&pair.client, Counter::PathProbe), 0);
}

#[test]
fn there_is_no_double_where_joins_are_not_wanted() {
    let none = ConnectionConfig { path_manager: "none".into(), ..ConnectionConfig::default() };
    let signal = ConnectionConfig { path_manager: "signal".into(), ..ConnectionConfig::default() };
    let closed = ConnectionConfig { no_join_initial: true, ..ConnectionConfig::default() };
    let open = ConnectionConfig::default();
    for (client, server) in [(&none, &open), (&signal, &open), (&open, &closed)] {
        let mut pair = Pair::with_configs(1, vec![PathConfig::default()], false, client, server);
        pair.send_only(pattern(10_000, 1), pattern(10_000, 2));
        pair.run_until(SECOND, |_| false);
        let sent = count_lost(&mut pair);
        pair.run_until(HOUR, |_| false);
        let (packets, syns) = *sent.lock().unwrap();
        assert!(packets > 0 && syns == 0, "{packets} {syns}");
        assert!(pair.client.closed.is_none());
    }
    // Addresses and interfaces that are not for new subflows.
    for denied in [false, true] {
        let mut pair = if denied {
            let rule = InterfaceRule { pattern: "eth".into(), usage: InterfaceUse::Deny };
            idle(1, 1, &ConnectionConfig { interface_rules: vec![rule], ..ConnectionConfig::default() })
        } else {
            idle(1, 1, &ConnectionConfig::default())
        };
        if denied {
            pair.client.endpoint.name_interface(1, "eth");
        } else {
            pair.client.endpoint.set_address_use(address(0, 1, false), AddressUse::Existing);
        }
        let sent = count_lost(&mut pair);
        pair.run_until(HOUR, |_| false);
        assert_eq!(sent.lock().unwrap().1, 0, "denied: {denied}");
    }
}

#[test]
fn a_double_is_not_one_subflow_more() {
    for limit in [1, 2] {
        let config = ConnectionConfig { max_subflows: limit, ..ConnectionConfig::default() };
        let mut pair = idle(1, limit, &config);
        let mut most = 0;
        // More often than there would be room for what the server does not know to be dead.
        for round in 0..6 {
            let before = ports(&pair);
            forget(&mut pair, &before);
            let replaced = pair.run_until(3 * MINUTE, |pair| {
                let known = pair.server.info().subflows.into_iter();
                most = most.max(known.filter(|subflow| subflow.state == SubflowState::Established).count());
                let after = ports(pair);
                after.len() == limit && after.iter().all(|port| !before.contains(port))
            });
            assert!(replaced, "round {round}, {before:?} {:?}\n{}", ports(&pair), pair.tail());
        }
        assert!(most <= limit, "{most} subflows of {limit}");
        assert!(reaches_client(&mut pair, 2 * SECOND));
    }
}

/// For now, or for good as far as its words go.
#[test]
fn a_peer_that_refuses_joins_is_asked_ever_more_seldom() {
    for (paths, stripped) in [(1, false), (1, true), (2, true)] {
        let server =
            ConnectionConfig { max_subflows: paths, path_check: None, ..ConnectionConfig::default() };
        let links = vec![PathConfig::default(); paths];
        let mut pair = Pair::with_configs(1, links, false, &ConnectionConfig::default(), &server);
        pair.send_only(pattern(10_000, 1), pattern(10_000, 2));
        pair.run_until(SECOND, |_| false);
        pair.middlebox = Some(Box::new(move |_, mut segment: Segment| {
            if stripped && segment.flags.has(Flags::RST) {
                segment.options.mptcp.clear();
            }
            let forgotten = [segment.src.port(), segment.dst.port()].contains(&39_999);
            (!forgotten).then_some(segment)
        }));
        let mut hours = Vec::new();
        for _ in 0..3 {
            let before = counter(&pair.client, Counter::MpJoinSynTx);
            pair.run_until(10 * HOUR, |_| false);
            hours.push(counter(&pair.client, Counter::MpJoinSynTx) - before);
        }
        println!("{paths} paths, stripped {stripped}: joins in ten hours each: {hours:?}");
        let least = if paths == 1 { 3 } else { 1 };
        assert!(hours[0] >= least && hours[0] < 20 && hours[2] < 3, "{hours:?}");
        assert!(pair.client.closed.is_none() && pair.server.closed.is_none());
    }
}

#[test]
fn a_peer_that_answers_now_and_then_makes_nobody_ask_more() {
    let mut pair = idle(1, 1, &ConnectionConfig::default());
    // The peer's answers come back only for each fourth packet of the client's.
    let mut count = 0u64;
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        count += u64::from(from_client);
        (!from_client || count.is_multiple_of(4)).then_some(segment)
    }));
    let packets = pair.packets;
    pair.run_until(10 * HOUR, |_| false);
    println!("{} packets in ten hours", pair.packets - packets);
    assert!(pair.packets - packets < 2000);
    assert!(pair.client.closed.is_none());
}

#[test]
fn a_pause_of_the_process_is_no_silence() {
    for (run, pause) in
        [(SECOND, HOUR), (25 * SECOND, 10 * SECOND), (29 * SECOND, 24 * HOUR), (28 * SECOND, 80 * MILLI)]
    {
        for lost in [false, true] {
            let mut pair = idle(3, 1, &ConnectionConfig::default());
            pair.run_until(run, |_| false);
            pair.stopped = Some(pair.now + pause);
            if lost {
                // What comes meanwhile finds no room.
                pair.middlebox = Some(Box::new(bool::then_some));
            }
            pair.run_until(pause, |_| false);
            pair.middlebox = None;
            pair.run_until(2 * MINUTE, |_| false);
            assert_eq!(counter(&pair.client, Counter::SubflowDoubled), 0, "{run:?} {pause:?} {lost}");
            assert_eq!(ports(&pair), [39_999]);
        }
    }
}

#[test]
fn connections_that_fall_silent_together_are_not_checked_together() {
    const COUNT: u16 = 400;
    let mut pair = idle(1, 1, &ConnectionConfig::default());
    for number in 0..COUNT {
        let (from, to) = ((address(0, 1, false), 1000 + number).into(), (address(0, 2, false), 5000).into());
        pair.client.endpoint.connect(pair.now, from, to, ConnectionConfig::default()).unwrap();
    }
    pair.run_until(SECOND, |_| false);
    assert_eq!(pair.client.endpoint.awake(), 0);
    for pause in [Duration::ZERO, HOUR] {
        let times = Arc::new(Mutex::new(Vec::new()));
        if !pause.is_zero() {
            // What comes meanwhile finds no room.
            pair.middlebox = Some(Box::new(bool::then_some));
            pair.stopped = Some(pair.now + pause);
            pair.run_until(pause, |_| false);
            pair.middlebox = None;
        }
        let (begin, seen) = (pair.now, times.clone());
        // The server's answers tell when it was asked.
        pair.sent = Some(Box::new(move |now, _| seen.lock().unwrap().push(now - begin)));
        pair.run_until(40 * SECOND, |_| false);
        let times = times.lock().unwrap();
        assert!(times.len() >= usize::from(COUNT), "{pause:?}: {}", times.len());
        let near = |time: &Duration| times.iter().filter(|other| other.abs_diff(*time) < 50 * MILLI).count();
        let most = times.iter().map(near).max().unwrap();
        println!("after {pause:?}: at most {most} of {} within 100 ms", times.len());
        assert!(most < 40, "{pause:?}: {most}");
    }
}

#[test]
fn a_window_that_stays_closed_does_not_hide_a_dead_four_tuple() {
    let mut pair = Pair::new(2, vec![PathConfig::default()], false, &slow());
    pair.server.read_limit = 0;
    pair.send_only(pattern(100_000, 1), Vec::new());
    pair.run_until(10 * SECOND, |_| false);
    forget(&mut pair, &[39_999]);
    pair.run_until(MINUTE, |_| false);
    pair.server.read_limit = usize::MAX;
    assert!(pair.run_until(2 * MINUTE, |pair| pair.server.received.len() == 100_000), "{}", pair.tail());
}

#[test]
fn a_connection_that_ends_after_all_ends_in_order() {
    let mut pair = idle(1, 2, &ConnectionConfig::default());
    let before = ports(&pair);
    forget(&mut pair, &before);
    pair.run_until(2 * MINUTE, |_| false);
    pair.send(pattern(10_000, 1), pattern(10_000, 2));
    assert!(pair.run(MINUTE), "{}", pair.tail());
    let finished = Some(CloseReason::Finished);
    assert_eq!((pair.client.closed, pair.server.closed), (finished, finished));
}
