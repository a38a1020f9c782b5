//! Which segment leaves next. The 40 octets of option space are budgeted here and nowhere else:
//!
//! | segment | options | octets |
//! | --- | --- | --- |
//! | SYN | MSS, SACK permitted, timestamps, window scale; MP_CAPABLE or MP_JOIN | 20 + 4 or 12 |
//! | SYN/ACK | the same; MP_CAPABLE or MP_JOIN | 20 + 12 or 16 |
//! | third ACK | timestamps; MP_CAPABLE or MP_JOIN | 12 + 20 or 24 |
//! | first data | timestamps; MP_CAPABLE with length and checksum | 12 + 24 |
//! | data | timestamps; DSS with 8-octet Data ACK and DSN | 12 + 28 |
//! | ACK | timestamps; DSS with 8-octet Data ACK | 12 + 12 |
//! | ACK with SACK | timestamps; DSS with 4-octet Data ACK; two blocks | 12 + 8 + 20 |
//! | ACK with ADD_ADDR | timestamps; ADD_ADDR; DSS if it still fits | 12 + 8 to 28 |
//!
//! Where something does not fit, the DSS of a pure acknowledgment gives way: the next one carries it.

use super::{Connection, Mode};
use crate::proto::Instant;
use crate::proto::endpoint::Shared;
use crate::proto::info::SubflowState;
use crate::proto::scheduler::Candidate;
use crate::proto::subflow::Kind;
use crate::proto::subflow::send::{Record, TxMapping};
use crate::wire::{
    AddAddr, Dss, FastClose, Flags, Join, Mapping, MpCapable, MptcpOption, Payload, RemoveAddr, ResetReason,
    Segment, TcpOptions, TcpReset, Version, dss_checksum,
};
use arrayvec::ArrayVec;

/// After so many segments of data in a row, acknowledgments that are due go first: a driver that can't send as fast as
/// there is data would never get to them.
const DATA_RUN: u8 = 8;
/// Option space of a TCP header.
const OPTION_SPACE: usize = 40;
/// A super-segment holds about this much time at the path's rate, so that it does not delay others.
const QUANTUM_NANOS: u64 = 1_000_000;

impl Connection {
    /// The next segment to send, if any.
    pub(crate) fn poll_transmit(&mut self, shared: &mut Shared, now: Instant) -> Option<Segment> {
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
        ack.or_else(|| self.transmit_data(shared, now))
    }

    /// Resets, handshakes, retransmissions, probes and FINs of one subflow.
    fn transmit_control(&mut self, shared: &mut Shared, now: Instant, index: usize) -> Option<Segment> {
        let subflow = self.subflows.get_mut(index)?.as_deref_mut()?;
        if let Some(reason) = subflow.reset_due {
            return self.transmit_reset(shared, now, index, reason);
        }
        if subflow.handshake_due {
            return self.transmit_handshake(now, index);
        }
        if !subflow.is_synchronised() {
            return None;
        }
        let path = &mut self.congestion_paths[index];
        let stamp = subflow.stamp(now);
        if subflow.snd.has_lost() {
            let room = path.cwnd.saturating_sub(subflow.snd.in_flight());
            if room >= path.mss || subflow.snd.in_flight() == 0 {
                let limit =
                    (room / path.mss * path.mss).clamp(path.mss, shared.config.max_super_segment as u64);
                let record = subflow.snd.retransmit(now, limit, stamp, &subflow.rtt).map(Sent::from);
                if let Some(record) = record {
                    return Some(self.data_segment(now, index, record));
                }
            }
        }
        if subflow.snd.probe_due {
            let record = subflow.snd.retransmit_tail(now, path.mss, stamp, &subflow.rtt).map(Sent::from);
            if let Some(record) = record {
                return Some(self.data_segment(now, index, record));
            }
        }
        let all_sent = self.send.all_sent() || self.mode == Mode::Multipath;
        if subflow.fin_wanted && !subflow.fin_sent && all_sent {
            subflow.fin_sent = true;
            subflow.state = match subflow.state {
                SubflowState::CloseWait => SubflowState::LastAck,
                _ => SubflowState::FinWait1,
            };
            let record = Sent::from(subflow.snd.send(now, Payload::new(), None, true, path, &subflow.rtt));
            return Some(self.data_segment(now, index, record));
        }
        if std::mem::take(&mut subflow.window_probe_due) {
            // An octet that was acknowledged already: the answer tells the window (RFC 9293 section 3.8.6.1).
            let mut segment = subflow.segment(subflow.snd.una - 1, Flags::ACK);
            self.acknowledgment_options(now, index, &mut segment);
            return Some(segment);
        }
        None
    }

    fn transmit_reset(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        reason: Option<ResetReason>,
    ) -> Option<Segment> {
        let subflow = self.subflows.get(index)?.as_deref()?;
        let mut segment = None;
        if subflow.state != SubflowState::SynSent {
            let mut reset = subflow.segment(subflow.snd.nxt, Flags::RST.with(Flags::ACK));
            let options = &mut reset.options.mptcp;
            if let (true, Some(key)) = (self.fast_close, self.remote_key) {
                options.push(MptcpOption::FastClose(FastClose { receiver_key: key.key }));
            } else if let (true, Some(reason)) = (self.is_multipath(), reason) {
                options.push(MptcpOption::Reset(TcpReset { transient: false, reason }));
            }
            if let Some(dsn) = subflow.fail_due {
                options.push(MptcpOption::Fail(dsn));
            }
            segment = Some(reset);
        }
        self.reset_sent(shared, now, index);
        segment
    }

    fn transmit_handshake(&mut self, now: Instant, index: usize) -> Option<Segment> {
        let offered = self.mode == Mode::Handshake(true);
        let receive = &mut self.receive;
        let subflow = self.subflows.get_mut(index)?.as_deref_mut()?;
        subflow.handshake_sent(now);
        if subflow.state == SubflowState::Established {
            return self.ack_segment(now, index);
        }
        let syn_ack = subflow.state == SubflowState::SynReceived;
        let flags = if syn_ack { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        let mut segment = subflow.segment(0, flags);
        // The window of a SYN is never scaled (RFC 7323 section 2.2).
        segment.window = receive.advertise(0);
        subflow.rcv.advertised(u64::from(segment.window));
        let options = &mut segment.options;
        options.mss = Some(subflow.link_mss);
        options.sack_permitted = !syn_ack || subflow.snd.sack_ok;
        options.timestamps = subflow.timestamps(now);
        let scaling = !syn_ack || subflow.rcv.scale > 0 || subflow.snd.scale > 0;
        options.window_scale = scaling.then_some(subflow.rcv.scale);
        let (local_id, backup) = (subflow.local_id, subflow.backup);
        let option = match subflow.kind {
            Kind::Initial if offered => Some(MptcpOption::Capable(MpCapable {
                version: self.version,
                checksum: self.checksum,
                extensible: false,
                no_join_initial: false,
                hmac: true,
                sender_key: (syn_ack || self.version == Version::V0).then_some(self.local_key.key),
                receiver_key: None,
                data: None,
            })),
            Kind::Initial => None,
            Kind::JoinActive { nonce, .. } => Some(MptcpOption::Join(Join::Syn {
                backup,
                address_id: local_id,
                token: self.remote_key.map_or(0, |key| key.token),
                nonce,
            })),
            Kind::JoinPassive { nonce, peer_nonce } => {
                let remote = self.remote_key.map_or(0, |key| key.key);
                let mac = crate::proto::crypto::join_mac(
                    self.version,
                    self.local_key.key,
                    remote,
                    nonce,
                    peer_nonce,
                );
                let mac = crate::proto::crypto::truncated(&mac);
                Some(MptcpOption::Join(Join::SynAck { backup, address_id: local_id, mac, nonce }))
            }
        };
        options.mptcp.extend(option);
        Some(segment)
    }

    /// New data, data that another subflow failed to deliver, or a DATA_FIN by itself.
    fn transmit_data(&mut self, shared: &Shared, now: Instant) -> Option<Segment> {
        if let Some(again) = self.send.next_reinjection()
            && let Some(index) = self.choose(again.end - again.start, Some(again.not_on))
        {
            let end = again.end;
            let segment = self.send_data(shared, now, index, again.start, end);
            let sent = segment.payload.len() as u64;
            self.send.reinjected(sent);
            self.contiguous = false;
            return Some(segment);
        }
        let mut end = self.send.buffer.end();
        if self.is_multipath() {
            end = end.min(self.send.edge);
        }
        if self.send.nxt < end {
            let index = self.choose(end - self.send.nxt, None)?;
            let start = self.send.nxt;
            let segment = self.send_data(shared, now, index, start, end);
            self.send.nxt = start + segment.payload.len() as u64;
            self.arm_data_timer(now, false);
            return Some(segment);
        }
        self.transmit_data_fin(now)
    }

    /// DATA_FIN without data: a mapping of one octet that is not there (RFC 8684 section 3.3.3).
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
        let dsn = self.local_dsn(self.send.buffer.end());
        let mapping = Mapping {
            dsn,
            dsn_long: true,
            subflow_seq: 0,
            len: 1,
            checksum: self.checksum.then(|| dss_checksum(dsn, 0, 1, &Payload::new())),
        };
        segment.options.timestamps = subflow.timestamps(now);
        let data_ack = self.remote_dsn(self.receive.nxt).map(|ack| (ack, true));
        segment.options.mptcp.push(MptcpOption::Dss(Dss {
            data_ack,
            mapping: Some(mapping),
            data_fin: true,
        }));
        self.finish_segment(now, index, &mut segment);
        Some(segment)
    }

    /// Which subflow takes the next octets; not `not_on` if there is any other.
    fn choose(&mut self, waiting: u64, not_on: Option<usize>) -> Option<usize> {
        let mut best_tier = u8::MAX;
        let mut candidates: ArrayVec<Candidate, 64> = ArrayVec::new();
        for (index, subflow) in self.subflows.iter().enumerate() {
            let Some(subflow) = subflow.as_deref().filter(|subflow| subflow.can_send()) else { continue };
            if not_on == Some(index) {
                continue;
            }
            let tier = u8::from(subflow.backup || subflow.peer_backup) + 2 * u8::from(subflow.stale);
            if tier < best_tier {
                best_tier = tier;
                candidates.clear();
            }
            let path = &self.congestion_paths[index];
            if tier == best_tier {
                let _ = candidates.try_push(Candidate {
                    subflow: index,
                    srtt: subflow.rtt.srtt(),
                    room: subflow.snd.room(path),
                    mss: path.mss,
                    cwnd: path.cwnd,
                });
            }
        }
        for candidate in &candidates {
            if candidate.room < candidate.mss.min(waiting)
                && let Some(subflow) = self.subflows[candidate.subflow].as_deref_mut()
            {
                subflow.snd.note_limited();
            }
        }
        let picked = self.policies.scheduler.pick(&candidates, waiting)?;
        candidates.get(picked).map(|candidate| candidate.subflow)
    }

    /// Sends octets from `start` on, at most up to `end`, on a subflow that has room.
    fn send_data(&mut self, shared: &Shared, now: Instant, index: usize, start: u64, end: u64) -> Segment {
        let multipath = self.is_multipath();
        let first = multipath && self.client && !self.fully_established && start == 0;
        let path = &mut self.congestion_paths[index];
        let Some(subflow) = self.subflows[index].as_deref_mut() else {
            unreachable!("the scheduler picks among living subflows")
        };
        let rtt = subflow.rtt.srtt().map_or(QUANTUM_NANOS, |srtt| srtt.as_nanos() as u64).max(1);
        let quantum = (u128::from(path.cwnd) * u128::from(QUANTUM_NANOS) / u128::from(rtt)) as u64;
        let mut len = (end - start)
            .min(subflow.snd.room(path))
            .min(quantum.max(2 * path.mss))
            .min(shared.config.max_super_segment as u64);
        let first = first && subflow.snd.nxt == 1;
        if first {
            len = len.min(path.mss);
        }
        if len > path.mss {
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
        let record = Sent::from(subflow.snd.send(now, payload, mapping, false, path, &subflow.rtt));
        let mut segment = self.data_segment(now, index, record);
        if start + len == self.send.buffer.end() {
            segment.flags = segment.flags.with(Flags::PSH);
        }
        segment
    }

    /// Dresses octets of the scoreboard as a segment.
    fn data_segment(&mut self, now: Instant, index: usize, sent: Sent) -> Segment {
        let data_ack = self.remote_dsn(self.receive.nxt).map(|ack| (ack, true));
        let first = self.client && !self.fully_established;
        let mut segment = {
            let Some(subflow) = self.subflows[index].as_deref() else {
                unreachable!("the record is this subflow's")
            };
            let flags = if sent.fin { Flags::ACK.with(Flags::FIN) } else { Flags::ACK };
            let mut segment = subflow.segment(sent.start, flags);
            segment.options.timestamps = subflow.timestamps(now);
            segment
        };
        let option = match sent.mapping {
            _ if !self.is_multipath() => self.infinite_mapping(sent.start),
            Some(mapping) if first && mapping.data == 0 && sent.start == 1 => {
                Some(self.capable_option(Some((mapping.len, mapping.checksum))))
            }
            mapping => Some(MptcpOption::Dss(Dss {
                data_ack,
                data_fin: mapping.is_some_and(|mapping| mapping.fin),
                mapping: mapping.map(|mapping| Mapping {
                    dsn: self.local_dsn(mapping.data),
                    dsn_long: true,
                    subflow_seq: mapping.subflow_seq,
                    len: mapping.len + u16::from(mapping.fin),
                    checksum: mapping.checksum,
                }),
            })),
        };
        segment.options.mptcp.extend(option);
        segment.payload = sent.payload;
        self.finish_segment(now, index, &mut segment);
        let Some(subflow) = self.subflows[index].as_deref() else { return segment };
        let per_packet = usize::from(subflow.mss).saturating_sub(segment.options.wire_len()).max(1);
        if segment.payload.len() > per_packet {
            segment.gso_size = per_packet as u16;
        }
        segment
    }

    /// After a fallback: from this octet on the two streams correspond one to one (RFC 8684 section 3.7).
    fn infinite_mapping(&self, start: u64) -> Option<MptcpOption> {
        self.infinite_until?;
        let mapping = Mapping {
            dsn: self.local_dsn(start - 1),
            dsn_long: true,
            subflow_seq: start as u32,
            len: 0,
            checksum: self.checksum.then_some(0),
        };
        Some(MptcpOption::Dss(Dss { data_ack: None, mapping: Some(mapping), data_fin: false }))
    }

    /// MP_CAPABLE with both keys: the third ACK, and the first data until the peer is known to have the keys.
    fn capable_option(&self, data: Option<(u16, Option<u16>)>) -> MptcpOption {
        MptcpOption::Capable(MpCapable {
            version: self.version,
            checksum: self.checksum,
            extensible: false,
            no_join_initial: false,
            hmac: true,
            sender_key: Some(self.local_key.key),
            receiver_key: self.remote_key.map(|key| key.key),
            data: data.filter(|_| self.version == Version::V1),
        })
    }

    /// An acknowledgment, if this subflow owes one or there is something to tell on it.
    fn transmit_ack(&mut self, now: Instant, index: usize) -> Option<Segment> {
        let subflow = self.subflows.get(index)?.as_deref()?;
        if !subflow.is_synchronised() {
            return None;
        }
        let news = self.is_multipath()
            && subflow.confirmed
            && self.fully_established
            && (subflow.priority_due
                || !self.paths.echoes.is_empty()
                || !self.paths.removals.is_empty()
                || self.announcement_due(now).is_some());
        if !news && !subflow.rcv.ack_due(now) {
            return None;
        }
        self.ack_segment(now, index)
    }

    fn ack_segment(&mut self, now: Instant, index: usize) -> Option<Segment> {
        let subflow = self.subflows.get(index)?.as_deref()?;
        let mut segment = subflow.segment(subflow.snd.nxt, Flags::ACK);
        self.acknowledgment_options(now, index, &mut segment);
        Some(segment)
    }

    /// Options, window and bookkeeping of a segment that only acknowledges.
    fn acknowledgment_options(&mut self, now: Instant, index: usize, segment: &mut Segment) {
        let data_ack = self.remote_dsn(self.receive.nxt);
        let multipath = self.is_multipath();
        let news = self.news_option(now, index);
        let infinite =
            self.subflows[index].as_deref().and_then(|subflow| self.infinite_mapping(subflow.snd.nxt));
        let capable =
            (self.client && !self.fully_established && multipath).then(|| self.capable_option(None));
        let Some(subflow) = self.subflows[index].as_deref_mut() else { return };
        let options = &mut segment.options;
        options.timestamps = subflow.timestamps(now);
        let blocks = subflow.snd.sack_ok && subflow.rcv.has_blocks();
        if multipath {
            let own = match (subflow.kind, capable) {
                (Kind::Initial, Some(capable)) => capable,
                (Kind::JoinActive { mac, .. }, _) if !subflow.confirmed => {
                    MptcpOption::Join(Join::Ack { mac })
                }
                _ => {
                    let data_ack = data_ack.map(|ack| (ack, !blocks));
                    MptcpOption::Dss(Dss { data_ack, mapping: None, data_fin: false })
                }
            };
            options.mptcp.push(own);
            if let Some(news) = news {
                options.mptcp.push(news);
                if options.wire_len() > OPTION_SPACE {
                    options.mptcp.remove(0);
                }
                if options.wire_len() > OPTION_SPACE {
                    options.timestamps = None;
                }
            }
        } else {
            options.mptcp.extend(infinite);
        }
        if blocks {
            let left = OPTION_SPACE.saturating_sub(options.wire_len());
            // Kind, length and padding take 4 octets, each block 8.
            options.sack = subflow.rcv.sack_blocks(left.saturating_sub(4) / 8);
        }
        self.finish_segment(now, index, segment);
        if let Some(subflow) = self.subflows[index].as_deref_mut() {
            subflow.rcv.acknowledged();
        }
    }

    /// What there is to tell besides the acknowledgment: address and priority changes.
    fn news_option(&mut self, now: Instant, index: usize) -> Option<MptcpOption> {
        if !self.fully_established || !self.is_multipath() {
            return None;
        }
        let backup = {
            let subflow = self.subflows[index].as_deref_mut().filter(|subflow| subflow.confirmed)?;
            std::mem::take(&mut subflow.priority_due).then_some(subflow.backup)
        };
        if let Some(backup) = backup {
            return Some(MptcpOption::Priority { backup, address_id: None });
        }
        if let Some(echo) = self.paths.echoes.pop() {
            return Some(MptcpOption::AddAddr(echo));
        }
        if !self.paths.removals.is_empty() {
            let ids = self.paths.removals.drain(..).collect();
            return Some(MptcpOption::RemoveAddr(RemoveAddr { ids }));
        }
        let (id, address) = self.announcement_due(now).map(|known| (known.id, known.address))?;
        let mac = self.announcement_mac(id, address);
        self.paths.announced(id, now);
        Some(MptcpOption::AddAddr(AddAddr { echo: false, address_id: id, address, port: None, mac }))
    }

    /// Window and counters; whatever leaves acknowledges what has come.
    fn finish_segment(&mut self, now: Instant, index: usize, segment: &mut Segment) {
        let Some(subflow) = self.subflows[index].as_deref_mut() else { return };
        let scale = subflow.rcv.scale;
        segment.window = self.receive.advertise(scale);
        subflow.rcv.advertised(u64::from(segment.window) << scale);
        subflow.segments_sent += 1;
        // Blocks that found no room here still want a segment of their own.
        if !(subflow.snd.sack_ok && subflow.rcv.has_blocks() && subflow.rcv.ack_due(now)) {
            subflow.rcv.acknowledged();
        }
    }
}

/// What is needed of a scoreboard record to dress it as a segment.
struct Sent {
    start: u64,
    payload: Payload,
    mapping: Option<TxMapping>,
    fin: bool,
}

impl From<&Record> for Sent {
    fn from(record: &Record) -> Self {
        Self {
            start: record.start,
            payload: record.payload.clone(),
            mapping: record.mapping,
            fin: record.fin,
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
        options.mptcp.push(MptcpOption::Reset(TcpReset { transient: false, reason }));
    }
    reset.options = options;
    reset
}
