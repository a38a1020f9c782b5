//! Connections between link-local IPv6 addresses, which an interface completes ("fe80::1%eth0"), with the
//! kernel as peer.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::netns::Namespace;
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_fails, assert_orderly};
use mptcp_tests::process::Process;
use mptcp_tests::require_root;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

/// The link-local address of an interface.
fn link_local(namespace: &Namespace, interface: &str) -> Ipv6Addr {
    let end = Instant::now() + PATIENCE;
    loop {
        let shown =
            namespace.ip(&format!("-6 -o address show dev {interface} scope link -tentative")).unwrap();
        let address = shown.split("inet6 ").nth(1).and_then(|rest| rest.split('/').next());
        if let Some(address) = address {
            return address.parse().unwrap();
        }
        assert!(Instant::now() < end, "no link-local address on {interface}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn index(namespace: &Namespace, interface: &str) -> u32 {
    let shown = namespace.ip(&format!("-o link show dev {interface}")).unwrap();
    shown.split(':').next().unwrap().trim().parse().unwrap()
}

/// The kernel's view of a link-local address of the other side.
fn across(address: Ipv6Addr, namespace: &Namespace, interface: &str) -> SocketAddr {
    SocketAddrV6::new(address, PORT, 0, index(namespace, interface)).into()
}

/// The kernel on the left gets an answer from the listener on the right.
fn is_answered(lab: &Lab, to: SocketAddr) {
    let mut stream = kernel::connect(&lab.left, Protocol::Mptcp, None, to, Duration::from_secs(10)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, std::fs::read_to_string("/etc/hostname").unwrap());
}

#[test]
fn a_listener_takes_connections_to_a_link_local_address() {
    require_root!();
    let lab = Lab::new().unwrap();
    let one = link_local(&lab.right, "right1");
    let server = Process::start(
        &mut ours::command(
            &lab,
            Side::Right,
            &["listen", "-k", "--file", "/etc/hostname", &format!("[{one}%right1]:{PORT}")],
        ),
        true,
    );
    let mut server = server.unwrap();
    server.wait_for("listening on", PATIENCE).unwrap();
    is_answered(&lab, across(one, &lab.left, "left1"));
    // After the link has been down the address is there again.
    lab.right.ip("link set right1 down").unwrap();
    lab.right.ip("link set right1 up").unwrap();
    link_local(&lab.right, "right1");
    link_local(&lab.left, "left1");
    is_answered(&lab, across(one, &lab.left, "left1"));
    server.signal(libc::SIGINT);
    assert_orderly(&lab, Side::Right, &server.finish(PATIENCE).unwrap());
}

#[test]
fn a_listener_for_all_addresses_has_the_link_local_ones() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (one, two) = (link_local(&lab.right, "right1"), link_local(&lab.right, "right2"));
    let server = ours::listen(&lab, &["-k", "--file", "/etc/hostname"]).unwrap();
    is_answered(&lab, across(one, &lab.left, "left1"));
    is_answered(&lab, across(two, &lab.left, "left2"));
    server.signal(libc::SIGINT);
    assert_orderly(&lab, Side::Right, &server.finish(PATIENCE).unwrap());
}

#[test]
fn a_connection_goes_to_a_link_local_address_by_the_interface_that_is_named() {
    require_root!();
    let lab = Lab::new().unwrap();
    let two = link_local(&lab.right, "right2");
    let own = link_local(&lab.left, "left2");
    let listener =
        kernel::listen(&lab.right, Protocol::Mptcp, SocketAddr::new(Family::Ipv6.any(), PORT)).unwrap();
    let target = format!("[{two}%left2]:{PORT}");
    for more in [&[][..], &["--local", &format!("[{own}%left2]:0")]] {
        let all = [&["connect", "--file", "/etc/hostname"], more, &[&target]].concat();
        let client = Process::start(&mut ours::command(&lab, Side::Left, &all), true).unwrap();
        let mut stream = kernel::accept(&listener, PATIENCE).unwrap();
        assert!(matches!(stream.peer_addr().unwrap(), SocketAddr::V6(peer) if *peer.ip() == own));
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, std::fs::read_to_string("/etc/hostname").unwrap());
        stream.write_all(b"bye").unwrap();
        drop(stream);
        let finished = client.finish(PATIENCE).unwrap();
        assert_eq!(
            (finished.status.code(), &finished.stdout[..]),
            (Some(0), &b"bye"[..]),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn an_address_without_its_interface_is_an_error_that_says_so() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (own, theirs) = (link_local(&lab.left, "left1"), link_local(&lab.right, "right1"));
    let cases: [(&[&str], i32, &str); 5] = [
        (&["connect", "--timeout", "3", &format!("[{theirs}]:{PORT}")], 3, "one link only"),
        (&["connect", "--timeout", "3", "-i", "left1", &format!("[{theirs}%left2]:{PORT}")], 3, "%left1]"),
        (&["listen", &format!("[{own}]:{PORT}")], 1, "one link only"),
        (&["listen", &format!("[{own}%left2]:{PORT}")], 1, "left2"),
        (&["listen", &format!("[{own}%none0]:{PORT}")], 2, "none0"),
    ];
    for (words, code, said) in cases {
        let finished = ours::run(&lab, Side::Left, words).unwrap();
        assert_fails(&lab, Side::Left, &finished, code, &[said]);
    }
}
