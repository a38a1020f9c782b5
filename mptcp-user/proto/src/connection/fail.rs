//! MP_FAIL: a DSS checksum was wrong, and both sides go on as regular TCP (RFC 8684 section 3.7).
//!
//! The side that found it says so on its acknowledgments until it sees that the peer has fallen back. The
//! other side answers with MP_FAIL and an infinite mapping on one acknowledgment, and again if the peer's
//! MP_FAIL comes again. Not unasked: the Linux kernel takes a second one for a new failure, and then sends a
//! segment that is too large for its link.

use super::Connection;
use super::delivery::Trust;
use crate::Instant;
use crate::counters::Counter;
use crate::endpoint::Shared;
use crate::info::FallbackReason;
use crate::subflow::Kind;
use crate::wire::{DataSeq, Dss, MptcpOption, Segment};

/// How often MP_FAIL is repeated although there is no other reason to send anything.
const REPEATS: u32 = 3;
/// How often the peer's MP_FAIL is answered at once when it comes again. The Linux kernel answers an answer,
/// too, if it comes twice: this ends it.
const ANSWERS: u32 = 2;

/// Our side of an exchange of MP_FAIL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct FailExchange {
    /// The data sequence number in the answer to the peer's MP_FAIL.
    answer: Option<DataSeq>,
    /// It is to leave with the next acknowledgment.
    answer_due: bool,
    /// When MP_FAIL is to be repeated, and how often it has been.
    deadline: Option<Instant>,
    repeats: u32,
    answers: u32,
}

impl FailExchange {
    pub(super) fn owes_answer(&self) -> bool {
        self.answer_due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Connection {
    /// MP_FAIL: the peer found a wrong checksum on the only subflow and goes on without mappings. With a
    /// reset, when there are more subflows, it says only why, and the reset does the rest. Not where the
    /// streams no longer correspond: then there is nothing that could be gone on with.
    //= RFC 8684 3.7-10
    pub(super) fn take_fail(&mut self, shared: &mut Shared, now: Instant, index: usize) {
        shared.count(Counter::MpFailRx);
        if self.may_follow_fallback(index) {
            self.fail.answer = self.remote_dsn(self.receive.nxt);
            self.fail.answer_due = true;
            self.fall_back(shared, now, FallbackReason::PeerChecksumFailed);
        } else {
            self.cannot_follow(shared, index);
        }
    }

    /// A segment of a peer that may have fallen back, after we have.
    pub(super) fn take_fallen_back(&mut self, shared: &mut Shared, index: usize, segment: &Segment) {
        let fails = segment.options.mptcp.iter().any(|option| matches!(option, MptcpOption::Fail(_)));
        if fails {
            shared.count(Counter::MpFailRx);
        }
        let expected = self.remote_dsn(self.receive.nxt);
        let told = self.infinite_until.is_some();
        let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) else { return };
        let owed = subflow.fail_due.is_some();
        if fails || segment.options.dss().is_none_or(Dss::is_infinite) {
            subflow.fail_due = None;
        }
        if !fails {
            return;
        }
        if owed && subflow.rcv.ack_now {
            // Both found a wrong checksum, and ours has not left yet: it is the answer.
            (self.fail.answer, self.fail.answer_due) = (expected, true);
        } else if !owed && self.fail.answer.is_some() && told && self.fail.answers < ANSWERS {
            // Our answer was lost.
            self.fail.answers += 1;
            self.fail.answer_due = true;
            subflow.rcv.ack_now = true;
        }
    }

    /// The answer to the peer's MP_FAIL, if it is owed.
    pub(super) fn fail_answer(&self) -> Option<MptcpOption> {
        self.fail.answer.filter(|_| self.fail.answer_due).map(MptcpOption::Fail)
    }

    /// The answer leaves.
    pub(super) fn fail_answered(&mut self) {
        self.fail.answer_due = false;
    }

    /// MP_FAIL leaves; it may be lost, with nothing that would be sent again.
    pub(super) fn repeat_fail_later(&mut self, now: Instant, index: usize) {
        let Some(rto) = self.subflow(index).map(|subflow| subflow.rtt.rto()) else { return };
        self.fail.deadline = Some(now + rto * (1 << self.fail.repeats.min(REPEATS)));
    }

    /// The time for a repetition has come.
    pub(super) fn fail_timeout(&mut self, now: Instant) {
        if self.fail.deadline.is_none_or(|at| at > now) {
            return;
        }
        self.fail.deadline = None;
        let initial = self.living().find(|(_, subflow)| subflow.kind == Kind::Initial);
        let Some((index, subflow)) = initial else { return };
        let unanswered = subflow.fail_due.is_some();
        if !unanswered || self.fail.repeats >= REPEATS {
            return;
        }
        self.fail.repeats += 1;
        if let Some(subflow) = self.subflow(index) {
            subflow.rcv.ack_now = true;
        }
        self.repeat_fail_later(now, index);
    }

    /// The checksum of a mapping is there although none was negotiated, or missing although it was: the
    /// subflow is not what the two sides agreed on (RFC 8684 section 3.3). In version 0 a checksum too much
    /// is ignored (RFC 6824 section 3.3).
    //= RFC 8684 3.3-1
    //= RFC 8684 3.3-2
    pub(super) fn breaks_agreement(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        checksum: Option<u16>,
    ) -> bool {
        let broken = match (self.checksum, checksum) {
            (true, None) => true,
            (false, Some(_)) => self.version == crate::wire::Version::V1,
            _ => false,
        };
        if broken {
            shared.count(Counter::DssChecksumUnagreed);
            self.distrust(shared, now, index, Trust::Broken);
        }
        broken
    }
}
