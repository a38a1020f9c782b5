//! Paths that take smaller packets than their links do, and say so or not.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::Flags;
use crate::{CloseReason, ConnectionConfig, LocalAddress, SubflowInfo, Unreachable};
use std::time::Duration;

fn plain() -> ConnectionConfig {
    ConnectionConfig { multipath: false, ..ConnectionConfig::default() }
}

fn path(mtu: usize) -> PathConfig {
    PathConfig { mtu, ..PathConfig::default() }
}

/// What the client knows of its first subflow.
fn subflow(pair: &Pair) -> SubflowInfo {
    pair.client.info().subflows[0].clone()
}

#[test]
fn a_black_hole_is_got_over_and_the_largest_size_found() {
    for (v6, mtu) in [(false, 1300), (false, 1499), (false, 1080), (true, 1300), (true, 1281), (true, 1492)] {
        for (config, sack) in [(plain(), true), (ConnectionConfig::default(), true), (plain(), false)] {
            let case = format!("{mtu} {v6} {} {sack}", config.multipath);
            let mut pair = Pair::new(1, vec![path(mtu)], v6, &config);
            pair.middlebox = Some(Box::new(move |_, mut segment| {
                segment.options.sack_permitted &= sack;
                Some(segment)
            }));
            let data = pattern(3_000_000, 1);
            pair.send(data.clone(), Vec::new());
            let begun = pair.now;
            assert!(pair.run(Duration::from_secs(60)), "{case}\n{}", pair.tail());
            assert!(pair.server.received == data, "{case}");
            assert_eq!(pair.client.closed, Some(CloseReason::Finished), "{case}");
            let info = subflow(&pair);
            let found = info.path_mtu as usize;
            assert!(found <= mtu && mtu - found <= 20, "{case}: {info:#?}");
            // The black hole took two timeouts; probes that were lost are no congestion.
            assert_eq!((info.timeouts, info.fast_recoveries), (2, 0), "{case}: {info:#?}");
            assert!(pair.now - begun < Duration::from_secs(5), "{case}: {:?}", pair.now - begun);
        }
    }
}

#[test]
fn a_path_of_the_smallest_packets_works() {
    let mut pair = Pair::new(1, vec![path(600)], false, &plain());
    pair.send(pattern(300_000, 1), pattern(300_000, 2));
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert!(pair.server.received == pattern(300_000, 1) && pair.client.received == pattern(300_000, 2));
}

#[test]
fn a_black_hole_on_one_of_two_paths_costs_little() {
    let slow = PathConfig { delay: Duration::from_millis(20), ..PathConfig::default() };
    let mut pair = Pair::new(1, vec![slow, path(1300)], false, &ConnectionConfig::default());
    assert!(pair.run_until(Duration::from_secs(1), |pair| pair.server.connection.is_some()));
    for _ in 0..100 {
        let next = pair.now + Duration::from_millis(30);
        let server = pair.server.connection.unwrap();
        pair.server.endpoint.send(pair.now, server, pattern(60_000, 1).into());
        pair.run_until(Duration::from_millis(30), |_| false);
        pair.now = next;
    }
    pair.run_until(Duration::from_secs(1), |_| false);
    assert_eq!(pair.client.received.len(), 6_000_000);
    let info = pair.server.info();
    assert_eq!(info.subflows[0].path_mtu, 1500, "{info:#?}");
    let small = &info.subflows[1];
    assert!((1280..=1300).contains(&small.path_mtu) && small.bytes_acked > 1_000_000, "{info:#?}");
}

#[test]
fn a_path_that_takes_more_again_is_noticed_within_ten_minutes() {
    let mut pair = Pair::new(1, vec![path(1500)], false, &plain());
    let steadily = |pair: &mut Pair, seconds: u64| {
        for _ in 0..seconds {
            let (now, client) = (pair.now, pair.client.connection.unwrap());
            pair.client.endpoint.send(now, client, pattern(30_000, 1).into());
            let next = now + Duration::from_secs(1);
            pair.run_until(Duration::from_secs(1), |_| false);
            pair.now = next;
        }
        subflow(pair).path_mtu
    };
    assert_eq!(steadily(&mut pair, 5), 1500);
    pair.paths[0].mtu = 1300;
    let small = steadily(&mut pair, 60);
    assert!((1280..=1300).contains(&small), "{small}");
    pair.paths[0].mtu = 1500;
    assert_eq!(steadily(&mut pair, 500), small, "the result of a search stands for a while");
    assert_eq!(steadily(&mut pair, 100), 1500);
    assert_eq!(subflow(&pair).fast_recoveries, 0);
}

#[test]
fn a_router_that_says_so_costs_no_timeout() {
    for v6 in [false, true] {
        for config in [plain(), ConnectionConfig::default()] {
            let mut pair = Pair::new(1, vec![path(1300)], v6, &config);
            let data = pattern(3_000_000, 1);
            pair.send(data.clone(), Vec::new());
            let full = std::rc::Rc::new(std::cell::RefCell::new(None));
            // `log` has what the path drops; the first such packet is what a router quotes.
            let seen = full.clone();
            pair.dropped = Some(Box::new(move |packet| {
                seen.borrow_mut().get_or_insert_with(|| packet.clone());
            }));
            assert!(pair.run_until(Duration::from_secs(5), |_| full.borrow().is_some()));
            let quoted = full.borrow().clone().expect("a full packet");
            let mut report = Unreachable {
                local: quoted.src,
                remote: quoted.dst,
                seq: quoted.seq.0,
                mtu: Some(1300),
                hard: false,
            };
            // Somebody who does not see the packets can only guess.
            for guess in [quoted.seq + u32::MAX, quoted.seq + (1 << 20), quoted.seq + (1 << 31)] {
                let blind = Unreachable { seq: guess.0, ..report };
                pair.client.endpoint.handle_unreachable(pair.now, blind);
                assert_eq!(subflow(&pair).path_mtu, 1500);
            }
            pair.client.endpoint.handle_unreachable(pair.now, report);
            assert_eq!(subflow(&pair).path_mtu, 1300);
            report.mtu = Some(100);
            if v6 {
                pair.client.endpoint.handle_unreachable(pair.now, report);
                assert_eq!(subflow(&pair).path_mtu, 1300, "no IPv6 link is that small");
            }
            assert!(pair.run(Duration::from_secs(10)), "{}", pair.tail());
            assert!(pair.server.received == data);
            let info = subflow(&pair);
            assert_eq!((info.timeouts, info.fast_recoveries, info.path_mtu), (0, 0, 1300), "{info:#?}");
        }
    }
}

#[test]
fn a_link_whose_mtu_changes_is_followed() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let data = pattern(50_000_000, 1);
    pair.send(data.clone(), Vec::new());
    let largest = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = largest.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        if from_client && !segment.flags.has(Flags::SYN) {
            seen.set(seen.get().max(segment.payload.len() + segment.options.wire_len() + 40));
        }
        Some(segment)
    }));
    for (mtu, until) in [(1300, 10_000_000), (1500, 45_000_000)] {
        let local = LocalAddress { address: address(0, 1, false), interface: 1, mtu, backup: false };
        pair.client.endpoint.add_local_address(pair.now, local);
        largest.set(0);
        assert!(pair.run_until(Duration::from_secs(20), |pair| pair.server.received.len() > until));
        assert_eq!(subflow(&pair).path_mtu, mtu);
        assert_eq!(largest.get(), mtu as usize);
    }
    assert!(pair.run(Duration::from_secs(20)), "{}", pair.tail());
    assert!(pair.server.received == data);
}
