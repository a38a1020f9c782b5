//! Tail loss probes: when acknowledgments stop coming, new data, or the last segment again where there is
//! none or no room for it, so that RACK learns of what is lost before it (RFC 8985 section 7).

use crate::Instant;
use std::time::Duration;

/// Longest time a receiver may sit on an acknowledgment of a single segment (RFC 8985 section 7.2, WCDelAckT).
const WORST_DELAYED_ACK: Duration = Duration::from_millis(200);
/// Probes are not sent earlier than this, whatever the round-trip time: a scheduler's hiccup is no loss.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);
/// The wait while no round-trip time is known (RFC 8985 section 7.2).
const UNMEASURED: Duration = Duration::from_secs(1);

/// The probe of one subflow's sender.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct TailProbe {
    at: Option<Instant>,
    /// End of everything sent when the probe in flight was.
    end: Option<u64>,
    /// The probe in flight is a segment that was sent before.
    again: bool,
    /// The probe is to be sent.
    due: bool,
}

impl TailProbe {
    /// When the timer expires.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Starts the timer anew unless a probe is in flight; `alone`: nothing but one segment is. It expires
    /// with the retransmission timer (at `timeout`) at the latest, which is then started anew.
    pub(super) fn arm(
        &mut self,
        now: Instant,
        srtt: Option<Duration>,
        alone: bool,
        timeout: Option<Instant>,
    ) {
        if self.end.is_some() {
            return;
        }
        let delayed = if alone { WORST_DELAYED_ACK } else { Duration::ZERO };
        let wait = srtt.map_or(UNMEASURED, |srtt| (srtt * 2 + delayed).max(MIN_TIMEOUT));
        let at = now + wait;
        self.at = Some(timeout.map_or(at, |timeout| at.min(timeout)));
    }

    /// Stops the timer; a probe in flight is still judged.
    pub(super) fn disarm(&mut self) {
        self.at = None;
    }

    /// Something else finds the losses now: no probe is sent, but one in flight is still judged.
    pub(super) fn stop(&mut self) {
        (self.at, self.due) = (None, false);
    }

    /// The timer has expired.
    pub(super) fn expire(&mut self) {
        self.at = None;
        self.due = true;
    }

    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// The probe leaves, or there is nothing to probe with. `nxt`: end of everything sent. `again`: it was
    /// sent before.
    pub(super) fn sent(&mut self, nxt: Option<u64>, again: bool) {
        self.stop();
        (self.end, self.again) = (nxt, again);
    }

    /// Takes an acknowledgment; `settled`: it says that the probe was superfluous. `true`: the probe repaired a loss,
    /// since it was acknowledged and nothing says that it came twice (RFC 8985 section 7.4).
    pub(super) fn judge(&mut self, ack: u64, settled: bool) -> bool {
        let Some(end) = self.end else { return false };
        if !self.again {
            // New data repairs nothing; what is lost before it, RACK will find.
            self.end = Some(end).filter(|end| ack < *end);
            return false;
        }
        let answered = ack > end || (ack == end && settled);
        if answered {
            self.end = None;
        }
        answered && !settled
    }
}
