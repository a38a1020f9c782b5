//! Connections go on without a path (RFC 8684 section 3.3.3, "break before make").
//!
//! A subflow whose carrier, address or route is gone stays while no other subflow works, and goes on when its
//! way is back. The client joins from any other address in the meantime; a server, whose client is seldom
//! reachable, waits. What is left of the old subflows ends once another one works. Without any address to
//! send from a connection waits as long as its user timeout; without carrier or route, as long as a regular
//! TCP connection does.

use super::Connection;
use crate::counters::Counter;
use crate::decision::ReinjectionCause;
use crate::endpoint::Shared;
use crate::event::CloseReason;
use crate::info::SubflowState;
use crate::subflow::absence::{Absence, Double, Lack};
use crate::subflow::{Kind, Subflow};
use crate::wire::{MptcpOption, ResetReason, Segment};
use crate::{ConnectionConfig, Instant, InterfaceUse};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a subflow without carrier is kept while others work. The peer is told by REMOVE_ADDR after that,
/// so that it stops sending there; a shorter interruption costs no handshake.
const CARRIER_GRACE: Duration = Duration::from_secs(1);
/// An interruption that is shorter than this is left to retransmissions.
const SHORT_ABSENCE: Duration = Duration::from_millis(100);
/// A subflow that something was heard on so lately was in use.
const IN_USE: Duration = Duration::from_secs(10);
/// Wait before a connection without path tries another pair of addresses; it doubles with each attempt.
const FIRST_REJOIN: Duration = Duration::from_millis(100);
/// The longest of these waits.
const LAST_REJOIN: Duration = Duration::from_secs(2);
/// Attempts at the same time.
const MAX_ATTEMPTS: usize = 4;
/// Resets in answer to MP_JOIN after which the peer is believed not to know the connection any more.
const MAX_REFUSALS: u32 = 3;
/// Routes that change all the time are looked at no more often than this by one connection.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Places of subflows.
type Places = ArrayVec<usize, { 2 * ConnectionConfig::MAX_SUBFLOWS }>;

/// What a connection knows of ways that have gone.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Survival {
    /// A subflow is without way, or is to take the place of another: there is something to settle.
    pub(super) unsettled: bool,
    /// Another pair of addresses is to be tried at this time.
    retry: Option<Instant>,
    attempts: u32,
    /// Resets that answered attempts while there was no subflow at all.
    refusals: u32,
    /// The last refusal says that the peer does not know the connection.
    unknown: bool,
    /// A change of routes is not looked at before this time.
    look_after: Instant,
    /// A change of routes matters.
    pub(super) stranded: bool,
}

impl Connection {
    /// An address of this host is gone. Its subflows end, and the peer is told, if others work; otherwise
    /// they wait for it.
    pub(super) fn address_removed(&mut self, shared: &mut Shared, now: Instant, address: IpAddr) {
        let affected = self.subflows_from(address);
        let others = self.living().any(|(_, subflow)| subflow.local.ip() != address && works(subflow));
        if self.is_multipath() {
            self.paths.forget(address);
            if others {
                self.forget_address(shared, address);
            }
        }
        for index in affected {
            let synchronised = self.subflow(index).is_some_and(|subflow| subflow.is_synchronised());
            if self.is_multipath() && (others || !synchronised) {
                shared.count(Counter::RmSubflow);
                self.end_subflow(shared, now, index);
            } else {
                self.lose_way(shared, now, index, Lack::Address);
            }
        }
        self.paths.ask_soon();
    }

    /// The interface with this address has no carrier any more. Nothing ends: it is back in a moment, or
    /// others do the work.
    pub(super) fn carrier_lost(&mut self, shared: &mut Shared, now: Instant, address: IpAddr) {
        for index in self.subflows_from(address) {
            self.lose_way(shared, now, index, Lack::Carrier);
        }
        self.paths.ask_soon();
    }

    /// A segment of this subflow could not leave: there is no route.
    pub(crate) fn route_lost(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.absent.is_none() && subflow.is_synchronised() && subflow.reset_due.is_none() {
            self.lose_way(shared, now, index, Lack::Route);
            self.paths.ask_soon();
        }
    }

    /// Addresses or routes have changed: what has no way may have one now.
    pub(super) fn network_changed(&mut self, shared: &mut Shared, now: Instant) {
        if !std::mem::take(&mut self.survival.stranded) {
            return;
        }
        if self.closed.is_some() {
            return;
        }
        if now < self.survival.look_after {
            self.survival.retry = Some(self.survival.look_after);
            self.survival.unsettled = true;
            self.strand();
            return;
        }
        self.survival.look_after = now + LOOK_AGAIN;
        for index in 0..self.subflows.len() {
            let lack = self.subflow(index).and_then(|subflow| subflow.absent).map(|absence| absence.lack);
            if lack == Some(Lack::Route) {
                self.way_returned(shared, now, index);
            }
        }
        if self.is_pathless() {
            (self.survival.retry, self.survival.attempts) = (None, 0);
            self.rejoin(shared, now);
            self.strand();
        }
    }

    /// An address is there (again), on this interface.
    pub(super) fn address_returned(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        address: IpAddr,
        interface: u32,
    ) {
        for index in self.subflows_from(address) {
            if let Some(subflow) = self.subflow(index) {
                subflow.interface = interface;
            }
            self.way_returned(shared, now, index);
        }
        if self.is_pathless() {
            (self.survival.retry, self.survival.attempts) = (None, 0);
        }
    }

    fn subflows_from(&self, address: IpAddr) -> Places {
        let from = self.living().filter(|(_, subflow)| subflow.local.ip() == address);
        from.map(|(index, _)| index).take(2 * ConnectionConfig::MAX_SUBFLOWS).collect()
    }

    /// The subflow at `index` has no way: others take what it has in flight.
    fn lose_way(&mut self, shared: &mut Shared, now: Instant, index: usize, lack: Lack) {
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.is_half_open() || subflow.state == SubflowState::TimeWait {
            return;
        }
        let in_use = !subflow.snd.is_idle() || now - subflow.heard < IN_USE;
        let absence = subflow.absent.get_or_insert(Absence { since: now, lack, in_use });
        absence.lack = absence.lack.max(lack);
        let known = subflow.stale;
        self.survival.unsettled = true;
        self.mark_stale(shared, index);
        if !known && self.works_without(index) {
            self.reinject_outstanding(shared, index, ReinjectionCause::Overdue);
        }
        self.strand();
    }

    /// The way of the subflow at `index` is there again. What was lost goes again at once, the peer is made
    /// to answer, and where it sends it may wait long before it tries again: a new subflow makes it send now.
    fn way_returned(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let alone = !self.works_without(index);
        let Some(subflow) = self.subflow(index) else { return };
        let Some(absence) = subflow.absent.take() else { return };
        if !subflow.is_synchronised() {
            subflow.handshake_due = true;
            return;
        }
        if !absence.in_use && subflow.snd.is_idle() {
            // Nothing was under way, so that nothing was lost.
            subflow.stale = false;
            return;
        }
        subflow.snd.path_returned(now);
        subflow.window_probe_due = true;
        subflow.must_answer_by = Some(now + subflow.rtt.rto());
        if alone && now - absence.since >= SHORT_ABSENCE {
            self.want_double(shared, index, true);
        }
    }

    /// Asks for a subflow between the same addresses from another port, which is to take the place of the one
    /// at `index`. Only the side that has opened a subflow can: the other's port is not listened on.
    pub(super) fn want_double(&mut self, shared: &mut Shared, index: usize, strict: bool) -> bool {
        let may = self.client && self.is_multipath() && self.fully_established && self.closed.is_none();
        let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref).filter(|_| may) else {
            return false;
        };
        let ((local, remote), of) = (subflow.tuple(), subflow.local.port());
        let ours = matches!(subflow.kind, Kind::Initial | Kind::JoinActive { .. });
        let doubled = self.living().any(|(_, other)| is_double(other, local, remote));
        if !ours || doubled || subflow.double.is_some() || self.paths.wants(local.ip(), remote) {
            return false;
        }
        let Some(address) = shared.address(local.ip()) else { return false };
        let double = Double { of, octets: subflow.bytes_acked + subflow.bytes_received, strict };
        let backup = subflow.backup;
        self.survival.unsettled = true;
        self.want(shared, address, remote, backup, Some(double));
        true
    }

    /// No subflow is left that could work but for its way, and none is about to.
    pub(super) fn is_pathless(&self) -> bool {
        self.is_multipath()
            && self.fully_established
            && self.closed.is_none()
            && !(self.send.is_done() && self.receive.finished)
            && self.living().all(|(_, subflow)| subflow.absent.is_some() || !subflow.is_synchronised())
    }

    /// The connection waits for a change of addresses or routes, for which it is to be woken.
    pub(super) fn strand(&mut self) {
        self.survival.stranded = true;
    }

    /// Whether it does.
    pub(super) fn is_stranded(&self) -> bool {
        self.survival.stranded
    }

    /// Joins from whatever address there is, while there is no path. Path managers decide about paths beside
    /// others; that the connection has one at all is not theirs to refuse.
    pub(super) fn rejoin(&mut self, shared: &mut Shared, now: Instant) {
        let waits = self.survival.retry.is_some_and(|retry| now < retry);
        if !self.client || waits || !self.is_pathless() {
            return;
        }
        self.survival.retry = None;
        let opening = self.living().filter(|(_, subflow)| subflow.state == SubflowState::SynSent).count();
        if self.paths.is_waiting() || opening >= MAX_ATTEMPTS {
            return;
        }
        let pairs = self.rejoinable(shared);
        if pairs.is_empty() {
            return;
        }
        let (address, remote) = pairs[self.survival.attempts as usize % pairs.len()];
        let wait = (FIRST_REJOIN * (1 << self.survival.attempts.min(10))).min(LAST_REJOIN);
        self.survival.attempts = self.survival.attempts.wrapping_add(1);
        self.survival.retry = Some(now + wait);
        self.survival.unsettled = true;
        let backup = self.usage(shared, address.interface) == InterfaceUse::Backup;
        self.want(shared, address, remote, backup, None);
    }

    /// Pairs of addresses that nothing is being tried between, those to where the connection began first.
    fn rejoinable(&self, shared: &Shared) -> Vec<(crate::LocalAddress, SocketAddr)> {
        let initial = self.destination();
        let mut pairs = Vec::new();
        for &local in shared.addresses() {
            if self.usage(shared, local.interface) == InterfaceUse::Deny {
                continue;
            }
            let remotes = self.addresses.remotes().chain(initial);
            for remote in remotes.filter(|remote| remote.is_ipv4() == local.address.is_ipv4()) {
                let busy = self.living().any(|(_, subflow)| {
                    (subflow.local.ip(), subflow.remote) == (local.address, remote)
                        && subflow.absent.is_none()
                });
                if !busy && !pairs.contains(&(local, remote)) {
                    pairs.push((local, remote));
                }
            }
        }
        pairs.sort_by_key(|(_, remote)| Some(*remote) != initial);
        pairs
    }

    /// A join is answered with this reset.
    pub(super) fn note_refusal(&mut self, segment: &Segment) {
        self.survival.unknown = segment.options.mptcp.iter().any(
            |option| matches!(option, MptcpOption::Reset(reset) if reset.reason == ResetReason::MptcpSpecific),
        );
    }

    /// A join was answered with a reset; `last`: there is no other subflow. Whether the peer does not know
    /// the connection any more: it says so, or repeats its refusal. A host that has stopped listening refuses
    /// joins, too, but without that reason, and its end of a subflow without way may be alive.
    pub(super) fn is_unknown_to_peer(&mut self, last: bool) -> bool {
        self.survival.refusals += u32::from(last);
        let unknown = std::mem::take(&mut self.survival.unknown);
        unknown && self.is_pathless() || self.survival.refusals >= MAX_REFUSALS
    }

    /// When something of this is to happen.
    pub(super) fn survival_deadline(&self) -> Option<Instant> {
        if !self.survival.unsettled {
            return None;
        }
        let carriers = self.living().filter_map(|(index, subflow)| {
            let absence = subflow.absent.filter(|absence| absence.lack == Lack::Carrier)?;
            self.works_without(index).then_some(absence.since + CARRIER_GRACE)
        });
        let retry = self.survival.retry.filter(|_| self.client || self.survival.stranded);
        carriers.chain(self.given_up_at()).chain(retry).min()
    }

    /// The end of the wait for an address: all subflows lack theirs.
    fn given_up_at(&self) -> Option<Instant> {
        let lost = |subflow: &Subflow| subflow.absent.is_some_and(|absence| absence.lack == Lack::Address);
        let waits = self.is_pathless()
            && self.living().all(|(_, subflow)| lost(subflow) || !subflow.is_synchronised());
        let since = self.living().filter_map(|(_, subflow)| Some(subflow.absent?.since)).max();
        since.filter(|_| waits).map(|since| since + self.user_timeout)
    }

    /// Waits are over.
    pub(super) fn survival_timeout(&mut self, shared: &mut Shared, now: Instant) {
        if !self.survival.unsettled {
            return;
        }
        if self.given_up_at().is_some_and(|at| at <= now) {
            self.close_now(shared, now, CloseReason::AllPathsLost);
            return;
        }
        for index in 0..self.subflows.len() {
            let over = self.subflow(index).is_some_and(|subflow| {
                let absence = subflow.absent.filter(|absence| absence.lack == Lack::Carrier);
                absence.is_some_and(|absence| absence.since + CARRIER_GRACE <= now)
            });
            if over && self.works_without(index) {
                self.leave(shared, now, index);
            }
        }
        if self.survival.retry.is_some_and(|retry| retry <= now) {
            self.survival.retry = None;
            if self
                .living()
                .any(|(_, subflow)| subflow.absent.is_some_and(|absence| absence.lack == Lack::Route))
            {
                self.network_changed(shared, now);
            } else {
                self.rejoin(shared, now);
            }
        }
        self.settle_absences(shared, now);
    }

    /// Ends a subflow whose way is gone, and tells the peer that its address is.
    fn leave(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let Some(address) = self.subflow(index).map(|subflow| subflow.local.ip()) else { return };
        let last = self.subflows_from(address).len() == 1;
        shared.count(Counter::RmSubflow);
        if last {
            self.forget_address(shared, address);
        }
        self.end_subflow(shared, now, index);
    }

    /// Something came, or time has passed: another subflow may work in the place of those without way, and a
    /// new one in that of the one that it doubles.
    pub(super) fn settle_absences(&mut self, shared: &mut Shared, now: Instant) {
        if !self.survival.unsettled || self.closed.is_some() {
            return;
        }
        for index in 0..self.subflows.len() {
            self.settle_double(shared, index);
        }
        if self.living().any(|(_, subflow)| works(subflow)) {
            (self.survival.retry, self.survival.attempts, self.survival.refusals) = (None, 0, 0);
            for index in 0..self.subflows.len() {
                let gone = self.subflow(index).is_some_and(|subflow| {
                    let absence = subflow.absent.filter(|absence| absence.lack == Lack::Address);
                    absence.is_some_and(|_| shared.address(subflow.local.ip()).is_none())
                });
                if gone && self.is_multipath() {
                    self.leave(shared, now, index);
                }
            }
        }
        let open = self.living().any(|(_, subflow)| subflow.absent.is_some() || subflow.double.is_some());
        self.survival.unsettled = open || self.survival.retry.is_some() || self.paths.is_waiting();
    }

    /// Of a subflow and its double one is left.
    fn settle_double(&mut self, shared: &mut Shared, index: usize) {
        let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref) else { return };
        let Some(double) = subflow.double else { return };
        let (local, remote) = (SocketAddr::new(subflow.local.ip(), double.of), subflow.remote);
        let (opening, ready) = (subflow.state == SubflowState::SynSent, subflow.can_send());
        let old = self.living().find(|(_, old)| old.tuple() == (local, remote));
        let Some((old, delivers)) = old.map(|(place, old)| {
            let progress = old.bytes_acked + old.bytes_received > double.octets;
            (place, progress || !double.strict && !old.silence.is_known() && old.absent.is_none())
        }) else {
            if let Some(subflow) = self.subflow(index) {
                subflow.double = None;
            }
            return;
        };
        if delivers && opening {
            self.drop_attempt(shared, index);
        } else if delivers && ready {
            self.close_double(index, index);
        } else if ready {
            self.close_double(index, old);
        }
    }

    /// Decides between the double at `index` and the one that it doubles: resets the one at `loser`.
    fn close_double(&mut self, index: usize, loser: usize) {
        if let Some(subflow) = self.subflow(index) {
            subflow.double = None;
        }
        if let Some(subflow) = self.subflow(loser) {
            subflow.reset_due.get_or_insert(Some(ResetReason::UnacceptablePerformance));
        }
    }
}

/// Whether data can be sent on a subflow, and nothing speaks against it.
fn works(subflow: &Subflow) -> bool {
    subflow.can_send() && !subflow.stale
}

/// Whether a subflow is to take the place of the one with these ends.
fn is_double(subflow: &Subflow, local: SocketAddr, remote: SocketAddr) -> bool {
    let between = (subflow.local.ip(), subflow.remote) == (local.ip(), remote);
    between && subflow.double.is_some_and(|double| double.of == local.port())
}
