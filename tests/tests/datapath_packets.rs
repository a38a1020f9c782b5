//! Packets through the real kernel, without an engine: a packet socket at one end of a veth link, the XDP
//! program and an AF_XDP socket at the other.

use bytes::Bytes;
use mptcp_datapath::af_xdp::{Bind, BindError, CopyMode, Socket, Umem};
use mptcp_datapath::transmit::Flushed;
use mptcp_datapath::xdp::XdpMode;
use mptcp_proto::wire::Segment;
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::raw::{Sender, Sink, segment};
use mptcp_tests::require_root;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

fn octets(len: usize, salt: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(31) ^ salt ^ (i >> 8)) as u8).collect()
}

fn joined(segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(|segment| segment.payload.to_vec()).collect()
}

#[test]
fn super_segments_pass_whole_in_generic_mode() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let mut sink = Sink::new(&lab, XdpMode::Generic).expect("sink");
    let mut sender = Sender::new(&lab).expect("sender");
    for family in Family::BOTH {
        for len in [0, 1, 1399, 1400, 20_000, 64_000] {
            let payload = octets(len, len);
            let gso_size = if len > 1400 { 1400 } else { 0 };
            sender.push(segment(family, 7, payload.clone(), gso_size)).expect("a packet");
            assert_eq!(sender.flush(PATIENCE), Flushed::All);
            let got = sink.collect(1, PATIENCE);
            assert_eq!(got.len(), 1, "{family} {len}: {:?}", sink.receiver.counters);
            assert_eq!(got[0].payload.to_vec(), payload, "{family} {len}");
        }
    }
    assert_eq!((sink.receiver.counters.malformed, sink.receiver.counters.bad_checksum), (0, 0));
}

#[test]
fn native_mode_gets_packets_with_whole_checksums() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let mut sink = Sink::new(&lab, XdpMode::Native).expect("sink");
    let mut sender = Sender::new(&lab).expect("sender");
    for family in Family::BOTH {
        let payload = octets(60_000, 3);
        sender.push(segment(family, 100, payload.clone(), 1400)).expect("a packet");
        assert_eq!(sender.flush(PATIENCE), Flushed::All);
        let packets = 60_000usize.div_ceil(1400);
        let got = sink.collect(packets, PATIENCE);
        assert_eq!(got.len(), packets, "{family}: {:?}", sink.receiver.counters);
        assert_eq!(joined(&got), payload);
        for (index, segment) in got.iter().enumerate() {
            assert_eq!(segment.seq.0, 100 + 1400 * index as u32);
        }
    }
    assert_eq!(sink.receiver.counters.bad_checksum, 0);
}

#[test]
fn large_mtus_take_several_buffers() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    lab.set_mtu(9000).expect("MTU");
    for mode in [XdpMode::Generic, XdpMode::Native] {
        let mut sink = Sink::new(&lab, mode).expect("sink");
        let mut sender = Sender::new(&lab).expect("sender");
        let payload = octets(8900, 1);
        sender.push(segment(Family::Ipv6, 1, payload.clone(), 0)).expect("a packet");
        assert_eq!(sender.flush(PATIENCE), Flushed::All);
        let got = sink.collect(1, PATIENCE);
        assert_eq!(joined(&got), payload, "{mode:?}: {:?}", sink.receiver.counters);
    }
}

/// The kernel has frames for what has come at once lately, and twice that: bursts may grow as fast as they do
/// in slow start.
#[test]
fn bursts_arrive_complete_and_in_order() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let mut sink = Sink::new(&lab, XdpMode::Generic).expect("sink");
    let mut sender = Sender::new(&lab).expect("sender");
    let payload = octets(64_000, 9);
    for (round, burst) in (0..).zip([10, 20, 40, 80].into_iter().chain([100; 50])) {
        for index in 0..burst {
            let seq = (round * 100u32 + index).wrapping_mul(64_000);
            sender.push(segment(Family::Ipv4, seq, payload.clone(), 1448)).expect("a packet");
        }
        assert_eq!(sender.flush(PATIENCE), Flushed::All);
        let got = sink.collect(burst as usize, PATIENCE);
        assert_eq!(got.len(), burst as usize, "round {round}: {:?}", sink.socket.statistics());
        for (index, segment) in (0..).zip(&got) {
            assert_eq!(segment.seq.0, (round * 100 + index).wrapping_mul(64_000));
        }
        assert_eq!(got[got.len() - 1].payload.to_vec(), payload);
    }
}

#[test]
fn a_link_that_goes_down_drops_what_waits_and_comes_back() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let mut sink = Sink::new(&lab, XdpMode::Generic).expect("sink");
    let mut sender = Sender::new(&lab).expect("sender");
    lab.left.ip("link set left1 down").expect("down");
    sender.push(segment(Family::Ipv4, 1, octets(100, 0), 0)).expect("a packet");
    assert_eq!(sender.flush(PATIENCE), Flushed::Down);
    assert_eq!(sender.counters().dropped, 1);
    lab.left.ip("link set left1 up").expect("up");
    let mut got = Vec::new();
    for _ in 0..50 {
        sender.push(segment(Family::Ipv4, 2, octets(100, 0), 0)).expect("a packet");
        sender.flush(PATIENCE);
        got = sink.collect(1, Duration::from_millis(100));
        if !got.is_empty() {
            break;
        }
    }
    assert_eq!(got.first().map(|segment| segment.seq.0), Some(2));
}

#[test]
fn an_interface_that_is_gone_is_noticed() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let mut sender = Sender::new(&lab).expect("sender");
    lab.left.ip("link del left1").expect("gone");
    sender.push(segment(Family::Ipv4, 1, octets(100, 0), 0)).expect("a packet");
    assert_eq!(sender.flush(PATIENCE), Flushed::Down);
}

#[test]
fn a_queue_in_use_is_busy_and_free_soon_after() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let index = mptcp_tests::raw::link_of(&lab, Side::Left).expect("link").index;
    lab.left.run(|| {
        let umem = Arc::new(Umem::new(64).expect("memory"));
        let bind = Bind {
            interface: index,
            queue: 0,
            receive_frames: 0..64,
            transmit_frames: 0..0,
            copy: CopyMode::Copy,
            multi_buffer: true,
        };
        let first = Socket::bind(&umem, None, &bind).expect("socket");
        let other = Arc::new(Umem::new(64).expect("memory"));
        assert!(matches!(Socket::bind(&other, None, &bind), Err(BindError::Busy { queue: 0 })));
        drop(first);
        Socket::bind(&other, None, &bind).expect("free again");
        assert!(matches!(
            Socket::bind(&other, None, &Bind { queue: 77, ..bind.clone() }),
            Err(BindError::Refused { queue: 77 })
        ));
        let nowhere = Bind { interface: 999_999, ..bind };
        assert!(matches!(Socket::bind(&other, None, &nowhere), Err(BindError::NoInterface)));
    });
}
