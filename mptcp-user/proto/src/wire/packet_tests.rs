use super::super::options::tests::{any_flags, any_options};
use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn link(vlan: Option<u16>) -> LinkHeader {
    LinkHeader { src_mac: [2, 0, 0, 0, 0, 1], dst_mac: [2, 0, 0, 0, 0, 2], vlan }
}

fn segment(ipv6: bool) -> Segment {
    let (src, dst) = if ipv6 {
        ("[2001:db8::1]:40000", "[2001:db8::2]:80")
    } else {
        ("192.0.2.1:40000", "198.51.100.2:80")
    };
    let mut segment = Segment::new(src.parse().unwrap(), dst.parse().unwrap());
    segment.seq = SeqNumber(0x0102_0304);
    segment.ack = SeqNumber(0xa1a2_a3a4);
    segment.flags = Flags::ACK.with(Flags::PSH);
    segment.window = 0x1234;
    segment.ecn = Ecn::Ect0;
    segment
}

fn frame(segment: &Segment, link: Option<&LinkHeader>) -> Vec<u8> {
    let mut frame = Vec::new();
    emit_frame(segment, link, &mut frame).unwrap();
    frame
}

#[test]
fn the_octets_of_an_ipv4_segment_are_where_the_rfcs_put_them() {
    let mut segment = segment(false);
    segment.payload = b"abc".to_vec().into();
    let octets = frame(&segment, Some(&link(Some(0x0064))));
    assert_eq!(octets[..18], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 0x64, 8, 0]);
    let ip = &octets[18..];
    assert_eq!(ip[..4], [0x45, 2, 0, 43]);
    assert_eq!(ip[6..10], [0x40, 0, 64, 6]);
    assert_eq!(ip[12..20], [192, 0, 2, 1, 198, 51, 100, 2]);
    let tcp = &ip[20..];
    assert_eq!(tcp[..16], [0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0xa1, 0xa2, 0xa3, 0xa4, 0x50, 0x18, 0x12, 0x34]);
    // The words of pseudo-header, header and data, one by one.
    let mut sum: u32 = 0;
    for word in [
        0xc000u32, 0x0201, 0xc633, 0x6402, 0x0006, 0x0017, 0x9c40, 0x0050, 0x0102, 0x0304, 0xa1a2, 0xa3a4,
        0x5018, 0x1234, 0x6162, 0x6300,
    ] {
        sum += word;
    }
    let folded = (sum & 0xffff) + (sum >> 16);
    assert_eq!(u16::from_be_bytes([tcp[16], tcp[17]]), !(folded as u16));
    assert_eq!(&tcp[20..], b"abc");
}

#[test]
fn an_ipv6_segment_has_a_flow_label_of_its_own() {
    let mut one = segment(true);
    let octets = frame(&one, None);
    let first = u32::from_be_bytes(octets[..4].try_into().unwrap());
    assert_eq!((first >> 28, first >> 20 & 0xff), (6, 2));
    assert_ne!(first & 0xf_ffff, 0);
    assert_eq!(octets[4..8], [0, 20, 6, 64]);
    one.seq += 1000;
    assert_eq!(frame(&one, None)[..4], octets[..4], "the same for the whole subflow");
    one.src.set_port(40001);
    assert_ne!(frame(&one, None)[..4], octets[..4], "another one for another subflow");
}

#[test]
fn a_partial_checksum_is_told_apart_from_a_wrong_one() {
    for ipv6 in [false, true] {
        let mut segment = segment(ipv6);
        segment.payload = vec![7; 3001].into();
        segment.gso_size = 1400;
        let mut headers = [0; MAX_HEADERS];
        let layout = emit_headers(&segment, Some(&link(None)), ChecksumMode::Partial, &mut headers).unwrap();
        assert_eq!(layout.gso_size, Some(1400));
        let mut octets = headers[..layout.len].to_vec();
        octets.extend(segment.payload.to_vec());
        assert_eq!(parse_frame(&octets).unwrap().1, ChecksumStatus::Partial);
        // What the interface does: sum from csum_start, put the complement at csum_offset.
        let mut sum = Checksum::new();
        sum.add(&octets[layout.csum_start..]);
        let field = layout.csum_start + layout.csum_offset;
        octets[field..field + 2].copy_from_slice(&sum.finish().to_be_bytes());
        assert_eq!(parse_frame(&octets).unwrap().1, ChecksumStatus::Valid);
        assert_eq!(octets, frame(&segment, Some(&link(None))));
        let last = octets.len() - 1;
        octets[last] ^= 1;
        assert_eq!(parse_frame(&octets).unwrap().1, ChecksumStatus::Wrong);
        let vnet = layout.virtio_net_header();
        assert_eq!(vnet[..2], [1, if ipv6 { 4 } else { 1 }]);
        assert_eq!(u16::from_ne_bytes([vnet[2], vnet[3]]) as usize, layout.len);
        assert_eq!(u16::from_ne_bytes([vnet[4], vnet[5]]), 1400);
        assert_eq!(u16::from_ne_bytes([vnet[6], vnet[7]]) as usize, layout.len - 20);
        assert_eq!(u16::from_ne_bytes([vnet[8], vnet[9]]), 16);
    }
}

#[test]
fn the_payload_may_be_summed_while_it_is_copied() {
    let mut segment = segment(false);
    segment.payload.push(vec![1; 333].into());
    segment.payload.push(vec![2; 334].into());
    let mut sum = Checksum::new();
    let mut copy = vec![0; 667];
    sum.add_copying(&segment.payload.to_vec(), &mut copy);
    let mut headers = [0; MAX_HEADERS];
    let layout = emit_headers(&segment, None, ChecksumMode::PayloadSummed(sum), &mut headers).unwrap();
    assert_eq!(headers[..layout.len], frame(&segment, None)[..layout.len]);
}

#[test]
fn ethernet_padding_is_not_payload() {
    let mut octets = frame(&segment(false), Some(&link(None)));
    assert_eq!(octets.len(), 54);
    octets.resize(60, 0xee);
    let (parsed, status) = parse_frame(&octets).unwrap();
    assert_eq!((parsed, status), (segment(false), ChecksumStatus::Valid));
}

#[test]
fn two_vlan_tags_ip_options_and_extension_headers_are_walked() {
    let mut v4 = frame(&segment(false), None);
    v4[0] = 0x46;
    v4.splice(20..20, [1, 1, 1, 0]);
    v4[3] += 4;
    v4[10..12].fill(0);
    let mut sum = Checksum::new();
    sum.add(&v4[..24]);
    v4[10..12].copy_from_slice(&sum.finish().to_be_bytes());
    let mut tagged = vec![0; 12];
    tagged.extend([0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0]);
    tagged.extend(&v4);
    let parsed = parse_headers(&tagged, tagged.len()).unwrap();
    assert_eq!(
        (parsed.segment, parsed.link.vlan, parsed.ip_offset, parsed.tcp_offset),
        (segment(false), Some(5), 22, 46)
    );

    let mut v6 = frame(&segment(true), None);
    v6[6] = 0;
    v6.splice(40..40, [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 1, 2, 3, 4]);
    v6[5] += 24;
    assert_eq!(parse_ip_packet(&v6), Ok((segment(true), ChecksumStatus::Valid)));
    v6[59] = 1;
    assert_eq!(parse_ip_packet(&v6), Err(ParseError::Headers(Reason::Fragment)));
}

#[test]
fn what_is_not_ours_says_why() {
    let good = frame(&segment(false), Some(&link(None)));
    let with = |at: usize, octet: u8| {
        let mut frame = good.clone();
        frame[at] = octet;
        if (14..34).contains(&at) {
            frame[24..26].fill(0);
            let mut sum = Checksum::new();
            sum.add(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.finish().to_be_bytes());
        }
        parse_frame(&frame).map(|_| ())
    };
    assert_eq!(with(12, 9), Err(ParseError::Headers(Reason::NotIp)));
    assert_eq!(with(23, 17), Err(ParseError::Headers(Reason::NotTcp)));
    assert_eq!(with(20, 0x20), Err(ParseError::Headers(Reason::Fragment)));
    assert_eq!(with(21, 1), Err(ParseError::Headers(Reason::Fragment)));
    assert_eq!(with(14, 0x44), Err(ParseError::Headers(Reason::IpHeader)));
    assert_eq!(with(17, 19), Err(ParseError::Headers(Reason::IpLength)));
    assert_eq!(with(17, 255), Err(ParseError::Headers(Reason::IpLength)));
    assert_eq!(with(46, 0x40), Err(ParseError::Headers(Reason::TcpHeader)));
    assert_eq!(with(46, 0xf0), Err(ParseError::Headers(Reason::TcpHeader)));
    let mut bad = good.clone();
    bad[22] = 63;
    assert_eq!(parse_frame(&bad), Err(ParseError::IpChecksum));
    for len in 0..good.len() {
        assert!(parse_frame(&good[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn what_is_no_packet_is_refused() {
    let mut long = segment(false);
    long.payload = vec![0; 65_496].into();
    let mut buf = [0; MAX_HEADERS];
    let mode = ChecksumMode::Partial;
    assert_eq!(emit_headers(&long, None, mode, &mut buf), Err(EmitError::TooLong { octets: 65_536 }));
    long.payload.truncate(65_495);
    assert!(emit_headers(&long, None, mode, &mut buf).is_ok());
    assert_eq!(emit_headers(&long, None, mode, &mut buf[..39]), Err(EmitError::BufferTooSmall));
    long.dst = "[::1]:80".parse().unwrap();
    assert_eq!(emit_headers(&long, None, mode, &mut buf), Err(EmitError::FamilyMismatch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_segment_becomes_a_packet_and_a_segment_again(
        (flags, options) in any_flags().prop_flat_map(|flags| (Just(flags), any_options(flags))),
        addresses in any::<(bool, u128, u128, u16, u16)>(),
        numbers in any::<(u32, u32, u16)>(),
        more_flags in 0u16..0x200,
        ecn in 0u8..4,
        payload in prop::collection::vec(any::<u8>(), 0..600),
        vlan in prop::option::of(any::<u16>()),
        with_link in any::<bool>(),
    ) {
        let mut options = options;
        while options.wire_len() > 40 {
            let _ = options.mptcp.pop().is_some() || options.sack.pop().is_some();
        }
        let (ipv6, src, dst, src_port, dst_port) = addresses;
        let address = |bits: u128| -> IpAddr {
            if ipv6 { Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() }
        };
        let keep = Flags::SYN.with(Flags::ACK);
        let segment = Segment {
            src: SocketAddr::new(address(src), src_port),
            dst: SocketAddr::new(address(dst), dst_port),
            seq: SeqNumber(numbers.0),
            ack: SeqNumber(numbers.1),
            flags: flags.with(Flags(more_flags).without(keep)),
            window: numbers.2,
            options,
            payload: payload.into(),
            gso_size: 0,
            ecn: ecn_of(ecn),
        };
        let link = link(vlan);
        let mut octets = Vec::new();
        emit_frame(&segment, with_link.then_some(&link), &mut octets).unwrap();
        let parsed = if with_link { parse_headers(&octets, octets.len()) } else { parse_ip_headers(&octets, octets.len()) }.unwrap();
        if with_link {
            prop_assert_eq!(parsed.link, link);
        }
        let payload = &octets[parsed.payload_offset..];
        prop_assert_eq!(payload.len(), parsed.payload_len);
        // One payload in 65536 makes the checksum look partial.
        prop_assert_ne!(parsed.verify_checksum(payload.chunks(7)), ChecksumStatus::Wrong);
        let mut sum = Checksum::new();
        sum.add(payload);
        prop_assert!(parsed.has_valid_checksum(sum));
        let mut again = parsed.segment;
        again.payload = payload.to_vec().into();
        prop_assert_eq!(again.payload.to_vec(), segment.payload.to_vec());
        again.payload = segment.payload.clone();
        prop_assert_eq!(again, segment);
    }

    #[test]
    fn damage_never_panics_and_never_passes_unnoticed(
        ipv6 in any::<bool>(),
        len in 0usize..100,
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut segment = segment(ipv6);
        segment.payload = vec![0x5a; len].into();
        let mut octets = frame(&segment, Some(&link(None)));
        let at = at.index(octets.len());
        octets[at] ^= 1 << bit;
        let tcp = if ipv6 { 54 } else { 34 };
        if let Ok((_, status)) = parse_frame(&octets) && at >= tcp {
            prop_assert_eq!(status, ChecksumStatus::Wrong);
        }
        let cut = cut.index(octets.len());
        let _ = parse_frame(&octets[..cut]);
        let _ = parse_headers(&octets[..cut], octets.len());
    }

    #[test]
    fn garbage_never_panics(octets in prop::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>()) {
        let _ = parse_frame(&octets);
        let _ = parse_ip_packet(&octets);
        let mut framed = vec![0; 12];
        framed.extend(if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes());
        framed.extend(&octets);
        let _ = parse_frame(&framed);
    }
}
