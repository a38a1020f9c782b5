//! How connections end when not all of their paths work, and what becomes of a path that can't be trusted.

use super::pair::{Pair, PathConfig, path_of, pattern};
use crate::wire::{Flags, MptcpOption};
use crate::{CloseReason, ConnectionConfig};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Two paths; the transfer of this many octets each way takes about a second.
fn pair() -> Pair {
    let path = PathConfig { delay: Duration::from_millis(20), ..PathConfig::default() };
    Pair::new(4, vec![path; 2], false, &ConnectionConfig::default())
}

fn assert_complete(pair: &Pair, octets: usize) {
    assert!(pair.server.received == pattern(octets, 1) && pair.client.received == pattern(octets, 2));
    let closed = (pair.client.closed, pair.server.closed);
    assert_eq!(closed, (Some(CloseReason::Finished), Some(CloseReason::Finished)));
}

#[test]
//= RFC 8684 3.3.3-4 (test)
fn a_path_that_died_does_not_hold_up_the_end() {
    for died in [0, 1] {
        let mut pair = pair();
        pair.send(pattern(3_000_000, 1), pattern(3_000_000, 2));
        assert!(pair.run_until(Duration::from_secs(5), |pair| {
            pair.client.info().subflows.iter().filter(|subflow| subflow.bytes_acked > 0).count() == 2
        }));
        pair.paths[died].up = false;
        assert!(pair.run_until(Duration::from_secs(20), |pair| {
            pair.client.received.len() == 3_000_000 && pair.server.received.len() == 3_000_000
        }));
        assert!(pair.run(Duration::from_secs(3)), "path {died}: {}", pair.tail());
        assert_complete(&pair, 3_000_000);
    }
}

#[test]
fn a_join_that_nobody_answers_does_not_hold_up_the_end() {
    let mut pair = pair();
    pair.middlebox = Some(Box::new(|_, segment| {
        let join = segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::Join(_)));
        (!join || !segment.flags.has(Flags::SYN)).then_some(segment)
    }));
    pair.send(pattern(100_000, 1), pattern(100_000, 2));
    assert!(pair.run(Duration::from_secs(3)), "{}", pair.tail());
    assert_complete(&pair, 100_000);
}

/// A subflow that nobody answers has the initial RTO, which is no reason to wait that long on the others.
#[test]
//= RFC 8684 3.3.3-1 (test)
//= RFC 8684 3.3.3-2 (test)
fn a_lost_data_fin_is_repeated_whatever_becomes_of_a_join() {
    let mut pair = pair();
    let mut lost = false;
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        let join = segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::Join(_)));
        let fin = from_client && segment.options.dss().is_some_and(|dss| dss.data_fin);
        let drop = join && segment.flags.has(Flags::SYN) || fin && !std::mem::replace(&mut lost, true);
        (!drop).then_some(segment)
    }));
    pair.send_only(pattern(1000, 1), Vec::new());
    pair.run_until(Duration::from_millis(200), |_| false);
    assert_eq!(pair.server.received, pattern(1000, 1));
    let finished = pair.now;
    pair.send(pattern(1000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(3), |pair| pair.server.ended), "{}", pair.tail());
    let waited = pair.now - finished;
    assert!(waited > Duration::from_millis(200) && waited < Duration::from_millis(400), "{waited:?}");
}

/// Found by `cargo xtask soak` (dynamic 24256): a subflow that ends before the third ACK of its MP_JOIN is answered repeats that,
/// and not the SYN.
#[test]
fn a_join_that_is_answered_once_and_never_again_sends_one_syn() {
    let mut pair = pair();
    let syns = Rc::new(Cell::new(0));
    let (seen, mut ending) = (syns.clone(), false);
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        let (second, syn) = (path_of(segment.src.ip()) == 1, segment.flags.has(Flags::SYN));
        seen.set(seen.get() + u32::from(from_client && second && syn));
        ending |= from_client && segment.flags.has(Flags::FIN);
        (from_client || syn || !second && !ending).then_some(segment)
    }));
    pair.send_only(pattern(10_000, 1), Vec::new());
    pair.run_until(Duration::from_millis(300), |_| false);
    pair.send(pattern(10_000, 1), Vec::new());
    pair.run_until(Duration::from_secs(20), |_| false);
    assert_eq!(pair.server.received, pattern(10_000, 1));
    assert_eq!(syns.get(), 1);
}

#[test]
fn a_path_that_changes_the_data_is_not_tried_again_at_once() {
    let config = ConnectionConfig { checksum: true, ..ConnectionConfig::default() };
    // The second path is the faster one, and preferred.
    let paths =
        [50, 2].map(|delay| PathConfig { delay: Duration::from_millis(delay), ..PathConfig::default() });
    let mut pair = Pair::new(4, paths.to_vec(), false, &config);
    let start = pair.now;
    let joins = Rc::new(Cell::new(0));
    let count = joins.clone();
    let mut changes = 0u8;
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        let join = segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::Join(_)));
        count.set(count.get() + u32::from(from_client && join && segment.flags.has(Flags::SYN)));
        if !from_client && path_of(segment.src.ip()) == 1 && !segment.payload.is_empty() {
            let mut octets = segment.payload.to_vec();
            // Not the same change in each packet of a mapping: sums would make up for each other.
            changes = changes.wrapping_add(1);
            octets[0] = changes;
            segment.payload = octets.into();
        }
        Some(segment)
    }));
    pair.send(Vec::new(), pattern(3_000_000, 2));
    assert!(pair.run(Duration::from_secs(20)), "{}", pair.tail());
    assert!(pair.client.received == pattern(3_000_000, 2));
    // One at the beginning, and one for each second or so that the transfer took.
    let seconds = (pair.now - start).as_secs();
    assert!((1..=seconds + 2).contains(&u64::from(joins.get())), "{} joins in {seconds} s", joins.get());
}
