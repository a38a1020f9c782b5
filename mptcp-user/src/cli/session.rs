//! One established connection, from its first octet to its end.

use super::args::DataArgs;
use super::exit::{ExitCode, Failure, explain};
use super::output::standard_output;
use super::progress::{Progress, rate};
use super::pump::{Input, Output, Pump};
use super::report::{InterfaceUse, Reporter, Statistics};
use super::signals::Signals;
use anyhow::{Context, Result};
use mptcp_user::proto::CloseReason;
use mptcp_user::stack::{MptcpStream, Stack};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long a peer may take to answer our end after a signal.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two looks at the connection for the progress lines.
const TICK: Duration = Duration::from_millis(250);

/// What all connections of this process share.
pub(super) struct Session {
    pub(super) command: &'static str,
    pub(super) data: DataArgs,
    pub(super) user_timeout: Duration,
    /// Serves one connection after the other.
    pub(super) keep_open: bool,
    pub(super) reporter: Reporter,
    pub(super) signals: Signals,
}

/// The files of one connection, opened before it exists so that a wrong name is found at once.
pub(super) struct Files {
    input: Input,
    output: Output,
    total: Option<u64>,
    interactive: bool,
}

impl Files {
    /// Opens the files that the command line names. Without `use_stdin`, only a file is sent. `again` adds
    /// to an output file that an earlier connection of this process has made.
    pub(super) fn open(data: &DataArgs, use_stdin: bool, again: bool) -> Result<Self> {
        let mut total = None;
        let mut interactive = false;
        let input = match &data.file {
            Some(path) => {
                let file =
                    File::open(path).with_context(|| format!("can't open {} to send it", path.display()))?;
                total = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
                Input::from_reader(file)?
            }
            None if use_stdin => {
                interactive |= io::stdin().is_terminal();
                // Not `io::stdin()`: its small buffer would be copied through.
                Input::from_reader(standard_input()?)?
            }
            None => Input::nothing(),
        };
        let output = match &data.output {
            Some(path) => {
                let mut options = File::options();
                options.create(true).write(true).append(again).truncate(!again);
                let file = options
                    .open(path)
                    .with_context(|| format!("can't create {} for the output", path.display()))?;
                Output::to_writer(file)?
            }
            None => {
                interactive |= io::stdout().is_terminal();
                Output::to_writer(standard_output()?)?
            }
        };
        Ok(Self { input, output, total, interactive })
    }
}

/// A connection is polled in place; it holds no references to itself.
fn pinned(stream: &mut MptcpStream) -> Pin<&mut MptcpStream> {
    Pin::new(stream)
}

/// Standard input without the buffering of the standard library.
fn standard_input() -> Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned().context("can't use standard input")?))
}

impl Session {
    /// Moves data both ways until both sides have finished, the connection breaks, or a signal comes.
    pub(super) async fn run(
        &mut self,
        stack: &Stack,
        mut stream: MptcpStream,
        files: Files,
    ) -> Result<ExitCode> {
        let start = Instant::now();
        let (local, peer) = (stream.local_addr(), stream.peer_addr());
        let show = !self.data.quiet && !files.interactive && io::stderr().is_terminal();
        let mut progress = show.then(|| Progress::new(files.total));
        let mut pump = Pump::new(files.input, files.output);
        if self.command == "listen" {
            pump = pump.end_after_peer();
        }
        let mut outcome = self.transfer(&mut pump, &mut stream, progress.as_mut()).await;
        let time = start.elapsed();
        drop(progress);

        let (sent, received) = (pump.sent, pump.received);
        if let Err(error) = pump.flush().await
            && outcome.is_ok()
        {
            outcome = Err(error);
        }
        if matches!(outcome, Ok(ExitCode::Success)) {
            outcome = self.wait_for_close(&stream).await;
        }
        let connection = stream.info().await;
        tracing::info!(
            "{sent} octets sent, {received} received in {:.3} s ({}) over {} subflow(s), {}",
            time.as_secs_f64(),
            rate(sent + received, time.as_secs_f64()),
            connection.subflows.len(),
            match connection.fallback {
                None => "Multipath TCP".to_owned(),
                Some(reason) => format!("regular TCP: {reason:?}"),
            }
        );
        let reported = self.reporter.report(&Statistics {
            command: self.command,
            local,
            peer,
            bytes_sent: sent,
            bytes_received: received,
            seconds: time.as_secs_f64(),
            gbps: Statistics::rate(sent + received, time),
            outcome: match &outcome {
                Ok(ExitCode::Success) => "finished".into(),
                Ok(_) => "interrupted".into(),
                Err(error) => explain(error),
            },
            interfaces: stack.interfaces().iter().map(InterfaceUse::from).collect(),
            connection,
        });
        match reported {
            // The error that came first is the one to end with, and one report is no reason to refuse the next peer.
            Err(error) if outcome.is_err() || self.keep_open => tracing::warn!("{}", explain(&error)),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        outcome
    }

    async fn transfer(
        &mut self,
        pump: &mut Pump,
        stream: &mut MptcpStream,
        mut progress: Option<&mut Progress>,
    ) -> Result<ExitCode> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                code = self.signals.wanted() => {
                    tracing::info!("closing the connection; a second signal ends the process at once");
                    pump.stop_input();
                    let end = poll_fn(|cx| match pump.poll(cx, pinned(stream)) {
                        Poll::Pending if !pump.is_finished() => Poll::Pending,
                        _ => Poll::Ready(()),
                    });
                    // Our end goes out after what is queued; if the peer takes none of it, the connection is aborted.
                    if tokio::time::timeout(PATIENCE, end).await.is_err() {
                        stream.abort();
                    }
                    return Ok(code);
                }
                result = poll_fn(|cx| pump.poll(cx, pinned(stream))) => {
                    return match result {
                        Ok(()) => Ok(ExitCode::Success),
                        Err(error) => Err(error),
                    };
                }
                _ = tick.tick(), if progress.is_some() => {
                    let info = stream.info().await;
                    if let Some(progress) = &mut progress {
                        progress.update(pump.sent + pump.received, &info);
                    }
                }
            }
        }
    }

    /// Both sides have finished: waits until the peer has everything and knows that we have.
    async fn wait_for_close(&mut self, stream: &MptcpStream) -> Result<ExitCode> {
        // The engine gives up after the user timeout; the margin is for its timers.
        let limit = self.user_timeout + Duration::from_secs(5);
        tokio::select! {
            code = self.signals.wanted() => Ok(code),
            closed = tokio::time::timeout(limit, stream.closed()) => match closed {
                Ok(CloseReason::Finished) => Ok(ExitCode::Success),
                Ok(reason) => Err(Failure::new(
                    ExitCode::Broken,
                    format!("{reason}, after both sides had finished sending: the peer may lack the end of the data"),
                )
                .into()),
                Err(_) => Err(Failure::new(
                    ExitCode::Broken,
                    "the peer did not acknowledge the end of the data: it may lack some of it",
                )
                .into()),
            },
        }
    }
}
