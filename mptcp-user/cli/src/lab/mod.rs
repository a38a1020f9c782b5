//! An emulator for real packets: forwards frames between two interfaces, with the links and middleboxes of
//! [`sim`](mptcp_sim) in between, in real time.
//!
//! It is what lets this stack and the kernel's be measured under the same conditions on a kernel without a
//! network emulator of its own. [`LabConfig`] says what the two directions are like, [`Lab`] runs them: one
//! thread, a packet socket on each interface. Super-segments of local senders are cut into packets before
//! they meet the link, so that rate, loss and queue see what a wire would see.

mod bridge;
mod config;
mod frame;
mod socket;
pub mod units;

pub use bridge::{Lab, LabError, LabReport};
pub use config::{BoxSettings, ConfigError, LabConfig, LinkSettings, Outage};
pub use frame::Frame;
