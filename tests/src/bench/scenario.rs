//! Scenarios between two namespaces, one contender after the other on the same links.

use super::pair::{PATIENCE, Pair};
use super::usage::{descriptors, memory};
use super::{Contender, Effort, Row};
use crate::lab::{Family, Lab, LinkPlan, Side};
use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Rate of a shaped link, in gigabits per second.
const SHAPED: u64 = 1;
/// Rate of a sender whose processor time is measured, in gigabits per second: less than any contender can do.
const EQUAL_LOAD: f64 = 2.0;
/// How long nothing happens on connections that are called idle.
const IDLE: Duration = Duration::from_millis(4500);
/// Connections that are made at the same time.
const AT_ONCE: usize = 64;

/// Our settings where the queues of six links take several times a window of the usual size: as much as the
/// kernel may take.
const RECORD_OPTIONS: &[&str] = &["--buffer", "64"];

/// Metric, unit, value.
type Values = Vec<(String, &'static str, f64)>;

/// A benchmark between two namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// For `--scenario`.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    links: usize,
    /// MTU of the links.
    pub mtu: u32,
    /// Whether the links have segmentation and receive offloads.
    pub offloads: bool,
    shaped: bool,
    /// The links go through `mptcp lab`, which does nothing to what it forwards.
    emulated: bool,
    /// Our stack looks for packets all the time.
    busy: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Bulk,
    /// Goodput over the sum of the links' rates.
    Record,
    RequestResponse(&'static [usize]),
    Connect,
    Mesh,
    Idle,
    Cpu,
}

const USUAL: Scenario = Scenario {
    name: "",
    about: "",
    links: 2,
    mtu: 1500,
    offloads: true,
    shaped: false,
    emulated: false,
    busy: false,
    kind: Kind::Bulk,
};

/// All scenarios between namespaces.
pub const SCENARIOS: [Scenario; 13] = [
    Scenario { name: "bulk", about: "one connection, two links, MTU 1500, offloads on", ..USUAL },
    Scenario { name: "bulk-nooffload", about: "the same, TSO, GSO and GRO off", offloads: false, ..USUAL },
    Scenario {
        name: "bulk-9000",
        about: "the same, TSO, GSO and GRO off, MTU 9000",
        mtu: 9000,
        offloads: false,
        ..USUAL
    },
    Scenario {
        name: "bulk-6",
        about: "one connection, six links, MTU 9000, offloads on",
        links: 6,
        mtu: 9000,
        ..USUAL
    },
    Scenario {
        name: "record",
        about: "one connection, six links of 1 Gb/s each, MTU 9000: delivered over the sum of their rates",
        links: 6,
        mtu: 9000,
        shaped: true,
        kind: Kind::Record,
        ..USUAL
    },
    Scenario {
        name: "lab",
        about: "the emulator's own rate: regular TCP of the kernel through it, one link, offloads on",
        links: 1,
        emulated: true,
        ..USUAL
    },
    Scenario {
        name: "lab-nooffload",
        about: "the same, TSO, GSO and GRO off: packets of 1500 octets",
        links: 1,
        offloads: false,
        emulated: true,
        ..USUAL
    },
    Scenario {
        name: "rr",
        about: "request and response of 64 octets and of 16 KiB",
        kind: Kind::RequestResponse(&[64, 16 << 10]),
        ..USUAL
    },
    Scenario {
        name: "rr-busy",
        about: "the same, our stack polling all the time",
        busy: true,
        kind: Kind::RequestResponse(&[64, 16 << 10]),
        ..USUAL
    },
    Scenario {
        name: "connect",
        about: "connections per second: handshake, 64 octets each way, close; 64 at a time",
        kind: Kind::Connect,
        ..USUAL
    },
    Scenario { name: "mesh", about: "many connections at once, all busy", kind: Kind::Mesh, ..USUAL },
    Scenario {
        name: "idle",
        about: "memory of an idle connection with two subflows, both ends and the kernel's together",
        kind: Kind::Idle,
        ..USUAL
    },
    Scenario {
        name: "cpu",
        about: "processor time per gigabyte at 2 Gb/s, both ends and interrupts",
        kind: Kind::Cpu,
        ..USUAL
    },
];

/// Descriptors that one end of so many idle connections needs at most, whoever's they are: one each, and
/// those that a stack has anyway. Ours shares ports between subflows, the kernel's has a socket for each
/// connection.
fn needed(connections: usize) -> u64 {
    connections as u64 * 6 / 5 + 256
}

impl Scenario {
    /// Runs the scenario with the `bench_peer` program at `peer`; `say` is told of each value as it comes.
    pub fn run(
        &self,
        peer: &Path,
        contenders: &[Contender],
        effort: Effort,
        say: &dyn Fn(&str),
    ) -> Result<Vec<Row>> {
        let mut values: Vec<(Contender, String, &'static str, Vec<f64>)> = Vec::new();
        if self.kind == Kind::Idle {
            let most = descriptors()?;
            for count in effort.idle.iter().filter(|count| needed(**count) > most) {
                say(&format!("{count} connections are left out: a process gets {most} descriptors here"));
            }
        }
        for turn in 1..=effort.runs {
            for &contender in contenders {
                let measured = (0..5)
                    .find_map(|_| self.turn(peer, contender, effort).transpose())
                    .unwrap_or_else(|| bail!("no connection had a subflow on each link"))
                    .with_context(|| format!("{}, {}", self.name, contender.name()))?;
                for (metric, unit, value) in measured {
                    say(&format!(
                        "{} {turn}/{}: {} {metric} {value:.2} {unit}",
                        self.name,
                        effort.runs,
                        contender.name()
                    ));
                    match values.iter_mut().find(|(who, what, ..)| (*who, what) == (contender, &metric)) {
                        Some((.., all)) => all.push(value),
                        None => values.push((contender, metric, unit, vec![value])),
                    }
                }
            }
        }
        values.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
        Ok(values
            .into_iter()
            .map(|(contender, metric, unit, all)| Row::new(self.name, contender.name(), &metric, unit, all))
            .collect())
    }

    /// Arguments of `bench_peer` for the contender's best settings. The kernel's settings are those of the
    /// lab.
    fn options(&self, contender: Contender) -> &'static [&'static str] {
        match (contender, self.kind) {
            (Contender::Ours, Kind::Record) => RECORD_OPTIONS,
            (Contender::Ours, Kind::RequestResponse(_)) if self.busy => &["--local", "--busy-poll"],
            // Without changes of thread, and with turns of the stack and the application in which each finds
            // what the other did.
            (
                Contender::Ours,
                Kind::Bulk | Kind::RequestResponse(_) | Kind::Connect | Kind::Mesh | Kind::Cpu,
            ) => &["--local"],
            _ => &[],
        }
    }

    /// Whether each end is bound to a processor of its own, as it would be on two hosts. Left alone, the
    /// scheduler puts both of the kernel's on one every few runs, and a round trip then takes a tenth of what
    /// it takes otherwise.
    fn apart(&self) -> bool {
        matches!(self.kind, Kind::RequestResponse(_))
            && thread::available_parallelism().is_ok_and(|number| number.get() > 1)
    }

    /// Subflows that a connection of the contender should have.
    fn subflows(&self, contender: Contender) -> usize {
        if contender == Contender::KernelTcp { 1 } else { self.links }
    }

    /// Whether it has anything to measure of this contender: regular TCP has one path, whatever there is; the
    /// emulator is measured with that alone.
    pub fn concerns(&self, contender: Contender) -> bool {
        match contender {
            Contender::KernelTcp => !matches!(self.kind, Kind::Record),
            _ => !self.emulated,
        }
    }

    /// The links, prepared for each contender.
    fn lab(&self) -> Result<Lab> {
        // One family: our stack would open subflows in both.
        let emulator = self.emulated.then(Vec::new);
        let plan = LinkPlan { families: vec![Family::Ipv4], emulator };
        let lab = Lab::of_links(&vec![plan; self.links])?;
        lab.set_mtu(self.mtu)?;
        if !self.offloads {
            lab.without_offloads()?;
        }
        if self.shaped {
            lab.shape(SHAPED * 1000)?;
        }
        for side in [Side::Left, Side::Right] {
            lab.prepare_kernel(side, Family::Ipv4)?;
            let namespace = lab.namespace(side);
            // The kernel's limits would otherwise be what is measured.
            namespace.sysctl("net.ipv4.tcp_rmem", "4096 1048576 67108864")?;
            namespace.sysctl("net.ipv4.tcp_wmem", "4096 1048576 67108864")?;
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65000")?;
            namespace.sysctl("net.ipv4.tcp_max_syn_backlog", "8192")?;
        }
        Ok(lab)
    }

    /// One measurement; none if the connection did not have the subflows that it should.
    fn turn(&self, peer: &Path, contender: Contender, effort: Effort) -> Result<Option<Values>> {
        let lab = self.lab()?;
        let run = |listener: (&str, &[&str]), connector: (&str, &[&str])| {
            let settings = (self.options(contender), self.apart());
            Pair::start(&lab, peer, contender, settings, listener, connector)?.finish()
        };
        match self.kind {
            Kind::Bulk | Kind::Record => {
                let octets = if self.shaped { effort.bulk / 2 } else { effort.bulk };
                let (sink, source) = run(("sink", &[]), ("source", &[&octets.to_string()]))?;
                ensure!(sink["bytes"] == octets, "{} of {octets} octets arrived", sink["bytes"]);
                if source["subflows"] != self.subflows(contender) {
                    // Not the connection that was to be measured. The kernel now and then makes none after
                    // ADD_ADDR.
                    return Ok(None);
                }
                let rate = sink["gbps"].as_f64().context("no rate")?;
                let all = (SHAPED * self.links as u64) as f64;
                Ok(Some(match self.kind {
                    Kind::Record => vec![("delivered over links".into(), "", rate / all)],
                    _ => vec![("goodput".into(), "Gb/s", rate)],
                }))
            }
            Kind::RequestResponse(sizes) => {
                let mut all = Vec::new();
                for size in sizes {
                    let words = [size.to_string(), effort.trips.to_string()];
                    let ping = run(("echo", &[]), ("ping", &[&words[0], &words[1]]))?.1;
                    for quantile in ["p50", "p99", "p99.9"] {
                        let value = ping[quantile].as_f64().context("no quantile")?;
                        all.push((format!("{size} octets {quantile}"), "µs", value));
                    }
                }
                Ok(Some(all))
            }
            Kind::Connect => {
                let (count, at_once) = (effort.connections.to_string(), AT_ONCE.to_string());
                let asked = run(("answer", &[&count]), ("ask", &[&count, &at_once]))?.1;
                let rate = asked["per_second"].as_f64().context("no rate")?;
                Ok(Some(vec![("connections".into(), "/s", rate)]))
            }
            Kind::Mesh => self.mesh(&lab, peer, contender, effort).map(Some),
            Kind::Idle => {
                let mut all = Values::new();
                let most = descriptors()?;
                for count in effort.idle.iter().filter(|count| needed(**count) <= most) {
                    let Some(value) = self.idle(&lab, peer, contender, *count)? else { return Ok(None) };
                    all.push(value);
                }
                Ok(Some(all))
            }
            Kind::Cpu => {
                let (octets, rate) = (effort.bulk / 4, EQUAL_LOAD.to_string());
                let (sink, source) = run(("sink", &[]), ("source", &[&octets.to_string(), &rate]))?;
                ensure!(sink["bytes"] == octets, "{} of {octets} octets arrived", sink["bytes"]);
                if source["subflows"] != self.subflows(contender) {
                    return Ok(None);
                }
                let gigabytes = octets as f64 / 1e9;
                let spent = |end: &serde_json::Value, of: &str| {
                    end[of].as_f64().with_context(|| format!("no {of}")).map(|seconds| seconds / gigabytes)
                };
                let machine = spent(&source, "machine")?;
                let ends = spent(&source, "process")? + spent(&sink, "process")?;
                Ok(Some(vec![
                    ("processor time".into(), "s/GB", machine),
                    ("processor time of the two programs".into(), "s/GB", ends),
                ]))
            }
        }
    }

    fn mesh(&self, lab: &Lab, peer: &Path, contender: Contender, effort: Effort) -> Result<Values> {
        let (count, span) = (effort.mesh.to_string(), effort.span.to_string());
        let settle = "3";
        let before = memory(&[])?;
        let pair = Pair::start(
            lab,
            peer,
            contender,
            (self.options(contender), false),
            ("drain-all", &[&count, settle, &span]),
            ("flood-all", &[&count]),
        )?;
        // In the middle of what is counted, if connecting takes no longer than to settle.
        thread::sleep(Duration::from_secs(3 + effort.span / 2));
        let used = memory(&[&pair.listening, &pair.connecting])?.saturating_sub(before);
        let drained = pair.finish()?.0;
        let value = |name: &str| drained[name].as_f64().with_context(|| format!("no {name}"));
        Ok(vec![
            ("goodput".into(), "Gb/s", value("gbps")?),
            ("fairness (Jain)".into(), "", value("jain")?),
            ("memory".into(), "MiB", used as f64 / f64::from(1 << 20)),
        ])
    }

    fn idle(
        &self,
        lab: &Lab,
        peer: &Path,
        contender: Contender,
        connections: usize,
    ) -> Result<Option<(String, &'static str, f64)>> {
        let subflows = self.subflows(contender).to_string();
        let count = connections.to_string();
        let mut pair = Pair::start(
            lab,
            peer,
            contender,
            (&[], false),
            ("keep", &[&count]),
            ("hold", &[&count, &subflows]),
        )?;
        pair.connecting.wait_for("ready", PATIENCE)?;
        let before = memory(&[&pair.listening, &pair.connecting])?;
        let mut begin = pair.connecting.take_stdin().context("no standard input")?;
        begin.write_all(b"g")?;
        for end in [&mut pair.connecting, &mut pair.listening] {
            end.wait_for("holding", PATIENCE)?;
        }
        thread::sleep(IDLE);
        let after = memory(&[&pair.listening, &pair.connecting])?;
        drop(begin);
        drop(pair.listening.take_stdin());
        let held = pair.finish()?.1;
        if held["complete"] != connections {
            return Ok(None);
        }
        // Each connection has two ends.
        let each = after.saturating_sub(before) as f64 / (2 * connections) as f64;
        Ok(Some((format!("memory, {count} connections"), "octets", each)))
    }
}
