use super::*;
use crate::wire::DataSeq;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SYN: Flags = Flags::SYN;
const SYN_ACK: Flags = Flags(0x12);
const ACK: Flags = Flags::ACK;

fn only(option: MptcpOption) -> TcpOptions {
    TcpOptions { mptcp: [option].into_iter().collect(), ..TcpOptions::default() }
}

/// The option, alone, has these octets, and these octets are that option.
#[track_caller]
fn is(option: MptcpOption, flags: Flags, octets: &[u8]) {
    let options = only(option);
    let mut expected = octets.to_vec();
    expected.resize(padded(octets.len()), KIND_NOP);
    assert_eq!(options.emit().unwrap().as_slice(), expected);
    assert_eq!(options.wire_len(), expected.len());
    assert_eq!(options.mptcp[0].len(), octets.len());
    assert_eq!(TcpOptions::parse(octets, flags), options);
    assert_eq!(TcpOptions::parse(&expected, flags), options);
}

const KEY_A: u64 = 0x0102_0304_0506_0708;
const KEY_B: u64 = 0xa1a2_a3a4_a5a6_a7a8;

/// RFC 8684 figure 4: length, version and presence of the keys per step.
#[test]
//= RFC 8684 3.1-9 (test)
fn mp_capable_of_version_1_has_4_12_20_22_and_24_octets() {
    is(MptcpOption::Capable(MpCapable::new(Version::V1)), SYN, &[30, 4, 0x01, 0x01]);
    is(
        MptcpOption::Capable(MpCapable {
            checksum: true,
            no_join_initial: true,
            sender_key: Some(KEY_B),
            ..MpCapable::new(Version::V1)
        }),
        SYN_ACK,
        &[30, 12, 0x01, 0xa1, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8],
    );
    let both =
        MpCapable { sender_key: Some(KEY_A), receiver_key: Some(KEY_B), ..MpCapable::new(Version::V1) };
    let mut octets =
        vec![30, 20, 0x01, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8];
    is(MptcpOption::Capable(both), ACK, &octets);
    octets[1] = 22;
    octets.extend([0x05, 0xb4]);
    is(MptcpOption::Capable(MpCapable { data: Some((1460, None)), ..both }), ACK, &octets);
    octets[1] = 24;
    octets.extend([0xca, 0xfe]);
    is(MptcpOption::Capable(MpCapable { data: Some((1460, Some(0xcafe))), ..both }), ACK, &octets);
}

/// RFC 6824 figure 4: the sender's key is in every step.
#[test]
fn mp_capable_of_version_0_has_12_and_20_octets() {
    let syn = MpCapable { sender_key: Some(KEY_A), ..MpCapable::new(Version::V0) };
    let octets = [30, 12, 0x00, 0x01, 1, 2, 3, 4, 5, 6, 7, 8];
    is(MptcpOption::Capable(syn), SYN, &octets);
    is(MptcpOption::Capable(syn), SYN_ACK, &octets);
    is(
        MptcpOption::Capable(MpCapable { receiver_key: Some(KEY_B), ..syn }),
        ACK,
        &[30, 20, 0x00, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8],
    );
}

#[test]
fn mp_capable_in_a_form_that_does_not_fit_the_flags_is_malformed() {
    let with_key = [30, 12, 0x01, 0x01, 1, 2, 3, 4, 5, 6, 7, 8];
    for (octets, flags) in
        [(&with_key[..], SYN), (&with_key, ACK), (&[30, 4, 0x01, 0x01], SYN_ACK), (&[30, 3, 1], SYN)]
    {
        let options = TcpOptions::parse(octets, flags);
        assert_eq!((options.mptcp.len(), options.malformed), (0, 1), "{octets:?} with {flags:?}");
    }
}

#[test]
//= RFC 8684 3.1-22 (test)
fn a_syn_of_a_later_version_is_read_as_one_of_ours() {
    let options = TcpOptions::parse(&[30, 8, 0x02, 0x81, 9, 9, 9, 9], SYN);
    assert_eq!(options.capable(), Some(&MpCapable { checksum: true, ..MpCapable::new(Version::V1) }));
    assert_eq!(TcpOptions::parse(&[30, 12, 0x02, 0x01, 0, 0, 0, 0, 0, 0, 0, 0], SYN_ACK).malformed, 1);
}

/// RFC 8684 figures 5, 6 and 7.
#[test]
//= RFC 8684 3.2-3 (test)
fn mp_join_has_12_16_and_24_octets() {
    is(
        MptcpOption::Join(Join::Syn { backup: true, address_id: 3, token: 0xdead_beef, nonce: 0x1122_3344 }),
        SYN,
        &[30, 12, 0x11, 3, 0xde, 0xad, 0xbe, 0xef, 0x11, 0x22, 0x33, 0x44],
    );
    is(
        MptcpOption::Join(Join::SynAck { backup: false, address_id: 9, mac: KEY_A, nonce: 0x1122_3344 }),
        SYN_ACK,
        &[30, 16, 0x10, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x33, 0x44],
    );
    let mac = std::array::from_fn(|i| i as u8);
    let mut octets = vec![30, 24, 0x10, 0];
    octets.extend(mac);
    is(MptcpOption::Join(Join::Ack { mac }), ACK, &octets);
}

/// RFC 8684 figure 9.
#[test]
//= RFC 8684 3.3.1-4 (test)
fn dss_has_what_its_flags_say() {
    is(
        MptcpOption::Dss(Dss { data_ack: Some((DataSeq(0xaabb_ccdd), false)), ..Dss::default() }),
        ACK,
        &[30, 8, 0x20, 0x01, 0xaa, 0xbb, 0xcc, 0xdd],
    );
    is(
        MptcpOption::Dss(Dss { data_ack: Some((DataSeq(KEY_A), true)), ..Dss::default() }),
        ACK,
        &[30, 12, 0x20, 0x03, 1, 2, 3, 4, 5, 6, 7, 8],
    );
    let mapping = Mapping {
        dsn: DataSeq(KEY_B),
        dsn_long: true,
        subflow_seq: 0x0000_0102,
        len: 0x0304,
        checksum: Some(0xcafe),
    };
    is(
        MptcpOption::Dss(Dss {
            data_ack: Some((DataSeq(KEY_A), true)),
            mapping: Some(mapping),
            data_fin: true,
        }),
        ACK,
        &[
            30, 28, 0x20, 0x1f, 1, 2, 3, 4, 5, 6, 7, 8, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0, 0,
            1, 2, 3, 4, 0xca, 0xfe,
        ],
    );
    is(
        MptcpOption::Dss(Dss {
            data_ack: None,
            mapping: Some(Mapping { dsn: DataSeq(7), dsn_long: false, checksum: None, ..mapping }),
            data_fin: false,
        }),
        ACK,
        &[30, 14, 0x20, 0x04, 0, 0, 0, 7, 0, 0, 1, 2, 3, 4],
    );
}

#[test]
fn a_dss_whose_length_disagrees_with_its_flags_is_malformed() {
    for octets in [
        &[30, 4, 0x20, 0x01][..],
        &[30, 9, 0x20, 0x01, 1, 2, 3, 4, 5],
        &[30, 8, 0x20, 0x03, 1, 2, 3, 4],
        &[30, 15, 0x20, 0x04, 0, 0, 0, 7, 0, 0, 1, 2, 3, 4, 5],
        &[30, 8, 0x20, 0x00, 1, 2, 3, 4],
    ] {
        let options = TcpOptions::parse(octets, ACK);
        assert_eq!((options.dss(), options.malformed), (None, 1), "{octets:?}");
    }
}

/// RFC 8684 figure 12 and RFC 6824 figure 12.
#[test]
fn add_addr_of_both_versions_and_families() {
    let v4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let v6 = IpAddr::V6("2001:db8::1".parse().unwrap());
    let add =
        |echo, address, port, mac| MptcpOption::AddAddr(AddAddr { echo, address_id: 5, address, port, mac });
    let v6_octets = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mac = KEY_A.to_be_bytes();
    let port = [0x1f, 0x90];
    is(add(false, v4, None, Some(KEY_A)), ACK, &[&[30, 16, 0x30, 5, 192, 0, 2, 1][..], &mac].concat());
    is(
        add(false, v4, Some(8080), Some(KEY_A)),
        ACK,
        &[&[30, 18, 0x30, 5, 192, 0, 2, 1][..], &port, &mac].concat(),
    );
    is(add(true, v4, None, None), ACK, &[30, 8, 0x31, 5, 192, 0, 2, 1]);
    is(add(true, v4, Some(8080), None), ACK, &[30, 10, 0x31, 5, 192, 0, 2, 1, 0x1f, 0x90]);
    is(add(false, v6, None, Some(KEY_A)), ACK, &[&[30, 28, 0x30, 5][..], &v6_octets, &mac].concat());
    is(
        add(false, v6, Some(8080), Some(KEY_A)),
        ACK,
        &[&[30, 30, 0x30, 5][..], &v6_octets, &port, &mac].concat(),
    );
    is(add(true, v6, None, None), ACK, &[&[30, 20, 0x31, 5][..], &v6_octets].concat());
    is(add(true, v6, Some(8080), None), ACK, &[&[30, 22, 0x31, 5][..], &v6_octets, &port].concat());
    is(add(false, v4, None, None), ACK, &[30, 8, 0x34, 5, 192, 0, 2, 1]);
    is(add(false, v4, Some(8080), None), ACK, &[30, 10, 0x34, 5, 192, 0, 2, 1, 0x1f, 0x90]);
    is(add(false, v6, None, None), ACK, &[&[30, 20, 0x36, 5][..], &v6_octets].concat());
    is(add(false, v6, Some(8080), None), ACK, &[&[30, 22, 0x36, 5][..], &v6_octets, &port].concat());
    // An address without HMAC that is neither an echo nor of version 0, and an echo with an HMAC.
    assert_eq!(TcpOptions::parse(&[30, 8, 0x30, 5, 192, 0, 2, 1], ACK).malformed, 1);
    assert_eq!(TcpOptions::parse(&[&[30, 16, 0x31, 5, 192, 0, 2, 1][..], &mac].concat(), ACK).malformed, 1);
}

/// RFC 8684 figures 13, 11, 16, 14, 15.
#[test]
//= RFC 8684 3.6-2 (test)
fn the_small_options() {
    is(
        MptcpOption::RemoveAddr(RemoveAddr { ids: [4, 2, 7].into_iter().collect() }),
        ACK,
        &[30, 6, 0x40, 4, 2, 7],
    );
    is(MptcpOption::Priority { backup: true, address_id: None }, ACK, &[30, 3, 0x51]);
    is(MptcpOption::Priority { backup: false, address_id: Some(8) }, ACK, &[30, 4, 0x50, 8]);
    is(MptcpOption::Fail(DataSeq(KEY_A)), ACK, &[30, 12, 0x60, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    is(
        MptcpOption::FastClose(FastClose { receiver_key: KEY_B }),
        Flags::RST,
        &[30, 12, 0x70, 0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8],
    );
    is(
        MptcpOption::Reset(TcpReset { transient: true, reason: ResetReason::MiddleboxInterference }),
        Flags::RST,
        &[30, 4, 0x81, 6],
    );
    assert_eq!(TcpOptions::parse(&[30, 3, 0x40], ACK).malformed, 1, "no identifier at all");
    // Experimental and unknown subtypes are skipped like any unknown option.
    assert_eq!(TcpOptions::parse(&[30, 4, 0xf0, 6, 30, 3, 0x90], ACK), TcpOptions::default());
}

#[test]
fn a_syn_has_the_layout_that_middleboxes_know() {
    let mut options = TcpOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 0x0102_0304, echo: 0 }),
        ..only(MptcpOption::Capable(MpCapable::new(Version::V1)))
    };
    let octets = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7, 30, 4, 1, 1];
    assert_eq!(options.emit().unwrap().as_slice(), octets);
    assert_eq!(TcpOptions::parse(&octets, SYN), options);
    let elsewhere = TcpOptions::parse(&octets[..20], ACK);
    assert_eq!((elsewhere.mss, elsewhere.window_scale, elsewhere.sack_permitted), (None, None, false));
    options.timestamps = None;
    assert_eq!(options.emit().unwrap().as_slice(), [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7, 30, 4, 1, 1]);
}

#[test]
//= RFC 8684 3.3.1-5 (test)
fn the_largest_dss_leaves_no_room_beside_timestamps() {
    let mapping = Mapping { dsn: DataSeq(1), dsn_long: true, subflow_seq: 1, len: 1, checksum: Some(0) };
    let mut options = TcpOptions {
        timestamps: Some(Timestamps::default()),
        ..only(MptcpOption::Dss(Dss {
            data_ack: Some((DataSeq(1), true)),
            mapping: Some(mapping),
            data_fin: false,
        }))
    };
    assert_eq!(options.emit().unwrap().len(), OPTION_SPACE);
    options.sack.push(SackBlock::default());
    assert_eq!(options.emit(), Err(OptionsTooLong { octets: 52 }));
}

#[test]
fn lengths_that_cannot_be_believed_end_the_list() {
    let nop_then =
        |tail: &[u8]| TcpOptions::parse(&[&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2][..], tail].concat(), ACK);
    for tail in [&[30][..], &[30, 0], &[30, 1], &[30, 40, 0x20], &[77, 0, 1, 1]] {
        let options = nop_then(tail);
        assert_eq!(options.timestamps, Some(Timestamps { value: 1, echo: 2 }));
        assert_eq!(options.malformed, 1, "{tail:?}");
    }
    assert_eq!(nop_then(&[0, 30, 0]).malformed, 0, "nothing is read after the end-of-options octet");
    assert_eq!(nop_then(&[77, 2, 78, 4, 0, 0]).malformed, 0, "unknown kinds are skipped");
    assert_eq!(nop_then(&[5, 2, 5, 9, 1, 2, 3, 4, 5, 6, 7]).malformed, 2, "SACK without whole blocks");
    assert_eq!(nop_then(&[8, 9, 0, 0, 0, 0, 0, 0, 0]).timestamps.unwrap().value, 1);
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

fn data_seq() -> impl Strategy<Value = (DataSeq, bool)> {
    prop_oneof![
        any::<u32>().prop_map(|low| (DataSeq(low.into()), false)),
        any::<u64>().prop_map(|all| (DataSeq(all), true)),
    ]
}

fn any_capable(flags: Flags) -> impl Strategy<Value = MptcpOption> {
    (any::<[bool; 5]>(), any::<[u64; 2]>(), any::<u16>(), prop::option::of(any::<u16>()), any::<bool>())
        .prop_map(move |([a, b, c, h, v0], [sender, receiver], len, checksum, data)| {
            let version = if v0 { Version::V0 } else { Version::V1 };
            let syn = flags.has(Flags::SYN);
            MptcpOption::Capable(MpCapable {
                version,
                checksum: a,
                extensible: b,
                no_join_initial: c && !v0,
                hmac: h,
                sender_key: (v0 || flags != SYN).then_some(sender),
                receiver_key: (!syn).then_some(receiver),
                data: (!syn && !v0 && data).then_some((len, checksum)),
            })
        })
}

fn any_join(flags: Flags) -> impl Strategy<Value = MptcpOption> {
    (any::<bool>(), any::<u8>(), any::<u64>(), any::<u32>(), any::<[u8; 20]>()).prop_map(
        move |(backup, address_id, mac, nonce, ack)| {
            MptcpOption::Join(match flags {
                SYN => Join::Syn { backup, address_id, token: mac as u32, nonce },
                SYN_ACK => Join::SynAck { backup, address_id, mac, nonce },
                _ => Join::Ack { mac: ack },
            })
        },
    )
}

fn any_dss() -> impl Strategy<Value = MptcpOption> {
    let mapping = (data_seq(), any::<u32>(), any::<u16>(), prop::option::of(any::<u16>())).prop_map(
        |((dsn, dsn_long), subflow_seq, len, checksum)| Mapping { dsn, dsn_long, subflow_seq, len, checksum },
    );
    (prop::option::of(data_seq()), prop::option::of(mapping), any::<bool>())
        .prop_map(|(data_ack, mapping, data_fin)| MptcpOption::Dss(Dss { data_ack, mapping, data_fin }))
}

fn any_add_addr() -> impl Strategy<Value = MptcpOption> {
    (any::<bool>(), any::<u8>(), address(), prop::option::of(any::<u16>()), prop::option::of(any::<u64>()))
        .prop_map(|(echo, address_id, address, port, mac)| {
            let mac = if echo { None } else { mac };
            MptcpOption::AddAddr(AddAddr { echo, address_id, address, port, mac })
        })
}

fn any_mptcp(flags: Flags) -> impl Strategy<Value = MptcpOption> {
    prop_oneof![
        any_capable(flags),
        any_join(flags),
        any_dss(),
        any_add_addr(),
        prop::collection::vec(any::<u8>(), 1..=37)
            .prop_map(|ids| MptcpOption::RemoveAddr(RemoveAddr { ids: ids.into_iter().collect() })),
        (any::<bool>(), prop::option::of(any::<u8>()))
            .prop_map(|(backup, address_id)| MptcpOption::Priority { backup, address_id }),
        any::<u64>().prop_map(|dsn| MptcpOption::Fail(DataSeq(dsn))),
        any::<u64>().prop_map(|receiver_key| MptcpOption::FastClose(FastClose { receiver_key })),
        (any::<bool>(), any::<u8>())
            .prop_map(|(transient, code)| MptcpOption::Reset(TcpReset { transient, reason: code.into() })),
    ]
}

pub(crate) fn any_flags() -> impl Strategy<Value = Flags> {
    prop_oneof![Just(SYN), Just(SYN_ACK), Just(ACK)]
}

/// Options of a segment with these flags; possibly more than fit.
pub(crate) fn any_options(flags: Flags) -> impl Strategy<Value = TcpOptions> {
    let syn = flags.has(Flags::SYN);
    (
        prop::option::of(any::<u16>()),
        prop::option::of(any::<u8>()),
        any::<bool>(),
        prop::option::of(any::<u16>()),
        prop::option::of((any::<u32>(), any::<u32>())),
        prop::collection::vec((any::<u32>(), any::<u32>()), 0..=3),
        prop::collection::vec(any_mptcp(flags), 0..=3),
    )
        .prop_map(move |(mss, window_scale, sack_permitted, user_timeout, timestamps, sack, mptcp)| {
            TcpOptions {
                mss: mss.filter(|_| syn),
                window_scale: window_scale.filter(|_| syn),
                sack_permitted: sack_permitted && syn,
                user_timeout: user_timeout.map(UserTimeout),
                timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }),
                sack: sack
                    .into_iter()
                    .map(|(start, end)| SackBlock { start: SeqNumber(start), end: SeqNumber(end) })
                    .collect(),
                mptcp: mptcp.into_iter().collect(),
                malformed: 0,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    //= RFC 8684 3-5 (test)
    fn what_was_emitted_is_parsed_again(
        (flags, options) in any_flags().prop_flat_map(|flags| (Just(flags), any_options(flags)))
    ) {
        match options.emit() {
            Ok(area) => {
                prop_assert_eq!(area.len(), options.wire_len());
                prop_assert_eq!(area.len() % 4, 0);
                prop_assert_eq!(TcpOptions::parse(&area, flags), options);
            }
            Err(OptionsTooLong { octets }) => {
                prop_assert_eq!(octets, options.wire_len());
                prop_assert!(octets > OPTION_SPACE);
            }
        }
    }

    #[test]
    fn garbage_never_panics_and_what_it_parses_to_is_emitted_and_parsed_again(
        area in prop::collection::vec(prop_oneof![any::<u8>(), Just(30), 0u8..12], 0..=OPTION_SPACE),
        flags in (0u16..0x200).prop_map(Flags),
    ) {
        let mut options = TcpOptions::parse(&area, flags);
        options.malformed = 0;
        if let Ok(again) = options.emit() {
            prop_assert_eq!(TcpOptions::parse(&again, flags), options);
        }
    }

    #[test]
    fn an_option_cut_at_any_octet_never_panics(
        (flags, options) in any_flags().prop_flat_map(|flags| (Just(flags), any_options(flags)))
    ) {
        if let Ok(area) = options.emit() {
            for cut in 0..area.len() {
                let parsed = TcpOptions::parse(&area[..cut], flags);
                prop_assert!(parsed.malformed <= 1);
            }
        }
    }
}

#[test]
fn the_user_timeout_counts_seconds_as_long_as_it_can() {
    let seconds = |seconds| UserTimeout::from(Duration::from_secs(seconds));
    assert_eq!((seconds(60), seconds(60).duration()), (UserTimeout(60), Duration::from_secs(60)));
    assert_eq!(UserTimeout::from(Duration::from_millis(1500)), UserTimeout(2));
    assert_eq!(seconds(0x8000), UserTimeout(0x8000 | 547));
    assert_eq!(seconds(u64::MAX), UserTimeout(u16::MAX));
    let options = TcpOptions { user_timeout: Some(UserTimeout(0x8102)), ..TcpOptions::default() };
    assert_eq!(options.emit().unwrap().as_slice(), [28, 4, 0x81, 0x02]);
    assert_eq!(TcpOptions::parse(&[28, 4, 0x81, 0x02], SYN), options);
    assert_eq!(TcpOptions::parse(&[28, 3, 0x81], SYN).malformed, 1);
}
