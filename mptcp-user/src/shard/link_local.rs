//! Link-local IPv6 addresses (RFC 4007, RFC 4291 section 2.5.6): they mean something on one link only, which
//! an interface says ("fe80::1%eth0").
//!
//! Maps and four-tuples know addresses without interfaces, so an address of ours that two interfaces have can
//! be used on one of them. A subflow between link-local addresses stays on the link of ours.

use super::Shard;
use crate::StackError as Error;
use mptcp_datapath::netlink::{Address, Answer, Question, RouteKind};
use mptcp_proto::Instant;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The link-local addresses that are used.
#[derive(Default)]
pub(super) struct LinkLocals {
    /// All that interfaces in use have: there is a listener for all addresses.
    all: bool,
    /// Those that connections or listeners have asked for, with their interfaces.
    named: HashSet<(u32, IpAddr)>,
}

/// The interface that an address names; 0 if it names none.
pub(super) fn scope_of(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// Whether it is an address of one link only.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

impl Shard {
    /// Whether an address of an interface in use is to be taken in.
    pub(super) fn is_wanted(&self, address: &Address) -> bool {
        let key = (address.interface, address.address);
        let elsewhere =
            self.paths.interface_of(address.address).is_some_and(|other| other != address.interface);
        address.global
            || is_link_local(address.address)
                && !elsewhere
                && (self.link_locals.all || self.link_locals.named.contains(&key))
    }

    /// There is a listener for all addresses: link-local ones are among them.
    pub(super) fn use_link_locals(&mut self, time: Instant, listening: IpAddr) {
        if listening == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !self.link_locals.all {
            self.link_locals.all = true;
            let used: Vec<u32> = self.attachments.iter().map(|attachment| attachment.index).collect();
            for index in used {
                self.ask_for_addresses(time, index);
            }
        }
    }

    /// An interface has come into use: its link-local addresses, if there is a listener for all.
    pub(super) fn take_link_locals(&mut self, time: Instant, index: u32) {
        if self.link_locals.all {
            self.ask_for_addresses(time, index);
        }
    }

    /// Takes a link-local address of ours into use.
    ///
    /// # Errors
    /// It names no interface in use, or the interface does not have it.
    pub(super) fn use_link_local(&mut self, time: Instant, address: IpAddr, scope: u32) -> Result<(), Error> {
        if self.attachment(scope).is_none() {
            return Err(self.no_scope(address));
        }
        if self.paths.interface_of(address) == Some(scope) {
            return Ok(());
        }
        self.link_locals.named.insert((scope, address));
        self.ask_for_addresses(time, scope);
        if self.paths.interface_of(address) == Some(scope) {
            return Ok(());
        }
        self.link_locals.named.remove(&(scope, address));
        Err(Error::BadLocal { local: address, interfaces: self.name_of(scope) })
    }

    /// The local address for a connection to a link-local address on the link that either end names.
    pub(super) fn link_local_for(
        &mut self,
        time: Instant,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Result<IpAddr, Error> {
        let named = [Some(remote), local].into_iter().flatten().map(scope_of).find(|scope| *scope != 0);
        let scope = named.filter(|scope| self.attachment(*scope).is_some());
        let scope = scope.ok_or_else(|| self.no_scope(remote.ip()))?;
        let wanted = local.map(|local| local.ip()).filter(|ip| !ip.is_unspecified());
        let question = Question { interface: Some(scope), source: wanted, ..Question::to(remote.ip()) };
        let answer = self.paths.netlink().ask_route(&question);
        let source = match answer.map_err(|error| Error::System("asking for a route", error))? {
            Answer::Way(route) if route.kind == RouteKind::Local => {
                return Err(Error::OwnAddress(remote.ip()));
            }
            Answer::Way(route) => wanted.or(route.source),
            Answer::Refused(refusal) => {
                return Err(Error::RouteRefused {
                    remote: remote.ip(),
                    local: wanted,
                    kind: refusal.as_str(),
                });
            }
            Answer::NoRoute => None,
        };
        let source = source.filter(|source| is_link_local(*source));
        let source =
            source.ok_or_else(|| Error::NoRoute { remote: remote.ip(), interfaces: self.name_of(scope) })?;
        self.use_link_local(time, source, scope)?;
        Ok(source)
    }

    pub(super) fn no_scope(&self, address: IpAddr) -> Error {
        let example =
            self.attachments.first().map_or("eth0", |attachment| &attachment.report.name).to_owned();
        Error::NoScope { address, example, interfaces: self.interface_names() }
    }

    fn name_of(&self, interface: u32) -> String {
        let attachment = self.attachments.iter().find(|attachment| attachment.index == interface);
        attachment
            .map_or_else(|| format!("interface {interface}"), |attachment| attachment.report.name.clone())
    }
}
