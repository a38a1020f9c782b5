//! Messages on standard error, from a thread of their own.
//!
//! A message that can't be written is dropped and counted: neither a full disk, nor a pipe without reader,
//! nor a reader that has stopped reading may hold up or end a service.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Messages that wait for the writing thread at most.
const WAITING: usize = 4096;
/// How long the end of the process waits for messages to be written.
const PATIENCE: Duration = Duration::from_secs(1);

static WRITER: OnceLock<SyncSender<Message>> = OnceLock::new();
/// Messages that were dropped and not reported yet.
static LOST: AtomicU64 = AtomicU64::new(0);

enum Message {
    Text(Vec<u8>),
    /// Answered once all messages before it are written or dropped.
    Flush(SyncSender<()>),
}

/// Sends messages of this detail to standard error; standard output belongs to the data.
pub(super) fn start(verbose: u8) {
    let (sender, receiver) = sync_channel(WAITING);
    let thread = thread::Builder::new().name("log".into()).spawn(move || write_all(&receiver));
    if thread.is_ok() {
        let _ = WRITER.set(sender);
    }
    let level = match (verbose, io::stderr().is_terminal()) {
        (0, false) => "warn",
        (0, true) | (1, _) => "info",
        // The prefix of all crates of this stack.
        (2, _) => "info,mptcp=debug",
        _ => "debug,mptcp=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Writer)
        // The subscriber would panic when it can't complain.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    if verbose >= 2 {
        subscriber.init();
    } else {
        subscriber.without_time().with_target(false).compact().init();
    }
}

/// Writes a message that is no event of the log, in its turn.
pub(super) fn say(text: &str) {
    send(format!("{text}\n").into_bytes());
}

/// Waits until what was said is written, but not for ever.
pub(super) fn flush() {
    let Some(writer) = WRITER.get() else { return };
    let (done, wait) = sync_channel(1);
    let deadline = Instant::now() + PATIENCE;
    let mut message = Message::Flush(done);
    while let Err(error) = writer.try_send(message) {
        let std::sync::mpsc::TrySendError::Full(back) = error else { return };
        if Instant::now() > deadline {
            return;
        }
        message = back;
        thread::sleep(Duration::from_millis(5));
    }
    let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

fn send(text: Vec<u8>) {
    let sent = match WRITER.get() {
        Some(writer) => writer.try_send(Message::Text(text)).is_ok(),
        None => io::stderr().write_all(&text).is_ok(),
    };
    if !sent {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(receiver: &Receiver<Message>) {
    for message in receiver {
        match message {
            Message::Text(text) => {
                let lost = LOST.swap(0, Ordering::Relaxed);
                if write_one(&text, lost).is_err() {
                    LOST.fetch_add(lost + 1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

fn write_one(text: &[u8], lost: u64) -> io::Result<()> {
    let mut out = io::stderr();
    if lost > 0 {
        out.write_all(format!("({lost} messages before this one could not be written)\n").as_bytes())?;
    }
    out.write_all(text)
}

/// Hands each event, which is written in one piece, to the thread.
struct Writer;

impl Write for Writer {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        send(text.to_vec());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Writer {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}
