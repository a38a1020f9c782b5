//! What can be chosen, for the whole endpoint and for one connection.

use super::interface_rule::InterfaceRule;
use super::peers::PeerRules;
use crate::wire::Version;
use std::time::Duration;

/// Choices for one connection (or for those that a listener accepts).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionConfig {
    /// Offer or accept Multipath TCP; otherwise the connection is regular TCP.
    pub multipath: bool,
    /// Versions of Multipath TCP that are spoken.
    pub versions: Versions,
    /// Ask for DSS checksums (RFC 8684 section 3.1, flag A). They are also used when only the peer asks.
    pub checksum: bool,
    /// Largest number of subflows at once, the initial one included; at most [`MAX_SUBFLOWS`](Self::MAX_SUBFLOWS).
    pub max_subflows: usize,
    /// Addresses of the peer that are accepted from its ADD_ADDRs, at once; at most
    /// [`MAX_ADDRESSES`](Self::MAX_ADDRESSES). With 0 none is.
    pub max_addresses: usize,
    /// How many subflows the path manager `ndiffports` wants between one pair of addresses, the initial one included.
    pub ndiffports: usize,
    /// What interfaces may be used for. The first rule that fits an interface decides; without one it may be used.
    pub interface_rules: Vec<InterfaceRule>,
    /// When a path is left while another one works: nothing that was sent over it is acknowledged for so long after it
    /// should have been. Four mean deviations of the round-trip time (100 ms at least) are enough to say so earlier.
    pub path_timeout: Duration,
    /// When further subflows are opened, and this host's other addresses announced.
    pub subflow_start: SubflowStart,
    /// Announce this host's other addresses to the peer (ADD_ADDR).
    pub announce_addresses: bool,
    /// Announce them with this port instead of that of the initial subflow. The driver keeps it free for that.
    pub announce_port: Option<u16>,
    /// Ask the peer not to open subflows to the address and port that the connection begins with (RFC 8684 section
    /// 3.1, flag C), for servers behind a load balancer.
    pub no_join_initial: bool,
    /// Most octets that may wait in the send buffer, unacknowledged ones included. It begins small, and grows with the
    /// congestion windows.
    pub send_buffer: usize,
    /// Most octets that may wait in the receive buffer, which is what the advertised window is made from. It begins small,
    /// and grows with what the application reads in a round trip.
    pub receive_buffer: usize,
    /// Hold back a segment that is not full while another such one waits for its acknowledgment (Nagle's algorithm).
    /// Fewer small segments for a delay of up to a round trip; off by default, as in the Linux kernel for Multipath TCP.
    pub nagle: bool,
    /// Name of the congestion control algorithm.
    pub congestion: String,
    /// Name of the packet scheduler.
    pub scheduler: String,
    /// What to do about a slow subflow that holds up the peer's window.
    pub opportunism: Opportunism,
    /// Name of the path manager.
    pub path_manager: String,
    /// How long to try to set up a connection.
    pub connect_timeout: Duration,
    /// How long the connection may go without an acknowledgment for outstanding data on any subflow, or
    /// without any address to send from, before it is given up (RFC 9293 section 3.8.3; RFC 5482). 15 minutes
    /// by default: RFC 9293 wants 100 seconds at least, the Linux kernel comes to 924 seconds
    /// (`tcp_retries2`), and somebody who changes trains or rides through a tunnel is without any network for
    /// minutes. The price is what the peers that have vanished hold meanwhile: their unacknowledged octets,
    /// which [`EndpointConfig::memory`] bounds, and their places among [`EndpointConfig::max_connections`].
    pub user_timeout: Duration,
    /// Tell the peer the user timeout, and let the longer one of both sides count (RFC 5482).
    pub negotiate_user_timeout: bool,
    /// Probe subflows over which nothing is heard (RFC 9293 section 3.8.4, which wants it off by default): a peer that
    /// vanished while both sides were silent is not noticed otherwise.
    pub keep_alive: Option<KeepAlive>,
    /// Check paths over which nothing is heard (Multipath TCP only): five seconds after a stream breaks off,
    /// thirty after anything else, and each time that the peer answers after twice as long, up to this time
    /// (25 minutes by default). Up to a quarter more of each wait is left to chance. Where there is no
    /// answer, the side that opened the subflow opens another one between the same addresses from another
    /// port, and leaves the silent one once that works; the other side uses other subflows. On by default,
    /// unlike a keep-alive, since it never ends a connection: routers forget four-tuples, and a client that
    /// waits for its server would wait for ever. An idle subflow costs 14 packets in the first hour and five
    /// in each later one, answers included.
    pub path_check: Option<Duration>,
    /// Explicit congestion notification.
    pub ecn: EcnPolicy,
}

/// How long a connection makes do with one subflow, as long as that works: setting up another one takes as many segments
/// as a short connection has in all (RFC 8684 section 3.9.2, "Delayed Subflow Start").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubflowStart {
    /// Octets that the application has handed over and that have come, together, after which there are more at once.
    pub octets: u64,
    /// Time after which there are more in any case. Not less than two round trips, unless it is zero.
    pub age: Duration,
}

impl SubflowStart {
    /// With the connection.
    pub const AT_ONCE: SubflowStart = SubflowStart { octets: 0, age: Duration::ZERO };
}

impl Default for SubflowStart {
    /// Most of an initial window (RFC 6928), so that one that is full tells the peer, too; or 10 ms.
    fn default() -> Self {
        Self { octets: 10_000, age: Duration::from_millis(10) }
    }
}

/// Whether subflows use explicit congestion notification (RFC 3168, RFC 9768).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EcnPolicy {
    /// Never.
    Off,
    /// When the peer asks for it.
    #[default]
    Accept,
    /// Ask for it: the accurate one, or the classic one if the peer knows no other.
    Ask,
}

/// Versions of Multipath TCP that a connection may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Versions {
    /// Ask for version 1; accept what the peer asks for. A peer that knows version 0 alone answers with regular TCP.
    #[default]
    Auto,
    /// Version 0 only (RFC 6824).
    Zero,
    /// Version 1 only (RFC 8684).
    One,
}

impl Versions {
    /// Whether a peer may ask for this version.
    pub(crate) fn accept(self, version: Version) -> bool {
        self == Self::Auto || self.asked() == version
    }

    /// The version to ask for.
    pub(crate) fn asked(self) -> Version {
        if self == Self::Zero { Version::V0 } else { Version::V1 }
    }
}

/// What a connection does when the peer's window is full, a subflow has room, and an octet on a slower one is what the
/// window waits for (RFC 8041 section 4.2). Schedulers that send everything everywhere have no use for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Opportunism {
    /// It waits.
    #[default]
    Off,
    /// The faster subflow sends the octets again that the window waits for.
    Retransmit,
    /// That, and the congestion window of the slower one is halved, once in each of its round trips at most.
    Penalise,
}

/// When silent subflows are probed. One that does not answer is closed; if it was the last one, so is the
/// connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer before the subflow is given up.
    pub probes: u32,
}

impl Default for KeepAlive {
    /// As the Linux kernel has it: two hours, 75 seconds, nine probes.
    fn default() -> Self {
        Self { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), probes: 9 }
    }
}

impl ConnectionConfig {
    /// The most that [`max_subflows`](Self::max_subflows) may be.
    pub const MAX_SUBFLOWS: usize = 32;
    /// The most that [`max_addresses`](Self::max_addresses) may be.
    pub const MAX_ADDRESSES: usize = super::connection::MAX_REMOTE - 1;

    /// Names that [`congestion`](Self::congestion) may have.
    pub fn congestion_algorithms() -> impl Iterator<Item = &'static str> {
        super::congestion::ALGORITHMS.iter().map(|(name, ..)| *name)
    }
    /// Names that [`scheduler`](Self::scheduler) may have.
    pub fn schedulers() -> impl Iterator<Item = &'static str> {
        super::scheduler::POLICIES.iter().map(|(name, ..)| *name)
    }
    /// What a congestion control algorithm or a scheduler of this name is for, in a line.
    pub fn purpose(name: &str) -> Option<&'static str> {
        let algorithms = super::congestion::ALGORITHMS.iter().map(|(name, purpose, _)| (*name, *purpose));
        let schedulers = super::scheduler::POLICIES.iter().map(|(name, purpose, _)| (*name, *purpose));
        algorithms.chain(schedulers).find(|(known, _)| *known == name).map(|(_, purpose)| purpose)
    }
    /// Names that [`path_manager`](Self::path_manager) may have.
    pub fn path_managers() -> impl Iterator<Item = &'static str> {
        super::path::POLICIES.iter().map(|(name, _)| *name)
    }
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            multipath: true,
            versions: Versions::default(),
            checksum: false,
            max_subflows: 8,
            max_addresses: 8,
            ndiffports: 2,
            interface_rules: Vec::new(),
            path_timeout: Duration::from_millis(500),
            subflow_start: SubflowStart::default(),
            announce_addresses: true,
            announce_port: None,
            no_join_initial: false,
            send_buffer: 16 << 20,
            receive_buffer: 16 << 20,
            nagle: false,
            congestion: "cubic".into(),
            scheduler: "lowest-rtt".into(),
            opportunism: Opportunism::default(),
            path_manager: "full-mesh".into(),
            connect_timeout: Duration::from_secs(30),
            user_timeout: Duration::from_secs(900),
            negotiate_user_timeout: false,
            keep_alive: None,
            path_check: Some(Duration::from_secs(1500)),
            ecn: EcnPolicy::default(),
        }
    }
}

/// Choices for the endpoint: bounds on what peers can make it keep.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Most connections at once, half-open ones included.
    pub max_connections: usize,
    /// Most connections of one listener that are not accepted yet.
    pub backlog: usize,
    /// Largest super-segment payload handed to the driver, in octets.
    pub max_super_segment: usize,
    /// Octets that all connections may hold together, sent and received, with what holding them costs. As they become
    /// scarce, windows become smaller.
    pub memory: u64,
    /// How long a destination that does not like Multipath TCP is connected to with regular TCP, the first time; zero:
    /// never. It doubles with each failure after that (as `net.mptcp.blackhole_timeout` of the Linux kernel).
    pub blackhole_timeout: Duration,
    /// How long nothing happens on a connection until it is written down in a fraction of the memory: a tenth of that where
    /// hundreds are not, and more where rests are ended soon. To the peer and the application it makes no difference.
    pub rest_after: Duration,
    /// With whom connections are accepted and made, and subflows of them.
    pub peers: PeerRules,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            max_connections: 200_000,
            backlog: 1024,
            max_super_segment: 64_000,
            memory: 1 << 30,
            blackhole_timeout: Duration::from_secs(3600),
            rest_after: Duration::from_millis(100),
            peers: PeerRules::default(),
        }
    }
}
