//! Connections to a service with several addresses, from a host with several ways, some of which are dead.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT};
use mptcp_tests::require_root;
use mptcp_user::stack::{Stack, StackError};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

const LINK: &[&str] = &["--both", "rate=50mbit,delay=5ms,queue=200"];
/// An address of the right side that both links lead to.
const SERVICE: &str = "10.99.0.1";

/// Two links to one address; the kernel prefers the first.
fn two_ways() -> Lab {
    let lab = Lab::emulated(&[LINK, LINK], &[Family::Ipv4]).unwrap();
    lab.right.ip(&format!("address add {SERVICE}/32 dev lo")).unwrap();
    for (link, metric) in [(1, 10), (2, 20)] {
        let via = Side::Right.address(link, Family::Ipv4);
        lab.left.ip(&format!("route add {SERVICE} via {via} dev left{link} metric {metric}")).unwrap();
    }
    lab
}

#[test]
fn a_dead_first_path_does_not_keep_the_connection_from_the_second() {
    require_root!();
    let lab = two_ways();
    let _listener =
        kernel::listen(&lab.right, Protocol::Mptcp, SocketAddr::new(Family::Ipv4.any(), PORT)).unwrap();
    lab.silence(1, true);
    let start = Instant::now();
    let target = format!("{SERVICE}:{PORT}");
    let mut command = ours::command(&lab, Side::Left, &["connect", "--json", "-q", &target]);
    let mut client = mptcp_tests::process::Process::start(&mut command, true).unwrap();
    client.wait_for("connected to", PATIENCE).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let from = Side::Left.address(2, Family::Ipv4);
    assert!(client.stderr().contains(&format!("from {from}")), "{}", client.stderr());
    client.signal(libc::SIGINT);
    client.finish(PATIENCE).unwrap();
}

#[test]
fn the_first_address_that_answers_wins_and_the_others_leave_nothing() {
    require_root!();
    let lab = two_ways();
    let listener =
        kernel::listen(&lab.right, Protocol::Mptcp, SocketAddr::new(Family::Ipv4.any(), PORT)).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stack = lab.left.run(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Stack::builder().build()).unwrap()
    });
    let socket = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    runtime.block_on(async {
        // No host has the first one on its link, nothing listens on the second one's port, the third one
        // answers.
        let dead = socket("10.77.1.99", PORT);
        let remotes = [dead, socket(SERVICE, 9), socket(SERVICE, PORT)];
        let start = Instant::now();
        let stream = tokio::time::timeout(PATIENCE, stack.connect_any(&remotes)).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr(), remotes[2]);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        // All fail: each says why.
        let error = tokio::time::timeout(PATIENCE, stack.connect_any(&remotes[..2])).await.unwrap();
        let error = error.err().expect("nothing answers");
        assert!(matches!(error, StackError::Attempts(_)), "{error}");
        let text = error.to_string();
        for part in ["10.77.1.99:5000: destination unreachable", "10.99.0.1:9: connection refused"] {
            assert!(text.contains(part), "{text}");
        }
        drop(stream);
        stack.shutdown(Duration::from_secs(5)).await;
    });
    drop(listener);
    assert!(lab.attached(Side::Left).unwrap().is_empty());
}
