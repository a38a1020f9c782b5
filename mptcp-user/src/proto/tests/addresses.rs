//! How addresses are announced.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::proto::{CloseReason, ConnectionConfig, LocalAddress};
use crate::wire::MptcpOption;
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

#[test]
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
fn a_connection_that_carries_little_or_nothing_gets_its_other_paths_at_once() {
    for octets in [0, 2] {
        let mut pair = Pair::new(4, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
        pair.send_only(pattern(octets, 1), Vec::new());
        let both = |pair: &Pair| {
            let confirmed = |info: crate::proto::ConnectionInfo| {
                info.subflows.iter().filter(|subflow| subflow.confirmed).count()
            };
            pair.client.connection.is_some() && confirmed(pair.client.info()) == 2
        };
        assert!(pair.run_until(Duration::from_secs(1), both), "{octets} octets:\n{}", pair.tail());
    }
}
