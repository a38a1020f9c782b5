//! Packets in and out of this host: XDP programs, AF_XDP rings, transmit sockets, netlink, the shard loop.

pub mod af_xdp;
mod arena;
mod error;
pub mod ethtool;
pub mod interface;
pub mod netlink;
pub mod port;
pub mod transmit;
pub mod xdp;

pub use arena::Arena;
pub use error::Error;
