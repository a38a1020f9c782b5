//! `cargo xtask bench`: the scenarios of [`mptcp_tests::bench`], as a table and as JSON.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mptcp_tests::bench::{Contender, Effort, Row, SCENARIOS, sibling};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Measure this stack and the kernel's side by side, in turns, on the same links.
#[derive(Debug, Parser)]
struct Args {
    /// Run this scenario (repeatable; default: all): xdp, bulk, bulk-nooffload, bulk-9000, rr
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Measure only this contender (repeatable; default: all, in turns)
    #[arg(long = "contender", value_enum)]
    contenders: Vec<Contender>,
    /// Fewer and shorter runs
    #[arg(long)]
    quick: bool,
    /// Write the rows as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(
        mptcp_tests::is_root(),
        "the benchmarks make network namespaces and need root: run them with sudo"
    );
    for name in &args.scenarios {
        ensure!(
            name == "xdp" || SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name}; --help lists them"
        );
    }
    let wanted = |name: &str| args.scenarios.is_empty() || args.scenarios.iter().any(|wanted| wanted == name);
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let mut rows: Vec<Row> = Vec::new();
    if wanted("xdp") {
        rows.extend(xdp(args.quick)?);
    }
    let contenders = if args.contenders.is_empty() { &Contender::ALL[..] } else { &args.contenders };
    let peer = sibling("bench_peer")?;
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        eprintln!("{}: {}", scenario.name, scenario.about);
        rows.extend(scenario.run(&peer, contenders, effort, &|text| eprintln!("  {text}"))?);
    }
    print(&rows);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

/// Cost per packet of the XDP program, measured by the kernel; a program of its own knows how.
fn xdp(quick: bool) -> Result<Vec<Row>> {
    let mut command = Command::new(sibling("bench_xdp")?);
    command.arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit());
    if quick {
        command.arg("--quick");
    }
    let output = command.output().context("can't run bench_xdp")?;
    ensure!(output.status.success(), "bench_xdp ended with {}", output.status);
    let all: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("bench_xdp's output is not JSON")?;
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let number = |row: &serde_json::Value, field: &str| row[field].as_f64().unwrap_or_default();
    let rows = all.as_array().context("bench_xdp's output is not an array")?;
    Ok(rows
        .iter()
        .map(|row| Row {
            scenario: text(row, "scenario"),
            contender: text(row, "contender"),
            metric: text(row, "metric"),
            unit: text(row, "unit"),
            median: number(row, "median"),
            min: number(row, "min"),
            max: number(row, "max"),
            runs: number(row, "runs") as usize,
        })
        .collect())
}

fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.metric.chars().count()).max().unwrap_or(0).max(6);
    println!(
        "{:<15} {:<13} {:<width$} {:>11} {:>11} {:>11} {:<5} runs",
        "scenario", "contender", "metric", "median", "min", "max", "unit"
    );
    for row in rows {
        println!(
            "{:<15} {:<13} {:<width$} {:>11.2} {:>11.2} {:>11.2} {:<5} {}",
            row.scenario, row.contender, row.metric, row.median, row.min, row.max, row.unit, row.runs
        );
    }
    for row in rows.iter().filter(|row| row.contender == "ours") {
        let same = |other: &&Row| {
            (other.scenario.as_str(), other.metric.as_str(), other.contender.as_str())
                == (row.scenario.as_str(), row.metric.as_str(), "kernel-mptcp")
        };
        if let Some(kernel) = rows.iter().find(same) {
            println!("{} {}: {:.2} of kernel-mptcp", row.scenario, row.metric, row.median / kernel.median);
        }
    }
}
