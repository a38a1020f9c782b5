//! The views of the stacks that run on a host: `mptcp ss`, `mptcp counters`, and the event log.

use mptcp_tests::counters::Counters;
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_fails, assert_orderly};
use mptcp_tests::process::{Process, for_anyone, mptcp_binary};
use mptcp_tests::runtime::Runtime;
use mptcp_tests::{data, require_root};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn connections_of_two_processes_in_two_namespaces_are_seen_while_they_live() {
    require_root!();
    let lab = Lab::new().unwrap();
    let runtime = Runtime::new("ss");
    assert_eq!(runtime.json(&["ss", "--json"]), serde_json::json!([]), "before there is anything");
    let port = PORT.to_string();
    let mut command = ours::command(&lab, Side::Right, &["listen", "--json", &port]);
    let mut listener = Process::start(runtime.set(command.stdin(Stdio::piped())), true).unwrap();
    listener.wait_for("listening on", PATIENCE).unwrap();
    let mut command = ours::connect_command(&lab, Family::Ipv4, &[]);
    let mut client = Process::start(runtime.set(command.stdin(Stdio::piped())), true).unwrap();
    let (mut up, down) = (client.take_stdin().unwrap(), listener.take_stdin().unwrap());
    up.write_all(&[7; 100_000]).unwrap();
    client.wait_for("connected to", PATIENCE).unwrap();

    let established = |report: &Value| {
        let subflows = report["connections"][0]["subflows"].as_array();
        let both = |subflow: &&Value| subflow["state"] == "established";
        subflows.is_some_and(|subflows| subflows.iter().filter(both).count() >= 2)
    };
    let all =
        |value: &Value| value.as_array().is_some_and(|all| all.len() == 2 && all.iter().all(established));
    let reports = runtime.eventually(&["ss", "--json"], all);
    assert_ne!(reports[0]["netns"], reports[1]["netns"]);
    let of = |pid: u32| reports.as_array().unwrap().iter().find(|report| report["pid"] == pid).unwrap();
    let (ours, theirs) = (of(client.id()), of(listener.id()));
    assert_eq!(ours["connections"][0]["local_token"], theirs["connections"][0]["remote_token"]);
    assert_eq!(theirs["listeners"].as_array().unwrap().len(), 1);
    assert_eq!(theirs["connections"][0]["bytes_received"], 100_000);
    // For people, and filters.
    let table = runtime.run(&["ss", "--pid", &client.id().to_string()]);
    let table = String::from_utf8(table.stdout).unwrap();
    for word in ["STATE", "established", "10.77.1.1:", "10.77.2.2:5000", "mptcp v1", "rtt:", "cwnd:", "netns"]
    {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    assert!(!table.contains("listen"), "{table}");
    let none = runtime.json(&["ss", "--json", "--port", "9"]);
    assert!(none.as_array().unwrap().iter().all(|report| report["connections"] == serde_json::json!([])));
    // The counters of each process and of its XDP program.
    let counted = |pid: u32| runtime.json(&["counters", "--json", "--pid", &pid.to_string()]);
    let (client_counted, server_counted) = (counted(client.id()), counted(listener.id()));
    assert_eq!(client_counted["MPTcpExtMPCapableSYNTX"], 1);
    assert_eq!(server_counted["MPTcpExtMPCapableSYNRX"], 1);
    assert!(server_counted["MPTcpExtMPJoinSynRx"].as_u64() >= Some(1), "{server_counted:#}");
    // The engine sees no more segments than the program has let through: some were put together on the way. A
    // subflow's third ACK belongs to the listener, because the program does not know the subflow before it.
    let subflows = theirs["connections"][0]["subflows"].as_array().unwrap();
    let segments: u64 = subflows.iter().map(|subflow| subflow["segments_received"].as_u64().unwrap()).sum();
    assert!(segments >= 5, "{theirs:#}");
    let passed: u64 =
        ["XdpSubflow", "XdpListenerSegment"].iter().filter_map(|name| server_counted[*name].as_u64()).sum();
    assert!(passed >= segments, "{passed}, {segments}, {server_counted:#}");
    assert!(server_counted.get("MPTcpExtMPFailRx").is_none(), "zero is not shown unless asked for");
    let all = runtime.run(&["counters", "--all", "--explain"]);
    let all = String::from_utf8(all.stdout).unwrap();
    assert!(
        all.lines().any(|line| line.starts_with("MPTcpExtMPFailRx") && line.contains("MP_FAILs received."))
    );

    drop((up, down));
    for (side, process) in [(Side::Left, client), (Side::Right, listener)] {
        let finished = process.finish(PATIENCE).unwrap();
        assert_orderly(&lab, side, &finished);
        assert!(finished.status.success(), "{}", finished.stderr);
    }
    assert_eq!(runtime.sockets(), 0, "sockets are left");
    assert_eq!(runtime.json(&["ss", "--json"]), serde_json::json!([]));
}

/// The kernel is the peer, and counts the MP_PRIOs that it gets.
#[test]
fn a_subflow_of_a_running_connection_becomes_a_backup_and_is_one_no_more() {
    require_root!();
    let lab = Lab::of_family(Family::Ipv4).unwrap();
    lab.prepare_kernel(Side::Right, Family::Ipv4).unwrap();
    let runtime = Runtime::new("backup");
    let finished = runtime.run(&["backup", "any0"]);
    assert_fails(&lab, Side::Left, &finished, 1, &["no mptcp process runs"]);
    let local = SocketAddr::new(Family::Ipv4.any(), PORT);
    let listener = kernel::listen(&lab.right, Protocol::Mptcp, local).unwrap();
    let mut command = ours::connect_command(&lab, Family::Ipv4, &[]);
    let mut client = Process::start(runtime.set(command.stdin(Stdio::piped())), true).unwrap();
    let mut peer = kernel::accept(&listener, PATIENCE).unwrap();
    let mut input = client.take_stdin().unwrap();
    input.write_all(b"hello").unwrap();
    peer.read_exact(&mut [0; 5]).unwrap();
    let second = |report: &Value| {
        let subflows = report[0]["connections"][0]["subflows"].as_array().cloned().unwrap_or_default();
        subflows.into_iter().find(|subflow| subflow["initial"] == false && subflow["state"] == "established")
    };
    let eventually = |name: &str, value: i64| {
        let end = Instant::now() + PATIENCE;
        while Counters::read(&lab.right).unwrap().get(name) != value {
            assert!(Instant::now() < end, "{name} does not come to {value}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let report = runtime.eventually(&["ss", "--json"], |report| second(report).is_some());
    eventually("MPTcpExtMPJoinAckRx", 1);
    let (end, interface) = (second(&report).unwrap()["local"].clone(), Side::Left.interface(2));
    let end = end.as_str().unwrap();
    // By each of its names, there and back.
    let address = Side::Left.address(2, Family::Ipv4).to_string();
    let pid = client.id().to_string();
    let mut told = 0;
    for name in [&interface[..], &address, end] {
        for (words, backup) in
            [(&["backup", name][..], true), (&["backup", "--off", "--pid", &pid, name], false)]
        {
            let finished = runtime.run(words);
            assert!(finished.status.success(), "{}", finished.stderr);
            let said = String::from_utf8(finished.stdout).unwrap();
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(
                said.starts_with(end) && said.contains("backup") == backup && said.contains(&pid),
                "{said}"
            );
            told += 1;
            eventually("MPTcpExtMPPrioRx", told);
            runtime.eventually(&["ss", "--json"], |report| {
                second(report).is_some_and(|it| it["backup"] == backup)
            });
        }
    }
    // An impossible request changes nothing, and its error names the possible ones.
    for (words, said) in [
        (&["backup", "lo"][..], &["no subflow is open", "from lo", "mptcp ss"][..]),
        (&["backup", "--pid", "1", &interface], &["process 1", "mptcp ss"]),
    ] {
        assert_fails(&lab, Side::Right, &runtime.run(words), 1, said);
    }
    assert_eq!(runtime.run(&["backup", "192.0.2.1:x"]).status.code(), Some(2));
    let program = for_anyone(mptcp_binary()).unwrap();
    let mut command = lab.left.command_as(&program, Some(65534));
    let finished = Process::start(runtime.set(command.args(["backup", &interface])), true).unwrap();
    let finished = finished.finish(PATIENCE).unwrap();
    assert_fails(&lab, Side::Right, &finished, 1, &["root", "mptcp-backup"]);
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPPrioRx"), told);

    drop(input);
    peer.read_to_end(&mut Vec::new()).unwrap();
    drop(peer);
    let finished = client.finish(PATIENCE).unwrap();
    assert_orderly(&lab, Side::Left, &finished);
    assert!(finished.status.success(), "{}", finished.stderr);
}

#[test]
fn who_may_not_look_is_told_so_and_a_killed_process_leaves_nothing_for_long() {
    require_root!();
    let lab = Lab::new().unwrap();
    let runtime = Runtime::new("rights");
    let start = || {
        let mut command = ours::command(&lab, Side::Right, &["listen", "--keep-open", "5000"]);
        let mut listener = Process::start(runtime.set(&mut command), true).unwrap();
        listener.wait_for("listening on", PATIENCE).unwrap();
        listener
    };
    let first = start();
    let program = for_anyone(mptcp_binary()).unwrap();
    for words in [&["ss"][..], &["ss", "--json"], &["counters"]] {
        let mut command = lab.left.command_as(&program, Some(65534));
        let finished =
            Process::start(runtime.set(command.args(words)), true).unwrap().finish(PATIENCE).unwrap();
        assert_fails(&lab, Side::Left, &finished, 1, &["root", "mptcp-rights"]);
    }
    first.signal(libc::SIGKILL);
    first.finish(PATIENCE).unwrap();
    assert_eq!(runtime.sockets(), 1, "nobody could remove it");
    assert_eq!(runtime.json(&["ss", "--json"]), serde_json::json!([]));
    let second = start();
    assert_eq!(runtime.sockets(), 1, "the one that was left is removed");
    second.signal(libc::SIGTERM);
    let finished = second.finish(PATIENCE).unwrap();
    assert_orderly(&lab, Side::Right, &finished);
    assert_eq!(runtime.sockets(), 0);
}

#[test]
fn the_event_log_tells_where_every_octet_went() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (file, sum) = data::seeded_file(3, 4 << 20).unwrap();
    let listener = ours::listen(&lab, &[]).unwrap();
    let path = std::env::temp_dir().join(format!("mptcp-observe-events-{}", std::process::id()));
    let words = ["--file", data::path_of(&file).to_str().unwrap(), "--events", path.to_str().unwrap()]
        .map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let client = ours::connect(&lab, Family::Ipv4, &words).unwrap().finish(PATIENCE).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(client.status.success(), "{}", client.stderr);
    let listener = listener.finish(PATIENCE).unwrap();
    assert_eq!(data::sum(&listener.stdout[..]).unwrap(), (4 << 20, sum));
    let (mut next, mut before) = (0, 0.0);
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let kind = event["event"].as_str().unwrap();
        *kinds.entry(kind.into()).or_default() += 1;
        let time = event["time"].as_f64().unwrap();
        assert!(time >= before, "{line}");
        before = time;
        if kind == "scheduled" {
            assert_eq!(event["start"], next, "{line}");
            next += event["octets"].as_u64().unwrap();
            assert!(!event["among"].as_array().unwrap().is_empty());
        }
    }
    assert_eq!(next, 4 << 20);
    assert!(kinds["log"] == 1 && kinds["closed"] == 1 && kinds["subflow-opened"] >= 1, "{kinds:?}");
}
