//! What leaves before a handshake is complete: the peer may not be who the SYN says.

use super::flood::{SPOOFED, spoofed_syn};
use super::pair::{Pair, PathConfig, pattern};
use crate::wire::{Flags, Join, MptcpOption, Segment};
use crate::{CloseReason, ConnectionConfig, Unreachable};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// What a server sends to somebody who never asked, in seconds after the SYN.
type Sent = Rc<RefCell<Vec<(Duration, Segment)>>>;

/// A pair whose client is gone, and what its server sends from now on.
fn lonely() -> (Pair, Sent) {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let client = pair.client.connection.take().unwrap();
    pair.client.endpoint.abort(pair.now, client);
    pair.run_until(Duration::from_secs(20), |_| false);
    // Nobody is where the SYNs say that they come from.
    pair.middlebox = Some(Box::new(|_, segment| (segment.dst.ip() != SPOOFED).then_some(segment)));
    let sent = Sent::default();
    let (seen, begun) = (sent.clone(), pair.now);
    pair.sent = Some(Box::new(move |now, segment| seen.borrow_mut().push((now - begun, segment.clone()))));
    (pair, sent)
}

fn seconds(sent: &Sent) -> Vec<u64> {
    sent.borrow().iter().map(|(after, _)| after.as_secs()).collect()
}

#[test]
fn a_syn_brings_four_packets_at_most_and_no_reset() {
    let (mut pair, sent) = lonely();
    pair.server.endpoint.handle_segment(pair.now, spoofed_syn(1, true));
    pair.run_until(Duration::from_secs(300), |_| false);
    assert_eq!(seconds(&sent), [0, 1, 3, 7]);
    let syn_ack = Flags::SYN.with(Flags::ACK);
    assert!(sent.borrow().iter().all(|(_, segment)| segment.flags == syn_ack), "{sent:?}");
    assert!(pair.server.endpoint.connections().is_empty());
}

#[test]
fn whoever_refuses_gets_nothing_more() {
    let reset = |syn_ack: &Segment| Segment {
        flags: Flags::RST,
        seq: syn_ack.ack,
        ..Segment::new(syn_ack.dst, syn_ack.src)
    };
    let (mut pair, sent) = lonely();
    pair.server.endpoint.handle_segment(pair.now, spoofed_syn(1, true));
    pair.run_until(Duration::from_millis(10), |_| false);
    let syn_ack = sent.borrow()[0].1.clone();
    pair.server.endpoint.handle_segment(pair.now, reset(&syn_ack));
    pair.run_until(Duration::from_secs(300), |_| false);
    assert_eq!(seconds(&sent), [0]);
    // A router knows of nobody there: the same.
    pair.server.endpoint.handle_segment(pair.now, spoofed_syn(2, true));
    pair.run_until(Duration::from_millis(10), |_| false);
    let syn_ack = sent.borrow()[1].1.clone();
    let unreachable =
        Unreachable { local: syn_ack.src, remote: syn_ack.dst, seq: syn_ack.seq.0, mtu: None, hard: true };
    pair.server.endpoint.handle_unreachable(pair.now, unreachable);
    pair.run_until(Duration::from_secs(300), |_| false);
    assert_eq!(sent.borrow().len(), 2);
    assert!(pair.server.endpoint.connections().is_empty());
}

#[test]
fn each_packet_of_a_half_open_peer_brings_one_at_most() {
    let (mut pair, sent) = lonely();
    let syn = spoofed_syn(1, true);
    pair.server.endpoint.handle_segment(pair.now, syn.clone());
    pair.run_until(Duration::from_millis(1), |_| false);
    let syn_ack = sent.borrow()[0].1.clone();
    let ack = |ack| Segment { flags: Flags::ACK, seq: syn.seq + 1, ack, ..Segment::new(syn.src, syn.dst) };
    let nonsense = [
        syn.clone(),
        ack(syn_ack.seq + 5),
        Segment { payload: b"data".to_vec().into(), ..ack(syn_ack.seq) },
        Segment { seq: syn.seq + (1 << 20), ..ack(syn_ack.seq + 1) },
        Segment { flags: Flags::FIN, ..ack(syn_ack.seq + 1) },
    ];
    for segment in nonsense {
        let before = sent.borrow().len();
        pair.server.endpoint.handle_segment(pair.now, segment.clone());
        pair.run_until(Duration::from_millis(1), |_| false);
        assert!(sent.borrow().len() <= before + 1, "{segment:?} brings {:?}", &sent.borrow()[before..]);
    }
}

/// The token of a connection in a forged SYN: nothing is repeated for who has the keys and does not answer.
#[test]
fn a_forged_join_brings_one_packet_and_no_reset() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    pair.send_only(pattern(1000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(1), |pair| pair.server.received.len() == 1000));
    pair.run_until(Duration::from_secs(1), |_| false);
    let mut syn = spoofed_syn(1, false);
    let token = pair.server.info().local_token.unwrap();
    syn.options.mptcp.push(MptcpOption::Join(Join::Syn { backup: false, address_id: 9, token, nonce: 7 }));
    let sent = Sent::default();
    pair.middlebox = Some(Box::new(|_, segment| (segment.dst.ip() != SPOOFED).then_some(segment)));
    let (seen, begun, to) = (sent.clone(), pair.now, syn.src);
    pair.sent = Some(Box::new(move |now, segment| {
        if segment.dst == to {
            seen.borrow_mut().push((now - begun, segment.clone()));
        }
    }));
    pair.server.endpoint.handle_segment(pair.now, syn);
    pair.run_until(Duration::from_secs(300), |_| false);
    assert_eq!(seconds(&sent), [0]);
    assert!(
        sent.borrow().iter().all(|(_, segment)| segment.flags == Flags::SYN.with(Flags::ACK)),
        "{sent:?}"
    );
}

/// As many as may be half-open without being crowded: repetitions come out of what is left of the budget.
#[test]
fn many_syns_are_not_multiplied() {
    let (mut pair, sent) = lonely();
    const SYNS: u32 = 500;
    for number in 0..SYNS {
        pair.server.endpoint.handle_segment(pair.now, spoofed_syn(number, true));
    }
    pair.run_until(Duration::from_secs(300), |_| false);
    let count = sent.borrow().len();
    // 64 at once and ten a second for the seven seconds that a half-open connection is repeated for.
    assert!((500..=500 + 64 + 80).contains(&count), "{count} packets for {SYNS}");
    assert!(pair.server.endpoint.connections().is_empty());
}

/// Found by `cargo xtask soak` (pair 82905): whoever acknowledges the SYN/ACK is there, even if all that had the keys was lost.
#[test]
//= RFC 8684 3.1-1 (test)
fn a_peer_whose_keys_are_lost_time_and_again_is_not_given_up() {
    let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
    let mut left = 12;
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        let keys = from_client && !segment.flags.has(Flags::SYN) && segment.options.capable().is_some();
        left -= i32::from(keys);
        (!keys || left < 0).then_some(segment)
    }));
    pair.send(Vec::new(), Vec::new());
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert_eq!(pair.server.closed, Some(CloseReason::Finished), "{}", pair.tail());
}

/// What the repetitions are for: the third ACK is lost, the server speaks first, the client never.
#[test]
fn a_server_that_speaks_first_survives_a_lost_third_ack() {
    for lost in 1..=3 {
        let mut pair = Pair::new(1, vec![PathConfig::default()], false, &ConnectionConfig::default());
        let mut left = lost;
        pair.middlebox = Some(Box::new(move |from_client, segment| {
            let third = from_client && !segment.flags.has(Flags::SYN) && left > 0;
            left -= i32::from(third);
            (!third).then_some(segment)
        }));
        pair.send_only(Vec::new(), pattern(10_000, 1));
        let done = |pair: &Pair| pair.client.received.len() == 10_000;
        assert!(pair.run_until(Duration::from_secs(10), done), "{lost} lost: {}", pair.tail());
    }
}
