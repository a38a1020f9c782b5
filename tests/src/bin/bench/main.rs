//! `cargo xtask bench`: the scenarios of [`mptcp_tests::bench`] and [`mptcp_tests::beside`], as a table, as
//! JSON and as a report.

mod report;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mptcp_tests::bench::{Contender, Effort, Row, SCENARIOS, ceiling, engine, plot, sibling};
use mptcp_tests::beside::{self, Comparison, Condition, Role};
use mptcp_tests::failover;
use report::Report;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Measure this stack and the kernel's side by side, in turns, on the same links.
#[derive(Debug, Parser)]
struct Args {
    /// Run this scenario (repeatable; default: all): xdp, engine, bulk, bulk-nooffload, bulk-9000, bulk-6,
    /// record, lab, lab-nooffload, rr, rr-busy, connect, mesh, idle, cpu, tcp (regular TCP beside the
    /// kernel's through the emulator), fairness (both in one bottleneck), failover (time without data when a
    /// path dies)
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Measure only this contender (repeatable; default: all, in turns)
    #[arg(long = "contender", value_enum)]
    contenders: Vec<Contender>,
    /// Of tcp, fairness and failover only what has this in its name ("cubic 10 Mb/s 20 ms 1%", "backup,
    /// silent")
    #[arg(long, value_name = "TEXT")]
    path: Option<String>,
    /// Of tcp, fairness and failover measure so many paths at the same time. They take little of the
    /// processors; mind that the machine does not become the bottleneck
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Write what tcp and fairness found as Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write what failover found as Markdown
    #[arg(long, value_name = "FILE")]
    failover_report: Option<PathBuf>,
    /// Fewer and shorter runs
    #[arg(long)]
    quick: bool,
    /// Write the rows as a JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the rows: one SVG for each metric, and one with all ratios
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

/// The scenarios that are no [`mptcp_tests::bench::Scenario`].
const OTHERS: [&str; 5] = ["xdp", "engine", "tcp", "fairness", "failover"];

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
            OTHERS.contains(&name.as_str()) || SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name}; --help lists them"
        );
    }
    let wanted = |name: &str| args.scenarios.is_empty() || args.scenarios.iter().any(|wanted| wanted == name);
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let mut rows: Vec<Row> = Vec::new();
    if wanted("xdp") {
        rows.extend(xdp(args.quick)?);
    }
    if wanted("engine") {
        rows.extend(engine(effort, &say));
    }
    let contenders = if args.contenders.is_empty() { &Contender::ALL[..] } else { &args.contenders };
    let peer = sibling("bench_peer")?;
    let mut links = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        eprintln!("{}: {}", scenario.name, scenario.about);
        let concerned: Vec<_> = contenders.iter().copied().filter(|who| scenario.concerns(*who)).collect();
        rows.extend(scenario.run(&peer, &concerned, effort, &say)?);
        let link = (scenario.mtu, scenario.offloads);
        if scenario.name.starts_with("bulk") && !links.contains(&link) {
            links.push(link);
        }
    }
    for (mtu, offloads) in links {
        let rates = (0..effort.runs).map(|_| ceiling(mtu, offloads)).collect::<Result<Vec<_>>>()?;
        let metric = format!("one link, MTU {mtu}{}", if offloads { "" } else { ", no offloads" });
        rows.push(Row::new("ceiling", "no protocol", &metric, "Gb/s", rates));
    }
    let mut report = Report::begin();
    if wanted("tcp") {
        for role in [Role::Sender, Role::Receiver] {
            report.goodput.push((role, goodput(&peer, args, role)?));
        }
    }
    if wanted("fairness") {
        let effort = if args.quick { beside::Effort::QUICK } else { beside::Effort::FULL };
        let paths: Vec<_> = paths(&beside::FAIRNESS, args).collect();
        report.fairness = at_once(&paths, args.jobs, |path| beside::share(&peer, path, effort, &say))?;
    }
    if wanted("failover") {
        let name = args.path.clone().unwrap_or_default();
        let all: Vec<_> =
            failover::conditions().into_iter().filter(|path| path.to_string().contains(&name)).collect();
        let runs = if args.quick { 5 } else { 20 };
        report.failover =
            at_once(&all, args.jobs, |condition| failover::compare(&peer, condition, runs, &say))?;
    }
    rows.extend(report.rows());
    print(&rows);
    report.print();
    if let Some(path) = &args.report {
        std::fs::write(path, report.markdown()?)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &args.failover_report {
        std::fs::write(path, report.failover_markdown()?)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(directory) = &args.plot {
        for name in plot(&rows, directory)? {
            eprintln!("wrote {}", directory.join(name).display());
        }
    }
    Ok(())
}

fn say(text: &str) {
    eprintln!("  {text}");
}

/// The paths that were asked for and whose algorithm both stacks have.
fn paths(all: &'static [Condition], args: &Args) -> impl Iterator<Item = Condition> {
    let wanted = args.path.clone().unwrap_or_default();
    let is_wanted = move |path: &Condition| path.to_string().contains(&wanted);
    all.iter().copied().filter(is_wanted).filter(|path| beside::is_known(path.algorithm))
}

fn goodput(peer: &Path, args: &Args, role: Role) -> Result<Vec<Comparison>> {
    let effort = if args.quick { beside::Effort::QUICK } else { beside::Effort::FULL };
    // The receiver has no congestion control: one algorithm will do.
    let matters = |path: &Condition| role == Role::Sender || path.algorithm == "cubic";
    let paths = paths(&beside::GOODPUT, args).filter(matters);
    at_once(&paths.collect::<Vec<_>>(), args.jobs, |path| beside::compare(peer, path, role, effort, &say))
}

/// Does the work for each path, for some of them at the same time; results in the order of the paths.
fn at_once<P: Copy + Sync, T: Send>(
    paths: &[P],
    jobs: usize,
    work: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let place = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(path) = paths.get(place)
                {
                    let result = work(*path);
                    done.lock().expect("no panic while locked").insert(place, result);
                }
            });
        }
    });
    done.into_inner().expect("no panic while locked").into_values().collect()
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
