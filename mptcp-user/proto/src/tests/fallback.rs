//! Fallback always leads to a working connection (RFC 8684 section 3.7): wherever the option disappears, and when
//! checksums are wrong.

use super::pair::{Middlebox, Pair, PathConfig, pattern};
use crate::wire::{Dss, Flags, MptcpOption, Segment};
use crate::{CloseReason, ConnectionConfig, ConnectionInfo, FallbackReason};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Strips Multipath TCP from the segments that the predicate names (its first argument: from the client), exchanges
/// octets both ways, exactly; gives what client and server know at the end.
fn stripped(
    paths: usize,
    mut which: impl FnMut(bool, &Segment) -> bool + 'static,
) -> (ConnectionInfo, ConnectionInfo) {
    let mut pair = Pair::new(3, vec![PathConfig::default(); paths], false, &ConnectionConfig::default());
    let middlebox: Middlebox = Box::new(move |from_client, mut segment| {
        if which(from_client, &segment) {
            segment.options.mptcp.clear();
        }
        Some(segment)
    });
    pair.middlebox = Some(middlebox);
    pair.exchange(200_000, 200_000)
}

fn is_syn(segment: &Segment) -> bool {
    segment.flags.has(Flags::SYN)
}

fn assert_both_fell_back((client, server): &(ConnectionInfo, ConnectionInfo)) {
    assert!(client.fallback.is_some(), "{client:#?}");
    assert!(server.fallback.is_some(), "{server:#?}");
}

#[test]
//= RFC 8684 3.7-1 (test)
fn an_option_stripped_from_the_syn_makes_it_regular_tcp() {
    let both = stripped(2, |from_client, segment| from_client && is_syn(segment));
    assert_both_fell_back(&both);
    assert_eq!(both.1.fallback, Some(FallbackReason::NoMpCapable));
}

#[test]
//= RFC 8684 3.1-17 (test)
fn an_option_stripped_from_the_syn_ack_makes_it_regular_tcp() {
    let both = stripped(2, |from_client, segment| !from_client && is_syn(segment));
    assert_both_fell_back(&both);
    assert_eq!(both.0.fallback, Some(FallbackReason::NoMpCapable));
}

#[test]
fn an_option_stripped_from_all_that_follows_the_client_s_syn_makes_it_regular_tcp() {
    assert_both_fell_back(&stripped(2, |from_client, segment| from_client && !is_syn(segment)));
}

#[test]
fn an_option_stripped_from_the_third_ack_alone_leaves_a_working_connection() {
    let mut seen = false;
    stripped(2, move |from_client, segment| {
        from_client && !is_syn(segment) && !std::mem::replace(&mut seen, true)
    });
}

#[test]
fn an_option_stripped_from_data_of_either_side_makes_it_regular_tcp() {
    for client in [true, false] {
        assert_both_fell_back(&stripped(1, move |from_client, segment| {
            from_client == client && !segment.payload.is_empty()
        }));
    }
}

#[test]
fn an_option_that_disappears_later_leaves_a_working_connection() {
    for client in [true, false] {
        let mut count = 0;
        let (client_info, server_info) = stripped(1, move |from_client, segment| {
            count += usize::from(from_client == client && !segment.payload.is_empty());
            from_client == client && count > 40
        });
        let receiver = if client { server_info } else { client_info };
        assert!(receiver.fallback.is_some(), "{receiver:#?}");
    }
}

/// Found by `cargo xtask soak` (middleboxes 6794, 7456 and others): what was only going to be sent over another subflow, had
/// there been one, has not left the only one. A peer that falls back is to be followed, or takes our FIN for the end.
#[test]
fn a_timeout_before_the_options_disappear_leaves_a_working_connection() {
    for client in [true, false] {
        let mut count = 0;
        let mut pair = Pair::new(3, vec![PathConfig::default()], false, &ConnectionConfig::default());
        pair.middlebox = Some(Box::new(move |from_client, mut segment| {
            if from_client == client && !segment.payload.is_empty() {
                count += 1;
                segment.options.mptcp.clear();
            }
            // The initial window, and what is tried again after a timeout.
            (count == 0 || count > 13 || from_client != client).then_some(segment)
        }));
        let (up, down) = if client { (200_000, 200) } else { (200, 200_000) };
        let both = pair.exchange(up, down);
        assert_both_fell_back(&both);
        let sender = if client { both.0 } else { both.1 };
        assert!(sender.subflows[0].timeouts > 0, "{sender:#?}");
    }
}

/// What the subflow has delivered counts for the data when the connection falls back: the buffer was full, and nothing
/// else will say that there is room.
#[test]
//= RFC 8684 3.7-13 (test)
fn a_full_buffer_is_not_full_for_ever_when_options_disappear() {
    for from in [0, 1, 5, 20, 60] {
        let config = ConnectionConfig { send_buffer: 30_000, ..ConnectionConfig::default() };
        for server_sends in [0, 300_000] {
            let mut pair = Pair::new(3, vec![PathConfig::default()], false, &config);
            let mut count = 0;
            pair.middlebox = Some(Box::new(move |from_client, mut segment| {
                count += usize::from(!from_client && !is_syn(&segment));
                if !from_client && count > from {
                    segment.options.mptcp.clear();
                }
                Some(segment)
            }));
            pair.exchange(300_000, server_sends);
        }
    }
}

/// Changes an octet of some packet with payload from the client on a path, in the middle of the stream.
fn spoil(path: u8, times: usize, failed: Rc<Cell<usize>>) -> Middlebox {
    let mut count = 0;
    Box::new(move |from_client, mut segment| {
        let fails = segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::Fail(_)));
        failed.set(failed.get() + usize::from(!from_client && fails));
        let there = segment.src.ip() == std::net::IpAddr::from([10, path, 0, 1]);
        if from_client && there && segment.payload.len() > 500 {
            count += 1;
            if (20..20 + times).contains(&count) {
                let mut octets = segment.payload.to_vec();
                octets[100] ^= 0x55;
                segment.payload = octets.into();
            }
        }
        Some(segment)
    })
}

#[test]
fn a_wrong_checksum_on_the_only_subflow_makes_it_regular_tcp() {
    let config = ConnectionConfig { checksum: true, ..ConnectionConfig::default() };
    let mut pair = Pair::new(4, vec![PathConfig::default()], false, &config);
    let failed = Rc::new(Cell::new(0));
    pair.middlebox = Some(spoil(0, 1, failed.clone()));
    let (up, down) = (pattern(300_000, 1), pattern(300_000, 2));
    pair.send(up.clone(), down.clone());
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    let finished = Some(CloseReason::Finished);
    assert_eq!((pair.client.closed, pair.server.closed), (finished, finished));
    // As with regular TCP, the octet that was changed is; nothing else is.
    let wrong = pair.server.received.iter().zip(&up).filter(|(got, sent)| got != sent).count();
    assert_eq!((pair.server.received.len(), wrong <= 1), (up.len(), true));
    assert!(pair.client.received == down);
    assert_eq!(pair.server.info().fallback, Some(FallbackReason::ChecksumFailed));
    assert_eq!(pair.client.info().fallback, Some(FallbackReason::PeerChecksumFailed));
    assert!(failed.get() > 0, "no MP_FAIL");
}

/// Found by `cargo xtask soak` (middleboxes 14930): the peer counts the window from the subflow's acknowledgment on once it has
/// fallen back, from the Data ACK before. A reader that is slow found octets missing that had been acknowledged.
#[test]
fn a_window_that_is_used_up_when_the_connection_falls_back_loses_nothing() {
    let config = ConnectionConfig { checksum: true, receive_buffer: 66_928, ..ConnectionConfig::default() };
    let mut pair = Pair::new(4, vec![PathConfig::default()], false, &config);
    let mut count = 0;
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        count += u32::from(!from_client && segment.payload.len() > 500);
        if !from_client && count == 1 && !segment.payload.is_empty() {
            let mut octets = segment.payload.to_vec();
            octets[100] ^= 0x55;
            segment.payload = octets.into();
        }
        // What waits for the rest of its mapping is acknowledged on the subflow, and not at the data level.
        (from_client || count != 2).then_some(segment)
    }));
    pair.client.read_limit = 0;
    let down = pattern(300_000, 2);
    pair.send(Vec::new(), down.clone());
    pair.run_until(Duration::from_secs(2), |_| false);
    assert_eq!(pair.client.info().fallback, Some(FallbackReason::ChecksumFailed));
    pair.client.read_limit = usize::MAX;
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert_eq!((pair.client.received.len(), pair.client.ended), (down.len(), true));
    let wrong = pair.client.received.iter().zip(&down).filter(|(got, sent)| got != sent).count();
    assert_eq!(wrong, 1);
}

/// Found by `cargo xtask soak` (middleboxes 11151): the first segment that the server sees has no options, so it falls back and,
/// having nothing to say, finishes. That is the end of its stream, and not of a subflow that the client had better end, too.
#[test]
fn a_server_that_falls_back_and_finishes_at_once_gets_all_the_same_all_that_the_client_sends() {
    let mut pair = Pair::new(3, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let mut count = 0;
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        if from_client && !is_syn(&segment) {
            count += 1;
            segment.options.mptcp.clear();
        }
        // The third ACK and the first data: nothing is acknowledged when the FIN leaves.
        (!(1..=2).contains(&count) || !from_client).then_some(segment)
    }));
    let both = pair.exchange(200_000, 0);
    assert_both_fell_back(&both);
}

/// Found by `cargo xtask soak` (middleboxes 2825): a gateway makes the data shorter, and a DATA_FIN that named the end comes
/// with the octets that show it. The stream ends where the FIN says.
#[test]
fn a_stream_that_a_gateway_makes_shorter_ends_all_the_same() {
    // Nagle's algorithm keeps a packet that is not full apart from the full ones, so that the gateway sees both.
    let config = ConnectionConfig { checksum: true, nagle: true, ..ConnectionConfig::default() };
    let mut pair = Pair::new(4, vec![PathConfig::default()], false, &config);
    let mut first = None;
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        if !from_client && !segment.payload.is_empty() && first.is_none_or(|end| segment.seq_end() == end) {
            first = Some(segment.seq_end());
            segment.payload.truncate(segment.payload.len() - 3);
        } else if let Some(end) = first {
            // What comes after it, and what acknowledges it.
            if !from_client && segment.seq.distance(end) >= 0 {
                segment.seq += 3u32.wrapping_neg();
            } else if from_client && (segment.ack + 3).distance(end) >= 0 {
                segment.ack += 3;
            }
        }
        Some(segment)
    }));
    let down = pattern(1829, 2);
    pair.send(b"hello".to_vec(), down.clone());
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert_eq!(pair.client.info().fallback, Some(FallbackReason::ChecksumFailed));
    assert_eq!((pair.client.received.len(), pair.client.ended), (down.len() - 3, true));
    assert!(pair.client.received.ends_with(&down[1500..]));
}

#[test]
//= RFC 8684 3.7-7 (test)
fn a_wrong_checksum_on_one_of_several_subflows_ends_that_one_with_mp_fail() {
    let config = ConnectionConfig { checksum: true, ..ConnectionConfig::default() };
    let mut pair = Pair::new(5, vec![PathConfig::default(); 2], false, &config);
    let failed = Rc::new(Cell::new(0));
    pair.middlebox = Some(spoil(1, 1, failed.clone()));
    let (client, server) = pair.exchange(2_000_000, 100_000);
    assert_eq!((client.fallback, server.fallback), (None, None));
    assert!(failed.get() > 0, "no MP_FAIL");
}

/// A peer that has fallen back reads one stream from the subflow from then on: where that can't be, it must not read on.
#[test]
//= RFC 8684 3.7-11 (test)
fn a_fallback_that_can_t_be_followed_ends_the_subflow_and_not_the_stream() {
    let mut pair = Pair::new(5, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let (mut count, resets) = (0, Rc::new(Cell::new(0)));
    let seen = resets.clone();
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        let first = segment.src.ip() == std::net::IpAddr::from([10, 0, 0, 1]);
        if from_client && first && segment.payload.len() > 500 {
            count += 1;
            if count == 100 {
                for option in &mut segment.options.mptcp {
                    if let MptcpOption::Dss(Dss { mapping: Some(mapping), .. }) = option {
                        mapping.len = 0;
                    }
                }
            }
        }
        seen.set(seen.get() + usize::from(!from_client && segment.flags.has(Flags::RST)));
        Some(segment)
    }));
    pair.exchange(2_000_000, 100_000);
    assert_eq!(resets.get(), 1);
}

/// A box on all paths that begins to strip Multipath TCP from a four-tuple when it has seen so much data on it.
fn tiring(octets: usize) -> Middlebox {
    let mut seen = std::collections::HashMap::new();
    Box::new(move |from_client, mut segment| {
        let (src, dst) = (segment.src, segment.dst);
        let count = seen.entry(if from_client { (src, dst) } else { (dst, src) }).or_insert(0);
        *count += segment.payload.len();
        if *count > octets {
            segment.options.mptcp.clear();
        }
        Some(segment)
    })
}

#[test]
//= RFC 8684 3.3.1-2 (test)
fn options_that_disappear_from_all_of_several_subflows_make_new_subflows() {
    for checksum in [false, true] {
        let config = ConnectionConfig { checksum, ..ConnectionConfig::default() };
        let mut pair = Pair::new(6, vec![PathConfig::default(); 2], false, &config);
        pair.middlebox = Some(tiring(200_000));
        let (up, down) = (pattern(400_000, 1), pattern(400_000, 2));
        pair.send(up.clone(), down.clone());
        let over = pair.run(Duration::from_secs(60));
        let all = (pair.server.received == up, pair.client.received == down, over);
        assert_eq!(
            all,
            (true, true, true),
            "{:?} {:?}\n{}",
            pair.client.info(),
            pair.server.info(),
            pair.tail()
        );
        let (client, server) = (pair.client.info(), pair.server.info());
        assert_eq!((client.fallback, server.fallback), (None, None));
        assert!(client.subflows.len() > 2, "{client:#?}");
    }
}

#[test]
//= RFC 8684 3.7-6 (test)
fn options_that_never_come_back_end_a_connection_of_several_subflows() {
    let mut pair = Pair::new(7, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let mut count = 0;
    pair.middlebox = Some(Box::new(move |_, mut segment| {
        count += 1;
        if count > 300 {
            segment.options.mptcp.clear();
        }
        Some(segment)
    }));
    pair.send(pattern(1_000_000, 1), pattern(1_000_000, 2));
    let begin = pair.now;
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert!(pair.now - begin < Duration::from_secs(15), "{:?}", pair.now - begin);
    assert_ne!(pair.client.closed, Some(CloseReason::Finished));
    assert_ne!(pair.server.closed, Some(CloseReason::Finished));
}

/// Segments lose the mappings of all but the first octets that they are made of; checksums are in use.
#[test]
//= RFC 8684 3.7-15 (test)
fn a_mapping_that_is_missing_on_the_only_subflow_makes_it_regular_tcp_also_with_checksums() {
    let config = ConnectionConfig { checksum: true, ..ConnectionConfig::default() };
    let mut pair = Pair::new(8, vec![PathConfig::default()], false, &config);
    let mut count = 0;
    pair.middlebox = Some(Box::new(move |from_client, mut segment| {
        count += usize::from(from_client && !segment.payload.is_empty());
        if from_client && count > 1 && !segment.payload.is_empty() {
            segment.options.mptcp.clear();
        }
        Some(segment)
    }));
    let (client, server) = pair.exchange(200_000, 200_000);
    assert_eq!(server.fallback, Some(FallbackReason::MappingMissing));
    assert_eq!(client.fallback, Some(FallbackReason::PeerFellBack));
}
