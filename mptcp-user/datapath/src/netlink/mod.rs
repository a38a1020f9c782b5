//! What the kernel knows and this stack asks for: interfaces, addresses, routes, neighbours (rtnetlink(7)).
//!
//! [`Netlink`] asks and waits for the answer, which the kernel gives at once; [`Monitor`] hears of changes. Both are
//! plain blocking sockets: the questions are rare, and an event loop can wait for the monitor's descriptor.

mod address;
mod features;
mod link;
mod monitor;
mod neighbour;
mod nexthop;
mod policy;
mod raw;
mod route;
mod rule;

pub use address::Address;
pub use features::{XdpFeatures, xdp_features};
pub use link::Link;
pub use monitor::{Change, Monitor};
pub use neighbour::{Neighbour, Reachability};
pub use policy::{Flow, Verdict};
pub use route::{Answer, Question, Refusal, Route, RouteKind, RouteLimits};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;

/// A connection to the kernel's rtnetlink for questions and commands.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Needs no privileges.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Dumps answer to the filter in the question. Linux 4.20; without it there is more to look through.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one message and collects the answers; a refusal is an error with the kernel's number.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        self.ask_each(message, flags, |answer| answers.push(answer))?;
        Ok(answers)
    }

    /// Sends one message and shows each answer.
    fn ask_each(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut show: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut octets = vec![0; packet.buffer_len()];
        packet.serialize(&mut octets);
        self.socket.send(&octets, 0)?;
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            for (sequence, payload) in messages(&received) {
                if sequence != self.sequence {
                    continue;
                }
                match payload {
                    Parsed::Message(message) => {
                        show(message);
                        if !dump {
                            return Ok(());
                        }
                    }
                    Parsed::Done => return Ok(()),
                    Parsed::Error(error) => return Err(error),
                    // Of no use to us, or newer than the crate that reads it.
                    Parsed::Unknown => {
                        if !dump {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.ask(message, NLM_F_DUMP)
    }

    fn dump_each(
        &mut self,
        message: RouteNetlinkMessage,
        show: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.ask_each(message, NLM_F_DUMP, show)
    }
}

/// One message of an answer.
enum Parsed {
    Message(RouteNetlinkMessage),
    /// End of a dump, or success of a command.
    Done,
    Error(io::Error),
    Unknown,
}

/// The messages in a buffer with their sequence numbers.
fn messages(mut buffer: &[u8]) -> impl Iterator<Item = (u32, Parsed)> {
    std::iter::from_fn(move || {
        let &[l0, l1, l2, l3, _, _, _, _, s0, s1, s2, s3, ..] = buffer else { return None };
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let sequence = u32::from_ne_bytes([s0, s1, s2, s3]);
        let message = buffer.get(..length).filter(|_| length >= 16)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        let parsed = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => match message.payload {
                NetlinkPayload::InnerMessage(message) => Parsed::Message(message),
                NetlinkPayload::Done(_) => Parsed::Done,
                NetlinkPayload::Error(error) if error.code.is_none() => Parsed::Done,
                NetlinkPayload::Error(error) => Parsed::Error(error.to_io()),
                _ => Parsed::Unknown,
            },
            Err(_) => Parsed::Unknown,
        };
        Some((sequence, parsed))
    })
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
