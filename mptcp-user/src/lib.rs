//! A Multipath TCP stack in user space, accelerated by XDP.
//!
//! The layers, top to bottom; each knows only those under it (`docs/architecture.md` walks through them):
//!
//! * [`stack`]: the tokio face, `Stack`, `MptcpStream`, `MptcpListener`;
//! * [`datapath`]: XDP programs, AF_XDP rings, transmit sockets, netlink, the shard loop;
//! * [`observe`]: what goes on, for people and programs: packet captures, counters;
//! * [`lab`]: an emulator for real packets;
//! * [`sim`]: virtual time, links and middleboxes around the same engine;
//! * [`proto`]: the protocol engine, sans-IO;
//! * [`wire`]: whole packets, built and parsed.

pub mod datapath;
pub mod lab;
pub mod observe;
pub mod proto;
pub mod sim;
pub mod stack;
pub mod wire;
