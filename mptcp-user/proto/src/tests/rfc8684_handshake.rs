//! Third ACKs, priorities and acknowledgments, segment by segment (RFC 8684 sections 3.1, 3.2 and 3.3), in
//! both roles and versions.

use super::flood::spoofed_syn;
use super::script::{ROLES, Role, Script, reset_reason};
use crate::wire::{Flags, Join, MpCapable, MptcpOption, ResetReason, Segment, Version};
use crate::{ConnectionConfig, Counter, FallbackReason};
use std::time::Duration;

const SERVERS: [Role; 2] = [ROLES[0], ROLES[2]];

fn change_keys(change: impl Fn(&mut MpCapable)) -> impl Fn(&mut Segment) {
    move |segment| {
        for option in &mut segment.options.mptcp {
            if let MptcpOption::Capable(capable) = option {
                change(capable);
            }
        }
    }
}

#[test]
//= RFC 8684 3.1-7 (test)
//= RFC 8684 3.1-10 (test)
//= RFC 8684 3.1-19 (test)
fn a_third_ack_with_wrong_keys_or_flags_makes_it_regular_tcp() {
    type Change = fn(&mut MpCapable);
    let changes: [(bool, Change); 5] = [
        (true, |capable| capable.receiver_key = capable.receiver_key.map(|key| key ^ 1)),
        (true, |capable| std::mem::swap(&mut capable.receiver_key, &mut capable.sender_key)),
        (false, |capable| capable.hmac = false),
        (false, |capable| capable.extensible = true),
        (true, |capable| {
            capable.receiver_key = None;
        }),
    ];
    for role in SERVERS {
        for (number, (keys, change)) in changes.into_iter().enumerate() {
            let mut script = Script::with_third_ack(role, &ConnectionConfig::default(), change_keys(change));
            let info = script.info();
            assert_eq!(info.fallback, Some(FallbackReason::OptionStripped), "{role:?} {number}");
            let counter = if keys { Counter::BadKeys } else { Counter::CapableUnusable };
            assert_eq!(script.endpoint.counters().get(counter), 1, "{role:?} {number}");
            // It works.
            let mut data = script.bare(0);
            data.payload = b"some".to_vec().into();
            script.feed(data);
            assert_eq!(script.read().0, b"some");
            script.take();
            script.write(b"answer");
            let answer = script.only();
            assert!(answer.options.mptcp.is_empty(), "{answer:?}");
        }
    }
}

#[test]
fn first_data_with_wrong_keys_is_not_taken_for_the_peer_s() {
    let mut script = Script::established(ROLES[0], &ConnectionConfig::default());
    let MptcpOption::Capable(mut capable) = script.keys() else { panic!("no keys") };
    capable.receiver_key = Some(script.theirs.key ^ 1);
    capable.data = Some((4, None));
    let mut data = script.bare(0);
    data.options.mptcp.push(MptcpOption::Capable(capable));
    data.payload = b"some".to_vec().into();
    script.feed(data);
    assert_eq!(script.endpoint.counters().get(Counter::BadKeys), 1);
    assert_eq!(script.info().fallback, Some(FallbackReason::MappingMissing));
}

#[test]
//= RFC 8684 3.2-1 (test)
//= RFC 8684 3.2-4 (test)
fn the_third_ack_of_a_join_is_answered_at_once_each_time() {
    for role in SERVERS {
        let mut script = Script::established(role, &ConnectionConfig::default());
        let third = script.join();
        for _ in 0..5 {
            script.feed(third.clone());
            let out = script.take();
            let answers = out.iter().filter(|segment| segment.dst == third.src).count();
            assert_eq!(answers, 1, "{role:?}: {out:?}");
            script.pass(Duration::from_millis(300));
            script.take();
        }
        assert_eq!(script.alive(), 2);
    }
}

#[test]
//= RFC 8684 3.2-11 (test)
//= RFC 8684 3.2-12 (test)
fn a_join_whose_third_ack_has_lost_its_option_is_reset_at_once() {
    for role in SERVERS {
        for data in [false, true] {
            let mut script = Script::established(role, &ConnectionConfig::default());
            let mut third = script.join();
            third.options.mptcp.clear();
            if data {
                third.payload = b"some".to_vec().into();
            }
            let expected = third.ack;
            script.feed(third);
            let reset = script.only();
            assert!(reset.flags.has(Flags::RST) && reset.seq == expected, "{role:?}: {reset:?}");
            let reason = (role.version == Version::V1).then_some(ResetReason::MptcpSpecific);
            assert_eq!(reset_reason(&reset), reason);
            assert_eq!((script.alive(), script.closed()), (1, None), "{role:?}");
        }
    }
}

#[test]
//= RFC 8684 3.2-5 (test)
//= RFC 8684 3.2-6 (test)
fn the_third_ack_of_the_client_s_join_is_repeated_until_it_is_answered() {
    for role in [ROLES[1], ROLES[3]] {
        let mut script = Script::established(role, &ConnectionConfig::default());
        let answer = script.join();
        script.pass(Duration::from_millis(3500));
        let out = script.take();
        let thirds = out.iter().filter(|segment| matches!(segment.options.join(), Some(Join::Ack { .. })));
        assert_eq!(thirds.count(), 2, "{role:?}: {out:?}");
        script.feed(answer);
        script.pass(Duration::from_secs(30));
        assert!(script.take().iter().all(|segment| segment.options.join().is_none()), "{role:?}");
        assert_eq!(script.alive(), 2);
    }
}

#[test]
//= RFC 8684 3.3.8-2 (test)
fn a_priority_with_an_address_id_is_obeyed_in_version_0_only() {
    for role in ROLES {
        let mut script = Script::joined(role, &ConnectionConfig::default());
        let info = script.info();
        assert!(info.subflows.iter().all(|subflow| !subflow.backup));
        // On the second subflow, about the first, whose address has the id 0.
        let mut segment = script.bare(1);
        segment.options.mptcp.push(script.data_ack());
        segment.options.mptcp.push(MptcpOption::Priority { backup: true, address_id: Some(0) });
        script.feed(segment);
        let info = script.info();
        let first = info.subflows.iter().find(|subflow| subflow.initial).expect("it is there");
        assert_eq!(first.backup, role.version == Version::V0, "{role:?}");
        let mut segment = script.bare(0);
        segment.options.mptcp.push(script.data_ack());
        segment.options.mptcp.push(MptcpOption::Priority { backup: true, address_id: None });
        script.feed(segment);
        let info = script.info();
        let first = info.subflows.iter().find(|subflow| subflow.initial).expect("it is there");
        assert!(first.backup, "{role:?}");
    }
}

#[test]
//= RFC 8684 3.3.2-2 (test)
fn the_data_ack_beside_sack_blocks_has_64_bits() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        let mut blocks = 0;
        for number in 0..6 {
            let mut data = script.data(0, &[number; 100], false);
            if number % 2 == 1 {
                data.options.timestamps = None;
                script.feed(data);
                for segment in script.take() {
                    let (ack, long) = segment.options.dss().and_then(|dss| dss.data_ack).expect("a Data ACK");
                    assert!(long && ack == script.ours.idsn + 1, "{role:?}: {segment:?}");
                    blocks = blocks.max(segment.options.sack.len());
                }
            }
        }
        assert!(blocks >= 2, "{role:?}: {blocks} blocks");
    }
}

/// A SYN/ACK is no third ACK, whatever it acknowledges, and nor is a reset.
#[test]
fn a_cookie_comes_back_in_an_acknowledgment_and_in_nothing_else() {
    use crate::{Endpoint, EndpointConfig, Instant, LocalAddress};
    let mut endpoint = Endpoint::new(EndpointConfig::default(), [3; 32]);
    let now = Instant::from_nanos(1_000_000_000);
    let address = super::pair::address(0, 2, false);
    endpoint.add_local_address(now, LocalAddress { address, interface: 1, mtu: 1500, backup: false });
    let listener = std::net::SocketAddr::new(address, 5000);
    endpoint.listen(listener, ConnectionConfig::default()).expect("the address is ours");
    let mut cookies = Vec::new();
    for number in 0..1200 {
        endpoint.handle_segment(now, spoofed_syn(number, number % 2 == 0));
        while let Some(segment) = endpoint.poll_transmit(now) {
            if number > 1100 {
                cookies.push((number, segment));
            }
        }
    }
    let before = endpoint.connections().len();
    let mut third = |flags: Flags, (number, syn_ack): &(u32, Segment), wrong: bool| {
        let syn = spoofed_syn(*number, number % 2 == 0);
        let mut segment = Segment::new(syn.src, syn.dst);
        (segment.seq, segment.ack, segment.window) = (syn.seq + 1, syn_ack.seq + 1, 1000);
        if flags.has(Flags::SYN) {
            segment.seq = syn.seq + 1;
        }
        segment.flags = flags;
        let echo = syn_ack.options.timestamps.map_or(0, |stamps| stamps.value);
        segment.options.timestamps = Some(crate::wire::Timestamps { value: 2, echo });
        let theirs = syn_ack.options.capable().and_then(|capable| capable.sender_key);
        if let Some(key) = theirs {
            segment.options.mptcp.push(MptcpOption::Capable(MpCapable {
                sender_key: Some(5),
                receiver_key: Some(key ^ u64::from(wrong)),
                ..MpCapable::new(Version::V1)
            }));
        }
        endpoint.handle_segment(now, segment);
        while endpoint.poll_transmit(now).is_some() {}
        endpoint.connections().len()
    };
    for flags in [Flags::SYN.with(Flags::ACK), Flags::RST.with(Flags::ACK), Flags::FIN, Flags::PSH] {
        for cookie in &cookies[..20] {
            assert_eq!(third(flags, cookie, false), before, "{flags:?}");
        }
    }
    assert_eq!(third(Flags::ACK, &cookies[0], false), before + 1);
    assert_eq!(third(Flags::ACK, &cookies[1], false), before + 2);
    // Wrong keys make regular TCP, which is established all the same.
    assert_eq!(third(Flags::ACK, &cookies[2], true), before + 3);
    assert_eq!(third(Flags::ACK, &cookies[4], true), before + 4);
    let ids = endpoint.connections();
    let infos = ids.iter().rev().filter_map(|id| endpoint.info(*id));
    let plain =
        infos.filter(|info| info.state == crate::ConnectionState::Established && info.version.is_none());
    assert!(plain.count() >= 2);
}
