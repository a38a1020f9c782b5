//! `cargo xtask load`: the XDP program on interfaces of one's choice, without a stack. Prints its counters
//! and its log.

mod logger;
mod output;
mod program;

use anyhow::{Context, Result};
use clap::Parser;
use logger::Reader;
use output::{Output, Report};
use program::{Knowledge, Loaded, Mode};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Attach the XDP program, as its source is now, to interfaces, and print what it counts until Ctrl-C (root).
///
/// No stack runs and no connection is known, so the program leaves every packet to the kernel and the
/// interfaces go on working. The program is detached when this ends, however it ends. The stored object and
/// the library stay as they are.
#[derive(Debug, Parser)]
#[command(
    name = "load",
    bin_name = "cargo xtask load",
    max_term_width = 110,
    after_help = "\
Examples:
  cargo xtask load -i eth0                          counters of the program as its source is
  cargo xtask load -i eth0 -i eth1 --log            and a message for each packet it passes
  cargo xtask load -i eth0 --port 443               it looks into segments for port 443, too
  cargo xtask load -i eth0 --json --duration 10s    ten lines of JSON

On a machine without a toolchain, with an object that was built elsewhere:
  cargo xtask build-ebpf --log --output log.bpf.o
  cargo xtask load -i eth0 --log --object log.bpf.o"
)]
struct Args {
    /// Interface to attach to; may be repeated
    #[arg(short, long = "interface", value_name = "IFACE", required = true)]
    interfaces: Vec<String>,
    /// Build the object with its feature `log`, and print what the program logs
    #[arg(long)]
    log: bool,
    /// Print a line of JSON per interval ("kind": "counters"), and one per message of the log ("kind": "log")
    #[arg(long)]
    json: bool,
    /// Time between two prints (1s, 500ms)
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = interval)]
    interval: Duration,
    /// End after this time instead of at Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = program::duration)]
    duration: Option<Duration>,
    /// Where in the kernel the program runs
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// Load this object instead of building one (`cargo xtask build-ebpf --output FILE`)
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Tell the program that this local port is in use; may be repeated. It looks further into segments for
    /// the port, and passes them: they count as `foreign`, not `foreign_port`
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// Tell the program that this address is the host's; may be repeated. Segments for it and a --port are
    /// then taken from the kernel: the program drops them (`no_socket`), since no stack takes them, or
    /// refuses them (`join_refused`)
    #[arg(long = "address", value_name = "ADDRESS", requires = "ports")]
    addresses: Vec<IpAddr>,
    /// Check words, privileges and interfaces, and attach nothing; xtask asks for it before it builds the
    /// object
    #[arg(long, hide = true)]
    check: bool,
}

/// Shortest time between two prints.
const SHORTEST: Duration = Duration::from_millis(10);
/// How long the end may take after a signal. It takes longer if nobody reads the output.
const GRACE: Duration = Duration::from_secs(2);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = program::duration(text)?;
    if interval < SHORTEST { Err(format!("the shortest is {SHORTEST:?}")) } else { Ok(interval) }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let gone = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
            if error.downcast_ref::<io::Error>().is_some_and(gone) {
                // The reader of the output has ended, as `head` does.
                return ExitCode::SUCCESS;
            }
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let plans = program::plan(&args.interfaces, args.mode)?;
    if args.check {
        return Ok(());
    }
    let knowledge = Knowledge { ports: args.ports.clone(), addresses: args.addresses.clone() };
    if !args.addresses.is_empty() {
        eprintln!(
            "load: segments for these addresses and ports are taken from the kernel and dropped until this ends"
        );
    }
    // Before anything is attached, so that a signal always detaches in order.
    let signals = signals()?;
    let mut loaded = Loaded::new(args.object.as_deref(), plans, &knowledge)?;
    let begun = Instant::now();
    let id = loaded.id()?;
    let output = Arc::new(Mutex::new(Output::new(args.json)));
    let reader = {
        // Messages wait until it is said where the program is.
        let mut first = lock(&output);
        let reader = if args.log { Some(Reader::new(id, Arc::clone(&output))?) } else { None };
        first.begin(loaded.interfaces())?;
        reader
    };
    watch(args, &mut loaded, id, begun, &output, &signals, reader)
}

fn lock(output: &Mutex<Output>) -> std::sync::MutexGuard<'_, Output> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints reports until a signal comes or the time is over, detaches, and prints the last one.
fn watch(
    args: &Args,
    loaded: &mut Loaded,
    id: u32,
    begun: Instant,
    output: &Mutex<Output>,
    signals: &Receiver<()>,
    reader: Option<Reader>,
) -> Result<()> {
    let end = args.duration.and_then(|duration| begun.checked_add(duration));
    let (mut before, mut then) = (loaded.counters()?, begun);
    let mut next = begun + args.interval;
    let mut outcome = Ok(());
    loop {
        let until = end.map_or(next, |end| end.min(next));
        match signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        match loaded.lost(id) {
            Ok(lost) => lost.iter().for_each(|name| eprintln!("load: {name} has lost the program")),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        (before, then) = report(loaded, begun, (before, then), output)?;
        next += args.interval;
        // After a pause of the process there is one report, not one for each that was missed.
        next = next.max(Instant::now());
    }
    loaded.detach();
    if let Some(reader) = reader {
        reader.finish();
    }
    report(loaded, begun, (before, then), output)?;
    outcome
}

/// Prints the counts, and gives those from which the next report counts.
fn report(
    loaded: &Loaded,
    begun: Instant,
    (before, then): (program::CounterSnapshot, Instant),
    output: &Mutex<Output>,
) -> Result<(program::CounterSnapshot, Instant)> {
    let (total, now) = (loaded.counters()?, Instant::now());
    lock(output).report(&Report {
        elapsed: now - begun,
        interval: now - then,
        total,
        recent: total.since(&before),
        interfaces: loaded.interfaces(),
    })?;
    Ok((total, now))
}

/// Gets a word for the first signal that asks for an end. If the end then takes too long, since nobody reads
/// the output, the process ends without it; the kernel detaches the program.
fn signals() -> Result<Receiver<()>> {
    let (tell, told) = mpsc::channel();
    let (ready, installed) = mpsc::channel();
    thread::spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds else {
                let _ = ready.send(Err(io::Error::last_os_error()));
                return;
            };
            let _ = ready.send(Ok(()));
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            let _ = tell.send(());
            tokio::time::sleep(GRACE).await;
            std::process::exit(1);
        });
    });
    installed.recv().context("the thread for signals has ended")?.context("can't wait for signals")?;
    Ok(told)
}
