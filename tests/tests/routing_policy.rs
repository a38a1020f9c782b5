//! The host's routing policy: this stack does not send packets that rules and routes refuse or send
//! elsewhere.

use mptcp_datapath::netlink::{Flow, Netlink, Refusal, Verdict};
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_fails};
use mptcp_tests::process::Process;
use mptcp_tests::require_root;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn words(lab: &Lab, lines: &[&str]) {
    for line in lines {
        lab.left.ip(line).expect(line);
    }
}

/// A tunnel that takes packets without an Ethernet header, as VPNs have them.
fn tunnel(lab: &Lab) {
    words(
        lab,
        &[
            "tuntap add dev tun9 mode tun",
            "address add 10.99.0.1/24 dev tun9",
            "-6 address add fd99::1/64 dev tun9 nodad",
            "link set tun9 up",
        ],
    );
}

/// Two links with a router each, and a tunnel; the left side is asked.
struct Asked {
    lab: Lab,
    indexes: Vec<(String, u32)>,
}

impl Asked {
    fn new() -> Self {
        let lab = Lab::new().expect("links");
        tunnel(&lab);
        let links = lab.left.run(|| Netlink::new().and_then(|mut netlink| netlink.links()).expect("links"));
        let indexes = links.into_iter().map(|link| (link.name, link.index)).collect();
        Self { lab, indexes }
    }

    /// The verdict for a flow from the left side's address on a link, in words.
    fn verdict(&self, link: usize, to: &str) -> String {
        self.verdict_to_port(link, to, None)
    }

    fn verdict_to_port(&self, link: usize, to: &str, port: Option<u16>) -> String {
        let family = if ip(to).is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let name = Side::Left.interface(link);
        let interface = self.indexes.iter().find(|(known, _)| *known == name).expect("interface").1;
        let flow = Flow {
            source: Side::Left.address(link, family),
            destination: ip(to),
            port,
            interface,
            interface_name: &name,
            user: 0,
        };
        let verdict = self.lab.left.run(|| Netlink::new().expect("netlink").policy(&flow).expect("answer"));
        match verdict {
            Verdict::Allowed(route) => {
                assert_eq!(route.interface, interface);
                format!("via {}", route.next_hop(ip(to)))
            }
            Verdict::Elsewhere(index) => {
                let known = self.indexes.iter().find(|(_, known)| *known == index).expect("interface");
                format!("elsewhere: {}", known.0)
            }
            Verdict::Refused(Refusal::Prohibit) => "prohibit".into(),
            Verdict::Refused(Refusal::Blackhole) => "blackhole".into(),
            Verdict::Refused(Refusal::Unreachable) => "unreachable".into(),
            other => format!("{other:?}"),
        }
    }

    fn two_default_routes(&self) {
        words(
            &self.lab,
            &[
                "route add default via 10.77.1.2 dev left1 metric 100",
                "route add default via 10.77.2.2 dev left2 metric 600",
                "-6 route add default via fd77:1::2 dev left1 metric 100",
                "-6 route add default via fd77:2::2 dev left2 metric 600",
            ],
        );
    }
}

#[test]
fn all_links_of_a_host_without_policy_routing_can_be_used() {
    require_root!();
    let asked = Asked::new();
    assert_eq!(asked.verdict(2, "192.0.2.9"), "NoRoute");
    asked.two_default_routes();
    for (link, gateway, gateway6) in [(1, "10.77.1.2", "fd77:1::2"), (2, "10.77.2.2", "fd77:2::2")] {
        assert_eq!(asked.verdict(link, "192.0.2.9"), format!("via {gateway}"));
        assert_eq!(asked.verdict(link, "2001:db8::9"), format!("via {gateway6}"));
        assert_eq!(asked.verdict(link, gateway), format!("via {gateway}"));
    }
    // The prefix of the other link is topology, which nobody has decided.
    assert_eq!(asked.verdict(2, "10.77.1.2"), "via 10.77.2.2");
    assert_eq!(asked.verdict(2, "fd77:1::2"), "via fd77:2::2");
    // A route that somebody has put there is a decision.
    words(
        &asked.lab,
        &["route add 198.51.100.0/24 via 10.77.1.2", "-6 route add 2001:db8:1::/48 via fd77:1::2"],
    );
    assert_eq!(asked.verdict(2, "198.51.100.1"), "elsewhere: left1");
    assert_eq!(asked.verdict(2, "2001:db8:1::1"), "elsewhere: left1");
    assert_eq!(asked.verdict(1, "198.51.100.1"), "via 10.77.1.2");
    // Addresses of this host are never gone to by a router, whatever their link is.
    for own in ["10.77.1.1", "10.77.2.1", "10.99.0.1", "fd77:1::1", "fd99::1"] {
        assert_eq!(asked.verdict(2, own), "Own", "{own}");
    }
    assert_eq!(asked.verdict(2, "10.77.1.255"), "NotForTcp");
}

#[test]
fn one_default_route_with_several_ways_leads_over_each_of_them() {
    require_root!();
    let asked = Asked::new();
    words(
        &asked.lab,
        &[
            "route add default nexthop via 10.77.1.2 dev left1 nexthop via 10.77.2.2 dev left2",
            "-6 route add default nexthop via fd77:1::2 dev left1 nexthop via fd77:2::2 dev left2",
            // Nexthop objects: one by itself and a group.
            "nexthop add id 1 via 10.77.1.9 dev left1",
            "nexthop add id 2 via 10.77.2.9 dev left2",
            "nexthop add id 9 group 1/2",
            "nexthop add id 3 blackhole",
            "route add 198.51.100.0/24 nhid 9",
            "route add 203.0.113.0/24 nhid 2",
            "route add 192.0.2.0/24 nhid 3",
        ],
    );
    for compatible in ["1", "0"] {
        asked.lab.left.sysctl("net.ipv4.nexthop_compat_mode", compatible).expect("sysctl");
        assert_eq!(asked.verdict(1, "192.88.99.1"), "via 10.77.1.2");
        assert_eq!(asked.verdict(2, "192.88.99.1"), "via 10.77.2.2");
        assert_eq!(asked.verdict(1, "2001:db8::9"), "via fd77:1::2");
        assert_eq!(asked.verdict(2, "2001:db8::9"), "via fd77:2::2");
        assert_eq!(asked.verdict(1, "198.51.100.7"), "via 10.77.1.9");
        assert_eq!(asked.verdict(2, "198.51.100.7"), "via 10.77.2.9");
        assert_eq!(asked.verdict(2, "203.0.113.7"), "via 10.77.2.9");
        assert_eq!(asked.verdict(1, "203.0.113.7"), "elsewhere: left2");
        assert_eq!(asked.verdict(1, "192.0.2.7"), "blackhole");
        // Without regard to the policy.
        let over = asked.lab.left.run(|| {
            let index = asked.indexes.iter().find(|(name, _)| name == "left2").expect("interface").1;
            let mut netlink = Netlink::new().expect("netlink");
            let route = netlink.route_over(ip("198.51.100.7"), ip("10.77.2.1"), index).expect("answer");
            route.map(|route| route.next_hop(ip("198.51.100.7")))
        });
        assert_eq!(over, Some(ip("10.77.2.9")), "compatible: {compatible}");
    }
}

#[test]
fn a_tunnel_that_takes_all_traffic_is_not_left() {
    require_root!();
    let shapes: [(&str, &[&str], &[&str]); 4] = [
        (
            "two halves",
            &["route add 0.0.0.0/1 dev tun9", "route add 128.0.0.0/1 dev tun9"],
            &["-6 route add ::/1 dev tun9", "-6 route add 8000::/1 dev tun9"],
        ),
        (
            "rules",
            &[
                "route add default dev tun9 table 51820",
                "rule add not fwmark 51820 table 51820",
                "rule add table main suppress_prefixlength 0",
            ],
            &[
                "-6 route add default dev tun9 table 51820",
                "-6 rule add not fwmark 51820 table 51820",
                "-6 rule add table main suppress_prefixlength 0",
            ],
        ),
        (
            "a low metric",
            &["route add default dev tun9 metric 50"],
            &["-6 route add default dev tun9 metric 50"],
        ),
        (
            "a rule of its own",
            &["route add default dev tun9 table 7", "rule add from all ipproto tcp table 7 priority 100"],
            &[
                "-6 route add default dev tun9 table 7",
                "-6 rule add from all ipproto tcp table 7 priority 100",
            ],
        ),
    ];
    for (shape, lines, lines6) in shapes {
        let asked = Asked::new();
        asked.two_default_routes();
        words(&asked.lab, lines);
        words(&asked.lab, lines6);
        for link in [1, 2] {
            for far in ["192.0.2.9", "203.0.113.1", "2001:db8::9"] {
                assert_eq!(asked.verdict(link, far), "elsewhere: tun9", "{shape}, link {link}");
            }
        }
        if shape == "rules" {
            // The links' own neighbours stay reachable, each over its link only.
            assert_eq!(asked.verdict(1, "10.77.1.2"), "via 10.77.1.2");
            assert_eq!(asked.verdict(2, "fd77:2::2"), "via fd77:2::2");
            assert_eq!(asked.verdict(2, "10.77.1.2"), "elsewhere: tun9");
            assert_eq!(asked.verdict(2, "fd77:1::2"), "elsewhere: tun9");
        }
        // Rules for one source lead it elsewhere, as routers with several uplinks have them.
        for (family, source, gateway) in [("", "10.77.2.1", "10.77.2.2"), ("-6 ", "fd77:2::1", "fd77:2::2")] {
            words(
                &asked.lab,
                &[
                    &format!("{family}route add default via {gateway} dev left2 table 2"),
                    &format!("{family}rule add from {source} table 2 priority 50"),
                ],
            );
        }
        assert_eq!(asked.verdict(2, "192.0.2.9"), "via 10.77.2.2", "{shape}");
        assert_eq!(asked.verdict(2, "2001:db8::9"), "via fd77:2::2", "{shape}");
        assert_eq!(asked.verdict(1, "192.0.2.9"), "elsewhere: tun9", "{shape}");
    }
}

#[test]
fn rules_are_gone_through_as_the_kernel_does() {
    require_root!();
    let asked = Asked::new();
    asked.two_default_routes();
    words(
        &asked.lab,
        &[
            "route add default via 10.77.1.8 dev left1 table 11",
            "route add default via 10.77.2.8 dev left2 table 12",
            "route add throw 198.51.100.0/24 table 12",
            "route add throw 198.51.100.0/24 table 11",
            "rule add oif left2 to 192.0.2.0/24 table 12 priority 10",
            "rule add from 10.77.1.0/24 to 198.51.100.0/24 table 11 priority 20",
            "rule add to 203.0.113.0/24 goto 40 priority 30",
            "rule add to 203.0.113.0/25 prohibit priority 35",
            "rule add to 203.0.113.0/24 table 12 priority 40",
            "rule add to 192.88.99.0/24 ipproto tcp dport 443 prohibit priority 50",
            "rule add to 192.88.99.0/24 uidrange 1-65535 prohibit priority 51",
            "rule add to 192.88.99.0/24 fwmark 7 prohibit priority 52",
            "rule add to 192.88.99.0/24 iif left1 prohibit priority 53",
        ],
    );
    assert_eq!(asked.verdict(2, "192.0.2.9"), "via 10.77.2.8", "a rule for what is bound to the interface");
    assert_eq!(asked.verdict(1, "192.0.2.9"), "via 10.77.1.2");
    assert_eq!(asked.verdict(1, "198.51.100.9"), "via 10.77.1.2", "thrown back");
    assert_eq!(asked.verdict(2, "203.0.113.9"), "via 10.77.2.8", "past the prohibition");
    assert_eq!(asked.verdict(1, "203.0.113.9"), "elsewhere: left2");
    assert_eq!(asked.verdict_to_port(1, "192.88.99.1", Some(443)), "prohibit");
    assert_eq!(asked.verdict_to_port(2, "192.88.99.1", Some(443)), "prohibit");
    assert_eq!(asked.verdict_to_port(2, "192.88.99.1", Some(80)), "via 10.77.2.2");
}

/// A kernel that listens for regular TCP and Multipath TCP on the right side.
fn peer(lab: &Lab) -> std::net::TcpListener {
    kernel::listen(&lab.right, Protocol::Mptcp, SocketAddr::new(Family::Ipv4.any(), PORT)).expect("listener")
}

#[test]
fn what_the_host_refuses_is_refused_and_named() {
    require_root!();
    let lab = Lab::new().unwrap();
    lab.right.ip("address add 203.0.113.1/32 dev lo").unwrap();
    words(&lab, &["route add default via 10.77.1.2 dev left1"]);
    let _listener = peer(&lab);
    for kind in ["prohibit", "blackhole", "unreachable"] {
        for (add, remove) in [("route add", "route del"), ("rule add to", "rule del to")] {
            let (what, to) =
                if add.starts_with("route") { (kind, "203.0.113.0/24") } else { ("203.0.113.0/24", kind) };
            lab.left.ip(&format!("{add} {what} {to}")).unwrap();
            for more in [&[][..], &["--local", "10.77.2.1:0"], &["--any-route"], &["-i", "left2"]] {
                let all = [&["connect", "--timeout", "3"], more, &["203.0.113.1:5000"]].concat();
                let finished = ours::run(&lab, Side::Left, &all).unwrap();
                assert_fails(&lab, Side::Left, &finished, 3, &[kind, "203.0.113.1"]);
            }
            lab.left.ip(&format!("{remove} {what} {to}")).unwrap();
        }
    }
}

#[test]
fn a_connection_is_not_led_past_a_tunnel_unless_the_user_says_so() {
    require_root!();
    let lab = Lab::new().unwrap();
    lab.right.ip("address add 203.0.113.1/32 dev lo").unwrap();
    tunnel(&lab);
    words(
        &lab,
        &[
            "route add default via 10.77.1.2 dev left1",
            "route add 0.0.0.0/1 dev tun9",
            "route add 128.0.0.0/1 dev tun9",
        ],
    );
    let listener = peer(&lab);
    for more in
        [&[][..], &["--local", "10.77.1.1:0"], &["-i", "left1"], &["--interface-rule", "left1=prefer"]]
    {
        let all = [&["connect", "--timeout", "3"], more, &["203.0.113.1:5000"]].concat();
        let finished = ours::run(&lab, Side::Left, &all).unwrap();
        assert_fails(&lab, Side::Left, &finished, 3, &["tun9", "--any-route"]);
    }
    let client = Process::start(
        &mut ours::command(&lab, Side::Left, &["connect", "--any-route", "203.0.113.1:5000"]),
        true,
    )
    .unwrap();
    let stream = kernel::accept(&listener, PATIENCE).unwrap();
    drop(stream);
    let finished = client.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
}

#[test]
fn a_listener_answers_by_the_interface_that_was_asked() {
    require_root!();
    let lab = Lab::new().unwrap();
    // The side that listens has a tunnel for all that it sends; the peer is behind a router.
    tunnel(&lab);
    words(
        &lab,
        &[
            "route add default via 10.77.1.2 dev left1",
            "route add 0.0.0.0/1 dev tun9",
            "route add 128.0.0.0/1 dev tun9",
        ],
    );
    lab.right.ip("address add 203.0.113.1/32 dev lo").unwrap();
    let mut server = Process::start(
        &mut ours::command(&lab, Side::Left, &["listen", "--file", "/etc/hostname", "5000"]),
        true,
    )
    .unwrap();
    server.wait_for("listening on", PATIENCE).unwrap();
    let from = Some(SocketAddr::new(ip("203.0.113.1"), 0));
    let to = Side::Left.socket(1, Family::Ipv4, PORT);
    let mut stream = kernel::connect(&lab.right, Protocol::Mptcp, from, to, PATIENCE).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, std::fs::read_to_string("/etc/hostname").unwrap());
    stream.write_all(b"x").unwrap();
    drop(stream);
    assert_eq!(server.finish(PATIENCE).unwrap().status.code(), Some(0));
}

/// Packets that have left the left side by this link.
fn sent_by(lab: &Lab, link: usize) -> u64 {
    let text = lab.left.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let name = format!("{}:", Side::Left.interface(link));
    let line = text.lines().find(|line| line.trim().starts_with(&name)).expect("the interface is there");
    line.split_whitespace().nth(10).expect("packets sent").parse().expect("a number")
}

#[test]
fn a_path_that_the_host_forbids_later_carries_nothing_more() {
    require_root!();
    let lab = Lab::of_family(Family::Ipv4).unwrap();
    lab.prepare_kernel(Side::Right, Family::Ipv4).unwrap();
    let listener = peer(&lab);
    let client = ours::connect(&lab, Family::Ipv4, &["--file", "/dev/zero"]).unwrap();
    let mut stream = kernel::accept(&listener, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut read_until = |what: &mut dyn FnMut() -> bool| {
        let end = Instant::now() + PATIENCE;
        while !what() {
            assert!(Instant::now() < end, "{}", client.stderr());
            assert!(stream.read(&mut buffer).unwrap() > 0);
        }
    };
    read_until(&mut || sent_by(&lab, 2) > 200);
    words(&lab, &["rule add from 10.77.2.1 prohibit"]);
    let mut settled = Instant::now() + Duration::from_secs(1);
    read_until(&mut || Instant::now() > settled);
    let before = sent_by(&lab, 2);
    settled = Instant::now() + Duration::from_secs(2);
    read_until(&mut || Instant::now() > settled);
    // Neighbour discovery may have a few.
    let more = sent_by(&lab, 2) - before;
    assert!(more < 10, "{more} packets by a path that is forbidden");
    client.signal(libc::SIGKILL);
    let _ = client.finish(PATIENCE);
}
