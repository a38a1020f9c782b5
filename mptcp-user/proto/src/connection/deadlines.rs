//! No connection and no subflow waits for ever: whatever is not established, and whatever is closing, has a
//! deadline.
//!
//! | what | its deadline |
//! | --- | --- |
//! | handshake of a connection, in both roles, and however it began | `patience` |
//! | a connection without any subflow | `patience` |
//! | one whose application has gone | `patience` |
//! | SYN-SENT, SYN-RECEIVED, a third ACK that was not answered | `handshake_deadline`, and a number of attempts |
//! | FIN-WAIT-1, CLOSING, LAST-ACK | the retransmission timer, and the user timeout |
//! | FIN-WAIT-2 | `handshake_deadline`; a regular TCP connection whose application is there waits for the peer's data |
//! | a reset that is owed | leaves with the next segment |
//!
//! This is where all of it is made sure of, whenever a connection's deadline is computed. If one is missing,
//! that is a fault, which is counted, and here is a deadline all the same.

use super::close::ORPHAN;
use super::{Connection, Mode};
use crate::Instant;
use crate::info::SubflowState;
use crate::subflow::Subflow;

impl Connection {
    /// Sees to it that there is a deadline for all that needs one; `false`: one was missing.
    pub(crate) fn ensure_deadlines(&mut self, now: Instant) -> bool {
        if self.closed.is_some() {
            return true;
        }
        let needed = matches!(self.mode, Mode::Handshake(_)) || self.released || self.has_no_subflow();
        let mut complete = !needed || self.patience.is_some() || self.parting.is_some();
        if !complete {
            self.patience = Some(now + ORPHAN);
        }
        let read_on = !self.is_multipath() && !self.released || self.patience.is_some();
        for subflow in self.subflows.iter_mut().flatten() {
            if lacks_deadline(subflow, read_on) {
                subflow.handshake_deadline = Some(now + ORPHAN);
                complete = false;
            }
        }
        complete
    }
}

/// `read_on`: a subflow whose own half is closed may go on bringing data.
fn lacks_deadline(subflow: &Subflow, read_on: bool) -> bool {
    if subflow.reset_due.is_some() || subflow.handshake_deadline.is_some() {
        return false;
    }
    match subflow.state {
        SubflowState::SynSent | SubflowState::SynReceived => !subflow.handshake_due,
        SubflowState::Established | SubflowState::CloseWait => !subflow.confirmed && !subflow.handshake_due,
        SubflowState::FinWait1 | SubflowState::Closing | SubflowState::LastAck => {
            subflow.snd.next_timeout().is_none()
        }
        SubflowState::FinWait2 => !read_on,
        SubflowState::Closed | SubflowState::TimeWait => false,
    }
}
