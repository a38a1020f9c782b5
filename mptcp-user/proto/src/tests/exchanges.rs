//! What a regular TCP sends in answer to what, segment by segment.

use super::packets::{MSS, Offer, Script};
use super::pair::{Pair, PathConfig, pattern};
use crate::event::SubflowSlot;
use crate::wire::{Flags, MptcpOption, Segment, SeqNumber, Timestamps};
use crate::{CloseReason, ConnectionConfig, Counter, FallbackReason};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const SACK: Offer = Offer { sack: true, timestamps: false, scale: None };
const PLAIN: Offer = Offer { sack: false, timestamps: false, scale: None };

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// RFC 8985 section 7.3: new data if there is any, whatever the congestion window says.
#[test]
fn a_tail_loss_probe_is_new_data_where_there_is_any() {
    let mut script = Script::connected(SACK);
    script.write(20 * MSS);
    assert_eq!(script.packets(), (0..10).collect::<Vec<_>>());
    script.pass(millis(199));
    assert_eq!(script.packets(), [0u32; 0]);
    script.pass(millis(2));
    assert_eq!(script.packets(), [10], "two round trips later");
    // And no second one: the retransmission timer was started anew with it.
    script.pass(millis(250));
    assert_eq!(script.packets(), [0u32; 0]);
    script.pass(millis(100));
    assert_eq!(script.packets(), [0]);
}

#[test]
fn a_tail_loss_probe_repeats_the_last_packet_where_there_is_no_new_data() {
    let mut script = Script::connected(SACK);
    script.write(4 * MSS);
    assert_eq!(script.packets(), [0, 1, 2, 3]);
    script.pass(millis(201));
    assert_eq!(script.packets(), [3]);
    // The probe arrives; those before it were lost, too.
    script.pass(millis(100));
    script.ack(1000, &[(3000, 4000)]);
    assert_eq!(script.packets()[..1], [1]);
}

/// RFC 8985 section 7.2: not while RACK has something to go by, nor in recovery.
#[test]
fn there_is_no_tail_loss_probe_with_sacked_data_or_in_recovery() {
    let mut script = Script::connected(SACK);
    script.write(10 * MSS);
    script.packets();
    script.pass(millis(100));
    script.ack(0, &[(1000, 2000)]);
    script.pass(millis(30));
    // RACK's timer has found the first one lost: recovery.
    assert_eq!(script.packets(), [0]);
    script.pass(millis(169));
    assert_eq!(script.packets(), [0u32; 0], "nothing before the retransmission timeout");
}

/// The probe of a single packet waits for a delayed acknowledgment, but no longer than the retransmission
/// timer would.
#[test]
fn a_lone_packet_is_probed_before_the_window_collapses() {
    let mut script = Script::connected(SACK);
    script.write(MSS);
    script.packets();
    script.pass(millis(299));
    assert_eq!(script.packets(), [0u32; 0]);
    script.pass(millis(2));
    assert_eq!(script.packets(), [0]);
    assert_eq!(script.info().subflows[0].timeouts, 0);
    script.pass(millis(301));
    assert_eq!((script.packets(), script.info().subflows[0].timeouts), (vec![0], 1));
}

/// RFC 3042: each of the first two duplicates lets one new segment out. The window does not grow meanwhile.
#[test]
fn duplicate_acknowledgments_in_slow_start_let_one_segment_out_each() {
    for offer in [PLAIN, SACK] {
        let mut script = Script::connected(offer);
        script.write(40 * MSS);
        assert_eq!(script.packets().len(), 10);
        script.pass(millis(100));
        for duplicate in 1..=2 {
            let blocks = [(1000, 1000 + duplicate * 1000)];
            script.ack(0, if offer.sack { &blocks } else { &[] });
            assert_eq!(script.packets(), [9 + duplicate], "sack {}", offer.sack);
        }
        script.ack(0, if offer.sack { &[(1000, 4000)] } else { &[] });
        assert_eq!(script.packets()[..1], [0], "the third one means a loss");
    }
}

/// RFC 5681 section 3.1: once everything is acknowledged, what came out of order has counted, too.
#[test]
fn reordering_does_not_cost_the_growth_of_slow_start() {
    let mut script = Script::connected(SACK);
    script.write(60 * MSS);
    script.packets();
    script.pass(millis(100));
    script.ack(0, &[(1000, 3000)]);
    script.ack(10_000, &[]);
    assert_eq!(script.info().subflows[0].cwnd, u64::from(20 * MSS));
}

#[test]
fn the_window_grows_where_the_flight_is_exactly_as_large() {
    let mut script = Script::connected(SACK);
    script.write(10 * MSS);
    script.packets();
    script.pass(millis(100));
    script.ack(10_000, &[]);
    script.write(60 * MSS);
    assert_eq!(script.packets().len(), 20);
}

#[test]
fn a_window_that_is_not_used_does_not_grow() {
    let mut script = Script::connected(SACK);
    for round in 0..5 {
        script.write(3 * MSS);
        script.pass(millis(100));
        script.ack((round + 1) * 3000, &[]);
    }
    assert_eq!(script.info().subflows[0].cwnd, u64::from(10 * MSS));
}

#[test]
fn the_window_grows_again_after_the_timeout_of_a_lone_packet() {
    let mut script = Script::connected(PLAIN);
    script.write(MSS);
    script.pass(millis(301));
    assert_eq!(script.packets(), [0, 0]);
    assert_eq!(script.info().subflows[0].cwnd, u64::from(MSS));
    script.pass(millis(100));
    script.ack(1000, &[]);
    script.write(10 * MSS);
    assert_eq!(script.packets(), [1, 2]);
}

/// RFC 9293 section 3.8.6 (SHLD-15, SHLD-17): nothing beyond a window that was taken back, and no doubt of
/// the path.
#[test]
fn a_window_that_is_taken_back_is_obeyed() {
    let mut script = Script::connected(SACK);
    script.write(30 * MSS);
    assert_eq!(script.packets().len(), 10);
    script.pass(millis(100));
    script.window = 0;
    script.ack(5000, &[]);
    assert_eq!(script.packets(), [0u32; 0]);
    let cwnd = script.info().subflows[0].cwnd;
    let began = script.now;
    let mut probes = 0;
    while script.now - began < Duration::from_secs(300) {
        script.pass(millis(50));
        assert_eq!(
            script.sent.iter().map(|probe| probe.payload.len()).sum::<usize>(),
            0,
            "data into a closed window"
        );
        for probe in std::mem::take(&mut script.sent) {
            probes += 1;
            assert_eq!(probe.seq, script.iss + 1 + 4999, "{probe:?} after {:?}", script.now - began);
            script.ack(5000, &[]);
        }
    }
    assert!((8..20).contains(&probes), "{probes} probes in five minutes");
    assert_eq!((script.closed, script.info().subflows[0].cwnd), (None, cwnd));
    script.window = 3000;
    script.ack(5000, &[]);
    script.pass(millis(301));
    assert_eq!(script.packets()[..1], [5], "what was dropped goes again once there is room");
    script.window = 60_000;
    script.ack(10_000, &[]);
    assert!(script.packets().len() >= 2);
}

#[test]
fn a_window_that_is_taken_back_in_part_leaves_the_rest() {
    let mut script = Script::connected(SACK);
    script.write(30 * MSS);
    script.packets();
    script.pass(millis(100));
    script.window = 6000;
    script.ack(5000, &[]);
    assert_eq!(script.packets(), [10], "up to the new edge");
    // An older segment that comes late opens nothing.
    let mut old = script.segment(5000);
    (old.seq, old.window) = (script.seq - 1, 60_000);
    script.give(old);
    assert_eq!(script.packets(), [0u32; 0]);
}

#[test]
fn a_peer_that_keeps_its_taken_back_window_closed_and_is_silent_is_given_up() {
    let mut script = Script::connecting(&ConnectionConfig {
        user_timeout: Duration::from_secs(30),
        ..ConnectionConfig::default()
    });
    script.answer(SACK);
    script.write(30 * MSS);
    script.window = 0;
    script.ack(5000, &[]);
    script.pass(Duration::from_secs(100));
    assert_eq!(script.closed, Some(CloseReason::TimedOut));
}

/// RFC 5482: the back-off of retransmissions does not carry them far beyond the user timeout.
#[test]
fn a_peer_that_acknowledges_nothing_is_given_up_at_the_user_timeout() {
    let user_timeout = Duration::from_secs(20);
    let mut script = Script::connecting(&ConnectionConfig { user_timeout, ..ConnectionConfig::default() });
    script.pass(millis(100));
    script.answer(SACK);
    script.write(3 * MSS);
    script.pass(user_timeout - millis(10));
    assert_eq!(script.closed, None);
    script.pass(millis(500));
    assert_eq!(script.closed, Some(CloseReason::TimedOut));
}

/// RFC 7323 section 3.2.
#[test]
fn timestamps_count_where_they_were_agreed_on() {
    let mut script = Script::connected(PLAIN);
    for value in [5000, 4000, 3000] {
        let mut segment = script.segment(0);
        segment.options.timestamps = Some(Timestamps { value, echo: 1 });
        segment.payload = vec![1; 10].into();
        script.give(segment);
        script.seq += 10;
        let answer = script.sent.pop().expect("an acknowledgment");
        assert_eq!((answer.ack, answer.options.timestamps), (script.seq, None));
    }
}

#[test]
fn a_segment_that_lacks_the_timestamps_agreed_on_is_dropped_unless_it_is_a_reset() {
    let mut script = Script::connected(Offer { timestamps: true, ..SACK });
    let stamped = script.segment(0);
    script.give(stamped);
    script.write(MSS / 2);
    script.data();
    let bare = |mut segment: Segment| {
        segment.options.timestamps = None;
        segment
    };
    let data = Segment { payload: vec![1; 10].into(), ..script.segment(500) };
    script.give(bare(data.clone()));
    assert!(script.sent.is_empty() && script.info().bytes_acked == 0 && script.info().bytes_received == 0);
    script.give(data);
    assert_eq!((script.info().bytes_acked, script.info().bytes_received), (500, 10));
    script.seq += 10;
    let reset = Segment { flags: Flags::RST, ..script.segment(500) };
    script.give(bare(reset));
    assert_eq!(script.closed, Some(CloseReason::Reset));
}

#[test]
fn our_resets_have_the_timestamps_agreed_on() {
    let mut script = Script::connected(Offer { timestamps: true, ..SACK });
    let (now, connection) = (script.now, script.connection.unwrap());
    script.endpoint.abort(now, connection);
    script.poll();
    let reset = script.sent.pop().expect("a reset");
    assert!(reset.flags.has(Flags::RST) && reset.options.timestamps.is_some());
}

/// RFC 6298 section 5.7.
#[test]
fn after_a_lost_syn_the_first_timeout_is_three_seconds() {
    let mut script = Script::connecting(&ConnectionConfig::default());
    script.pass(millis(1100));
    assert_eq!(script.sent.drain(..).filter(|syn| syn.flags.has(Flags::SYN)).count(), 1, "repeated");
    script.answer(PLAIN);
    script.write(MSS);
    script.packets();
    script.pass(millis(2990));
    assert_eq!(script.packets(), [0u32; 0]);
    script.pass(millis(20));
    assert_eq!(script.packets(), [0]);
}

/// RFC 9293 section 3.10.7.4: a peer that has forgotten its attempt.
#[test]
fn another_syn_while_one_is_answered_ends_or_challenges_the_attempt() {
    for (shift, ends) in [(100u32, true), (1 << 30, false)] {
        let mut script = Script::listening();
        let mut syn = script.segment(0);
        syn.flags = Flags::SYN;
        syn.options = script.offer(SACK);
        script.give(syn.clone());
        let answer = script.sent.pop().expect("a SYN/ACK");
        assert!(answer.flags.has(Flags::SYN) && answer.ack == syn.seq + 1);
        let other = Segment { seq: syn.seq + shift, ..syn.clone() };
        script.give(other.clone());
        if ends {
            assert!(script.sent.is_empty());
            script.give(other.clone());
            let anew = script.sent.pop().expect("a SYN/ACK to the new attempt");
            assert!(anew.flags.has(Flags::SYN) && anew.ack == other.seq + 1);
        } else {
            let challenge = script.sent.pop().expect("an acknowledgment");
            assert_eq!((challenge.flags, challenge.seq), (Flags::ACK, answer.seq + 1));
            assert_eq!(challenge.ack, syn.seq + 1);
            // The peer has nothing that this could be for.
            let mut reset = script.segment(0);
            (reset.flags, reset.seq) = (Flags::RST, challenge.ack);
            script.give(reset);
            script.give(other.clone());
            let anew = script.sent.pop().expect("a SYN/ACK to the new attempt");
            assert!(anew.flags.has(Flags::SYN) && anew.ack == other.seq + 1);
        }
    }
}

/// RFC 9293 section 3.10.7.2: a listener answers neither.
#[test]
fn a_segment_without_syn_or_ack_to_a_listener_is_dropped() {
    for flags in [Flags::default(), Flags::FIN, Flags::PSH, Flags::FIN.with(Flags::PSH)] {
        let mut script = Script::listening();
        let mut segment = script.segment(0);
        segment.flags = flags;
        script.give(segment.clone());
        assert!(script.sent.is_empty(), "{flags:?}");
        // Where nobody listens it is refused (section 3.10.7.1).
        segment.dst.set_port(5001);
        script.give(segment);
        assert_eq!(script.sent.len(), 1, "{flags:?}");
    }
}

/// RFC 9293 section 3.8.6.2.2: a peer whose window can't be scaled is told of it when that is worth a
/// segment.
#[test]
fn an_unscaled_window_is_not_told_with_every_read() {
    let config = ConnectionConfig { multipath: false, ..ConnectionConfig::default() };
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &config);
    let counts = Rc::new(RefCell::new([0u32; 2]));
    let seen = counts.clone();
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        segment.options.window_scale = None;
        if !segment.flags.has(Flags::SYN) {
            seen.borrow_mut()[usize::from(from_client)] += 1;
        }
        Some(segment)
    }));
    pair.exchange(3_000_000, 0);
    let [acknowledgments, packets] = *counts.borrow();
    assert!(acknowledgments < packets * 7 / 10, "{acknowledgments} for {packets}");
}

/// RFC 9293 section 3.8.6.1 and RFC 5482: the user timeout counts for probes as for data.
#[test]
fn a_peer_that_vanishes_while_its_window_is_closed_is_given_up() {
    for (multipath, paths) in [(false, 1), (true, 1), (true, 2)] {
        let user_timeout = Duration::from_secs(100);
        let config = ConnectionConfig { multipath, user_timeout, ..ConnectionConfig::default() };
        let mut pair = Pair::new(1, vec![PathConfig::default(); paths], false, &config);
        pair.server.read_limit = 100_000;
        pair.send(pattern(30_000_000, 1), Vec::new());
        pair.run_until(Duration::from_secs(3600), |_| false);
        assert_eq!(pair.client.closed, None, "probes are answered\n{}", pair.tail());
        pair.paths.iter_mut().for_each(|path| path.up = false);
        let gone = pair.now;
        assert!(
            pair.run_until(Duration::from_secs(6 * 3600), |pair| pair.client.closed.is_some()),
            "{multipath} {paths}"
        );
        let took = pair.now - gone;
        assert_eq!(pair.client.closed, Some(CloseReason::TimedOut));
        assert!(took > user_timeout / 2 && took < user_timeout * 2 + Duration::from_secs(65), "{took:?}");
    }
}

#[test]
fn a_window_probe_goes_by_another_path_if_one_is_not_answered() {
    let user_timeout = Duration::from_secs(100);
    let config = ConnectionConfig { user_timeout, ..ConnectionConfig::default() };
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &config);
    pair.server.read_limit = 100_000;
    pair.send(pattern(30_000_000, 1), Vec::new());
    pair.run_until(Duration::from_secs(600), |_| false);
    pair.paths[0].up = false;
    pair.run_until(Duration::from_secs(3600), |_| false);
    assert_eq!(pair.client.closed, None, "{}", pair.tail());
}

/// Nobody waits for what is left, and it is held at the expense of others.
#[test]
fn a_connection_whose_application_is_gone_does_not_wait_for_a_window_for_ever() {
    for (multipath, reads) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let config = ConnectionConfig { multipath, ..ConnectionConfig::default() };
        let mut pair = Pair::new(1, vec![PathConfig::default()], false, &config);
        pair.server.read_limit = 100_000;
        pair.send(pattern(3_000_000, 1), Vec::new());
        pair.run_until(Duration::from_secs(60), |_| false);
        let (now, client) = (pair.now, pair.client.connection.unwrap());
        pair.client.endpoint.release(now, client);
        let began = pair.now;
        while pair.client.closed.is_none() {
            pair.run_until(Duration::from_secs(20), |pair| pair.client.closed.is_some());
            // It reads a little, which opens the window a little.
            pair.server.read_limit += reads * 2000;
            let now = pair.now;
            pair.server.read(now);
            assert!(pair.now - began < Duration::from_secs(3600), "{multipath} {reads}");
        }
        assert_eq!(pair.client.closed, Some(CloseReason::Aborted));
    }
}

#[test]
fn a_connection_whose_application_is_gone_goes_on_while_the_peer_reads() {
    for multipath in [false, true] {
        let config = ConnectionConfig { multipath, ..ConnectionConfig::default() };
        let mut pair = Pair::new(1, vec![PathConfig::default()], false, &config);
        pair.server.read_limit = 100_000;
        pair.send(pattern(1_500_000, 1), Vec::new());
        pair.run_until(Duration::from_secs(10), |_| false);
        let (now, client) = (pair.now, pair.client.connection.unwrap());
        pair.client.endpoint.release(now, client);
        for _ in 0..100 {
            pair.run_until(Duration::from_secs(10), |_| false);
            pair.server.read_limit += 20_000;
            let now = pair.now;
            pair.server.read(now);
        }
        assert_eq!(pair.client.closed, Some(CloseReason::Finished), "{multipath}\n{}", pair.tail());
    }
}

/// Octets without a mapping have no place in the data stream: those are not acknowledged whose mapping can't
/// be kept.
#[test]
fn very_many_small_messages_behind_a_loss_arrive() {
    let config = ConnectionConfig::default();
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &config);
    // Windows and buffers grow first.
    let bulk = pattern(20_000_000, 1);
    pair.send_only(bulk.clone(), Vec::new());
    assert!(pair.run_until(Duration::from_secs(60), |pair| pair.server.received.len() == bulk.len()));
    let lost = Rc::new(RefCell::new(None::<SeqNumber>));
    let seen = lost.clone();
    let mut drops = 8;
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        if from_client && !segment.payload.is_empty() {
            let first = *seen.borrow_mut().get_or_insert(segment.seq);
            if segment.seq == first && drops > 0 {
                drops -= 1;
                return None;
            }
        }
        Some(segment)
    }));
    let messages = pattern(12_000, 2);
    let client = pair.client.connection.unwrap();
    for message in &messages {
        let now = pair.now;
        pair.client.endpoint.send(now, client, Bytes::copy_from_slice(&[*message]));
        pair.run_until(Duration::from_micros(2), |_| false);
    }
    pair.run_until(Duration::from_secs(300), |pair| {
        pair.server.received.len() == bulk.len() + messages.len()
    });
    assert!(pair.server.received[bulk.len()..] == messages, "{} octets", pair.server.received.len());
    assert!(pair.server.endpoint.counters().get(Counter::MappingOverflow) > 0, "not tried");
    let info = pair.server.info();
    assert_eq!((info.fallback, pair.server.closed), (None::<FallbackReason>, None));
    assert_eq!(info.subflows.len(), 1, "{info:#?}");
}

/// RFC 8684 section 3: an acknowledgment that brings an option is no sign of a loss; one that brings a Data
/// ACK alone is.
#[test]
//= RFC 8684 3-1 (test)
fn acknowledgments_that_carry_signals_are_no_duplicates() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let last = Rc::new(RefCell::new(None));
    let seen = last.clone();
    pair.middlebox = Some(Box::new(move |from_client, mut segment: Segment| {
        segment.options.sack_permitted = false;
        if !from_client {
            *seen.borrow_mut() = Some(segment.clone());
        }
        Some(segment)
    }));
    pair.send_only(pattern(200_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() == 200_000));
    pair.run_until(Duration::from_millis(200), |_| false);
    pair.paths[0].up = false;
    let (now, client) = (pair.now, pair.client.connection.unwrap());
    pair.client.endpoint.send(now, client, Bytes::from(vec![0; 10_000]));
    pair.run_until(Duration::from_millis(1), |_| false);
    let again = |pair: &Pair| pair.client.info().subflows[0].fast_recoveries;
    let plain: Segment = last.borrow().clone().unwrap();
    assert!(plain.payload.is_empty());
    for _ in 0..6 {
        let mut signal = plain.clone();
        signal.options.mptcp.push(MptcpOption::Priority { backup: false, address_id: None });
        let now = pair.now;
        pair.client.endpoint.handle_segment(now, signal);
        pair.run_until(Duration::from_millis(1), |_| false);
    }
    assert_eq!(again(&pair), 0);
    for _ in 0..3 {
        let now = pair.now;
        pair.client.endpoint.handle_segment(now, plain.clone());
        pair.run_until(Duration::from_millis(1), |_| false);
    }
    assert_eq!(again(&pair), 1);
}

/// RFC 8684 section 3: no more than two in a row for the sake of their options.
#[test]
//= RFC 8684 3-2 (test)
fn no_more_than_two_acknowledgments_in_a_row_are_sent_for_their_options() {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    pair.send_only(pattern(300_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() == 300_000));
    pair.run_until(Duration::from_secs(1), |_| false);
    let sent = Rc::new(RefCell::new(Vec::new()));
    let seen = sent.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment: Segment| {
        if from_client {
            seen.borrow_mut().push(segment.clone());
        }
        Some(segment)
    }));
    let client = pair.client.connection.unwrap();
    let slot = SubflowSlot(pair.client.info().subflows[1].slot);
    for round in 0..8 {
        let now = pair.now;
        pair.client.endpoint.set_backup(now, client, slot, round % 2 == 0);
        pair.run_until(Duration::from_millis(2), |_| false);
    }
    let signals = |sent: &[Segment]| {
        let of = |segment: &&Segment| {
            segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::Priority { .. }))
        };
        sent.iter().filter(of).count()
    };
    assert_eq!(signals(&sent.borrow()), 2);
    // What is left is told later, in the end as it is.
    pair.run_until(Duration::from_secs(2), |_| false);
    assert_eq!(signals(&sent.borrow()), 3);
    let last = sent.borrow().last().unwrap().options.mptcp.last().cloned();
    assert!(matches!(last, Some(MptcpOption::Priority { backup: false, .. })), "{last:?}");
}
