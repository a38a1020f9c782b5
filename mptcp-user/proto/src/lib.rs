//! The protocol engine: Multipath TCP (RFC 8684) over regular TCP subflows (RFC 9293), sans-IO.
//!
//! There is no socket, no thread, no clock and no global randomness here: every entry point takes the time,
//! randomness comes from a seed handed in, and output is polled. Start with [`Endpoint`]: it owns all
//! connections of one shard. Feed it segments ([`Endpoint::handle_segment`]), time
//! ([`Endpoint::handle_timeout`]) and the application's octets ([`Endpoint::send`]); ask it for segments
//! ([`Endpoint::poll_transmit`]), events ([`Endpoint::poll_event`]) and the next time it wants to be called
//! ([`Endpoint::next_timeout`]).

// Tests may read the clock and the environment; what they test may not.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types))]

#[cfg(any(test, feature = "testing"))]
pub mod audit;
mod blackhole;
mod changes;
mod config;
mod congestion;
mod connection;
mod counters;
pub mod crypto;
mod data;
mod decision;
mod distance;
mod dormant;
mod endpoint;
mod event;
mod fast_close;
mod host;
mod info;
mod interface_rule;
mod memory;
mod path;
mod peers;
mod place;
mod pre_join;
mod reassembly;
mod reinjection;
mod remote_address;
mod right_sizing;
mod rtt;
mod scheduler;
mod secret;
mod send_buffer;
mod subflow;
mod syn_ack_budget;
mod syn_cookie;
mod time;
mod time_wait;
mod timer;
pub mod wire;

pub use blackhole::BlackholeInfo;
pub use config::{
    ConnectionConfig, EcnPolicy, EndpointConfig, KeepAlive, Opportunism, SubflowStart, Versions,
};
pub use counters::{Counter, Counters};
pub use decision::{Candidate, CongestionCause, Decided, Decision, ReinjectionCause, Wait};
pub use endpoint::{ConnectError, Endpoint, ListenError};
pub use event::{
    AddressUse, CloseReason, ConnectionId, Event, ListenerId, LocalAddress, SubflowSlot, Unreachable,
};
pub use host::HostAddress;
pub use info::{ConnectionInfo, ConnectionState, FallbackReason, HeadOfLineInfo, SubflowInfo, SubflowState};
pub use interface_rule::{InterfaceRule, InterfaceUse};
pub use peers::{PeerRules, Prefix};
pub use right_sizing::QueueSizes;
pub use time::Instant;

#[cfg(test)]
mod tests;
