//! The receiving half of a subflow's TCP: acceptance, reassembly, acknowledgments (RFC 9293, 2018, 2883, 7323).

use crate::Instant;
use crate::reassembly::Reassembly;
use crate::right_sizing::EchoTime;
use crate::wire::{Payload, SackBlock, Segment, SeqNumber};
use arrayvec::ArrayVec;
use std::time::Duration;

/// Longest time an acknowledgment waits for company (RFC 9293 section 3.8.6.3 allows 500 ms).
const DELAYED_ACK: Duration = Duration::from_millis(40);
/// Segments acknowledged at once when a connection starts, so that the peer's window opens without delay.
const QUICK_ACKS: u8 = 16;
/// A timestamp older than this says nothing any more (RFC 7323 section 5.5).
const TIMESTAMP_LIFE: Duration = Duration::from_secs(24 * 24 * 3600);
/// An acknowledgment may be overtaken by one that left so many milliseconds later.
const OVERTAKEN: u32 = 1000;

/// Offsets count octets of sequence space from the initial sequence number: the SYN is 0, the first data 1.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct ReceiveSide {
    irs: SeqNumber,
    /// Next offset expected.
    pub(crate) nxt: u64,
    /// End of the window that was advertised; never moves left.
    pub(crate) edge: u64,
    /// The peer's window scale applies to us; this is ours, by which we scale what we advertise.
    pub(crate) scale: u8,
    pub(crate) held: Reassembly,
    /// Offset of the peer's FIN, once seen.
    pub(crate) fin: Option<u64>,
    /// Where octets arrived last, most recent first: order of SACK blocks.
    recent: ArrayVec<u64, 4>,
    /// Octets that came twice, to be told once (RFC 2883).
    duplicate: Option<(u64, u64)>,
    /// An acknowledgment must leave now.
    pub(crate) ack_now: bool,
    /// In-order octets not acknowledged yet.
    unacknowledged: u64,
    /// When they must be.
    pub(crate) ack_deadline: Option<Instant>,
    quick_acks: u8,
    /// TS.Recent and when it was set.
    ts_recent: Option<(u32, Instant)>,
    /// Last.ACK.sent (RFC 7323 section 4.3).
    last_ack_sent: u64,
    pub(crate) echo: EchoTime,
}

impl ReceiveSide {
    /// After the peer's SYN.
    pub(crate) fn new(irs: SeqNumber, scale: u8) -> Self {
        Self {
            irs,
            nxt: 1,
            edge: 1,
            scale,
            held: Reassembly::default(),
            fin: None,
            recent: ArrayVec::new(),
            duplicate: None,
            ack_now: false,
            unacknowledged: 0,
            ack_deadline: None,
            quick_acks: QUICK_ACKS,
            ts_recent: None,
            last_ack_sent: 1,
            echo: EchoTime::default(),
        }
    }

    /// The peer's initial sequence number.
    pub(crate) fn irs(&self) -> SeqNumber {
        self.irs
    }

    /// Offset of a sequence number, the one nearest to what is expected next. May be negative for old ones.
    pub(crate) fn offset(&self, seq: SeqNumber) -> i64 {
        self.nxt as i64 + i64::from(seq.distance(self.seq(self.nxt)))
    }

    /// Sequence number of an offset.
    pub(crate) fn seq(&self, offset: u64) -> SeqNumber {
        self.irs + offset as u32
    }

    /// RCV.NXT as on the wire.
    pub(crate) fn ack_seq(&self) -> SeqNumber {
        self.seq(self.nxt)
    }

    /// Whether any part of the segment lies in the window (RFC 9293 section 3.10.7.4).
    pub(crate) fn acceptable(&self, segment: &Segment) -> bool {
        self.window_has(segment.seq, segment.seq_len())
    }

    /// Whether any of `len` units of sequence space from `seq` on lies in the window.
    pub(crate) fn window_has(&self, seq: SeqNumber, len: u32) -> bool {
        let start = self.offset(seq);
        let end = start + i64::from(len);
        let (nxt, edge) = (self.nxt as i64, self.edge.max(self.nxt) as i64);
        if end == start { start >= nxt && start <= edge } else { end > nxt && start < edge.max(nxt + 1) }
    }

    /// PAWS (RFC 7323 section 5.3): whether the segment's timestamp is from the past.
    ///
    /// Acknowledgments that later ones have overtaken on the way are not: they bring no octets that could be taken for
    /// others, but may bring options that come once, such as a DATA_FIN (the Linux kernel takes them, too).
    pub(crate) fn is_from_the_past(&self, now: Instant, segment: &Segment) -> bool {
        let (Some(stamps), Some((recent, at))) = (segment.options.timestamps, self.ts_recent) else {
            return false;
        };
        let older = recent.wrapping_sub(stamps.value);
        let overtaken = older <= OVERTAKEN && segment.seq_len() == 0 && segment.seq == self.ack_seq();
        older as i32 > 0 && !overtaken && now - at < TIMESTAMP_LIFE
    }

    /// Remembers the timestamp to echo (RFC 7323 section 4.3).
    pub(crate) fn note_timestamp(&mut self, now: Instant, segment: &Segment) {
        if let Some(stamps) = segment.options.timestamps
            && self.offset(segment.seq) <= self.last_ack_sent as i64
            && self.ts_recent.is_none_or(|(recent, _)| (stamps.value.wrapping_sub(recent) as i32) >= 0)
        {
            self.ts_recent = Some((stamps.value, now));
        }
    }

    /// TS.Recent.
    pub(crate) fn timestamp_to_echo(&self) -> u32 {
        self.ts_recent.map_or(0, |(value, _)| value)
    }

    /// Takes in payload at an offset. What is in order by now can be fetched with [`next`](Self::next).
    pub(crate) fn insert(&mut self, now: Instant, start: i64, mut payload: Payload, mss: u64) {
        let len = payload.len() as i64;
        let end = start + len;
        let nxt = self.nxt as i64;
        if start < nxt {
            self.duplicated(start, end);
            payload.advance((nxt - start).min(len) as usize);
        }
        let start = start.max(nxt) as u64;
        payload.truncate(self.edge.saturating_sub(start) as usize);
        if payload.is_empty() {
            return;
        }
        let octets = payload.len() as u64;
        let in_order = start == self.nxt && self.held.is_empty();
        if let Some(twice) = self.held.first_overlap(start, start + octets) {
            // The first octets that follow each other and came twice, no others (RFC 2883 section 4).
            self.duplicate.get_or_insert(twice);
            self.ack_now = true;
        }
        self.held.insert(now, start, payload);
        if in_order {
            self.unacknowledged += octets;
            if self.quick_acks > 0 {
                self.quick_acks -= 1;
                self.ack_now = true;
            } else if self.unacknowledged > mss {
                // The second full segment: it falls short of the MSS by its options.
                self.ack_now = true;
            } else if self.ack_deadline.is_none() {
                self.ack_deadline = Some(now + DELAYED_ACK);
            }
        } else {
            // Out of order, or a gap being filled: at once (RFC 5681 section 4.2).
            self.ack_now = true;
            self.recent.retain(|offset| *offset != start);
            if self.recent.is_full() {
                self.recent.pop();
            }
            self.recent.insert(0, start);
        }
    }

    /// These offsets came, the first of which is below the next one expected: told in a D-SACK as far as they had come before.
    pub(crate) fn duplicated(&mut self, start: i64, end: i64) {
        // The SYN is no octet, and neither is the FIN.
        let reached = self.fin.map_or(self.nxt, |fin| fin.min(self.nxt));
        let (start, end) = (start.max(1) as u64, end.max(1) as u64);
        if start < end.min(reached) {
            self.duplicate = Some((start, end.min(reached)));
        }
        self.ack_now = true;
    }

    /// The next octets in order, with their offset.
    pub(crate) fn next(&mut self) -> Option<(u64, Payload)> {
        let start = self.nxt;
        let (payload, _) = self.held.take(start)?;
        self.nxt += payload.len() as u64;
        Some((start, payload))
    }

    /// Notes the peer's FIN; `true` once everything before it has come and it counts.
    pub(crate) fn take_fin(&mut self) -> bool {
        if self.fin == Some(self.nxt) {
            self.nxt += 1;
            self.ack_now = true;
            return true;
        }
        false
    }

    /// SACK blocks for the next acknowledgment, at most `limit`: a duplicate first, then the most recent ones.
    pub(crate) fn sack_blocks(&mut self, limit: usize) -> ArrayVec<SackBlock, 4> {
        let mut blocks: ArrayVec<(u64, u64), 4> = ArrayVec::new();
        let limit = limit.min(4);
        if limit > 0
            && let Some(duplicate) = self.duplicate.take()
        {
            blocks.push(duplicate);
            // One that is part of what was received out of order is told apart from news by the block that follows: the
            // one it is a part of (RFC 2883 section 4).
            if let Some(block) = self.held.block_around(duplicate.0).filter(|_| blocks.len() < limit) {
                blocks.push(block);
            }
        }
        self.recent.retain(|offset| self.held.block_around(*offset).is_some());
        for offset in &self.recent {
            if blocks.len() >= limit {
                break;
            }
            if let Some(block) = self.held.block_around(*offset)
                && !blocks.contains(&block)
            {
                blocks.push(block);
            }
        }
        blocks.iter().map(|(start, end)| SackBlock { start: self.seq(*start), end: self.seq(*end) }).collect()
    }

    /// Whether there is anything to tell in SACK blocks.
    pub(crate) fn has_blocks(&self) -> bool {
        self.duplicate.is_some() || !self.held.is_empty()
    }

    /// Whether an acknowledgment is due.
    pub(crate) fn ack_due(&self, now: Instant) -> bool {
        self.ack_now || self.ack_deadline.is_some_and(|deadline| deadline <= now)
    }

    /// An acknowledgment of everything so far is leaving.
    pub(crate) fn acknowledged(&mut self) {
        self.ack_now = false;
        self.ack_deadline = None;
        self.unacknowledged = 0;
        self.last_ack_sent = self.nxt;
    }

    /// A window of `octets` from the next expected octet on is being advertised on this subflow.
    pub(crate) fn advertised(&mut self, octets: u64) {
        self.edge = self.edge.max(self.nxt + octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2883 section 4.1.3.
    #[test]
    fn a_duplicate_above_a_gap_is_followed_by_the_block_that_it_is_part_of() {
        let mut receive = ReceiveSide::new(SeqNumber(0), 0);
        receive.advertised(1 << 20);
        for start in [2001, 3001, 6001, 2001] {
            receive.insert(Instant::ZERO, start, vec![0; 1000].into(), 1460);
        }
        let block = |start, end| SackBlock { start: SeqNumber(start), end: SeqNumber(end) };
        let expected = [block(2001, 3001), block(2001, 4001), block(6001, 7001)];
        assert_eq!(receive.sack_blocks(4)[..], expected);
        assert_eq!(receive.sack_blocks(4)[..], expected[1..], "told once");
    }

    /// RFC 2883 section 4: a block names octets that came twice, and no others.
    #[test]
    fn of_a_segment_that_came_in_part_before_only_that_part_is_told() {
        let mut receive = ReceiveSide::new(SeqNumber(0), 0);
        receive.advertised(1 << 20);
        let mut told = |start: i64, octets: usize| {
            receive.insert(Instant::ZERO, start, vec![0; octets].into(), 1460);
            while receive.next().is_some() {}
            receive.sack_blocks(4).first().map(|block| (block.start.0, block.end.0))
        };
        assert_eq!(told(1, 1000), None);
        assert_eq!(told(501, 1000), Some((501, 1001)), "its front");
        assert_eq!(told(3001, 1000), Some((3001, 4001)), "no duplicate");
        assert_eq!(told(2501, 1000), Some((3001, 3501)), "its end");
        assert_eq!(told(5001, 100), Some((5001, 5101)), "no duplicate");
        assert_eq!(told(3901, 2000), Some((3901, 4001)), "its front; what is held further on comes later");
        assert_eq!(told(-5000, 100), Some((2501, 5901)), "before the first octet there is none");
        assert_eq!(told(0, 1), Some((2501, 5901)), "nor is the SYN one");
    }

    /// RFC 5681 section 4.2: at least every second full-sized segment. What a sender can fit beside timestamps and a
    /// mapping is less than the MSS.
    #[test]
    fn every_second_full_segment_is_acknowledged_at_once() {
        let mut receive = ReceiveSide::new(SeqNumber(0), 0);
        receive.advertised(1 << 20);
        let mut at_once = Vec::new();
        for index in 0..40 {
            receive.insert(Instant::ZERO, 1 + index * 1428, vec![0; 1428].into(), 1460);
            while receive.next().is_some() {}
            at_once.push(receive.ack_due(Instant::ZERO));
            if receive.ack_due(Instant::ZERO) {
                receive.acknowledged();
            }
        }
        assert!(
            at_once[usize::from(QUICK_ACKS)..].chunks(2).all(|pair| pair == [false, true]),
            "{at_once:?}"
        );
    }
}
