//! The two namespaces and two links that the demo, most tests and the benchmarks use.
//!
//! ```text
//!   left                                             right
//!   left1  10.77.1.1  fd77:1::1 ──── 10.77.1.2  fd77:1::2  right1
//!   left2  10.77.2.1  fd77:2::1 ──── 10.77.2.2  fd77:2::2  right2
//! ```
//!
//! There is no route from one link to the other: each pair of addresses on one link is a path, no other pair
//! is.
//!
//! A link may also be an emulated one ([`Lab::emulated`]): then `mptcp lab` forwards in a third namespace in
//! the middle.

use crate::netns::{End, Namespace, Offload, link};
use crate::process::{Process, mptcp_binary};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the field's names
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// Both, the older first.
    pub const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The unspecified address of the family.
    pub const fn any(self) -> IpAddr {
        match self {
            Self::Ipv4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            Self::Ipv6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// One of the two namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in the picture
pub enum Side {
    Left,
    Right,
}

impl Side {
    /// The side's interface on link `number` (from 1).
    pub fn interface(self, number: usize) -> String {
        match self {
            Self::Left => format!("left{number}"),
            Self::Right => format!("right{number}"),
        }
    }

    /// The side's address on link `number` (from 1).
    pub fn address(self, number: usize, family: Family) -> IpAddr {
        let host = match self {
            Self::Left => 1,
            Self::Right => 2,
        };
        address(number, family, host)
    }

    /// The addresses of the side's interface on link `number` with their prefix lengths.
    fn addresses(self, number: usize, families: &[Family]) -> Vec<String> {
        let length = |family| if family == Family::Ipv4 { 24 } else { 64 };
        families
            .iter()
            .map(|&family| format!("{}/{}", self.address(number, family), length(family)))
            .collect()
    }

    /// The emulator's interface towards this side.
    fn middle_interface(self, number: usize) -> String {
        match self {
            Self::Left => format!("first{number}"),
            Self::Right => format!("second{number}"),
        }
    }

    /// The same with a port.
    pub fn socket(self, number: usize, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(number, family), port)
    }
}

/// An address on link `number` that no interface has: for a translator to hide the left side behind.
pub fn hidden_address(number: usize, family: Family) -> IpAddr {
    address(number, family, 9)
}

fn address(number: usize, family: Family, host: u8) -> IpAddr {
    let number = u8::try_from(number).expect("few links");
    match family {
        Family::Ipv4 => IpAddr::from([10, 77, number, host]),
        Family::Ipv6 => IpAddr::from([0xfd77, u16::from(number), 0, 0, 0, 0, 0, u16::from(host)]),
    }
}

/// Two namespaces and the links between them.
#[derive(Debug)]
pub struct Lab {
    /// Namespace of the side that connects.
    pub left: Namespace,
    /// Namespace of the side that listens.
    pub right: Namespace,
    links: usize,
    /// One for each emulated link with its number, in a namespace of their own that lives as long as they do.
    emulators: Vec<(usize, Process)>,
}

/// One link of [`Lab::of_links`].
#[derive(Clone, Debug)]
pub struct LinkPlan<'a> {
    /// Families of the addresses at its ends.
    pub families: Vec<Family>,
    /// Options of `mptcp lab`, if it is an emulated one.
    pub emulator: Option<Vec<&'a str>>,
}

/// Time within which an emulator starts and ends.
const PATIENCE: Duration = Duration::from_secs(10);

impl Lab {
    /// Two links, MTU 1500, offloads on, both families.
    pub fn new() -> Result<Self> {
        Self::with_links(2)
    }

    /// Two links with addresses of one family only, so that all subflows are of that family.
    pub fn of_family(family: Family) -> Result<Self> {
        Self::build(2, &[family])
    }

    /// As many links as wanted, both families.
    pub fn with_links(links: usize) -> Result<Self> {
        Self::build(links, &Family::BOTH)
    }

    /// One link through `mptcp lab` for each of the given lists of its options. The calling thread must
    /// outlive the emulators.
    pub fn emulated(links: &[&[&str]], families: &[Family]) -> Result<Self> {
        Self::of_links(
            &links
                .iter()
                .map(|words| LinkPlan { families: families.to_vec(), emulator: Some(words.to_vec()) })
                .collect::<Vec<_>>(),
        )
    }

    /// A link for each plan. The calling thread must outlive the emulators.
    pub fn of_links(plans: &[LinkPlan<'_>]) -> Result<Self> {
        let mut lab = Self { links: plans.len(), ..Self::build(0, &[])? };
        let middle = Namespace::new("middle")?;
        for (number, plan) in (1..).zip(plans) {
            let Some(words) = &plan.emulator else {
                lab.join(number, &plan.families)?;
                continue;
            };
            for side in [Side::Left, Side::Right] {
                let (interface, inner) = (side.interface(number), side.middle_interface(number));
                let addresses = side.addresses(number, &plan.families);
                let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
                link(
                    &End { namespace: lab.namespace(side), interface: &interface, addresses: &addresses },
                    &End { namespace: &middle, interface: &inner, addresses: &[] },
                )?;
            }
            let ends = [Side::Left, Side::Right].map(|side| side.middle_interface(number));
            let mut command = middle.command(mptcp_binary());
            let mut emulator =
                Process::start(command.args(["-v", "lab", "--json"]).args(ends).args(words), true)?;
            emulator.wait_for("forwarding between", PATIENCE)?;
            lab.emulators.push((number, emulator));
        }
        Ok(lab)
    }

    /// From now on the emulator of a link drops everything, what is under way included, or no more does. The
    /// interfaces stay up.
    pub fn silence(&self, number: usize, silent: bool) {
        for (_, emulator) in self.emulators.iter().filter(|(link, _)| *link == number) {
            emulator.signal(if silent { libc::SIGUSR1 } else { libc::SIGUSR2 });
        }
    }

    /// Ends the emulators, and with them the links; gives each one's report, as `mptcp lab --json` prints it.
    pub fn end_emulation(&mut self) -> Result<Vec<serde_json::Value>> {
        let mut reports = Vec::new();
        for (_, emulator) in self.emulators.drain(..) {
            emulator.signal(libc::SIGCONT);
            emulator.signal(libc::SIGINT);
            let finished = emulator.finish(PATIENCE)?;
            ensure!(finished.status.code() == Some(130), "the emulator failed: {}", finished.stderr);
            reports.push(serde_json::from_slice(&finished.stdout).context("the emulator's report")?);
        }
        Ok(reports)
    }

    fn build(links: usize, families: &[Family]) -> Result<Self> {
        let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
        let lab = Self { left, right, links, emulators: Vec::new() };
        for number in 1..=links {
            lab.join(number, families)?;
        }
        Ok(lab)
    }

    /// Joins the two namespaces by a link without an emulator.
    fn join(&self, number: usize, families: &[Family]) -> Result<()> {
        let ends = [Side::Left, Side::Right]
            .map(|side| (self.namespace(side), side.interface(number), side.addresses(number, families)));
        let addresses = ends.each_ref().map(|(.., all)| all.iter().map(String::as_str).collect::<Vec<_>>());
        let [left, right] = [0, 1].map(|end| End {
            namespace: ends[end].0,
            interface: &ends[end].1,
            addresses: &addresses[end],
        });
        link(&left, &right)
    }

    /// The namespace of a side.
    pub fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// Number of links.
    pub fn links(&self) -> usize {
        self.links
    }

    /// Sets the MTU of all links.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        self.each_interface(|namespace, interface| namespace.set_mtu(interface, mtu))
    }

    /// Shapes all links in both directions to a rate in megabits per second (a token bucket).
    pub fn shape(&self, rate: u64) -> Result<()> {
        self.each_interface(|namespace, interface| {
            let words =
                format!("qdisc add dev {interface} root tbf rate {rate}mbit burst 256kb latency 20ms");
            let output =
                namespace.command("tc").args(words.split_whitespace()).output().context("can't run tc")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "tc {words}: {}", said.trim());
            Ok(())
        })
    }

    /// Switches segmentation and receive offloads of all links off.
    pub fn without_offloads(&self) -> Result<()> {
        self.each_interface(|namespace, interface| {
            namespace.set_offloads(interface, &[Offload::Tso, Offload::Gso, Offload::Gro], false)
        })
    }

    /// Prepares the kernel of one side: it accepts and makes subflows over all links, and when it listens it
    /// tells its peer of the addresses beside the first link's.
    pub fn prepare_kernel(&self, side: Side, family: Family) -> Result<()> {
        let namespace = self.namespace(side);
        namespace.mptcp_limits(8, 8)?;
        for number in 2..=self.links {
            // A listener announces its addresses; the side that connects answers such an announcement by
            // itself.
            if side == Side::Right {
                namespace.mptcp_endpoint(side.address(number, family), &side.interface(number), "signal")?;
            }
        }
        Ok(())
    }

    /// The interfaces of a side that have an XDP program attached.
    pub fn attached(&self, side: Side) -> Result<Vec<String>> {
        let mut attached = Vec::new();
        for interface in (1..=self.links).map(|number| side.interface(number)) {
            if self.namespace(side).has_xdp(&interface)? {
                attached.push(interface);
            }
        }
        Ok(attached)
    }

    /// Interfaces that still have one after a moment: the kernel ends links of processes that are gone a
    /// little later than the processes.
    pub fn left_attached(&self, side: Side) -> Result<Vec<String>> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let attached = self.attached(side)?;
            if attached.is_empty() || Instant::now() > deadline {
                return Ok(attached);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets the right side find [`hidden_address`] on a link: a translator between hides the left side
    /// behind it.
    pub fn hide_left(&self, number: usize, family: Family) -> Result<()> {
        let (left, right) = (Side::Left.interface(number), Side::Right.interface(number));
        let shown = self.left.ip(&format!("-o link show dev {left}"))?;
        let mac = shown.split("link/ether ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let mac = mac.context("the interface has no link-layer address")?;
        let external = hidden_address(number, family);
        self.right.ip(&format!("neighbour add {external} lladdr {mac} dev {right} nud permanent")).map(drop)
    }

    fn each_interface(&self, work: impl Fn(&Namespace, &str) -> Result<()>) -> Result<()> {
        for side in [Side::Left, Side::Right] {
            for number in 1..=self.links {
                work(self.namespace(side), &side.interface(number))?;
            }
        }
        Ok(())
    }
}
