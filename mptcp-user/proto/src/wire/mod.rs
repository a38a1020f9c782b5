//! Whole packets: built and parsed, without any state.
//!
//! [`Segment`] is the form in which the engine, the simulator and the datapath hand TCP segments to each
//! other: parsed header fields, parsed options, and the payload as shared slices. A segment may be a
//! *super-segment*: up to 64 KiB of payload under one header, to be cut into packets of
//! [`Segment::gso_size`] octets as late as possible and to be put together as early as possible.

pub mod checksum;
mod gso;
mod options;
pub mod packet;
mod payload;
mod segment;
mod seq;

pub use checksum::{Checksum, dss_checksum};
pub use gso::{coalesce, segmentize};
pub use options::{
    AddAddr, Dss, FastClose, Join, Mapping, MpCapable, MptcpOption, OPTION_SPACE, OptionsTooLong, RemoveAddr,
    ResetReason, SackBlock, TcpOptions, TcpReset, Timestamps, UserTimeout, Version,
};
pub(crate) use payload::{JOINED, SMALL};
pub use payload::{Payload, join_small};
pub use segment::{Ecn, Flags, Segment};
pub use seq::{DataSeq, SeqNumber};
