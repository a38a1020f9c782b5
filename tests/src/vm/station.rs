//! Where programs run: a guest, or a namespace of this machine.

use super::agent::Ended;
use super::guest::{Guest, Running};
use super::image::Programs;
use crate::data;
use crate::netns::Namespace;
use crate::process::Process;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Within this time a small command has ended.
const SMALL: Duration = Duration::from_secs(60);

/// A place with programs, files and interfaces of its own.
pub trait Station: Sync {
    /// Starts a program: one of Debian's, "mptcp" or "vm-agent".
    fn start(&self, words: &[&str]) -> Result<Box<dyn Program + '_>>;

    /// Path of a file with this name, for programs there.
    fn file(&self, name: &str) -> Result<String>;

    /// For messages.
    fn name(&self) -> &str;

    /// Runs a command line to its end, which must be success; gives its standard output.
    fn run(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ended = self.start(&words)?.finish(SMALL)?;
        ensure!(ended.code == Some(0), "{}: `{line}`: {ended}", self.name());
        Ok(ended.stdout)
    }
}

/// A running program.
pub trait Program {
    /// Waits until its standard error has `text`.
    fn wait_for(&mut self, text: &str, patience: Duration) -> Result<()>;
    /// Whether it still runs.
    fn is_running(&mut self) -> Result<bool>;
    /// Sends it a signal.
    fn signal(&self, signal: i32) -> Result<()>;
    /// Waits for its end.
    fn finish(self: Box<Self>, patience: Duration) -> Result<Ended>;
}

impl Station for Guest {
    fn start(&self, words: &[&str]) -> Result<Box<dyn Program + '_>> {
        Ok(Box::new(self.start_program(words)?))
    }

    fn file(&self, name: &str) -> Result<String> {
        Ok(format!("/tmp/{name}"))
    }

    fn name(&self) -> &str {
        Guest::name(self)
    }
}

impl Program for Running<'_> {
    fn wait_for(&mut self, text: &str, patience: Duration) -> Result<()> {
        Running::wait_for(self, text, patience)
    }

    fn is_running(&mut self) -> Result<bool> {
        Running::is_running(self)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        Running::signal(self, signal)
    }

    fn finish(self: Box<Self>, patience: Duration) -> Result<Ended> {
        Running::finish(*self, patience)
    }
}

/// A namespace of this machine, whose files are in memory.
#[derive(Debug)]
pub struct HostStation<'a> {
    /// The namespace.
    pub namespace: Namespace,
    programs: &'a Programs,
    files: Mutex<Vec<(String, File)>>,
}

impl<'a> HostStation<'a> {
    /// A new namespace.
    pub fn new(programs: &'a Programs) -> Result<Self> {
        Ok(Self { namespace: Namespace::new("host")?, programs, files: Mutex::default() })
    }
}

impl Station for HostStation<'_> {
    fn start(&self, words: &[&str]) -> Result<Box<dyn Program + '_>> {
        let (program, words) = words.split_first().context("no program")?;
        let mut command = match *program {
            "mptcp" => self.namespace.command(&self.programs.mptcp),
            "vm-agent" => self.namespace.command(&self.programs.agent),
            other => self.namespace.command(other),
        };
        Ok(Box::new(Process::start(command.args(words), true)?))
    }

    fn file(&self, name: &str) -> Result<String> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match files.iter().position(|(known, _)| known == name) {
            Some(index) => index,
            None => {
                files.push((name.to_owned(), data::memory_file(name)?));
                files.len() - 1
            }
        };
        Ok(data::path_of(&files[index].1).to_string_lossy().into_owned())
    }

    fn name(&self) -> &str {
        self.namespace.label()
    }
}

impl Program for Process {
    fn wait_for(&mut self, text: &str, patience: Duration) -> Result<()> {
        Process::wait_for(self, text, patience)
    }

    fn is_running(&mut self) -> Result<bool> {
        Ok(Process::is_running(self))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        Process::signal(self, signal);
        Ok(())
    }

    fn finish(self: Box<Self>, patience: Duration) -> Result<Ended> {
        let finished = Process::finish(*self, patience)?;
        Ok(Ended {
            code: finished.status.code(),
            stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
            stderr: finished.stderr,
        })
    }
}
