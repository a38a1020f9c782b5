//! A file crosses two links over one Multipath TCP connection, to and from the Linux kernel's own Multipath
//! TCP.
//!
//! One [`Case`] is one transfer: the sender connects from the left namespace, the receiver listens in the
//! right one. The data is a real file of seeded octets, held in memory; the receiver writes a file in memory
//! too, and its SHA-256 is compared. A [`Row`] is what came of it; it [passes](Row::passed) only if the
//! stream was exact, both links carried data, nobody fell back to regular TCP, the kernel's counters agree,
//! and nothing is left behind.

use crate::counters::Counters;
use crate::data::{self, Sum};
use crate::kernel::{self, Protocol};
use crate::lab::{Family, Lab, Side};
use crate::process::{Finished, Process};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::net::{Shutdown, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Port of the receiver.
const PORT: u16 = 5000;

/// The Multipath TCP stack of one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stack {
    /// The `mptcp` command.
    Ours,
    /// The kernel's sockets.
    Kernel,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Kernel => "kernel",
        })
    }
}

/// One transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// Family of all subflows.
    pub family: Family,
    /// The sender, which connects.
    pub sender: Stack,
    /// The receiver, which listens.
    pub receiver: Stack,
    /// The side whose end of the first link is taken down halfway, if any.
    pub cut: Option<Side>,
}

/// The transfers of the demo.
pub fn cases() -> Vec<Case> {
    use Stack::{Kernel, Ours};
    let mut cases = Vec::new();
    for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours), (Ours, Ours)] {
        cases.extend(Family::BOTH.map(|family| Case { family, sender, receiver, cut: None }));
    }
    for (family, side) in [(Family::Ipv4, Side::Left), (Family::Ipv6, Side::Right)] {
        cases.push(Case { family, sender: Ours, receiver: Kernel, cut: Some(side) });
    }
    cases
}

impl Case {
    /// A name for people and for `--case`.
    pub fn name(&self) -> String {
        let cut = match self.cut {
            None => "",
            Some(Side::Left) => ", link down at the sender",
            Some(Side::Right) => ", link down at the receiver",
        };
        format!("{}→{} {}{cut}", self.sender, self.receiver, self.family)
    }
}

/// The file to send.
#[derive(Debug)]
pub struct Source {
    file: File,
    size: u64,
    sum: Sum,
}

impl Source {
    /// `size` octets from a seed, held in memory.
    pub fn new(seed: u64, size: u64) -> Result<Self> {
        let (file, sum) = data::seeded_file(seed, size)?;
        Ok(Self { file, size, sum })
    }

    /// Octets.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where programs find it.
    pub fn path(&self) -> PathBuf {
        data::path_of(&self.file)
    }
}

/// The bytes of a subflow, as our side of the connection knows them.
#[derive(Clone, Debug, Serialize)]
pub struct Subflow {
    /// Our address and port.
    pub local: String,
    /// The peer's.
    pub remote: String,
    /// Octets received in order, or acknowledged, in the direction of the file.
    pub bytes: u64,
}

/// The outcome of a case.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // the names say it
pub struct Row {
    pub name: String,
    pub family: Family,
    pub sender: Stack,
    pub receiver: Stack,
    /// Octets that arrived.
    pub bytes: u64,
    /// At the receiver, from the establishment of the connection to its end.
    pub seconds: f64,
    pub gbps: f64,
    pub sha256_ok: bool,
    pub subflows: Vec<Subflow>,
    pub fallback: bool,
    /// How our side attached its programs ("native", "generic"), one for each of its interfaces.
    pub modes: Vec<String>,
    /// Everything that is not as it should be.
    pub problems: Vec<String>,
}

impl Row {
    /// Whether everything was as it should be.
    pub fn passed(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Where a case writes a capture, and who is told how far it is.
#[derive(Default)]
pub struct Watch<'a> {
    /// Capture of our side (of the receiver if both are ours).
    pub capture: Option<&'a Path>,
    /// Called with the octets that have arrived, several times a second.
    pub progress: Option<&'a dyn Fn(u64)>,
    /// More words for our command lines.
    pub options: &'a [&'a str],
}

/// Runs one case with the `mptcp` command at `binary`. An error means that it could not be run; faults of
/// the transfer itself are in the row.
pub fn run(case: &Case, source: &Source, binary: &Path, watch: &Watch<'_>) -> Result<Row> {
    let lab = Lab::of_family(case.family)?;
    // Generous: a hundredth of what the links carry.
    let patience = Duration::from_secs(30 + source.size / 20_000_000);
    for (side, stack) in [(Side::Left, case.sender), (Side::Right, case.receiver)] {
        if stack == Stack::Kernel {
            lab.prepare_kernel(side, case.family)?;
        }
    }
    let target = data::memory_file("received")?;
    let receiver = Receiver::start(case, &lab, binary, &target, watch, patience)?;
    let mut sender = Sender::start(case, &lab, binary, source, watch, patience);
    let mut problems = Vec::new();
    let received_at_cut = match &mut sender {
        Ok(sender) => {
            let mut ended = || receiver.has_ended() || sender.has_failed();
            follow(case, &lab, source, &target, &mut ended, watch, patience, &mut problems)?
        }
        Err(_) => 0,
    };
    let sender = sender.and_then(Sender::finish);
    let receiver = receiver.finish();

    let mut row = Row {
        name: case.name(),
        family: case.family,
        sender: case.sender,
        receiver: case.receiver,
        bytes: 0,
        seconds: 0.0,
        gbps: 0.0,
        sha256_ok: false,
        subflows: Vec::new(),
        fallback: false,
        modes: Vec::new(),
        problems,
    };
    let (bytes, sum) = data::sum_of_file(&data::path_of(&target))?;
    row.bytes = bytes;
    row.sha256_ok = bytes == source.size && sum == source.sum;
    if !row.sha256_ok {
        row.problems.push(format!("{bytes} octets of {} arrived, or not the right ones", source.size));
    }
    for (who, outcome) in [("sender", &sender), ("receiver", &receiver)] {
        match outcome {
            Err(error) => row.problems.push(format!("{who}: {error:#}")),
            Ok(outcome) => row.fallback |= outcome.fallback,
        }
    }
    if row.fallback {
        row.problems.push("the connection fell back to regular TCP".into());
    }
    if let Ok(outcome) = &receiver {
        row.seconds = outcome.seconds;
        row.gbps = bytes as f64 * 8.0 / outcome.seconds.max(1e-9) / 1e9;
    }
    // The receiver's own count where it is ours, else what the kernel acknowledged to us.
    for (outcome, octets) in [(&receiver, "bytes_received"), (&sender, "bytes_acked")] {
        if let Ok(Outcome { statistics: Some(statistics), .. }) = outcome
            && row.subflows.is_empty()
        {
            row.subflows = subflows(statistics, octets);
            row.modes = texts(&statistics["interfaces"], "mode");
        }
    }
    check_subflows(case, &mut row, received_at_cut);
    check_hosts(case, &lab, &mut row)?;
    if !row.passed() {
        // The kernel's counters tell most about a fault.
        for (side, stack) in [(Side::Left, case.sender), (Side::Right, case.receiver)] {
            if stack == Stack::Kernel {
                let counters = Counters::read(lab.namespace(side))?;
                let all = counters.multipath().filter(|&(_, value)| value != 0);
                let all: Vec<String> = all
                    .map(|(name, value)| format!("{} {value}", name.trim_start_matches("MPTcpExt")))
                    .collect();
                row.problems.push(format!("{side:?}: all of the kernel's counters: {}", all.join(", ")));
            }
        }
    }
    Ok(row)
}

/// Watches the received file grow and cuts the link when half has arrived. Gives the octets that had arrived
/// then.
#[allow(clippy::too_many_arguments)] // one caller; a structure for it would be longer
fn follow(
    case: &Case,
    lab: &Lab,
    source: &Source,
    target: &File,
    ended: &mut dyn FnMut() -> bool,
    watch: &Watch<'_>,
    patience: Duration,
    problems: &mut Vec<String>,
) -> Result<u64> {
    let deadline = Instant::now() + patience;
    let mut cut = case.cut;
    let mut received_at_cut = 0;
    loop {
        let arrived = target.metadata()?.len();
        if let Some(progress) = watch.progress {
            progress(arrived);
        }
        if let Some(side) = cut
            && arrived >= source.size / 2
        {
            lab.namespace(side).set_up(&side.interface(1), false)?;
            received_at_cut = arrived;
            cut = None;
        }
        if ended() || arrived >= source.size {
            break;
        }
        if Instant::now() > deadline {
            problems.push(format!("stalled: {arrived} of {} octets after {patience:?}", source.size));
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    if cut.is_some() {
        problems.push("the transfer ended before the link could be taken down: use a larger --size".into());
    }
    Ok(received_at_cut)
}

fn check_subflows(case: &Case, row: &mut Row, received_at_cut: u64) {
    let on_link = |number: usize| -> u64 {
        let prefixes = [Side::Left, Side::Right].map(|side| side.address(number, case.family).to_string());
        let carried = |subflow: &&Subflow| {
            subflow
                .local
                .parse::<std::net::SocketAddr>()
                .is_ok_and(|local| prefixes.contains(&local.ip().to_string()))
        };
        row.subflows.iter().filter(carried).map(|subflow| subflow.bytes).sum()
    };
    let carried = [on_link(1), on_link(2)];
    for (number, octets) in [(1, carried[0]), (2, carried[1])] {
        if octets == 0 {
            row.problems.push(format!("no data went over link {number}"));
        }
    }
    // Bytes in the receiver's buffers at the cut are not in the file yet: hence half of the rest.
    if case.cut.is_some() && carried[1] < (row.bytes - received_at_cut.min(row.bytes)) / 2 {
        row.problems
            .push(format!("after the cut, the second link carried only {} octets in all", carried[1]));
    }
}

/// Checks both hosts afterwards: counters, attached programs.
fn check_hosts(case: &Case, lab: &Lab, row: &mut Row) -> Result<()> {
    for (side, stack, roles) in [
        (Side::Left, case.sender, ["MPTcpExtMPCapableSYNTX", "MPTcpExtMPJoinSynAckRx"]),
        (Side::Right, case.receiver, ["MPTcpExtMPCapableSYNRX", "MPTcpExtMPJoinAckRx"]),
    ] {
        let counters = Counters::read(lab.namespace(side))?;
        let mut complain = |text: String| row.problems.push(format!("{side:?}: {text}"));
        match stack {
            Stack::Kernel => {
                for trouble in counters.trouble() {
                    complain(format!("the kernel counts {trouble}"));
                }
                if counters.get(roles[0]) != 1 || counters.get(roles[1]) < 1 {
                    complain(format!(
                        "the kernel counts {} {}, {} {}",
                        roles[0],
                        counters.get(roles[0]),
                        roles[1],
                        counters.get(roles[1])
                    ));
                }
            }
            Stack::Ours => {
                // The kernel must not have seen a segment of ours: it would have answered with a reset.
                if counters.get("TcpOutRsts") != 0 {
                    complain(format!("the kernel has sent {} resets", counters.get("TcpOutRsts")));
                }
                if counters.multipath().any(|(_, value)| value != 0) {
                    complain("the kernel's own Multipath TCP was involved".into());
                }
                let attached = lab.left_attached(side)?;
                if !attached.is_empty() {
                    complain(format!("programs are still attached to {}", attached.join(", ")));
                }
            }
        }
    }
    Ok(())
}

/// The result of one side.
#[derive(Debug)]
struct Outcome {
    seconds: f64,
    fallback: bool,
    statistics: Option<serde_json::Value>,
}

impl Outcome {
    fn of_ours(finished: &Finished) -> Result<Self> {
        ensure!(
            finished.status.success(),
            "mptcp ended with {}:\n{}",
            finished.status,
            finished.stderr.trim_end()
        );
        let statistics = finished.json()?;
        Ok(Self {
            seconds: statistics["seconds"].as_f64().context("no seconds in the statistics")?,
            fallback: !statistics["connection"]["fallback"].is_null(),
            statistics: Some(statistics),
        })
    }
}

type Work = thread::JoinHandle<Result<Outcome>>;

/// The side that receives.
enum Receiver {
    Ours(Box<std::sync::Mutex<Process>>, Duration),
    Kernel(Work),
}

impl Receiver {
    fn start(
        case: &Case,
        lab: &Lab,
        binary: &Path,
        target: &File,
        watch: &Watch<'_>,
        patience: Duration,
    ) -> Result<Self> {
        match case.receiver {
            Stack::Ours => {
                let mut command = lab.right.command(binary);
                command.args(["-v", "listen", "--json", "--output"]).arg(data::path_of(target));
                command
                    .args(watch.options)
                    .arg(std::net::SocketAddr::new(case.family.any(), PORT).to_string());
                if let Some(capture) = watch.capture {
                    command.arg("--pcap").arg(capture);
                }
                let mut process = Process::start(&mut command, false)?;
                process.wait_for("listening on", Duration::from_secs(20))?;
                Ok(Self::Ours(Box::new(std::sync::Mutex::new(process)), patience))
            }
            Stack::Kernel => {
                let address = std::net::SocketAddr::new(case.family.any(), PORT);
                let listener = kernel::listen(&lab.right, Protocol::Mptcp, address)?;
                let path = data::path_of(target);
                Ok(Self::Kernel(thread::spawn(move || receive(&listener, &path, patience))))
            }
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Ours(process, _) => !process.lock().expect("no panic while locked").is_running(),
            Self::Kernel(work) => work.is_finished(),
        }
    }

    fn finish(self) -> Result<Outcome> {
        match self {
            Self::Ours(process, patience) => {
                let process = process.into_inner().expect("no panic while locked");
                Outcome::of_ours(&process.finish(patience)?)
            }
            Self::Kernel(work) => join(work),
        }
    }
}

/// The side that sends.
enum Sender {
    Ours(Box<Process>, Duration),
    Kernel(Work),
}

impl Sender {
    fn start(
        case: &Case,
        lab: &Lab,
        binary: &Path,
        source: &Source,
        watch: &Watch<'_>,
        patience: Duration,
    ) -> Result<Self> {
        let remote = Side::Right.socket(1, case.family, PORT);
        match case.sender {
            Stack::Ours => {
                let mut command = lab.left.command(binary);
                command.args(["-v", "connect", "--json", "--file"]).arg(source.path());
                command.args(watch.options).arg(remote.to_string());
                if let Some(capture) = watch.capture.filter(|_| case.receiver != Stack::Ours) {
                    command.arg("--pcap").arg(capture);
                }
                command.stdout(std::process::Stdio::null());
                Ok(Self::Ours(Box::new(Process::start(&mut command, false)?), patience))
            }
            Stack::Kernel => {
                let stream = kernel::connect(&lab.left, Protocol::Mptcp, None, remote, patience)?;
                let path = source.path();
                Ok(Self::Kernel(thread::spawn(move || send(&stream, &path))))
            }
        }
    }

    /// Whether it is over, without success as far as one can tell from outside.
    fn has_failed(&mut self) -> bool {
        match self {
            Self::Ours(process, _) => process.has_failed(),
            Self::Kernel(_) => false,
        }
    }

    fn finish(self) -> Result<Outcome> {
        match self {
            Self::Ours(process, patience) => Outcome::of_ours(&process.finish(patience)?),
            Self::Kernel(work) => join(work),
        }
    }
}

fn join(work: Work) -> Result<Outcome> {
    match work.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("the thread of the kernel's side panicked"),
    }
}

/// Takes one connection of the kernel's and writes its bytes to a file.
fn receive(listener: &TcpListener, path: &Path, patience: Duration) -> Result<Outcome> {
    let stream = kernel::accept(listener, patience.min(Duration::from_secs(20)))?;
    stream.set_read_timeout(Some(patience))?;
    let start = Instant::now();
    let file = File::options().write(true).open(path)?;
    data::copy(&stream, file).context("the kernel's side can't receive")?;
    let fallback = kernel::info(&stream).is_none_or(|info| info.fallback);
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { seconds, fallback, statistics: None })
}

/// Sends a file over a connection of the kernel's and waits until the peer has closed it too.
fn send(stream: &std::net::TcpStream, path: &Path) -> Result<Outcome> {
    let start = Instant::now();
    data::copy(File::open(path)?, stream).context("the kernel's side can't send")?;
    let fallback = kernel::info(stream).is_none_or(|info| info.fallback);
    stream.shutdown(Shutdown::Write).context("the kernel's side can't finish")?;
    data::copy(stream, std::io::sink()).context("the peer of the kernel's side did not finish properly")?;
    Ok(Outcome { seconds: start.elapsed().as_secs_f64(), fallback, statistics: None })
}

/// The bytes of each subflow, from the statistics of `mptcp --json`; `octets` names the direction.
pub(crate) fn subflows(statistics: &serde_json::Value, octets: &str) -> Vec<Subflow> {
    let Some(all) = statistics["connection"]["subflows"].as_array() else { return Vec::new() };
    all.iter()
        .map(|subflow| Subflow {
            local: subflow["local"].as_str().unwrap_or_default().into(),
            remote: subflow["remote"].as_str().unwrap_or_default().into(),
            bytes: subflow[octets].as_u64().unwrap_or_default(),
        })
        .collect()
}

/// One field of each item of a list.
pub(crate) fn texts(list: &serde_json::Value, field: &str) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|item| item[field].as_str().map(str::to_owned)).collect()
}
