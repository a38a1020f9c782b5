//! What the kernel tells: interfaces, addresses, routes and neighbours that change.

use super::{KEY_SOCKET, SETTLE, Shard};
use mptcp_datapath::netlink::{Address, Change, Link};
use mptcp_proto::{AddressUse, Instant};
use std::net::IpAddr;
use std::os::fd::AsFd;

impl Shard {
    /// Attends to all news.
    pub(super) fn take_news(&mut self, time: Instant) {
        for change in self.monitor.poll() {
            self.take_change(time, change);
        }
    }

    fn take_change(&mut self, time: Instant, change: Change) {
        match change {
            Change::Link(link) => self.link_changed(time, &link),
            Change::LinkGone(index) => {
                self.locals.forget_interface(index);
                self.tell_locals();
                self.link_gone(time, index);
            }
            Change::Address(address) => {
                self.locals.assigned(&address);
                self.tell_locals();
                self.address_changed(time, &address);
            }
            Change::AddressGone(address) => {
                self.locals.gone(&address);
                self.tell_locals();
                self.address_gone(time, &address);
            }
            Change::Routes => {
                self.paths.forget_routes();
                self.endpoint.routes_changed(time);
                if self.has_bridges() {
                    self.recheck.get_or_insert(time + SETTLE);
                }
            }
            Change::Neighbour(neighbour) => {
                if let Some((reachable, waiting)) = self.paths.learn(&neighbour) {
                    self.resolved(time, reachable, waiting);
                }
            }
            Change::Overrun => {
                self.resynchronise(time);
                self.endpoint.routes_changed(time);
            }
        }
    }

    fn link_changed(&mut self, time: Instant, link: &Link) {
        let Some(attachment) = self.attachment(link.index) else {
            self.recheck.get_or_insert(time + SETTLE);
            return;
        };
        let up = link.up && link.running;
        let changed = attachment.up != up || attachment.report.mtu != link.mtu;
        attachment.up = up;
        attachment.report.up = up;
        attachment.report.mtu = link.mtu;
        if attachment.report.name != link.name {
            attachment.report.name.clone_from(&link.name);
            self.endpoint.name_interface(link.index, &link.name);
        }
        self.paths.set_interface(link.index, &link.name, link.mtu);
        let Some(attachment) = self.attachment(link.index) else { return };
        attachment.mac = link.mac.unwrap_or(attachment.mac);
        attachment.retry = None;
        attachment.blocked = false;
        if !changed {
            return;
        }
        attachment.report.addresses.clear();
        let name = &link.name;
        if up {
            tracing::info!("{name} is up");
        } else {
            tracing::info!("{name} is down");
            self.paths.forget_interface(link.index);
        }
        if up {
            self.ask_for_addresses(time, link.index);
        } else if link.up {
            self.suspend_addresses_of(time, link.index);
        } else {
            self.remove_addresses_of(time, link.index);
        }
        self.paths.forget_routes();
        self.publish_reports();
    }

    /// Takes in the addresses that an interface has now. While it was down, its news were not acted on.
    pub(super) fn ask_for_addresses(&mut self, time: Instant, index: u32) {
        match self.paths.netlink().addresses() {
            Ok(addresses) => self.compare_addresses(time, index, &addresses),
            Err(error) => {
                tracing::warn!("asking for addresses: {error}");
                self.news_lost = true;
                self.recheck.get_or_insert(time + SETTLE);
            }
        }
    }

    /// Takes in which of these addresses an interface has, and forgets those that it has not any more.
    fn compare_addresses(&mut self, time: Instant, index: u32, addresses: &[Address]) {
        let of_it = || addresses.iter().filter(|address| address.interface == index);
        let gone: Vec<IpAddr> = self
            .paths
            .locals()
            .filter(|(local, interface)| {
                *interface == index && of_it().all(|address| address.address != *local)
            })
            .map(|(local, _)| local)
            .collect();
        for local in gone {
            self.lose_address(time, index, local);
        }
        for address in of_it() {
            self.take_address(time, address, true);
        }
    }

    /// A cable, a switch or a roaming: the addresses are still there, and so are the subflows.
    fn suspend_addresses_of(&mut self, time: Instant, index: u32) {
        let of_it = self.paths.locals().filter(|(_, interface)| *interface == index);
        for (address, _) in of_it {
            self.endpoint.suspend_local_address(time, address);
        }
    }

    fn remove_addresses_of(&mut self, time: Instant, index: u32) {
        let of_it = self.paths.locals().filter(|(_, interface)| *interface == index);
        let addresses: Vec<IpAddr> = of_it.map(|(address, _)| address).collect();
        for address in addresses {
            self.remove_address(time, address);
        }
    }

    /// Interfaces have other receive queues than before: packets that come by one without a socket are lost
    /// to us.
    pub(super) fn look_at_queues(&mut self) {
        let Ok(driver) = mptcp_datapath::ethtool::Ethtool::new() else { return };
        let mut changed = Vec::new();
        for attachment in &self.attachments {
            if let Some(queues) = driver.receive_queues(&attachment.report.name)
                && queues > attachment.report.queues
            {
                changed.push((attachment.index, queues));
            }
        }
        for (index, queues) in changed {
            self.add_queues(index, queues);
        }
        self.publish_reports();
    }

    fn add_queues(&mut self, index: u32, queues: u32) {
        let Self { attachments, places, pools, program, epoll, listening, .. } = self;
        let Some(attachment) = attachments.iter_mut().find(|attachment| attachment.index == index) else {
            return;
        };
        let name = attachment.report.name.clone();
        let first = match attachment.add_queues((places, pools), program, queues) {
            Ok(first) => first,
            Err(error) => {
                tracing::warn!(
                    "{name} has {queues} receive queues now, and not all of them can be used: {error}"
                );
                return;
            }
        };
        let fresh = attachment.sockets.get(first..).unwrap_or_default();
        if fresh.is_empty() {
            return;
        }
        tracing::info!("{name} has {} receive queues now", attachment.sockets.len());
        if *listening && fresh.iter().any(|socket| epoll.add(socket.as_fd(), KEY_SOCKET).is_err()) {
            // All are tried again before the next sleep.
            *listening = false;
        }
    }

    pub(super) fn link_gone(&mut self, time: Instant, index: u32) {
        let Some(place) = self.attachments.iter().position(|attachment| attachment.index == index) else {
            return;
        };
        let attachment = self.attachments.remove(place);
        tracing::info!("{} is gone", attachment.report.name);
        self.remove_addresses_of(time, index);
        attachment.remove(&mut self.program, &mut self.places);
        self.paths.forget_interface(index);
        self.publish_reports();
    }

    fn address_changed(&mut self, time: Instant, address: &Address) {
        if self.attachment(address.interface).is_none() {
            self.recheck.get_or_insert(time + SETTLE);
            return;
        }
        if self.take_address(time, address, false) {
            self.publish_reports();
        }
    }

    /// Takes in what is said of an address of an interface in use; of one that is known only if something is
    /// different, or if the interface has changed. Whether there was anything to do.
    fn take_address(&mut self, time: Instant, address: &Address, interface_changed: bool) -> bool {
        let known = self.paths.interface_of(address.address) == Some(address.interface);
        if !self.is_wanted(address) {
            return false;
        }
        if address.preferred {
            if known && !interface_changed {
                // It may have been deprecated until now.
                let address_use = self.address_use(address.interface, address.address);
                self.endpoint.set_address_use(address.address, address_use);
                return false;
            }
            self.add_address(time, address.interface, address.address);
            return true;
        }
        if known && address.deprecated {
            // Connections that have it keep it, and new ones may be made to it.
            if interface_changed {
                self.add_address(time, address.interface, address.address);
            }
            self.endpoint.set_address_use(address.address, AddressUse::Existing);
        } else if known {
            // Another host has it, or that is being found out anew.
            self.lose_address(time, address.interface, address.address);
            return true;
        }
        false
    }

    fn address_gone(&mut self, time: Instant, address: &Address) {
        self.lose_address(time, address.interface, address.address);
        self.publish_reports();
    }

    /// An interface does not have an address any more. Another one may have the same.
    fn lose_address(&mut self, time: Instant, index: u32, address: IpAddr) {
        if let Some(attachment) = self.attachment(index) {
            attachment.report.addresses.retain(|known| *known != address);
        }
        if self.paths.interface_of(address) != Some(index) {
            return;
        }
        self.remove_address(time, address);
        let other =
            self.attachments.iter().find(|other| other.up && other.report.addresses.contains(&address));
        if let Some(other) = other.map(|other| other.index) {
            self.add_address(time, other, address);
        }
    }

    /// Brings interfaces into use that have become usable, where all are wanted or they were asked for by name.
    pub(super) fn look_for_interfaces(&mut self, time: Instant) {
        if self.draining.is_some() {
            return;
        }
        let Ok(facts) = (self.config.probe)() else {
            self.recheck = Some(time + SETTLE);
            return;
        };
        self.look_at_bridges();
        for link in &facts.links {
            // One in use has our own program attached, which is no obstacle.
            let wanted = self.config.interfaces.is_empty() || self.config.interfaces.contains(&link.name);
            if !wanted || self.attachment(link.index).is_some() {
                continue;
            }
            let report = facts.report(link, self.config.mode);
            if !report.usable {
                continue;
            }
            let name = report.name.clone();
            match self.attach(&facts, report) {
                Ok(()) => tracing::info!("using {name} from now on"),
                Err(error) => tracing::warn!("{name} can't be used: {error}"),
            }
        }
    }

    /// News were lost: compares what is known with what is. If that can't be asked for, it is tried again.
    pub(super) fn resynchronise(&mut self, time: Instant) {
        let netlink = self.paths.netlink();
        let (Ok(links), Ok(addresses)) = (netlink.links(), netlink.addresses()) else {
            self.news_lost = true;
            self.recheck.get_or_insert(time + SETTLE);
            return;
        };
        self.news_lost = false;
        self.locals.are(&addresses);
        self.tell_locals();
        let gone: Vec<u32> = self
            .attachments
            .iter()
            .map(|attachment| attachment.index)
            .filter(|index| links.iter().all(|link| link.index != *index))
            .collect();
        for index in gone {
            self.link_gone(time, index);
        }
        for link in &links {
            self.link_changed(time, link);
        }
        let used: Vec<u32> = self
            .attachments
            .iter()
            .filter(|attachment| attachment.up)
            .map(|attachment| attachment.index)
            .collect();
        for index in used {
            self.compare_addresses(time, index, &addresses);
        }
        self.publish_reports();
        match self.paths.refresh() {
            Ok(resolved) => {
                for (reachable, waiting) in resolved {
                    self.resolved(time, reachable, waiting);
                }
            }
            Err(error) => tracing::warn!("asking for neighbours: {error}"),
        }
    }
}
