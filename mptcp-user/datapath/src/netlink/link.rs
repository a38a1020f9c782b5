//! Network interfaces.

use super::Netlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    VlanProtocol, XdpAttached,
};
use std::io;

/// A network interface as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in octets.
    pub mtu: u32,
    /// Link-layer address, if the link has Ethernet's.
    pub mac: Option<[u8; 6]>,
    /// Whether packets have an Ethernet header.
    pub ethernet: bool,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub running: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Kind of a virtual interface ("veth", "vlan", "tun", …).
    pub kind: Option<String>,
    /// Index of the interface below a VLAN.
    pub below: Option<u32>,
    /// The VLAN's tags are not 802.1Q's but 802.1ad's.
    pub service_tags: bool,
    /// Receive queues that were made for the interface; not all need be in use.
    pub rx_queues: u32,
    /// Octets of the largest super-segment the interface takes, headers included.
    pub gso_max_size: u32,
    /// Identifier of an XDP program that is attached.
    pub xdp_program: Option<u32>,
    /// How that is attached, by the word that `ip link set dev NAME … off` takes.
    pub xdp_mode: &'static str,
    /// Index of the bridge, bond or team it belongs to.
    pub controller: Option<u32>,
}

/// Kinds of interfaces that lead through another network or to this host only. A route over one of them is a
/// decision of the host, never one way among several to the same network.
const TUNNELS: [&str; 21] = [
    "dummy",
    "erspan",
    "geneve",
    "gre",
    "gretap",
    "gtp",
    "ifb",
    "ip6erspan",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "ovpn",
    "ppp",
    "sit",
    "tun",
    "vti",
    "vti6",
    "vxlan",
    "wireguard",
    "xfrm",
];

impl Link {
    /// Whether the interface leads to a network by itself: an Ethernet link that is no tunnel.
    pub fn is_plain(&self) -> bool {
        let tunnel = self.kind.as_deref().is_some_and(|kind| TUNNELS.contains(&kind));
        self.ethernet && !self.loopback && !tunnel
    }

    pub(super) fn parse(message: LinkMessage) -> Option<Self> {
        let header = message.header;
        let mut link = Link {
            index: header.index,
            name: String::new(),
            mtu: 0,
            mac: None,
            ethernet: header.link_layer_type == LinkLayerType::Ether,
            up: header.flags.contains(LinkFlags::Up),
            running: header.flags.contains(LinkFlags::LowerUp),
            loopback: header.flags.contains(LinkFlags::Loopback),
            kind: None,
            below: None,
            service_tags: false,
            rx_queues: 1,
            gso_max_size: 65_536,
            xdp_program: None,
            xdp_mode: "xdp",
            controller: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(address) => link.mac = address.try_into().ok(),
                LinkAttribute::NumRxQueues(queues) => link.rx_queues = queues.max(1),
                LinkAttribute::GsoMaxSize(octets) => link.gso_max_size = octets,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Link(index) => link.below = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(InfoData::Vlan(parts)) => {
                                link.service_tags =
                                    parts.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
                            }
                            _ => {}
                        }
                    }
                }
                LinkAttribute::Xdp(parts) => {
                    let attached = !parts.contains(&LinkXdp::Attached(XdpAttached::None));
                    let program = parts.iter().find_map(|part| match part {
                        LinkXdp::ProgId(id)
                        | LinkXdp::SkbProgId(id)
                        | LinkXdp::DrvProgId(id)
                        | LinkXdp::HwProgId(id) => Some(*id),
                        _ => None,
                    });
                    link.xdp_program = program.filter(|_| attached);
                    for part in &parts {
                        match part {
                            LinkXdp::Attached(XdpAttached::SocketBuffer) => link.xdp_mode = "xdpgeneric",
                            LinkXdp::Attached(XdpAttached::Driver) => link.xdp_mode = "xdpdrv",
                            LinkXdp::Attached(XdpAttached::Hardware) => link.xdp_mode = "xdpoffload",
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

impl Netlink {
    /// All interfaces, by index.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let mut links: Vec<Link> = answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Link::parse(message),
                _ => None,
            })
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }
}
