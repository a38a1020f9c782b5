//! Questions to the kernel in namespaces of known shape: interfaces, routes, neighbours and their changes.

use mptcp_datapath::interface::{AttachMode, HostFacts};
use mptcp_datapath::netlink::{Change, Monitor, Netlink, Reachability, RouteKind};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::raw::link_of;
use mptcp_tests::require_root;
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// Waits for a change that `wanted` accepts.
fn wait_for<T>(monitor: &mut Monitor, mut wanted: impl FnMut(&Change) -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut seen = Vec::new();
    while Instant::now() < deadline {
        for change in monitor.poll() {
            if let Some(found) = wanted(&change) {
                return found;
            }
            seen.push(change);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not heard of; heard: {seen:?}");
}

#[test]
fn interfaces_and_addresses_are_seen_as_they_are() {
    require_root!();
    let lab = Lab::new().expect("links");
    let facts = lab.left.run(|| HostFacts::gather().expect("facts"));
    let left1 = facts.link("left1").expect("interface");
    assert!(left1.up && left1.running && left1.ethernet && left1.mac.is_some() && left1.mtu == 1500);
    assert_eq!(left1.kind.as_deref(), Some("veth"));
    assert_eq!(facts.usable_addresses(left1.index), Family::BOTH.map(|family| Side::Left.address(1, family)));
    assert!(facts.missing.is_empty() && facts.af_xdp);
    let report = facts.report(left1, AttachMode::Auto);
    assert_eq!((report.mode.as_deref(), report.driver.as_deref()), (Some("generic"), Some("veth")));
    let native = facts.report(left1, AttachMode::Native);
    assert!(native.usable, "{}", native.reason);
}

#[test]
fn tunnels_are_reported_with_the_reason() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    lab.left.ip("tuntap add dev tun9 mode tun").expect("tun");
    lab.left.ip("address add 10.99.0.1/24 dev tun9").expect("address");
    lab.left.ip("link set tun9 up").expect("up");
    let facts = lab.left.run(|| HostFacts::gather().expect("facts"));
    let report = facts.report(facts.link("tun9").expect("interface"), AttachMode::Auto);
    assert!(!report.usable && report.reason.contains("Ethernet"), "{}", report.reason);
}

#[test]
fn routes_are_found_over_the_interface_asked_for() {
    require_root!();
    let lab = Lab::new().expect("links");
    let (one, two) = lab.left.run(|| {
        let links = Netlink::new().and_then(|mut netlink| netlink.links()).expect("links");
        let index = |name: &str| links.iter().find(|link| link.name == name).expect("interface").index;
        (index("left1"), index("left2"))
    });
    // A laptop: two default routes, told apart by their metrics only, no policy routing.
    for words in [
        "route add default via 10.77.1.2 dev left1 metric 100",
        "route add default via 10.77.2.2 dev left2 metric 600",
        "-6 route add default via fd77:1::2 dev left1 metric 100",
        "-6 route add default via fd77:2::2 dev left2 metric 600",
        // More specific, but in a table of its own that no rule leads to.
        "route add 198.51.100.0/24 via 10.77.2.9 dev left2 table 77",
        "route add unreachable 203.0.113.0/24",
    ] {
        lab.left.ip(words).expect(words);
    }
    lab.left.run(|| {
        let mut netlink = Netlink::new().expect("netlink");
        let mut gateway = |to: &str, from: &str, interface: u32| {
            let route = netlink.route_over(ip(to), ip(from), interface).expect("answer");
            route.map(|route| {
                assert_eq!((route.kind, route.interface), (RouteKind::Unicast, interface));
                route.next_hop(ip(to))
            })
        };
        assert_eq!(gateway("192.0.2.9", "10.77.1.1", one), Some(ip("10.77.1.2")));
        assert_eq!(gateway("192.0.2.9", "10.77.2.1", two), Some(ip("10.77.2.2")));
        assert_eq!(gateway("2001:db8::9", "fd77:1::1", one), Some(ip("fd77:1::2")));
        assert_eq!(gateway("2001:db8::9", "fd77:2::1", two), Some(ip("fd77:2::2")));
        assert_eq!(gateway("10.77.1.2", "10.77.1.1", one), Some(ip("10.77.1.2")), "on the link");
        // The other link's prefix is reached through this interface's router, not assumed to be on the link.
        assert_eq!(gateway("10.77.1.2", "10.77.2.1", two), Some(ip("10.77.2.2")));
        assert_eq!(gateway("fd77:1::2", "fd77:2::1", two), Some(ip("fd77:2::2")));
        let direct = netlink.route(ip("192.0.2.9"), None, None).expect("answer").expect("route");
        assert_eq!((direct.interface, direct.source), (one, Some(ip("10.77.1.1"))));
        let direct = netlink.route(ip("2001:db8::9"), None, None).expect("answer").expect("route");
        assert_eq!((direct.interface, direct.source), (one, Some(ip("fd77:1::1"))));
        let own = netlink.route(ip("10.77.2.1"), None, None).expect("answer").expect("route");
        assert_eq!(own.kind, RouteKind::Local);
    });
    // Without the default routes, what no rule leads to is still found by looking through all tables.
    lab.left.ip("route del default via 10.77.2.2 dev left2 metric 600").expect("gone");
    lab.left.run(|| {
        let mut netlink = Netlink::new().expect("netlink");
        let route = netlink.route_over(ip("198.51.100.7"), ip("10.77.2.1"), two).expect("answer");
        assert_eq!(route.map(|route| route.next_hop(ip("198.51.100.7"))), Some(ip("10.77.2.9")));
        let nothing = netlink.route_over(ip("192.0.2.9"), ip("10.77.2.1"), two).expect("answer");
        assert_eq!(nothing, None, "not assumed to be on the link");
    });
}

#[test]
fn neighbours_are_resolved_by_the_kernel_or_fail() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let (left, right) = (link_of(&lab, Side::Left).expect("link"), link_of(&lab, Side::Right).expect("link"));
    lab.left.run(|| {
        let mut monitor = Monitor::new().expect("monitor");
        let mut netlink = Netlink::new().expect("netlink");
        for family in Family::BOTH {
            let address = Side::Right.address(1, family);
            netlink.resolve(left.index, address).expect("command");
            let mac = wait_for(&mut monitor, |change| match change {
                Change::Neighbour(neighbour)
                    if neighbour.address == address && neighbour.reachability == Reachability::Confirmed =>
                {
                    neighbour.mac
                }
                _ => None,
            });
            assert_eq!(Some(mac), right.mac);
            let known = netlink.neighbours().expect("dump");
            assert!(known.iter().any(|entry| entry.address == address && entry.mac == right.mac));
        }
        // No host has this address. The kernel asks three times, a second apart.
        let nobody = ip("10.77.1.77");
        netlink.resolve(left.index, nobody).expect("command");
        wait_for(&mut monitor, |change| match change {
            Change::Neighbour(neighbour) if neighbour.address == nobody => {
                (neighbour.reachability == Reachability::Failed).then_some(())
            }
            _ => None,
        });
    });
}

#[test]
fn changes_of_links_addresses_and_routes_are_heard_of() {
    require_root!();
    let lab = Lab::with_links(1).expect("links");
    let index = link_of(&lab, Side::Left).expect("link").index;
    let mut monitor = lab.left.run(|| Monitor::new().expect("monitor"));
    lab.left.ip("address add 10.99.9.9/24 dev left1").expect("add");
    wait_for(&mut monitor, |change| match change {
        Change::Address(address) if address.address == ip("10.99.9.9") => {
            assert!(address.global && address.preferred && address.interface == index);
            Some(())
        }
        _ => None,
    });
    lab.left.ip("route add 198.51.100.0/24 via 10.77.1.2").expect("add");
    wait_for(&mut monitor, |change| (*change == Change::Routes).then_some(()));
    lab.left.ip("address del 10.99.9.9/24 dev left1").expect("del");
    wait_for(&mut monitor, |change| match change {
        Change::AddressGone(address) if address.address == ip("10.99.9.9") => Some(()),
        _ => None,
    });
    // The other end goes down: no carrier here.
    lab.right.ip("link set right1 down").expect("down");
    wait_for(&mut monitor, |change| match change {
        Change::Link(link) if link.index == index && link.up && !link.running => Some(()),
        _ => None,
    });
    lab.left.ip("link del left1").expect("gone");
    wait_for(&mut monitor, |change| (*change == Change::LinkGone(index)).then_some(()));
}
