//! Everything of ours that runs inside a guest beside `mptcp`: process 1, and small programs for tests.

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use mptcp_tests::counters::Counters;
use mptcp_tests::data;
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::netns::{self, Offload};
use mptcp_tests::vm::agent;
use serde_json::json;
use std::fs::File;
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Within this time a peer does something.
const PATIENCE: Duration = Duration::from_secs(60);

/// Programs that tests need inside a guest.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make a file of seeded octets
    Seeded { file: PathBuf, seed: u64, size: u64 },
    /// Print the number of octets of a file and their SHA-256
    Sum { file: PathBuf },
    /// Print the kernel's counters
    Counters,
    /// Switch all offloads of an interface that can be switched "on" or "off"
    Offloads { interface: String, state: String },
    /// Send a file over a connection of the kernel's
    Send {
        file: PathBuf,
        remote: SocketAddr,
        /// Regular TCP
        #[arg(long)]
        tcp: bool,
    },
    /// Receive a file over a connection of the kernel's
    Receive {
        file: PathBuf,
        local: SocketAddr,
        /// Regular TCP
        #[arg(long)]
        tcp: bool,
    },
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        agent::init();
    }
    match Arguments::parse().task.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vm-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn run(self) -> Result<()> {
        match self {
            Self::Seeded { file, seed, size } => {
                let copied = data::copy(data::Seeded::new(seed, size), create(&file)?)?;
                ensure!(copied == size, "only {copied} octets of {size}");
            }
            Self::Sum { file } => {
                let (octets, sum) = data::sum_of_file(&file)?;
                println!("{}", json!({"octets": octets, "sum": data::hex(&sum)}));
            }
            Self::Counters => println!("{}", serde_json::to_string(&Counters::read_here()?)?),
            Self::Offloads { interface, state } => {
                // Without transmit checksums there are no super-segments. The card's receive offloads are
                // fixed.
                let offloads =
                    [Offload::TxChecksum, Offload::ScatterGather, Offload::Tso, Offload::Gso, Offload::Gro];
                netns::set_offloads_here(&interface, &offloads, state == "on")?;
            }
            Self::Send { file, remote, tcp } => send(&file, remote, protocol(tcp))?,
            Self::Receive { file, local, tcp } => receive(&file, local, protocol(tcp))?,
        }
        Ok(())
    }
}

fn protocol(tcp: bool) -> Protocol {
    if tcp { Protocol::Tcp } else { Protocol::Mptcp }
}

fn create(path: &PathBuf) -> Result<File> {
    File::create(path).with_context(|| format!("can't write {}", path.display()))
}

fn send(file: &PathBuf, remote: SocketAddr, protocol: Protocol) -> Result<()> {
    let file = File::open(file).with_context(|| format!("can't read {}", file.display()))?;
    let stream = kernel::connect_here(protocol, None, remote, PATIENCE)?;
    let start = Instant::now();
    data::copy(file, &stream).context("the kernel's side can't send")?;
    let fallback = fallback(&stream);
    stream.shutdown(Shutdown::Write)?;
    data::copy(&stream, std::io::sink()).context("the peer did not finish properly")?;
    eprintln!("{}", json!({"seconds": start.elapsed().as_secs_f64(), "fallback": fallback}));
    Ok(())
}

fn receive(file: &PathBuf, local: SocketAddr, protocol: Protocol) -> Result<()> {
    let target = create(file)?;
    // The kernel takes an MP_JOIN only where a listener would take a connection: on all addresses here.
    let listener = kernel::listen_here(protocol, local)?;
    eprintln!("listening on {local}");
    let stream = kernel::accept(&listener, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    data::copy(&stream, target).context("the kernel's side can't receive")?;
    eprintln!("{}", json!({"seconds": start.elapsed().as_secs_f64(), "fallback": fallback(&stream)}));
    Ok(())
}

/// Whether a connection is regular TCP, as its kernel knows.
fn fallback(stream: &std::net::TcpStream) -> bool {
    kernel::info(stream).is_none_or(|info| info.fallback)
}
