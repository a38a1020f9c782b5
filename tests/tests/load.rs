//! `cargo xtask load`: the XDP program without a stack. Its counters and messages are printed, all packets
//! reach the kernel, and the program is gone afterwards.

use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::process::{Finished, Process, for_anyone};
use mptcp_tests::require_root;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Generous: other tests run at the same time.
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 7000;
/// Datagrams and round trips of an exchange.
const ROUNDS: usize = 20;

fn command(lab: &Lab, words: &[&str]) -> Command {
    let mut command = lab.left.command(env!("CARGO_BIN_EXE_load"));
    command.args(words);
    command
}

/// Starts the loader on the left side and waits until the program is attached to so many interfaces.
fn start(lab: &Lab, words: &[&str], interfaces: usize) -> Process {
    let mut process = Process::start(&mut command(lab, words), true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while lab.attached(Side::Left).unwrap().len() < interfaces {
        assert!(process.is_running(), "{}", process.finish(PATIENCE).unwrap().stderr);
        assert!(Instant::now() < deadline, "nothing is attached");
        thread::sleep(Duration::from_millis(10));
    }
    process
}

/// Ends it by a signal. Returns its output.
fn end_by(process: Process, signal: i32) -> Finished {
    process.signal(signal);
    end(process)
}

fn end(process: Process) -> Finished {
    let finished = process.finish(PATIENCE).unwrap();
    assert!(finished.status.success(), "{:?}: {}", finished.status, finished.stderr);
    finished
}

/// The right side sends datagrams to the left one and talks with it over TCP, kernel to kernel.
fn exchange(lab: &Lab, link: usize, family: Family) {
    let to: SocketAddr = Side::Left.socket(link, family, PORT);
    let (listener, datagrams) =
        lab.left.run(|| (TcpListener::bind(to).unwrap(), UdpSocket::bind(to).unwrap()));
    datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut octet = [0; 1];
            while stream.read(&mut octet).unwrap() == 1 {
                stream.write_all(&octet).unwrap();
            }
        });
        let (mut stream, sender) = lab.right.run(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            (stream, UdpSocket::bind(SocketAddr::new(family.any(), 0)).unwrap())
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut octet = [0; 1];
        for round in 0..ROUNDS {
            stream.write_all(&[round as u8]).unwrap();
            stream.read_exact(&mut octet).unwrap();
            assert_eq!(octet, [round as u8]);
            sender.send_to(&[7; 64], to).unwrap();
            assert_eq!(datagrams.recv(&mut [0; 100]).unwrap(), 64);
        }
    });
}

/// The JSON objects of one kind that were printed.
fn lines(finished: &Finished, kind: &str) -> Vec<Value> {
    String::from_utf8_lossy(&finished.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .filter(|line| line["kind"] == kind)
        .collect()
}

fn total(line: &Value, counter: &str) -> u64 {
    line["counters"][counter]["total"].as_u64().unwrap_or_else(|| panic!("no {counter} in {line}"))
}

/// Standard error of a loader that refuses to run.
fn refusal(lab: &Lab, words: &[&str]) -> String {
    let finished = Process::start(&mut command(lab, words), true).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{words:?}: {}", finished.stderr);
    assert!(finished.stdout.is_empty());
    finished.stderr
}

#[test]
fn packets_are_counted_on_all_interfaces_and_reach_the_kernel() {
    require_root!();
    let lab = Lab::new().unwrap();
    let words = ["-i", "left1", "-i", "left2", "--json", "--interval", "100ms"];
    let mut command = command(&lab, &words);
    let mut process = Process::start(command.stdout(Stdio::piped()), false).unwrap();
    let mut lines = BufReader::new(process.take_stdout().unwrap()).lines();
    let mut next = || lines.next().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let mut reports = vec![next().unwrap(), next().unwrap()];
    exchange(&lab, 1, Family::Ipv4);
    exchange(&lab, 2, Family::Ipv6);
    process.signal(libc::SIGINT);
    reports.extend(std::iter::from_fn(next));
    end(process);
    assert!(lab.attached(Side::Left).unwrap().is_empty(), "detached before the end of the process");

    assert!(reports.len() >= 3, "{reports:?}");
    let last = reports.last().unwrap();
    let names: BTreeSet<_> =
        last["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["left1", "left2"]));
    let rising: Vec<_> = reports.iter().map(|report| report["packets"]["total"].as_u64().unwrap()).collect();
    assert!(rising.is_sorted(), "{rising:?}");
    assert!(total(last, "foreign_port") >= 2 * ROUNDS as u64, "{last}");
    assert!(total(last, "not_tcp") >= 2 * ROUNDS as u64, "{last}");
    assert_eq!((total(last, "subflow"), total(last, "no_socket")), (0, 0));
    let sum: u64 = (last["counters"].as_object().unwrap().iter())
        .filter(|(_, counter)| counter["verdict"] != "besides")
        .map(|(name, _)| total(last, name))
        .sum();
    assert_eq!(last["packets"]["total"], sum);
}

#[test]
fn a_loader_with_a_duration_ends_by_itself() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    let words = ["-i", "left1", "--json", "--duration", "300ms", "--interval", "100s"];
    let finished = Process::start(&mut command(&lab, &words), true).unwrap().finish(PATIENCE).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(lab.attached(Side::Left).unwrap().is_empty());
    let reports = lines(&finished, "counters");
    assert_eq!(reports.len(), 1, "the last one: {reports:?}");
    assert!(reports[0]["seconds"].as_f64().unwrap() >= 0.3);
}

#[test]
fn every_signal_detaches_the_program() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    for (signal, mode) in [(libc::SIGINT, "auto"), (libc::SIGTERM, "skb"), (libc::SIGHUP, "native")] {
        let process = start(&lab, &["-i", "left1", "--mode", mode], 1);
        // The program is attached an instant before the process can tell.
        exchange(&lab, 1, Family::Ipv4);
        let finished = end_by(process, signal);
        assert!(lab.attached(Side::Left).unwrap().is_empty(), "{mode}");
        let text = String::from_utf8(finished.stdout).unwrap();
        let word = if mode == "native" { "left1: native mode" } else { "left1: generic mode" };
        assert!(text.starts_with(word) && text.contains("all packets"), "{text}");
        let row = text.lines().rev().find(|line| line.contains("foreign_port")).unwrap();
        let count: u64 = row.split_whitespace().last().unwrap().parse().unwrap();
        assert!(row.starts_with("pass") && count >= ROUNDS as u64, "{text}");
    }
    let process = start(&lab, &["-i", "left1"], 1);
    process.signal(libc::SIGKILL);
    assert!(!process.finish(PATIENCE).unwrap().status.success());
    assert!(lab.left_attached(Side::Left).unwrap().is_empty(), "the kernel detaches it");
}

#[test]
fn a_loader_whose_interface_goes_says_so_and_ends() {
    require_root!();
    let lab = Lab::new().unwrap();
    let mut process = start(&lab, &["-i", "left1", "-i", "left2", "--interval", "50ms"], 2);
    lab.left.delete_interface("left1").unwrap();
    process.wait_for("left1 has lost the program", PATIENCE).unwrap();
    lab.left.delete_interface("left2").unwrap();
    let finished = process.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr.contains("attached nowhere any more"), "{}", finished.stderr);
}

#[test]
fn a_port_that_the_program_knows_still_passes_and_an_address_with_it_does_not() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    let port = PORT.to_string();
    let known = ["-i", "left1", "--json", "--port", &port];
    let process = start(&lab, &known, 1);
    exchange(&lab, 1, Family::Ipv4);
    let finished = end_by(process, libc::SIGINT);
    let last = lines(&finished, "counters").pop().unwrap();
    assert!(total(&last, "foreign") >= ROUNDS as u64 && total(&last, "no_socket") == 0, "{last}");

    let to = Side::Left.socket(1, Family::Ipv4, PORT);
    let listener = lab.left.run(|| TcpListener::bind(to).unwrap());
    let address = to.ip().to_string();
    let mut process = start(&lab, &[&known[..], &["--address", &address]].concat(), 1);
    process.wait_for("taken from the kernel", PATIENCE).unwrap();
    lab.right.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err());
    let finished = end_by(process, libc::SIGINT);
    let last = lines(&finished, "counters").pop().unwrap();
    assert!(total(&last, "no_socket") > 0 && last["counters"]["no_socket"]["verdict"] == "drop", "{last}");
    lab.right.run(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    drop(listener);
}

#[test]
fn errors_name_cause_and_remedy() {
    require_root!();
    let lab = Lab::with_links(1).unwrap();
    let text = refusal(&lab, &["-i", "left9"]);
    assert!(text.contains("no interface left9") && text.contains("lo, left1"), "{text}");
    let text = refusal(&lab, &["-i", "left1", "-i", "left1"]);
    assert!(text.contains("left1 is named twice"), "{text}");
    let text = refusal(&lab, &["-i", "left1", "--object", "/nonexistent/mptcp.o"]);
    assert!(text.contains("/nonexistent/mptcp.o"), "{text}");
    let text = refusal(&lab, &["-i", "left1", "--object", "/etc/passwd"]);
    assert!(text.contains("malformed") && text.contains("cargo xtask build-ebpf"), "{text}");

    // An ordinary user.
    let loader = for_anyone(Path::new(env!("CARGO_BIN_EXE_load"))).unwrap();
    let mut command = lab.left.command_as(loader, Some(65534));
    let finished = Process::start(command.args(["-i", "left1"]), true).unwrap().finish(PATIENCE).unwrap();
    assert!(finished.stderr.contains("CAP_NET_ADMIN") && finished.stderr.contains("root"), "{finished:?}");

    // Somebody else's program, and another loader's.
    let foreign = lab.left.foreign_xdp("left1").unwrap();
    for mode in ["auto", "skb", "native"] {
        for check in [&[][..], &["--check"]] {
            let text = refusal(&lab, &[&["-i", "left1", "--mode", mode], check].concat());
            assert!(text.contains("another XDP program") && text.contains("bpftool link detach"), "{text}");
        }
    }
    drop(foreign);
    assert!(lab.left_attached(Side::Left).unwrap().is_empty());
    let process = start(&lab, &["-i", "left1"], 1);
    let text = refusal(&lab, &["-i", "left1"]);
    assert!(text.contains(&format!("pid {}", process.id())), "{text}");
    // The stored object has nothing to log.
    end_by(process, libc::SIGINT);
    let text = refusal(&lab, &["-i", "left1", "--log"]);
    assert!(text.contains("build-ebpf --log"), "{text}");
    assert!(lab.left_attached(Side::Left).unwrap().is_empty());
}

/// An object that logs; none where there is no toolchain for it and none can be installed.
fn logging_object() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("log.bpf.o");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--package", "xtask", "--", "build-ebpf", "--log", "--output"])
        .arg(&path)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    if output.status.success() {
        return Some(path);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cargo xtask setup"), "the XDP program that logs does not build: {text}");
    eprintln!("SKIPPED {}: no toolchain for the XDP program: {text}", file!());
    None
}

#[test]
fn messages_of_the_program_are_printed_with_the_names_of_counters() {
    require_root!();
    let Some(object) = logging_object() else { return };
    let lab = Lab::with_links(1).unwrap();
    let words = ["-i", "left1", "--log", "--object", object.to_str().unwrap()];
    let process = start(&lab, &[&words[..], &["--json", "--interval", "200ms"]].concat(), 1);
    exchange(&lab, 1, Family::Ipv4);
    let finished = end_by(process, libc::SIGTERM);
    assert!(lab.attached(Side::Left).unwrap().is_empty());
    let messages = lines(&finished, "log");
    let about =
        |counter: &str| messages.iter().filter(|message| message["counter"] == counter).collect::<Vec<_>>();
    assert!(about("foreign_port").len() >= ROUNDS && about("not_tcp").len() >= ROUNDS, "{messages:?}");
    let message = about("not_tcp")[0];
    assert_eq!(message["level"], "debug");
    assert!(message["message"].as_str().unwrap().starts_with("not for user space"), "{message}");
    assert!(message["place"].as_str().unwrap().starts_with("main.rs:"), "{message}");
    // As many as were counted: none is lost in an exchange this short.
    let last = lines(&finished, "counters").pop().unwrap();
    assert_eq!(messages.len() as u64, last["packets"]["total"].as_u64().unwrap());

    let process = start(&lab, &words, 1);
    exchange(&lab, 1, Family::Ipv6);
    let text = String::from_utf8(end_by(process, libc::SIGINT).stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("DEBUG")).unwrap();
    assert!(line.contains("not for user space: counter"), "{line}");
    assert!(text.contains("(foreign_port, pass)") && text.contains("all packets"), "{text}");
}
