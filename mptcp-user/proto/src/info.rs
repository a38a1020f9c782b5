//! What is known of a connection, for people and programs.

use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;

/// State of a connection at the data level (RFC 8684 section 3.3.3, names as in RFC 9293).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionState {
    /// The initial subflow's handshake is under way.
    Connecting,
    /// Both directions are open.
    Established,
    /// We have sent DATA_FIN (or FIN, after fallback); the peer has not.
    FinWait,
    /// The peer has finished; we have not.
    CloseWait,
    /// Both sides have finished; acknowledgments or subflows are still outstanding.
    Closing,
    /// Gone.
    Closed,
}

/// Why a connection continues as regular TCP (RFC 8684 section 3.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FallbackReason {
    /// Multipath TCP was not asked for on this side.
    NotRequested,
    /// The peer's SYN or SYN/ACK had no usable MP_CAPABLE.
    NoMpCapable,
    /// The SYN was answered only after MP_CAPABLE had been left out of it.
    SynRetransmission,
    /// The destination is remembered as one that does not like Multipath TCP.
    DestinationRemembered,
    /// The third ACK, or the first data, came without the option.
    OptionStripped,
    /// Data came without a mapping.
    MappingMissing,
    /// The DSS checksum did not match.
    ChecksumFailed,
    /// The peer sent an infinite mapping.
    PeerFellBack,
    /// The peer sent MP_FAIL: a DSS checksum did not match there.
    PeerChecksumFailed,
}

/// State of a subflow's TCP (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the RFC's names
pub enum SubflowState {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// What is known of one subflow. Octets are payload octets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
pub struct SubflowInfo {
    /// Slot in the shared telemetry array while the subflow lives.
    pub slot: u32,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Interface index of our address; 0 where not known.
    pub interface: u32,
    /// Whether this is the subflow the connection began with.
    pub initial: bool,
    /// Whether the peer is known to have accepted it: both proved to have the keys, if it joined.
    pub confirmed: bool,
    /// State of the subflow's TCP.
    pub state: SubflowState,
    /// Whether either side asked to use it as backup only.
    pub backup: bool,
    /// Whether the path is suspected dead: timeouts in a row and nothing heard.
    pub stale: bool,
    /// Octets sent, retransmitted ones included.
    pub bytes_sent: u64,
    /// Octets the peer acknowledged.
    pub bytes_acked: u64,
    /// In-order octets received.
    pub bytes_received: u64,
    /// Octets sent again on this subflow.
    pub bytes_retransmitted: u64,
    /// Segments received and sent (super-segments count once).
    pub segments_received: u64,
    /// Segments sent (super-segments count once).
    pub segments_sent: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Times the sender entered fast recovery.
    pub fast_recoveries: u64,
    /// Smoothed round-trip time.
    pub srtt: Option<Duration>,
    /// Smallest round-trip time seen.
    pub min_rtt: Option<Duration>,
    /// Retransmission timeout.
    pub rto: Duration,
    /// Congestion window in octets.
    pub cwnd: u64,
    /// Slow-start threshold in octets, once there is one.
    pub ssthresh: Option<u64>,
    /// Octets in flight.
    pub in_flight: u64,
    /// Largest TCP payload of one packet, options counted with it, in octets.
    pub mss: u32,
    /// Largest packet that the path is believed to take, in octets: what that and the headers of IP and TCP make.
    pub path_mtu: u32,
}

/// How long octets that were received have waited for earlier ones that came over another subflow, or did not come at
/// first: head-of-line delay at the data level. What a subflow waits for its own lost segments is not in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct HeadOfLineInfo {
    /// Octets that had to wait; out of [`bytes_received`](ConnectionInfo::bytes_received).
    pub octets: u64,
    /// How long each of those waited on average.
    pub mean: Duration,
    /// How long one of them waited at most.
    pub longest: Duration,
}

/// What is known of a connection. Octets are data-level octets unless said otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ConnectionInfo {
    /// State at the data level.
    pub state: ConnectionState,
    /// Protocol version in use; none after fallback or with regular TCP.
    pub version: Option<u8>,
    /// Why the connection is regular TCP, if it is.
    pub fallback: Option<FallbackReason>,
    /// Whether DSS checksums are in use.
    pub checksum: bool,
    /// Our token, by which the peer's MP_JOIN finds us.
    pub local_token: Option<u32>,
    /// The peer's token.
    pub remote_token: Option<u32>,
    /// Octets the application handed over and that were sent at least once.
    pub bytes_sent: u64,
    /// Octets the peer acknowledged at the data level.
    pub bytes_acked: u64,
    /// Octets delivered in order to the application.
    pub bytes_received: u64,
    /// Octets sent again on another subflow than before.
    pub bytes_reinjected: u64,
    /// How long octets received have waited for earlier ones.
    pub head_of_line: HeadOfLineInfo,
    /// Octets in the send buffer.
    pub send_queue: u64,
    /// Octets in the receive buffer, in order or not.
    pub receive_queue: u64,
    /// Octets that the send buffer may hold by now.
    pub send_buffer: u64,
    /// Most octets that the send buffer may grow to.
    pub send_buffer_limit: u64,
    /// Octets that the receive buffer may hold by now.
    pub receive_buffer: u64,
    /// Most octets that the receive buffer may grow to.
    pub receive_buffer_limit: u64,
    /// Window we offer, in octets.
    pub receive_window: u64,
    /// Window the peer offers, in octets, relative to its last Data ACK.
    pub send_window: u64,
    /// Name of the congestion control algorithm.
    pub congestion: String,
    /// Name of the scheduler.
    pub scheduler: String,
    /// Name of the path manager.
    pub path_manager: String,
    /// Subflows, living ones first in the order of their birth, then those that have ended (the most recent 32).
    pub subflows: Vec<SubflowInfo>,
}
