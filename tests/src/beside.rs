//! Regular TCP of this stack beside the kernel's, same algorithm, same emulated path: goodput in turns, and
//! the shares of two flows that meet in one bottleneck.
//!
//! The contenders of a turn get the same seed: the emulator loses the same packets, counted from the first,
//! of each.

use crate::bench::{Contender, Row, start_peer};
use crate::lab::{Family, Lab, Side};
use anyhow::{Context, Result, bail};
use mptcp_proto::ConnectionConfig;
use std::fmt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Port of the first listening end; a second one takes the next.
const PORT: u16 = 5000;
/// Octets of a full frame.
const FRAME: u64 = 1514;
/// Fewest octets that fit the queue before a bottleneck, in frames.
const SHORTEST_QUEUE: u64 = 10;
/// A turn is repeated in which the emulator's packets left later than this on average, in microseconds.
const LATEST_US: f64 = 500.0;
/// How often.
const TRIES: usize = 10;
/// How long a flow has a bottleneck to itself before the other comes.
const HEAD_START: Duration = Duration::from_secs(1);

/// A path: rate of the bottleneck, one-way delay, random loss of data packets. The queue holds one
/// bandwidth-delay product.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Condition {
    /// Congestion control of both contenders.
    pub algorithm: &'static str,
    /// Megabits per second.
    pub rate: u64,
    /// Milliseconds, one way.
    pub delay: u64,
    /// Per cent.
    pub loss: f64,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} Mb/s {} ms {}%", self.algorithm, self.rate, self.delay, self.loss)
    }
}

const fn condition(algorithm: &'static str, rate: u64, delay: u64, loss: f64) -> Condition {
    Condition { algorithm, rate, delay, loss }
}

/// Paths on which goodput is compared.
pub const GOODPUT: [Condition; 20] = [
    condition("cubic", 10, 1, 0.0),
    condition("cubic", 10, 1, 3.0),
    condition("cubic", 10, 20, 0.0),
    condition("cubic", 10, 20, 1.0),
    condition("cubic", 10, 50, 0.1),
    condition("cubic", 10, 100, 0.0),
    condition("cubic", 100, 1, 0.0),
    condition("cubic", 100, 1, 1.0),
    condition("cubic", 100, 20, 0.0),
    condition("cubic", 100, 20, 0.1),
    condition("cubic", 100, 20, 1.0),
    condition("cubic", 100, 50, 0.1),
    condition("reno", 10, 20, 0.0),
    condition("reno", 10, 20, 1.0),
    condition("reno", 100, 1, 1.0),
    condition("reno", 100, 20, 0.1),
    condition("bbr", 10, 20, 0.0),
    condition("bbr", 10, 20, 1.0),
    condition("bbr", 100, 20, 0.1),
    condition("bbr", 100, 20, 3.0),
];

/// Bottlenecks that are shared.
pub const FAIRNESS: [Condition; 5] = [
    condition("cubic", 20, 20, 0.0),
    condition("cubic", 100, 10, 0.0),
    condition("reno", 20, 20, 0.0),
    condition("reno", 100, 10, 0.0),
    condition("bbr", 20, 20, 0.0),
];

/// The measured end; the other end is the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The contender sends.
    Sender,
    /// The contender receives.
    Receiver,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Turns of each contender.
    pub runs: u64,
    /// Length of a transfer.
    pub transfer: Duration,
    /// Time at the beginning of a shared bottleneck that is not counted.
    pub settle: Duration,
    /// Time of it that is counted.
    pub shared: Duration,
    /// Turns of each shared bottleneck.
    pub shared_runs: u64,
}

impl Effort {
    /// Enough for figures that can be quoted.
    pub const FULL: Effort = Effort {
        runs: 5,
        transfer: Duration::from_secs(8),
        settle: Duration::from_secs(20),
        shared: Duration::from_secs(60),
        shared_runs: 4,
    };
    /// Enough to see that it works.
    pub const QUICK: Effort = Effort {
        runs: 2,
        transfer: Duration::from_secs(4),
        settle: Duration::from_secs(4),
        shared: Duration::from_secs(10),
        shared_runs: 2,
    };
}

/// Both contenders on one path, in megabits per second.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// The path.
    pub condition: Condition,
    /// Goodput of this stack in each turn.
    pub ours: Vec<f64>,
    /// Goodput of the kernel in each turn.
    pub kernel: Vec<f64>,
}

impl Comparison {
    /// The figures as rows of a scenario.
    pub fn rows(&self, scenario: &str) -> [Row; 2] {
        let metric = self.condition.to_string();
        [(Contender::Ours, &self.ours), (Contender::KernelTcp, &self.kernel)]
            .map(|(who, values)| Row::new(scenario, who.name(), &metric, "Mb/s", values.clone()))
    }

    /// Median of ours over median of the kernel's.
    pub fn ratio(&self) -> f64 {
        let [ours, kernel] = self.rows("");
        ours.median / kernel.median
    }

    /// Our share of both flows in each turn.
    pub fn shares(&self) -> Row {
        let shares = self.ours.iter().zip(&self.kernel).map(|(ours, kernel)| ours / (ours + kernel));
        Row::new("fairness", Contender::Ours.name(), &self.condition.to_string(), "", shares.collect())
    }
}

/// Whether both stacks have an algorithm.
pub fn is_known(algorithm: &str) -> bool {
    let kernels = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    kernels.is_ok_and(|names| names.split_whitespace().any(|name| name == algorithm))
        && ConnectionConfig::congestion_algorithms().any(|name| name == algorithm)
}

/// The emulated path, prepared for either stack.
fn lab(condition: Condition, seed: u64) -> Result<Lab> {
    let Condition { rate, delay, loss, .. } = condition;
    let product = rate * 1_000_000 / 8 * 2 * delay / 1000;
    let queue = product.max(SHORTEST_QUEUE * FRAME);
    let both = format!("rate={rate}mbit,delay={delay}ms,queue=1000000,queue-octets={queue}");
    let (loss, seed) = (format!("loss={loss}%"), seed.to_string());
    let lab = Lab::emulated(&[&["--both", &both, "--forward", &loss, "--seed", &seed]], &[Family::Ipv4])?;
    for side in [Side::Left, Side::Right] {
        let namespace = lab.namespace(side);
        // A socket that begins with BBR, the default of some hosts, paces for good, whatever it is told to
        // use later.
        namespace.sysctl("net.ipv4.tcp_congestion_control", "reno")?;
        // Windows are to be the network's, not the limits of buffers.
        namespace.sysctl("net.ipv4.tcp_rmem", "4096 131072 33554432")?;
        namespace.sysctl("net.ipv4.tcp_wmem", "4096 131072 33554432")?;
    }
    Ok(lab)
}

/// A flow over the path: sender, receiver, port.
struct Flow<'a> {
    lab: &'a Lab,
    peer: &'a Path,
    algorithm: &'a str,
    port: u16,
    sender: Contender,
    receiver: Contender,
}

impl Flow<'_> {
    /// Goodput in megabits per second over `span`, which begins `settle` after the handshake.
    fn run(&self, settle: Duration, span: Duration) -> Result<f64> {
        let patience = settle + span + Duration::from_secs(20);
        let common = ["--no-multipath", "--congestion", self.algorithm];
        let (settle, span) = (settle.as_secs().to_string(), span.as_secs().to_string());
        let local = std::net::SocketAddr::new(Family::Ipv4.any(), self.port).to_string();
        let words = [&common[..], &["drain", &local, &settle, &span]].concat();
        let mut receiver = start_peer(self.lab, Side::Right, self.peer, self.receiver, &words)?;
        receiver.wait_for("ready", patience)?;
        let remote = Side::Right.socket(1, Family::Ipv4, self.port).to_string();
        let words = [&common[..], &["flood", &remote]].concat();
        let sender = start_peer(self.lab, Side::Left, self.peer, self.sender, &words)?;
        let received = receiver.finish(patience)?;
        anyhow::ensure!(
            received.status.success(),
            "the receiver failed: {}; the sender said: {}",
            received.stderr.trim(),
            sender.stderr().trim()
        );
        let line: serde_json::Value =
            serde_json::from_slice(&received.stdout).context("the receiver's line is not JSON")?;
        line["mbps"].as_f64().context("no rate")
    }
}

/// Whether the emulator kept its time: on a machine that is busy with other things what is measured is not
/// the path.
pub(crate) fn was_on_time(lab: &mut Lab) -> Result<bool> {
    let report = lab.end_emulation()?.pop().context("a path has an emulator")?;
    let late = report["mean_lateness_us"].as_f64().context("no lateness")?;
    let missed = ["forward", "reverse"].map(|way| report[way]["missed"].as_u64());
    Ok(late <= LATEST_US && missed == [Some(0), Some(0)])
}

/// Makes the path and measures on it, again where the emulator was late.
fn on_time<T>(condition: Condition, seed: u64, measure: impl Fn(&Lab) -> Result<T>) -> Result<T> {
    for _ in 0..TRIES {
        let mut lab = lab(condition, seed)?;
        let measured = measure(&lab)?;
        if was_on_time(&mut lab)? {
            return Ok(measured);
        }
    }
    bail!("the emulator was late {TRIES} times: this machine is too busy to measure anything")
}

/// Goodput on one path: this stack and the kernel's in turns.
pub fn compare(
    peer: &Path,
    condition: Condition,
    role: Role,
    effort: Effort,
    say: &dyn Fn(&str),
) -> Result<Comparison> {
    let mut comparison = Comparison { condition, ours: Vec::new(), kernel: Vec::new() };
    for seed in 1..=effort.runs {
        for contender in [Contender::Ours, Contender::KernelTcp] {
            let (sender, receiver) = match role {
                Role::Sender => (contender, Contender::KernelTcp),
                Role::Receiver => (Contender::KernelTcp, contender),
            };
            let algorithm = condition.algorithm;
            let rate = on_time(condition, seed, |lab| {
                let flow = Flow { lab, peer, algorithm, port: PORT, sender, receiver };
                flow.run(Duration::ZERO, effort.transfer)
            });
            let rate = rate.with_context(|| format!("{condition}, {}", contender.name()))?;
            say(&format!(
                "{condition}, {role:?} {seed}/{}: {} {rate:.2} Mb/s",
                effort.runs,
                contender.name()
            ));
            match contender {
                Contender::Ours => comparison.ours.push(rate),
                _ => comparison.kernel.push(rate),
            }
        }
    }
    Ok(comparison)
}

/// One flow of each stack through one bottleneck at the same time; both receivers are the kernel's.
pub fn share(peer: &Path, condition: Condition, effort: Effort, say: &dyn Fn(&str)) -> Result<Comparison> {
    let mut comparison = Comparison { condition, ours: Vec::new(), kernel: Vec::new() };
    let algorithm = condition.algorithm;
    for seed in 1..=effort.shared_runs {
        let shared = on_time(condition, seed, |lab| {
            let flow = |port, sender| {
                // The second flow finds the queue full. Each stack is second in every other turn.
                let second = (seed % 2 == 1) == (sender == Contender::KernelTcp);
                thread::sleep(if second { HEAD_START } else { Duration::ZERO });
                let receiver = Contender::KernelTcp;
                let flow = Flow { lab, peer, algorithm, port, sender, receiver };
                flow.run(effort.settle, effort.shared)
            };
            thread::scope(|scope| {
                let ours = scope.spawn(|| flow(PORT, Contender::Ours));
                let kernel = flow(PORT + 1, Contender::KernelTcp);
                Ok((ours.join().expect("a flow does not panic")?, kernel?))
            })
        });
        let (ours, kernel) = shared.with_context(|| format!("{condition}, shared"))?;
        say(&format!(
            "{condition}, shared {seed}/{}: ours {ours:.2}, kernel {kernel:.2} Mb/s",
            effort.shared_runs
        ));
        comparison.ours.push(ours);
        comparison.kernel.push(kernel);
    }
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_compared_by_their_medians_and_shares_turn_by_turn() {
        let comparison =
            Comparison { condition: GOODPUT[0], ours: vec![9.0, 1.0, 3.0], kernel: vec![3.0, 1.0, 6.0] };
        assert_eq!(comparison.ratio(), 1.0);
        let shares = comparison.shares();
        assert_eq!((shares.min, shares.median, shares.max), (1.0 / 3.0, 0.5, 0.75));
    }

    #[test]
    fn every_path_has_a_name_of_its_own() {
        for all in [&GOODPUT[..], &FAIRNESS] {
            let names: std::collections::BTreeSet<_> = all.iter().map(ToString::to_string).collect();
            assert_eq!(names.len(), all.len());
        }
    }
}
