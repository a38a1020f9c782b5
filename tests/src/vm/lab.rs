//! Topologies: two stations and the links between them, as in [`crate::lab`], with a guest on one side or
//! both, and if wanted a router between them that is a guest too.
//!
//! ```text
//!   left                                                     right
//!   left1  10.77.1.1  fd77:1::1 ─────────── 10.77.1.2  fd77:1::2  right1
//!   left2  …
//!
//!   left                       router                        right
//!   left1  10.77.1.1 ── 10.77.1.254  10.78.1.254 ── 10.78.1.2  right1
//! ```

use super::guest::{Accelerator, Guest, Spec};
use super::image::{Image, Programs};
use super::link::{self, Nic, Plug};
use super::station::{HostStation, Station};
use crate::counters::Counters;
use crate::lab::{Family, Side};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The guests' boot settings.
#[derive(Clone, Copy, Debug)]
pub struct Bench<'a> {
    /// Kernel and file system.
    pub image: &'a Image,
    /// The executor.
    pub accelerator: Accelerator,
    /// The programs under test, for stations on this machine.
    pub programs: &'a Programs,
}

/// How two guests are joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Between {
    /// By a cable for each link.
    Cables,
    /// By a bridge of this machine for each link, whose ports take super-segments and partial checksums.
    Bridges,
    /// By a guest that forwards.
    Router,
}

/// Choices for a [`Lab`].
#[derive(Clone, Debug)]
pub struct Choices {
    /// Number of links.
    pub links: usize,
    /// Families of the addresses.
    pub families: &'static [Family],
    /// MTU of all links.
    pub mtu: u32,
    /// Memory of the left and the right guest in MiB.
    pub memory: [u32; 2],
    /// The network between the two.
    pub between: Between,
    /// Identifier of the VLAN that the addresses are in.
    pub vlan: Option<u16>,
    /// Receive queues of each card; more than one only with [`Between::Bridges`].
    pub queues: usize,
    /// More properties of the cards.
    pub properties: &'static str,
    /// More words for the left guest's kernel.
    pub kernel_words: &'static str,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            links: 2,
            families: &Family::BOTH,
            mtu: 1500,
            memory: [512; 2],
            between: Between::Cables,
            vlan: None,
            queues: 1,
            properties: "",
            kernel_words: "",
        }
    }
}

/// Two guests.
#[derive(Debug)]
pub struct Lab<'a> {
    /// The side that connects.
    pub left: Guest,
    /// The side that listens.
    pub right: Guest,
    /// The guest between them.
    pub router: Option<Guest>,
    /// Their parts.
    pub choices: Choices,
    /// Bridges live there.
    _bridges: Option<HostStation<'a>>,
}

/// A guest and a namespace of this machine, by links that are taps.
#[derive(Debug)]
pub struct HostLab<'a> {
    /// The side that connects.
    pub left: Guest,
    /// The side that listens.
    pub right: HostStation<'a>,
}

/// Two stations that can reach each other.
pub trait Network {
    /// The station of a side.
    fn station(&self, side: Side) -> &dyn Station;
    /// Number of links.
    fn links(&self) -> usize;
    /// Address of a side on a link (from 1).
    fn address(&self, side: Side, number: usize, family: Family) -> IpAddr;

    /// The same with a port.
    fn socket(&self, side: Side, number: usize, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(side, number, family), port)
    }

    /// The kernel's counters of a side.
    fn counters(&self, side: Side) -> Result<Counters> {
        let text = self.station(side).run("vm-agent counters")?;
        serde_json::from_str(&text).context("counters are not JSON")
    }

    /// Prepares the kernel of one side: it accepts and makes subflows over all links, and when it listens it
    /// tells its peer of the addresses beside the first link's.
    fn prepare_kernel(&self, side: Side, family: Family) -> Result<()> {
        let station = self.station(side);
        station.run("ip mptcp limits set subflow 8 add_addr_accepted 8")?;
        if side == Side::Right {
            for number in 2..=self.links() {
                let address = self.address(side, number, family);
                station
                    .run(&format!("ip mptcp endpoint add {address} dev {} signal", side.interface(number)))?;
            }
        }
        Ok(())
    }
}

impl<'a> Lab<'a> {
    /// Boots two guests, or three, and waits until they are up.
    pub fn boot(bench: Bench<'a>, choices: Choices) -> Result<Self> {
        let bridges = match choices.between {
            Between::Bridges => Some(HostStation::new(bench.programs)?),
            Between::Cables | Between::Router => None,
        };
        let (mut left, mut right, mut middle) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=choices.links {
            match &bridges {
                Some(host) => {
                    let [a, b] = bridge(host, number, &choices)?;
                    left.push(a);
                    right.push(b);
                }
                None => {
                    let (a, b) = link::cable()?;
                    left.push(a);
                    if choices.between == Between::Router {
                        middle.push(b);
                    } else {
                        right.push(b);
                    }
                }
            }
        }
        // The router's cards on the right come after all of those on the left.
        if choices.between == Between::Router {
            for _ in 1..=choices.links {
                let (a, b) = link::cable()?;
                middle.push(a);
                right.push(b);
            }
        }
        let mut guests = Vec::new();
        let sides = [(Side::Left, left, choices.memory[0]), (Side::Right, right, choices.memory[1])];
        for (side, plugs, memory) in sides {
            let mut spec = Spec::new(if side == Side::Left { "left" } else { "right" });
            spec.memory = memory;
            spec.kernel_words = if side == Side::Left { choices.kernel_words } else { "" };
            spec.nics = nics(plugs, choices.properties);
            configure(&mut spec, choices.families, network_of(side, &choices));
            guests.push(Guest::start(bench.image, bench.accelerator, spec)?);
        }
        let router = if choices.between == Between::Router {
            let mut spec = Spec::new("router");
            spec.memory = 256;
            spec.nics = nics(middle, choices.properties);
            configure(&mut spec, choices.families, network_of_router(&choices));
            spec.commands
                .push("busybox sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1".into());
            Some(Guest::start(bench.image, bench.accelerator, spec)?)
        } else {
            None
        };
        let mut guests = guests.into_iter();
        let (left, right) = (guests.next().context("two")?, guests.next().context("two")?);
        for guest in [Some(&left), Some(&right), router.as_ref()].into_iter().flatten() {
            guest.wait_until_up(None)?;
        }
        Ok(Self { left, right, router, choices, _bridges: bridges })
    }

    /// The guest of a side.
    pub fn guest(&self, side: Side) -> &Guest {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// Makes all links slow and far, both directions ("rate 20mbit delay 5ms").
    pub fn shape(&self, words: &str) -> Result<()> {
        for side in [Side::Left, Side::Right] {
            for number in 1..=self.choices.links {
                let interface = side.interface(number);
                self.guest(side).run(&format!("tc qdisc replace dev {interface} root netem {words}"))?;
            }
        }
        Ok(())
    }

    /// Ends the guests in good order.
    pub fn finish(self) -> Result<()> {
        for guest in [Some(self.left), Some(self.right), self.router].into_iter().flatten() {
            guest.finish()?;
        }
        Ok(())
    }
}

impl Network for Lab<'_> {
    fn station(&self, side: Side) -> &dyn Station {
        self.guest(side)
    }

    fn links(&self) -> usize {
        self.choices.links
    }

    fn address(&self, side: Side, number: usize, family: Family) -> IpAddr {
        address(side, number, family, self.choices.between == Between::Router)
    }
}

impl<'a> HostLab<'a> {
    /// Boots the guest and waits until it is up.
    pub fn boot(bench: Bench<'a>) -> Result<Self> {
        let choices = Choices::default();
        let right = HostStation::new(bench.programs)?;
        let mut plugs = Vec::new();
        for number in 1..=choices.links {
            let name = Side::Right.interface(number);
            plugs.push(link::tap(&right.namespace, &name, 1)?);
            for family in choices.families {
                let address = with_length(Side::Right.address(number, *family));
                right.namespace.add_address(&name, &address)?;
            }
            right.namespace.set_up(&name, true)?;
        }
        let mut spec = Spec::new("left");
        spec.nics = nics(plugs, choices.properties);
        configure(&mut spec, choices.families, network_of(Side::Left, &choices));
        let left = Guest::start(bench.image, bench.accelerator, spec)?;
        left.wait_until_up(None)?;
        Ok(Self { left, right })
    }
}

impl Network for HostLab<'_> {
    fn station(&self, side: Side) -> &dyn Station {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    fn links(&self) -> usize {
        2
    }

    fn address(&self, side: Side, number: usize, family: Family) -> IpAddr {
        side.address(number, family)
    }
}

fn nics(plugs: Vec<Plug>, properties: &'static str) -> Vec<Nic> {
    plugs.into_iter().map(|plug| Nic { plug, properties }).collect()
}

/// A bridge with two ports for guests.
fn bridge(host: &HostStation<'_>, number: usize, choices: &Choices) -> Result<[Plug; 2]> {
    let namespace = &host.namespace;
    namespace.ip(&format!("link add bridge{number} mtu {} type bridge", choices.mtu))?;
    namespace.set_up(&format!("bridge{number}"), true)?;
    let port = |name: String| -> Result<Plug> {
        let plug = link::tap(namespace, &name, choices.queues)?;
        namespace.ip(&format!("link set dev {name} mtu {} master bridge{number} up", choices.mtu))?;
        Ok(plug)
    };
    Ok([port(format!("left{number}"))?, port(format!("right{number}"))?])
}

/// The guest's drivers, then its network: lines for `ip -batch`.
fn configure(spec: &mut Spec, families: &[Family], network: String) {
    // A link-local address that is still being checked keeps the kernel from neighbour discovery for a
    // second.
    if families.contains(&Family::Ipv6) {
        spec.commands.push("busybox sysctl -q -w net.ipv6.conf.default.accept_dad=0".into());
    }
    spec.commands.extend(["modprobe -a virtio_pci virtio_net".to_owned(), "ip -batch /network".to_owned()]);
    spec.files.push(("/network", network));
}

fn address(side: Side, number: usize, family: Family, routed: bool) -> IpAddr {
    match (side.address(number, family), side) {
        (IpAddr::V4(address), Side::Right) if routed => {
            let [_, _, number, host] = address.octets();
            IpAddr::from([10, 78, number, host])
        }
        (IpAddr::V6(address), Side::Right) if routed => {
            let mut parts = address.segments();
            parts[0] = 0xfd78;
            IpAddr::from(parts)
        }
        (address, _) => address,
    }
}

fn with_length(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

/// The router's address on the link of this address.
fn router_beside(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, 254])
        }
        IpAddr::V6(address) => {
            let mut parts = address.segments();
            parts[7] = 0xfe;
            IpAddr::from(parts)
        }
    }
}

/// The network that contains this address.
fn network_around(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(address) => {
            let parts = address.segments();
            format!("{:x}:{:x}::/64", parts[0], parts[1])
        }
    }
}

/// The input of `ip -batch` on one side.
fn network_of(side: Side, choices: &Choices) -> String {
    let routed = choices.between == Between::Router;
    let other = if side == Side::Left { Side::Right } else { Side::Left };
    let mut text = String::from("link set dev lo up\n");
    for number in 1..=choices.links {
        let interface = side.interface(number);
        let card = match choices.vlan {
            None => interface.clone(),
            Some(_) => format!("card{number}"),
        };
        let _ = writeln!(text, "link set dev eth{} name {card}", number - 1);
        let _ = writeln!(text, "link set dev {card} mtu {} up", choices.mtu);
        if let Some(vlan) = choices.vlan {
            let _ = writeln!(text, "link add link {card} name {interface} type vlan id {vlan}");
            let _ = writeln!(text, "link set dev {interface} up");
        }
        for family in choices.families {
            let own = address(side, number, *family, routed);
            let nodad = if own.is_ipv6() { " nodad" } else { "" };
            let _ = writeln!(text, "address add {} dev {interface}{nodad}", with_length(own));
            if routed {
                let there = network_around(address(other, number, *family, routed));
                let via = router_beside(own);
                let _ = writeln!(text, "route add {there} via {via} dev {interface}");
            }
        }
    }
    text
}

/// The input of `ip -batch` on the router: "left1" is its card on the first link to the left side.
fn network_of_router(choices: &Choices) -> String {
    let mut text = String::from("link set dev lo up\n");
    for (side, first) in [(Side::Left, 0), (Side::Right, choices.links)] {
        for number in 1..=choices.links {
            let interface = side.interface(number);
            let _ = writeln!(text, "link set dev eth{} name {interface}", first + number - 1);
            let _ = writeln!(text, "link set dev {interface} mtu {} up", choices.mtu);
            for family in choices.families {
                let own = router_beside(address(side, number, *family, true));
                let nodad = if own.is_ipv6() { " nodad" } else { "" };
                let _ = writeln!(text, "address add {} dev {interface}{nodad}", with_length(own));
            }
        }
    }
    text
}

/// A guest of its own, without any network but what its programs make.
pub fn alone(bench: Bench<'_>, commands: &[&str]) -> Result<Guest> {
    let mut spec = Spec::new("guest");
    spec.memory = 768;
    spec.commands = commands.iter().map(ToString::to_string).collect();
    let guest = Guest::start(bench.image, bench.accelerator, spec)?;
    guest.wait_until_up(None)?;
    Ok(guest)
}

/// Within this time anything that works at all has happened, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routed_network_has_two_networks_for_each_link() {
        let choices = Choices { links: 1, between: Between::Router, ..Choices::default() };
        let left = network_of(Side::Left, &choices);
        assert!(left.contains("address add 10.77.1.1/24 dev left1\n"), "{left}");
        assert!(left.contains("route add 10.78.1.0/24 via 10.77.1.254 dev left1\n"), "{left}");
        assert!(left.contains("route add fd78:1::/64 via fd77:1::fe dev left1\n"), "{left}");
        let router = network_of_router(&choices);
        assert!(router.contains("link set dev eth1 name right1\n"), "{router}");
        assert!(router.contains("address add fd78:1::fe/64 dev right1 nodad\n"), "{router}");
    }

    #[test]
    fn a_vlan_has_the_addresses_and_the_card_has_none() {
        let choices = Choices { links: 1, vlan: Some(7), ..Choices::default() };
        let left = network_of(Side::Left, &choices);
        assert!(left.contains("link set dev eth0 name card1\n"), "{left}");
        assert!(left.contains("link add link card1 name left1 type vlan id 7\n"), "{left}");
        assert!(!left.contains("dev card1 nodad") && !left.contains("/24 dev card1"), "{left}");
    }
}
