//! How addresses are announced.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::{Flags, MptcpOption, RemoveAddr};
use crate::{
    CloseReason, ConnectionConfig, Instant, InterfaceUse, LocalAddress, SubflowInfo, SubflowState, Versions,
};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Announcements on their way from the server (identifier, whether it is an echo), in order.
type Seen = Arc<Mutex<Vec<(u8, bool)>>>;

/// Notes ADD_ADDRs; loses those echoes that the predicate names by their number.
fn watch(seen: Seen, mut lose: impl FnMut(usize) -> bool + Send + 'static) -> super::pair::Middlebox {
    let mut echoes = 0;
    Box::new(move |from_client, segment| {
        for option in &segment.options.mptcp {
            let MptcpOption::AddAddr(add) = option else { continue };
            if from_client != add.echo {
                continue; // the client's own announcements and the server's echoes
            }
            seen.lock().unwrap().push((add.address_id, add.echo));
            if add.echo {
                echoes += 1;
                if lose(echoes) {
                    return None;
                }
            }
        }
        Some(segment)
    })
}

fn transfer(middlebox: super::pair::Middlebox) {
    let paths = vec![PathConfig::default(); 4];
    let mut pair = Pair::new(1, paths, false, &ConnectionConfig::default());
    pair.middlebox = Some(middlebox);
    pair.send(pattern(100_000, 1), Vec::new());
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert_eq!(pair.client.closed, Some(CloseReason::Finished));
}

#[test]
fn the_next_address_is_announced_after_the_echo_of_the_one_before() {
    let seen = Seen::default();
    transfer(watch(seen.clone(), |_| false));
    let seen = seen.lock().unwrap();
    // Linux has room for one ADD_ADDR at a time and drops others without an echo.
    for pair in seen.chunks(2) {
        let [(announced, false), (echoed, true)] = pair else { panic!("{seen:?}") };
        assert_eq!(announced, echoed, "{seen:?}");
    }
    assert_eq!(seen.len(), 6, "three addresses besides the first: {seen:?}");
}

/// Found in namespaces: the kernel took a second address although it may take one, because it came while the subflow to the first
/// one was not counted yet.
#[test]
fn an_address_leaves_the_peer_time_to_deal_with_the_one_before() {
    let announced: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut pair = Pair::new(1, vec![PathConfig::default(); 4], false, &ConnectionConfig::default());
    let noted = announced.clone();
    pair.sent = Some(Box::new(move |now, segment| {
        let new = |option: &MptcpOption| matches!(option, MptcpOption::AddAddr(add) if !add.echo);
        if segment.dst.port() != 5000 && segment.options.mptcp.iter().any(new) {
            noted.lock().unwrap().push(now);
        }
    }));
    pair.send(pattern(200_000, 1), Vec::new());
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    let announced = announced.lock().unwrap();
    let between: Vec<Duration> = announced.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // There and back in 10 ms.
    assert_eq!(between, [Duration::from_millis(15); 2]);
}

#[test]
//= RFC 8684 3.4.1-2 (test)
fn an_echo_that_is_lost_does_not_hold_up_the_other_addresses() {
    let seen = Seen::default();
    // Long delays, so that the transfer outlasts the wait for the echo.
    let path = PathConfig { delay: Duration::from_millis(100), ..PathConfig::default() };
    let mut pair = Pair::new(2, vec![path; 4], false, &ConnectionConfig::default());
    pair.middlebox = Some(watch(seen.clone(), |number| number == 1));
    let everything = |seen: &Seen| {
        let seen = seen.lock().unwrap();
        (1..=3).all(|id| seen.iter().any(|&(announced, echo)| announced == id && !echo))
    };
    let watched = seen.clone();
    pair.send(pattern(50_000_000, 1), Vec::new());
    assert!(
        pair.run_until(Duration::from_secs(2), move |_| everything(&watched)),
        "{:?}",
        seen.lock().unwrap()
    );
}

#[test]
fn a_driver_that_is_slower_than_the_data_still_sends_the_echo() {
    let seen = Seen::default();
    let near = PathConfig { delay: Duration::from_micros(100), ..PathConfig::default() };
    let mut pair = Pair::new(3, vec![near; 2], false, &ConnectionConfig::default());
    pair.middlebox = Some(watch(seen.clone(), |_| false));
    pair.budget = 1;
    pair.send(pattern(200_000_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() > 20_000_000));
    let now = pair.now;
    let local = LocalAddress { address: address(2, 2, false), interface: 3, mtu: 1500, backup: false };
    pair.server.endpoint.add_local_address(now, local);
    seen.lock().unwrap().clear();
    let echoed = seen.clone();
    // There is always more data than the driver takes; that must not keep everything else back.
    assert!(
        pair.run_until(Duration::from_millis(20), move |_| echoed
            .lock()
            .unwrap()
            .iter()
            .any(|(_, echo)| *echo)),
        "{:?} {}",
        seen.lock().unwrap(),
        pair.tail()
    );
}

#[test]
fn a_connection_that_carries_little_or_nothing_gets_its_other_paths_too() {
    for octets in [0, 2] {
        let mut pair = Pair::new(4, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
        pair.send_only(pattern(octets, 1), Vec::new());
        let both = |pair: &Pair| {
            let confirmed = |info: crate::ConnectionInfo| {
                info.subflows.iter().filter(|subflow| subflow.confirmed).count()
            };
            pair.client.connection.is_some() && confirmed(pair.client.info()) == 2
        };
        assert!(pair.run_until(Duration::from_secs(1), both), "{octets} octets:\n{}", pair.tail());
    }
}

/// An ADD_ADDR of an IPv6 address leaves no room for a Data ACK, and a box may strip it: what is left then looks as if
/// the server did not speak Multipath TCP at all, and a client that has nothing from it but this falls back (Linux does).
#[test]
fn a_server_acknowledges_data_before_it_announces() {
    let first: Arc<Mutex<Option<Vec<MptcpOption>>>> = Arc::default();
    let noted = first.clone();
    let mut pair = Pair::new(6, vec![PathConfig::default(); 2], true, &ConnectionConfig::default());
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        if !from_client && !segment.flags.has(Flags::SYN) {
            noted.lock().unwrap().get_or_insert_with(|| segment.options.mptcp.to_vec());
        }
        Some(segment)
    }));
    pair.send_only(Vec::new(), Vec::new());
    until_subflows(&mut pair, 2);
    let first = first.lock().unwrap();
    assert!(matches!(first.as_deref(), Some([MptcpOption::Dss(_)])), "{first:?}");
}

/// Runs until both sides have so many established subflows.
fn until_subflows(pair: &mut Pair, number: usize) {
    let count = |pair: &Pair| (established(&pair.client).len(), established(&pair.server).len());
    let reached = pair.run_until(Duration::from_secs(10), |pair| {
        pair.server.connection.is_some() && count(pair) == (number, number)
    });
    assert!(reached, "{:?}\n{}", count(pair), pair.tail());
}

fn established(host: &super::pair::Host) -> Vec<SubflowInfo> {
    let all = host.info().subflows.into_iter();
    all.filter(|subflow| subflow.state == SubflowState::Established).collect()
}

/// A pair over so many paths with more to send than there is time for, all subflows established.
fn busy_pair(paths: usize, client: &ConnectionConfig, server: &ConnectionConfig) -> Pair {
    // A window that makes the data last, and a scheduler that uses all subflows in spite of it.
    let [client, server] = [client, server].map(|config| ConnectionConfig {
        receive_buffer: 200_000,
        scheduler: "round-robin".into(),
        ..config.clone()
    });
    let mut pair = Pair::with_configs(11, vec![PathConfig::default(); paths], false, &client, &server);
    pair.send_only(pattern(200_000_000, 1), Vec::new());
    until_subflows(&mut pair, paths);
    pair
}

/// Octets sent on each established subflow of the client during this time, in the order of the paths.
fn sent_during(pair: &mut Pair, time: Duration) -> Vec<u64> {
    let counts = |pair: &Pair| {
        let mut all = established(&pair.client);
        all.sort_by_key(|subflow| subflow.local);
        all.iter().map(|subflow| subflow.bytes_sent).collect::<Vec<_>>()
    };
    let before = counts(pair);
    pair.run_until(time, |_| false);
    counts(pair).iter().zip(before).map(|(after, before)| after - before).collect()
}

#[test]
//= RFC 8684 3.2-13 (test)
//= RFC 8684 3.4.1-4 (test)
fn addresses_are_announced_with_a_port_of_their_own_and_joined_there() {
    let both = [Versions::One, Versions::Zero];
    for (versions, v6) in both.into_iter().flat_map(|versions| [(versions, false), (versions, true)]) {
        let client = ConnectionConfig { versions, ..ConnectionConfig::default() };
        let server = ConnectionConfig { announce_port: Some(6000), ..client.clone() };
        let mut pair = Pair::with_configs(4, vec![PathConfig::default(); 3], v6, &client, &server);
        pair.send_only(pattern(50_000_000, 1), Vec::new());
        until_subflows(&mut pair, 3);
        let mut remotes: Vec<SocketAddr> =
            established(&pair.client).iter().map(|subflow| subflow.remote).collect();
        remotes.sort();
        let expected = [(0, 5000), (1, 6000), (2, 6000)];
        assert_eq!(remotes, expected.map(|(path, port)| SocketAddr::new(address(path, 2, v6), port)));
    }
}

#[test]
fn an_address_that_is_not_to_be_joined_is_announced_with_another_port() {
    let server =
        ConnectionConfig { no_join_initial: true, announce_port: Some(6000), ..ConnectionConfig::default() };
    let client = ConnectionConfig { path_manager: "full-mesh".into(), ..ConnectionConfig::default() };
    let mut pair = Pair::with_configs(5, vec![PathConfig::default()], false, &client, &server);
    pair.send_only(pattern(50_000_000, 1), Vec::new());
    until_subflows(&mut pair, 2);
    let remote = established(&pair.client)[1].remote;
    assert_eq!(remote, SocketAddr::new(address(0, 2, false), 6000));
}

#[test]
//= RFC 8684 3.1-8 (test)
fn a_peer_that_does_not_want_joins_to_its_first_address_gets_none() {
    for (who, client_flag, server_flag) in [("client", false, true), ("server", true, false)] {
        let config = ConnectionConfig {
            path_manager: "ndiffports".into(),
            ndiffports: 4,
            ..ConnectionConfig::default()
        };
        let client = ConnectionConfig { no_join_initial: client_flag, ..config.clone() };
        let server = ConnectionConfig { no_join_initial: server_flag, ..config };
        let mut pair = Pair::with_configs(6, vec![PathConfig::default()], false, &client, &server);
        let (info, _) = pair.exchange(3_000_000, 0);
        let expected = if server_flag { 1 } else { 4 };
        assert_eq!(info.subflows.len(), expected, "the {who} heeds it");
    }
}

#[test]
fn a_join_to_the_first_address_is_refused_where_the_peer_was_asked_not_to() {
    let server = ConnectionConfig { no_join_initial: true, ..ConnectionConfig::default() };
    let client = ConnectionConfig { path_manager: "ndiffports".into(), ..ConnectionConfig::default() };
    let mut pair = Pair::with_configs(7, vec![PathConfig::default()], false, &client, &server);
    // On the way to the client the flag gets lost.
    pair.middlebox = Some(Box::new(|_, mut segment| {
        for option in &mut segment.options.mptcp {
            if let MptcpOption::Capable(capable) = option {
                capable.no_join_initial = false;
            }
        }
        Some(segment)
    }));
    let (info, _) = pair.exchange(3_000_000, 0);
    let refused: Vec<_> = info.subflows.iter().filter(|subflow| !subflow.initial).collect();
    assert!(!refused.is_empty() && refused.iter().all(|subflow| subflow.bytes_sent == 0), "{info:#?}");
}

#[test]
fn ndiffports_spreads_over_ports_of_the_same_two_addresses() {
    let config =
        ConnectionConfig { path_manager: "ndiffports".into(), ndiffports: 4, ..ConnectionConfig::default() };
    let mut pair = Pair::new(8, vec![PathConfig::default(); 2], false, &config);
    pair.send_only(pattern(50_000_000, 1), Vec::new());
    until_subflows(&mut pair, 4);
    let mut ends: Vec<_> =
        established(&pair.client).iter().map(|subflow| (subflow.local, subflow.remote)).collect();
    ends.sort();
    ends.dedup();
    assert_eq!(ends.len(), 4);
    let same = |(local, remote): &(SocketAddr, SocketAddr)| {
        (local.ip(), remote.ip()) == (address(0, 1, false), address(0, 2, false))
    };
    assert!(ends.iter().all(same), "{ends:?}");
}

#[test]
//= RFC 8684 3.4.1-7 (test)
fn up_to_32_subflows_are_possible_and_no_more() {
    for (limit, expected) in [(32, 32), (100, 32), (5, 5)] {
        let config = ConnectionConfig {
            path_manager: "ndiffports".into(),
            ndiffports: 100,
            max_subflows: limit,
            ..ConnectionConfig::default()
        };
        let mut pair = Pair::new(9, vec![PathConfig::default()], false, &config);
        pair.send_only(pattern(50_000_000, 1), Vec::new());
        until_subflows(&mut pair, expected);
    }
}

#[test]
//= RFC 8684 3.2-2 (test)
//= RFC 8684 3.4.2-1 (test)
fn several_addresses_that_go_are_told_in_one_option() {
    let config = ConnectionConfig::default();
    let mut pair = busy_pair(4, &config, &config);
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let noted = seen.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        for option in &segment.options.mptcp {
            if let (true, MptcpOption::RemoveAddr(remove)) = (from_client, option) {
                noted.lock().unwrap().push(remove.ids.len());
            }
        }
        Some(segment)
    }));
    // That of the initial subflow, whose identifier is 0, among them.
    for path in 0..3 {
        let now = pair.now;
        pair.client.endpoint.remove_local_address(now, address(path, 1, false));
    }
    until_subflows(&mut pair, 1);
    assert_eq!(*seen.lock().unwrap(), [3]);
    assert_eq!(established(&pair.server)[0].remote.ip(), address(3, 1, false));
    let before = pair.server.received.len();
    pair.run_until(Duration::from_secs(1), |_| false);
    assert!(pair.server.received.len() > before + 100_000);
}

/// Lets the client seem to say that its addresses with these identifiers are gone.
fn forge_removal(pair: &mut Pair, ids: &'static [u8]) {
    let mut told = false;
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        if from_client && !std::mem::replace(&mut told, true) {
            segment.options.mptcp.clear();
            segment.options.sack.clear();
            let ids = ids.iter().copied().collect();
            segment.options.mptcp.push(MptcpOption::RemoveAddr(RemoveAddr { ids }));
            // A segment of its own: its data, without a mapping, would end the subflow.
            segment.payload.truncate(0);
        }
        Some(segment)
    }));
}

#[test]
//= RFC 8684 3.4.2-2 (test)
//= RFC 8684 3.4.2-3 (test)
fn a_subflow_that_answers_outlives_the_removal_of_its_address() {
    let config = ConnectionConfig::default();
    let mut pair = busy_pair(2, &config, &config);
    forge_removal(&mut pair, &[0, 1]);
    pair.run_until(Duration::from_secs(3), |_| false);
    assert_eq!(established(&pair.server).len(), 2, "{:#?}", pair.server.info());
    assert!(sent_during(&mut pair, Duration::from_secs(1)).iter().all(|octets| *octets > 0));
}

#[test]
//= RFC 8684 3.4.1-6 (test)
//= RFC 8684 3.4.2-4 (test)
fn a_subflow_whose_address_is_said_to_be_gone_and_does_not_answer_ends_at_once() {
    let config = ConnectionConfig::default();
    let mut pair = busy_pair(2, &config, &config);
    pair.paths[1].up = false;
    let now = pair.now;
    pair.client.endpoint.remove_local_address(now, address(1, 1, false));
    let gone = |pair: &Pair| established(&pair.server).len() == 1;
    assert!(pair.run_until(Duration::from_secs(1), gone), "{}", pair.tail());
    assert_eq!(established(&pair.server)[0].remote.ip(), address(0, 1, false));
}

#[test]
//= RFC 8684 3.3.8-1 (test)
fn priorities_change_in_both_directions_while_data_flows() {
    for versions in [Versions::One, Versions::Zero] {
        let config = ConnectionConfig { versions, ..ConnectionConfig::default() };
        let mut pair = busy_pair(2, &config, &config);
        assert!(sent_during(&mut pair, Duration::from_secs(1)).iter().all(|octets| *octets > 0));
        for client in [true, false] {
            for backup in [true, false] {
                let now = pair.now;
                // The client as the receiver of the request heeds it, too.
                let host = if client { &mut pair.client } else { &mut pair.server };
                let ours = established(host).into_iter().find(|subflow| subflow.initial).unwrap();
                let slot = crate::SubflowSlot(ours.slot);
                assert!(host.endpoint.set_backup(now, host.connection.unwrap(), slot, backup));
                pair.run_until(Duration::from_millis(100), |_| false);
                let sent = sent_during(&mut pair, Duration::from_millis(200));
                assert_eq!(sent[0] == 0, backup, "{versions:?} {client} {sent:?}");
                assert!(sent[1] > 0);
                let flags = [&pair.client, &pair.server]
                    .map(|host| established(host).iter().find(|subflow| subflow.initial).unwrap().backup);
                assert_eq!(flags, [backup; 2], "both sides know");
            }
        }
        let (now, connection) = (pair.now, pair.client.connection.unwrap());
        assert!(!pair.client.endpoint.set_backup(now, connection, crate::SubflowSlot(77), true));
    }
}

#[test]
fn the_first_subflow_over_a_backup_interface_is_a_backup_too() {
    let client = ConnectionConfig {
        interface_rules: vec!["cell*=backup".parse().unwrap()],
        ..ConnectionConfig::default()
    };
    let mut pair =
        Pair::with_configs(12, vec![PathConfig::default(); 2], false, &client, &ConnectionConfig::default());
    pair.client.endpoint.name_interface(1, "cell0");
    pair.client.endpoint.name_interface(2, "wifi0");
    pair.reopen(
        SocketAddr::new(address(0, 1, false), 39_998),
        SocketAddr::new(address(0, 2, false), 5000),
        &client,
    );
    pair.send_only(pattern(50_000_000, 1), Vec::new());
    until_subflows(&mut pair, 2);
    pair.run_until(Duration::from_millis(100), |_| false);
    for host in [&pair.client, &pair.server] {
        let backup: Vec<_> =
            established(host).iter().map(|subflow| (subflow.initial, subflow.backup)).collect();
        assert!(backup.contains(&(true, true)) && backup.contains(&(false, false)), "{backup:?}");
    }
    let sent = sent_during(&mut pair, Duration::from_secs(1));
    assert!(sent[0] == 0 && sent[1] > 0, "{sent:?}");
}

#[test]
fn denied_interfaces_are_not_used_and_metered_ones_only_while_nothing_else_works() {
    let client = ConnectionConfig {
        interface_rules: vec!["b=metered".parse().unwrap(), "c=deny".parse().unwrap()],
        ..ConnectionConfig::default()
    };
    assert_eq!(client.interface_rules[0].usage, InterfaceUse::Metered);
    let server = ConnectionConfig { receive_buffer: 100_000, ..ConnectionConfig::default() };
    let mut pair = Pair::with_configs(13, vec![PathConfig::default(); 3], false, &client, &server);
    for (interface, name) in [(1, "a"), (2, "b"), (3, "c")] {
        pair.client.endpoint.name_interface(interface, name);
    }
    pair.send_only(pattern(100_000_000, 1), Vec::new());
    pair.run_until(Duration::from_secs(2), |_| false);
    let used =
        |pair: &Pair| established(&pair.client).iter().map(|subflow| subflow.interface).collect::<Vec<_>>();
    assert_eq!(used(&pair), [1]);
    pair.paths[0].up = false;
    let both = |pair: &Pair| established(&pair.client).iter().any(|subflow| subflow.interface == 2);
    assert!(pair.run_until(Duration::from_secs(1), both), "{}", pair.tail());
    let before = pair.server.received.len();
    pair.run_until(Duration::from_secs(1), |_| false);
    assert!(pair.server.received.len() > before + 1_000_000);
    pair.paths[0].up = true;
    let alone = |pair: &Pair| established(&pair.client).iter().all(|subflow| subflow.interface == 1);
    assert!(pair.run_until(Duration::from_secs(3), alone), "{:#?}", pair.client.info());
}

#[test]
//= RFC 8684 3.4.1-3 (test)
//= RFC 8684 3.4.1-5 (test)
fn an_address_that_comes_back_is_announced_and_joined_under_another_identifier() {
    let config = ConnectionConfig::default();
    let server = ConnectionConfig { path_manager: "signal".into(), ..config.clone() };
    let mut pair = busy_pair(2, &config, &server);
    let seen = Seen::default();
    pair.middlebox = Some(watch(seen.clone(), |_| false));
    for _ in 0..3 {
        let (now, local) = (pair.now, address(1, 2, false));
        pair.server.endpoint.remove_local_address(now, local);
        until_subflows(&mut pair, 1);
        let local = LocalAddress { address: local, interface: 2, mtu: 1500, backup: false };
        let now = pair.now;
        pair.server.endpoint.add_local_address(now, local);
        until_subflows(&mut pair, 2);
    }
    let seen = seen.lock().unwrap();
    let mut ids: Vec<u8> = seen.iter().filter(|(_, echo)| !echo).map(|(id, _)| *id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{seen:?}");
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]) && !ids.contains(&0), "{ids:?}");
}
