//! The stage of a scenario: two namespaces with the case's links, this stack's command at one end, a socket
//! of the kernel's at the other.

use super::case::{Case, Outcome, Variant, Who};
use super::end::{Inbox, Outbox};
use crate::counters::Counters;
use crate::kernel::{self, Protocol};
use crate::lab::{Lab, LinkPlan, Side};
use crate::netns::Namespace;
use crate::ours::{PATIENCE, PORT};
use crate::process::{Process, mptcp_binary};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Time within which the kernel's counters and states have followed.
const SOON: Duration = Duration::from_secs(5);

/// This stack's end.
struct Ours {
    process: Process,
    outbox: Mutex<Outbox>,
    inbox: Inbox,
}

/// The kernel's end.
struct Kernel {
    /// None once it is closed.
    stream: Option<TcpStream>,
    outbox: Mutex<Outbox>,
    inbox: Inbox,
}

/// Everything of one case.
pub struct World {
    case: Case,
    /// Namespaces and links.
    pub lab: Lab,
    /// Stays open: the kernel takes subflows only where it listens.
    listener: Option<TcpListener>,
    ours: Option<Ours>,
    kernel: Option<Kernel>,
    /// Counters that may say that something went wrong, since the scenario makes it go wrong.
    tolerated: Vec<&'static str>,
    /// The result of this stack's command.
    statistics: serde_json::Value,
    /// Writes the packets at the kernel's end to `$MPTCP_INTEROP_CAPTURE`, if that is set.
    _capture: Option<Process>,
}

impl World {
    /// Namespaces and links as the case wants them. The calling thread must outlive the case.
    pub fn new(case: Case) -> Result<Self> {
        let plan = |(number, words): (usize, &&'static [&'static str])| LinkPlan {
            families: vec![case.variant.families.of_link(number)],
            emulator: (!words.is_empty()).then(|| words.to_vec()),
        };
        let lab = Lab::of_links(&(1..).zip(case.row.links).map(plan).collect::<Vec<_>>())?;
        let mut world = Self {
            case,
            lab,
            listener: None,
            ours: None,
            kernel: None,
            tolerated: Vec::new(),
            statistics: serde_json::Value::Null,
            _capture: None,
        };
        if let Some(path) = std::env::var_os("MPTCP_INTEROP_CAPTURE") {
            let mut command = world.namespace(Who::Kernel).command("dumpcap");
            for link in 1..=world.lab.links() {
                command.args(["-i", &world.interface(Who::Kernel, link)]);
            }
            let mut capture = Process::start(command.arg("-w").arg(path), true)?;
            capture.wait_for("File:", SOON)?;
            world._capture = Some(capture);
        }
        let kernel = world.namespace(Who::Kernel);
        kernel.mptcp_limits(0, 0)?;
        if case.variant.checksum.by_the_kernel() {
            kernel.sysctl("net.mptcp.checksum_enabled", "1")?;
        }
        Ok(world)
    }

    /// The variant that is run.
    pub fn variant(&self) -> Variant {
        self.case.variant
    }

    /// Whether this stack connects.
    pub fn we_connect(&self) -> bool {
        self.variant().client == Who::Ours
    }

    /// Octets in each direction.
    pub fn size(&self) -> u64 {
        self.variant().size
    }

    /// On which side somebody is: the client is on the left.
    pub fn side(&self, who: Who) -> Side {
        if who == self.variant().client { Side::Left } else { Side::Right }
    }

    /// Somebody's namespace.
    pub fn namespace(&self, who: Who) -> &Namespace {
        self.lab.namespace(self.side(who))
    }

    /// Somebody's address on a link.
    pub fn address(&self, who: Who, link: usize) -> IpAddr {
        self.side(who).address(link, self.variant().families.of_link(link))
    }

    /// Somebody's address on a link with its prefix length.
    pub fn prefix(&self, who: Who, link: usize) -> String {
        let address = self.address(who, link);
        format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
    }

    /// Somebody's interface on a link.
    pub fn interface(&self, who: Who, link: usize) -> String {
        self.side(who).interface(link)
    }

    /// Limits of the kernel's path manager: further subflows, and addresses taken from announcements.
    pub fn limits(&self, subflows: u32, accepted: u32) -> Result<()> {
        self.namespace(Who::Kernel).mptcp_limits(subflows, accepted)
    }

    /// An endpoint of the kernel's path manager at its address on a link; its identifier is the link's
    /// number.
    pub fn endpoint(&self, link: usize, flags: &str) -> Result<()> {
        let (address, interface) = (self.address(Who::Kernel, link), self.interface(Who::Kernel, link));
        let words = format!("mptcp endpoint add {address} dev {interface} id {link} {flags}");
        self.namespace(Who::Kernel).ip(&words).map(drop)
    }

    /// Any other `ip mptcp` command.
    pub fn path_manager(&self, words: &str) -> Result<String> {
        self.namespace(Who::Kernel).ip(&format!("mptcp {words}"))
    }

    /// Makes each of the peer's addresses reachable over every link, on both sides.
    pub fn route_everywhere(&self) -> Result<()> {
        for who in [Who::Ours, Who::Kernel] {
            for link in 1..=self.lab.links() {
                let (gateway, interface) = (self.address(who.other(), link), self.interface(who, link));
                let family = if gateway.is_ipv4() { "-4" } else { "-6" };
                self.namespace(who).ip(&format!(
                    "{family} route add default via {gateway} dev {interface} metric {}",
                    100 + link
                ))?;
            }
        }
        Ok(())
    }

    /// Lets counters move that say that something went wrong.
    pub fn tolerate(&mut self, names: &[&'static str]) {
        self.tolerated.extend(names);
    }

    /// Starts both ends and returns when the connection is established.
    pub fn connect(&mut self) -> Result<()> {
        self.connect_with(&[])
    }

    /// [`connect`](Self::connect) with further words for this stack's command.
    pub fn connect_with(&mut self, words: &[&str]) -> Result<()> {
        let target = SocketAddr::new(self.address(self.variant().client.other(), 1), PORT);
        let mut all: Vec<&str> = self.case.row.words.iter().chain(words).copied().collect();
        if self.variant().checksum.by_us() {
            all.push("--checksum");
        }
        let mut command = self.namespace(Who::Ours).command(mptcp_binary());
        command.args(["-v", if self.we_connect() { "connect" } else { "listen" }, "--json", "--quiet"]);
        command.args(all).arg(if self.we_connect() { target.to_string() } else { PORT.to_string() });
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (process, stream) = if self.we_connect() {
            // An unspecified IPv6 address listens on both families; where there is one only, so does the
            // listener.
            let any = if self.variant().families.mixed() {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            } else {
                self.variant().families.of_link(1).any()
            };
            let kernel = self.namespace(Who::Kernel);
            let listener = kernel::listen(kernel, Protocol::Mptcp, SocketAddr::new(any, PORT))?;
            let mut process = Process::start(&mut command, false)?;
            let stream = match kernel::accept(&listener, PATIENCE) {
                Ok(stream) => stream,
                Err(error) => {
                    // It says why.
                    let _ = process.wait_for("connected", Duration::ZERO);
                    return Err(error.context(process.stderr()));
                }
            };
            self.listener = Some(listener);
            stream.set_write_timeout(Some(PATIENCE))?;
            (process, stream)
        } else {
            let mut process = Process::start(&mut command, false)?;
            process.wait_for("listening on", PATIENCE)?;
            // Only a socket of the younger family can have subflows of both.
            let target = match target.ip() {
                IpAddr::V4(v4) if self.variant().families.mixed() => {
                    SocketAddr::new(v4.to_ipv6_mapped().into(), PORT)
                }
                _ => target,
            };
            let stream =
                kernel::connect(self.namespace(Who::Kernel), Protocol::Mptcp, None, target, PATIENCE)?;
            (process, stream)
        };
        self.begin(process, stream)
    }

    fn begin(&mut self, mut process: Process, stream: TcpStream) -> Result<()> {
        let stdin = process.take_stdin().context("a pipe to the command")?;
        let stdout = process.take_stdout().context("a pipe from the command")?;
        self.ours =
            Some(Ours { process, outbox: Mutex::new(Outbox::new(1, stdin)), inbox: Inbox::new(stdout) });
        // Its reader looks up as often, and lets go of the socket when that is to be closed.
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        self.kernel = Some(Kernel {
            outbox: Mutex::new(Outbox::new(2, stream.try_clone()?)),
            inbox: Inbox::new(stream.try_clone()?),
            stream: Some(stream),
        });
        Ok(())
    }

    fn ours(&self) -> Result<&Ours> {
        self.ours.as_ref().context("not connected")
    }

    fn kernel(&self) -> Result<&Kernel> {
        self.kernel.as_ref().context("not connected")
    }

    /// The kernel's socket.
    pub fn stream(&self) -> Result<&TcpStream> {
        self.kernel()?.stream.as_ref().context("the kernel's end is closed")
    }

    fn outbox(&self, who: Who) -> Result<&Mutex<Outbox>> {
        Ok(if who == Who::Ours { &self.ours()?.outbox } else { &self.kernel()?.outbox })
    }

    fn inbox(&self, who: Who) -> Result<&Inbox> {
        Ok(if who == Who::Ours { &self.ours()?.inbox } else { &self.kernel()?.inbox })
    }

    /// Octets that somebody has read so far.
    pub fn received(&self, who: Who) -> Result<u64> {
        Ok(self.inbox(who)?.octets())
    }

    /// Somebody writes so many octets and the other one reads them.
    pub fn send(&self, from: Who, octets: u64) -> Result<()> {
        match from {
            Who::Ours => self.exchange_while(octets, 0, |_| Ok(())),
            Who::Kernel => self.exchange_while(0, octets, |_| Ok(())),
        }
    }

    /// The case's size in both directions at once.
    pub fn exchange(&self) -> Result<()> {
        self.exchange_while(self.size(), self.size(), |_| Ok(()))
    }

    /// An octet in each direction, ours first: afterwards both ends know that the handshake is complete.
    pub fn greet(&self) -> Result<()> {
        self.send(Who::Ours, 1)?;
        self.send(Who::Kernel, 1)
    }

    /// Somebody writes a text, which the other one reads as another.
    pub fn say(&self, from: Who, text: &str, arrives: &str) -> Result<()> {
        let mut outbox = self.outbox(from)?.lock().expect("no panic while locked");
        outbox.say(text, arrives)?;
        self.inbox(from.other())?.wait_for(outbox.sum().0, PATIENCE)
    }

    /// Writes so many octets from this stack and from the kernel, and does something meanwhile; returns when
    /// all has been read.
    pub fn exchange_while(
        &self,
        from_ours: u64,
        from_kernel: u64,
        meanwhile: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        thread::scope(|scope| {
            let mut writers = Vec::new();
            let mut expected = Vec::new();
            for (who, octets) in [(Who::Ours, from_ours), (Who::Kernel, from_kernel)] {
                let outbox = self.outbox(who)?;
                expected.push((who, outbox.lock().expect("no panic while locked").sum().0 + octets));
                writers.push(scope.spawn(move || {
                    let sent = outbox.lock().expect("no panic while locked").send(octets);
                    sent.with_context(|| format!("{who:?} can't write"))
                }));
            }
            let mut outcome = meanwhile(self);
            for (from, total) in expected {
                let arrived = self.inbox(from.other()).and_then(|inbox| inbox.wait_for(total, PATIENCE));
                outcome = outcome.and(arrived.with_context(|| format!("what {from:?} sent")));
            }
            if let Err(error) = outcome {
                outcome = Err(error.context(self.both_ends()));
                self.give_up();
            }
            for writer in writers {
                outcome = outcome.and(writer.join().expect("writers don't panic"));
            }
            outcome
        })
    }

    /// A side writes while `meanwhile` runs. The fate of its bytes is of no interest.
    pub fn flood_while(&self, from: Who, meanwhile: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        thread::scope(|scope| {
            let outbox = self.outbox(from)?;
            let writer = scope.spawn(move || outbox.lock().expect("no panic while locked").send(1 << 40));
            let begun = self.inbox(from.other())?.wait_for(1, PATIENCE);
            let outcome = begun.and_then(|()| meanwhile(self));
            if outcome.is_err() {
                self.give_up();
            }
            let written = writer.join().expect("writers don't panic");
            ensure!(written.is_err(), "the connection goes on");
            outcome
        })
    }

    /// The state of both ends, for the report of a connection that does not go on.
    fn both_ends(&self) -> String {
        let said = |name: &str, mut command: Command| {
            let output = command.stdin(Stdio::null()).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            format!("{name}:\n{}\n", text.unwrap_or_else(|error| error.to_string()))
        };
        let mut report = String::new();
        if let Some(ours) = &self.ours {
            let mut command = Command::new(mptcp_binary());
            command.args(["ss", "--json", "--pid", &ours.process.id().to_string()]);
            report += &said("this stack's end", command);
        }
        for words in [["-taeino", "state", "connected"], ["-Mtaine", "state", "connected"]] {
            let mut command = self.namespace(Who::Kernel).command("ss");
            command.args(words);
            report += &said("the kernel's end", command);
        }
        report
    }

    /// Makes both ends fail, so that nobody waits for ever.
    fn give_up(&self) {
        if let Some(ours) = &self.ours {
            ours.process.signal(libc::SIGKILL);
        }
        if let Some(stream) = self.kernel.as_ref().and_then(|kernel| kernel.stream.as_ref()) {
            // It may be over already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Somebody has nothing more to send.
    pub fn close(&self, who: Who) -> Result<()> {
        self.outbox(who)?.lock().expect("no panic while locked").close();
        if who == Who::Kernel {
            // It fails where the peer has reset the connection, which the reader will say.
            let _ = self.stream()?.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// The kernel has read the end of our data.
    pub fn kernel_sees_the_end(&self) -> Result<()> {
        match self.kernel()?.inbox.wait_end(PATIENCE)? {
            Ok(()) => Ok(()),
            Err(kind) => bail!("the kernel's socket says {kind:?} instead of the end of the data"),
        }
    }

    /// The kernel's socket says that the connection was reset, to its reader if not to its writer (who gets
    /// it, gets it alone).
    pub fn kernel_sees_a_reset(&self) -> Result<()> {
        match self.kernel()?.inbox.wait_end(PATIENCE)? {
            Err(std::io::ErrorKind::ConnectionReset) | Ok(()) => Ok(()),
            other => bail!("the kernel's socket says {other:?} instead of a reset"),
        }
    }

    /// The kernel's socket is closed for good, as it is: SO_LINGER with no time makes that a fast close.
    pub fn kernel_aborts(&mut self) -> Result<()> {
        kernel::abort_on_close(self.stream()?)?;
        self.drop_kernel_socket()
    }

    /// Closes all copies of the kernel's socket.
    fn drop_kernel_socket(&mut self) -> Result<()> {
        self.outbox(Who::Kernel)?.lock().expect("no panic while locked").close();
        self.inbox(Who::Kernel)?.close_and_wait(PATIENCE)?;
        if let Some(kernel) = &mut self.kernel {
            kernel.stream = None;
        }
        Ok(())
    }

    /// The kernel's socket is closed while what we send waits in it, which nobody reads.
    pub fn kernel_leaves_data_unread(&mut self) -> Result<()> {
        self.outbox(Who::Kernel)?.lock().expect("no panic while locked").close();
        self.inbox(Who::Kernel)?.close_and_wait(PATIENCE)?;
        self.outbox(Who::Ours)?.lock().expect("no panic while locked").send(1 << 16)?;
        let unread = || -> Result<bool> { Ok(self.stream()?.peek(&mut [0])? > 0) };
        self.until("data that the kernel has not read", || Ok((unread()?, true)))?;
        self.drop_kernel_socket()
    }

    /// The kernel stops to listen.
    pub fn close_listener(&mut self) {
        self.listener = None;
    }

    /// This stack's command gets a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.ours()?.process.signal(signal);
        Ok(())
    }

    /// Closes the pipe that this stack's command writes to: it ends with an error, and its connection at
    /// once.
    pub fn close_our_output(&self) -> Result<()> {
        self.ours()?.inbox.close();
        Ok(())
    }

    /// Waits until the kernel has so many subflows, the first one included.
    pub fn subflows(&self, count: usize) -> Result<()> {
        let now = || -> Result<Option<usize>> {
            Ok(kernel::info(self.stream()?).map(|info| usize::from(info.additional_subflows) + 1))
        };
        self.until("the kernel's number of subflows", || Ok((now()?, Some(count))))
    }

    /// Waits until counters of Multipath TCP in the kernel's namespace have these values; names without
    /// "MPTcpExt".
    pub fn counters(&self, expected: &[(&str, i64)]) -> Result<()> {
        let expected: Vec<_> = expected.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        self.until("the kernel's counters", || {
            let all = self.read_counters()?;
            let now: Vec<_> = expected
                .iter()
                .map(|(name, _)| (name.clone(), all.get(&format!("MPTcpExt{name}"))))
                .collect();
            Ok((now, expected.clone()))
        })
    }

    /// Waits until a counter is at least that high.
    pub fn at_least(&self, name: &str, least: i64) -> Result<()> {
        let full = format!("MPTcpExt{name}");
        self.until(&full, || Ok((self.read_counters()?.get(&full).min(least), least)))
    }

    /// Counters say that the client opened so many subflows, and the server accepted them.
    pub fn joined(&self, count: i64) -> Result<()> {
        if self.we_connect() {
            self.counters(&[("MPJoinSynRx", count), ("MPJoinAckRx", count)])
        } else {
            self.counters(&[("MPJoinSynTx", count), ("MPJoinSynAckRx", count)])
        }
    }

    /// The kernel's counters.
    pub fn read_counters(&self) -> Result<Counters> {
        Counters::read(self.namespace(Who::Kernel))
    }

    /// Waits until two values that `look` gives are equal.
    pub fn until<T: PartialEq + Debug>(&self, what: &str, look: impl Fn() -> Result<(T, T)>) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let (is, expected) = look()?;
            if is == expected {
                return Ok(());
            }
            if Instant::now() > deadline {
                let multipath = self.read_counters()?;
                let moved: Vec<_> = multipath.multipath().filter(|(_, value)| *value != 0).collect();
                bail!("{what}: {is:?} instead of {expected:?}; all counters: {moved:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The report of this stack's command.
    pub fn statistics(&self) -> &serde_json::Value {
        &self.statistics
    }

    /// The case's size in both directions at once, then the ends of both.
    pub fn end(&mut self) -> Result<()> {
        self.exchange()?;
        self.finish()
    }

    /// Both sides finish, if they have not; both have what the other one sent, and everything is as the
    /// case's outcome says.
    pub fn finish(&mut self) -> Result<()> {
        let outcome = self.case.row.outcome;
        let orderly = matches!(outcome, Outcome::Multipath(..) | Outcome::Regular(_));
        if orderly {
            self.close(Who::Ours)?;
            self.close(Who::Kernel)?;
            self.kernel_sees_the_end()?;
        }
        let ours = self.ours.take().context("not connected")?;
        ours.outbox.lock().expect("no panic while locked").close();
        let finished = ours.process.finish(PATIENCE)?;
        let said = || format!("this stack said:\n{}", finished.stderr);
        let code = match outcome {
            Outcome::Multipath(..) | Outcome::Regular(_) => 0,
            Outcome::Broken(_) => 4,
            Outcome::Ended(code) => code,
        };
        // A program that a signal has ended has the exit code that shells give it.
        let signal = std::os::unix::process::ExitStatusExt::signal(&finished.status);
        let ended = finished.status.code().or(signal.map(|signal| 128 + signal));
        ensure!(ended == Some(code), "{} instead of exit code {code}; {}", finished.status, said());
        ensure!(!finished.stderr.contains("panicked"), said());
        // Its end is the end of the pipe.
        ours.inbox.wait_end(PATIENCE)?.ok();
        let kernel = self.kernel.as_ref().context("not connected")?;
        if orderly {
            for (from, outbox, inbox) in
                [(Who::Ours, &ours.outbox, &kernel.inbox), (Who::Kernel, &kernel.outbox, &ours.inbox)]
            {
                let sent = outbox.lock().expect("no panic while locked").sum();
                let came = inbox.sum();
                ensure!(sent == came, "{from:?} sent {} octets, {} came, or others", sent.0, came.0);
            }
        }
        self.statistics = finished.json().unwrap_or_default();
        self.check_statistics(outcome).map_err(|error| anyhow!("{error:#}; {}", said()))?;
        let attached = self.lab.left_attached(self.side(Who::Ours))?;
        ensure!(attached.is_empty(), "programs left on {attached:?}");
        self.drop_kernel_socket()?;
        self.listener = None;
        self.until("connections of the kernel", || {
            Ok((self.read_counters()?.get("MPTcpExtMPCurrEstab"), 0))
        })?;
        if !self.we_connect() {
            // Linux drops what a client receives out of order before it has sent its first Data ACK: to
            // itself, it has offered no window yet.
            self.tolerate(&["NoDSSInWindow"]);
        }
        let trouble = self.read_counters()?.trouble();
        let trouble: Vec<_> = trouble
            .iter()
            .filter(|line| !self.tolerated.iter().any(|name| line.starts_with(&format!("MPTcpExt{name} "))))
            .collect();
        ensure!(trouble.is_empty(), "the kernel counts {trouble:?}");
        Ok(())
    }

    fn check_statistics(&self, outcome: Outcome) -> Result<()> {
        let connection = &self.statistics["connection"];
        let checksum = self.variant().checksum != super::case::Checksum::Nobody;
        let established = connection["subflows"]
            .as_array()
            .map_or(0, |all| all.iter().filter(|subflow| subflow["confirmed"] == true).count());
        let multipath = |least, most| -> Result<()> {
            ensure!(connection["fallback"].is_null(), "fallback: {}", connection["fallback"]);
            ensure!(connection["version"] == 1, "version: {}", connection["version"]);
            ensure!(connection["checksum"] == checksum, "checksum: {}", connection["checksum"]);
            ensure!((least..=most).contains(&established), "{established} subflows were established");
            Ok(())
        };
        match outcome {
            Outcome::Multipath(least, most) => multipath(least, most),
            Outcome::Broken(count) => multipath(count, count),
            Outcome::Regular(reason) => {
                ensure!(connection["fallback"] == reason, "fallback: {}", connection["fallback"]);
                Ok(())
            }
            Outcome::Ended(_) => Ok(()),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.give_up();
    }
}
