//! `cargo xtask soak`: the random tests of the engine, with as many seeds as there is time for.
//!
//! The tests themselves are those of every test run; here they are built with optimisation and all checks,
//! and given other seeds, piece by piece. The first piece with a failure ends it, with the command that
//! replays the seed.

use super::run;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Seeds per process: seconds of work, so that the bar moves and a failure is told soon.
const PAIRS_AT_ONCE: u64 = 2_000;
const SCENARIOS_AT_ONCE: u64 = 1_000;
const PAIRS: Test = Test {
    names: &["random_networks_deliver_the_stream_exactly"],
    first: "MPTCP_PAIR_FIRST",
    count: "MPTCP_PAIR_SEEDS",
};
const SCENARIOS: Test = Test {
    names: &["everything_arrives_over", "never_break_the_byte_stream"],
    first: "MPTCP_SIM_FIRST",
    count: "MPTCP_SIM_SEEDS",
};
/// Kinds of scenarios: each seed is run once for each of them.
const KINDS: u64 = 4;

/// Tests, and the variables that give them their first seed and the number of seeds.
struct Test {
    /// Words that are in the names of the tests.
    names: &'static [&'static str],
    first: &'static str,
    count: &'static str,
}

/// Command line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask soak                                      a million pairs, 100,000 scenarios: half an hour
  cargo xtask soak --pairs 20000 --scenarios 4000       minutes
  cargo xtask soak --first 5000000                      other seeds than the last time")]
pub(crate) struct Options {
    /// Random pairs of engines: a network of one to four paths, a transfer in both directions
    #[arg(long, default_value_t = 1_000_000)]
    pairs: u64,
    /// Random scenarios: topologies, traffic, middleboxes, failures
    #[arg(long, default_value_t = 100_000)]
    scenarios: u64,
    /// First seed
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Processes at once (default: one for each processor)
    #[arg(long)]
    jobs: Option<usize>,
    /// Print what was run as one line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (pairs, scenarios) = build()?;
    let jobs =
        options.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let begun = Instant::now();
    let first = options.first;
    pieces(&pairs, &PAIRS, first, options.pairs, PAIRS_AT_ONCE, jobs, "pairs")?;
    let between = begun.elapsed();
    // Scenarios use all processors by themselves.
    let seeds = options.scenarios.div_ceil(KINDS);
    pieces(&scenarios, &SCENARIOS, first, seeds, SCENARIOS_AT_ONCE / KINDS, 1, "seeds of 4 scenarios")?;
    let after = begun.elapsed() - between;
    if options.json {
        println!(
            "{}",
            serde_json::json!({
                "first": first, "pairs": options.pairs, "pairs_seconds": between.as_secs_f64(),
                "scenarios": seeds * KINDS, "scenarios_seconds": after.as_secs_f64(), "failures": 0,
            })
        );
    } else {
        println!(
            "no failure in {} pairs ({:.0} s) and {} scenarios ({:.0} s), seeds from {first} on",
            options.pairs,
            between.as_secs_f64(),
            seeds * KINDS,
            after.as_secs_f64()
        );
    }
    Ok(())
}

/// Builds both test programs; gives their paths: the engine's own tests, and the scenarios.
fn build() -> Result<(PathBuf, PathBuf)> {
    let packages = ["-p", "mptcp-proto", "-p", "mptcp-sim", "--lib", "--test", "sim"];
    let mut command = run::cargo(&["test", "--profile", "soak", "--no-run"]);
    command.args(packages);
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo")?;
    ensure!(output.status.success(), "the tests can't be built");
    let program = |name: &str| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == name)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo built no test program of {name}"))
    };
    Ok((program("mptcp_proto")?, program("sim")?))
}

/// Runs `total` seeds from `first` on, in pieces, `jobs` of them at once.
fn pieces(
    program: &PathBuf,
    test: &Test,
    first: u64,
    total: u64,
    piece: u64,
    jobs: usize,
    what: &'static str,
) -> Result<()> {
    let style = "{elapsed_precise} {bar:40} {human_pos} of {human_len} {msg}, {per_sec}, {eta} left";
    let bar = ProgressBar::new(total).with_style(ProgressStyle::with_template(style)?).with_message(what);
    bar.enable_steady_tick(Duration::from_secs(1));
    let next = Mutex::new(first);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Ok(mut begin) = next.lock() else { return };
                    let (from, count) = (*begin, piece.min(first + total - *begin));
                    *begin += count;
                    drop(begin);
                    let Ok(mut failed) = failure.lock() else { return };
                    if count == 0 || failed.is_some() {
                        return;
                    }
                    drop(failed);
                    let result = one_piece(program, test, from, count);
                    bar.inc(count);
                    if let Err(error) = result {
                        failed = match failure.lock() {
                            Ok(failed) => failed,
                            Err(_) => return,
                        };
                        failed.get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(()),
    }
}

fn one_piece(program: &PathBuf, test: &Test, first: u64, count: u64) -> Result<()> {
    let output = Command::new(program)
        .args(test.names)
        .env(test.first, first.to_string())
        .env(test.count, count.to_string())
        .current_dir(run::root().join("mptcp-user/sim"))
        .output()
        .with_context(|| format!("can't run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        // A test that was renamed must not pass for one that found nothing.
        ensure!(!said.contains("running 0 tests"), "there is no test whose name contains {:?}", test.names);
        return Ok(());
    }
    bail!("seeds {first} to {}:\n{said}{}", first + count - 1, String::from_utf8_lossy(&output.stderr));
}
