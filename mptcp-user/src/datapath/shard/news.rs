//! What the kernel tells: interfaces, addresses, routes and neighbours that change.

use super::super::netlink::{Address, Change, Link};
use super::{SETTLE, Shard};
use crate::proto::Instant;
use std::net::IpAddr;

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
            Change::Routes => self.paths.forget_routes(),
            Change::Neighbour(neighbour) => {
                if let Some((reachable, waiting)) = self.paths.learn(&neighbour) {
                    self.resolved(time, reachable, waiting);
                }
            }
            Change::Overrun => self.resynchronise(time),
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
        let Some(attachment) = self.attachment(link.index) else { return };
        attachment.mac = link.mac.unwrap_or(attachment.mac);
        attachment.retry = None;
        attachment.blocked = false;
        if !changed {
            return;
        }
        let addresses = attachment.report.addresses.clone();
        let name = &link.name;
        if up {
            tracing::info!("{name} is up");
        } else {
            tracing::info!("{name} is down");
            self.paths.forget_interface(link.index);
        }
        for address in addresses {
            if up {
                self.add_address(time, link.index, address);
            } else {
                self.remove_address(time, address);
            }
        }
        self.paths.forget_routes();
        self.publish_reports();
    }

    fn link_gone(&mut self, time: Instant, index: u32) {
        let Some(place) = self.attachments.iter().position(|attachment| attachment.index == index) else {
            return;
        };
        let attachment = self.attachments.remove(place);
        tracing::info!("{} is gone", attachment.report.name);
        for address in &attachment.report.addresses {
            if self.paths.interface_of(*address) == Some(index) {
                self.remove_address(time, *address);
            }
        }
        attachment.remove(&mut self.program, &mut self.places);
        self.paths.forget_interface(index);
        self.publish_reports();
    }

    fn address_changed(&mut self, time: Instant, address: &Address) {
        if self.attachment(address.interface).is_none() {
            self.recheck.get_or_insert(time + SETTLE);
            return;
        }
        let known = self.paths.interface_of(address.address) == Some(address.interface);
        // A deprecated address serves the connections that have it, but no new ones; those are told apart too late
        // to matter.
        if address.global && address.preferred && !known {
            self.add_address(time, address.interface, address.address);
            self.publish_reports();
        }
    }

    fn address_gone(&mut self, time: Instant, address: &Address) {
        if let Some(attachment) = self.attachment(address.interface) {
            attachment.report.addresses.retain(|known| *known != address.address);
        }
        if self.paths.interface_of(address.address) == Some(address.interface) {
            self.remove_address(time, address.address);
            self.publish_reports();
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
        for report in facts.reports(self.config.mode) {
            let wanted = self.config.interfaces.is_empty() || self.config.interfaces.contains(&report.name);
            if !wanted || !report.usable || self.attachment(report.index).is_some() {
                continue;
            }
            let name = report.name.clone();
            match self.attach(&facts, report) {
                Ok(()) => tracing::info!("using {name} from now on"),
                Err(error) => tracing::warn!("{name} can't be used: {error}"),
            }
        }
    }

    /// News were lost: compares what is known with what is.
    fn resynchronise(&mut self, time: Instant) {
        let netlink = self.paths.netlink();
        let (Ok(links), Ok(addresses)) = (netlink.links(), netlink.addresses()) else { return };
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
        let lost: Vec<(IpAddr, u32)> = self
            .paths
            .locals()
            .filter(|(local, interface)| {
                addresses.iter().all(|address| (address.address, address.interface) != (*local, *interface))
            })
            .collect();
        for (address, interface) in lost {
            let (tentative, broadcasts) = (false, [None; 2]);
            self.address_gone(
                time,
                &Address { address, interface, global: true, preferred: true, tentative, broadcasts },
            );
        }
        for address in &addresses {
            self.address_changed(time, address);
        }
        if let Err(error) = self.paths.refresh() {
            tracing::warn!("asking for neighbours: {error}");
        }
    }
}
