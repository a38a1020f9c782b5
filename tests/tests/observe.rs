//! What a host is told about the stacks that run on it: `mptcp ss`, `mptcp counters`, and the event log.

use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_fails, assert_orderly};
use mptcp_tests::process::{Process, for_anyone, mptcp_binary};
use mptcp_tests::runtime::Runtime;
use mptcp_tests::{data, require_root};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

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
    // What each has counted, and the XDP program with it.
    let counted = |pid: u32| runtime.json(&["counters", "--json", "--pid", &pid.to_string()]);
    let (client_counted, server_counted) = (counted(client.id()), counted(listener.id()));
    assert_eq!(client_counted["MPTcpExtMPCapableSYNTX"], 1);
    assert_eq!(server_counted["MPTcpExtMPCapableSYNRX"], 1);
    assert!(server_counted["MPTcpExtMPJoinSynRx"].as_u64() >= Some(1), "{server_counted:#}");
    // The engine sees no more segments than the program has let through: some were put together on the way.
    let subflows = theirs["connections"][0]["subflows"].as_array().unwrap();
    let segments: u64 = subflows.iter().map(|subflow| subflow["segments_received"].as_u64().unwrap()).sum();
    assert!(segments >= 5, "{theirs:#}");
    assert!(server_counted["XdpSubflow"].as_u64() >= Some(segments), "{segments}, {server_counted:#}");
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
