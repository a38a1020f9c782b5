//! The habits of a netcat: standard input and output, half-close, one peer after the other, no root where
//! none is needed.

use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, assert_orderly};
use mptcp_tests::process::{Process, for_anyone, mptcp_binary};
use mptcp_tests::require_root;
use std::io::Write;
use std::process::{Command, Stdio};

/// User and group "nobody".
const NOBODY: u32 = 65534;

#[test]
fn standard_input_and_output_are_the_two_directions() {
    require_root!();
    let lab = Lab::new().unwrap();
    let mut command = ours::command(&lab, Side::Right, &["listen", "--json", "5000"]);
    let mut listener = Process::start(command.stdin(Stdio::piped()), true).unwrap();
    listener.wait_for("listening on", PATIENCE).unwrap();
    let mut client =
        Process::start(ours::connect_command(&lab, Family::Ipv6, &[]).stdin(Stdio::piped()), true).unwrap();
    let mut ask = client.take_stdin().unwrap();
    ask.write_all(b"question\n").unwrap();
    // The client ends its direction first; the answer comes after that.
    drop(ask);
    client.wait_for("connected to", PATIENCE).unwrap();
    let mut answer = listener.take_stdin().unwrap();
    answer.write_all(b"answer\n").unwrap();
    drop(answer);
    let (client, listener) = (client.finish(PATIENCE).unwrap(), listener.finish(PATIENCE).unwrap());
    for (side, finished) in [(Side::Left, &client), (Side::Right, &listener)] {
        assert_orderly(&lab, side, finished);
        assert!(finished.status.success(), "{}", finished.stderr);
    }
    assert_eq!(String::from_utf8(listener.stdout).unwrap(), "question\n");
    assert_eq!(String::from_utf8(client.stdout).unwrap(), "answer\n");
}

#[test]
fn a_connection_without_any_data_ends_well() {
    require_root!();
    let lab = Lab::new().unwrap();
    let listener = ours::listen(&lab, &[]).unwrap();
    let client = ours::connect(&lab, Family::Ipv4, &[]).unwrap().finish(PATIENCE).unwrap();
    let listener = listener.finish(PATIENCE).unwrap();
    for (side, finished) in [(Side::Left, &client), (Side::Right, &listener)] {
        assert_orderly(&lab, side, finished);
        assert!(finished.status.success(), "{}", finished.stderr);
        let statistics = finished.json().unwrap();
        assert_eq!(
            (statistics["bytes_sent"].as_u64(), statistics["bytes_received"].as_u64()),
            (Some(0), Some(0))
        );
    }
}

#[test]
fn keep_open_serves_one_peer_after_the_other_until_a_signal() {
    require_root!();
    let lab = Lab::new().unwrap();
    let (file, sum) = mptcp_tests::data::seeded_file(9, 300_000).unwrap();
    let path = mptcp_tests::data::path_of(&file);
    let listener = ours::listen(&lab, &["--keep-open", "--file", path.to_str().unwrap()]).unwrap();
    for family in [Family::Ipv4, Family::Ipv6, Family::Ipv4] {
        let client = ours::connect(&lab, family, &[]).unwrap().finish(PATIENCE).unwrap();
        assert!(client.status.success(), "{}", client.stderr);
        assert_eq!(mptcp_tests::data::sum(client.stdout.as_slice()).unwrap(), (300_000, sum));
    }
    listener.signal(libc::SIGTERM);
    let listener = listener.finish(PATIENCE).unwrap();
    assert_orderly(&lab, Side::Right, &listener);
    assert_eq!(listener.status.code(), Some(143), "{}", listener.stderr);
    assert_eq!(
        listener.stderr.lines().filter(|line| line.starts_with('{')).count(),
        3,
        "{}",
        listener.stderr
    );
}

#[test]
fn interfaces_are_shown_without_root_as_a_table_and_as_json() {
    require_root!();
    let lab = Lab::new().unwrap();
    let program = for_anyone(mptcp_binary()).unwrap();
    let show = |words: &[&str]| {
        let output =
            lab.left.command_as(&program, Some(NOBODY)).arg("interfaces").args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let table = show(&[]);
    for word in ["left1", "left2", "10.77.1.1", "fd77:2::1"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    let list: serde_json::Value = serde_json::from_str(&show(&["--json"])).unwrap();
    let left2 = list.as_array().unwrap().iter().find(|report| report["name"] == "left2").unwrap();
    assert_eq!(left2["mtu"], 1500);
    assert_eq!(left2["usable"], true, "{list:#}");
    let lo = list.as_array().unwrap().iter().find(|report| report["name"] == "lo");
    if let Some(lo) = lo {
        assert!(!lo["reason"].as_str().unwrap().is_empty(), "{list:#}");
    }
}

#[test]
fn help_and_wrong_usage_need_no_root() {
    let run = |words: &[&str]| Command::new(mptcp_binary()).args(words).output().unwrap();
    for command in ["listen", "connect", "interfaces"] {
        let output = run(&[command, "--help"]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: mptcp"));
    }
    for wrong in
        [&["connect", "no-port"][..], &["listen", "0"], &["connect", "2001:db8::1:5000"], &["fly"], &[]]
    {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
