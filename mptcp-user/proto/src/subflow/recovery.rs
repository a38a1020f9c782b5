//! Loss recovery as a state: whether one is under way, how fast the window comes down meanwhile (PRR, RFC 6937 and
//! its revision draft-ietf-tcpm-prr-rfc6937bis), whether a timeout was a mistake (F-RTO, RFC 5682), and what is
//! restored when a reduction was (Eifel, RFC 3522 and 4015; D-SACK, RFC 3708).

use crate::congestion::Cause;

/// New data sent to find out whether a timeout was a mistake (RFC 5682 section 2.1, step 2b), in full segments.
const FORWARD_SEGMENTS: u64 = 2;

/// Where the sender stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Phase {
    Open,
    /// Fast recovery, or the reduction after an ECN echo, until everything before `point` is acknowledged.
    Fast {
        point: u64,
        prr: Prr,
    },
    /// After a timeout.
    Loss {
        point: u64,
        forward: Forward,
    },
}

/// Proportional rate reduction. All in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
struct Prr {
    /// Octets in flight when recovery began (RecoverFS).
    flight: u64,
    /// Delivered, and sent, since.
    delivered: u64,
    sent: u64,
}

/// F-RTO: the first segment was sent again; before anything else is, new data asks whether that was needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
enum Forward {
    /// The timeout is believed.
    Off,
    /// The first segment is to be sent again.
    Armed,
    /// It was (step 2).
    Resent,
    /// It was acknowledged; so many octets of new data were sent since (step 3).
    Probing { sent: u64 },
}

/// What to restore when a reduction turns out to be unfounded.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Undo {
    cwnd: u64,
    ssthresh: u64,
    /// Timestamp of the first retransmission: an acknowledgment that echoes an earlier one answers the original.
    stamp: Option<u32>,
    /// Octets sent again that the peer has not reported as duplicates.
    unreported: u64,
    /// After the recovery's end duplicates are waited for until this offset is acknowledged.
    until: Option<u64>,
}

/// What an acknowledgment says that bears on a recovery.
pub(super) struct Evidence {
    /// SND.UNA moved.
    pub(super) advanced: bool,
    /// End of the last octet that it delivered and that was sent once only.
    pub(super) original: Option<u64>,
    /// TSecr.
    pub(super) echo: Option<u32>,
    /// Octets it reports as duplicates.
    pub(super) duplicates: u64,
    /// It is a duplicate acknowledgment that a SACK scoreboard does not explain.
    pub(super) stalled: bool,
}

/// Recovery of one subflow's sender.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
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

    /// Congestion control has reduced its threshold: the window comes down until `point`. `before`: window and
    /// threshold until now. What an ECN echo says was not a mistake, so that there is nothing to undo then.
    pub(super) fn begin(&mut self, cause: Cause, point: u64, flight: u64, before: (u64, u64)) {
        self.undo = (cause == Cause::Loss).then(|| Undo::new(before));
        self.phase = Phase::Fast { point, prr: Prr { flight: flight.max(1), delivered: 0, sent: 0 } };
    }

    /// The retransmission timer expired for the first time in a row, or again.
    pub(super) fn time_out(&mut self, first: bool, point: u64, before: (u64, u64)) {
        if self.phase == Phase::Open && first {
            self.undo = Some(Undo::new(before));
        }
        let again = matches!(self.phase, Phase::Loss { .. });
        let forward = if first && !again { Forward::Armed } else { Forward::Off };
        self.phase = Phase::Loss { point, forward };
    }

    /// New data leave.
    pub(super) fn sent(&mut self, octets: u64) {
        match &mut self.phase {
            Phase::Fast { prr, .. } => prr.sent += octets,
            Phase::Loss { forward: Forward::Probing { sent }, .. } => *sent += octets,
            _ => {}
        }
    }

    /// Something leaves again, with this timestamp.
    pub(super) fn retransmitted(&mut self, octets: u64, stamp: u32) {
        match &mut self.phase {
            Phase::Open => return,
            Phase::Fast { prr, .. } => prr.sent += octets,
            Phase::Loss { forward: forward @ Forward::Armed, .. } => *forward = Forward::Resent,
            Phase::Loss { .. } => {}
        }
        if let Some(undo) = &mut self.undo {
            undo.stamp.get_or_insert(stamp);
            undo.unreported += octets;
        }
    }

    /// F-RTO keeps back what is lost, until it knows whether it is.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self.phase, Phase::Loss { forward: Forward::Resent | Forward::Probing { .. }, .. })
    }

    /// How much new data F-RTO wants sent; none: what the window says counts.
    pub(super) fn forward_room(&self, mss: u64) -> Option<u64> {
        match self.phase {
            Phase::Loss { forward: Forward::Probing { sent }, .. } => {
                Some((FORWARD_SEGMENTS * mss).saturating_sub(sent))
            }
            _ => None,
        }
    }

    /// There is no new data to send: if F-RTO was waiting for any, the timeout is believed (`true`).
    pub(super) fn lacks_new_data(&mut self) -> bool {
        match &mut self.phase {
            Phase::Loss { forward: forward @ Forward::Probing { sent: 0 }, .. } => {
                *forward = Forward::Off;
                true
            }
            _ => false,
        }
    }

    /// Fast recovery is under way and `una` has not passed its end.
    pub(super) fn is_partial(&self, una: u64) -> bool {
        matches!(self.phase, Phase::Fast { point, .. } if una < point)
    }

    /// Everything before `una` is acknowledged: `true` if recovery ends with that. `nxt`: end of what was sent.
    pub(super) fn advance(&mut self, una: u64, nxt: u64) -> bool {
        let over =
            matches!(self.phase, Phase::Fast { point, .. } | Phase::Loss { point, .. } if una >= point);
        if over {
            self.phase = Phase::Open;
            if let Some(undo) = &mut self.undo {
                undo.until = Some(nxt);
            }
        } else if self.undo.as_ref().is_some_and(|undo| undo.until.is_some_and(|until| una > until)) {
            self.undo = None;
        }
        over
    }

    /// Whether an acknowledgment shows that there was nothing to recover from; then the recovery is over.
    pub(super) fn is_unfounded(&mut self, evidence: &Evidence) -> bool {
        let proven = self.original_answered(evidence)
            | self.everything_came_twice(evidence.duplicates)
            | self.forward_probed(evidence);
        if proven {
            self.phase = Phase::Open;
        }
        proven
    }

    /// It answers the original of a segment that was sent again, by its timestamp (RFC 3522).
    fn original_answered(&self, evidence: &Evidence) -> bool {
        let (Some(Undo { stamp: Some(stamp), .. }), Some(echo)) = (&self.undo, evidence.echo) else {
            return false;
        };
        evidence.advanced && self.phase != Phase::Open && (echo.wrapping_sub(*stamp) as i32) < 0
    }

    /// All that was sent again was reported as duplicates by now (RFC 3708).
    fn everything_came_twice(&mut self, duplicates: u64) -> bool {
        let Some(undo) = &mut self.undo else { return false };
        if duplicates == 0 || undo.unreported == 0 {
            return false;
        }
        undo.unreported = undo.unreported.saturating_sub(duplicates);
        undo.unreported == 0
    }

    /// F-RTO's steps 2 and 3 (RFC 5682 section 3.1; section 2.1 without SACK).
    fn forward_probed(&mut self, evidence: &Evidence) -> bool {
        let Phase::Loss { point, forward } = &mut self.phase else { return false };
        let original = evidence.original.is_some_and(|end| end <= *point);
        *forward = match *forward {
            Forward::Resent if evidence.stalled => Forward::Off,
            Forward::Resent if evidence.advanced => Forward::Probing { sent: 0 },
            Forward::Probing { sent } if sent > 0 && original => return self.undo.is_some(),
            Forward::Probing { sent } if sent > 0 && !evidence.advanced => Forward::Off,
            unchanged => unchanged,
        };
        false
    }

    /// Window and threshold to restore after an unfounded reduction.
    pub(super) fn take_undo(&mut self) -> Option<(u64, u64)> {
        self.undo.take().map(|undo| (undo.cwnd, undo.ssthresh))
    }

    /// PRR's window for the next moments of fast recovery, with `pipe` octets in flight after an acknowledgment that
    /// delivered some. `safe`: it advanced and brought no news of loss (SafeACK).
    pub(super) fn window(
        &mut self,
        delivered: u64,
        safe: bool,
        pipe: u64,
        ssthresh: u64,
        mss: u64,
    ) -> Option<u64> {
        let Phase::Fast { prr, .. } = &mut self.phase else { return None };
        prr.delivered += delivered;
        let mut burst = if pipe > ssthresh {
            let share = u128::from(prr.delivered) * u128::from(ssthresh);
            (share.div_ceil(u128::from(prr.flight)) as u64).saturating_sub(prr.sent)
        } else {
            let conservative = prr.delivered.saturating_sub(prr.sent).max(delivered);
            (conservative + if safe { mss } else { 0 }).min(ssthresh - pipe)
        };
        if prr.sent == 0 {
            // The first retransmission leaves at once.
            burst = burst.max(mss);
        }
        Some(pipe + burst)
    }
}

impl Undo {
    fn new((cwnd, ssthresh): (u64, u64)) -> Self {
        Self { cwnd, ssthresh, stamp: None, unreported: 0, until: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1000;

    /// The example of RFC 6937: a window of 100 segments is halved, one is lost. About every other acknowledgment
    /// lets a segment out, and the window ends where the threshold is.
    #[test]
    fn the_window_comes_down_in_proportion_to_what_is_delivered() {
        let (mut pipe, ssthresh) = (98 * MSS, 50 * MSS);
        let mut recovery = Recovery::new();
        recovery.begin(Cause::Loss, 100 * MSS, 99 * MSS, (100 * MSS, u64::MAX));
        let mut sent = 0;
        for ack in 0..98 {
            pipe -= if ack == 0 { 0 } else { MSS };
            let window = recovery.window(MSS, false, pipe, ssthresh, MSS).unwrap();
            while pipe + MSS <= window {
                recovery.sent(MSS);
                (pipe, sent) = (pipe + MSS, sent + MSS);
            }
        }
        assert_eq!(pipe / MSS, 50);
        assert!((48..=51).contains(&(sent / MSS)), "{sent}");
    }

    /// Below the threshold the window is not filled in one burst, and faster where nothing more seems lost.
    #[test]
    fn below_the_threshold_the_window_follows_deliveries() {
        for (safe, expected) in [(false, MSS), (true, 2 * MSS)] {
            let mut recovery = Recovery::new();
            recovery.begin(Cause::Loss, 100 * MSS, 100 * MSS, (100 * MSS, u64::MAX));
            recovery.sent(MSS);
            let pipe = 10 * MSS;
            assert_eq!(recovery.window(MSS, safe, pipe, 50 * MSS, MSS), Some(pipe + expected));
        }
    }

    fn duplicates(octets: u64) -> Evidence {
        Evidence { advanced: false, original: None, echo: None, duplicates: octets, stalled: false }
    }

    #[test]
    fn a_retransmission_that_came_twice_undoes_the_reduction_even_after_its_end() {
        let mut recovery = Recovery::new();
        recovery.begin(Cause::Loss, 5 * MSS, 5 * MSS, (10 * MSS, u64::MAX));
        recovery.retransmitted(2 * MSS, 7);
        assert!(recovery.advance(5 * MSS, 8 * MSS));
        assert!(!recovery.is_unfounded(&duplicates(MSS)));
        assert!(recovery.is_unfounded(&duplicates(MSS)));
        assert_eq!(recovery.take_undo(), Some((10 * MSS, u64::MAX)));
    }

    #[test]
    fn what_an_ecn_echo_reduced_is_not_restored() {
        let mut recovery = Recovery::new();
        recovery.begin(Cause::EcnEcho, 5 * MSS, 5 * MSS, (10 * MSS, u64::MAX));
        recovery.retransmitted(MSS, 7);
        assert!(!recovery.is_unfounded(&duplicates(MSS)));
    }
}
