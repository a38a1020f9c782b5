//! Events that the XDP program sends to user space through a ring buffer, besides packets.

use crate::maps::SubflowKey;

/// The subject of an [`Event`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum EventKind {
    /// An ICMP error quotes a segment of a subflow of ours. The kernel gets the packet, too: it keeps the
    /// path MTU of its route cache by it.
    Unreachable = 1,
    /// The limit of refused MP_JOINs per second was reached (at most one such event per second and CPU).
    RefusalsLimited = 2,
}

/// [`Event::flags`]: the quoted segment was too big; [`Event::mtu`] says for what.
pub const EVENT_TOO_BIG: u32 = 1;
/// [`Event::flags`]: the condition won't go away by itself.
pub const EVENT_HARD: u32 = 2;

/// One event. Fields that its kind has no use for are 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When: nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// [`EventKind`] as a number.
    pub kind: u32,
    /// Interface index.
    pub interface: u32,
    /// Slot of the subflow.
    pub slot: u32,
    /// Shard of the subflow.
    pub shard: u32,
    /// [`EVENT_TOO_BIG`], [`EVENT_HARD`].
    pub flags: u32,
    /// MTU of the link that the segment was too big for; 0: unknown.
    pub mtu: u32,
    /// Sequence number of the quoted segment.
    pub seq: u32,
    /// The subflow.
    pub key: SubflowKey,
}

/// Octets of an event.
pub const EVENT_LEN: usize = size_of::<Event>();

const _: () = assert!(EVENT_LEN == 8 + 7 * 4 + 36);

impl Event {
    /// Reads an event as it lies in the ring buffer; none if the length is another one.
    #[inline]
    pub fn read(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; EVENT_LEN] = octets.try_into().ok()?;
        // SAFETY: as many octets as an `Event` has, any value of which is one: integers without padding.
        Some(unsafe { core::mem::transmute::<[u8; EVENT_LEN], Event>(*octets) })
    }
    /// The subject; none for a number that this version doesn't know.
    pub const fn kind(&self) -> Option<EventKind> {
        match self.kind {
            1 => Some(EventKind::Unreachable),
            2 => Some(EventKind::RefusalsLimited),
            _ => None,
        }
    }
}
