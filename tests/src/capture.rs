//! The judgment of Wireshark's dissector on a capture.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

/// The findings of `tshark` in a capture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Analysis {
    /// Number of Multipath TCP connections.
    pub connections: usize,
    /// TCP streams that belong to a Multipath TCP connection.
    pub subflows: usize,
    /// Segments with a Multipath TCP option.
    pub segments: usize,
    /// Expert information of severity "warning" or "error" about Multipath TCP, and errors of the protocols
    /// below it; each as "count protocol summary". (The payload is seeded bytes, so its dissection means
    /// nothing.)
    pub complaints: Vec<String>,
}

/// Whether `tshark` can be run.
pub fn has_tshark() -> bool {
    let mut command = Command::new("tshark");
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Reads a capture with `tshark`, its Multipath TCP analysis switched on.
pub fn analyse(capture: &Path) -> Result<Analysis> {
    let fields = ["mptcp.stream", "tcp.stream"];
    let text = tshark(
        capture,
        &["-Y", "mptcp.stream", "-T", "fields", "-E", "separator=;", "-e", fields[0], "-e", fields[1]],
    )?;
    let mut connections = BTreeSet::new();
    let mut subflows = BTreeSet::new();
    let mut segments = 0;
    for line in text.lines() {
        segments += 1;
        if let Some((connection, subflow)) = line.split_once(';') {
            connections.insert(connection);
            subflows.insert(subflow);
        }
    }
    let complaints = complaints(&tshark(capture, &["-q", "-z", "expert,warn"])?);
    Ok(Analysis { connections: connections.len(), subflows: subflows.len(), segments, complaints })
}

fn tshark(capture: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new("tshark")
        .args(["-n", "-o", "mptcp.analyze_mptcp:TRUE", "-o", "mptcp.analyze_mappings:TRUE"])
        .args(["-o", "mptcp.relative_sequence_numbers:TRUE", "-r"])
        .arg(capture)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context("can't run tshark (Debian package tshark)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tshark can't read {}: {}", capture.display(), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Picks the lines that matter from the report of `-z expert`: sections "Errors (n)" and "Warns (n)", in each
/// one line per kind with count, group, protocol and summary.
fn complaints(report: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut errors = false;
    for line in report.lines() {
        if line.starts_with("Errors (") || line.starts_with("Warns (") {
            errors = line.starts_with("Errors");
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(Ok(count)), Some(_group), Some(protocol)) =
            (words.next().map(str::parse::<u64>), words.next(), words.next())
        else {
            continue;
        };
        let headers = ["Ethernet", "IPv4", "IPv6", "TCP"].contains(&protocol);
        if protocol.eq_ignore_ascii_case("MPTCP") || (errors && headers) {
            found.push(format!("{count} {protocol} {}", words.collect::<Vec<_>>().join(" ")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_count_for_all_headers_and_warnings_for_multipath_tcp() {
        let report = "\nErrors (1)\n=============\n   Frequency      Group           Protocol  Summary\n\
                      \x20          1  Malformed               IPv4  Malformed Packet (Exception occurred)\n\
                      \x20          1  Malformed             Thrift  Malformed Packet (Exception occurred)\n\
                      \nWarns (3)\n=============\n   Frequency      Group           Protocol  Summary\n\
                      \x20          2   Sequence                TCP  Previous segment(s) not captured\n\
                      \x20          3   Sequence              MPTCP  No mapping available\n";
        assert_eq!(
            complaints(report),
            ["1 IPv4 Malformed Packet (Exception occurred)", "3 MPTCP No mapping available"]
        );
    }
}
