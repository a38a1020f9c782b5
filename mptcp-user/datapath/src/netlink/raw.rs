//! Netlink messages that the crate which reads the others does not know.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// Octets of `struct nlmsghdr`.
const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Asks for all objects of a kind and shows the type and the octets of each message of the answer.
pub(super) fn dump(kind: u16, header: &[u8], show: impl FnMut(u16, &[u8])) -> io::Result<()> {
    exchange(&connect(NETLINK_ROUTE)?, kind, true, header, show)
}

/// A socket that speaks with the kernel.
pub(super) fn connect(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a request of this type and shows the type and the octets of each message of the answer: of all of
/// them if it asks for a `dump`, else of those that come at once.
pub(super) fn exchange(
    socket: &Socket,
    kind: u16,
    dump: bool,
    body: &[u8],
    mut show: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    let flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { 0 };
    let mut request = Vec::with_capacity(NLMSG_HEADER + body.len());
    request.extend_from_slice(&((NLMSG_HEADER + body.len()) as u32).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(body);
    socket.send(&request, 0)?;
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = &received[..];
        while let &[l0, l1, l2, l3, t0, t1, ..] = rest {
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            let Some(message) = rest.get(NLMSG_HEADER..length) else { return Ok(()) };
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match u16::from_ne_bytes([t0, t1]) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = message.get(..4).and_then(|code| code.try_into().ok());
                    let code = code.map_or(0, i32::from_ne_bytes);
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                kind => show(kind, message),
            }
        }
        if !dump {
            return Ok(());
        }
    }
}

/// Shows each attribute of a message.
pub(super) fn attributes(mut octets: &[u8], mut show: impl FnMut(u16, &[u8])) {
    const NLA_TYPE_MASK: u16 = 0x3fff;
    while let &[l0, l1, k0, k1, ..] = octets {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = octets.get(4..length) else { return };
        show(u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value);
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}
