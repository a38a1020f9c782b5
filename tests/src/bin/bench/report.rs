//! What the comparisons through the emulator found, for people: `docs/tcp-beside-the-kernel.md`.

use anyhow::{Context, Result};
use mptcp_tests::bench::Row;
use mptcp_tests::beside::{Comparison, Role};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// All comparisons of one call.
pub(super) struct Report {
    pub(super) goodput: Vec<(Role, Vec<Comparison>)>,
    pub(super) fairness: Vec<Comparison>,
    load_before: String,
}

/// Load averages of the last 1, 5 and 15 minutes.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// First line of what a program says.
fn said(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .with_context(|| format!("can't run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

const HEAD: &str = "\
# Regular TCP beside the kernel's

Written by `cargo xtask bench`; the text too.

One path through `mptcp lab` between two namespaces: a bottleneck of the given rate in both directions, with a queue of one
bandwidth-delay product (at least ten frames), the given delay one way, and random loss of data packets. Both stacks use the
same congestion control. The contenders take turns, each pair of turns with the same seed, so that the emulator loses the
same packets of both, counted from the first. Goodput is what the receiving application got from the handshake on, slow
start included. IPv4, MTU 1500, offloads on; large limits on the kernel's buffers. A turn in which the emulator's packets
left more than half a millisecond late on average, because the machine was busy, does not count and is repeated.
";

impl Report {
    pub(super) fn begin() -> Self {
        Self { goodput: Vec::new(), fairness: Vec::new(), load_before: load() }
    }

    /// For the common table and JSON.
    pub(super) fn rows(&self) -> Vec<Row> {
        let goodput = self.goodput.iter().flat_map(|(role, all)| {
            let scenario = match role {
                Role::Sender => "tcp-send",
                Role::Receiver => "tcp-receive",
            };
            all.iter().flat_map(move |comparison| comparison.rows(scenario))
        });
        let fairness = self.fairness.iter().flat_map(|comparison| comparison.rows("fairness"));
        goodput.chain(fairness).collect()
    }

    pub(super) fn print(&self) {
        for (role, all) in &self.goodput {
            for comparison in all {
                println!("{role:?} {}: {:.2} of kernel-tcp", comparison.condition, comparison.ratio());
            }
        }
        for comparison in &self.fairness {
            println!("fairness {}: a share of {:.2}", comparison.condition, comparison.shares().median);
        }
    }

    pub(super) fn markdown(&self) -> Result<String> {
        let mut text = HEAD.to_owned();
        let words: Vec<_> = std::env::args().skip(1).collect();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let commit = said("git", &["describe", "--always", "--dirty", "--exclude=*"])?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let words = words.join(" ").replace(&format!("{}/", root.display()), "");
        writeln!(
            text,
            "\n`cargo xtask bench {words}` at {commit}, Linux {}, {cores} cores; load",
            release.trim()
        )?;
        writeln!(text, "averages {} before and {} after.", self.load_before, load())?;
        for (role, all) in &self.goodput {
            let title = match role {
                Role::Sender => "Goodput, the kernel's regular TCP receives",
                Role::Receiver => "Goodput, the kernel's regular TCP sends",
            };
            writeln!(text, "\n## {title}\n")?;
            writeln!(text, "Mb/s: median (smallest–largest). The last column is median over median.\n")?;
            writeln!(text, "| congestion control | Mb/s | ms | loss | this stack | kernel | ratio |")?;
            writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
            for comparison in all {
                let path = comparison.condition;
                let [ours, kernel] = comparison.rows("").map(|row| spread(&row));
                writeln!(
                    text,
                    "| {} | {} | {} | {}% | {ours} | {kernel} | {:.2} |",
                    path.algorithm,
                    path.rate,
                    path.delay,
                    path.loss,
                    comparison.ratio()
                )?;
            }
        }
        if !self.fairness.is_empty() {
            writeln!(text, "\n## One bottleneck for both\n")?;
            writeln!(
                text,
                "One flow of each, both to the kernel; in every other turn this stack's begins, a second earlier. Mb/s from\n\
                 20 to 80 seconds after the beginning.\n"
            )?;
            writeln!(text, "| congestion control | Mb/s | ms | this stack | kernel | this stack's share |")?;
            writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
            for comparison in &self.fairness {
                let path = comparison.condition;
                let [ours, kernel] = comparison.rows("").map(|row| spread(&row));
                let shares = spread(&comparison.shares());
                writeln!(
                    text,
                    "| {} | {} | {} | {ours} | {kernel} | {shares} |",
                    path.algorithm, path.rate, path.delay
                )?;
            }
        }
        Ok(text)
    }
}

fn spread(row: &Row) -> String {
    format!("{:.2} ({:.2}–{:.2})", row.median, row.min, row.max)
}
