//! Subflows that have left with MP_FASTCLOSE, until the peer is known to have had it (RFC 8684 section 3.5).
//!
//! A reset that arrives before a segment that was lost has not the sequence number that the peer waits for:
//! it is answered with a challenge acknowledgment (RFC 5961 section 3.2), and nothing but a reset with the
//! same option and the right number says that the whole connection is over. In version 0 it is an
//! acknowledgment that has the option, and a reset answers it; without that, it is repeated by its sender.
//!
//! [`TimeWaits`](super::time_wait::TimeWaits) keeps these with the other four-tuples that have ended.

use super::Instant;
use super::secret::Tuple;
use crate::wire::{FastClose, Flags, MptcpOption, Segment, SeqNumber};
use std::time::Duration;

/// How often an acknowledgment with MP_FASTCLOSE is repeated unasked: what RFC 8684 section 3.5 recommends.
const REPEATS: u32 = 3;

/// What there is to say on such a four-tuple.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastCloseWait {
    /// The peer's key.
    key: u64,
    /// The option leaves in acknowledgments until a reset has answered one (version 0).
    by_ack: bool,
    rto: Duration,
    repeated: u32,
}

impl FastCloseWait {
    /// A reset with the option has left.
    pub(crate) fn reset(key: u64) -> Self {
        Self { key, by_ack: false, rto: Duration::ZERO, repeated: REPEATS }
    }

    /// An acknowledgment with the option has left; `rto`: the subflow's retransmission timeout.
    pub(crate) fn acknowledgment(key: u64, rto: Duration) -> Self {
        Self { key, by_ack: true, rto, repeated: 0 }
    }

    /// When the acknowledgment leaves again, if it was last sent at `sent`.
    //= RFC 8684 3.5-4
    pub(crate) fn repeats_at(&self, sent: Instant) -> Option<Instant> {
        (self.repeated < REPEATS).then(|| sent + self.rto * (1 << self.repeated))
    }

    /// The acknowledgment leaves again.
    pub(crate) fn repeated(&mut self) {
        self.repeated += 1;
    }

    /// The peer has answered with a reset: nothing needs to be repeated unasked.
    pub(crate) fn answered(&mut self) {
        self.by_ack = false;
        self.repeated = REPEATS;
    }

    /// Adds the option to an acknowledgment of the four-tuple that is to leave again.
    pub(crate) fn dress(&self, segment: &mut Segment) {
        let close = FastClose { receiver_key: self.key };
        segment.options.mptcp.push(MptcpOption::FastClose(close));
    }

    /// What answers a segment of the peer that is no reset: `sent` is where our sequence numbers had got to.
    /// An acknowledgment with the option is repeated by time alone: more segments were under way when it
    /// left.
    //= RFC 8684 3.5-6
    pub(crate) fn answer(
        &self,
        (local, remote): Tuple,
        segment: &Segment,
        sent: SeqNumber,
    ) -> Option<Segment> {
        let theirs = segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::FastClose(_)));
        if self.by_ack && !theirs && self.repeated < REPEATS {
            return None;
        }
        let mut answer = Segment::new(local, remote);
        answer.flags = Flags::RST.with(Flags::ACK);
        answer.ack = segment.seq_end();
        // What the peer acknowledges is what it waits for next.
        answer.seq = if segment.flags.has(Flags::ACK) { segment.ack } else { sent };
        if !theirs && !self.by_ack {
            self.dress(&mut answer);
        }
        Some(answer)
    }
}
