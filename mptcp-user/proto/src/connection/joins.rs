//! Subflows that the peer opens: the answer to its SYN with MP_JOIN, which leaves a record and no subflow,
//! and its third ACK (RFC 8684 section 3.2).

use super::Connection;
use crate::counters::Counter;
use crate::crypto;
use crate::endpoint::Shared;
use crate::info::SubflowState;
use crate::pre_join::PreJoin;
use crate::subflow::{Kind, Subflow};
use crate::wire::{Flags, Join, ResetReason, Segment};
use crate::{Instant, InterfaceUse};

impl Connection {
    /// The peer wants another subflow: SYN with MP_JOIN and our token. An error is why it is to be refused.
    //= RFC 8684 3.2-1
    pub(crate) fn answer_join(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        syn: &Segment,
    ) -> Result<(), ResetReason> {
        if !self.is_multipath() || !self.fully_established || self.closed.is_some() {
            return Err(ResetReason::MptcpSpecific);
        }
        let link = shared.address(syn.dst.ip());
        let denied = link.is_none_or(|link| self.usage(shared, link.interface) == InterfaceUse::Deny);
        if denied || self.forbids_join_to(syn.dst) {
            return Err(ResetReason::AdministrativelyProhibited);
        }
        if !self.has_room() {
            // It may be there to take the place of one that the peer knows to be silent.
            self.check_between(shared, now, syn.dst.ip(), syn.src.ip());
            return Err(ResetReason::LackOfResources);
        }
        if self.addresses.joined_id(syn.dst).is_none() {
            return Err(ResetReason::LackOfResources);
        }
        let Some(record) = shared.note_join(now, self.id, syn) else {
            return Err(ResetReason::MptcpSpecific);
        };
        let Some(mut subflow) = self.joined(shared, now, &record) else {
            return Err(ResetReason::LackOfResources);
        };
        shared.reply(|| self.join_syn_ack(now, &mut subflow));
        Ok(())
    }

    /// The subflow that a join would become.
    fn joined(&mut self, shared: &Shared, now: Instant, record: &PreJoin) -> Option<Subflow> {
        let local_id = self.addresses.joined_id(record.tuple.0)?;
        let kind = Kind::JoinPassive { nonce: record.nonce, peer_nonce: record.peer_nonce };
        let slot = record.slot.unwrap_or_default();
        let mut birth = self.birth_in(shared, now, slot, record.tuple, kind, local_id, record.address_id);
        birth.iss = record.iss;
        let mut subflow = Subflow::answering(&birth, record.answered, &record.syn());
        subflow.peer_backup = record.backup;
        Some(subflow)
    }

    fn join_syn_ack(&mut self, now: Instant, subflow: &mut Subflow) -> Segment {
        let flags = Flags::SYN.with(Flags::ACK).with(subflow.ecn.syn_ack_flags());
        let mut segment = subflow.segment(0, flags);
        // The window of a SYN is never scaled (RFC 7323 section 2.2).
        segment.window = self.receive.advertise(0, u64::from(subflow.mss));
        segment.options = self.handshake_options_of(now, subflow);
        segment
    }

    /// The third ACK of a join that was answered: only now there is a subflow. An error is why it is to be
    /// refused.
    pub(crate) fn complete_join(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        record: &PreJoin,
        segment: &Segment,
    ) -> Result<(), ResetReason> {
        let Some(&Join::Ack { mac }) = segment.options.join() else {
            shared.count(Counter::JoinAckMissing);
            return Err(ResetReason::MptcpSpecific);
        };
        let (local, remote) = (self.local_key.key, self.remote_key.map_or(0, |key| key.key));
        let expected = crypto::join_mac(self.version, remote, local, record.peer_nonce, record.nonce);
        let known = self.is_multipath() && self.closed.is_none();
        if !known || !crypto::same_secret(&expected, &mac) {
            shared.count(Counter::MpJoinAckRx);
            shared.count(Counter::MpJoinAckHmacFailure);
            shared.end_join(record);
            return Err(ResetReason::MptcpSpecific);
        }
        shared.end_join(record);
        let subflow = if self.has_room() { self.joined(shared, now, record) } else { None };
        let Some(mut subflow) = subflow else {
            shared.count(Counter::MpJoinAckRx);
            shared.count(Counter::MpJoinRejected);
            return Err(ResetReason::LackOfResources);
        };
        subflow.slot = shared.take_slot();
        subflow.handshake_sent(record.answered);
        subflow.handshake_sends = record.answers;
        // What the SYN/ACK has promised.
        let window = self.receive.advertise(0, u64::from(subflow.mss));
        subflow.rcv.advertised(u64::from(window));
        let index = self.add_subflow(shared, subflow);
        self.handle_segment(shared, now, index, segment.clone());
        if self.subflow(index).is_some_and(|subflow| subflow.state == SubflowState::SynReceived) {
            // Something else was wrong with it, which has been counted.
            self.drop_half_open(shared, index);
        } else {
            self.make_place();
            self.check_between(shared, now, record.tuple.0.ip(), record.tuple.1.ip());
        }
        Ok(())
    }
}
