//! Version 0 of Multipath TCP (RFC 6824), which has no living peer here: between this stack's own ends,
//! through the middleboxes of the emulator, each end's packets judged by Wireshark's dissector.

use mptcp_tests::capture::{self, Analysis};
use mptcp_tests::lab::{Family, Lab, LinkPlan, Side, hidden_address};
use mptcp_tests::ours::{PATIENCE, PORT, assert_orderly, command};
use mptcp_tests::process::{Finished, Process};
use mptcp_tests::{data, require_root};
use std::io::{Read, Seek, Write};

/// Octets in each direction behind the greeting.
const SIZE: usize = 400 << 10;
/// The first bytes of both directions; payload changers look for them.
const GREETING: &str = "PORT 10;77;1;1;19;136\r\n";
const CHANGE: &str = "replace,find=10;77;1;1;19;136,with=203;0;113;1;19;1,way=forward";
const CHANGED: &str = "PORT 203;0;113;1;19;1\r\n";

/// The expected outcome of a connection.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// Version 0 over so many subflows that were confirmed.
    Multipath(usize),
    /// Regular TCP, for these reasons at client and server. ("or": the side that sends first decides.)
    Regular(&'static str, &'static str),
}

struct Case<'a> {
    /// Boxes on the first link and on the second.
    boxes: [&'a [&'a str]; 2],
    checksum: bool,
    family: Family,
    fate: Fate,
    /// The client's greeting as it arrives.
    greeting: &'a str,
}

impl<'a> Case<'a> {
    const fn new(first: &'a [&'a str], second: &'a [&'a str], fate: Fate) -> Self {
        Self { boxes: [first, second], checksum: false, family: Family::Ipv4, fate, greeting: GREETING }
    }

    const fn with_checksum(self) -> Self {
        Self { checksum: true, ..self }
    }

    const fn over_ipv6(self) -> Self {
        Self { family: Family::Ipv6, ..self }
    }
}

fn lab(case: &Case<'_>) -> Lab {
    let boxes: Vec<Vec<String>> = (1..)
        .zip(case.boxes)
        .map(|(link, boxes)| {
            boxes
                .iter()
                .map(|text| text.replace("EXTERNAL", &hidden_address(link, case.family).to_string()))
                .collect()
        })
        .collect();
    let plans: Vec<_> = boxes
        .iter()
        .map(|boxes| {
            let mut words = vec!["--seed", "5", "--both", "delay=2ms"];
            words.extend(boxes.iter().flat_map(|text| ["--box", text]));
            LinkPlan { families: vec![case.family], emulator: Some(words) }
        })
        .collect();
    let lab = Lab::of_links(&plans).unwrap();
    for link in 1..=2 {
        lab.hide_left(link, case.family).unwrap();
    }
    lab
}

fn message(greeting: &str, seed: u64) -> Vec<u8> {
    let mut octets = vec![0; SIZE];
    data::Seeded::new(seed, SIZE as u64).read_exact(&mut octets).unwrap();
    [greeting.as_bytes(), &octets].concat()
}

/// A file to send, and one for a capture.
fn files(seed: u64) -> (std::fs::File, std::fs::File) {
    let mut file = data::memory_file("message").unwrap();
    file.write_all(&message(GREETING, seed)).unwrap();
    file.rewind().unwrap();
    (file, data::memory_file("capture").unwrap())
}

/// One end with its messages and its capture.
fn words<'a>(case: &Case<'_>, kind: &'a str, file: &'a str, pcap: &'a str, address: &'a str) -> Vec<&'a str> {
    let mut all = vec![kind, "--mptcp-version", "0", "--json", "--file", file, "--pcap", pcap];
    if case.checksum {
        all.push("--checksum");
    }
    all.push(address);
    all
}

/// Runs a case; gives what tshark says of both ends' captures.
fn run(name: &str, case: &Case<'_>) -> [Analysis; 2] {
    let lab = lab(case);
    let ends = [files(1), files(2)];
    let paths = ends.each_ref().map(|(file, pcap)| {
        [data::path_of(file), data::path_of(pcap)].map(|path| path.to_str().unwrap().to_owned())
    });
    let (port, target) = (PORT.to_string(), Side::Right.socket(1, case.family, PORT).to_string());
    let listen = words(case, "listen", &paths[1][0], &paths[1][1], &port);
    let mut server = Process::start(&mut command(&lab, Side::Right, &listen), true).unwrap();
    server.wait_for("listening on", PATIENCE).unwrap();
    let connect = words(case, "connect", &paths[0][0], &paths[0][1], &target);
    let client = Process::start(&mut command(&lab, Side::Left, &connect), true).unwrap();
    let client = client.finish(PATIENCE).expect(name);
    let server = server.finish(PATIENCE).expect(name);
    for (side, finished) in [(Side::Left, &client), (Side::Right, &server)] {
        assert!(finished.status.success(), "{name}: {}", finished.stderr);
        assert_orderly(&lab, side, finished);
    }
    assert!(server.stdout == message(case.greeting, 1), "{name}: what the client sent");
    assert!(client.stdout == message(GREETING, 2), "{name}: what the server sent");
    let reasons = match case.fate {
        Fate::Multipath(_) => [None, None],
        Fate::Regular(client, server) => [Some(client), Some(server)],
    };
    for (finished, reason) in [&client, &server].into_iter().zip(reasons) {
        check(name, finished, case, reason);
    }
    paths.map(|[_, pcap]| capture::analyse(pcap.as_ref()).unwrap())
}

fn check(name: &str, finished: &Finished, case: &Case<'_>, reason: Option<&str>) {
    let statistics = finished.json().unwrap();
    let connection = &statistics["connection"];
    let fallback = connection["fallback"].as_str();
    let expected = match (reason, fallback) {
        (Some(reasons), Some(fallback)) => reasons.split(" or ").any(|reason| reason == fallback),
        (reason, fallback) => reason.is_none() && fallback.is_none(),
    };
    assert!(expected, "{name}: {fallback:?} instead of {reason:?}: {connection:#}");
    let Fate::Multipath(subflows) = case.fate else { return };
    assert_eq!(connection["version"], 0, "{name}: {connection:#}");
    assert_eq!(connection["checksum"], case.checksum, "{name}: {connection:#}");
    let confirmed = connection["subflows"].as_array().unwrap().iter();
    let confirmed = confirmed.filter(|subflow| subflow["confirmed"] == true).count();
    assert_eq!(confirmed, subflows, "{name}: {connection:#}");
}

/// Runs cases one after the other; tshark finds nothing to complain about in either end's packets.
fn all(cases: &[(&str, Case<'_>)]) {
    let judged = capture::has_tshark();
    if !judged {
        eprintln!("tshark is not installed: nobody judges the packets");
    }
    for (name, case) in cases {
        for (side, analysis) in ["client", "server"].into_iter().zip(run(name, case)) {
            println!("{name}: {side}: {analysis:?}");
            // It calls the way to regular TCP unusual, which it is.
            let unusual = |text: &&String| {
                case.fate == Fate::Multipath(2) || !text.ends_with("MPTCP Fallback to infinite mapping")
            };
            let complaints: Vec<_> = analysis.complaints.iter().filter(unusual).collect();
            assert!(complaints.is_empty(), "{name}: the {side}'s packets: {complaints:?}");
            if case.fate == Fate::Multipath(2) {
                assert_eq!((analysis.connections, analysis.subflows), (1, 2), "{name}: {side}");
            }
        }
    }
}

#[test]
fn two_subflows_carry_version_0_without_a_box() {
    require_root!();
    all(&[
        ("IPv4", Case::new(&[], &[], Fate::Multipath(2))),
        ("IPv6 with checksums", Case::new(&[], &[], Fate::Multipath(2)).with_checksum().over_ipv6()),
    ]);
}

#[test]
fn version_0_passes_boxes_that_know_nothing_of_it() {
    require_root!();
    let both: [(&str, &[&str]); 5] = [
        ("addresses translated", &["nat,external=EXTERNAL"]),
        ("sequence numbers randomised", &["randomise-sequence"]),
        ("segments split", &["split,size=400"]),
        ("segments coalesced", &["coalesce,limit=20kB,hold=1ms"]),
        ("timestamps rewritten, sizes clamped", &["rewrite-timestamps", "mss-clamp,mss=900"]),
    ];
    for (number, (name, boxes)) in (0..).zip(both) {
        let mut case = Case::new(boxes, boxes, Fate::Multipath(2));
        case.checksum = number % 2 == 0;
        case.family = Family::BOTH[usize::from(number % 3 == 2)];
        all(&[(name, case)]);
    }
}

#[test]
fn version_0_becomes_regular_tcp_where_its_options_are_stripped() {
    require_root!();
    let syn = Fate::Regular("no-mp-capable", "no-mp-capable");
    let later = Fate::Regular("option-stripped or mapping-missing", "option-stripped");
    all(&[
        ("from SYNs", Case::new(&["strip,option=mptcp,when=syn"], &[], syn)),
        ("after SYNs", Case::new(&["strip,option=mptcp,when=not-syn"], &[], later).over_ipv6()),
        (
            "from the second subflow's SYN",
            Case::new(&[], &["strip,option=mptcp,when=syn"], Fate::Multipath(1)).with_checksum(),
        ),
    ]);
}

#[test]
fn version_0_notices_changed_data_by_its_checksum() {
    require_root!();
    let fate = Fate::Regular("peer-checksum-failed", "checksum-failed");
    let case = Case::new(&[CHANGE], &["drop,option=mp-join,when=syn"], fate).with_checksum();
    all(&[("on the only subflow", Case { greeting: CHANGED, ..case })]);
}
