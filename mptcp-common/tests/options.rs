//! The option walker against a plain model, against built options, and against garbage.

use mptcp_common::options::*;
use proptest::prelude::*;

/// RFC 9293 section 3.1 in the plainest way: the options, and whether the area ended in nonsense.
fn model(area: &[u8]) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut rest = &area[..area.len().min(40)];
    let mut options = Vec::new();
    while let [kind, after @ ..] = rest {
        match (kind, after) {
            (0, _) => return (options, false),
            (1, _) => rest = after,
            (_, [len, ..]) if *len >= 2 && usize::from(*len) <= rest.len() => {
                let (option, next) = rest.split_at(usize::from(*len));
                options.push((*kind, option[2..].to_vec()));
                rest = next;
            }
            _ => return (options, true),
        }
    }
    (options, false)
}

/// Whether a scan comes to the end of the options: it takes so many steps over paddings and options, and the
/// recommended layout at the start is none.
fn ends(area: &[u8]) -> bool {
    let mut at = if area.len() >= 12 && area.starts_with(&[1, 1, 8, 10]) { 12 } else { 0 };
    for _ in 0..MAX_STEPS {
        match step(&area, at, area.len()) {
            Step::Nop => at += 1,
            Step::Option { len, .. } => at += usize::from(len),
            Step::End | Step::Malformed => return true,
        }
    }
    at >= area.len()
}

fn dss_octets(dss: &Dss) -> Vec<u8> {
    let mut octets = vec![30, 0, SUBTYPE_DSS << 4, dss.flags];
    if dss.has(DSS_DATA_ACK) {
        match dss.has(DSS_DATA_ACK_LONG) {
            true => octets.extend(dss.data_ack.to_be_bytes()),
            false => octets.extend((dss.data_ack as u32).to_be_bytes()),
        }
    }
    if dss.has(DSS_MAPPING) {
        match dss.has(DSS_DSN_LONG) {
            true => octets.extend(dss.dsn.to_be_bytes()),
            false => octets.extend((dss.dsn as u32).to_be_bytes()),
        }
        octets.extend(dss.subflow_seq.to_be_bytes());
        octets.extend(dss.data_len.to_be_bytes());
        if dss.has_checksum() {
            octets.extend(dss.checksum.to_be_bytes());
        }
    }
    octets[1] = octets.len() as u8;
    octets
}

prop_compose! {
    fn any_dss()(
        flags in 0u8..32, check in any::<bool>(), ack in any::<u64>(), dsn in any::<u64>(),
        subflow_seq in any::<u32>(), data_len in any::<u16>(), checksum in any::<u16>(),
    ) -> Dss {
        let has_checksum = check && flags & DSS_MAPPING != 0;
        let narrow = |value: u64, present, long| match (flags & present != 0, flags & long != 0) {
            (false, _) => 0,
            (true, true) => value,
            (true, false) => value & 0xffff_ffff,
        };
        let mapping = flags & DSS_MAPPING != 0;
        Dss {
            flags,
            checksum_len: if has_checksum { 2 } else { 0 },
            data_ack: narrow(ack, DSS_DATA_ACK, DSS_DATA_ACK_LONG),
            dsn: narrow(dsn, DSS_MAPPING, DSS_DSN_LONG),
            subflow_seq: if mapping { subflow_seq } else { 0 },
            data_len: if mapping { data_len } else { 0 },
            checksum: if has_checksum { checksum } else { 0 },
        }
    }
}

/// Octets that look like options often enough to reach deep into the walker.
fn any_area() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1u8]),
        Just(vec![0u8]),
        any::<[u8; 8]>().prop_map(|stamps| [&[1, 1, 8, 10][..], &stamps].concat()),
        any_dss().prop_map(|dss| dss_octets(&dss)),
        (any::<u8>(), 0u8..14, prop::collection::vec(any::<u8>(), 0..12)).prop_map(
            |(kind, len, mut data)| {
                data.insert(0, len);
                data.insert(0, kind);
                data
            }
        ),
        (0u8..9, 0usize..14, any::<[u8; 14]>()).prop_map(|(subtype, len, mut data)| {
            data[0] = 30;
            data[1] = len as u8;
            data[2] = subtype << 4 | data[2] & 15;
            data[..len].to_vec()
        }),
    ];
    prop::collection::vec(option, 0..8).prop_map(|options| options.concat())
}

proptest! {
    #[test]
    fn iterating_gives_what_the_model_gives(area in any_area()) {
        let (expected, malformed) = model(&area);
        let mut options = Vec::new();
        let mut errors = 0;
        for option in OptionIter::new(&area) {
            match option {
                Ok(option) => options.push((option.kind, option.data.to_vec())),
                Err(_) => errors += 1,
            }
        }
        prop_assert_eq!(options, expected);
        prop_assert_eq!(errors, usize::from(malformed));
    }

    #[test]
    fn scanning_agrees_with_iterating(area in any_area(), before in 1usize..80) {
        let mut packet = vec![0xaa; before];
        packet.extend(&area[..area.len().min(40)]);
        let end = packet.len();
        packet.extend([0x55; 7]);
        let seen = scan(&packet.as_slice(), before, end);
        let (options, malformed) = model(&area);
        let all = |kind: u8, test: &dyn Fn(&[u8]) -> bool| -> Vec<Vec<u8>> {
            options.iter().filter(|(k, data)| *k == kind && test(data)).map(|(_, data)| data.clone()).collect()
        };
        let bad = !all(8, &|data| data.len() != 8).is_empty() || !all(30, &|data| data.is_empty()).is_empty();
        if !ends(&packet[before..end]) {
            prop_assert_ne!(seen.extra(), 0);
            return Ok(());
        }
        prop_assert_eq!(seen.malformed != 0, malformed || bad);

        let stamps = all(8, &|data| data.len() == 8).pop();
        prop_assert_eq!(seen.timestamps != 0, stamps.is_some());
        if let Some(data) = stamps {
            let (value, echo) = timestamps(&packet.as_slice(), seen.timestamps.into()).unwrap();
            prop_assert_eq!([value.to_be_bytes(), echo.to_be_bytes()].concat(), data);
        }
        for subtype in 0..16 {
            let count = all(30, &|data| data.first().is_some_and(|octet| octet >> 4 == subtype)).len();
            prop_assert_eq!(seen.subtypes >> subtype & 1 == 1, count > 0);
            prop_assert_eq!(seen.repeated >> subtype & 1 == 1, count > 1);
        }
        let dss = all(30, &|data| data.first().is_some_and(|octet| octet >> 4 == SUBTYPE_DSS)).pop();
        prop_assert_eq!(seen.dss != 0, dss.is_some());
        if let Some(data) = dss {
            prop_assert_eq!(usize::from(seen.dss_len), data.len() + 2);
            let at = usize::from(seen.dss);
            prop_assert_eq!(&packet[at + 2..][..data.len()], &data[..]);
        }
        let join = all(30, &|data| data.len() == 10 && data[0] >> 4 == SUBTYPE_JOIN).pop();
        prop_assert_eq!(seen.join != 0, join.is_some());
        if let Some(data) = join {
            let join = JoinSyn::read(&packet.as_slice(), seen.join.into()).unwrap();
            prop_assert_eq!(&join.token.to_be_bytes()[..], &data[2..6]);
            prop_assert_eq!(&join.nonce.to_be_bytes()[..], &data[6..10]);
            prop_assert_eq!((join.address_id, join.backup), (data[1], data[0] & 1 == 1));
        }
        let other = options.iter().any(|(kind, _)| ![8, 30].contains(kind));
        prop_assert_eq!(seen.extra() != 0, other || seen.repeated != 0 || seen.malformed != 0);
    }

    #[test]
    fn a_dss_of_every_form_is_read_as_it_was_written(dss in any_dss()) {
        let octets = dss_octets(&dss);
        let packet = [&[0xee; 20], &octets[..]].concat();
        prop_assert_eq!(Dss::read(&packet.as_slice(), 20, octets.len() as u8), Some(dss));
    }

    #[test]
    fn a_dss_whose_length_does_not_fit_its_flags_is_refused(dss in any_dss(), len in 0u8..=255) {
        let mut octets = dss_octets(&dss);
        let real = octets.len() as u8;
        let other_checksum = dss.has(DSS_MAPPING)
            && (if dss.has_checksum() { len == real - 2 } else { len == real + 2 });
        prop_assume!(len != real && !other_checksum);
        octets.extend([0; 260]);
        octets.splice(0..0, [0xee; 20]);
        prop_assert_eq!(Dss::read(&octets.as_slice(), 20, len), None);
    }

    #[test]
    fn a_dss_cut_at_any_octet_is_refused(dss in any_dss()) {
        let octets = dss_octets(&dss);
        let packet = [&[0xee; 20], &octets[..]].concat();
        for cut in 20..packet.len() {
            prop_assert_eq!(Dss::read(&&packet[..cut], 20, octets.len() as u8), None);
        }
    }

    #[test]
    fn garbage_never_panics(area in prop::collection::vec(any::<u8>(), 0..80), at in 0usize..100, len in any::<u8>()) {
        let _ = OptionIter::new(&area).count();
        let area = area.as_slice();
        let _ = scan(&area, at, at + usize::from(len));
        let _ = Dss::read(&area, at, len);
        let _ = JoinSyn::read(&area, at);
        let _ = timestamps(&area, at);
    }
}

#[test]
fn an_option_without_its_length_octet_ends_the_walk() {
    let mut options = OptionIter::new(&[1, 1, 8]);
    assert_eq!(options.next(), Some(Err(MalformedOption { kind: 8, at: 2 })));
    assert_eq!(options.next(), None);
}

#[test]
fn a_length_of_zero_or_one_does_not_loop() {
    for len in 0..2 {
        let area = [2, len, 5, 180];
        assert_eq!(OptionIter::new(&area).next(), Some(Err(MalformedOption { kind: 2, at: 0 })));
    }
}

#[test]
fn forty_paddings_are_walked_and_the_forty_first_octet_is_not() {
    let mut area = [1u8; 41];
    assert_eq!(OptionIter::new(&area).next(), None);
    area[40] = 9; // an option without its length, were it part of the area
    assert_eq!(OptionIter::new(&area).next(), None);
}
