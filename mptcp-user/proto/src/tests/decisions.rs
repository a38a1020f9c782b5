//! What the engine decides can be watched, and costs nothing to who does not.

use super::pair::{Pair, PathConfig, pattern};
use crate::{ConnectionConfig, Decided, Decision, ReinjectionCause, Wait};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything the client has decided so far.
fn decided(pair: &mut Pair) -> Vec<Decided> {
    std::iter::from_fn(|| pair.client.endpoint.poll_decision()).collect()
}

#[test]
fn every_octet_was_scheduled_once_and_what_was_lost_was_reinjected() {
    let mut pair = Pair::new(4, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    pair.client.endpoint.watch_decisions(true);
    pair.send(pattern(20_000_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(10), |pair| pair.server.received.len() > 5_000_000));
    pair.paths[1].up = false;
    assert!(pair.run_until(Duration::from_secs(10), |pair| pair.server.received.len() == 20_000_000));
    pair.paths[1].up = true;
    assert!(pair.run(Duration::from_secs(30)), "{}", pair.tail());
    let decided = decided(&mut pair);
    assert!(decided.windows(2).all(|pair| pair[0].time <= pair[1].time));
    let mut next = 0;
    let mut reinjected = 0;
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    for Decided { decision, .. } in &decided {
        let kind = match decision {
            Decision::Scheduled { subflow, start, octets, scheduler, among } => {
                assert_eq!(*start, next, "in the order of the stream");
                next += octets;
                assert_eq!(*scheduler, "lowest-rtt");
                let chosen = among.iter().find(|candidate| candidate.subflow == *subflow).unwrap();
                assert!(chosen.usable && chosen.room > 0, "{decision:?}");
                "scheduled"
            }
            Decision::Reinjected { octets, .. } => {
                reinjected += octets;
                "reinjected"
            }
            Decision::ReinjectionWanted { cause: ReinjectionCause::Timeout, .. } => "wanted",
            Decision::Stale { .. } => "stale",
            Decision::SubflowOpened { .. } => "opened",
            Decision::SubflowWanted { .. } => "subflow-wanted",
            Decision::Congestion { .. } => "congestion",
            Decision::Closed { .. } => "closed",
            _ => "other",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!(next, 20_000_000);
    assert_eq!(reinjected, pair.client.info().bytes_reinjected);
    for kind in ["scheduled", "reinjected", "wanted", "stale", "opened", "subflow-wanted", "congestion"] {
        assert!(kinds.contains_key(kind), "no {kind} among {kinds:?}");
    }
    assert_eq!((kinds["opened"], kinds["closed"]), (2, 1));
}

#[test]
fn a_window_that_is_closed_is_said_once() {
    let config = ConnectionConfig { receive_buffer: 100_000, ..ConnectionConfig::default() };
    let mut pair = Pair::new(6, vec![PathConfig::default()], false, &config);
    pair.client.endpoint.watch_decisions(true);
    pair.server.read_limit = 50_000;
    pair.send(pattern(1_000_000, 1), Vec::new());
    pair.run_until(Duration::from_secs(30), |_| false);
    let decided = decided(&mut pair);
    let last = decided.iter().rposition(|one| matches!(one.decision, Decision::Scheduled { .. })).unwrap();
    let closed = |one: &&Decided| matches!(one.decision, Decision::Waiting { why: Wait::PeerWindow, .. });
    assert_eq!(decided[last..].iter().filter(closed).count(), 1, "{:?}", &decided[last..]);
}

#[test]
fn nobody_who_does_not_ask_is_told() {
    let mut pair = Pair::new(4, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    pair.exchange(100_000, 100_000);
    assert_eq!(decided(&mut pair), []);
}
