//! News from the kernel: interfaces, addresses, routes and neighbours that change.

use super::{Address, Link, Neighbour, Parsed, Reachability, messages};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Nexthop objects (`linux/rtnetlink.h`).
const RTNLGRP_NEXTHOP: u32 = 32;

/// News that are taken at once.
const MAX_CHANGES: usize = 10_000;

/// Something changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// An interface appeared or changed.
    Link(Link),
    /// An interface is gone.
    LinkGone(u32),
    /// An address appeared or changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// Routes, rules or nexthop objects changed: what was asked before may be different now.
    Routes,
    /// A neighbour's entry changed. Entries that the kernel removes count as failed.
    Neighbour(Neighbour),
    /// News were lost: all has to be asked again.
    Overrun,
}

/// Hears of changes. The descriptor is readable when there is news; nothing blocks.
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Subscribes, in the calling thread's network namespace. Needs no privileges.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ] {
            socket.add_membership(group)?;
        }
        // Linux 5.3.
        let _ = socket.add_membership(RTNLGRP_NEXTHOP);
        socket.set_rx_buf_sz(1 << 20)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// All news that wait.
    pub fn poll(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut overrun = false;
        loop {
            match self.socket.recv_from_full() {
                Ok((received, _)) => {
                    changes.extend(messages(&received).filter_map(|(_, parsed)| match parsed {
                        Parsed::Message(message) => change(message),
                        // A nexthop object, or something newer than the crate that reads it: a route may be
                        // another one now.
                        Parsed::Unknown => Some(Change::Routes),
                        Parsed::Done | Parsed::Error(_) => None,
                    }));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => overrun = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            // A loop that makes news does not keep the shard from its packets.
            if changes.len() > MAX_CHANGES {
                if !overrun {
                    break;
                }
                changes.clear();
            }
        }
        if overrun {
            // The news that are left are older than those that were lost. Heard after all was asked again,
            // they would undo what the answers said.
            return vec![Change::Overrun];
        }
        changes
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

fn change(message: RouteNetlinkMessage) -> Option<Change> {
    Some(match message {
        RouteNetlinkMessage::NewLink(message) => Change::Link(Link::parse(message)?),
        RouteNetlinkMessage::DelLink(message) => Change::LinkGone(message.header.index),
        RouteNetlinkMessage::NewAddress(message) => Change::Address(Address::parse(message)?),
        RouteNetlinkMessage::DelAddress(message) => Change::AddressGone(Address::parse(message)?),
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Change::Routes,
        RouteNetlinkMessage::NewNeighbour(message) => Change::Neighbour(Neighbour::parse(message)?),
        RouteNetlinkMessage::DelNeighbour(message) => {
            let gone = Neighbour::parse(message)?;
            Change::Neighbour(Neighbour { mac: None, reachability: Reachability::Failed, ..gone })
        }
        _ => return None,
    })
}
