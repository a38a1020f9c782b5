//! The sending half of a subflow's TCP: what leaves, what an acknowledgment brings, when to try again (RFC 9293;
//! RTO RFC 6298; NewReno without SACK RFC 6582).
//!
//! Its parts: [`scoreboard`](super::scoreboard) counts what is in flight, [`rack`](super::rack) finds losses,
//! [`recovery`](super::recovery) says how the window comes down, [`tail_probe`](super::tail_probe) pokes a
//! silent peer, [`suspicion`](super::suspicion) says when the path may be dead. The window itself is
//! congestion control's; this file finds out what it is told and keeps to what it says.

use super::pacing::Pacer;
use super::path_mtu::PathMtu;
use super::rack::Rack;
use super::rate::{RateSampler, Snapshot};
use super::record::{Record, TxMapping};
use super::recovery::{Evidence, Recovery};
use super::scoreboard::{Delivery, Scoreboard};
use super::suspicion::{Step, Suspicion};
use super::tail_probe::TailProbe;
use crate::Instant;
use crate::congestion::{Cause, LossSample, Path, RateSample};
use crate::rtt::RttEstimator;
use crate::wire::{Payload, SeqNumber};
use std::time::Duration;

/// Duplicate acknowledgments that mean loss where the peer does not do SACK (RFC 5681).
const DUP_THRESH: u32 = 3;
/// Lost records that may be judged anew as often as it turns out that they were not lost.
const FEW_LOSSES: usize = 32;
/// Gaps that go over another path as soon as this one is silent.
const MOST_GAPS: usize = 256;
/// Full segments to be sent after a probe of the path's MTU.
const PROBE_COMPANY: u64 = 3;

/// What an acknowledgment brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AckOutcome {
    /// Octets by which the cumulative acknowledgment advanced.
    pub(crate) acked: u64,
    /// Octets that were delivered, by cumulative acknowledgment or SACK.
    pub(crate) delivered: u64,
    /// Octets by which windows may grow: those delivered since the cumulative acknowledgment last advanced,
    /// if it does.
    pub(crate) counted: u64,
    pub(crate) rtt: Option<Duration>,
    /// The window must come down: losses were found, or the peer echoed a congestion mark, outside recovery.
    pub(crate) congestion: Option<Cause>,
    /// It advanced and brought no news of loss.
    pub(crate) safe: bool,
    /// Fast recovery ended with it.
    pub(crate) recovered: bool,
    /// The last reduction was unfounded and is to be undone.
    pub(crate) undone: bool,
    /// A new round began.
    pub(crate) round: bool,
    /// The congestion window was what limited the sender.
    pub(crate) limited: bool,
    /// How fast the path delivered, and what was found lost since the last one.
    pub(crate) rate: Option<RateSample>,
    pub(crate) loss: Option<LossSample>,
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
    /// The peer has closed its window before what is in flight: it is to be asked for its window, and has not
    /// answered for so long.
    WindowProbe { unanswered: Duration },
    /// Nothing is acknowledged although it should have been: the path may be dead.
    Overdue(Step),
}

/// Acknowledgment fields, translated to offsets.
pub(crate) struct AckInput<'a> {
    pub(crate) ack: u64,
    pub(crate) sacks: &'a [(u64, u64)],
    /// The first SACK block reported so many octets as duplicates (RFC 2883).
    pub(crate) duplicate_reported: Option<u64>,
    /// ECE (RFC 3168), on a path on which ECN is in use.
    pub(crate) ecn_echo: bool,
    /// TSecr.
    pub(crate) echo: Option<u32>,
    /// Round-trip time from the timestamps, for when everything acknowledged was sent twice.
    pub(crate) stamp_rtt: Option<Duration>,
    /// A duplicate acknowledgment in the sense of RFC 5681 section 2.
    pub(crate) duplicate: bool,
}

/// The sender. Offsets as in [`Record`].
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct SendSide {
    iss: SeqNumber,
    pub(crate) una: u64,
    pub(crate) nxt: u64,
    /// Right edge of the peer's window on this subflow. It moves left only where the window is this subflow's
    /// alone.
    pub(crate) edge: u64,
    /// Which segment the window was taken from, where it is this subflow's alone: its sequence number
    /// (SND.WL1), its acknowledgment number (SND.WL2) and its timestamp.
    window_from: (u64, u64, Option<u32>),
    /// When the peer was asked for the window that it has taken back, since it last told it.
    asked: Option<Instant>,
    /// Largest window that the peer has offered (MAX.SND.WND of RFC 5961).
    largest_window: u64,
    /// The peer's window scale.
    pub(crate) scale: u8,
    pub(crate) sack_ok: bool,
    pub(crate) path_mtu: PathMtu,
    board: Scoreboard,
    /// End of the highest octet delivered.
    fack: u64,
    /// Before this offset is acknowledged, RACK does not judge another time what was found lost and then was
    /// not, if it is much.
    found_until: u64,
    recovery: Recovery,
    rack: Rack,
    dup_acks: u32,
    /// Timeouts in a row, and how many of them came early because the path was tried again: those do not make the next
    /// one wait longer.
    pub(crate) expiries: u32,
    tries: u32,
    timeout: Option<Instant>,
    reordering: Option<Instant>,
    probe: TailProbe,
    suspicion: Suspicion,
    rate: RateSampler,
    pacer: Pacer,
    round_end: u64,
    limited_at: u64,
    /// Octets delivered since the cumulative acknowledgment last advanced.
    uncounted: u64,
    /// Where the window was reduced last: an ECN echo counts again once more than this is acknowledged.
    reduced_at: u64,
    /// The next new data is to say so (CWR).
    cwr_due: bool,
    /// End of the last segment that was not full (Minshall's variant of Nagle's algorithm).
    small_end: u64,
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
            window_from: (0, 0, None),
            asked: None,
            largest_window: 0,
            scale: 0,
            sack_ok: false,
            path_mtu: PathMtu::default(),
            board: Scoreboard::default(),
            fack: 1,
            found_until: 0,
            recovery: Recovery::new(),
            rack: Rack::default(),
            dup_acks: 0,
            expiries: 0,
            tries: 0,
            timeout: None,
            reordering: None,
            probe: TailProbe::default(),
            suspicion: Suspicion::new(),
            rate: RateSampler::default(),
            pacer: Pacer::default(),
            round_end: 1,
            limited_at: 0,
            uncounted: 0,
            reduced_at: 0,
            cwr_due: false,
            small_end: 0,
            last_sent: Instant::ZERO,
            progress: Instant::ZERO,
            retransmitted_octets: 0,
            timeouts: 0,
            fast_recoveries: 0,
        }
    }

    /// The peer offers `window` octets after `ack`. A window that is closed, yet answered for, is life.
    //= RFC 8684 3.3.5-2
    pub(crate) fn take_window(&mut self, now: Instant, ack: u64, window: u64) {
        self.edge = self.edge.max(ack + window);
        self.largest_window = self.largest_window.max(window);
        if window == 0 {
            self.progress = now;
        }
    }

    /// The same of a peer whose window is for this subflow alone, by the segment that has this sequence
    /// number and timestamp. It may take back what it has offered (RFC 9293 section 3.8.6, SHLD-15); older
    /// segments say nothing.
    pub(crate) fn obey_window(
        &mut self,
        now: Instant,
        (seq, stamp): (u64, Option<u32>),
        ack: u64,
        window: u64,
        rtt: &RttEstimator,
    ) {
        let (last_seq, last_ack, last_stamp) = self.window_from;
        let overtaken = match (stamp, last_stamp) {
            (Some(stamp), Some(last)) => (stamp.wrapping_sub(last) as i32) < 0,
            _ => false,
        };
        if (seq, ack) < (last_seq, last_ack) || ((seq, ack) == (last_seq, last_ack) && overtaken) {
            return;
        }
        let was_shut = self.is_shut();
        self.window_from = (seq, ack, stamp);
        self.edge = ack + window;
        self.asked = None;
        self.take_window(now, ack, window);
        if was_shut && self.edge > ack {
            // What came while the window was closed has been dropped, but for that no timer has to be backed
            // off.
            (self.expiries, self.tries) = (0, 0);
            self.progress = now;
            self.timeout = Some(now + rtt.backed_off(0));
        }
    }

    /// The peer has taken back its window: nothing of what is in flight may be sent again before it opens.
    fn is_shut(&self) -> bool {
        self.edge <= self.una && self.una < self.nxt
    }

    /// Where the window ends, with what the window field is too coarse to tell (RFC 7323 section 2.4).
    fn rough_edge(&self) -> u64 {
        self.edge.saturating_add(1 << self.scale)
    }

    /// How far below SND.UNA an acknowledgment may lie (RFC 5961 section 5.2).
    pub(crate) fn largest_window(&self) -> i64 {
        self.largest_window as i64
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

    /// Octets in flight, as far as is known.
    pub(crate) fn in_flight(&self) -> u64 {
        self.board.in_flight()
    }

    /// Everything sent is acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.board.is_empty()
    }

    /// Something is to be sent again.
    pub(crate) fn may_retransmit(&self) -> bool {
        let within = |start| !self.is_shut() && start < self.rough_edge();
        self.board.first_loss().is_some_and(within) && !self.recovery.holds_back()
    }

    /// There is no new data, which F-RTO may wait for: `true` if it did and gives up.
    pub(crate) fn lacks_new_data(&mut self) -> bool {
        self.recovery.lacks_new_data()
    }

    /// A tail loss probe is to be sent.
    pub(crate) fn probe_due(&self) -> bool {
        self.probe.is_due()
    }

    pub(crate) fn in_fast_recovery(&self) -> bool {
        self.recovery.is_fast()
    }

    /// How many octets of new data congestion and receive window let through.
    pub(crate) fn room(&self, path: &Path) -> u64 {
        let mut congestion =
            self.recovery.forward_room(path.mss).unwrap_or_else(|| self.congestion_room(path));
        if self.probe.is_due() {
            // It needs no room in the congestion window (RFC 8985 section 7.3).
            congestion = congestion.max(path.mss);
        }
        congestion.min(self.edge.saturating_sub(self.nxt))
    }

    /// What is worth a segment of its own: a full one, or half of what the peer's buffer takes where that is less
    /// (RFC 9293 section 3.8.6.2.1).
    pub(crate) fn worthwhile(&self, path: &Path) -> u64 {
        path.mss.min(self.largest_window / 2).max(1)
    }

    /// How large a burst has to be to be worth waiting for; during recovery, when what leaves keeps acknowledgments coming, none.
    pub(crate) fn worthwhile_burst(&self, path: &Path, rtt: &RttEstimator) -> u64 {
        if self.recovery.is_open() { path.worthwhile_burst(rtt.srtt()) } else { 0 }
    }

    /// How many octets the congestion window lets through: a full segment at least if nothing is in flight, since
    /// nothing else would ever open the window again.
    pub(crate) fn congestion_room(&self, path: &Path) -> u64 {
        match self.in_flight() {
            0 => path.cwnd.max(path.mss),
            octets => path.cwnd.saturating_sub(octets),
        }
    }

    /// Whether pacing lets something leave now.
    pub(crate) fn may_depart(&self, now: Instant, path: &Path) -> bool {
        path.pacing_rate.is_none() || self.pacer.may_send(now)
    }

    /// Something waits for its departure time.
    pub(crate) fn wait_to_depart(&mut self) {
        self.pacer.wait();
    }

    /// There is nothing to send: where the window would let something out, the path's rate can't be seen.
    pub(crate) fn note_application_limited(&mut self, now: Instant, path: &Path) {
        let in_flight = self.in_flight();
        if in_flight + path.mss <= path.cwnd && self.may_depart(now, path) && !self.board.has_lost() {
            self.rate.application_limited(in_flight);
        }
    }

    /// The congestion window kept the sender from sending more.
    pub(crate) fn note_limited(&mut self) {
        self.limited_at = self.nxt;
    }

    /// A segment that was not full is waiting for its acknowledgment.
    pub(crate) fn small_outstanding(&self) -> bool {
        self.small_end > self.una
    }

    /// How long nothing was sent, with nothing in flight.
    pub(crate) fn idle(&self, now: Instant) -> Option<Duration> {
        self.is_idle().then(|| now - self.last_sent)
    }

    /// Whether the next new data must say that the window has been reduced (CWR, RFC 3168 section 6.1.2).
    pub(crate) fn take_cwr(&mut self) -> bool {
        std::mem::take(&mut self.cwr_due)
    }

    /// What keeping the records of what is in flight costs, without their octets.
    pub(crate) fn cost(&self) -> u64 {
        self.board.cost()
    }

    /// Mappings of everything the peer has not acknowledged cumulatively on this subflow: what it lacks if the subflow ends.
    pub(crate) fn outstanding(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.board.outstanding()
    }

    /// Those of them that the peer has not acknowledged selectively either: what this subflow will send again.
    pub(crate) fn undelivered(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.board.undelivered()
    }

    /// The first gaps in what the peer has: it can't read the octets behind them. A peer could have very
    /// many.
    pub(crate) fn waited_for(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let end = if self.board.sacked() > 0 { self.fack } else { 0 };
        self.board.undelivered_before(end).take(MOST_GAPS)
    }

    /// Sends new data, or the FIN.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        payload: Payload,
        mapping: Option<TxMapping>,
        fin: bool,
        path: &Path,
        rtt: &RttEstimator,
    ) -> &Record {
        if self.board.is_empty() {
            self.progress = now;
        }
        let mut record = Record::new(now, self.nxt, payload, mapping, fin, path.mss);
        self.nxt = record.end();
        record.snapshot = self.depart(now, record.len(), path);
        if record.len() < path.mss {
            self.small_end = self.nxt;
        }
        self.recovery.sent(record.len());
        self.sent(now, rtt);
        self.arm_probe(now, path, rtt);
        if !self.suspicion.is_armed() && self.expiries == 0 {
            self.suspicion.arm(now, rtt);
        }
        self.note_use(record.len(), path);
        self.board.push(record)
    }

    /// So many octets leave. With them, the congestion window may be what limits the sender: no full segment
    /// more fits in, or in slow start the window is at least half used, since it is to double (as the Linux
    /// kernel has it).
    fn note_use(&mut self, octets: u64, path: &Path) {
        let used = self.in_flight() + octets;
        if used + path.mss > path.cwnd || (path.in_slow_start() && 2 * used > path.cwnd) {
            self.note_limited();
        }
    }

    /// Whether the sender is fit to try a packet of so many octets, which the window must have room for besides others:
    /// nothing is being recovered, and what is sent after it will show soon what has become of it (RFC 4821 section 7.4).
    pub(crate) fn may_probe_mtu(&self, octets: u64, waiting: u64, path: &Path) -> bool {
        let others = PROBE_COMPANY * path.mss;
        self.recovery.is_open()
            && !self.board.has_lost()
            && self.expiries == 0
            && waiting >= octets + others
            && path.cwnd >= octets + others
            && self.edge.saturating_sub(self.nxt) >= octets + others
    }

    /// What was sent just now, from `start` on, leaves in packets of exactly so many octets.
    pub(crate) fn sent_in_packets(&mut self, start: u64, packet: usize) {
        self.board.tell_apart(start, packet as u64);
    }

    /// What was sent just now is a probe: one packet whose options and payload make `size` octets.
    pub(crate) fn mtu_probe_sent(&mut self, size: u16) {
        self.board.mark_probe();
        self.path_mtu.probe_sent(size, self.nxt);
    }

    /// The path takes smaller packets than those in flight.
    pub(crate) fn path_mtu_shrank(&mut self, payload: u64) {
        self.board.lose_larger(payload);
        self.probe = TailProbe::default();
    }

    /// Octets leave: what the rate sampler is to know when they arrive.
    fn depart(&mut self, now: Instant, octets: u64, path: &Path) -> Snapshot {
        if let Some(rate) = path.pacing_rate {
            self.pacer.sent(now, octets, rate);
        }
        self.rate.sent(now, octets, self.board.in_flight(), self.board.ever_lost())
    }

    fn sent(&mut self, now: Instant, rtt: &RttEstimator) {
        self.last_sent = now;
        if self.timeout.is_none() {
            self.timeout = Some(now + self.backed_off(rtt));
        }
    }

    /// The first lost segment is to be sent again, at most `limit` octets of it.
    pub(crate) fn retransmit(
        &mut self,
        now: Instant,
        limit: u64,
        stamp: u32,
        path: &Path,
        rtt: &RttEstimator,
    ) -> Option<&Record> {
        let within = self.rough_edge().saturating_sub(self.board.first_loss()?);
        let index = self.board.first_lost(limit.min(within))?;
        Some(self.resend(index, now, stamp, path, rtt))
    }

    /// The tail loss probe was new data.
    pub(crate) fn probed_with_new_data(&mut self) {
        self.probe.sent(Some(self.nxt), false);
    }

    /// The tail loss probe: the last segment again (RFC 8985 section 7.3), at most `limit` octets of it.
    pub(crate) fn retransmit_tail(
        &mut self,
        now: Instant,
        limit: u64,
        stamp: u32,
        path: &Path,
        rtt: &RttEstimator,
    ) -> Option<&Record> {
        let index = self.board.last_undelivered(limit);
        self.probe.sent(index.map(|_| self.nxt), true);
        Some(self.resend(index?, now, stamp, path, rtt))
    }

    fn resend(&mut self, index: u32, now: Instant, stamp: u32, path: &Path, rtt: &RttEstimator) -> &Record {
        self.sent(now, rtt);
        let octets = self.board.octets_of(index);
        self.note_use(octets, path);
        let snapshot = self.depart(now, octets, path);
        let record = self.board.resend(index, now, path.mss);
        record.snapshot = snapshot;
        self.recovery.retransmitted(record.len(), stamp);
        self.retransmitted_octets += record.payload.len() as u64;
        record
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
        let acked = input.ack - self.una;
        outcome.acked = acked;
        let original = self.take_deliveries(now, input, path, rtt, &mut outcome);
        if acked > 0 {
            self.una = input.ack;
            self.progress = now;
            self.dup_acks = 0;
            self.path_mtu.acknowledged(self.una);
            if self.una >= self.round_end {
                outcome.round = true;
                self.round_end = self.nxt;
            }
        }
        if input.duplicate_reported.is_some() {
            self.rack.duplicate_reported(self.una, self.nxt);
        }
        outcome.rtt = outcome.rtt.or(if acked > 0 { input.stamp_rtt } else { None });
        if let Some(measured) = outcome.rtt {
            rtt.sample(now, measured);
        }
        outcome.undone = self.recovery.is_unfounded(&Evidence {
            advanced: acked > 0,
            original,
            echo: input.echo,
            duplicates: input.duplicate_reported.unwrap_or(0),
            stalled: input.duplicate && !self.sack_ok,
        });
        if outcome.undone {
            // A peer could have very much found lost and found again with each acknowledgment.
            let judged = self.board.losses() <= FEW_LOSSES || self.una >= self.found_until;
            if self.board.losses() > FEW_LOSSES {
                self.found_until = self.nxt;
            }
            self.board.find_all(judged);
        }
        let settled = input.duplicate_reported.is_some() || (input.duplicate && input.sacks.is_empty());
        let probe_found_loss = self.probe.judge(input.ack, settled) && self.recovery.is_open();
        let mut lost = if self.sack_ok {
            self.detect_losses(now, path, rtt)
        } else {
            self.count_duplicates(now, input, path, acked)
        };
        lost |= probe_found_loss;
        outcome.safe = acked > 0 && !lost;
        // While octets come out of order the window stays as it is (RFC 3042 section 2, RFC 5681 section
        // 3.2): what duplicate acknowledgments and SACK blocks report counts once the octets before it have
        // come, too.
        let deferred = if self.recovery.is_open() { self.uncounted } else { 0 };
        let counted = deferred + outcome.delivered;
        (outcome.counted, self.uncounted) = if acked > 0 { (counted, 0) } else { (0, counted) };
        outcome.rate = self.rate.take(self.board.ever_lost(), rtt.min());
        outcome.loss = self.board.report_loss();
        let was_fast = self.recovery.is_fast();
        if self.recovery.advance(self.una, self.nxt) {
            self.rack.recovery_ended();
            self.dup_acks = 0;
            outcome.recovered = was_fast;
        }
        let marked = input.ecn_echo && self.una > self.reduced_at;
        outcome.congestion = match self.recovery.is_open() {
            true if lost => Some(Cause::Loss),
            true if marked => Some(Cause::EcnEcho),
            _ => None,
        };
        if outcome.delivered > 0 {
            self.suspicion.delivered(now, self.expiries == 0);
            if let Some(sent_at) = self.board.oldest_sent_at() {
                self.suspicion.arm(sent_at, rtt);
            }
        }
        if self.board.sacked() > 0 || !self.recovery.is_open() {
            // RACK finds what is lost by what has arrived.
            self.probe.stop();
        }
        if self.board.is_empty() {
            (self.timeout, self.reordering) = (None, None);
            self.probe.disarm();
            (self.expiries, self.tries) = (0, 0);
        } else if acked > 0 {
            (self.expiries, self.tries) = (0, 0);
            self.timeout = Some(now + rtt.backed_off(0));
            self.arm_probe(now, path, rtt);
        }
        outcome
    }

    /// What the acknowledgment says of the scoreboard, and what RACK and the round-trip time learn from that. Gives
    /// the end of the last octets delivered that were sent once only.
    fn take_deliveries(
        &mut self,
        now: Instant,
        input: &AckInput<'_>,
        path: &Path,
        rtt: &RttEstimator,
        outcome: &mut AckOutcome,
    ) -> Option<u64> {
        let mut original = None;
        let (rack, rate, min_rtt) = (&mut self.rack, &mut self.rate, rtt.min());
        let path_mtu = &mut self.path_mtu;
        let mut fack = self.fack;
        let mut ambiguous = false;
        let mut delivered = |delivery: Delivery| {
            outcome.delivered += delivery.octets;
            if delivery.retransmitted {
                ambiguous = true;
            } else {
                outcome.rtt = Some(now - delivery.sent_at);
                original = original.max(Some(delivery.end));
                if delivery.probe {
                    path_mtu.probe_arrived(now, delivery.end);
                }
                rack.reordering_seen |= delivery.end < fack;
            }
            rack.delivered(now, &delivery, min_rtt);
            rate.delivered(now, delivery.octets, &delivery.snapshot);
            fack = fack.max(delivery.end);
        };
        self.board.acknowledge(input.ack, &mut delivered);
        for &(start, end) in input.sacks {
            self.board.sack(start, end, &mut delivered);
        }
        self.fack = fack.max(input.ack);
        if !self.sack_ok {
            if ambiguous {
                // What lies behind a gap that was filled just now may have arrived long ago.
                outcome.rtt = None;
            }
            outcome.delivered -= self.board.settle_presumed(input.ack - self.una, path.mss);
            if input.duplicate {
                outcome.delivered += self.board.presume_delivered(path.mss);
            }
        }
        original
    }

    /// RACK's verdict on everything sent before the newest segment delivered; arms its timer for the undecided.
    fn detect_losses(&mut self, now: Instant, path: &Path, rtt: &RttEstimator) -> bool {
        let window = self.rack.reordering_window(
            !self.recovery.is_open(),
            self.board.sacked() / path.mss.max(1),
            rtt.min(),
            rtt.srtt(),
        );
        let (found, wait) = self.rack.detect_losses(now, window, &mut self.board);
        self.reordering = wait.map(|wait| now + wait);
        self.settle_mtu_probe(now);
        found
    }

    /// A probe of the path's MTU may have been found lost. So may it have been by a tail loss probe, which then has
    /// nothing to say of congestion either.
    fn settle_mtu_probe(&mut self, now: Instant) {
        if self.board.take_lost_probe() {
            self.path_mtu.probe_lost(now);
            self.probe = TailProbe::default();
        }
    }

    /// NewReno without SACK (RFC 6582): three duplicates, then one segment for each partial acknowledgment. What the
    /// duplicates stand for has left the network, so that each lets new data out (limited transmit, RFC 3042).
    fn count_duplicates(&mut self, now: Instant, input: &AckInput<'_>, path: &Path, acked: u64) -> bool {
        self.dup_acks += u32::from(input.duplicate && !self.board.is_empty());
        let partial = acked > 0 && self.recovery.is_partial(self.una) && !self.board.is_empty();
        if (self.dup_acks != DUP_THRESH || !self.recovery.is_open()) && !partial {
            return false;
        }
        let congestion = self.board.lose_first(path.mss);
        self.settle_mtu_probe(now);
        congestion
    }

    /// Congestion control has set the threshold: the window comes down to it, over what is now in flight, or at once
    /// if that is nothing. `before`: window and threshold until now; `delivered`: by the acknowledgment that said so.
    pub(crate) fn begin_recovery(&mut self, cause: Cause, delivered: u64, before: (u64, u64)) {
        self.fast_recoveries += u64::from(cause == Cause::Loss);
        self.reduced();
        self.probe.stop();
        self.uncounted = 0;
        if !self.board.is_empty() {
            let flight = self.nxt - self.una - self.board.sacked() + delivered;
            self.recovery.begin(cause, self.nxt, flight, before);
        }
    }

    fn reduced(&mut self) {
        self.reduced_at = self.nxt;
        self.cwr_due = true;
    }

    /// Proportional rate reduction: the window for the next moments of fast recovery, after an acknowledgment that
    /// delivered so much, and was `safe` in the sense of [`AckOutcome`].
    pub(crate) fn reduce_proportionally(&mut self, delivered: u64, safe: bool, path: &mut Path) {
        let pipe = self.board.in_flight();
        if let Some(cwnd) = self.recovery.window(delivered, safe, pipe, path.ssthresh, path.mss) {
            path.cwnd = cwnd;
        }
    }

    /// Window and threshold to restore after an unfounded reduction.
    pub(crate) fn undone(&mut self) -> Option<(u64, u64)> {
        self.recovery.take_undo()
    }

    fn arm_probe(&mut self, now: Instant, path: &Path, rtt: &RttEstimator) {
        self.probe.disarm();
        let silent = self.board.sacked() == 0 && !self.board.has_lost() && !self.is_shut();
        if self.sack_ok && self.recovery.is_open() && self.expiries == 0 && silent {
            self.probe.arm(now, rtt.srtt(), self.nxt - self.una <= path.mss, self.timeout);
        }
    }

    /// Something was heard on a path that was suspected dead: whether it is alive is tried at once, unless it just was.
    pub(crate) fn try_again(&mut self, now: Instant, rtt: &RttEstimator) {
        if let Some(timeout) = self.timeout
            && timeout > now
            && now - self.last_sent >= rtt.srtt().unwrap_or_else(|| rtt.rto())
        {
            self.timeout = Some(now);
            self.tries += 1;
        }
    }

    /// The way to the peer is there again: what is outstanding goes again now, and later attempts wait as if
    /// these were the first.
    pub(crate) fn path_returned(&mut self, now: Instant) {
        if self.timeout.is_some() {
            self.timeout = Some(now);
            self.tries = self.expiries + 1;
        }
    }

    fn backed_off(&self, rtt: &RttEstimator) -> Duration {
        rtt.backed_off(self.expiries.saturating_sub(self.tries))
    }

    /// There is another path: this one is tried again after `wait`, however often that was in vain.
    pub(crate) fn probe_within(&mut self, now: Instant, wait: Duration) {
        self.timeout = self.timeout.map(|timeout| timeout.min(now + wait));
    }

    /// The earliest of the timers.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let suspicion = self.suspicion.deadline();
        [self.timeout, self.probe.deadline(), self.reordering, suspicion, self.pacer.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets timers expire; at most one action at a time.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        path: &Path,
        rtt: &RttEstimator,
    ) -> Option<TimerAction> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.pacer.deadline()) {
            self.pacer.release();
        }
        if due(self.reordering) {
            self.reordering = None;
            if self.detect_losses(now, path, rtt) && self.recovery.is_open() {
                return Some(TimerAction::Congestion);
            }
        }
        if due(self.probe.deadline()) {
            self.probe.expire();
            // The retransmission timer is started anew, whether a probe can be sent or not (RFC 8985 section
            // 7.3).
            self.timeout = Some(now + self.backed_off(rtt));
            return Some(TimerAction::Probe);
        }
        if due(self.timeout) {
            return Some(self.time_out(now, path, rtt));
        }
        self.suspicion.expire(now, self.nxt - self.una <= path.mss).map(TimerAction::Overdue)
    }

    /// The peer has been asked over another path, which answers within `wait`.
    pub(crate) fn wait_for_answer(&mut self, now: Instant, wait: Duration) {
        self.suspicion.wait_for_answer(now, wait);
    }

    /// The peer has answered over another path.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.suspicion.answered(now);
    }

    /// The path counts as dead until something is delivered on it.
    pub(crate) fn suspect(&mut self) {
        self.suspicion.take();
    }

    /// The longest that an acknowledgment may be overdue before the path is suspected.
    pub(crate) fn limit_suspicion(&mut self, limit: Duration) {
        self.suspicion.limit = limit;
    }

    /// A pause has ended. What is in flight is asked after with a probe, and neither lost nor late before
    /// that has had the time to be answered. Whether there is one to send.
    pub(crate) fn resume(&mut self, now: Instant, pause: Duration, rtt: &RttEstimator) -> bool {
        if self.board.is_empty() || self.expiries > 0 {
            // A path that did not answer before is asked by its retransmission timer.
            return false;
        }
        let timeout = now + self.backed_off(rtt);
        self.timeout = self.timeout.map(|_| timeout);
        self.suspicion.resume(now, pause, rtt);
        // Lost segments leave anyway, and say as much.
        let probes = !self.board.has_lost();
        if probes {
            self.probe.expire();
        }
        probes
    }

    fn time_out(&mut self, now: Instant, path: &Path, rtt: &RttEstimator) -> TimerAction {
        let first = self.expiries == 0;
        self.expiries += 1;
        if self.is_shut() {
            // The peer drops what it has no room for: that says nothing of the path.
            self.probe.stop();
            self.timeout = Some(now + self.backed_off(rtt));
            let asked = *self.asked.get_or_insert(now);
            return TimerAction::WindowProbe { unanswered: now - asked };
        }
        self.timeouts += 1;
        self.reordering = None;
        self.suspicion.take();
        self.probe = TailProbe::default();
        self.uncounted = 0;
        let size = self.board.first_packet();
        self.board.lose_all();
        self.settle_mtu_probe(now);
        self.path_mtu
            .timed_out(self.expiries, size + u64::from(self.path_mtu.size()).saturating_sub(path.mss));
        self.recovery.time_out(first, self.nxt, (path.cwnd, path.ssthresh));
        self.reduced();
        self.timeout = Some(now + self.backed_off(rtt));
        TimerAction::Timeout { first }
    }

    /// The subflow is gone: nothing is in flight any more.
    pub(crate) fn clear(&mut self) {
        self.board = Scoreboard::default();
        (self.timeout, self.reordering) = (None, None);
        self.suspicion.clear();
        self.probe = TailProbe::default();
        self.pacer = Pacer::default();
        self.una = self.nxt;
    }
}
