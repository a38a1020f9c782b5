//! One TCP segment, parsed, with the addresses of the IP packet that carries it.

use super::{Payload, SeqNumber, TcpOptions};
use std::fmt;
use std::net::SocketAddr;

/// The TCP header's flag bits (RFC 9293 section 3.1; AE from RFC 9768), in their place on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgment field is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);
    /// Accurate ECN (RFC 9768).
    pub const AE: Flags = Flags(0x100);

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
    /// The bits of both.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
    /// `self` without the bits of `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Flags, &str); 9] = [
            (Flags::SYN, "S"),
            (Flags::FIN, "F"),
            (Flags::RST, "R"),
            (Flags::PSH, "P"),
            (Flags::ACK, "."),
            (Flags::URG, "U"),
            (Flags::ECE, "E"),
            (Flags::CWR, "W"),
            (Flags::AE, "A"),
        ];
        NAMES.iter().filter(|(flag, _)| self.has(*flag)).try_for_each(|(_, name)| f.write_str(name))
    }
}

/// The ECN code point of the IP header (RFC 3168 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct = 0,
    /// ECN-capable, ECT(1).
    Ect1 = 1,
    /// ECN-capable, ECT(0).
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

/// A TCP segment with its addresses. `src` and `dst` are of one family.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Sender's address and port.
    pub src: SocketAddr,
    /// Receiver's address and port.
    pub dst: SocketAddr,
    /// Sequence number of the first octet of the payload (of the SYN, where there is one).
    pub seq: SeqNumber,
    /// Next octet expected; significant with [`Flags::ACK`] only.
    pub ack: SeqNumber,
    /// Flag bits.
    pub flags: Flags,
    /// The window field as on the wire, not scaled.
    pub window: u16,
    /// Options, parsed.
    pub options: TcpOptions,
    /// What the segment carries: more than `gso_size` octets make it a super-segment.
    pub payload: Payload,
    /// Payload octets per packet when a super-segment is cut; 0: it fits one packet.
    pub gso_size: u16,
    /// ECN code point of the IP header.
    pub ecn: Ecn,
}

impl Segment {
    /// An empty segment between two addresses.
    pub fn new(src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            src,
            dst,
            seq: SeqNumber(0),
            ack: SeqNumber(0),
            flags: Flags::default(),
            window: 0,
            options: TcpOptions::default(),
            payload: Payload::new(),
            gso_size: 0,
            ecn: Ecn::NotEct,
        }
    }
    /// Length in sequence space: payload, SYN and FIN (RFC 9293, SEG.LEN).
    #[inline]
    pub fn seq_len(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.flags.has(Flags::SYN))
            + u32::from(self.flags.has(Flags::FIN))
    }
    /// Sequence number after the segment.
    #[inline]
    pub fn seq_end(&self) -> SeqNumber {
        self.seq + self.seq_len()
    }
    /// How many packets this segment is on the wire.
    #[inline]
    pub fn packets(&self) -> usize {
        if self.gso_size == 0 { 1 } else { self.payload.len().div_ceil(usize::from(self.gso_size)).max(1) }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} [{:?}] seq {:?}", self.src, self.dst, self.flags, self.seq)?;
        if self.flags.has(Flags::ACK) {
            write!(f, " ack {:?}", self.ack)?;
        }
        write!(f, " win {} len {} {:?}", self.window, self.payload.len(), self.options)
    }
}
