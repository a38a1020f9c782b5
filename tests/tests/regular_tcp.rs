//! Duties of any good TCP, seen from the kernel's side: it heeds marks of a queue, and serves clients during
//! a flood of SYNs.

use mptcp_proto::wire::{Flags, Segment, SeqNumber, Timestamps};
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::raw::Sender;
use mptcp_tests::{data, require_root};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

/// Octets that are sent through the queue.
const SIZE: u64 = 4 << 20;
/// A few times as many as a listener may have half-open.
const FLOOD: u32 = 4000;

/// With a queue that marks in the way of the data, ours sends to the kernel, as client and as server: nothing
/// is dropped.
#[test]
fn the_marks_of_a_queue_are_heeded_in_both_roles() {
    require_root!();
    for (ours_connects, multipath) in [(true, false), (false, false), (true, true)] {
        let way = if ours_connects { "--forward" } else { "--reverse" };
        let mut lab =
            Lab::emulated(&[&["--both", "delay=5ms", way, "rate=20mbit,codel"]], &[Family::Ipv4]).unwrap();
        let protocol = if multipath { Protocol::Mptcp } else { Protocol::Tcp };
        let kernel_side = if ours_connects { Side::Right } else { Side::Left };
        lab.prepare_kernel(kernel_side, Family::Ipv4).unwrap();
        lab.namespace(kernel_side).sysctl("net.ipv4.tcp_ecn", "1").unwrap();
        let (file, sum) = data::seeded_file(3, SIZE).unwrap();
        let path = data::path_of(&file);
        let mut words = vec!["--ecn", "ask", "--file", path.to_str().unwrap()];
        if !multipath {
            words.push("--no-multipath");
        }
        let (stream, ours) = if ours_connects {
            let local = SocketAddr::new(Family::Ipv4.any(), PORT);
            let listener = kernel::listen(&lab.right, protocol, local).unwrap();
            let ours = ours::connect(&lab, Family::Ipv4, &words).unwrap();
            (kernel::accept(&listener, PATIENCE).unwrap(), ours)
        } else {
            let ours = ours::listen(&lab, &words).unwrap();
            let remote = Side::Right.socket(1, Family::Ipv4, PORT);
            (kernel::connect(&lab.left, protocol, None, remote, PATIENCE).unwrap(), ours)
        };
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(data::sum(&stream).unwrap(), (SIZE, sum));
        drop(stream);
        let finished = ours.finish(PATIENCE).unwrap();
        let side = if ours_connects { Side::Left } else { Side::Right };
        assert_orderly(&lab, side, &finished);
        assert!(finished.status.success(), "{}", finished.stderr);
        let report = lab.end_emulation().unwrap().remove(0);
        let link = &report[way.trim_start_matches('-')]["link"];
        let [marks, drops] = ["marks", "managed_drops"].map(|what| link[what].as_u64().unwrap());
        assert!(marks > 0, "nothing was marked: {report:#}");
        // Neither a segment without data nor one that is sent again is ECN-capable (RFC 3168 sections 6.1.4
        // and 6.1.5): the queue may drop the last FIN, or a tail loss probe.
        assert!(drops * 4 < marks, "not ECN-capable: {report:#}");
    }
}

/// While SYNs with false addresses fill the backlog, a kernel opens a connection of two subflows and uses it.
#[test]
fn a_flood_of_syns_does_not_keep_a_peer_out() {
    require_root!();
    let lab = Lab::new().unwrap();
    lab.prepare_kernel(Side::Left, Family::Ipv4).unwrap();
    let ours = ours::listen(&lab, &[]).unwrap();
    let mut sender = Sender::new(&lab).unwrap();
    for number in 0..FLOOD {
        let from = SocketAddr::from(([10, 77, 1, 100 + (number % 100) as u8], 1024 + number as u16));
        let mut syn = Segment::new(from, Side::Right.socket(1, Family::Ipv4, PORT));
        syn.flags = Flags::SYN;
        syn.seq = SeqNumber(number.wrapping_mul(0x9e37_79b9));
        syn.options.mss = Some(1460);
        syn.options.timestamps = Some(Timestamps { value: number, echo: 0 });
        sender.push(syn).unwrap();
        if number % 64 == 63 {
            sender.flush(Duration::from_secs(1));
            // As fast as the receiving end takes them from its ring.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let remote = Side::Right.socket(1, Family::Ipv4, PORT);
    let mut stream = kernel::connect(&lab.left, Protocol::Mptcp, None, remote, PATIENCE).unwrap();
    let mut sent = vec![0; 2 << 20];
    data::Seeded::new(4, sent.len() as u64).read_exact(&mut sent).unwrap();
    stream.write_all(&sent).unwrap();
    let info = kernel::info(&stream).expect("a Multipath TCP connection");
    assert!(!info.fallback, "{info:?}");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    drop(stream);
    let finished = ours.finish(PATIENCE).unwrap();
    assert_orderly(&lab, Side::Right, &finished);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(finished.stdout == sent, "{} octets came", finished.stdout.len());
    let statistics = finished.json().unwrap();
    assert_eq!(
        (&statistics["connection"]["version"], &statistics["connection"]["fallback"]),
        (&1.into(), &serde_json::Value::Null)
    );
}
