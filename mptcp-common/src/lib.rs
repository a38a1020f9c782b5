//! What the XDP program and user space must agree on: one decoder, and the layout of what they share.
//!
//! * [`octets`]: the trait through which the decoder reads a packet, over a slice or over packet pointers;
//! * [`headers`]: Ethernet, VLAN tags, IPv4, IPv6, TCP; [`icmp`]: errors that quote a TCP segment;
//! * [`options`]: TCP options, those of Multipath TCP that XDP needs among them.
//!
//! No allocation, no standard library, no panic whatever the packet says. The same source compiles into the
//! XDP program, where the verifier must follow it: that is why loops are bounded by constants and why every
//! read goes through [`octets::Octets::view`].
#![no_std]

pub mod octets;
pub mod options;
