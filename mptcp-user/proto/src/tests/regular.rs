//! What RFC 9293 and its companions ask of any TCP, on the engine's subflows.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::{Flags, Segment, SeqNumber, UserTimeout};
use crate::{CloseReason, ConnectionConfig, Event, FallbackReason, KeepAlive, SubflowState};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

fn plain() -> ConnectionConfig {
    ConnectionConfig { multipath: false, ..ConnectionConfig::default() }
}

fn one_path() -> Vec<PathConfig> {
    vec![PathConfig::default()]
}

/// Remembers the last segment of each direction (from the server, from the client).
fn tap(pair: &mut Pair) -> Rc<RefCell<[Option<Segment>; 2]>> {
    let seen = Rc::new(RefCell::new([None, None]));
    let tap = seen.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        tap.borrow_mut()[usize::from(from_client)] = Some(segment.clone());
        Some(segment)
    }));
    seen
}

/// A pair whose connection is established and has gone silent, with the last segments of both sides.
fn silent(config: &ConnectionConfig) -> (Pair, Rc<RefCell<[Option<Segment>; 2]>>) {
    let mut pair = Pair::new(1, one_path(), false, config);
    let seen = tap(&mut pair);
    pair.send_only(pattern(10_000, 1), pattern(5_000, 2));
    let done = |pair: &Pair| pair.server.received.len() == 10_000 && pair.client.received.len() == 5_000;
    assert!(pair.run_until(Duration::from_secs(10), done));
    pair.run_until(Duration::from_secs(5), |_| false);
    (pair, seen)
}

#[test]
fn both_sides_may_open_at_once() {
    for config in [plain(), ConnectionConfig::default()] {
        for v6 in [false, true] {
            let mut pair = Pair::new(1, one_path(), v6, &config);
            let ours = SocketAddr::new(address(0, 2, v6), 5000);
            let theirs = SocketAddr::new(address(0, 1, v6), 39_999);
            let connection = pair.server.endpoint.connect(pair.now, ours, theirs, config.clone());
            pair.server.connection = Some(connection.unwrap());
            let (up, down) = (pattern(200_000, 1), pattern(100_000, 2));
            pair.send(up.clone(), down.clone());
            assert!(pair.run(Duration::from_secs(100)), "{}", pair.tail());
            assert!(pair.server.received == up && pair.client.received == down);
            assert!(pair.log.iter().any(|line| line.contains("39999 > 10.0.0.2:5000 [S.]") || v6));
            let reason =
                if config.multipath { FallbackReason::NoMpCapable } else { FallbackReason::NotRequested };
            for host in [&pair.client, &pair.server] {
                assert_eq!(host.closed, Some(CloseReason::Finished));
                let info = host.endpoint.info(host.connection.unwrap()).unwrap();
                assert_eq!(info.fallback, Some(reason));
                assert!(host.events.iter().any(|event| matches!(event, Event::Connected(_))));
            }
        }
    }
}

#[test]
fn an_idle_peer_that_vanished_is_found_by_keep_alive() {
    let keep_alive = KeepAlive { idle: Duration::from_secs(30), interval: Duration::from_secs(5), probes: 3 };
    let config = ConnectionConfig { keep_alive: Some(keep_alive), ..ConnectionConfig::default() };
    let (mut pair, _) = silent(&config);
    let before = pair.packets;
    pair.run_until(Duration::from_secs(300), |_| false);
    let probes = pair.packets - before;
    assert!((18..=45).contains(&probes), "{probes} packets in 300 s of silence\n{}", pair.tail());
    assert_eq!((pair.client.closed, pair.server.closed), (None, None));
    pair.paths[0].up = false;
    let gone = pair.now;
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert_eq!(
        (pair.client.closed, pair.server.closed),
        (Some(CloseReason::TimedOut), Some(CloseReason::TimedOut))
    );
    assert!(pair.now - gone <= Duration::from_secs(30 + 3 * 5 + 1), "{:?}", pair.now - gone);
}

#[test]
fn a_dead_subflow_is_found_while_the_connection_is_idle() {
    let keep_alive = KeepAlive { idle: Duration::from_secs(10), interval: Duration::from_secs(2), probes: 3 };
    let config = ConnectionConfig { keep_alive: Some(keep_alive), ..ConnectionConfig::default() };
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &config);
    pair.send_only(pattern(100_000, 1), Vec::new());
    pair.run_until(Duration::from_secs(3), |_| false);
    pair.paths[0].up = false;
    pair.run_until(Duration::from_secs(30), |_| false);
    let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
    let living: Vec<_> =
        info.subflows.iter().filter(|subflow| subflow.state == SubflowState::Established).collect();
    assert!(living.len() == 1 && !living[0].initial, "{info:#?}");
    assert_eq!((pair.client.closed, pair.server.closed), (None, None));
}

#[test]
fn the_longer_user_timeout_counts_for_both() {
    let with = |seconds| ConnectionConfig {
        user_timeout: Duration::from_secs(seconds),
        negotiate_user_timeout: true,
        multipath: false,
        ..ConnectionConfig::default()
    };
    let mut pair = Pair::with_configs(1, one_path(), false, &with(10), &with(45));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let tap = seen.clone();
    pair.middlebox = Some(Box::new(move |_, segment| {
        tap.borrow_mut().extend(segment.options.user_timeout);
        Some(segment)
    }));
    pair.send(pattern(50_000_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() > 1_000_000));
    assert_eq!(*seen.borrow(), [UserTimeout(10), UserTimeout(45)]);
    pair.paths[0].up = false;
    let gone = pair.now;
    assert!(pair.run_until(Duration::from_secs(200), |pair| pair.client.closed.is_some()));
    let took = pair.now - gone;
    assert!(took >= Duration::from_secs(44) && took < Duration::from_secs(100), "{took:?}");
}

#[test]
fn a_peer_that_keeps_its_window_closed_but_answers_is_kept() {
    for config in [plain(), ConnectionConfig::default()] {
        let config = ConnectionConfig { user_timeout: Duration::from_secs(5), ..config };
        let mut pair = Pair::new(1, one_path(), false, &config);
        pair.server.read_limit = 1_000_000;
        pair.send(pattern(30_000_000, 1), Vec::new());
        pair.run_until(Duration::from_secs(900), |_| false);
        assert_eq!((pair.client.closed, pair.server.closed), (None, None), "{}", pair.tail());
        pair.server.read_limit = usize::MAX;
        let now = pair.now;
        pair.server.read(now);
        assert!(pair.run(Duration::from_secs(200)), "{}", pair.tail());
        assert!(pair.server.received == pattern(30_000_000, 1));
    }
}

/// RFC 5961 sections 3 to 5: what someone who does not see the connection can send.
#[test]
//= RFC 8684 3-3 (test)
fn blind_segments_are_answered_and_change_nothing() {
    let (mut pair, seen) = silent(&plain());
    let last = seen.borrow()[1].clone().expect("the client has sent something");
    let forged: Vec<(&str, Segment)> = vec![
        ("RST in the window", Segment { flags: Flags::RST, seq: last.seq + 100, ..last.clone() }),
        ("SYN in the window", Segment { flags: Flags::SYN, seq: last.seq + 100, ..last.clone() }),
        ("SYN anywhere", Segment { flags: Flags::SYN, seq: last.seq + (1 << 31), ..last.clone() }),
        (
            "ACK of what was never sent",
            Segment { ack: last.ack + 10_000, payload: b"x".to_vec().into(), ..last.clone() },
        ),
        (
            "ACK of long ago",
            Segment { ack: last.ack + (1 << 31), payload: b"x".to_vec().into(), ..last.clone() },
        ),
    ];
    for (what, mut segment) in forged {
        segment.options =
            crate::wire::TcpOptions { timestamps: segment.options.timestamps, ..Default::default() };
        let packets = pair.packets;
        let now = pair.now;
        pair.server.endpoint.handle_segment(now, segment);
        pair.run_until(Duration::from_millis(1), |_| false);
        assert_eq!(pair.packets - packets, 1, "{what}: no challenge acknowledgment");
        let answer = seen.borrow()[0].clone().expect("an answer");
        assert_eq!((answer.flags, answer.seq, answer.ack), (Flags::ACK, last.ack, last.seq), "{what}");
        assert_eq!((pair.server.closed, pair.server.received.len()), (None, 10_000), "{what}");
        pair.run_until(Duration::from_secs(1), |_| false);
    }
    let now = pair.now;
    let outside = Segment { flags: Flags::RST, seq: last.seq + u32::MAX, ..last.clone() };
    let packets = pair.packets;
    pair.server.endpoint.handle_segment(now, outside);
    pair.run_until(Duration::from_secs(1), |_| false);
    assert_eq!((pair.packets, pair.server.closed), (packets, None), "a reset outside the window is no news");
    let exact = Segment { flags: Flags::RST, ..last };
    pair.server.endpoint.handle_segment(pair.now, exact);
    pair.run_until(Duration::from_millis(1), |_| false);
    assert_eq!(pair.server.closed, Some(CloseReason::Reset));
}

#[test]
fn challenges_are_few() {
    let (mut pair, seen) = silent(&plain());
    let last = seen.borrow()[1].clone().expect("the client has sent something");
    let packets = pair.packets;
    for guess in 0..10_000u32 {
        let now = pair.now;
        let forged = Segment { flags: Flags::RST, seq: last.seq + 1 + guess % 60_000, ..last.clone() };
        pair.server.endpoint.handle_segment(now, forged);
        pair.run_until(Duration::from_micros(10), |_| false);
    }
    assert!(pair.packets - packets <= 20, "{} answers", pair.packets - packets);
    assert_eq!(pair.server.closed, None);
}

#[test]
fn urgent_data_is_data() {
    let mut pair = Pair::new(1, one_path(), false, &ConnectionConfig::default());
    pair.middlebox = Some(Box::new(|_, mut segment| {
        if !segment.payload.is_empty() {
            segment.flags = segment.flags.with(Flags::URG);
        }
        Some(segment)
    }));
    pair.send(pattern(300_000, 1), pattern(300_000, 2));
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert!(pair.server.received == pattern(300_000, 1) && pair.client.received == pattern(300_000, 2));
}

/// RFC 6191: the four-tuple of a connection in TIME-WAIT is used again at once.
#[test]
fn a_connection_in_time_wait_makes_room_for_the_next_one() {
    for timestamps in [true, false] {
        let mut pair = Pair::new(1, one_path(), false, &plain());
        pair.middlebox = Some(Box::new(move |_, mut segment| {
            if !timestamps {
                segment.options.timestamps = None;
            }
            Some(segment)
        }));
        pair.send_only(pattern(1_000, 1), Vec::new());
        assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() == 1_000));
        // The server closes first: TIME-WAIT is on its side.
        let (now, server) = (pair.now, pair.server.connection.unwrap());
        pair.server.endpoint.release(now, server);
        assert!(pair.run_until(Duration::from_secs(5), |pair| pair.client.ended));
        let client = pair.client.connection.unwrap();
        pair.client.endpoint.release(pair.now, client);
        pair.run_until(Duration::from_secs(1), |_| false);
        assert!(pair.client.endpoint.connections().is_empty(), "the client keeps nothing");

        let from = SocketAddr::new(address(0, 1, false), 39_999);
        let to = SocketAddr::new(address(0, 2, false), 5000);
        pair.reopen(from, to, &plain());
        let opened = pair.now;
        pair.send(pattern(100_000, 3), pattern(100_000, 4));
        assert!(pair.run(Duration::from_secs(10)), "{}", pair.tail());
        assert!(pair.server.received == pattern(100_000, 3) && pair.client.received == pattern(100_000, 4));
        assert!(pair.now - opened < Duration::from_millis(500), "took {:?}", pair.now - opened);
    }
}

/// The wrap of sequence numbers happens within the first octets.
#[test]
fn sequence_numbers_wrap() {
    for shift in [0x7fff_0000u32, 0xffff_0000, 0xffff_fff0] {
        let mut pair = Pair::new(1, one_path(), false, &ConnectionConfig::default());
        let mut offsets: [Option<u32>; 2] = [None, None];
        pair.middlebox = Some(Box::new(move |from_client, mut segment| {
            let (own, other) = (usize::from(from_client), usize::from(!from_client));
            if segment.flags.has(Flags::SYN) {
                offsets[own] = Some(shift.wrapping_sub(segment.seq.0));
            }
            segment.seq = SeqNumber(segment.seq.0.wrapping_add(offsets[own]?));
            if segment.flags.has(Flags::ACK) {
                let offset = offsets[other]?;
                segment.ack = SeqNumber(segment.ack.0.wrapping_sub(offset));
                for block in &mut segment.options.sack {
                    block.start = SeqNumber(block.start.0.wrapping_sub(offset));
                    block.end = SeqNumber(block.end.0.wrapping_sub(offset));
                }
            }
            Some(segment)
        }));
        pair.paths[0].loss = 0.02;
        pair.send(pattern(500_000, 1), pattern(500_000, 2));
        assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
        assert!(pair.server.received == pattern(500_000, 1) && pair.client.received == pattern(500_000, 2));
    }
}
