//! The XDP program without interfaces: crafted packets in, verdicts out (`BPF_PROG_TEST_RUN`).
//!
//! [`Frame`] builds packets octet by octet, [`XdpLab`] is a loaded program whose maps know a few subflows,
//! listeners and tokens, and [`XdpLab::expected`] says what should happen to a packet, by the same decoder in
//! user space.

use anyhow::{Context, Result, ensure};
use mptcp_common::address::Address;
use mptcp_common::counter::Counter;
use mptcp_common::fragment::Fragment;
use mptcp_common::headers::{self, Headers, Packet, Reason, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use mptcp_common::maps::{LOCAL_BROADCAST, LOCAL_OWN, ListenerKey, LocalKey, SubflowKey};
use mptcp_common::metadata::Kind;
use mptcp_common::octets::Octets;
use mptcp_common::options::{self, JoinSyn};
use mptcp_datapath::xdp::{CounterSnapshot, Events, TestRun, XdpConfig, XdpMaps, XdpProgram};
use mptcp_proto::{PeerRules, SubflowSlot};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// A token that the lab knows.
pub const TOKEN: u32 = 0x0dd_ba11;
/// The shard that has it.
pub const TOKEN_SHARD: u32 = 1;
/// Slot of the first subflow; the others follow.
pub const FIRST_SLOT: u32 = 7;
/// First place of the lab's sockets.
const XSK_BASE: u32 = 3;
/// Shards of the lab, one socket each.
const SHARDS: u32 = 2;

/// `struct xdp_md` knows only the loopback interface in a test run.
const LOOPBACK: u32 = 1;

/// The four-tuples that the lab has subflows for: ours, the peer's, shard.
pub fn subflows() -> [(SocketAddr, SocketAddr, u32); 2] {
    [
        (addr("192.0.2.1:80"), addr("198.51.100.7:40000"), 0),
        (addr("[2001:db8::1]:443"), addr("[2001:db8:7::7]:40001"), 1),
    ]
}

/// The addresses that the lab listens on.
pub fn listeners() -> [SocketAddr; 2] {
    [addr("192.0.2.1:80"), addr("[::]:443")]
}

/// The addresses that the lab's host has.
pub const OWN: [&str; 6] =
    ["192.0.2.1", "192.0.2.200", "2001:db8::1", "2001:db8::2", "2001:db8::5", "fe80::1"];
/// Broadcast address of one of its subnets.
pub const BROADCAST: &str = "192.0.2.255";

/// The meaning of an address to the lab's host: [`LOCAL_OWN`], [`LOCAL_BROADCAST`], or 0.
fn meaning(address: Address) -> u32 {
    let is = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address of the tests")) == address;
    match () {
        () if OWN.into_iter().any(is) => LOCAL_OWN,
        () if is(BROADCAST) => LOCAL_BROADCAST,
        () => 0,
    }
}

/// Parses an address of the tests.
///
/// # Panics
/// If it is none.
pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address of the tests")
}

/// A frame to be built.
#[derive(Clone, Debug)]
pub struct Frame {
    /// EtherType and tag control information of the VLAN tags, the outer one first.
    pub vlans: Vec<(u16, u16)>,
    /// Sender.
    pub src: SocketAddr,
    /// Receiver.
    pub dst: SocketAddr,
    /// Options of IPv4, a multiple of 4 octets.
    pub ip_options: Vec<u8>,
    /// Extension headers of IPv6: type, and the octets without the next-header field.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// The word with flags and fragment offset of IPv4.
    pub fragment: u16,
    /// Protocol number.
    pub protocol: u8,
    /// Traffic class.
    pub traffic_class: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flags.
    pub flags: u16,
    /// Window.
    pub window: u16,
    /// TCP options, a multiple of 4 octets.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Octets of Ethernet padding.
    pub padding: usize,
}

impl Frame {
    /// An ACK with ten octets of payload.
    pub fn new(src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            vlans: Vec::new(),
            src,
            dst,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0x4000,
            protocol: 6,
            traffic_class: 2,
            seq: 0x0102_0304,
            ack: 0x0506_0708,
            flags: TCP_ACK,
            window: 501,
            options: Vec::new(),
            payload: b"0123456789".to_vec(),
            padding: 0,
        }
    }
    /// A SYN without payload.
    pub fn syn(src: SocketAddr, dst: SocketAddr) -> Self {
        Self { flags: TCP_SYN, ack: 0, payload: Vec::new(), ..Self::new(src, dst) }
    }
    /// A SYN with MP_JOIN.
    pub fn join(src: SocketAddr, dst: SocketAddr, token: u32) -> Self {
        let mut options =
            vec![2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7, 30, 12, 0x10, 2];
        options.extend(token.to_be_bytes());
        options.extend([0xaa, 0xbb, 0xcc, 0xdd]);
        Self { options, ..Self::syn(src, dst) }
    }
    /// A segment of one of the lab's subflows, with timestamps and a DSS with 8-octet numbers.
    pub fn data(subflow: usize, payload: usize) -> Self {
        let (local, remote, _) = subflows()[subflow];
        let mut options = vec![1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 2, 0];
        options.extend([30, 26, 0x20, 0x0f]);
        options.extend(0x1122_3344_5566_7788_u64.to_be_bytes());
        options.extend(0x99aa_bbcc_ddee_ff00_u64.to_be_bytes());
        options.extend(0x0a0b_0c0d_u32.to_be_bytes());
        options.extend((payload as u16).to_be_bytes());
        options.extend([0, 0]);
        Self { options, payload: vec![0x5a; payload], ..Self::new(remote, local) }
    }
    /// The TCP segment with its checksum.
    pub fn segment(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.src.port().to_be_bytes());
        tcp.extend(self.dst.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let words = 5 + self.options.len() as u16 / 4;
        tcp.extend((words << 12 | self.flags).to_be_bytes());
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let sum = transport_sum(self.src.ip(), self.dst.ip(), self.protocol, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }
    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        self.build_around(&self.segment())
    }
    /// The frame with something else in place of the segment.
    pub fn build_around(&self, inner: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (ethertype, tci) in &self.vlans {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend([8, 0]);
                let words = 5 + self.ip_options.len() / 4;
                let mut ip = vec![0x40 | words as u8, self.traffic_class];
                ip.extend(((words * 4 + inner.len()) as u16).to_be_bytes());
                ip.extend([0x12, 0x34]);
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([64, self.protocol, 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(&self.ip_options);
                let sum = sum(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(ip);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend([0x86, 0xdd]);
                let mut extensions = Vec::new();
                for (number, (_, octets)) in self.extensions.iter().enumerate() {
                    let next = self.extensions.get(number + 1).map_or(self.protocol, |next| next.0);
                    extensions.push(next);
                    extensions.extend(octets);
                }
                frame.extend((6 << 28 | u32::from(self.traffic_class) << 20).to_be_bytes());
                frame.extend(((extensions.len() + inner.len()) as u16).to_be_bytes());
                frame.push(self.extensions.first().map_or(self.protocol, |first| first.0));
                frame.push(64);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                frame.extend(extensions);
            }
            _ => unreachable!("one family"),
        }
        frame.extend(inner);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

/// The Internet checksum (RFC 1071).
pub fn sum(octets: &[u8]) -> u16 {
    let mut sum = octets
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()))
        .sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a segment with its pseudo-header; 0 if the segment has the right one in it.
pub fn transport_sum(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut octets = Vec::new();
    for ip in [src, dst] {
        match ip {
            IpAddr::V4(v4) => octets.extend(v4.octets()),
            IpAddr::V6(v6) => octets.extend(v6.octets()),
        }
    }
    octets.extend((segment.len() as u32).to_be_bytes());
    octets.extend(u32::from(protocol).to_be_bytes());
    octets.extend(segment);
    sum(&octets)
}

/// A slice that the decoder takes for what the XDP program sees: perhaps not the whole packet.
struct Reach<'a>(&'a [u8]);

impl<'a> Octets for Reach<'a> {
    type View<const N: usize> = &'a [u8; N];
    const WHOLE: bool = false;
    fn view<const N: usize>(&self, offset: usize) -> Option<&'a [u8; N]> {
        self.0.view(offset)
    }
    fn reaches(&self, end: usize) -> bool {
        self.0.reaches(end)
    }
}

/// The expected fate of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The counter that counts it.
    pub counter: Counter,
    /// The expected metadata, if it goes up.
    pub up: Option<(Kind, u32, Headers)>,
}

/// A loaded program that knows [`subflows`], [`listeners`] and [`TOKEN`], with a socket for each of two
/// shards.
pub struct XdpLab {
    /// The program.
    pub program: XdpProgram,
    /// Its maps.
    pub maps: Arc<XdpMaps>,
    /// Its events.
    pub events: Events,
    sockets: Vec<OwnedFd>,
}

impl XdpLab {
    /// Loads the program. `refusals` as in [`XdpConfig::refusals_per_second`].
    ///
    /// # Errors
    /// If the kernel can't do it.
    pub fn new(refusals: u32) -> Result<Self> {
        Self::with_rules(refusals, &PeerRules::default())
    }

    /// The same with rules for peers.
    ///
    /// # Errors
    /// If the kernel can't do it.
    pub fn with_rules(refusals: u32, rules: &PeerRules) -> Result<Self> {
        let config = XdpConfig {
            subflows: 1024,
            refusals_per_second: refusals,
            other_peers: rules.others(),
            ..XdpConfig::default()
        };
        let mut program = XdpProgram::load(&config)?;
        for (prefix, accepted) in rules.iter() {
            program.maps().insert_peer(prefix.address(), prefix.length(), accepted)?;
        }
        let maps = program.maps();
        let events = program.take_events().context("events")?;
        for (number, (local, remote, shard)) in subflows().into_iter().enumerate() {
            maps.insert_subflow(local, remote, SubflowSlot(FIRST_SLOT + number as u32), shard)?;
        }
        for listener in listeners() {
            maps.insert_listener(listener, 0, SHARDS)?;
        }
        for address in OWN.into_iter().chain([BROADCAST]) {
            let address = Address::from(address.parse::<IpAddr>()?);
            maps.set_local(LocalKey::new(address, LOOPBACK), meaning(address))?;
        }
        maps.insert_token(TOKEN, TOKEN_SHARD)?;
        maps.set_interface(LOOPBACK, XSK_BASE, 1, SHARDS)?;
        let sockets = (0..SHARDS).map(|_| xsk()).collect::<Result<Vec<_>>>()?;
        for (place, socket) in sockets.iter().enumerate() {
            maps.set_socket(XSK_BASE + place as u32, socket.as_fd())?;
        }
        Ok(Self { program, maps, events, sockets })
    }

    /// Closes the sockets, so that the program finds none.
    pub fn close_sockets(&mut self) {
        self.sockets.clear();
    }

    /// The counters.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn counters(&self) -> Result<CounterSnapshot> {
        Ok(self.maps.counters()?)
    }

    /// Runs the program once: the result, and the one counter with a verdict that counted it.
    ///
    /// # Errors
    /// If it was counted not once, or the verdict is another one.
    pub fn run(&mut self, packet: &[u8], linear: usize) -> Result<(TestRun, Counter)> {
        use mptcp_common::counter::Verdict;
        let before = self.counters()?;
        let run = self.program.test_run(packet, linear, 1)?;
        let counted = self.counters()?.since(&before);
        let mut with_verdict = counted.iter().filter(|(counter, _)| counter.verdict() != Verdict::Besides);
        let (counter, count) = with_verdict.by_ref().find(|(_, count)| *count > 0).context("not counted")?;
        ensure!(count == 1 && with_verdict.all(|(_, count)| count == 0), "counted more than once");
        let verdict = match counter.verdict() {
            Verdict::Drop => 1,
            Verdict::Pass | Verdict::Besides => 2,
            Verdict::Transmit => 3,
            Verdict::Redirect => 4,
        };
        ensure!(run.verdict == verdict, "{counter:?} but verdict {}", run.verdict);
        Ok((run, counter))
    }

    /// The expected fate of a packet whose first `linear` bytes are in reach.
    pub fn expected(packet: &[u8], linear: usize) -> Expected {
        let reach = Reach(&packet[..linear.min(packet.len())]);
        let nothing = |counter| Expected { counter, up: None };
        let headers = match headers::decode(&reach) {
            Err(reason) => return nothing(Self::odd(packet, linear, reason)),
            Ok(Packet::Icmp(_, quote)) => {
                let ours = subflows().iter().any(|(local, remote, _)| {
                    SubflowKey::new(*local, *remote)
                        == SubflowKey {
                            local: quote.local,
                            remote: quote.remote,
                            local_port: quote.local_port,
                            remote_port: quote.remote_port,
                        }
                });
                return nothing(if ours { Counter::IcmpOurs } else { Counter::IcmpForeign });
            }
            Ok(Packet::Tcp(headers)) => headers,
        };
        let up = |counter, kind, slot| Expected { counter, up: Some((kind, slot, headers)) };
        let key = SubflowKey {
            local: headers.network.dst,
            remote: headers.network.src,
            local_port: headers.dst_port,
            remote_port: headers.src_port,
        };
        for (number, (local, remote, _)) in subflows().into_iter().enumerate() {
            if SubflowKey::new(local, remote) == key {
                return up(Counter::Subflow, Kind::Subflow, FIRST_SLOT + number as u32);
            }
        }
        let syn = headers.flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN;
        let scan = options::scan(&reach, headers.options(), headers.payload);
        let join = if syn && scan.join != 0 { JoinSyn::read(&reach, scan.join.into()) } else { None };
        let ports = [80, 443];
        if !ports.contains(&key.local_port) && !syn {
            return nothing(Counter::ForeignPort);
        }
        if meaning(key.local) != LOCAL_OWN {
            return nothing(Counter::Foreign);
        }
        let dropped = dropped(packet, &key);
        if join.is_some_and(|join| join.token == TOKEN) {
            return dropped.map_or_else(|| up(Counter::Join, Kind::Join, 0), nothing);
        }
        let listening = is_listener(&key);
        if !listening {
            return nothing(Counter::Foreign);
        }
        if let Some(counter) = dropped {
            return nothing(counter);
        }
        if !syn {
            return up(Counter::ListenerSegment, Kind::ListenerSegment, 0);
        }
        if join.is_none() {
            return up(Counter::ListenerSyn, Kind::ListenerSyn, 0);
        }
        let plain = headers.network.l4 - headers.network.l3 == if headers.network.v6 { 40 } else { 20 };
        if plain { nothing(Counter::JoinRefused) } else { up(Counter::JoinToRefuse, Kind::JoinToRefuse, 0) }
    }

    /// The expected fate of a packet that the decoder refuses. Fragments but the first count as the
    /// kernel's: whether one of ours came before is not known here.
    fn odd(packet: &[u8], linear: usize, reason: Reason) -> Counter {
        let reach = Reach(&packet[..linear.min(packet.len())]);
        let network = match headers::Network::decode(&reach) {
            Ok(network) if network.protocol == headers::PROTOCOL_TCP => network,
            Ok(_) => return reason.into(),
            Err(Reason::ExtensionHeaders) => {
                let ours = headers::buried(&reach).is_some_and(is_subflow);
                return if ours { Counter::SubflowMalformed } else { reason.into() };
            }
            Err(Reason::Fragment | Reason::Truncated) => {
                let Ok(fragment) = Fragment::decode(&reach) else { return reason.into() };
                let ports: Option<&[u8; 4]> = reach.view(fragment.data);
                let Some(ports) = ports.filter(|_| fragment.offset == 0 && fragment.protocol == 6) else {
                    return Counter::Fragment;
                };
                let key = key(fragment.key.dst, fragment.key.src, *ports);
                return match () {
                    () if is_subflow(key) => Counter::FragmentOurs,
                    () if meaning(key.local) != LOCAL_OWN || !is_listener(&key) => Counter::Fragment,
                    () => dropped(packet, &key).unwrap_or(Counter::FragmentOurs),
                };
            }
            Err(_) => return reason.into(),
        };
        // The program gets at these even beyond its reach.
        let ports: Option<&[u8; 4]> = packet.view(network.l4);
        let ours = ports.is_some_and(|ports| is_subflow(key(network.dst, network.src, *ports)));
        if ours { Counter::SubflowMalformed } else { reason.into() }
    }

    /// The reason for which the decoder refuses a whole packet in user space.
    pub fn refused(packet: &[u8]) -> Option<Reason> {
        headers::decode(&packet).err()
    }
}

fn is_subflow(key: SubflowKey) -> bool {
    subflows().iter().any(|(local, remote, _)| SubflowKey::new(*local, *remote) == key)
}

fn is_listener(key: &SubflowKey) -> bool {
    listeners().iter().any(|listener| {
        let wanted = ListenerKey::new(*listener);
        let any = wanted.address == Address::ANY_V6 && !key.local.is_v4();
        wanted.port == u32::from(key.local_port) && (any || wanted.address == key.local)
    })
}

/// Why nothing may begin with a packet that would be for a listener or a token.
fn dropped(packet: &[u8], key: &SubflowKey) -> Option<Counter> {
    if packet[0] & 1 != 0 {
        return Some(Counter::LinkBroadcast);
    }
    (!key.remote.is_unicast() || meaning(key.remote) != 0).then_some(Counter::MartianSource)
}

fn key(local: Address, remote: Address, ports: [u8; 4]) -> SubflowKey {
    SubflowKey {
        local,
        remote,
        local_port: u16::from_be_bytes([ports[2], ports[3]]),
        remote_port: u16::from_be_bytes([ports[0], ports[1]]),
    }
}

/// An AF_XDP socket that may be put into a map: it has a receive ring, but no interface.
fn xsk() -> Result<OwnedFd> {
    const XDP_RX_RING: libc::c_int = 2;
    let last = || std::io::Error::last_os_error();
    // SAFETY: no addresses.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "AF_XDP socket: {}", last());
    // SAFETY: a new descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let entries: u32 = 64;
    // SAFETY: the option is a u32.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_RX_RING,
            (&raw const entries).cast(),
            size_of::<u32>() as u32,
        )
    };
    ensure!(result == 0, "receive ring: {}", last());
    Ok(socket)
}
