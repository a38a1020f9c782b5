//! Packets that a listener takes, on hosts that are more than a server: routers, hosts with addresses on
//! their loopback interface, hosts whose links carry anything.

use mptcp_proto::wire::{Flags, Join, MptcpOption, Segment, SeqNumber};
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::netns::{End, Namespace, link};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::process::{Process, mptcp_binary};
use mptcp_tests::raw::Sender;
use mptcp_tests::runtime::Runtime;
use mptcp_tests::{data, require_root};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A client and a server, and a router between them that is where this stack listens.
struct Transit {
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Transit {
    fn new() -> Self {
        let [client, router, server] =
            ["client", "router", "server"].map(|label| Namespace::new(label).unwrap());
        let end = |namespace, interface, addresses| End { namespace, interface, addresses };
        link(
            &end(&client, "c1", &["10.2.1.1/24", "fd02:1::1/64"]),
            &end(&router, "r1", &["10.2.1.254/24", "fd02:1::fe/64"]),
        )
        .unwrap();
        link(
            &end(&router, "r2", &["10.2.2.254/24", "fd02:2::fe/64"]),
            &end(&server, "s1", &["10.2.2.1/24", "fd02:2::1/64"]),
        )
        .unwrap();
        router.sysctl("net.ipv4.ip_forward", "1").unwrap();
        router.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        client.ip("route add default via 10.2.1.254").unwrap();
        client.ip("-6 route add default via fd02:1::fe").unwrap();
        server.ip("route add default via 10.2.2.254").unwrap();
        server.ip("-6 route add default via fd02:2::fe").unwrap();
        Self { client, router, server }
    }

    /// A listener on the router for all addresses, which gives this file to everybody.
    fn listen(&self, runtime: &Runtime, file: &str, words: &[&str]) -> Process {
        let mut command = self.router.command(mptcp_binary());
        command.args(["-v", "listen", "-k", "-q", "5000", "-o", "/dev/null", "--file", file]).args(words);
        let mut process = Process::start(runtime.set(&mut command), true).unwrap();
        process.wait_for("listening on", PATIENCE).unwrap();
        process
    }

    /// Connects from the client; the first word that comes from there.
    fn answer(&self, to: &str, patience: Duration) -> Option<String> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = kernel::connect(&self.client, Protocol::Tcp, None, to, patience).ok()?;
        Some(word(&stream))
    }
}

fn word(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut octets = [0; 6];
    stream.read_exact(&mut octets).unwrap();
    String::from_utf8_lossy(&octets).into_owned()
}

/// Says "kernel" to whoever connects, and echoes.
fn serve(listener: &TcpListener) -> std::thread::JoinHandle<()> {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let (mut reader, mut writer) = (&stream, &stream);
                let mut octet = [0; 1];
                let _ = writer.write_all(b"kernel");
                while reader.read_exact(&mut octet).is_ok() && writer.write_all(&octet).is_ok() {}
            });
        }
    })
}

#[test]
fn a_router_that_listens_leaves_the_connections_of_others_alone() {
    require_root!();
    let transit = Transit::new();
    let runtime = Runtime::new("transit");
    let file = std::env::temp_dir().join(format!("mptcp-transit-{}", std::process::id()));
    std::fs::write(&file, "router").unwrap();
    let any = SocketAddr::new(Family::Ipv6.any(), PORT);
    let listener = kernel::listen(&transit.server, Protocol::Tcp, any).unwrap();
    serve(&listener);
    let servers = ["10.2.2.1:5000", "[fd02:2::1]:5000"];
    // One that is established before.
    let before = servers.map(|server| {
        let to = server.parse().unwrap();
        let stream = kernel::connect(&transit.client, Protocol::Tcp, None, to, PATIENCE).unwrap();
        assert_eq!(word(&stream), "kernel");
        stream
    });
    let ours = transit.listen(&runtime, file.to_str().unwrap(), &[]);
    for mut stream in &before {
        let mut octet = [0; 1];
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut octet).expect("an established connection goes on");
    }
    for server in servers {
        assert_eq!(transit.answer(server, PATIENCE).as_deref(), Some("kernel"), "{server}");
    }
    // All of the router's own addresses, wherever they are, are the listener's.
    for own in ["10.2.1.254:5000", "10.2.2.254:5000", "[fd02:1::fe]:5000", "[fd02:2::fe]:5000"] {
        assert_eq!(transit.answer(own, PATIENCE).as_deref(), Some("router"), "{own}");
    }
    // One that comes to the loopback interface, and goes from there to the server.
    for (address, moved) in [("192.0.2.77/32", "192.0.2.77:5000"), ("fd02:77::7/128", "[fd02:77::7]:5000")] {
        let family = if address.contains(':') { "-6 " } else { "" };
        transit.router.add_address("lo", address).unwrap();
        eventually(|| transit.answer(moved, Duration::from_secs(2)).as_deref() == Some("router"));
        transit.router.remove_address("lo", address).unwrap();
        transit.server.add_address("lo", address).unwrap();
        let via = if family.is_empty() { "10.2.2.1" } else { "fd02:2::1" };
        transit.router.ip(&format!("{family}route add {address} via {via}")).unwrap();
        eventually(|| transit.answer(moved, Duration::from_secs(2)).as_deref() == Some("kernel"));
    }
    ours.signal(libc::SIGINT);
    let finished = ours.finish(PATIENCE).unwrap();
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    std::fs::remove_file(file).unwrap();
}

fn eventually(done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never came");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Connections that come and go as rules say, in both directions, and nothing that tells a refused peer of
/// the listener.
#[test]
fn peers_that_are_refused_hear_nothing() {
    require_root!();
    let transit = Transit::new();
    let runtime = Runtime::new("peers");
    let rules = ["--allow-peer", "10.2.1.0/24", "--deny-peer", "10.2.1.1", "--allow-peer", "fd02:1::/64"];
    let ours = transit.listen(&runtime, "/etc/hostname", &rules);
    // No reset either: the attempt takes as long as it is given.
    let began = Instant::now();
    assert_eq!(transit.answer("10.2.1.254:5000", Duration::from_millis(2500)), None);
    assert!(began.elapsed() >= Duration::from_secs(2), "something was answered after {:?}", began.elapsed());
    let to = "[fd02:1::fe]:5000".parse().unwrap();
    kernel::connect(&transit.client, Protocol::Tcp, None, to, PATIENCE).unwrap();
    let counted = runtime.json(&["counters", "--json"]);
    assert!(counted["XdpPeerRefused"].as_u64() >= Some(2), "{counted:#}");
    ours.signal(libc::SIGINT);
    ours.finish(PATIENCE).unwrap();

    let mut command = transit.client.command(mptcp_binary());
    command.args(["connect", "-q", "--deny-peer", "10.2.0.0/16", "10.2.1.254:5000"]);
    let refused = Process::start(runtime.set(&mut command), true).unwrap().finish(PATIENCE).unwrap();
    assert!(!refused.status.success() && refused.stderr.contains("--deny-peer"), "{}", refused.stderr);
}

/// A router on the way cuts what the kernel sends, since that does not ask it not to.
#[test]
fn segments_that_a_router_cuts_arrive() {
    require_root!();
    const SIZE: u64 = 1 << 20;
    let transit = Transit::new();
    let runtime = Runtime::new("fragments");
    transit.router.set_mtu("r1", 1300).unwrap();
    transit.server.sysctl("net.ipv4.ip_no_pmtu_disc", "1").unwrap();
    let listener = kernel::listen(&transit.server, Protocol::Mptcp, "0.0.0.0:5000".parse().unwrap()).unwrap();
    let sender = std::thread::spawn(move || {
        let mut stream = kernel::accept(&listener, PATIENCE).unwrap();
        let mut sent = vec![0; SIZE as usize];
        data::Seeded::new(8, SIZE).read_exact(&mut sent).unwrap();
        stream.write_all(&sent).unwrap();
        // The owner closes it. Until then the other end can be asked.
        (stream, sent)
    });
    let mut command = transit.client.command(mptcp_binary());
    command.args(["-v", "connect", "-q", "10.2.2.1:5000"]);
    let ours = Process::start(runtime.set(&mut command), true).unwrap();
    let (stream, sent) = sender.join().unwrap();
    runtime.eventually(&["ss", "--json"], |value| {
        value[0]["connections"][0]["bytes_received"].as_u64() == Some(SIZE)
    });
    let counted = runtime.json(&["counters", "--json"]);
    assert!(counted["XdpFragmentOurs"].as_u64() >= Some(SIZE / 1500), "{counted:#}");
    drop(stream);
    let finished = ours.finish(PATIENCE).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(finished.stdout == sent);
}

/// SYNs from where no peer can be: neither the program, nor the engine, nor the kernel answers, or asks for a
/// neighbour.
#[test]
fn martians_are_dropped_and_counted() {
    require_root!();
    let lab = Lab::new().unwrap();
    let runtime = Runtime::new("martians");
    lab.right.ip("route add default via 10.77.1.1").unwrap();
    let mut command = ours::command(
        &lab,
        Side::Right,
        &["listen", "-k", "-q", "-o", "/dev/null", "--file", "/etc/hostname", "5000"],
    );
    let mut ours = Process::start(runtime.set(&mut command), true).unwrap();
    ours.wait_for("listening on", PATIENCE).unwrap();
    let mut sender = Sender::new(&lab).unwrap();
    let v4 = [
        "127.0.0.1",
        "127.0.0.53",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.0",
        "0.1.2.3",
        "240.0.0.9",
        "10.77.1.2",
        "10.77.2.2",
        "10.77.1.255",
        "10.77.2.255",
    ];
    let v6 = ["::1", "::", "ff02::1", "::127.0.0.1", "fd77:1::2", "fd77:2::2"];
    let from = |text: &&str| SocketAddr::new(text.parse().unwrap(), 40_000);
    let mut count = 0;
    for source in v4.iter().map(from).chain(v6.iter().map(from)) {
        let family = if source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        for join in [false, true] {
            let mut syn = Segment::new(source, Side::Right.socket(1, family, PORT));
            (syn.flags, syn.seq, syn.window) = (Flags::SYN, SeqNumber(7), 65_535);
            if join {
                let option = Join::Syn { backup: false, address_id: 3, token: 9, nonce: 4 };
                syn.options.mptcp.push(MptcpOption::Join(option));
            }
            sender.push(syn).unwrap();
            count += 1;
        }
    }
    sender.flush(Duration::from_secs(1));
    let counted = runtime
        .eventually(&["counters", "--json"], |value| value["XdpMartianSource"].as_u64() >= Some(count));
    assert_eq!(counted["XdpMartianSource"].as_u64(), Some(count), "{counted:#}");
    for name in ["TcpOutSegs", "TcpOutRsts", "XdpListenerSyn", "XdpJoinRefused"] {
        assert_eq!(counted[name].as_u64().unwrap_or_default(), 0, "{name}: {counted:#}");
    }
    ours.signal(libc::SIGINT);
    assert_orderly(&lab, Side::Right, &ours.finish(PATIENCE).unwrap());
}
