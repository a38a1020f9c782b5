//! What a peer makes an endpoint hold, and at which offsets.

use super::pair::{Pair, PathConfig, pattern};
use crate::ConnectionConfig;
use crate::counters::Counter;
use crate::wire::{Dss, Flags, Mapping, MptcpOption, Segment};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A pair whose connection is established, and the last segment of the client that had a mapping.
fn established() -> (Pair, Segment) {
    let mut pair = Pair::new(2, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let last = Rc::new(RefCell::new(None));
    let seen = last.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        if from_client && !segment.payload.is_empty() {
            *seen.borrow_mut() = Some(segment.clone());
        }
        Some(segment)
    }));
    pair.send_only(pattern(200_000, 1), pattern(200_000, 2));
    pair.run_until(Duration::from_secs(1), |_| false);
    let mut last = last.borrow().clone().expect("data was sent");
    // It is not from the past.
    if let Some(stamps) = &mut last.options.timestamps {
        stamps.value = stamps.value.wrapping_add(10_000);
    }
    pair.middlebox = None;
    let (now, id) = (pair.now, pair.server.connection.expect("accepted"));
    // Nor is the connection at rest.
    pair.server.endpoint.consumed(now, id, 0);
    (pair, last)
}

fn mapping(segment: &mut Segment) -> &mut Mapping {
    let dss = segment.options.mptcp.iter_mut().find_map(|option| match option {
        MptcpOption::Dss(Dss { mapping, .. }) => mapping.as_mut(),
        _ => None,
    });
    dss.expect("a mapping")
}

#[test]
fn mappings_without_octets_count_against_the_memory() {
    let (mut pair, mut segment) = established();
    let limit = 100_000;
    pair.server.endpoint.limit_memory(limit);
    let (octets, now) = (segment.payload.len() as u32, pair.now);
    segment.payload = crate::wire::Payload::new();
    segment.flags = Flags::ACK;
    segment.seq += octets;
    mapping(&mut segment).len = 1;
    let first = *mapping(&mut segment);
    let mut most = 0;
    for number in 0..5000 {
        let far = octets + 10 + 2 * number;
        let known = mapping(&mut segment);
        known.subflow_seq = first.subflow_seq.wrapping_add(far);
        known.dsn = first.dsn + u64::from(far);
        pair.server.endpoint.handle_segment(now, segment.clone());
        while pair.server.endpoint.poll_transmit(now).is_some() {}
        most = most.max(pair.server.endpoint.memory_used());
    }
    assert!(most > limit / 2 && most <= limit + limit / 4, "{most}");
    assert!(pair.server.endpoint.counters().get(Counter::OfoDrop) > 1000);
}

#[test]
fn octets_that_were_not_copied_because_nobody_would_take_them_are_not_taken() {
    let (mut pair, segment) = established();
    let now = pair.now;
    let octets = segment.payload.len();
    let refuses = |pair: &Pair, segment: &Segment| {
        let headers = Segment { payload: crate::wire::Payload::new(), ..segment.clone() };
        pair.server.endpoint.refuses(now, &headers, octets)
    };
    // What came before, what is expected next, what lies far ahead, and what is nobody's.
    assert!(refuses(&pair, &segment));
    let mut next = segment.clone();
    next.seq += octets as u32;
    assert!(!refuses(&pair, &next));
    let mut far = segment.clone();
    far.seq += 1 << 30;
    assert!(refuses(&pair, &far));
    let mut stranger = segment.clone();
    stranger.src.set_port(1);
    assert!(refuses(&pair, &stranger));
    // If one of them is expected after all, it has to come again.
    let received = pair.server.received.len();
    next.payload = crate::wire::Payload::hollow(octets);
    for hollow in [&next, &Segment { payload: next.payload.clone(), ..stranger }] {
        pair.server.endpoint.handle_segment(now, hollow.clone());
    }
    pair.run_until(Duration::from_secs(1), |_| false);
    assert_eq!(pair.server.received.len(), received);
}

#[test]
fn octets_that_wait_let_go_of_the_blocks_they_came_in() {
    let (mut pair, mut segment) = established();
    let (octets, now) = (segment.payload.len() as u32, pair.now);
    let first = *mapping(&mut segment);
    let mut blocks = Vec::new();
    for number in 0..20 {
        let far = octets + 10 + 2000 * number;
        segment.seq += if number == 0 { far } else { 2000 };
        let known = mapping(&mut segment);
        (known.subflow_seq, known.len) = (first.subflow_seq.wrapping_add(far), 1500);
        known.dsn = first.dsn + u64::from(far);
        let block = Bytes::from(vec![number as u8; 128 << 10]);
        segment.payload = block.slice(..1500).into();
        pair.server.endpoint.handle_segment(now, segment.clone());
        blocks.push(block);
    }
    segment.payload = crate::wire::Payload::new();
    assert!(blocks.iter().all(|block| !block.is_unique()));
    let before = pair.server.endpoint.memory_used();
    pair.server.endpoint.compact();
    assert!(blocks.iter().all(Bytes::is_unique));
    assert_eq!(pair.server.endpoint.memory_used(), before);
}

#[test]
fn mappings_half_the_sequence_space_ahead_are_ignored() {
    for back in [0u64, 1, 100, 50_000, 1 << 61, 1 << 62] {
        let (mut pair, mut segment) = established();
        let (octets, now) = (segment.payload.len() as u32, pair.now);
        segment.seq += octets;
        let known = mapping(&mut segment);
        known.subflow_seq = known.subflow_seq.wrapping_add(octets);
        known.dsn = known.dsn + u64::from(octets) + ((1 << 63) - 1 - back);
        known.dsn_long = true;
        let bad = |pair: &Pair| pair.server.endpoint.counters().get(Counter::BadMapping);
        let before = bad(&pair);
        pair.server.endpoint.handle_segment(now, segment);
        assert_eq!(bad(&pair), before + 1, "2^63 - 1 - {back}");
    }
}
