//! Benchmarks side by side: contenders take turns (A B A B …) on the same links, in the same minutes.

mod engine;
mod pair;
mod plot;
mod scenario;
mod usage;

pub use engine::engine;
pub use pair::{ceiling, start_peer};
pub use plot::plot;
pub use scenario::{SCENARIOS, Scenario};
pub use usage::{own_processor_seconds, processor_seconds};

use anyhow::{Result, ensure};
use serde::Serialize;
use std::path::PathBuf;

/// The stack that is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the names say it
pub enum Contender {
    Ours,
    KernelMptcp,
    KernelTcp,
}

impl Contender {
    /// All, in the order of their turns.
    pub const ALL: [Contender; 3] = [Self::Ours, Self::KernelMptcp, Self::KernelTcp];

    /// The name in tables and on the command line of `bench_peer`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::KernelMptcp => "kernel-mptcp",
            Self::KernelTcp => "kernel-tcp",
        }
    }
}

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs)] // the names say it
pub struct Row {
    pub scenario: String,
    pub contender: String,
    pub metric: String,
    pub unit: String,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

impl Row {
    /// A row from the values of all runs; there must be one.
    pub fn new(scenario: &str, contender: &str, metric: &str, unit: &str, mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self {
            scenario: scenario.into(),
            contender: contender.into(),
            metric: metric.into(),
            unit: unit.into(),
            median,
            min: values[0],
            max: values[values.len() - 1],
            runs: values.len(),
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Turns of each contender.
    pub runs: usize,
    /// Octets of a bulk transfer.
    pub bulk: u64,
    /// Round trips of one turn.
    pub trips: usize,
    /// Short connections of one turn.
    pub connections: usize,
    /// Connections that are busy at once.
    pub mesh: usize,
    /// Seconds for which they are watched.
    pub span: u64,
    /// Connections that do nothing, of each of these numbers.
    pub idle: &'static [usize],
}

impl Effort {
    /// Enough for a figure that can be quoted.
    pub const FULL: Effort = Effort {
        runs: 5,
        bulk: 4 << 30,
        trips: 20_000,
        connections: 10_000,
        mesh: 1000,
        span: 5,
        idle: &[10_000, 100_000],
    };
    /// Enough to see that it works, and about how well.
    pub const QUICK: Effort = Effort {
        runs: 3,
        bulk: 512 << 20,
        trips: 3_000,
        connections: 1000,
        mesh: 100,
        span: 2,
        idle: &[1000],
    };
}

/// A program that lies beside this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} is missing: run this through `cargo xtask bench`", path.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_median_and_spread() {
        let row = Row::new("s", "c", "m", "u", vec![3.0, 1.0, 2.0]);
        assert_eq!((row.median, row.min, row.max, row.runs), (2.0, 1.0, 3.0, 3));
        assert_eq!(Row::new("s", "c", "m", "u", vec![4.0, 1.0]).median, 2.5);
    }
}
