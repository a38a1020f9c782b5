//! One end of a benchmark, for each contender the same application: started by `bench` inside a namespace.
//!
//! It prints one line of JSON when it is done. A listening end says "ready" on standard error.
//!
//! One connection is driven as is best for each stack: the kernel's through blocking calls ([`kernels`]),
//! ours through its library ([`ours`]). Many at once are tasks over one face of both ([`net`], [`many`]).

mod kernels;
mod many;
mod net;
mod ours;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use mptcp_tests::bench::{own_processor_seconds, processor_seconds};
use mptcp_tests::failover::monotonic_ms;
use mptcp_tests::kernel::Protocol;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Octets handed over at once, by all contenders.
const CHUNK: usize = 256 << 10;
/// Longest wait for the peer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
struct Args {
    /// The stack to use
    #[arg(long, value_enum)]
    contender: Contender,
    /// Congestion control of what is sent
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Path manager of our stack
    #[arg(long, value_name = "NAME")]
    path_manager: Option<String>,
    /// Send and receive buffer of a connection of our stack, in mebibytes
    #[arg(long, value_name = "MIB")]
    buffer: Option<usize>,
    /// Our stack is to work on the application's thread
    #[arg(long)]
    local: bool,
    /// Our stack is to look for packets all the time
    #[arg(long)]
    busy_poll: bool,
    /// Run on this processor only
    #[arg(long, value_name = "N")]
    processor: Option<usize>,
    /// Our stack is to speak regular TCP only
    #[arg(long)]
    no_multipath: bool,
    #[command(subcommand)]
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Contender {
    Ours,
    KernelMptcp,
    KernelTcp,
}

impl Contender {
    /// The kernel's protocol; none for our stack.
    fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Ours => None,
            Self::KernelMptcp => Some(Protocol::Mptcp),
            Self::KernelTcp => Some(Protocol::Tcp),
        }
    }
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Role {
    /// Accept one connection, read it to its end, say how fast
    Sink { local: SocketAddr },
    /// Send octets and finish, no faster than `gbps` gigabits per second if that is not 0
    Source {
        remote: SocketAddr,
        bytes: u64,
        #[arg(default_value_t = 0.0)]
        gbps: f64,
    },
    /// Accept one connection and read it, without counting for the first `settle` seconds, then counting for
    /// `span`
    Drain { local: SocketAddr, settle: u64, span: u64 },
    /// Accept one connection and read it for `millis`; tell the pauses between what comes
    Watch { local: SocketAddr, millis: u64 },
    /// Send octets until nobody takes them any more
    Flood { remote: SocketAddr },
    /// Accept one connection and send back all that comes
    Echo { local: SocketAddr },
    /// Send `size` octets and wait for as many, `count` times
    Ping { remote: SocketAddr, size: usize, count: usize },
    /// Accept `count` connections; answer 64 octets of each with as many, until it ends
    Answer { local: SocketAddr, count: usize },
    /// Make `count` connections, `at_once` of them at the same time: 64 octets each way, then close
    Ask { remote: SocketAddr, count: usize, at_once: usize },
    /// Accept `count` connections and read all, counting for `span` seconds after the first `settle`
    DrainAll { local: SocketAddr, count: usize, settle: u64, span: u64 },
    /// Make `count` connections and send over all of them until nobody takes it any more
    FloodAll { remote: SocketAddr, count: usize },
    /// Accept `count` connections and keep them until standard input ends
    Keep { local: SocketAddr, count: usize },
    /// Make `count` connections of `subflows` subflows each and keep them until standard input ends
    Hold { remote: SocketAddr, count: usize, subflows: usize },
}

impl Role {
    /// Whether it is about many connections.
    fn is_many(self) -> bool {
        !matches!(
            self,
            Self::Sink { .. }
                | Self::Source { .. }
                | Self::Drain { .. }
                | Self::Watch { .. }
                | Self::Flood { .. }
                | Self::Echo { .. }
                | Self::Ping { .. }
        )
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Many connections need many descriptors, whoever makes them.
    rlimit()?;
    if let Some(processor) = args.processor {
        pin(processor)?;
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let local = tokio::task::LocalSet::new();
    let line = match args.contender.protocol() {
        _ if args.role.is_many() => local.block_on(&runtime()?, many::run(&args))?,
        None => local.block_on(&runtime()?, ours::run(&args))?,
        Some(protocol) => kernels::run(protocol, &args)?,
    };
    println!("{line}");
    Ok(())
}

/// Lets this process have as many descriptors as it may.
fn rlimit() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    limit.rlim_cur = limit.rlim_max;
    let most: u64 = std::fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse()?;
    let all = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `all` and `limit` are readable.
    let raised = unsafe {
        // More than the limit that is set takes a privilege.
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const all) == 0
            || libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
    };
    if raised { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Binds this thread, and those that it will start, to a processor.
fn pin(processor: usize) -> Result<()> {
    anyhow::ensure!(processor < libc::CPU_SETSIZE as usize, "there is no processor {processor}");
    // SAFETY: all zeroes are an empty set; the number is one that it has a place for.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

fn ready() {
    eprintln!("ready");
}

/// The cost of a transfer, counted from the connection's establishment: loading programs is not part of it.
struct Effort {
    start: Instant,
    machine: f64,
    process: f64,
}

impl Effort {
    fn begin() -> Result<Self> {
        let (machine, process) = (processor_seconds()?, own_processor_seconds());
        Ok(Self { start: Instant::now(), machine, process })
    }
    /// Rate and processor time. `subflows` is what the sending end knows; 0 at the other.
    fn end(&self, bytes: u64, subflows: usize) -> Result<serde_json::Value> {
        let seconds = self.start.elapsed().as_secs_f64();
        Ok(serde_json::json!({
            "bytes": bytes,
            "seconds": seconds,
            "gbps": bytes as f64 * 8e-9 / seconds,
            "subflows": subflows,
            "machine": processor_seconds()? - self.machine,
            "process": own_processor_seconds() - self.process,
        }))
    }
}

/// Looks at each octet, as whoever reads something does: it has to be in this processor's cache, whoever
/// brought it there.
fn look(octets: &[u8]) {
    let (words, rest) = octets.as_chunks();
    let sum = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    std::hint::black_box((sum, rest));
}

/// Counts octets as they are read, in a span of time that begins after another one.
struct Span {
    begins: Instant,
    ends: Instant,
    octets: u64,
}

impl Span {
    fn new(settle: u64, span: u64) -> Self {
        let begins = Instant::now() + Duration::from_secs(settle);
        Self { begins, ends: begins + Duration::from_secs(span), octets: 0 }
    }
    /// Time left; none once it is over.
    fn left(&self) -> Option<Duration> {
        self.ends.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
    fn count(&mut self, octets: usize) {
        if (self.begins..self.ends).contains(&Instant::now()) {
            self.octets += octets as u64;
        }
    }
    fn rate(&self) -> serde_json::Value {
        let seconds = (self.ends - self.begins).as_secs_f64();
        serde_json::json!({ "bytes": self.octets, "mbps": self.octets as f64 * 8e-6 / seconds })
    }
}

/// Says when the next piece is due of what is sent at a certain rate.
struct Pace {
    start: Instant,
    sent: u64,
    gbps: f64,
}

impl Pace {
    fn new(gbps: f64) -> Self {
        Self { start: Instant::now(), sent: 0, gbps }
    }
    /// How long to wait before `octets` more are sent; none where there is no limit.
    fn wait(&mut self, octets: usize) -> Option<Duration> {
        let due =
            Duration::from_secs_f64(if self.gbps > 0.0 { self.sent as f64 * 8e-9 / self.gbps } else { 0.0 });
        self.sent += octets as u64;
        due.checked_sub(self.start.elapsed()).filter(|wait| !wait.is_zero())
    }
}

/// Notes the pauses of what is read: beginning and end, in milliseconds of the monotonic clock.
struct Pauses {
    ends: Instant,
    last: f64,
    all: Vec<(f64, f64)>,
    octets: u64,
}

impl Pauses {
    fn new(millis: u64) -> Self {
        let ends = Instant::now() + Duration::from_millis(millis);
        Self { ends, last: monotonic_ms(), all: Vec::new(), octets: 0 }
    }
    fn left(&self) -> Option<Duration> {
        self.ends.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
    fn note(&mut self, octets: usize) {
        let now = monotonic_ms();
        if now - self.last > 10.0 {
            self.all.push((self.last, now));
        }
        self.last = now;
        self.octets += octets as u64;
    }
    fn all(mut self) -> serde_json::Value {
        self.note(0);
        serde_json::json!({ "bytes": self.octets, "pauses": self.all })
    }
}

/// Quantiles of round trips in microseconds.
fn quantiles(mut trips: Vec<Duration>) -> serde_json::Value {
    trips.sort_unstable();
    let at = |part: f64| {
        let index = ((trips.len() - 1) as f64 * part).round() as usize;
        trips[index].as_secs_f64() * 1e6
    };
    serde_json::json!({ "p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999) })
}
