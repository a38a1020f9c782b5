//! The octets a segment carries, as a short list of shared slices.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// A slice shorter than this is better copied than kept where it lies: it may hold on to a block of memory many times
/// its size, and its place in a queue costs as much as it does.
pub(crate) const SMALL: usize = 1024;
/// Small slices are copied together up to this length.
pub(crate) const JOINED: usize = 4096;

/// Copies `next` behind `last`, which then has memory of its own, if that is worth it. `false`: nothing was done.
pub fn join_small(last: &mut Bytes, next: &[u8]) -> bool {
    if next.len() >= SMALL || last.len() + next.len() > JOINED {
        return false;
    }
    let mut joined = match std::mem::take(last).try_into_mut() {
        Ok(own) => own,
        Err(shared) => {
            let mut own = BytesMut::with_capacity((shared.len() + next.len()).next_power_of_two().max(64));
            own.extend_from_slice(&shared);
            own
        }
    };
    joined.extend_from_slice(next);
    *last = joined.freeze();
    true
}

/// Payload of a segment: shared, immutable slices in order. Cloning and cutting copy no octets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload {
    chunks: SmallVec<[Bytes; 2]>,
    len: usize,
}

impl Payload {
    /// No octets at all.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }
    /// Length in octets.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }
    /// A payload of which only the length is known: its octets were left where they came, because nobody will
    /// take them.
    pub fn hollow(len: usize) -> Self {
        Self { chunks: SmallVec::new(), len }
    }
    /// Whether only its length is known.
    #[inline]
    pub fn is_hollow(&self) -> bool {
        self.len > 0 && self.chunks.is_empty()
    }
    /// Whether there are no octets.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The slices, in order, none of them empty.
    #[inline]
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }
    /// Appends a slice.
    #[inline]
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push(chunk);
        }
    }
    /// Appends all slices of another payload.
    pub fn append(&mut self, other: Payload) {
        self.len += other.len;
        self.chunks.extend(other.chunks);
    }
    /// Appends all octets of another payload, small slices copied together: for what has to wait.
    pub fn append_joined(&mut self, other: Payload) {
        for chunk in other.chunks {
            self.len += chunk.len();
            if !self.chunks.last_mut().is_some_and(|last| join_small(last, &chunk)) {
                self.chunks.push(chunk);
            }
        }
    }
    /// Gives small slices memory of their own, so that they hold on to nothing else.
    pub fn detach_small(&mut self) {
        for chunk in &mut self.chunks {
            if chunk.len() < SMALL {
                *chunk = Bytes::copy_from_slice(chunk);
            }
        }
    }
    /// Gives all octets memory of their own, exactly as much as they need, so that they hold on to nothing
    /// else.
    pub fn detach(&mut self) {
        if !self.chunks.is_empty() {
            let own = Bytes::from(self.to_vec());
            self.chunks.clear();
            self.chunks.push(own);
        }
    }
    /// Drops the first `octets` (all, if there are fewer).
    pub fn advance(&mut self, octets: usize) {
        let mut left = octets.min(self.len);
        self.len -= left;
        let mut whole = 0;
        for chunk in &mut self.chunks {
            if left >= chunk.len() {
                left -= chunk.len();
                whole += 1;
            } else {
                let _ = chunk.split_to(left);
                break;
            }
        }
        self.chunks.drain(..whole);
    }
    /// Keeps the first `octets` (all, if there are fewer).
    pub fn truncate(&mut self, octets: usize) {
        let mut left = octets.min(self.len);
        self.len = left;
        let mut keep = 0;
        for chunk in &mut self.chunks {
            if left == 0 {
                break;
            }
            keep += 1;
            chunk.truncate(left);
            left -= chunk.len();
        }
        self.chunks.truncate(keep);
    }
    /// The octets `from..to` (clamped to what there is), sharing the storage.
    pub fn slice(&self, from: usize, to: usize) -> Payload {
        let mut part = Payload::new();
        let mut at = 0;
        for chunk in &self.chunks {
            let (start, end) = (from.max(at), to.min(at + chunk.len()));
            if start < end {
                part.push(chunk.slice(start - at..end - at));
            }
            at += chunk.len();
        }
        part
    }
    /// All octets in one vector: a copy, for tests and rare paths.
    pub fn to_vec(&self) -> Vec<u8> {
        self.chunks.concat()
    }
}

impl IntoIterator for Payload {
    type Item = Bytes;
    type IntoIter = smallvec::IntoIter<[Bytes; 2]>;
    fn into_iter(self) -> Self::IntoIter {
        self.chunks.into_iter()
    }
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        let mut payload = Payload::new();
        payload.push(chunk);
        payload
    }
}

impl From<Vec<u8>> for Payload {
    fn from(octets: Vec<u8>) -> Self {
        Bytes::from(octets).into()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Payload {
        let mut payload = Payload::new();
        for chunk in [&b"abc"[..], b"", b"defg", b"hi"] {
            payload.push(Bytes::from_static(chunk));
        }
        payload
    }

    #[test]
    fn small_slices_are_copied_together() {
        let block = Bytes::from((0..=255).collect::<Vec<u8>>().repeat(40));
        for piece in [1, 10, 1000, SMALL, 3000] {
            let mut payload = Payload::new();
            for start in (0..block.len()).step_by(piece) {
                payload.append_joined(block.slice(start..block.len().min(start + piece)).into());
            }
            assert_eq!(payload.to_vec(), block);
            let most =
                if piece < SMALL { block.len() / (JOINED - SMALL) + 1 } else { block.len().div_ceil(piece) };
            assert!(payload.chunks().len() <= most, "{piece}: {} slices", payload.chunks().len());
        }
        drop(block);
    }

    #[test]
    fn cutting_at_every_place_keeps_the_octets() {
        let whole = three().to_vec();
        for cut in 0..=whole.len() + 2 {
            let (mut front, mut back) = (three(), three());
            front.truncate(cut);
            back.advance(cut);
            assert_eq!(front.to_vec(), &whole[..cut.min(whole.len())]);
            assert_eq!(back.to_vec(), &whole[cut.min(whole.len())..]);
            assert_eq!(front.len() + back.len(), whole.len());
            assert!(front.chunks().iter().chain(back.chunks()).all(|chunk| !chunk.is_empty()));
            for end in cut..=whole.len() {
                assert_eq!(three().slice(cut, end).to_vec(), &whole[cut..end]);
            }
        }
    }
}
