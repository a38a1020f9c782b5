//! The addresses that mean this host, told to the XDP program and the engine.
//!
//! Linux takes a packet for any address of any of its interfaces, wherever it comes in, and so does this
//! stack: those of interfaces that it does not use count, and those of the loopback interface other than
//! 127/8 and ::1. An address counts while its interface is down, as for the kernel, and not while duplicate
//! address detection goes on. Link-local addresses count on their link only. Prefixes that a route makes
//! local as a whole ("AnyIP") do not count.

use super::Shard;
use mptcp_common::address::Address as Key;
use mptcp_common::maps::{LOCAL_BROADCAST, LOCAL_OWN, LocalKey};
use mptcp_datapath::netlink::Address;
use mptcp_proto::HostAddress;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// One address of one interface. Addresses that differ in their subnets only are several.
type Assignment = (u32, IpAddr, [Option<std::net::Ipv4Addr>; 2]);

/// How many assignments make an address what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Uses {
    own: usize,
    broadcast: usize,
}

impl Uses {
    fn kind(self) -> u32 {
        match self {
            Uses { own: 0, broadcast: 0 } => 0,
            Uses { own: 0, .. } => LOCAL_BROADCAST,
            _ => LOCAL_OWN,
        }
    }
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Locals {
    assignments: BTreeSet<Assignment>,
    uses: HashMap<LocalKey, Uses>,
    /// Keys that mean something else than before, with what they meant.
    changed: HashMap<LocalKey, u32>,
}

impl Locals {
    /// An interface has an address.
    pub(super) fn assigned(&mut self, address: &Address) {
        if address.tentative || address.address.is_loopback() {
            // Duplicate address detection may begin anew for an address that counted.
            return self.gone(address);
        }
        let assignment = (address.interface, address.address, address.broadcasts);
        if self.assignments.insert(assignment) {
            self.count(&assignment, |uses| *uses += 1);
        }
    }

    /// An interface does not have an address any more.
    pub(super) fn gone(&mut self, address: &Address) {
        self.remove(&(address.interface, address.address, address.broadcasts));
    }

    /// An interface is gone, and its addresses with it.
    pub(super) fn forget_interface(&mut self, interface: u32) {
        let gone: Vec<Assignment> =
            self.assignments.iter().filter(|assignment| assignment.0 == interface).copied().collect();
        gone.iter().for_each(|assignment| self.remove(assignment));
    }

    /// These are all addresses of all interfaces.
    pub(super) fn are(&mut self, addresses: &[Address]) {
        let told: BTreeSet<Assignment> = addresses
            .iter()
            .map(|address| (address.interface, address.address, address.broadcasts))
            .collect();
        let gone: Vec<Assignment> = self.assignments.difference(&told).copied().collect();
        gone.iter().for_each(|assignment| self.remove(assignment));
        addresses.iter().for_each(|address| self.assigned(address));
    }

    fn remove(&mut self, assignment: &Assignment) {
        if self.assignments.remove(assignment) {
            self.count(assignment, |uses| *uses -= 1);
        }
    }

    fn count(&mut self, (interface, address, broadcasts): &Assignment, change: impl Fn(&mut usize)) {
        let mut note = |address: IpAddr, pick: fn(&mut Uses) -> &mut usize| {
            let key = LocalKey::new(Key::from(address), *interface);
            let uses = self.uses.entry(key).or_default();
            let before = uses.kind();
            change(pick(uses));
            if uses.kind() != before {
                self.changed.entry(key).or_insert(before);
            }
            if uses.kind() == 0 {
                self.uses.remove(&key);
            }
        };
        note(*address, |uses| &mut uses.own);
        // Given and computed are mostly the same.
        for broadcast in broadcasts.iter().flatten().collect::<BTreeSet<_>>() {
            note(IpAddr::V4(*broadcast), |uses| &mut uses.broadcast);
        }
    }

    /// What has changed since this was called last: keys with what they mean now.
    fn take_changed(&mut self) -> Vec<(LocalKey, u32)> {
        let mut changed = Vec::new();
        for (key, before) in std::mem::take(&mut self.changed) {
            let now = self.uses.get(&key).copied().unwrap_or_default().kind();
            if now != before {
                changed.push((key, now));
            }
        }
        changed
    }

    /// What an address means on any link.
    fn anywhere(&self, address: Key) -> Option<HostAddress> {
        let uses = self.uses.iter().filter(|(key, _)| key.address == address).map(|(_, uses)| uses.kind());
        match uses.min()? {
            LOCAL_OWN => Some(HostAddress::Own),
            _ => Some(HostAddress::Broadcast),
        }
    }
}

impl Shard {
    /// Tells the XDP program and the engine what has changed. The program learns it first.
    pub(super) fn tell_locals(&mut self) {
        let changed = self.locals.take_changed();
        let mut told = BTreeMap::new();
        for (key, kind) in changed {
            if let Err(error) = self.maps.set_local(key, kind) {
                tracing::warn!("segments for {} may go astray: {error}", key.address.ip());
            }
            told.insert(key.address.ip(), key.address);
        }
        for (ip, address) in told {
            self.endpoint.set_host_address(ip, self.locals.anywhere(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: u32, text: &str, broadcast: Option<&str>) -> Address {
        Address {
            address: text.parse().expect("an address"),
            interface,
            global: true,
            preferred: true,
            deprecated: false,
            tentative: false,
            broadcasts: [broadcast.map(|text| text.parse().expect("an address")); 2],
        }
    }

    fn changes(locals: &mut Locals) -> Vec<(String, u32, u32)> {
        let mut changes: Vec<_> = locals
            .take_changed()
            .into_iter()
            .map(|(key, kind)| (key.address.ip().to_string(), key.scope, kind))
            .collect();
        changes.sort();
        changes
    }

    #[test]
    fn an_address_counts_as_long_as_any_interface_has_it() {
        let mut locals = Locals::default();
        let (wire, lo) = (address(2, "10.9.1.2", Some("10.9.1.255")), address(1, "10.9.1.2", None));
        locals.assigned(&wire);
        assert_eq!(changes(&mut locals), [("10.9.1.2".into(), 0, 1), ("10.9.1.255".into(), 0, 2)]);
        locals.assigned(&wire);
        locals.assigned(&lo);
        assert!(changes(&mut locals).is_empty());
        locals.gone(&wire);
        assert_eq!(changes(&mut locals), [("10.9.1.255".into(), 0, 0)]);
        locals.forget_interface(1);
        assert_eq!(changes(&mut locals), [("10.9.1.2".into(), 0, 0)]);
        assert!(locals.uses.is_empty() && locals.assignments.is_empty());
    }

    #[test]
    fn an_own_address_is_one_even_if_it_is_a_broadcast_address_of_another_subnet() {
        let mut locals = Locals::default();
        locals.assigned(&address(2, "10.9.1.2", Some("10.9.1.255")));
        locals.assigned(&address(3, "10.9.1.255", None));
        assert_eq!(changes(&mut locals), [("10.9.1.2".into(), 0, 1), ("10.9.1.255".into(), 0, 1)]);
        locals.forget_interface(3);
        assert_eq!(changes(&mut locals), [("10.9.1.255".into(), 0, 2)]);
    }

    #[test]
    fn link_local_addresses_count_on_their_link() {
        let mut locals = Locals::default();
        locals.assigned(&address(2, "fe80::1", None));
        locals.assigned(&address(3, "fe80::1", None));
        assert_eq!(changes(&mut locals), [("fe80::1".into(), 2, 1), ("fe80::1".into(), 3, 1)]);
        locals.forget_interface(2);
        assert_eq!(changes(&mut locals), [("fe80::1".into(), 2, 0)]);
        let key = Key::from("fe80::1".parse::<IpAddr>().expect("an address"));
        assert_eq!(locals.anywhere(key), Some(HostAddress::Own));
        locals.forget_interface(3);
        assert_eq!(locals.anywhere(key), None);
    }

    #[test]
    fn loopback_and_tentative_addresses_do_not_count() {
        let mut locals = Locals::default();
        locals.assigned(&address(1, "127.0.0.1", Some("127.255.255.255")));
        locals.assigned(&address(1, "::1", None));
        let tentative = Address { tentative: true, ..address(2, "2001:db8::1", None) };
        locals.assigned(&tentative);
        assert!(changes(&mut locals).is_empty());
        locals.assigned(&Address { tentative: false, ..tentative });
        assert_eq!(changes(&mut locals).len(), 1);
        locals.assigned(&tentative);
        assert_eq!(changes(&mut locals), [("2001:db8::1".into(), 0, 0)]);
    }

    #[test]
    fn after_lost_news_the_difference_is_told() {
        let mut locals = Locals::default();
        locals.assigned(&address(2, "10.9.1.2", Some("10.9.1.255")));
        locals.assigned(&address(1, "192.0.2.1", None));
        changes(&mut locals);
        locals.are(&[address(2, "10.9.1.3", Some("10.9.1.255")), address(1, "192.0.2.1", None)]);
        assert_eq!(changes(&mut locals), [("10.9.1.2".into(), 0, 0), ("10.9.1.3".into(), 0, 1)]);
    }
}
