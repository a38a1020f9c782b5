//! The command line: one file per subcommand, [`args`] for the whole interface at a glance.
//!
//! Everything here speaks to [`mptcp_user::stack`]; nothing knows sockets or packets.

mod address;
mod args;
mod backup;
mod connect;
mod counters;
mod exit;
mod interfaces;
mod lab;
mod listen;
mod progress;
mod pump;
mod report;
mod session;
mod signals;
mod ss;

use anyhow::Context;
use args::{Args, Command};
use clap::Parser;
use exit::ExitCode;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Runs the command and ends the process. Ends it by `exit` rather than by return: a thread that is blocked in a
/// read of a terminal must not hold up the end.
pub(crate) fn main() -> ! {
    let args = Args::parse();
    start_log(args.verbose);
    let code = match run(args.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mptcp: {}", exit::explain(&error));
            exit::code_of(&error)
        }
    };
    std::process::exit(code as i32)
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    if let Command::Interfaces(args) = command {
        return interfaces::run(&args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("can't start the asynchronous runtime")?;
    let result = runtime.block_on(async {
        match command {
            Command::Listen(args) => listen::run(args).await,
            Command::Connect(args) => connect::run(args).await,
            Command::Lab(args) => lab::run(args).await,
            Command::Ss(args) => ss::run(args).await,
            Command::Counters(args) => counters::run(args).await,
            Command::Backup(args) => backup::run(args).await,
            Command::Interfaces(_) => unreachable!("answered above"),
        }
    });
    // The stack has been shut down by now; a reader of a terminal may be left, and is not waited for.
    runtime.shutdown_background();
    result
}

/// Messages go to standard error; standard output belongs to the data.
fn start_log(verbose: u8) {
    let level = match (verbose, std::io::stderr().is_terminal()) {
        (0, false) => "warn",
        (0, true) | (1, _) => "info",
        (2, _) => "info,mptcp=debug,mptcp_user=debug",
        _ => "debug,mptcp=trace,mptcp_user=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if verbose >= 2 {
        subscriber.init();
    } else {
        subscriber.without_time().with_target(false).compact().init();
    }
}
