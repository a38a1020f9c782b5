//! The application at one end of a connection: the bytes that it writes and reads, with the SHA-256 of each.

use crate::data::{Seeded, Sum};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Octets moved at once.
const CHUNK: usize = 64 << 10;

/// The writing half of an end: seeded bytes, as many as a scenario asks for.
pub struct Outbox {
    writer: Option<Box<dyn Write + Send>>,
    data: Seeded,
    hash: Sha256,
    octets: u64,
}

impl Outbox {
    /// Octets from `seed` into `writer`.
    pub fn new(seed: u64, writer: impl Write + Send + 'static) -> Self {
        Self {
            writer: Some(Box::new(writer)),
            data: Seeded::new(seed, u64::MAX),
            hash: Sha256::new(),
            octets: 0,
        }
    }

    /// Writes the next `octets`.
    pub fn send(&mut self, octets: u64) -> Result<()> {
        if octets == 0 {
            return Ok(());
        }
        let writer = self.writer.as_mut().context("this end has finished")?;
        let mut buffer = vec![0; CHUNK];
        let mut left = octets;
        while left > 0 {
            let part = &mut buffer[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            self.data.read_exact(part)?;
            writer.write_all(part).context("writing")?;
            self.hash.update(&*part);
            self.octets += part.len() as u64;
            left -= part.len() as u64;
        }
        Ok(())
    }

    /// Writes a text, which arrives as another one.
    pub fn say(&mut self, text: &str, arrives: &str) -> Result<()> {
        self.writer.as_mut().context("this end has finished")?.write_all(text.as_bytes())?;
        self.hash.update(arrives);
        self.octets += arrives.len() as u64;
        Ok(())
    }

    /// Nothing more will be written. Dropping the writer is the end of a pipe; a socket needs to be told.
    pub fn close(&mut self) {
        self.writer = None;
    }

    /// Octets written, and their SHA-256.
    pub fn sum(&self) -> (u64, Sum) {
        (self.octets, self.hash.clone().finalize().into())
    }
}

/// Number and hash of the bytes that an end has read.
#[derive(Default)]
struct Progress {
    hash: Sha256,
    octets: u64,
    end: Option<Result<(), io::ErrorKind>>,
    /// Nothing more is to be read.
    closed: bool,
}

/// The reading half of an end, on a thread of its own.
pub struct Inbox {
    shared: Arc<(Mutex<Progress>, Condvar)>,
}

impl Inbox {
    /// Reads until the end of `reader`, or its first error.
    pub fn new(mut reader: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
        let ours = shared.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            loop {
                let got = reader.read(&mut buffer);
                let mut state = ours.0.lock().unwrap_or_else(PoisonError::into_inner);
                match got {
                    Ok(0) => state.end = Some(Ok(())),
                    Ok(octets) => {
                        state.hash.update(&buffer[..octets]);
                        state.octets += octets as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    // A socket that is to look up now and then.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && !state.closed => continue,
                    Err(error) => state.end = Some(Err(error.kind())),
                }
                if state.closed {
                    state.end.get_or_insert(Ok(()));
                }
                ours.1.notify_all();
                if state.end.is_some() {
                    return;
                }
            }
        });
        Self { shared }
    }

    fn state(&self) -> MutexGuard<'_, Progress> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads no further than what it is waiting for now. (A socket with a time limit for reading lets go of
    /// it then.)
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// [`close`](Self::close), and the reader has let go.
    pub fn close_and_wait(&self, patience: Duration) -> Result<()> {
        self.close();
        self.wait_end(patience).map(drop)
    }

    /// Octets read.
    pub fn octets(&self) -> u64 {
        self.state().octets
    }

    /// Octets read, and their SHA-256.
    pub fn sum(&self) -> (u64, Sum) {
        let state = self.state();
        (state.octets, state.hash.clone().finalize().into())
    }

    /// Waits until `octets` have been read in all.
    pub fn wait_for(&self, octets: u64, patience: Duration) -> Result<()> {
        let state = self.wait(patience, |state| state.octets >= octets)?;
        ensure!(
            state.octets >= octets,
            "{} of {octets} octets came, {}",
            state.octets,
            match state.end {
                None => format!("and no more within {patience:?}"),
                Some(Ok(())) => "then the end".into(),
                Some(Err(kind)) => format!("then an error: {kind:?}"),
            }
        );
        Ok(())
    }

    /// Waits for the end of what there is to read, and gives it.
    pub fn wait_end(&self, patience: Duration) -> Result<Result<(), io::ErrorKind>> {
        match self.wait(patience, |_| false)?.end {
            Some(end) => Ok(end),
            None => bail!("the end of the data did not come within {patience:?}"),
        }
    }

    fn wait(
        &self,
        patience: Duration,
        enough: impl Fn(&Progress) -> bool,
    ) -> Result<MutexGuard<'_, Progress>> {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        while !enough(&state) && state.end.is_none() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }
}
