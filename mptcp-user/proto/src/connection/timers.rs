//! What happens when time passes: subflow timers, the data level's own retransmission, zero windows, patience.

use super::refusals::Why;
use super::{Connection, Mode};
use crate::Instant;
use crate::congestion::Cause;
use crate::counters::Counter;
use crate::decision::{CongestionCause, Decision, ReinjectionCause};
use crate::endpoint::Shared;
use crate::event::CloseReason;
use crate::info::{FallbackReason, SubflowState};
use crate::subflow::send::TimerAction;
use crate::subflow::suspicion::Step;
use crate::subflow::{Kind, Subflow};
use crate::wire::ResetReason;
use std::time::Duration;

/// SYNs with MP_CAPABLE before one is sent without, in case the option is what makes it disappear
/// (RFC 8684 section 3.1 leaves the number to the implementation; the Linux kernel takes two).
const SYNS_WITH_OPTION: u32 = 2;
/// Attempts to complete the handshake of a further subflow.
const JOIN_ATTEMPTS: u32 = 5;
/// SYN/ACKs sent in answer to one SYN: no more than a lost third ACK makes necessary, because the SYN may have come
/// under a false name (Linux sends six). None are repeated while the listener is crowded, nor when the endpoint's budget
/// for that is spent (see `syn_ack_budget`).
const SYN_ACK_ATTEMPTS: u32 = 4;
/// A connection whose application is gone is kept as long as the peer acknowledges at least this part of what
/// is left, one in so many, each minute.
const ORPHAN_PROGRESS: u64 = 32;
/// Longest wait between two window probes.
const MAX_PERSIST: Duration = Duration::from_secs(60);
/// Data-level timeouts are not shorter: subflows retransmit by themselves, this is for what they can't know.
const MIN_DATA_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a path that others have taken the place of is tried with a segment, so that it is used again soon after it
/// has come back.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// It is not worth to be written down for less.
const SHORT_REST: Duration = Duration::from_millis(100);

impl Connection {
    /// Computes when [`handle_timeout`](Self::handle_timeout) is next to be called, or the connection may rest: when nothing
    /// has happened for `rest_after`, and nothing is to happen.
    pub(crate) fn update_deadline(&mut self, now: Instant, rest_after: Duration) {
        self.rests_at = None;
        if self.closed.is_some() {
            // What is left are resets, which leave when they can.
            self.deadline.wanted = None;
            return;
        }
        self.arm_persist(now);
        self.deadline.wanted = self.next_deadline(now);
        let rests_at = now + rest_after;
        if self.deadline.wanted.is_none_or(|wanted| wanted > rests_at + SHORT_REST) && self.is_at_rest() {
            self.rests_at = Some(rests_at);
            self.deadline.wanted = self.rests_at;
        }
    }

    /// Nothing has happened for long: `true` if the connection may be written down, with the deadline that it has then.
    pub(crate) fn begin_rest(&mut self, now: Instant) -> bool {
        let rests = self.rests_at.is_some_and(|at| at <= now) && !self.queued;
        if rests {
            self.rests_at = None;
            self.deadline.wanted = self.next_deadline(now);
        }
        rests
    }

    /// Whether it holds no octets, and owes nothing that leaves by itself.
    fn is_at_rest(&self) -> bool {
        let quiet = |subflow: &Subflow| {
            // One that does not answer is asked ever more seldom.
            let at_ease = !subflow.silence.is_asking() && (!subflow.stale || subflow.silence.is_known());
            let at_rest = subflow.state == SubflowState::Established && subflow.confirmed && at_ease;
            let empty = subflow.snd.is_idle() && subflow.rcv.held.is_empty() && subflow.mappings.cost() == 0;
            at_rest && empty && !subflow.rcv.ack_now && subflow.reset_due.is_none() && !subflow.priority_due
        };
        !matches!(self.mode, Mode::Handshake(_))
            && self.send.buffer.len() == 0
            && !self.send.finished
            && !self.receive.finished
            && self.receive.holds_nothing()
            && !self.released
            && self.subflows.iter().flatten().all(|subflow| quiet(subflow))
            && self.subflows.iter().any(Option::is_some)
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let subflows = self.subflows.iter().flatten().filter_map(|subflow| subflow.next_timeout());
        let keep_alive = self.config.keep_alive.as_ref();
        let probes = self.subflows.iter().flatten().filter_map(|subflow| subflow.keep_alive_at(keep_alive?));
        let checks = self.living().filter_map(|(index, subflow)| self.check_at(index, subflow));
        subflows
            .chain(probes)
            .chain(checks)
            .chain(
                [self.data_deadline, self.persist_deadline, self.patience, self.parting]
                    .into_iter()
                    .chain([self.paths.deadline(), self.addresses.deadline(now), self.fail.deadline()])
                    .chain([self.survival_deadline()])
                    .flatten(),
            )
            .min()
    }

    /// Lets everything that is due happen.
    pub(crate) fn handle_timeout(&mut self, shared: &mut Shared, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for index in 0..self.subflows.len() {
            self.time_subflow(shared, now, index);
            if self.closed.is_some() {
                return;
            }
        }
        if due(self.data_deadline) {
            self.data_timeout(shared, now);
            if self.closed.is_some() {
                return;
            }
        }
        if due(self.persist_deadline) {
            self.probe_window(shared, now);
            if self.closed.is_some() {
                return;
            }
        }
        self.fail_timeout(now);
        self.paths_timeout(shared, now);
        self.survival_timeout(shared, now);
        if self.closed.is_some() {
            return;
        }
        if due(self.parting) {
            self.part(shared, now);
            return;
        }
        if due(self.patience) {
            self.patience = None;
            self.out_of_patience(shared, now);
        }
        self.progress_close(shared, now);
    }

    fn out_of_patience(&mut self, shared: &mut Shared, now: Instant) {
        if matches!(self.mode, Mode::Handshake(_)) {
            self.close_now(shared, now, CloseReason::ConnectTimeout);
        } else if self.has_no_subflow() {
            let reason = if self.reset_seen { CloseReason::Reset } else { CloseReason::AllPathsLost };
            self.close_now(shared, now, reason);
        } else if self.released && self.send.is_done() {
            // The peer never finished: nobody would read it anyway.
            self.abort(shared, now);
        } else if self.released {
            // The peer takes what is left so slowly, or keeps its window closed, that nobody waits for it:
            // what it does not take is held at the expense of others.
            let left = self.send.end() - self.send.una;
            if left > self.orphan_left - self.orphan_left.div_ceil(ORPHAN_PROGRESS) {
                self.abort(shared, now);
                return;
            }
            self.orphan_left = left;
            self.patience = Some(now + super::close::ORPHAN);
        }
    }

    /// When the peer was asked for its window and since when it has not answered.
    fn probes_unanswered(&self) -> Option<Instant> {
        let heard = self.living().map(|(_, subflow)| subflow.heard).max();
        self.probed_since.filter(|since| heard.is_none_or(|heard| heard <= *since))
    }

    /// The window is to be probed; a peer that answers may keep it closed as long as it likes (RFC 9293
    /// section 3.8.6.1), one that does not is gone. Each probe goes over another subflow, in case it is the
    /// path that is.
    fn probe_window(&mut self, shared: &mut Shared, now: Instant) {
        self.persist_deadline = None;
        let unanswered = self.probes_unanswered();
        if unanswered.is_some_and(|since| now - since >= self.user_timeout) {
            self.close_now(shared, now, CloseReason::TimedOut);
            return;
        }
        self.probed_since = unanswered.or(Some(now));
        shared.count(if self.is_multipath() { Counter::MptcpWinProbe } else { Counter::WinProbe });
        self.window_override = true;
        let usable = self.living().filter(|(_, subflow)| subflow.can_send()).count();
        let turn = self.persist_expiries as usize % usable.max(1);
        self.persist_expiries += 1;
        let mut subflows = self.subflows.iter_mut().flatten().filter(|subflow| subflow.can_send());
        if let Some(subflow) = subflows.nth(turn) {
            subflow.window_probe_due = true;
        }
    }

    fn time_subflow(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.handshake_deadline.is_some_and(|at| at <= now) {
            subflow.handshake_deadline = None;
            self.handshake_timeout(shared, now, index);
        }
        if self.subflow(index).is_some_and(|subflow| subflow.must_answer_by.is_some_and(|at| at <= now)) {
            self.answer_overdue(shared, index);
        }
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        subflow.signals_waited(now);
        if subflow.rcv.ack_due(now) {
            subflow.rcv.ack_now = true;
            subflow.rcv.ack_deadline = None;
        }
        if let Some(keep_alive) = self.config.keep_alive
            && subflow.keep_alive_at(&keep_alive).is_some_and(|at| at <= now)
        {
            if subflow.keep_alives >= keep_alive.probes {
                self.give_up_subflow(shared, now, index);
                return;
            }
            subflow.keep_alives += 1;
            shared.count(Counter::KeepAlive);
            subflow.window_probe_due = true;
        }
        self.check_silence(shared, now, index);
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let action = subflow.snd.handle_timeout(now, &self.congestion_paths[index], &subflow.rtt);
        match action {
            Some(TimerAction::Timeout { first }) => self.subflow_timeout(shared, now, index, first),
            Some(TimerAction::Congestion) => {
                shared.count(Counter::SackRecovery);
                let before = (self.congestion_paths[index].cwnd, self.congestion_paths[index].ssthresh);
                let cause = Cause::Loss;
                self.policies.congestion.on_congestion(now, index, cause, &mut self.congestion_paths);
                if let Some(subflow) = self.subflows[index].as_deref_mut() {
                    subflow.snd.begin_recovery(cause, 0, before);
                    self.congestion_paths[index].recovering = true;
                    if !self.policies.congestion.rules_recovery() {
                        subflow.snd.reduce_proportionally(0, false, &mut self.congestion_paths[index]);
                    }
                }
                self.note_congestion(shared, index, CongestionCause::Loss);
            }
            Some(TimerAction::WindowProbe { unanswered }) => {
                shared.count(Counter::WinProbe);
                subflow.window_probe_due = true;
                if unanswered >= self.user_timeout {
                    self.give_up_subflow(shared, now, index);
                } else {
                    self.check_timed_out(shared, now, index);
                }
            }
            Some(TimerAction::Overdue(step)) => self.overdue(shared, now, index, step),
            Some(TimerAction::Probe) => shared.count(Counter::LossProbes),
            None => {}
        }
    }

    /// An acknowledgment on this subflow is overdue. While nothing else works that is no reason to do anything; a
    /// retransmission timeout will be. Otherwise what is outstanding goes over the others now, and nothing new over this
    /// one until it shows that it is alive.
    fn overdue(&mut self, shared: &mut Shared, now: Instant, index: usize, step: Step) {
        if !self.is_multipath() {
            return;
        }
        let works = self.works_without(index);
        if step == Step::Ask {
            if works {
                self.reinject_gaps(shared, index);
                self.ask_over_another(now, index);
            }
        } else if works || (step == Step::Late && self.could_replace(shared, now, index)) {
            if let Some(subflow) = self.subflow(index) {
                subflow.snd.suspect();
            }
            self.mark_stale(shared, index);
            self.reinject_outstanding(shared, index, ReinjectionCause::Overdue);
            self.manage_paths(shared, now);
        }
    }

    /// The peer's acknowledgments may have been lost with the path. Its Data ACK on another path says which
    /// octets it has. It comes by itself if octets are under way on another path.
    fn ask_over_another(&mut self, now: Instant, index: usize) {
        let others = self.living().filter(|(other, _)| *other != index);
        let works = others.filter(|(_, subflow)| subflow.can_send() && !subflow.stale);
        if works.clone().any(|(_, subflow)| !subflow.snd.is_idle()) {
            return;
        }
        let srtt = |subflow: &Subflow| subflow.rtt.srtt().unwrap_or(Duration::MAX);
        let Some((over, subflow)) = works.min_by_key(|(_, subflow)| srtt(subflow)) else { return };
        let wait = srtt(subflow).saturating_add(subflow.rtt.rttvar() * 4);
        self.question = Some(over);
        if let Some(subflow) = self.subflow(over) {
            subflow.window_probe_due = true;
        }
        if let Some(subflow) = self.subflow(index) {
            subflow.snd.wait_for_answer(now, wait);
        }
    }

    /// The peer has answered a question after its Data ACK.
    pub(super) fn question_answered(&mut self, now: Instant) {
        self.question = None;
        for subflow in self.subflows.iter_mut().flatten() {
            subflow.snd.answered(now);
        }
    }

    /// The path is suspected dead.
    pub(super) fn mark_stale(&mut self, shared: &mut Shared, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        if !std::mem::replace(&mut subflow.stale, true) {
            let (slot, timeouts) = (subflow.slot.0, subflow.snd.expiries);
            shared.count(Counter::SubflowStale);
            shared.decide(self.id, || Decision::Stale { subflow: slot, timeouts });
        }
    }

    /// Whether another subflow than this one works.
    pub(super) fn works_without(&self, index: usize) -> bool {
        self.living().any(|(other, subflow)| other != index && subflow.can_send() && !subflow.stale)
    }

    /// The peer has said that the address of this subflow is gone, and the subflow does not prove otherwise.
    //= RFC 8684 3.4.2-4
    fn answer_overdue(&mut self, shared: &mut Shared, index: usize) {
        let others = self.works_without(index);
        if let Some(subflow) = self.subflow(index) {
            subflow.must_answer_by = None;
            if others {
                shared.count(Counter::RmSubflow);
                subflow.reset_due = Some(Some(ResetReason::Unspecified));
            }
        }
    }

    //= RFC 8684 3.1-20
    fn handshake_timeout(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let offered = self.mode == Mode::Handshake(true);
        let attempts = if shared.crowded(self.listener) { 1 } else { SYN_ACK_ATTEMPTS };
        let Some(subflow) = self.subflow(index) else { return };
        let (sends, confirmed) = (subflow.handshake_sends, subflow.confirmed);
        match (subflow.state, subflow.kind) {
            (SubflowState::SynSent, Kind::Initial) => {
                subflow.handshake_due = true;
                if offered && sends >= SYNS_WITH_OPTION {
                    shared.count(Counter::MpCapableSynTxDrop);
                    self.option_left_out = true;
                    self.mode = Mode::Handshake(false);
                    shared.remove_token(self.local_key.token);
                }
            }
            (SubflowState::SynReceived, Kind::Initial) if sends < attempts => {
                self.repeat_syn_ack(shared, now, index);
            }
            (SubflowState::CloseWait, _) => self.half_closed_timeout(now, index),
            (SubflowState::FinWait2, _) if now - subflow.heard < super::close::ORPHAN => {
                // The peer goes on sending on its half.
                subflow.handshake_deadline = Some(subflow.heard + super::close::ORPHAN);
            }
            (SubflowState::FinWait2, _) => {
                // The peer never closed its half of the subflow.
                if self.is_multipath() || self.released {
                    self.end_subflow(shared, now, index);
                }
            }
            (SubflowState::SynReceived, Kind::Initial) => {
                self.close_now(shared, now, CloseReason::ConnectTimeout);
            }
            (SubflowState::SynReceived, _) => self.drop_half_open(shared, index),
            (SubflowState::FinWait1 | SubflowState::Closing | SubflowState::LastAck, _) if confirmed => {
                self.end_subflow(shared, now, index);
            }
            _ if sends < JOIN_ATTEMPTS => {
                if let Some(subflow) = self.subflow(index) {
                    subflow.handshake_due = true;
                }
            }
            _ => {
                if let Some(subflow) = self.subflow(index) {
                    subflow.reset_due = Some(Some(ResetReason::UnacceptablePerformance));
                }
                self.refuse_path(now, index, Why::Passing);
                if self.subflow(index).is_some_and(|subflow| subflow.state == SubflowState::SynSent) {
                    self.end_subflow(shared, now, index);
                }
            }
        }
    }

    /// The third ACK has not come: the SYN/ACK again, if that can be answered for.
    fn repeat_syn_ack(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        if shared.may_repeat_syn_ack(now) {
            subflow.handshake_due = true;
        } else {
            subflow.handshake_left_out(now);
        }
    }

    /// A subflow's retransmission timer expired: the path may be dead. Its data goes over the others at once
    /// (RFC 8684 section 3.3.6), while the subflow keeps trying.
    //= RFC 8684 3.3.6-2
    fn subflow_timeout(&mut self, shared: &mut Shared, now: Instant, index: usize, first: bool) {
        shared.count(Counter::Timeouts);
        if first {
            self.policies.congestion.on_timeout(now, index, &mut self.congestion_paths);
        }
        self.follow_path_mtu(index);
        let path = &mut self.congestion_paths[index];
        path.cwnd = path.mss;
        path.recovering = false;
        self.note_congestion(shared, index, CongestionCause::Timeout);
        let (user_timeout, others) = (self.user_timeout, self.works_without(index));
        self.mark_stale(shared, index);
        let Some(subflow) = self.subflow(index) else { return };
        if others {
            subflow.snd.probe_within(now, subflow.rtt.rto().max(PROBE_INTERVAL));
        }
        let given_up = now - subflow.snd.progress >= user_timeout;
        // The back-off must not carry it far beyond the user timeout.
        subflow.snd.probe_within(now, (subflow.snd.progress + user_timeout).saturating_since(now));
        self.reinject_outstanding(shared, index, ReinjectionCause::Timeout);
        if given_up {
            self.give_up_subflow(shared, now, index);
        } else {
            self.check_timed_out(shared, now, index);
            self.manage_paths(shared, now);
        }
    }

    /// The peer does not answer on a subflow any more: it ends, and the connection with it unless others are alive.
    fn give_up_subflow(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        if !self.works_without(index) {
            self.close_now(shared, now, CloseReason::TimedOut);
        } else if let Some(subflow) = self.subflow(index) {
            shared.count(Counter::AbortOnTimeout);
            subflow.reset_due = Some(Some(ResetReason::UnacceptablePerformance));
            self.refuse_path(now, index, Why::Passing);
        }
    }

    /// (Re)starts the data level's timer while anything is outstanding there.
    pub(super) fn arm_data_timer(&mut self, now: Instant, restart: bool) {
        let sent = self.send.nxt + u64::from(self.send.fin_sent);
        if self.send.una >= sent || !self.is_multipath() {
            self.data_deadline = None;
            self.data_waits_since = None;
        } else if restart || self.data_deadline.is_none() {
            // One whose handshake is not complete has nothing of ours, and only a first guess at its RTO.
            let carriers = self.living().filter(|(_, subflow)| subflow.is_synchronised());
            let rto = carriers.map(|(_, subflow)| subflow.rtt.rto()).max().unwrap_or(MIN_DATA_TIMEOUT);
            // No subflow repeats a DATA_FIN that went alone: it has no place in their sequence spaces.
            let alone = self.send.una == self.send.buffer.end();
            let wait = if alone { rto } else { (rto * 2).max(MIN_DATA_TIMEOUT) };
            self.data_waits_since.get_or_insert(now);
            self.data_deadline = Some(now + wait * (1 << self.data_expiries.min(6)));
        }
    }

    /// Nothing was acknowledged at the data level for a while. If the first unacknowledged octet is not in flight
    /// on any subflow (the peer acknowledged it there and dropped it, or its mapping was lost), it is sent again.
    fn data_timeout(&mut self, shared: &mut Shared, now: Instant) {
        self.data_deadline = None;
        // A DATA_FIN alone occupies no subflow: nobody else would notice that nobody answers.
        if self.data_waits_since.is_some_and(|since| now - since >= self.user_timeout) {
            self.close_now(shared, now, CloseReason::TimedOut);
            return;
        }
        self.data_expiries += 1;
        let una = self.send.una;
        let initial = self.living().find(|(_, subflow)| subflow.kind == Kind::Initial);
        if let Some((index, subflow)) = initial
            && self.plain_segments > 0
            && subflow.snd.una > una + 1
            && self.may_fall_back(index)
        {
            // The only subflow delivers and the options have stopped coming: a path that has begun to strip them.
            shared.count(Counter::DssFallback);
            if let (true, Some(destination)) = (self.client, self.destination()) {
                // It took a while of silence to find out.
                shared.remember_blackhole(self.id, destination);
            }
            self.fall_back(shared, now, FallbackReason::OptionStripped);
            return;
        }
        let covered = self
            .living()
            .any(|(_, subflow)| subflow.snd.undelivered().any(|(start, end)| start <= una && una < end));
        if una < self.send.nxt && !covered {
            self.send.reinject(una, self.send.nxt, usize::MAX);
            let (octets, cause) = (self.send.nxt - una, ReinjectionCause::DataTimeout);
            shared.decide(self.id, || Decision::ReinjectionWanted { subflow: None, octets, cause });
        } else if self.send.fin_sent && una == self.send.buffer.end() {
            self.send.fin_due = true;
            if self.client && !self.fully_established {
                // The third ACK may be what was lost: nothing but that has the keys, and it goes before the DATA_FIN.
                for subflow in self.subflows.iter_mut().flatten() {
                    subflow.rcv.ack_now = true;
                }
            }
        }
        self.arm_data_timer(now, true);
    }

    /// Data waits, nothing is in flight, and the window is closed, or not open far enough to be worth a segment: the
    /// update that opens it may have been lost, or never come (RFC 9293 sections 3.8.6.1 and 3.8.6.2.1).
    fn arm_persist(&mut self, now: Instant) {
        let waiting = self.send.buffer.end() > self.send.nxt;
        let idle = self.living().all(|(_, subflow)| subflow.snd.is_idle());
        let open = self.living().any(|(index, subflow)| {
            let path = &self.congestion_paths[index];
            let worthwhile = subflow.snd.worthwhile(path).min(self.send.buffer.end() - self.send.nxt);
            let silly = self.is_multipath() && self.send.is_silly(path.mss);
            subflow.can_send() && subflow.snd.room(path) >= worthwhile && !silly
        });
        if !waiting || !idle || open || self.closed.is_some() || self.subflows.iter().all(Option::is_none) {
            (self.persist_deadline, self.probed_since) = (None, None);
            if open {
                self.persist_expiries = 0;
            }
        } else if self.persist_deadline.is_none() {
            let rto = self.living().map(|(_, subflow)| subflow.rtt.rto()).min().unwrap_or_default();
            let wait = rto.max(Duration::from_millis(200)) * (1 << self.persist_expiries.min(8));
            let next = now + wait.min(MAX_PERSIST);
            let given_up = self.probes_unanswered().map(|since| since + self.user_timeout);
            self.persist_deadline = Some(given_up.map_or(next, |given_up| given_up.min(next)));
        }
    }
}
