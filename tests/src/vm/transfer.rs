//! Octets from one station to another, over one connection, watched and checked.

use super::agent::Ended;
use super::lab::{Network, PATIENCE};
use super::station::Program;
use crate::data;
use crate::demo::{Stack, Subflow, subflows, texts};
use crate::lab::{Family, Side};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

/// Ports of the receiver. The kernel's connections linger on theirs, and ours are not disturbed by that on
/// another.
const KERNELS_PORT: u16 = 5000;
const OUR_PORT: u16 = 5001;
/// Seed of the octets.
const SEED: u64 = 0x7677_6d76;

/// One transfer from the left to the right side.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// The stack that sends and connects.
    pub sender: Stack,
    /// The stack that receives and listens.
    pub receiver: Stack,
    /// Family of the first subflow.
    pub family: Family,
    /// Octets.
    pub size: u64,
    /// More words for our command lines.
    pub options: &'static [&'static str],
    /// Whether the kernel speaks regular TCP.
    pub regular: bool,
}

/// A transfer that goes on.
pub struct UnderWay<'n> {
    network: &'n dyn Network,
    what: Transfer,
    sender: Box<dyn Program + 'n>,
    receiver: Box<dyn Program + 'n>,
}

/// The outcome. All bytes arrived.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// At the receiver, from the establishment of the connection to its end.
    pub seconds: f64,
    /// Octets over that time, in Mb/s.
    pub mbps: f64,
    /// The bytes of each subflow, as our side knows them: the receiver's side, if both are ours.
    pub subflows: Vec<Subflow>,
    /// Whether the connection became regular TCP, as any side knows.
    pub fallback: bool,
    /// How our side attached its programs, one for each interface.
    pub modes: Vec<String>,
    /// Our side's report, with all details.
    pub said: String,
}

impl Transfer {
    /// A transfer of 8 MiB over IPv4.
    pub fn new(sender: Stack, receiver: Stack) -> Self {
        Self { sender, receiver, family: Family::Ipv4, size: 8 << 20, options: &[], regular: false }
    }

    /// "ours→kernel IPv4".
    pub fn name(&self) -> String {
        format!("{}→{} {}", self.sender, self.receiver, self.family)
    }

    /// Runs it to its end.
    pub fn run(&self, network: &dyn Network) -> Result<Outcome> {
        self.start(network)?.finish(PATIENCE)
    }

    /// Starts it.
    pub fn start<'n>(&self, network: &'n dyn Network) -> Result<UnderWay<'n>> {
        let name = self.name();
        for (side, stack) in [(Side::Left, self.sender), (Side::Right, self.receiver)] {
            if stack == Stack::Kernel && !self.regular {
                network.station(side).run("ip mptcp endpoint flush")?;
                network.prepare_kernel(side, self.family)?;
            }
        }
        let (left, right) = (network.station(Side::Left), network.station(Side::Right));
        let (source, target) = (left.file("data")?, right.file("received")?);
        left.run(&format!("vm-agent seeded {source} {SEED} {}", self.size))?;
        let regular = if self.regular { &["--tcp"][..] } else { &[] };
        let port = if self.receiver == Stack::Ours { OUR_PORT } else { KERNELS_PORT };
        let local = std::net::SocketAddr::new(self.family.any(), port).to_string();
        let mut words = match self.receiver {
            Stack::Ours => vec!["mptcp", "-v", "listen", "--json", "--output", &target],
            Stack::Kernel => vec!["vm-agent", "receive", &target],
        };
        words.push(&local);
        words.extend(if self.receiver == Stack::Ours { self.options } else { regular });
        let mut receiver = right.start(&words)?;
        receiver.wait_for("listening on", PATIENCE).with_context(|| name.clone())?;
        let remote = network.socket(Side::Right, 1, self.family, port).to_string();
        let mut words = match self.sender {
            Stack::Ours => vec!["mptcp", "-v", "connect", "--json", "--file", &source],
            Stack::Kernel => vec!["vm-agent", "send", &source],
        };
        words.push(&remote);
        words.extend(if self.sender == Stack::Ours { self.options } else { regular });
        let sender = left.start(&words)?;
        Ok(UnderWay { network, what: self.clone(), sender, receiver })
    }
}

impl UnderWay<'_> {
    /// Waits until so many octets have arrived, fewer than all.
    pub fn wait_until_arrived(&mut self, octets: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let station = self.network.station(Side::Right);
        let target = station.file("received")?;
        loop {
            let arrived: u64 = station.run(&format!("busybox stat -L -c %s {target}"))?.trim().parse()?;
            ensure!(arrived < self.what.size, "the transfer was over too early");
            if arrived >= octets {
                return Ok(());
            }
            if Instant::now() > deadline || !self.sender.is_running()? || !self.receiver.is_running()? {
                return Err(self.stalled(arrived));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until both programs have ended.
    fn wait_until_over(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.sender.is_running()? || self.receiver.is_running()? {
            if Instant::now() > deadline {
                return Err(self.autopsy(patience));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Why a transfer does not end, as well as both sides know: their kernels' sockets, and what our programs
    /// say when they are told to end.
    fn autopsy(&mut self, patience: Duration) -> anyhow::Error {
        let mut text = format!("the transfer does not end within {patience:?}");
        for (side, stack) in [(Side::Left, self.what.sender), (Side::Right, self.what.receiver)] {
            let station = self.network.station(side);
            let sockets = station.run("ss --tcp --info --numeric --options").unwrap_or_default();
            let links = station.run("ip -s link show").unwrap_or_default();
            let _ = writeln!(text, "\n{side:?} ({stack}):\n{sockets}\n{links}");
            let program = if side == Side::Left { &mut self.sender } else { &mut self.receiver };
            let _ = program.signal(libc::SIGTERM);
            if let Err(error) = program.wait_for("\0", Duration::from_secs(10)) {
                let _ = writeln!(text, "{error:#}");
            }
        }
        anyhow::Error::msg(text)
    }

    fn stalled(&mut self, arrived: u64) -> anyhow::Error {
        let error = anyhow::anyhow!("{}: stalled: {arrived} of {} octets", self.what.name(), self.what.size);
        // The two reports tell more than the number.
        let said = |program: &mut Box<dyn Program + '_>| {
            program.wait_for("\0", Duration::ZERO).err().map(|error| format!("{error:#}")).unwrap_or_default()
        };
        error.context(said(&mut self.sender)).context(said(&mut self.receiver))
    }

    /// The sending program.
    pub fn sender(&mut self) -> &mut dyn Program {
        self.sender.as_mut()
    }

    /// The receiving program.
    pub fn receiver(&mut self) -> &mut dyn Program {
        self.receiver.as_mut()
    }

    /// Waits for both ends, gives up the transfer: how each ended.
    pub fn abandon(self, patience: Duration) -> Result<(Ended, Ended)> {
        Ok((self.sender.finish(patience)?, self.receiver.finish(patience)?))
    }

    /// Waits for its end: all octets must have arrived, and both sides must be content.
    pub fn finish(mut self, patience: Duration) -> Result<Outcome> {
        let name = self.what.name();
        self.wait_until_over(patience).with_context(|| name.clone())?;
        let sender = self.sender.finish(patience).with_context(|| name.clone())?;
        let receiver = self.receiver.finish(patience).with_context(|| name.clone())?;
        for (who, ended) in [("sender", &sender), ("receiver", &receiver)] {
            ensure!(ended.code == Some(0), "{name}: {who}: {ended}");
        }
        let station = self.network.station(Side::Right);
        let target = station.file("received")?;
        let arrived: Value = serde_json::from_str(&station.run(&format!("vm-agent sum {target}"))?)?;
        let (_, expected) = data::sum(data::Seeded::new(SEED, self.what.size))?;
        ensure!(
            arrived["octets"] == self.what.size && arrived["sum"] == data::hex(&expected).as_str(),
            "{name}: {arrived} arrived, not {} octets with the sum {}",
            self.what.size,
            data::hex(&expected)
        );
        let (sent, received) = (sender.json()?, receiver.json()?);
        let seconds = received["seconds"].as_f64().context("no seconds")?;
        let fallback =
            [(&sent, self.what.sender), (&received, self.what.receiver)].iter().any(|(json, stack)| {
                match stack {
                    Stack::Ours => !json["connection"]["fallback"].is_null(),
                    Stack::Kernel => json["fallback"] == true,
                }
            });
        let (ours, octets, said) = match (self.what.sender, self.what.receiver) {
            (_, Stack::Ours) => (&received, "bytes_received", &receiver.stderr),
            _ => (&sent, "bytes_acked", &sender.stderr),
        };
        Ok(Outcome {
            seconds,
            mbps: self.what.size as f64 * 8.0 / seconds.max(1e-9) / 1e6,
            subflows: subflows(ours, octets),
            fallback,
            modes: texts(&ours["interfaces"], "mode"),
            said: said.clone(),
        })
    }
}

impl Outcome {
    /// Octets that crossed each link, by our side's addresses there.
    pub fn by_link(&self, network: &dyn Network, family: Family) -> Vec<u64> {
        let own = |number: usize| [Side::Left, Side::Right].map(|side| network.address(side, number, family));
        let carried = |number: usize| {
            let here = |subflow: &&Subflow| {
                subflow
                    .local
                    .parse::<std::net::SocketAddr>()
                    .is_ok_and(|local| own(number).contains(&local.ip()))
            };
            self.subflows.iter().filter(here).map(|subflow| subflow.bytes).sum()
        };
        (1..=network.links()).map(carried).collect()
    }

    /// Multipath TCP to the end, and every link carried data.
    pub fn used_all_links(&self, network: &dyn Network, family: Family) -> Result<()> {
        ensure!(!self.fallback, "the connection fell back to regular TCP:\n{}", self.said);
        let carried = self.by_link(network, family);
        ensure!(carried.iter().all(|&octets| octets > 0), "octets by link: {carried:?}\n{}", self.said);
        Ok(())
    }
}
