//! `mptcp ss`: the connections of all `mptcp` processes on this host, and their subflows.

use super::args::SsArgs;
use super::exit::{ExitCode, Failure};
use super::output::print;
use anyhow::{Context, Result};
use mptcp_control::{Question, ask_all, directory, unusable};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

pub(crate) async fn run(args: SsArgs) -> Result<ExitCode> {
    let Some(pause) = args.watch else {
        print(&look(&args).await?)?;
        return Ok(ExitCode::Success);
    };
    let mut signals = super::signals::Signals::new()?;
    loop {
        let text = look(&args).await?;
        // Home, and clear what is below: less flicker than clearing all.
        print(&format!("\x1b[H\x1b[J{text}"))?;
        tokio::select! {
            code = signals.wanted() => return Ok(code),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn look(args: &SsArgs) -> Result<String> {
    let mut reports = fetch(args.pid, &Question::Report).await?;
    if let Some(port) = args.port {
        keep_port(&mut reports, port);
    }
    if args.json {
        return Ok(serde_json::to_string_pretty(&reports)? + "\n");
    }
    Ok(table(&reports, &named_namespaces()))
}

/// The answers of the processes. The error says why they can't be asked.
pub(super) async fn fetch(pid: Option<u32>, question: &Question) -> Result<Vec<Value>> {
    let directory = directory();
    let answers = ask_all(&directory, pid, question).await;
    if answers.as_ref().is_ok_and(Vec::is_empty)
        && let Some(reason) = unusable(&directory)
    {
        tracing::warn!("{reason}");
    }
    answers
        .map_err(|error| {
            let denied = error.kind() == ErrorKind::PermissionDenied;
            let failed = anyhow::Error::new(error);
            if denied {
                let what = unusable(&directory).unwrap_or_else(|| format!(
                    "only the user that runs the mptcp processes (root, usually) may look into {}; try sudo",
                    directory.display()
                ));
                failed.context(Failure::new(ExitCode::Host, what))
            } else {
                failed.context(format!("can't look into {}", directory.display()))
            }
        })
        .context("can't ask the mptcp processes of this host")
}

/// Leaves only connections that have a subflow from or to a port, and listeners on it.
fn keep_port(reports: &mut [Value], port: u16) {
    let has = |address: &Value| address_of(address).is_some_and(|address| address.port() == port);
    for report in reports {
        if let Some(connections) = report["connections"].as_array_mut() {
            connections.retain(|connection| {
                list(&connection["subflows"])
                    .iter()
                    .any(|subflow| has(&subflow["local"]) || has(&subflow["remote"]))
            });
        }
        if let Some(listeners) = report["listeners"].as_array_mut() {
            listeners.retain(has);
        }
    }
}

fn address_of(value: &Value) -> Option<SocketAddr> {
    value.as_str()?.parse().ok()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

/// Names that `ip netns` knows, by inode.
fn named_namespaces() -> BTreeMap<u64, String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let inode = std::fs::metadata(entry.path()).ok()?.ino();
        Some((inode, entry.file_name().to_string_lossy().into_owned()))
    });
    named.collect()
}

const HEAD: [&str; 7] = ["STATE", "RECV-Q", "SEND-Q", "LOCAL", "PEER", "PROTOCOL", "PROCESS"];

/// A table for people: a row for each connection and each of its living subflows, each with a line of
/// details.
fn table(reports: &[Value], names: &BTreeMap<u64, String>) -> String {
    /// A row, or details of the row above.
    enum Line {
        Row([String; 7]),
        Details(String),
    }
    let mut lines = vec![Line::Row(HEAD.map(str::to_owned))];
    for report in reports {
        let netns = report["netns"].as_u64();
        let netns = netns.map_or_else(String::new, |inode| {
            format!(" netns {}", names.get(&inode).cloned().unwrap_or_else(|| inode.to_string()))
        });
        let process = format!("{} {}{netns}", text(&report["command"]), text(&report["pid"]));
        for listener in list(&report["listeners"]) {
            let columns = [
                "listen".into(),
                "-".into(),
                "-".into(),
                text(listener),
                "*".into(),
                "-".into(),
                process.clone(),
            ];
            lines.push(Line::Row(columns));
        }
        for connection in list(&report["connections"]) {
            let living =
                |subflow: &&Value| !matches!(subflow["state"].as_str(), Some("closed" | "time-wait"));
            let subflows = list(&connection["subflows"]);
            let initial = subflows.iter().find(|subflow| subflow["initial"] == true).or(subflows.first());
            let end = |name| initial.map_or_else(|| "-".into(), |subflow| text(&subflow[name]));
            lines.push(Line::Row([
                text(&connection["state"]),
                text(&connection["receive_queue"]),
                text(&connection["send_queue"]),
                end("local"),
                end("remote"),
                protocol(connection),
                process.clone(),
            ]));
            lines.push(Line::Details(format!("     {}", connection_details(connection))));
            for subflow in subflows.iter().filter(living) {
                lines.push(Line::Row([
                    format!("  {}", text(&subflow["state"])),
                    String::new(),
                    text(&subflow["in_flight"]),
                    text(&subflow["local"]),
                    text(&subflow["remote"]),
                    flags(subflow),
                    String::new(),
                ]));
                lines.push(Line::Details(format!("       {}", subflow_details(subflow))));
            }
        }
        for blackhole in list(&report["blackholes"]) {
            let left = blackhole["left"]["secs"].as_u64().unwrap_or_default();
            lines.push(Line::Details(format!(
                "regular TCP with {} for {left} s more: Multipath TCP failed {} time(s) (process {})",
                text(&blackhole["destination"]),
                text(&blackhole["failures"]),
                text(&report["pid"]),
            )));
        }
    }
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            let cells = lines
                .iter()
                .map(|line| if let Line::Row(row) = line { row[column].chars().count() } else { 0 });
            cells.max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for line in lines {
        match line {
            Line::Details(details) => out.push_str(&details),
            Line::Row(row) => {
                let mut line = String::new();
                for (cell, &width) in row.iter().zip(&widths) {
                    let _ = write!(line, "{cell:<width$}  ");
                }
                out.push_str(line.trim_end());
            }
        }
        out.push('\n');
    }
    out
}

fn protocol(connection: &Value) -> String {
    match (connection["version"].as_u64(), connection["fallback"].as_str()) {
        (Some(version), _) => format!("mptcp v{version}"),
        (None, Some("not-requested") | None) => "tcp".into(),
        (None, Some(reason)) => format!("tcp ({reason})"),
    }
}

fn flags(subflow: &Value) -> String {
    let flag = |name: &'static str| (subflow[name] == true).then_some(name);
    ["initial", "backup", "stale"].into_iter().filter_map(flag).collect::<Vec<_>>().join(",")
}

fn connection_details(connection: &Value) -> String {
    let mut words = Vec::new();
    if let (Some(local), Some(remote)) =
        (connection["local_token"].as_u64(), connection["remote_token"].as_u64())
    {
        words.push(format!("tokens:{local:08x}/{remote:08x}"));
    }
    for name in ["scheduler", "congestion", "path_manager"] {
        words.push(format!("{name}:{}", text(&connection[name])));
    }
    if connection["checksum"] == true {
        words.push("checksum".into());
    }
    for name in
        ["bytes_sent", "bytes_acked", "bytes_received", "bytes_reinjected", "send_window", "receive_window"]
    {
        words.push(format!("{name}:{}", text(&connection[name])));
    }
    let waits = &connection["head_of_line"];
    if waits["octets"].as_u64().is_some_and(|octets| octets > 0) {
        words.push(format!("bytes_waited:{}", text(&waits["octets"])));
        for (name, shown) in [("mean", "wait"), ("longest", "maxwait")] {
            words.extend(millis(&waits[name]).map(|time| format!("{shown}:{time}")));
        }
    }
    words.join(" ")
}

/// A duration as serde writes it, in milliseconds.
fn millis(value: &Value) -> Option<String> {
    let time = value["secs"].as_f64()? * 1e3 + value["nanos"].as_f64()? / 1e6;
    Some(format!("{time:.3}ms"))
}

fn subflow_details(subflow: &Value) -> String {
    let mut words = Vec::new();
    for (name, shown) in [("srtt", "rtt"), ("min_rtt", "minrtt"), ("rto", "rto")] {
        words.extend(millis(&subflow[name]).map(|time| format!("{shown}:{time}")));
    }
    for name in [
        "mss",
        "cwnd",
        "ssthresh",
        "bytes_sent",
        "bytes_acked",
        "bytes_received",
        "bytes_retransmitted",
        "segments_sent",
        "segments_received",
        "timeouts",
        "fast_recoveries",
    ] {
        if !subflow[name].is_null() {
            words.push(format!("{name}:{}", text(&subflow[name])));
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reports() -> Vec<Value> {
        let time = |nanos: u64| json!({ "secs": 0, "nanos": nanos });
        let subflow = |local: &str, remote: &str, state: &str, initial: bool| {
            json!({
                "local": local, "remote": remote, "state": state, "initial": initial, "backup": !initial,
                "stale": false, "in_flight": 10, "srtt": time(1_500_000), "rto": time(200_000_000), "cwnd": 14_600,
            })
        };
        vec![json!({
            "pid": 7, "command": "mptcp", "netns": 4_026_531_840u64,
            "listeners": ["[::]:5000"],
            "blackholes": [{ "destination": "192.0.2.9:80", "failures": 2, "left": { "secs": 7200, "nanos": 0 } }],
            "connections": [{
                "state": "established", "version": 1, "fallback": null, "receive_queue": 0, "send_queue": 90_000,
                "local_token": 0xabcd, "remote_token": 1, "scheduler": "lowest-rtt",
                "head_of_line": { "octets": 7000, "mean": time(2_500_000), "longest": time(9_000_000) },
                "subflows": [
                    subflow("10.0.0.1:4000", "10.0.0.2:5000", "established", true),
                    subflow("10.1.0.1:4001", "10.1.0.2:5000", "established", false),
                    subflow("10.2.0.1:4002", "10.2.0.2:5000", "closed", false),
                ],
            }],
        })]
    }

    #[test]
    fn the_table_has_a_row_for_each_connection_and_living_subflow() {
        let names = BTreeMap::from([(4_026_531_840, "home".to_owned())]);
        let text = table(&reports(), &names);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 9, "{text}");
        assert!(lines[1].starts_with("listen") && lines[1].ends_with("mptcp 7 netns home"), "{text}");
        for (line, words) in [
            (2, &["established", "90000", "10.0.0.1:4000", "10.0.0.2:5000", "mptcp v1"][..]),
            (
                3,
                &[
                    "tokens:0000abcd/00000001",
                    "scheduler:lowest-rtt",
                    "bytes_waited:7000 wait:2.500ms maxwait:9.000ms",
                ],
            ),
            (4, &["10.0.0.1:4000", "initial"]),
            (5, &["rtt:1.500ms", "rto:200.000ms", "cwnd:14600"]),
            (6, &["10.1.0.1:4001", "backup"]),
            (8, &["192.0.2.9:80", "7200 s"]),
        ] {
            assert!(
                words.iter().all(|word| lines[line].contains(word)),
                "{words:?} not in line {line} of\n{text}"
            );
        }
        assert!(!text.contains("10.2.0.1"));
    }

    #[test]
    fn a_port_chooses_connections_by_either_end_of_any_subflow() {
        for (port, kept) in [(5000, 1), (4001, 1), (4002, 1), (9, 0)] {
            let mut reports = reports();
            keep_port(&mut reports, port);
            assert_eq!(list(&reports[0]["connections"]).len(), kept, "{port}");
            assert_eq!(list(&reports[0]["listeners"]).len(), usize::from(port == 5000));
        }
    }
}
