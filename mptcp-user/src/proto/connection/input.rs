//! What a segment does to its subflow: RFC 9293 section 3.10.7, with the checks of RFC 5961 and RFC 7323.

use super::close::EndCause;
use super::options::is_usable;
use super::{Connection, Mode};
use crate::proto::Instant;
use crate::proto::congestion::{Ack, Cause};
use crate::proto::counters::Counter;
use crate::proto::crypto::{self, Key};
use crate::proto::decision::{CongestionCause, Decision};
use crate::proto::endpoint::Shared;
use crate::proto::event::{CloseReason, Unreachable};
use crate::proto::info::{FallbackReason, SubflowState};
use crate::proto::subflow::ecn::EcnState;
use crate::proto::subflow::mapping::Mapped;
use crate::proto::subflow::sack::Blocks;
use crate::proto::subflow::send::{AckInput, AckOutcome};
use crate::proto::subflow::{Kind, Subflow};
use crate::wire::{
    DataSeq, Dss, Flags, Join, MpCapable, MptcpOption, Payload, ResetReason, Segment, SeqNumber, Version,
};
use std::time::Duration;

/// What a connection may hold beside what its window accounts for.
const SLACK: u64 = 128 << 10;
/// What a peer can make us wait (U_LIMIT of RFC 5482).
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(3600);

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
        self.progress_close(shared, now);
    }

    fn on_syn_sent(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &Segment) {
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
                self.subflow_refused(shared, now, index);
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
        subflow.handshake_answered(now);
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
    fn become_multipath(&mut self, capable: MpCapable, remote_key: u64) {
        self.mode = Mode::Multipath;
        self.remote_key = Some(Key::new(self.version, remote_key));
        self.checksum |= capable.checksum;
        self.paths.no_join_initial |= capable.no_join_initial;
    }

    /// The SYN/ACK of our MP_JOIN: its HMAC proves that the peer has the keys (RFC 8684 section 3.2).
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
                self.refuse_path(now, index);
            }
            (_, None) => {}
        }
    }

    /// `true` if the segment completed the handshake and is to be processed further.
    fn on_syn_received(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
    ) -> bool {
        let Some(subflow) = self.subflow(index) else { return false };
        if segment.flags.has(Flags::RST) {
            if segment.seq == subflow.rcv.ack_seq() {
                self.subflow_refused(shared, now, index);
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
                shared.count(Counter::OutOfWindow);
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
                    // Without its HMAC this is not the segment that completes the handshake.
                    shared.count(Counter::JoinAckMissing);
                    return false;
                };
                shared.count(Counter::MpJoinAckRx);
                let (local, remote) = (self.local_key.key, self.remote_key.map_or(0, |key| key.key));
                let expected = crypto::join_mac(self.version, remote, local, peer_nonce, nonce);
                let good = crypto::same_secret(&expected, &mac);
                let room = self.subflow_count() < self.config.max_subflows;
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
        subflow.handshake_answered(now);
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

    /// The third ACK of the initial subflow: with the option and both keys, the connection is Multipath TCP.
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
                let (Some(theirs), Some(ours)) = (capable.sender_key, capable.receiver_key) else {
                    shared.count(Counter::BadKeys);
                    return false;
                };
                let known = self.remote_key.is_none_or(|known| known.key == theirs);
                if !known || !crypto::same_secret(&ours.to_be_bytes(), &self.local_key.key.to_be_bytes()) {
                    shared.count(Counter::BadKeys);
                    return false;
                }
                self.become_multipath(*capable, theirs);
                self.fully_established = true;
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
        subflow.heard = now;
        subflow.keep_alives = 0;
        if subflow.must_answer_by.take().is_some() {
            subflow.stale = false;
        } else if subflow.stale {
            subflow.snd.try_again(now, &subflow.rtt);
        }
        if !subflow.confirmed {
            // Any answer shows that the third ACK of our MP_JOIN has arrived.
            subflow.confirmed = true;
            subflow.handshake_answered(now);
        }
        let window = u64::from(segment.window) << subflow.snd.scale;
        if subflow.ecn.received(&segment) {
            subflow.rcv.ack_now = true;
        }
        if plain && segment.options.dss().is_none_or(Dss::is_infinite) {
            // The peer has fallen back, too.
            subflow.fail_due = None;
        }
        self.plain_segments =
            if segment.options.mptcp.is_empty() { self.plain_segments.saturating_add(1) } else { 0 };
        if !segment.payload.is_empty() && self.lacks_memory(shared, now, index, &segment) {
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
        if self.closed.is_some() || self.subflow(index).is_none() {
            return;
        }
        if self.is_multipath() && !self.dss_received && self.plain_segments > 0 && ack > 1 && self.contiguous
        {
            // Our data was acknowledged by someone who does not see the options: they are stripped on the way.
            shared.count(Counter::MpCapableDataFallback);
            self.fall_back(shared, now, FallbackReason::OptionStripped);
        }
        self.take_ack(shared, now, index, &segment, ack, window);
        self.take_payload(shared, now, index, &mut segment);
    }

    /// Data came. Whether there is no room to keep it: the window lets nobody that keeps to it come so far, except where
    /// very many do so at once. Octets in order are the last to be refused, because they set others free.
    fn lacks_memory(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &Segment) -> bool {
        let Some(subflow) = self.subflow(index) else { return true };
        let echo = segment.options.timestamps.filter(|_| subflow.stamps);
        let echo =
            echo.map(|stamps| subflow.stamp(now).wrapping_sub(stamps.echo)).filter(|age| *age < 60_000);
        subflow.rcv.echo.data(now, echo.map(|age| Duration::from_millis(u64::from(age))));
        let in_order = subflow.rcv.offset(segment.seq) <= subflow.rcv.nxt as i64;
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

    fn on_reset(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &Segment) {
        let Some(subflow) = self.subflow(index) else { return };
        if segment.seq != subflow.rcv.ack_seq() {
            shared.count(Counter::BadReset);
            self.challenge(shared, now, index);
            return;
        }
        let mut fast_close = false;
        let mut cause = match (segment.options.mptcp.is_empty(), self.version) {
            // Options had stopped coming, and this has none that would say why.
            (true, _) if self.plain_segments > 0 => EndCause::Interference,
            (true, Version::V1) => EndCause::Unexplained,
            _ => EndCause::Known,
        };
        for option in &segment.options.mptcp {
            match option {
                MptcpOption::FastClose(_) => fast_close |= self.is_fast_close(shared, option),
                MptcpOption::Reset(reset) => {
                    if reset.reason == ResetReason::MiddleboxInterference {
                        cause = EndCause::Interference;
                    }
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
        if fast_close || !self.is_multipath() {
            self.close_now(shared, now, CloseReason::Reset);
            return;
        }
        self.reset_seen = true;
        self.end_cause = cause;
        if cause != EndCause::Unexplained || self.subflow_count() > 1 {
            self.refuse_path(now, index);
        }
        self.end_subflow(shared, now, index);
    }

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
            && !subflow.snd.is_idle();
        subflow.snd.take_window(now, ack, window);
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
            }
            subflow.bytes_acked += outcome.acked - u64::from(subflow.fin_sent && subflow.snd.is_idle());
        }
        if outcome.congestion == Some(Cause::Loss) {
            shared.count(Counter::SackRecovery);
        }
        self.control_congestion(now, index, &outcome);
        // Windows grow also while the peer waits for an octet that was lost.
        self.tell_writable(shared);
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
            self.tell_writable(shared);
        }
        self.subflow_fin_acknowledged(shared, now, index);
        if revived {
            self.manage_paths(shared, now);
        }
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
    fn control_congestion(&mut self, now: Instant, index: usize, outcome: &AckOutcome) {
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let control = &mut self.policies.congestion;
        let path = &mut self.congestion_paths[index];
        path.srtt = subflow.rtt.srtt();
        path.min_rtt = subflow.rtt.min();
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
            if outcome.delivered > 0 {
                let ack = Ack {
                    delivered: outcome.delivered,
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

    fn take_payload(&mut self, shared: &mut Shared, now: Instant, index: usize, segment: &mut Segment) {
        let payload = std::mem::take(&mut segment.payload);
        let Some(subflow) = self.subflow(index) else { return };
        let open = matches!(
            subflow.state,
            SubflowState::Established | SubflowState::FinWait1 | SubflowState::FinWait2
        );
        let start = subflow.rcv.offset(segment.seq);
        if segment.flags.has(Flags::FIN) && subflow.rcv.fin.is_none() && open {
            let fin = start + payload.len() as i64;
            if fin >= subflow.rcv.nxt as i64 {
                subflow.rcv.fin = Some(fin as u64);
            }
        }
        if !payload.is_empty() && open {
            let mss = u64::from(subflow.mss);
            subflow.rcv.insert(now, start, payload, mss);
            self.deliver(shared, now, index);
        }
        let Some(subflow) = self.subflow(index) else { return };
        if subflow.rcv.take_fin() {
            self.on_subflow_fin(shared, now, index);
        }
    }

    /// Moves what is in order on the subflow to the data level.
    fn deliver(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        let mut readable = false;
        'subflow: while let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) {
            let Some((mut start, mut payload)) = subflow.rcv.next() else { break };
            subflow.bytes_received += payload.len() as u64;
            while !payload.is_empty() {
                let before = payload.len();
                let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else {
                    return;
                };
                match subflow.mappings.map(start, &mut payload) {
                    Mapped::Data(offset, octets) => {
                        self.note_arrival(shared, offset, octets.len() as u64);
                        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut)
                        else {
                            return;
                        };
                        let finished = self.receive.finished;
                        readable |= self.receive.insert(now, offset, octets);
                        if self.receive.finished && !finished {
                            subflow.rcv.ack_now = true;
                        }
                    }
                    Mapped::Pending => {}
                    Mapped::Unmapped(octets) => {
                        if !self.unmapped(shared, now, index, start) {
                            self.refuse_path(now, index);
                            break 'subflow;
                        }
                        readable |= self.receive.insert(now, start - 1, octets);
                    }
                    Mapped::Corrupt(dsn, octets) => {
                        let end = start + (before - payload.len()) as u64;
                        let begin = end - octets.len() as u64;
                        if !self.checksum_failed(shared, now, index, begin, dsn) {
                            // The next subflow between these addresses would fare no better.
                            self.refuse_path(now, index);
                            break 'subflow;
                        }
                        readable |= self.receive.insert(now, begin - 1, octets);
                    }
                }
                start += (before - payload.len()) as u64;
            }
        }
        if readable {
            if self.released {
                // Nobody is left to read: the peer must learn that its data was not delivered (RFC 2525
                // section 2.17).
                self.abort(shared, now);
                return;
            }
            self.tell_readable(shared);
        }
    }

    /// Counts what can be said of octets of the data stream before they are taken in.
    fn note_arrival(&self, shared: &mut Shared, offset: u64, octets: u64) {
        let (next, edge) = (self.receive.nxt, self.receive.nxt + self.receive.advertised());
        if offset + octets > edge {
            shared.count(Counter::NoDssInWindow);
        }
        if offset + octets <= next {
            shared.count(Counter::DuplicateData);
        } else if offset > next && offset < edge {
            shared.count(Counter::OfoQueue);
        }
    }

    /// In-order octets without a mapping: the path strips options. As long as the two streams correspond one to one
    /// the connection falls back (`true`; RFC 8684 section 3.7), also where there were checksums: what arrives is what a
    /// regular TCP connection would have brought. Otherwise the subflow can't be trusted any more.
    fn unmapped(&mut self, shared: &mut Shared, now: Instant, index: usize, start: u64) -> bool {
        let fits = self.corresponds(index, start);
        let Some(subflow) = self.subflow(index) else { return false };
        if fits {
            let first = !subflow.mappings.seen;
            shared.count(if first { Counter::MpCapableDataFallback } else { Counter::DssFallback });
            self.fall_back(shared, now, FallbackReason::MappingMissing);
            return true;
        }
        subflow.reset_due = Some(Some(ResetReason::MiddleboxInterference));
        self.end_cause = EndCause::Interference;
        shared.count(Counter::FallbackFailed);
        shared.count(Counter::DssCorruptionReset);
        false
    }

    /// A mapping's checksum is wrong: a middlebox changed the payload. Over the only subflow there is, what arrives is
    /// what a regular TCP connection would have brought, and the connection falls back to that (`true`); the peer is
    /// told with MP_FAIL. Otherwise the subflow is given up with MP_FAIL, and its data comes again over the others
    /// (RFC 8684 section 3.7).
    fn checksum_failed(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        begin: u64,
        dsn: DataSeq,
    ) -> bool {
        let fits = self.corresponds(index, begin);
        let Some(subflow) = self.subflow(index) else { return false };
        subflow.fail_due = Some(dsn);
        shared.count(Counter::DataCsumErr);
        shared.count(if fits { Counter::DssCorruptionFallback } else { Counter::DssCorruptionReset });
        if !fits {
            subflow.reset_due = Some(Some(ResetReason::MiddleboxInterference));
            self.end_cause = EndCause::Interference;
            return false;
        }
        self.fall_back(shared, now, FallbackReason::ChecksumFailed);
        true
    }

    /// Whether the connection can go on as regular TCP with the octets that begin here.
    fn corresponds(&mut self, index: usize, start: u64) -> bool {
        start == self.receive.nxt + 1 && self.may_fall_back(index)
    }

    /// Whether this side may fall back: subflow and data stream correspond octet for octet, because this is the first
    /// subflow and no other is established (RFC 8684 section 3.7). One whose handshake is complete here counts, even
    /// before the peer has said so: it may have begun to send there.
    pub(super) fn may_fall_back(&self, index: usize) -> bool {
        self.is_only(index, Subflow::is_synchronised)
    }

    /// Whether the peer may have fallen back. It sees its own end of a handshake: a subflow of ours on which it has
    /// not answered the third ACK is none to it.
    pub(super) fn may_follow_fallback(&self, index: usize) -> bool {
        self.is_only(index, |subflow| subflow.is_synchronised() && subflow.confirmed)
    }

    fn is_only(&self, index: usize, counts: impl Fn(&Subflow) -> bool) -> bool {
        let others = self.living().any(|(other, subflow)| other != index && counts(subflow));
        let initial = self.living().any(|(own, subflow)| own == index && subflow.kind == Kind::Initial);
        self.contiguous && initial && !others
    }
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
        } else if unreachable.hard && !subflow.is_synchronised() {
            // Before the handshake is complete a hard error ends the attempt; later it is a hint at most.
            let initial = subflow.kind == Kind::Initial;
            self.refuse_path(now, index);
            if initial {
                self.close_now(shared, now, CloseReason::Unreachable);
            } else {
                self.end_subflow(shared, now, index);
            }
        }
    }
}
