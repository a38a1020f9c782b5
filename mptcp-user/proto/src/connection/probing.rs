//! Four-tuples that die in silence, because a router that translates addresses has forgotten them or was
//! restarted.
//!
//! A subflow over which nothing is heard is probed. If it does not answer, the side that opened it opens
//! another one between the same addresses from another port, and leaves it once that works; the other side
//! uses other subflows. That is for Multipath TCP alone: regular TCP has but one four-tuple. A check never
//! ends a connection, which is what keep-alives are for (RFC 9293 section 3.8.4).

use super::Connection;
use super::refusals::Why;
use crate::counters::Counter;
use crate::decision::Decision;
use crate::endpoint::Shared;
use crate::event::AddressUse;
use crate::info::SubflowState;
use crate::subflow::silence::Check;
use crate::subflow::{Kind, Subflow};
use crate::wire::ResetReason;
use crate::{Instant, InterfaceUse};
use std::net::IpAddr;
use std::time::Duration;

/// Retransmission timeouts in a row after which it may be the four-tuple that is dead: before, it is a loss.
const TIMEOUTS: u32 = 2;
/// The same where nothing has ever been acknowledged: it may be what is sent that something on the way does
/// not like.
const TIMEOUTS_OF_FIRST: u32 = 4;
/// Silence before something else than time makes a subflow be checked.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// This side opened the subflow, so that it can open another one.
fn is_ours(subflow: &Subflow) -> bool {
    matches!(subflow.kind, Kind::Initial if subflow.is_active())
        || matches!(subflow.kind, Kind::JoinActive { .. })
}

impl Connection {
    /// Whether silence of a subflow says something.
    fn is_checked(&self, subflow: &Subflow) -> bool {
        let open = subflow.state == SubflowState::Established && subflow.can_send();
        open && subflow.absent.is_none() && self.is_multipath()
    }

    /// When the path of a subflow that is silent is to be checked, or something is to be done about it.
    pub(super) fn check_at(&self, index: usize, subflow: &Subflow) -> Option<Instant> {
        let longest = self.config.path_check?;
        if !self.is_checked(subflow) || !subflow.snd.is_idle() {
            // Octets that are not acknowledged are sent again, which makes up for probes.
            return None;
        }
        let due = subflow.check_due(longest, is_ours(subflow));
        let left = subflow.silence.left_at(self.user_timeout).filter(|_| self.works_without(index));
        Some(left.map_or(due, |left| left.min(due)))
    }

    /// Time has passed: probes the subflow at `index` if it has been silent for long, and leaves it if it has
    /// not answered for very long and others work.
    pub(super) fn check_silence(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref) else { return };
        if self.check_at(index, subflow).is_none_or(|at| at > now) {
            return;
        }
        let over = subflow.silence.left_at(self.user_timeout).is_some_and(|at| at <= now);
        let rto = subflow.rtt.rto();
        if over && self.works_without(index) {
            self.leave_silent(now, index);
        } else if let Some(subflow) = self.subflow(index) {
            let step = subflow.silence.check(now, rto);
            self.take_step(shared, now, index, step);
        }
    }

    /// The retransmission timer of the subflow at `index` has expired.
    pub(super) fn check_timed_out(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let checked = self.config.path_check.is_some()
            && self
                .subflows
                .get(index)
                .and_then(Option::as_deref)
                .is_some_and(|subflow| self.is_checked(subflow));
        let Some(subflow) = self.subflow(index).filter(|_| checked) else { return };
        let (times, rto) = (subflow.snd.expiries, subflow.rtt.rto());
        let least = if subflow.bytes_acked > 0 { TIMEOUTS } else { TIMEOUTS_OF_FIRST };
        if times >= least {
            let step = subflow.silence.timed_out(now, rto, times == least);
            self.take_step(shared, now, index, step);
        }
    }

    /// The peer has another way from or to these addresses, or wants one: whether those that there are still
    /// work?
    pub(super) fn check_between(&mut self, shared: &mut Shared, now: Instant, local: IpAddr, remote: IpAddr) {
        if self.config.path_check.is_none() {
            return;
        }
        for index in 0..self.subflows.len() {
            let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref) else { continue };
            let between = (subflow.local.ip(), subflow.remote.ip()) == (local, remote);
            let quiet = now - subflow.heard >= LEAST_SILENCE && subflow.snd.is_idle();
            let known = subflow.silence.is_asking() || subflow.silence.is_known();
            if !between || !quiet || known || !self.is_checked(subflow) {
                continue;
            }
            if let Some(subflow) = self.subflow(index) {
                let step = subflow.silence.check(now, subflow.rtt.rto());
                self.take_step(shared, now, index, step);
            }
        }
    }

    fn take_step(&mut self, shared: &mut Shared, now: Instant, index: usize, step: Check) {
        let Some(subflow) = self.subflow(index).filter(|_| step != Check::Wait) else { return };
        subflow.window_probe_due = true;
        shared.count(Counter::PathProbe);
        if step == Check::Silent {
            self.mark_stale(shared, index);
            if self.may_double(shared, now, index) && self.want_double(shared, index, false) {
                shared.count(Counter::SubflowDoubled);
            }
            self.manage_paths(shared, now);
        }
    }

    /// A subflow answers that was taken for dead since it did not.
    pub(super) fn note_answered(&mut self, shared: &mut Shared, slot: u32) {
        shared.count(Counter::SubflowRecover);
        shared.decide(self.id, || Decision::Recovered { subflow: slot });
        self.paths.ask_soon();
    }

    /// Whether another subflow may take the place of the one at `index`. Neither the number of subflows nor
    /// earlier attempts that came to nothing are in the way of that: the old one ends with it, and its
    /// silence says how often it is tried.
    fn may_double(&mut self, shared: &Shared, now: Instant, index: usize) -> bool {
        let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref) else { return false };
        let (local, remote) = (subflow.local.ip(), subflow.remote);
        let denied = self.usage(shared, subflow.interface) == InterfaceUse::Deny
            || shared.address_use(local) == AddressUse::Existing;
        // A peer that has refused a join may have had no place for it. Where nothing else is left it is asked
        // again, ever more seldom.
        let refused = self.paths.refused.is_final(local, remote) && self.works_without(index);
        let unwelcome = self.paths.no_join_initial && self.destination() == Some(remote) || refused;
        let over = self.send.is_done() && self.receive.finished;
        let opens = is_ours(subflow) && self.policies.path_manager.opens(self.client);
        opens && !denied && !unwelcome && !over && self.attempts_left(now) > 0
    }

    /// The subflow at `index` does not answer, and others work.
    fn leave_silent(&mut self, now: Instant, index: usize) {
        if let Some(subflow) = self.subflow(index) {
            subflow.reset_due = Some(Some(ResetReason::UnacceptablePerformance));
            self.refuse_path(now, index, Why::Passing);
        }
    }

    /// A subflow that does not answer, whose place another one may have.
    pub(super) fn silent_subflow(&self) -> Option<usize> {
        let silent = |subflow: &Subflow| subflow.silence.is_known() && subflow.reset_due.is_none();
        self.living().find(|(_, subflow)| silent(subflow)).map(|(index, _)| index)
    }

    /// Whether the peer may open another subflow.
    pub(super) fn has_room(&self) -> bool {
        self.subflow_count() < self.subflow_limit() || self.silent_subflow().is_some()
    }

    /// The peer has opened one: it has the place of one that does not answer, if there is no other.
    pub(super) fn make_place(&mut self) {
        if self.subflow_count() > self.subflow_limit()
            && let Some(silent) = self.silent_subflow().and_then(|silent| self.subflow(silent))
        {
            silent.reset_due = Some(Some(ResetReason::UnacceptablePerformance));
        }
    }
}
