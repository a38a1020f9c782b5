//! The data level of a connection: what was handed over and not acknowledged, what was received and not read
//! (RFC 8684 sections 3.3.2 to 3.3.5). Offsets count from the first octet of data; DATA_FIN takes one more.

use super::Instant;
use super::info::HeadOfLineInfo;
use super::reassembly::Reassembly;
use super::reinjection::{Reinjection, Reinjections};
use super::right_sizing::INITIAL;
use super::send_buffer::SendBuffer;
use crate::wire::{Payload, join_small};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// The sending direction.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct DataSender {
    pub(crate) buffer: SendBuffer,
    /// First offset the peer has not acknowledged at the data level.
    pub(crate) una: u64,
    /// Next offset to be given to a subflow for the first time.
    pub(crate) nxt: u64,
    /// Right edge of the peer's window; never moves left.
    pub(crate) edge: u64,
    /// Largest window that the peer has offered.
    largest_window: u64,
    /// The application has finished.
    pub(crate) finished: bool,
    /// DATA_FIN has been sent at least once.
    pub(crate) fin_sent: bool,
    /// DATA_FIN is to be sent (again) by itself.
    pub(crate) fin_due: bool,
    /// Ranges that some subflow failed to deliver in time: to be sent on another one.
    reinjections: Reinjections,
    /// Octets sent on more than one subflow.
    pub(crate) reinjected: u64,
}

impl DataSender {
    /// Offset after DATA_FIN, or after the last octet while the stream is open.
    pub(crate) fn end(&self) -> u64 {
        self.buffer.end() + u64::from(self.finished)
    }

    /// Everything, DATA_FIN included, is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.finished && self.una == self.end()
    }

    /// DATA_FIN is acknowledged or in flight, and everything before it was sent.
    pub(crate) fn all_sent(&self) -> bool {
        self.nxt == self.buffer.end()
    }

    /// The peer offers `window` octets from `offset` on.
    //= RFC 8684 3.3.5-1
    pub(crate) fn take_window(&mut self, offset: u64, window: u64) {
        self.edge = self.edge.max(offset + window);
        self.largest_window = self.largest_window.max(window);
    }

    /// Whether the window lets through only so little that it is not worth a segment of its own (RFC 9293 section
    /// 3.8.6.2.1): more room will come.
    pub(crate) fn is_silly(&self, mss: u64) -> bool {
        let usable = self.edge.saturating_sub(self.nxt);
        self.edge < self.buffer.end() && usable < mss.min(self.largest_window / 2).max(1)
    }

    /// The peer acknowledged everything before `offset`. The caller has checked that it was sent.
    //= RFC 8684 3.3.2-1
    pub(crate) fn acknowledge(&mut self, offset: u64) {
        self.una = self.una.max(offset);
        self.nxt = self.nxt.max(self.una.min(self.buffer.end()));
        self.buffer.release(self.una);
        self.reinjections.release(self.una);
    }

    /// Queues a range for another subflow.
    pub(crate) fn reinject(&mut self, start: u64, end: u64, not_on: usize) {
        let (start, end) = (start.max(self.una), end.min(self.nxt));
        if start >= end {
            return;
        }
        self.reinjections.add(start, end, not_on);
    }

    /// Queues ranges that the subflow at `not_on` has not delivered. Gives their octets.
    pub(crate) fn reinject_all(&mut self, ranges: impl Iterator<Item = (u64, u64)>, not_on: usize) -> u64 {
        let mut octets = 0;
        for (start, end) in ranges {
            self.reinject(start, end, not_on);
            octets += end - start;
        }
        octets
    }

    /// The next range to be sent again.
    pub(crate) fn next_reinjection(&mut self) -> Option<Reinjection> {
        self.reinjections.first(self.una)
    }

    /// The first `octets` of the next range have been sent.
    pub(crate) fn reinjected(&mut self, octets: u64) {
        self.reinjected += octets;
        self.reinjections.advance(octets);
    }

    /// A subflow is gone: its place may be another's soon, which is as good as any for what this one did not deliver.
    pub(crate) fn forget_subflow(&mut self, place: usize) {
        self.reinjections.forget_subflow(place);
    }

    /// Forgets all ranges: there is only one subflow from now on, and it retransmits by itself.
    pub(crate) fn clear_reinjections(&mut self) {
        self.reinjections.clear();
    }
}

/// A reader of which no more than this is unread counts as one that waits.
const UNREPORTED: u64 = 8 << 10;

/// The receiving direction.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct DataReceiver {
    /// Next offset expected, DATA_FIN counted once it is reached.
    pub(crate) nxt: u64,
    held: Reassembly,
    #[serde(skip)]
    ready: VecDeque<Bytes>,
    ready_octets: u64,
    /// Octets given to the driver that the application has not read yet.
    taken: u64,
    /// Offset of DATA_FIN, once seen.
    fin: Option<u64>,
    /// Everything, DATA_FIN included, has come.
    pub(crate) finished: bool,
    /// Right edge advertised, at most.
    edge: u64,
    /// Octets that the buffer may hold by now, and the most that it may ever.
    capacity: u64,
    limit: u64,
    /// What the endpoint's memory leaves to this buffer.
    share: u64,
    /// Octets delivered in order, in total.
    pub(crate) delivered: u64,
    /// Octets that waited for earlier ones, the sum of their waits in nanoseconds, and the longest.
    waited: (u64, u128, Duration),
}

impl DataReceiver {
    /// A receiver that may come to hold `limit` octets.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            nxt: 0,
            held: Reassembly::default(),
            ready: VecDeque::new(),
            ready_octets: 0,
            taken: 0,
            fin: None,
            finished: false,
            edge: 0,
            capacity: limit.min(INITIAL),
            limit,
            share: u64::MAX,
            delivered: 0,
            waited: (0, 0, Duration::ZERO),
        }
    }

    /// Octets received that the application has not read.
    pub(crate) fn queued(&self) -> u64 {
        self.ready_octets + self.taken + self.held.octets() as u64
    }

    /// Whether the application has something to read, the end of the stream included.
    pub(crate) fn readable(&self) -> bool {
        self.ready_octets > 0 || self.finished
    }

    /// Octets that wait to be taken.
    pub(crate) fn ready_octets(&self) -> u64 {
        self.ready_octets
    }

    /// Octets that the buffer may hold now.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.min(self.share)
    }

    /// The buffer had better hold so many octets.
    pub(crate) fn grow(&mut self, capacity: u64) {
        self.capacity = self.capacity.max(capacity.min(self.limit));
    }

    /// It may not hold more than it does now.
    pub(crate) fn has_grown_up(&self) -> bool {
        self.capacity >= self.limit
    }

    /// What the endpoint's memory leaves to this buffer. Less means that the window opens no further; what was promised
    /// stays.
    pub(crate) fn set_share(&mut self, share: u64) {
        self.share = share;
    }

    /// Octets held, and what holding them costs.
    pub(crate) fn cost(&self) -> u64 {
        self.ready_octets + self.taken + self.held.cost()
    }

    /// Everything that has come is with the application.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.ready.is_empty() && self.held.is_empty()
    }

    /// The application has read all that it could, but for a little of which it may not have told yet.
    pub(crate) fn is_drained(&self) -> bool {
        self.ready_octets + self.taken <= UNREPORTED
    }

    /// Octets that the application has read or would have read by now, were it not for a gap before them.
    pub(crate) fn reached(&self) -> u64 {
        let gap = if self.is_drained() { self.held.octets() as u64 } else { 0 };
        self.delivered - self.ready_octets - self.taken + gap
    }

    /// The window field to advertise, relative to `nxt`, under a window scale; `mss`: a full segment of the peer.
    ///
    /// The right edge that is honoured never moves left, and never lies beyond what the buffer holds. Both can't be told
    /// in units of the scale at all times: what is left of an earlier promise is rounded down, and accepted all the same
    /// (RFC 7323 section 2.4 and appendix F). Rounding up would let a peer that sends single octets push the edge before
    /// it for ever. The edge moves by a worthwhile step or not at all (RFC 9293 section 3.8.6.2.2).
    //= RFC 8684 3.3.4-1
    pub(crate) fn advertise(&mut self, scale: u8, mss: u64) -> u16 {
        let step = mss.min(self.capacity() / 2);
        let granted = self.edge.saturating_sub(self.nxt);
        let window = if self.window_growth(scale) >= step { self.free() } else { granted };
        let field = (window.max(granted) >> scale).min(u64::from(u16::MAX));
        self.edge = self.edge.max(self.nxt + (field << scale));
        field as u16
    }

    /// What the peer may take for the right edge of the window is honoured as if it had been told.
    pub(crate) fn honour(&mut self, edge: u64) {
        self.edge = self.edge.max(edge);
    }

    /// Octets in order that the buffer still has room for.
    fn free(&self) -> u64 {
        self.capacity().saturating_sub(self.ready_octets + self.taken)
    }

    /// By how much the window would grow if it were advertised now, as far as the field can tell under this
    /// scale.
    pub(crate) fn window_growth(&self, scale: u8) -> u64 {
        (self.nxt + self.free().min(u64::from(u16::MAX) << scale)).saturating_sub(self.edge)
    }

    /// Whether the window would grow by so much that the peer is to be told at once (RFC 9293 section
    /// 3.8.6.2.2).
    pub(crate) fn owes_update(&self, scale: u8, mss: u64) -> bool {
        let growth = self.window_growth(scale);
        growth >= (2 * mss).min(self.capacity() / 2).max(1)
            && growth >= self.advertised().min(self.capacity() / 4)
    }

    /// Window last advertised, from `nxt` on.
    pub(crate) fn advertised(&self) -> u64 {
        self.edge.saturating_sub(self.nxt)
    }

    /// How long octets have waited for earlier ones. Those that still do are not in it.
    pub(crate) fn head_of_line(&self) -> HeadOfLineInfo {
        let (octets, sum, longest) = self.waited;
        let mean = Duration::from_nanos((sum / u128::from(octets.max(1))) as u64);
        HeadOfLineInfo { octets, mean, longest }
    }

    /// Takes in octets at an offset; `true` if the application has something new to read. Octets beyond the
    /// window, or beyond the end of the data, are dropped.
    //= RFC 8684 3.8-1
    pub(crate) fn insert(&mut self, now: Instant, start: u64, mut payload: Payload) -> bool {
        let mut start = start;
        if start < self.nxt {
            payload.advance((self.nxt - start).min(payload.len() as u64) as usize);
            start = self.nxt;
        }
        let limit = self.fin.unwrap_or(u64::MAX).min(self.edge);
        payload.truncate(limit.saturating_sub(start).min(usize::MAX as u64) as usize);
        if payload.is_empty() {
            return false;
        }
        if start > self.nxt {
            self.held.insert(now, start, payload);
            return false;
        }
        self.append(payload);
        while !self.held.is_empty()
            && let Some((payload, arrived)) = self.held.take(self.nxt)
        {
            let (waited, octets) = (now - arrived, payload.len() as u64);
            self.waited.0 += octets;
            self.waited.1 += waited.as_nanos() * u128::from(octets);
            self.waited.2 = self.waited.2.max(waited);
            self.append(payload);
        }
        self.reach_fin();
        true
    }

    /// Gives what waits memory of its own, exactly as much as it needs.
    pub(crate) fn compact(&mut self) {
        self.held.compact();
        for chunk in &mut self.ready {
            *chunk = Bytes::copy_from_slice(chunk);
        }
    }

    fn append(&mut self, payload: Payload) {
        self.nxt += payload.len() as u64;
        self.delivered += payload.len() as u64;
        self.ready_octets += payload.len() as u64;
        for chunk in payload {
            // What the application is slow to fetch must not cost more than it is worth.
            if !self.ready.back_mut().is_some_and(|last| join_small(last, &chunk)) {
                self.ready.push_back(chunk);
            }
        }
    }

    /// The data ends at `offset`. A peer that names two ends is held to the first one; one that ends before
    /// octets already received is ignored. `true` if the end is reached with it.
    pub(crate) fn set_fin(&mut self, offset: u64) -> bool {
        let beyond = self.held.end().is_some_and(|end| end > offset);
        if self.fin.is_none() && offset >= self.nxt && offset <= self.edge && !beyond {
            self.fin = Some(offset);
        }
        !self.finished && self.reach_fin()
    }

    /// Whether it is known where the data ends.
    pub(crate) fn has_end(&self) -> bool {
        self.fin.is_some()
    }

    /// Whether the data is known to end at `offset`.
    pub(crate) fn ends_at(&self, offset: u64) -> bool {
        self.fin == Some(offset)
    }

    /// The only subflow has ended at this offset, wherever a DATA_FIN has said that the data ends. `true` if the end has been
    /// reached with it.
    pub(crate) fn end_at(&mut self, offset: u64) -> bool {
        if !self.finished && offset >= self.nxt && self.fin.is_some_and(|fin| fin > offset) {
            self.fin = None;
        }
        self.set_fin(offset)
    }

    fn reach_fin(&mut self) -> bool {
        if !self.finished && self.fin == Some(self.nxt) {
            self.finished = true;
            self.nxt += 1;
            return true;
        }
        false
    }

    /// Takes at most `limit` octets out, in order; see [`Endpoint::recv`](super::Endpoint::recv).
    pub(crate) fn take(&mut self, limit: usize, out: &mut Vec<Bytes>) -> (usize, bool) {
        let mut taken = 0;
        while taken < limit
            && let Some(first) = self.ready.front_mut()
        {
            let chunk = if first.len() <= limit - taken {
                self.ready.pop_front().unwrap_or_default()
            } else {
                first.split_to(limit - taken)
            };
            taken += chunk.len();
            out.push(chunk);
        }
        self.ready_octets -= taken as u64;
        self.taken += taken as u64;
        (taken, self.finished && self.ready.is_empty())
    }

    /// The application has read `octets` of those taken.
    pub(crate) fn consumed(&mut self, octets: u64) {
        self.taken = self.taken.saturating_sub(octets);
    }

    /// Nobody will read any more: what waits is dropped.
    pub(crate) fn discard(&mut self) {
        self.ready.clear();
        self.held.clear();
        (self.ready_octets, self.taken) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(range: std::ops::Range<u8>) -> Payload {
        range.collect::<Vec<u8>>().into()
    }

    #[test]
    fn octets_of_two_paths_come_out_in_order_and_end() {
        let mut receiver = DataReceiver::new(100);
        receiver.advertise(0, 1);
        assert!(!receiver.insert(Instant::ZERO, 10, octets(10..20)));
        assert!(!receiver.set_fin(20));
        assert!(receiver.insert(Instant::ZERO, 0, octets(0..12)));
        assert!(receiver.finished);
        let mut out = Vec::new();
        assert_eq!(receiver.take(15, &mut out), (15, false));
        assert_eq!(receiver.take(15, &mut out), (5, true));
        assert_eq!(out.concat(), (0..20).collect::<Vec<u8>>());
        assert_eq!(receiver.nxt, 21);
    }

    /// 1000 octets come 40 ms before the ones between, 3000 others 10 ms before them: 17.5 ms each on average.
    #[test]
    fn how_long_octets_wait_for_earlier_ones_is_known() {
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let piece = |octets: usize| Payload::from(vec![7; octets]);
        let mut receiver = DataReceiver::new(100_000);
        receiver.advertise(2, 1);
        receiver.insert(at(100), 0, piece(1000));
        receiver.insert(at(120), 2000, piece(1000));
        receiver.insert(at(150), 3000, piece(3000));
        assert_eq!(receiver.head_of_line(), HeadOfLineInfo::default());
        // What comes twice counts from the first time on.
        receiver.insert(at(155), 2000, piece(1000));
        receiver.insert(at(160), 1000, piece(1000));
        let (mean, longest) = (Duration::from_micros(17_500), Duration::from_millis(40));
        let expected = HeadOfLineInfo { octets: 4000, mean, longest };
        assert_eq!(receiver.head_of_line(), expected);
        receiver.insert(at(170), 6000, piece(1000));
        assert_eq!(receiver.head_of_line(), expected);
    }

    #[test]
    fn less_memory_closes_the_window_without_taking_back_what_was_promised() {
        let mut receiver = DataReceiver::new(200_000);
        receiver.grow(200_000);
        assert_eq!(receiver.advertise(2, 1460), 50_000);
        receiver.set_share(20_000);
        assert_eq!(receiver.advertise(2, 1460), 50_000);
        while receiver.insert(Instant::ZERO, receiver.nxt, vec![0; 1000].into()) {
            receiver.take(1000, &mut Vec::new());
            receiver.consumed(1000);
            let window = u64::from(receiver.advertise(2, 1460)) * 4;
            assert_eq!(window, (200_000u64.saturating_sub(receiver.nxt)).max(20_000).min(window));
            if receiver.nxt > 400_000 {
                break;
            }
        }
        assert!(receiver.nxt > 400_000, "it goes on");
        assert!(receiver.advertised() <= 20_000);
    }

    #[test]
    fn octets_that_nobody_fetches_are_kept_together() {
        let mut receiver = DataReceiver::new(100_000);
        receiver.advertise(2, 1460);
        for _ in 0..100_000 {
            receiver.insert(Instant::ZERO, receiver.nxt, octets(7..8));
        }
        assert_eq!(receiver.queued(), 100_000);
        assert!(receiver.ready.len() < 40, "{}", receiver.ready.len());
    }

    #[test]
    //= RFC 8684 3.3.4-1 (test)
    fn the_right_edge_of_the_window_never_moves_left() {
        let mut receiver = DataReceiver::new(50);
        assert_eq!(receiver.advertise(0, 1), 50);
        receiver.insert(Instant::ZERO, 0, octets(0..40));
        assert_eq!(receiver.advertise(0, 1), 10);
        receiver.insert(Instant::ZERO, 40, octets(40..60));
        assert_eq!((receiver.nxt, receiver.advertise(0, 1)), (50, 0));
        let mut out = Vec::new();
        receiver.take(20, &mut out);
        assert_eq!(receiver.advertise(0, 1), 0);
        receiver.consumed(20);
        assert_eq!(receiver.window_growth(0), 20);
        assert_eq!(receiver.advertise(3, 1), 2);
        assert_eq!(receiver.advertised(), 16);
        // A smaller field of a larger scale takes nothing back.
        assert_eq!(receiver.advertise(5, 20), 0);
        assert!(receiver.insert(Instant::ZERO, 50, octets(0..16)));
        assert_eq!(receiver.nxt, 66);
    }

    /// The peer has the window rounded up with each acknowledgment if it can: octet by octet it would never end.
    #[test]
    fn no_peer_gets_more_into_the_buffer_than_it_holds() {
        for scale in 0..=14 {
            for piece in [1, 7, 100, 255] {
                let capacity = 40_000;
                let mut receiver = DataReceiver::new(capacity);
                let mut edge = 0;
                for _ in 0..80_000 {
                    let field = receiver.advertise(scale, 1460);
                    let told = receiver.nxt + (u64::from(field) << scale);
                    assert!(told <= capacity, "scale {scale}: {told}");
                    assert!(told + (1 << scale) > edge, "scale {scale}: {told} after {edge}");
                    edge = edge.max(told);
                    if !receiver.insert(Instant::ZERO, receiver.nxt, octets(0..piece)) {
                        break;
                    }
                }
                assert_eq!(receiver.nxt, edge, "what was promised is taken");
                assert!(receiver.queued() <= capacity);
            }
        }
    }

    #[test]
    fn the_window_opens_in_worthwhile_steps() {
        let mut receiver = DataReceiver::new(10_000);
        receiver.advertise(0, 1460);
        while receiver.insert(Instant::ZERO, receiver.nxt, octets(0..250)) {}
        assert_eq!((receiver.nxt, receiver.advertise(0, 1460)), (10_000, 0));
        let mut told = 0;
        for _ in 0..10_000 {
            receiver.take(1, &mut Vec::new());
            receiver.consumed(1);
            let field = receiver.advertise(0, 1460);
            let news = u64::from(field) - told;
            assert!(news == 0 || news >= 1460, "{news}");
            told += news;
        }
        assert_eq!(told, 8760);
        // Where the buffer is smaller than a segment, half of it is worthwhile.
        let mut receiver = DataReceiver::new(1000);
        receiver.advertise(0, 8960);
        while receiver.insert(Instant::ZERO, receiver.nxt, octets(0..250)) {}
        receiver.take(499, &mut Vec::new());
        receiver.consumed(499);
        assert!(!receiver.owes_update(0, 8960));
        assert_eq!(receiver.advertise(0, 8960), 0);
        receiver.take(1, &mut Vec::new());
        receiver.consumed(1);
        assert!(receiver.owes_update(0, 8960));
        assert_eq!(receiver.advertise(0, 8960), 500);
    }

    #[test]
    fn what_was_acknowledged_is_not_sent_again() {
        let mut sender = DataSender::default();
        sender.buffer.push(Bytes::from(vec![0; 100]));
        sender.nxt = 100;
        sender.reinject(10, 30, 0);
        sender.reinject(30, 40, 0);
        sender.reinject(15, 20, 0);
        sender.acknowledge(20);
        assert_eq!(sender.next_reinjection(), Some(Reinjection { start: 20, end: 40, not_on: 0 }));
        sender.reinjected(5);
        sender.acknowledge(39);
        assert_eq!(sender.next_reinjection(), Some(Reinjection { start: 39, end: 40, not_on: 0 }));
        sender.acknowledge(100);
        assert_eq!(sender.next_reinjection(), None);
    }

    #[test]
    fn ranges_are_queued_in_order_joined_and_not_twice() {
        let mut sender = DataSender::default();
        sender.buffer.push(vec![0; 1000].into());
        sender.nxt = 1000;
        let queue = |sender: &DataSender| sender.reinjections.queue();
        let gaps = [(100, 200), (200, 250), (300, 400)];
        assert_eq!(sender.reinject_all(gaps.into_iter(), 0), 250);
        assert_eq!(queue(&sender), [(100, 250, 0), (300, 400, 0)]);
        sender.reinject_all(gaps.into_iter(), 0);
        assert_eq!(queue(&sender), [(100, 250, 0), (300, 400, 0)], "they are there already");
        sender.reinject_all([(250, 280), (400, 450), (450, 500)].into_iter(), 1);
        assert_eq!(
            queue(&sender),
            [(100, 250, 0), (300, 400, 0), (250, 280, 1), (400, 500, 1)],
            "another subflow's are kept apart"
        );
        sender.reinject(280, 290, 1);
        assert_eq!(queue(&sender)[2], (250, 290, 1), "joined, though others are behind it");
        sender.acknowledge(1000);
        sender.reinject_all([(100, 200)].into_iter(), 0);
        assert!(queue(&sender).is_empty());
    }
}
