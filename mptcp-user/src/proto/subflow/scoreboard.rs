//! The scoreboard: everything in flight on a subflow, and what is known of its fate (RFC 2018 section 5, RFC 6675
//! section 3). It counts; who decides what is lost are [`Rack`](super::rack::Rack), duplicate acknowledgments and
//! the retransmission timer.

use super::rate::Snapshot;
use crate::proto::Instant;
use crate::proto::congestion::LossSample;
use crate::wire::Payload;
use std::collections::VecDeque;

/// A data sequence mapping as it was sent; retransmissions repeat it unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TxMapping {
    /// Offset in the data stream of the first octet.
    pub(crate) data: u64,
    /// Relative subflow sequence number of the first octet.
    pub(crate) subflow_seq: u32,
    /// Octets, without a DATA_FIN.
    pub(crate) len: u16,
    /// The data ends with the mapping.
    pub(crate) fin: bool,
    /// DSS checksum, where negotiated.
    pub(crate) checksum: Option<u16>,
}

/// Something in flight: a (super-)segment or the part of one that has its own fate by now.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Offset in sequence space: the SYN is 0, the first data 1.
    pub(crate) start: u64,
    pub(crate) payload: Payload,
    pub(crate) mapping: Option<TxMapping>,
    /// The subflow's FIN comes after the payload.
    pub(crate) fin: bool,
    /// Octets of it in each packet, as it was sent last.
    pub(super) packet: u64,
    /// It is a probe of the path's MTU: one packet, larger than others are. Not any more once it is sent again.
    pub(super) probe: bool,
    pub(super) sent_at: Instant,
    pub(crate) retransmitted: bool,
    /// What the rate sampler knew when it was sent last.
    pub(super) snapshot: Snapshot,
    sacked: bool,
    lost: bool,
}

impl Record {
    /// Something that is sent for the first time.
    pub(super) fn new(
        now: Instant,
        start: u64,
        payload: Payload,
        mapping: Option<TxMapping>,
        fin: bool,
    ) -> Self {
        let (retransmitted, sacked, lost) = (false, false, false);
        let snapshot = Snapshot::default();
        let (packet, probe) = (u64::MAX, false);
        Self {
            start,
            payload,
            mapping,
            fin,
            packet,
            probe,
            sent_at: now,
            retransmitted,
            snapshot,
            sacked,
            lost,
        }
    }

    /// The part of the data stream that it has.
    fn data(&self) -> Option<(u64, u64)> {
        let mapping = self.mapping?;
        let skipped = (self.start as u32).wrapping_sub(mapping.subflow_seq);
        let start = mapping.data + u64::from(skipped);
        Some((start, start + self.payload.len() as u64))
    }

    /// Octets of sequence space.
    pub(super) fn len(&self) -> u64 {
        self.payload.len() as u64 + u64::from(self.fin)
    }
    /// Offset behind the last octet.
    pub(super) fn end(&self) -> u64 {
        self.start + self.len()
    }
}

/// A record, or the first part of one, that was delivered just now.
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

/// What a loss detector says of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It can't be judged: nothing that was sent later has been delivered.
    Open,
    /// It may still be delivered.
    Pending,
    Lost,
}

/// Everything sent and not acknowledged cumulatively, in the order of the sequence space.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Scoreboard {
    #[serde(skip)]
    records: VecDeque<Record>,
    octets: u64,
    sacked: u64,
    lost: u64,
    /// Octets found lost in all, until the last report, and what the last of them were sent with.
    ever_lost: u64,
    reported_lost: u64,
    newest_lost: Option<Snapshot>,
    /// Octets that duplicate acknowledgments without SACK stand for.
    presumed: u64,
    /// Records that were sent more than once.
    retransmitted: usize,
    /// A probe was found lost.
    probe_lost: bool,
}

impl Scoreboard {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
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

    /// When the first of what is not acknowledged was sent last.
    pub(super) fn oldest_sent_at(&self) -> Option<Instant> {
        self.records.front().map(|record| record.sent_at)
    }

    /// What was sent just now.
    pub(super) fn push(&mut self, record: Record) -> &Record {
        self.octets += record.len();
        if self.records.capacity() == 0 {
            // Many a connection never has more in flight than this.
            self.records.reserve_exact(1);
        }
        self.records.push_back(record);
        &self.records[self.records.len() - 1]
    }

    /// Mappings of everything that the peer has not acknowledged cumulatively. What it has only acknowledged selectively is
    /// no use to it before what is missing has come: a host may leave it with the subflow until then, as Linux does.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.records.iter().filter_map(Record::data)
    }

    /// Those of them that the peer has not acknowledged selectively either.
    pub(super) fn undelivered(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.records.iter().filter(|record| !record.sacked).filter_map(Record::data)
    }

    /// The first record that is lost, at most `limit` octets of it.
    pub(super) fn first_lost(&mut self, limit: u64) -> Option<usize> {
        let index = self.records.iter().position(|record| record.lost)?;
        if self.records[index].len() > limit {
            self.split(index, limit.max(1));
        }
        Some(index)
    }

    /// The last record that was not delivered, at most its last `limit` octets.
    pub(super) fn last_undelivered(&mut self, limit: u64) -> Option<usize> {
        let index = self.records.iter().rposition(|record| !record.sacked)?;
        let len = self.records[index].len();
        if len <= limit {
            return Some(index);
        }
        self.split(index, len - limit.max(1));
        Some(index + 1)
    }

    /// Octets of a record.
    pub(super) fn octets_of(&self, index: usize) -> u64 {
        self.records[index].len()
    }

    /// A record is being sent again.
    pub(super) fn resend(&mut self, index: usize, now: Instant) -> &mut Record {
        let record = &mut self.records[index];
        let len = record.len();
        if std::mem::take(&mut record.lost) {
            self.lost -= len;
        }
        self.retransmitted += usize::from(!record.retransmitted);
        record.retransmitted = true;
        record.probe = false;
        record.sent_at = now;
        record
    }

    /// Cuts a record in two; the first part gets `octets`.
    fn split(&mut self, index: usize, octets: u64) {
        let record = &mut self.records[index];
        let mut rest = record.clone();
        record.payload.truncate(octets as usize);
        record.fin = false;
        let kept = record.len();
        rest.payload.advance(kept as usize);
        rest.start += kept;
        self.retransmitted += usize::from(rest.retransmitted);
        self.records.insert(index + 1, rest);
    }

    /// Everything before `ack` is acknowledged; `delivered` hears of what was not known to be delivered.
    pub(super) fn acknowledge(&mut self, ack: u64, mut delivered: impl FnMut(Delivery)) {
        while let Some(record) = self.records.front_mut() {
            if record.start >= ack {
                break;
            }
            let octets = record.len().min(ack - record.start);
            let (whole, end) = (record.end() <= ack, record.start + octets);
            self.octets -= octets;
            if record.sacked {
                self.sacked -= octets;
            } else {
                if record.lost {
                    self.lost -= octets;
                }
                delivered(Delivery::new(octets, end, record));
            }
            if !whole {
                record.payload.advance(octets as usize);
                record.start += octets;
                break;
            }
            self.retransmitted -= usize::from(record.retransmitted);
            self.records.pop_front();
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

    /// The peer has `start..end`, out of order; `delivered` hears of what is news in it.
    pub(super) fn sack(&mut self, start: u64, end: u64, mut delivered: impl FnMut(Delivery)) {
        let mut index = self.records.partition_point(|record| record.end() <= start);
        while let Some(record) = self.records.get(index) {
            if record.start >= end {
                break;
            }
            if record.sacked {
                index += 1;
                continue;
            }
            if record.start < start {
                self.split(index, start - record.start);
                index += 1;
                continue;
            }
            if record.end() > end {
                self.split(index, end - record.start);
            }
            let record = &mut self.records[index];
            let octets = record.len();
            record.sacked = true;
            self.sacked += octets;
            if std::mem::take(&mut record.lost) {
                self.lost -= octets;
            }
            delivered(Delivery::new(octets, record.end(), record));
            index += 1;
        }
    }

    /// Whether a probe of the path's MTU was found lost since this was asked last.
    pub(super) fn take_lost_probe(&mut self) -> bool {
        std::mem::take(&mut self.probe_lost)
    }

    /// What was sent last is a probe of the path's MTU.
    pub(super) fn mark_probe(&mut self) {
        if let Some(record) = self.records.back_mut() {
            record.packet = record.len();
            record.probe = true;
        }
    }

    /// Octets of the packets that the first record was sent in.
    pub(super) fn first_packet(&self) -> u64 {
        self.records.front().map_or(0, |record| record.len().min(record.packet))
    }

    /// What is in flight in packets of more than `limit` octets is lost; it says nothing of congestion.
    pub(super) fn lose_larger(&mut self, limit: u64) {
        for record in self.records.iter_mut().filter(|record| !record.sacked && !record.lost) {
            if record.len().min(record.packet) > limit {
                record.lost = true;
                self.lost += record.len();
            }
        }
    }

    /// Asks `verdict` about everything of unknown fate, by send time and end; says whether anything was found lost that
    /// says something of congestion: not so a probe of the path's MTU (RFC 4821 section 7.5).
    pub(super) fn judge(&mut self, mut verdict: impl FnMut(Instant, u64) -> Verdict) -> bool {
        // Without retransmissions the order of the sequence space is the order in which records were sent.
        let in_order = self.retransmitted == 0;
        let mut found = false;
        for record in self.records.iter_mut() {
            if record.sacked || record.lost {
                continue;
            }
            match verdict(record.sent_at, record.end()) {
                Verdict::Open if in_order => break,
                Verdict::Open | Verdict::Pending => {}
                Verdict::Lost => {
                    record.lost = true;
                    self.lost += record.len();
                    if record.probe {
                        self.probe_lost = true;
                        continue;
                    }
                    self.ever_lost += record.len();
                    self.newest_lost = Some(record.snapshot);
                    found = true;
                }
            }
        }
        found
    }

    /// The first octets, at most `limit`, are lost; a probe of the path's MTU is lost whole, which says nothing of
    /// congestion (`false`).
    pub(super) fn lose_first(&mut self, limit: u64) -> bool {
        if self.records.front().is_some_and(|record| record.probe) {
            for record in self.records.iter_mut().take_while(|record| record.probe) {
                if !std::mem::replace(&mut record.lost, true) {
                    self.lost += record.len();
                }
            }
            self.probe_lost = true;
            return false;
        }
        if self.records.front().is_some_and(|record| record.len() > limit) {
            self.split(0, limit.max(1));
        }
        if let Some(record) = self.records.front_mut()
            && !record.lost
        {
            record.lost = true;
            self.lost += record.len();
            self.ever_lost += record.len();
            self.newest_lost = Some(record.snapshot);
        }
        true
    }

    /// Everything that the peer is not known to have is lost. If the peer had the first record still, it would have
    /// acknowledged it: then it has dropped what it had reported (RFC 2018 section 8), and may have dropped all.
    pub(super) fn lose_all(&mut self) {
        self.presumed = 0;
        if self.records.front().is_some_and(|first| first.sacked) {
            for record in &mut self.records {
                record.sacked = false;
            }
            self.sacked = 0;
        }
        self.judge(|_, _| Verdict::Lost);
    }

    /// Nothing is lost after all.
    pub(super) fn find_all(&mut self) {
        for record in &mut self.records {
            record.lost = false;
        }
        self.lost = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three records of 1000 octets each, sent a millisecond apart.
    fn board() -> Scoreboard {
        let mut board = Scoreboard::default();
        for place in 0..3u64 {
            let octets = Payload::from(bytes::Bytes::from(vec![0; 1000]));
            let now = Instant::from_nanos(place * 1_000_000);
            board.push(Record::new(now, 1 + place * 1000, octets, None, false));
        }
        board
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
    }

    #[test]
    fn what_is_lost_leaves_the_network_until_it_is_sent_again() {
        let mut board = board();
        board.judge(|_, end| if end <= 2001 { Verdict::Lost } else { Verdict::Open });
        assert_eq!((board.has_lost(), board.in_flight()), (true, 1000));
        let index = board.first_lost(300).unwrap();
        let again = board.resend(index, Instant::from_nanos(5_000_000));
        assert_eq!((again.start, again.len()), (1, 300));
        assert_eq!(board.in_flight(), 1300);
        // The first record's rest is next.
        let index = board.first_lost(u64::MAX).unwrap();
        assert_eq!((board.resend(index, Instant::ZERO).start, board.in_flight()), (301, 2000));
        board.find_all();
        assert_eq!((board.has_lost(), board.in_flight()), (false, 3000));
    }

    #[test]
    fn a_report_that_the_peer_took_back_is_not_believed_for_ever() {
        let mut board = board();
        board.sack(1, 2001, |_| {});
        board.lose_all();
        assert_eq!((board.sacked(), board.in_flight()), (0, 0));
        assert_eq!(board.first_lost(u64::MAX), Some(0));
    }

    #[test]
    fn the_tail_is_what_was_sent_last_and_not_delivered() {
        let mut board = board();
        board.sack(2001, 3001, |_| {});
        let index = board.last_undelivered(400).unwrap();
        let tail = board.resend(index, Instant::ZERO);
        assert_eq!((tail.start, tail.end()), (1601, 2001));
    }
}
