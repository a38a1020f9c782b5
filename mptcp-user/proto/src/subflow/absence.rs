//! A subflow whose way has gone on this host. It is no reason to end it: a regular TCP connection goes on
//! when the carrier, the address or the route comes back.

use crate::Instant;

/// What this host lacks to send on a subflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Lack {
    /// The routing table had no way to the peer when a segment was to leave.
    Route,
    /// The interface has no carrier.
    Carrier,
    /// The address is gone from this host.
    Address,
}

/// Since when a subflow has no way, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Absence {
    /// Beginning of the absence.
    pub(crate) since: Instant,
    /// What is missing now.
    pub(crate) lack: Lack,
    /// The subflow was in use when the absence began: octets may have been lost.
    pub(crate) in_use: bool,
}

/// The subflow that a new one between the same addresses is to take the place of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Double {
    /// Local port of the old one.
    pub(crate) of: u16,
    /// Octets that the old one had delivered in both directions when the new one was asked for.
    pub(crate) octets: u64,
    /// The old one stays only if it delivers octets; otherwise any answer of its peer is enough.
    pub(crate) strict: bool,
}
