//! The output of `load`: a table that is drawn anew on a terminal, blocks elsewhere, or JSON lines.

use crate::program::{CounterSnapshot, Plan};
use mptcp_common::counter::{Counter, Verdict};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Log lines per second that a terminal gets. Over SSH by an interface that has the program, each line makes
/// a packet, and each packet a line.
const LINES_PER_SECOND: u64 = 100;

/// The counts up to a moment.
pub(crate) struct Report<'a> {
    /// Since the program was attached.
    pub(crate) elapsed: Duration,
    /// Since the last report.
    pub(crate) interval: Duration,
    /// In all.
    pub(crate) total: CounterSnapshot,
    /// Since the last report.
    pub(crate) recent: CounterSnapshot,
    /// The interfaces that have the program.
    pub(crate) interfaces: &'a [Plan],
}

/// Standard output, shared with the thread that reads the log. An error means that nobody reads it any more.
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    /// The table on the terminal, which is to be drawn over.
    table: String,
    second: Instant,
    lines: u64,
    left_out: u64,
}

impl Output {
    /// For people, or as JSON.
    pub(crate) fn new(json: bool) -> Self {
        let terminal = !json && io::stdout().is_terminal();
        Self { json, terminal, table: String::new(), second: Instant::now(), lines: 0, left_out: 0 }
    }

    /// Says where the program was attached. JSON has that in every line.
    pub(crate) fn begin(&mut self, interfaces: &[Plan]) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut text = String::new();
        for plan in interfaces {
            let _ = writeln!(text, "{}: {} mode: {}", plan.name, plan.mode(), plan.reason);
        }
        put(&text)
    }

    /// Prints the counts.
    pub(crate) fn report(&mut self, report: &Report<'_>) -> io::Result<()> {
        if self.json {
            return put(&format!("{}\n", json_of(report)));
        }
        let mut table = table_of(report);
        if self.left_out > 0 {
            let _ = writeln!(
                table,
                "{} log lines left out: more than {LINES_PER_SECOND} a second",
                self.left_out
            );
        }
        if !self.terminal {
            return put(&(table + "\n"));
        }
        let over = self.rub_out();
        self.table = table;
        put(&(over + &self.table))
    }

    /// Prints a message of the program.
    pub(crate) fn log(&mut self, level: &str, place: &str, message: &str) -> io::Result<()> {
        let counter = counter_of(message);
        if self.json {
            let line = json!({
                "kind": "log",
                "level": level.to_ascii_lowercase(),
                "place": place,
                "message": message,
                "counter": counter.map(Counter::name),
            });
            return put(&format!("{line}\n"));
        }
        let mut line = format!("{level:<5} {place}: {message}");
        if let Some(counter) = counter {
            let _ = write!(line, " ({}, {})", counter.name(), counter.verdict().as_str());
        }
        line.push('\n');
        if !self.terminal {
            return put(&line);
        }
        if self.second.elapsed() > Duration::from_secs(1) {
            (self.second, self.lines) = (Instant::now(), 0);
        }
        self.lines += 1;
        if self.lines > LINES_PER_SECOND {
            self.left_out += 1;
            return Ok(());
        }
        let over = self.rub_out();
        put(&(over + &line + &self.table))
    }

    /// The codes that take the table off the terminal: up to its first line, and clear from there on.
    fn rub_out(&self) -> String {
        match self.table.lines().count() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }
}

/// At once, so that lines of two threads don't mix and a pipe gets each when it is written.
fn put(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The program logs the number of a counter, since names would make it larger.
fn counter_of(message: &str) -> Option<Counter> {
    let number: usize = message.rsplit_once("counter ")?.1.parse().ok()?;
    Counter::ALL.get(number).copied()
}

/// Each packet has one verdict, so this is how many the program saw.
fn packets(counters: &CounterSnapshot) -> u64 {
    let counted = counters.iter().filter(|(counter, _)| counter.verdict() != Verdict::Besides);
    counted.map(|(_, count)| count).sum()
}

fn per_second(count: u64, interval: Duration) -> f64 {
    (count as f64 / interval.as_secs_f64().max(1e-3) * 10.0).round() / 10.0
}

fn table_of(report: &Report<'_>) -> String {
    let mut text = format!("{:<9} {:<20} {:>12} {:>14}\n", "verdict", "counter", "per second", "total");
    let mut row = |verdict: &str, name: &str, recent: u64, total: u64| {
        let rate = per_second(recent, report.interval);
        let _ = writeln!(text, "{verdict:<9} {name:<20} {rate:>12.1} {total:>14}");
    };
    for (counter, total) in report.total.iter().filter(|(_, total)| *total > 0) {
        row(counter.verdict().as_str(), counter.name(), report.recent.get(counter), total);
    }
    row("", "all packets", packets(&report.recent), packets(&report.total));
    let names: Vec<&str> = report.interfaces.iter().map(|plan| plan.name.as_str()).collect();
    let _ = writeln!(text, "{:.1} s on {}", report.elapsed.as_secs_f64(), names.join(", "));
    text
}

fn json_of(report: &Report<'_>) -> Value {
    let counted = |recent: u64, total: u64| json!({ "total": total, "per_second": per_second(recent, report.interval) });
    let counters = report.total.iter().map(|(counter, total)| {
        let mut value = counted(report.recent.get(counter), total);
        value["verdict"] = counter.verdict().as_str().into();
        (counter.name().to_owned(), value)
    });
    let interfaces = report.interfaces.iter().map(|plan| json!({ "name": plan.name, "mode": plan.mode() }));
    json!({
        "kind": "counters",
        "seconds": report.elapsed.as_secs_f64(),
        "interval": report.interval.as_secs_f64(),
        "interfaces": interfaces.collect::<Vec<_>>(),
        "packets": counted(packets(&report.recent), packets(&report.total)),
        "counters": counters.collect::<Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_a_message_gets_its_name() {
        let number = Counter::NotTcp as u32;
        assert_eq!(counter_of(&format!("not for user space: counter {number}")), Some(Counter::NotTcp));
        assert_eq!(counter_of("counter 4000"), None);
        assert_eq!(counter_of("nothing of the kind"), None);
    }
}
