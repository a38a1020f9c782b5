//! Packets in and out of this host: XDP programs, AF_XDP rings, transmit sockets, netlink, the shard loop.

pub mod af_xdp;
pub mod arena;
pub mod ethtool;
pub mod netlink;
pub mod port;
pub mod transmit;
pub mod xdp;
