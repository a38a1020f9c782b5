//! The XDP program, packet by packet: every verdict and counter, against the same decoder in user space.

use mptcp_common::counter::Counter;
use mptcp_common::event::{EVENT_HARD, EVENT_TOO_BIG, EventKind};
use mptcp_common::fragment::Fragment;
use mptcp_common::headers::{self, Packet, Reason, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use mptcp_common::maps::{LOCAL_OWN, LocalKey};
use mptcp_common::metadata::{
    FLAG_CHECKSUM, FLAG_DSS, FLAG_LONG, Kind, LONG_LEN, Metadata, NO_SLOT, SHORT_LEN,
};
use mptcp_common::options::{self, Dss};
use mptcp_proto::{PeerRules, SubflowSlot};
use mptcp_tests::require_root;
use mptcp_tests::xdp::*;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// Runs a packet and checks verdict, counter, and what the metadata says, against the decoder in user space.
#[track_caller]
fn agrees(lab: &mut XdpLab, packet: &[u8], linear: usize) -> Counter {
    let expected = XdpLab::expected(packet, linear);
    let (run, counter) = lab.run(packet, linear).unwrap_or_else(|error| panic!("{error:#}: {packet:02x?}"));
    if counter == Counter::FragmentOurs && expected.counter == Counter::Fragment {
        // The first of them came before.
        let longer = [packet, &[0; 70_000]].concat();
        let fragment = Fragment::decode(&longer.as_slice());
        assert!(fragment.is_ok_and(|fragment| fragment.offset > 0), "{packet:02x?}");
        return counter;
    }
    assert_eq!(counter, expected.counter, "{packet:02x?}");
    let Some((kind, slot, headers)) = expected.up else {
        assert!(run.metadata.is_empty(), "metadata on a packet that is not ours");
        if counter != Counter::JoinRefused {
            assert_eq!(run.packet, packet, "a packet that is not ours was changed");
        }
        return counter;
    };
    assert_eq!(run.packet, packet, "the packet itself was changed");
    let metadata = Metadata::read(&run.metadata).expect("metadata");
    assert_eq!(metadata.kind(), Some(kind));
    assert_eq!(metadata.slot, if kind == Kind::Subflow { slot } else { NO_SLOT });
    assert_eq!(metadata.l3(), headers.network.l3);
    assert_eq!(usize::from(metadata.l4), headers.network.l4);
    assert_eq!(usize::from(metadata.payload), headers.payload);
    assert_eq!(usize::from(metadata.payload_len), headers.payload_len);
    assert_ne!(metadata.received_ns, 0);
    let scan = options::scan(&packet, headers.options(), headers.payload);
    assert_eq!(u32::from(metadata.subtypes), scan.subtypes);
    assert_eq!(metadata.extra, scan.extra());
    assert_eq!(metadata.dss_at, scan.dss);
    assert_eq!(metadata.ts_at, scan.timestamps);
    let dss = if scan.dss == 0 { None } else { Dss::read(&packet, scan.dss.into(), scan.dss_len) };
    let stamps =
        if scan.timestamps == 0 { None } else { options::timestamps(&packet, scan.timestamps.into()) };
    if metadata.flags & FLAG_LONG != 0 {
        assert_eq!(run.metadata.len(), LONG_LEN);
        assert_eq!((metadata.dss(), metadata.timestamps()), (dss, stamps));
    } else {
        // Kernels before 6.9: the rest is in the packet, at the places checked above.
        assert_eq!(run.metadata.len(), SHORT_LEN);
        assert_eq!(metadata.flags & FLAG_DSS != 0, dss.is_some());
        assert_eq!((metadata.dss(), metadata.timestamps()), (None, None));
        assert!(lab.counters().unwrap().get(Counter::ShortMetadata) > 0);
    }
    counter
}

#[track_caller]
fn gives(lab: &mut XdpLab, frame: &Frame, counter: Counter) {
    let packet = frame.build();
    assert_eq!(agrees(lab, &packet, packet.len()), counter, "{frame:?}");
}

fn peer() -> std::net::SocketAddr {
    addr("203.0.113.9:50000")
}

fn peer6() -> std::net::SocketAddr {
    addr("[2001:db8:9::9]:50000")
}

/// An ICMP error of the given type and code that quotes a segment of the first or second subflow.
fn icmp(subflow: usize, kind: u8, code: u8, rest: [u8; 4]) -> Vec<u8> {
    let (local, remote, _) = subflows()[subflow];
    let v6 = local.is_ipv6();
    let sent = Frame { payload: vec![7; 40], ..Frame::new(local, remote) }.build();
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(&sent[14..14 + if v6 { 48 } else { 28 }]);
    let router = if v6 { addr("[2001:db8:ff::1]:0") } else { addr("203.0.113.1:0") };
    Frame { protocol: if v6 { 58 } else { 1 }, ..Frame::new(router, local) }.build_around(&message)
}

#[test]
fn segments_of_subflows_go_up_with_what_their_options_say() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for subflow in 0..2 {
        for payload in [0, 1, 1000, 1400] {
            gives(&mut lab, &Frame::data(subflow, payload), Counter::Subflow);
        }
        for flags in [TCP_SYN | TCP_ACK, TCP_FIN | TCP_ACK, TCP_RST, TCP_SYN, 0x1ff, 0] {
            gives(&mut lab, &Frame { flags, ..Frame::data(subflow, 10) }, Counter::Subflow);
        }
        gives(&mut lab, &Frame { padding: 30, ..Frame::data(subflow, 0) }, Counter::Subflow);
        gives(&mut lab, &Frame { options: Vec::new(), ..Frame::data(subflow, 9) }, Counter::Subflow);
    }
}

#[test]
fn a_dss_of_every_form_reads_as_in_user_space() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let mut seen = BTreeSet::new();
    for stamps in [false, true] {
        for flags in 0..=0x3f_u8 {
            for len in 2..=28_u8 {
                let mut options = if stamps { vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8] } else { Vec::new() };
                options.extend([30, len, 0x20, flags]);
                options.extend((1..=36).map(|number: u8| number.wrapping_mul(37)));
                options.truncate(if stamps { 12 } else { 0 } + usize::from(len.max(4)));
                options.resize(options.len().next_multiple_of(4), 0);
                let frame = Frame { options, ..Frame::data(usize::from(flags) % 2, 100) };
                let packet = frame.build();
                let (run, _) = lab.run(&packet, packet.len()).unwrap();
                let metadata = Metadata::read(&run.metadata).unwrap();
                if metadata.flags & FLAG_DSS != 0 {
                    seen.insert((metadata.dss_flags & 0x0f, metadata.flags & FLAG_CHECKSUM));
                }
                agrees(&mut lab, &packet, packet.len());
            }
        }
    }
    // Each combination of A, a, M and m; with a checksum, those with M.
    assert_eq!(seen.len(), 16 + 8);
}

#[test]
fn options_that_make_no_sense_are_counted_and_left_to_user_space() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for (options, counter) in [
        (vec![8, 0, 0, 0], Some(Counter::MalformedOptions)),
        (vec![8, 1, 0, 0], Some(Counter::MalformedOptions)),
        (vec![8, 9, 0, 0], Some(Counter::MalformedOptions)),
        (vec![1, 1, 1, 8], Some(Counter::MalformedOptions)),
        (vec![1, 1, 30, 2], Some(Counter::MalformedOptions)),
        (vec![1; 40], Some(Counter::MalformedOptions)),
        (vec![30, 4, 0x20, 1], Some(Counter::MalformedDss)),
        (vec![30, 8, 0x20, 1, 0, 0, 0, 9], None),
        (vec![5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1], None),
        (vec![1; 8], None),
        (vec![0; 40], None),
    ] {
        let packet = Frame { options: options.clone(), ..Frame::data(0, 10) }.build();
        let before = lab.counters().unwrap();
        agrees(&mut lab, &packet, packet.len());
        let counted = lab.counters().unwrap().since(&before);
        for besides in [Counter::MalformedOptions, Counter::MalformedDss] {
            assert_eq!(counted.get(besides), u64::from(counter == Some(besides)), "{options:?}");
        }
    }
}

#[test]
fn all_encapsulations_are_looked_through() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let tags = [vec![(0x8100, 5)], vec![(0x88a8, 7), (0x8100, 0xefff)], vec![(0x8100, 1), (0x8100, 2)]];
    for vlans in tags {
        for subflow in 0..2 {
            gives(&mut lab, &Frame { vlans: vlans.clone(), ..Frame::data(subflow, 50) }, Counter::Subflow);
        }
    }
    let three = vec![(0x88a8, 1), (0x8100, 2), (0x8100, 3)];
    gives(&mut lab, &Frame { vlans: three, ..Frame::data(0, 50) }, Counter::NotIp);
    for len in (4..=40).step_by(4) {
        gives(&mut lab, &Frame { ip_options: vec![1; len], ..Frame::data(0, 50) }, Counter::Subflow);
    }
    let hop = (0, vec![0, 1, 4, 0, 0, 0, 0]);
    let destination = (60, vec![1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let atomic = (44, vec![0, 0, 0, 1, 2, 3, 4]);
    let routed = (43, vec![0, 4, 0, 0, 0, 0, 0]);
    for extensions in [
        vec![hop.clone()],
        vec![hop.clone(), destination.clone(), routed.clone(), atomic.clone()],
        vec![destination.clone(); 6],
        vec![(60, [vec![63], vec![0; 510]].concat())],
    ] {
        gives(&mut lab, &Frame { extensions, ..Frame::data(1, 50) }, Counter::Subflow);
    }
    for (extensions, counter) in [
        (vec![destination.clone(); 7], Counter::SubflowMalformed),
        (vec![destination.clone(); 32], Counter::SubflowMalformed),
        (vec![destination; 33], Counter::ExtensionHeaders),
        (vec![(60, [vec![64], vec![0; 518]].concat())], Counter::SubflowMalformed),
        (vec![(43, vec![0, 4, 1, 0, 0, 0, 0])], Counter::ExtensionHeaders),
        (vec![hop, (44, vec![0, 0, 1, 1, 2, 3, 4])], Counter::FragmentOurs),
        (vec![(51, vec![4; 23])], Counter::NotTcp),
    ] {
        gives(&mut lab, &Frame { extensions, ..Frame::data(1, 50) }, counter);
    }
}

#[test]
fn what_is_not_ours_is_the_kernels() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let ours = subflows()[0].0;
    let frame = |src, dst| Frame::new(addr(src), addr(dst));
    gives(&mut lab, &frame("203.0.113.9:50000", "192.0.2.1:22"), Counter::ForeignPort);
    gives(&mut lab, &frame("203.0.113.9:50000", "192.0.2.99:80"), Counter::Foreign);
    gives(&mut lab, &frame("203.0.113.9:50000", "192.0.2.1:443"), Counter::Foreign);
    gives(&mut lab, &Frame::syn(peer(), addr("192.0.2.1:22")), Counter::Foreign);
    gives(&mut lab, &Frame::join(peer(), addr("192.0.2.1:22"), 77), Counter::Foreign);
    for fragment in [0x0001, 0x1fff, 0x3000] {
        gives(&mut lab, &Frame { fragment, ..Frame::data(0, 50) }, Counter::Fragment);
    }
    for fragment in [0x0000, 0x4000, 0x8000, 0xc000] {
        gives(&mut lab, &Frame { fragment, ..Frame::data(0, 50) }, Counter::Subflow);
    }
    gives(&mut lab, &Frame { protocol: 17, ..Frame::data(0, 50) }, Counter::NotTcp);
    gives(&mut lab, &Frame { protocol: 17, ..Frame::data(1, 50) }, Counter::NotTcp);
    let mapped = Frame::new(addr("[::ffff:198.51.100.7]:40000"), addr("[::ffff:192.0.2.1]:80"));
    gives(&mut lab, &mapped, Counter::MappedAddress);

    // ARP, and IP headers that lie.
    let mut arp = vec![0xff; 12];
    arp.extend([8, 6]);
    arp.resize(60, 0);
    assert_eq!(agrees(&mut lab, &arp, 60), Counter::NotIp);
    let whole = Frame::data(0, 50).build();
    let patched = |at: usize, value: u8| {
        let mut packet = whole.clone();
        packet[at] = value;
        packet
    };
    for (at, value, counter) in [
        (14, 0x65, Counter::IpHeader),
        (14, 0x44, Counter::IpHeader),
        (14, 0x4f, Counter::TcpHeader),
        (46, 0x4f, Counter::SubflowMalformed),
        (46, 0xf0, Counter::SubflowMalformed),
    ] {
        let packet = patched(at, value);
        let got = agrees(&mut lab, &packet, packet.len());
        assert!(got == counter || at == 14 || value == 0xf0, "{got:?} at {at}");
    }
    let mut short = patched(16, 0);
    short[17] = 19;
    assert_eq!(agrees(&mut lab, &short, short.len()), Counter::IpLength);
    short[17] = 39;
    assert_eq!(agrees(&mut lab, &short, short.len()), Counter::SubflowMalformed);
    // More than the packet has: user space notices, which sees all of it.
    let long = patched(16, 0xff);
    assert_eq!(agrees(&mut lab, &long, long.len()), Counter::Subflow);
    assert_eq!(XdpLab::refused(&long), Some(Reason::IpLength));
    assert_eq!(ours, addr("192.0.2.1:80"));
}

#[test]
fn a_packet_cut_at_any_octet_goes_to_nobody_else() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let hop = (0, vec![0, 1, 4, 0, 0, 0, 0]);
    for whole in [
        Frame::data(0, 4).build(),
        Frame::data(1, 4).build(),
        Frame { vlans: vec![(0x88a8, 7), (0x8100, 9)], ip_options: vec![1; 8], ..Frame::data(0, 4) }.build(),
        Frame { extensions: vec![hop], ..Frame::data(1, 4) }.build(),
        Frame::join(peer(), addr("192.0.2.1:80"), TOKEN).build(),
        Frame::join(peer6(), addr("[2001:db8::1]:443"), 77).build(),
        icmp(0, 3, 4, [0, 0, 5, 120]),
        icmp(1, 2, 0, [0, 0, 5, 120]),
    ] {
        for cut in 14..whole.len() {
            agrees(&mut lab, &whole[..cut], cut);
        }
    }
}

#[test]
fn damaged_packets_are_judged_as_in_user_space() {
    require_root!();
    let mut lab = XdpLab::new(u32::MAX).unwrap();
    let seed = 0x6d70_7463;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let hop = (0, vec![0, 1, 4, 0, 0, 0, 0]);
    let originals = [
        Frame::data(0, 40).build(),
        Frame::data(1, 40).build(),
        Frame { vlans: vec![(0x8100, 7)], ip_options: vec![1; 8], ..Frame::data(0, 4) }.build(),
        Frame { extensions: vec![hop], ..Frame::data(1, 4) }.build(),
        Frame::join(peer(), addr("192.0.2.1:80"), TOKEN).build(),
        Frame::join(peer6(), addr("[2001:db8::1]:443"), 77).build(),
        Frame::syn(peer(), addr("192.0.2.1:80")).build(),
        icmp(0, 3, 3, [0; 4]),
        icmp(1, 1, 4, [0; 4]),
    ];
    let mut seen = BTreeSet::new();
    for _ in 0..30_000 {
        let mut packet = originals[random.random_range(0..originals.len())].clone();
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(12..packet.len().min(90));
            packet[at] = match random.random_range(0..4) {
                0 => random.random(),
                1 => packet[at] ^ 1 << random.random_range(0..8),
                2 => packet[at].wrapping_add(1),
                _ => [0, 1, 2, 4, 8, 30, 44, 60, 255][random.random_range(0..9)],
            };
        }
        if random.random_ratio(1, 10) {
            packet.truncate(random.random_range(14..packet.len()));
        }
        let linear = packet.len();
        seen.insert(agrees(&mut lab, &packet, linear));
    }
    assert!(seen.len() >= 12, "only {seen:?}: the damage reaches too little");
}

#[test]
fn only_the_first_buffer_need_hold_the_headers() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for subflow in 0..2 {
        let packet = Frame::data(subflow, 8900).build();
        for linear in [200, 1500, 3500] {
            assert_eq!(agrees(&mut lab, &packet, linear), Counter::Subflow);
        }
        // Headers across the boundary: on doubt, the kernel's.
        for linear in 54..106 {
            agrees(&mut lab, &packet, linear);
        }
    }
}

#[test]
fn listeners_get_syns_and_segments_without_a_subflow() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for (from, to) in
        [(peer(), "192.0.2.1:80"), (peer6(), "[2001:db8::1]:443"), (peer6(), "[2001:db8::2]:443")]
    {
        gives(&mut lab, &Frame::syn(from, addr(to)), Counter::ListenerSyn);
        gives(&mut lab, &Frame { flags: TCP_SYN | 0xc0, ..Frame::syn(from, addr(to)) }, Counter::ListenerSyn);
        gives(&mut lab, &Frame::new(from, addr(to)), Counter::ListenerSegment);
        gives(&mut lab, &Frame { flags: TCP_RST, ..Frame::new(from, addr(to)) }, Counter::ListenerSegment);
        let flags = TCP_SYN | TCP_ACK;
        gives(&mut lab, &Frame { flags, ..Frame::new(from, addr(to)) }, Counter::ListenerSegment);
    }
    lab.maps.remove_listener(addr("[::]:443")).unwrap();
    let packet = Frame::syn(peer6(), addr("[2001:db8::1]:443")).build();
    assert_eq!(lab.run(&packet, packet.len()).unwrap().1, Counter::Foreign);
}

#[test]
fn a_join_with_a_token_of_ours_goes_up_wherever_it_points() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for to in ["192.0.2.1:80", "192.0.2.1:9", "192.0.2.200:80"] {
        gives(&mut lab, &Frame::join(peer(), addr(to), TOKEN), Counter::Join);
    }
    gives(&mut lab, &Frame::join(peer6(), addr("[2001:db8::5]:1"), TOKEN), Counter::Join);
    lab.maps.remove_token(TOKEN).unwrap();
    let packet = Frame::join(peer(), addr("192.0.2.1:9"), TOKEN).build();
    assert_eq!(lab.run(&packet, packet.len()).unwrap().1, Counter::Foreign);
}

#[test]
fn a_join_with_an_unknown_token_is_refused_with_a_reset() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let tagged = vec![(0x88a8, 5), (0x8100, 6)];
    for frame in [
        Frame::join(peer(), addr("192.0.2.1:80"), 1),
        Frame::join(peer6(), addr("[2001:db8::1]:443"), 1),
        Frame { vlans: tagged.clone(), ..Frame::join(peer(), addr("192.0.2.1:80"), 2) },
        Frame { vlans: tagged, ..Frame::join(peer6(), addr("[2001:db8::1]:443"), 2) },
        Frame {
            payload: b"fast open".to_vec(),
            seq: u32::MAX - 3,
            ..Frame::join(peer(), addr("192.0.2.1:80"), 3)
        },
        Frame { padding: 10, ..Frame::join(peer(), addr("192.0.2.1:80"), 3) },
    ] {
        let packet = frame.build();
        assert_eq!(agrees(&mut lab, &packet, packet.len()), Counter::JoinRefused);
        let (run, _) = lab.run(&packet, packet.len()).unwrap();
        let answer = run.packet;
        assert!(answer.len() >= 60 && answer.len() <= packet.len());
        let Ok(Packet::Tcp(headers)) = headers::decode(&answer.as_slice()) else { panic!("{answer:02x?}") };
        assert_eq!((&answer[..6], &answer[6..12]), (&packet[6..12], &packet[..6]));
        assert_eq!(usize::from(headers.network.vlans), frame.vlans.len());
        assert_eq!((headers.network.src.ip(), headers.src_port), (frame.dst.ip(), frame.dst.port()));
        assert_eq!((headers.network.dst.ip(), headers.dst_port), (frame.src.ip(), frame.src.port()));
        assert_eq!(headers.flags, TCP_RST | TCP_ACK);
        assert_eq!(headers.seq, 0);
        assert_eq!(headers.ack, frame.seq.wrapping_add(1 + frame.payload.len() as u32));
        assert_eq!((headers.window, headers.payload_len), (0, 0));
        assert_eq!(&answer[headers.options()..headers.payload], [30, 4, 0x80, 1]);
        let segment = &answer[headers.network.l4..headers.payload];
        assert_eq!(transport_sum(frame.dst.ip(), frame.src.ip(), 6, segment), 0, "TCP checksum");
        if !headers.network.v6 {
            assert_eq!(sum(&answer[headers.network.l3..headers.network.l4]), 0, "IP checksum");
        }
    }
    // A packet from which no answer can be made goes up.
    let options = Frame { ip_options: vec![1; 4], ..Frame::join(peer(), addr("192.0.2.1:80"), 3) };
    gives(&mut lab, &options, Counter::JoinToRefuse);
}

#[test]
fn refusals_are_limited_and_can_be_left_to_user_space() {
    require_root!();
    let mut lab = XdpLab::new(5).unwrap();
    let packet = Frame::join(peer(), addr("192.0.2.1:80"), 1).build();
    // One CPU, so that its limit counts alone.
    let mut counts = std::collections::BTreeMap::new();
    pin();
    for _ in 0..20 {
        *counts.entry(lab.run(&packet, packet.len()).unwrap().1).or_insert(0) += 1;
    }
    let refused = counts[&Counter::JoinRefused];
    // The second may have ended in between.
    assert!((5..=10).contains(&refused), "{counts:?}");
    assert_eq!(counts[&Counter::JoinDropped], 20 - refused);
    let event = lab.events.next().expect("an event");
    assert_eq!(event.kind(), Some(EventKind::RefusalsLimited));
    assert_eq!((event.key.local_addr(), event.key.remote_addr()), (addr("192.0.2.1:80"), peer()));

    let mut lab = XdpLab::new(0).unwrap();
    let (run, counter) = lab.run(&packet, packet.len()).unwrap();
    assert_eq!(counter, Counter::JoinToRefuse);
    assert_eq!(Metadata::read(&run.metadata).unwrap().kind(), Some(Kind::JoinToRefuse));
}

/// Keeps this thread on one CPU.
fn pin() {
    // SAFETY: the set is initialised and lives on.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

#[test]
fn icmp_errors_about_our_segments_are_told_and_passed() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for (subflow, kind, code, rest, mtu, flags) in [
        (0, 3, 4, [0, 0, 5, 120], 1400, EVENT_TOO_BIG),
        (0, 3, 4, [0, 0, 0, 0], 0, EVENT_TOO_BIG),
        (0, 3, 3, [0; 4], 0, EVENT_HARD),
        (0, 3, 1, [0; 4], 0, 0),
        (0, 11, 0, [0; 4], 0, 0),
        (1, 2, 0, [0, 0, 5, 0], 1280, EVENT_TOO_BIG),
        (1, 1, 4, [0; 4], 0, EVENT_HARD),
        (1, 1, 0, [0; 4], 0, 0),
        (1, 3, 0, [0; 4], 0, 0),
    ] {
        let packet = icmp(subflow, kind, code, rest);
        assert_eq!(agrees(&mut lab, &packet, packet.len()), Counter::IcmpOurs);
        let event = lab.events.next().expect("an event");
        let (local, remote, shard) = subflows()[subflow];
        assert_eq!(event.kind(), Some(EventKind::Unreachable));
        assert_eq!((event.key.local_addr(), event.key.remote_addr()), (local, remote));
        assert_eq!((event.slot, event.shard), (FIRST_SLOT + subflow as u32, shard));
        assert_eq!((event.mtu, event.flags, event.seq), (mtu, flags, 0x0102_0304));
        assert!(lab.events.next().is_none());
    }
    // Echo requests, router advertisements, and errors about others' segments.
    for (packet, counter) in
        [(icmp(0, 8, 0, [0; 4]), Counter::NotTcp), (icmp(1, 134, 0, [0; 4]), Counter::NotTcp)]
    {
        assert_eq!(agrees(&mut lab, &packet, packet.len()), counter);
    }
    let mut foreign = icmp(0, 3, 3, [0; 4]);
    let ports = foreign.len() - 8;
    foreign[ports + 2] ^= 1;
    assert_eq!(agrees(&mut lab, &foreign, foreign.len()), Counter::IcmpForeign);
    assert!(lab.events.next().is_none());
    // Events that nobody reads are lost, and that is counted.
    let packet = icmp(0, 3, 3, [0; 4]);
    let before = lab.counters().unwrap();
    lab.program.test_run(&packet, packet.len(), 5000).unwrap();
    let counted = lab.counters().unwrap().since(&before);
    assert_eq!(counted.get(Counter::IcmpOurs), 5000);
    assert!(counted.get(Counter::EventLost) > 0);
}

#[test]
fn without_a_socket_what_is_ours_is_dropped() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    lab.close_sockets();
    let packets = [
        Frame::data(0, 10).build(),
        Frame::syn(peer(), addr("192.0.2.1:80")).build(),
        Frame::join(peer(), addr("192.0.2.1:9"), TOKEN).build(),
    ];
    for packet in &packets {
        let (run, counter) = lab.run(packet, packet.len()).unwrap();
        assert_eq!(counter, Counter::NoSocket);
        assert_eq!((run.packet.as_slice(), run.metadata.len()), (packet.as_slice(), 0));
    }
    let mut lab = XdpLab::new(1000).unwrap();
    lab.maps.remove_interface(1).unwrap();
    for packet in &packets {
        assert_eq!(lab.run(packet, packet.len()).unwrap().1, Counter::NoSocket);
    }
}

#[test]
fn interfaces_whose_places_collide_are_told_apart() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    lab.maps.remove_interface(1).unwrap();
    for index in [1 + 1024, 1 + 2048, 2, 1] {
        lab.maps.set_interface(index, if index == 1 { 3 } else { 900 }, 1, 2).unwrap();
    }
    assert!(lab.maps.set_interface(1 + 4096, 0, 1, 1).is_err(), "five interfaces on four places");
    let packet = Frame::data(0, 10).build();
    assert_eq!(lab.run(&packet, packet.len()).unwrap().1, Counter::Subflow);
}

#[test]
fn telemetry_shows_the_last_of_each_subflow() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let packet = Frame::data(1, 1000).build();
    for _ in 0..3 {
        lab.run(&packet, packet.len()).unwrap();
    }
    let bare =
        Frame { options: Vec::new(), ack: 77, window: 9, payload: vec![1; 5], ..Frame::data(1, 0) }.build();
    lab.run(&bare, bare.len()).unwrap();
    let telemetry = lab.maps.telemetry(SubflowSlot(FIRST_SLOT + 1)).unwrap();
    assert_eq!((telemetry.packets, telemetry.dss_packets, telemetry.octets), (4, 3, 3005));
    assert_eq!((telemetry.dsn, telemetry.data_ack), (0x99aa_bbcc_ddee_ff00, 0x1122_3344_5566_7788));
    assert_eq!((telemetry.subflow_seq, telemetry.data_len), (0x0a0b_0c0d, 1000));
    assert_eq!((telemetry.ack, telemetry.window), (77, 9));
    assert_ne!(telemetry.seen_ns, 0);
    assert_eq!(lab.maps.telemetry(SubflowSlot(FIRST_SLOT)).unwrap().packets, 0);
    // A slot that is given to another subflow starts afresh.
    let (local, remote, shard) = subflows()[1];
    lab.maps.insert_subflow(local, remote, SubflowSlot(FIRST_SLOT + 1), shard).unwrap();
    assert_eq!(lab.maps.telemetry(SubflowSlot(FIRST_SLOT + 1)).unwrap().packets, 0);
    assert_eq!(lab.maps.telemetry(SubflowSlot(u32::MAX)), None);
}

/// It is found without a look-up of its four-tuple; which way must not be seen.
#[test]
fn the_only_subflow_of_a_port_is_found_as_others_are() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for (local, remotes) in [
        ("192.0.2.1:9000", ["198.51.100.7:40000", "198.51.100.7:40001"]),
        ("[2001:db8::1]:9001", ["[2001:db8:7::7]:40000", "[2001:db8:7::8]:40000"]),
    ] {
        let (local, remotes) = (addr(local), remotes.map(addr));
        let frames = remotes.map(|remote| Frame::new(remote, local).build());
        let other = Frame::new(remotes[0], std::net::SocketAddr::new(local.ip(), 9002)).build();
        let slots = [SubflowSlot(20), SubflowSlot(21)];
        // The fate of a segment of each: the slot that it was marked with, or why it is the kernel's.
        let seen = |lab: &mut XdpLab| {
            assert_eq!(lab.run(&other, other.len()).unwrap().1, Counter::ForeignPort);
            frames.each_ref().map(|frame| {
                let (run, counter) = lab.run(frame, frame.len()).unwrap();
                match Metadata::read(&run.metadata) {
                    Some(metadata) if counter == Counter::Subflow => Ok(metadata.slot),
                    _ => Err(counter),
                }
            })
        };
        let insert = |lab: &XdpLab, which: usize, slot: usize| {
            lab.maps.insert_subflow(local, remotes[which], slots[slot], 0).unwrap();
        };
        let remove = |lab: &XdpLab, which: usize| lab.maps.remove_subflow(local, remotes[which]).unwrap();
        let (none, stranger) = (Err(Counter::ForeignPort), Err(Counter::Foreign));
        assert_eq!(seen(&mut lab), [none, none]);
        insert(&lab, 0, 0);
        assert_eq!(seen(&mut lab), [Ok(20), stranger]);
        insert(&lab, 0, 1);
        assert_eq!(seen(&mut lab), [Ok(21), stranger], "told anew");
        insert(&lab, 1, 0);
        assert_eq!(seen(&mut lab), [Ok(21), Ok(20)]);
        remove(&lab, 0);
        assert_eq!(seen(&mut lab), [stranger, Ok(20)]);
        remove(&lab, 0);
        assert_eq!(seen(&mut lab), [stranger, Ok(20)], "nothing to remove");
        remove(&lab, 1);
        assert_eq!(seen(&mut lab), [none, none]);
        insert(&lab, 1, 1);
        assert_eq!(seen(&mut lab), [stranger, Ok(21)], "another's place");
        lab.maps.insert_listener(local, 0, 1).unwrap();
        assert_eq!(seen(&mut lab)[1], Ok(21));
        lab.maps.remove_listener(local).unwrap();
        assert_eq!(seen(&mut lab), [stranger, Ok(21)]);
        remove(&lab, 1);
        assert_eq!(seen(&mut lab), [none, none]);
    }
}

#[test]
fn a_port_is_ours_as_long_as_anything_uses_it() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let (local, remote, shard) = subflows()[0];
    let stray = Frame::new(peer(), addr("192.0.2.99:80")).build();
    let counter = |lab: &mut XdpLab| lab.run(&stray, stray.len()).unwrap().1;
    // Told twice, counted once.
    lab.maps.insert_subflow(local, remote, SubflowSlot(FIRST_SLOT), shard).unwrap();
    lab.maps.remove_subflow(local, remote).unwrap();
    assert_eq!(counter(&mut lab), Counter::Foreign);
    lab.maps.remove_subflow(local, remote).unwrap();
    lab.maps.remove_listener(addr("192.0.2.1:80")).unwrap();
    assert_eq!(counter(&mut lab), Counter::ForeignPort);
    let packet = Frame::data(0, 10).build();
    assert_eq!(lab.run(&packet, packet.len()).unwrap().1, Counter::ForeignPort);
}

#[test]
fn a_full_map_is_an_error_that_names_it() {
    require_root!();
    let lab = XdpLab::new(1000).unwrap();
    let error = (0..2000_u16)
        .find_map(|port| {
            lab.maps
                .insert_subflow(addr("192.0.2.1:80"), ([10, 0, 0, 1], port).into(), SubflowSlot(0), 0)
                .err()
        })
        .expect("a limit");
    assert!(error.to_string().contains("subflows is full"), "{error}");
    let error = lab.maps.set_socket(5000, std::os::fd::AsFd::as_fd(&lab.events)).unwrap_err();
    assert!(error.to_string().contains("out of range") || error.to_string().contains("failed"), "{error}");
}

/// An own listener's port on another host: this one only forwards (or bridges) the packet.
#[test]
fn what_is_for_another_host_is_passed_whatever_it_is() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for to in ["[2001:db8::99]:443", "[fe80::2]:443", "[ff02::1]:443", "[::1]:443"] {
        let to = addr(to);
        gives(&mut lab, &Frame::syn(peer6(), to), Counter::Foreign);
        gives(&mut lab, &Frame::new(peer6(), to), Counter::Foreign);
        gives(&mut lab, &Frame::join(peer6(), to, TOKEN), Counter::Foreign);
        gives(&mut lab, &Frame::join(peer6(), to, 1), Counter::Foreign);
    }
    for to in ["192.0.2.99:80", "192.0.2.255:80", "255.255.255.255:80", "224.0.0.1:80", "127.0.0.1:80"] {
        gives(&mut lab, &Frame::join(peer(), addr(to), TOKEN), Counter::Foreign);
        gives(&mut lab, &Frame::syn(peer(), addr(to)), Counter::Foreign);
    }
    gives(&mut lab, &Frame::syn(peer6(), addr("[fe80::1]:443")), Counter::ListenerSyn);
    // An address that comes, one that goes, and one on another link.
    let set = |lab: &XdpLab, text: &str, interface, kind| {
        let address = text.parse::<std::net::IpAddr>().unwrap();
        lab.maps.set_local(LocalKey::new(address.into(), interface), kind).unwrap();
    };
    let judge = |lab: &mut XdpLab, to: &str| {
        let packet = Frame::syn(peer6(), addr(to)).build();
        lab.run(&packet, packet.len()).unwrap().1
    };
    set(&lab, "2001:db8::99", 7, LOCAL_OWN);
    assert_eq!(judge(&mut lab, "[2001:db8::99]:443"), Counter::ListenerSyn);
    set(&lab, "2001:db8::99", 8, 0);
    assert_eq!(judge(&mut lab, "[2001:db8::99]:443"), Counter::Foreign);
    set(&lab, "fe80::2", 7, LOCAL_OWN);
    assert_eq!(judge(&mut lab, "[fe80::2]:443"), Counter::Foreign);
    // An entry that is gone already does no harm.
    set(&lab, "2001:db8::99", 8, 0);
}

#[test]
fn no_answer_is_made_to_where_no_peer_can_be() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let sources = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.0.0.53",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.9",
        "255.255.255.255",
        // Its own, and a subnet's broadcast address.
        "192.0.2.1",
        "192.0.2.200",
        BROADCAST,
    ];
    for source in sources {
        let from = addr(&format!("{source}:50000"));
        let to = addr("192.0.2.1:80");
        for frame in [
            Frame::syn(from, to),
            Frame::new(from, to),
            Frame::join(from, to, TOKEN),
            Frame::join(from, to, 1),
            Frame { fragment: 0x2000, ..Frame::syn(from, to) },
        ] {
            let packet = frame.build();
            assert_eq!(lab.run(&packet, packet.len()).unwrap().1, Counter::MartianSource, "{frame:?}");
        }
    }
    for source in ["::", "::1", "::127.0.0.1", "::192.0.2.1", "ff02::1", "ff0e::5", "2001:db8::1", "fe80::1"]
    {
        let (from, to) = (addr(&format!("[{source}]:50000")), addr("[2001:db8::1]:443"));
        for frame in [Frame::syn(from, to), Frame::new(from, to), Frame::join(from, to, TOKEN)] {
            gives(&mut lab, &frame, Counter::MartianSource);
        }
    }
    // Mapped addresses are none of IPv6 on the wire: neither as such nor for the address that they stand for.
    let mapped = Frame::syn(addr("[::ffff:127.0.0.1]:50000"), addr("[2001:db8::1]:443"));
    gives(&mut lab, &mapped, Counter::MappedAddress);
    for source in ["10.0.0.1", "169.254.1.1", "1.0.0.0", "223.255.255.255"] {
        gives(
            &mut lab,
            &Frame::syn(addr(&format!("{source}:1")), addr("192.0.2.1:80")),
            Counter::ListenerSyn,
        );
    }
}

#[test]
fn a_frame_for_several_hosts_begins_nothing() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        for frame in [
            Frame::syn(peer(), addr("192.0.2.1:80")),
            Frame::new(peer6(), addr("[2001:db8::1]:443")),
            Frame::join(peer(), addr("192.0.2.1:80"), TOKEN),
            Frame::join(peer(), addr("192.0.2.1:80"), 1),
        ] {
            let mut packet = frame.build();
            packet[..6].copy_from_slice(&mac);
            assert_eq!(agrees(&mut lab, &packet, packet.len()), Counter::LinkBroadcast);
        }
    }
}

#[test]
fn rules_for_peers_hold_for_what_has_no_subflow() {
    require_root!();
    let mut rules = PeerRules::default();
    for (text, accepted) in [
        ("203.0.113.0/24", true),
        ("203.0.113.8/29", false),
        ("203.0.113.9", true),
        ("2001:db8:9::/48", true),
    ] {
        let prefix = text.parse().unwrap();
        if accepted { rules.allow(prefix) } else { rules.deny(prefix) }
    }
    let mut lab = XdpLab::with_rules(1000, &rules).unwrap();
    let mut judge = |frame: Frame| {
        let packet = frame.build();
        lab.run(&packet, packet.len()).unwrap().1
    };
    let (v4, v6) = (addr("192.0.2.1:80"), addr("[2001:db8::1]:443"));
    for (source, accepted) in [
        ("203.0.113.1:1", true),
        ("203.0.113.10:1", false),
        ("203.0.113.9:1", true),
        ("203.0.114.1:1", false),
        ("[2001:db8:9::9]:1", true),
        ("[2001:db8:8::9]:1", false),
    ] {
        let from = addr(source);
        assert_eq!(rules.accept(from.ip()), accepted);
        let to = if from.is_ipv4() { v4 } else { v6 };
        let or = |counter| if accepted { counter } else { Counter::PeerRefused };
        assert_eq!(judge(Frame::syn(from, to)), or(Counter::ListenerSyn), "{source}");
        assert_eq!(judge(Frame::new(from, to)), or(Counter::ListenerSegment), "{source}");
        assert_eq!(judge(Frame::join(from, to, TOKEN)), or(Counter::Join), "{source}");
        assert_eq!(judge(Frame::join(from, to, 1)), or(Counter::JoinRefused), "{source}");
    }
    // Subflows that the engine has are not asked, and other ports are the kernel's.
    assert_eq!(judge(Frame::data(0, 10)), Counter::Subflow);
    assert_eq!(judge(Frame::syn(addr("203.0.114.1:1"), addr("192.0.2.1:22"))), Counter::Foreign);

    // Refusing some accepts the others, of the other family too: `::/0` is no address of IPv4.
    let mut rules = PeerRules::default();
    rules.deny("::/0".parse().unwrap());
    let mut lab = XdpLab::with_rules(1000, &rules).unwrap();
    let mut judge = |frame: Frame| {
        let packet = frame.build();
        lab.run(&packet, packet.len()).unwrap().1
    };
    assert_eq!(judge(Frame::syn(peer(), v4)), Counter::ListenerSyn);
    assert_eq!(judge(Frame::syn(peer6(), v6)), Counter::PeerRefused);
}

#[test]
fn fragments_go_where_the_first_of_them_goes() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    let judge = |lab: &mut XdpLab, packet: &[u8]| {
        let (run, counter) = lab.run(packet, packet.len()).unwrap();
        assert_eq!(run.packet, packet);
        counter
    };
    // In front of the segment's octets: the fragment header of IPv6, or what IPv4 says in its own.
    let cut = |frame: &Frame, id: u16, offset: u16, more: bool, octets: &[u8]| {
        let mut frame = frame.clone();
        if frame.src.is_ipv4() {
            frame.fragment = (offset >> 3) | if more { 0x2000 } else { 0 };
            let mut packet = frame.build_around(octets);
            packet[18..20].copy_from_slice(&id.to_be_bytes());
            packet
        } else {
            let mut header = vec![0];
            header.extend((offset | u16::from(more)).to_be_bytes());
            header.extend(u32::from(id).to_be_bytes());
            frame.extensions = vec![(44, header)];
            frame.build_around(octets)
        }
    };
    let strangers = [(peer(), addr("192.0.2.1:22")), (peer6(), addr("[2001:db8::1]:22"))];
    for (subflow, (from, to)) in strangers.into_iter().enumerate() {
        let ours = Frame::data(subflow, 1000);
        let segment = ours.segment();
        let (first, second, last) = (&segment[..512], &segment[512..1024], &segment[1024..]);
        assert_eq!(judge(&mut lab, &cut(&ours, 9, 512, true, second)), Counter::Fragment, "before the first");
        assert_eq!(judge(&mut lab, &cut(&ours, 9, 0, true, first)), Counter::FragmentOurs);
        assert_eq!(judge(&mut lab, &cut(&ours, 9, 512, true, second)), Counter::FragmentOurs);
        assert_eq!(judge(&mut lab, &cut(&ours, 9, 1024, false, last)), Counter::FragmentOurs);
        // However short.
        assert_eq!(judge(&mut lab, &cut(&ours, 9, 1024, false, &last[..1])), Counter::FragmentOurs);
        let other = judge(&mut lab, &cut(&ours, 10, 1024, false, &last[..1]));
        assert_eq!(other, Counter::Fragment, "another segment's");
        // Of another protocol.
        let udp = Frame { protocol: 17, ..ours.clone() };
        assert_eq!(judge(&mut lab, &cut(&udp, 9, 512, true, second)), Counter::Fragment);
        // The ports alone, and less.
        assert_eq!(judge(&mut lab, &cut(&ours, 11, 0, true, &segment[..8])), Counter::FragmentOurs);
        // The same identification in a segment that is the kernel's: so are the others of it.
        let theirs =
            Frame { src: std::net::SocketAddr::new(ours.src.ip(), from.port()), dst: to, ..ours.clone() };
        let foreign = theirs.segment();
        assert_eq!(judge(&mut lab, &cut(&theirs, 9, 0, true, &foreign[..512])), Counter::Fragment);
        assert_eq!(judge(&mut lab, &cut(&theirs, 9, 512, true, second)), Counter::Fragment);
    }
    // For a listener; not for another host, nor from a martian.
    let syn = Frame { options: vec![1; 40], ..Frame::syn(peer(), addr("192.0.2.1:80")) };
    let segment = syn.segment();
    assert_eq!(judge(&mut lab, &cut(&syn, 20, 0, true, &segment[..40])), Counter::FragmentOurs);
    assert_eq!(judge(&mut lab, &cut(&syn, 20, 40, false, &segment[40..])), Counter::FragmentOurs);
    let transit = Frame { dst: addr("192.0.2.99:80"), ..syn };
    assert_eq!(judge(&mut lab, &cut(&transit, 21, 0, true, &segment[..40])), Counter::Fragment);
    // The kernel would put them together and answer, so the program drops them.
    let ours = Frame::data(0, 1000);
    let packet = cut(&ours, 30, 0, true, &ours.segment()[..512]);
    assert_eq!(judge(&mut lab, &packet), Counter::FragmentOurs);
    lab.close_sockets();
    assert_eq!(judge(&mut lab, &packet), Counter::NoSocket);
}

/// Ports that lie beyond what the program sees itself.
#[test]
fn a_header_that_is_out_of_reach_is_known_by_its_ports() {
    require_root!();
    let mut lab = XdpLab::new(1000).unwrap();
    for subflow in 0..2 {
        let packet = Frame::data(subflow, 1000).build();
        let l4 = if subflow == 0 { 34 } else { 54 };
        for linear in [l4 + 20, l4 + 21, l4 + 51] {
            assert_eq!(lab.run(&packet, linear).unwrap().1, Counter::SubflowMalformed, "{linear} octets");
        }
        assert_eq!(lab.run(&packet, l4 + 60).unwrap().1, Counter::Subflow);
    }
}
