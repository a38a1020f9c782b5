use super::*;
use crate::Random;
use mptcp_proto::wire::{
    DataSeq, Dss, Flags, Mapping, MpCapable, MptcpOption, SackBlock, SeqNumber, Timestamps, Version,
};
use std::time::Duration;

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn forward(seq: u32, payload: &[u8]) -> Segment {
    let mut segment = Segment::new("10.0.0.1:1000".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    segment.seq = SeqNumber(seq);
    segment.flags = Flags::ACK;
    segment.payload = payload.to_vec().into();
    segment
}

fn reverse(ack: u32) -> Segment {
    let mut segment = Segment::new("192.0.2.1:80".parse().unwrap(), "10.0.0.1:1000".parse().unwrap());
    segment.ack = SeqNumber(ack);
    segment.flags = Flags::ACK;
    segment
}

fn syn(seq: u32) -> Segment {
    Segment { flags: Flags::SYN, ..forward(seq, b"") }
}

fn through(middlebox: &mut dyn Middlebox, way: Way, segment: Segment) -> Vec<Segment> {
    let mut out = Vec::new();
    middlebox.process(at(0), way, segment, &mut out);
    out
}

fn dss(dsn: u64) -> MptcpOption {
    let mapping = Mapping { dsn: DataSeq(dsn), dsn_long: true, subflow_seq: 1, len: 10, checksum: None };
    MptcpOption::Dss(Dss { data_ack: None, mapping: Some(mapping), data_fin: false })
}

#[test]
fn options_are_stripped_only_where_asked() {
    let capable = MptcpOption::Capable(MpCapable::new(Version::V1));
    let mut opening = syn(1);
    opening.options.mptcp.push(capable);
    let mut data = forward(2, b"x");
    data.options.mptcp.push(dss(1));
    let mut syn_only = OptionFilter::strip(OptionKind::Mptcp, When::Syn);
    assert!(through(&mut syn_only, Way::Forward, opening.clone())[0].options.mptcp.is_empty());
    assert_eq!(through(&mut syn_only, Way::Forward, data.clone()), [data.clone()]);
    let mut dropper = OptionFilter::new(OptionKind::Dss, When::Data, Some(Way::Forward), Action::Drop);
    assert_eq!(through(&mut dropper, Way::Forward, opening.clone()), [opening]);
    assert_eq!(through(&mut dropper, Way::Forward, data.clone()), []);
    assert_eq!(through(&mut dropper, Way::Reverse, data.clone()), [data]);
}

#[test]
fn randomised_sequence_numbers_are_consistent_in_both_directions() {
    for translate in [true, false] {
        let mut randomiser = SequenceRandomiser::new(translate, Random::new(5));
        let out = through(&mut randomiser, Way::Forward, forward(100, b"abc"));
        let shifted = out[0].seq;
        assert_ne!(shifted, SeqNumber(100));
        let mut answer = reverse(shifted.0.wrapping_add(3));
        answer.options.sack.push(SackBlock { start: shifted, end: shifted + 3 });
        let back = through(&mut randomiser, Way::Reverse, answer);
        assert_eq!(back[0].ack, SeqNumber(103));
        assert_eq!(back[0].options.sack[0].start == SeqNumber(100), translate);
    }
}

#[test]
fn rewritten_timestamps_come_back_as_they_were() {
    let mut rewriter = TimestampRewriter::new(Random::new(5));
    let mut segment = forward(1, b"");
    segment.options.timestamps = Some(Timestamps { value: 7, echo: 0 });
    let seen = through(&mut rewriter, Way::Forward, segment)[0].options.timestamps.unwrap();
    assert_ne!(seen.value, 7);
    let mut answer = reverse(1);
    answer.options.timestamps = Some(Timestamps { value: 1, echo: seen.value });
    assert_eq!(through(&mut rewriter, Way::Reverse, answer)[0].options.timestamps.unwrap().echo, 7);
}

#[test]
fn a_splitter_may_keep_the_mapping_on_the_first_piece() {
    let mut segment = forward(1, &[7; 25]);
    segment.options.mptcp.push(dss(9));
    for repeat_options in [true, false] {
        let out = through(&mut Splitter { size: 10, repeat_options }, Way::Forward, segment.clone());
        let mappings: Vec<_> = out.iter().map(|piece| piece.options.dss().is_some()).collect();
        assert_eq!(mappings, [true, repeat_options, repeat_options]);
        assert_eq!(out[2].seq, SeqNumber(21));
    }
}

#[test]
fn a_coalescer_holds_and_merges_and_lets_go() {
    let mut coalescer = Coalescer::new(1000, Duration::from_millis(1), false);
    assert_eq!(through(&mut coalescer, Way::Forward, forward(1, b"abc")), []);
    assert_eq!(through(&mut coalescer, Way::Forward, forward(4, b"def")), []);
    assert_eq!(through(&mut coalescer, Way::Reverse, reverse(1)), [reverse(1)]);
    assert_eq!(coalescer.next_timeout(), Some(at(1)));
    let mut out = Vec::new();
    coalescer.handle_timeout(at(1), &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].1.payload.to_vec(), b"abcdef");
    assert_eq!(coalescer.next_timeout(), None);
    // A different mapping is another segment for the careful, and is lost with the careless.
    for careless in [false, true] {
        let mut coalescer = Coalescer::new(1000, Duration::from_millis(1), careless);
        for (seq, dsn) in [(1, 1), (4, 4)] {
            let mut segment = forward(seq, b"abc");
            segment.options.mptcp.push(dss(dsn));
            let out = through(&mut coalescer, Way::Forward, segment);
            assert_eq!(out.len(), usize::from(!careless && seq == 4));
        }
    }
}

#[test]
fn a_nat_rewrites_there_and_back_and_admits_nobody_from_outside() {
    let mut nat = Nat::new("203.0.113.1".parse().unwrap(), Duration::from_secs(60));
    assert_eq!(through(&mut nat, Way::Forward, forward(1, b"x")), [], "nothing but a SYN makes a mapping");
    let out = through(&mut nat, Way::Forward, syn(1));
    assert_eq!(out[0].src.ip().to_string(), "203.0.113.1");
    let mut answer = reverse(2);
    answer.dst = out[0].src;
    assert_eq!(through(&mut nat, Way::Reverse, answer.clone())[0].dst, syn(1).src);
    answer.src.set_port(81);
    assert_eq!(through(&mut nat, Way::Reverse, answer), [], "another remote port");
    let mut out = Vec::new();
    nat.process(at(61_000), Way::Forward, forward(2, b"x"), &mut out);
    assert_eq!(out, [], "the mapping has expired");
}

#[test]
fn a_payload_changer_is_consistent_however_the_data_is_cut() {
    let data = b"one PORT two PORT three";
    let expected = b"one HARBOUR two HARBOUR three";
    for replacement in [&b"HARBOUR"[..], b"P", b""] {
        let mut changer = PayloadChanger::new(Way::Forward, b"PORT", replacement, 10);
        through(&mut changer, Way::Forward, syn(99));
        let whole = through(&mut changer, Way::Forward, forward(100, data));
        let changed = whole[0].payload.to_vec();
        if replacement == b"HARBOUR" {
            assert_eq!(changed, expected);
        }
        // Retransmissions, cut anywhere, are the same octets at the same place.
        for cut in 0..=data.len() {
            let mut octets = Vec::new();
            let mut next = SeqNumber(100);
            for (seq, part) in [(100, &data[..cut]), (100 + cut as u32, &data[cut..])] {
                let out = through(&mut changer, Way::Forward, forward(seq, part));
                assert_eq!(out[0].seq, next, "cut {cut}");
                octets.extend(out[0].payload.to_vec());
                next = out[0].seq_end();
            }
            assert_eq!(octets, changed);
            assert_eq!(next, SeqNumber(100) + changed.len() as u32);
        }
        // Acknowledgments never say more than was received, and in the end all.
        let mut last = 100;
        for received in 0..=changed.len() as u32 {
            let ack = through(&mut changer, Way::Reverse, reverse(100 + received))[0].ack.0;
            assert!(ack >= last);
            last = ack;
        }
        assert_eq!(last, 100 + data.len() as u32);
        assert_eq!(changer.changes(), 2);
    }
}

#[test]
fn a_chain_is_walked_in_opposite_order_on_the_way_back() {
    let external = "203.0.113.1".parse().unwrap();
    let mut chain = Chain::new(vec![
        Box::new(SequenceRandomiser::new(true, Random::new(1))),
        Box::new(Nat::new(external, Duration::from_secs(60))),
        Box::new(Coalescer::new(1000, Duration::from_millis(1), false)),
    ]);
    let mut out = Vec::new();
    chain.process(at(0), Way::Forward, syn(1), &mut out);
    let opening = out.pop().unwrap();
    chain.process(at(0), Way::Forward, forward(2, b"abc"), &mut out);
    assert_eq!((out.len(), chain.next_timeout()), (0, Some(at(1))));
    let mut released = Vec::new();
    chain.handle_timeout(at(1), &mut released);
    assert_eq!(released[0].1.src, opening.src);
    let mut answer = reverse(opening.seq.0.wrapping_add(4));
    answer.dst = opening.src;
    chain.process(at(1), Way::Reverse, answer, &mut out);
    assert_eq!((out[0].dst, out[0].ack), (syn(1).src, SeqNumber(5)));
}

#[test]
fn a_box_in_one_direction_does_not_touch_the_other() {
    let mut clamp = OneWay { way: Way::Reverse, inner: Box::new(MssClamp { mss: 500 }) };
    let mut opening = syn(1);
    opening.options.mss = Some(1460);
    assert_eq!(through(&mut clamp, Way::Forward, opening.clone()), [opening.clone()]);
    assert_eq!(through(&mut clamp, Way::Reverse, opening)[0].options.mss, Some(500));
}
