//! What an attacker can do without the keys: one who guesses, one who sees the segments of one path, and one who can
//! also put segments of his own there. Each test asserts that what he sends is counted, that it makes no state that is
//! not bounded, and that the stream arrives exactly.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::{
    AddAddr, DataSeq, Dss, FastClose, Flags, Join, Mapping, MptcpOption, RemoveAddr, ResetReason, Segment,
    SeqNumber, TcpReset, Timestamps,
};
use crate::{ConnectionConfig, Counter, Endpoint, Event, SubflowState};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Where the attacker's own segments come from.
const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 66, 66));
/// Octets of the whole transfer, up and down.
const SIZE: usize = 3_000_000;

/// All segments of a pair, with whether they are the client's.
type Tap = Rc<RefCell<Vec<(bool, Segment)>>>;

/// A pair in the middle of a transfer over two paths, and all that went over the wire so far and will. Segments to the
/// attacker go nowhere but into the tap.
fn transferring(config: &ConnectionConfig) -> (Pair, Tap) {
    let mut pair = Pair::new(9, vec![PathConfig::default(); 2], false, config);
    let tap = Tap::default();
    let seen = tap.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        seen.borrow_mut().push((from_client, segment.clone()));
        (segment.dst.ip() != ATTACKER).then_some(segment)
    }));
    pair.send_only(pattern(SIZE, 1)[..SIZE / 3].to_vec(), pattern(SIZE, 2)[..SIZE / 3].to_vec());
    let both = |pair: &Pair| {
        let carries = |host: &super::pair::Host| {
            host.connection.is_some()
                && host.info().subflows.iter().filter(|subflow| subflow.bytes_received > 0).count() == 2
        };
        carries(&pair.client) && carries(&pair.server)
    };
    assert!(pair.run_until(Duration::from_secs(5), both), "{}", pair.tail());
    pair.run_until(Duration::from_millis(300), |_| false);
    (pair, tap)
}

/// The transfer goes on to its end, exactly.
fn finish(pair: &mut Pair) {
    pair.exchange(SIZE, SIZE);
}

fn count(endpoint: &Endpoint, counter: Counter) -> u64 {
    endpoint.counters().get(counter)
}

fn to_server(pair: &mut Pair, segment: Segment) {
    let now = pair.now;
    pair.server.endpoint.handle_segment(now, segment);
}

/// Time passes, enough for a few answers.
fn pass(pair: &mut Pair) {
    pair.run_until(Duration::from_millis(30), |_| false);
}

/// The last segment of the client on the path that is the attacker's, too: what he sends next is in the window.
fn template(tap: &Tap) -> Segment {
    let tap = tap.borrow();
    let ours = |(from_client, segment): &&(bool, Segment)| {
        *from_client && segment.src.ip() == address(1, 1, false) && !segment.flags.has(Flags::SYN)
    };
    let (_, last) = tap.iter().rev().find(ours).expect("the client has sent something there");
    let mut segment = last.clone();
    segment.seq = last.seq_end();
    segment.flags = Flags::ACK;
    segment.payload = Vec::new().into();
    segment.gso_size = 0;
    segment.options.mptcp.clear();
    segment.options.sack.clear();
    segment
}

fn with_option(mut segment: Segment, option: MptcpOption) -> Segment {
    segment.options.mptcp.push(option);
    segment
}

/// The SYN of a join by the attacker.
fn join_syn(port: u16, token: u32) -> Segment {
    let mut syn = Segment::new(SocketAddr::new(ATTACKER, port), SocketAddr::new(address(0, 2, false), 5000));
    syn.flags = Flags::SYN;
    syn.seq = SeqNumber(u32::from(port) << 16);
    syn.window = 1000;
    syn.options.mss = Some(1460);
    syn.options.timestamps = Some(Timestamps { value: 1, echo: 0 });
    syn.options.mptcp.push(MptcpOption::Join(Join::Syn { backup: false, address_id: 9, token, nonce: 7 }));
    syn
}

/// What follows the server's answer to [`join_syn`].
fn join_ack(tap: &Tap, syn: &Segment) -> Segment {
    let tap = tap.borrow();
    let (_, syn_ack) = tap
        .iter()
        .rev()
        .find(|(_, segment)| segment.dst == syn.src && segment.flags.has(Flags::SYN.with(Flags::ACK)))
        .expect("the join was answered");
    let mut ack = Segment::new(syn.src, syn.dst);
    ack.flags = Flags::ACK;
    ack.seq = syn.seq + 1;
    ack.ack = syn_ack.seq + 1;
    ack.window = 1000;
    let echo = syn_ack.options.timestamps.map_or(0, |stamps| stamps.value);
    ack.options.timestamps = Some(Timestamps { value: 2, echo });
    ack
}

/// The server's token, as the attacker has seen it in the client's MP_JOIN.
fn token(tap: &Tap) -> u32 {
    let tap = tap.borrow();
    let token = |(_, segment): &(bool, Segment)| match segment.options.join() {
        Some(Join::Syn { token, .. }) => Some(*token),
        _ => None,
    };
    tap.iter().find_map(token).expect("a join was seen")
}

/// Subflows of the server with the attacker.
fn attacker_subflows(pair: &Pair) -> usize {
    let subflows = pair.server.info().subflows;
    let open = |state| !matches!(state, SubflowState::Closed | SubflowState::TimeWait);
    subflows.iter().filter(|subflow| subflow.remote.ip() == ATTACKER && open(subflow.state)).count()
}

#[test]
//= RFC 8684 3.2-7 (test)
//= RFC 8684 3.2-8 (test)
fn a_join_with_a_token_of_no_connection_is_refused_without_state() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let wrong = token(&tap) ^ 1;
    for number in 0..1000u32 {
        to_server(&mut pair, join_syn(1024 + number as u16, wrong.wrapping_mul(number | 1)));
        pass(&mut pair);
    }
    let server = &pair.server.endpoint;
    assert_eq!(count(server, Counter::MpJoinNoToken), 1000);
    assert_eq!((server.connections().len(), attacker_subflows(&pair)), (1, 0));
    let refused = Some(MptcpOption::Reset(TcpReset { transient: false, reason: ResetReason::MptcpSpecific }));
    let tapped = tap.borrow();
    let answers = tapped.iter().filter(|(_, segment)| segment.dst.ip() == ATTACKER);
    assert!(answers.clone().all(|(_, answer)| answer.options.mptcp.first().cloned() == refused));
    assert_eq!(answers.count(), 1000);
    drop(tapped);
    finish(&mut pair);
}

#[test]
//= RFC 8684 3.9.3-2 (test)
fn a_join_by_who_knows_the_token_and_not_the_keys_fails_with_its_third_ack() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let syn = join_syn(1024, token(&tap));
    to_server(&mut pair, syn.clone());
    pass(&mut pair);
    assert_eq!((pair.server.endpoint.pre_joins(), attacker_subflows(&pair)), (1, 0), "no subflow yet");
    let third = with_option(join_ack(&tap, &syn), MptcpOption::Join(Join::Ack { mac: [0x5a; 20] }));
    to_server(&mut pair, third);
    pass(&mut pair);
    assert_eq!(count(&pair.server.endpoint, Counter::MpJoinAckHmacFailure), 1);
    assert_eq!((pair.server.endpoint.pre_joins(), attacker_subflows(&pair)), (0, 0));
    finish(&mut pair);
}

#[test]
fn a_server_that_does_not_know_the_keys_is_not_joined() {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    pair.middlebox = Some(Box::new(|_, mut segment| {
        for option in &mut segment.options.mptcp {
            if let MptcpOption::Join(Join::SynAck { mac, .. }) = option {
                *mac ^= 1 << 63;
            }
        }
        Some(segment)
    }));
    pair.exchange(SIZE, SIZE);
    assert!(count(&pair.client.endpoint, Counter::MpJoinSynAckHmacFailure) > 0);
    let joined = pair
        .client
        .info()
        .subflows
        .iter()
        .filter(|subflow| !subflow.initial)
        .any(|subflow| subflow.bytes_sent + subflow.bytes_received > 0);
    assert!(!joined);
}

#[test]
//= RFC 8684 5-1 (test)
fn a_recorded_join_is_worth_nothing_when_it_is_played_again() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let recorded = |find: fn(&Join) -> bool| {
        let tap = tap.borrow();
        let found = tap
            .iter()
            .find(|(from_client, segment)| *from_client && segment.options.join().is_some_and(find));
        found.expect("the client has joined").1.clone()
    };
    let syn = recorded(|join| matches!(join, Join::Syn { .. }));
    let third = recorded(|join| matches!(join, Join::Ack { .. }));
    // In the place where it was: the subflow goes on.
    let before = pair.server.info().subflows.len();
    to_server(&mut pair, syn.clone());
    to_server(&mut pair, third.clone());
    pass(&mut pair);
    assert_eq!(pair.server.info().subflows.len(), before);
    let server = &pair.server.endpoint;
    let odd = count(server, Counter::OutOfWindow) + count(server, Counter::PawsEstab);
    assert!(odd >= 2, "{odd}");
    // From elsewhere: the server's random number is another one, and the HMAC does not fit it.
    let moved = Segment { src: SocketAddr::new(ATTACKER, 1024), ..syn };
    to_server(&mut pair, moved.clone());
    pass(&mut pair);
    let mut again = join_ack(&tap, &moved);
    again.seq = moved.seq + 1;
    again.options.timestamps = third.options.timestamps;
    again.options.mptcp = third.options.mptcp.clone();
    to_server(&mut pair, again);
    pass(&mut pair);
    assert_eq!(count(&pair.server.endpoint, Counter::MpJoinAckHmacFailure), 1);
    assert_eq!(attacker_subflows(&pair), 0);
    finish(&mut pair);
}

#[test]
fn options_before_the_third_ack_of_a_join_mean_nothing() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let syn = join_syn(1024, token(&tap));
    to_server(&mut pair, syn.clone());
    pass(&mut pair);
    let ack = join_ack(&tap, &syn);
    let forged = [
        MptcpOption::Fail(DataSeq(1)),
        MptcpOption::Priority { backup: true, address_id: None },
        MptcpOption::RemoveAddr(RemoveAddr { ids: (0..=5).collect() }),
        MptcpOption::Dss(Dss { data_ack: Some((DataSeq(1), true)), mapping: None, data_fin: false }),
    ];
    let count_of = forged.len() as u64;
    for option in forged {
        to_server(&mut pair, with_option(ack.clone(), option));
    }
    let server = &pair.server.endpoint;
    assert_eq!(count(server, Counter::JoinAckMissing), count_of);
    for untouched in [Counter::MpFailRx, Counter::MpPrioRx, Counter::RmAddr, Counter::BadDataAck] {
        assert_eq!(count(server, untouched), 0, "{untouched:?}");
    }
    assert!(pair.server.info().subflows.iter().all(|subflow| !subflow.backup));
    finish(&mut pair);
}

#[test]
//= RFC 8684 5-2 (test)
fn a_flood_of_joins_leaves_bounded_state_and_a_legitimate_join_still_passes() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let token = token(&tap);
    // The client's second path goes and comes back, so that it joins anew, in the middle of the flood.
    let now = pair.now;
    let local = address(1, 1, false);
    pair.client.endpoint.remove_local_address(now, local);
    let mut most = 0;
    let mut flood = |pair: &mut Pair, rounds: u32| {
        for number in 0..rounds {
            to_server(pair, join_syn(1024 + (number % 60_000) as u16, token));
            pair.run_until(Duration::from_millis(2), |_| false);
            most = most.max(attacker_subflows(pair));
        }
    };
    flood(&mut pair, 500);
    let now = pair.now;
    let again = crate::LocalAddress { address: local, interface: 2, mtu: 1500, backup: false };
    pair.client.endpoint.add_local_address(now, again);
    flood(&mut pair, 500);
    assert_eq!(most, 0, "subflows before the third ACK");
    let joined = pair
        .server
        .info()
        .subflows
        .iter()
        .any(|subflow| subflow.remote.ip() == local && subflow.state == SubflowState::Established);
    assert!(joined, "{:#?}", pair.server.info());
    // No answer is repeated while it goes on: the flood is not amplified.
    let answers = tap.borrow().iter().filter(|(_, segment)| segment.dst.ip() == ATTACKER).count();
    assert!(answers <= 1000, "{answers} answers to 1000 SYNs");
    // Nor does it hold up the end.
    let begin = pair.now;
    finish(&mut pair);
    assert!(pair.now - begin < Duration::from_secs(5), "{:?}", pair.now - begin);
}

#[test]
fn a_join_that_is_not_completed_is_given_up() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    to_server(&mut pair, join_syn(1024, token(&tap)));
    pass(&mut pair);
    assert_eq!((pair.server.endpoint.pre_joins(), attacker_subflows(&pair)), (1, 0));
    pair.run_until(Duration::from_secs(40), |_| false);
    assert_eq!(pair.server.endpoint.pre_joins(), 0);
    assert_eq!(count(&pair.server.endpoint, Counter::JoinForgotten), 1);
    finish(&mut pair);
}

#[test]
//= RFC 8684 3.4.1-1 (test)
fn an_address_that_is_not_authentic_is_not_connected_to() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    // The server does not open subflows; to the client such addresses matter.
    let last = tap
        .borrow()
        .iter()
        .rev()
        .find(|(from_client, segment)| !from_client && segment.src.ip() == address(1, 2, false))
        .unwrap()
        .1
        .clone();
    let evil: IpAddr = "10.1.0.66".parse().unwrap();
    for mac in [Some(0x1234_5678_9abc_def0), Some(0), None] {
        let mut forged = last.clone();
        forged.seq = last.seq_end();
        forged.flags = Flags::ACK;
        forged.payload = Vec::new().into();
        forged.gso_size = 0;
        forged.options.mptcp.clear();
        let add = AddAddr { echo: false, address_id: 7, address: evil, port: None, mac };
        let now = pair.now;
        pair.client.endpoint.handle_segment(now, with_option(forged, MptcpOption::AddAddr(add)));
    }
    pass(&mut pair);
    let client = &pair.client.endpoint;
    assert_eq!(count(client, Counter::AddAddrHmacFailure), 3);
    let wanted = pair
        .client
        .events
        .iter()
        .any(|event| matches!(event, Event::SubflowWanted { remote, .. } if remote.ip() == evil));
    let echoed = tap.borrow().iter().any(|(_, segment)| {
        segment
            .options
            .mptcp
            .iter()
            .any(|option| matches!(option, MptcpOption::AddAddr(add) if add.address == evil))
    });
    assert!(!wanted && !echoed);
    // An echo of what was never announced.
    let echo = AddAddr { echo: true, address_id: 200, address: evil, port: None, mac: None };
    let forged = with_option(template(&tap), MptcpOption::AddAddr(echo));
    to_server(&mut pair, forged);
    assert_eq!(count(&pair.server.endpoint, Counter::BadEcho), 1);
    finish(&mut pair);
}

#[test]
//= RFC 8684 3.4.2-5 (test)
//= RFC 8684 3.8-2 (test)
fn a_forged_remove_addr_never_takes_the_last_subflow() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let remove =
        |ids: std::ops::RangeInclusive<u8>| MptcpOption::RemoveAddr(RemoveAddr { ids: ids.collect() });
    // Blindly, outside the window: an acknowledgment is all that it makes.
    let mut blind = template(&tap);
    blind.seq += 1 << 30;
    to_server(&mut pair, with_option(blind, remove(0..=20)));
    let server = &pair.server.endpoint;
    assert_eq!((count(server, Counter::OutOfWindow), count(server, Counter::RmAddr)), (1, 0));
    // In the window, identifiers that nobody has.
    to_server(&mut pair, with_option(template(&tap), remove(50..=60)));
    assert_eq!(count(&pair.server.endpoint, Counter::RmAddrDrop), 11);
    assert_eq!(
        pair.server
            .info()
            .subflows
            .iter()
            .filter(|subflow| subflow.state == SubflowState::Established)
            .count(),
        2
    );
    // All there are: the connection goes on.
    to_server(&mut pair, with_option(template(&tap), remove(0..=20)));
    assert!(count(&pair.server.endpoint, Counter::RmAddrLast) > 0);
    finish(&mut pair);
}

/// A segment in the window with this mapping of its octets and these octets.
fn forged_data(tap: &Tap, ahead: u32, dsn: DataSeq, octets: usize) -> Segment {
    let mut segment = template(tap);
    let tap = tap.borrow();
    let isn = tap
        .iter()
        .find(|(_, syn)| syn.src == segment.src && syn.flags.has(Flags::SYN))
        .map(|(_, syn)| syn.seq)
        .expect("the subflow began");
    segment.seq += ahead;
    segment.payload = vec![0xee; octets].into();
    let subflow_seq = segment.seq.distance(isn) as u32;
    let mapping = Mapping { dsn, dsn_long: true, subflow_seq, len: octets as u16, checksum: None };
    segment.options.mptcp.push(MptcpOption::Dss(Dss {
        data_ack: None,
        mapping: Some(mapping),
        data_fin: false,
    }));
    segment
}

/// The newest Data ACK of the server.
fn data_ack(tap: &Tap) -> DataSeq {
    let tap = tap.borrow();
    let acks = tap.iter().rev().filter(|(from_client, _)| !from_client);
    let ack = acks.filter_map(|(_, segment)| segment.options.dss()?.data_ack).find(|(_, long)| *long);
    ack.expect("the server has acknowledged").0
}

#[test]
//= RFC 8684 3.8-1 (test)
fn octets_mapped_far_outside_the_window_go_nowhere() {
    for far in [1 << 40, 1 << 62, u64::MAX - (1 << 40)] {
        let (mut pair, tap) = transferring(&ConnectionConfig::default());
        let before = pair.server.info();
        let dsn = data_ack(&tap) + far;
        for ahead in [0, 5000, 20_000] {
            to_server(&mut pair, forged_data(&tap, ahead, dsn, 1000));
        }
        let server = &pair.server.endpoint;
        let counted = count(server, Counter::NoDssInWindow) + count(server, Counter::BadMapping);
        assert!(counted > 0, "{far:x}");
        assert_eq!(pair.server.info().bytes_received, before.bytes_received);
        assert!(
            pair.server.info().receive_queue <= before.receive_queue,
            "nothing of it is kept at the data level"
        );
        finish(&mut pair);
    }
}

#[test]
fn a_mapping_of_other_octets_than_the_segments_is_not_kept() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let mut forged = forged_data(&tap, 0, data_ack(&tap), 1000);
    for option in &mut forged.options.mptcp {
        if let MptcpOption::Dss(Dss { mapping: Some(mapping), .. }) = option {
            mapping.subflow_seq = mapping.subflow_seq.wrapping_add(1 << 30);
        }
    }
    forged.payload = Vec::new().into();
    to_server(&mut pair, forged);
    assert_eq!(count(&pair.server.endpoint, Counter::DssNoMatchTcp), 1);
    finish(&mut pair);
}

#[test]
//= RFC 8684 4-1 (test)
fn a_mapping_that_contradicts_the_first_one_does_not_count() {
    let (mut pair, tap) =
        transferring(&ConnectionConfig { scheduler: "round-robin".into(), ..ConnectionConfig::default() });
    // The first segment of new data on this path is held back, so that the mappings after it wait.
    let held: Rc<RefCell<Option<Segment>>> = Rc::default();
    let place = held.clone();
    let mut before = pair.middlebox.take().unwrap();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        let segment = before(from_client, segment)?;
        let data = from_client && !segment.payload.is_empty() && segment.src.ip() == address(1, 1, false);
        if data && place.borrow().is_none() {
            *place.borrow_mut() = Some(segment);
            return None;
        }
        Some(segment)
    }));
    pair.send_only(pattern(SIZE, 1)[..SIZE / 3 + 100_000].to_vec(), pattern(SIZE, 2)[..SIZE / 3].to_vec());
    pair.run_until(Duration::from_millis(7), |_| false);
    assert!(held.borrow().is_some(), "nothing new was sent on the path");
    // What follows it has come and waits, with its mapping; the same octets with another place come after it.
    let waiting = tap
        .borrow()
        .iter()
        .rev()
        .find(|(from_client, segment)| {
            *from_client && segment.payload.len() > 1000 && segment.src.ip() == address(1, 1, false)
        })
        .unwrap()
        .1
        .clone();
    let mut forged = waiting.clone();
    forged.payload = vec![0xee; waiting.payload.len()].into();
    for option in &mut forged.options.mptcp {
        if let MptcpOption::Dss(Dss { mapping: Some(mapping), .. }) = option {
            mapping.dsn += 5000;
        }
    }
    to_server(&mut pair, forged);
    assert_eq!(count(&pair.server.endpoint, Counter::DssNotMatching), 1);
    finish(&mut pair);
}

#[test]
//= RFC 8684 3.3.2-1 (test)
fn a_data_ack_of_what_was_never_sent_releases_nothing() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let mine = tap
        .borrow()
        .iter()
        .rev()
        .filter(|(from_client, _)| *from_client)
        .filter_map(|(_, segment)| segment.options.dss()?.data_ack)
        .find(|(_, long)| *long)
        .unwrap()
        .0;
    let before = pair.server.info();
    for ahead in [1u64, 1 << 20, 1 << 40, 1 << 62] {
        let dss = Dss { data_ack: Some((mine + ahead, true)), mapping: None, data_fin: false };
        to_server(&mut pair, with_option(template(&tap), MptcpOption::Dss(dss)));
    }
    assert_eq!(count(&pair.server.endpoint, Counter::BadDataAck), 4);
    let after = pair.server.info();
    assert_eq!((after.bytes_acked, after.send_window), (before.bytes_acked, before.send_window));
    finish(&mut pair);
}

#[test]
fn a_data_fin_in_the_middle_of_what_has_come_ends_nothing() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let next = data_ack(&tap);
    for back in [1u64, 1000] {
        let mapping = Mapping {
            dsn: DataSeq(next.0.wrapping_sub(back)),
            dsn_long: true,
            subflow_seq: 0,
            len: 1,
            checksum: None,
        };
        let dss = Dss { data_ack: None, mapping: Some(mapping), data_fin: true };
        to_server(&mut pair, with_option(template(&tap), MptcpOption::Dss(dss)));
    }
    assert_eq!(count(&pair.server.endpoint, Counter::BadDataFin), 2);
    finish(&mut pair);
}

#[test]
fn a_fast_close_with_a_wrong_key_closes_nothing() {
    let (mut pair, tap) = transferring(&ConnectionConfig::default());
    let close = MptcpOption::FastClose(FastClose { receiver_key: 0xdead_beef_dead_beef });
    to_server(&mut pair, with_option(template(&tap), close.clone()));
    assert_eq!(count(&pair.server.endpoint, Counter::BadFastclose), 1);
    assert!(pair.server.info().subflows.iter().all(|subflow| subflow.state == SubflowState::Established));
    // With a reset that is in sequence the subflow is over, as any TCP connection would be; the connection is not.
    let mut reset = template(&tap);
    reset.flags = Flags::RST.with(Flags::ACK);
    to_server(&mut pair, with_option(reset, close));
    let server = &pair.server.endpoint;
    assert_eq!((count(server, Counter::BadFastclose), count(server, Counter::MpFastcloseRx)), (2, 0));
    assert_eq!(pair.server.closed, None);
    finish(&mut pair);
}

#[test]
fn two_peers_with_the_same_key_are_two_connections() {
    // Two clients whose random numbers are the same, so that their keys are.
    let config = ConnectionConfig::default();
    let mut pair = Pair::new(9, vec![PathConfig::default()], false, &config);
    pair.client.endpoint = Endpoint::new(crate::EndpointConfig::default(), [1; 32]);
    let mut other = Endpoint::new(crate::EndpointConfig::default(), [1; 32]);
    let (server, now) = (SocketAddr::new(address(0, 2, false), 5000), pair.now);
    let from = |port| SocketAddr::new(address(0, 1, false), port);
    let first = pair.client.endpoint.connect(now, from(1), server, config.clone()).unwrap();
    let second = other.connect(now, from(2), server, config).unwrap();
    let tokens = |one: &Endpoint, two: &Endpoint| {
        (one.info(first).unwrap().local_token, two.info(second).unwrap().local_token)
    };
    for round in 0..20 {
        let now = pair.now + Duration::from_millis(round);
        while let Some(segment) = pair.client.endpoint.poll_transmit(now).or_else(|| other.poll_transmit(now))
        {
            pair.server.endpoint.handle_segment(now, segment);
        }
        while let Some(segment) = pair.server.endpoint.poll_transmit(now) {
            let to = if segment.dst.port() == 1 { &mut pair.client.endpoint } else { &mut other };
            to.handle_segment(now, segment);
        }
        if round == 5 {
            pair.client.endpoint.send(now, first, b"first".to_vec().into());
            other.send(now, second, b"second".to_vec().into());
        }
    }
    let (one, two) = tokens(&pair.client.endpoint, &other);
    assert!(one.is_some() && one == two, "{one:?} {two:?}");
    let mut came = Vec::new();
    for id in pair.server.endpoint.connections() {
        let mut out = Vec::new();
        pair.server.endpoint.recv(id, usize::MAX, &mut out);
        came.push(out.concat());
        assert!(pair.server.endpoint.info(id).unwrap().fallback.is_none());
    }
    came.sort();
    assert_eq!(came, [b"first".to_vec(), b"second".to_vec()]);
}
