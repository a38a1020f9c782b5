//! Loss recovery as a state: whether one is under way, how fast the window comes down meanwhile (PRR, RFC 6937 and
//! its revision 6937bis), and what is restored when it turns out to have been unfounded (RFC 4015).

/// Where the sender stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// Fast recovery until everything before `point` is acknowledged.
    Fast {
        point: u64,
        prr: Prr,
    },
    /// After a timeout.
    Loss {
        point: u64,
    },
}

/// Proportional rate reduction. All in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Prr {
    /// Octets in flight when recovery began (RecoverFS).
    flight: u64,
    /// Delivered, and sent, since.
    delivered: u64,
    sent: u64,
}

/// What to restore when a reduction turns out to be unfounded.
#[derive(Clone, Copy, Debug)]
struct Undo {
    cwnd: u64,
    ssthresh: u64,
    /// Timestamp of the first retransmission: an acknowledgment that echoes an earlier one answers the original.
    stamp: Option<u32>,
}

/// Recovery of one subflow's sender.
#[derive(Debug)]
pub(super) struct Recovery {
    phase: Phase,
    undo: Option<Undo>,
}

impl Recovery {
    /// Nothing is lost.
    pub(super) fn new() -> Self {
        Self { phase: Phase::Open, undo: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn is_fast(&self) -> bool {
        matches!(self.phase, Phase::Fast { .. })
    }

    /// Congestion control has reduced its threshold: fast recovery begins. `before`: window and threshold until then.
    pub(super) fn begin(&mut self, point: u64, flight: u64, before: (u64, u64)) {
        self.undo = Some(Undo { cwnd: before.0, ssthresh: before.1, stamp: None });
        self.phase = Phase::Fast { point, prr: Prr { flight: flight.max(1), delivered: 0, sent: 0 } };
    }

    /// The retransmission timer expired; `before` as in [`begin`](Self::begin) unless an earlier reduction counts.
    pub(super) fn time_out(&mut self, point: u64, before: Option<(u64, u64)>) {
        if let (Phase::Open, Some((cwnd, ssthresh))) = (self.phase, before) {
            self.undo = Some(Undo { cwnd, ssthresh, stamp: None });
        }
        self.phase = Phase::Loss { point };
    }

    /// Something leaves, new or again.
    pub(super) fn sent(&mut self, octets: u64) {
        if let Phase::Fast { prr, .. } = &mut self.phase {
            prr.sent += octets;
        }
    }

    /// Something leaves again, with this timestamp.
    pub(super) fn retransmitted(&mut self, octets: u64, stamp: u32) {
        self.sent(octets);
        if let Some(Undo { stamp: first @ None, .. }) = &mut self.undo {
            *first = Some(stamp);
        }
    }

    /// Fast recovery is under way and `una` has not passed its end.
    pub(super) fn is_partial(&self, una: u64) -> bool {
        matches!(self.phase, Phase::Fast { point, .. } if una < point)
    }

    /// Everything before `una` is acknowledged: `true` if recovery ends with that.
    pub(super) fn advance(&mut self, una: u64) -> bool {
        let over = matches!(self.phase, Phase::Fast { point, .. } | Phase::Loss { point } if una >= point);
        if over {
            self.phase = Phase::Open;
        }
        over
    }

    /// Whether an acknowledgment with this echoed timestamp answers the original of a segment that was sent again
    /// (RFC 3522): then nothing was lost.
    pub(super) fn is_unfounded(&self, echo: Option<u32>) -> bool {
        let (Some(Undo { stamp: Some(stamp), .. }), Some(echo)) = (&self.undo, echo) else { return false };
        self.phase != Phase::Open && (echo.wrapping_sub(*stamp) as i32) < 0
    }

    /// There was nothing to recover from.
    pub(super) fn cancel(&mut self) {
        self.phase = Phase::Open;
    }

    /// Window and threshold to restore after an unfounded reduction.
    pub(super) fn take_undo(&mut self) -> Option<(u64, u64)> {
        self.undo.take().map(|undo| (undo.cwnd, undo.ssthresh))
    }

    /// The window for the next moments of fast recovery, with `pipe` octets in flight after an acknowledgment that
    /// delivered some.
    pub(super) fn window(&mut self, delivered: u64, pipe: u64, ssthresh: u64, mss: u64) -> Option<u64> {
        let Phase::Fast { prr, .. } = &mut self.phase else { return None };
        prr.delivered += delivered;
        let allowed = if pipe > ssthresh {
            (u128::from(prr.delivered) * u128::from(ssthresh)).div_ceil(u128::from(prr.flight)) as u64
        } else {
            let limit = prr.delivered.saturating_sub(prr.sent).max(delivered);
            prr.sent + (limit + if delivered > 0 { mss } else { 0 }).min(ssthresh - pipe)
        };
        // At least the first retransmission leaves at once.
        let burst = allowed.saturating_sub(prr.sent).max(if prr.sent == 0 { mss } else { 0 });
        Some(pipe + burst)
    }
}
