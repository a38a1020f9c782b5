//! The XDP program on interfaces, without a stack. The library is used here and nowhere else in `load`.

pub(crate) use mptcp_cli::lab::units::duration;
pub(crate) use mptcp_datapath::xdp::CounterSnapshot;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use mptcp_common::maps::{LOCAL_OWN, LocalKey};
use mptcp_datapath::interface::{AttachMode, HostFacts};
use mptcp_datapath::netlink::{Address, Link, Netlink};
use mptcp_datapath::xdp::{XdpConfig, XdpError, XdpMode, XdpProgram};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// How the program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// The better one for each interface, as the stack chooses it
    Auto,
    /// In the driver
    Native,
    /// After the kernel has made a socket buffer of the packet: every driver can
    #[value(alias = "generic")]
    Skb,
}

/// An interface, and how the program is to be attached there.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Name of the interface.
    pub(crate) name: String,
    /// Why the mode was chosen, for people.
    pub(crate) reason: String,
    index: u32,
    mode: XdpMode,
    /// Whether the other mode may take the place of this one.
    may_change: bool,
}

impl Plan {
    /// "native" or "generic".
    pub(crate) fn mode(&self) -> &'static str {
        self.mode.as_str()
    }
}

/// Looks at privileges and interfaces, and plans how the program is attached to each.
pub(crate) fn plan(names: &[String], mode: Mode) -> Result<Vec<Plan>> {
    let facts = HostFacts::gather().context("can't ask the kernel for the interfaces")?;
    for (at, name) in names.iter().enumerate() {
        ensure!(facts.link(name).is_some(), "{}", absent(name, &facts));
        ensure!(!names[..at].contains(name), "{name} is named twice");
    }
    ensure!(
        facts.missing.is_empty(),
        "attaching an XDP program takes {}: run this as root (`sudo -E cargo xtask load …`)",
        facts.missing.join(", ")
    );
    names.iter().map(|name| plan_one(&facts, name, mode)).collect()
}

fn absent(name: &str, facts: &HostFacts) -> String {
    let names: Vec<&str> = facts.links.iter().map(|link| link.name.as_str()).collect();
    format!("there is no interface {name} here (`ip link` shows them): {}", names.join(", "))
}

fn plan_one(facts: &HostFacts, name: &str, mode: Mode) -> Result<Plan> {
    let link = facts.link(name).with_context(|| absent(name, facts))?;
    let wanted = match mode {
        Mode::Auto => AttachMode::Auto,
        Mode::Native => AttachMode::Native,
        Mode::Skb => AttachMode::Generic,
    };
    let (mut facts, mut link) = (facts.clone(), link.clone());
    // No AF_XDP socket is bound, so generic mode is as good on kernels whose sockets can't use it.
    facts.multi_buffer |= mode == Mode::Skb;
    lend_what_stacks_need(&mut facts, &mut link);
    let report = facts.report(&link, wanted);
    let chosen = match report.mode.as_deref() {
        _ if !report.usable => bail!("{name}: {}", report.reason),
        Some("native") => XdpMode::Native,
        _ => XdpMode::Generic,
    };
    Ok(Plan {
        name: name.to_owned(),
        reason: report.reason,
        index: link.index,
        mode: chosen,
        may_change: mode == Mode::Auto,
    })
}

/// The library refuses interfaces that a stack can't send by. The program alone runs on those, too: on
/// loopback, on ports of bridges, without carrier and without address.
fn lend_what_stacks_need(facts: &mut HostFacts, link: &mut Link) {
    (link.up, link.running, link.loopback, link.controller) = (true, true, false, None);
    // Loopback's packets have an Ethernet header, and it has no link-layer address.
    link.ethernet |= link.kind.is_none() && link.name == "lo";
    link.mac = link.mac.or(Some([0; 6]));
    facts.addresses.push(Address {
        address: Ipv4Addr::LOCALHOST.into(),
        interface: link.index,
        global: true,
        preferred: true,
        deprecated: false,
        tentative: false,
        broadcasts: [None; 2],
    });
}

/// The ports and addresses of this host that the program is told of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge {
    /// Local ports in use.
    pub(crate) ports: Vec<u16>,
    /// Addresses of this host. Segments for one of them and one of the ports are taken from the kernel.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The loaded program on its interfaces. Dropping it detaches it.
pub(crate) struct Loaded {
    program: XdpProgram,
    plans: Vec<Plan>,
}

impl Loaded {
    /// Loads the object (the stored one if none is named) and attaches the program. Either all interfaces
    /// have it afterwards, or none.
    pub(crate) fn new(object: Option<&Path>, mut plans: Vec<Plan>, knowledge: &Knowledge) -> Result<Self> {
        let config = XdpConfig {
            subflows: 64,
            tokens: 64,
            sockets: 64,
            listeners: (2 * knowledge.ports.len() as u32).max(64),
            ..XdpConfig::default()
        };
        let mut program = match object {
            None => XdpProgram::load(&config),
            Some(path) => {
                let object = std::fs::read(path)
                    .with_context(|| format!("can't read the object {}", path.display()))?;
                XdpProgram::load_object(&object, &config)
            }
        }
        .map_err(refused)?;
        tell(&program, knowledge)?;
        for plan in &mut plans {
            attach(&mut program, plan)?;
        }
        Ok(Self { program, plans })
    }

    /// The interfaces that have the program, or had it.
    pub(crate) fn interfaces(&self) -> &[Plan] {
        &self.plans
    }

    /// Its counters, the sum of all CPUs.
    pub(crate) fn counters(&self) -> Result<CounterSnapshot> {
        self.program.maps().counters().context("can't read the counters")
    }

    /// Identifier of the program, by which its log is found.
    pub(crate) fn id(&self) -> Result<u32> {
        let links = links()?;
        let mut found = self.plans.iter().filter_map(|plan| program_on(&links, plan));
        found.next().context("the interfaces are gone")
    }

    /// Names of the interfaces that have lost the program since the last call. An error if none has it any
    /// more.
    pub(crate) fn lost(&mut self, id: u32) -> Result<Vec<String>> {
        let links = links()?;
        let (mut lost, before) = (Vec::new(), self.plans.len());
        for plan in &self.plans {
            if program_on(&links, plan) != Some(id) {
                self.program.detach(plan.index);
                lost.push(plan.name.clone());
            }
        }
        self.plans.retain(|plan| !lost.contains(&plan.name));
        ensure!(
            before == 0 || !self.plans.is_empty(),
            "the program is attached nowhere any more: {} gone, or somebody has detached it",
            if lost.len() == 1 { "the interface is" } else { "the interfaces are" }
        );
        Ok(lost)
    }

    /// Detaches the program from all interfaces. Its counters can still be read.
    pub(crate) fn detach(&mut self) {
        for plan in &self.plans {
            self.program.detach(plan.index);
        }
    }
}

fn links() -> Result<Vec<Link>> {
    Netlink::new().and_then(|mut netlink| netlink.links()).context("can't ask the kernel for the interfaces")
}

fn program_on(links: &[Link], plan: &Plan) -> Option<u32> {
    links.iter().find(|link| link.index == plan.index)?.xdp_program
}

/// The library asks for a report if the verifier refuses its program. This one is still being changed.
fn refused(error: XdpError) -> anyhow::Error {
    match error {
        XdpError::Refused(log) => anyhow!(
            "the kernel's verifier refused the program; docs/ebpf.md (\"One decoder\") says what it needs. Its last words:\n{log}"
        ),
        error => error.into(),
    }
}

fn tell(program: &XdpProgram, knowledge: &Knowledge) -> Result<()> {
    let maps = program.maps();
    for port in &knowledge.ports {
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            maps.insert_listener(SocketAddr::new(any, *port), 0, 1)?;
        }
    }
    for address in &knowledge.addresses {
        maps.set_local(LocalKey::new((*address).into(), 0), LOCAL_OWN)?;
    }
    Ok(())
}

fn attach(program: &mut XdpProgram, plan: &mut Plan) -> Result<()> {
    let error = match program.attach(plan.index, plan.mode) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match error {
        XdpError::ModeUnsupported { source, mode: XdpMode::Native, .. } if plan.may_change => {
            plan.mode = XdpMode::Generic;
            plan.reason = format!("the driver refused native XDP: {source}");
            program.attach(plan.index, plan.mode).with_context(|| plan.name.clone())
        }
        // Attached since the plan was made, or to an interface above: a plan made anew may name it.
        XdpError::Occupied { .. } => {
            plan_of(plan)?;
            Err(error).with_context(|| plan.name.clone())
        }
        error => Err(error).with_context(|| plan.name.clone()),
    }
}

fn plan_of(plan: &Plan) -> Result<()> {
    let mode = if plan.mode == XdpMode::Native { Mode::Native } else { Mode::Skb };
    self::plan(std::slice::from_ref(&plan.name), mode).map(drop)
}
