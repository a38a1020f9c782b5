//! Interfaces and addresses that change while a stack runs, in the order in which hosts change them.

use mptcp_datapath::netlink::{Change, Monitor, Netlink};
use mptcp_tests::counters::Counters;
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::require_root;
use mptcp_user::stack::{MptcpListener, Stack};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 5000;

/// A stack on the left side that listens.
struct Running {
    stack: Stack,
    _listener: MptcpListener,
    runtime: Runtime,
}

impl Running {
    fn new(lab: &Lab) -> Self {
        lab.left.run(|| {
            let runtime =
                Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
            let (stack, listener) = runtime.block_on(async {
                let stack = Stack::builder().build().await.expect("stack");
                let any = SocketAddr::new(Family::Ipv6.any(), PORT);
                let listener = stack.listen(any).await.expect("listener");
                (stack, listener)
            });
            Self { stack, _listener: listener, runtime }
        })
    }

    /// The addresses in use on an interface, sorted; none if the interface is not in use.
    fn addresses(&self, interface: &str) -> Option<Vec<IpAddr>> {
        let reports = self.stack.interfaces();
        let mut addresses = reports.into_iter().find(|report| report.name == interface)?.addresses;
        addresses.sort();
        Some(addresses)
    }

    /// Waits until exactly these addresses are in use on an interface.
    fn until(&self, interface: &str, expected: &[&str]) {
        let mut expected: Vec<IpAddr> = expected.iter().map(|address| ip(address)).collect();
        expected.sort();
        let end = Instant::now() + PATIENCE;
        while self.addresses(interface).as_ref() != Some(&expected) {
            assert!(Instant::now() < end, "{interface}: {:?}, not {expected:?}", self.addresses(interface));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn words(lab: &Lab, lines: &[&str]) {
    for line in lines {
        lab.left.ip(line).expect(line);
    }
}

/// The right side's kernel gets an answer from a listener at an address.
fn is_answered(lab: &Lab, address: &str) {
    let remote = SocketAddr::new(ip(address), PORT);
    let end = Instant::now() + PATIENCE;
    // Refused as long as the stack does not know the address.
    while let Err(error) = kernel::connect(&lab.right, Protocol::Mptcp, None, remote, Duration::from_secs(3))
    {
        assert!(Instant::now() < end, "{address}: {error:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn addresses_that_come_while_the_link_is_down_are_used_once_it_is_up() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let running = Running::new(&lab);
    is_answered(&lab, "10.77.1.1");
    // The same address again, after ifdown and ifup.
    words(
        &lab,
        &[
            "link set left1 down",
            "address flush dev left1",
            "address add 10.77.1.1/24 dev left1",
            "link set left1 up",
        ],
    );
    is_answered(&lab, "10.77.1.1");
    running.until("left1", &["10.77.1.1"]);
    // Others, while the other end has no carrier to offer.
    lab.right.ip("link set right1 down").expect("down");
    words(
        &lab,
        &[
            "address del 10.77.1.1/24 dev left1",
            "address add 10.77.1.7/24 dev left1",
            "address add fd77:1::7/64 dev left1 nodad",
        ],
    );
    lab.right.ip("link set right1 up").expect("up");
    lab.right.ip("-6 address add fd77:1::2/64 dev right1 nodad").expect("address");
    running.until("left1", &["10.77.1.7", "fd77:1::7"]);
    is_answered(&lab, "10.77.1.7");
    is_answered(&lab, "fd77:1::7");
}

#[test]
fn interfaces_are_followed_through_names_namespaces_and_new_indexes() {
    require_root!();
    let lab = Lab::new().expect("links");
    let running = Running::new(&lab);
    running.until("left2", &["10.77.2.1", "fd77:2::1"]);
    words(&lab, &["link set left2 down", "link set left2 name other0", "link set other0 up"]);
    words(&lab, &["-6 address replace fd77:2::1/64 dev other0 nodad"]);
    running.until("other0", &["10.77.2.1", "fd77:2::1"]);
    is_answered(&lab, "10.77.2.1");
    // To another namespace, and back without its addresses.
    lab.left.ip(&format!("link set other0 netns {}", lab.right.path())).expect("moved");
    let end = Instant::now() + PATIENCE;
    while running.addresses("other0").is_some() {
        assert!(Instant::now() < end, "still in use");
        std::thread::sleep(Duration::from_millis(10));
    }
    lab.right.ip(&format!("link set other0 netns {}", lab.left.path())).expect("moved back");
    words(&lab, &["address add 10.77.2.9/24 dev other0", "link set other0 up"]);
    running.until("other0", &["10.77.2.9"]);
    is_answered(&lab, "10.77.2.9");
    // Made anew under its name.
    words(
        &lab,
        &[
            "link del other0",
            &format!("link add other0 type veth peer name right2 netns {}", lab.right.path()),
            "address add 10.77.2.1/24 dev other0",
            "link set other0 up",
        ],
    );
    lab.right.ip("address add 10.77.2.2/24 dev right2").expect("address");
    lab.right.ip("link set right2 up").expect("up");
    running.until("other0", &["10.77.2.1"]);
    is_answered(&lab, "10.77.2.1");
}

#[test]
fn an_address_that_two_interfaces_have_stays_until_both_have_lost_it() {
    require_root!();
    let lab = Lab::new().expect("links");
    let running = Running::new(&lab);
    words(&lab, &["address add 10.77.1.1/32 dev left2"]);
    running.until("left2", &["10.77.1.1", "10.77.2.1", "fd77:2::1"]);
    words(&lab, &["address del 10.77.1.1/32 dev left2"]);
    running.until("left2", &["10.77.2.1", "fd77:2::1"]);
    is_answered(&lab, "10.77.1.1");
}

#[test]
fn duplicate_addresses_are_not_used() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let running = Running::new(&lab);
    lab.left.sysctl("net.ipv6.conf.left1.accept_dad", "1").expect("sysctl");
    lab.right.ip("-6 address add fd77:1::99/64 dev right1 nodad").expect("address");
    words(&lab, &["-6 address add fd77:1::99/64 dev left1", "-6 address add fd77:1::98/64 dev left1"]);
    // The other one has passed the same test by then.
    running.until("left1", &["10.77.1.1", "fd77:1::1", "fd77:1::98"]);
    let shown = lab.left.ip("-6 address show dev left1 dadfailed").expect("addresses");
    assert!(shown.contains("fd77:1::99"), "{shown}");
    running.until("left1", &["10.77.1.1", "fd77:1::1", "fd77:1::98"]);
}

#[test]
fn news_that_were_lost_come_alone_and_what_is_there_is_asked_for() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let mut monitor = lab.left.run(|| Monitor::new().expect("monitor"));
    let running = Running::new(&lab);
    let mut batch = String::new();
    for number in 0..4000 {
        let _ = writeln!(batch, "address add 10.88.{}.{}/32 dev left1", number / 200, number % 200 + 1);
    }
    for number in 0..3999 {
        let _ = writeln!(batch, "address del 10.88.{}.{}/32 dev left1", number / 200, number % 200 + 1);
    }
    let file = std::env::temp_dir().join(format!("mptcp-addresses-{}", std::process::id()));
    std::fs::write(&file, batch).expect("file");
    let path = file.to_str().expect("path");
    lab.left.ip(&format!("-batch {path}")).expect("addresses");
    std::fs::remove_file(&file).expect("removed");
    // The messages left in the queue are older than the lost ones.
    assert_eq!(monitor.poll(), [Change::Overrun]);
    assert_eq!(monitor.poll(), []);
    running.until("left1", &["10.77.1.1", "10.88.19.200", "fd77:1::1"]);
    let known =
        lab.left.run(|| Netlink::new().and_then(|mut netlink| netlink.addresses()).expect("addresses"));
    assert!(known.iter().any(|address| address.address == ip("10.88.19.200")));
}

#[test]
fn an_interface_is_attached_to_after_those_that_are_on_top_of_it() {
    require_root!();
    for (kind, make) in [
        ("macvlan", "link add link left1 name upper0 type macvlan mode bridge"),
        ("vlan", "link add link left1 name upper0 type vlan id 7"),
    ] {
        let lab = Lab::with_links(1).expect("links");
        if lab.left.ip(make).is_err() {
            eprintln!("skipped: this kernel has no {kind}");
            continue;
        }
        words(
            &lab,
            &["address flush dev left1", "address add 10.79.1.1/24 dev upper0", "link set upper0 up"],
        );
        if kind == "vlan" {
            lab.right.ip("link add link right1 name upper0 type vlan id 7").expect("vlan");
            lab.right.ip("link set upper0 up").expect("up");
            lab.right.ip("address add 10.79.1.2/24 dev upper0").expect("address");
        } else {
            lab.right.ip("address add 10.79.1.2/24 dev right1").expect("address");
        }
        let running = Running::new(&lab);
        running.until("upper0", &["10.79.1.1"]);
        is_answered(&lab, "10.79.1.1");
        assert_eq!(running.addresses("left1"), None, "without an address it is not in use");
        words(&lab, &["address add 10.77.1.1/24 dev left1"]);
        running.until("left1", &["10.77.1.1"]);
        assert!(
            lab.left.has_xdp("left1").expect("asks") && lab.left.has_xdp("upper0").expect("asks"),
            "{kind}"
        );
        is_answered(&lab, "10.77.1.1");
        is_answered(&lab, "10.79.1.1");
    }
}

#[test]
fn peers_elsewhere_are_not_told_of_the_addresses_of_an_inner_bridge() {
    require_root!();
    for outer_port in [false, true] {
        let lab = Lab::of_family(Family::Ipv4).expect("links");
        words(
            &lab,
            &[
                "link add docker0 type bridge",
                "link add port0 type veth peer name inside0",
                "link set port0 master docker0",
                "link set port0 up",
                "link set inside0 up",
                "link set docker0 up",
                "address add 172.17.0.1/16 dev docker0",
            ],
        );
        if outer_port {
            // With a way to everywhere it is a network like any other.
            words(&lab, &["route add default via 172.17.0.2 dev docker0 metric 700"]);
        }
        lab.prepare_kernel(Side::Right, Family::Ipv4).expect("limits");
        let running = Running::new(&lab);
        running.until("docker0", &["172.17.0.1"]);
        let remote = SocketAddr::new(ip("10.77.1.1"), PORT);
        let stream = kernel::connect(&lab.right, Protocol::Mptcp, None, remote, PATIENCE).expect("connects");
        let told = || Counters::read(&lab.right).expect("counters").get("MPTcpExtAddAddr");
        let expected = 1 + i64::from(outer_port);
        let end = Instant::now() + PATIENCE;
        while told() < expected {
            assert!(Instant::now() < end, "{} addresses told", told());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(told(), expected);
        drop(stream);
    }
}

#[test]
fn a_deprecated_address_gets_no_new_subflows_until_it_is_preferred_again() {
    require_root!();
    let lab = Lab::of_family(Family::Ipv6).expect("links");
    lab.prepare_kernel(Side::Right, Family::Ipv6).expect("limits");
    let any = SocketAddr::new(Family::Ipv6.any(), PORT);
    let listener = kernel::listen(&lab.right, Protocol::Mptcp, any).expect("listener");
    let running = Running::new(&lab);
    let joins = || Counters::read(&lab.right).expect("counters").get("MPTcpExtMPJoinSynRx");
    let connect = || {
        let remote = Side::Right.socket(1, Family::Ipv6, PORT);
        let stream = running.runtime.block_on(running.stack.connect(remote)).expect("connects");
        (stream, kernel::accept(&listener, PATIENCE).expect("accepts"))
    };
    words(&lab, &["-6 address change fd77:2::1/64 dev left2 preferred_lft 0"]);
    std::thread::sleep(Duration::from_millis(500));
    let first = connect();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(joins(), 0);
    drop(first);
    words(&lab, &["-6 address change fd77:2::1/64 dev left2 preferred_lft forever"]);
    std::thread::sleep(Duration::from_millis(500));
    let second = connect();
    let end = Instant::now() + PATIENCE;
    while joins() == 0 {
        assert!(Instant::now() < end, "no subflow from it");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(second);
}
