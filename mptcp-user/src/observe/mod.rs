//! Records of a running stack: packet captures and an event log.

mod capture;
mod events;
mod pcap;

pub(crate) use capture::Capture;
pub use events::EventLog;
pub use pcap::{Direction, LinkType, PcapWriter};
