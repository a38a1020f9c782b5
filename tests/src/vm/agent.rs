//! The inside of a guest: process 1, and its dialogue with the host.
//!
//! Each line on the guest's second serial line is a [`Request`] or an [`Answer`] in JSON, one answer to each
//! request, in order. Nothing here waits: the host asks again until a process has ended.

use crate::process::Process;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where a guest finds its [`Orders`].
pub const ORDERS: &str = "/orders.json";
/// Port of qemu's `isa-debug-exit`.
pub const EXIT_PORT: u16 = 0xf4;
/// Added to exit codes, so that a power-off, or a stray octet on the port, is not taken for success.
pub const EXIT_BASE: u8 = 16;

/// The work of a guest before it says hello.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Orders {
    /// Name of the host.
    pub name: String,
    /// Command lines, each of which must succeed.
    pub commands: Vec<String>,
}

/// A request of the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Start a program.
    Start(Vec<String>),
    /// How a program is doing, and what it has said after so many octets. (Each octet on the line takes the
    /// guest a good part of its processor's time while a program is measured there.)
    Look(u32, usize),
    /// Send a program a signal.
    Signal(u32, i32),
    /// End the guest, with this code.
    Exit(u8),
}

/// An answer of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The guest is up; its kernel's release. Said once, unasked.
    Hello(String),
    /// The program was started, and has this number from now on.
    Started(u32),
    /// The program runs; the new part of its standard error.
    Running(String),
    /// The program has ended, and its number is free.
    Ended(Ended),
    /// The signal was sent.
    Sent,
    /// It could not be done.
    Failed(String),
}

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// The part of a text that has not been sent, as much as the line can take at once.
fn news(text: &str, heard: usize) -> &str {
    const MOST: usize = 32 << 10;
    // A character that had come in part has another length now.
    let start = (heard.min(text.len())..text.len()).find(|&start| text.is_char_boundary(start));
    let new = &text[start.unwrap_or(text.len())..];
    let end = (0..=new.len().min(MOST)).rev().find(|&end| new.is_char_boundary(end));
    &new[..end.unwrap_or_default()]
}

/// The last octets of a text, since the line is slow.
fn tail(text: &str) -> String {
    const MOST: usize = 32 << 10;
    let start = (text.len().saturating_sub(MOST)..text.len()).find(|&start| text.is_char_boundary(start));
    text[start.unwrap_or(text.len())..].to_owned()
}

/// Process 1. Never returns: the guest ends here.
pub fn init() -> ! {
    let code = match serve() {
        Ok(code) => code,
        Err(error) => {
            // To the console, whatever else is broken.
            eprintln!("vm-agent: {error:#}");
            1
        }
    };
    exit(code)
}

fn serve() -> Result<u8> {
    mount()?;
    let orders: Orders = serde_json::from_str(&fs::read_to_string(ORDERS).context("no orders")?)?;
    fs::write("/proc/sys/kernel/hostname", &orders.name)?;
    // Messages of drivers and of `tc` in the middle of the console help nobody; panics are still shown.
    fs::write("/proc/sys/kernel/printk", "2")?;
    let done = orders.commands.iter().try_for_each(|line| succeed(line));
    let line = serial_line(Path::new("/dev/ttyS1"))?;
    let mut answers = line.try_clone()?;
    let mut say = |answer: &Answer| -> Result<()> {
        let mut text = serde_json::to_string(answer)?;
        text.push('\n');
        Ok(answers.write_all(text.as_bytes())?)
    };
    if let Err(error) = done {
        say(&Answer::Failed(format!("{error:#}")))?;
        return Ok(1);
    }
    say(&Answer::Hello(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()))?;
    let mut processes = Processes::default();
    for request in BufReader::new(line).lines() {
        let answer = match serde_json::from_str(&request.context("the host is gone")?)? {
            Request::Exit(code) => return Ok(code),
            request => processes.answer(request).unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))),
        };
        say(&answer)?;
    }
    bail!("the host is gone")
}

/// Programs that were started and not seen to end.
#[derive(Default)]
struct Processes {
    running: BTreeMap<u32, Process>,
    next: u32,
}

impl Processes {
    fn answer(&mut self, request: Request) -> Result<Answer> {
        match request {
            Request::Start(words) => {
                let (program, words) = words.split_first().context("no program")?;
                let mut command = Command::new(program);
                let process = Process::start(command.args(words).stdin(Stdio::null()), true)?;
                self.next += 1;
                self.running.insert(self.next, process);
                Ok(Answer::Started(self.next))
            }
            Request::Look(number, heard) => {
                let process = self.running.get_mut(&number).context("no such program")?;
                if process.is_running() {
                    return Ok(Answer::Running(news(&process.stderr(), heard).to_owned()));
                }
                let process = self.running.remove(&number).context("no such program")?;
                let finished = process.finish(std::time::Duration::from_secs(5))?;
                Ok(Answer::Ended(Ended {
                    code: finished.status.code(),
                    stdout: tail(&String::from_utf8_lossy(&finished.stdout)),
                    stderr: tail(&finished.stderr),
                }))
            }
            Request::Signal(number, signal) => {
                self.running.get(&number).context("no such program")?.signal(signal);
                Ok(Answer::Sent)
            }
            Request::Exit(_) => bail!("not a matter of programs"),
        }
    }
}

/// The file systems that every program expects.
fn mount() -> Result<()> {
    for (kind, target) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")]
    {
        let (kind, target) = (CString::new(kind)?, CString::new(target)?);
        // SAFETY: strings that end in a zero; no data.
        let failed =
            unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
        // The kernel may have mounted /dev itself.
        if failed != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EBUSY) {
            return Err(io::Error::last_os_error()).with_context(|| format!("can't mount {target:?}"));
        }
    }
    Ok(())
}

/// Runs a command line to its end.
fn succeed(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't run `{line}`"))?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Opens a terminal and makes it pass all octets as they are.
fn serial_line(path: &Path) -> Result<File> {
    let line =
        File::options().read(true).write(true).open(path).with_context(|| format!("can't open {path:?}"))?;
    // SAFETY: termios is plain old data, written before it is read; the descriptor is open.
    let failed = unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        let asked = libc::tcgetattr(line.as_raw_fd(), &raw mut settings);
        libc::cfmakeraw(&raw mut settings);
        libc::cfsetspeed(&raw mut settings, libc::B115200);
        asked != 0 || libc::tcsetattr(line.as_raw_fd(), libc::TCSANOW, &raw const settings) != 0
    };
    ensure!(!failed, "can't set up {}: {}", path.display(), io::Error::last_os_error());
    Ok(line)
}

/// Ends the guest so that qemu's exit status tells the code.
fn exit(code: u8) -> ! {
    // SAFETY: this process is root's in a machine of its own, whose only device at that port ends it.
    unsafe {
        libc::ioperm(libc::c_ulong::from(EXIT_PORT), 1, 1);
        std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") EXIT_BASE + code, options(nomem, nostack));
    }
    // Only if there is no such device.
    loop {
        // SAFETY: no pointers.
        unsafe { libc::reboot(libc::RB_POWER_OFF) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(processes: &mut Processes, request: Request) -> Answer {
        processes.answer(request).unwrap()
    }

    #[test]
    fn a_program_is_started_looked_at_and_forgotten() {
        let mut processes = Processes::default();
        let words = ["sh", "-c", "echo said >&2; sleep 20"].map(str::to_owned).to_vec();
        let Answer::Started(number) = ask(&mut processes, Request::Start(words)) else {
            panic!("not started")
        };
        assert!(matches!(ask(&mut processes, Request::Look(number, 0)), Answer::Running(_)));
        assert_eq!(ask(&mut processes, Request::Signal(number, libc::SIGTERM)), Answer::Sent);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let ended = loop {
            match ask(&mut processes, Request::Look(number, 0)) {
                Answer::Ended(ended) => break ended,
                _ => assert!(std::time::Instant::now() < deadline, "a terminated program ends"),
            }
        };
        assert_eq!(ended.code, None);
        assert!(processes.answer(Request::Look(number, 0)).is_err());
    }

    #[test]
    fn what_was_heard_is_not_said_again() {
        assert_eq!(news("first, second", 7), "second");
        assert_eq!(news("first", 5), "");
        assert_eq!(news("first", 6), "");
        let long = "é".repeat(20_000);
        let (mut heard, mut rounds) = (String::new(), 0);
        while heard.len() < long.len() {
            let new = news(&long, heard.len());
            assert!(!new.is_empty() && new.len() <= 32 << 10);
            heard.push_str(new);
            rounds += 1;
        }
        assert_eq!((heard, rounds), (long, 2));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(tail("short"), "short");
        let long = "é".repeat(20_000);
        let cut = tail(&format!("x{long}"));
        assert!(cut.len() <= 32 << 10 && cut.chars().all(|character| character == 'é'));
    }
}
