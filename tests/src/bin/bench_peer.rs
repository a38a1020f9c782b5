//! One end of a benchmark, for each contender the same application: started by `bench` inside a namespace.
//!
//! It prints one line of JSON when it is done. A listening end says "ready" on standard error.

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use mptcp_tests::failover::monotonic_ms;
use mptcp_tests::kernel::{self, Protocol};
use mptcp_user::stack::{MptcpStream, Stack};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Octets handed over at once, by all contenders.
const CHUNK: usize = 256 << 10;
/// Longest wait for the peer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Parser)]
struct Args {
    /// Whose stack to use
    #[arg(long, value_enum)]
    contender: Contender,
    /// Congestion control of what is sent
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Path manager of our stack
    #[arg(long, value_name = "NAME")]
    path_manager: Option<String>,
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

#[derive(Clone, Copy, Debug, Subcommand)]
enum Role {
    /// Accept one connection, read it to its end, say how fast
    Sink { local: SocketAddr },
    /// Send octets and finish
    Source { remote: SocketAddr, bytes: u64 },
    /// Accept one connection and read it, without counting for the first `settle` seconds, then counting for `span`
    Drain { local: SocketAddr, settle: u64, span: u64 },
    /// Accept one connection and read it for `millis`; tell the pauses between what comes
    Watch { local: SocketAddr, millis: u64 },
    /// Send octets until nobody takes them any more
    Flood { remote: SocketAddr },
    /// Accept one connection and send back all that comes
    Echo { local: SocketAddr },
    /// Send `size` octets and wait for as many, `count` times
    Ping { remote: SocketAddr, size: usize, count: usize },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let line = match args.contender {
        Contender::Ours => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ours(&args))?
        }
        Contender::KernelMptcp => kernels(Protocol::Mptcp, &args)?,
        Contender::KernelTcp => kernels(Protocol::Tcp, &args)?,
    };
    println!("{line}");
    Ok(())
}

fn ready() {
    eprintln!("ready");
}

/// `subflows` is what the sending end knows; 0 at the other.
fn rate(bytes: u64, time: Duration, subflows: usize) -> serde_json::Value {
    let seconds = time.as_secs_f64();
    serde_json::json!({ "bytes": bytes, "seconds": seconds, "gbps": bytes as f64 * 8e-9 / seconds, "subflows": subflows })
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

fn kernels(protocol: Protocol, args: &Args) -> Result<serde_json::Value> {
    let subflows = |stream: &TcpStream| {
        kernel::info(stream)
            .filter(|info| !info.fallback)
            .map_or(1, |info| 1 + usize::from(info.additional_subflows))
    };
    // The kernel takes an MP_JOIN only while it would take a connection there: the listener must live.
    let accept = |local| -> Result<(TcpStream, TcpListener)> {
        let listener = kernel::listen_here(protocol, local)?;
        ready();
        Ok((kernel::accept(&listener, PATIENCE)?, listener))
    };
    let connect = |remote| -> Result<TcpStream> {
        let stream = kernel::connect_here(protocol, None, remote, PATIENCE)?;
        if let Some(name) = &args.congestion {
            kernel::set_congestion(&stream, name)?;
        }
        Ok(stream)
    };
    let mut buffer = vec![0x5a; CHUNK];
    match args.role {
        Role::Sink { local } => {
            let (mut stream, _listener) = accept(local)?;
            let start = Instant::now();
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    octets => total += octets as u64,
                }
            }
            Ok(rate(total, start.elapsed(), 0))
        }
        Role::Source { remote, bytes } => {
            let mut stream = connect(remote)?;
            let start = Instant::now();
            let mut left = bytes;
            while left > 0 {
                let octets = left.min(CHUNK as u64) as usize;
                stream.write_all(&buffer[..octets])?;
                left -= octets as u64;
            }
            // Afterwards they may be closed.
            let subflows = subflows(&stream);
            stream.shutdown(Shutdown::Write)?;
            ensure!(stream.read(&mut buffer)? == 0, "the sink sent something");
            Ok(rate(bytes, start.elapsed(), subflows))
        }
        Role::Drain { local, settle, span } => {
            let (mut stream, _listener) = accept(local)?;
            let mut span = Span::new(settle, span);
            while let Some(left) = span.left() {
                stream.set_read_timeout(Some(left))?;
                match stream.read(&mut buffer) {
                    Ok(octets) => {
                        ensure!(octets > 0, "the flood ended");
                        span.count(octets);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(span.rate())
        }
        Role::Watch { local, millis } => {
            let (mut stream, _listener) = accept(local)?;
            let mut pauses = Pauses::new(millis);
            while let Some(left) = pauses.left() {
                stream.set_read_timeout(Some(left))?;
                match stream.read(&mut buffer) {
                    Ok(octets) => {
                        ensure!(octets > 0, "the flood ended");
                        pauses.note(octets);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(pauses.all())
        }
        Role::Flood { remote } => {
            let mut stream = connect(remote)?;
            while stream.write_all(&buffer).is_ok() {}
            Ok(serde_json::json!({}))
        }
        Role::Echo { local } => {
            let (mut stream, _listener) = accept(local)?;
            stream.set_nodelay(true)?;
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    octets => {
                        stream.write_all(&buffer[..octets])?;
                        total += octets as u64;
                    }
                }
            }
            Ok(serde_json::json!({ "bytes": total }))
        }
        Role::Ping { remote, size, count } => {
            let mut stream = connect(remote)?;
            stream.set_nodelay(true)?;
            let mut trips = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                stream.write_all(&buffer[..size])?;
                stream.read_exact(&mut buffer[..size])?;
                trips.push(start.elapsed());
            }
            Ok(quantiles(trips))
        }
    }
}

async fn ours(args: &Args) -> Result<serde_json::Value> {
    let mut builder = Stack::builder();
    builder.connection.multipath = !args.no_multipath;
    if let Some(name) = &args.congestion {
        builder.connection.congestion.clone_from(name);
    }
    if let Some(name) = &args.path_manager {
        builder.connection.path_manager.clone_from(name);
    }
    let stack = builder.build().await?;
    let result = run_ours(&stack, args.role).await;
    stack.shutdown(Duration::from_secs(3)).await;
    result
}

async fn subflows(stream: &MptcpStream) -> usize {
    let info = stream.info().await;
    info.subflows.iter().filter(|subflow| subflow.bytes_received + subflow.bytes_acked > 0).count()
}

async fn run_ours(stack: &Stack, role: Role) -> Result<serde_json::Value> {
    let accept = async |local| -> Result<MptcpStream> {
        let mut listener = stack.listen(local).await?;
        ready();
        Ok(listener.accept().await?.0)
    };
    let connect = async |remote| -> Result<MptcpStream> { Ok(stack.connect(remote).await?) };
    let mut buffer = vec![0x5a; CHUNK];
    match role {
        Role::Sink { local } => {
            let mut stream = accept(local).await?;
            let start = Instant::now();
            let mut total = 0;
            loop {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    octets => total += octets as u64,
                }
            }
            let time = start.elapsed();
            stream.shutdown().await?;
            Ok(rate(total, time, 0))
        }
        Role::Source { remote, bytes } => {
            let mut stream = connect(remote).await?;
            let start = Instant::now();
            let mut left = bytes;
            while left > 0 {
                let octets = left.min(CHUNK as u64) as usize;
                stream.write_all(&buffer[..octets]).await?;
                left -= octets as u64;
            }
            stream.shutdown().await?;
            ensure!(stream.read(&mut buffer).await? == 0, "the sink sent something");
            Ok(rate(bytes, start.elapsed(), subflows(&stream).await))
        }
        Role::Drain { local, settle, span } => {
            let mut stream = accept(local).await?;
            let mut span = Span::new(settle, span);
            while let Some(left) = span.left() {
                if let Ok(read) = tokio::time::timeout(left, stream.read(&mut buffer)).await {
                    let octets = read?;
                    ensure!(octets > 0, "the flood ended");
                    span.count(octets);
                }
            }
            Ok(span.rate())
        }
        Role::Watch { local, millis } => {
            let mut stream = accept(local).await?;
            let mut pauses = Pauses::new(millis);
            while let Some(left) = pauses.left() {
                if let Ok(read) = tokio::time::timeout(left, stream.read(&mut buffer)).await {
                    let octets = read?;
                    ensure!(octets > 0, "the flood ended");
                    pauses.note(octets);
                }
            }
            Ok(pauses.all())
        }
        Role::Flood { remote } => {
            let mut stream = connect(remote).await?;
            while stream.write_all(&buffer).await.is_ok() {}
            Ok(serde_json::json!({}))
        }
        Role::Echo { local } => {
            let mut stream = accept(local).await?;
            let mut total = 0;
            loop {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    octets => {
                        stream.write_all(&buffer[..octets]).await?;
                        total += octets as u64;
                    }
                }
            }
            stream.shutdown().await?;
            Ok(serde_json::json!({ "bytes": total }))
        }
        Role::Ping { remote, size, count } => {
            let mut stream = connect(remote).await?;
            let mut trips = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                stream.write_all(&buffer[..size]).await?;
                stream.read_exact(&mut buffer[..size]).await.context("the echo ended")?;
                trips.push(start.elapsed());
            }
            stream.shutdown().await?;
            Ok(quantiles(trips))
        }
    }
}
