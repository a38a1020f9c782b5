//! Keys and values of the maps that the XDP program and user space share.
//!
//! All are `repr(C)` without padding, since the kernel compares keys octet by octet, and hold numbers in the
//! host's order except where said otherwise.

use crate::address::Address;
use core::net::SocketAddr;

/// Names of the maps in the eBPF object.
pub mod name {
    /// Hash map, [`SubflowKey`](super::SubflowKey) to [`SubflowValue`](super::SubflowValue).
    pub const SUBFLOWS: &str = "SUBFLOWS";
    /// Hash map, [`ListenerKey`](super::ListenerKey) to [`ListenerValue`](super::ListenerValue).
    pub const LISTENERS: &str = "LISTENERS";
    /// Hash map, token (`u32`, the number that the token is) to [`TokenValue`](super::TokenValue).
    pub const TOKENS: &str = "TOKENS";
    /// Array of [`InterfaceValue`](super::InterfaceValue), an open-addressed hash table by interface index.
    pub const INTERFACES: &str = "INTERFACES";
    /// Array of [`PortValue`](super::PortValue), one per local port. Memory-mapped.
    pub const PORTS: &str = "PORTS";
    /// AF_XDP sockets, placed by [`InterfaceValue::xsk_index`](super::InterfaceValue::xsk_index).
    pub const SOCKETS: &str = "SOCKETS";
    /// Array of [`Telemetry`](super::Telemetry) by slot. Memory-mapped.
    pub const TELEMETRY: &str = "TELEMETRY";
    /// Per-CPU array of one element, the counters in the order of [`Counter`](crate::counter::Counter).
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash map, [`LocalKey`](super::LocalKey) to [`LocalValue`](super::LocalValue).
    pub const LOCALS: &str = "LOCALS";
    /// Trie, [`PeerKey`](super::PeerKey) to a `u32`: not 0 if peers with the prefix are accepted.
    pub const PEERS: &str = "PEERS";
    /// Hash map that forgets what was used least, [`FragmentKey`](super::FragmentKey) to
    /// [`FragmentValue`](super::FragmentValue).
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Ring buffer of [`Event`](crate::event::Event).
    pub const EVENTS: &str = "EVENTS";
    /// Global: refusals of MP_JOIN that each CPU may send per second; 0: none, user space gets them all.
    pub const REFUSALS_PER_SECOND: &str = "REFUSALS_PER_SECOND";
    /// Global: the rule for peers that no prefix in [`PEERS`] has: [`PEERS_UNRULED`](super::PEERS_UNRULED)
    /// and so on.
    pub const OTHER_PEERS: &str = "OTHER_PEERS";
    /// The program.
    pub const PROGRAM: &str = "mptcp_xdp";
}

/// A subflow as its receiver sees it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SubflowKey {
    /// Destination address of received segments.
    pub local: Address,
    /// Source address of received segments.
    pub remote: Address,
    /// Destination port.
    pub local_port: u16,
    /// Source port.
    pub remote_port: u16,
}

impl SubflowKey {
    /// The key of a four-tuple.
    #[inline]
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local: local.ip().into(),
            remote: remote.ip().into(),
            local_port: local.port(),
            remote_port: remote.port(),
        }
    }
    /// Our side.
    #[inline]
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip(), self.local_port)
    }
    /// The peer's side.
    #[inline]
    pub fn remote_addr(&self) -> SocketAddr {
        SocketAddr::new(self.remote.ip(), self.remote_port)
    }
    /// Spreads segments without a subflow over the shards of a listener: the same four-tuple always to the
    /// same.
    #[inline(always)]
    pub const fn spread(&self, shards: u32) -> u32 {
        if shards < 2 {
            return 0;
        }
        let words = self.remote.0;
        let mixed = (words[0] ^ words[1] ^ words[2] ^ words[3])
            .wrapping_add((self.remote_port as u32) << 16 | self.local_port as u32)
            .wrapping_mul(0x9e37_79b1);
        (mixed >> 16) % shards
    }
}

/// Where segments of a subflow go.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SubflowValue {
    /// Place in the telemetry array, and what the metadata says to user space.
    pub slot: u32,
    /// The shard that owns the connection.
    pub shard: u32,
}

/// The use of a local port. It is one cache line, which is all that a segment for an unused port costs, and a
/// segment of the only subflow of a port, too.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortValue {
    /// How many subflows and listeners use it.
    pub users: u32,
    /// Not 0: the only one of them is this subflow. Written after the rest, and cleared before any of it
    /// changes. A segment that meets such a change may still be taken for the other subflow's. The program's
    /// note on it is a hint, which user space doesn't rely on.
    pub sole: u32,
    /// The subflow.
    pub subflow: SubflowKey,
    /// Where its segments go.
    pub value: SubflowValue,
    /// Nothing.
    pub unused: [u32; 3],
}

impl PortValue {
    /// Whether this is the only subflow of the port, by one comparison: the verifier follows each.
    #[inline(always)]
    pub const fn is_sole(&self, key: &SubflowKey) -> bool {
        let (own, other) = (&self.subflow, key);
        let (l, m) = (&own.local.0, &other.local.0);
        let (r, s) = (&own.remote.0, &other.remote.0);
        let ports = (own.remote_port ^ other.remote_port) as u32 | (own.local_port ^ other.local_port) as u32;
        let local = (l[0] ^ m[0]) | (l[1] ^ m[1]) | (l[2] ^ m[2]) | (l[3] ^ m[3]);
        let remote = (r[0] ^ s[0]) | (r[1] ^ s[1]) | (r[2] ^ s[2]) | (r[3] ^ s[3]);
        let matters = if self.sole == 0 { 1 } else { 0 };
        (local | remote | ports | matters) == 0
    }
}

/// An address, or the unspecified address of a family, and a port that a listener has.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerKey {
    /// The address; [`Address::ANY_V4`] and [`Address::ANY_V6`] for all of a family.
    pub address: Address,
    /// The port, in 32 bits so that there is no padding.
    pub port: u32,
}

impl ListenerKey {
    /// The key of a listener's address.
    #[inline]
    pub fn new(local: SocketAddr) -> Self {
        Self { address: local.ip().into(), port: u32::from(local.port()) }
    }
}

/// The shards that have the listener.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListenerValue {
    /// The first shard.
    pub shard: u32,
    /// How many shards, from the first one on; connections are spread over them. 0 counts as 1.
    pub shards: u32,
}

/// An address that means this host, or a subnet of its.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LocalKey {
    /// The address.
    pub address: Address,
    /// The interface, where the address means something on its link only; otherwise 0.
    pub scope: u32,
}

impl LocalKey {
    /// The key of an address that is assigned to an interface, or that a packet has that came by it.
    #[inline(always)]
    pub const fn new(address: Address, interface: u32) -> Self {
        Self { address, scope: if address.is_link_local() { interface } else { 0 } }
    }
}

/// The meaning of an address in [`name::LOCALS`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalValue {
    /// [`LOCAL_OWN`] or [`LOCAL_BROADCAST`].
    pub kind: u32,
}

/// [`LocalValue::kind`]: an address of this host, whichever interface has it.
pub const LOCAL_OWN: u32 = 1;
/// [`LocalValue::kind`]: a broadcast address of one of this host's subnets.
pub const LOCAL_BROADCAST: u32 = 2;

/// A prefix of peers' addresses, as tries of the kernel have it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerKey {
    /// Bits of the rest that count: 32 for the family, and those of the address.
    pub length: u32,
    /// 4 or 6 in the order of the wire, so that `::/0` doesn't hold the mapped addresses.
    pub family: u32,
    /// The address.
    pub address: Address,
}

impl PeerKey {
    /// Key of the prefix of `length` bits of an address: of its 32 for IPv4.
    #[inline(always)]
    pub const fn new(address: Address, length: u32) -> Self {
        let (family, front): (u32, u32) = if address.is_v4() { (4, 96) } else { (6, 0) };
        Self { length: 32 + front + length, family: family.to_be(), address }
    }
    /// Key to look up an address with: all of its bits.
    #[inline(always)]
    pub const fn of(address: Address) -> Self {
        Self { length: 32 + 128, ..Self::new(address, 0) }
    }
}

/// [`name::OTHER_PEERS`]: there are no rules.
pub const PEERS_UNRULED: u32 = 0;
/// [`name::OTHER_PEERS`]: others are accepted.
pub const PEERS_ACCEPTED: u32 = 1;
/// [`name::OTHER_PEERS`]: others are refused.
pub const PEERS_REFUSED: u32 = 2;

/// A TCP segment that comes in fragments.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey {
    /// Source address.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Identification.
    pub id: u32,
}

/// Where the fragments of a segment go, as the first of them has told.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentValue {
    /// When the first came: nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// The shard.
    pub shard: u32,
    /// Nothing.
    pub unused: u32,
}

/// How long after the first fragment of a segment the others are taken for its, in nanoseconds. The
/// identifications of IPv4 come again after some seconds at high rates (RFC 6864, RFC 4963).
pub const FRAGMENT_LIFE_NS: u64 = 1_000_000_000;

/// The shard that has the connection of a token.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TokenValue {
    /// The shard.
    pub shard: u32,
}

/// Elements of [`name::INTERFACES`]; a power of two.
pub const INTERFACE_TABLE: u32 = 1024;
/// Places looked at for an interface: its index modulo [`INTERFACE_TABLE`], and those after it.
pub const INTERFACE_PROBES: u32 = 4;

/// An interface with AF_XDP sockets: one for each shard and receive queue.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InterfaceValue {
    /// Interface index; 0: nothing here.
    pub index: u32,
    /// First place in [`name::SOCKETS`] that belongs to the interface.
    pub xsk_base: u32,
    /// Receive queues.
    pub queues: u32,
    /// Shards.
    pub shards: u32,
}

impl InterfaceValue {
    /// Place of the socket for a shard and a receive queue; none if there is no such shard or queue.
    #[inline(always)]
    pub const fn xsk_index(&self, shard: u32, queue: u32) -> Option<u32> {
        if shard >= self.shards || queue >= self.queues {
            return None;
        }
        Some(self.xsk_base.wrapping_add(shard.wrapping_mul(self.queues)).wrapping_add(queue))
    }
}

/// The last state that the program saw of a subflow. The XDP program writes it without locks: packets of one
/// subflow come by one receive queue, hence by one CPU. Where they don't, counts may lose a packet; nothing
/// else can happen.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Telemetry {
    /// Packets received.
    pub packets: u64,
    /// Octets of payload received, retransmissions included.
    pub octets: u64,
    /// Data sequence number of the last mapping, as many bits as the option had.
    pub dsn: u64,
    /// Last Data ACK, as many bits as the option had.
    pub data_ack: u64,
    /// When the last packet came: nanoseconds of CLOCK_MONOTONIC at the last tick of the system timer.
    pub seen_ns: u64,
    /// Subflow sequence number of the last mapping.
    pub subflow_seq: u32,
    /// Length of the last mapping.
    pub data_len: u32,
    /// TCP acknowledgment number of the last packet.
    pub ack: u32,
    /// TCP window of the last packet, not scaled.
    pub window: u32,
    /// Packets with a DSS.
    pub dss_packets: u64,
}

/// Elements of the per-CPU array of refusals: the second they count for, and their number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals {
    /// Start of the second, nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Refusals in it.
    pub count: u64,
}

const _: () = {
    assert!(size_of::<SubflowKey>() == 36);
    assert!(size_of::<SubflowValue>() == 8);
    assert!(size_of::<PortValue>() == 64);
    assert!(size_of::<ListenerKey>() == 20);
    assert!(size_of::<ListenerValue>() == 8);
    assert!(size_of::<InterfaceValue>() == 16);
    assert!(size_of::<LocalKey>() == 20);
    assert!(size_of::<PeerKey>() == 24);
    assert!(size_of::<FragmentKey>() == 36);
    assert!(size_of::<FragmentValue>() == 16);
    assert!(size_of::<Telemetry>() == 64);
    assert!(INTERFACE_TABLE.is_power_of_two());
};

#[cfg(feature = "aya")]
mod pod {
    // SAFETY: all are `repr(C)` of integers without padding (the sizes are asserted above).
    unsafe impl aya::Pod for super::SubflowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SubflowValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ListenerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ListenerValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::TokenValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::InterfaceValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Telemetry {}
}
