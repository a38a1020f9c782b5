//! A process that was stopped: nothing is given up or suspected before it was asked for again.

use super::pair::{Pair, PathConfig, pattern};
use crate::wire::Flags;
use crate::{CloseReason, ConnectionConfig, Event, KeepAlive};
use std::time::Duration;

fn paths(count: usize) -> Vec<PathConfig> {
    vec![PathConfig { delay: Duration::from_millis(20), ..PathConfig::default() }; count]
}

fn impatient() -> ConnectionConfig {
    ConnectionConfig { user_timeout: Duration::from_secs(5), ..ConnectionConfig::default() }
}

/// Runs for a while, then stops the client.
fn stop_after(pair: &mut Pair, run: Duration, pause: Duration) {
    pair.run_until(run, |_| false);
    pair.stopped = Some(pair.now + pause);
}

fn closed(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Closed(..)))
}

#[test]
fn a_sender_that_was_stopped_for_longer_than_the_user_timeout_goes_on() {
    for (count, pause) in [(1, 8), (2, 8), (1, 3600), (2, 100)] {
        let server =
            ConnectionConfig { user_timeout: Duration::from_secs(7200), ..ConnectionConfig::default() };
        for lost in [false, true] {
            let mut pair = Pair::with_configs(3, paths(count), false, &impatient(), &server);
            let sent = pattern(20_000_000, 1);
            pair.budget = 10;
            pair.send(sent.clone(), Vec::new());
            stop_after(&mut pair, Duration::from_millis(300), Duration::from_secs(pause));
            if lost {
                // What comes while the process is stopped finds no room.
                pair.middlebox = Some(Box::new(bool::then_some));
            }
            let timeouts =
                |pair: &Pair| pair.client.info().subflows.iter().map(|subflow| subflow.timeouts).sum::<u64>();
            assert!(pair.client.info().bytes_acked < sent.len() as u64);
            let before = timeouts(&pair);
            pair.run_until(Duration::from_secs(pause) - Duration::from_millis(1), |_| false);
            pair.middlebox = None;
            pair.run_until(Duration::from_millis(30), |_| false);
            assert_eq!(timeouts(&pair), before, "{count} paths, {pause} s: asked before it is suspected");
            assert!(pair.client.info().subflows.iter().all(|subflow| !subflow.stale), "{}", pair.tail());
            assert!(pair.run(Duration::from_secs(120)), "{}", pair.tail());
            assert_eq!(pair.client.closed, Some(CloseReason::Finished), "{count} paths, {pause} s");
            assert!(pair.server.received == sent);
        }
    }
}

#[test]
fn a_peer_that_has_vanished_meanwhile_is_given_up_after_it_was_asked() {
    for count in [1, 2] {
        let mut pair = Pair::new(5, paths(count), false, &impatient());
        pair.budget = 10;
        pair.send_only(pattern(20_000_000, 1), Vec::new());
        stop_after(&mut pair, Duration::from_millis(300), Duration::from_secs(20));
        pair.middlebox = Some(Box::new(|_, _| None));
        let woken = pair.now + Duration::from_secs(20);
        assert!(pair.run_until(Duration::from_secs(60), |pair| pair.client.closed.is_some()));
        assert_eq!(pair.client.closed, Some(CloseReason::TimedOut));
        let waited = pair.now - woken;
        assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(15), "{waited:?}");
    }
}

#[test]
fn a_connection_at_rest_is_asked_anew_by_keep_alives() {
    let keep_alive = KeepAlive { idle: Duration::from_secs(10), interval: Duration::from_secs(1), probes: 3 };
    let config = ConnectionConfig { keep_alive: Some(keep_alive), ..ConnectionConfig::default() };
    for (pause, vanished) in [(9, false), (40, false), (3600, false), (3600, true)] {
        for seed in 0..3 {
            let mut pair = Pair::with_configs(seed, paths(1), false, &config, &ConnectionConfig::default());
            pair.send_only(b"hello".to_vec(), b"hello".to_vec());
            stop_after(&mut pair, Duration::from_secs(5), Duration::from_secs(pause));
            if vanished {
                pair.middlebox = Some(Box::new(|_, _| None));
            }
            let woken = pair.now + Duration::from_secs(pause);
            pair.run_until(Duration::from_secs(pause) + Duration::from_secs(120), |pair| {
                closed(&pair.client.events)
            });
            assert_eq!(pair.client.closed.is_some(), vanished, "{pause} s: {}", pair.tail());
            if vanished {
                assert!(pair.now - woken >= Duration::from_secs(1), "{:?}", pair.now - woken);
            }
        }
    }
}

#[test]
fn a_client_that_was_stopped_while_it_connected_still_connects() {
    let config = ConnectionConfig { connect_timeout: Duration::from_secs(5), ..ConnectionConfig::default() };
    for lost in [false, true] {
        let mut pair = Pair::new(7, paths(1), false, &config);
        let mut dropped = !lost;
        // The first SYN/ACK comes to nothing.
        pair.middlebox = Some(Box::new(move |from_client, segment| {
            let drop = !from_client && segment.flags.has(Flags::SYN) && !dropped;
            dropped |= drop;
            (!drop).then_some(segment)
        }));
        stop_after(&mut pair, Duration::from_millis(1), Duration::from_secs(12));
        let connected =
            |pair: &Pair| pair.client.events.iter().any(|event| matches!(event, Event::Connected(_)));
        assert!(pair.run_until(Duration::from_secs(30), connected), "{}", pair.tail());
    }
}
