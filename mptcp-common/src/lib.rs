//! The agreement between the XDP program and user space: one decoder, and the layout of shared data.
//!
//! * [`octets`]: the trait through which the decoder reads a packet, over a slice or over packet pointers;
//! * [`headers`]: Ethernet, VLAN tags, IPv4, IPv6, TCP; [`icmp`]: errors that quote a TCP segment;
//! * [`fragment`]: a packet that comes in pieces;
//! * [`options`]: TCP options, those of Multipath TCP that XDP needs among them;
//! * [`address`]: an IP address of either family, as it lies in map keys;
//! * [`maps`]: keys and values of the maps; [`counter`]: counters of packets by fate;
//! * [`metadata`]: the XDP program's notes in front of a packet; [`event`]: its messages out of band.
//!
//! No allocation, no standard library, no panic whatever the packet says. The same source compiles into the
//! XDP program, where the verifier must follow it: that is why loops are bounded by constants and why every
//! read goes through [`octets::Octets::view`].
#![no_std]

pub mod address;
pub mod counter;
pub mod event;
pub mod fragment;
pub mod headers;
pub mod icmp;
pub mod maps;
pub mod metadata;
pub mod octets;
pub mod options;
