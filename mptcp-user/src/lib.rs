//! A Multipath TCP stack in user space, accelerated by XDP.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use mptcp_user::{ConnectionConfig, Stack};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let stack = Stack::builder().build().await?;
//! let config = ConnectionConfig { scheduler: "round-robin".into(), ..ConnectionConfig::default() };
//! let mut stream = stack.connect_with("192.0.2.1:80".parse()?, None, config).await?;
//! stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The layers, top to bottom; each knows only those under it (`docs/architecture.md` walks through them):
//!
//! * [`stack`]: the tokio face, [`Stack`], [`MptcpStream`], [`MptcpListener`];
//! * `shard`: the loop that drives an engine and its sockets, and the channels between it and applications;
//! * [`observe`]: packet captures, the event log;
//! * [`mptcp_control`]: the control socket, through which `mptcp ss` looks into running stacks;
//! * [`mptcp_datapath`]: XDP programs, AF_XDP rings, transmit sockets, netlink;
//! * [`mptcp_proto`]: the protocol engine, sans-IO, and the wire format.
//!
//! The crate `mptcp-sim` runs the same engine in simulated networks; `mptcp-cli` is the `mptcp` command.

mod channel;
mod error;
mod mailbox;
pub mod observe;
mod shard;
pub mod stack;

pub use error::StackError;
pub use mptcp_proto::{ConnectionConfig, ConnectionInfo, SubflowInfo, wire};
pub use stack::{MptcpListener, MptcpStream, Stack, StackBuilder};
// The crates below, for programs that name only this one.
pub use {mptcp_datapath as datapath, mptcp_proto as proto};
