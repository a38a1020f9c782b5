//! Benchmarks side by side: contenders take turns (A B A B …) on the same links, in the same minutes.

use crate::lab::{Family, Lab, Side};
use crate::process::Process;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Port of the listening end.
const PORT: u16 = 5000;

/// Who is measured.
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

/// Metric, unit, value.
type Values = Vec<(String, &'static str, f64)>;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Turns of each contender.
    pub runs: usize,
    /// Octets of a bulk transfer.
    pub bulk: u64,
    /// Round trips of one turn.
    pub trips: usize,
}

impl Effort {
    /// Enough for a figure that can be quoted.
    pub const FULL: Effort = Effort { runs: 5, bulk: 4 << 30, trips: 20_000 };
    /// Enough to see that it works, and about how well.
    pub const QUICK: Effort = Effort { runs: 3, bulk: 512 << 20, trips: 3_000 };
}

/// A benchmark between two namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// For `--scenario`.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    mtu: u32,
    offloads: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Bulk,
    RequestResponse(&'static [usize]),
}

/// All scenarios between namespaces.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "bulk",
        about: "one connection, two links, MTU 1500, offloads on",
        mtu: 1500,
        offloads: true,
        kind: Kind::Bulk,
    },
    Scenario {
        name: "bulk-nooffload",
        about: "the same, TSO, GSO and GRO off",
        mtu: 1500,
        offloads: false,
        kind: Kind::Bulk,
    },
    Scenario {
        name: "bulk-9000",
        about: "the same, TSO, GSO and GRO off, MTU 9000",
        mtu: 9000,
        offloads: false,
        kind: Kind::Bulk,
    },
    Scenario {
        name: "rr",
        about: "request and response of 64 octets and of 16 KiB",
        mtu: 1500,
        offloads: true,
        kind: Kind::RequestResponse(&[64, 16 << 10]),
    },
];

impl Scenario {
    /// Runs the scenario with the `bench_peer` program at `peer`; `say` is told of each value as it comes.
    pub fn run(
        &self,
        peer: &Path,
        contenders: &[Contender],
        effort: Effort,
        say: &dyn Fn(&str),
    ) -> Result<Vec<Row>> {
        let mut values: Vec<(Contender, String, &'static str, Vec<f64>)> = Vec::new();
        for turn in 1..=effort.runs {
            for &contender in contenders {
                let measured = (0..5)
                    .find_map(|_| self.turn(peer, contender, effort).transpose())
                    .unwrap_or_else(|| bail!("no connection had a subflow on each link"))
                    .with_context(|| format!("{}, {}", self.name, contender.name()))?;
                for (metric, unit, value) in measured {
                    say(&format!(
                        "{} {turn}/{}: {} {metric} {value:.2} {unit}",
                        self.name,
                        effort.runs,
                        contender.name()
                    ));
                    match values.iter_mut().find(|(who, what, ..)| (*who, what) == (contender, &metric)) {
                        Some((.., all)) => all.push(value),
                        None => values.push((contender, metric, unit, vec![value])),
                    }
                }
            }
        }
        values.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
        Ok(values
            .into_iter()
            .map(|(contender, metric, unit, all)| Row::new(self.name, contender.name(), &metric, unit, all))
            .collect())
    }

    /// One measurement; none if the connection did not have the subflows that it should.
    fn turn(&self, peer: &Path, contender: Contender, effort: Effort) -> Result<Option<Values>> {
        // One family: our stack would open a subflow in each of two.
        let lab = Lab::of_family(Family::Ipv4)?;
        lab.set_mtu(self.mtu)?;
        if !self.offloads {
            lab.without_offloads()?;
        }
        for side in [Side::Left, Side::Right] {
            lab.prepare_kernel(side, Family::Ipv4)?;
            // The kernel's limit would otherwise be what is measured.
            lab.namespace(side).sysctl("net.ipv4.tcp_rmem", "4096 1048576 67108864")?;
            lab.namespace(side).sysctl("net.ipv4.tcp_wmem", "4096 1048576 67108864")?;
        }
        match self.kind {
            Kind::Bulk => {
                let words = [effort.bulk.to_string()];
                let (sink, source) = pair(&lab, peer, contender, "sink", "source", &[&words[0]])?;
                ensure!(sink["bytes"] == effort.bulk, "{} of {} octets arrived", sink["bytes"], effort.bulk);
                let expected = if contender == Contender::KernelTcp { 1 } else { 2 };
                if source["subflows"] != expected {
                    // Not the connection that was to be measured. The kernel now and then makes none after ADD_ADDR.
                    return Ok(None);
                }
                let rate = sink["gbps"].as_f64().context("no rate")?;
                Ok(Some(vec![("goodput".into(), "Gb/s", rate)]))
            }
            Kind::RequestResponse(sizes) => {
                let mut all = Vec::new();
                for size in sizes {
                    let words = [size.to_string(), effort.trips.to_string()];
                    let ping = pair(&lab, peer, contender, "echo", "ping", &[&words[0], &words[1]])?.1;
                    for quantile in ["p50", "p99", "p99.9"] {
                        let value = ping[quantile].as_f64().context("no quantile")?;
                        all.push((format!("{size} octets {quantile}"), "µs", value));
                    }
                }
                Ok(Some(all))
            }
        }
    }
}

/// Starts one end of a measurement: the `bench_peer` program at `peer` with these words.
pub(crate) fn start_peer(
    lab: &Lab,
    side: Side,
    peer: &Path,
    contender: Contender,
    words: &[&str],
) -> Result<Process> {
    let mut command = lab.namespace(side).command(peer);
    Process::start(command.args(["--contender", contender.name()]).args(words), true)
}

/// Runs both ends and gives what they said: the listening one's, the connecting one's.
fn pair(
    lab: &Lab,
    peer: &Path,
    contender: Contender,
    listener: &str,
    connector: &str,
    words: &[&str],
) -> Result<(serde_json::Value, serde_json::Value)> {
    let patience = Duration::from_secs(120);
    let local = std::net::SocketAddr::new(Family::Ipv4.any(), PORT).to_string();
    let mut listening = start_peer(lab, Side::Right, peer, contender, &[listener, &local])?;
    listening.wait_for("ready", patience)?;
    let remote = Side::Right.socket(1, Family::Ipv4, PORT).to_string();
    let words = [&[connector, &remote], words].concat();
    let connecting = start_peer(lab, Side::Left, peer, contender, &words)?;
    let connecting = connecting.finish(patience)?;
    ensure!(connecting.status.success(), "{connector}: {}", connecting.stderr.trim());
    let listening = listening.finish(patience)?;
    ensure!(listening.status.success(), "{listener}: {}", listening.stderr.trim());
    let parse = |text: &[u8]| serde_json::from_slice(text).context("the peer's line is not JSON");
    Ok((parse(&listening.stdout)?, parse(&connecting.stdout)?))
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
