//! Thousands of random scenarios, every failure a seed to replay:
//!
//! ```text
//! MPTCP_SIM_KIND=lossy MPTCP_SIM_SEED=17 cargo test -p mptcp-sim --test sim one_seed -- --nocapture
//! ```
//!
//! prints all that happens. `MPTCP_SIM_SEEDS=100000` runs that many seeds of each kind instead of the usual
//! number, `MPTCP_SIM_FIRST=…` begins at another one.

use mptcp_sim::{Kind, Scenario};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Clean => "clean",
        Kind::Lossy => "lossy",
        Kind::Middleboxes => "middleboxes",
        Kind::Dynamic => "dynamic",
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// Runs the seeds of a kind on all processors; panics with the first few that failed.
fn run_all(kind: Kind, usual: u64) {
    let (first, count) = (number("MPTCP_SIM_FIRST").unwrap_or(0), number("MPTCP_SIM_SEEDS").unwrap_or(usual));
    let next = AtomicU64::new(first);
    let failures = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let many = failures
                        .lock()
                        .map_or(true, |failures: std::sync::MutexGuard<'_, Vec<_>>| failures.len() >= 10);
                    if seed >= first + count || many {
                        return;
                    }
                    let run = AssertUnwindSafe(|| Scenario::random(seed, kind).run());
                    if let Err(panic) = catch_unwind(run) {
                        failures.lock().unwrap().push((seed, message(&*panic)));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    if !failures.is_empty() {
        let list: Vec<_> = failures
            .iter()
            .map(|(seed, what)| {
                let kind = name(kind);
                format!(
                    "MPTCP_SIM_KIND={kind} MPTCP_SIM_SEED={seed} cargo test -p mptcp-sim --test sim one_seed -- \
                     --nocapture\n    {what}"
                )
            })
            .collect();
        panic!("{} of {count} seeds failed:\n{}", failures.len(), list.join("\n"));
    }
}

#[test]
fn everything_arrives_over_clean_networks() {
    run_all(Kind::Clean, 500);
}

#[test]
fn everything_arrives_over_lossy_networks() {
    run_all(Kind::Lossy, 700);
}

#[test]
fn middleboxes_never_break_the_byte_stream() {
    run_all(Kind::Middleboxes, 900);
}

#[test]
fn changing_paths_never_break_the_byte_stream() {
    run_all(Kind::Dynamic, 900);
}

/// Replays one seed and prints what happens; does nothing without `MPTCP_SIM_SEED`.
#[test]
fn one_seed() {
    let Some(seed) = number("MPTCP_SIM_SEED") else { return };
    let kind = std::env::var("MPTCP_SIM_KIND").unwrap_or_default();
    let kind = Kind::ALL.into_iter().find(|known| name(*known) == kind);
    let kind = kind.expect("MPTCP_SIM_KIND must be clean, lossy, middleboxes or dynamic");
    let mut scenario = Scenario::random(seed, kind);
    scenario.config.log = true;
    eprintln!("{scenario:#?}");
    let outcomes = scenario.run();
    eprintln!("{outcomes:#?}");
}
