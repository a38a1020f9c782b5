//! Version 0 (RFC 6824) between our own ends, and the choice between the two.

use super::pair::{Pair, PathConfig, pattern};
use crate::wire::{Flags, MptcpOption, Segment, Version};
use crate::{CloseReason, ConnectionConfig, ConnectionInfo, FallbackReason, Versions};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

fn with(versions: Versions) -> ConnectionConfig {
    ConnectionConfig { versions, ..ConnectionConfig::default() }
}

/// Transfers both ways and gives what client and server know at the end, and all segments.
fn transfer(pair: &mut Pair) -> (ConnectionInfo, ConnectionInfo, Vec<Segment>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let tap = seen.clone();
    pair.middlebox = Some(Box::new(move |_, segment| {
        tap.borrow_mut().push(segment.clone());
        Some(segment)
    }));
    let infos = pair.exchange(1_500_000, 300_000);
    pair.middlebox = None;
    (infos.0, infos.1, Rc::try_unwrap(seen).expect("the tap is gone").into_inner())
}

#[test]
//= RFC 8684 3.1-6 (test)
//= RFC 8684 3.1-14 (test)
fn version_0_carries_data_over_two_paths() {
    for (loss, checksum) in [(0.0, false), (0.0, true), (0.02, true)] {
        for v6 in [false, true] {
            let client = ConnectionConfig { checksum, ..with(Versions::Zero) };
            let paths = vec![PathConfig { loss, ..PathConfig::default() }; 2];
            let mut pair = Pair::with_configs(7, paths, v6, &client, &with(Versions::Auto));
            let (client, server, segments) = transfer(&mut pair);
            for info in [&client, &server] {
                assert_eq!((info.version, info.fallback, info.checksum), (Some(0), None, checksum));
                let carried = info.subflows.iter().filter(|subflow| subflow.bytes_received > 0);
                assert_eq!(carried.count(), 2, "{info:#?}");
            }
            for option in segments.iter().flat_map(|segment| &segment.options.mptcp) {
                match option {
                    MptcpOption::Capable(capable) => {
                        assert!(capable.version == Version::V0 && capable.sender_key.is_some());
                        assert_eq!(capable.data, None, "version 0 has no length there");
                    }
                    MptcpOption::AddAddr(add) => assert!(!add.echo && add.mac.is_none(), "{add:?}"),
                    MptcpOption::Reset(_) => panic!("version 0 has no MP_TCPRST"),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn a_lost_third_ack_of_version_0_is_made_up_for_by_the_first_mapping() {
    let config = with(Versions::Zero);
    let mut pair = Pair::new(3, vec![PathConfig::default(); 2], false, &config);
    pair.middlebox = Some(Box::new(|_, segment| {
        let third = segment.options.capable().is_some() && !segment.flags.has(Flags::SYN);
        (!third).then_some(segment)
    }));
    pair.send(pattern(300_000, 1), pattern(300_000, 2));
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert!(pair.server.received == pattern(300_000, 1) && pair.client.received == pattern(300_000, 2));
    let info = pair.server.endpoint.info(pair.server.connection.unwrap()).unwrap();
    assert_eq!((info.version, info.fallback), (Some(0), None));
}

#[test]
//= RFC 8684 3.1-3 (test)
//= RFC 8684 3.1-4 (test)
//= RFC 8684 3.1-16 (test)
fn what_only_one_side_speaks_is_not_spoken() {
    let reason = Some(FallbackReason::NoMpCapable);
    for (asked, spoken, expected) in [
        (Versions::Auto, Versions::Auto, (Some(1), None)),
        (Versions::Auto, Versions::One, (Some(1), None)),
        (Versions::One, Versions::Auto, (Some(1), None)),
        (Versions::Zero, Versions::Zero, (Some(0), None)),
        (Versions::Auto, Versions::Zero, (None, reason)),
        (Versions::One, Versions::Zero, (None, reason)),
        (Versions::Zero, Versions::One, (None, reason)),
    ] {
        let mut pair =
            Pair::with_configs(5, vec![PathConfig::default(); 2], false, &with(asked), &with(spoken));
        let (client, server, _) = transfer(&mut pair);
        assert_eq!((client.version, client.fallback), expected, "{asked:?} {spoken:?}");
        assert_eq!((server.version, server.fallback), expected, "{asked:?} {spoken:?}");
    }
}

/// RFC 6824 section 3.5: the acknowledgment says it, resets follow.
#[test]
fn version_0_is_closed_fast_by_an_acknowledgment() {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &with(Versions::Zero));
    pair.send(pattern(50_000_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(5), |pair| pair.server.received.len() > 1_000_000));
    let fast = Rc::new(RefCell::new(Vec::new()));
    let tap = fast.clone();
    pair.middlebox = Some(Box::new(move |_, segment| {
        if segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::FastClose(_))) {
            tap.borrow_mut().push(segment.flags);
        }
        Some(segment)
    }));
    let (now, id) = (pair.now, pair.client.connection.unwrap());
    pair.client.endpoint.abort(now, id);
    assert!(pair.run(Duration::from_secs(5)), "{}", pair.tail());
    assert_eq!(
        (pair.client.closed, pair.server.closed),
        (Some(CloseReason::Aborted), Some(CloseReason::Reset))
    );
    assert_eq!(*fast.borrow(), [Flags::ACK]);
}
