//! Connections of ours that lose their only way for a moment, with the kernel as the peer, which does nothing
//! about that.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT};
use mptcp_tests::process::Process;
use mptcp_tests::require_root;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The limit on a loaded machine. The goal is 300 ms; the kernel's own timer would take longer
/// than a second.
const SOON: Duration = Duration::from_secs(3);

/// A kernel and a client of ours, which both send all the time and read.
struct Both {
    client: Process,
    stream: TcpStream,
    _listener: std::net::TcpListener,
}

impl Both {
    fn new(lab: &Lab, family: Family, words: &[&str]) -> Self {
        lab.prepare_kernel(Side::Right, family).unwrap();
        let local = SocketAddr::new(family.any(), PORT);
        let listener = kernel::listen(&lab.right, Protocol::Mptcp, local).unwrap();
        let words = [&["-vv", "--file", "/dev/zero", "-q"], words].concat();
        let client = ours::connect(lab, family, &words).unwrap();
        let stream = kernel::accept(&listener, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { client, stream, _listener: listener }
    }

    /// Something arrives after what had before; gives how long that took.
    fn goes_on(&mut self) -> Duration {
        let start = Instant::now();
        let mut buffer = vec![0; 1 << 20];
        // The bytes in the buffer are older.
        self.stream.set_nonblocking(true).unwrap();
        while self.stream.read(&mut buffer).is_ok_and(|octets| octets > 0) {}
        self.stream.set_nonblocking(false).unwrap();
        self.stream.read_exact(&mut buffer[..300_000]).unwrap_or_else(|error| {
            panic!("{error}; the client said: {}", self.client.stderr());
        });
        start.elapsed()
    }

    fn end(self) {
        self.client.signal(libc::SIGINT);
        let mut stream = self.stream;
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        drop(stream);
        let finished = self.client.finish(PATIENCE).unwrap();
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert_eq!(finished.status.code(), Some(130), "{}", finished.stderr);
    }
}

#[test]
fn a_carrier_that_is_lost_for_a_moment_ends_nothing() {
    require_root!();
    for (family, words) in [
        (Family::Ipv4, &[][..]),
        (Family::Ipv6, &[][..]),
        (Family::Ipv4, &["--no-multipath"][..]),
        (Family::Ipv4, &["--path-manager", "none"][..]),
    ] {
        let lab = Lab::with_links(1).unwrap();
        let mut both = Both::new(&lab, family, words);
        both.goes_on();
        lab.right.set_up("right1", false).unwrap();
        thread::sleep(Duration::from_millis(1200));
        lab.right.set_up("right1", true).unwrap();
        if family == Family::Ipv6 {
            // The kernel takes them away when an interface goes down.
            lab.right.add_address("right1", &format!("{}/64", Side::Right.address(1, family))).unwrap();
        }
        let time = both.goes_on();
        assert!(time < SOON, "{family:?} {words:?}: {time:?}\n{}", both.client.stderr());
        both.end();
    }
}

#[test]
fn the_only_interface_goes_down_and_up() {
    require_root!();
    for family in [Family::Ipv4, Family::Ipv6] {
        let lab = Lab::with_links(1).unwrap();
        let mut both = Both::new(&lab, family, &[]);
        both.goes_on();
        lab.left.set_up("left1", false).unwrap();
        thread::sleep(Duration::from_millis(1200));
        lab.left.set_up("left1", true).unwrap();
        if family == Family::Ipv6 {
            lab.left.add_address("left1", &format!("{}/64", Side::Left.address(1, family))).unwrap();
        }
        let time = both.goes_on();
        assert!(time < SOON, "{family:?}: {time:?}\n{}", both.client.stderr());
        both.end();
    }
}

#[test]
fn the_only_address_is_replaced_or_comes_back() {
    require_root!();
    for (family, prefix, next) in
        [(Family::Ipv4, 24, "10.77.1.77"), (Family::Ipv4, 24, "10.77.1.1"), (Family::Ipv6, 64, "fd77:1::77")]
    {
        let lab = Lab::with_links(1).unwrap();
        let mut both = Both::new(&lab, family, &[]);
        both.goes_on();
        let old = Side::Left.address(1, family);
        let next = if family == Family::Ipv6 {
            // A neighbour of the old one, whatever prefix the links have.
            old.to_string().replace("::1", "::77")
        } else {
            next.to_owned()
        };
        lab.left.remove_address("left1", &format!("{old}/{prefix}")).unwrap();
        thread::sleep(Duration::from_millis(1200));
        assert!(both.client.is_running(), "{}", both.client.stderr());
        lab.left.add_address("left1", &format!("{next}/{prefix}")).unwrap();
        let time = both.goes_on();
        assert!(time < SOON, "{old} to {next}: {time:?}\n{}", both.client.stderr());
        both.end();
    }
}

#[test]
fn a_server_keeps_a_connection_whose_address_is_gone_for_a_moment() {
    require_root!();
    for word in [&[][..], &["--no-multipath"][..]] {
        let lab = Lab::with_links(1).unwrap();
        let server = ours::listen(&lab, &[&["-q"], word].concat()).unwrap();
        let remote = Side::Right.socket(1, Family::Ipv4, PORT);
        let protocol = if word.is_empty() { Protocol::Mptcp } else { Protocol::Tcp };
        let mut stream = kernel::connect(&lab.left, protocol, None, remote, PATIENCE).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[1; 1_000_000]).unwrap();
        lab.right.remove_address("right1", "10.77.1.2/24").unwrap();
        thread::sleep(Duration::from_millis(1200));
        lab.right.add_address("right1", "10.77.1.2/24").unwrap();
        let start = Instant::now();
        // More than all buffers hold.
        stream.write_all(&vec![2; 40_000_000]).unwrap_or_else(|error| panic!("{error}: {}", server.stderr()));
        assert!(start.elapsed() < PATIENCE);
        drop(stream);
        server.signal(libc::SIGINT);
        let finished = server.finish(PATIENCE).unwrap();
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
}
