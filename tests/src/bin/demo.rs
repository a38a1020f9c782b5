//! `cargo xtask demo`: the transfers of [`mptcp_tests::demo`], with progress, a table, and a verdict.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use mptcp_tests::capture;
use mptcp_tests::demo::{self, Case, Row, Source, Stack, Watch};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Send files over one Multipath TCP connection and two links, to and from the kernel's own Multipath TCP.
///
/// Makes two network namespaces with two links between them (MTU 1500, offloads on), and sends a file of
/// seeded octets, held in memory, in each combination. Fails unless every file arrives whole over both links.
#[derive(Debug, Parser)]
struct Args {
    /// Octets of the file (suffixes K, M, G)
    #[arg(long, default_value = "1G", value_parser = size)]
    size: u64,
    /// Write the results as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run only the cases whose names contain this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Keep the first of the captures that tshark examines
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Leave out the captures, where there is no tshark to examine them
    #[arg(long, conflicts_with = "capture")]
    no_captures: bool,
    /// The `mptcp` command to demonstrate
    #[arg(long, env = "MPTCP_BIN", value_name = "FILE")]
    binary: PathBuf,
}

/// Octets of the transfer that is captured: enough for every kind of segment, little enough for tshark.
const CAPTURED: u64 = 128 << 20;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(mptcp_tests::is_root(), "the demo makes network namespaces and needs root: run it with sudo");
    let cases: Vec<Case> = demo::cases()
        .into_iter()
        .filter(|case| args.case.as_ref().is_none_or(|text| case.name().contains(text.as_str())))
        .collect();
    ensure!(!cases.is_empty(), "no case has such a name");
    println!(
        "One connection, two links (veth, MTU 1500, offloads on) between two namespaces.\n\
         The file: {} seeded octets, written to memory once, read from there by each sender; the receiver writes a \
         file too.\n",
        args.size
    );
    let source = Source::new(0x4d50_5443_5020_6f6b, args.size)?;
    let mut rows = Vec::new();
    print_head();
    for case in &cases {
        let row = show(case, &source, &args.binary)?;
        print_row(&row);
        rows.push(row);
    }
    let failed = rows.iter().filter(|row| !row.passed()).count();
    // The captures of our interfaces are enough for both directions of an exchange with the kernel: its
    // packets are in there too.
    let examined =
        if args.no_captures { Ok("no captures were taken".to_owned()) } else { examine(args, &cases) };
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))?;
    }
    let examined = match examined {
        Ok(text) => {
            println!("\n{text}");
            true
        }
        Err(error) => {
            println!("\ncapture: {error:#}");
            false
        }
    };
    if failed > 0 {
        bail!("{failed} of {} transfers were not as they should be", rows.len());
    }
    ensure!(examined, "the capture was not as it should be");
    println!("all {} transfers were exact, over both links, without fallback", rows.len());
    Ok(())
}

fn show(case: &Case, source: &Source, binary: &Path) -> Result<Row> {
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new(source.size()) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{msg:42} {bar:30} {binary_bytes} {binary_bytes_per_sec}")?;
    bar.set_style(style);
    bar.set_message(case.name());
    let progress = |octets| bar.set_position(octets);
    let watch = Watch { progress: Some(&progress), ..Watch::default() };
    let row = demo::run(case, source, binary, &watch).with_context(|| format!("can't run {}", case.name()));
    bar.finish_and_clear();
    row
}

fn print_head() {
    println!(
        "{:<42} {:>9} {:>8}  {:<7} {:<8} subflows (octets)",
        "transfer", "seconds", "Gb/s", "sha256", "fallback"
    );
}

fn print_row(row: &Row) {
    let subflows: Vec<String> = row
        .subflows
        .iter()
        .map(|subflow| format!("{}→{} {}", subflow.local, subflow.remote, subflow.bytes))
        .collect();
    println!(
        "{:<42} {:>9.3} {:>8.2}  {:<7} {:<8} {}",
        row.name,
        row.seconds,
        row.gbps,
        if row.sha256_ok { "ok" } else { "WRONG" },
        if row.fallback { "YES" } else { "no" },
        subflows.join(", ")
    );
    for problem in &row.problems {
        println!("    {problem}");
    }
}

/// One more transfer in each role and family with the kernel, small, captured, and read by tshark.
fn examine(args: &Args, cases: &[Case]) -> Result<String> {
    ensure!(
        capture::has_tshark(),
        "tshark is not installed (Debian package tshark): the capture can't be examined"
    );
    let source = Source::new(7, CAPTURED.min(args.size))?;
    let mut segments = 0;
    let mut runs = 0;
    let with_kernel = |case: &&Case| {
        case.cut.is_none() && (case.sender == Stack::Kernel) != (case.receiver == Stack::Kernel)
    };
    for case in cases.iter().filter(with_kernel) {
        let keep = args.capture.as_deref().filter(|_| runs == 0);
        let file = mptcp_tests::data::memory_file("capture")?;
        let path = keep.map_or_else(|| mptcp_tests::data::path_of(&file), Path::to_path_buf);
        let watch = Watch { capture: Some(&path), ..Watch::default() };
        let row = demo::run(case, &source, &args.binary, &watch)?;
        ensure!(row.passed(), "{}, captured: {}", row.name, row.problems.join("; "));
        // A moment for the last segments of the connection's end, which come after the process has said its
        // all.
        std::thread::sleep(Duration::from_millis(10));
        let analysis = capture::analyse(&path).with_context(|| row.name.clone())?;
        ensure!(
            analysis.complaints.is_empty(),
            "{}: tshark says: {}",
            row.name,
            analysis.complaints.join("; ")
        );
        ensure!(
            analysis.connections == 1 && analysis.subflows == 2,
            "{}: tshark finds {} connections with {} subflows in all instead of 1 with 2",
            row.name,
            analysis.connections,
            analysis.subflows
        );
        segments += analysis.segments;
        runs += 1;
    }
    Ok(format!(
        "captures of {runs} further transfers: {segments} Multipath TCP segments, tshark's analysis has no complaint"
    ))
}

/// A number of octets with an optional binary suffix.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "not a size such as 1G, 256M or 100000".to_owned())?;
    number.checked_mul(1 << shift).filter(|&size| size > 0).ok_or_else(|| "too large, or nothing".to_owned())
}
