//! A path that takes smaller packets than its links, and does not say so, with the kernel as the peer.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::{data, require_root};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

/// Octets that each side sends.
const SIZE: u64 = 4 << 20;
/// Longest packet that passes.
const MTU: u64 = 1380;

/// Ours and the kernel send to each other through a black hole, in both roles, both families, regular and
/// Multipath TCP: everything arrives, and ours has found out what passes.
#[test]
fn both_ends_get_over_a_black_hole() {
    require_root!();
    for (ours_connects, family, protocol) in [
        (true, Family::Ipv4, Protocol::Mptcp),
        (false, Family::Ipv6, Protocol::Mptcp),
        (true, Family::Ipv6, Protocol::Tcp),
        (false, Family::Ipv4, Protocol::Tcp),
    ] {
        let settings = format!("delay=5ms,mtu={MTU}");
        let mut lab = Lab::emulated(&[&["--both", &settings]], &[family]).unwrap();
        let (side, kernel_side) =
            if ours_connects { (Side::Left, Side::Right) } else { (Side::Right, Side::Left) };
        lab.prepare_kernel(kernel_side, family).unwrap();
        // Packetization layer path MTU discovery once a black hole is suspected; off by default.
        lab.namespace(kernel_side).sysctl("net.ipv4.tcp_mtu_probing", "1").unwrap();
        let (file, sum) = data::seeded_file(5, SIZE).unwrap();
        let path = data::path_of(&file);
        let mut words = vec!["--file", path.to_str().unwrap()];
        if protocol == Protocol::Tcp {
            words.push("--no-multipath");
        }
        let (stream, ours) = if ours_connects {
            let local = SocketAddr::new(family.any(), PORT);
            let listener = kernel::listen(&lab.right, protocol, local).unwrap();
            let ours = ours::connect(&lab, family, &words).unwrap();
            (kernel::accept(&listener, PATIENCE).unwrap(), ours)
        } else {
            let ours = ours::listen(&lab, &words).unwrap();
            let remote = Side::Right.socket(1, family, PORT);
            (kernel::connect(&lab.left, protocol, None, remote, PATIENCE).unwrap(), ours)
        };
        let mut sent = vec![0; SIZE as usize];
        data::Seeded::new(6, SIZE).read_exact(&mut sent).unwrap();
        std::thread::scope(|scope| {
            let mut writer = &stream;
            let octets = &sent;
            scope.spawn(move || {
                writer.write_all(octets).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            assert_eq!(data::sum(&stream).unwrap(), (SIZE, sum));
        });
        drop(stream);
        let finished = ours.finish(PATIENCE).unwrap();
        assert_orderly(&lab, side, &finished);
        assert!(finished.status.success(), "{}", finished.stderr);
        assert!(finished.stdout == sent, "{} octets came", finished.stdout.len());
        let report = lab.end_emulation().unwrap().remove(0);
        for way in ["forward", "reverse"] {
            assert!(report[way]["link"]["too_long"].as_u64() > Some(0), "no black hole: {report:#}");
        }
        let statistics = finished.json().unwrap();
        let found = statistics["connection"]["subflows"][0]["path_mtu"].as_u64().unwrap_or_default();
        assert!(found <= MTU && found + 32 > MTU, "{statistics:#}");
    }
}
