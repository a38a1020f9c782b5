//! Limits that routes set on the size of packets hold for this stack's packets and for the MSS that it
//! announces, as it does with the kernel's own connections.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::netns::{End, Namespace, link};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::process::Process;
use mptcp_tests::{data, require_root};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Octets of options in each segment: timestamps.
const OPTIONS: u32 = 12;

fn socket_option(socket: &impl AsRawFd, level: i32, option: i32) -> i32 {
    let (mut value, mut length) = (0i32, 4);
    // SAFETY: four octets are writable at `value`, as `length` says.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    value
}

/// Largest segment that a kernel socket sends: the other end's MSS, without options, unless its
/// own links take less.
fn segment_size(stream: &TcpStream) -> u32 {
    socket_option(stream, libc::IPPROTO_TCP, libc::TCP_MAXSEG) as u32
}

/// A connection of ours from the left to an address and back; the MSS that the peer was told, and the largest
/// packet that ours has sent.
fn sizes(lab: &Lab, at: &Namespace, to: IpAddr) -> (u32, u64) {
    let remote = SocketAddr::new(to, PORT);
    let listener = kernel::listen(at, Protocol::Tcp, remote).unwrap();
    let (file, _) = data::seeded_file(3, 1 << 20).unwrap();
    let path = data::path_of(&file);
    let target = remote.to_string();
    let words = ["connect", "--json", "--no-multipath", "--file", path.to_str().unwrap(), &target];
    let client = Process::start(&mut ours::command(lab, Side::Left, &words), true).unwrap();
    let stream = kernel::accept(&listener, PATIENCE).unwrap();
    assert_eq!(data::copy(&stream, std::io::sink()).unwrap(), 1 << 20);
    let announced = segment_size(&stream) + OPTIONS;
    drop(stream);
    let finished = client.finish(PATIENCE).unwrap();
    assert_orderly(lab, Side::Left, &finished);
    let statistics = finished.json().unwrap();
    (announced, statistics["connection"]["subflows"][0]["path_mtu"].as_u64().unwrap())
}

#[test]
fn metrics_of_routes_are_obeyed_and_announced() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    for (family, prefix, to) in [(Family::Ipv4, "", "203.0.113.1"), (Family::Ipv6, "-6 ", "2001:db8::1")] {
        let to: IpAddr = to.parse().unwrap();
        let headers = if family == Family::Ipv4 { 40 } else { 60 };
        lab.right.ip(&format!("{prefix}address add {to} dev lo")).unwrap();
        let gateway = Side::Right.address(1, family);
        for (metrics, mss, mtu) in [
            ("", 1500 - headers, 1500),
            ("mtu 1400", 1400 - headers, 1400),
            ("mtu lock 1350", 1350 - headers, 1350),
            // Only what the peer sends becomes smaller.
            ("advmss 1000", 1000, 1500),
            ("advmss 1450 mtu 1300", 1300 - headers, 1300),
        ] {
            lab.left.ip(&format!("{prefix}route replace {to} via {gateway} dev left1 {metrics}")).unwrap();
            assert_eq!(sizes(&lab, &lab.right, to), (mss, mtu), "{family} {metrics}");
        }
        // Through a nexthop object.
        lab.left.ip(&format!("{prefix}route del {to}")).unwrap();
        lab.left.sysctl("net.ipv4.nexthop_compat_mode", "0").unwrap();
        lab.left.ip(&format!("{prefix}nexthop replace id 1 via {gateway} dev left1")).unwrap();
        lab.left.ip(&format!("{prefix}route replace {to} nhid 1 mtu 1320")).unwrap();
        assert_eq!(sizes(&lab, &lab.right, to), (1320 - headers, 1320), "{family}, nexthop object");
        lab.left.ip(&format!("{prefix}route del {to}")).unwrap();
        lab.left.ip("nexthop del id 1").unwrap();
    }
}

#[test]
fn a_listener_announces_what_the_route_to_the_peer_says() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    for (family, prefix, from) in [(Family::Ipv4, "", "203.0.113.1"), (Family::Ipv6, "-6 ", "2001:db8::1")] {
        let headers = if family == Family::Ipv4 { 40 } else { 60 };
        lab.left.ip(&format!("{prefix}address add {from} dev lo")).unwrap();
        let gateway = Side::Left.address(1, family);
        lab.right.ip(&format!("{prefix}route add {from} via {gateway} dev right1 mtu 1340")).unwrap();
        let server = ours::listen(&lab, &["--file", "/etc/hostname"]).unwrap();
        let from = Some(SocketAddr::new(from.parse().unwrap(), 0));
        let to = Side::Right.socket(1, family, PORT);
        let stream = kernel::connect(&lab.left, Protocol::Tcp, from, to, PATIENCE).unwrap();
        assert_eq!(segment_size(&stream) + OPTIONS, 1340 - headers, "{family}");
        drop(stream);
        server.finish(PATIENCE).unwrap();
    }
}

#[test]
fn a_route_that_changes_counts_for_the_connections_that_are_there() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    let listener =
        kernel::listen(&lab.right, Protocol::Tcp, Side::Right.socket(1, Family::Ipv4, PORT)).unwrap();
    let client = ours::connect(&lab, Family::Ipv4, &["--no-multipath", "--file", "/dev/zero"]).unwrap();
    let mut stream = kernel::accept(&listener, PATIENCE).unwrap();
    let mut read = |octets: u64| {
        let copied = data::copy(std::io::Read::take(&mut stream, octets), std::io::sink());
        assert_eq!(copied.unwrap(), octets, "{}", client.stderr());
    };
    read(1 << 20);
    lab.left.ip("route change 10.77.1.0/24 dev left1 mtu 1250").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    read(64 << 20);
    client.signal(libc::SIGINT);
    data::copy(&stream, std::io::sink()).unwrap();
    stream.flush().unwrap();
    drop(stream);
    let finished = client.finish(PATIENCE).unwrap();
    let statistics = finished.json().unwrap();
    let path_mtu = statistics["connection"]["subflows"][0]["path_mtu"].as_u64();
    assert_eq!(path_mtu, Some(1250), "{statistics:#}");
}

#[test]
fn path_mtus_that_the_kernel_has_learnt_are_used_from_the_first_segment_on() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    // A third host behind the right one, on a link that takes less in its direction only.
    let third = Namespace::new("third").unwrap();
    let near = End { namespace: &lab.right, interface: "near", addresses: &["10.78.1.1/24", "fd78:1::1/64"] };
    let far = End { namespace: &third, interface: "far", addresses: &["10.78.1.2/24", "fd78:1::2/64"] };
    link(&near, &far).unwrap();
    lab.right.set_mtu("near", 1360).unwrap();
    for (family, prefix) in [(Family::Ipv4, ""), (Family::Ipv6, "-6 ")] {
        let (net, near, to) = match family {
            Family::Ipv4 => ("10.78.1.0/24", "10.78.1.1", "10.78.1.2"),
            Family::Ipv6 => ("fd78:1::/64", "fd78:1::1", "fd78:1::2"),
        };
        let to: IpAddr = to.parse().unwrap();
        lab.left.ip(&format!("{prefix}route add {net} via {}", Side::Right.address(1, family))).unwrap();
        third.ip(&format!("{prefix}route add default via {near}")).unwrap();
        lab.right.sysctl("net.ipv4.ip_forward", "1").unwrap();
        lab.right.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        // The kernel learns it with a socket of its own.
        lab.left.run(|| {
            let socket = UdpSocket::bind((family.any(), 0)).unwrap();
            socket.connect((to, 9)).unwrap();
            let (level, discover, mtu) = match family {
                Family::Ipv4 => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU),
                Family::Ipv6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU),
            };
            let always = libc::IP_PMTUDISC_DO;
            // SAFETY: four octets are readable at `always`.
            let result = unsafe {
                libc::setsockopt(socket.as_raw_fd(), level, discover, (&raw const always).cast(), 4)
            };
            assert_eq!(result, 0);
            let end = Instant::now() + PATIENCE;
            while socket_option(&socket, level, mtu) != 1360 {
                assert!(Instant::now() < end, "no word of the router");
                let _ = socket.send(&[0; 1400]);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let headers = if family == Family::Ipv4 { 40 } else { 60 };
        assert_eq!(sizes(&lab, &third, to), (1360 - headers, 1360), "{family}");
    }
}

#[test]
fn a_route_whose_mtu_is_locked_lets_routers_cut_packets_and_does_not_listen_to_them() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    let third = Namespace::new("third").unwrap();
    let near = End { namespace: &lab.right, interface: "near", addresses: &["10.78.1.1/24"] };
    let far = End { namespace: &third, interface: "far", addresses: &["10.78.1.2/24"] };
    link(&near, &far).unwrap();
    lab.right.set_mtu("near", 1000).unwrap();
    lab.right.sysctl("net.ipv4.ip_forward", "1").unwrap();
    third.ip("route add default via 10.78.1.1").unwrap();
    lab.left.ip("route add 10.78.1.0/24 via 10.77.1.2 mtu lock 1400").unwrap();
    assert_eq!(sizes(&lab, &third, "10.78.1.2".parse().unwrap()), (1360, 1400));
    let fragments = mptcp_tests::counters::Counters::read(&third).unwrap();
    assert!(fragments.get("IpReasmOKs") > 100, "nothing was cut: {fragments:?}");
}
