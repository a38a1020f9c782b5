//! One connection from its first SYN to its last ACK, as an exchange of segments that reads like the figures
//! of RFC 8684: handshake (section 3.1), a second subflow (3.2), ADD_ADDR with its echo (3.4.1), data in both
//! directions with mappings and Data ACKs (3.3), DATA_FIN (3.3.3) and the FINs of the subflows.
//!
//! `transcript.txt` is what it was when it was committed. Keys, tokens, random numbers and HMACs have the
//! names that the RFC gives them. The test computes each from the keys and prints a name only where the
//! number on the wire is the right one.

use bytes::Bytes;
use mptcp_proto::crypto::{Key, address_mac, join_mac, truncated};
use mptcp_proto::wire::{Flags, Join, MpCapable, MptcpOption, Segment, SeqNumber, Version};
use mptcp_proto::{
    ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Event, Instant, LocalAddress, SubflowStart,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One-way delay of both paths.
const DELAY: Duration = Duration::from_millis(10);
/// Addresses of host A and host B, in the order of the paths.
const HOSTS: [[&str; 2]; 2] = [["10.0.1.1", "10.0.2.1"], ["10.0.1.2", "10.0.2.2"]];
const REQUEST: &[u8] = b"a request of 25 bytes....";
const ANSWER_LEN: usize = 3000;

/// One end with its application.
struct Host {
    endpoint: Endpoint,
    connection: Option<ConnectionId>,
    received: Vec<u8>,
    ended: bool,
}

impl Host {
    fn new(number: usize) -> Self {
        let mut endpoint = Endpoint::new(EndpointConfig::default(), [number as u8 + 1; 32]);
        for (interface, address) in HOSTS[number].iter().enumerate() {
            let address: IpAddr = address.parse().unwrap();
            let local = LocalAddress { address, interface: interface as u32 + 1, mtu: 1500, backup: false };
            endpoint.add_local_address(Instant::ZERO, local);
        }
        Self { endpoint, connection: None, received: Vec::new(), ended: false }
    }

    /// Handles events as the application and the driver would. `port` is for further subflows.
    fn attend(&mut self, now: Instant, port: u16) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Accepted { connection, .. } => self.connection = Some(connection),
                Event::SubflowWanted { connection, local, remote, .. } => {
                    let local = SocketAddr::new(local, port);
                    self.endpoint.open_subflow(now, connection, local, remote);
                }
                Event::Readable(id) => {
                    let mut slices = Vec::new();
                    let (read, end) = self.endpoint.recv(id, usize::MAX, &mut slices);
                    self.endpoint.consumed(now, id, read);
                    self.received.extend(slices.iter().flat_map(|slice| slice.iter()));
                    self.ended |= end;
                }
                _ => {}
            }
        }
    }
}

/// The secrets of both ends, from the segments that showed them.
#[derive(Default)]
struct Names {
    /// Keys of A and B.
    keys: [Option<u64>; 2],
    /// Random numbers of the MP_JOINs, by subflow and host.
    nonces: BTreeMap<(Subflow, usize), u32>,
    /// Initial sequence numbers, by subflow and host.
    starts: BTreeMap<(Subflow, usize), SeqNumber>,
}

const LETTER: [char; 2] = ['A', 'B'];

/// A subflow: the number of its address of host A, and of its address of host B.
type Subflow = [usize; 2];

/// Subflow and sender of a segment.
fn whose(segment: &Segment) -> (Subflow, usize) {
    let place = |ip: IpAddr, host: usize| HOSTS[host].iter().position(|text| *text == ip.to_string());
    let (src, dst) = (segment.src.ip(), segment.dst.ip());
    match (place(src, 0), place(dst, 1), place(dst, 0), place(src, 1)) {
        (Some(a), Some(b), ..) => ([a, b], 0),
        (.., Some(a), Some(b)) => ([a, b], 1),
        _ => panic!("an address of neither host: {src}, {dst}"),
    }
}

impl Names {
    fn learn(&mut self, segment: &Segment) {
        let (subflow, host) = whose(segment);
        if segment.flags.has(Flags::SYN) {
            self.starts.insert((subflow, host), segment.seq);
        }
        for option in &segment.options.mptcp {
            match option {
                MptcpOption::Capable(MpCapable { sender_key: Some(key), .. }) => self.keys[host] = Some(*key),
                MptcpOption::Join(Join::Syn { nonce, .. } | Join::SynAck { nonce, .. }) => {
                    self.nonces.insert((subflow, host), *nonce);
                }
                _ => {}
            }
        }
    }

    fn key(&self, host: usize) -> Key {
        Key::new(Version::V1, self.keys[host].expect("the key has been shown"))
    }

    /// The name of what is right, or the number.
    fn named<T: PartialEq + std::fmt::Debug>(name: String, right: &T, seen: &T) -> String {
        if right == seen { name } else { format!("{seen:?} instead of {name} = {right:?}") }
    }

    /// HMAC of `host` for the join of a subflow.
    fn join_mac(&self, subflow: Subflow, host: usize) -> [u8; 20] {
        let (own, peer) = (self.key(host).key, self.key(1 - host).key);
        join_mac(Version::V1, own, peer, self.nonces[&(subflow, host)], self.nonces[&(subflow, 1 - host)])
    }

    /// A data sequence number of `host`, counted from its initial one.
    fn dsn(&self, host: usize, dsn: u64, long: bool) -> String {
        let initial = self.key(host).idsn.0;
        let offset = if long {
            dsn.wrapping_sub(initial)
        } else {
            u64::from((dsn as u32).wrapping_sub(initial as u32))
        };
        format!("IDSN-{}+{offset}", LETTER[host])
    }

    fn option(&self, subflow: Subflow, host: usize, option: &MptcpOption) -> String {
        let (own, peer) = (LETTER[host], LETTER[1 - host]);
        match option {
            MptcpOption::Capable(capable) => {
                let mut words = vec![format!("version {}", capable.version as u8)];
                words.extend(capable.sender_key.map(|_| format!("Key-{own}")));
                let right = self.keys[1 - host].unwrap_or_default();
                let named = |key| Self::named(format!("Key-{peer}"), &right, &key);
                words.extend(capable.receiver_key.map(named));
                words.extend(capable.data.map(|(len, _)| format!("data-level length {len}")));
                words.extend(capable.checksum.then(|| "checksum".into()));
                format!("MP_CAPABLE ({})", words.join(", "))
            }
            MptcpOption::Join(Join::Syn { address_id, token, .. }) => {
                let token = Self::named(format!("Token-{peer}"), &self.key(1 - host).token, token);
                format!("MP_JOIN ({token}, R-{own}, address {address_id})")
            }
            MptcpOption::Join(Join::SynAck { address_id, mac, .. }) => {
                let right = truncated(&self.join_mac(subflow, host));
                format!(
                    "MP_JOIN ({}, R-{own}, address {address_id})",
                    Self::named(format!("HMAC-{own}"), &right, mac)
                )
            }
            MptcpOption::Join(Join::Ack { mac }) => {
                format!(
                    "MP_JOIN ({})",
                    Self::named(format!("HMAC-{own}"), &self.join_mac(subflow, host), mac)
                )
            }
            MptcpOption::Dss(dss) => {
                let mut words = Vec::new();
                words.extend(
                    dss.data_ack.map(|(ack, long)| format!("Data ACK {}", self.dsn(1 - host, ack.0, long))),
                );
                words.extend(dss.mapping.map(|mapping| {
                    let dsn = self.dsn(host, mapping.dsn.0, mapping.dsn_long);
                    format!("map {} of subflow +{} to {dsn}", mapping.len, mapping.subflow_seq)
                }));
                words.extend(dss.data_fin.then(|| "DATA_FIN".into()));
                format!("DSS ({})", words.join(", "))
            }
            MptcpOption::AddAddr(add) => {
                let what = format!("address {} = {}", add.address_id, add.address);
                let mac = add.mac.map(|mac| {
                    let (own_key, peer_key) = (self.key(host).key, self.key(1 - host).key);
                    let right = address_mac(own_key, peer_key, add.address_id, add.address, add.port);
                    Self::named(format!("HMAC-{own}"), &right, &mac)
                });
                let last = mac.unwrap_or_else(|| if add.echo { "echo".into() } else { "no HMAC".into() });
                format!("ADD_ADDR ({what}, {last})")
            }
            other => format!("{other:?}"),
        }
    }

    fn line(&self, sent: Instant, segment: &Segment) -> String {
        let (subflow, host) = whose(segment);
        let flags = [(Flags::SYN, "SYN"), (Flags::FIN, "FIN"), (Flags::RST, "RST"), (Flags::ACK, "ACK")];
        let set = flags.into_iter().filter(|(flag, _)| segment.flags.has(*flag)).map(|(_, name)| name);
        let since = |host: usize, number: SeqNumber| number.0.wrapping_sub(self.starts[&(subflow, host)].0);
        let mut text = set.collect::<Vec<_>>().join("/");
        write!(text, " {}", since(host, segment.seq)).unwrap();
        if !segment.payload.is_empty() {
            write!(text, "..{}", since(host, segment.seq) + segment.payload.len() as u32).unwrap();
        }
        if segment.flags.has(Flags::ACK) {
            write!(text, " ack {}", since(1 - host, segment.ack)).unwrap();
        }
        let options: Vec<_> =
            segment.options.mptcp.iter().map(|option| self.option(subflow, host, option)).collect();
        let arrow = if host == 0 { "-->" } else { "<--" };
        let millis = sent.as_nanos() as f64 / 1e6;
        let [a, b] = subflow.map(|place| place + 1);
        let line = format!("{millis:>5.0} ms  A{a} {arrow} B{b}  {text:<20} {}", options.join(" + "));
        line.trim_end().to_owned()
    }
}

/// Two hosts, and the segments between them in the order of their arrival.
struct Exchange {
    now: Instant,
    hosts: [Host; 2],
    under_way: VecDeque<(Instant, Segment)>,
    names: Names,
    transcript: String,
}

impl Exchange {
    /// Lets both hosts send what they have, and time pass until nothing is left to do.
    fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        loop {
            for host in 0..2 {
                self.hosts[host].attend(self.now, 40_002);
                while let Some(segment) = self.hosts[host].endpoint.poll_transmit(self.now) {
                    self.names.learn(&segment);
                    let line = self.names.line(self.now, &segment);
                    writeln!(self.transcript, "{line}").unwrap();
                    self.under_way.push_back((self.now + DELAY, segment));
                }
            }
            let due = self.under_way.front().map(|(due, _)| *due);
            let timers = self.hosts.each_mut().map(|host| host.endpoint.next_timeout());
            let next = timers.into_iter().chain([due]).flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            while self.under_way.front().is_some_and(|(due, _)| *due <= self.now) {
                let (_, segment) = self.under_way.pop_front().unwrap();
                let to = 1 - whose(&segment).1;
                self.hosts[to].endpoint.handle_segment(self.now, segment);
            }
            for host in &mut self.hosts {
                host.endpoint.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn heading(&mut self, text: &str) {
        writeln!(self.transcript, "\n{text}").unwrap();
    }
}

#[test]
fn a_connection_reads_like_the_figures_of_the_rfc() {
    let mut exchange = Exchange {
        now: Instant::ZERO,
        hosts: [Host::new(0), Host::new(1)],
        under_way: VecDeque::new(),
        names: Names::default(),
        transcript: String::new(),
    };
    let config = ConnectionConfig {
        subflow_start: SubflowStart::AT_ONCE,
        scheduler: "round-robin".into(),
        ..ConnectionConfig::default()
    };
    let [client, server] = &mut exchange.hosts;
    let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
    server.endpoint.listen(at(HOSTS[1][0], 80), config.clone()).unwrap();
    let (local, remote) = (at(HOSTS[0][0], 40_001), at(HOSTS[1][0], 80));
    client.connection = Some(client.endpoint.connect(Instant::ZERO, local, remote, config).unwrap());

    exchange.heading("Handshake (RFC 8684 section 3.1), further addresses and subflows (3.4.1, 3.2)");
    exchange.run(Duration::from_millis(400));

    exchange.heading("A request of 25 bytes (3.3.1)");
    let (now, id) = (exchange.now, exchange.hosts[0].connection.unwrap());
    exchange.hosts[0].endpoint.send(now, id, Bytes::from_static(REQUEST));
    exchange.run(Duration::from_millis(400));

    exchange.heading("An answer of 3000 bytes over both subflows, and its end (3.3.3)");
    let (now, id) = (exchange.now, exchange.hosts[1].connection.expect("accepted"));
    let answer: Vec<u8> = (0..ANSWER_LEN).map(|index| index as u8).collect();
    exchange.hosts[1].endpoint.send(now, id, answer.clone().into());
    exchange.hosts[1].endpoint.finish(now, id);
    exchange.run(Duration::from_millis(400));

    exchange.heading("The client ends, too, and the subflows with it");
    let (now, id) = (exchange.now, exchange.hosts[0].connection.unwrap());
    exchange.hosts[0].endpoint.finish(now, id);
    exchange.run(Duration::from_millis(400));

    assert_eq!(exchange.hosts[1].received, REQUEST);
    assert_eq!(exchange.hosts[0].received, answer);
    assert!(exchange.hosts.iter().all(|host| host.ended));
    for way in ["instead of", "no HMAC"] {
        assert!(!exchange.transcript.contains(way), "a wrong number:\n{}", exchange.transcript);
    }
    let head = "\
# A connection between host A (10.0.1.1, 10.0.2.1) and host B (10.0.1.2, 10.0.2.2), 10 ms apart. Sequence numbers count from
# the SYN of their sender, data sequence numbers from the initial one (IDSN). The test `transcript` writes this file.
";
    let text = format!("{head}{}", exchange.transcript);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcript.txt");
    if std::env::var_os("MPTCP_UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, committed, "if the change is meant, run the test with MPTCP_UPDATE=1");
}
