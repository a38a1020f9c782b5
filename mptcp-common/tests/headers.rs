//! The header decoder returns the headers that were built, and no input makes it panic.

use mptcp_common::address::Address;
use mptcp_common::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, Reason, decode};
use mptcp_common::maps::{InterfaceValue, SubflowKey};
use mptcp_common::metadata::{
    FLAG_DSS, FLAG_LONG, FLAG_VLANS_SHIFT, Kind, LONG_LEN, MAGIC, Metadata, SHORT_LEN,
};
use mptcp_common::options::{DSS_DATA_ACK, DSS_DATA_ACK_LONG};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

/// Everything that a packet is made from.
#[derive(Clone, Debug)]
struct Parts {
    src: SocketAddr,
    dst: SocketAddr,
    vlans: Vec<(u16, u16)>,
    /// Octets of IPv4 options, or the last octet of the length of IPv6 destination options.
    extras: Vec<u8>,
    class: u8,
    seq: u32,
    ack: u32,
    flags: u16,
    window: u16,
    options: usize,
    payload: usize,
    padding: usize,
}

prop_compose! {
    fn any_addresses()(v6 in any::<bool>(), octets in any::<[u8; 32]>(), ports in any::<[u16; 2]>()) -> [SocketAddr; 2] {
        let ip = |octets: [u8; 16]| match v6 {
            true => IpAddr::from(octets),
            false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
        };
        let (src, dst) = octets.split_at(16);
        [
            SocketAddr::new(ip(src.try_into().unwrap()), ports[0]),
            SocketAddr::new(ip(dst.try_into().unwrap()), ports[1]),
        ]
    }
}

prop_compose! {
    fn any_parts()(
        [src, dst] in any_addresses(),
        vlans in prop::collection::vec((prop_oneof![Just(0x8100u16), Just(0x88a8)], any::<u16>()), 0..3),
        extras in prop::collection::vec(0u8..4, 0..4),
        class in any::<u8>(), seq in any::<u32>(), ack in any::<u32>(), flags in 0u16..0x200,
        window in any::<u16>(), options in 0usize..=10, payload in 0usize..1500, padding in 0usize..20,
    ) -> Parts {
        Parts { src, dst, vlans, extras, class, seq, ack, flags, window, options, payload, padding }
    }
}

impl Parts {
    fn build(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.src.port().to_be_bytes());
        tcp.extend(self.dst.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend(((5 + self.options as u16) << 12 | self.flags).to_be_bytes());
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(vec![1; self.options * 4]);
        tcp.extend(vec![0x5a; self.payload]);
        let mut frame = vec![2; 12];
        for (ethertype, tci) in &self.vlans {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                let words = 5 + self.extras.len();
                frame.extend([0x40 | words as u8, self.class]);
                frame.extend(((words * 4 + tcp.len()) as u16).to_be_bytes());
                frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                frame.extend(vec![1; self.extras.len() * 4]);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend((6 << 28 | u32::from(self.class) << 20).to_be_bytes());
                frame.extend(((self.extensions_len() + tcp.len()) as u16).to_be_bytes());
                frame.extend([if self.extras.is_empty() { 6 } else { 60 }, 64]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                for (number, len) in self.extras.iter().enumerate() {
                    frame.extend([if number + 1 == self.extras.len() { 6 } else { 60 }, *len]);
                    frame.extend(vec![0; 6 + 8 * usize::from(*len)]);
                }
            }
            _ => unreachable!(),
        }
        frame.extend(tcp);
        frame.extend(vec![0; self.padding]);
        frame
    }
    fn extensions_len(&self) -> usize {
        self.extras.iter().map(|len| 8 * (usize::from(*len) + 1)).sum()
    }
    fn headers_len(&self) -> usize {
        let ip = if self.src.is_ipv4() { 20 + 4 * self.extras.len() } else { 40 + self.extensions_len() };
        14 + 4 * self.vlans.len() + ip + 20 + 4 * self.options
    }
}

proptest! {
    #[test]
    fn what_was_built_is_what_is_decoded(parts in any_parts()) {
        let frame = parts.build();
        let Ok(Packet::Tcp(headers)) = decode(&frame.as_slice()) else { panic!("{:?}", decode(&frame.as_slice())) };
        prop_assert_eq!(headers.network.src.ip(), parts.src.ip());
        prop_assert_eq!(headers.network.dst.ip(), parts.dst.ip());
        prop_assert_eq!((headers.src_port, headers.dst_port), (parts.src.port(), parts.dst.port()));
        prop_assert_eq!((headers.seq, headers.ack), (parts.seq, parts.ack));
        prop_assert_eq!((headers.flags, headers.window), (parts.flags, parts.window));
        prop_assert_eq!(headers.ecn(), parts.class & 3);
        prop_assert_eq!(headers.network.traffic_class, parts.class);
        prop_assert_eq!(usize::from(headers.network.vlans), parts.vlans.len());
        for (number, (_, tci)) in parts.vlans.iter().enumerate() {
            prop_assert_eq!(headers.network.tci[number], *tci);
        }
        prop_assert_eq!(headers.payload, parts.headers_len());
        prop_assert_eq!(headers.payload_len, parts.payload);
        prop_assert_eq!(headers.network.end + parts.padding, frame.len());
    }

    #[test]
    fn a_packet_cut_anywhere_is_refused(parts in any_parts()) {
        let frame = parts.build();
        let whole = frame.len() - parts.padding;
        for cut in (0..whole).step_by(if whole > 300 { 7 } else { 1 }) {
            let reason = decode(&&frame[..cut]).expect_err("cut");
            prop_assert!(matches!(reason, Reason::Truncated | Reason::IpLength), "{:?} at {}", reason, cut);
        }
    }

    #[test]
    fn garbage_never_panics(mut octets in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
        let _ = decode(&octets.as_slice());
        // With an EtherType and a version that lead further in.
        let (ethertype, first) = [([8, 0], 0x45), ([0x86, 0xdd], 0x60), ([0x81, 0], 0), ([8, 0], 0x4f)][kind];
        if octets.len() > 24 {
            octets[12..14].copy_from_slice(&ethertype);
            octets[14] = first;
            let _ = decode(&octets.as_slice());
            octets[23] = 1;
            octets[20] = if kind == 1 { 58 } else { 0 };
            octets[21] = 0;
            let _ = decode(&octets.as_slice());
        }
    }

    #[test]
    fn an_address_comes_out_as_it_went_in([src, dst] in any_addresses()) {
        prop_assert_eq!(Address::from(src.ip()).ip(), src.ip());
        prop_assert_eq!(Address::from(src.ip()).is_v4(), src.is_ipv4());
        let key = SubflowKey::new(src, dst);
        prop_assert_eq!((key.local_addr(), key.remote_addr()), (src, dst));
        for shards in 0..5 {
            prop_assert!(key.spread(shards) < shards.max(1));
            prop_assert_eq!(key.spread(shards), SubflowKey::new(src, dst).spread(shards));
        }
    }

    #[test]
    fn metadata_is_read_only_where_it_was_written(octets in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Metadata::read(&octets);
        let mut before = octets;
        before.extend([0x77; LONG_LEN - 4]);
        before.extend(MAGIC.to_ne_bytes());
        prop_assert!(Metadata::read(&before).is_some());
        prop_assert!(Metadata::read(&before[before.len() - SHORT_LEN + 1..]).is_none());
        Metadata::clear(&mut before);
        prop_assert!(Metadata::read(&before).is_none());
    }
}

/// The octets of a value in front of a packet.
fn octets(metadata: &Metadata) -> [u8; LONG_LEN] {
    // SAFETY: `repr(C)` without padding.
    unsafe { std::mem::transmute(*metadata) }
}

#[test]
fn the_short_form_leaves_the_dss_to_the_reader() {
    let long = Metadata {
        data_ack: 9,
        slot: 3,
        subtypes: 1 << 2,
        dss_at: 66,
        ts_at: 56,
        ts_value: 5,
        dss_flags: DSS_DATA_ACK | DSS_DATA_ACK_LONG,
        kind: Kind::Subflow as u8,
        flags: FLAG_LONG | FLAG_DSS | 1 << FLAG_VLANS_SHIFT,
        magic: MAGIC,
        ..Metadata::default()
    };
    let read = Metadata::read(&octets(&long)).unwrap();
    assert_eq!(read, long);
    assert!(read.complete());
    assert_eq!(read.dss().map(|dss| dss.data_ack), Some(9));
    assert_eq!((read.timestamps(), read.l3(), read.widths()), (Some((5, 0)), 18, (64, 0)));

    let short = Metadata { flags: FLAG_DSS, ..long };
    let read = Metadata::read(&octets(&short)).unwrap();
    assert_eq!((read.slot, read.dss_at, read.kind()), (3, 66, Some(Kind::Subflow)));
    assert_eq!((read.data_ack, read.dss(), read.timestamps()), (0, None, None));
    assert!(!read.complete());
    assert_eq!(Metadata::read(&octets(&short)[LONG_LEN - SHORT_LEN..]), Some(read));
}

#[test]
fn sockets_of_shards_and_queues_do_not_overlap() {
    let interface = InterfaceValue { index: 2, xsk_base: 10, queues: 3, shards: 2 };
    let places: Vec<_> = (0..3)
        .flat_map(|shard| (0..4).map(move |queue| interface.xsk_index(shard, queue)))
        .flatten()
        .collect();
    assert_eq!(places, [10, 11, 12, 13, 14, 15]);
}
