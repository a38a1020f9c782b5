//! Reports of running processes, through `mptcp ss` and `mptcp counters`.

use crate::ours::PATIENCE;
use crate::process::{Finished, Process, mptcp_binary};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A directory of control sockets of a test's own, so that it sees the processes it has started and no
/// others. Removed on drop.
#[derive(Debug)]
pub struct Runtime(PathBuf);

impl Runtime {
    /// A directory whose name contains this one. It is made by the first process that needs it.
    pub fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("mptcp-{name}-{}", std::process::id())))
    }

    /// Lets a command use the directory.
    pub fn set<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("MPTCP_RUNTIME_DIR", &self.0)
    }

    /// Runs `mptcp` with these words.
    ///
    /// # Panics
    /// When it does not end.
    pub fn run(&self, words: &[&str]) -> Finished {
        let mut command = Command::new(mptcp_binary());
        let process = Process::start(self.set(command.args(words)), true);
        process.and_then(|process| process.finish(PATIENCE)).expect("a question is answered")
    }

    /// Runs `mptcp` with these words, of which one asks for JSON.
    ///
    /// # Panics
    /// When that fails.
    pub fn json(&self, words: &[&str]) -> Value {
        let finished = self.run(words);
        assert!(finished.status.success(), "{}", finished.stderr);
        serde_json::from_slice(&finished.stdout).expect("JSON")
    }

    /// Asks until the answer is the one expected.
    ///
    /// # Panics
    /// When it never is.
    pub fn eventually(&self, words: &[&str], expected: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.json(words);
            if expected(&value) {
                return value;
            }
            assert!(Instant::now() < deadline, "never came: {value:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many sockets there are.
    pub fn sockets(&self) -> usize {
        std::fs::read_dir(&self.0).map_or(0, Iterator::count)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
