//! TCP options, parsed, those of Multipath TCP among them (RFC 8684 section 3, RFC 6824 section 3).

use super::{DataSeq, SeqNumber};
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// Version of the Multipath TCP protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    /// RFC 6824.
    V0 = 0,
    /// RFC 8684.
    V1 = 1,
}

/// The timestamps option (RFC 7323 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamps {
    /// TSval.
    pub value: u32,
    /// TSecr.
    pub echo: u32,
}

/// One block of a SACK option (RFC 2018 section 3): `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlock {
    /// First sequence number of the block.
    pub start: SeqNumber,
    /// Sequence number after the block.
    pub end: SeqNumber,
}

/// MP_CAPABLE (RFC 8684 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MpCapable {
    /// Version the sender speaks.
    pub version: Version,
    /// Flag A: DSS checksums wanted.
    pub checksum: bool,
    /// Flag B: an extension of which nothing is known; a receiver that sees it falls back.
    pub extensible: bool,
    /// Flag C: no further subflows to this address and port.
    pub no_join_initial: bool,
    /// Flag H: HMAC-SHA256 (version 1) or HMAC-SHA1 (version 0).
    pub hmac: bool,
    /// The option's sender's key, where the option has it (all but the SYN of version 1).
    pub sender_key: Option<u64>,
    /// The key of the option's receiver, echoed in the third ACK.
    pub receiver_key: Option<u64>,
    /// Data-level length and, if negotiated, checksum, of the first data (version 1 only).
    pub data: Option<(u16, Option<u16>)>,
}

/// MP_JOIN (RFC 8684 section 3.2), one form per step of the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    /// In the SYN.
    Syn {
        /// Flag B: use this subflow as backup.
        backup: bool,
        /// Address identifier of the sender's address.
        address_id: u8,
        /// The receiver's token.
        token: u32,
        /// The sender's random number.
        nonce: u32,
    },
    /// In the SYN/ACK.
    SynAck {
        /// Flag B: use this subflow as backup.
        backup: bool,
        /// Address identifier of the sender's address.
        address_id: u8,
        /// Leftmost 64 bits of the HMAC.
        mac: u64,
        /// The sender's random number.
        nonce: u32,
    },
    /// In the third ACK.
    Ack {
        /// Leftmost 160 bits of the HMAC.
        mac: [u8; 20],
    },
}

/// A data sequence mapping (RFC 8684 section 3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Data sequence number of the first octet, as many bits as the option had.
    pub dsn: DataSeq,
    /// Whether `dsn` had 8 octets on the wire; otherwise only its low 32 bits are known.
    pub dsn_long: bool,
    /// Subflow sequence number of the first octet, relative to the initial one.
    pub subflow_seq: u32,
    /// Length in octets, DATA_FIN included; 0 is the infinite mapping.
    pub len: u16,
    /// DSS checksum, as on the wire, where negotiated.
    pub checksum: Option<u16>,
}

/// DSS (RFC 8684 section 3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dss {
    /// Data ACK, and whether it had 8 octets on the wire.
    pub data_ack: Option<(DataSeq, bool)>,
    /// Mapping of the payload.
    pub mapping: Option<Mapping>,
    /// Flag F: the mapping ends with the end of the data.
    pub data_fin: bool,
}

/// ADD_ADDR (RFC 8684 section 3.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddAddr {
    /// Flag E: this is the echo of an option received.
    pub echo: bool,
    /// Address identifier.
    pub address_id: u8,
    /// The address.
    pub address: IpAddr,
    /// The port, if it differs from the initial subflow's.
    pub port: Option<u16>,
    /// Rightmost 64 bits of the HMAC; absent in echoes and in version 0.
    pub mac: Option<u64>,
}

/// REMOVE_ADDR (RFC 8684 section 3.4.2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RemoveAddr {
    /// Identifiers of the addresses that are gone.
    pub ids: ArrayVec<u8, 16>,
}

/// MP_FASTCLOSE (RFC 8684 section 3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastClose {
    /// The key of the option's receiver.
    pub receiver_key: u64,
}

/// MP_TCPRST (RFC 8684 section 3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpReset {
    /// Flag T: the condition is transient.
    pub transient: bool,
    /// Why.
    pub reason: ResetReason,
}

/// Reason codes of MP_TCPRST (RFC 8684 section 3.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ResetReason {
    /// 0.
    Unspecified,
    /// 1.
    MptcpSpecific,
    /// 2.
    LackOfResources,
    /// 3.
    AdministrativelyProhibited,
    /// 4.
    TooMuchOutstandingData,
    /// 5.
    UnacceptablePerformance,
    /// 6.
    MiddleboxInterference,
    /// A code the RFC does not name.
    Other(u8),
}

/// One Multipath TCP option (kind 30).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MptcpOption {
    /// Subtype 0.
    Capable(MpCapable),
    /// Subtype 1.
    Join(Join),
    /// Subtype 2.
    Dss(Dss),
    /// Subtype 3.
    AddAddr(AddAddr),
    /// Subtype 4.
    RemoveAddr(RemoveAddr),
    /// Subtype 5: flag B, and the address id that only version 0 may carry.
    Priority {
        /// Use as backup.
        backup: bool,
        /// Address identifier; absent: the subflow that carries the option.
        address_id: Option<u8>,
    },
    /// Subtype 6: the data sequence number at which the checksum failed.
    Fail(DataSeq),
    /// Subtype 7.
    FastClose(FastClose),
    /// Subtype 8.
    Reset(TcpReset),
}

/// All options of one segment. What could not be parsed is absent, and counted in `malformed`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Maximum segment size (SYN only).
    pub mss: Option<u16>,
    /// Window scale (SYN only), as on the wire.
    pub window_scale: Option<u8>,
    /// SACK permitted (SYN only).
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks, the first one being the most recent.
    pub sack: ArrayVec<SackBlock, 4>,
    /// Multipath TCP options in their order.
    pub mptcp: ArrayVec<MptcpOption, 4>,
    /// Options that were there but not understood because their length or content was wrong.
    pub malformed: u8,
}

impl TcpOptions {
    /// The DSS, where there is one.
    #[inline]
    pub fn dss(&self) -> Option<&Dss> {
        self.mptcp.iter().find_map(|option| if let MptcpOption::Dss(dss) = option { Some(dss) } else { None })
    }
    /// MP_CAPABLE, where there is one.
    pub fn capable(&self) -> Option<&MpCapable> {
        self.mptcp
            .iter()
            .find_map(|option| if let MptcpOption::Capable(capable) = option { Some(capable) } else { None })
    }
    /// MP_JOIN, where there is one.
    pub fn join(&self) -> Option<&Join> {
        self.mptcp
            .iter()
            .find_map(|option| if let MptcpOption::Join(join) = option { Some(join) } else { None })
    }
}
