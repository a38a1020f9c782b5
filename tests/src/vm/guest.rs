//! One guest: a qemu process, what is said to process 1 in it, and what is to be thought of its end.

use super::agent::{Answer, EXIT_BASE, EXIT_PORT, Ended, ORDERS, Orders, Request};
use super::image::Image;
use super::link::Nic;
use crate::data;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Qemu's program.
pub const QEMU: &str = "qemu-system-x86_64";
/// Within this time a guest is up, on a machine that has much else to do.
const BOOT: Duration = Duration::from_secs(180);
/// Within this time process 1 answers.
const ANSWER: Duration = Duration::from_secs(60);

/// The executor of the guests' instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// Qemu.
    Tcg,
}

impl Accelerator {
    fn words(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "qemu64"],
        }
    }
}

/// The parts of a guest.
#[derive(Debug)]
pub struct Spec {
    /// Its name, for messages and as its host name.
    pub name: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Its network cards, in the order of eth0, eth1, …
    pub nics: Vec<Nic>,
    /// Its first command lines.
    pub commands: Vec<String>,
    /// Its own files, by absolute path.
    pub files: Vec<(&'static str, String)>,
    /// More words for the kernel's command line.
    pub kernel_words: &'static str,
}

impl Spec {
    /// A guest with usual memory and no network.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            memory: 512,
            nics: Vec::new(),
            commands: Vec::new(),
            files: Vec::new(),
            kernel_words: "",
        }
    }
}

/// A running guest. Gone when dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    qemu: Mutex<Child>,
    agent: Mutex<Line>,
    monitor: Mutex<Line>,
    console: Arc<Mutex<Vec<u8>>>,
    keyboard: UnixStream,
    /// Plugs stay, so that a card can be taken out and put back.
    nics: Vec<Nic>,
}

/// Lines of text in both directions.
#[derive(Debug)]
struct Line {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Line {
    fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { write: stream.try_clone()?, read: BufReader::new(stream) })
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.write.write_all(format!("{text}\n").as_bytes())
    }

    /// The next line; an empty one if the other side is gone.
    fn hear(&mut self, patience: Duration) -> io::Result<String> {
        self.read.get_ref().set_read_timeout(Some(patience))?;
        let mut text = String::new();
        self.read.read_line(&mut text)?;
        Ok(text)
    }
}

impl Guest {
    /// Starts a guest; it is not up yet.
    pub fn start(image: &Image, accelerator: Accelerator, spec: Spec) -> Result<Self> {
        let orders = Orders { name: spec.name.clone(), commands: spec.commands };
        let orders = serde_json::to_vec(&orders)?;
        let mut files: Vec<(&str, &[u8])> = vec![(ORDERS, &orders)];
        files.extend(spec.files.iter().map(|(path, text)| (*path, text.as_bytes())));
        let mut disk = data::memory_file("initrd")?;
        disk.write_all(&image.with(&files)).context("no memory for a guest's file system")?;
        let (agent, agents) = UnixStream::pair()?;
        let (monitor, monitors) = UnixStream::pair()?;
        let (console, consoles) = UnixStream::pair()?;

        let mut inherited: Vec<RawFd> =
            vec![disk.as_raw_fd(), agents.as_raw_fd(), monitors.as_raw_fd(), consoles.as_raw_fd()];
        inherited.extend(spec.nics.iter().flat_map(|nic| nic.plug.descriptors()));
        let mut command = Command::new(QEMU);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "pc"]);
        command.args(accelerator.words()).args(["-smp", "1", "-m", &spec.memory.to_string()]);
        command.arg("-kernel").arg(&image.kernel.image);
        command.args(["-initrd", &format!("/proc/self/fd/{}", disk.as_raw_fd())]);
        // Qemu's timers work; the kernel's check of them does not, where qemu has to wait for a processor
        // meanwhile.
        command
            .args(["-append", &format!("console=ttyS0 panic=-1 quiet no_timer_check {}", spec.kernel_words)]);
        command.args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1")]);
        command.args(["-device", "virtio-rng-pci"]);
        command.args(["-chardev", &format!("socket,id=console,fd={}", consoles.as_raw_fd())]);
        command.args(["-chardev", &format!("socket,id=agent,fd={}", agents.as_raw_fd())]);
        for line in ["console", "agent"] {
            command.args(["-device", &format!("isa-serial,chardev={line}")]);
        }
        command.args(["-chardev", &format!("socket,id=monitor,fd={}", monitors.as_raw_fd())]);
        command.args(["-mon", "chardev=monitor,mode=control"]);
        for (number, nic) in spec.nics.iter().enumerate() {
            command.args(["-netdev", &nic.plug.netdev(&format!("net{number}"))]);
            command.args(["-device", &device_words(&spec.name, number, nic.properties)]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        // SAFETY: between fork and exec only system calls are made; the descriptors are open in the child as
        // well.
        unsafe {
            command.pre_exec(move || {
                for fd in &inherited {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let mut qemu = command.spawn().with_context(|| format!("can't run {QEMU}"))?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keyboard = console.try_clone()?;
        keep(console, kept.clone());
        if let Some(errors) = qemu.stderr.take() {
            keep(errors, kept.clone());
        }
        Ok(Self {
            name: spec.name,
            qemu: Mutex::new(qemu),
            agent: Mutex::new(Line::new(agent)?),
            monitor: Mutex::new(Line::new(monitor)?),
            console: kept,
            keyboard,
            nics: spec.nics,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the guest is up and has done its first commands; gives its kernel's release.
    pub fn wait_until_up(&self, patience: Option<Duration>) -> Result<String> {
        match self.hear("boot", patience.unwrap_or(BOOT))? {
            Answer::Hello(release) => Ok(release),
            Answer::Failed(reason) => bail!("{}: {reason}", self.name),
            other => bail!("{} says {other:?} instead of hello", self.name),
        }
    }

    /// Starts a program.
    pub fn start_program(&self, words: &[&str]) -> Result<Running<'_>> {
        let name = words.join(" ");
        match self.ask(&Request::Start(words.iter().map(ToString::to_string).collect()))? {
            Answer::Started(number) => {
                Ok(Running { guest: self, number, name, said: String::new(), ended: None })
            }
            other => bail!("{}: `{name}` can't be started: {other:?}", self.name),
        }
    }

    /// Runs a command line to its end, which must be success; gives its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ended = self.start_program(&words)?.finish(ANSWER)?;
        ensure!(ended.code == Some(0), "{}: `{line}`: {ended}", self.name);
        Ok(ended.stdout)
    }

    /// Takes a network card out while the guest runs. Its driver lets go of it first.
    pub fn unplug(&self, number: usize) -> Result<()> {
        let id = format!("nic{number}");
        self.monitor(&json!({"execute": "device_del", "arguments": {"id": id}}))?;
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            let event = self.event(deadline - Instant::now())?;
            if event["event"] == "DEVICE_DELETED" && event["data"]["device"] == id.as_str() {
                return Ok(());
            }
        }
        bail!("{} does not let go of its card {number}", self.name)
    }

    /// The hardware address of a network card, by which the guest finds it whatever its name.
    pub fn hardware_address(&self, number: usize) -> String {
        hardware_address(&self.name, number)
    }

    /// Puts a network card back.
    pub fn plug(&self, number: usize) -> Result<()> {
        let words = device_words(&self.name, number, self.nics[number].properties);
        let (driver, properties) = words.split_once(',').context("no properties")?;
        let mut arguments = json!({"driver": driver});
        for property in properties.split(',') {
            let (name, value) = property.split_once('=').context("a property without a value")?;
            arguments[name] = value.into();
        }
        self.monitor(&json!({"execute": "device_add", "arguments": arguments})).map(drop)
    }

    /// Ends the guest in good order.
    pub fn finish(self) -> Result<()> {
        let text = serde_json::to_string(&Request::Exit(0))?;
        lock(&self.agent).say(&text)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            if let Some(status) = lock(&self.qemu).try_wait()? {
                ensure!(
                    status.code().and_then(exit_code) == Some(0),
                    "{} ended with {status}{}",
                    self.name,
                    self.console_tail()
                );
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} does not end{}", self.name, self.console_tail());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the guest as a power cut would.
    pub fn kill(&self) {
        let mut qemu = lock(&self.qemu);
        // It may have ended by itself; either way it is reaped.
        let _ = qemu.kill();
        let _ = qemu.wait();
    }

    fn ask(&self, request: &Request) -> Result<Answer> {
        let text = serde_json::to_string(request)?;
        // If the guest is gone, hearing nothing says more about it.
        let _ = lock(&self.agent).say(&text);
        self.hear(&format!("{request:?}"), ANSWER)
    }

    fn hear(&self, what: &str, patience: Duration) -> Result<Answer> {
        let heard = lock(&self.agent).hear(patience);
        match heard {
            Ok(text) if text.ends_with('\n') => {
                serde_json::from_str(&text).with_context(|| format!("{} says {text:?}", self.name))
            }
            _ => Err(self.silence(what, patience)),
        }
    }

    /// Why a guest is silent: a panic, a power-off that nobody asked for, or a hang.
    fn silence(&self, what: &str, patience: Duration) -> anyhow::Error {
        // The console's last words may still be under way.
        thread::sleep(Duration::from_millis(200));
        let status = lock(&self.qemu).try_wait().ok().flatten();
        let console = self.console();
        let panic = console.lines().find(|line| line.contains("Kernel panic"));
        let tail = self.console_tail();
        match (panic, status) {
            (Some(line), _) => anyhow!("{}: {line} (at: {what}){tail}", self.name),
            (None, Some(status)) => match status.code().and_then(exit_code) {
                Some(code) => anyhow!("{}: process 1 gave up with code {code} (at: {what}){tail}", self.name),
                None => anyhow!("{}: powered off early, {status} (at: {what}){tail}", self.name),
            },
            (None, None) => anyhow!("{}: hangs: no answer within {patience:?} (at: {what}){tail}", self.name),
        }
    }

    /// The console's text after the first `from` bytes.
    pub fn console_from(&self, from: usize) -> Vec<u8> {
        lock(&self.console).get(from..).unwrap_or_default().to_vec()
    }

    /// Types something on the console.
    pub fn type_on_console(&self, octets: &[u8]) -> Result<()> {
        (&self.keyboard).write_all(octets).with_context(|| format!("{} takes no input", self.name))
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&lock(&self.console)).into_owned()
    }

    fn console_tail(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(25)..].iter().fold(String::new(), |mut text, line| {
            let _ = write!(text, "\n    {}: {line}", self.name);
            text
        })
    }

    /// Gives qemu an order and waits until it is taken.
    fn monitor(&self, order: &Value) -> Result<Value> {
        let mut line = lock(&self.monitor);
        let mut exchange = |order: &Value| -> Result<Value> {
            line.say(&order.to_string())?;
            loop {
                let answer: Value = serde_json::from_str(&line.hear(ANSWER)?).context("qemu is gone")?;
                if let Some(error) = answer.get("error") {
                    bail!("qemu refuses {order}: {error}");
                }
                if let Some(value) = answer.get("return") {
                    return Ok(value.clone());
                }
            }
        };
        // Harmless after the first time: qemu only says that it has been done.
        let _ = exchange(&json!({"execute": "qmp_capabilities"}));
        exchange(order)
    }

    fn event(&self, patience: Duration) -> Result<Value> {
        let text = lock(&self.monitor).hear(patience).context("no news from qemu")?;
        serde_json::from_str(&text).context("qemu is gone")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program in a guest.
#[derive(Debug)]
pub struct Running<'g> {
    guest: &'g Guest,
    number: u32,
    name: String,
    said: String,
    ended: Option<Ended>,
}

impl Running<'_> {
    /// Waits until its standard error has `text`.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let running = self.is_running()?;
            if self.said.contains(text) {
                return Ok(());
            }
            let what = format!("{}: `{}`", self.guest.name, self.name);
            ensure!(running, "{what} ended before it said {text:?}:\n{}", self.said);
            ensure!(
                Instant::now() < deadline,
                "{what} did not say {text:?} within {patience:?}:\n{}",
                self.said
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            match self.guest.ask(&Request::Look(self.number, self.said.len()))? {
                Answer::Running(new) => self.said.push_str(&new),
                Answer::Ended(ended) => {
                    self.said.clone_from(&ended.stderr);
                    self.ended = Some(ended);
                }
                other => bail!("{}: `{}`: {other:?}", self.guest.name, self.name),
            }
        }
        Ok(self.ended.is_none())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match self.guest.ask(&Request::Signal(self.number, signal))? {
            Answer::Sent => Ok(()),
            other => bail!("{}: `{}`: {other:?}", self.guest.name, self.name),
        }
    }

    /// Waits for its end.
    pub fn finish(mut self, patience: Duration) -> Result<Ended> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(5);
        while self.is_running()? {
            ensure!(
                Instant::now() < deadline,
                "{}: `{}` still runs after {patience:?}; it has said:\n{}",
                self.guest.name,
                self.name,
                self.said
            );
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
        self.ended.context("a program that does not run has ended")
    }
}

impl Ended {
    /// The last line of standard error that is a JSON object, which is where `mptcp --json` leaves its
    /// statistics.
    pub fn json(&self) -> Result<Value> {
        let line = self.stderr.lines().rev().find(|line| line.starts_with('{'));
        serde_json::from_str(line.with_context(|| format!("no statistics: {self}"))?).context("not JSON")
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "exit code {code}")?,
            None => f.write_str("ended by a signal")?,
        }
        let text = [self.stdout.trim_end(), self.stderr.trim_end()].join("\n");
        write!(f, ": {}", text.trim())
    }
}

/// It says whose and which card it is.
fn hardware_address(guest: &str, number: usize) -> String {
    let name = guest.bytes().fold(0u8, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet));
    format!("02:4d:50:{name:02x}:00:{number:02x}")
}

/// Qemu's words for a card.
fn device_words(guest: &str, number: usize, properties: &str) -> String {
    let address = hardware_address(guest, number);
    let mut words = format!("virtio-net-pci,netdev=net{number},id=nic{number},mac={address},romfile=");
    if !properties.is_empty() {
        words.push(',');
        words.push_str(properties);
    }
    words
}

/// The code that process 1 ended with, from qemu's exit status; none if it was not process 1 that ended the
/// guest.
fn exit_code(status: i32) -> Option<u8> {
    // isa-debug-exit: twice the octet, plus one.
    let octet = u8::try_from(status >> 1).ok().filter(|_| status & 1 == 1)?;
    octet.checked_sub(EXIT_BASE)
}

/// Keeps all that a reader gives, on a thread of its own.
fn keep(mut reader: impl Read + Send + 'static, kept: Arc<Mutex<Vec<u8>>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(octets @ 1..) = reader.read(&mut buffer) {
            lock(&kept).extend_from_slice(&buffer[..octets]);
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_process_1_ends_a_guest_with_a_code() {
        // A power-off, a kill of qemu, and a stray octet on the port.
        for status in [0, 1, 137] {
            assert_eq!(exit_code(status).filter(|&code| code == 0), None, "{status}");
        }
        assert_eq!(exit_code(33), Some(0));
        assert_eq!(exit_code(35), Some(1));
    }

    #[test]
    fn cards_of_different_guests_have_different_addresses() {
        let left = device_words("left", 0, "");
        assert_ne!(left.replace("left", ""), device_words("right", 0, ""));
        assert!(device_words("left", 1, "mq=on").ends_with("romfile=,mq=on"));
    }
}
