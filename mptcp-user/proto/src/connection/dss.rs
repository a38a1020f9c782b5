//! What the Multipath TCP options of an established subflow do (RFC 8684 sections 3.3 to 3.7).

use super::close::EndCause;
use super::{Connection, Mode};
use crate::Instant;
use crate::counters::Counter;
use crate::endpoint::Shared;
use crate::event::CloseReason;
use crate::info::FallbackReason;
use crate::subflow::Kind;
use crate::subflow::mapping::{Added, RxMapping, WireMapping};
use crate::wire::{DataSeq, Dss, Join, Mapping, MptcpOption, ResetReason, Segment, Version};

/// A mapping may begin this far beyond the subflow's window: the segment itself may only just reach into it.
const MAPPING_SLACK: i64 = 1 << 17;
/// No stream is so long: sums of offsets below this and of what a window may be do not overflow, signed or
/// not.
const MAX_OFFSET: u64 = 1 << 62;

impl Connection {
    /// Takes all options of a segment. `window` is the segment's window in octets.
    //= RFC 8684 3.3.8-2
    pub(super) fn take_options(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
        window: u64,
    ) {
        if !self.is_multipath() {
            return;
        }
        // An infinite mapping beside MP_FAIL follows from it: what is to be answered comes first.
        let several = segment.options.mptcp.len() > 1;
        if several && segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::Fail(_))) {
            self.take_fail(shared, now, index);
            return;
        }
        for option in &segment.options.mptcp {
            match option {
                MptcpOption::Dss(dss) => self.take_dss(shared, now, index, segment, dss, window),
                // A server says it in its SYN/ACK only.
                MptcpOption::Capable(_) if self.client => shared.count(Counter::OptionOutOfPlace),
                MptcpOption::Capable(capable) if !self.has_keys(capable) => shared.count(Counter::BadKeys),
                MptcpOption::Capable(capable) => {
                    if let Some((len, checksum)) = capable.data {
                        self.take_first_data(shared, now, index, len, checksum);
                    }
                    // The third ACK, or the first data: nothing is acknowledged at the data level yet.
                    self.send.take_window(0, window);
                }
                MptcpOption::AddAddr(add) => self.take_add_address(shared, now, add),
                MptcpOption::RemoveAddr(remove) => self.take_remove_address(shared, now, &remove.ids),
                // Version 1 has no address id there: a subflow speaks for itself only (RFC 8684 section
                // 3.3.8).
                MptcpOption::Priority { address_id: Some(_), .. } if self.version == Version::V1 => {
                    shared.count(Counter::OptionOutOfPlace);
                }
                MptcpOption::Priority { backup, address_id } => {
                    shared.count(Counter::MpPrioRx);
                    self.take_priority(index, *backup, *address_id);
                }
                MptcpOption::FastClose(_) => {
                    if self.is_fast_close(shared, option) {
                        self.reset_all_subflows();
                        self.close_now(shared, now, CloseReason::Reset);
                    }
                }
                MptcpOption::Fail(_) => self.take_fail(shared, now, index),
                MptcpOption::Join(Join::Ack { .. }) if self.answers_join(index) => {}
                MptcpOption::Join(_) | MptcpOption::Reset(_) => {
                    shared.count(Counter::OptionOutOfPlace);
                }
            }
            let broken = self.subflow(index).is_none_or(|subflow| subflow.reset_due.is_some());
            if self.closed.is_some() || !self.is_multipath() || broken {
                return;
            }
        }
    }

    /// The third ACK of MP_JOIN comes again until it is answered, and nothing else leaves there before: it is
    /// answered at once (RFC 8684 section 3.2). `false` on subflows that have none.
    //= RFC 8684 3.2-4
    fn answers_join(&mut self, index: usize) -> bool {
        let Some(subflow) = self.subflow(index) else { return false };
        let passive = matches!(subflow.kind, Kind::JoinPassive { .. });
        subflow.rcv.ack_now |= passive;
        passive
    }

    fn take_dss(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
        dss: &Dss,
        window: u64,
    ) {
        if !self.dss_received {
            self.dss_received = true;
            self.fully_established = true;
            self.manage_paths(shared, now);
        }
        if let Some((ack, long)) = dss.data_ack {
            self.take_data_ack(shared, now, ack, long, window);
        }
        if let Some(mapping) = &dss.mapping {
            self.take_mapping(shared, now, index, segment, mapping, dss.data_fin);
        }
    }

    fn take_data_ack(&mut self, shared: &mut Shared, now: Instant, ack: DataSeq, long: bool, window: u64) {
        let una = self.local_dsn(self.send.una);
        let ack = if long { ack } else { una.expand(ack.0 as u32) };
        let distance = ack.distance(una);
        let sent = self.send.nxt + u64::from(self.send.fin_sent);
        if distance < 0 || distance as u64 > sent - self.send.una {
            // Those of the past came over a slower path.
            if distance > 0 {
                shared.count(Counter::BadDataAck);
            }
            return;
        }
        let offset = self.send.una + distance as u64;
        self.send.take_window(offset, window);
        if distance > 0 {
            self.send.acknowledge(offset);
            self.data_expiries = 0;
            self.data_waits_since = None;
            self.end_cause = EndCause::Known;
            self.arm_data_timer(now, true);
            self.make_room(shared);
        }
        if window > 0 {
            self.persist_expiries = 0;
        }
    }

    //= RFC 8684 3.3.1-4
    fn take_mapping(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
        mapping: &Mapping,
        data_fin: bool,
    ) {
        let Some(expected) = self.remote_dsn(self.receive.nxt) else { return };
        if mapping.len > 0 && self.breaks_agreement(shared, now, index, mapping.checksum) {
            return;
        }
        let dsn = if mapping.dsn_long { mapping.dsn } else { expected.expand(mapping.dsn.0 as u32) };
        // Half of the sequence space ahead and further is behind, wherever the stream is by now.
        let data = (self.receive.nxt as i64).wrapping_add(dsn.distance(expected));
        if mapping.len == 0 {
            self.take_infinite_mapping(shared, now, index, mapping.subflow_seq, data);
            return;
        }
        let Some(data) = u64::try_from(data).ok().filter(|at| *at < MAX_OFFSET) else {
            shared.count(Counter::BadMapping);
            return;
        };
        let len = u32::from(mapping.len) - u32::from(data_fin);
        if data_fin {
            let reached = self.receive.set_fin(data + u64::from(len));
            if !self.receive.ends_at(data + u64::from(len)) {
                shared.count(Counter::BadDataFin);
            }
            if let Some(subflow) = self.subflow(index) {
                // The peer waits for the Data ACK of its DATA_FIN, also if it came before.
                subflow.rcv.ack_now = true;
            }
            if reached {
                self.tell_readable(shared);
            }
        }
        if len == 0 {
            return;
        }
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let at = subflow.rcv.offset(segment.seq);
        let start = at + i64::from(mapping.subflow_seq.wrapping_sub(at as u32) as i32);
        let end = start + i64::from(len);
        if end <= subflow.rcv.nxt as i64 || start < 1 || start > subflow.rcv.edge as i64 + MAPPING_SLACK {
            // A mapping of octets that have come is that of a retransmission.
            if start < 1 || end > subflow.rcv.nxt as i64 {
                shared.count(Counter::DssNoMatchTcp);
            }
            return;
        }
        let checksum = mapping.checksum.filter(|_| self.checksum);
        let wire = WireMapping { dsn, subflow_seq: mapping.subflow_seq, len: mapping.len, checksum };
        let added = subflow.mappings.add(RxMapping::new(start as u64, len, data, wire), subflow.rcv.nxt);
        note_mapping(shared, added);
    }

    /// Data in the segment with MP_CAPABLE: the first octets of both streams (RFC 8684 section 3.1).
    fn take_first_data(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        len: u16,
        checksum: Option<u16>,
    ) {
        let Some(dsn) = self.remote_dsn(0) else { return };
        if self.breaks_agreement(shared, now, index, checksum) {
            return;
        }
        let checksum = checksum.filter(|_| self.checksum);
        if let Some(subflow) = self.subflow(index).filter(|subflow| subflow.rcv.nxt == 1) {
            let wire = WireMapping { dsn, subflow_seq: 1, len, checksum };
            note_mapping(shared, subflow.mappings.add(RxMapping::new(1, u32::from(len), 0, wire), 1));
        }
    }

    /// The peer falls back: its octets follow each other from here on, and there are no options any more.
    /// "Here" may be the past: the start of the last segment that the peer knows to have arrived intact (RFC
    /// 8684 section 3.7).
    //= RFC 8684 3.7-16
    fn take_infinite_mapping(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        subflow_seq: u32,
        data: i64,
    ) {
        shared.count(Counter::InfiniteMapRx);
        let Some(next) = self.subflow(index).map(|subflow| subflow.rcv.nxt) else { return };
        let start = (next as i64).wrapping_add(i64::from(subflow_seq.wrapping_sub(next as u32) as i32));
        // Only where the two streams correspond one to one is there a way to go on.
        if data >= 0 && start.checked_sub(1) == Some(data) && self.may_follow_fallback(index) {
            self.fall_back(shared, now, FallbackReason::PeerFellBack);
            debug_assert!(matches!(self.mode, Mode::Plain(_)));
        } else {
            self.cannot_follow(shared, index);
        }
    }

    /// The peer has fallen back and takes what comes on this subflow for the stream, which it is not: nothing may reach it
    /// any more, least of all a FIN, which would be the end of its stream.
    //= RFC 8684 3.7-11
    pub(super) fn cannot_follow(&mut self, shared: &mut Shared, index: usize) {
        let Some(subflow) = self.subflow(index) else { return };
        shared.count(Counter::FallbackFailed);
        subflow.reset_due = Some(Some(ResetReason::MiddleboxInterference));
        self.end_cause = EndCause::Interference;
    }
}

/// Counts a mapping that was ignored.
fn note_mapping(shared: &mut Shared, added: Added) {
    match added {
        Added::Taken => {}
        Added::Contradicts => shared.count(Counter::DssNotMatching),
        Added::TooMany => shared.count(Counter::MappingOverflow),
    }
}
