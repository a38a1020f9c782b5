//! What applications ask for.

use super::link_local::{is_link_local, scope_of};
use super::ways::Opening;
use super::{Connection, Drain, Listener, Shard};
use crate::StackError as Error;
use crate::channel::Channel;
use crate::mailbox::{Command, Listening, Status};
use mptcp_common::address::Address;
use mptcp_datapath::netlink::{Answer, Route, RouteKind, Verdict};
use mptcp_datapath::port::PortError;
use mptcp_proto::{
    ConnectError, ConnectionConfig, ConnectionId, Instant, InterfaceRule, InterfaceUse, ListenError,
};
use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Commands, and channels that have been touched, that are attended to in one round.
const COMMANDS: usize = 256;
const CHANNELS: usize = 4096;

/// IPv4-mapped IPv6 addresses mean IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Shard {
    /// Attends to commands and to channels that applications have touched. Whether there were any.
    pub(super) fn take_mail(&mut self, time: Instant) -> bool {
        if !self.mailbox.has_mail() && !self.has_left_over() {
            return false;
        }
        self.mailbox.take(&mut self.commands, &mut self.touched);
        for _ in 0..COMMANDS {
            let Some(command) = self.commands.pop_front() else { break };
            self.obey(time, command);
        }
        for _ in 0..CHANNELS {
            let Some(channel) = self.touched.pop_front() else { break };
            self.serve(time, &channel);
        }
        true
    }

    /// Whether something that was asked for was left for the next round.
    pub(super) fn has_left_over(&self) -> bool {
        !self.commands.is_empty() || !self.touched.is_empty() || !self.wanted.is_empty()
    }

    fn obey(&mut self, time: Instant, command: Command) {
        match command {
            Command::Connect { remote, local, config, ticket, reply } => {
                self.connect(time, remote, local, &config, Opening { ticket, reply });
            }
            Command::GiveUp(ticket) => self.give_up(time, ticket),
            Command::Ways { remote, config, reply } => {
                let _ = reply.send(self.ways(time, canonical(remote), &config));
            }
            Command::Listen { local, config, reply } => {
                let listening = self.listen(time, local, *config);
                let close = listening.as_ref().ok().map(|listening| listening.id);
                if reply.send(listening).is_err()
                    && let Some(id) = close
                {
                    self.close_listener(time, id);
                }
            }
            Command::CloseListener(id) => self.close_listener(time, id),
            Command::Info(id, reply) => {
                let _ = reply.send(self.endpoint.info(id));
            }
            Command::SetBackup { connection, subflow, backup, reply } => {
                let _ = reply.send(self.endpoint.set_backup(time, connection, subflow, backup));
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status(time));
            }
            Command::Infos(ids, reply) => {
                let info = |id| Some((id, self.endpoint.info(id)?));
                let _ = reply.send(ids.into_iter().filter_map(info).collect());
            }
            Command::LookAtQueues => self.look_at_queues(),
            Command::Stop { patience, reply } => {
                let ids: Vec<_> = self.listeners.keys().copied().collect();
                for id in ids {
                    self.close_listener(time, id);
                }
                let deadline = time + patience;
                let drain =
                    self.draining.get_or_insert(Drain { deadline, aborted: false, replies: Vec::new() });
                drain.deadline = drain.deadline.min(deadline);
                drain.replies.extend(reply);
            }
        }
    }

    fn status(&self, time: Instant) -> Status {
        let mut listeners: Vec<_> =
            self.listeners.values().filter_map(|listener| listener.entries.first().copied()).collect();
        listeners.sort();
        Status {
            counters: self.endpoint.counters().clone(),
            xdp: self.maps.counters().ok(),
            listeners,
            blackholes: self.endpoint.blackholes(time),
            connections: self.endpoint.connections(),
        }
    }

    /// Moves octets and wishes between an application and the engine.
    pub(super) fn serve(&mut self, time: Instant, channel: &Channel) {
        let consumed = channel.begin();
        let id = channel.id();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if consumed > 0 {
            self.endpoint.consumed(time, id, consumed);
        }
        if let Some(sizes) = self.endpoint.queue_sizes(id) {
            channel.set_sizes(sizes);
        }
        if !connection.closed {
            // Until the engine has said that it is full: only then does it tell when it is not any more.
            loop {
                let capacity = self.endpoint.send_capacity(id);
                let left = channel.take_to_send(capacity, &mut self.slices);
                for slice in self.slices.drain(..) {
                    self.endpoint.send(time, id, slice);
                }
                if left == 0 || capacity == 0 {
                    self.endpoint.waits_outside(time, id, left);
                    break;
                }
            }
        }
        let wishes = channel.wishes();
        if wishes.abort && !connection.closed {
            self.endpoint.abort(time, id);
        } else if wishes.finish && !connection.finished {
            connection.finished = true;
            self.endpoint.finish(time, id);
        }
        if (wishes.released || wishes.abort && connection.closed) && !connection.released {
            connection.released = true;
            self.endpoint.release(time, id);
        }
    }

    fn connect(
        &mut self,
        time: Instant,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        config: &ConnectionConfig,
        opening: Opening,
    ) {
        if self.draining.is_some() {
            let _ = opening.reply.send(Err(Error::Stopped));
            return;
        }
        let result = self.open(time, remote, local, config);
        let remote = canonical(remote);
        match result {
            Ok((id, local)) => {
                let sizes = self.endpoint.queue_sizes(id).unwrap_or_default();
                let channel = Channel::new(id, (local, remote), self.mailbox.clone(), sizes);
                self.insert(id, channel, Some(opening), config.announce_port);
            }
            Err(error) => {
                let _ = opening.reply.send(Err(error));
            }
        }
    }

    pub(super) fn insert(
        &mut self,
        id: ConnectionId,
        channel: Arc<Channel>,
        opening: Option<Opening>,
        announced: Option<u16>,
    ) {
        if let Some(port) = announced {
            self.ports.add_user(port);
        }
        let connection =
            Connection { channel, opening, announced, closed: false, finished: false, released: false };
        self.connections.insert(id, connection);
    }

    /// Reserves the port that our addresses are announced with, where that is another one. It is given back by
    /// [`Ports::remove_user`](super::ports::Ports::remove_user) or `release_if_unused`.
    fn reserve_announced(&mut self, config: &ConnectionConfig) -> Result<(), PortError> {
        match config.announce_port {
            Some(port) if !self.ports.has(port) => self.ports.reserve(port).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Finds a way, reserves a port, and lets the engine connect.
    fn open(
        &mut self,
        time: Instant,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        config: &ConnectionConfig,
    ) -> Result<(ConnectionId, SocketAddr), Error> {
        let (scoped, scoped_local) = (remote, local);
        let (remote, local) = (canonical(remote), local.map(canonical));
        let ip = remote.ip();
        if remote.port() == 0 || !ip.is_loopback() && !Address::from(ip).is_unicast() {
            return Err(Error::BadRemote(remote));
        }
        let wanted = local.map(|local| local.ip()).filter(|ip| !ip.is_unspecified());
        let address = if is_link_local(ip) {
            self.link_local_for(time, scoped, scoped_local)?
        } else {
            self.local_for(time, remote, wanted, config)?
        };
        self.reserve_announced(config)?;
        let port = match local.map_or(0, |local| local.port()) {
            0 => self.port_for(address, remote),
            port => self.ports.reserve(port),
        };
        let port = port.inspect_err(|_| self.release_announced(config))?;
        let local = SocketAddr::new(address, port);
        match self.endpoint.connect(time, local, remote, config.clone()) {
            Ok(id) => {
                // The events tell that the subflow uses the port; from then on it is counted.
                self.paths.begin(local, remote);
                Ok((id, local))
            }
            Err(error) => {
                self.ports.release_if_unused(port);
                self.release_announced(config);
                Err(match error {
                    ConnectError::UnknownPolicy(kind) => Error::unknown_policy(kind, config),
                    error => error.into(),
                })
            }
        }
    }

    fn release_announced(&mut self, config: &ConnectionConfig) {
        if let Some(port) = config.announce_port {
            self.ports.release_if_unused(port);
        }
    }

    /// What a connection's rules say of an interface.
    pub(super) fn usage(&self, interface: u32, config: &ConnectionConfig) -> InterfaceUse {
        let attachment = self.attachments.iter().find(|attachment| attachment.index == interface);
        let name = attachment.map_or("", |attachment| &attachment.report.name);
        InterfaceRule::first(&config.interface_rules, name)
    }

    /// The local address to connect from: that of the kernel's own way, or of another one that the host's
    /// policy allows.
    fn local_for(
        &mut self,
        time: Instant,
        remote: SocketAddr,
        wanted: Option<IpAddr>,
        config: &ConnectionConfig,
    ) -> Result<IpAddr, Error> {
        let question = |error| Error::System("asking for a route", error);
        if let Some(local) = wanted {
            if self.paths.interface_of(local).is_none() {
                return Err(Error::BadLocal { local, interfaces: self.interface_names() });
            }
            let verdict = self.paths.verdict(local, remote.ip(), Some(remote.port())).map_err(question)?;
            return match verdict {
                Verdict::Allowed(_) => Ok(local),
                other => Err(self.no_way(remote, Some(local), other)),
            };
        }
        let direct = match self.paths.own_way(time, remote).map_err(question)? {
            Answer::Refused(refusal) => return Err(self.no_way(remote, None, Verdict::Refused(refusal))),
            Answer::Way(route) => Some(route),
            Answer::NoRoute => None,
        };
        match direct.map(|route| route.kind) {
            Some(RouteKind::Local) => return Err(self.no_way(remote, None, Verdict::Own)),
            None | Some(RouteKind::Unicast) => {}
            Some(_) => return Err(self.no_way(remote, None, Verdict::NotForTcp)),
        }
        if config.interface_rules.is_empty()
            && let Some(Route { interface, source: Some(source), .. }) = direct
            && self.paths.interface_of(source) == Some(interface)
        {
            return Ok(source);
        }
        let elsewhere = direct.map(|route| route.interface);
        if let Some(interface) = elsewhere
            && !self.paths.takes_any_route()
            && !self.is_plain(interface)
        {
            return Err(self.no_way(remote, None, Verdict::Elsewhere(interface)));
        }
        let kernels = direct.and_then(|route| route.source);
        self.best_local(remote, kernels, config).map_err(question)?.map_err(|refused| {
            let elsewhere = elsewhere.filter(|interface| !self.uses(*interface)).map(Verdict::Elsewhere);
            self.no_way(remote, None, elsewhere.unwrap_or(refused))
        })
    }

    /// The best of our own addresses from which the host's policy allows a way: the kernel would go by an
    /// interface that is not in use, or the connection's rules may want another one. Without any, why: a
    /// refusal, or no route.
    fn best_local(
        &mut self,
        remote: SocketAddr,
        kernels: Option<IpAddr>,
        config: &ConnectionConfig,
    ) -> std::io::Result<Result<IpAddr, Verdict>> {
        let mut candidates: Vec<(IpAddr, u32)> =
            self.paths.locals().filter(|(local, _)| local.is_ipv4() == remote.is_ipv4()).collect();
        candidates.sort();
        let mut best: Option<(_, IpAddr)> = None;
        let mut reason = Verdict::NoRoute;
        for (local, interface) in candidates {
            let usage = self.usage(interface, config);
            if usage == InterfaceUse::Deny {
                continue;
            }
            let verdict = self.paths.verdict(local, remote.ip(), Some(remote.port()))?;
            match verdict {
                Verdict::Allowed(route) => {
                    let rank = (usage, kernels == Some(local), route.prefix, Reverse(route.metric));
                    if best.is_none_or(|(other, _)| rank > other) {
                        best = Some((rank, local));
                    }
                }
                Verdict::Refused(_) => reason = verdict,
                _ => {}
            }
        }
        Ok(best.map(|(_, local)| local).ok_or(reason))
    }

    fn uses(&self, interface: u32) -> bool {
        self.attachments.iter().any(|attachment| attachment.index == interface)
    }

    /// Whether an interface leads to a network by itself, and is no tunnel.
    fn is_plain(&mut self, interface: u32) -> bool {
        let links = self.paths.netlink().links().unwrap_or_default();
        links.iter().any(|link| link.index == interface && link.is_plain())
    }

    /// Why there is no way to a destination, with the remedy.
    fn no_way(&self, remote: SocketAddr, local: Option<IpAddr>, verdict: Verdict) -> Error {
        let (ip, interfaces) = (remote.ip(), self.interface_names());
        match verdict {
            Verdict::Own => Error::OwnAddress(ip),
            Verdict::NotForTcp => Error::BadRemote(remote),
            Verdict::Refused(refusal) => Error::RouteRefused { remote: ip, local, kind: refusal.as_str() },
            Verdict::Elsewhere(index) => {
                let facts = (self.config.probe)().ok();
                let link =
                    facts.as_ref().and_then(|facts| facts.links.iter().find(|link| link.index == index));
                let interface = link.map_or_else(|| format!("interface {index}"), |link| link.name.clone());
                let report =
                    facts.as_ref().zip(link).map(|(facts, link)| facts.report(link, self.config.mode));
                let reason = match (report, local) {
                    (_, Some(local)) if self.uses(index) => {
                        format!("although {local} is another one's address")
                    }
                    (Some(report), _) if !report.usable => report.reason,
                    _ => "it is not among the interfaces in use".into(),
                };
                Error::RoutedElsewhere { remote: ip, interface, reason, interfaces }
            }
            Verdict::Allowed(_) | Verdict::NoRoute => Error::NoRoute { remote: ip, interfaces },
        }
    }

    /// A port for a subflow between these ends.
    pub(super) fn port_for(&mut self, local: IpAddr, remote: SocketAddr) -> Result<u16, PortError> {
        let endpoint = &self.endpoint;
        self.ports.any(|port| !endpoint.has_tuple(SocketAddr::new(local, port), remote))
    }

    fn listen(
        &mut self,
        time: Instant,
        local: SocketAddr,
        config: ConnectionConfig,
    ) -> Result<Listening, Error> {
        if self.draining.is_some() {
            return Err(Error::Stopped);
        }
        let scope = scope_of(local);
        let mut local = canonical(local);
        if is_link_local(local.ip()) {
            self.use_link_local(time, local.ip(), scope)?;
        }
        if !local.ip().is_unspecified() && self.paths.interface_of(local.ip()).is_none() {
            return Err(Error::BadLocal { local: local.ip(), interfaces: self.interface_names() });
        }
        // A port of ours (another address's listener, or connections of a listener that is gone) can be shared.
        if local.port() == 0 {
            local.set_port(self.ports.listening()?);
        } else if !self.ports.has(local.port()) {
            self.ports.reserve(local.port())?;
        }
        self.reserve_announced(&config).inspect_err(|_| self.ports.release_if_unused(local.port()))?;
        let result = self.endpoint.listen(local, config.clone());
        let id = match result {
            Ok(id) => id,
            Err(error) => {
                self.ports.release_if_unused(local.port());
                self.release_announced(&config);
                return Err(match error {
                    ListenError::UnknownPolicy(kind) => Error::unknown_policy(kind, &config),
                    error => Error::Listen(error, local),
                });
            }
        };
        self.ports.add_user(local.port());
        if let Some(port) = config.announce_port {
            self.ports.add_user(port);
        }
        let mut entries = vec![local];
        if local.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            entries.push((Ipv4Addr::UNSPECIFIED, local.port()).into());
        }
        let (sender, incoming) = mpsc::channel(self.config.endpoint.backlog.max(1));
        let inserted = entries.iter().try_for_each(|entry| self.maps.insert_listener(*entry, 0, 1));
        self.listeners.insert(id, Listener { incoming: sender, config, entries, port: local.port() });
        if let Err(source) = inserted {
            self.close_listener(super::now(), id);
            return Err(mptcp_datapath::Error::Xdp { interface: None, source }.into());
        }
        self.use_link_locals(time, local.ip());
        Ok(Listening { id, local, incoming })
    }

    pub(super) fn close_listener(&mut self, time: Instant, id: mptcp_proto::ListenerId) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        for entry in &listener.entries {
            // Another listener may have taken the same entry over for its family.
            let shared = self.listeners.values().any(|other| other.entries.contains(entry));
            if !shared && let Err(error) = self.maps.remove_listener(*entry) {
                tracing::warn!("a listener stays in the XDP program's map: {error}");
            }
        }
        self.endpoint.close_listener(time, id);
        self.ports.remove_user(listener.port);
        if let Some(port) = listener.config.announce_port {
            self.ports.remove_user(port);
        }
    }
}
