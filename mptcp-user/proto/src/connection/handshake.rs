//! How a subflow comes to be established: three-way handshakes of both roles, simultaneous open, MP_CAPABLE and MP_JOIN
//! (RFC 9293 section 3.5, RFC 8684 sections 3.1 and 3.2).

use super::options::is_usable;
use super::refusals::Why;
use super::{Connection, Mode};
use crate::Instant;
use crate::counters::Counter;
use crate::crypto::{self, Key};
use crate::endpoint::Shared;
use crate::event::CloseReason;
use crate::info::{FallbackReason, SubflowState};
use crate::subflow::Kind;
use crate::subflow::ecn::EcnState;
use crate::wire::{Flags, Join, MpCapable, ResetReason, Segment};
use std::time::Duration;

/// What a peer can make us wait (U_LIMIT of RFC 5482).
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(3600);

impl Connection {
    pub(super) fn on_syn_sent(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &Segment) {
        let policy = self.config.ecn;
        let Some(subflow) = self.subflow(index) else { return };
        if segment.flags.has(Flags::ACK) && subflow.snd.offset(segment.ack) != 1 {
            shared.count(Counter::BadAck);
            if !segment.flags.has(Flags::RST) {
                shared.reply_reset(segment);
            }
            return;
        }
        if segment.flags.has(Flags::RST) {
            if segment.flags.has(Flags::ACK) {
                self.note_refusal(segment);
                self.subflow_refused(shared, now, index, segment);
            } else {
                shared.count(Counter::BadReset);
            }
            return;
        }
        if !segment.flags.has(Flags::SYN) {
            shared.count(Counter::OutOfWindow);
            return;
        }
        if !segment.flags.has(Flags::ACK) {
            self.open_simultaneously(shared, now, index, segment);
            return;
        }
        subflow.take_syn_options(now, segment);
        subflow.ecn = EcnState::answered(policy, segment);
        subflow.handshake_answered(now, segment);
        subflow.snd.syn_acknowledged(now);
        subflow.snd.take_window(now, 1, u64::from(segment.window));
        subflow.state = SubflowState::Established;
        subflow.rcv.ack_now = true;
        let kind = subflow.kind;
        self.take_user_timeout(segment);
        match kind {
            Kind::Initial => {
                self.settle_initial(shared, now, segment);
                self.subflow_established(shared, index);
                self.tell_established(shared);
            }
            Kind::JoinActive { nonce, .. } => self.on_join_answer(shared, now, index, nonce, segment),
            Kind::JoinPassive { .. } => {}
        }
    }

    /// Both sides have sent a SYN to each other (RFC 9293 section 3.5). Whose key would be in which segment is not
    /// defined for that, so that the connection will be regular TCP; further subflows are not opened like this.
    fn open_simultaneously(&mut self, shared: &mut Shared, now: Instant, index: usize, syn: &Segment) {
        let policy = self.config.ecn;
        if self.subflow(index).is_none_or(|subflow| subflow.kind != Kind::Initial) {
            shared.count(Counter::OptionOutOfPlace);
            return;
        }
        if self.config.multipath {
            shared.count(Counter::SimultConnectFallback);
        }
        let Some(subflow) = self.subflow(index) else { return };
        subflow.take_syn_options(now, syn);
        subflow.ecn = EcnState::asked(policy, syn);
        subflow.state = SubflowState::SynReceived;
        subflow.handshake_due = true;
        self.take_user_timeout(syn);
        if self.token().is_some() {
            shared.remove_token(self.local_key.token);
        }
        self.mode = Mode::Handshake(false);
        self.refused_by_peer = self.config.multipath;
    }

    /// The peer says how long it waits for acknowledgments (RFC 5482 section 3.1): the longer time counts for both, as
    /// far as anybody could want that.
    pub(super) fn take_user_timeout(&mut self, syn: &Segment) {
        if let (true, Some(theirs)) = (self.config.negotiate_user_timeout, syn.options.user_timeout) {
            let agreed = self.user_timeout.max(theirs.duration());
            self.user_timeout = agreed.min(LONGEST_USER_TIMEOUT.max(self.config.user_timeout));
        }
    }

    /// Decides by the SYN/ACK whether the connection is Multipath TCP.
    //= RFC 8684 3.1-17
    //= RFC 8684 3.7-1
    fn settle_initial(&mut self, shared: &mut Shared, now: Instant, segment: &Segment) {
        self.send.take_window(0, u64::from(segment.window));
        let reason = match self.mode {
            Mode::Handshake(true) => FallbackReason::NoMpCapable,
            _ if self.refused_by_peer => FallbackReason::NoMpCapable,
            _ if self.option_left_out => FallbackReason::SynRetransmission,
            _ if self.config.multipath => FallbackReason::DestinationRemembered,
            _ => FallbackReason::NotRequested,
        };
        let offered = self.mode == Mode::Handshake(true);
        if let (true, None, Some(destination)) =
            (self.option_left_out, segment.options.capable(), self.destination())
        {
            // Those with the option were not answered, this one was: it is not the network that is down.
            shared.remember_blackhole(self.id, destination);
        }
        let capable = segment
            .options
            .capable()
            .filter(|capable| {
                offered && capable.version == self.version && is_usable(capable, self.config.versions)
            })
            .copied();
        match capable.and_then(|capable| Some((capable, capable.sender_key?))) {
            Some((capable, key)) => {
                shared.count(Counter::MpCapableSynAckRx);
                self.become_multipath(capable, key);
            }
            None => {
                if offered {
                    shared.count(match segment.options.capable() {
                        Some(_) => Counter::CapableUnusable,
                        None => Counter::MpCapableFallbackSynAck,
                    });
                }
                self.fall_back(shared, now, reason);
            }
        }
    }

    /// Both keys are known.
    //= RFC 8684 3.1-8
    fn become_multipath(&mut self, capable: MpCapable, remote_key: u64) {
        self.mode = Mode::Multipath;
        self.remote_key = Some(Key::new(self.version, remote_key));
        self.checksum |= capable.checksum;
        self.paths.no_join_initial |= capable.no_join_initial;
    }

    /// The SYN/ACK of our MP_JOIN: its HMAC proves that the peer has the keys (RFC 8684 section 3.2).
    //= RFC 8684 3.2-9
    //= RFC 8684 3.2-10
    //= RFC 8684 3.9.3-2
    fn on_join_answer(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        nonce: u32,
        segment: &Segment,
    ) {
        let (local, remote) = (self.local_key.key, self.remote_key.map_or(0, |key| key.key));
        let answer = match segment.options.join() {
            Some(&Join::SynAck { backup, address_id, mac, nonce: peer_nonce }) => {
                shared.count(Counter::MpJoinSynAckRx);
                if backup {
                    shared.count(Counter::MpJoinSynAckBackupRx);
                }
                let expected = crypto::join_mac(self.version, remote, local, peer_nonce, nonce);
                let good = crypto::same_secret(&expected[..8], &mac.to_be_bytes());
                good.then(|| {
                    (backup, address_id, crypto::join_mac(self.version, local, remote, nonce, peer_nonce))
                })
            }
            _ => None,
        };
        match (answer, self.subflow(index)) {
            (Some((backup, address_id, mac)), Some(subflow)) => {
                subflow.peer_backup = backup;
                subflow.remote_id = address_id;
                subflow.kind = Kind::JoinActive { nonce, mac };
                // The third ACK is repeated until the peer has answered it.
                subflow.handshake_due = true;
                self.subflow_established(shared, index);
            }
            (None, Some(subflow)) => {
                shared.count(Counter::MpJoinSynAckHmacFailure);
                subflow.reset_due = Some(Some(ResetReason::MptcpSpecific));
                self.refuse_path(now, index, Why::Refused);
            }
            (_, None) => {}
        }
    }

    /// `true` if the segment completed the handshake and is to be processed further.
    //= RFC 8684 3.2-11
    //= RFC 8684 3.2-12
    pub(super) fn on_syn_received(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
    ) -> bool {
        let Some(subflow) = self.subflow(index) else { return false };
        if segment.flags.has(Flags::RST) {
            if segment.seq == subflow.rcv.ack_seq() {
                self.subflow_refused(shared, now, index, segment);
            } else {
                shared.count(Counter::BadReset);
            }
            return false;
        }
        if segment.flags.has(Flags::SYN) {
            // Our SYN/ACK was lost, or their SYN came twice.
            if segment.seq == subflow.rcv.irs() && !segment.flags.has(Flags::ACK) {
                subflow.handshake_due = true;
            } else {
                self.take_other_syn(shared, now, index, segment);
            }
            return false;
        }
        if !segment.flags.has(Flags::ACK) || subflow.rcv.is_from_the_past(now, segment) {
            let past = segment.flags.has(Flags::ACK);
            shared.count(if past { Counter::PawsEstab } else { Counter::NoAck });
            return false;
        }
        if subflow.snd.offset(segment.ack) != 1 {
            shared.count(Counter::BadAck);
            shared.reply_reset(segment);
            return false;
        }
        if !subflow.rcv.acceptable(segment) {
            shared.count(Counter::OutOfWindow);
            subflow.handshake_due = true;
            return false;
        }
        let kind = subflow.kind;
        let accepted = match kind {
            Kind::Initial => self.on_initial_third_ack(shared, now, index, segment),
            Kind::JoinPassive { nonce, peer_nonce } => {
                let Some(&Join::Ack { mac }) = segment.options.join() else {
                    // The peer sends nothing before this is answered: the option was stripped (RFC 8684
                    // section 3.2).
                    shared.count(Counter::JoinAckMissing);
                    subflow.reset_due = Some(Some(ResetReason::MptcpSpecific));
                    return false;
                };
                shared.count(Counter::MpJoinAckRx);
                let (local, remote) = (self.local_key.key, self.remote_key.map_or(0, |key| key.key));
                let expected = crypto::join_mac(self.version, remote, local, peer_nonce, nonce);
                let good = crypto::same_secret(&expected, &mac);
                let room = self.has_room();
                if !good {
                    shared.count(Counter::MpJoinAckHmacFailure);
                } else if !room {
                    shared.count(Counter::MpJoinRejected);
                }
                if let Some(subflow) = self.subflow(index).filter(|_| !good || !room) {
                    let reason = if good { ResetReason::LackOfResources } else { ResetReason::MptcpSpecific };
                    subflow.reset_due = Some(Some(reason));
                }
                good && room
            }
            Kind::JoinActive { .. } => false,
        };
        let Some(subflow) = self.subflow(index).filter(|_| accepted) else { return false };
        subflow.state = SubflowState::Established;
        subflow.handshake_answered(now, segment);
        subflow.ecn.completed(segment);
        subflow.snd.syn_acknowledged(now);
        subflow.confirmed = true;
        shared.handshake_completed();
        if matches!(kind, Kind::JoinPassive { .. }) {
            subflow.rcv.ack_now = true;
        }
        self.subflow_established(shared, index);
        if kind == Kind::Initial {
            self.tell_established(shared);
            // Whoever has nothing to send, and may never be sent anything again, tells its addresses now.
            self.manage_paths(shared, now);
        }
        true
    }

    /// Whether MP_CAPABLE has both keys, and those of this connection as far as they are known.
    pub(super) fn has_keys(&self, capable: &MpCapable) -> bool {
        let (Some(theirs), Some(ours)) = (capable.sender_key, capable.receiver_key) else { return false };
        self.remote_key
            .is_none_or(|known| crypto::same_secret(&known.key.to_be_bytes(), &theirs.to_be_bytes()))
            && crypto::same_secret(&ours.to_be_bytes(), &self.local_key.key.to_be_bytes())
    }

    /// A SYN that is not the one this subflow began with, from a peer that has forgotten the attempt (RFC
    /// 9293 section 3.10.7.4). In the window it ends the attempt, so that the SYN that is sent again begins a
    /// new one. Outside of it, it is answered with an acknowledgment, which a peer that has indeed forgotten
    /// answers with a reset.
    fn take_other_syn(&mut self, shared: &mut Shared, now: Instant, index: usize, syn: &Segment) {
        let window = self.receive.advertised();
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.rcv.acceptable(syn) && !subflow.is_active() {
            shared.count(Counter::SynChallenge);
            match subflow.kind {
                Kind::Initial => self.close_now(shared, now, CloseReason::ConnectTimeout),
                _ => self.drop_half_open(shared, index),
            }
        } else if subflow.may_challenge(now) {
            shared.count(Counter::ChallengeAck);
            let mut answer = subflow.segment(subflow.snd.nxt, Flags::ACK);
            answer.options.timestamps = subflow.timestamps(now);
            answer.window = (window >> subflow.rcv.scale).min(u64::from(u16::MAX)) as u16;
            shared.reply(|| answer);
        } else {
            shared.count(Counter::AckSkippedChallenge);
        }
    }

    /// The third ACK of the initial subflow: with the option and both keys, the connection is Multipath TCP.
    //= RFC 8684 3.1-19
    fn on_initial_third_ack(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
    ) -> bool {
        if self.mode != Mode::Handshake(true) {
            let refused = self.refused_by_peer;
            let reason = if refused { FallbackReason::NoMpCapable } else { FallbackReason::NotRequested };
            self.fall_back(shared, now, reason);
            return true;
        }
        match segment.options.capable() {
            Some(capable) => {
                shared.count(Counter::MpCapableAckRx);
                let usable = capable.version == self.version && is_usable(capable, self.config.versions);
                match capable.sender_key.filter(|_| self.has_keys(capable)) {
                    Some(theirs) if usable => {
                        self.become_multipath(*capable, theirs);
                        self.fully_established = true;
                    }
                    // It is not the answer to our SYN/ACK: as if it had not come (RFC 8684 section 3.1).
                    keys => {
                        shared.count(if keys.is_some() {
                            Counter::CapableUnusable
                        } else {
                            Counter::BadKeys
                        });
                        self.fall_back(shared, now, FallbackReason::OptionStripped);
                    }
                }
                true
            }
            // A later segment overtook the third ACK. In version 1 the one with the keys is still to come, in version 0
            // both are known, and the mapping says that the peer knows them, too.
            None if segment.options.dss().is_some() => {
                let known = self.remote_key.is_some();
                if known {
                    self.mode = Mode::Multipath;
                    self.fully_established = true;
                } else if let Some(subflow) = self.subflow(index) {
                    subflow.is_real();
                }
                known
            }
            None => {
                shared.count(Counter::MpCapableFallbackAck);
                self.fall_back(shared, now, FallbackReason::OptionStripped);
                true
            }
        }
    }
}
