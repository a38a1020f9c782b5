//! The single-producer, single-consumer rings that a socket shares with the kernel.
//!
//! Each side publishes its index with a release store and reads the other's with an acquire load; the entries
//! between the two indices belong to the consumer, all others to the producer. Indices run freely modulo 2³².

use super::mmap::Mapping;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What keeps a ring's memory alive.
enum Memory {
    /// The kernel's ring.
    Mapped(#[allow(dead_code)] Mapping),
    /// A ring in this process's own memory, for tests.
    Heap(#[allow(dead_code)] Vec<u64>),
}

/// The addresses of one ring's parts.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// Number of entries, a power of two.
    size: u32,
    _memory: Arc<Memory>,
}

// SAFETY: the pointers are into memory that `_memory` keeps alive and that has no thread affinity; the entries are
// plain data (`T: Copy`), and each index is written by one side only, through `&mut Producer` or `&mut Consumer`.
unsafe impl<T: Copy + Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// The atomics of the ring.
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points to an aligned, living u32 that is only accessed atomically, by either side.
        unsafe { self.producer.as_ref() }
    }
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }
    /// Address of the entry for a free-running index.
    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked with a power of two less one, the index is within the `size` entries.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }

    /// Finds the parts of a ring in a mapping made by the kernel.
    fn of_mapping(mapping: Mapping, offsets: &libc::xdp_ring_offset, size: u32) -> Option<Self> {
        let part = |offset: u64, len: usize, align: usize| -> Option<NonNull<u8>> {
            let offset = usize::try_from(offset).ok()?;
            let fits = offset.checked_add(len)? <= mapping.len() && offset.is_multiple_of(align);
            // SAFETY: just checked to be inside the mapping.
            fits.then(|| unsafe { mapping.start().add(offset) })
        };
        let producer = part(offsets.producer, 4, 4)?.cast();
        let consumer = part(offsets.consumer, 4, 4)?.cast();
        let flags = part(offsets.flags, 4, 4)?.cast();
        let entries = part(offsets.desc, size as usize * size_of::<T>(), align_of::<T>())?.cast();
        size.is_power_of_two().then_some(())?;
        Some(Self { producer, consumer, flags, entries, size, _memory: Arc::new(Memory::Mapped(mapping)) })
    }
}

/// The side that fills a ring: of the fill and transmit rings, ours.
pub struct Producer<T: Copy> {
    ring: Shared<T>,
    /// Next index to write; what is before it and not yet submitted is ours.
    next: u32,
    /// The consumer's index when we last looked.
    consumer: u32,
}

impl<T: Copy> Producer<T> {
    pub(super) fn of_mapping(mapping: Mapping, offsets: &libc::xdp_ring_offset, size: u32) -> Option<Self> {
        let ring = Shared::of_mapping(mapping, offsets, size)?;
        let next = ring.producer().load(Ordering::Relaxed);
        let consumer = ring.consumer().load(Ordering::Acquire);
        Some(Self { ring, next, consumer })
    }

    /// How many entries can be pushed now; looks at the shared index only if fewer than `wanted` are known to be free.
    #[inline]
    pub fn free(&mut self, wanted: u32) -> u32 {
        let free = |at: &Self| at.ring.size - at.next.wrapping_sub(at.consumer).min(at.ring.size);
        if free(self) < wanted {
            self.consumer = self.ring.consumer().load(Ordering::Acquire);
        }
        free(self)
    }

    /// Writes an entry; the other side sees it after [`submit`](Self::submit). `false` if the ring is full.
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        // SAFETY: the entry is inside the ring and, being free, is not accessed by the consumer.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Hands everything pushed so far to the other side.
    #[inline]
    pub fn submit(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Whether the kernel asks to be woken when something was submitted (`XDP_USE_NEED_WAKEUP`).
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The side that empties a ring: of the receive and completion rings, ours.
pub struct Consumer<T: Copy> {
    ring: Shared<T>,
    /// Next index to read.
    next: u32,
    /// The producer's index when we last looked.
    producer: u32,
}

impl<T: Copy> Consumer<T> {
    pub(super) fn of_mapping(mapping: Mapping, offsets: &libc::xdp_ring_offset, size: u32) -> Option<Self> {
        let ring = Shared::of_mapping(mapping, offsets, size)?;
        let next = ring.consumer().load(Ordering::Relaxed);
        let producer = ring.producer().load(Ordering::Acquire);
        Some(Self { ring, next, producer })
    }

    /// How many entries wait; looks at the shared index only if fewer than `wanted` are known.
    #[inline]
    pub fn available(&mut self, wanted: u32) -> u32 {
        let known = |at: &Self| at.producer.wrapping_sub(at.next).min(at.ring.size);
        if known(self) < wanted {
            self.producer = self.ring.producer().load(Ordering::Acquire);
        }
        known(self)
    }

    /// The entry `ahead` of the next one, without taking it; `None` if there is none yet.
    #[inline]
    pub fn peek(&mut self, ahead: u32) -> Option<T> {
        if self.available(ahead.checked_add(1)?) <= ahead {
            return None;
        }
        // SAFETY: the entry is inside the ring, and the producer handed it to us with its release store.
        Some(unsafe { self.ring.entry(self.next.wrapping_add(ahead)).read() })
    }

    /// Takes `count` entries that were peeked at; the other side sees it after [`release`](Self::release).
    #[inline]
    pub fn take(&mut self, count: u32) {
        let count = count.min(self.available(count));
        self.next = self.next.wrapping_add(count);
    }

    /// Hands the entries taken so far back to the other side.
    #[inline]
    pub fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

/// Both sides of a ring in this process's own memory: one of them stands in for the kernel in tests.
///
/// # Panics
/// If `size` is not a power of two.
pub fn memory_pair<T: Copy>(size: u32) -> (Producer<T>, Consumer<T>) {
    assert!(size.is_power_of_two() && align_of::<T>() <= 8, "size is a power of two");
    let words = 3 + (size as usize * size_of::<T>()).div_ceil(8);
    let mut memory = vec![0u64; words];
    // The vector's storage does not move when the vector does.
    let start = NonNull::from(memory.as_mut_slice()).cast::<u64>();
    let memory = Arc::new(Memory::Heap(memory));
    let side = || Shared {
        producer: start.cast(),
        // SAFETY: within the three words in front of the entries.
        consumer: unsafe { start.add(1) }.cast(),
        // SAFETY: as above.
        flags: unsafe { start.add(2) }.cast(),
        // SAFETY: the entries follow the three words; there is room for `size` of them.
        entries: unsafe { start.add(3) }.cast::<T>(),
        size,
        _memory: memory.clone(),
    };
    (Producer { ring: side(), next: 0, consumer: 0 }, Consumer { ring: side(), next: 0, producer: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_arrive_in_order_and_only_after_submit() {
        let (mut producer, mut consumer) = memory_pair::<u64>(4);
        assert_eq!(producer.free(4), 4);
        assert!(producer.push(1) && producer.push(2));
        assert_eq!(consumer.available(1), 0);
        assert_eq!(consumer.peek(0), None);
        producer.submit();
        assert_eq!((consumer.peek(0), consumer.peek(1), consumer.peek(2)), (Some(1), Some(2), None));
        consumer.take(2);
        assert_eq!(consumer.peek(0), None);
    }

    #[test]
    fn a_full_ring_refuses_until_the_other_side_releases() {
        let (mut producer, mut consumer) = memory_pair::<u32>(2);
        assert!(producer.push(1) && producer.push(2) && !producer.push(3));
        producer.submit();
        consumer.available(2);
        consumer.take(1);
        assert!(!producer.push(3), "taken, but not released");
        consumer.release();
        assert!(producer.push(3));
        producer.submit();
        assert_eq!((consumer.peek(0), consumer.peek(1)), (Some(2), Some(3)));
    }

    #[test]
    fn indices_wrap_around() {
        let (mut producer, mut consumer) = memory_pair::<u32>(8);
        for end in [&mut producer.next, &mut producer.consumer, &mut consumer.next, &mut consumer.producer] {
            *end = u32::MAX - 2;
        }
        producer.ring.consumer().store(u32::MAX - 2, Ordering::Relaxed);
        producer.submit();
        for round in 0..100u32 {
            assert_eq!(producer.free(8), 8);
            for i in 0..5 {
                assert!(producer.push(round * 5 + i));
            }
            producer.submit();
            for i in 0..5 {
                assert_eq!(consumer.peek(i), Some(round * 5 + i));
            }
            consumer.take(5);
            consumer.release();
        }
    }

    #[test]
    fn a_lying_producer_index_never_gives_more_than_the_ring_holds() {
        let (producer, mut consumer) = memory_pair::<u32>(4);
        producer.ring.producer().store(1_000_000, Ordering::Release);
        assert_eq!(consumer.available(u32::MAX), 4);
        assert_eq!(consumer.peek(4), None);
    }

    #[test]
    fn two_threads_lose_nothing() {
        let (mut producer, mut consumer) = memory_pair::<u64>(64);
        let writer = std::thread::spawn(move || {
            let mut next = 0u64;
            while next < 100_000 {
                if producer.push(next) {
                    next += 1;
                    producer.submit();
                } else {
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..100_000u64 {
            let got = loop {
                if let Some(entry) = consumer.peek(0) {
                    break entry;
                }
                std::thread::yield_now();
            };
            assert_eq!(got, expected);
            consumer.take(1);
            consumer.release();
        }
        writer.join().expect("writer");
    }
}
