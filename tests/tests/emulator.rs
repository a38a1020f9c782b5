//! The emulator (`mptcp lab`) between the kernel's own stacks: the kernel sees the configured network.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::netns::Namespace;
use mptcp_tests::ours::{PATIENCE, PORT};
use mptcp_tests::require_root;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Runs `work` with the namespaces of a client and a server that `mptcp lab` with these words connects; gives
/// the emulator's report too.
fn through<T>(words: &[&str], work: impl FnOnce(&Namespace, &Namespace) -> T) -> (T, serde_json::Value) {
    let mut lab = Lab::emulated(&[words], &Family::BOTH).unwrap();
    let result = work(&lab.left, &lab.right);
    (result, lab.end_emulation().unwrap().remove(0))
}

/// Sends octets from the client to the server and gives both sockets and how long the handshake took.
fn transfer(
    client: &Namespace,
    server: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    octets: usize,
) -> (TcpStream, TcpStream, Duration) {
    let listener = kernel::listen(server, protocol, to).expect("listener");
    let begin = Instant::now();
    let mut sender = kernel::connect(client, protocol, None, to, PATIENCE).expect("connection");
    let handshake = begin.elapsed();
    let mut receiver = kernel::accept(&listener, PATIENCE).expect("accept");
    let sent: Vec<u8> = (0..octets).map(|i| (i * 31 + i / 256) as u8).collect();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).map(|_| received)
        });
        sender.write_all(&sent).expect("write");
        sender.shutdown(Shutdown::Write).expect("shutdown");
        reader.join().expect("the reader does not panic").expect("read")
    });
    assert!(received == sent, "{} octets of {} arrived as sent", received.len(), sent.len());
    (sender, receiver, handshake)
}

#[test]
fn the_kernel_sees_the_delay_and_survives_the_loss() {
    require_root!();
    for family in Family::BOTH {
        let words = ["--both", "delay=20ms,rate=200mbit", "--forward", "loss=1%", "--seed", "1"];
        let ((_, _, handshake), report) = through(&words, |client, server| {
            transfer(client, server, Protocol::Tcp, Side::Right.socket(1, family, PORT), 1 << 20)
        });
        assert!(handshake >= Duration::from_millis(40), "{handshake:?}");
        let (forward, reverse) = (&report["forward"], &report["reverse"]);
        assert!(forward["link"]["lost"].as_u64() > Some(0), "{report:#}");
        assert_eq!(reverse["link"]["lost"], 0, "{report:#}");
        assert!(forward["link"]["offered"].as_u64() > Some(700), "super-segments are cut: {report:#}");
        assert_eq!((&forward["missed"], &forward["refused"]), (&0.into(), &0.into()), "{report:#}");
    }
}

#[test]
fn what_the_emulator_strips_the_kernel_does_without() {
    require_root!();
    let strips = ["--box", "strip,option=mptcp,when=syn", "--box", "randomise-sequence"];
    for (boxes, falls_back) in [(&[][..], false), (&strips[..], true)] {
        let words = [&["--both", "delay=1ms"], boxes].concat();
        let to = Side::Right.socket(1, Family::Ipv4, PORT);
        let (fell_back, _) = through(&words, |client, server| {
            let (sender, _receiver, _) = transfer(client, server, Protocol::Mptcp, to, 300_000);
            kernel::info(&sender).is_none_or(|info| info.fallback)
        });
        assert_eq!(fell_back, falls_back, "{boxes:?}");
    }
}

#[test]
fn a_managed_queue_marks_where_the_kernel_understands_marks_and_drops_where_it_does_not() {
    require_root!();
    for (ecn, family) in [("1", Family::Ipv4), ("1", Family::Ipv6), ("0", Family::Ipv4)] {
        let words = ["--both", "delay=5ms", "--forward", "rate=20mbit,codel"];
        let (_, report) = through(&words, |client, server| {
            for namespace in [client, server] {
                namespace.sysctl("net.ipv4.tcp_ecn", ecn).unwrap();
            }
            transfer(client, server, Protocol::Tcp, Side::Right.socket(1, family, PORT), 4 << 20)
        });
        let link = &report["forward"]["link"];
        assert_eq!(link["marks"].as_u64() > Some(0), ecn == "1", "{report:#}");
        assert_eq!(link["managed_drops"].as_u64() > Some(0), ecn == "0", "{report:#}");
    }
}
