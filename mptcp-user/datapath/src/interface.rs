//! Which interfaces can be used, how, and why not. Needs no privileges.

use super::af_xdp;
use super::ethtool::Ethtool;
use super::netlink::{Address, Link, Netlink, XdpFeatures, xdp_features};
use super::occupant::Occupant;
use super::xdp::XdpMode;
use crate::Error;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;

/// How XDP programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachMode {
    /// The better one for each interface, with the reason in [`InterfaceReport`].
    #[default]
    Auto,
    /// In the driver, where it can; an error elsewhere.
    Native,
    /// After the kernel has made a socket buffer of the packet: every driver can.
    Generic,
}

/// One interface as the stack sees it: usable or not, how, and why.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct InterfaceReport {
    /// Name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// Whether the stack can use it now.
    pub usable: bool,
    /// "native" or "generic"; none when not usable.
    pub mode: Option<String>,
    /// Why this mode, or why not usable: for people.
    pub reason: String,
    /// Name of the driver, where it says.
    pub driver: Option<String>,
    /// MTU in octets.
    pub mtu: u32,
    /// Receive queues that packets can come on.
    pub queues: u32,
    /// Whether super-segments are handed to the kernel whole.
    pub super_segments: bool,
    /// Addresses that subflows can use.
    pub addresses: Vec<IpAddr>,
    /// Administratively up, and with a carrier.
    pub up: bool,
}

/// Capabilities that running a stack takes, with their numbers.
const CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Has the last two of these in it.
const CAP_SYS_ADMIN: u32 = 21;

/// Largest MTU whose packets fit one buffer in native XDP.
pub const SINGLE_BUFFER_MTU: u32 = 3498;

/// Kinds of virtual interfaces that have no native XDP, for kernels that do not tell what drivers can (before Linux 6.3).
const WITHOUT_NATIVE: [&str; 6] = ["bridge", "dummy", "ipvlan", "macvlan", "vlan", "vxlan"];

/// Said of interfaces that get no super-segments.
const CUT: &str = "; what is sent is cut into packets first: the interface below the VLAN leaves inserting tags to the kernel";

/// What this host has.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Interfaces, by index.
    pub links: Vec<Link>,
    /// Addresses of all interfaces.
    pub addresses: Vec<Address>,
    /// What drivers say about XDP; none on kernels that can't tell.
    pub features: Option<HashMap<u32, XdpFeatures>>,
    /// Drivers by interface index.
    pub drivers: HashMap<u32, String>,
    /// Receive queues in use by interface index.
    pub queues: HashMap<u32, u32>,
    /// Interfaces, by index, that put 802.1Q tags into what they send.
    pub tagging: HashSet<u32>,
    /// Whether the kernel has AF_XDP sockets.
    pub af_xdp: bool,
    /// Whether they take packets of several buffers, as super-segments are (Linux 6.6).
    pub multi_buffer: bool,
    /// Capabilities this process lacks.
    pub missing: Vec<&'static str>,
}

impl HostFacts {
    /// Looks at the calling thread's network namespace.
    pub fn gather() -> io::Result<Self> {
        let mut netlink = Netlink::new()?;
        let ethtool = Ethtool::new()?;
        let links = netlink.links()?;
        let drivers =
            links.iter().filter_map(|link| Some((link.index, ethtool.driver(&link.name)?))).collect();
        let tagging = links.iter().filter(|link| ethtool.inserts_tags(&link.name) == Some(true));
        let tagging = tagging.map(|link| link.index).collect();
        let queues = links
            .iter()
            .map(|link| (link.index, ethtool.receive_queues(&link.name).unwrap_or(link.rx_queues)))
            .collect();
        Ok(Self {
            addresses: netlink.addresses()?,
            features: xdp_features().ok(),
            drivers,
            queues,
            tagging,
            links,
            af_xdp: has_af_xdp(),
            multi_buffer: af_xdp::multi_buffer(),
            missing: missing_capabilities(),
        })
    }

    /// The interface with this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Addresses of an interface that subflows can use.
    pub fn usable_addresses(&self, interface: u32) -> Vec<IpAddr> {
        self.addresses
            .iter()
            .filter(|address| address.interface == interface && address.global && address.preferred)
            .map(|address| address.address)
            .collect()
    }

    /// All interfaces with what can be done with each.
    pub fn reports(&self, mode: AttachMode) -> Vec<InterfaceReport> {
        self.links.iter().map(|link| self.report(link, mode)).collect()
    }

    /// What can be done with one interface.
    pub fn report(&self, link: &Link, mode: AttachMode) -> InterfaceReport {
        let chosen = self.obstacle(link).map_or_else(|| self.mode_of(link, mode), Err);
        let driver = self.drivers.get(&link.index).cloned().or_else(|| link.kind.clone());
        let queues = self.queues.get(&link.index).copied().unwrap_or(link.rx_queues);
        // Switched to native mode, virtio gets packets on queues that it does not count: those made for sending from programs
        // receive, too, and what comes there without a socket would go to the kernel.
        let uncounted =
            driver.as_deref() == Some("virtio_net") && matches!(&chosen, Ok((XdpMode::Native, _)));
        let super_segments = self.takes_super_segments(link);
        let cut = if super_segments { "" } else { CUT };
        InterfaceReport {
            name: link.name.clone(),
            index: link.index,
            usable: chosen.is_ok(),
            mode: chosen.as_ref().ok().map(|(mode, _)| mode.as_str().into()),
            reason: chosen.map_or_else(|obstacle| obstacle, |(_, reason)| reason + cut),
            driver,
            mtu: link.mtu,
            queues: if uncounted { queues.max(link.rx_queues) } else { queues },
            super_segments,
            addresses: self.usable_addresses(link.index),
            up: link.up && link.running,
        }
    }

    /// Whether super-segments get through. From a packet socket the kernel takes the octets behind the longest link header
    /// that the interface may have for the IP header. On a VLAN above a card that inserts no tags that is four octets too
    /// far; if it then has to cut a super-segment itself it drops it (seen on Linux 6.18).
    fn takes_super_segments(&self, link: &Link) -> bool {
        let tagged_by_card =
            !link.service_tags && link.below.is_some_and(|below| self.tagging.contains(&below));
        link.kind.as_deref() != Some("vlan") || tagged_by_card
    }

    /// Why the interface can't be used at all.
    fn obstacle(&self, link: &Link) -> Option<String> {
        let name = &link.name;
        if !self.af_xdp {
            return Some("this kernel has no AF_XDP: it must be built with CONFIG_XDP_SOCKETS=y".into());
        }
        if link.loopback {
            return Some("loopback: programs on this host reach each other by regular TCP".into());
        }
        if !link.ethernet || link.mac.is_none() {
            return Some("not an Ethernet link: packets without an Ethernet header are not supported".into());
        }
        if let Some(controller) = link.controller {
            let controller = self.links.iter().find(|other| other.index == controller);
            let controller = controller.map_or("another interface", |other| &other.name);
            return Some(format!("belongs to {controller}: use that one"));
        }
        if let Some(program) = link.xdp_program {
            return Some(Occupant::of(program).reason(name, link.xdp_mode));
        }
        if !link.up {
            return Some(format!("the interface is down: `ip link set dev {name} up`"));
        }
        if !link.running {
            return Some("no carrier: the cable, the access point or the other end is missing".into());
        }
        if self.usable_addresses(link.index).is_empty() {
            return Some(if self.addresses.iter().any(|address| address.interface == link.index) {
                "no usable address: link-local, tentative and deprecated ones do not count".into()
            } else {
                format!("no address: `ip address add ADDRESS/LENGTH dev {name}`")
            });
        }
        None
    }

    /// Native or generic, and why.
    fn mode_of(&self, link: &Link, mode: AttachMode) -> Result<(XdpMode, String), String> {
        let driver = self.drivers.get(&link.index).map(String::as_str).or(link.kind.as_deref());
        let features = self.features.as_ref().map(|all| all.get(&link.index).copied().unwrap_or_default());
        let too_long = link.mtu > SINGLE_BUFFER_MTU && features.is_some_and(|all| !all.multi_buffer());
        let silent = link.kind.as_deref().is_none_or(|kind| !WITHOUT_NATIVE.contains(&kind));
        let can = features.map_or(silent, XdpFeatures::native) && !too_long;
        if !self.multi_buffer {
            return single_buffer(link, mode, can, driver);
        }
        match mode {
            AttachMode::Generic => return Ok((XdpMode::Generic, "as asked for".into())),
            // Buffers that the driver has posted before have no room in front, and packets that do not fit a page
            // with it are dropped: as many as there are buffers, which is more than retransmissions get over.
            AttachMode::Native if driver == Some("virtio_net") && link.mtu > SINGLE_BUFFER_MTU => {
                return Err(format!(
                    "virtio_net drops packets larger than {SINGLE_BUFFER_MTU} octets for a long time after it was switched to native mode: use generic mode, or `ip link set dev {} mtu {SINGLE_BUFFER_MTU}`",
                    link.name
                ));
            }
            AttachMode::Native if can => return Ok((XdpMode::Native, "as asked for".into())),
            AttachMode::Native => {
                return Err(format!(
                    "the driver ({}) can't do native XDP{}: use generic mode",
                    driver.unwrap_or("unknown"),
                    if too_long { " with this MTU" } else { "" }
                ));
            }
            AttachMode::Auto => {}
        }
        Ok(match driver {
            Some("veth") => (
                XdpMode::Generic,
                "veth hands super-segments over whole in generic mode; native mode would have its peer cut them".into(),
            ),
            Some("virtio_net") => (
                XdpMode::Generic,
                "virtio keeps its receive offloads in generic mode; native mode would switch them off".into(),
            ),
            _ if features.is_none() => {
                (XdpMode::Generic, "this kernel does not say what the driver can: generic works with all".into())
            }
            _ if too_long => {
                (XdpMode::Generic, format!("the driver can't do native XDP with an MTU of {}", link.mtu))
            }
            driver if can => (
                XdpMode::Native,
                format!("the driver ({}) supports native XDP", driver.unwrap_or("unknown")),
            ),
            driver => (
                XdpMode::Generic,
                format!("the driver ({}) does not support native XDP", driver.unwrap_or("unknown")),
            ),
        })
    }

    /// The interfaces to attach to: those of `names`, or all usable ones where there is no name.
    ///
    /// # Errors
    /// An interface does not exist or can't be used, no interface can be used, the kernel has no AF_XDP, or capabilities
    /// are missing.
    pub fn choose(&self, names: &[String], mode: AttachMode) -> Result<Vec<InterfaceReport>, Error> {
        if !self.af_xdp {
            return Err(Error::NoAfXdp);
        }
        let mut chosen = Vec::new();
        for name in names {
            let Some(link) = self.link(name) else {
                let names: Vec<&str> = self.links.iter().map(|link| &link.name[..]).collect();
                return Err(Error::NoSuchInterface { name: name.clone(), existing: names.join(", ") });
            };
            let report = self.report(link, mode);
            if !report.usable {
                return Err(Error::InterfaceUnusable { name: name.clone(), reason: report.reason });
            }
            if !chosen.contains(&report) {
                chosen.push(report);
            }
        }
        if names.is_empty() {
            let (usable, others): (Vec<_>, Vec<_>) =
                self.reports(mode).into_iter().partition(|report| report.usable);
            if usable.is_empty() {
                let reasons: Vec<String> =
                    others.iter().map(|report| format!("{}: {}", report.name, report.reason)).collect();
                return Err(Error::NothingUsable { reasons: reasons.join("; ") });
            }
            chosen = usable;
        }
        if !self.missing.is_empty() {
            return Err(Error::Privileges { missing: self.missing.clone() });
        }
        Ok(chosen)
    }
}

/// [`HostFacts::choose`] on kernels whose AF_XDP takes packets of one buffer only: native mode has no super-segments.
fn single_buffer(
    link: &Link,
    mode: AttachMode,
    can: bool,
    driver: Option<&str>,
) -> Result<(XdpMode, String), String> {
    let name = &link.name;
    if mode == AttachMode::Generic {
        return Err("generic mode gets super-segments whole, which AF_XDP takes from Linux 6.6 on only: use native mode"
            .into());
    }
    if link.mtu > SINGLE_BUFFER_MTU {
        return Err(format!(
            "AF_XDP takes packets larger than {SINGLE_BUFFER_MTU} octets from Linux 6.6 on only: `ip link set dev {name} mtu {SINGLE_BUFFER_MTU}`"
        ));
    }
    if !can {
        return Err(format!(
            "the driver ({}) can't do native XDP, and generic mode takes Linux 6.6",
            driver.unwrap_or("unknown")
        ));
    }
    Ok((
        XdpMode::Native,
        "native mode has no super-segments, which AF_XDP takes from Linux 6.6 on only".into(),
    ))
}

/// Index of the interface with this name, or with this number, in the thread's network namespace.
pub fn index_of(name: &str) -> Option<u32> {
    let terminated = std::ffi::CString::new(name).ok()?;
    // SAFETY: the name ends with a NUL, and is only read.
    let index = unsafe { libc::if_nametoindex(terminated.as_ptr()) };
    if index == 0 { name.parse().ok().filter(|index| *index > 0) } else { Some(index) }
}

/// Whether the kernel knows the address family; lacking privileges do not matter.
fn has_af_xdp() -> bool {
    // SAFETY: no pointers involved.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd >= 0 {
        // SAFETY: the descriptor just made, which nobody else knows.
        unsafe { libc::close(fd) };
        return true;
    }
    !matches!(
        io::Error::last_os_error().raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT)
    )
}

/// Which of the capabilities it takes the calling thread does not have.
fn missing_capabilities() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // If it can't be told, the system calls will tell.
    let Some(effective) = effective else { return Vec::new() };
    let has = |bit: u32| effective >> bit & 1 == 1;
    CAPABILITIES
        .into_iter()
        .filter(|(bit, name)| {
            !(has(*bit) || matches!(*name, "CAP_BPF" | "CAP_PERFMON") && has(CAP_SYS_ADMIN))
        })
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            ethernet: true,
            up: true,
            running: true,
            loopback: false,
            kind: Some(kind.into()),
            rx_queues: 1,
            gso_max_size: 65_536,
            xdp_program: None,
            xdp_mode: "xdp",
            controller: None,
            below: None,
            service_tags: false,
        }
    }

    fn facts(links: Vec<Link>, features: &[(u32, u64)]) -> HostFacts {
        let address = |link: &Link| Address {
            address: IpAddr::from([10, 0, 0, link.index as u8]),
            interface: link.index,
            global: true,
            preferred: true,
            deprecated: false,
            tentative: false,
            broadcasts: [None; 2],
        };
        HostFacts {
            addresses: links.iter().map(address).collect(),
            features: Some(features.iter().map(|(index, bits)| (*index, XdpFeatures(*bits))).collect()),
            drivers: HashMap::new(),
            queues: HashMap::new(),
            tagging: HashSet::new(),
            links,
            af_xdp: true,
            multi_buffer: true,
            missing: Vec::new(),
        }
    }

    fn reason(facts: &HostFacts) -> String {
        let report = facts.reports(AttachMode::Auto).remove(0);
        assert!(!report.usable && report.mode.is_none());
        report.reason
    }

    #[test]
    fn the_mode_follows_the_driver() {
        const ALL: u64 = 0x7f;
        let cases = [
            ("veth", ALL, 1500, "generic"),
            ("virtio_net", ALL, 1500, "generic"),
            ("ixgbe", 0b1011, 1500, "native"),
            ("ixgbe", 0b1011, 9000, "generic"),
            ("ice", ALL, 9000, "native"),
            ("e1000", 0, 1500, "generic"),
        ];
        for (driver, bits, mtu, expected) in cases {
            let mut nic = link("nic0", 3, driver);
            nic.mtu = mtu;
            let facts = facts(vec![nic], &[(3, bits)]);
            let report = facts.reports(AttachMode::Auto).remove(0);
            assert_eq!(report.mode.as_deref(), Some(expected), "{driver} {mtu}: {}", report.reason);
            assert!(report.usable && !report.reason.is_empty());
        }
    }

    #[test]
    fn the_user_overrides_the_choice_where_it_can_be_done() {
        let facts = facts(vec![link("a", 1, "veth"), link("b", 2, "e1000")], &[(1, 0x7f), (2, 0)]);
        let native = facts.reports(AttachMode::Native);
        assert_eq!(native[0].mode.as_deref(), Some("native"));
        assert!(!native[1].usable && native[1].reason.contains("e1000"), "{}", native[1].reason);
        assert!(facts.reports(AttachMode::Generic).iter().all(|report| report.usable));
    }

    #[test]
    fn virtio_takes_large_packets_in_generic_mode_only() {
        let mut facts = facts(vec![link("a", 1, "virtio_net")], &[(1, 0x7f)]);
        assert!(facts.reports(AttachMode::Native)[0].usable);
        facts.links[0].mtu = 9000;
        let native = facts.reports(AttachMode::Native).remove(0);
        assert!(!native.usable && native.reason.contains("use generic mode"), "{}", native.reason);
        assert_eq!(facts.reports(AttachMode::Auto)[0].mode.as_deref(), Some("generic"));
    }

    #[test]
    fn virtio_in_native_mode_has_a_socket_for_each_queue_that_was_made() {
        let mut facts = facts(vec![link("a", 1, "virtio_net"), link("b", 2, "ice")], &[(1, 0x7f), (2, 0x7f)]);
        facts.queues = HashMap::from([(1, 1), (2, 1)]);
        facts.links.iter_mut().for_each(|link| link.rx_queues = 2);
        let queues = |mode| facts.reports(mode).iter().map(|report| report.queues).collect::<Vec<_>>();
        assert_eq!(queues(AttachMode::Native), [2, 1]);
        assert_eq!(queues(AttachMode::Generic), [1, 1]);
    }

    #[test]
    fn a_kernel_without_multi_buffer_gets_native_mode_or_a_reason() {
        let mut facts = facts(vec![link("a", 1, "veth"), link("b", 2, "virtio_net")], &[]);
        facts.features = None;
        facts.multi_buffer = false;
        facts.links[1].mtu = 9000;
        let reports = facts.reports(AttachMode::Auto);
        assert_eq!(reports[0].mode.as_deref(), Some("native"), "{}", reports[0].reason);
        assert!(!reports[1].usable && reports[1].reason.contains("mtu 3498"), "{}", reports[1].reason);
        let generic = facts.reports(AttachMode::Generic).remove(0);
        assert!(!generic.usable && generic.reason.contains("native mode"), "{}", generic.reason);
        facts.links[0].kind = Some("vlan".into());
        let vlan = facts.reports(AttachMode::Auto).remove(0);
        assert!(!vlan.usable && vlan.reason.contains("Linux 6.6"), "{}", vlan.reason);
    }

    #[test]
    fn a_vlan_gets_super_segments_where_the_card_inserts_tags() {
        let mut facts = facts(vec![link("nic0", 1, "veth"), link("nic0.7", 2, "vlan")], &[(1, 0x7f)]);
        facts.links[1].below = Some(1);
        let whole = |facts: &HostFacts| {
            let reports = facts.reports(AttachMode::Auto);
            assert_eq!(reports[1].super_segments, !reports[1].reason.contains("cut into packets"));
            reports.iter().map(|report| report.super_segments).collect::<Vec<_>>()
        };
        assert_eq!(whole(&facts), [true, false]);
        facts.tagging.insert(1);
        assert_eq!(whole(&facts), [true, true]);
        facts.links[1].service_tags = true;
        assert_eq!(whole(&facts), [true, false]);
        // The card is in another namespace.
        (facts.links[1].service_tags, facts.links[1].below) = (false, None);
        assert_eq!(whole(&facts), [true, false]);
    }

    #[test]
    fn obstacles_are_named_with_the_remedy() {
        let with = |change: fn(&mut HostFacts)| {
            let mut facts = facts(vec![link("nic0", 1, "veth")], &[(1, 0x7f)]);
            change(&mut facts);
            reason(&facts)
        };
        assert!(with(|facts| facts.af_xdp = false).contains("CONFIG_XDP_SOCKETS"));
        assert!(with(|facts| facts.links[0].up = false).contains("ip link set dev nic0 up"));
        assert!(with(|facts| facts.links[0].running = false).contains("carrier"));
        // An identifier that no program has.
        assert!(with(|facts| facts.links[0].xdp_program = Some(u32::MAX)).contains("dev nic0 xdp off"));
        assert!(with(|facts| facts.links[0].loopback = true).contains("loopback"));
        assert!(with(|facts| facts.links[0].ethernet = false).contains("Ethernet"));
        assert!(with(|facts| facts.addresses.clear()).contains("ip address add"));
        assert!(with(|facts| facts.addresses[0].global = false).contains("link-local"));
        assert!(with(|facts| facts.links[0].controller = Some(9)).contains("belongs to"));
    }

    #[test]
    fn this_host_can_be_looked_at_without_privileges() {
        let facts = HostFacts::gather().expect("netlink");
        let loopback = facts.reports(AttachMode::Auto).into_iter().find(|report| report.name == "lo");
        assert!(loopback.is_none_or(|report| !report.usable));
    }
}
