//! The host's addresses, as far as the driver tells: which segments are for it, and which can't come from a
//! peer.

use super::counters::Counter;
use mptcp_common::address::Address;
use std::collections::HashMap;
use std::net::IpAddr;

/// What an address means to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostAddress {
    /// One of its own, on whichever interface.
    Own,
    /// The broadcast address of one of its subnets.
    Broadcast,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct HostAddresses(HashMap<IpAddr, HostAddress>);

impl HostAddresses {
    pub(crate) fn set(&mut self, address: IpAddr, meaning: Option<HostAddress>) {
        match meaning {
            Some(meaning) => self.0.insert(address, meaning),
            None => self.0.remove(&address),
        };
    }

    /// Whether a segment may begin something: it is for this host, and from where a peer can be (RFC 9293
    /// section 3.9.2.3, MUST-57 and MUST-63). A driver that has told of no address sees to the first by
    /// itself.
    pub(crate) fn check(&self, local: IpAddr, remote: IpAddr) -> Result<(), Counter> {
        let own = self.0.is_empty() || self.0.get(&local) == Some(&HostAddress::Own);
        if !own || !Address::from(local).is_unicast() {
            return Err(Counter::ForeignDestination);
        }
        let from = Address::from(remote);
        // A link-local address may be this host's on one link, and a neighbour's on another.
        let ours = self.0.contains_key(&remote) && (!from.is_link_local() || remote == local);
        if ours || !from.is_unicast() { Err(Counter::MartianSource) } else { Ok(()) }
    }
}
