//! The results of the comparisons through the emulator, for people: `docs/tcp-beside-the-kernel.md`.

use anyhow::{Context, Result, bail};
use mptcp_tests::bench::Row;
use mptcp_tests::beside::{Comparison, Role};
use mptcp_tests::failover;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// All comparisons of one call.
pub(super) struct Report {
    pub(super) goodput: Vec<(Role, Vec<Comparison>)>,
    pub(super) fairness: Vec<Comparison>,
    pub(super) failover: Vec<failover::Comparison>,
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
same congestion control, but for \"bbr\": the kernel's is version 1, which takes no notice of losses; this stack's follows
the current draft (version 3), which gives way to them and to others. The contenders take turns, each pair of turns with the same seed, so that the emulator loses the
same packets of both, counted from the first. Goodput is what the receiving application got from the handshake on, slow
start included. IPv4, MTU 1500, offloads on; large limits on the kernel's buffers. A turn in which the emulator's packets
left more than half a millisecond late on average, because the machine was busy, does not count and is repeated.
";

const FAILOVER_HEAD: &str = "\
# When a path dies

Written by `cargo xtask bench --scenario failover --jobs 4 --failover-report docs/failover.md`; the text too.

Two paths through `mptcp lab` between two namespaces: Wi-Fi (20 Mb/s, 25 ms one way) and a cellular link (10 Mb/s and 25 ms,
or 2 Mb/s and 75 ms), each with a queue of one bandwidth-delay product. One side sends as fast as it can. After two seconds
Wi-Fi dies, each time in a connection of its own: silently (everything is dropped from then on, what is under way included;
the interfaces stay up) or by the sender's interface going down. What is measured is the time for which the receiving
application gets nothing, in milliseconds: median, and the longest of all runs in brackets. Full mode has data on both
paths before, backup mode (MP_PRIO's B flag) on Wi-Fi only, single-path mode has no second subflow at all. This stack at
both ends beside the kernel's at both ends, with its defaults; the kernel has no single-path mode. The goal is a median of
100 ms and 200 ms at most in full and backup mode where both round trips take 50 ms. `mptcp-user/sim/tests/failover.rs` holds
this stack to it in simulated time.

A path is suspected dead when an acknowledgment is overdue by four mean deviations, at least 40 ms. A silence that ended by
itself is not suspected again for a minute: until then a quarter more than it lasted is waited for, up to 100 ms. Where the
other path is idle, the peer is asked over it for its Data ACK 15 ms after the acknowledgment was due: the octets whose
acknowledgments were lost with the path need not be sent again then. The lone segment of a flight is given 100 ms, because
receivers delay its acknowledgment, and so is a path that another one would have to be opened for.

The longest time without data may be that of an ordinary loss within a second of the death. On a path of 50 ms whose queue
is full a retransmission takes 104 ms.
";

/// The price of suspicion where no path is dead, now and while it came later.
const TWICE: &str = include_str!("../../../../mptcp-user/sim/tests/suspicion.txt");
const TWICE_BEFORE: &str = include_str!("../../../../mptcp-user/sim/tests/suspicion-100ms.txt");
const TWICE_HEAD: &str = "
## The price

Octets that went over the other path, too, although no path was dead: per cent of the octets delivered, in simulated time
(`mptcp-user/sim/tests/suspicion.rs`), beside what it was when a path was suspected after 100 ms. The same two paths, 30 seconds
of bulk data, mean of 4 runs. Jitter: milliseconds by which the delay of each packet deviates, up or down, on both paths.
Loss: both paths, both ways. Stall: milliseconds for which Wi-Fi delivers nothing, once in a second.

| mode | jitter | loss | stall | Mb/s | sent twice | after 100 ms |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
";

impl Report {
    pub(super) fn begin() -> Self {
        Self { goodput: Vec::new(), fairness: Vec::new(), failover: Vec::new(), load_before: load() }
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
        let failover = self.failover.iter().flat_map(failover::Comparison::rows);
        goodput.chain(fairness).chain(failover).collect()
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

    /// How, where and when it was measured.
    fn circumstances(&self, text: &mut String) -> Result<()> {
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
        Ok(())
    }

    /// `docs/failover.md`.
    pub(super) fn failover_markdown(&self) -> Result<String> {
        let mut text = FAILOVER_HEAD.to_owned();
        self.circumstances(&mut text)?;
        writeln!(text, "\n| mode | how it dies | cellular | this stack | kernel |")?;
        writeln!(text, "| --- | --- | --- | ---: | ---: |")?;
        for comparison in &self.failover {
            let name = comparison.condition.to_string();
            let columns = name.replace(", cellular ", " | ").replace(", ", " | ");
            let figure = |values: &Vec<f64>| {
                if values.is_empty() {
                    return "–".to_owned();
                }
                let row = Row::new("", "", "", "", values.clone());
                format!("{:.0} ({:.0})", row.median, row.max)
            };
            writeln!(text, "| {columns} | {} | {} |", figure(&comparison.ours), figure(&comparison.kernel))?;
        }
        text.push_str(TWICE_HEAD);
        let rows = |table: &'static str| table.lines().filter(|line| !line.starts_with('#')).skip(1);
        for (now, before) in rows(TWICE).zip(rows(TWICE_BEFORE)) {
            let cells: Vec<_> = now.split_whitespace().collect();
            let [mode, jitter, loss, stall, rate, twice] = cells[..] else { bail!("suspicion.txt: {now}") };
            let mode = mode.trim_end_matches("-mesh");
            let before = before.split_whitespace().last().unwrap_or_default();
            writeln!(text, "| {mode} | {jitter} | {loss}% | {stall} | {rate} | {twice}% | {before}% |")?;
        }
        Ok(text)
    }

    pub(super) fn markdown(&self) -> Result<String> {
        let mut text = HEAD.to_owned();
        self.circumstances(&mut text)?;
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
