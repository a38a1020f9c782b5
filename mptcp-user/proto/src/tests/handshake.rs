//! How connections begin, fall back and are refused.

use super::pair::{Pair, PathConfig, pattern};
use crate::wire::{Flags, MptcpOption, Segment};
use crate::{CloseReason, ConnectionConfig, FallbackReason};
use std::time::Duration;

fn plain() -> ConnectionConfig {
    ConnectionConfig { multipath: false, ..ConnectionConfig::default() }
}

/// Transfers some data both ways and gives the reasons for fallback, client's and server's.
fn fallbacks(pair: &mut Pair) -> (Option<FallbackReason>, Option<FallbackReason>) {
    let (client, server) = pair.exchange(200_000, 100_000);
    (client.fallback, server.fallback)
}

#[test]
//= RFC 8684 3.1-18 (test)
fn regular_tcp_on_either_side_is_spoken_with() {
    let multipath = ConnectionConfig::default();
    let paths = || vec![PathConfig::default(); 2];
    let mut pair = Pair::with_configs(1, paths(), false, &multipath, &plain());
    assert_eq!(fallbacks(&mut pair), (Some(FallbackReason::NoMpCapable), Some(FallbackReason::NotRequested)));
    let mut pair = Pair::with_configs(2, paths(), true, &plain(), &multipath);
    assert_eq!(fallbacks(&mut pair), (Some(FallbackReason::NotRequested), Some(FallbackReason::NoMpCapable)));
}

/// A middlebox that removes Multipath TCP options from segments that the predicate names.
fn strip(mut which: impl FnMut(bool, &Segment) -> bool + 'static) -> super::pair::Middlebox {
    Box::new(move |from_client, mut segment| {
        if which(from_client, &segment) {
            segment.options.mptcp.clear();
        }
        Some(segment)
    })
}

#[test]
//= RFC 8684 3.7-5 (test)
fn options_that_disappear_make_it_regular_tcp() {
    let syn = |segment: &Segment| segment.flags.has(Flags::SYN);
    let cases: Vec<super::pair::Middlebox> = vec![
        strip(|_, _| true),
        strip(move |from_client, segment| from_client && syn(segment)),
        strip(move |from_client, segment| !from_client && syn(segment)),
        strip(move |_, segment| !syn(segment)),
        strip(move |from_client, segment| from_client && !syn(segment)),
        strip(move |from_client, segment| !from_client && !syn(segment)),
        strip(|_, segment| !segment.payload.is_empty()),
    ];
    for (number, middlebox) in cases.into_iter().enumerate() {
        let mut pair =
            Pair::new(number as u64, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
        pair.middlebox = Some(middlebox);
        let (client, server) = fallbacks(&mut pair);
        assert!(client.is_some() && server.is_some(), "case {number}: {client:?} {server:?}");
    }
}

#[test]
//= RFC 8684 3.1-20 (test)
fn a_syn_that_only_passes_without_the_option_is_sent_without_it() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    pair.middlebox = Some(Box::new(|_, segment| {
        let syn = segment.flags.has(Flags::SYN) && segment.options.capable().is_some();
        (!syn).then_some(segment)
    }));
    let (client, server) = fallbacks(&mut pair);
    assert_eq!(client, Some(FallbackReason::SynRetransmission));
    assert_eq!(server, Some(FallbackReason::NoMpCapable));
}

#[test]
//= RFC 8684 3.2-9 (test)
//= RFC 8684 3.2-10 (test)
fn a_forged_join_is_refused() {
    // The HMAC of the SYN/ACK, then that of the third ACK, is changed on the way.
    for in_third_ack in [false, true] {
        let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
        pair.middlebox = Some(Box::new(move |_, mut segment| {
            for option in &mut segment.options.mptcp {
                match option {
                    MptcpOption::Join(crate::wire::Join::SynAck { mac, .. }) if !in_third_ack => *mac ^= 1,
                    MptcpOption::Join(crate::wire::Join::Ack { mac }) if in_third_ack => mac[19] ^= 1,
                    _ => {}
                }
            }
            Some(segment)
        }));
        assert_eq!(fallbacks(&mut pair), (None, None));
        let info = pair.server.endpoint.info(pair.server.connection.unwrap()).unwrap();
        let carried = info.subflows.iter().filter(|subflow| subflow.bytes_received > 0).count();
        assert_eq!(carried, 1, "{info:#?}");
    }
}

#[test]
fn a_port_without_listener_refuses() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let (now, listener) = (pair.now, pair.listener);
    pair.server.endpoint.close_listener(now, listener);
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.client.closed.is_some()));
    assert_eq!(pair.client.closed, Some(CloseReason::Refused));
}

#[test]
fn nobody_there_is_a_timeout() {
    let mut pair = Pair::new(
        1,
        vec![PathConfig { up: false, ..PathConfig::default() }],
        false,
        &ConnectionConfig::default(),
    );
    assert!(pair.run_until(Duration::from_secs(31), |pair| pair.client.closed.is_some()));
    assert_eq!(pair.client.closed, Some(CloseReason::ConnectTimeout));
}

#[test]
fn a_peer_that_vanishes_is_given_up() {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    pair.send(pattern(50_000_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() > 1_000_000));
    for path in &mut pair.paths {
        path.up = false;
    }
    assert!(pair.run_until(Duration::from_secs(2000), |pair| pair.client.closed.is_some()));
    assert_eq!(pair.client.closed, Some(CloseReason::TimedOut));
}

#[test]
fn an_abort_reaches_the_peer_and_everything_is_released() {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    pair.send(pattern(50_000_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() > 1_000_000));
    let (now, id) = (pair.now, pair.client.connection.unwrap());
    pair.client.endpoint.abort(now, id);
    assert!(pair.run(Duration::from_secs(5)), "{}", pair.tail());
    assert_eq!(pair.server.closed, Some(CloseReason::Reset));
    assert_eq!(pair.client.closed, Some(CloseReason::Aborted));
    let (now, server) = (pair.now, pair.server.connection.unwrap());
    pair.client.endpoint.release(now, id);
    pair.server.endpoint.release(now, server);
    pair.run_until(Duration::from_secs(100), |_| false);
    assert!(pair.client.endpoint.connections().is_empty() && pair.server.endpoint.connections().is_empty());
}

/// A gateway that changes octets without changing their number, as regular TCP would let it, from the `first` segment
/// with data on.
fn gateway(in_direction: [bool; 2], first: usize) -> super::pair::Middlebox {
    let mut seen = [0; 2];
    Box::new(move |from_client, mut segment| {
        let direction = usize::from(from_client);
        if !segment.payload.is_empty() && in_direction[direction] {
            seen[direction] += 1;
            if seen[direction] > first {
                let octets: Vec<u8> = segment.payload.to_vec().iter().map(|octet| octet ^ 0x20).collect();
                segment.payload = octets.into();
            }
        }
        Some(segment)
    })
}

#[test]
fn a_gateway_that_changes_the_data_of_the_only_subflow_makes_it_regular_tcp() {
    let config = ConnectionConfig { checksum: true, max_subflows: 1, ..ConnectionConfig::default() };
    for (number, (directions, first)) in
        [([false, true], 0), ([true, false], 0), ([true, true], 0), ([false, true], 20), ([true, true], 7)]
            .into_iter()
            .enumerate()
    {
        for loss in [0.0, 0.03] {
            let mut pair = Pair::new(number as u64, vec![PathConfig::default()], false, &config);
            pair.middlebox = Some(gateway(directions, first));
            pair.paths[0].loss = loss;
            let (up, down) = (pattern(400_000, 1), pattern(300_000, 2));
            pair.send(up.clone(), down.clone());
            assert!(pair.run(Duration::from_secs(120)), "case {number}\n{}", pair.tail());
            let case = format!("case {number} {loss}");
            assert_eq!(
                (pair.client.closed, pair.server.closed),
                (Some(CloseReason::Finished), Some(CloseReason::Finished)),
                "{case}"
            );
            for (received, sent, changed) in
                [(&pair.client.received, &down, directions[0]), (&pair.server.received, &up, directions[1])]
            {
                let same = received
                    .iter()
                    .zip(sent)
                    .all(|(got, sent)| got == sent || (changed && *got == sent ^ 0x20));
                assert!(received.len() == sent.len() && same, "{case}");
                assert_eq!(received != sent, changed, "{case}");
            }
            let info =
                |host: &super::pair::Host| host.endpoint.info(host.connection.unwrap()).unwrap().fallback;
            let (client, server) = (info(&pair.client), info(&pair.server));
            assert!(client.is_some() && server.is_some(), "{case}: {client:?} {server:?}");
            let failed = Some(FallbackReason::ChecksumFailed);
            assert!(client == failed || server == failed, "{case}: {client:?} {server:?}");
        }
    }
}

#[test]
//= RFC 8684 3.7-8 (test)
fn a_gateway_on_one_of_two_paths_costs_that_path() {
    let config = ConnectionConfig { checksum: true, ..ConnectionConfig::default() };
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &config);
    pair.middlebox = Some(Box::new(|_, mut segment| {
        if segment.src.ip().to_string().starts_with("10.1.") && !segment.payload.is_empty() {
            let octets: Vec<u8> = segment.payload.to_vec().iter().map(|octet| octet ^ 0x20).collect();
            segment.payload = octets.into();
        }
        Some(segment)
    }));
    assert_eq!(fallbacks(&mut pair), (None, None));
    let failed = pair.log.iter().filter(|line| line.contains("Fail(")).count();
    assert!(failed > 0, "no MP_FAIL was sent");
}

/// RFC 8684 section 3.7: what counts is the only *established* subflow. One whose SYN, SYN/ACK or third ACK is on its
/// way keeps neither side from falling back, and does not outlive that.
#[test]
fn a_join_under_way_does_not_keep_the_connection_from_falling_back() {
    let joins = |segment: &Segment| segment.options.join().is_some();
    // Whose data a gateway changes (the server's, the client's), what becomes of the join, whether MP_FAIL gets through:
    // without it there is only the infinite mapping to know from.
    for directions in [[true, false], [false, true]] {
        for (name, lost) in
            [("SYN", Flags::SYN), ("SYN/ACK", Flags::SYN.with(Flags::ACK)), ("third ACK", Flags::ACK)]
        {
            if directions[0] && lost == Flags::ACK {
                // The client finds the wrong checksum, and can't know that the server lacks the third ACK: it gives the
                // first subflow up and stays with the one that may be clean.
                continue;
            }
            for told in [true, false] {
                let case = format!("{directions:?}, {name} lost, MP_FAIL passes: {told}");
                let config = ConnectionConfig { checksum: true, ..ConnectionConfig::default() };
                let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &config);
                // Clean until the join is under way.
                let mut gateway = gateway(directions, 20);
                pair.middlebox = Some(Box::new(move |from_client, mut segment| {
                    if joins(&segment) && segment.flags == lost {
                        return None;
                    }
                    if !told {
                        segment.options.mptcp.retain(|option| !matches!(option, MptcpOption::Fail(_)));
                    }
                    gateway(from_client, segment)
                }));
                let (up, down) = (pattern(400_000, 1), pattern(300_000, 2));
                pair.send(up.clone(), down.clone());
                assert!(pair.run(Duration::from_secs(120)), "{case}\n{}", pair.tail());
                let finished = Some(CloseReason::Finished);
                assert_eq!(
                    (pair.client.closed, pair.server.closed),
                    (finished, finished),
                    "{case}\n{}",
                    pair.tail()
                );
                for (received, sent) in [(&pair.client.received, &down), (&pair.server.received, &up)] {
                    let same =
                        received.iter().zip(sent).all(|(got, sent)| got == sent || *got == sent ^ 0x20);
                    assert!(received.len() == sent.len() && same, "{case}: {} octets", received.len());
                }
                assert!(
                    pair.client.info().fallback.is_some() && pair.server.info().fallback.is_some(),
                    "{case}"
                );
                assert!(pair.log.iter().any(|line| line.contains("Join")), "{case}: no join was tried");
            }
        }
    }
}

/// A client without anything to send finishes at once. The third ACK is lost, and so is every repeated SYN/ACK that would
/// make it come again: the DATA_FIN has no room for the keys, so that they have to go before it each time.
#[test]
//= RFC 8684 3.1-2 (test)
fn a_lost_third_ack_before_a_data_fin_is_made_up_for() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let (mut answers, mut keys) = (0, 0);
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        answers += i32::from(!from_client && segment.flags.has(Flags::SYN));
        let third = from_client && !segment.flags.has(Flags::SYN) && segment.options.capable().is_some();
        keys += i32::from(third);
        let lost = (third && keys == 1) || (!from_client && segment.flags.has(Flags::SYN) && answers > 1);
        (!lost).then_some(segment)
    }));
    pair.exchange(0, 0);
}

/// A round-trip time of 40 ms is known after the handshake, whatever was lost of it: with an RTO of a second the next loss would
/// cost that. Without timestamps nobody can say which SYN was answered.
#[test]
fn a_round_trip_time_is_known_although_the_syn_was_repeated() {
    for (lost, stamps) in [(1, true), (2, true), (2, false)] {
        let path = PathConfig { delay: Duration::from_millis(20), ..PathConfig::default() };
        let mut pair = Pair::new(7, vec![path], false, &ConnectionConfig::default());
        let mut count = 0;
        pair.middlebox = Some(Box::new(move |_, mut segment| {
            count += u32::from(segment.flags.has(Flags::SYN));
            if !stamps {
                segment.options.timestamps = None;
            }
            (count > lost || !segment.flags.has(Flags::SYN)).then_some(segment)
        }));
        let connected =
            |pair: &Pair| pair.client.events.iter().any(|event| matches!(event, crate::Event::Connected(_)));
        assert!(pair.run_until(Duration::from_secs(10), connected));
        let subflow = &pair.client.info().subflows[0];
        assert_eq!(subflow.srtt.is_some(), stamps, "{subflow:#?}");
        if let Some(srtt) = subflow.srtt {
            assert!(srtt >= Duration::from_millis(40) && srtt <= Duration::from_millis(42), "{srtt:?}");
        }
    }
}
