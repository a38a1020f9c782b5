//! What goes on, for people and programs: packet captures, an event log, and the control socket through which processes
//! are asked.

pub mod control;
mod events;
mod pcap;

pub use events::EventLog;
pub use pcap::{Direction, LinkType, PcapWriter};
