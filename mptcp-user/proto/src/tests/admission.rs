//! What may begin something: segments without a subflow, by where they are for and where they come from.

use super::pair::{Pair, PathConfig, address, pattern};
use crate::wire::{Flags, Join, MpCapable, MptcpOption, Segment, SeqNumber, Version};
use crate::{
    ConnectError, ConnectionConfig, Counter, Endpoint, EndpointConfig, HostAddress, Instant, LocalAddress,
    Prefix,
};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const NOW: Instant = Instant::from_nanos(1_000_000_000);
const PORT: u16 = 5000;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A listener for all addresses, on a host that has two of each family and a subnet.
fn listener(config: EndpointConfig) -> Endpoint {
    let mut endpoint = Endpoint::new(config, [7; 32]);
    for own in ["10.9.1.2", "10.9.2.2", "2001:db8::2", "fe80::2"] {
        endpoint.set_host_address(ip(own), Some(HostAddress::Own));
    }
    endpoint.set_host_address(ip("10.9.1.255"), Some(HostAddress::Broadcast));
    endpoint.listen(SocketAddr::new(ip("::"), PORT), ConnectionConfig::default()).expect("free");
    endpoint
}

fn segment(from: &str, to: &str, flags: Flags) -> Segment {
    let mut segment = Segment::new(SocketAddr::new(ip(from), 40_000), SocketAddr::new(ip(to), PORT));
    (segment.flags, segment.seq, segment.window) = (flags, SeqNumber(100), 65_535);
    segment
}

/// A SYN with MP_CAPABLE, one with MP_JOIN, an ACK and a segment without flags.
fn kinds(from: &str, to: &str) -> [Segment; 4] {
    let mut capable = segment(from, to, Flags::SYN);
    capable.options.mptcp.push(MptcpOption::Capable(MpCapable::new(Version::V1)));
    let mut join = segment(from, to, Flags::SYN);
    let option = Join::Syn { backup: false, address_id: 1, token: 77, nonce: 5 };
    join.options.mptcp.push(MptcpOption::Join(option));
    [capable, join, segment(from, to, Flags::ACK), segment(from, to, Flags(0))]
}

/// What is answered to a segment.
fn answer(endpoint: &mut Endpoint, segment: Segment) -> Option<Segment> {
    endpoint.handle_segment(NOW, segment);
    endpoint.poll_transmit(NOW)
}

#[test]
fn nothing_is_answered_to_where_no_peer_can_be() {
    let mut endpoint = listener(EndpointConfig::default());
    let v4 = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.0.0.53",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.9",
        "255.255.255.255",
        "10.9.1.2",
        "10.9.2.2",
        "10.9.1.255",
    ];
    let v6 = ["::", "::1", "::127.0.0.1", "ff02::1", "2001:db8::2"];
    let ends = v4.map(|from| (from, "10.9.1.2")).into_iter().chain(v6.map(|from| (from, "2001:db8::2")));
    let ends = ends.chain([("fe80::2", "fe80::2")]);
    let mut count = 0;
    for (from, to) in ends {
        for segment in kinds(from, to) {
            assert!(answer(&mut endpoint, segment).is_none(), "from {from}");
            count += 1;
            assert_eq!(endpoint.counters().get(Counter::MartianSource), count);
        }
    }
    assert!(endpoint.connections().is_empty());
    for (from, to) in [("10.9.1.1", "10.9.1.2"), ("169.254.1.1", "10.9.2.2"), ("fe80::1", "fe80::2")] {
        let [syn, ..] = kinds(from, to);
        assert!(answer(&mut endpoint, syn).is_some(), "from {from}");
    }
}

#[test]
fn nothing_is_answered_for_another_host() {
    let mut endpoint = listener(EndpointConfig::default());
    let others =
        ["10.9.1.3", "10.9.1.255", "255.255.255.255", "224.0.0.1", "127.0.0.1", "2001:db8::3", "ff02::1"];
    for (number, to) in others.into_iter().enumerate() {
        let from = if to.contains(':') { "2001:db8::9" } else { "10.9.1.9" };
        for segment in kinds(from, to) {
            assert!(answer(&mut endpoint, segment).is_none(), "to {to}");
        }
        assert_eq!(endpoint.counters().get(Counter::ForeignDestination), 4 * (number as u64 + 1));
    }
    // One that comes, and goes again.
    endpoint.set_host_address(ip("10.9.1.3"), Some(HostAddress::Own));
    assert!(answer(&mut endpoint, segment("10.9.1.9", "10.9.1.3", Flags::SYN)).is_some());
    endpoint.set_host_address(ip("10.9.1.3"), None);
    assert!(answer(&mut endpoint, segment("10.9.1.8", "10.9.1.3", Flags::SYN)).is_none());
}

#[test]
fn peers_that_are_refused_get_no_answer_and_no_connection() {
    let mut config = EndpointConfig::default();
    config.peers.allow("10.9.0.0/16".parse().expect("a prefix"));
    config.peers.deny("10.9.1.128/25".parse().expect("a prefix"));
    let mut endpoint = listener(config);
    for (from, to) in [("10.9.1.129", "10.9.1.2"), ("192.0.2.1", "10.9.1.2"), ("2001:db8::9", "2001:db8::2")]
    {
        for segment in kinds(from, to) {
            assert!(answer(&mut endpoint, segment).is_none(), "from {from}");
        }
        let (local, remote) = (SocketAddr::new(ip(to), 9), SocketAddr::new(ip(from), 9));
        let result = endpoint.connect(NOW, local, remote, ConnectionConfig::default());
        assert_eq!(result.err(), Some(ConnectError::PeerRefused));
    }
    assert_eq!(endpoint.counters().get(Counter::PeerRefused), 12);
    assert!(answer(&mut endpoint, segment("10.9.1.7", "10.9.1.2", Flags::SYN)).is_some());
}

/// The peer announces an address that the rules refuse: no subflow goes there, and the connection works.
#[test]
fn no_subflow_is_opened_to_an_address_that_is_refused() {
    let config = ConnectionConfig::default();
    let announced = address(1, 2, false);
    for refuse in [false, true] {
        let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &config);
        let mut rules = EndpointConfig::default();
        if refuse {
            rules.peers.deny(Prefix::new(announced, 32).expect("a prefix"));
        }
        pair.client.endpoint = Endpoint::new(rules, [9; 32]);
        for path in 0..2 {
            let (address, interface) = (address(path, 1, false), path as u32 + 1);
            let local = LocalAddress { address, interface, mtu: 1500, backup: false };
            pair.client.endpoint.add_local_address(pair.now, local);
        }
        let from = SocketAddr::new(address(0, 1, false), 4000);
        pair.reopen(from, SocketAddr::new(address(0, 2, false), PORT), &config);
        pair.send(pattern(3_000_000, 1), pattern(3_000_000, 2));
        let there =
            |pair: &Pair| pair.client.info().subflows.iter().any(|subflow| subflow.remote.ip() == announced);
        let mut seen = false;
        let done = pair.run_until(Duration::from_secs(60), |pair| {
            seen |= pair.client.closed.is_none() && there(pair);
            pair.client.closed.is_some() && pair.server.closed.is_some()
        });
        assert!(done, "{}", pair.tail());
        assert_eq!(seen, !refuse);
        assert!(pair.server.received.len() == 3_000_000 && pair.client.received.len() == 3_000_000);
    }
}
