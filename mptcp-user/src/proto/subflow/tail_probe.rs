//! Tail loss probes: when acknowledgments stop coming, the last segment again, so that RACK learns of what is lost
//! before it (RFC 8985 section 7).

use crate::proto::Instant;
use std::time::Duration;

/// Longest time a receiver may sit on an acknowledgment of a single segment (RFC 8985 section 7.2, WCDelAckT).
const WORST_DELAYED_ACK: Duration = Duration::from_millis(200);
/// Probes are not sent earlier than this, whatever the round-trip time: a scheduler's hiccup is no loss.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);

/// The probe of one subflow's sender.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct TailProbe {
    at: Option<Instant>,
    /// End of everything sent when the probe in flight was.
    end: Option<u64>,
    /// The probe is to be sent.
    due: bool,
}

impl TailProbe {
    /// When the timer expires.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Starts the timer anew unless a probe is in flight; `alone`: nothing but one segment is.
    pub(super) fn arm(&mut self, now: Instant, srtt: Duration, alone: bool, timeout: Option<Instant>) {
        if self.end.is_some() {
            return;
        }
        let wait = srtt * 2 + if alone { WORST_DELAYED_ACK } else { Duration::ZERO };
        let at = now + wait.max(MIN_TIMEOUT);
        self.at = timeout.is_none_or(|timeout| at < timeout).then_some(at);
    }

    /// Stops the timer; a probe in flight is still judged.
    pub(super) fn disarm(&mut self) {
        self.at = None;
    }

    /// The timer has expired.
    pub(super) fn expire(&mut self) {
        self.at = None;
        self.due = true;
    }

    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// The probe leaves, or there is nothing to probe with. `nxt`: end of everything sent.
    pub(super) fn sent(&mut self, nxt: Option<u64>) {
        self.due = false;
        self.end = nxt;
    }

    /// Takes an acknowledgment; `settled`: it says that the probe was superfluous. `true`: the probe repaired a loss,
    /// since it was acknowledged and nothing says that it came twice (RFC 8985 section 7.4).
    pub(super) fn judge(&mut self, ack: u64, settled: bool) -> bool {
        let Some(end) = self.end else { return false };
        let answered = ack > end || (ack == end && settled);
        if answered {
            self.end = None;
        }
        answered && !settled
    }
}
