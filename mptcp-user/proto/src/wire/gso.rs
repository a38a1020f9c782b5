//! Cutting super-segments into packets, and putting packets together again.
//!
//! The rules are those of network interfaces and kernels (TSO, GSO, GRO): all packets carry the same options,
//! which Multipath TCP's mappings were made to survive (RFC 8684 section 3.3.1).

use super::{Flags, Segment};

/// Flags that only the last packet of a super-segment carries.
const LAST_ONLY: Flags = Flags(Flags::FIN.0 | Flags::PSH.0);

/// Cuts a super-segment into the segments that go over the wire, in order; one segment if it is none. Options are
/// repeated, FIN and PSH are on the last, CWR on the first.
pub fn segmentize(segment: &Segment) -> impl ExactSizeIterator<Item = Segment> {
    let packets = segment.packets();
    let size = usize::from(segment.gso_size);
    (0..packets).map(move |index| {
        if packets == 1 {
            return Segment { gso_size: 0, ..segment.clone() };
        }
        let from = index * size;
        let mut flags = segment.flags;
        if index + 1 < packets {
            flags = flags.without(LAST_ONLY);
        }
        if index > 0 {
            flags = flags.without(Flags::CWR);
        }
        Segment {
            seq: segment.seq + from as u32,
            flags,
            options: segment.options.clone(),
            payload: segment.payload.slice(from, from + size),
            gso_size: 0,
            ..*segment
        }
    })
}

/// Appends `next` to `first` where the result is a super-segment that would be cut into these two again; gives
/// `next` back otherwise. `limit`: most octets of payload.
pub fn coalesce(first: &mut Segment, next: Segment, limit: usize) -> Result<(), Box<Segment>> {
    let single = Flags::SYN.with(Flags::RST).with(Flags::URG);
    let size = if first.gso_size == 0 { first.payload.len() } else { usize::from(first.gso_size) };
    let next_size = if next.gso_size == 0 { next.payload.len() } else { usize::from(next.gso_size) };
    let next_is_single = next.payload.len() <= next_size;
    let fits = size > 0
        && size <= usize::from(u16::MAX)
        && !next.payload.is_empty()
        && !first.payload.is_hollow()
        && !next.payload.is_hollow()
        && first.payload.len().is_multiple_of(size)
        && (next_size == size || (next_is_single && next_size < size))
        && first.payload.len() + next.payload.len() <= limit
        && next.seq == first.seq_end()
        && (first.src, first.dst) == (next.src, next.dst)
        && first.flags.0 & (single.0 | LAST_ONLY.0) == 0
        && next.flags.0 & (single.0 | Flags::CWR.0) == 0
        && first.flags.without(Flags::CWR) == next.flags.without(LAST_ONLY)
        && (first.ack, first.window, first.ecn) == (next.ack, next.window, next.ecn)
        && first.options == next.options;
    if !fits {
        return Err(Box::new(next));
    }
    first.flags = first.flags.with(next.flags);
    first.payload.append(next.payload);
    first.gso_size = size as u16;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{SeqNumber, Timestamps};
    use proptest::prelude::*;

    fn segment(len: usize, gso_size: u16, flags: Flags) -> Segment {
        let mut segment = Segment::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        segment.seq = SeqNumber(u32::MAX - 1000);
        segment.flags = flags;
        segment.options.timestamps = Some(Timestamps { value: 7, echo: 8 });
        segment.payload = (0..len).map(|i| (i * 7) as u8).collect::<Vec<_>>().into();
        segment.gso_size = gso_size;
        segment
    }

    #[test]
    fn fin_and_push_are_on_the_last_packet_and_cwr_on_the_first() {
        let all = Flags(Flags::ACK.0 | Flags::FIN.0 | Flags::PSH.0 | Flags::CWR.0);
        let packets: Vec<_> = segmentize(&segment(2500, 1000, all)).collect();
        let flags: Vec<_> = packets.iter().map(|packet| packet.flags).collect();
        assert_eq!(
            flags,
            [Flags::ACK.with(Flags::CWR), Flags::ACK, Flags::ACK.with(Flags::FIN).with(Flags::PSH)]
        );
        assert_eq!(packets[2].seq, SeqNumber(999), "sequence numbers wrap");
        assert_eq!(packets.iter().map(|packet| packet.payload.len()).collect::<Vec<_>>(), [1000, 1000, 500]);
    }

    #[test]
    fn packets_that_do_not_continue_each_other_stay_apart() {
        let first = || segment(100, 0, Flags::ACK);
        let mut next = segment(100, 0, Flags::ACK);
        next.seq = first().seq_end();
        let changes: [fn(&mut Segment); 10] = [
            |next| next.seq += 1,
            |next| next.ack += 1,
            |next| next.window += 1,
            |next| next.dst.set_port(9),
            |next| next.options.timestamps = None,
            |next| next.flags = Flags::ACK.with(Flags::ECE),
            |next| next.flags = Flags::ACK.with(Flags::RST),
            |next| next.payload.truncate(0),
            |next| next.payload = vec![0; 101].into(),
            |next| next.ecn = crate::wire::Ecn::Ce,
        ];
        assert!(coalesce(&mut first(), next.clone(), 65000).is_ok());
        assert!(coalesce(&mut first(), next.clone(), 199).is_err());
        for (which, change) in changes.into_iter().enumerate() {
            let mut other = next.clone();
            change(&mut other);
            assert!(coalesce(&mut first(), other, 65000).is_err(), "change {which}");
        }
    }

    proptest! {
        #[test]
        fn what_was_cut_is_put_together_again(
            len in 1usize..20_000,
            size in 100u16..9000,
            flags in prop_oneof![Just(0x10u16), Just(0x11), Just(0x18), Just(0x90), Just(0x19)],
        ) {
            let whole = segment(len, size, Flags(flags));
            let mut packets = segmentize(&whole);
            prop_assert_eq!(packets.len(), whole.packets());
            let mut again = packets.next().unwrap();
            for packet in packets {
                prop_assert!(coalesce(&mut again, packet, 65_000).is_ok());
            }
            prop_assert_eq!(again.payload.to_vec(), whole.payload.to_vec());
            prop_assert_eq!(again.flags, whole.flags);
            prop_assert_eq!(again.seq, whole.seq);
            prop_assert_eq!(again.packets(), whole.packets());
        }
    }
}
