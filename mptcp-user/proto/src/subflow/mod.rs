//! A subflow: a regular TCP connection (RFC 9293) that carries part of a Multipath TCP connection's data.
//!
//! This type holds the state; [`send`] and [`receive`] are its two halves. What segments mean for the connection
//! as a whole, and which segment leaves next, is the connection's business.

pub(crate) mod absence;
pub(crate) mod ecn;
pub(crate) mod mapping;
mod pacing;
mod path_mtu;
mod rack;
mod rate;
pub(crate) mod receive;
pub(crate) mod record;
mod recovery;
pub(crate) mod sack;
mod sacked;
mod scoreboard;
pub(crate) mod send;
pub(crate) mod silence;
pub(crate) mod suspicion;
mod tail_probe;
#[cfg(test)]
mod tests;

use super::Instant;
use super::config::{EcnPolicy, KeepAlive};
use super::congestion::Path;
use super::event::SubflowSlot;
use super::info::{SubflowInfo, SubflowState};
use super::rtt::RttEstimator;
use crate::wire::{Flags, ResetReason, Segment, SeqNumber, Timestamps};
use absence::{Absence, Double, Lack};
use ecn::EcnState;
use mapping::RxMappings;
use path_mtu::PathMtu;
use receive::ReceiveSide;
use sack::SackIntake;
use send::SendSide;
use silence::Silence;
use std::net::SocketAddr;
use std::time::Duration;

/// Largest segment when the peer does not say (RFC 9293 section 3.7.1).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;
/// Smallest MSS believed: a peer that announces less would make us send mostly headers.
const MIN_MSS: u16 = 88;
/// Most octets of options in a segment, and how many of them timestamps take with their padding.
const OPTION_SPACE: usize = 40;
const STAMPS_LEN: usize = 12;
/// Acknowledgments in a row that are sent for the sake of their options alone (RFC 8684 section 3).
const SIGNALS_IN_A_ROW: u8 = 2;
/// Challenge acknowledgments per second and subflow (RFC 5961 section 7).
const CHALLENGE_ACKS: u32 = 10;

/// How a subflow came to be, with what its handshake needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Kind {
    /// The connection began with it.
    Initial,
    /// Opened by us with MP_JOIN.
    JoinActive { nonce: u32, mac: [u8; 20] },
    /// Opened by the peer with MP_JOIN.
    JoinPassive { nonce: u32, peer_nonce: u32 },
}

/// One subflow.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Subflow {
    pub(crate) slot: SubflowSlot,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) interface: u32,
    pub(crate) kind: Kind,
    pub(crate) state: SubflowState,
    /// Address identifiers of our and of the peer's address (RFC 8684 section 3.2).
    pub(crate) local_id: u8,
    pub(crate) remote_id: u8,
    /// We, or the peer, asked to use it as backup only.
    pub(crate) backup: bool,
    pub(crate) peer_backup: bool,
    /// What was sent is not acknowledged as it should be, or the path is said to be gone: others take its data.
    pub(crate) stale: bool,
    /// The peer has answered the third ACK of our MP_JOIN: data may be sent.
    pub(crate) confirmed: bool,
    pub(crate) snd: SendSide,
    pub(crate) rcv: ReceiveSide,
    pub(crate) sacks: SackIntake,
    pub(crate) rtt: RttEstimator,
    pub(crate) mappings: RxMappings,
    pub(crate) ecn: EcnState,
    /// Timestamps are in use.
    pub(crate) stamps: bool,
    /// A segment after the handshake's has had them.
    stamps_seen: bool,
    stamp_origin: u32,
    /// MSS we announce: what our link takes.
    pub(crate) link_mss: u16,
    /// Largest TCP payload plus options of a packet to the peer.
    pub(crate) mss: u16,
    /// The SYN, SYN/ACK or third ACK is to be sent (again), and when to do so unasked.
    pub(crate) handshake_due: bool,
    pub(crate) handshake_deadline: Option<Instant>,
    pub(crate) handshake_sends: u32,
    handshake_sent_at: Instant,
    /// A reset is to be sent; the subflow ends with it.
    pub(crate) reset_due: Option<Option<ResetReason>>,
    /// Priority change to tell the peer.
    pub(crate) priority_due: bool,
    /// Where the checksum failed: MP_FAIL to be sent.
    pub(crate) fail_due: Option<crate::wire::DataSeq>,
    /// Data was acknowledged here with a Data ACK.
    pub(crate) data_acked: bool,
    /// The FIN is to be sent once everything before it was.
    pub(crate) fin_wanted: bool,
    pub(crate) fin_sent: bool,
    /// A segment is to be sent that makes the peer answer with its window.
    pub(crate) window_probe_due: bool,
    /// When it was last punished for holding up the peer's window.
    pub(crate) penalised: Option<Instant>,
    challenges: (u64, u32),
    /// Acknowledgments in a row that were sent for the sake of their options: how many, and what was expected
    /// next and sent by then. More wait until something else is sent, or until this time.
    signals: (u8, u64, u64),
    pub(crate) signals_wait: Option<Instant>,
    /// End of the highest octets of the data stream that it ever carried.
    pub(crate) carried: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_received: u64,
    pub(crate) segments_sent: u64,
    pub(crate) segments_received: u64,
    /// When anything valid was last heard.
    pub(crate) heard: Instant,
    /// Keep-alive probes sent since.
    pub(crate) keep_alives: u32,
    /// The subflow is over unless something is heard on it by then.
    pub(crate) must_answer_by: Option<Instant>,
    pub(crate) silence: Silence,
    /// This host has no way for its segments at the moment.
    pub(crate) absent: Option<Absence>,
    /// It is to take the place of another one between the same addresses.
    pub(crate) double: Option<Double>,
    /// Our SYN was there first.
    active: bool,
}

/// Octets of IP and TCP header in a packet from an address.
fn headers(local: SocketAddr) -> u32 {
    if local.is_ipv4() { 40 } else { 60 }
}

/// The MSS to announce from an address on a link with this MTU.
pub(crate) fn link_mss(local: SocketAddr, mtu: u32) -> u16 {
    mtu.saturating_sub(headers(local)).clamp(u32::from(MIN_MSS), 65_495) as u16
}

/// What a new subflow is made from.
pub(crate) struct Birth {
    pub(crate) slot: SubflowSlot,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) interface: u32,
    pub(crate) mtu: u32,
    pub(crate) kind: Kind,
    pub(crate) iss: SeqNumber,
    pub(crate) stamp_origin: u32,
    pub(crate) local_id: u8,
    pub(crate) remote_id: u8,
    pub(crate) backup: bool,
    pub(crate) scale: u8,
    pub(crate) ecn: EcnPolicy,
    pub(crate) path_timeout: Duration,
}

impl Subflow {
    /// A subflow whose SYN we are about to send.
    pub(crate) fn connecting(birth: &Birth) -> Self {
        Self::new(birth, SubflowState::SynSent, SeqNumber(0))
    }

    /// A subflow whose SYN has come.
    pub(crate) fn answering(birth: &Birth, now: Instant, syn: &Segment) -> Self {
        let mut subflow = Self::new(birth, SubflowState::SynReceived, syn.seq);
        subflow.take_syn_options(now, syn);
        subflow.ecn = EcnState::asked(birth.ecn, syn);
        subflow
    }

    fn new(birth: &Birth, state: SubflowState, irs: SeqNumber) -> Self {
        let link_mss = link_mss(birth.local, birth.mtu);
        let mut snd = SendSide::new(birth.iss);
        snd.limit_suspicion(birth.path_timeout);
        snd.path_mtu = PathMtu::new(birth.local.is_ipv6(), link_mss);
        Self {
            slot: birth.slot,
            local: birth.local,
            remote: birth.remote,
            interface: birth.interface,
            kind: birth.kind,
            state,
            local_id: birth.local_id,
            remote_id: birth.remote_id,
            backup: birth.backup,
            peer_backup: false,
            stale: false,
            confirmed: birth.kind == Kind::Initial,
            snd,
            rcv: ReceiveSide::new(irs, birth.scale),
            sacks: SackIntake::default(),
            rtt: RttEstimator::new(),
            mappings: RxMappings::default(),
            ecn: EcnState::default(),
            stamps: true,
            stamps_seen: false,
            stamp_origin: birth.stamp_origin,
            link_mss,
            mss: link_mss,
            handshake_due: true,
            handshake_deadline: None,
            handshake_sends: 0,
            handshake_sent_at: Instant::ZERO,
            reset_due: None,
            priority_due: false,
            fail_due: None,
            data_acked: false,
            fin_wanted: false,
            fin_sent: false,
            window_probe_due: false,
            penalised: None,
            challenges: (0, 0),
            signals: (0, 0, 0),
            signals_wait: None,
            carried: 0,
            bytes_sent: 0,
            bytes_acked: 0,
            bytes_received: 0,
            segments_sent: 0,
            segments_received: 0,
            heard: Instant::ZERO,
            keep_alives: 0,
            must_answer_by: None,
            silence: Silence::default(),
            absent: None,
            double: None,
            active: state == SubflowState::SynSent,
        }
    }

    /// Takes what the peer's SYN or SYN/ACK offers; an option that either side lacks is not used.
    pub(crate) fn take_syn_options(&mut self, now: Instant, syn: &Segment) {
        let options = &syn.options;
        let default = if self.local.is_ipv4() { DEFAULT_MSS_V4 } else { DEFAULT_MSS_V6 };
        self.snd.path_mtu.agree(options.mss.unwrap_or(default).max(MIN_MSS));
        self.mss = self.snd.path_mtu.size();
        self.snd.sack_ok = options.sack_permitted;
        match options.window_scale {
            // RFC 7323 section 2.3: more than 14 counts as 14.
            Some(scale) => self.snd.scale = scale.min(14),
            None => {
                self.snd.scale = 0;
                self.rcv.scale = 0;
            }
        }
        self.stamps = options.timestamps.is_some();
        let scale = self.rcv.scale;
        self.rcv = ReceiveSide::new(syn.seq, scale);
        self.rcv.note_timestamp(now, syn);
        self.heard = now;
        self.silence.begin(now);
    }

    /// Octets of payload in a full packet of data, for congestion control.
    pub(crate) fn payload_mss(&self, multipath: bool) -> u64 {
        self.payload_of(self.mss, multipath)
    }

    /// Octets of payload in a packet of data whose options and payload make `size` octets.
    fn payload_of(&self, size: u16, multipath: bool) -> u64 {
        let stamps = if self.stamps { 12 } else { 0 };
        let dss = if multipath { 28 } else { 0 };
        u64::from(size).saturating_sub(stamps + dss).max(1)
    }

    /// The next `waiting` octets begin with a probe of the path's MTU, if it is time for one: its size, and the octets of
    /// payload that make it.
    pub(crate) fn mtu_probe(
        &self,
        now: Instant,
        waiting: u64,
        multipath: bool,
        path: &Path,
    ) -> Option<(u16, u64)> {
        let size = self.snd.path_mtu.wanted(now)?;
        let octets = self.payload_of(size, multipath);
        self.snd.may_probe_mtu(octets, waiting, path).then_some((size, octets))
    }

    /// The path's MTU may have changed: whether it has, and what is in flight in packets that are now too large goes
    /// again.
    pub(crate) fn follow_path_mtu(&mut self, multipath: bool) -> bool {
        let size = self.snd.path_mtu.size();
        let before = std::mem::replace(&mut self.mss, size);
        if size < before {
            self.snd.path_mtu_shrank(self.payload_mss(multipath));
        }
        size != before
    }

    /// Octets of IP and TCP header in a packet.
    pub(crate) fn headers(&self) -> u32 {
        headers(self.local)
    }

    /// The timestamp clock: milliseconds from an origin of its own.
    pub(crate) fn stamp(&self, now: Instant) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.stamp_origin)
    }

    /// `false` if the segment is to be dropped because it lacks the timestamps that were agreed on (RFC 7323
    /// section 3.2); those that were not agreed on are taken out of it. A reset is always taken, and so is an
    /// acknowledgment whose Multipath TCP options leave no room for timestamps, and anything from a path that
    /// strips them from the first segment on: regular TCP works there.
    pub(crate) fn takes_timestamps(&mut self, segment: &mut Segment) -> bool {
        if self.state == SubflowState::SynSent {
            return true;
        }
        if !self.stamps {
            segment.options.timestamps = None;
            return true;
        }
        let options = &segment.options;
        if options.timestamps.is_some() {
            self.stamps_seen |= !segment.flags.has(Flags::SYN);
            return true;
        }
        let crowded = segment.payload.is_empty()
            && !options.mptcp.is_empty()
            && options.wire_len() > OPTION_SPACE - STAMPS_LEN;
        !self.stamps_seen || crowded || segment.flags.has(Flags::RST)
    }

    /// Timestamps for the next segment.
    pub(crate) fn timestamps(&self, now: Instant) -> Option<Timestamps> {
        self.stamps.then(|| Timestamps { value: self.stamp(now), echo: self.rcv.timestamp_to_echo() })
    }

    /// A segment on this subflow with everything but options, window and payload.
    pub(crate) fn segment(&self, offset: u64, flags: Flags) -> Segment {
        let mut segment = Segment::new(self.local, self.remote);
        segment.seq = self.snd.seq(offset);
        segment.flags = flags;
        if flags.has(Flags::ACK) {
            segment.ack = self.rcv.ack_seq();
        }
        segment
    }

    /// The handshake message is leaving; arms the timer for the next attempt.
    pub(crate) fn handshake_sent(&mut self, now: Instant) {
        self.handshake_left_out(now);
        self.handshake_sent_at = now;
    }

    /// The handshake message would leave now, and does not; the next attempt is waited for all the same.
    pub(crate) fn handshake_left_out(&mut self, now: Instant) {
        self.handshake_due = false;
        let wait = Duration::from_secs(1) * (1 << self.handshake_sends.min(6));
        self.handshake_deadline = Some(now + wait);
        self.handshake_sends += 1;
    }

    /// The peer has shown that it is where its SYN said, though the handshake is not complete: it is worth as many attempts
    /// more as in the beginning.
    pub(crate) fn is_real(&mut self) {
        self.handshake_sends = self.handshake_sends.min(1);
    }

    /// The peer answered the handshake message: a round-trip time. If it was sent more than once only a timestamp can tell
    /// which one was answered (Karn; RFC 7323 section 4.1), not more exactly than by its clock.
    pub(crate) fn handshake_answered(&mut self, now: Instant, answer: &Segment) {
        self.handshake_deadline = None;
        self.handshake_due = false;
        let rtt = if self.handshake_sends == 1 {
            Some(now - self.handshake_sent_at)
        } else {
            let stamps = answer.options.timestamps.filter(|_| self.stamps);
            let millis = stamps.map(|stamps| self.stamp(now).wrapping_sub(stamps.echo));
            millis
                .filter(|millis| *millis < 60_000)
                .map(|millis| Duration::from_millis(u64::from(millis) + 1))
        };
        match rtt {
            Some(rtt) => self.rtt.sample(now, rtt),
            None => self.rtt.handshake_repeated(),
        }
        self.handshake_sends = 0;
    }

    /// Whether the segment is the SYN/ACK of a peer that had sent its SYN before ours reached it.
    pub(crate) fn opened_simultaneously(&self, segment: &Segment) -> bool {
        segment.flags.has(Flags::SYN.with(Flags::ACK))
            && !segment.flags.has(Flags::RST)
            && segment.seq == self.rcv.irs()
            && self.snd.offset(segment.ack) == 1
            && self.active
    }

    /// Our SYN was there before the peer's.
    pub(crate) fn is_active(&self) -> bool {
        self.active
    }

    /// When this subflow, over which nothing has been heard for a while, is to be probed or given up.
    pub(crate) fn keep_alive_at(&self, keep_alive: &KeepAlive) -> Option<Instant> {
        let open = matches!(self.state, SubflowState::Established | SubflowState::CloseWait);
        (open && self.snd.is_idle() && self.reset_due.is_none())
            .then(|| self.heard + keep_alive.idle + keep_alive.interval * self.keep_alives)
    }

    /// When the path of this subflow, over which nothing has been heard for a while, is to be checked.
    pub(crate) fn check_due(&self, longest: Duration, ours: bool) -> Instant {
        self.silence.due(self.heard, longest, ours, self.spread())
    }

    /// A number that differs between subflows at random, and does not change.
    pub(crate) fn spread(&self) -> u32 {
        self.stamp_origin
    }

    /// Whether a challenge acknowledgment may be sent now (RFC 5961 section 7).
    pub(crate) fn may_challenge(&mut self, now: Instant) -> bool {
        let second = now.as_millis() / 1000;
        if self.challenges.0 != second {
            self.challenges = (second, 0);
        }
        self.challenges.1 += 1;
        self.challenges.1 <= CHALLENGE_ACKS
    }

    /// Whether an acknowledgment that nothing else calls for may be sent for the sake of its options: boxes
    /// and hosts that do not know them take too many in a row for a sign of loss (RFC 8684 section 3).
    //= RFC 8684 3-2
    pub(crate) fn may_signal(&mut self, now: Instant) -> bool {
        let (count, expected, sent) = self.signals;
        if (expected, sent) != (self.rcv.nxt, self.snd.nxt) {
            self.signals = (0, self.rcv.nxt, self.snd.nxt);
            self.signals_wait = None;
        } else if count >= SIGNALS_IN_A_ROW {
            self.signals_wait.get_or_insert(now + self.rtt.rto());
            return false;
        }
        self.signals.0 += 1;
        true
    }

    /// Those that waited have waited long enough.
    pub(crate) fn signals_waited(&mut self, now: Instant) {
        if self.signals_wait.is_some_and(|until| until <= now) {
            self.signals_wait = None;
            self.signals.0 = 0;
        }
    }

    /// The peer has asked to join with it and has not proven that it may.
    pub(crate) fn is_half_open(&self) -> bool {
        self.state == SubflowState::SynReceived && matches!(self.kind, Kind::JoinPassive { .. })
    }

    /// The handshake is complete and neither direction has failed.
    pub(crate) fn is_synchronised(&self) -> bool {
        !matches!(self.state, SubflowState::SynSent | SubflowState::SynReceived | SubflowState::Closed)
    }

    /// New data may be sent.
    //= RFC 8684 3.2-6
    pub(crate) fn can_send(&self) -> bool {
        matches!(self.state, SubflowState::Established | SubflowState::CloseWait)
            && self.confirmed
            && !self.fin_wanted
            && self.reset_due.is_none()
            && self.absent.is_none_or(|absence| absence.lack == Lack::Route)
    }

    /// The earliest of this subflow's timers.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let times =
            [self.snd.next_timeout(), self.rcv.ack_deadline, self.handshake_deadline, self.must_answer_by];
        times.into_iter().chain([self.signals_wait]).flatten().min()
    }

    /// The four-tuple as this host sees it.
    pub(crate) fn tuple(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.remote)
    }

    pub(crate) fn info(&self, path: &Path) -> SubflowInfo {
        SubflowInfo {
            slot: self.slot.0,
            local: self.local,
            remote: self.remote,
            interface: self.interface,
            initial: self.kind == Kind::Initial,
            confirmed: self.confirmed,
            state: self.state,
            backup: self.backup || self.peer_backup,
            stale: self.stale,
            bytes_sent: self.bytes_sent,
            bytes_acked: self.bytes_acked,
            bytes_received: self.bytes_received,
            bytes_retransmitted: self.snd.retransmitted_octets,
            segments_received: self.segments_received,
            segments_sent: self.segments_sent,
            timeouts: self.snd.timeouts,
            fast_recoveries: self.snd.fast_recoveries,
            srtt: self.rtt.srtt(),
            min_rtt: self.rtt.min(),
            rto: self.rtt.rto(),
            cwnd: path.cwnd,
            ssthresh: (path.ssthresh != u64::MAX).then_some(path.ssthresh),
            in_flight: self.snd.in_flight(),
            mss: u32::from(self.mss),
            path_mtu: u32::from(self.mss) + self.headers(),
        }
    }
}
