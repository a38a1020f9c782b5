//! A peer that speaks regular TCP only: the connection works, as regular TCP, and says so.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::{data, require_root};
use std::net::{Shutdown, SocketAddr};
use std::thread;

const SIZE: u64 = 8 << 20;

fn we_connect_to(protocol: Protocol, family: Family, words: &[&str]) -> serde_json::Value {
    let lab = Lab::new().unwrap();
    let listener = kernel::listen(&lab.right, protocol, SocketAddr::new(family.any(), PORT)).unwrap();
    let peer = thread::spawn(move || {
        let stream = kernel::accept(&listener, PATIENCE).unwrap();
        let got = data::sum(&stream).unwrap();
        // The answer comes after our end: half-close works in regular TCP too.
        data::copy(data::Seeded::new(4, SIZE), &stream).unwrap();
        got
    });
    let (file, sum) = data::seeded_file(3, SIZE).unwrap();
    let path = data::path_of(&file);
    let mut all = vec!["--file", path.to_str().unwrap()];
    all.extend(words);
    let finished = ours::connect(&lab, family, &all).unwrap().finish(PATIENCE).unwrap();
    assert_orderly(&lab, Side::Left, &finished);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(peer.join().unwrap(), (SIZE, sum));
    assert_eq!(
        data::sum(finished.stdout.as_slice()).unwrap(),
        data::sum(data::Seeded::new(4, SIZE)).unwrap()
    );
    finished.json().unwrap()
}

#[test]
fn a_server_that_speaks_regular_tcp_gets_a_regular_connection() {
    require_root!();
    for family in Family::BOTH {
        let statistics = we_connect_to(Protocol::Tcp, family, &[]);
        assert_eq!(statistics["connection"]["fallback"], "no-mp-capable", "{statistics:#}");
        assert_eq!(statistics["connection"]["subflows"].as_array().unwrap().len(), 1, "{statistics:#}");
    }
}

#[test]
fn a_server_that_speaks_multipath_tcp_gets_a_regular_connection_when_we_want_one() {
    require_root!();
    let statistics = we_connect_to(Protocol::Mptcp, Family::Ipv4, &["--no-multipath"]);
    assert_eq!(statistics["connection"]["fallback"], "not-requested", "{statistics:#}");
}

fn connects_to_us(protocol: Protocol, family: Family, words: &[&str]) -> serde_json::Value {
    let lab = Lab::new().unwrap();
    let (file, sum) = data::seeded_file(5, SIZE).unwrap();
    let path = data::path_of(&file);
    let mut all = vec!["--file", path.to_str().unwrap()];
    all.extend(words);
    let listener = ours::listen(&lab, &all).unwrap();
    let stream =
        kernel::connect(&lab.left, protocol, None, Side::Right.socket(1, family, PORT), PATIENCE).unwrap();
    let reader = stream.try_clone().unwrap();
    let answer = thread::spawn(move || data::sum(reader).unwrap());
    data::copy(data::Seeded::new(6, SIZE), &stream).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer.join().unwrap(), (SIZE, sum));
    drop(stream);
    let finished = listener.finish(PATIENCE).unwrap();
    assert_orderly(&lab, Side::Right, &finished);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(
        data::sum(finished.stdout.as_slice()).unwrap(),
        data::sum(data::Seeded::new(6, SIZE)).unwrap()
    );
    finished.json().unwrap()
}

#[test]
fn a_client_that_speaks_regular_tcp_gets_a_regular_connection() {
    require_root!();
    for family in Family::BOTH {
        let statistics = connects_to_us(Protocol::Tcp, family, &[]);
        assert_eq!(statistics["connection"]["fallback"], "no-mp-capable", "{statistics:#}");
    }
}

#[test]
fn a_client_that_speaks_multipath_tcp_gets_a_regular_connection_when_we_want_one() {
    require_root!();
    let statistics = connects_to_us(Protocol::Mptcp, Family::Ipv6, &["--no-multipath"]);
    assert_eq!(statistics["connection"]["fallback"], "not-requested", "{statistics:#}");
}

#[test]
fn both_directions_at_once_are_exact_with_a_kernel_that_speaks_multipath_tcp() {
    require_root!();
    let statistics = connects_to_us(Protocol::Mptcp, Family::Ipv4, &[]);
    assert!(statistics["connection"]["fallback"].is_null(), "{statistics:#}");
    let statistics = we_connect_to(Protocol::Mptcp, Family::Ipv6, &[]);
    assert!(statistics["connection"]["fallback"].is_null(), "{statistics:#}");
}
