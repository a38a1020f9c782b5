//! Packets in and out of this host: XDP programs, AF_XDP rings, transmit sockets, netlink, the shard loop.

pub mod xdp;
