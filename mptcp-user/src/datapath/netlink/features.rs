//! What drivers say about their XDP support: the kernel's `netdev` generic netlink family (Linux 6.3).

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use std::collections::HashMap;
use std::io;

/// XDP features of a driver (`enum netdev_xdp_act`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Runs programs natively and can redirect packets: what native mode with AF_XDP needs.
    pub fn native(self) -> bool {
        self.0 & 0b11 == 0b11
    }
    /// AF_XDP without copying.
    pub fn zero_copy(self) -> bool {
        self.0 & 1 << 3 != 0
    }
    /// Packets in several buffers (MTU above a page).
    pub fn multi_buffer(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

const NLMSG_HEADER: usize = 16;
const GENL_HEADER: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// XDP features of all interfaces by index. An error on kernels that can't tell. Needs no privileges.
pub fn xdp_features() -> io::Result<HashMap<u32, XdpFeatures>> {
    const GENL_ID_CTRL: u16 = 0x10;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    const NETDEV_CMD_DEV_GET: u8 = 1;
    const NETDEV_A_DEV_IFINDEX: u16 = 1;
    const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = b"netdev\0";
    let mut attribute = Vec::new();
    attribute.extend_from_slice(&(4 + name.len() as u16).to_ne_bytes());
    attribute.extend_from_slice(&CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
    attribute.extend_from_slice(name);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    let mut family = None;
    exchange(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, false, &attribute, |kind, value| {
        if let (CTRL_ATTR_FAMILY_ID, &[a, b]) = (kind, value) {
            family = Some(u16::from_ne_bytes([a, b]));
        }
    })?;
    let family = family.ok_or(io::ErrorKind::Unsupported)?;
    let mut features = HashMap::new();
    let mut index = 0;
    exchange(&socket, family, NETDEV_CMD_DEV_GET, true, &[], |kind, value| match (kind, value) {
        (NETDEV_A_DEV_IFINDEX, &[a, b, c, d]) => index = u32::from_ne_bytes([a, b, c, d]),
        (NETDEV_A_DEV_XDP_FEATURES, &[a, b, c, d, e, f, g, h]) => {
            features.insert(index, XdpFeatures(u64::from_ne_bytes([a, b, c, d, e, f, g, h])));
        }
        _ => {}
    })?;
    Ok(features)
}

/// One generic netlink request; shows every attribute of every answer.
fn exchange(
    socket: &Socket,
    family: u16,
    command: u8,
    dump: bool,
    attributes: &[u8],
    mut show: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_DUMP: u16 = 0x300;
    let length = (NLMSG_HEADER + GENL_HEADER + attributes.len()) as u32;
    let flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { 0 };
    let mut request = Vec::with_capacity(length as usize);
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&family.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[command, 1, 0, 0]);
    request.extend_from_slice(attributes);
    socket.send(&request, 0)?;
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = &received[..];
        while let &[l0, l1, l2, l3, t0, t1, ..] = rest {
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            let Some(message) = rest.get(..length).filter(|_| length >= NLMSG_HEADER) else { return Ok(()) };
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match u16::from_ne_bytes([t0, t1]) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = message.get(16..20).and_then(|code| code.try_into().ok());
                    let code = code.map_or(0, i32::from_ne_bytes);
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => {
                    let mut attributes = message.get(NLMSG_HEADER + GENL_HEADER..).unwrap_or_default();
                    while let &[l0, l1, k0, k1, ..] = attributes {
                        let length = usize::from(u16::from_ne_bytes([l0, l1]));
                        let Some(value) = attributes.get(4..length) else { break };
                        show(u16::from_ne_bytes([k0, k1]) & 0x3fff, value);
                        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
                    }
                }
            }
        }
        if !dump {
            return Ok(());
        }
    }
}
