//! Puts fragments of segments together again (RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722).
//!
//! This is for paths on which a router cuts what the peer sends. It holds little, and nothing for long: TCP
//! sends again what is lost. Segments whose fragments overlap are dropped as a whole, for IPv4 too; fragments
//! that come twice are ignored.

use mptcp_common::fragment::Fragment;
use mptcp_common::maps::FragmentKey;
use mptcp_proto::Instant;
use mptcp_proto::wire::Checksum;
use std::collections::HashMap;
use std::time::Duration;

/// Segments that are put together at the same time.
const MAX_SEGMENTS: usize = 64;
/// Octets that all of them may hold.
const MAX_OCTETS: usize = 1 << 20;
/// Fragments of one segment.
const MAX_FRAGMENTS: usize = 64;
/// How long the first fragment that came is waited with. Much less than RFC 791's 15 s: the peer has sent the
/// segment again by then, and identifications of IPv4 come again (RFC 4963).
const LIFE: Duration = Duration::from_secs(1);
/// Most octets of an IP packet.
const MAX_PACKET: usize = 65_535;
/// Explicit congestion notification in the traffic class: congestion experienced.
const CE: u8 = 3;

/// One fragment's octets.
struct Piece {
    offset: usize,
    octets: Box<[u8]>,
}

/// The fragments of one segment.
struct Pieces {
    since: Instant,
    /// Link and IP headers of the first fragment, with the place of the octet that says which header comes
    /// next; empty until it is there.
    headers: Vec<u8>,
    next_at: usize,
    l3: usize,
    protocol: u8,
    /// Octets of the fragmentable part, once the last fragment is there.
    total: Option<usize>,
    /// Whether a router has marked one of them (RFC 3168 section 5.3).
    marked: bool,
    held: usize,
    pieces: Vec<Piece>,
}

/// See the [module](self).
#[derive(Default)]
pub struct Fragments {
    segments: HashMap<FragmentKey, Pieces>,
    held: usize,
    /// Segments that were given up: too late, too many, overlapping or otherwise wrong.
    pub lost: u64,
}

impl Fragments {
    /// Takes the fragment in a frame that lies in several buffers. The frame with the whole segment, if this
    /// was what it lacked.
    pub fn add(&mut self, now: Instant, buffers: &[&[u8]]) -> Option<Vec<u8>> {
        let frame = buffers.concat();
        let fragment = Fragment::decode(&frame.as_slice()).ok()?;
        let octets = frame.get(fragment.data..fragment.end)?;
        let mut sum = Checksum::new();
        let v4 = fragment.key.src.is_v4();
        sum.add(frame.get(fragment.l3..fragment.headers_end).filter(|_| v4).unwrap_or_default());
        if v4 && !sum.is_valid() {
            return None;
        }
        self.expire(now);
        let end = fragment.offset + octets.len();
        let known = self.segments.contains_key(&fragment.key);
        if !known && (self.segments.len() >= MAX_SEGMENTS || self.held + octets.len() > MAX_OCTETS) {
            self.forget_oldest();
        }
        let pieces = self.segments.entry(fragment.key).or_insert_with(|| Pieces::new(now));
        let before = pieces.held;
        let fits = pieces.take(&frame, &fragment, octets, end);
        self.held += pieces.held - before;
        if !fits || self.held > MAX_OCTETS {
            self.forget(&fragment.key);
            self.lost += 1;
            return None;
        }
        if !pieces.complete() {
            return None;
        }
        let whole = self.forget(&fragment.key)?.join(v4);
        self.lost += u64::from(whole.is_none());
        whole
    }

    /// Octets that are held.
    pub fn held(&self) -> usize {
        self.held
    }

    fn forget(&mut self, key: &FragmentKey) -> Option<Pieces> {
        let pieces = self.segments.remove(key)?;
        self.held -= pieces.held;
        Some(pieces)
    }

    fn expire(&mut self, now: Instant) {
        let before = self.segments.len();
        self.segments.retain(|_, pieces| pieces.since + LIFE > now);
        self.lost += (before - self.segments.len()) as u64;
        self.held = self.segments.values().map(|pieces| pieces.held).sum();
    }

    fn forget_oldest(&mut self) {
        if let Some(key) = self.segments.iter().min_by_key(|(_, pieces)| pieces.since).map(|(key, _)| *key) {
            self.forget(&key);
            self.lost += 1;
        }
    }
}

impl Pieces {
    fn new(since: Instant) -> Self {
        Self {
            since,
            headers: Vec::new(),
            next_at: 0,
            l3: 0,
            protocol: 0,
            total: None,
            marked: false,
            held: 0,
            pieces: Vec::new(),
        }
    }

    /// Takes a fragment; `false` if it and the others can't be of one segment.
    fn take(&mut self, frame: &[u8], fragment: &Fragment, octets: &[u8], end: usize) -> bool {
        // All but the last are multiples of 8 octets long (RFC 8200 section 4.5).
        let aligned = !fragment.more || octets.len().is_multiple_of(8);
        let beyond = self.total.is_some_and(|total| end > total || !fragment.more && end != total);
        if !aligned || beyond || end + (fragment.headers_end - fragment.l3) > MAX_PACKET {
            return false;
        }
        let place = self.pieces.partition_point(|piece| piece.offset < fragment.offset);
        if self
            .pieces
            .get(place)
            .is_some_and(|piece| piece.offset == fragment.offset && *piece.octets == *octets)
        {
            return true;
        }
        let overlaps = self.pieces.get(place).is_some_and(|next| end > next.offset)
            || place.checked_sub(1).is_some_and(|last| {
                let last = &self.pieces[last];
                last.offset + last.octets.len() > fragment.offset
            });
        if overlaps || self.pieces.len() >= MAX_FRAGMENTS {
            return false;
        }
        if !fragment.more {
            if self.pieces.last().is_some_and(|last| last.offset + last.octets.len() > end) {
                return false;
            }
            self.total = Some(end);
        }
        if fragment.offset == 0 {
            self.headers = frame.get(..fragment.headers_end).unwrap_or_default().to_vec();
            (self.next_at, self.l3, self.protocol) = (fragment.next_at, fragment.l3, fragment.protocol);
        }
        let class = match frame.get(fragment.l3..fragment.l3 + 2) {
            Some(&[_, class]) if fragment.key.src.is_v4() => class,
            Some(&[_, low]) => low >> 4,
            _ => 0,
        };
        self.marked |= class & CE == CE;
        self.held += octets.len() + size_of::<Piece>();
        self.pieces.insert(place, Piece { offset: fragment.offset, octets: octets.into() });
        true
    }

    fn complete(&self) -> bool {
        let len: usize = self.pieces.iter().map(|piece| piece.octets.len()).sum();
        // They don't overlap.
        self.total == Some(len)
    }

    /// The frame with the whole segment.
    fn join(self, v4: bool) -> Option<Vec<u8>> {
        let mut frame = self.headers;
        let headers = frame.len();
        for piece in &self.pieces {
            frame.extend_from_slice(&piece.octets);
        }
        let len = frame.len() - self.l3;
        *frame.get_mut(self.next_at)? = self.protocol;
        let ip = frame.get_mut(self.l3..headers)?;
        if v4 {
            ip.get_mut(2..4)?.copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
            // No fragment any more.
            ip.get_mut(6..8)?.fill(0);
            ip[1] |= if self.marked { CE } else { 0 };
            ip.get_mut(10..12)?.fill(0);
            let mut sum = Checksum::new();
            sum.add(ip);
            ip.get_mut(10..12)?.copy_from_slice(&(!sum.folded()).to_be_bytes());
        } else {
            ip.get_mut(4..6)?.copy_from_slice(&u16::try_from(len.checked_sub(40)?).ok()?.to_be_bytes());
            ip[1] |= if self.marked { CE << 4 } else { 0 };
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Receiver;
    use mptcp_proto::wire::packet::{ChecksumMode, LinkHeader, MAX_HEADERS, emit_headers};
    use mptcp_proto::wire::{Ecn, Flags, Segment, SeqNumber};

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    /// A segment in one frame.
    fn whole(v6: bool, len: usize) -> (Segment, Vec<u8>) {
        let (src, dst) = if v6 { ("[fd00::1]:1", "[fd00::2]:2") } else { ("10.0.0.1:1", "10.0.0.2:2") };
        let mut segment = Segment::new(src.parse().expect("address"), dst.parse().expect("address"));
        segment.flags = Flags::ACK;
        segment.seq = SeqNumber(77);
        segment.ecn = Ecn::Ect0;
        segment.payload = (0..len).map(|i| (i * 31) as u8).collect::<Vec<_>>().into();
        let mut headers = [0; MAX_HEADERS];
        let link = LinkHeader::default();
        let layout = emit_headers(&segment, Some(&link), ChecksumMode::Full, &mut headers).expect("fits");
        let mut frame = headers[..layout.len].to_vec();
        frame.extend(segment.payload.to_vec());
        (segment, frame)
    }

    /// The same in fragments of at most `size` octets. Of IPv6 there are destination options in front.
    fn cut(frame: &[u8], id: u32, size: usize) -> Vec<Vec<u8>> {
        let v6 = frame[12] == 0x86;
        let (ip, inner) = frame[14..].split_at(if v6 { 40 } else { 20 });
        let count = inner.len().div_ceil(size);
        let piece = |(number, piece): (usize, &[u8])| {
            let place = (number * size / 8) as u16;
            let more = number + 1 < count;
            let mut out = frame[..14].to_vec();
            let mut ip = ip.to_vec();
            if v6 {
                ip[4..6].copy_from_slice(&(piece.len() as u16 + 16).to_be_bytes());
                let next = std::mem::replace(&mut ip[6], 60);
                ip.extend([44, 0, 1, 4, 0, 0, 0, 0, next, 0]);
                ip.extend((place << 3 | u16::from(more)).to_be_bytes());
                ip.extend(id.to_be_bytes());
            } else {
                ip[2..4].copy_from_slice(&(piece.len() as u16 + 20).to_be_bytes());
                ip[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                ip[6..8].copy_from_slice(&(place | if more { 0x2000 } else { 0 }).to_be_bytes());
                ip[10..12].fill(0);
                let mut sum = Checksum::new();
                sum.add(&ip);
                ip[10..12].copy_from_slice(&(!sum.folded()).to_be_bytes());
            }
            out.extend(ip);
            out.extend(piece);
            out
        };
        inner.chunks(size).enumerate().map(piece).collect()
    }

    #[test]
    fn fragments_in_any_order_give_the_segment() {
        for v6 in [false, true] {
            for size in [24, 1000, 1280] {
                let (segment, frame) = whole(v6, 1400);
                let mut pieces = cut(&frame, 7, size);
                assert!(pieces.len() > 1);
                for rotation in 0..pieces.len().min(5) {
                    let mut fragments = Fragments::default();
                    pieces.rotate_left(rotation);
                    let (last, others) = pieces.split_last().expect("some");
                    for piece in others {
                        let (front, back) = piece.split_at(piece.len() / 2);
                        assert_eq!(fragments.add(NOW, &[front, back]), None);
                        // Once more: no harm.
                        assert_eq!(fragments.add(NOW, &[piece]), None);
                    }
                    assert!(fragments.held() > 0);
                    let joined = fragments.add(NOW, &[last]).expect("whole");
                    let got = Receiver::default().segment(&[&joined]).expect("a segment");
                    assert_eq!((got.src, got.dst, got.seq), (segment.src, segment.dst, segment.seq));
                    assert_eq!((got.payload.to_vec(), got.ecn), (segment.payload.to_vec(), Ecn::Ect0));
                    assert_eq!((fragments.held(), fragments.lost), (0, 0));
                }
            }
        }
    }

    #[test]
    fn a_mark_on_any_fragment_is_a_mark() {
        for v6 in [false, true] {
            let (_, mut frame) = whole(v6, 1400);
            frame[15] |= if v6 { CE << 4 } else { CE };
            let marked = cut(&frame, 7, 800);
            let pieces = cut(&whole(v6, 1400).1, 7, 800);
            let mut fragments = Fragments::default();
            assert_eq!(fragments.add(NOW, &[&pieces[0]]), None);
            let joined = fragments.add(NOW, &[&marked[1]]).expect("whole");
            assert_eq!(Receiver::default().segment(&[&joined]).expect("a segment").ecn, Ecn::Ce);
        }
    }

    #[test]
    fn what_overlaps_or_contradicts_is_dropped_as_a_whole() {
        for v6 in [false, true] {
            let (_, frame) = whole(v6, 1400);
            let (pieces, others) = (cut(&frame, 7, 800), cut(&frame, 7, 400));
            for (first, second) in [
                (&pieces[0], &others[1]),
                (&others[1], &pieces[0]),
                (&pieces[1], &cut(&whole(v6, 1408).1, 7, 800)[1]),
                // A last one that ends before what is there.
                (&cut(&whole(v6, 3000).1, 7, 800)[2], &pieces[1]),
            ] {
                let mut fragments = Fragments::default();
                assert_eq!(fragments.add(NOW, &[first]), None);
                assert_eq!(fragments.add(NOW, &[second]), None);
                assert_eq!((fragments.held(), fragments.lost), (0, 1));
            }
            // A wrong header checksum, a fragment without octets, or one that is cut short: as if it had not
            // come.
            let mut fragments = Fragments::default();
            let mut broken = pieces[0].clone();
            broken[22] ^= 1;
            let cut_short = &pieces[0][..pieces[0].len() - 1];
            if !v6 {
                assert_eq!(fragments.add(NOW, &[&broken]), None);
            }
            assert_eq!(fragments.add(NOW, &[cut_short]), None);
            assert_eq!(fragments.held(), 0);
        }
    }

    #[test]
    fn a_flood_of_fragments_holds_little_and_not_for_long() {
        let mut fragments = Fragments::default();
        let (_, frame) = whole(false, 1400);
        for id in 0..10_000 {
            assert_eq!(fragments.add(NOW, &[&cut(&frame, id, 1024)[0]]), None);
            assert!(fragments.segments.len() <= MAX_SEGMENTS && fragments.held() <= MAX_OCTETS);
        }
        // Many small ones of one segment, and large ones of some.
        let (_, large) = whole(false, 60_000);
        for piece in &cut(&large, 1, 8)[..1000] {
            assert_eq!(fragments.add(NOW, &[piece]), None);
            assert!(fragments.segments.values().all(|pieces| pieces.pieces.len() <= MAX_FRAGMENTS));
        }
        for id in 0..200 {
            for piece in &cut(&large, id, 4096)[1..] {
                assert_eq!(fragments.add(NOW, &[piece]), None);
                assert!(fragments.held() <= MAX_OCTETS);
            }
        }
        // What came a second ago is not waited with; the rest of it makes nothing.
        let later = NOW + LIFE;
        let pieces = cut(&frame, 3, 1024);
        assert_eq!(fragments.add(NOW, &[&pieces[0]]), None);
        assert_eq!(fragments.add(later, &[&pieces[1]]), None);
        assert_eq!(fragments.segments.len(), 1);
    }

    #[test]
    fn a_packet_longer_than_ip_allows_is_dropped() {
        let mut fragments = Fragments::default();
        let mut pieces = cut(&whole(false, 1400).1, 9, 1024);
        let far = pieces.last_mut().expect("two");
        far[20..22].copy_from_slice(&0x1fff_u16.to_be_bytes());
        far[24..26].fill(0);
        let mut sum = Checksum::new();
        sum.add(&far[14..34]);
        far[24..26].copy_from_slice(&(!sum.folded()).to_be_bytes());
        let far = far.clone();
        assert_eq!(fragments.add(NOW, &[&far]), None);
        assert_eq!((fragments.held(), fragments.lost), (0, 1));
    }

    #[test]
    fn anything_else_is_ignored() {
        let mut fragments = Fragments::default();
        for v6 in [false, true] {
            let (_, frame) = whole(v6, 100);
            for len in 0..=frame.len() {
                assert_eq!(fragments.add(NOW, &[&frame[..len]]), None);
            }
        }
        assert_eq!(fragments.held(), 0);
    }
}
