//! Joins of the peer before their third ACK: no subflow, nothing in the driver's tables, and no way to keep
//! others out.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::{Flags, Join, MptcpOption, Segment, SeqNumber, Timestamps};
use crate::{ConnectionConfig, Counter, Event, LocalAddress, SubflowState};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// The SYN of somebody who has seen the token, from one of very many places.
fn forged(number: u32, token: u32) -> Segment {
    let from = SocketAddr::from(([10, 99, (number >> 8) as u8, number as u8], 1024 + (number >> 16) as u16));
    let mut syn = Segment::new(from, SocketAddr::new(address(0, 2, false), 5000));
    syn.flags = Flags::SYN;
    syn.seq = SeqNumber(number.wrapping_mul(0x9e37_79b9));
    syn.options.mss = Some(1460);
    syn.options.timestamps = Some(Timestamps { value: 1, echo: 0 });
    let join = Join::Syn { backup: false, address_id: 9, token, nonce: number };
    syn.options.mptcp.push(MptcpOption::Join(join));
    syn
}

fn is_forger(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[1] == 99)
}

fn join_of(segment: &Segment) -> Option<&Join> {
    segment.options.join()
}

fn joined(pair: &Pair) -> usize {
    let subflows = pair.server.info().subflows;
    subflows.iter().filter(|subflow| subflow.state == SubflowState::Established).count()
}

#[test]
fn honest_joins_succeed_while_3000_forged_ones_come_each_second() {
    // A round trip of 100 ms, and one lost packet in a hundred.
    let path = PathConfig { delay: Duration::from_millis(50), loss: 0.01, ..PathConfig::default() };
    let mut pair = Pair::new(3, vec![path; 6], false, &ConnectionConfig::default());
    pair.middlebox = Some(Box::new(|_, segment| (!is_forger(segment.dst.ip())).then_some(segment)));
    let others: Vec<LocalAddress> = (1..6)
        .map(|path| LocalAddress {
            address: address(path, 1, false),
            interface: path as u32 + 1,
            mtu: 1500,
            backup: false,
        })
        .collect();
    for other in &others {
        let now = pair.now;
        pair.client.endpoint.remove_local_address(now, other.address);
    }
    pair.send_only(pattern(10_000, 1), pattern(10_000, 2));
    pair.run_until(Duration::from_secs(3), |_| false);
    assert_eq!(joined(&pair), 1);
    let token = pair.server.info().local_token.expect("Multipath TCP");
    let events = pair.server.events.len();
    let mut number = 0;
    for milliseconds in 0..8000 {
        for _ in 0..3 {
            let now = pair.now;
            pair.server.endpoint.handle_segment(now, forged(number, token));
            number += 1;
        }
        if milliseconds % 500 == 0
            && let Some(other) = others.get(milliseconds / 500)
        {
            let now = pair.now;
            pair.client.endpoint.add_local_address(now, *other);
        }
        pair.run_until(Duration::from_millis(1), |_| false);
    }
    assert_eq!(joined(&pair), 6, "{:#?}", pair.server.info());
    assert!(pair.server.info().subflows.len() <= 6 + 1, "forgers have none");
    assert!(pair.server.endpoint.pre_joins() <= 1 << 15);
    let told = pair.server.events[events..].iter().any(|event| match event {
        Event::SubflowAdded { remote, .. } | Event::SubflowRemoved { remote, .. } => is_forger(remote.ip()),
        _ => false,
    });
    assert!(!told, "the driver hears nothing of forgers");
    pair.run_until(Duration::from_secs(20), |_| false);
    assert_eq!(pair.server.endpoint.pre_joins(), 0);
}

#[test]
fn a_lost_answer_and_a_lost_third_ack_of_a_join_are_made_up_for() {
    for (lost_answers, lost_acks) in [(1, 0), (0, 1), (2, 2)] {
        let mut pair = Pair::new(4, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
        let answers: Rc<RefCell<Vec<(u32, u32)>>> = Rc::default();
        let seen = answers.clone();
        let mut left = (lost_answers, lost_acks);
        pair.middlebox = Some(Box::new(move |_, segment| {
            let left = match join_of(&segment) {
                Some(Join::SynAck { nonce, .. }) => {
                    seen.borrow_mut().push((segment.seq.0, *nonce));
                    &mut left.0
                }
                Some(Join::Ack { .. }) => &mut left.1,
                _ => return Some(segment),
            };
            *left -= 1;
            (*left < 0).then_some(segment)
        }));
        pair.send_only(pattern(3_000_000, 1), Vec::new());
        let two = |pair: &Pair| pair.server.connection.is_some() && joined(pair) == 2;
        assert!(pair.run_until(Duration::from_secs(20), two), "{}", pair.tail());
        let answers = answers.borrow();
        assert_eq!(answers.len(), 1 + lost_answers as usize);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "the same numbers: {answers:?}");
        assert_eq!(pair.server.endpoint.pre_joins(), 0);
    }
}

#[test]
fn a_third_ack_without_mp_join_is_answered_with_a_reset_at_once() {
    let mut pair = Pair::new(5, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let resets: Rc<RefCell<Vec<Segment>>> = Rc::default();
    let seen = resets.clone();
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        if let (true, Some(Join::Ack { .. })) = (from_client, join_of(&segment)) {
            segment.options.mptcp.clear();
        }
        if !from_client && segment.flags.has(Flags::RST) {
            seen.borrow_mut().push(segment.clone());
        }
        Some(segment)
    }));
    pair.send_only(pattern(300_000, 1), Vec::new());
    pair.run_until(Duration::from_millis(500), |_| false);
    assert_eq!(pair.server.endpoint.counters().get(Counter::JoinAckMissing), 1);
    assert_eq!(resets.borrow().len(), 1);
    assert_eq!(joined(&pair), 1);
}

#[test]
fn the_driver_is_told_of_joins_to_ports_without_a_listener_before_they_are_answered() {
    let server = ConnectionConfig { announce_port: Some(6000), ..ConnectionConfig::default() };
    let mut pair =
        Pair::with_configs(6, vec![PathConfig::default(); 2], false, &ConnectionConfig::default(), &server);
    pair.middlebox = Some(Box::new(|_, segment| {
        let third = matches!(join_of(&segment), Some(Join::Ack { .. }));
        (!third && !is_forger(segment.dst.ip())).then_some(segment)
    }));
    pair.send_only(pattern(300_000, 1), Vec::new());
    let steered = |pair: &Pair| -> Vec<bool> {
        let of = |event: &Event| match event {
            Event::SubflowAdded { local, .. } if local.port() == 6000 => Some(true),
            Event::SubflowRemoved { local, .. } if local.port() == 6000 => Some(false),
            _ => None,
        };
        pair.server.events.iter().filter_map(of).collect()
    };
    pair.run_until(Duration::from_millis(500), |_| false);
    assert_eq!((steered(&pair), pair.server.endpoint.pre_joins()), (vec![true], 1));
    pair.run_until(Duration::from_secs(60), |_| false);
    let changes = steered(&pair);
    let left = changes.iter().filter(|added| **added).count() * 2 - changes.len();
    assert_eq!((left, pair.server.endpoint.pre_joins()), (0, 0), "{changes:?}");
    // Those that no listener stands for are bounded, too.
    let token = pair.server.info().local_token.expect("Multipath TCP");
    for number in 0..5000 {
        let now = pair.now;
        let mut syn = forged(number, token);
        syn.dst.set_port(7000);
        pair.server.endpoint.handle_segment(now, syn);
        pair.run_until(Duration::from_micros(100), |_| false);
    }
    assert_eq!(pair.server.endpoint.pre_joins(), 256);
}
