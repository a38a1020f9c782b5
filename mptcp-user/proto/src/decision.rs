//! What the engine decides, and why, for those who want to know. Nobody usually does: then each decision costs one
//! branch, and what would be said of it is not even put together.
//!
//! [`Endpoint::watch_decisions`](super::Endpoint::watch_decisions) begins, [`poll_decision`](super::Endpoint::poll_decision)
//! fetches. `mptcp … --events FILE` writes them as lines of JSON; the names of the
//! fields there are those here.

use super::info::FallbackReason;
use super::{CloseReason, ConnectionId, Instant};
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Decisions kept for who fetches them; the excess is lost and counted.
const MAX_WAITING: usize = 65_536;

/// A subflow that data could have been sent on, at the time when it was decided on which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Candidate {
    /// Its slot.
    pub subflow: u32,
    /// Whether it may carry new data at all: established, not closing.
    pub usable: bool,
    /// Either side wants it as backup only.
    pub backup: bool,
    /// Its path is suspected dead.
    pub stale: bool,
    /// Smoothed round-trip time, in microseconds.
    pub srtt_us: Option<u64>,
    /// Octets in flight.
    pub in_flight: u64,
    /// Congestion window, in octets.
    pub cwnd: u64,
    /// Octets that congestion window and the subflow's own window let through.
    pub room: u64,
}

/// Why data waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// The peer's data-level window is full (RFC 8684 section 3.3.5).
    PeerWindow,
    /// The scheduler wants to wait: no subflow it would use has room.
    Scheduler,
    /// Nagle's algorithm.
    Nagle,
}

/// Why data is to be sent on another subflow than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReinjectionCause {
    /// The retransmission timer of the subflow expired.
    Timeout,
    /// An acknowledgment is overdue, and there are other paths.
    Overdue,
    /// The subflow has ended.
    SubflowEnded,
    /// The peer says that its address is gone.
    AddressRemoved,
    /// The peer's window is full and waits for it, and a faster subflow has room.
    WindowHeldUp,
    /// Nothing was acknowledged at the data level for a while, and no subflow has it in flight.
    DataTimeout,
}

/// What brought a congestion window down, or back up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CongestionCause {
    /// A loss.
    Loss,
    /// An echoed congestion mark.
    Mark,
    /// A retransmission timeout.
    Timeout,
    /// The peer's window waited for what the subflow carries.
    Penalty,
    /// The last reduction was unfounded.
    Undo,
}

/// A decision. `subflow` is a slot number: [`Decision::SubflowOpened`] has the addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Decision {
    /// New data goes on a subflow.
    Scheduled {
        /// The subflow.
        subflow: u32,
        /// Offset in the data stream, the first octet being 0.
        start: u64,
        /// Octets.
        octets: u64,
        /// Who chose it.
        scheduler: &'static str,
        /// Among which.
        among: Vec<Candidate>,
    },
    /// Data that is under way on another subflow goes on this one, too: the scheduler sends everything twice, or a path
    /// that is not used is shown to the peer.
    Duplicated {
        /// The subflow.
        subflow: u32,
        /// Offset in the data stream.
        start: u64,
        /// Octets.
        octets: u64,
        /// Among which it was chosen.
        among: Vec<Candidate>,
    },
    /// Data that another subflow failed to deliver goes on this one.
    Reinjected {
        /// The subflow.
        subflow: u32,
        /// Offset in the data stream.
        start: u64,
        /// Octets.
        octets: u64,
        /// Among which it was chosen.
        among: Vec<Candidate>,
    },
    /// Data in flight is to be sent on another subflow.
    ReinjectionWanted {
        /// The subflow that has it in flight; none: no subflow has.
        subflow: Option<u32>,
        /// Octets in flight there.
        octets: u64,
        /// Why.
        cause: ReinjectionCause,
    },
    /// Data waits. Said once until something is sent.
    Waiting {
        /// Why.
        why: Wait,
        /// Octets that wait.
        octets: u64,
    },
    /// The connection goes on as regular TCP.
    FellBack {
        /// Why.
        reason: FallbackReason,
    },
    /// A path is suspected dead.
    Stale {
        /// The subflow.
        subflow: u32,
        /// Timeouts since the last acknowledgment.
        timeouts: u32,
    },
    /// A path that was suspected dead delivers again.
    Recovered {
        /// The subflow.
        subflow: u32,
    },
    /// The path manager wants a subflow.
    SubflowWanted {
        /// From this address.
        local: IpAddr,
        /// To this one.
        remote: SocketAddr,
        /// The path manager.
        path_manager: &'static str,
    },
    /// A subflow is established.
    SubflowOpened {
        /// The subflow.
        subflow: u32,
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// The connection began with it.
        initial: bool,
        /// Either side wants it as backup only.
        backup: bool,
    },
    /// A subflow is over, or could not be established.
    SubflowEnded {
        /// The subflow.
        subflow: u32,
        /// Octets acknowledged on it.
        bytes_acked: u64,
        /// Octets received on it.
        bytes_received: u64,
    },
    /// A congestion window changes for another reason than acknowledgments.
    Congestion {
        /// The subflow.
        subflow: u32,
        /// Why.
        cause: CongestionCause,
        /// The window from now on, in octets; during recovery it comes down to `ssthresh` step by step.
        cwnd: u64,
        /// Slow-start threshold, in octets.
        ssthresh: u64,
    },
    /// A destination will be connected to with regular TCP for a while.
    Remembered {
        /// The destination.
        destination: SocketAddr,
        /// For how long.
        seconds: u64,
    },
    /// The connection is over.
    Closed {
        /// Why, in words.
        reason: String,
    },
}

impl Decision {
    pub(crate) fn closed(reason: CloseReason) -> Self {
        Self::Closed { reason: reason.to_string() }
    }
}

/// A decision with its circumstances.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    /// When.
    pub time: Instant,
    /// For which connection.
    pub connection: ConnectionId,
    /// What.
    pub decision: Decision,
}

/// Those that have not been fetched.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    waiting: VecDeque<Decided>,
    /// Connections whose data waits, of which that has been said.
    said: HashMap<ConnectionId, Wait>,
}

impl Decisions {
    /// `false` if there is no room for it.
    pub(crate) fn push(&mut self, time: Instant, connection: ConnectionId, decision: Decision) -> bool {
        match &decision {
            Decision::Waiting { why, .. } if self.said.insert(connection, *why) == Some(*why) => return true,
            Decision::Scheduled { .. } | Decision::Duplicated { .. } | Decision::Closed { .. } => {
                self.said.remove(&connection);
            }
            _ => {}
        }
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push_back(Decided { time, connection, decision });
        }
        room
    }

    pub(crate) fn pop(&mut self) -> Option<Decided> {
        self.waiting.pop_front()
    }
}

/// Microseconds, for candidates.
pub(crate) fn micros(time: Option<Duration>) -> Option<u64> {
    time.map(|time| time.as_micros() as u64)
}
