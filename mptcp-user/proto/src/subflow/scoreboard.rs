//! The scoreboard: everything in flight on a subflow, and what is known of its fate (RFC 2018 section 5, RFC 6675
//! section 3). It counts; who decides what is lost are [`Rack`](super::rack::Rack), duplicate acknowledgments and
//! the retransmission timer.
//!
//! A peer decides in which order things are reported, so that no acknowledgment may cost more because of
//! those before it: records are found by bisection, blocks that were reported before are skipped as a whole
//! ([`Sacked`]), lost records are kept in a set, and RACK walks those of unknown fate in the order in which
//! they were sent and stops at the first that it can't judge. A record is cut in two only when a part of it
//! is sent again.

use super::rate::Snapshot;
use super::record::{Packets, Record};
use super::sacked::Sacked;
use crate::Instant;
use crate::congestion::LossSample;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// A record, or a part of one, that was delivered just now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    pub(super) octets: u64,
    /// Offset behind the last octet.
    pub(super) end: u64,
    pub(super) sent_at: Instant,
    pub(super) retransmitted: bool,
    pub(super) probe: bool,
    pub(super) snapshot: Snapshot,
}

impl Delivery {
    fn new(octets: u64, end: u64, record: &Record) -> Self {
        let (sent_at, retransmitted, snapshot) = (record.sent_at, record.retransmitted, record.snapshot);
        Self { octets, end, sent_at, retransmitted, probe: record.probe, snapshot }
    }
}

/// A record's place in storage; it stays the same as long as the record is in flight.
type Id = u32;

/// A record with its neighbours in the order in which records of unknown fate were sent.
#[derive(Debug)]
struct Slot {
    record: Record,
    before: Option<Id>,
    behind: Option<Id>,
    /// It is in that order.
    listed: bool,
}

/// Everything sent and not acknowledged cumulatively.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Scoreboard {
    #[serde(skip)]
    slots: Vec<Slot>,
    #[serde(skip)]
    vacant: Vec<Id>,
    /// All records in the order of the sequence space, each with its start.
    #[serde(skip)]
    order: VecDeque<(u64, Id)>,
    /// The first and the last record of unknown fate, by the time at which they were sent.
    #[serde(skip)]
    oldest: Option<Id>,
    #[serde(skip)]
    newest: Option<Id>,
    /// Records with lost packets, in the order of the sequence space.
    #[serde(skip)]
    with_losses: BTreeSet<(u64, Id)>,
    #[serde(skip)]
    blocks: Sacked,
    octets: u64,
    sacked: u64,
    lost: u64,
    /// Octets found lost in all, until the last report, and what the last of them were sent with.
    ever_lost: u64,
    reported_lost: u64,
    newest_lost: Option<Snapshot>,
    /// Octets that duplicate acknowledgments without SACK stand for.
    presumed: u64,
    /// A probe was found lost.
    probe_lost: bool,
}

impl Scoreboard {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Octets in flight: sent, and neither delivered nor lost as far as is known (RFC 6675, pipe).
    pub(super) fn in_flight(&self) -> u64 {
        self.octets.saturating_sub(self.sacked + self.lost + self.presumed)
    }

    /// Octets that were found lost so far, those that then arrived included.
    pub(super) fn ever_lost(&self) -> u64 {
        self.ever_lost
    }

    /// What was found lost since the last report.
    pub(super) fn report_loss(&mut self) -> Option<LossSample> {
        let octets = self.ever_lost - std::mem::replace(&mut self.reported_lost, self.ever_lost);
        Some(self.newest_lost.take()?.loss(octets, self.ever_lost))
    }

    /// Octets that the peer has beyond the first gap.
    pub(super) fn sacked(&self) -> u64 {
        self.sacked
    }

    /// Something is lost and was not sent again.
    pub(super) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Records with lost packets.
    pub(super) fn losses(&self) -> usize {
        self.with_losses.len()
    }

    /// Where the first record with lost packets begins.
    pub(super) fn first_loss(&self) -> Option<u64> {
        self.with_losses.first().map(|(start, _)| *start)
    }

    /// What keeping the records costs, without their octets.
    pub(super) fn cost(&self) -> u64 {
        let record = size_of::<Slot>() + size_of::<(u64, Id)>();
        let lost = self.with_losses.len() * 2 * size_of::<(u64, Id)>();
        (self.order.len() * record + lost + self.blocks.cost()) as u64
    }

    fn record(&self, id: Id) -> &Record {
        &self.slots[id as usize].record
    }

    fn record_mut(&mut self, id: Id) -> &mut Record {
        &mut self.slots[id as usize].record
    }

    fn first(&self) -> Option<&Record> {
        self.order.front().map(|(_, id)| self.record(*id))
    }

    fn in_order(&self) -> impl DoubleEndedIterator<Item = &Record> + '_ {
        self.order.iter().map(|(_, id)| self.record(*id))
    }

    /// When the oldest of what is in flight was sent last. While something is recovered, that is not the
    /// first record: it has been sent again.
    pub(super) fn oldest_sent_at(&self) -> Option<Instant> {
        self.oldest.map(|id| self.record(id)).or(self.first()).map(|record| record.sent_at)
    }

    /// What was sent just now.
    pub(super) fn push(&mut self, record: Record) -> &Record {
        self.octets += record.len();
        let start = record.start;
        let id = self.store(record);
        if self.order.capacity() == 0 {
            self.order.reserve_exact(1);
        }
        self.order.push_back((start, id));
        self.list_behind(self.newest, id);
        self.record(id)
    }

    /// What was sent last, from `start` on, leaves in packets of exactly so many octets.
    pub(super) fn tell_apart(&mut self, start: u64, packet: u64) {
        if let Some(record) = self.newest.map(|id| self.record_mut(id)).filter(|record| record.start == start)
        {
            record.tell_apart(packet);
        }
    }

    fn store(&mut self, record: Record) -> Id {
        let slot = Slot { record, before: None, behind: None, listed: false };
        if let Some(id) = self.vacant.pop() {
            self.slots[id as usize] = slot;
            return id;
        }
        if self.slots.capacity() == 0 {
            // Many a connection never has more in flight than this.
            self.slots.reserve_exact(1);
        }
        self.slots.push(slot);
        self.slots.len() as Id - 1
    }

    /// Puts a record behind another one in the order of sending, or before all others.
    fn list_behind(&mut self, before: Option<Id>, id: Id) {
        let behind = match before {
            Some(before) => self.slots[before as usize].behind.replace(id),
            None => self.oldest.replace(id),
        };
        match behind {
            Some(behind) => self.slots[behind as usize].before = Some(id),
            None => self.newest = Some(id),
        }
        let slot = &mut self.slots[id as usize];
        (slot.before, slot.behind, slot.listed) = (before, behind, true);
    }

    /// Takes a record out of the order of sending.
    fn unlist(&mut self, id: Id) {
        let slot = &mut self.slots[id as usize];
        if !std::mem::take(&mut slot.listed) {
            return;
        }
        let (before, behind) = (slot.before.take(), slot.behind.take());
        match before {
            Some(before) => self.slots[before as usize].behind = behind,
            None => self.oldest = behind,
        }
        match behind {
            Some(behind) => self.slots[behind as usize].before = before,
            None => self.newest = before,
        }
    }

    /// Takes a record out of the order of sending unless RACK has something to judge in it.
    fn unlist_decided(&mut self, id: Id) {
        if self.record(id).undecided() == 0 {
            self.unlist(id);
        }
    }

    /// Place of the record that has the octet at `offset`, or the next one.
    fn place_of(&self, offset: u64) -> usize {
        let behind = self.order.partition_point(|(start, _)| *start <= offset);
        match behind.checked_sub(1) {
            Some(place) if self.record(self.order[place].1).end() > offset => place,
            _ => behind,
        }
    }

    /// Mappings of everything that the peer has not acknowledged cumulatively. What it has only acknowledged selectively is
    /// no use to it before what is missing has come: a host may leave it with the subflow until then, as Linux does.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.in_order().filter_map(Record::data)
    }

    /// Those of them that the peer has not acknowledged selectively either.
    pub(super) fn undelivered(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.in_order().flat_map(|record| record.data_in(record.missing()))
    }

    /// Those of them that begin before `offset`.
    pub(super) fn undelivered_before(&self, offset: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = self.in_order().take_while(move |record| record.start < offset);
        before.flat_map(|record| record.data_in(record.missing()))
    }

    /// The first lost packets that follow each other within a record, at most `limit` octets of them.
    pub(super) fn first_lost(&mut self, limit: u64) -> Option<Id> {
        let &(_, id) = self.with_losses.first()?;
        let record = self.record(id);
        let (from, to) = record.first_run(record.lost);
        Some(self.isolate(id, from, to.min(from.saturating_add(limit.max(1)))))
    }

    /// The last packet that was not delivered, at most its last `limit` octets.
    pub(super) fn last_undelivered(&mut self, limit: u64) -> Option<Id> {
        let &(_, id) = self.order.iter().rev().find(|(_, id)| self.record(*id).missing() != 0)?;
        let record = self.record(id);
        let (from, to) = record.last_run(record.missing());
        Some(self.isolate(id, from.max(to.saturating_sub(limit.max(1))), to))
    }

    /// A part of a record gets a record of its own.
    fn isolate(&mut self, id: Id, from: u64, to: u64) -> Id {
        let start = self.record(id).start;
        let id = if from > start { self.split(id, from - start) } else { id };
        let record = self.record(id);
        if record.end() > to {
            self.split(id, to - record.start);
        }
        id
    }

    /// Cuts a record in two; the first part gets `octets`. Gives the other one.
    fn split(&mut self, id: Id, octets: u64) -> Id {
        let record = self.record_mut(id);
        let rest = record.split_off(octets);
        let (start, kept_lost, rest_lost) = (record.start, record.lost, rest.lost);
        let (cut, undecided) = (rest.start, rest.undecided());
        let listed = self.slots[id as usize].listed;
        let new = self.store(rest);
        let place = self.order.partition_point(|(other, _)| *other <= start);
        self.order.insert(place, (cut, new));
        if listed && undecided != 0 {
            self.list_behind(Some(id), new);
        }
        if rest_lost != 0 {
            self.with_losses.insert((cut, new));
            if kept_lost == 0 {
                self.with_losses.remove(&(start, id));
            }
        }
        self.unlist_decided(id);
        new
    }

    /// Octets of a record.
    pub(super) fn octets_of(&self, id: Id) -> u64 {
        self.record(id).len()
    }

    /// A record, none of which was delivered, is being sent again in packets of this size.
    pub(super) fn resend(&mut self, id: Id, now: Instant, packet: u64) -> &mut Record {
        let record = self.record_mut(id);
        let (start, lost) = (record.start, record.octets(record.lost));
        record.retransmitted = true;
        record.probe = false;
        record.sent_at = now;
        record.cut_into(packet);
        if lost > 0 {
            self.lost -= lost;
            self.with_losses.remove(&(start, id));
        }
        self.unlist(id);
        self.list_behind(self.newest, id);
        self.record_mut(id)
    }

    /// Everything before `ack` is acknowledged; `delivered` hears of what was not known to be delivered.
    pub(super) fn acknowledge(&mut self, ack: u64, mut delivered: impl FnMut(Delivery)) {
        while let Some(&(start, id)) = self.order.front() {
            if start >= ack {
                break;
            }
            let record = self.record(id);
            let (whole, reached) = (record.end() <= ack, record.end().min(ack));
            let octets = reached - start;
            let sacked = if record.sacked == 0 { 0 } else { record.octets_before(record.sacked, reached) };
            if octets > sacked {
                let end = match record.sacked {
                    0 => reached,
                    _ => record.last_run(record.missing() & !record.within(reached, u64::MAX)).1.min(reached),
                };
                delivered(Delivery::new(octets - sacked, end, record));
            }
            let had_lost = record.lost != 0;
            if had_lost {
                self.lost -= record.octets_before(record.lost, reached);
                self.with_losses.remove(&(start, id));
            }
            self.octets -= octets;
            self.sacked -= sacked;
            if whole {
                self.order.pop_front();
                self.unlist(id);
                self.vacate(id);
                continue;
            }
            let record = self.record_mut(id);
            record.skip(octets);
            let (start, lost) = (record.start, record.lost != 0);
            self.order[0].0 = start;
            if lost {
                self.with_losses.insert((start, id));
            }
            self.unlist_decided(id);
            break;
        }
        self.blocks.acknowledge(ack);
    }

    /// The record is gone: its octets must not be held on to.
    fn vacate(&mut self, id: Id) {
        self.record_mut(id).payload = crate::wire::Payload::new();
        if self.order.is_empty() {
            self.slots.clear();
            self.vacant.clear();
        } else {
            self.vacant.push(id);
        }
    }

    /// Without SACK: a duplicate acknowledgment says that another segment has arrived. Gives the octets that count as
    /// delivered with it (RFC 6937 section 3).
    pub(super) fn presume_delivered(&mut self, mss: u64) -> u64 {
        let octets = mss.min(self.in_flight());
        self.presumed += octets;
        octets
    }

    /// Without SACK: of `acked` octets all but the segment that filled the gap were presumed delivered before. Gives
    /// how many were.
    pub(super) fn settle_presumed(&mut self, acked: u64, mss: u64) -> u64 {
        let rest = if self.is_empty() { self.presumed } else { self.presumed.min(acked.saturating_sub(mss)) };
        self.presumed -= rest;
        rest.min(acked)
    }

    /// The peer has `start..end`, out of order; `delivered` hears of what is news in it, in whole packets.
    pub(super) fn sack(&mut self, start: u64, end: u64, mut delivered: impl FnMut(Delivery)) {
        let mut at = start;
        while let Some((from, to)) = self.blocks.first_gap(at, end) {
            self.sack_gap(from, to, &mut delivered);
            at = to;
        }
    }

    /// Nothing of `from..to` was reported before.
    fn sack_gap(&mut self, from: u64, to: u64, delivered: &mut impl FnMut(Delivery)) {
        let mut news: Option<(u64, u64)> = None;
        for place in self.place_of(from).. {
            let Some(&(start, id)) = self.order.get(place).filter(|(start, _)| *start < to) else { break };
            let record = self.record_mut(id);
            let packets = record.within(from, to) & record.missing();
            if packets == 0 {
                continue;
            }
            let had_lost = record.lost != 0;
            let (octets, lost) = (record.octets(packets), record.octets(record.lost & packets));
            record.sacked |= packets;
            record.lost &= !packets;
            let still_lost = record.lost != 0;
            let (first, end) = record.first_run(packets);
            delivered(Delivery::new(octets, end, record));
            self.sacked += octets;
            self.lost -= lost;
            if had_lost && !still_lost {
                self.with_losses.remove(&(start, id));
            }
            self.unlist_decided(id);
            news = Some((news.map_or(first, |(first, _)| first), end));
        }
        if let Some((first, end)) = news {
            self.blocks.fill(first, end);
        }
    }

    /// Whether a probe of the path's MTU was found lost since this was asked last.
    pub(super) fn take_lost_probe(&mut self) -> bool {
        std::mem::take(&mut self.probe_lost)
    }

    /// What was sent last is a probe of the path's MTU.
    pub(super) fn mark_probe(&mut self) {
        if let Some(&(_, id)) = self.order.back() {
            let record = self.record_mut(id);
            record.cut_into(record.len());
            record.probe = true;
        }
    }

    /// Octets of the packets that the first record was sent in.
    pub(super) fn first_packet(&self) -> u64 {
        self.first().map_or(0, Record::largest_packet)
    }

    /// What is in flight in packets of more than `limit` octets is lost; it says nothing of congestion.
    pub(super) fn lose_larger(&mut self, limit: u64) {
        for place in 0..self.order.len() {
            let id = self.order[place].1;
            if self.record(id).largest_packet() > limit {
                self.mark_lost(id, Packets::MAX);
            }
        }
    }

    /// Judges everything of unknown fate that was sent before what was `delivered` (when that was sent, and
    /// its end): `remaining` says how long something may still be on its way that was sent at a time. Says
    /// whether anything was found lost that says something of congestion, and how long until the next one
    /// must be unless it is delivered before.
    pub(super) fn judge(
        &mut self,
        delivered: (Instant, u64),
        remaining: impl Fn(Instant) -> Duration,
    ) -> (bool, Option<Duration>) {
        let mut found = false;
        let mut next = self.oldest;
        while let Some(id) = next {
            let record = self.record(id);
            next = self.slots[id as usize].behind;
            let before = match record.sent_at {
                sent_at if sent_at < delivered.0 => Packets::MAX,
                sent_at if sent_at > delivered.0 => 0,
                // Of a record that was sent at once the packets before the one delivered.
                _ => record.within(0, delivered.1.saturating_sub(1)),
            };
            let packets = record.undecided() & before;
            if packets == 0 {
                break;
            }
            let remaining = remaining(record.sent_at);
            if !remaining.is_zero() {
                return (found, Some(remaining));
            }
            found |= self.lose(id, packets);
        }
        (found, None)
    }

    /// Packets are lost, as far as their fate was unknown. Whether that says something of congestion: not so
    /// a probe of the path's MTU (RFC 4821 section 7.5).
    fn lose(&mut self, id: Id, packets: Packets) -> bool {
        let octets = self.mark_lost(id, packets);
        if octets == 0 {
            return false;
        }
        let record = &self.slots[id as usize].record;
        if record.probe {
            self.probe_lost = true;
            return false;
        }
        self.ever_lost += octets;
        self.newest_lost = Some(record.snapshot);
        true
    }

    fn mark_lost(&mut self, id: Id, packets: Packets) -> u64 {
        let record = self.record_mut(id);
        let packets = packets & record.undecided();
        if packets == 0 {
            return 0;
        }
        let octets = record.octets(packets);
        record.lost |= packets;
        let start = record.start;
        self.lost += octets;
        self.with_losses.insert((start, id));
        self.unlist_decided(id);
        octets
    }

    /// The first octets, at most `limit`, are lost; a probe of the path's MTU is lost whole, which says nothing of
    /// congestion (`false`).
    pub(super) fn lose_first(&mut self, limit: u64) -> bool {
        let Some(&(start, id)) = self.order.front() else { return true };
        if self.record(id).probe {
            self.lose(id, Packets::MAX);
            self.probe_lost = true;
            return false;
        }
        self.isolate(id, start, start.saturating_add(limit.max(1)));
        self.lose(id, Packets::MAX);
        true
    }

    /// Everything that the peer is not known to have is lost. If the peer had the first packet still, it
    /// would have acknowledged it: then it has dropped what it had reported (RFC 2018 section 8), and may
    /// have dropped all.
    pub(super) fn lose_all(&mut self) {
        self.presumed = 0;
        if self.first().is_some_and(|first| first.sacked & 1 != 0) {
            for slot in &mut self.slots {
                slot.record.sacked = 0;
            }
            self.sacked = 0;
            self.blocks.clear();
        }
        for place in 0..self.order.len() {
            self.lose(self.order[place].1, Packets::MAX);
        }
    }

    /// Nothing is lost after all. `judged`: what was found lost until now may be found lost again; otherwise
    /// it is left to the retransmission timer, as long as it is not sent again.
    pub(super) fn find_all(&mut self, judged: bool) {
        let mut found: Vec<_> = std::mem::take(&mut self.with_losses)
            .into_iter()
            .map(|(_, id)| {
                let record = self.record_mut(id);
                record.lost = 0;
                (record.sent_at, record.start, id)
            })
            .collect();
        self.lost = 0;
        if !judged {
            return;
        }
        found.sort_unstable();
        for (_, _, id) in &found {
            self.unlist(*id);
        }
        // Nearly all of them were sent before what is not lost.
        let (mut before, mut next) = (None, self.oldest);
        for (sent_at, _, id) in found {
            while let Some(listed) = next.filter(|listed| self.record(*listed).sent_at <= sent_at) {
                (before, next) = (Some(listed), self.slots[listed as usize].behind);
            }
            self.list_behind(before, id);
            before = Some(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Payload;

    const PACKET: u64 = 500;

    /// Three records of 1000 octets in two packets each, sent a millisecond apart.
    fn board() -> Scoreboard {
        let mut board = Scoreboard::default();
        for place in 0..3u64 {
            let octets = Payload::from(bytes::Bytes::from(vec![0; 1000]));
            let now = Instant::from_nanos(place * 1_000_000);
            board.push(Record::new(now, 1 + place * 1000, octets, None, false, PACKET));
        }
        board
    }

    /// Everything sent before this time is lost.
    fn lose_before(board: &mut Scoreboard, millis: u64) -> bool {
        board.judge((Instant::from_nanos(millis * 1_000_000), 0), |_| Duration::ZERO).0
    }

    #[test]
    fn selective_and_cumulative_acknowledgments_deliver_each_octet_once() {
        let mut board = board();
        let mut delivered = Vec::new();
        board.sack(1501, 2501, |delivery| delivered.push((delivery.octets, delivery.end)));
        board.sack(1501, 2501, |delivery| delivered.push((delivery.octets, delivery.end)));
        assert_eq!(delivered, [(500, 2001), (500, 2501)]);
        assert_eq!((board.sacked(), board.in_flight()), (1000, 2000));
        delivered.clear();
        board.acknowledge(2601, |delivery| delivered.push((delivery.octets, delivery.end)));
        assert_eq!(delivered, [(1000, 1001), (500, 1501), (100, 2601)]);
        assert_eq!((board.sacked(), board.in_flight()), (0, 400));
        board.acknowledge(3001, |_| {});
        assert!(board.is_empty() && board.cost() == 0 && board.in_flight() == 0);
    }

    /// RFC 2018 section 3: a block says that a receiver has octets, and receivers have packets.
    #[test]
    fn blocks_are_rounded_inwards_to_the_packets_that_were_sent() {
        let mut board = board();
        for (start, end, expected) in
            [(2, 1001, 500), (502, 1000, 0), (1001, 1500, 0), (700, 1502, 500), (2501, 3001, 500)]
        {
            let mut octets = 0;
            board.sack(start, end, |delivery| octets += delivery.octets);
            assert_eq!(octets, expected, "{start}..{end}");
        }
        assert_eq!(board.sacked(), 1500);
    }

    #[test]
    fn single_octets_make_nothing_grow() {
        let mut board = board();
        let before = board.cost();
        for octet in (2..3000).filter(|octet| octet % 500 != 1) {
            board.sack(octet, octet + 1, |_| panic!("no packet has one octet"));
        }
        assert_eq!((board.cost(), board.sacked()), (before, 0));
    }

    #[test]
    fn what_is_lost_leaves_the_network_until_it_is_sent_again() {
        let mut board = board();
        assert!(lose_before(&mut board, 2));
        assert_eq!((board.has_lost(), board.in_flight()), (true, 1000));
        let index = board.first_lost(300).unwrap();
        let again = board.resend(index, Instant::from_nanos(5_000_000), 300);
        assert_eq!((again.start, again.len()), (1, 300));
        assert_eq!(board.in_flight(), 1300);
        // The first record's rest is next.
        let index = board.first_lost(u64::MAX).unwrap();
        assert_eq!(board.resend(index, Instant::from_nanos(6_000_000), 300).start, 301);
        assert_eq!(board.in_flight(), 2000);
        board.find_all(true);
        assert_eq!((board.has_lost(), board.in_flight()), (false, 3000));
        // In the order of sending: the second record, the third, then what was sent again.
        assert!(lose_before(&mut board, 6));
        assert_eq!(board.in_flight(), 700);
    }

    #[test]
    fn packets_before_one_that_arrived_are_lost_and_those_behind_it_are_not() {
        let mut board = Scoreboard::default();
        let octets = Payload::from(bytes::Bytes::from(vec![0; 5000]));
        board.push(Record::new(Instant::ZERO, 1, octets, None, false, PACKET));
        board.sack(1501, 2001, |_| {});
        let judged = board.judge((Instant::ZERO, 2001), |_| Duration::from_millis(1));
        assert_eq!(judged, (false, Some(Duration::from_millis(1))));
        assert!(board.judge((Instant::ZERO, 2001), |_| Duration::ZERO).0);
        assert_eq!(board.in_flight(), 3000);
        let index = board.first_lost(1000).unwrap();
        let again = board.resend(index, Instant::from_nanos(1), PACKET);
        assert_eq!((again.start, again.end()), (1, 1001));
        let index = board.first_lost(1000).unwrap();
        assert_eq!(board.record(index).end(), 1501);
        assert_eq!((board.first_packet(), board.in_flight()), (500, 4000));
    }

    #[test]
    fn a_report_that_the_peer_took_back_is_not_believed_for_ever() {
        let mut board = board();
        board.sack(1, 2001, |_| {});
        board.lose_all();
        assert_eq!((board.sacked(), board.in_flight()), (0, 0));
        let first = board.first_lost(u64::MAX).unwrap();
        assert_eq!(board.record(first).start, 1);
        // And what it reports anew is news.
        let mut octets = 0;
        board.sack(1001, 2001, |delivery| octets += delivery.octets);
        assert_eq!(octets, 1000);
    }

    #[test]
    fn the_tail_is_the_last_packet_that_was_not_delivered() {
        let mut board = board();
        board.sack(2001, 3001, |_| {});
        let index = board.last_undelivered(400).unwrap();
        let tail = board.resend(index, Instant::ZERO, PACKET);
        assert_eq!((tail.start, tail.end()), (1601, 2001));
    }

    /// Whatever the peer says and whatever is sent again: the counters are those of the records.
    #[test]
    fn counters_follow_the_records() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(7);
        for _ in 0..200 {
            let mut board = Scoreboard::default();
            let (mut nxt, mut una, mut now) = (1u64, 1u64, 0u64);
            for _ in 0..300 {
                now += rng.random_range(0..1000);
                let at = Instant::from_nanos(now);
                match rng.random_range(0..10) {
                    0..3 => {
                        let len = rng.random_range(1..8000u64);
                        let octets = Payload::from(vec![0; len as usize]);
                        let packet = rng.random_range(90..1500);
                        board.push(Record::new(at, nxt, octets, None, false, packet));
                        nxt += len;
                    }
                    3 if una < nxt => {
                        una = rng.random_range(una..=nxt.min(una + 6000));
                        board.acknowledge(una, |_| {});
                    }
                    4..6 if una < nxt => {
                        let start = rng.random_range(una..nxt);
                        board.sack(start, rng.random_range(start + 1..=nxt), |_| {});
                    }
                    6 => {
                        let sent = Instant::from_nanos(rng.random_range(0..=now));
                        board.judge((sent, rng.random_range(1..=nxt)), |_| Duration::ZERO);
                    }
                    7 => {
                        if let Some(id) = board.first_lost(rng.random_range(1..5000)) {
                            board.resend(id, at, rng.random_range(90..1500));
                        }
                    }
                    8 => {
                        if let Some(id) = board.last_undelivered(rng.random_range(1..1500)) {
                            board.resend(id, at, rng.random_range(90..1500));
                        }
                    }
                    _ => match rng.random_range(0..6) {
                        0 => board.lose_all(),
                        1 => board.find_all(true),
                        2 => board.find_all(false),
                        3 => board.lose_larger(700),
                        _ => drop(board.lose_first(1000)),
                    },
                }
                check(&board, una, nxt);
            }
        }
    }

    fn check(board: &Scoreboard, una: u64, nxt: u64) {
        let sum = |octets: fn(&Record) -> u64| board.in_order().map(octets).sum::<u64>();
        assert_eq!(board.octets, sum(Record::len));
        assert_eq!(board.octets, nxt - una);
        assert_eq!(board.sacked, sum(|record| record.octets(record.sacked)));
        assert_eq!(board.lost, sum(|record| record.octets(record.lost)));
        assert!(board.in_order().all(|record| record.sacked & record.lost == 0 && record.len() > 0));
        let mut at = una;
        for &(start, id) in &board.order {
            assert_eq!((start, board.record(id).start), (at, at));
            at = board.record(id).end();
            assert_eq!(board.with_losses.contains(&(start, id)), board.record(id).lost != 0);
            assert!(!board.slots[id as usize].listed || board.record(id).undecided() != 0);
        }
        let (mut next, mut last, mut listed) = (board.oldest, Instant::ZERO, 0);
        while let Some(id) = next {
            let slot = &board.slots[id as usize];
            assert!(slot.listed && slot.record.sent_at >= last);
            (last, next, listed) = (slot.record.sent_at, slot.behind, listed + 1);
        }
        let all = board.order.iter().filter(|(_, id)| board.slots[*id as usize].listed);
        assert_eq!(listed, all.count());
    }
}
