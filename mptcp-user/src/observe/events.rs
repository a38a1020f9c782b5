//! The event log: decisions of the engine as lines of JSON, one object each.
//!
//! | field | what |
//! | --- | --- |
//! | `time` | seconds since the log began |
//! | `connection` | number of the connection, as in `mptcp ss --json` (`id`) |
//! | `event` | kind of decision; the other fields are those of [`Decision`] |
//!
//! The first line is of the event `log`, with the time of the day at its begin (`unix`, in seconds). Lines are written by
//! a thread of their own. Where that does not keep up, they are lost, and the process says how many at its end.

use mptcp_proto::{Decided, Decision, Instant};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Batches that wait for the writing thread at most.
const MAX_BATCHES: usize = 1024;
/// Decisions in a batch before it is handed over in any case.
const BATCH: usize = 256;
/// Lines are in the file this long after they were made, at the latest.
const FLUSH: Duration = Duration::from_millis(100);

/// A log that is being written. It is complete when this is dropped.
pub struct EventLog {
    sender: Option<SyncSender<Vec<Decided>>>,
    writer: Option<JoinHandle<()>>,
    batch: Vec<Decided>,
    lost: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    time: f64,
    connection: u64,
    #[serde(flatten)]
    decision: &'a Decision,
}

impl EventLog {
    /// Creates the file. `now` is the begin of its time.
    ///
    /// # Errors
    /// The file can't be written, or no thread can be started.
    pub fn create(path: &Path, now: Instant) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writeln!(file, "{}", serde_json::json!({ "time": 0.0, "event": "log", "unix": unix }))?;
        file.flush()?;
        let (sender, receiver) = sync_channel(MAX_BATCHES);
        let name = path.display().to_string();
        let writer = std::thread::Builder::new().name("mptcp-events".into()).spawn(move || {
            if let Err(error) = write_all(&mut file, &receiver, now) {
                tracing::error!("can't write the events {name}, which end here: {error}");
            }
        })?;
        Ok(Self { sender: Some(sender), writer: Some(writer), batch: Vec::new(), lost: 0 })
    }

    /// Takes a decision in.
    pub fn push(&mut self, decided: Decided) {
        if self.sender.is_none() {
            return;
        }
        self.batch.push(decided);
        if self.batch.len() >= BATCH {
            self.hand_over();
        }
    }

    /// Hands what was taken in to the thread that writes. Waits for nothing.
    pub fn hand_over(&mut self) {
        let Some(sender) = self.sender.as_ref().filter(|_| !self.batch.is_empty()) else { return };
        let events = self.batch.len() as u64;
        match sender.try_send(std::mem::take(&mut self.batch)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.lost += events,
            // The thread has said why it ended.
            Err(TrySendError::Disconnected(_)) => self.sender = None,
        }
    }

    /// Decisions that were lost because the file was too slow.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            // At the end there is time.
            let _ = sender.send(std::mem::take(&mut self.batch));
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        if self.lost > 0 {
            tracing::warn!("{} events are missing from the log: the file was too slow", self.lost);
        }
    }
}

fn write_all(
    file: &mut BufWriter<File>,
    receiver: &Receiver<Vec<Decided>>,
    begin: Instant,
) -> io::Result<()> {
    loop {
        match receiver.recv_timeout(FLUSH) {
            Ok(batch) => {
                for Decided { time, connection, decision } in &batch {
                    let time = if *time > begin { (*time - begin).as_secs_f64() } else { 0.0 };
                    let line = Line { time, connection: connection.number(), decision };
                    serde_json::to_writer(&mut *file, &line)?;
                    file.write_all(b"\n")?;
                }
            }
            Err(RecvTimeoutError::Timeout) => file.flush()?,
            Err(RecvTimeoutError::Disconnected) => return file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_proto::{ConnectionConfig, Endpoint, EndpointConfig};

    #[test]
    fn each_decision_is_a_line_with_its_fields() {
        let path = std::env::temp_dir().join(format!("mptcp-events-{}", std::process::id()));
        let mut endpoint = Endpoint::new(EndpointConfig::default(), [1; 32]);
        endpoint.watch_decisions(true);
        let begin = Instant::from_nanos(5_000_000_000);
        let (local, remote) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let id = endpoint.connect(begin, local, remote, ConnectionConfig::default()).expect("free");
        endpoint.abort(begin + Duration::from_millis(1500), id);
        let mut log = EventLog::create(&path, begin).expect("a temporary file");
        while let Some(decided) = endpoint.poll_decision() {
            log.push(decided);
        }
        drop(log);
        let text = std::fs::read_to_string(&path).expect("written");
        std::fs::remove_file(&path).expect("mine");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((&lines[0]["event"], lines[0]["unix"].as_f64() > Some(1e9)), (&"log".into(), true));
        let last = lines.last().expect("lines");
        assert_eq!(last["event"], "closed", "{text}");
        assert_eq!((&last["time"], &last["connection"]), (&1.5.into(), &0.into()));
        assert_eq!(last["reason"], "connection aborted");
    }
}
