//! The ends: DATA_FIN and the FINs of subflows, fast close, lost subflows (RFC 8684 sections 3.3.3, 3.5).

use super::refusals::Why;
use super::{Connection, MAX_ENDED, Mode};
use crate::Instant;
use crate::counters::Counter;
use crate::decision::{Decision, ReinjectionCause};
use crate::endpoint::Shared;
use crate::event::{CloseReason, Event};
use crate::fast_close::FastCloseWait;
use crate::info::SubflowState;
use crate::subflow::Kind;
use crate::wire::{ResetReason, Segment};
use std::time::Duration;

/// How long a connection without any subflow waits for a new one after something on the way has spoilt the
/// last one.
const WITHOUT_SUBFLOW: Duration = Duration::from_secs(10);
/// The same after a reset that does not say why it was sent: longer than a peer that sent it because of something on the
/// way waits before it tries again.
const UNEXPLAINED: Duration = Duration::from_secs(3);
/// How long the peer may take to finish after the application has dropped its handle (as `tcp_fin_timeout`).
pub(super) const ORPHAN: Duration = Duration::from_secs(60);
/// How long subflows are given to end after one of them has, in retransmission timeouts of the slowest one: a FIN that
/// is lost once does not count.
const PARTING_TIMEOUTS: u32 = 3;
const MIN_PARTING: Duration = Duration::from_millis(500);
const MAX_PARTING: Duration = Duration::from_secs(5);

/// What a subflow died of. A reset is the end of a subflow and not of the connection (RFC 8684 section 3.5): where
/// another subflow may fare better, the connection is there for it for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) enum EndCause {
    /// One of the two hosts wanted it.
    #[default]
    Known,
    /// A reset without an option that says why: from a middlebox, through one that strips options, or from a host that
    /// does not know the connection any more.
    Unexplained,
    /// Something on the way changes data or options.
    Interference,
}

impl Connection {
    /// Moves the close on as far as it can go. Called after everything that may matter to it.
    //= RFC 8684 3.3.3-3
    //= RFC 8684 3.3.3-4
    pub(crate) fn progress_close(&mut self, shared: &mut Shared, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        let finished = match self.mode {
            Mode::Handshake(_) => false,
            Mode::Multipath => self.send.is_done() && self.receive.finished,
            Mode::Plain(_) => self.send.finished && self.send.all_sent(),
        };
        if finished {
            for index in 0..self.subflows.len() {
                // Nobody waits for joins that nobody has completed.
                if self.subflow(index).is_some_and(|subflow| subflow.is_half_open()) {
                    self.drop_half_open(shared, index);
                }
            }
            for subflow in self.subflows.iter_mut().flatten() {
                subflow.fin_wanted = true;
            }
            if self.is_multipath() {
                self.leave_unopened(shared);
            }
        } else if self.half_closed {
            self.leave_half_closed();
        }
        if !matches!(self.mode, Mode::Handshake(_)) && self.has_no_subflow() {
            self.without_subflows(shared, now);
        }
    }

    /// Whether no subflow is left but those whose handshake is under way: they may never come about.
    pub(super) fn has_no_subflow(&self) -> bool {
        self.living().all(|(_, subflow)| !subflow.is_synchronised())
    }

    /// The peer has ended the last subflow that there was, in its direction. Ours goes on there (RFC 8684
    /// section 3.3.3) until all of our stream is acknowledged, or another subflow can take it.
    //= RFC 8684 3.3.3-5
    fn leave_half_closed(&mut self) {
        let done = self.send.is_done();
        let others = self.living().any(|(_, subflow)| {
            subflow.state == SubflowState::Established && subflow.can_send() && !subflow.stale
        });
        if done || others || !self.is_multipath() {
            self.half_closed = false;
            let ended = self.subflows.iter_mut().flatten();
            for subflow in ended.filter(|subflow| subflow.state == SubflowState::CloseWait) {
                subflow.fin_wanted = true;
            }
        }
    }

    /// The peer ended the last subflow a while ago and never said that its stream has ended. Where there is
    /// nothing of ours to send, either, it is as good as no subflow.
    pub(super) fn half_closed_timeout(&mut self, now: Instant, index: usize) {
        let idle = self.send.una == self.send.buffer.end() || self.send.is_done();
        let ended = self.receive.has_end();
        let Some(subflow) = self.subflow(index) else { return };
        if idle && !ended {
            subflow.fin_wanted = true;
        } else {
            subflow.handshake_deadline = Some(now + ORPHAN);
        }
    }

    /// All data has arrived, in both directions: nobody needs subflows any more that are only being opened.
    fn leave_unopened(&mut self, shared: &mut Shared) {
        for index in 0..self.subflows.len() {
            let opening = self.subflow(index).is_some_and(|subflow| {
                matches!(subflow.state, SubflowState::SynSent | SubflowState::SynReceived)
            });
            if opening && let Some(subflow) = self.take_subflow(shared, index) {
                shared.remove_subflow(&subflow);
            }
        }
    }

    /// A subflow has ended in order, after all data had: the peer is done, too, and both know it. The others end within a
    /// while, or are given up.
    fn begin_parting(&mut self, now: Instant) {
        let finished = self.is_multipath() && self.send.is_done() && self.receive.finished;
        if finished && self.closed.is_none() && self.parting.is_none() {
            let slowest = self.living().map(|(_, subflow)| subflow.rtt.rto()).max().unwrap_or_default();
            self.parting = Some(now + (slowest * PARTING_TIMEOUTS).clamp(MIN_PARTING, MAX_PARTING));
        }
    }

    /// Subflows that have not ended by now are over paths that have failed. They are reset; the connection is complete.
    pub(super) fn part(&mut self, shared: &mut Shared, now: Instant) {
        for subflow in self.subflows.iter_mut().flatten() {
            subflow.reset_due = Some(Some(ResetReason::UnacceptablePerformance));
        }
        self.close_now(shared, now, CloseReason::Finished);
    }

    /// The last subflow has ended: done, or waiting for another one.
    //= RFC 8684 3.3.3-7
    fn without_subflows(&mut self, shared: &mut Shared, now: Instant) {
        let done = self.send.is_done() && self.receive.finished;
        let reason = if self.reset_seen { CloseReason::Reset } else { CloseReason::AllPathsLost };
        if done {
            self.close_now(shared, now, CloseReason::Finished);
        } else if !self.is_multipath() {
            self.close_now(shared, now, reason);
        } else if self.patience.is_none() {
            let wait = match self.end_cause {
                EndCause::Unexplained => UNEXPLAINED,
                EndCause::Interference => WITHOUT_SUBFLOW,
                EndCause::Known => self.user_timeout,
            };
            self.patience = Some(now + wait);
            self.strand();
            self.manage_paths(shared, now);
            let opening = self.subflows.iter().any(Option::is_some);
            let hope = opening
                || match (self.client, self.end_cause) {
                    // The peer wanted no more of the last subflow, which says nothing of the connection
                    // unless it was a reset.
                    (true, EndCause::Known) => !self.reset_seen || self.paths.is_waiting(),
                    (true, _) => self.paths.is_waiting() || self.may_try_again(shared, now + wait),
                    (false, EndCause::Known) => !self.reset_seen,
                    (false, _) => true,
                };
            if !hope {
                self.close_now(shared, now, reason);
            }
        }
    }

    /// The peer's FIN on a subflow was reached in order.
    pub(super) fn on_subflow_fin(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        let next = match subflow.state {
            SubflowState::FinWait1 if subflow.snd.is_idle() => SubflowState::TimeWait,
            SubflowState::FinWait1 => SubflowState::Closing,
            SubflowState::FinWait2 => SubflowState::TimeWait,
            _ => SubflowState::CloseWait,
        };
        subflow.state = next;
        let subflow_next = subflow.rcv.nxt;
        if self.is_multipath() {
            // The end of a subflow is not the end of the data. Our half of it ends, too, as soon as there is
            // another. What is in flight on it stays there until it is acknowledged or another subflow takes
            // it.
            if let Some(subflow) =
                self.subflow(index).filter(|subflow| subflow.state == SubflowState::CloseWait)
            {
                subflow.handshake_deadline = Some(now + ORPHAN);
            }
            self.half_closed = true;
            self.leave_half_closed();
        } else {
            // One to one: the FIN has subflow offset n + 1 where the data ends at n. Octets that are missing at the
            // data level stay missing, and the stream does not end before they have come. A DATA_FIN from before the fallback
            // may have named a later end: somebody on the way has made the data shorter.
            let end = subflow_next.saturating_sub(2);
            if self.receive.end_at(end) {
                self.tell_readable(shared);
            }
        }
        if next == SubflowState::TimeWait {
            self.enter_time_wait(shared, now, index);
        }
    }

    /// An acknowledgment came: whether it covers our FIN.
    pub(super) fn subflow_fin_acknowledged(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        if !subflow.fin_sent || !subflow.snd.is_idle() {
            return;
        }
        match subflow.state {
            SubflowState::FinWait1 => {
                subflow.state = SubflowState::FinWait2;
                subflow.handshake_deadline = Some(now + ORPHAN);
            }
            SubflowState::Closing => self.enter_time_wait(shared, now, index),
            SubflowState::LastAck => {
                self.begin_parting(now);
                self.end_subflow(shared, now, index);
            }
            _ => {}
        }
    }

    /// The subflow's four-tuple is kept for a while by the endpoint; here it is over.
    fn enter_time_wait(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        self.begin_parting(now);
        if let Some(subflow) = self.subflow(index) {
            subflow.state = SubflowState::TimeWait;
            let subflow = self.take_subflow(shared, index);
            if let Some(subflow) = subflow {
                shared.enter_time_wait(now, self.id, &subflow);
            }
        }
    }

    /// Takes a subflow out of its place and keeps what is known of it.
    pub(super) fn take_subflow(&mut self, shared: &mut Shared, index: usize) -> Option<Box<super::Subflow>> {
        let subflow = self.subflows.get_mut(index)?.take()?;
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back(subflow.info(&self.congestion_paths[index]));
        shared.decide(self.id, || Decision::SubflowEnded {
            subflow: subflow.slot.0,
            bytes_acked: subflow.bytes_acked,
            bytes_received: subflow.bytes_received,
        });
        self.congestion_paths[index].active = false;
        Some(subflow)
    }

    /// A subflow is over, whatever the reason: what it had in flight goes over the others.
    pub(super) fn end_subflow(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        self.reinject_outstanding(shared, index, ReinjectionCause::SubflowEnded);
        self.send.forget_subflow(index);
        if let Some(subflow) = self.subflow(index) {
            subflow.state = SubflowState::Closed;
            let initial = subflow.kind == Kind::Initial;
            if let Some(subflow) = self.take_subflow(shared, index) {
                shared.remove_subflow(&subflow);
            }
            if initial && matches!(self.mode, Mode::Handshake(_)) {
                self.close_now(shared, now, CloseReason::Refused);
                return;
            }
        }
        if self.closed.is_none() {
            self.manage_paths(shared, now);
        }
        self.progress_close(shared, now);
    }

    /// A further subflow whose handshake is under way while the connection falls back: there is nothing any more that
    /// it could be a part of. Whoever has its SYN gets a reset in answer to what he sends next.
    pub(super) fn drop_attempt(&mut self, shared: &mut Shared, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.state != SubflowState::SynSent {
            subflow.reset_due = Some(None);
            return;
        }
        subflow.state = SubflowState::Closed;
        if let Some(subflow) = self.take_subflow(shared, index) {
            shared.remove_subflow(&subflow);
        }
    }

    /// RST in answer to our SYN or SYN/ACK.
    pub(super) fn subflow_refused(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        reset: &Segment,
    ) {
        // Without a word for it that is as final as with one (RFC 8684 section 3.9.3).
        let transient = reset.options.reset().is_some_and(|reset| reset.transient);
        self.refuse_path(now, index, if transient { Why::Passing } else { Why::Refused });
        self.end_subflow(shared, now, index);
        let last = self.subflows.iter().all(Option::is_none) && !self.paths.is_waiting();
        let unknown = self.is_unknown_to_peer(last);
        if unknown || last && (self.end_cause == EndCause::Unexplained || self.reset_seen) {
            // The peer does not know the connection any more: that explains it.
            self.close_now(shared, now, CloseReason::Reset);
        }
    }

    /// Queues everything in flight on a subflow for the others.
    //= RFC 8684 3.3.6-1
    pub(super) fn reinject_outstanding(
        &mut self,
        shared: &mut Shared,
        index: usize,
        cause: ReinjectionCause,
    ) {
        let others = self.living().any(|(other, subflow)| other != index && subflow.can_send());
        // A scheduler that sends everything everywhere has done so, or will.
        if !self.is_multipath() || (self.policies.scheduler.duplicates() && others) {
            return;
        }
        let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref) else { return };
        let (slot, octets) = (subflow.slot.0, self.send.reinject_all(subflow.snd.outstanding(), index));
        self.note_reinjection(shared, slot, octets, cause);
        if octets > 0 {
            for (other, path) in self.congestion_paths.iter_mut().enumerate() {
                path.careful |= other != index;
            }
        }
    }

    /// Queues for the others the octets of a silent subflow that the peer lacks before others that it has.
    /// The stream has stood still since they were lost for the first time.
    pub(super) fn reinject_gaps(&mut self, shared: &mut Shared, index: usize) {
        if self.policies.scheduler.duplicates() {
            return;
        }
        let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref) else { return };
        let (slot, octets) = (subflow.slot.0, self.send.reinject_all(subflow.snd.waited_for(), index));
        self.note_reinjection(shared, slot, octets, ReinjectionCause::Overdue);
    }

    fn note_reinjection(&self, shared: &mut Shared, slot: u32, octets: u64, cause: ReinjectionCause) {
        if octets > 0 {
            let subflow = Some(slot);
            shared.decide(self.id, || Decision::ReinjectionWanted { subflow, octets, cause });
        }
    }

    /// Resets every subflow at the next opportunity to send.
    //= RFC 8684 3.5-5
    pub(super) fn reset_all_subflows(&mut self) {
        for subflow in self.subflows.iter_mut().flatten() {
            subflow.reset_due = Some(None);
        }
    }

    /// The application gives up (or data came that nobody will read): MP_FASTCLOSE with RST on every subflow.
    pub(crate) fn abort(&mut self, shared: &mut Shared, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        self.fast_close = self.is_multipath();
        self.reset_all_subflows();
        self.close_now(shared, now, CloseReason::Aborted);
    }

    /// The connection is over. Subflows that owe the peer a reset live until it has left; others end here.
    pub(super) fn close_now(&mut self, shared: &mut Shared, _now: Instant, reason: CloseReason) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(reason);
        let established = !matches!(self.mode, Mode::Handshake(_));
        if established {
            shared.note_established(Counter::CurrEstab, false);
        }
        if self.is_multipath() {
            shared.note_established(Counter::MpCurrEstab, false);
        }
        shared.decide(self.id, || Decision::closed(reason));
        if let (true, true, CloseReason::Finished, Some(destination)) =
            (self.client, self.is_multipath(), reason, self.destination())
        {
            shared.forget_blackhole(destination);
        }
        if reason != CloseReason::Finished {
            shared.count(if established { Counter::EstabResets } else { Counter::AttemptFails });
        }
        if reason == CloseReason::TimedOut {
            shared.count(Counter::AbortOnTimeout);
        }
        if self.token().is_some() {
            shared.remove_token(self.local_key.token);
        }
        if matches!(self.mode, Mode::Handshake(_)) {
            shared.established(self.listener);
        }
        self.patience = None;
        self.data_deadline = None;
        self.persist_deadline = None;
        self.parting = None;
        for index in 0..self.subflows.len() {
            let Some(subflow) = self.subflow(index) else { continue };
            // Before the handshake is complete nobody is owed a reset: the SYN may have come under a false name.
            let silent = matches!(reason, CloseReason::Reset | CloseReason::Finished | CloseReason::Refused)
                || matches!(subflow.state, SubflowState::SynSent | SubflowState::SynReceived)
                || reason == CloseReason::ConnectTimeout;
            if subflow.reset_due.is_none() && !silent {
                subflow.reset_due = Some(Some(ResetReason::Unspecified));
            }
            subflow.snd.clear();
            subflow.rcv.ack_now = false;
            subflow.rcv.ack_deadline = None;
            subflow.handshake_deadline = None;
            subflow.handshake_due = false;
            subflow.fin_wanted = false;
            if subflow.reset_due.is_none()
                && let Some(subflow) = self.take_subflow(shared, index)
            {
                shared.remove_subflow(&subflow);
            }
        }
        if matches!(self.mode, Mode::Handshake(_)) && self.listener.is_some() {
            // Nobody was told of it, nobody will release it.
            self.released = true;
        } else {
            self.tell_readable(shared);
            shared.events.push_back(Event::Closed(self.id, reason));
        }
    }

    /// The application has dropped its handle.
    pub(crate) fn release(&mut self, shared: &mut Shared, now: Instant) {
        let unread = self.receive.queued() > 0;
        self.released = true;
        self.receive.discard();
        if self.closed.is_some() {
            return;
        }
        if unread || matches!(self.mode, Mode::Handshake(_)) {
            self.abort(shared, now);
            return;
        }
        self.finish();
        self.orphan_left = self.send.end() - self.send.una;
        self.patience = Some(now + ORPHAN);
        self.progress_close(shared, now);
    }

    /// A subflow's reset has left: the subflow is over. `fast_close`: what is still to be said there.
    pub(super) fn reset_sent(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        fast_close: Option<FastCloseWait>,
    ) {
        if self.closed.is_some() {
            let Some(subflow) = self.take_subflow(shared, index) else { return };
            match fast_close.filter(|_| subflow.is_synchronised()) {
                Some(wait) => shared.enter_fast_close(now, self.id, &subflow, wait),
                None => shared.remove_subflow(&subflow),
            }
        } else {
            self.end_subflow(shared, now, index);
        }
    }
}
