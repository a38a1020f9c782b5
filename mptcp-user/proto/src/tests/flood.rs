//! A listener under a flood of SYNs with false sender addresses.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::{Flags, MpCapable, MptcpOption, Segment, SeqNumber, Timestamps, Version};
use crate::{CloseReason, ConnectionConfig};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

pub(super) const SPOOFED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 66, 66));

pub(super) fn spoofed_syn(number: u32, multipath: bool) -> Segment {
    let from = SocketAddr::new(SPOOFED, 1024 + (number % 60_000) as u16);
    let mut syn = Segment::new(from, SocketAddr::new(address(0, 2, false), 5000));
    syn.flags = Flags::SYN;
    syn.seq = SeqNumber(number.wrapping_mul(0x9e37_79b9));
    syn.options.mss = Some(1460);
    syn.options.sack_permitted = true;
    syn.options.window_scale = Some(8);
    syn.options.timestamps = Some(Timestamps { value: number, echo: 0 });
    if multipath {
        syn.options.mptcp.push(MptcpOption::Capable(MpCapable::new(Version::V1)));
    }
    syn
}

/// A pair whose server is being flooded from now on; the cell counts what it answers to the false addresses.
fn flooded(config: &ConnectionConfig, syns: u32) -> (Pair, Rc<Cell<u32>>) {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, config);
    let answers = Rc::new(Cell::new(0));
    let count = answers.clone();
    pair.middlebox = Some(Box::new(move |_, segment| {
        if segment.dst.ip() == SPOOFED {
            count.set(count.get() + 1);
            return None;
        }
        Some(segment)
    }));
    let now = pair.now;
    for number in 0..syns {
        pair.server.endpoint.handle_segment(now, spoofed_syn(number, number % 2 == 0));
    }
    (pair, answers)
}

#[test]
fn a_flood_leaves_bounded_state_and_is_not_amplified() {
    const SYNS: u32 = 20_000;
    let (mut pair, answers) = flooded(&ConnectionConfig::default(), SYNS);
    assert_eq!(pair.server.endpoint.connections().len(), 1024, "the backlog");
    let client = pair.client.connection.take().unwrap();
    pair.client.endpoint.abort(pair.now, client);
    pair.run_until(Duration::from_secs(100), |_| false);
    assert!(answers.get() <= SYNS, "{} answers to {SYNS} SYNs", answers.get());
    assert!(answers.get() >= 1024, "{} answers", answers.get());
    assert!(pair.server.endpoint.connections().is_empty());
}

#[test]
fn multipath_connections_are_made_during_a_flood() {
    for config in [
        ConnectionConfig::default(),
        ConnectionConfig { checksum: true, ..ConnectionConfig::default() },
        ConnectionConfig { multipath: false, ..ConnectionConfig::default() },
    ] {
        let (mut pair, _) = flooded(&config, 2_000);
        let (up, down) = (pattern(3_000_000, 1), pattern(500_000, 2));
        pair.send(up.clone(), down.clone());
        assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
        assert!(pair.server.received == up && pair.client.received == down);
        assert_eq!(
            (pair.client.closed, pair.server.closed),
            (Some(CloseReason::Finished), Some(CloseReason::Finished))
        );
        let info = pair.server.endpoint.info(pair.server.connection.unwrap()).unwrap();
        assert_eq!(info.fallback.is_none(), config.multipath, "{info:#?}");
        let carried = info.subflows.iter().filter(|subflow| subflow.bytes_received > 0).count();
        assert_eq!(carried, if config.multipath { 2 } else { 1 });
        assert_eq!(info.subflows[0].mss, 1460);
    }
}

#[test]
fn a_lost_third_ack_of_a_stateless_handshake_is_made_up_for() {
    let (mut pair, _) = flooded(&ConnectionConfig::default(), 2_000);
    let mut lost = 0;
    let mut flood = pair.middlebox.take().unwrap();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        let bare = segment.payload.is_empty() && !segment.flags.has(Flags::SYN);
        if from_client && bare && lost < 2 {
            lost += 1;
            return None;
        }
        flood(from_client, segment)
    }));
    pair.send(pattern(300_000, 1), pattern(300_000, 2));
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    assert!(pair.server.received == pattern(300_000, 1) && pair.client.received == pattern(300_000, 2));
}

#[test]
fn only_an_ack_without_syn_or_rst_brings_a_cookie_back() {
    let (mut pair, _) = flooded(&ConnectionConfig::default(), 1_100);
    let now = pair.now;
    while pair.server.endpoint.poll_transmit(now).is_some() {}
    for (number, flags) in [
        (70_001, Flags::SYN.with(Flags::ACK)),
        (70_002, Flags::RST.with(Flags::ACK)),
        (70_003, Flags::SYN.with(Flags::RST).with(Flags::ACK)),
        (70_004, Flags::SYN.with(Flags::FIN).with(Flags::ACK)),
        (70_005, Flags::FIN),
        (70_006, Flags::ACK),
    ] {
        let syn = spoofed_syn(number, false);
        pair.server.endpoint.handle_segment(now, syn.clone());
        let cookie = pair.server.endpoint.poll_transmit(now).expect("answered without state");
        let before = pair.server.endpoint.connections().len();
        let mut back = Segment::new(syn.src, syn.dst);
        (back.seq, back.ack, back.flags) = (syn.seq + 1, cookie.seq + 1, flags);
        let stamps = cookie.options.timestamps.expect("the SYN has them");
        back.options.timestamps = Some(Timestamps { value: number + 1, echo: stamps.value });
        pair.server.endpoint.handle_segment(now, back);
        let made = pair.server.endpoint.connections().len() - before;
        assert_eq!(made, usize::from(flags == Flags::ACK), "{flags:?}");
        while pair.server.endpoint.poll_transmit(now).is_some() {}
    }
}
