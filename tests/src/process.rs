//! Programs under test: started, watched, and ended whatever happens.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The `mptcp` command: `$MPTCP_BIN` when set, else built here (once per process) with the profile of the
/// tests.
pub fn mptcp_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("MPTCP_BIN") {
            return path.into();
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--profile", "test", "--package", "mptcp-cli", "--bin", "mptcp"])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "building the mptcp command failed");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
            .find(|path| path.file_name().is_some_and(|name| name == "mptcp"))
            .expect("cargo names the executable it built")
    })
}

/// A copy of a program that any user may run, wherever the original lies: its path is good for programs that
/// this process starts.
pub fn for_anyone(program: &Path) -> Result<PathBuf> {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = COPY.get() {
        return Ok(path.clone());
    }
    let mut copy = crate::data::memory_file("program")?;
    std::io::copy(&mut File::open(program)?, &mut copy).context("can't copy a program")?;
    // A file that is open for writing can't be executed.
    let readable = File::open(crate::data::path_of(&copy))?;
    drop(copy);
    // SAFETY: duplicates an open descriptor; the new one, without close-on-exec, is kept for good on purpose.
    let fd = unsafe { libc::fcntl(readable.as_raw_fd(), libc::F_DUPFD, 100) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("can't keep a program open");
    }
    Ok(COPY.get_or_init(|| format!("/proc/self/fd/{fd}").into()).clone())
}

/// A running program. Killed on drop if it still runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

/// The result of a program.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, unless it went elsewhere.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The last line of standard error that is a JSON object, which is where `mptcp --json` leaves its
    /// statistics.
    pub fn json(&self) -> Result<serde_json::Value> {
        let line = self.stderr.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("no statistics on standard error:\n{}", self.stderr))?;
        serde_json::from_str(line).context("statistics are not JSON")
    }
}

impl Process {
    /// Starts a command; its standard error is kept, its standard output too if it is left at its default.
    pub fn start(command: &mut Command, keep_stdout: bool) -> Result<Self> {
        let name =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        if keep_stdout {
            command.stdout(Stdio::piped());
        }
        let mut child =
            command.stderr(Stdio::piped()).spawn().with_context(|| format!("can't start {command:?}"))?;
        let kept = if keep_stdout { child.stdout.take() } else { None };
        let stdout = kept.map(|mut pipe| {
            thread::spawn(move || {
                let mut all = Vec::new();
                // The text before an error is still worth showing.
                let _ = pipe.read_to_end(&mut all);
                all
            })
        });
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stderr_reader = child.stderr.take().map(|mut pipe| {
            let stderr = stderr.clone();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(octets @ 1..) = pipe.read(&mut buffer) {
                    stderr.lock().expect("no panic while locked").extend_from_slice(&buffer[..octets]);
                }
            })
        });
        Ok(Self { child, name, stdout, stderr, stderr_reader })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to the program's standard input, if it was made one.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The pipe from the program's standard output, if it was made one and is not kept.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes no pointer; the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("no panic while locked")).into_owned()
    }

    /// Waits until standard error contains `text`.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if self.stderr().contains(text) {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if self.stderr().contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                thread::sleep(Duration::from_millis(50));
                bail!("{} ended ({status}) before it said {text:?}:\n{}", self.name, self.stderr());
            }
            if Instant::now() > deadline {
                bail!("{} did not say {text:?} within {patience:?}:\n{}", self.name, self.stderr());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it has ended with another exit code than 0.
    pub fn has_failed(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if !status.success())
    }

    /// Waits for the end; kills and fails after `patience`.
    pub fn finish(mut self, patience: Duration) -> Result<Finished> {
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                let stderr = self.stderr();
                bail!("{} still runs after {patience:?}; killed. Its standard error:\n{stderr}", self.name);
            }
            thread::sleep(Duration::from_millis(2));
        };
        let stdout = self.stdout.take().map(|reader| reader.join().expect("reader does not panic"));
        if let Some(reader) = self.stderr_reader.take() {
            reader.join().expect("reader does not panic");
        }
        Ok(Finished { status, stdout: stdout.unwrap_or_default(), stderr: self.stderr() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may have ended in between; either way it is reaped.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
