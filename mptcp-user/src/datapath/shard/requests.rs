//! What applications ask for.

use super::super::Error;
use super::super::channel::{Channel, Handle};
use super::super::mailbox::{Command, Listening, Status};
use super::super::netlink::{Route, RouteKind};
use super::super::port::PortError;
use super::{Connection, Drain, Listener, Shard};
use crate::proto::{
    ConnectError, ConnectionConfig, ConnectionId, Instant, InterfaceRule, InterfaceUse, ListenError,
};
use mptcp_common::address::Address;
use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// IPv4-mapped IPv6 addresses mean IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Shard {
    /// Attends to commands and to channels that applications have touched. Whether there were any.
    pub(super) fn take_mail(&mut self, time: Instant) -> bool {
        if !self.mailbox.has_mail() {
            return false;
        }
        let (mut commands, mut touched) =
            (std::mem::take(&mut self.commands), std::mem::take(&mut self.touched));
        self.mailbox.take(&mut commands, &mut touched);
        for command in commands.drain(..) {
            self.obey(time, command);
        }
        for channel in touched.drain(..) {
            self.serve(time, &channel);
        }
        (self.commands, self.touched) = (commands, touched);
        true
    }

    fn obey(&mut self, time: Instant, command: Command) {
        match command {
            Command::Connect { remote, local, config, reply } => {
                self.connect(time, remote, local, &config, reply);
            }
            Command::Listen { local, config, reply } => {
                let listening = self.listen(local, *config);
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
            let mut more = true;
            while more {
                let capacity = self.endpoint.send_capacity(id);
                if capacity == 0 {
                    break;
                }
                more = channel.take_to_send(capacity, &mut self.slices);
                for slice in self.slices.drain(..) {
                    self.endpoint.send(time, id, slice);
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
        reply: oneshot::Sender<Result<Handle, Error>>,
    ) {
        if self.draining.is_some() {
            let _ = reply.send(Err(Error::Stopped));
            return;
        }
        let (remote, local) = (canonical(remote), local.map(canonical));
        let result = self.open(time, remote, local, config);
        match result {
            Ok((id, local)) => {
                let sizes = self.endpoint.queue_sizes(id).unwrap_or_default();
                let channel = Channel::new(id, (local, remote), self.mailbox.clone(), sizes);
                self.insert(id, channel, Some(reply), config.announce_port);
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    pub(super) fn insert(
        &mut self,
        id: ConnectionId,
        channel: Arc<Channel>,
        opening: Option<oneshot::Sender<Result<Handle, Error>>>,
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
        let ip = remote.ip();
        let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if remote.port() == 0 || !ip.is_loopback() && !Address::from(ip).is_unicast() || link_local {
            return Err(Error::BadRemote(remote));
        }
        let wanted = local.map(|local| local.ip()).filter(|ip| !ip.is_unspecified());
        let address = self.local_for(time, ip, wanted, config)?;
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
    fn usage(&self, interface: u32, config: &ConnectionConfig) -> InterfaceUse {
        let attachment = self.attachments.iter().find(|attachment| attachment.index == interface);
        let name = attachment.map_or("", |attachment| &attachment.report.name);
        InterfaceRule::first(&config.interface_rules, name)
    }

    /// The local address to connect from.
    fn local_for(
        &mut self,
        time: Instant,
        remote: IpAddr,
        wanted: Option<IpAddr>,
        config: &ConnectionConfig,
    ) -> Result<IpAddr, Error> {
        let question = |error| Error::System("asking for a route", error);
        let direct = self.paths.own_way(time, remote).map_err(question)?;
        match direct.map(|route| route.kind) {
            Some(RouteKind::Local) => return Err(Error::OwnAddress(remote)),
            Some(RouteKind::Other) => return Err(Error::BadRemote(SocketAddr::new(remote, 0))),
            _ => {}
        }
        let no_route = |shard: &Self| Error::NoRoute { remote, interfaces: shard.interface_names() };
        if let Some(local) = wanted {
            let interface = self
                .paths
                .interface_of(local)
                .ok_or_else(|| Error::BadLocal { local, interfaces: self.interface_names() })?;
            let route = self.paths.netlink().route_over(remote, local, interface).map_err(question)?;
            return route.map(|_| local).ok_or_else(|| no_route(self));
        }
        if config.interface_rules.is_empty()
            && let Some(Route { interface, source: Some(source), .. }) = direct
            && self.paths.interface_of(source) == Some(interface)
        {
            return Ok(source);
        }
        // The kernel would go elsewhere, or the rules may want it: the best of our own interfaces.
        let mut candidates: Vec<(IpAddr, u32)> =
            self.paths.locals().filter(|(local, _)| local.is_ipv4() == remote.is_ipv4()).collect();
        candidates.sort();
        let kernels = direct.and_then(|route| route.source);
        let mut best: Option<(_, IpAddr)> = None;
        for (local, interface) in candidates {
            let usage = self.usage(interface, config);
            let route = self.paths.netlink().route_over(remote, local, interface).map_err(question)?;
            if let Some(route) = route.filter(|_| usage > InterfaceUse::Deny) {
                let rank = (usage, kernels == Some(local), route.prefix, Reverse(route.metric));
                if best.is_none_or(|(other, _)| rank > other) {
                    best = Some((rank, local));
                }
            }
        }
        best.map(|(_, local)| local).ok_or_else(|| no_route(self))
    }

    /// A port for a subflow between these ends.
    pub(super) fn port_for(&mut self, local: IpAddr, remote: SocketAddr) -> Result<u16, PortError> {
        let endpoint = &self.endpoint;
        self.ports.any(|port| !endpoint.has_tuple(SocketAddr::new(local, port), remote))
    }

    fn listen(&mut self, local: SocketAddr, config: ConnectionConfig) -> Result<Listening, Error> {
        if self.draining.is_some() {
            return Err(Error::Stopped);
        }
        let mut local = canonical(local);
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
            return Err(Error::Xdp { interface: None, source });
        }
        Ok(Listening { id, local, incoming })
    }

    pub(super) fn close_listener(&mut self, time: Instant, id: crate::proto::ListenerId) {
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
