//! A translator of addresses between a client of ours and the kernel, which forgets connections on which
//! nothing happens for eight seconds, and does not say so.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side, hidden_address};
use mptcp_tests::ours::{self, PATIENCE, PORT};
use mptcp_tests::process::Process;
use mptcp_tests::require_root;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// More than the translator remembers.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// A client behind the translator, and the kernel's end of its connection.
fn connected(
    lab: &Lab,
    family: Family,
    words: &[&str],
    stdin: impl Into<Stdio>,
) -> (Process, TcpStream, TcpListener) {
    lab.prepare_kernel(Side::Right, family).unwrap();
    let local = SocketAddr::new(family.any(), PORT);
    let listener = kernel::listen(&lab.right, Protocol::Mptcp, local).unwrap();
    let client = Process::start(ours::connect_command(lab, family, words).stdin(stdin), true).unwrap();
    let stream = kernel::accept(&listener, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, stream, listener)
}

fn lab(family: Family) -> Lab {
    let nat = format!("nat,external={},idle=8s", hidden_address(1, family));
    let lab = Lab::emulated(&[&["--both", "rate=100mbit,delay=5ms", "--box", &nat]], &[family]).unwrap();
    lab.hide_left(1, family).unwrap();
    lab
}

#[test]
fn a_client_that_waits_is_reached_though_its_connection_was_forgotten() {
    require_root!();
    for family in Family::BOTH {
        let lab = lab(family);
        // The kernel takes no joins of a client that has said all that it has to say.
        let (stdin, open) = std::io::pipe().unwrap();
        let (client, mut stream, _listener) = connected(&lab, family, &["--path-check", "10"], stdin);
        stream.write_all(b"early ").unwrap();
        // The first subflow still counts: the reset that ends it does not get through.
        let start = Instant::now();
        while kernel::info(&stream).is_some_and(|info| info.additional_subflows == 0) {
            assert!(start.elapsed() < PATIENCE, "{}", client.stderr());
            thread::sleep(Duration::from_millis(50));
        }
        stream.write_all(b"late").unwrap();
        drop((stream, open));
        let finished = client.finish(PATIENCE).unwrap();
        assert!(finished.status.success(), "{}", finished.stderr);
        assert_eq!(String::from_utf8_lossy(&finished.stdout), "early late", "{}", finished.stderr);
    }
}

#[test]
fn a_client_that_was_stopped_meanwhile_goes_on_sending() {
    require_root!();
    let family = Family::Ipv4;
    let lab = lab(family);
    let (client, mut stream, _listener) = connected(&lab, family, &["--file", "/dev/zero"], Stdio::null());
    let mut buffer = vec![0; 1 << 20];
    stream.read_exact(&mut buffer).unwrap();
    client.signal(libc::SIGSTOP);
    thread::sleep(FORGOTTEN);
    stream.set_nonblocking(true).unwrap();
    while stream.read(&mut buffer).is_ok_and(|octets| octets > 0) {}
    stream.set_nonblocking(false).unwrap();
    client.signal(libc::SIGCONT);
    let start = Instant::now();
    stream.read_exact(&mut buffer).unwrap_or_else(|error| panic!("{error}: {}", client.stderr()));
    println!("goes on after {:?}", start.elapsed());
    client.signal(libc::SIGINT);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    drop(stream);
    let finished = client.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(130), "{}", finished.stderr);
}
