//! What the engine tells its driver, and what the driver tells the engine about the host.

use super::info::FallbackReason;
use std::net::{IpAddr, SocketAddr};

/// A connection of one endpoint. Never reused while anything refers to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ConnectionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConnectionId {
    /// The identifier as a number, for logs.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The identifier that has this number. An endpoint that has no such connection knows nothing of it.
    pub fn from_number(number: u64) -> Self {
        Self { index: number as u32, generation: (number >> 32) as u32 }
    }
}

/// A listener of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ListenerId(pub(crate) u32);

/// Place of a subflow in the shared telemetry array; small, dense, reused after [`Event::SubflowRemoved`].
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
pub struct SubflowSlot(pub u32);

/// An address of this host that subflows may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Index of the interface that has it.
    pub interface: u32,
    /// MTU of that interface in octets.
    pub mtu: u32,
    /// Use it only when nothing else works.
    pub backup: bool,
}

/// What an address of this host is for, besides the connections that are made to it or from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AddressUse {
    /// Further subflows, and peers are told of it.
    #[default]
    Any,
    /// Further subflows; only peers on the same link are told of it, since others have no way to it.
    Link,
    /// Nothing else: a link-local address (RFC 4291 section 2.5.6), or one that is deprecated (RFC 4862
    /// section 5.5.4).
    Existing,
}

/// An ICMP or ICMPv6 error that quotes a segment we sent (the driver has matched the quoted four-tuple).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreachable {
    /// Source of the quoted segment: ours.
    pub local: SocketAddr,
    /// Destination of the quoted segment.
    pub remote: SocketAddr,
    /// Sequence number of the quoted segment.
    pub seq: u32,
    /// Next-hop MTU, for "fragmentation needed" and "packet too big".
    pub mtu: Option<u32>,
    /// Whether the error is a hard one (port or protocol unreachable, administratively prohibited).
    pub hard: bool,
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum CloseReason {
    /// Both sides finished and everything was acknowledged.
    #[error("closed by both sides")]
    Finished,
    /// The peer refused the connection: RST in answer to SYN.
    #[error("connection refused")]
    Refused,
    /// No answer to SYN.
    #[error("connection attempt timed out")]
    ConnectTimeout,
    /// The peer reset the connection: RST on a regular TCP connection, or MP_FASTCLOSE.
    #[error("connection reset by peer")]
    Reset,
    /// The peer has not acknowledged anything for too long on any subflow.
    #[error("connection timed out: no acknowledgment on any path")]
    TimedOut,
    /// The last subflow failed and none came in its place.
    #[error("all paths of the connection failed")]
    AllPathsLost,
    /// The peer or a middlebox broke the protocol so that the byte stream cannot be continued.
    #[error("the byte stream was corrupted on the way and cannot be continued")]
    Corrupted,
    /// This side aborted the connection.
    #[error("connection aborted")]
    Aborted,
    /// The network says that the destination can't be reached.
    #[error("destination unreachable")]
    Unreachable,
}

/// What the engine tells its driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection opened by [`Endpoint::connect`](super::Endpoint::connect) is established.
    Connected(ConnectionId),
    /// A listener has a new established connection.
    Accepted {
        /// The listener.
        listener: ListenerId,
        /// The new connection.
        connection: ConnectionId,
    },
    /// In-order octets, or the end of the peer's data, wait in [`Endpoint::recv`](super::Endpoint::recv).
    Readable(ConnectionId),
    /// The send buffer has room again, after [`Endpoint::send_capacity`](super::Endpoint::send_capacity) was 0.
    Writable(ConnectionId),
    /// The connection continues as regular TCP.
    FellBack(ConnectionId, FallbackReason),
    /// The connection is over; its buffers of received data can still be read until it is released.
    Closed(ConnectionId, CloseReason),
    /// From now on the segments of this four-tuple belong to a subflow: steer them here.
    SubflowAdded {
        /// Slot of the subflow.
        slot: SubflowSlot,
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
    },
    /// The segments of this four-tuple are of no interest any more.
    SubflowRemoved {
        /// Slot the subflow had.
        slot: SubflowSlot,
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
    },
    /// MP_JOINs with this token are for this endpoint from now on.
    TokenAdded(u32),
    /// MP_JOINs with this token are of no interest any more.
    TokenRemoved(u32),
    /// The path manager wants a subflow from this address; the driver finds a route, reserves a port and calls
    /// [`Endpoint::open_subflow`](super::Endpoint::open_subflow), or
    /// [`Endpoint::open_subflow_failed`](super::Endpoint::open_subflow_failed) if that can't be done.
    SubflowWanted {
        /// The connection.
        connection: ConnectionId,
        /// Our address.
        local: IpAddr,
        /// The interface that has it.
        interface: u32,
        /// The peer's address and port.
        remote: SocketAddr,
    },
    /// Nothing refers to this connection any more: whatever the driver kept for it (reserved ports, shared
    /// buffers) can go. The last event of a connection.
    Released(ConnectionId),
    /// Nothing has happened on the connection for a while: what is kept for it that only octets in motion need can go.
    Rests(ConnectionId),
}
