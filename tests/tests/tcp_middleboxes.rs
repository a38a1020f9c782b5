//! Regular TCP between the kernel's stack and ours through every middlebox of the emulator, both roles, both
//! families, with and without Multipath TCP on offer: the text arrives as it was sent, or as the box changed
//! it.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side, hidden_address};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::{data, require_root};
use std::io::{Read, Seek, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

/// Octets in each direction.
const SIZE: usize = 300_000;
/// The first bytes of a connection, in both directions; the payload changers look for them.
const GREETING: &str = "PORT 10;77;1;1;19;136\r\n";
const PLAIN: &str = "delay=2ms";
const LOSSY: &str = "delay=2ms,loss=1%";

/// The path's box, and the greeting in each direction as it arrives.
#[derive(Clone, Copy)]
struct Case<'a> {
    link: &'a str,
    boxes: &'a [&'a str],
    forward: &'a str,
    reverse: &'a str,
}

impl<'a> Case<'a> {
    const fn new(link: &'a str, boxes: &'a [&'a str]) -> Self {
        Self { link, boxes, forward: GREETING, reverse: GREETING }
    }
}

/// The side that connects.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Client {
    Ours,
    Kernel,
}

/// Two namespaces with the case's path between them.
fn lab(case: Case<'_>, family: Family) -> Lab {
    let boxes: Vec<_> = case
        .boxes
        .iter()
        .map(|text| text.replace("EXTERNAL", &hidden_address(1, family).to_string()))
        .collect();
    let mut words = vec!["--seed", "5", "--both", case.link];
    words.extend(boxes.iter().flat_map(|text| ["--box", text]));
    let lab = Lab::emulated(&[&words], &Family::BOTH).unwrap();
    lab.hide_left(1, family).unwrap();
    lab
}

fn message(greeting: &str, seed: u64) -> Vec<u8> {
    let mut octets = vec![0; SIZE];
    data::Seeded::new(seed, SIZE as u64).read_exact(&mut octets).unwrap();
    [greeting.as_bytes(), &octets].concat()
}

/// Both directions at once at the kernel's end; gives what came.
fn exchange(stream: &TcpStream, own: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut received = Vec::new();
            (&mut &*stream).read_to_end(&mut received).map(|_| received)
        });
        (&mut &*stream).write_all(own).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        reader.join().unwrap().unwrap()
    })
}

fn transfer(case: Case<'_>, client: Client, family: Family, multipath: bool) {
    let what = format!("{:?} through {:?}, {client:?} connects over {family}", case.link, case.boxes);
    let mut lab = lab(case, family);
    let mut file = data::memory_file("message").unwrap();
    let path = data::path_of(&file);
    let mut words = vec!["--file", path.to_str().unwrap()];
    if !multipath {
        words.push("--no-multipath");
    }
    let (from_left, from_right) = (message(GREETING, 1), message(GREETING, 2));
    let (kernels, finished, side) = match client {
        Client::Ours => {
            file.write_all(&from_left).unwrap();
            file.rewind().unwrap();
            let local = SocketAddr::new(family.any(), PORT);
            let listener = kernel::listen(&lab.right, Protocol::Tcp, local).unwrap();
            let ours = ours::connect(&lab, family, &words).unwrap();
            let stream = kernel::accept(&listener, PATIENCE).expect(&what);
            let got = exchange(&stream, &from_right);
            (got, ours.finish(PATIENCE).expect(&what), Side::Left)
        }
        Client::Kernel => {
            file.write_all(&from_right).unwrap();
            file.rewind().unwrap();
            let ours = ours::listen(&lab, &words).unwrap();
            let remote = Side::Right.socket(1, family, PORT);
            let stream = kernel::connect(&lab.left, Protocol::Tcp, None, remote, PATIENCE).expect(&what);
            let got = exchange(&stream, &from_left);
            drop(stream);
            (got, ours.finish(PATIENCE).expect(&what), Side::Right)
        }
    };
    assert!(finished.status.success(), "{what}: {}", finished.stderr);
    assert_orderly(&lab, side, &finished);
    let statistics = finished.json().unwrap();
    assert!(statistics["connection"]["fallback"].is_string(), "{what}: {statistics:#}");
    let expected = (message(case.forward, 1), message(case.reverse, 2));
    let (at_right, at_left) = match client {
        Client::Ours => (kernels, finished.stdout),
        Client::Kernel => (finished.stdout, kernels),
    };
    for (side, got, expected) in [(Side::Right, at_right, expected.0), (Side::Left, at_left, expected.1)] {
        let same = got.iter().zip(&expected).take_while(|(got, expected)| got == expected).count();
        let lengths = (got.len(), expected.len());
        assert!(
            same == got.len().max(expected.len()),
            "{what}: {side:?} got and expected {lengths:?}, first {same} right"
        );
    }
    for report in lab.end_emulation().unwrap() {
        for way in ["forward", "reverse"] {
            assert_eq!(report[way]["refused"], 0, "{what}: {report:#}");
        }
    }
}

/// All roles and families at once, each in namespaces of its own.
fn everybody(case: Case<'_>) {
    thread::scope(|scope| {
        let mut runs = Vec::new();
        for client in [Client::Ours, Client::Kernel] {
            for family in Family::BOTH {
                // Each role without Multipath TCP on offer over one of the families.
                let multipath = (client == Client::Ours) == (family == Family::Ipv4);
                runs.push(scope.spawn(move || transfer(case, client, family, multipath)));
            }
        }
        for run in runs {
            if let Err(panic) = run.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

macro_rules! cases {
    ($($name:ident: $case:expr;)*) => {$(
        #[test]
        fn $name() {
            require_root!();
            everybody($case);
        }
    )*};
}

cases! {
    loss_and_reordering_without_a_box: Case::new("delay=2ms,loss=1%,reorder=1%,reorder-by=1ms,duplicate=1%,corrupt=0.2%", &[]);
    bursts_of_loss_and_jitter: Case::new("delay=3ms,jitter=2ms,jitter-reorders,loss=1%,burst=4", &[]);
    sequence_numbers_randomised: Case::new(PLAIN, &["randomise-sequence"]);
    sequence_numbers_randomised_with_loss: Case::new(LOSSY, &["randomise-sequence"]);
    sack_blocks_not_translated: Case::new(LOSSY, &["randomise-sequence,sack=no"]);
    sack_stripped_from_handshakes: Case::new(LOSSY, &["strip,option=sack,when=syn"]);
    sack_blocks_stripped: Case::new(LOSSY, &["strip,option=sack,when=not-syn"]);
    timestamps_stripped_from_handshakes: Case::new(LOSSY, &["strip,option=timestamps,when=syn"]);
    timestamps_stripped_afterwards: Case::new(LOSSY, &["strip,option=timestamps,when=not-syn"]);
    timestamps_stripped_in_one_direction: Case::new(LOSSY, &["strip,option=timestamps,way=reverse"]);
    timestamps_rewritten: Case::new(LOSSY, &["rewrite-timestamps"]);
    window_scale_removed: Case::new(PLAIN, &["strip,option=window-scale"]);
    mss_clamped: Case::new(LOSSY, &["mss-clamp,mss=700"]);
    mss_removed: Case::new(PLAIN, &["strip,option=mss"]);
    segments_split: Case::new(LOSSY, &["split,size=333"]);
    segments_coalesced: Case::new(LOSSY, &["coalesce,hold=1ms"]);
    segments_coalesced_in_one_direction_and_split_in_the_other:
        Case::new(PLAIN, &["coalesce,hold=1ms,way=forward", "split,size=500,way=reverse"]);
    addresses_translated: Case::new(LOSSY, &["nat,external=EXTERNAL"]);
    ecn_bleached: Case::new(PLAIN, &["ecn-bleach"]);
    multipath_stripped_from_handshakes: Case::new(PLAIN, &["strip,option=mptcp,when=syn"]);
    handshakes_with_multipath_dropped: Case::new(PLAIN, &["drop,option=mptcp,when=syn"]);
    payload_changed_to_the_same_length: Case {
        forward: "PORT 203;0;113;1;19;1\r\n",
        reverse: "PORT 203;0;113;2;19;1\r\n",
        ..Case::new(LOSSY, &[
            "replace,find=10;77;1;1;19;136,with=203;0;113;1;19;1,way=forward",
            "replace,find=10;77;1;1;19;136,with=203;0;113;2;19;1,way=reverse",
        ])
    };
    payload_changed_to_another_length: Case {
        forward: "PORT 203;0;113;1;200;201;202;203\r\n",
        reverse: "PORT \r\n",
        ..Case::new(LOSSY, &[
            "replace,find=10;77;1;1;19;136,with=203;0;113;1;200;201;202;203,way=forward",
            "replace,find=10;77;1;1;19;136,way=reverse",
        ])
    };
    many_boxes_one_behind_the_other: Case::new("delay=2ms,loss=0.5%,duplicate=0.5%", &[
        "nat,external=EXTERNAL",
        "randomise-sequence",
        "rewrite-timestamps",
        "mss-clamp,mss=1200",
        "split,size=800",
        "coalesce,limit=4000,hold=500us",
        "ecn-bleach",
    ]);
}
