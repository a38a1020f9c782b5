//! Destinations that do not like Multipath TCP are remembered.

use super::pair::{Pair, PathConfig, address};
use crate::wire::{Flags, Segment};
use crate::{ConnectionConfig, Counter, FallbackReason};
use std::net::SocketAddr;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Loses SYNs of the client with MP_CAPABLE.
fn blackhole() -> super::pair::Middlebox {
    Box::new(|from_client, segment: Segment| {
        let dropped = from_client && segment.flags.has(Flags::SYN) && segment.options.capable().is_some();
        (!dropped).then_some(segment)
    })
}

/// Opens the next connection, transfers, and gives why it was regular TCP and how long it took.
fn next(pair: &mut Pair, port: u16) -> (Option<FallbackReason>, Duration) {
    let socket = |host, port| SocketAddr::new(address(0, host, false), port);
    pair.reopen(socket(1, port), socket(2, 5000), &ConnectionConfig::default());
    measure(pair)
}

fn measure(pair: &mut Pair) -> (Option<FallbackReason>, Duration) {
    let begin = pair.now;
    let (client, _) = pair.exchange(50_000, 50_000);
    (client.fallback, pair.now - begin)
}

fn count(pair: &Pair, counter: Counter) -> u64 {
    pair.client.endpoint.counters().get(counter)
}

#[test]
//= RFC 8684 3.9.3-1 (test)
fn a_destination_whose_way_loses_the_option_is_spared_it_for_a_while() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    pair.middlebox = Some(blackhole());
    let (reason, time) = measure(&mut pair);
    assert_eq!(reason, Some(FallbackReason::SynRetransmission));
    assert!(time > Duration::from_secs(2));
    let (reason, time) = next(&mut pair, 1001);
    assert_eq!(reason, Some(FallbackReason::DestinationRemembered));
    assert!(time < Duration::from_secs(1), "{time:?}");
    assert_eq!(count(&pair, Counter::Blackhole), 1);
    assert_eq!(count(&pair, Counter::MpCapableSynTxDisabled), 1);
    let known = pair.client.endpoint.blackholes(pair.now);
    assert_eq!((known.len(), known[0].failures), (1, 1));
    assert_eq!(known[0].destination, SocketAddr::new(address(0, 2, false), 5000));
    // After an hour it is tried again, and fails again: two hours.
    pair.now += HOUR;
    assert_eq!(next(&mut pair, 1002).0, Some(FallbackReason::SynRetransmission));
    pair.now += HOUR;
    assert_eq!(next(&mut pair, 1003).0, Some(FallbackReason::DestinationRemembered));
    assert_eq!(pair.client.endpoint.blackholes(pair.now)[0].failures, 2);
    // By then the way has become a good one, and all is forgotten.
    pair.middlebox = None;
    pair.now += HOUR;
    assert_eq!(next(&mut pair, 1004).0, None);
    assert!(pair.client.endpoint.blackholes(pair.now).is_empty());
    pair.middlebox = Some(blackhole());
    assert_eq!(next(&mut pair, 1005).0, Some(FallbackReason::SynRetransmission));
    let known = pair.client.endpoint.blackholes(pair.now)[0];
    assert!(known.failures == 1 && known.left <= HOUR, "{known:?}");
    pair.client.endpoint.forget_blackholes();
    assert!(pair.client.endpoint.blackholes(pair.now).is_empty());
}

#[test]
fn a_destination_that_does_not_answer_at_all_says_nothing_of_the_option() {
    let config = ConnectionConfig { connect_timeout: Duration::from_secs(20), ..ConnectionConfig::default() };
    let down = PathConfig { up: false, ..PathConfig::default() };
    let mut pair = Pair::new(1, vec![down], false, &config);
    assert!(pair.run_until(Duration::from_secs(30), |pair| pair.client.closed.is_some()));
    assert_eq!(count(&pair, Counter::MpCapableSynTxDrop), 1);
    assert!(pair.client.endpoint.blackholes(pair.now).is_empty());
}

#[test]
fn a_slow_answer_to_the_option_is_not_held_against_it() {
    // The first SYN takes seconds, so that one without the option has left when it is answered.
    let slow = PathConfig { delay: Duration::from_millis(4000), ..PathConfig::default() };
    let mut pair = Pair::new(1, vec![slow], false, &ConnectionConfig::default());
    pair.exchange(1000, 1000);
    assert_eq!(count(&pair, Counter::MpCapableSynTxDrop), 1);
    assert!(pair.client.endpoint.blackholes(pair.now).is_empty());
}

#[test]
fn a_way_on_which_the_data_is_changed_is_remembered_by_the_side_that_opened() {
    let config = ConnectionConfig { checksum: true, max_subflows: 1, ..ConnectionConfig::default() };
    for upwards in [true, false] {
        let mut pair = Pair::new(1, vec![PathConfig::default()], false, &config);
        pair.middlebox = Some(Box::new(move |from_client, mut segment| {
            if from_client == upwards && !segment.payload.is_empty() {
                let octets: Vec<u8> = segment.payload.to_vec().iter().map(|octet| octet ^ 0x20).collect();
                segment.payload = octets.into();
            }
            Some(segment)
        }));
        pair.send(vec![1; 100_000], vec![2; 100_000]);
        assert!(pair.run(Duration::from_secs(60)));
        assert_eq!(pair.client.endpoint.blackholes(pair.now).len(), 1);
        assert!(pair.server.endpoint.blackholes(pair.now).is_empty());
    }
}
