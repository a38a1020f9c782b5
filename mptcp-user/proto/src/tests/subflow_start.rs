//! When further subflows are begun with (RFC 8684 section 3.9.2).

use super::pair::{Pair, PathConfig, pattern};
use crate::wire::MptcpOption;
use crate::{ConnectionConfig, SubflowStart};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A pair over two paths of 10 ms there and back, with the number of its segments that concern further paths: SYNs with
/// MP_JOIN, and addresses with their echoes.
fn pair(config: &ConnectionConfig) -> (Pair, Arc<AtomicUsize>) {
    let mut pair = Pair::new(3, vec![PathConfig::default(); 2], false, config);
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    pair.middlebox = Some(Box::new(move |_, segment| {
        let concerns =
            |option: &MptcpOption| matches!(option, MptcpOption::Join(_) | MptcpOption::AddAddr(_));
        if segment.options.mptcp.iter().any(concerns) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Some(segment)
    }));
    (pair, seen)
}

/// How long after its beginning a connection has a second subflow.
fn wait_for_second(pair: &mut Pair) -> Duration {
    let began = pair.now;
    let both = |pair: &Pair| pair.client.connection.is_some() && pair.client.info().subflows.len() > 1;
    assert!(pair.run_until(Duration::from_secs(1), both), "{}", pair.tail());
    pair.now - began
}

#[test]
//= RFC 8684 3.9.2-1 (test)
fn a_short_connection_has_one_path_and_its_peer_is_told_of_no_other() {
    let (mut pair, seen) = pair(&ConnectionConfig::default());
    pair.exchange(64, 64);
    assert_eq!(seen.load(Ordering::Relaxed), 0, "{}", pair.tail());
}

#[test]
fn a_connection_that_carries_much_has_both_paths_as_soon_as_that_is_known() {
    for (up, down) in [(20_000, 0), (0, 20_000), (8000, 8000)] {
        let (mut pair, _) = pair(&ConnectionConfig::default());
        pair.send_only(pattern(up, 1), pattern(down, 2));
        // One round trip for the handshake; one more until the server's octets, or its first acknowledgment.
        let waited = wait_for_second(&mut pair);
        assert!(waited < Duration::from_millis(25), "{up} and {down} octets: {waited:?}");
    }
}

#[test]
fn a_silent_connection_has_both_paths_after_two_round_trips_or_the_time_that_was_configured() {
    let patient =
        SubflowStart { age: Duration::from_millis(100), ..ConnectionConfig::default().subflow_start };
    for (subflow_start, millis) in
        [(SubflowStart::default(), 30..35), (patient, 110..115), (SubflowStart::AT_ONCE, 10..15)]
    {
        let config = ConnectionConfig {
            subflow_start,
            path_manager: "full-mesh".into(),
            ..ConnectionConfig::default()
        };
        let (mut pair, _) = pair(&config);
        pair.send_only(pattern(1, 1), Vec::new());
        let waited = wait_for_second(&mut pair).as_millis();
        // The client is told that the server has its keys one round trip after the handshake.
        let millis = millis.start..millis.end + 15;
        assert!(millis.contains(&waited), "{subflow_start:?}: {waited} ms");
    }
}
