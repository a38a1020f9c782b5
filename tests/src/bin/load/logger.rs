//! The program's messages through `aya-log`, on the way to the output.

use crate::output::Output;
use anyhow::{Result, anyhow};
use aya_log::{EbpfLogger, Error};
use log::{Log, Metadata, Record};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// How long the thread waits for messages until it looks whether it should end, in milliseconds.
const PATIENCE: i32 = 100;

/// Prints each message. An error of the output is noticed by the next report.
struct Printer(Arc<Mutex<Output>>);

impl Log for Printer {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let file = record.file().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let place = match record.line() {
            Some(line) => format!("{}:{line}", file.to_string_lossy()),
            None => file.to_string_lossy().into_owned(),
        };
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = output.log(record.level().as_str(), &place, &record.args().to_string());
    }
    fn flush(&self) {}
}

fn failed(error: Error) -> anyhow::Error {
    match error {
        Error::MapNotFound => anyhow!(
            "the object does not log: leave --object out, or build one that does with `cargo xtask build-ebpf --log \
             --output FILE`"
        ),
        error => anyhow!("can't read the log of the program: {error}"),
    }
}

/// A thread that reads the program's log.
pub(crate) struct Reader {
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Reader {
    /// Reads the log of the loaded program with this identifier.
    pub(crate) fn new(program: u32, output: Arc<Mutex<Output>>) -> Result<Self> {
        let mut logger = EbpfLogger::init_from_id_with_logger(program, Printer(output)).map_err(failed)?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            loop {
                // Asked before the last look, so that all messages until then are printed.
                let last = ended.load(Ordering::Acquire);
                let mut wanted = libc::pollfd { fd: logger.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one descriptor, which is the logger's and stays open.
                unsafe { libc::poll(&raw mut wanted, 1, if last { 0 } else { PATIENCE }) };
                logger.flush();
                if last {
                    return;
                }
            }
        });
        Ok(Self { end, thread })
    }

    /// Prints the rest and ends. The program has to be detached, or there may be no end of it.
    pub(crate) fn finish(self) {
        self.end.store(true, Ordering::Release);
        // A panic of the thread was printed when it happened.
        let _ = self.thread.join();
    }
}
