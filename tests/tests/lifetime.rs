//! Events in the life of a connection and of its process while data flows.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_fails, assert_orderly};
use mptcp_tests::process::Process;
use mptcp_tests::{data, require_root};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// A kernel that listens on the right side, ready for two subflows.
fn kernel_listener(lab: &Lab, family: Family) -> TcpListener {
    lab.prepare_kernel(Side::Right, family).unwrap();
    kernel::listen(&lab.right, Protocol::Mptcp, SocketAddr::new(family.any(), PORT)).unwrap()
}

/// A client of ours that sends for ever, and the kernel's socket that has begun to read.
fn endless(lab: &Lab, family: Family, words: &[&str]) -> (Process, TcpStream) {
    let listener = kernel_listener(lab, family);
    let mut all = vec!["--file", "/dev/zero"];
    all.extend(words);
    let client = ours::connect(lab, family, &all).unwrap();
    let mut stream = kernel::accept(&listener, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    read_some(&mut stream, 16 << 20);
    (client, stream)
}

fn read_some(stream: &mut TcpStream, octets: u64) {
    assert_eq!(data::copy(stream.take(octets), std::io::sink()).unwrap(), octets);
}

#[test]
fn a_peer_that_vanishes_is_noticed() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (mut client, stream) = endless(&lab, Family::Ipv4, &["--user-timeout", "3"]);
    // Packets go nowhere, and nobody says so: the links stay up.
    for number in 1..=2 {
        lab.right.ip(&format!("address flush dev {}", Side::Right.interface(number))).unwrap();
        lab.right.ip(&format!("link set dev {} arp off", Side::Right.interface(number))).unwrap();
        lab.right
            .ip(&format!("link set dev {} address 02:00:00:00:99:0{number}", Side::Right.interface(number)))
            .unwrap();
    }
    let start = Instant::now();
    while client.is_running() && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let finished = client.finish(PATIENCE).unwrap();
    assert_fails(&lab, Side::Left, &finished, 4, &["broke after"]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop(stream);
}

#[test]
fn a_peer_that_resets_is_noticed_at_once() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (client, stream) = endless(&lab, Family::Ipv6, &[]);
    // Closing with unread data in the buffer makes the kernel abort the connection; without any it would
    // close properly and wait for our end.
    stream.peek(&mut [0]).unwrap();
    drop(stream);
    let start = Instant::now();
    let finished = client.finish(PATIENCE).unwrap();
    assert_fails(&lab, Side::Left, &finished, 4, &["broke after"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn an_interface_that_disappears_leaves_the_connection_on_the_other() {
    require_root!();
    for gone in [1, 2] {
        let lab = Lab::new().unwrap();
        let (client, mut stream) = endless(&lab, Family::Ipv4, &[]);
        lab.left.delete_interface(&Side::Left.interface(gone)).unwrap();
        // More than all buffers held.
        read_some(&mut stream, 256 << 20);
        client.signal(libc::SIGINT);
        data::copy(&stream, std::io::sink()).unwrap();
        drop(stream);
        let finished = client.finish(PATIENCE).unwrap();
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert_eq!(finished.status.code(), Some(130), "{}", finished.stderr);
        assert!(!lab.left.has_xdp(&Side::Left.interface(3 - gone)).unwrap());
    }
}

#[test]
fn when_the_only_interface_disappears_the_error_says_so() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (client, stream) = endless(&lab, Family::Ipv4, &["-i", "left1", "--user-timeout", "5"]);
    lab.left.delete_interface("left1").unwrap();
    let finished = client.finish(PATIENCE).unwrap();
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert_eq!(finished.status.code(), Some(4), "{}", finished.stderr);
    assert!(finished.stderr.contains("broke after"), "{}", finished.stderr);
    drop(stream);
}

#[test]
fn ctrl_c_closes_the_connection_properly() {
    require_root!();
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let lab = Lab::new().unwrap();
        let (client, stream) = endless(&lab, Family::Ipv4, &[]);
        client.signal(signal);
        // The peer sees an orderly end, not a reset.
        data::copy(&stream, std::io::sink()).unwrap();
        drop(stream);
        let finished = client.finish(PATIENCE).unwrap();
        assert_orderly(&lab, Side::Left, &finished);
        assert_eq!(finished.status.code(), Some(code), "{}", finished.stderr);
        assert_eq!(finished.json().unwrap()["outcome"], "interrupted");
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    require_root!();
    let lab = Lab::new().unwrap();
    // The peer reads nothing, so an orderly end takes its time.
    let (client, stream) = endless(&lab, Family::Ipv4, &[]);
    client.signal(libc::SIGINT);
    thread::sleep(Duration::from_millis(200));
    client.signal(libc::SIGINT);
    let start = Instant::now();
    let finished = client.finish(PATIENCE).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_fails(&lab, Side::Left, &finished, 130, &[]);
    drop(stream);
}

#[test]
fn kill_9_leaves_the_host_as_it_was() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (mut client, stream) = endless(&lab, Family::Ipv4, &[]);
    assert_eq!(lab.attached(Side::Left).unwrap(), ["left1", "left2"]);
    client.signal(libc::SIGKILL);
    let deadline = Instant::now() + PATIENCE;
    while (client.is_running() || !lab.attached(Side::Left).unwrap().is_empty()) && Instant::now() < deadline
    {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(lab.attached(Side::Left).unwrap(), [""; 0]);
    drop(stream);
    // The kernel's stack works on the same interface and address as if nothing had been.
    let listener =
        kernel::listen(&lab.right, Protocol::Tcp, SocketAddr::new(Family::Ipv4.any(), PORT + 1)).unwrap();
    let remote = Side::Right.socket(1, Family::Ipv4, PORT + 1);
    let stream = kernel::connect(&lab.left, Protocol::Tcp, None, remote, PATIENCE).unwrap();
    let peer = kernel::accept(&listener, PATIENCE).unwrap();
    drop(stream);
    assert_eq!(data::copy(&peer, std::io::sink()).unwrap(), 0);
}

#[test]
fn an_output_that_is_full_ends_with_the_reason() {
    require_root!();
    if !Path::new("/dev/full").exists() {
        eprintln!("SKIPPED: no /dev/full");
        return;
    }
    let lab = Lab::new().unwrap();
    let listener = ours::listen(&lab, &["--output", "/dev/full"]).unwrap();
    let client = ours::connect(&lab, Family::Ipv4, &["--file", "/dev/zero"]).unwrap();
    let finished = listener.finish(PATIENCE).unwrap();
    assert_fails(&lab, Side::Right, &finished, 1, &["can't write what was received"]);
    let finished = client.finish(PATIENCE).unwrap();
    assert_fails(&lab, Side::Left, &finished, 4, &["broke after"]);
}

#[test]
fn the_kernels_own_connections_are_not_disturbed() {
    require_root!();
    let lab = Lab::new().unwrap();
    let listener =
        kernel::listen(&lab.right, Protocol::Tcp, SocketAddr::new(Family::Ipv4.any(), PORT + 1)).unwrap();
    let remote = Side::Right.socket(1, Family::Ipv4, PORT + 1);
    let before = kernel::connect(&lab.left, Protocol::Tcp, None, remote, PATIENCE).unwrap();
    let before_peer = kernel::accept(&listener, PATIENCE).unwrap();
    let ours_listening = ours::listen(&lab, &[]).unwrap();
    // One that was there before the programs were attached, and one that comes while they are.
    let during = kernel::connect(&lab.left, Protocol::Tcp, None, remote, PATIENCE).unwrap();
    let during_peer = kernel::accept(&listener, PATIENCE).unwrap();
    for (stream, peer) in [(before, before_peer), (during, during_peer)] {
        let receiver = thread::spawn(move || data::sum(peer).unwrap());
        data::copy(data::Seeded::new(1, 4 << 20), &stream).unwrap();
        drop(stream);
        assert_eq!(receiver.join().unwrap(), data::sum(data::Seeded::new(1, 4 << 20)).unwrap());
    }
    let ping =
        lab.left.command("ping").args(["-c", "1", "-W", "5", "10.77.1.2"]).stdout(Stdio::null()).status();
    // `ping` is not on every machine; where it is, it gets its answer.
    assert!(ping.map_or(true, |status| status.success()));
    ours_listening.signal(libc::SIGTERM);
    let finished = ours_listening.finish(PATIENCE).unwrap();
    assert_fails(&lab, Side::Right, &finished, 143, &[]);
}
