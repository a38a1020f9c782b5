//! The application's octets from the moment it hands them over until the peer has acknowledged them at the data
//! level.

use crate::wire::Payload;
use bytes::Bytes;
use std::collections::VecDeque;

/// Consecutive octets of the data stream, from the first unacknowledged one on. Offsets count from the first
/// octet of the stream.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct SendBuffer {
    #[serde(skip)]
    chunks: VecDeque<(u64, Bytes)>,
    start: u64,
    end: u64,
}

impl SendBuffer {
    /// Octets held.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Octets held, and what holding them costs.
    pub(crate) fn cost(&self) -> u64 {
        self.len() + (self.chunks.len() * size_of::<(u64, Bytes)>()) as u64
    }

    /// Offset after the last octet.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Appends octets.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            let len = chunk.len() as u64;
            self.chunks.push_back((self.end, chunk));
            self.end += len;
        }
    }

    /// Forgets what lies before `offset`. Storage is given back a whole chunk at a time.
    pub(crate) fn release(&mut self, offset: u64) {
        self.start = offset.clamp(self.start, self.end);
        while let Some((start, chunk)) = self.chunks.front() {
            if start + chunk.len() as u64 > self.start {
                break;
            }
            self.chunks.pop_front();
        }
    }

    /// The octets `from..to`, sharing the storage; less where they are not (or no longer) here.
    pub(crate) fn slice(&self, from: u64, to: u64) -> Payload {
        let (from, to) = (from.max(self.start), to.min(self.end));
        let mut payload = Payload::new();
        let first = self.chunks.partition_point(|(start, chunk)| start + chunk.len() as u64 <= from);
        for (start, chunk) in self.chunks.range(first..) {
            if *start >= to {
                break;
            }
            let (head, tail) = (from.max(*start) - start, (to - start).min(chunk.len() as u64));
            payload.push(chunk.slice(head as usize..tail as usize));
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_what_was_pushed_until_it_is_released() {
        let mut buffer = SendBuffer::default();
        let stream: Vec<u8> = (0..100).collect();
        for piece in stream.chunks(7) {
            buffer.push(Bytes::copy_from_slice(piece));
        }
        for from in 0..100 {
            for to in from..=100 {
                assert_eq!(buffer.slice(from, to).to_vec(), &stream[from as usize..to as usize]);
            }
        }
        buffer.release(50);
        assert_eq!(buffer.len(), 50);
        assert_eq!(buffer.slice(40, 60).to_vec(), &stream[50..60]);
        buffer.release(30);
        assert_eq!(buffer.len(), 50);
        buffer.release(1000);
        assert_eq!((buffer.len(), buffer.end()), (0, 100));
        assert!(buffer.slice(0, 100).is_empty());
    }
}
