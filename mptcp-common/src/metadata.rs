//! The XDP program's notes on a packet, directly in front of it.
//!
//! The metadata area ends where the packet begins, so the part that is always there comes last. Kernels
//! before 6.9 allow 32 octets, later ones 252: the *long* form has 64, the *short* form is its second half.
//! With the short form, user space reads the DSS from the packet at [`Metadata::dss_at`] with the same
//! decoder.
//!
//! Some drivers have no room for metadata at all. User space could not tell that from old octets in a reused
//! frame; so it calls [`Metadata::clear`] on each frame before it gives it back to the kernel.

use crate::headers::ETHERNET_LEN;
use crate::options::{DSS_DATA_ACK, DSS_DATA_ACK_LONG, DSS_DSN_LONG, DSS_MAPPING, Dss, SUBTYPE_DSS};

/// Octets of the long form.
pub const LONG_LEN: usize = 64;
/// Octets of the short form.
pub const SHORT_LEN: usize = 32;
/// The last four octets before the packet.
pub const MAGIC: u32 = 0x4d50_5831;

/// Why user space got the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A segment of the subflow in [`Metadata::slot`].
    Subflow = 1,
    /// A SYN for a listener.
    ListenerSyn = 2,
    /// Any other segment for a listener that belongs to no subflow.
    ListenerSegment = 3,
    /// A SYN with MP_JOIN and a token of ours.
    Join = 4,
    /// A SYN with MP_JOIN and an unknown token for a listener: to be refused.
    JoinToRefuse = 5,
}

impl Kind {
    /// The kind with this number.
    pub const fn from_u8(kind: u8) -> Option<Kind> {
        Some(match kind {
            1 => Kind::Subflow,
            2 => Kind::ListenerSyn,
            3 => Kind::ListenerSegment,
            4 => Kind::Join,
            5 => Kind::JoinToRefuse,
            _ => return None,
        })
    }
}

/// [`Metadata::flags`]: the first half is there.
pub const FLAG_LONG: u8 = 1;
/// [`Metadata::flags`]: the mapping has a checksum; as a number, the checksum's octets.
pub const FLAG_CHECKSUM: u8 = 2;
/// [`Metadata::flags`]: there is a DSS and it is well-formed.
pub const FLAG_DSS: u8 = 4;
/// Place in [`Metadata::flags`] of the number of VLAN tags.
pub const FLAG_VLANS_SHIFT: u8 = 6;

/// The long form. All numbers are in the host's order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Data ACK of the DSS; long form only, like all up to [`ts_echo`](Self::ts_echo).
    pub data_ack: u64,
    /// Data sequence number of the mapping.
    pub dsn: u64,
    /// Subflow sequence number of the mapping, relative.
    pub subflow_seq: u32,
    /// Length of the mapping.
    pub data_len: u16,
    /// Checksum of the mapping, as on the wire.
    pub checksum: u16,
    /// TSval of the timestamps option; means something only if [`ts_at`](Self::ts_at) is not 0.
    pub ts_value: u32,
    /// TSecr, likewise.
    pub ts_echo: u32,

    /// When the kernel received the packet: nanoseconds of CLOCK_MONOTONIC at the last tick of the system
    /// timer.
    pub received_ns: u64,
    /// Slot of the subflow ([`Kind::Subflow`]), otherwise [`NO_SLOT`].
    pub slot: u32,
    /// Offset of the TCP header in the packet.
    pub l4: u16,
    /// Offset of the payload in the packet.
    pub payload: u16,
    /// Octets of payload, by the length in the IP header: not checked against the packet's.
    pub payload_len: u16,
    /// Options of Multipath TCP seen: bit n for subtype n.
    pub subtypes: u16,
    /// Offset of the DSS in the packet; 0: none.
    pub dss_at: u16,
    /// Offset of the timestamps option in the packet; 0: none.
    pub ts_at: u16,
    /// Flags of the DSS ([`DSS_DATA_ACK`] and so on).
    pub dss_flags: u8,
    /// Not 0: there are other options than timestamps and those of Multipath TCP, one of these came twice, or
    /// something makes no sense ([`Scan::extra`](crate::options::Scan::extra)).
    pub extra: u8,
    /// [`Kind`] as a number.
    pub kind: u8,
    /// [`FLAG_LONG`] and so on.
    pub flags: u8,
    /// [`MAGIC`].
    pub magic: u32,
}

/// [`Metadata::slot`] of a segment that belongs to no subflow.
pub const NO_SLOT: u32 = u32::MAX;

const _: () = {
    assert!(size_of::<Metadata>() == LONG_LEN);
    assert!(core::mem::offset_of!(Metadata, received_ns) == LONG_LEN - SHORT_LEN);
    assert!(core::mem::offset_of!(Metadata, magic) == LONG_LEN - 4);
};

impl Metadata {
    /// Reads the metadata from the octets before a packet: `before` ends where the packet begins. None if
    /// there is none, because the driver has no room for it or `before` is too short.
    #[inline]
    pub fn read(before: &[u8]) -> Option<Self> {
        let short: &[u8; SHORT_LEN] = before.last_chunk()?;
        if short.last_chunk() != Some(&MAGIC.to_ne_bytes()) {
            return None;
        }
        let mut octets = [0; LONG_LEN];
        octets[LONG_LEN - SHORT_LEN..].copy_from_slice(short);
        if octets[FLAGS_AT] & FLAG_LONG != 0 {
            octets = *before.last_chunk()?;
        }
        // SAFETY: 64 octets, any value of which is a `Metadata`: integers without padding.
        Some(unsafe { core::mem::transmute::<[u8; LONG_LEN], Metadata>(octets) })
    }

    /// Makes [`read`](Self::read) find nothing. `before` ends where a packet was, and the next one will be.
    #[inline]
    pub fn clear(before: &mut [u8]) {
        if let Some(magic) = before.last_chunk_mut::<4>() {
            *magic = [0; 4];
        }
    }

    /// Why user space got the packet.
    #[inline]
    pub const fn kind(&self) -> Option<Kind> {
        Kind::from_u8(self.kind)
    }

    /// The DSS, if there is a well-formed one and the form is the long one.
    #[inline]
    pub fn dss(&self) -> Option<Dss> {
        if self.flags & (FLAG_DSS | FLAG_LONG) != FLAG_DSS | FLAG_LONG {
            return None;
        }
        Some(Dss {
            flags: self.dss_flags,
            checksum_len: self.flags & FLAG_CHECKSUM,
            data_ack: self.data_ack,
            dsn: self.dsn,
            subflow_seq: self.subflow_seq,
            data_len: self.data_len,
            checksum: self.checksum,
        })
    }

    /// TSval and TSecr, if the packet has them and the form is the long one.
    #[inline]
    pub const fn timestamps(&self) -> Option<(u32, u32)> {
        if self.flags & FLAG_LONG != 0 && self.ts_at != 0 {
            Some((self.ts_value, self.ts_echo))
        } else {
            None
        }
    }

    /// Whether this says all about the segment's options: nothing but timestamps and a well-formed DSS, and
    /// here they are. Otherwise user space reads the options from the packet.
    #[inline]
    pub const fn complete(&self) -> bool {
        self.flags & FLAG_LONG != 0
            && self.extra == 0
            && self.subtypes & !(1 << SUBTYPE_DSS) == 0
            && (self.dss_at == 0 || self.flags & FLAG_DSS != 0)
    }

    /// Offset of the IP header in the packet.
    #[inline]
    pub const fn l3(&self) -> usize {
        ETHERNET_LEN + 4 * (self.flags >> FLAG_VLANS_SHIFT) as usize
    }

    /// Number of bits of Data ACK and data sequence number on the wire: 0 (not there), 32 or 64.
    #[inline]
    pub const fn widths(&self) -> (u32, u32) {
        const fn width(flags: u8, present: u8, long: u8) -> u32 {
            match (flags & present != 0, flags & long != 0) {
                (false, _) => 0,
                (true, false) => 32,
                (true, true) => 64,
            }
        }
        (
            width(self.dss_flags, DSS_DATA_ACK, DSS_DATA_ACK_LONG),
            width(self.dss_flags, DSS_MAPPING, DSS_DSN_LONG),
        )
    }
}

/// Place of [`Metadata::flags`].
const FLAGS_AT: usize = core::mem::offset_of!(Metadata, flags);
