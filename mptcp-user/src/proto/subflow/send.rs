//! The sending half of a subflow's TCP: what is in flight, what was delivered, what is lost, when to try again
//! (RFC 9293; SACK RFC 2018 and 6675; RACK-TLP RFC 8985; RTO RFC 6298; PRR RFC 6937; undo RFC 4015 with the
//! detection of RFC 3522).
//!
//! The window itself is congestion control's; this file finds out what it is told and keeps to what it says.

use super::rack::Rack;
use crate::proto::Instant;
use crate::proto::congestion::Path;
use crate::proto::rtt::RttEstimator;
use crate::wire::{Payload, SeqNumber};
use std::collections::VecDeque;
use std::time::Duration;

/// Longest time a receiver may sit on an acknowledgment of a single segment (RFC 8985 section 7.2, WCDelAckT).
const WORST_DELAYED_ACK: Duration = Duration::from_millis(200);
/// Probes are not sent earlier than this, whatever the round-trip time: a scheduler's hiccup is no loss.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(10);
/// Duplicate acknowledgments that mean loss where the peer does not do SACK (RFC 5681).
const DUP_THRESH: u32 = 3;

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
    sent_at: Instant,
    pub(crate) retransmitted: bool,
    sacked: bool,
    lost: bool,
}

impl Record {
    fn len(&self) -> u64 {
        self.payload.len() as u64 + u64::from(self.fin)
    }
    fn end(&self) -> u64 {
        self.start + self.len()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Recovery {
    Open,
    /// Fast recovery until everything before `point` is acknowledged; the rest is PRR's.
    Fast {
        point: u64,
        flight: u64,
        delivered: u64,
        sent: u64,
    },
    /// After a timeout.
    Loss {
        point: u64,
    },
}

/// What to restore when a reduction turns out to be unfounded.
#[derive(Clone, Copy, Debug)]
struct Undo {
    cwnd: u64,
    ssthresh: u64,
    /// Timestamp of the first retransmission: an acknowledgment that echoes an earlier one answers the original.
    stamp: Option<u32>,
}

/// What an acknowledgment brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AckOutcome {
    /// Octets by which the cumulative acknowledgment advanced.
    pub(crate) acked: u64,
    /// Octets that were delivered, by cumulative acknowledgment or SACK.
    pub(crate) delivered: u64,
    pub(crate) rtt: Option<Duration>,
    /// Losses were found: fast recovery begins unless it is under way.
    pub(crate) congestion: bool,
    /// The last reduction was unfounded and has been undone.
    pub(crate) undone: bool,
    /// A new round began.
    pub(crate) round: bool,
    /// The congestion window was what limited the sender.
    pub(crate) limited: bool,
}

/// What a timer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TimerAction {
    /// Retransmission timeout. `first`: the first one in a row.
    Timeout { first: bool },
    /// RACK's reordering timer found losses.
    Congestion,
    /// A tail loss probe is to be sent.
    Probe,
}

/// Acknowledgment fields, translated to offsets.
pub(crate) struct AckInput<'a> {
    pub(crate) ack: u64,
    pub(crate) sacks: &'a [(u64, u64)],
    /// The first SACK block reported a duplicate (RFC 2883).
    pub(crate) duplicate_reported: bool,
    /// TSecr.
    pub(crate) echo: Option<u32>,
    /// Round-trip time from the timestamps, for when everything acknowledged was sent twice.
    pub(crate) stamp_rtt: Option<Duration>,
    /// A duplicate acknowledgment in the sense of RFC 5681 section 2.
    pub(crate) duplicate: bool,
}

/// The sender. Offsets as in [`Record`].
#[derive(Debug)]
pub(crate) struct SendSide {
    iss: SeqNumber,
    pub(crate) una: u64,
    pub(crate) nxt: u64,
    /// Right edge of the peer's window on this subflow; never moves left.
    pub(crate) edge: u64,
    /// The peer's window scale.
    pub(crate) scale: u8,
    pub(crate) sack_ok: bool,
    records: VecDeque<Record>,
    sacked: u64,
    lost: u64,
    /// End of the highest octet delivered.
    fack: u64,
    retransmitted_records: usize,
    recovery: Recovery,
    undo: Option<Undo>,
    rack: Rack,
    dup_acks: u32,
    /// Timeouts in a row.
    pub(crate) expiries: u32,
    timeout: Option<Instant>,
    probe: Option<Instant>,
    reordering: Option<Instant>,
    /// End of the tail loss probe in flight, and whether it is owed.
    probe_end: Option<u64>,
    pub(crate) probe_due: bool,
    round_end: u64,
    limited_at: u64,
    last_sent: Instant,
    /// When something was last acknowledged, or sending began from idle: start of the user timeout.
    pub(crate) progress: Instant,
    pub(crate) retransmitted_octets: u64,
    pub(crate) timeouts: u64,
    pub(crate) fast_recoveries: u64,
}

impl SendSide {
    /// Before the SYN.
    pub(crate) fn new(iss: SeqNumber) -> Self {
        Self {
            iss,
            una: 0,
            nxt: 1,
            edge: 1,
            scale: 0,
            sack_ok: false,
            records: VecDeque::new(),
            sacked: 0,
            lost: 0,
            fack: 1,
            retransmitted_records: 0,
            recovery: Recovery::Open,
            undo: None,
            rack: Rack::default(),
            dup_acks: 0,
            expiries: 0,
            timeout: None,
            probe: None,
            reordering: None,
            probe_end: None,
            probe_due: false,
            round_end: 1,
            limited_at: 0,
            last_sent: Instant::ZERO,
            progress: Instant::ZERO,
            retransmitted_octets: 0,
            timeouts: 0,
            fast_recoveries: 0,
        }
    }

    /// Sequence number of an offset.
    pub(crate) fn seq(&self, offset: u64) -> SeqNumber {
        self.iss + offset as u32
    }

    /// Offset of an acknowledgment number, the one nearest to SND.UNA. Negative for very old ones.
    pub(crate) fn offset(&self, ack: SeqNumber) -> i64 {
        self.una as i64 + i64::from(ack.distance(self.seq(self.una)))
    }

    /// The peer acknowledged the SYN.
    pub(crate) fn syn_acknowledged(&mut self, now: Instant) {
        self.una = 1;
        self.nxt = 1;
        self.progress = now;
    }

    /// Octets in flight: sent, and neither delivered nor lost as far as is known (RFC 6675, pipe).
    pub(crate) fn in_flight(&self) -> u64 {
        (self.nxt - self.una).saturating_sub(self.sacked + self.lost)
    }

    /// Everything sent is acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    pub(crate) fn in_fast_recovery(&self) -> bool {
        matches!(self.recovery, Recovery::Fast { .. })
    }

    /// How many octets of new data congestion and receive window let through.
    pub(crate) fn room(&self, path: &Path) -> u64 {
        path.cwnd.saturating_sub(self.in_flight()).min(self.edge.saturating_sub(self.nxt))
    }

    /// The congestion window kept the sender from sending more.
    pub(crate) fn note_limited(&mut self) {
        self.limited_at = self.nxt;
    }

    /// Mappings of everything the peer has not acknowledged on this subflow.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.records.iter().filter(|record| !record.sacked).filter_map(|record| {
            let mapping = record.mapping?;
            let skipped = (record.start as u32).wrapping_sub(mapping.subflow_seq);
            let start = mapping.data + u64::from(skipped);
            Some((start, start + record.payload.len() as u64))
        })
    }

    /// Sends new data, or the FIN.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        payload: Payload,
        mapping: Option<TxMapping>,
        fin: bool,
        path: &mut Path,
        rtt: &RttEstimator,
    ) -> &Record {
        if self.records.is_empty() {
            self.restart_after_idle(now, path, rtt);
            self.progress = now;
        }
        let record = Record {
            start: self.nxt,
            payload,
            mapping,
            fin,
            sent_at: now,
            retransmitted: false,
            sacked: false,
            lost: false,
        };
        self.nxt = record.end();
        if let Recovery::Fast { sent, .. } = &mut self.recovery {
            *sent += record.len();
        }
        self.records.push_back(record);
        self.sent(now, rtt);
        self.arm_probe(now, path, rtt);
        self.records.back().expect("just pushed")
    }

    /// An idle connection loses half its window for each timeout that it was idle (RFC 7661 in its simplest
    /// form), but not below the initial one.
    fn restart_after_idle(&mut self, now: Instant, path: &mut Path, rtt: &RttEstimator) {
        let mut idle = now - self.last_sent;
        let floor = path.cwnd.min(10 * path.mss);
        while idle > rtt.rto() && path.cwnd > floor {
            path.ssthresh = path.ssthresh.max(path.cwnd / 4 * 3);
            path.cwnd = (path.cwnd / 2).max(floor);
            idle -= rtt.rto();
        }
    }

    fn sent(&mut self, now: Instant, rtt: &RttEstimator) {
        self.last_sent = now;
        if self.timeout.is_none() {
            self.timeout = Some(now + rtt.backed_off(self.expiries));
        }
    }

    /// The first lost segment is to be sent again, at most `limit` octets of it.
    pub(crate) fn retransmit(
        &mut self,
        now: Instant,
        limit: u64,
        stamp: u32,
        rtt: &RttEstimator,
    ) -> Option<&Record> {
        let index = self.records.iter().position(|record| record.lost)?;
        if self.records[index].len() > limit {
            self.split(index, limit.max(1));
        }
        self.resend(index, now, stamp, rtt);
        Some(&self.records[index])
    }

    /// The tail loss probe: the last segment again (RFC 8985 section 7.3), at most `limit` octets of it.
    pub(crate) fn retransmit_tail(
        &mut self,
        now: Instant,
        limit: u64,
        stamp: u32,
        rtt: &RttEstimator,
    ) -> Option<&Record> {
        self.probe_due = false;
        let mut index = self.records.iter().rposition(|record| !record.sacked)?;
        let len = self.records[index].len();
        if len > limit {
            self.split(index, len - limit.max(1));
            index += 1;
        }
        self.probe_end = Some(self.nxt);
        self.resend(index, now, stamp, rtt);
        Some(&self.records[index])
    }

    fn resend(&mut self, index: usize, now: Instant, stamp: u32, rtt: &RttEstimator) {
        let record = &mut self.records[index];
        let len = record.len();
        if std::mem::take(&mut record.lost) {
            self.lost -= len;
        }
        if !record.retransmitted {
            record.retransmitted = true;
            self.retransmitted_records += 1;
        }
        record.sent_at = now;
        self.retransmitted_octets += record.payload.len() as u64;
        if let Some(Undo { stamp: first @ None, .. }) = &mut self.undo {
            *first = Some(stamp);
        }
        if let Recovery::Fast { sent, .. } = &mut self.recovery {
            *sent += len;
        }
        self.sent(now, rtt);
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
        self.retransmitted_records += usize::from(rest.retransmitted);
        self.records.insert(index + 1, rest);
    }

    /// Takes an acknowledgment. The caller has checked that `input.ack` lies in `una..=nxt`.
    pub(crate) fn acknowledge(
        &mut self,
        now: Instant,
        input: &AckInput<'_>,
        path: &Path,
        rtt: &mut RttEstimator,
    ) -> AckOutcome {
        let mut outcome = AckOutcome { limited: self.limited_at >= self.una, ..AckOutcome::default() };
        let mut sample = None;
        let acked = input.ack - self.una;
        if acked > 0 {
            self.acknowledge_cumulatively(now, input.ack, rtt, &mut outcome, &mut sample);
            self.progress = now;
            self.dup_acks = 0;
            if self.una >= self.round_end {
                outcome.round = true;
                self.round_end = self.nxt;
            }
        }
        outcome.acked = acked;
        for &(start, end) in input.sacks {
            self.acknowledge_selectively(
                now,
                start.max(self.una),
                end.min(self.nxt),
                rtt,
                &mut outcome,
                &mut sample,
            );
        }
        if input.duplicate_reported {
            self.rack.duplicate_reported(self.una, self.nxt);
        }
        outcome.rtt = sample.or(if acked > 0 { input.stamp_rtt } else { None });
        if let Some(measured) = outcome.rtt {
            rtt.sample(now, measured);
        }
        if acked > 0 && self.unfounded(input.echo) {
            self.undo_losses();
            outcome.undone = true;
        }
        let probe_found_loss = self.judge_probe(input);
        let mut lost = if self.sack_ok {
            self.detect_losses(now, path, rtt)
        } else {
            self.count_duplicates(input, path, acked, &mut outcome)
        };
        lost |= probe_found_loss;
        self.end_recovery();
        outcome.congestion = lost && self.recovery == Recovery::Open;
        if self.records.is_empty() {
            (self.timeout, self.probe, self.reordering) = (None, None, None);
            self.expiries = 0;
        } else if acked > 0 {
            self.expiries = 0;
            self.timeout = Some(now + rtt.backed_off(0));
            self.arm_probe(now, path, rtt);
        }
        outcome
    }

    fn acknowledge_cumulatively(
        &mut self,
        now: Instant,
        ack: u64,
        rtt: &RttEstimator,
        outcome: &mut AckOutcome,
        sample: &mut Option<Duration>,
    ) {
        while let Some(record) = self.records.front_mut() {
            if record.start >= ack {
                break;
            }
            let len = record.len().min(ack - record.start);
            let whole = record.end() <= ack;
            let (sent_at, end) = (record.sent_at, record.start + len);
            if record.sacked {
                self.sacked -= len;
            } else {
                outcome.delivered += len;
                if !record.retransmitted {
                    *sample = Some(now - sent_at);
                    self.rack.reordering_seen |= end < self.fack;
                }
                if record.lost {
                    self.lost -= len;
                }
                self.rack.delivered(now, sent_at, end, record.retransmitted, rtt.min());
            }
            if whole {
                self.retransmitted_records -= usize::from(record.retransmitted);
                self.records.pop_front();
            } else {
                record.payload.advance(len as usize);
                record.start += len;
                break;
            }
        }
        self.una = ack;
        self.fack = self.fack.max(ack);
    }

    fn acknowledge_selectively(
        &mut self,
        now: Instant,
        start: u64,
        end: u64,
        rtt: &RttEstimator,
        outcome: &mut AckOutcome,
        sample: &mut Option<Duration>,
    ) {
        if start >= end {
            return;
        }
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
            let len = record.len();
            record.sacked = true;
            self.sacked += len;
            outcome.delivered += len;
            if std::mem::take(&mut record.lost) {
                self.lost -= len;
            }
            let (sent_at, end, retransmitted) = (record.sent_at, record.end(), record.retransmitted);
            if !retransmitted {
                *sample = Some(now - sent_at);
                self.rack.reordering_seen |= end < self.fack;
            }
            self.rack.delivered(now, sent_at, end, retransmitted, rtt.min());
            self.fack = self.fack.max(end);
            index += 1;
        }
    }

    /// RACK's verdict on everything sent before the newest segment delivered; arms its timer for the undecided.
    fn detect_losses(&mut self, now: Instant, path: &Path, rtt: &RttEstimator) -> bool {
        self.reordering = None;
        let window = self.rack.reordering_window(
            self.recovery != Recovery::Open,
            self.sacked / path.mss.max(1),
            rtt.min(),
            rtt.srtt(),
        );
        let (mut found, mut wait) = (false, Duration::ZERO);
        let in_order = self.retransmitted_records == 0;
        for record in &mut self.records {
            if !self.rack.sent_before(record.sent_at, record.end()) {
                if in_order {
                    break;
                }
                continue;
            }
            if record.sacked || record.lost {
                continue;
            }
            let remaining = self.rack.remaining(now, record.sent_at, window);
            if remaining.is_zero() {
                record.lost = true;
                self.lost += record.len();
                found = true;
            } else {
                wait = wait.max(remaining);
            }
        }
        if !wait.is_zero() {
            self.reordering = Some(now + wait);
        }
        found
    }

    /// NewReno without SACK (RFC 6582): three duplicates, then one segment for each partial acknowledgment.
    fn count_duplicates(
        &mut self,
        input: &AckInput<'_>,
        path: &Path,
        acked: u64,
        outcome: &mut AckOutcome,
    ) -> bool {
        if input.duplicate && !self.records.is_empty() {
            self.dup_acks += 1;
            outcome.delivered += path.mss;
        }
        let partial = acked > 0
            && matches!(self.recovery, Recovery::Fast { point, .. } if self.una < point)
            && !self.records.is_empty();
        if (self.dup_acks != DUP_THRESH || self.recovery != Recovery::Open) && !partial {
            return false;
        }
        if self.records[0].len() > path.mss {
            self.split(0, path.mss);
        }
        let record = &mut self.records[0];
        if !record.lost {
            record.lost = true;
            self.lost += record.len();
        }
        true
    }

    /// Whether the acknowledgment answers the original of a segment that was sent again (RFC 3522): then nothing
    /// was lost.
    fn unfounded(&self, echo: Option<u32>) -> bool {
        let (Some(Undo { stamp: Some(stamp), .. }), Some(echo)) = (&self.undo, echo) else { return false };
        self.recovery != Recovery::Open && (echo.wrapping_sub(*stamp) as i32) < 0
    }

    fn undo_losses(&mut self) {
        for record in &mut self.records {
            record.lost = false;
        }
        self.lost = 0;
        self.recovery = Recovery::Open;
    }

    /// A tail loss probe was answered: if something beyond it was acknowledged and no D-SACK came, the probe
    /// repaired a loss (RFC 8985 section 7.4).
    fn judge_probe(&mut self, input: &AckInput<'_>) -> bool {
        let Some(end) = self.probe_end else { return false };
        let settled = input.duplicate_reported || (input.duplicate && input.sacks.is_empty());
        if input.ack > end || (input.ack == end && settled) {
            self.probe_end = None;
            return !settled && self.recovery == Recovery::Open;
        }
        false
    }

    fn end_recovery(&mut self) {
        if let Recovery::Fast { point, .. } | Recovery::Loss { point } = self.recovery
            && self.una >= point
        {
            self.recovery = Recovery::Open;
            self.rack.recovery_ended();
            self.dup_acks = 0;
        }
    }

    /// Congestion control has set the threshold: fast recovery begins. `before` is the window before that.
    pub(crate) fn begin_recovery(&mut self, before: (u64, u64)) {
        self.fast_recoveries += 1;
        self.undo = Some(Undo { cwnd: before.0, ssthresh: before.1, stamp: None });
        let flight = (self.nxt - self.una).max(1);
        self.recovery = Recovery::Fast { point: self.nxt, flight, delivered: 0, sent: 0 };
    }

    /// Proportional rate reduction (RFC 6937): the window for the next moments of fast recovery.
    pub(crate) fn reduce_proportionally(&mut self, delivered: u64, path: &mut Path) {
        let pipe = self.in_flight();
        let advanced = delivered > 0;
        let Recovery::Fast { flight, delivered: total, sent, .. } = &mut self.recovery else { return };
        *total += delivered;
        let allowed = if pipe > path.ssthresh {
            (u128::from(*total) * u128::from(path.ssthresh)).div_ceil(u128::from(*flight)) as u64
        } else {
            let limit = (*total).saturating_sub(*sent).max(delivered) + if advanced { path.mss } else { 0 };
            *sent + limit.min(path.ssthresh - pipe)
        };
        // At least the first retransmission leaves at once.
        let burst = allowed.saturating_sub(*sent).max(if *sent == 0 { path.mss } else { 0 });
        path.cwnd = pipe + burst;
    }

    /// Window and threshold to restore after an unfounded reduction.
    pub(crate) fn undone(&mut self) -> Option<(u64, u64)> {
        self.undo.take().map(|undo| (undo.cwnd, undo.ssthresh))
    }

    /// The reduction before which `undone` would restore is history.
    pub(crate) fn recovery_over(&mut self) -> bool {
        self.recovery == Recovery::Open && self.undo.take().is_some()
    }

    fn arm_probe(&mut self, now: Instant, path: &Path, rtt: &RttEstimator) {
        self.probe = None;
        if !self.sack_ok || self.recovery != Recovery::Open || self.probe_end.is_some() || self.expiries > 0 {
            return;
        }
        let Some(srtt) = rtt.srtt() else { return };
        let mut wait = srtt * 2;
        if self.nxt - self.una <= path.mss {
            wait += WORST_DELAYED_ACK;
        }
        let at = now + wait.max(MIN_PROBE_TIMEOUT);
        if self.timeout.is_none_or(|timeout| at < timeout) {
            self.probe = Some(at);
        }
    }

    /// The earliest of the timers.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        [self.timeout, self.probe, self.reordering].into_iter().flatten().min()
    }

    /// Lets timers expire; at most one action at a time.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        path: &Path,
        rtt: &RttEstimator,
    ) -> Option<TimerAction> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.reordering) {
            self.reordering = None;
            if self.detect_losses(now, path, rtt) && self.recovery == Recovery::Open {
                return Some(TimerAction::Congestion);
            }
        }
        if due(self.timeout) {
            return Some(self.time_out(now, path, rtt));
        }
        if due(self.probe) {
            self.probe = None;
            self.probe_due = true;
            return Some(TimerAction::Probe);
        }
        None
    }

    fn time_out(&mut self, now: Instant, path: &Path, rtt: &RttEstimator) -> TimerAction {
        let first = self.expiries == 0;
        self.expiries += 1;
        self.timeouts += 1;
        (self.probe, self.reordering, self.probe_end, self.probe_due) = (None, None, None, false);
        for record in &mut self.records {
            if !record.sacked && !record.lost {
                record.lost = true;
                self.lost += record.len();
            }
        }
        if first && self.recovery == Recovery::Open {
            self.undo = Some(Undo { cwnd: path.cwnd, ssthresh: path.ssthresh, stamp: None });
        }
        self.recovery = Recovery::Loss { point: self.nxt };
        self.timeout = Some(now + rtt.backed_off(self.expiries));
        TimerAction::Timeout { first }
    }

    /// The subflow is gone: nothing is in flight any more.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        (self.sacked, self.lost, self.retransmitted_records) = (0, 0, 0);
        (self.timeout, self.probe, self.reordering) = (None, None, None);
        self.una = self.nxt;
    }
}
