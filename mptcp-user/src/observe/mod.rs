//! What goes on, for people and programs: packet captures.

mod pcap;

pub use pcap::{Direction, LinkType, PcapWriter};
