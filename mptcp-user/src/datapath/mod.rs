//! Packets in and out of this host: XDP programs, AF_XDP rings, transmit sockets, netlink, the shard loop.

pub mod af_xdp;
mod arena;
mod attachment;
mod capture;
pub(crate) mod channel;
mod epoll;
mod error;
pub mod ethtool;
pub mod fragments;
pub mod interface;
pub(crate) mod mailbox;
mod netfilter;
pub mod netlink;
mod occupant;
mod path;
pub mod port;
mod receive;
mod release;
pub(crate) mod shard;
mod timer;
pub mod transmit;
pub mod xdp;

pub use error::Error;
pub use receive::{DropReason, ReceiveCounters, Receiver};
