//! Counters of packets by their fate, one set per CPU.

use crate::headers::Reason;

/// The fate of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// To user space, through AF_XDP.
    Redirect,
    /// To the kernel, untouched.
    Pass,
    /// Answered at once.
    Transmit,
    /// Nowhere.
    Drop,
    /// None: this counts something that happens besides.
    Besides,
}

impl Verdict {
    /// The verdict in a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Redirect => "redirect",
            Verdict::Pass => "pass",
            Verdict::Transmit => "transmit",
            Verdict::Drop => "drop",
            Verdict::Besides => "besides",
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $verdict:ident, $text:literal;)*) => {
        /// Why a packet got its verdict. Each packet counts once among those with a verdict.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $name,)*
        }

        impl Counter {
            /// All counters in the order of their places.
            pub const ALL: &[Counter] = &[$(Counter::$name,)*];

            /// The verdict that it counts.
            pub const fn verdict(self) -> Verdict {
                match self {
                    $(Counter::$name => Verdict::$verdict,)*
                }
            }
            /// Its name for programs: lower case, with underscores.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$name => $text,)*
                }
            }
        }
    };
}

counters! {
    /// A segment of a subflow of ours.
    Subflow = Redirect, "subflow";
    /// A SYN for a listener of ours.
    ListenerSyn = Redirect, "listener_syn";
    /// Any other segment without a subflow for a listener of ours.
    ListenerSegment = Redirect, "listener_segment";
    /// A SYN with MP_JOIN and a token of ours.
    Join = Redirect, "join";
    /// A SYN with MP_JOIN and an unknown token for a listener of ours, which user space has to refuse.
    JoinToRefuse = Redirect, "join_to_refuse";
    /// A SYN with MP_JOIN and an unknown token for a listener of ours, answered with RST.
    JoinRefused = Transmit, "join_refused";
    /// The same, but the limit of answers per second was reached.
    JoinDropped = Drop, "join_dropped";
    /// A TCP segment for a local port that we don't use, unless it is a SYN, which may be a join by any port.
    ForeignPort = Pass, "foreign_port";
    /// Any other TCP segment that belongs to no subflow, listener or token of ours, or is for another host.
    Foreign = Pass, "foreign";
    /// A SYN, or another segment without a subflow, for a listener or token of ours, whose source is no
    /// address that a peer can have: [`Address::is_unicast`](crate::address::Address::is_unicast), an address
    /// of this host, or a broadcast address of its subnets.
    MartianSource = Drop, "martian_source";
    /// The same, but the frame was for several hosts (RFC 1122 section 4.2.3.10, RFC 9293 MUST-57).
    LinkBroadcast = Drop, "link_broadcast";
    /// The same, but from a peer that is refused by a rule.
    PeerRefused = Drop, "peer_refused";
    /// Ours, but no AF_XDP socket is there to take it. The kernel would answer with RST.
    NoSocket = Drop, "no_socket";
    /// A segment of a subflow of ours that can't be decoded: a TCP header that is cut or lies about its
    /// length, or more IPv6 extension headers than are looked through. The kernel would answer some of these
    /// with RST.
    SubflowMalformed = Drop, "subflow_malformed";
    /// A fragment of a segment of a subflow or for a listener of ours.
    FragmentOurs = Redirect, "fragment_ours";
    /// An ICMP error about a segment of ours; user space gets an event.
    IcmpOurs = Pass, "icmp_ours";
    /// An ICMP error about somebody else's segment.
    IcmpForeign = Pass, "icmp_foreign";
    /// [`Reason::Truncated`].
    Truncated = Pass, "truncated";
    /// [`Reason::NotIp`].
    NotIp = Pass, "not_ip";
    /// [`Reason::IpHeader`].
    IpHeader = Pass, "ip_header";
    /// [`Reason::IpLength`].
    IpLength = Pass, "ip_length";
    /// [`Reason::Fragment`], and not known to be ours.
    Fragment = Pass, "fragment";
    /// [`Reason::ExtensionHeaders`].
    ExtensionHeaders = Pass, "extension_headers";
    /// [`Reason::MappedAddress`].
    MappedAddress = Pass, "mapped_address";
    /// [`Reason::NotTcp`].
    NotTcp = Pass, "not_tcp";
    /// [`Reason::TcpHeader`].
    TcpHeader = Pass, "tcp_header";
    /// Segments for us with options that make no sense.
    MalformedOptions = Besides, "malformed_options";
    /// Segments for us with a DSS whose length is not what its flags ask for.
    MalformedDss = Besides, "malformed_dss";
    /// Packets with the short form of the metadata only.
    ShortMetadata = Besides, "short_metadata";
    /// Packets without metadata: the driver has no room for it.
    NoMetadata = Besides, "no_metadata";
    /// Events lost because the ring buffer was full.
    EventLost = Besides, "event_lost";
}

// The XDP program counts what goes up by the number of its kind.
const _: () = {
    use crate::metadata::Kind;
    assert!(Counter::Subflow as u32 + 1 == Kind::Subflow as u32);
    assert!(Counter::ListenerSyn as u32 + 1 == Kind::ListenerSyn as u32);
    assert!(Counter::ListenerSegment as u32 + 1 == Kind::ListenerSegment as u32);
    assert!(Counter::Join as u32 + 1 == Kind::Join as u32);
    assert!(Counter::JoinToRefuse as u32 + 1 == Kind::JoinToRefuse as u32);
};

/// Number of counters.
pub const COUNTERS: usize = Counter::ALL.len();

impl From<Reason> for Counter {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Truncated => Counter::Truncated,
            Reason::NotIp => Counter::NotIp,
            Reason::IpHeader => Counter::IpHeader,
            Reason::IpLength => Counter::IpLength,
            Reason::Fragment => Counter::Fragment,
            Reason::ExtensionHeaders => Counter::ExtensionHeaders,
            Reason::MappedAddress => Counter::MappedAddress,
            Reason::NotTcp => Counter::NotTcp,
            Reason::TcpHeader => Counter::TcpHeader,
        }
    }
}
