//! Progress on a terminal: one bar for the connection, one line for each of its paths.

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use mptcp_proto::{ConnectionInfo, SubflowInfo, SubflowState};
use std::net::SocketAddr;
use std::time::Instant;

/// The lines of one connection. Vanish on drop.
pub(crate) struct Progress {
    lines: MultiProgress,
    whole: ProgressBar,
    paths: Vec<Path>,
    last: Instant,
}

/// One subflow's line.
struct Path {
    local: SocketAddr,
    remote: SocketAddr,
    octets: u64,
    line: ProgressBar,
}

impl Progress {
    /// Draws to standard error. `total` is the number of octets to expect, where it is known.
    pub(crate) fn new(total: Option<u64>) -> Self {
        let lines = MultiProgress::new();
        let (whole, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{bar:40} {binary_bytes} of {binary_total_bytes}  {msg}  {elapsed}, {eta} left",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {binary_bytes}  {msg}  {elapsed}"),
        };
        // A template that is wrong shows the default bar instead; it is not worth an error.
        if let Ok(style) = ProgressStyle::with_template(template) {
            whole.set_style(style);
        }
        let whole = lines.add(whole);
        Self { lines, whole, paths: Vec::new(), last: Instant::now() }
    }

    /// Shows how far it is. `octets` counts both directions.
    pub(crate) fn update(&mut self, octets: u64, info: &ConnectionInfo) {
        let seconds = self.last.elapsed().as_secs_f64().max(1e-3);
        self.last = Instant::now();
        let before = self.whole.position();
        self.whole.set_message(rate(octets.saturating_sub(before), seconds));
        self.whole.set_position(octets);
        for subflow in &info.subflows {
            self.show_path(subflow, seconds);
        }
    }

    fn show_path(&mut self, subflow: &SubflowInfo, seconds: f64) {
        let known =
            self.paths.iter().position(|path| (path.local, path.remote) == (subflow.local, subflow.remote));
        let index = known.unwrap_or_else(|| {
            let line = self.lines.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("  {msg}") {
                line.set_style(style);
            }
            self.paths.push(Path { local: subflow.local, remote: subflow.remote, octets: 0, line });
            self.paths.len() - 1
        });
        let path = &mut self.paths[index];
        let octets = subflow.bytes_acked + subflow.bytes_received;
        let moved = octets.saturating_sub(path.octets);
        path.octets = octets;
        let note = match subflow.state {
            SubflowState::Closed | SubflowState::TimeWait => ", closed",
            _ if subflow.stale => ", silent",
            _ if subflow.backup => ", backup",
            _ => "",
        };
        let rtt =
            subflow.srtt.map_or(String::new(), |rtt| format!("  rtt {:.1} ms", rtt.as_secs_f64() * 1e3));
        path.line.set_message(format!(
            "{} → {}  {}  {}{rtt}{note}",
            subflow.local,
            subflow.remote,
            rate(moved, seconds),
            HumanBytes(octets)
        ));
        path.line.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for path in &self.paths {
            path.line.finish_and_clear();
        }
        self.whole.finish_and_clear();
    }
}

/// A rate in bits per second, for people.
pub(crate) fn rate(octets: u64, seconds: f64) -> String {
    let bits = octets as f64 * 8.0 / seconds.max(1e-9);
    match bits {
        1e9.. => format!("{:.2} Gb/s", bits / 1e9),
        1e6.. => format!("{:.1} Mb/s", bits / 1e6),
        _ => format!("{:.0} kb/s", bits / 1e3),
    }
}
