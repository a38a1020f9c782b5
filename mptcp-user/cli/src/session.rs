//! One established connection, from its first octet to its end.

use super::args::DataArgs;
use super::exit::{ExitCode, Failure, explain};
use super::output::standard_output;
use super::progress::{Progress, rate};
use super::pump::{Input, Output, Pump};
use super::report::{InterfaceUse, Reporter, Statistics};
use super::signals::Signals;
use anyhow::{Context, Result};
use mptcp_proto::{CloseReason, ConnectionInfo};
use mptcp_user::stack::{MptcpStream, Stack};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long a peer may take to answer our end after a signal.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two looks at the connection for the progress lines.
const TICK: Duration = Duration::from_millis(250);

/// The state that all connections of this process share.
pub(super) struct Session {
    pub(super) command: &'static str,
    pub(super) data: DataArgs,
    pub(super) user_timeout: Duration,
    /// Serves one connection after the other.
    pub(super) keep_open: bool,
    pub(super) kept: Kept,
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

/// The files that the command line names, as they were opened first. Later connections may find the process
/// without the right to open them, and never with the right to open one for writing.
#[derive(Debug, Default)]
pub(super) struct Kept {
    input: Option<File>,
    output: Option<File>,
}

impl Kept {
    /// Opens the files of the first connection. Without `use_stdin`, only a file is sent.
    pub(super) fn open(data: &DataArgs, use_stdin: bool) -> Result<(Self, Files)> {
        let mut kept = Self::default();
        if let Some(path) = &data.file {
            let file =
                File::open(path).with_context(|| format!("can't open {} to send it", path.display()))?;
            kept.input = Some(file);
        }
        if let Some(path) = &data.output {
            let file = File::create(path)
                .with_context(|| format!("can't create {} for the output", path.display()))?;
            kept.output = Some(file);
        }
        let input =
            kept.input.as_ref().map(File::try_clone).transpose().context("can't copy a descriptor")?;
        let files = kept.files(input, use_stdin)?;
        Ok((kept, files))
    }

    /// Opens the files of a further connection: the same file is sent from its beginning, and what is
    /// received is added to the output of those before.
    pub(super) fn again(&self, data: &DataArgs) -> Result<Files> {
        let input = data.file.as_ref().map(|path| match (File::open(path), &self.input) {
            (Err(error), Some(file)) if error.kind() == io::ErrorKind::PermissionDenied => file.try_clone(),
            (opened, _) => opened,
        });
        let name = || data.file.as_deref().unwrap_or(Path::new("")).display().to_string();
        let input = input.transpose().with_context(|| format!("can't open {} to send it", name()))?;
        self.files(input, false)
    }

    fn files(&self, input: Option<File>, use_stdin: bool) -> Result<Files> {
        let mut total = None;
        let mut interactive = false;
        let input = match input {
            Some(file) => {
                total = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len());
                match total {
                    // A descriptor of an earlier connection has the place that was read up to.
                    Some(_) => Input::from_reader(FromStart { file, place: 0 })?,
                    None => Input::from_reader(file)?,
                }
            }
            None if use_stdin => {
                interactive |= io::stdin().is_terminal();
                // Not `io::stdin()`: its small buffer would be copied through.
                Input::from_reader(standard_input()?)?
            }
            None => Input::nothing(),
        };
        let output = match &self.output {
            Some(file) => Output::to_writer(file.try_clone().context("can't copy a descriptor")?)?,
            None => {
                interactive |= io::stdout().is_terminal();
                Output::to_writer(standard_output()?)?
            }
        };
        Ok(Files { input, output, total, interactive })
    }
}

/// Reads a regular file, wherever others who have the same descriptor are in it.
struct FromStart {
    file: File,
    place: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let octets = self.file.read_at(buffer, self.place)?;
        self.place += octets as u64;
        Ok(octets)
    }
}

/// How many subflows the peer has accepted, and how many were tried in vain.
fn subflows_that_worked(connection: &ConnectionInfo) -> String {
    let worked = connection.subflows.iter().filter(|subflow| subflow.confirmed).count();
    let failed = connection.subflows.len() - worked;
    let plural = if worked == 1 { "" } else { "s" };
    match failed {
        0 => format!("{worked} subflow{plural}"),
        _ => format!("{worked} subflow{plural} ({failed} more did not come about)"),
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
            "{sent} octets sent, {received} received in {:.3} s ({}) over {}, {}",
            time.as_secs_f64(),
            rate(sent + received, time.as_secs_f64()),
            subflows_that_worked(&connection),
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
            // The error that came first is the one to end with, and one report is no reason to refuse the
            // next peer.
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
                    // Our end goes out after what is queued; if the peer takes none of it, the connection is
                    // aborted.
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
