//! The octets a segment carries, as a short list of shared slices.

use bytes::Bytes;
use smallvec::SmallVec;

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
