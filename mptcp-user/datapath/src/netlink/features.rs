//! What drivers say about their XDP support: the kernel's `netdev` generic netlink family (Linux 6.3).

use super::raw;
use netlink_sys::{Socket, protocols::NETLINK_GENERIC};
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

/// Octets of `struct genlmsghdr`.
const GENL_HEADER: usize = 4;

/// XDP features of all interfaces by index. An error on kernels that can't tell. Needs no privileges.
pub fn xdp_features() -> io::Result<HashMap<u32, XdpFeatures>> {
    const GENL_ID_CTRL: u16 = 0x10;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    const NETDEV_CMD_DEV_GET: u8 = 1;
    const NETDEV_A_DEV_IFINDEX: u16 = 1;
    const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
    let socket = raw::connect(NETLINK_GENERIC)?;
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
    let mut body = vec![command, 1, 0, 0];
    body.extend_from_slice(attributes);
    raw::exchange(socket, family, dump, &body, |_, message| {
        raw::attributes(message.get(GENL_HEADER..).unwrap_or_default(), &mut show);
    })
}
