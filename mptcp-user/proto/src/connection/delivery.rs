//! What has arrived on a subflow goes to the data level: by its mapping, or without one, where that makes the connection
//! regular TCP (RFC 8684 sections 3.3 and 3.7).

use super::Connection;
use super::close::EndCause;
use crate::Instant;
use crate::counters::Counter;
use crate::endpoint::Shared;
use crate::info::{FallbackReason, SubflowState};
use crate::subflow::mapping::Mapped;
use crate::subflow::{Kind, Subflow};
use crate::wire::{DataSeq, Flags, ResetReason, Segment};

/// What a subflow is no longer trusted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    /// What comes is not what the two sides agreed on.
    Broken,
    /// Something on the way strips or changes options or data.
    Interfered,
}

impl Connection {
    /// The subflow can't be gone on with, and another between the same addresses would fare no better.
    //= RFC 8684 3.3-3
    //= RFC 8684 3.7-4
    pub(super) fn distrust(&mut self, shared: &mut Shared, now: Instant, index: usize, trust: Trust) {
        let Some(subflow) = self.subflow(index) else { return };
        subflow.reset_due = Some(Some(match trust {
            Trust::Broken => ResetReason::MptcpSpecific,
            Trust::Interfered => ResetReason::MiddleboxInterference,
        }));
        self.end_cause = EndCause::Interference;
        shared.count(Counter::DssCorruptionReset);
        self.refuse_interfered_path(now, index);
    }

    /// Data was acknowledged on a joined subflow without a Data ACK: options do not get through there, and it
    /// is reset (RFC 8684 section 3.7). Once one has come, those may be missing that would say nothing new
    /// (section 3.3.2).
    //= RFC 8684 3.3.2-3
    //= RFC 8684 3.7-3
    pub(super) fn lacks_data_ack(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &Segment,
        ack: i64,
    ) -> bool {
        let multipath = self.is_multipath();
        let Some(subflow) = self.subflow(index) else { return false };
        if !multipath || subflow.kind == Kind::Initial || subflow.fin_sent || ack <= subflow.snd.una as i64 {
            return false;
        }
        subflow.data_acked |= segment.options.dss().is_some_and(|dss| dss.data_ack.is_some());
        if subflow.data_acked || !segment.options.mptcp.is_empty() || subflow.bytes_sent == 0 {
            return false;
        }
        shared.count(Counter::DataAckMissing);
        self.distrust(shared, now, index, Trust::Interfered);
        true
    }

    pub(super) fn take_payload(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        segment: &mut Segment,
    ) {
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
    //= RFC 8684 3.7-8
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
                            self.refuse_interfered_path(now, index);
                            break 'subflow;
                        }
                        readable |= self.receive.insert(now, start - 1, octets);
                    }
                    Mapped::Corrupt(dsn, octets) => {
                        let end = start + (before - payload.len()) as u64;
                        let begin = end - octets.len() as u64;
                        if !self.checksum_failed(shared, now, index, begin, dsn) {
                            // The next subflow between these addresses would fare no better.
                            self.refuse_interfered_path(now, index);
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
    //= RFC 8684 3.3.1-2
    //= RFC 8684 3.7-6
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
    //= RFC 8684 3.7-7
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
        self.repeat_fail_later(now, index);
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
