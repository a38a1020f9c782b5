//! Which segment leaves next. What options it carries is decided in [`options`](super::options).

use super::{Connection, Mode};
use crate::Instant;
use crate::config::Opportunism;
use crate::counters::Counter;
use crate::crypto::Key;
use crate::decision::{self, CongestionCause, Decision, ReinjectionCause, Wait};
use crate::endpoint::Shared;
use crate::fast_close::FastCloseWait;
use crate::info::SubflowState;
use crate::scheduler::{Candidate, Candidates, Queue, best_tier};
use crate::subflow::ecn::EcnState;
use crate::subflow::record::{MAX_PACKETS, Record, TxMapping};
use crate::subflow::{Kind, Subflow};
use crate::wire::{
    FastClose, Flags, MptcpOption, Payload, ResetReason, Segment, TcpOptions, TcpReset, Version, dss_checksum,
};

/// Full packets in a super-segment at most: as many as a record can tell apart, with room for options that
/// make them smaller.
const SUPER_SEGMENT_PACKETS: u64 = MAX_PACKETS - 4;
/// After so many segments of data in a row, acknowledgments that are due go first: a driver that can't send as fast as
/// there is data would never get to them.
const DATA_RUN: u8 = 8;

impl Connection {
    /// The next segment to send, if any.
    pub(crate) fn poll_transmit(&mut self, shared: &mut Shared, now: Instant) -> Option<Segment> {
        self.receive.set_share(shared.memory.share());
        self.ask_path_manager(shared, now);
        self.begin_with_more_paths(shared, now);
        self.progress_close(shared, now);
        for index in 0..self.subflows.len() {
            if let Some(segment) = self.transmit_control(shared, now, index) {
                return Some(segment);
            }
        }
        if self.closed.is_some() || matches!(self.mode, Mode::Handshake(_)) {
            return None;
        }
        if self.data_run < DATA_RUN
            && let Some(segment) = self.transmit_data(shared, now)
        {
            self.data_run += 1;
            return Some(segment);
        }
        self.data_run = 0;
        let ack = (0..self.subflows.len()).find_map(|index| self.transmit_ack(now, index));
        let segment =
            ack.or_else(|| self.transmit_data(shared, now)).or_else(|| self.transmit_held_back(shared, now));
        if segment.is_none() {
            self.note_application_limited(now);
        }
        segment
    }

    /// Nothing is left to send: what the paths deliver now is not all they could.
    fn note_application_limited(&mut self, now: Instant) {
        for (subflow, path) in self.subflows.iter_mut().zip(&self.congestion_paths) {
            if let (Some(subflow), Some(_)) = (subflow, path.pacing_rate) {
                subflow.snd.note_application_limited(now, path);
            }
        }
    }

    /// Retransmissions that F-RTO has kept back for new data, now that there is none (RFC 5682 section 2.1).
    fn transmit_held_back(&mut self, shared: &mut Shared, now: Instant) -> Option<Segment> {
        for index in 0..self.subflows.len() {
            if self.subflow(index).is_some_and(|subflow| subflow.snd.lacks_new_data())
                && let Some(segment) = self.transmit_control(shared, now, index)
            {
                return Some(segment);
            }
        }
        None
    }

    /// Resets, handshakes, retransmissions, probes and FINs of one subflow.
    fn transmit_control(&mut self, shared: &mut Shared, now: Instant, index: usize) -> Option<Segment> {
        let subflow = self.subflows.get_mut(index)?.as_deref_mut()?;
        if let Some(reason) = subflow.reset_due {
            return self.transmit_reset(shared, now, index, reason);
        }
        if subflow.handshake_due {
            return self.transmit_handshake(shared, now, index);
        }
        if !subflow.is_synchronised() {
            return None;
        }
        let fails = subflow.fail_due.is_some() || self.fail.owes_answer();
        if fails && subflow.rcv.ack_now {
            // Before data or a FIN tell the peer of the fallback: they have no room for the reason.
            return self.ack_segment(now, index);
        }
        let path = &mut self.congestion_paths[index];
        let stamp = subflow.stamp(now);
        if subflow.snd.may_retransmit() && !subflow.snd.may_depart(now, path) {
            subflow.snd.wait_to_depart();
        } else if subflow.snd.may_retransmit() {
            let room = path.cwnd.saturating_sub(subflow.snd.in_flight());
            if room >= path.mss || subflow.snd.in_flight() == 0 {
                let whole = if subflow.ecn.forbids_super_segments() { path.mss } else { room };
                let most = (shared.config.max_super_segment as u64).min(SUPER_SEGMENT_PACKETS * path.mss);
                let limit = (whole / path.mss * path.mss).clamp(path.mss, most.max(path.mss));
                let record = subflow.snd.retransmit(now, limit, stamp, path, &subflow.rtt).map(Sent::from);
                if let Some(record) = record {
                    shared.count(Counter::RetransSegs);
                    return Some(self.data_segment(now, index, record));
                }
            } else {
                subflow.snd.note_limited();
            }
        }
        if subflow.snd.probe_due() {
            if let Some(segment) = self.transmit_tail_probe(shared, now, index) {
                return Some(segment);
            }
            return self.transmit_control(shared, now, index);
        }
        let all_sent = self.send.all_sent() || self.mode == Mode::Multipath;
        if subflow.fin_wanted && !subflow.fin_sent && all_sent {
            subflow.fin_sent = true;
            subflow.state = match subflow.state {
                SubflowState::CloseWait => {
                    subflow.handshake_deadline = None;
                    SubflowState::LastAck
                }
                _ => SubflowState::FinWait1,
            };
            let record = Sent::from(subflow.snd.send(now, Payload::new(), None, true, path, &subflow.rtt));
            return Some(self.data_segment(now, index, record));
        }
        if std::mem::take(&mut subflow.window_probe_due) {
            // An octet that was acknowledged already: the answer tells the window (RFC 9293 section 3.8.6.1).
            let mut segment = subflow.segment(subflow.snd.una - 1, Flags::ACK);
            self.dress_acknowledgment(now, index, &mut segment);
            return Some(segment);
        }
        None
    }

    /// A tail loss probe: new data where there is any that the peer has room for, whatever the congestion
    /// window says, and otherwise the last packet again (RFC 8985 section 7.3). The probe is not due any more
    /// afterwards.
    fn transmit_tail_probe(&mut self, shared: &mut Shared, now: Instant, index: usize) -> Option<Segment> {
        let start = self.send.nxt;
        let mut end = self.send.buffer.end();
        if self.is_multipath() {
            end = end.min(self.send.edge);
        }
        let path = &self.congestion_paths[index];
        let subflow = self.subflows.get_mut(index)?.as_deref_mut()?;
        let octets = end.saturating_sub(start).min(path.mss);
        // New data on a path that may be dead would be missed as soon as other subflows have brought what is
        // before it.
        let may_carry = subflow.can_send() && !subflow.stale;
        if octets > 0 && may_carry && subflow.snd.edge.saturating_sub(subflow.snd.nxt) >= octets {
            let among = self.among(shared);
            let segment = self.send_data(shared, now, index, start, start + octets);
            let sent = segment.payload.len() as u64;
            if let Some(subflow) = self.subflow(index) {
                subflow.snd.probed_with_new_data();
            }
            shared.decide(self.id, || {
                let scheduler = self.policies.scheduler.name();
                Decision::Scheduled { subflow: self.slot(index), start, octets: sent, scheduler, among }
            });
            self.send.nxt += sent;
            self.tell_writable(shared);
            self.arm_data_timer(now, false);
            return Some(segment);
        }
        let stamp = subflow.stamp(now);
        let record = subflow.snd.retransmit_tail(now, path.mss, stamp, path, &subflow.rtt).map(Sent::from)?;
        Some(self.data_segment(now, index, record))
    }

    //= RFC 8684 3.5-2
    fn transmit_reset(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        reason: Option<ResetReason>,
    ) -> Option<Segment> {
        let subflow = self.subflows.get(index)?.as_deref()?;
        let (mut segment, mut fast_close) = (None, None);
        if subflow.state != SubflowState::SynSent {
            let mut reset = subflow.segment(subflow.snd.nxt, Flags::RST.with(Flags::ACK));
            // RFC 7323 section 3.2.
            reset.options.timestamps = subflow.timestamps(now);
            let options = &mut reset.options.mptcp;
            if let (true, Some(Key { key, .. })) =
                (self.fast_close && subflow.is_synchronised(), self.remote_key)
            {
                fast_close = Some(FastCloseWait::reset(key));
                if self.version == Version::V0 {
                    // There it is an acknowledgment on one subflow that says so, the others are reset (RFC
                    // 6824 section 3.5).
                    self.fast_close = false;
                    reset.flags = Flags::ACK;
                    fast_close = Some(FastCloseWait::acknowledgment(key, subflow.rtt.rto()));
                }
                options.push(MptcpOption::FastClose(FastClose { receiver_key: key }));
            } else if let (true, Some(reason)) = (self.is_multipath() && self.version == Version::V1, reason)
            {
                options.push(MptcpOption::Reset(TcpReset { transient: reason.passes(), reason }));
            }
            if let Some(dsn) = subflow.fail_due {
                options.push(MptcpOption::Fail(dsn));
            }
            segment = Some(reset);
        }
        self.reset_sent(shared, now, index, fast_close);
        segment
    }

    //= RFC 8684 3.2-5
    fn transmit_handshake(&mut self, shared: &mut Shared, now: Instant, index: usize) -> Option<Segment> {
        let receive = &mut self.receive;
        let subflow = self.subflows.get_mut(index)?.as_deref_mut()?;
        if subflow.handshake_sends > 0 {
            shared.count(Counter::SynRetrans);
        }
        subflow.handshake_sent(now);
        if subflow.is_synchronised() {
            // The third ACK of an MP_JOIN, whatever else has happened to the subflow since.
            return self.ack_segment(now, index);
        }
        let syn_ack = subflow.state == SubflowState::SynReceived;
        let flags = if syn_ack { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        let ecn = if syn_ack {
            subflow.ecn.syn_ack_flags()
        } else {
            EcnState::syn_flags(self.config.ecn, subflow.handshake_sends - 1)
        };
        let mut segment = subflow.segment(0, flags.with(ecn));
        // The window of a SYN is never scaled (RFC 7323 section 2.2).
        segment.window = receive.advertise(0, u64::from(subflow.mss));
        subflow.rcv.advertised(u64::from(segment.window));
        segment.options = self.handshake_options(now, index)?;
        Some(segment)
    }

    /// New data, data that another subflow failed to deliver, or a DATA_FIN by itself.
    fn transmit_data(&mut self, shared: &mut Shared, now: Instant) -> Option<Segment> {
        if let Some(again) = self.send.next_reinjection()
            && let Some((index, start, end)) =
                self.choose(self.queue(now, again.start, again.end, true), Some(again.not_on))
        {
            let among = self.among(shared);
            let segment = self.send_data(shared, now, index, start, end);
            let sent = segment.payload.len() as u64;
            self.send.reinjected(sent);
            shared.count(Counter::MptcpRetrans);
            shared.decide(self.id, || {
                let subflow = self.slot(index);
                Decision::Reinjected { subflow, start, octets: sent, among }
            });
            self.contiguous = false;
            return Some(segment);
        }
        let mut end = self.send.buffer.end();
        if self.is_multipath() {
            end = end.min(self.send.edge);
        }
        let nxt = self.send.nxt;
        // A peer that takes its window back (which it must not) leaves less than nothing.
        let queue = self.queue(now, nxt, end.max(nxt), false);
        if nxt < end || (self.policies.scheduler.duplicates() && self.is_multipath() && self.send.una < nxt) {
            if let Some((index, start, end)) = self.choose(queue, None) {
                if start == nxt && self.waits_for_more(index, end - nxt) {
                    shared.decide(self.id, || Decision::Waiting { why: Wait::Nagle, octets: end - nxt });
                    // What is left of the window may be too little to be used: as good as closed.
                    let seized = self.seize_opportunity(shared, &queue);
                    return if seized { self.transmit_data(shared, now) } else { None };
                }
                let among = self.among(shared);
                let segment = self.send_data(shared, now, index, start, end);
                let sent = segment.payload.len() as u64;
                shared.decide(self.id, || {
                    let (subflow, octets) = (self.slot(index), sent);
                    let scheduler = self.policies.scheduler.name();
                    if start == nxt {
                        Decision::Scheduled { subflow, start, octets, scheduler, among }
                    } else {
                        Decision::Duplicated { subflow, start, octets, among }
                    }
                });
                if start == nxt {
                    self.send.nxt += sent;
                    self.window_override = false;
                    self.tell_writable(shared);
                } else {
                    self.send.reinjected += sent;
                    self.contiguous = false;
                }
                self.arm_data_timer(now, false);
                return Some(segment);
            }
            if nxt < end {
                shared.decide(self.id, || Decision::Waiting { why: Wait::Scheduler, octets: end - nxt });
                return None;
            }
        }
        let waiting = self.send.buffer.end().saturating_sub(nxt);
        if waiting > 0 {
            shared.decide(self.id, || Decision::Waiting { why: Wait::PeerWindow, octets: waiting });
        }
        self.look_into_window(&queue);
        if self.seize_opportunity(shared, &queue) {
            return self.transmit_data(shared, now);
        }
        self.transmit_data_fin(now)
    }

    fn slot(&self, index: usize) -> u32 {
        self.subflows[index].as_deref().map_or(u32::MAX, |subflow| subflow.slot.0)
    }

    /// What there was to choose among, for those who want to know.
    fn among(&self, shared: &Shared) -> Vec<decision::Candidate> {
        if !shared.watched() {
            return Vec::new();
        }
        let candidate = |(index, subflow): (usize, &Subflow)| {
            let path = &self.congestion_paths[index];
            decision::Candidate {
                subflow: subflow.slot.0,
                usable: subflow.can_send(),
                backup: subflow.backup || subflow.peer_backup,
                stale: subflow.stale,
                srtt_us: decision::micros(subflow.rtt.srtt()),
                in_flight: subflow.snd.in_flight(),
                cwnd: path.cwnd,
                room: subflow.snd.room(path),
            }
        };
        self.living().map(candidate).collect()
    }

    /// What a scheduler is asked about.
    fn queue(&self, now: Instant, start: u64, end: u64, again: bool) -> Queue {
        let una = self.send.una;
        let edge = self.send.edge.min(una + self.config.send_buffer as u64);
        Queue { now, una, start, end, edge, again }
    }

    /// Everything that may be sent is under way. If it is the shared window that says so, or the send buffer, while a
    /// subflow has room, the one that holds up the oldest octet is to be known.
    ///
    /// A window with a rest that is too small for a segment is as good as used up, but is not looked into: that happens far
    /// more often, and the guard would bar slow paths that bring something in order to find that out. It was tried: with
    /// 1 MiB at the receiver it cost a ninth (`tests/head_of_line.txt`: 30 and 10 Mb/s, 36.5 to 32.4 Mb/s; WiFi and 3G,
    /// 8.7 to 7.7 Mb/s), and brought a fiftieth with 256 KiB where there are losses.
    fn look_into_window(&mut self, queue: &Queue) {
        let closed = self.send.edge <= queue.start && self.send.buffer.end() > queue.start;
        let full = self.is_send_buffer_full() && self.send.buffer.end() == queue.start;
        if !self.is_multipath() || !(closed || full) || self.subflows.len() < 2 {
            return;
        }
        if !self.guard.looks_into(queue.una) {
            return;
        }
        let candidates = self.candidates(queue.now, None);
        let Some(fast) = fastest_with_room(&candidates) else { return };
        if closed {
            self.policies.scheduler.on_blocked(queue.now);
        }
        if let Some((slow, _)) = self.holds_up(&candidates, fast, queue.una)
            && let Some(srtt) = slow.srtt
        {
            self.guard.blocked(queue.now, queue.una, slow.subflow, srtt);
        }
    }

    /// Which of the candidates slower than `fast` has the octet `una` under way, and where what it has with it ends.
    fn holds_up<'a>(
        &self,
        candidates: &'a Candidates,
        fast: &Candidate,
        una: u64,
    ) -> Option<(&'a Candidate, u64)> {
        candidates.iter().filter(|slow| slow.srtt > fast.srtt).find_map(|slow| {
            let (start, end) = self.subflows[slow.subflow].as_deref()?.snd.outstanding().next()?;
            (start <= una && una < end).then_some((slow, end))
        })
    }

    /// Opportunistic retransmission and penalisation (RFC 8041 section 4.2): the window is full, a subflow has room, and the
    /// oldest octet is on a slower one. `true` if the faster one is to send it again: once for each such octet.
    fn seize_opportunity(&mut self, shared: &mut Shared, queue: &Queue) -> bool {
        let (una, policy) = (queue.una, self.config.opportunism);
        let mss = self.congestion_paths.first().map_or(1, |path| path.mss);
        let used_up = self.send.edge <= queue.start || self.send.is_silly(mss);
        let closed = used_up && self.send.buffer.end() > queue.start;
        let wanted = policy != Opportunism::Off && !self.policies.scheduler.duplicates();
        if !closed || !wanted || !self.is_multipath() || self.held_up_by == Some(una) {
            return false;
        }
        let candidates = self.candidates(queue.now, None);
        let held = fastest_with_room(&candidates).and_then(|fast| self.holds_up(&candidates, fast, una));
        let Some((slow, end)) = held else { return false };
        self.held_up_by = Some(una);
        self.send.reinject(una, end, slow.subflow);
        shared.count(Counter::OpportuneRetrans);
        let (subflow, cause) = (Some(self.slot(slow.subflow)), ReinjectionCause::WindowHeldUp);
        shared.decide(self.id, || Decision::ReinjectionWanted { subflow, octets: end - una, cause });
        if policy == Opportunism::Penalise && !self.policies.congestion.rules_recovery() {
            self.penalise(shared, queue.now, slow);
        }
        true
    }

    fn penalise(&mut self, shared: &mut Shared, now: Instant, slow: &Candidate) {
        let Some(subflow) = self.subflows[slow.subflow].as_deref_mut() else { return };
        let round = slow.srtt.unwrap_or_default();
        if subflow.penalised.is_none_or(|last| now - last >= round) {
            subflow.penalised = Some(now);
            self.congestion_paths[slow.subflow].penalise();
            shared.count(Counter::Penalised);
            self.note_congestion(shared, slow.subflow, CongestionCause::Penalty);
        }
    }

    /// Whether a small segment is better not sent yet. The peer's window may be about to open further; and with Nagle's
    /// algorithm, in Minshall's variant, a segment that is not full waits until the one before it that was not is
    /// acknowledged (RFC 9293 section 3.7.4).
    fn waits_for_more(&self, index: usize, waiting: u64) -> bool {
        if self.is_multipath()
            && !self.window_override
            && self.send.is_silly(self.congestion_paths[index].mss)
        {
            return true;
        }
        self.config.nagle
            && !self.send.finished
            && waiting < self.congestion_paths[index].mss
            && self.subflows[index].as_deref().is_some_and(|subflow| subflow.snd.small_outstanding())
    }

    /// DATA_FIN without data: a mapping of one octet that is not there (RFC 8684 section 3.3.3).
    //= RFC 8684 3.3.3-2
    fn transmit_data_fin(&mut self, now: Instant) -> Option<Segment> {
        let owed = self.send.finished && self.send.all_sent() && !self.send.is_done();
        if !self.is_multipath() || !owed || (self.send.fin_sent && !self.send.fin_due) {
            return None;
        }
        let index = self
            .living()
            .filter(|(_, subflow)| {
                subflow.is_synchronised() && subflow.confirmed && subflow.reset_due.is_none()
            })
            .min_by_key(|(_, subflow)| {
                (subflow.stale, subflow.backup || subflow.peer_backup, subflow.rtt.srtt())
            })?
            .0;
        let subflow = self.subflows[index].as_deref()?;
        if self.client && !self.fully_established && subflow.rcv.ack_now {
            // The third ACK goes first: it has the keys, and this segment no room for them.
            return None;
        }
        self.send.fin_sent = true;
        self.send.fin_due = false;
        self.arm_data_timer(now, false);
        let subflow = self.subflows[index].as_deref()?;
        let mut segment = subflow.segment(subflow.snd.nxt, Flags::ACK);
        segment.options = self.data_fin_options(now, index);
        self.finish_segment(now, index, &mut segment);
        Some(segment)
    }

    /// The subflows that may carry data and are to be used by preference, without `not_on`.
    fn candidates(&self, now: Instant, not_on: Option<usize>) -> Candidates {
        let mut candidates = Candidates::new();
        for (index, subflow) in self.living() {
            if not_on == Some(index) || !subflow.can_send() {
                continue;
            }
            let path = &self.congestion_paths[index];
            let _ = candidates.try_push(Candidate {
                subflow: index,
                srtt: subflow.rtt.srtt(),
                rttvar: subflow.rtt.rttvar(),
                room: if subflow.snd.may_depart(now, path) { subflow.snd.room(path) } else { 0 },
                mss: if self.window_override { 1 } else { subflow.snd.worthwhile(path) },
                cwnd: path.cwnd,
                slow_start: path.in_slow_start(),
                in_flight: subflow.snd.in_flight(),
                pacing_rate: path.pacing_rate,
                backup: subflow.backup || subflow.peer_backup,
                stale: subflow.stale,
                carried: subflow.carried,
            });
        }
        best_tier(&mut candidates);
        candidates
    }

    /// Which subflow takes which octets.
    fn choose(&mut self, queue: Queue, not_on: Option<usize>) -> Option<(usize, u64, u64)> {
        let mut candidates = self.candidates(queue.now, not_on);
        let waiting = queue.waiting();
        let duplicates = self.policies.scheduler.duplicates();
        let urgent = duplicates || queue.again;
        let multipath = self.is_multipath();
        candidates.retain(|candidate| {
            let path = &self.congestion_paths[candidate.subflow];
            let least = candidate.mss.min(if duplicates { candidate.mss } else { waiting });
            let Some(subflow) = self.subflows[candidate.subflow].as_deref_mut() else { return false };
            let room = subflow.snd.congestion_room(path);
            if room < least {
                subflow.snd.note_limited();
            } else if !urgent && room < subflow.snd.worthwhile_burst(path, &subflow.rtt).min(waiting) {
                // More room will come with what is in flight, most of the window.
                subflow.snd.note_limited();
                candidate.room = 0;
            } else if candidate.room == 0 && !subflow.snd.may_depart(queue.now, path) {
                subflow.snd.wait_to_depart();
                return true;
            }
            // A probe of the path's MTU needs more room than comes with an acknowledgment.
            let probe = subflow.mtu_probe(queue.now, waiting, multipath, path);
            if probe.is_some_and(|(_, octets)| candidate.room < octets) && candidate.in_flight > 0 {
                candidate.room = 0;
            }
            // One that can send nothing, and from which nothing will be heard, is not to be waited for.
            candidate.room >= least || candidate.in_flight > 0
        });
        if !duplicates
            && let Some(subflow) = self.guard.admit(&mut candidates, &queue)
            && multipath
        {
            // The oldest octets: should they be lost where they are, that was not in vain either.
            let octets = self.congestion_paths[subflow].mss;
            return Some((subflow, queue.una, queue.start.min(queue.una + octets)));
        }
        let pick = self.policies.scheduler.pick(&candidates, &queue)?;
        let subflow = candidates.get(pick.candidate)?.subflow;
        // Regular TCP has one stream, and no mapping that could say otherwise.
        let start = if self.is_multipath() { pick.start.clamp(queue.una, queue.start) } else { queue.start };
        // Old and new octets are not mixed in one segment.
        let end = if start < queue.start { pick.end.min(queue.start) } else { pick.end.min(queue.end) };
        (start < end).then_some((subflow, start, end))
    }

    /// Sends octets from `start` on, at most up to `end`, on a subflow that has room.
    fn send_data(&mut self, shared: &Shared, now: Instant, index: usize, start: u64, end: u64) -> Segment {
        let multipath = self.is_multipath();
        let first = multipath && self.client && !self.fully_established && start == 0;
        let Some(subflow) = self.subflows[index].as_deref_mut() else {
            unreachable!("the scheduler picks among living subflows")
        };
        if let Some(idle) = subflow.snd.idle(now) {
            let rto = subflow.rtt.rto();
            self.policies.congestion.on_restart(now, index, idle, rto, &mut self.congestion_paths);
        }
        let path = &self.congestion_paths[index];
        let room = subflow.snd.room(path);
        let probe = (!first && self.infinite_until.is_none())
            .then(|| subflow.mtu_probe(now, end - start, multipath, path))
            .flatten()
            .filter(|(_, octets)| *octets <= room);
        let quantum = path.quantum(subflow.rtt.srtt());
        let mut len = (end - start)
            .min(room)
            .min(quantum.max(2 * path.mss))
            .min(shared.config.max_super_segment as u64)
            .min(SUPER_SEGMENT_PACKETS * path.mss);
        let first = first && subflow.snd.nxt == 1;
        if first || subflow.ecn.forbids_super_segments() {
            len = len.min(path.mss);
        }
        if let Some((_, octets)) = probe {
            len = octets;
        } else if len > path.mss && (start + len < self.send.buffer.end() || self.config.nagle) {
            // A packet that is not full would be followed by others. The last ones, though, leave together.
            len -= len % path.mss;
        }
        let payload = self.send.buffer.slice(start, start + len);
        let len = payload.len() as u64;
        let fin = self.send.finished && start + len == self.send.buffer.end() && !first;
        let mapping = multipath.then(|| {
            let dsn = self.local_key.idsn + 1 + start;
            let subflow_seq = subflow.snd.nxt as u32;
            let wire_len = len as u16 + u16::from(fin);
            TxMapping {
                data: start,
                subflow_seq,
                len: len as u16,
                fin,
                checksum: self.checksum.then(|| dss_checksum(dsn, subflow_seq, wire_len, &payload)),
            }
        });
        self.send.fin_sent |= fin && multipath;
        if subflow.kind != Kind::Initial {
            self.contiguous = false;
        }
        subflow.bytes_sent += len;
        subflow.carried = subflow.carried.max(start + len);
        let mut record = Sent::from(subflow.snd.send(now, payload, mapping, false, path, &subflow.rtt));
        if let Some((size, _)) = probe {
            subflow.snd.mtu_probe_sent(size);
            record.whole = true;
        }
        let reduced = if subflow.snd.take_cwr() { subflow.ecn.reduced_flag() } else { Flags::default() };
        let mut segment = self.data_segment(now, index, record);
        segment.flags = segment.flags.with(reduced);
        if start + len == self.send.buffer.end() {
            segment.flags = segment.flags.with(Flags::PSH);
        }
        segment
    }

    /// Dresses octets of the scoreboard as a segment.
    //= RFC 8684 4-1
    fn data_segment(&mut self, now: Instant, index: usize, sent: Sent) -> Segment {
        let Some(subflow) = self.subflows[index].as_deref() else {
            unreachable!("the record is this subflow's")
        };
        let flags = if sent.fin { Flags::ACK.with(Flags::FIN) } else { Flags::ACK };
        let mut segment = subflow.segment(sent.start, flags);
        segment.options = self.data_options(now, subflow, &sent);
        segment.ecn = subflow.ecn.code_point(sent.again || sent.payload.is_empty());
        segment.payload = sent.payload;
        let (whole, start) = (sent.whole, sent.start);
        self.finish_segment(now, index, &mut segment);
        let Some(subflow) = self.subflows[index].as_deref_mut() else { return segment };
        let per_packet = usize::from(subflow.mss).saturating_sub(segment.options.wire_len()).max(1);
        if segment.payload.len() > per_packet && !whole {
            segment.gso_size = per_packet as u16;
            subflow.snd.sent_in_packets(start, per_packet);
        }
        segment
    }

    /// An acknowledgment, if this subflow owes one or there is something to tell on it.
    fn transmit_ack(&mut self, now: Instant, index: usize) -> Option<Segment> {
        let subflow = self.subflows.get(index)?.as_deref()?;
        if !subflow.is_synchronised() {
            return None;
        }
        let due = subflow.rcv.ack_due(now);
        let news = self.is_multipath()
            && subflow.confirmed
            && self.fully_established
            && (subflow.priority_due || self.addresses.has_news(now) && self.news_carrier() == Some(index));
        if due || news && self.subflow(index)?.may_signal(now) {
            return self.ack_segment(now, index);
        }
        None
    }

    fn ack_segment(&mut self, now: Instant, index: usize) -> Option<Segment> {
        let subflow = self.subflows.get(index)?.as_deref()?;
        let mut segment = subflow.segment(subflow.snd.nxt, Flags::ACK);
        self.dress_acknowledgment(now, index, &mut segment);
        Some(segment)
    }

    /// Options, window and bookkeeping of a segment that only acknowledges.
    fn dress_acknowledgment(&mut self, now: Instant, index: usize, segment: &mut Segment) {
        segment.options = self.acknowledgment_options(now, index);
        self.finish_segment(now, index, segment);
        if let Some(subflow) = self.subflows[index].as_deref_mut() {
            subflow.rcv.acknowledged();
        }
    }

    /// Window and counters; whatever leaves acknowledges what has come.
    fn finish_segment(&mut self, now: Instant, index: usize, segment: &mut Segment) {
        let Some(subflow) = self.subflows[index].as_deref_mut() else { return };
        let scale = subflow.rcv.scale;
        segment.window = self.receive.advertise(scale, self.congestion_paths[index].mss);
        subflow.rcv.advertised(u64::from(segment.window) << scale);
        subflow.segments_sent += 1;
        let bare =
            segment.payload.is_empty() && segment.options.sack.is_empty() && !segment.flags.has(Flags::FIN);
        segment.flags = segment.flags.with(subflow.ecn.flags(bare));
        // Blocks that found no room here still want a segment of their own.
        if !(subflow.snd.sack_ok && subflow.rcv.has_blocks() && subflow.rcv.ack_due(now)) {
            subflow.rcv.acknowledged();
        }
    }
}

/// What is needed of a scoreboard record to dress it as a segment.
pub(super) struct Sent {
    pub(super) start: u64,
    payload: Payload,
    pub(super) mapping: Option<TxMapping>,
    fin: bool,
    again: bool,
    /// One packet, whatever its size: a probe of the path's MTU.
    whole: bool,
}

impl From<&Record> for Sent {
    fn from(record: &Record) -> Self {
        Self {
            start: record.start,
            payload: record.payload.clone(),
            mapping: record.mapping,
            fin: record.fin,
            again: record.retransmitted,
            whole: false,
        }
    }
}

/// The reset that answers a segment nobody here knows (RFC 9293 section 3.10.7.1).
pub(crate) fn reset_for(segment: &Segment, reason: Option<ResetReason>) -> Segment {
    let mut reset = Segment::new(segment.dst, segment.src);
    if segment.flags.has(Flags::ACK) {
        reset.flags = Flags::RST;
        reset.seq = segment.ack;
    } else {
        reset.flags = Flags::RST.with(Flags::ACK);
        reset.ack = segment.seq_end();
    }
    let mut options = TcpOptions::default();
    if let Some(reason) = reason {
        options.mptcp.push(MptcpOption::Reset(TcpReset { transient: reason.passes(), reason }));
    }
    reset.options = options;
    reset
}

/// The candidate with the shortest round-trip time of those that can take a full segment.
fn fastest_with_room(candidates: &Candidates) -> Option<&Candidate> {
    let room = candidates.iter().filter(|candidate| candidate.room >= candidate.mss);
    room.min_by_key(|candidate| candidate.srtt)
}
