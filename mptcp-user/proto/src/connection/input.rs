//! What a segment does to its subflow: RFC 9293 section 3.10.7, with the checks of RFC 5961 and RFC 7323.

use super::Connection;
use super::close::EndCause;
use super::refusals::Why;
use crate::Instant;
use crate::congestion::{Ack, Cause};
use crate::counters::Counter;
use crate::crypto;
use crate::decision::{CongestionCause, Decision};
use crate::endpoint::Shared;
use crate::event::{CloseReason, Unreachable};
use crate::info::{FallbackReason, SubflowState};
use crate::subflow::absence::Lack;
use crate::subflow::sack::Blocks;
use crate::subflow::send::{AckInput, AckOutcome};
use crate::subflow::{Kind, link_mss};
use crate::wire::{Flags, MptcpOption, Payload, ResetReason, Segment, SeqNumber, Version};
use std::time::Duration;

/// What a connection may hold beside what its window accounts for.
const SLACK: u64 = 128 << 10;

impl Connection {
    /// A segment of the subflow at `index` came in.
    pub(crate) fn handle_segment(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        mut segment: Segment,
    ) {
        let Some(subflow) = self.subflow(index) else { return };
        subflow.segments_received += 1;
        if !subflow.takes_timestamps(&mut segment) {
            shared.count(Counter::PawsEstab);
            return;
        }
        // How long it has waited for us says nothing of the path.
        let known_rtt = shared.late.then_some(subflow.rtt);
        match subflow.state {
            SubflowState::SynSent => self.on_syn_sent(shared, now, index, &segment),
            SubflowState::SynReceived => {
                if subflow.opened_simultaneously(&segment) {
                    // Its SYN is known already; the acknowledgment is the news (RFC 9293 section 3.5, figure 7).
                    segment.flags = segment.flags.without(Flags::SYN);
                    segment.seq += 1;
                }
                if self.on_syn_received(shared, now, index, &segment) {
                    self.on_synchronised(shared, now, index, segment);
                }
            }
            SubflowState::Closed | SubflowState::TimeWait => {}
            _ => self.on_synchronised(shared, now, index, segment),
        }
        if let (Some(rtt), Some(subflow)) = (known_rtt, self.subflow(index)) {
            subflow.rtt = rtt;
        }
        self.settle_absences(shared, now);
        self.progress_close(shared, now);
    }

    //= RFC 8684 3-3
    //= RFC 8684 3.4.2-5
    //= RFC 8684 3.7-5
    fn on_synchronised(&mut self, shared: &mut Shared, now: Instant, index: usize, mut segment: Segment) {
        let plain = !self.is_multipath();
        let Some(subflow) = self.subflow(index) else { return };
        let reset = segment.flags.has(Flags::RST);
        let past = !reset && subflow.rcv.is_from_the_past(now, &segment);
        if past || !subflow.rcv.acceptable(&segment) {
            shared.count(match (past, reset) {
                (true, _) => Counter::PawsEstab,
                (false, true) => Counter::BadReset,
                (false, false) => Counter::OutOfWindow,
            });
            if !reset {
                self.answer_unacceptable(shared, now, index, &segment);
            }
            return;
        }
        if reset {
            self.on_reset(shared, now, index, &segment);
            return;
        }
        if segment.flags.has(Flags::SYN) {
            shared.count(Counter::SynChallenge);
            self.challenge(shared, now, index);
            return;
        }
        if !segment.flags.has(Flags::ACK) {
            shared.count(Counter::NoAck);
            return;
        }
        let ack = subflow.snd.offset(segment.ack);
        if ack > subflow.snd.nxt as i64 || ack < subflow.snd.una as i64 - subflow.snd.largest_window() {
            // RFC 5961 section 5.2.
            shared.count(Counter::BadAck);
            self.challenge(shared, now, index);
            return;
        }
        subflow.rcv.note_timestamp(now, &segment);
        let news = !segment.payload.is_empty() || ack > subflow.snd.una as i64;
        let known = subflow.silence.broken(now, subflow.heard, news);
        subflow.heard = now;
        subflow.keep_alives = 0;
        // What was under way still comes when carrier or address are gone.
        subflow.absent = subflow.absent.filter(|absence| absence.lack != Lack::Route);
        let back = known && subflow.stale && subflow.snd.is_idle();
        if subflow.must_answer_by.take().is_some() || back {
            subflow.stale = false;
        } else if subflow.stale {
            subflow.snd.try_again(now, &subflow.rtt);
        }
        if !subflow.confirmed {
            // Any answer shows that the third ACK of our MP_JOIN has arrived.
            subflow.confirmed = true;
            subflow.handshake_answered(now, &segment);
        }
        let window = u64::from(segment.window) << subflow.snd.scale;
        if subflow.ecn.received(&segment) {
            subflow.rcv.ack_now = true;
        }
        let slot = subflow.slot.0;
        if plain && (subflow.fail_due.is_some() || !segment.options.mptcp.is_empty()) {
            self.take_fallen_back(shared, index, &segment);
        }
        if back {
            self.note_answered(shared, slot);
        }
        self.plain_segments =
            if segment.options.mptcp.is_empty() { self.plain_segments.saturating_add(1) } else { 0 };
        let hollow = segment.payload.is_hollow();
        let carries = !segment.payload.is_empty() || maps_octets(&segment);
        if carries && (self.lacks_memory(shared, now, index, &segment) || hollow) {
            // As if it had not come, but for what it acknowledges.
            segment.payload = Payload::new();
            segment.flags = segment.flags.without(Flags::FIN);
            for option in &mut segment.options.mptcp {
                match option {
                    MptcpOption::Dss(dss) => dss.mapping = None,
                    MptcpOption::Capable(capable) => capable.data = None,
                    _ => {}
                }
            }
        }
        self.take_options(shared, now, index, &segment, window);
        let broken = self.subflow(index).is_none_or(|subflow| subflow.reset_due.is_some());
        if self.closed.is_some() || broken || self.lacks_data_ack(shared, now, index, &segment, ack) {
            return;
        }
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.mappings.take_refused() {
            // As if its octets had not come: they would have no place in the data stream.
            segment.payload = Payload::new();
            segment.flags = segment.flags.without(Flags::FIN);
        }
        if self.is_multipath() && !self.dss_received && self.plain_segments > 0 && ack > 1 && self.contiguous
        {
            // Our data was acknowledged by someone who does not see the options: they are stripped on the way.
            shared.count(Counter::MpCapableDataFallback);
            self.fall_back(shared, now, FallbackReason::OptionStripped);
        }
        if segment.flags.has(Flags::FIN) && segment.options.mptcp.is_empty() {
            self.take_plain_fin(shared, now, index, ack);
        }
        if self.question == Some(index) {
            self.question_answered(now);
        }
        self.take_ack(shared, now, index, &segment, ack, window);
        self.take_payload(shared, now, index, &mut segment);
    }

    /// A FIN without any option of ours ends a subflow and not the stream (RFC 8684 section 3.3.3), unless it
    /// is that of a peer that has fallen back. It has, if options of it have never come, or if it
    /// acknowledges data without a Data ACK (section 3.7): it takes our FIN in answer to its own for the end
    /// of our stream, too.
    //= RFC 8684 3.3.3-6
    fn take_plain_fin(&mut self, shared: &mut Shared, now: Instant, index: usize, ack: i64) {
        let fell_back = !self.dss_received || ack as u64 > self.send.una + 1;
        if fell_back && self.is_multipath() && !self.receive.has_end() && self.may_follow_fallback(index) {
            shared.count(Counter::DssFallback);
            self.fall_back(shared, now, FallbackReason::OptionStripped);
        }
    }

    /// Data came, or a mapping of some. Whether there is no room to keep it: the window lets nobody that
    /// keeps to it come so far, except where very many do so at once. Octets in order are the last to be
    /// refused, because they set others free.
    fn lacks_memory(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &Segment) -> bool {
        let Some(subflow) = self.subflow(index) else { return true };
        let bare = segment.payload.is_empty();
        let echo = segment.options.timestamps.filter(|_| !bare).filter(|_| subflow.stamps);
        let echo =
            echo.map(|stamps| subflow.stamp(now).wrapping_sub(stamps.echo)).filter(|age| *age < 60_000);
        if !bare {
            subflow.rcv.echo.data(now, echo.map(|age| Duration::from_millis(u64::from(age))));
        }
        // A mapping without its octets is of no use before they come.
        let in_order = !bare && subflow.rcv.offset(segment.seq) <= subflow.rcv.nxt as i64;
        let granted = self.receive.capacity().max(self.receive.advertised());
        let held = self.receive_memory();
        // Beside the octets of the window: duplicates on several subflows, and what small pieces cost.
        let (most_out_of_order, most) = (2 * granted + SLACK, 4 * granted + 2 * SLACK);
        let memory = &shared.memory;
        let refused = if in_order {
            held > most || memory.is_exhausted() && !self.receive.is_drained()
        } else {
            held > most_out_of_order || memory.is_full()
        };
        if refused {
            shared.count(if in_order { Counter::RcvQDrop } else { Counter::OfoDrop });
        }
        refused
    }

    /// A segment outside the window: an acknowledgment tells the peer where we are (RFC 9293 section 3.10.7.4).
    fn answer_unacceptable(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &Segment) {
        let handshake_lost = segment.flags.has(Flags::SYN) && segment.flags.has(Flags::ACK);
        let Some(subflow) = self.subflow(index) else { return };
        let start = subflow.rcv.offset(segment.seq);
        if segment.payload.is_empty() && !segment.flags.has(Flags::FIN) && !handshake_lost {
            // Window and keep-alive probes, and blind guesses.
            if start == subflow.rcv.nxt as i64 - 1 && segment.ack == subflow.snd.seq(subflow.snd.nxt) {
                subflow.silence.asked(now);
                subflow.window_probe_due |= subflow.silence.is_known();
            }
            self.challenge(shared, now, index);
            return;
        }
        if handshake_lost && matches!(subflow.kind, Kind::JoinActive { .. }) {
            subflow.handshake_due = true;
        }
        subflow.rcv.ack_now = true;
        if start < subflow.rcv.nxt as i64 && !segment.payload.is_empty() {
            // A retransmission of what we have, and perhaps of more, which must not be taken from a segment of the past.
            subflow.rcv.duplicated(start, start + segment.payload.len() as i64);
        }
    }

    /// An acknowledgment tells a confused peer where we are, and a blind attacker nothing (RFC 5961 section 7).
    fn challenge(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.may_challenge(now) {
            subflow.rcv.ack_now = true;
            shared.count(Counter::ChallengeAck);
        } else {
            shared.count(Counter::AckSkippedChallenge);
        }
    }

    //= RFC 8684 3.6-1
    fn on_reset(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &Segment) {
        let Some(subflow) = self.subflow(index) else { return };
        if segment.seq != subflow.rcv.ack_seq() {
            shared.count(Counter::BadReset);
            self.challenge(shared, now, index);
            return;
        }
        if self.closed.is_some() {
            // What we owe the peer there is not needed any more.
            if let Some(subflow) = self.take_subflow(shared, index) {
                shared.remove_subflow(&subflow);
            }
            return;
        }
        let mut fast_close = false;
        let mut final_word = false;
        let mut cause = match (segment.options.mptcp.is_empty(), self.version) {
            // Options had stopped coming, and this has none that would say why.
            (true, _) if self.plain_segments > 0 => EndCause::Interference,
            (true, Version::V1) => EndCause::Unexplained,
            _ => EndCause::Known,
        };
        for option in &segment.options.mptcp {
            match option {
                MptcpOption::FastClose(_) => {
                    fast_close |= self.is_fast_close(shared, option);
                    if !fast_close {
                        // Whoever sends a wrong key is not the peer, or not well: another subflow may still
                        // come.
                        cause = EndCause::Unexplained;
                    }
                }
                MptcpOption::Reset(reset) => {
                    if reset.reason == ResetReason::MiddleboxInterference {
                        cause = EndCause::Interference;
                    }
                    final_word = !reset.transient;
                    shared.count(Counter::MpRstRx);
                }
                MptcpOption::Fail(_) => {
                    cause = EndCause::Interference;
                    shared.count(Counter::MpFailRx);
                }
                MptcpOption::Dss(_) => {}
                _ => shared.count(Counter::OptionOutOfPlace),
            }
        }
        if fast_close {
            // The others must not be left to the peer's timers (RFC 8684 section 3.5).
            self.reset_all_subflows();
            if let Some(subflow) = self.subflow(index) {
                subflow.reset_due = None;
            }
        }
        if fast_close || !self.is_multipath() {
            self.close_now(shared, now, CloseReason::Reset);
            return;
        }
        self.reset_seen = true;
        self.end_cause = cause;
        if cause != EndCause::Unexplained || self.subflow_count() > 1 {
            match cause {
                EndCause::Interference => self.refuse_interfered_path(now, index),
                // RFC 8684 section 3.6: without flag T no subflow is to be tried over this path again.
                _ => self.refuse_path(now, index, if final_word { Why::Refused } else { Why::Passing }),
            }
        }
        self.end_subflow(shared, now, index);
    }

    //= RFC 8684 3.5-1
    pub(super) fn is_fast_close(&self, shared: &mut Shared, option: &MptcpOption) -> bool {
        let authentic = matches!(option, MptcpOption::FastClose(close)
            if crypto::same_secret(&close.receiver_key.to_be_bytes(), &self.local_key.key.to_be_bytes()));
        shared.count(if authentic { Counter::MpFastcloseRx } else { Counter::BadFastclose });
        authentic
    }

    fn take_ack(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
        ack: i64,
        window: u64,
    ) {
        let plain = !self.is_multipath();
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let una = subflow.snd.una;
        if ack < una as i64 {
            return;
        }
        let ack = ack as u64;
        let edge = ack + window;
        let duplicate = ack == una
            && segment.payload.is_empty()
            && !segment.flags.has(Flags::FIN)
            && edge == subflow.snd.edge
            && !subflow.snd.is_idle()
            && !carries_signal(segment);
        if plain {
            let from = subflow.rcv.offset(segment.seq).max(0) as u64;
            let stamp = segment.options.timestamps.map(|stamps| stamps.value);
            subflow.snd.obey_window(now, (from, stamp), ack, window, &subflow.rtt);
        } else {
            subflow.snd.take_window(now, ack, window);
        }
        let mut sacks = Blocks::default();
        if subflow.snd.sack_ok {
            match subflow.sacks.take(&subflow.snd, ack, &segment.options.sack) {
                Some(blocks) => sacks = blocks,
                None => subflow.snd.sack_ok = false,
            }
        }
        let stamps = segment.options.timestamps.filter(|_| subflow.stamps);
        let stamp_rtt = stamps.map(|stamps| {
            let millis = subflow.stamp(now).wrapping_sub(stamps.echo);
            Duration::from_millis(u64::from(millis.min(60_000)))
        });
        let news = ack > una || !sacks.arrived.is_empty();
        let ecn_echo = news && subflow.ecn.reports_marks(segment);
        if ack == una && sacks == Blocks::default() && !duplicate && !ecn_echo {
            return;
        }
        let input = AckInput {
            ack,
            sacks: &sacks.arrived,
            duplicate_reported: sacks.duplicate,
            ecn_echo,
            echo: stamps.map(|stamps| stamps.echo),
            stamp_rtt: stamp_rtt.filter(|rtt| !rtt.is_zero()),
            duplicate,
        };
        let outcome = subflow.snd.acknowledge(now, &input, &self.congestion_paths[index], &mut subflow.rtt);
        let mut revived = false;
        if outcome.acked > 0 {
            revived = std::mem::take(&mut subflow.stale);
            if revived {
                shared.count(Counter::SubflowRecover);
                let slot = subflow.slot.0;
                shared.decide(self.id, || Decision::Recovered { subflow: slot });
                for path in &mut self.congestion_paths {
                    path.careful = false;
                }
            }
            subflow.bytes_acked += outcome.acked - u64::from(subflow.fin_sent && subflow.snd.is_idle());
        }
        if outcome.congestion == Some(Cause::Loss) {
            shared.count(Counter::SackRecovery);
        }
        self.control_congestion(shared, now, index, &outcome);
        // Windows grow also while the peer waits for an octet that was lost.
        self.make_room(shared);
        self.follow_path_mtu(index);
        let cause = match outcome.congestion {
            Some(Cause::Loss) => Some(CongestionCause::Loss),
            Some(_) => Some(CongestionCause::Mark),
            None => outcome.undone.then_some(CongestionCause::Undo),
        };
        if let Some(cause) = cause {
            self.note_congestion(shared, index, cause);
        }
        if plain && outcome.acked > 0 {
            // One to one: subflow offset 1 is data offset 0.
            if self.infinite_until.is_some_and(|until| ack >= until) {
                self.infinite_until = None;
            }
            self.send.acknowledge((ack - 1).min(self.send.end()));
            self.make_room(shared);
        }
        self.subflow_fin_acknowledged(shared, now, index);
        if revived {
            self.manage_paths(shared, now);
        }
    }

    /// The host's route for the subflow at `index` takes packets of at most `mtu` octets; `None`: as many as
    /// the link. Whether packets become smaller with it.
    pub(crate) fn limit_path(&mut self, index: usize, mtu: Option<u32>) -> bool {
        let Some(subflow) = self.subflow(index) else { return false };
        let mss = mtu.map(|mtu| link_mss(subflow.local, mtu));
        let before = subflow.snd.path_mtu.size();
        subflow.snd.path_mtu.route_changed(mss);
        let smaller = subflow.snd.path_mtu.size() < before;
        self.follow_path_mtu(index);
        smaller
    }

    /// Packets are of another size from now on, if the path's MTU turned out to be another one.
    pub(super) fn follow_path_mtu(&mut self, index: usize) {
        let multipath = self.is_multipath();
        if let Some(subflow) = self.subflow(index)
            && subflow.follow_path_mtu(multipath)
        {
            self.congestion_paths[index].mss = subflow.payload_mss(multipath);
        }
    }

    /// Tells who wants to know what became of a congestion window.
    pub(super) fn note_congestion(&self, shared: &mut Shared, index: usize, cause: CongestionCause) {
        let (Some(subflow), path) = (self.subflows[index].as_deref(), &self.congestion_paths[index]) else {
            return;
        };
        let (cwnd, ssthresh) = (path.cwnd, path.ssthresh);
        shared.decide(self.id, || Decision::Congestion { subflow: subflow.slot.0, cause, cwnd, ssthresh });
    }

    /// Tells congestion control and keeps the window accordingly.
    fn control_congestion(&mut self, shared: &mut Shared, now: Instant, index: usize, outcome: &AckOutcome) {
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let control = &mut self.policies.congestion;
        let path = &mut self.congestion_paths[index];
        path.srtt = subflow.rtt.srtt();
        if path.min_rtt != subflow.rtt.min() {
            path.min_rtt = subflow.rtt.min();
            shared.measured(path, subflow.local.ip(), subflow.remote.ip());
        }
        path.in_flight = subflow.snd.in_flight();
        path.limited = outcome.limited;
        if outcome.undone
            && let Some((cwnd, ssthresh)) = subflow.snd.undone()
        {
            path.cwnd = path.cwnd.max(cwnd);
            path.ssthresh = ssthresh;
            control.on_undo(index);
        }
        if let Some(cause) = outcome.congestion {
            let before = (path.cwnd, path.ssthresh);
            control.on_congestion(now, index, cause, &mut self.congestion_paths);
            subflow.snd.begin_recovery(cause, outcome.delivered, before);
        }
        let path = &mut self.congestion_paths[index];
        path.recovering = subflow.snd.in_fast_recovery();
        let ruled = control.rules_recovery();
        if subflow.snd.in_fast_recovery() && !ruled {
            subflow.snd.reduce_proportionally(outcome.delivered, outcome.safe, path);
        } else {
            if (outcome.recovered || outcome.congestion.is_some()) && !ruled {
                path.cwnd = path.ssthresh;
            }
            let delivered = if ruled { outcome.delivered } else { outcome.counted };
            if delivered > 0 {
                let ack = Ack {
                    delivered,
                    rtt: outcome.rtt,
                    limited: outcome.limited,
                    round: outcome.round,
                    rate: outcome.rate,
                    loss: outcome.loss,
                    recovered: outcome.recovered,
                };
                control.on_ack(now, index, &ack, &mut self.congestion_paths);
            }
        }
    }
}

/// Whether a segment maps octets of data: other segments may bring them.
fn maps_octets(segment: &Segment) -> bool {
    let mapping = segment.options.dss().and_then(|dss| Some((dss.mapping.as_ref()?, dss.data_fin)));
    mapping.is_some_and(|(mapping, data_fin)| mapping.len > u16::from(data_fin))
}

/// Whether the segment was sent because of an option of ours: then it is no sign of a loss, however often it
/// repeats an acknowledgment (RFC 8684 section 3). One with a Data ACK alone may be.
//= RFC 8684 3-1
fn carries_signal(segment: &Segment) -> bool {
    segment.options.mptcp.iter().any(|option| match option {
        MptcpOption::Dss(dss) => dss.mapping.is_some(),
        _ => true,
    })
}

impl Connection {
    /// An ICMP error quotes a segment of the subflow at `index` (RFC 5927: believed only if the quoted sequence
    /// number is in flight).
    pub(crate) fn handle_unreachable(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        unreachable: &Unreachable,
    ) {
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let quoted = subflow.snd.offset(SeqNumber(unreachable.seq));
        if quoted < subflow.snd.una as i64 || quoted >= subflow.snd.nxt as i64 {
            shared.count(Counter::OutOfWindowIcmps);
            return;
        }
        if let Some(mtu) = unreachable.mtu {
            if subflow.snd.path_mtu.too_big(now, mtu, subflow.headers()) {
                self.follow_path_mtu(index);
            }
        } else if !subflow.is_synchronised() && (unreachable.hard || subflow.kind == Kind::Initial) {
            // Before the handshake is complete a hard error ends the attempt, and a soft one that of the
            // initial subflow: who wants the connection has other addresses to try, or is told what is wrong
            // (as `tcp_v4_err` of Linux does in SYN-SENT). Later both are a hint at most.
            let initial = subflow.kind == Kind::Initial;
            self.refuse_path(now, index, Why::Passing);
            if initial {
                self.close_now(shared, now, CloseReason::Unreachable);
            } else {
                self.end_subflow(shared, now, index);
            }
        }
    }
}
