//! Packets in and out of a host, for a stack in user space: XDP programs, AF_XDP rings, transmit sockets, netlink.
//!
//! The crate knows packets and the host. It does not know the rules of a protocol: of the engine's crate it uses the wire
//! format, addresses of subflows and the clock's type. `mptcp-user` drives it from a loop of its own, the shard.
//!
//! * [`interface`], [`attachment`]: which interfaces can be used, and the programs and sockets on them;
//! * [`xdp`], [`af_xdp`]: the program with its maps; UMEM, rings and sockets;
//! * [`receive`], [`arena`], [`fragments`]: frames become segments;
//! * [`transmit`], [`path`]: segments become frames, over the way that stays on the interface of our address;
//! * [`netlink`], [`netfilter`], [`ethtool`], [`port`]: what the kernel knows and is asked;
//! * [`sys`]: system calls.

pub mod af_xdp;
pub mod arena;
pub mod attachment;
mod error;
pub mod ethtool;
pub mod fragments;
pub mod interface;
pub mod netfilter;
pub mod netlink;
mod occupant;
pub mod path;
pub mod port;
pub mod receive;
mod release;
pub mod sys;
pub mod transmit;
pub mod xdp;

pub use error::Error;
pub use receive::{DropReason, ReceiveCounters, Receiver};
