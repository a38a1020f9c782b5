//! Data sequence mappings of the peer: which octets of the data stream the octets of a subflow are
//! (RFC 8684 section 3.3.1).

use crate::wire::{DataSeq, Payload, dss_checksum};
use std::collections::VecDeque;

/// Mappings waiting for their octets. Octets whose mapping would be one too many are not accepted, so that
/// the peer sends both again. The mapping of the next octet expected always has a place, because it sets the
/// others free.
const MAX_MAPPINGS: usize = 4096;

/// One mapping, in offsets: subflow sequence space (the SYN is 0) and data stream (first octet 0).
#[derive(Clone, Debug)]
pub(crate) struct RxMapping {
    pub(crate) start: u64,
    /// Octets, without a DATA_FIN.
    pub(crate) len: u32,
    pub(crate) data: u64,
    /// As on the wire, for the checksum.
    pub(crate) wire: WireMapping,
    /// Octets come so far, kept until the checksum over all of them can be verified.
    pending: Payload,
}

/// The fields the checksum covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct WireMapping {
    pub(crate) dsn: DataSeq,
    pub(crate) subflow_seq: u32,
    pub(crate) len: u16,
    pub(crate) checksum: Option<u16>,
}

impl RxMapping {
    pub(crate) fn new(start: u64, len: u32, data: u64, wire: WireMapping) -> Self {
        Self { start, len, data, wire, pending: Payload::new() }
    }

    fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }
}

/// What became of octets that are in order on the subflow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// They belong at this offset of the data stream.
    Data(u64, Payload),
    /// They wait for the rest of their mapping.
    Pending,
    /// No mapping covers them.
    Unmapped(Payload),
    /// Their mapping's checksum is wrong; the data sequence number at which it begins.
    Corrupt(DataSeq, Payload),
}

/// What became of a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Added {
    /// It counts, or was known.
    Taken,
    /// It contradicts an earlier one, which counts.
    Contradicts,
    /// There are too many already.
    TooMany,
}

/// All mappings of one subflow that are still of use, in the order of the subflow's octets.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct RxMappings {
    #[serde(skip)]
    list: VecDeque<RxMapping>,
    /// After an infinite mapping or fallback: data offset minus subflow offset.
    infinite: Option<(u64, i64)>,
    /// At least one mapping came.
    pub(crate) seen: bool,
    /// There was no place for the last one.
    refused: bool,
}

impl RxMappings {
    /// Adds a mapping; one that contradicts an earlier one is ignored (the first one counts). `next`: subflow
    /// offset of the next octet expected.
    //= RFC 8684 3.3.1-1
    pub(crate) fn add(&mut self, mapping: RxMapping, next: u64) -> Added {
        self.seen = true;
        let at = self.list.partition_point(|known| known.end() <= mapping.start);
        if let Some(known) = self.list.get(at)
            && known.start < mapping.end()
        {
            let same = known.start == mapping.start && known.wire == mapping.wire;
            return if same { Added::Taken } else { Added::Contradicts };
        }
        if mapping.len == 0 || (self.list.len() >= MAX_MAPPINGS && mapping.start > next) {
            self.refused = true;
            return Added::TooMany;
        }
        if self.list.capacity() == 0 {
            self.list.reserve_exact(1);
        }
        self.list.insert(at, mapping);
        Added::Taken
    }

    /// Whether a mapping of the segment at hand found no place: then its octets must not be acknowledged,
    /// since the peer would never send the mapping again.
    pub(crate) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// What keeping the mappings costs, with the octets that wait for their checksum.
    pub(crate) fn cost(&self) -> u64 {
        let pending = self.list.front().map_or(0, |mapping| mapping.pending.len());
        (self.list.len() * size_of::<RxMapping>() + pending) as u64
    }

    /// From subflow offset `start` on, octets follow each other in the data stream from `data` on, for ever.
    pub(crate) fn set_infinite(&mut self, start: u64, data: u64) {
        if self.infinite.is_none() {
            self.infinite = Some((start, data as i64 - start as i64));
        }
    }

    /// The octets that wait for the rest of their mapping, and where they belong in the data stream: after a fallback
    /// nobody asks for its checksum any more.
    pub(crate) fn take_pending(&mut self) -> Option<(u64, Payload)> {
        let mapping = self.list.front_mut().filter(|mapping| !mapping.pending.is_empty())?;
        Some((mapping.data, std::mem::take(&mut mapping.pending)))
    }

    /// Maps the first part of in-order octets; what is left of `payload` is to be mapped next.
    //= RFC 8684 3.7-9
    pub(crate) fn map(&mut self, start: u64, payload: &mut Payload) -> Mapped {
        if let Some((from, shift)) = self.infinite
            && start >= from
        {
            return Mapped::Data((start as i64 + shift).max(0) as u64, std::mem::take(payload));
        }
        while self.list.front().is_some_and(|mapping| mapping.end() <= start) {
            self.list.pop_front();
        }
        let Some(mapping) = self.list.front_mut().filter(|mapping| mapping.start <= start) else {
            let known = self.list.front().map(|mapping| (mapping.start - start) as usize);
            return Mapped::Unmapped(take_front(payload, known.unwrap_or(usize::MAX)));
        };
        let part = take_front(payload, (mapping.end() - start) as usize);
        let complete = start + part.len() as u64 == mapping.end();
        let data = mapping.data + (start - mapping.start);
        let Some(expected) = mapping.wire.checksum else {
            if complete {
                self.list.pop_front();
            }
            return Mapped::Data(data, part);
        };
        let mut part = part;
        if !complete {
            // It waits, and must hold on to nothing else.
            part.detach();
        }
        mapping.pending.append_joined(part);
        if !complete {
            return Mapped::Pending;
        }
        let Some(mapping) = self.list.pop_front() else { return Mapped::Pending };
        let wire = mapping.wire;
        // Octets before the mapping was known can't be verified; they never reach this place unmapped.
        if mapping.pending.len() == mapping.len as usize
            && dss_checksum(wire.dsn, wire.subflow_seq, wire.len, &mapping.pending) == expected
        {
            Mapped::Data(mapping.data, mapping.pending)
        } else {
            Mapped::Corrupt(wire.dsn, mapping.pending)
        }
    }
}

fn take_front(payload: &mut Payload, octets: usize) -> Payload {
    if octets >= payload.len() {
        return std::mem::take(payload);
    }
    let mut front = payload.clone();
    front.truncate(octets);
    payload.advance(octets);
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, len: u32, data: u64, checksum: Option<u16>) -> RxMapping {
        let wire = WireMapping { dsn: DataSeq(data), subflow_seq: start as u32, len: len as u16, checksum };
        RxMapping::new(start, len, data, wire)
    }

    #[test]
    //= RFC 8684 3.3.1-1 (test)
    fn octets_go_where_the_first_mapping_for_them_says() {
        let mut mappings = RxMappings::default();
        assert_eq!(mappings.add(mapping(11, 5, 100, None), 1), Added::Taken);
        assert_eq!(mappings.add(mapping(1, 10, 0, None), 1), Added::Taken);
        assert_eq!(mappings.add(mapping(1, 10, 0, None), 1), Added::Taken);
        assert_eq!(mappings.add(mapping(4, 10, 77, None), 1), Added::Contradicts);
        let mut payload: Payload = (0..20).collect::<Vec<u8>>().into();
        assert_eq!(mappings.map(1, &mut payload), Mapped::Data(0, (0..10).collect::<Vec<u8>>().into()));
        assert_eq!(mappings.map(11, &mut payload), Mapped::Data(100, (10..15).collect::<Vec<u8>>().into()));
        assert_eq!(mappings.map(16, &mut payload), Mapped::Unmapped((15..20).collect::<Vec<u8>>().into()));
    }

    #[test]
    fn the_mapping_of_the_next_octet_always_has_a_place() {
        let mut mappings = RxMappings::default();
        for place in 1..=MAX_MAPPINGS as u64 {
            assert_eq!(mappings.add(mapping(10 * place, 1, place, None), 1), Added::Taken);
        }
        let far = 10 * MAX_MAPPINGS as u64 + 10;
        assert!(!mappings.take_refused());
        assert_eq!(mappings.add(mapping(far, 1, 0, None), 1), Added::TooMany);
        assert!(mappings.take_refused() && !mappings.take_refused());
        assert_eq!(mappings.add(mapping(1, 9, 0, None), 1), Added::Taken);
        assert_eq!(mappings.list.len(), MAX_MAPPINGS + 1);
    }

    #[test]
    fn octets_that_wait_for_their_checksum_are_not_lost_in_a_fallback() {
        let octets: Payload = b"some octets of data".to_vec().into();
        let mut mappings = RxMappings::default();
        mappings.add(mapping(1, 19, 0, Some(7)), 1);
        assert_eq!(mappings.map(1, &mut octets.slice(0, 7)), Mapped::Pending);
        mappings.set_infinite(1, 0);
        let (data, pending) = mappings.take_pending().unwrap();
        assert_eq!((data, pending.to_vec()), (0, b"some oc".to_vec()));
        assert_eq!(mappings.take_pending(), None);
        let Mapped::Data(data, rest) = mappings.map(8, &mut octets.slice(7, 19)) else {
            panic!("not mapped")
        };
        assert_eq!((data, rest.to_vec()), (7, b"tets of data".to_vec()));
    }

    #[test]
    //= RFC 8684 3.7-9 (test)
    fn a_checksum_is_verified_over_the_whole_mapping() {
        let octets: Payload = b"some octets of data".to_vec().into();
        let sum = dss_checksum(DataSeq(500), 1, 19, &octets);
        for (checksum, good) in [(sum, true), (sum ^ 1, false)] {
            let mut mappings = RxMappings::default();
            mappings.add(mapping(1, 19, 500, Some(checksum)), 1);
            assert_eq!(mappings.map(1, &mut octets.slice(0, 7)), Mapped::Pending);
            let last = mappings.map(8, &mut octets.slice(7, 19));
            let expected = if good {
                Mapped::Data(500, octets.clone())
            } else {
                Mapped::Corrupt(DataSeq(500), octets.clone())
            };
            assert!(
                matches!((&last, &expected), (Mapped::Data(a, x), Mapped::Data(b, y)) if a == b && x.to_vec() == y.to_vec())
                    || matches!((&last, &expected), (Mapped::Corrupt(a, _), Mapped::Corrupt(b, _)) if a == b)
            );
        }
    }
}
