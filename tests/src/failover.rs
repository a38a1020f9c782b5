//! How long the stream stands still when a path dies: Wi-Fi and a cellular link through the emulator, this
//! stack at both ends beside the kernel's at both ends, each death in a connection of its own.

use crate::bench::{Contender, Row, start_peer};
use crate::beside::was_on_time;
use crate::counters::Counters;
use crate::lab::{Family, Lab, Side};
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::path::Path;
use std::thread;
use std::time::Duration;

const PORT: u16 = 5000;
/// Time from the connection's beginning to the death, and until it is looked at what came of it.
const BEFORE: Duration = Duration::from_millis(2000);
const AFTER: Duration = Duration::from_millis(2500);
/// A run in which the emulator was late, or the connection not as it should be, is repeated so often.
const TRIES: usize = 8;

/// The subflows before the death.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Both carry data.
    Full,
    /// The cellular one is there and carries nothing.
    Backup,
    /// There is none over the cellular link.
    SinglePath,
}

/// How the path dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// Everything is dropped from then on, what is under way included; the interfaces stay up.
    Silent,
    /// The sender's interface goes down.
    LinkDown,
}

/// One cell of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The mode.
    pub mode: Mode,
    /// The death.
    pub death: Death,
    /// Rate in Mb/s and one-way delay in milliseconds of the cellular link.
    pub cellular: (u64, u64),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::Full => "full",
            Mode::Backup => "backup",
            Mode::SinglePath => "single-path",
        };
        let death = match self.death {
            Death::Silent => "silent",
            Death::LinkDown => "link down",
        };
        write!(f, "{mode}, {death}, cellular {} Mb/s {} ms", self.cellular.0, self.cellular.1)
    }
}

/// All conditions.
pub fn conditions() -> Vec<Condition> {
    let mut all = Vec::new();
    for cellular in [(10, 25), (2, 75)] {
        for death in [Death::Silent, Death::LinkDown] {
            for mode in [Mode::Full, Mode::Backup, Mode::SinglePath] {
                all.push(Condition { mode, death, cellular });
            }
        }
    }
    all
}

/// The result of one condition, in milliseconds without delivered data; the kernel has no single-path mode.
#[derive(Clone, PartialEq, Debug)]
pub struct Comparison {
    /// The condition.
    pub condition: Condition,
    /// This stack at both ends.
    pub ours: Vec<f64>,
    /// The kernel's Multipath TCP at both ends.
    pub kernel: Vec<f64>,
}

impl Comparison {
    /// The figures as rows of a scenario.
    pub fn rows(&self) -> Vec<Row> {
        let both = [(Contender::Ours, &self.ours), (Contender::KernelMptcp, &self.kernel)];
        let metric = self.condition.to_string();
        both.into_iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(who, values)| Row::new("failover", who.name(), &metric, "ms", values.clone()))
            .collect()
    }
}

/// Milliseconds of the clock that all processes share.
pub fn monotonic_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// So many deaths under one condition, of both contenders in turns.
pub fn compare(peer: &Path, condition: Condition, runs: u32, say: &dyn Fn(&str)) -> Result<Comparison> {
    let mut comparison = Comparison { condition, ours: Vec::new(), kernel: Vec::new() };
    for run in 1..=runs {
        for contender in [Contender::Ours, Contender::KernelMptcp] {
            if contender == Contender::KernelMptcp && condition.mode == Mode::SinglePath {
                continue;
            }
            let pause = repeat(peer, condition, contender, run)
                .with_context(|| format!("{condition}, {}", contender.name()))?;
            say(&format!("{condition}, {run}/{runs}: {} {pause:.0} ms", contender.name()));
            match contender {
                Contender::Ours => comparison.ours.push(pause),
                _ => comparison.kernel.push(pause),
            }
        }
    }
    Ok(comparison)
}

fn repeat(peer: &Path, condition: Condition, contender: Contender, run: u32) -> Result<f64> {
    for _ in 0..TRIES {
        if let Some(pause) = die(peer, condition, contender, run)? {
            return Ok(pause);
        }
    }
    bail!("{TRIES} times the emulator was late or the connection had not the subflows that it should have")
}

/// One death: the time without data, in milliseconds. None if it was not what was to be measured.
fn die(peer: &Path, condition: Condition, contender: Contender, run: u32) -> Result<Option<f64>> {
    let (rate, delay) = condition.cellular;
    let path = |rate: u64, delay: u64| {
        // The queue holds one bandwidth-delay product, ten frames at least.
        let queue = (rate * 1_000_000 / 8 * 2 * delay / 1000).max(15_140);
        format!("rate={rate}mbit,delay={delay}ms,queue=100000,queue-octets={queue}")
    };
    let seed = run.to_string();
    let (wifi, cellular) = (path(20, 25), path(rate, delay));
    let links = [["--seed", &seed, "--both", &wifi], ["--seed", &seed, "--both", &cellular]];
    let mut lab = Lab::emulated(&[&links[0], &links[1]], &[Family::Ipv4])?;
    for side in [Side::Left, Side::Right] {
        lab.prepare_kernel(side, Family::Ipv4)?;
    }
    if condition.mode == Mode::Backup {
        // The kernel's delay until it answers the announcement of the other side's second address.
        let address = Side::Left.address(2, Family::Ipv4);
        lab.left.mptcp_endpoint(address, &Side::Left.interface(2), "subflow backup")?;
    }
    let path_manager = match condition.mode {
        Mode::Full => "full-mesh",
        Mode::Backup => "backup",
        Mode::SinglePath => "single-path",
    };
    let patience = Duration::from_secs(20);
    let local = std::net::SocketAddr::new(Family::Ipv4.any(), PORT).to_string();
    let millis = (BEFORE + AFTER).as_millis().to_string();
    let words = ["--path-manager", path_manager, "watch", &local, &millis];
    let mut receiver = start_peer(&lab, Side::Right, peer, contender, &words)?;
    receiver.wait_for("ready", patience)?;
    let remote = Side::Right.socket(1, Family::Ipv4, PORT).to_string();
    let words = ["--path-manager", path_manager, "flood", &remote];
    let sender = start_peer(&lab, Side::Left, peer, contender, &words)?;
    // Each time in another phase of all that goes in cycles.
    thread::sleep(BEFORE + Duration::from_millis(u64::from(run) * 13));
    let death = monotonic_ms();
    match condition.death {
        Death::Silent => lab.silence(1, true),
        Death::LinkDown => lab.left.set_up(&Side::Left.interface(1), false)?,
    }
    let received = receiver.finish(patience)?;
    ensure!(
        received.status.success(),
        "the receiver failed: {}; the sender said: {}",
        received.stderr.trim(),
        sender.stderr().trim()
    );
    drop(sender);
    if contender == Contender::KernelMptcp {
        let counters = Counters::read(&lab.right)?;
        let backup = counters.get("MPTcpExtMPJoinSynBackupRx") > 0;
        if counters.get("MPTcpExtMPJoinAckRx") == 0 || backup != (condition.mode == Mode::Backup) {
            return Ok(None);
        }
    }
    let line: serde_json::Value =
        serde_json::from_slice(&received.stdout).context("the receiver's line is not JSON")?;
    let pauses: Vec<(f64, f64)> = serde_json::from_value(line["pauses"].clone()).context("no pauses")?;
    // Where the other path lags behind, what it has under way goes on for a while before something is
    // missing.
    let begun = pauses.iter().filter(|(begin, end)| *begin < death + 1000.0 && *end > death);
    let pause = begun.map(|(begin, end)| end - begin).fold(0.0, f64::max);
    // An emulator whose interface has gone down can't tell how it was.
    let on_time = condition.death == Death::LinkDown || was_on_time(&mut lab)?;
    Ok(on_time.then_some(pause))
}
