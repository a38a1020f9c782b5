//! Attackers without the keys, with real packets and the XDP program between them and the engine. (What they
//! can do to the engine itself is tried without packets, in its own tests.)

use mptcp_proto::wire::{Flags, Join, MptcpOption, Segment, SeqNumber, Timestamps};
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::process::Process;
use mptcp_tests::raw::Sender;
use mptcp_tests::runtime::Runtime;
use mptcp_tests::{data, require_root};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

/// SYNs of each flood.
const FLOOD: u32 = 2000;
/// Joins of one connection that may be half-open, and subflows that it may have.
const MOST: usize = 16 + 8;

/// A SYN with MP_JOIN that comes from an address where nobody is.
fn join(number: u32, token: u32) -> Segment {
    let from = SocketAddr::from(([10, 77, 1, 100 + (number % 100) as u8], 1024 + number as u16));
    let mut syn = Segment::new(from, Side::Right.socket(1, Family::Ipv4, PORT));
    syn.flags = Flags::SYN;
    syn.seq = SeqNumber(number.wrapping_mul(0x9e37_79b9));
    syn.options.mss = Some(1460);
    syn.options.timestamps = Some(Timestamps { value: number, echo: 0 });
    syn.options.mptcp.push(MptcpOption::Join(Join::Syn {
        backup: false,
        address_id: 9,
        token,
        nonce: number,
    }));
    syn
}

fn flood(sender: &mut Sender, token: impl Fn(u32) -> u32) {
    for number in 0..FLOOD {
        sender.push(join(number, token(number))).unwrap();
        if number % 64 == 63 {
            sender.flush(Duration::from_secs(1));
            // As fast as the receiving end takes them from its ring.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    sender.flush(Duration::from_secs(1));
}

/// First with tokens that are guessed, then with the right one, which somebody may have seen on the wire. In
/// both floods the kernel's connection goes on, and it joins it with its second address in the middle of the
/// second one.
#[test]
fn floods_of_joins_leave_bounded_state_and_legitimate_joins_pass() {
    require_root!();
    let lab = Lab::new().unwrap();
    let runtime = Runtime::new("joins");
    // It does not connect to the addresses that ours announces, so that the only join is the one below.
    lab.left.mptcp_limits(8, 0).unwrap();
    let mut command = ours::command(&lab, Side::Right, &["listen", "--json", "5000"]);
    let mut ours = Process::start(runtime.set(&mut command), true).unwrap();
    ours.wait_for("listening on", PATIENCE).unwrap();
    let remote = Side::Right.socket(1, Family::Ipv4, PORT);
    let mut stream = kernel::connect(&lab.left, Protocol::Mptcp, None, remote, PATIENCE).unwrap();
    let mut sent = vec![0; 4 << 20];
    data::Seeded::new(4, sent.len() as u64).read_exact(&mut sent).unwrap();
    let (first, rest) = sent.split_at(1 << 20);
    stream.write_all(first).unwrap();
    let report = runtime.eventually(&["ss", "--json"], |value| {
        value[0]["connections"][0]["bytes_received"].as_u64() >= Some(1)
    });
    let token = report[0]["connections"][0]["local_token"].as_u64().unwrap() as u32;

    let mut sender = Sender::new(&lab).unwrap();
    flood(&mut sender, |number| number.wrapping_mul(0x61c8_8647) ^ token ^ 1);
    let guessed = |value: &serde_json::Value| {
        let count = |name| value[name].as_u64().unwrap_or_default();
        count("XdpJoinRefused") + count("XdpJoinDropped") + count("XdpJoinToRefuse")
    };
    let counted =
        runtime.eventually(&["counters", "--json"], |value| guessed(value) >= u64::from(FLOOD) * 9 / 10);
    assert!(counted["XdpJoinDropped"].as_u64() > Some(0), "answers are limited: {counted:#}");
    let subflows =
        |value: &serde_json::Value| value[0]["connections"][0]["subflows"].as_array().unwrap().clone();
    assert_eq!(subflows(&runtime.json(&["ss", "--json"])).len(), 1);

    flood(&mut sender, |_| token);
    let many = subflows(&runtime.json(&["ss", "--json"])).len();
    assert!(many <= MOST, "{many} subflows");
    lab.left.mptcp_endpoint(Side::Left.address(2, Family::Ipv4), "left2", "subflow").unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut number = 0;
    while kernel::info(&stream).unwrap().additional_subflows == 0 {
        assert!(Instant::now() < deadline, "the join did not pass: {:#}", runtime.json(&["ss", "--json"]));
        sender.push(join(number, token)).unwrap();
        sender.flush(Duration::from_secs(1));
        number += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let counted = runtime.json(&["counters", "--json"]);
    assert!(counted["MPTcpExtMPJoinSynRx"].as_u64() > Some(100), "{counted:#}");
    assert_eq!(counted["MPTcpExtMPJoinAckRx"], 1);

    stream.write_all(rest).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    drop(stream);
    let finished = ours.finish(PATIENCE).unwrap();
    assert_orderly(&lab, Side::Right, &finished);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(finished.stdout == sent, "{} octets came", finished.stdout.len());
}
