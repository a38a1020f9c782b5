//! The command line: one file per subcommand, `args` for the whole interface at a glance.
//!
//! Everything here speaks to [`mptcp_user::stack`]; nothing knows sockets or packets.

mod address;
mod args;
mod backup;
mod connect;
mod counters;
mod exit;
mod inherited;
mod interfaces;
pub mod lab;
mod lab_command;
mod listen;
mod log;
mod output;
mod progress;
mod pump;
mod report;
mod sandbox;
mod session;
mod signals;
mod ss;

use anyhow::Context;
use args::{Args, Command};
use clap::Parser;
use clap::error::ErrorKind;
use exit::ExitCode;
use std::io::IsTerminal;

/// Runs the command and ends the process.
pub fn main() -> ! {
    if let Some(message) =
        args::old_version_flag(std::env::args_os().map(|word| word.to_string_lossy().into()))
    {
        log::say(&format!("error: {message}"));
        exit::end(ExitCode::Usage);
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => exit::end(not_a_command(&error)),
    };
    log::start(args.verbose);
    let code = run(args.command).unwrap_or_else(|error| exit::complain(&error));
    exit::end(code)
}

/// Help, the version, or wrong usage.
fn not_a_command(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // Without a place to say it, the exit code has to do.
        let _ = error.print();
        return ExitCode::Usage;
    }
    let written = match error.kind() {
        // The same words after every subcommand.
        ErrorKind::DisplayVersion => output::print(concat!("mptcp ", env!("CARGO_PKG_VERSION"), "\n")),
        _ if std::io::stdout().is_terminal() => output::print(&error.render().ansi().to_string()),
        _ => output::print(&error.render().to_string()),
    };
    written.map_or_else(|error| exit::complain(&error), |()| ExitCode::Success)
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
            Command::Lab(args) => lab_command::run(args).await,
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
