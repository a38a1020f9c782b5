//! The options of Multipath TCP, version 1 (RFC 8684 section 3) and version 0 (RFC 6824 section 3).
//!
//! All have TCP option kind 30; the subtype is the high nibble of the third octet. Forms of one subtype are
//! told apart by length and, for MP_CAPABLE and MP_JOIN, by the SYN and ACK flags of the segment. Which
//! version an ADD_ADDR is of shows in itself: version 0 has the IP version where version 1 has flags, and
//! neither an HMAC nor an echo.

use super::Flags;
use crate::wire::DataSeq;
use arrayvec::ArrayVec;
use mptcp_common::options::{
    self as common, KIND_MPTCP, SUBTYPE_ADD_ADDR, SUBTYPE_CAPABLE, SUBTYPE_DSS, SUBTYPE_FAIL,
    SUBTYPE_FASTCLOSE, SUBTYPE_JOIN, SUBTYPE_PRIO, SUBTYPE_REMOVE_ADDR, SUBTYPE_RESET,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Version of the Multipath TCP protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Version {
    /// RFC 6824.
    V0 = 0,
    /// RFC 8684.
    V1 = 1,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
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
    /// Identifiers of the addresses that are gone: as many as the option space can hold.
    pub ids: ArrayVec<u8, 37>,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize, serde::Deserialize)]
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

impl ResetReason {
    /// The code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::MptcpSpecific => 1,
            Self::LackOfResources => 2,
            Self::AdministrativelyProhibited => 3,
            Self::TooMuchOutstandingData => 4,
            Self::UnacceptablePerformance => 5,
            Self::MiddleboxInterference => 6,
            Self::Other(code) => code,
        }
    }

    /// Whether it passes, so that another attempt over the same path makes sense: what flag T says.
    pub fn passes(self) -> bool {
        matches!(self, Self::LackOfResources | Self::TooMuchOutstandingData | Self::UnacceptablePerformance)
    }
}

impl From<u8> for ResetReason {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Unspecified,
            1 => Self::MptcpSpecific,
            2 => Self::LackOfResources,
            3 => Self::AdministrativelyProhibited,
            4 => Self::TooMuchOutstandingData,
            5 => Self::UnacceptablePerformance,
            6 => Self::MiddleboxInterference,
            other => Self::Other(other),
        }
    }
}

/// What became of one option of kind 30.
pub(super) enum Parsed {
    /// Understood.
    Option(MptcpOption),
    /// A subtype of which nothing is known: ignored, as any unknown TCP option.
    Unknown,
    /// A known subtype whose length or content is wrong.
    Malformed,
}

/// Reads big-endian numbers off the front of an option's body.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
    fn left(&self) -> usize {
        self.0.len()
    }
}

/// Parses one option, given all its octets.
//= RFC 8684 3-5
//= RFC 8684 3.1-22
pub(super) fn parse(option: &[u8], flags: Flags) -> Parsed {
    let mut reader = Reader(option.get(2..).unwrap_or_default());
    let Some(first) = reader.u8() else { return Parsed::Malformed };
    let (subtype, low) = (first >> 4, first & 0x0f);
    let option = match subtype {
        SUBTYPE_CAPABLE => MpCapable::parse(low, reader, flags).map(MptcpOption::Capable),
        SUBTYPE_JOIN => Join::parse(low, reader, flags).map(MptcpOption::Join),
        SUBTYPE_DSS => Dss::parse(option).map(MptcpOption::Dss),
        SUBTYPE_ADD_ADDR => AddAddr::parse(low, reader).map(MptcpOption::AddAddr),
        SUBTYPE_REMOVE_ADDR => RemoveAddr::parse(&reader).map(MptcpOption::RemoveAddr),
        SUBTYPE_PRIO => match reader.left() {
            0 => Some(None),
            1 => Some(reader.u8()),
            _ => None,
        }
        .map(|address_id| MptcpOption::Priority { backup: low & 1 != 0, address_id }),
        SUBTYPE_FAIL => exactly_u64(reader).map(|dsn| MptcpOption::Fail(DataSeq(dsn))),
        SUBTYPE_FASTCLOSE => {
            exactly_u64(reader).map(|receiver_key| MptcpOption::FastClose(FastClose { receiver_key }))
        }
        SUBTYPE_RESET => match reader.0 {
            [reason] => {
                Some(MptcpOption::Reset(TcpReset { transient: low & 1 != 0, reason: (*reason).into() }))
            }
            _ => None,
        },
        _ => return Parsed::Unknown,
    };
    option.map_or(Parsed::Malformed, Parsed::Option)
}

/// A reserved octet and 8 octets, as in MP_FAIL and MP_FASTCLOSE.
fn exactly_u64(mut reader: Reader<'_>) -> Option<u64> {
    reader.u8()?;
    let value = reader.u64()?;
    (reader.left() == 0).then_some(value)
}

impl MpCapable {
    /// Flag H and nothing else: what the SYN of version 1 has.
    //= RFC 8684 3.1-6
    //= RFC 8684 3.1-9
    pub fn new(version: Version) -> Self {
        Self {
            version,
            checksum: false,
            extensible: false,
            no_join_initial: false,
            hmac: true,
            sender_key: None,
            receiver_key: None,
            data: None,
        }
    }

    fn parse(version: u8, mut reader: Reader<'_>, flags: Flags) -> Option<Self> {
        let syn = flags.has(Flags::SYN);
        let bits = reader.u8()?;
        let keys = reader.left();
        let version = match version {
            0 => Version::V0,
            1 => Version::V1,
            // "the highest version number [the listener] supports" answers a SYN of a later version, whose other
            // contents mean nothing to us (RFC 8684 section 3.1).
            _ if syn && !flags.has(Flags::ACK) => {
                return Some(Self {
                    version: Version::V1,
                    checksum: bits & 0x80 != 0,
                    extensible: bits & 0x40 != 0,
                    no_join_initial: bits & 0x20 != 0,
                    hmac: bits & 0x01 != 0,
                    sender_key: None,
                    receiver_key: None,
                    data: None,
                });
            }
            _ => return None,
        };
        let fits = match (version, syn, flags.has(Flags::ACK)) {
            (Version::V0, true, _) => keys == 8,
            (Version::V0, false, _) => keys == 16,
            (Version::V1, true, false) => keys == 0,
            (Version::V1, true, true) => keys == 8,
            (Version::V1, false, _) => matches!(keys, 16 | 18 | 20),
        };
        if !fits {
            return None;
        }
        Some(Self {
            version,
            checksum: bits & 0x80 != 0,
            extensible: bits & 0x40 != 0,
            no_join_initial: version == Version::V1 && bits & 0x20 != 0,
            hmac: bits & 0x01 != 0,
            sender_key: reader.u64(),
            receiver_key: reader.u64(),
            data: reader.u16().map(|len| (len, reader.u16())),
        })
    }

    fn len(&self) -> usize {
        4 + match (self.sender_key, self.receiver_key, self.data) {
            (None, ..) => 0,
            (Some(_), None, _) => 8,
            (Some(_), Some(_), None) => 16,
            (Some(_), Some(_), Some((_, None))) => 18,
            (Some(_), Some(_), Some((_, Some(_)))) => 20,
        }
    }

    fn emit(&self, out: &mut Writer<'_>) {
        let c = self.version == Version::V1 && self.no_join_initial;
        out.u8(SUBTYPE_CAPABLE << 4 | self.version as u8);
        out.u8(u8::from(self.checksum) << 7
            | u8::from(self.extensible) << 6
            | u8::from(c) << 5
            | u8::from(self.hmac));
        // One nested in the other, as `len` counts them: no key of the receiver without the sender's.
        if let Some(sender) = self.sender_key {
            out.bytes(&sender.to_be_bytes());
            if let Some(receiver) = self.receiver_key {
                out.bytes(&receiver.to_be_bytes());
                if let Some((len, checksum)) = self.data {
                    out.bytes(&len.to_be_bytes());
                    if let Some(checksum) = checksum {
                        out.bytes(&checksum.to_be_bytes());
                    }
                }
            }
        }
    }
}

impl Join {
    fn parse(low: u8, mut reader: Reader<'_>, flags: Flags) -> Option<Self> {
        let backup = low & 1 != 0;
        let address_id = reader.u8()?;
        let (syn, ack) = (flags.has(Flags::SYN), flags.has(Flags::ACK));
        match (syn, ack, reader.left()) {
            (true, false, 8) => {
                Some(Self::Syn { backup, address_id, token: reader.u32()?, nonce: reader.u32()? })
            }
            (true, true, 12) => {
                Some(Self::SynAck { backup, address_id, mac: reader.u64()?, nonce: reader.u32()? })
            }
            (false, true, 20) => Some(Self::Ack { mac: reader.take()? }),
            _ => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Syn { .. } => 12,
            Self::SynAck { .. } => 16,
            Self::Ack { .. } => 24,
        }
    }

    fn emit(&self, out: &mut Writer<'_>) {
        match *self {
            Self::Syn { backup, address_id, token, nonce } => {
                out.bytes(&[SUBTYPE_JOIN << 4 | u8::from(backup), address_id]);
                out.bytes(&token.to_be_bytes());
                out.bytes(&nonce.to_be_bytes());
            }
            Self::SynAck { backup, address_id, mac, nonce } => {
                out.bytes(&[SUBTYPE_JOIN << 4 | u8::from(backup), address_id]);
                out.bytes(&mac.to_be_bytes());
                out.bytes(&nonce.to_be_bytes());
            }
            Self::Ack { mac } => {
                out.bytes(&[SUBTYPE_JOIN << 4, 0]);
                out.bytes(&mac);
            }
        }
    }
}

impl Dss {
    /// Whether the mapping is infinite: the sender has fallen back (RFC 8684 section 3.7).
    pub fn is_infinite(&self) -> bool {
        self.mapping.is_some_and(|mapping| mapping.len == 0)
    }

    fn parse(option: &[u8]) -> Option<Self> {
        let dss = common::Dss::read(&option, 0, option.len() as u8)?;
        let data_ack = dss
            .has(common::DSS_DATA_ACK)
            .then(|| (DataSeq(dss.data_ack), dss.has(common::DSS_DATA_ACK_LONG)));
        let mapping = dss.has(common::DSS_MAPPING).then(|| Mapping {
            dsn: DataSeq(dss.dsn),
            dsn_long: dss.has(common::DSS_DSN_LONG),
            subflow_seq: dss.subflow_seq,
            len: dss.data_len,
            // Whether there must be one is the connection's business.
            checksum: dss.has_checksum().then_some(dss.checksum),
        });
        Some(Self { data_ack, mapping, data_fin: dss.has(common::DSS_DATA_FIN) })
    }

    fn len(&self) -> usize {
        let data_ack = self.data_ack.map_or(0, |(_, long)| if long { 8 } else { 4 });
        let mapping = self.mapping.map_or(0, |mapping| {
            6 + if mapping.dsn_long { 8 } else { 4 } + if mapping.checksum.is_some() { 2 } else { 0 }
        });
        4 + data_ack + mapping
    }

    fn emit(&self, out: &mut Writer<'_>) {
        let mut bits = if self.data_fin { common::DSS_DATA_FIN } else { 0 };
        if let Some((_, long)) = self.data_ack {
            bits |= common::DSS_DATA_ACK | if long { common::DSS_DATA_ACK_LONG } else { 0 };
        }
        if let Some(mapping) = &self.mapping {
            bits |= common::DSS_MAPPING | if mapping.dsn_long { common::DSS_DSN_LONG } else { 0 };
        }
        out.bytes(&[SUBTYPE_DSS << 4, bits]);
        if let Some((ack, long)) = self.data_ack {
            out.data_seq(ack, long);
        }
        if let Some(mapping) = &self.mapping {
            out.data_seq(mapping.dsn, mapping.dsn_long);
            out.bytes(&mapping.subflow_seq.to_be_bytes());
            out.bytes(&mapping.len.to_be_bytes());
            if let Some(checksum) = mapping.checksum {
                out.bytes(&checksum.to_be_bytes());
            }
        }
    }
}

impl AddAddr {
    fn parse(low: u8, mut reader: Reader<'_>) -> Option<Self> {
        let address_id = reader.u8()?;
        // What follows: an address of 4 or 16 octets, then perhaps 2 of a port, then perhaps 8 of an HMAC.
        let (v6, port, with_mac) = match reader.left() {
            4 => (false, false, false),
            6 => (false, true, false),
            12 => (false, false, true),
            14 => (false, true, true),
            16 => (true, false, false),
            18 => (true, true, false),
            24 => (true, false, true),
            26 => (true, true, true),
            _ => return None,
        };
        let version_0 = !with_mac && low == if v6 { 6 } else { 4 };
        let echo = !version_0 && low & 1 != 0;
        // Version 1 has an HMAC exactly where there is no echo.
        if !version_0 && echo == with_mac {
            return None;
        }
        let address = if v6 {
            IpAddr::V6(Ipv6Addr::from(reader.take::<16>()?))
        } else {
            IpAddr::V4(Ipv4Addr::from(reader.take::<4>()?))
        };
        let port = if port { Some(reader.u16()?) } else { None };
        Some(Self { echo, address_id, address, port, mac: reader.u64() })
    }

    fn len(&self) -> usize {
        let address = if self.address.is_ipv6() { 16 } else { 4 };
        let port = if self.port.is_some() { 2 } else { 0 };
        let mac = if self.mac.is_some() && !self.echo { 8 } else { 0 };
        4 + address + port + mac
    }

    fn emit(&self, out: &mut Writer<'_>) {
        let low = match (self.echo, self.mac, self.address) {
            (true, ..) => 1,
            (false, Some(_), _) => 0,
            (false, None, IpAddr::V4(_)) => 4,
            (false, None, IpAddr::V6(_)) => 6,
        };
        out.bytes(&[SUBTYPE_ADD_ADDR << 4 | low, self.address_id]);
        match self.address {
            IpAddr::V4(address) => out.bytes(&address.octets()),
            IpAddr::V6(address) => out.bytes(&address.octets()),
        }
        if let Some(port) = self.port {
            out.bytes(&port.to_be_bytes());
        }
        if let Some(mac) = self.mac
            && !self.echo
        {
            out.bytes(&mac.to_be_bytes());
        }
    }
}

impl RemoveAddr {
    fn parse(reader: &Reader<'_>) -> Option<Self> {
        let ids = ArrayVec::try_from(reader.0).ok()?;
        if ids.is_empty() { None } else { Some(Self { ids }) }
    }
}

impl MptcpOption {
    /// Length of the option in octets, kind and length octets included, padding not.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Capable(capable) => capable.len(),
            Self::Join(join) => join.len(),
            Self::Dss(dss) => dss.len(),
            Self::AddAddr(add) => add.len(),
            Self::RemoveAddr(remove) => 3 + remove.ids.len(),
            Self::Priority { address_id, .. } => 3 + usize::from(address_id.is_some()),
            Self::Fail(_) | Self::FastClose(_) => 12,
            Self::Reset(_) => 4,
        }
    }
    /// Never: the shortest option has 3 octets.
    #[inline]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Appends the option to an area that has room for it.
    //= RFC 8684 3.2-3
    //= RFC 8684 3.6-2
    pub(super) fn emit(&self, area: &mut ArrayVec<u8, { super::OPTION_SPACE }>) {
        let mut out = Writer(area);
        out.bytes(&[KIND_MPTCP, self.len() as u8]);
        match self {
            Self::Capable(capable) => capable.emit(&mut out),
            Self::Join(join) => join.emit(&mut out),
            Self::Dss(dss) => dss.emit(&mut out),
            Self::AddAddr(add) => add.emit(&mut out),
            Self::RemoveAddr(remove) => {
                out.u8(SUBTYPE_REMOVE_ADDR << 4);
                out.bytes(&remove.ids);
            }
            Self::Priority { backup, address_id } => {
                out.u8(SUBTYPE_PRIO << 4 | u8::from(*backup));
                if let Some(id) = address_id {
                    out.u8(*id);
                }
            }
            Self::Fail(dsn) => {
                out.bytes(&[SUBTYPE_FAIL << 4, 0]);
                out.data_seq(*dsn, true);
            }
            Self::FastClose(close) => {
                out.bytes(&[SUBTYPE_FASTCLOSE << 4, 0]);
                out.bytes(&close.receiver_key.to_be_bytes());
            }
            Self::Reset(reset) => {
                out.bytes(&[SUBTYPE_RESET << 4 | u8::from(reset.transient), reset.reason.code()]);
            }
        }
    }
}

/// Appends to an option area whose room was counted before.
struct Writer<'a>(&'a mut ArrayVec<u8, { super::OPTION_SPACE }>);

impl Writer<'_> {
    fn u8(&mut self, octet: u8) {
        self.bytes(&[octet]);
    }
    fn bytes(&mut self, octets: &[u8]) {
        let fits = self.0.try_extend_from_slice(octets).is_ok();
        debug_assert!(fits, "an option is longer than its length says");
    }
    fn data_seq(&mut self, seq: DataSeq, long: bool) {
        if long {
            self.bytes(&seq.0.to_be_bytes());
        } else {
            self.bytes(&(seq.0 as u32).to_be_bytes());
        }
    }
}
