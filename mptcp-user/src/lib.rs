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
//! * [`datapath`]: XDP programs, AF_XDP rings, transmit sockets, netlink, the shard loop;
//! * [`observe`]: what goes on, for people and programs: packet captures, counters;
//! * [`lab`]: an emulator for real packets;
//! * [`mptcp_sim`]: virtual time, links and middleboxes around the same engine, a crate of its own;
//! * [`mptcp_proto`]: the protocol engine, sans-IO, and the wire format, a crate of its own.

pub mod datapath;
pub mod lab;
pub mod observe;
pub mod stack;

pub use mptcp_proto::{ConnectionConfig, ConnectionInfo, SubflowInfo, wire};
pub use stack::{MptcpListener, MptcpStream, Stack, StackBuilder, StackError};
// The engine and the simulator under the names that they had as modules of this crate.
pub use {mptcp_proto as proto, mptcp_sim as sim};
