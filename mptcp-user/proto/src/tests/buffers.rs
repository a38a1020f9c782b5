//! Windows and buffers: what is offered, how much is held, and that nothing gets stuck.

use super::pair::{Pair, PathConfig, pattern};
use crate::wire::{Flags, MptcpOption, Payload, Segment};
use crate::{ConnectionConfig, Counter};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Lengths of the segments with data that the client has sent.
fn lengths(pair: &Pair) -> Vec<usize> {
    let sent = pair.log.iter().filter(|line| line.contains(":39999 > "));
    let length = |line: &String| line.split(" len ").nth(1)?.split_whitespace().next()?.parse().ok();
    sent.filter_map(length).filter(|len| *len > 0).collect()
}

#[test]
fn a_buffer_smaller_than_a_segment_is_served_all_the_same() {
    for multipath in [true, false] {
        for receive_buffer in [1, 100, 1000, 2000] {
            let client = ConnectionConfig { multipath, ..ConnectionConfig::default() };
            let server = ConnectionConfig { receive_buffer, ..client.clone() };
            let mut pair = Pair::with_configs(1, vec![PathConfig::default()], false, &client, &server);
            let data = pattern(20 * receive_buffer, 1);
            pair.send(data.clone(), Vec::new());
            assert!(pair.run(Duration::from_secs(60)), "{receive_buffer} {}", pair.tail());
            assert!(pair.server.received == data);
        }
    }
}

#[test]
fn a_reader_in_small_bites_gets_full_segments() {
    for multipath in [true, false] {
        let config = ConnectionConfig { multipath, receive_buffer: 20_000, ..ConnectionConfig::default() };
        let mut pair = Pair::new(2, vec![PathConfig::default()], false, &config);
        let data = pattern(100_000, 1);
        pair.send(data.clone(), Vec::new());
        pair.server.read_limit = 0;
        for _ in 0..1000 {
            pair.server.read_limit += 100;
            pair.run_until(Duration::from_millis(2), |_| false);
        }
        assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
        assert!(pair.server.received == data);
        let lengths = lengths(&pair);
        assert_eq!(lengths.iter().sum::<usize>(), 100_000);
        let small = lengths.iter().filter(|len| **len < 1400).count();
        assert!(lengths.len() <= 100_000 / 1400 + small && small <= 3, "{lengths:?}");
    }
}

#[test]
fn scarce_memory_makes_windows_small_and_drops_nothing() {
    for multipath in [true, false] {
        let config = ConnectionConfig { multipath, ..ConnectionConfig::default() };
        let mut pair = Pair::new(3, vec![PathConfig::default(); 2], false, &config);
        let limit = 300_000;
        pair.server.endpoint.limit_memory(limit);
        pair.client.endpoint.limit_memory(400_000);
        let data = pattern(3_000_000, 1);
        pair.send(data.clone(), Vec::new());
        pair.server.read_limit = 500_000;
        pair.run_until(Duration::from_secs(20), |_| false);
        let info = pair.server.info();
        assert_eq!(pair.server.received.len(), 500_000);
        assert!(info.receive_queue > 10_000 && info.receive_buffer < limit / 4 + 1, "{info:#?}");
        assert!(pair.server.endpoint.memory_used() <= limit / 4 + 1);
        assert!(pair.client.info().send_queue <= 100_000 + 60_000, "{:#?}", pair.client.info());
        pair.server.read_limit = usize::MAX;
        let now = pair.now;
        pair.server.read(now);
        assert!(pair.run(Duration::from_secs(100)), "{}", pair.tail());
        assert!(pair.server.received == data);
        for host in [&pair.client, &pair.server] {
            assert_eq!(host.endpoint.memory_used(), 0);
            let dropped =
                [Counter::RcvQDrop, Counter::OfoDrop].map(|counter| host.endpoint.counters().get(counter));
            assert_eq!(dropped, [0, 0]);
        }
    }
}

/// An established connection, and the client's last segment.
fn established(multipath: bool) -> (Pair, Segment) {
    let config = ConnectionConfig { multipath, ..ConnectionConfig::default() };
    let mut pair = Pair::new(4, vec![PathConfig::default()], false, &config);
    let last = Rc::new(RefCell::new(None));
    let seen = last.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        if from_client {
            *seen.borrow_mut() = Some(segment.clone());
        }
        Some(segment)
    }));
    pair.server.read_limit = 0;
    pair.run_until(Duration::from_millis(500), |_| false);
    let mut segment = last.borrow().clone().unwrap();
    segment.flags = Flags::ACK;
    segment.options.mptcp.clear();
    (pair, segment)
}

/// Found by `cargo xtask soak` (pair 140408): octets that come with an old timestamp (PAWS, RFC 7323 section 5.3) are not kept,
/// not even behind some that came before.
#[test]
fn a_segment_of_the_past_brings_nothing_new() {
    let (mut pair, template) = established(false);
    let mut take = |segment: Segment| {
        pair.server.endpoint.handle_segment(pair.now, segment);
        let answer = pair.server.endpoint.poll_transmit(pair.now);
        (pair.server.info().receive_queue, answer)
    };
    assert_eq!(take(Segment { payload: vec![1; 100].into(), ..template.clone() }).0, 100);
    let mut old = Segment { seq: template.seq + 50, payload: vec![2; 200].into(), ..template.clone() };
    old.options.timestamps.as_mut().unwrap().value -= 1_000_000;
    let (queue, answer) = take(old);
    let answer = answer.expect("an acknowledgment");
    assert_eq!((queue, answer.ack), (100, template.seq + 100));
    let blocks: Vec<_> = answer.options.sack.iter().map(|block| (block.start, block.end)).collect();
    assert_eq!(blocks, [(template.seq + 50, template.seq + 100)], "a D-SACK alone");
    assert_eq!(
        take(Segment { seq: template.seq + 100, payload: vec![3; 10].into(), ..template.clone() }).0,
        110
    );
}

/// Found by `cargo xtask soak` (lossy 12792): jitter let every DATA_FIN that went by itself be overtaken by an acknowledgment, and its
/// timestamp was of the past then.
#[test]
fn options_of_an_acknowledgment_that_was_overtaken_count() {
    for (older, counts) in [(1, 1), (1000, 1), (1001, 0)] {
        let (mut pair, template) = established(true);
        let mut later = template.clone();
        later.payload = Payload::new();
        let mut overtaken = later.clone();
        later.options.timestamps.as_mut().unwrap().value += older;
        overtaken.options.mptcp.push(MptcpOption::Priority { backup: true, address_id: None });
        pair.server.endpoint.handle_segment(pair.now, later);
        pair.server.endpoint.handle_segment(pair.now, overtaken);
        assert_eq!(pair.server.endpoint.counters().get(Counter::MpPrioRx), counts, "{older} ms");
    }
}

#[test]
fn single_octets_with_gaps_cost_no_more_than_the_window_is_worth() {
    let (mut pair, template) = established(false);
    for gap in (0..60_000u32).rev() {
        let mut segment = template.clone();
        segment.seq += 2 * gap + 1;
        segment.payload = vec![1].into();
        pair.server.endpoint.handle_segment(pair.now, segment);
        while pair.server.endpoint.poll_transmit(pair.now).is_some() {}
        let used = pair.server.endpoint.memory_used();
        assert!(used <= 3 * (128 << 10) + 1000, "{used}");
    }
    assert!(pair.server.endpoint.counters().get(Counter::OfoDrop) > 10_000);
    // The gaps are filled all the same.
    for start in (0..120_000u32).step_by(1000) {
        let mut segment = template.clone();
        segment.seq += start;
        segment.payload = vec![1; 1000].into();
        pair.server.endpoint.handle_segment(pair.now, segment);
        while pair.server.endpoint.poll_transmit(pair.now).is_some() {}
    }
    assert_eq!(pair.server.info().receive_queue, 120_000);
    pair.server.read_limit = usize::MAX;
    let now = pair.now;
    pair.server.read(now);
    assert_eq!(pair.server.received, vec![1; 120_000]);
}

#[test]
fn a_peer_that_ignores_the_window_gets_no_more_into_the_buffer() {
    let (mut pair, template) = established(false);
    let window = pair.server.info().receive_window;
    for start in (0..2_000_000u32).step_by(1000) {
        let mut segment = template.clone();
        segment.seq += start;
        segment.payload = vec![1; 1000].into();
        pair.server.endpoint.handle_segment(pair.now, segment);
        while pair.server.endpoint.poll_transmit(pair.now).is_some() {}
    }
    let info = pair.server.info();
    assert!(info.receive_queue <= info.receive_buffer && info.receive_queue >= window, "{info:#?}");
    assert_eq!(info.receive_buffer, 128 << 10);
}

#[test]
fn an_application_is_no_further_ahead_than_its_path_needs() {
    let mut pair = Pair::new(31, vec![PathConfig::default()], false, &ConnectionConfig::default());
    pair.send(pattern(40_000_000, 1), Vec::new());
    let mut stood_still = 0;
    for received in [5_000_000, 10_000_000, 20_000_000, 30_000_000] {
        assert!(pair.run_until(Duration::from_secs(30), |pair| pair.server.received.len() >= received));
        let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
        let waiting = info.send_queue - (info.bytes_sent - info.bytes_acked);
        let subflow = &info.subflows[0];
        // It is away for no longer than a round trip, which is all that ever needs to wait.
        assert!(waiting <= subflow.cwnd + 64_000, "{waiting} of {}", subflow.cwnd);
        stood_still += u32::from(waiting == 0);
    }
    assert!(stood_still < 2, "the path has to wait for the application");
}

#[test]
fn small_segments_to_a_near_peer_do_not_stay_small() {
    let mut segments = 0;
    for seed in 0..4 {
        let near = PathConfig { delay: Duration::from_micros(20), loss: 0.001, ..PathConfig::default() };
        let mut pair = Pair::new(seed, vec![near], false, &ConnectionConfig::default());
        let data = pattern(20_000_000, 1);
        pair.send(data.clone(), Vec::new());
        assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
        assert!(pair.server.received == data);
        let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
        segments += info.subflows[0].segments_sent;
    }
    // There are 1280 super-segments' worth; each acknowledgment answered with as much as it is for takes 1726.
    assert!(segments < 1600, "{segments} segments");
}
