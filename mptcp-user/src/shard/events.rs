//! What the engine tells.

use super::Shard;
use crate::StackError as Error;
use crate::channel::{Channel, Handle};
use mptcp_common::event::{EVENT_HARD, EVENT_TOO_BIG, EventKind};
use mptcp_proto::{CloseReason, ConnectionId, Event, Instant, ListenerId, Unreachable};
use std::net::{IpAddr, SocketAddr};
use tokio::sync::mpsc::error::TrySendError;

/// Connections that have to have been awake at the same time for their memory to be worth the search.
const MANY_AWAKE: usize = 64;

/// Events that are attended to before something else has its turn.
const EVENTS: usize = 8192;
/// Subflows that are opened in one round.
const WISHES: usize = 64;
/// Events of the XDP program that are attended to at once: packets make them, and some more may come
/// meanwhile.
const PROGRAM_EVENTS: usize = 1024;

/// A subflow that the engine wants.
pub(super) struct Wish {
    connection: ConnectionId,
    local: IpAddr,
    interface: u32,
    remote: SocketAddr,
}

/// Lets the allocator return to the system what is free.
fn give_memory_back() {
    // SAFETY: the allocator's own function, which may be called at any time from any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Shard {
    /// Attends to the events of the engine. Whether to all of them: some of what is done about them makes new
    /// ones, and the shard has other things to do, too.
    pub(super) fn handle_events(&mut self, time: Instant) -> bool {
        for _ in 0..EVENTS {
            let Some(event) = self.endpoint.poll_event() else { return true };
            self.handle_event(time, event);
        }
        false
    }

    /// Attends to the subflows that are wanted, a few in each round: a wish that can't be fulfilled may
    /// become the next one.
    pub(super) fn open_wanted(&mut self, time: Instant) {
        for _ in 0..WISHES {
            let Some(Wish { connection, local, interface, remote }) = self.wanted.pop_front() else { break };
            self.open_subflow(time, connection, local, interface, remote);
        }
    }

    #[allow(clippy::needless_pass_by_value)] // an event is attended to once
    fn handle_event(&mut self, time: Instant, event: Event) {
        match event {
            Event::Connected(id) => self.connected(time, id),
            Event::Accepted { listener, connection } => self.accepted(time, listener, connection),
            Event::Readable(id) => self.readable(id),
            Event::Writable(id) => {
                if let Some(connection) = self.connections.get(&id) {
                    let channel = connection.channel.clone();
                    self.serve(time, &channel);
                }
            }
            Event::FellBack(id, reason) => {
                if let Some(connection) = self.connections.get(&id) {
                    let (local, remote) = (connection.channel.local(), connection.channel.remote());
                    tracing::info!("{local} – {remote} continues as regular TCP: {reason:?}");
                }
            }
            Event::Closed(id, reason) => self.closed(time, id, reason),
            Event::SubflowAdded { slot, local, remote } => {
                self.paths.subflow_added(slot, local, remote);
                let limits = self.paths.limits(time, local.ip(), remote.ip());
                if limits.mtu > 0 {
                    self.endpoint.limit_path(time, local, remote, Some(limits.mtu));
                }
                self.ports.add_user(local.port());
                if self.removals.revive(local, remote) {
                    self.ports.remove_user(local.port());
                }
                if let Err(error) = self.maps.insert_subflow(local, remote, slot, 0) {
                    tracing::warn!("subflow {local} – {remote} can't be received: {error}");
                }
            }
            Event::SubflowRemoved { slot, local, remote } => {
                self.paths.subflow_removed(slot, local.ip(), remote.ip());
                self.removals.add(local, remote);
            }
            Event::TokenAdded(token) => {
                if let Err(error) = self.maps.insert_token(token, 0) {
                    tracing::warn!("the peer can't add subflows to a connection: {error}");
                }
            }
            Event::TokenRemoved(token) => {
                if let Err(error) = self.maps.remove_token(token) {
                    tracing::warn!("a token stays in the XDP program's map: {error}");
                }
            }
            Event::SubflowWanted { connection, local, interface, remote } => {
                self.wanted.push_back(Wish { connection, local, interface, remote });
            }
            Event::Rests(id) => self.rest(id),
            Event::Released(id) => {
                if let Some(connection) = self.connections.remove(&id) {
                    connection.channel.close(CloseReason::Finished, None);
                    if let Some(port) = connection.announced {
                        self.ports.remove_user(port);
                    }
                }
            }
        }
    }

    /// A connection needs less memory than it did. When of those that needed it at the same time a quarter is left, what is free
    /// is given back to the system.
    fn rest(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            connection.channel.rest();
        }
        let awake = self.endpoint.awake();
        self.most_awake = self.most_awake.max(awake + 1);
        if self.most_awake >= MANY_AWAKE && awake <= self.most_awake / 4 {
            self.most_awake = awake;
            give_memory_back();
        }
    }

    /// Takes subflows that are over out of the XDP program's map, once their last segments have left.
    pub(super) fn forget_removed(&mut self) {
        for (local, remote) in self.removals.due(self.all_sent()) {
            if let Err(error) = self.maps.remove_subflow(local, remote) {
                tracing::warn!("subflow {local} – {remote} stays in the XDP program's map: {error}");
            }
            self.ports.remove_user(local.port());
        }
    }

    fn connected(&mut self, time: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(opening) = connection.opening.take() else { return };
        // If nobody waits any more, the handle is dropped here, and that closes the connection.
        let _ = opening.reply.send(Ok(Handle(connection.channel.clone())));
        let channel = connection.channel.clone();
        self.serve(time, &channel);
    }

    fn accepted(&mut self, time: Instant, listener: ListenerId, id: ConnectionId) {
        let ends = self.endpoint.info(id).and_then(|info| {
            let initial = info.subflows.iter().find(|subflow| subflow.initial).or(info.subflows.first());
            initial.map(|subflow| (subflow.local, subflow.remote))
        });
        let (Some(listener), Some(ends)) = (self.listeners.get(&listener), ends) else {
            self.endpoint.abort(time, id);
            self.endpoint.release(time, id);
            return;
        };
        let sizes = self.endpoint.queue_sizes(id).unwrap_or_default();
        let channel = Channel::new(id, ends, self.mailbox.clone(), sizes);
        let refused = match listener.incoming.try_send(Handle(channel.clone())) {
            Ok(()) => false,
            // The application does not accept fast enough, or not at all any more.
            Err(TrySendError::Full(handle) | TrySendError::Closed(handle)) => {
                drop(handle);
                true
            }
        };
        let announced = listener.config.announce_port;
        self.insert(id, channel, None, announced);
        if refused {
            self.endpoint.abort(time, id);
        }
    }

    fn readable(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let mut slices = std::mem::take(&mut self.slices);
        let (_, end) = self.endpoint.recv(id, usize::MAX, &mut slices);
        if !slices.is_empty() || end {
            if let Some(sizes) = self.endpoint.queue_sizes(id) {
                connection.channel.set_sizes(sizes);
            }
            connection.channel.deliver(&mut slices, end);
        }
        slices.clear();
        self.slices = slices;
    }

    fn closed(&mut self, time: Instant, id: ConnectionId, reason: CloseReason) {
        // What had arrived before the end can still be read.
        self.readable(id);
        let info = self.endpoint.info(id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.closed = true;
        connection.channel.close(reason, info);
        if let Some(opening) = connection.opening.take() {
            let _ = opening.reply.send(Err(Error::not_connected(reason)));
            connection.released = true;
            self.endpoint.release(time, id);
        } else {
            let channel = connection.channel.clone();
            self.serve(time, &channel);
        }
    }

    /// Finds a way for a subflow, reserves a port, and lets the engine open it.
    fn open_subflow(
        &mut self,
        time: Instant,
        connection: ConnectionId,
        local: IpAddr,
        interface: u32,
        remote: SocketAddr,
    ) {
        let port = self
            .paths
            .may_begin(time, local, remote)
            .and_then(|()| self.port_for(local, remote).map_err(|error| error.to_string()));
        match port {
            Ok(port) => {
                let local = SocketAddr::new(local, port);
                if self.endpoint.open_subflow(time, connection, local, remote) {
                    self.paths.begin(local, remote);
                } else {
                    self.ports.release_if_unused(port);
                }
            }
            Err(reason) => {
                tracing::debug!("no subflow from {local} to {remote} over interface {interface}: {reason}");
                self.endpoint.open_subflow_failed(time, connection, local, remote);
            }
        }
    }

    /// What the XDP program says besides packets.
    pub(super) fn take_program_events(&mut self, time: Instant) {
        let Some(events) = self.events.as_mut() else { return };
        for _ in 0..PROGRAM_EVENTS {
            let Some(event) = events.next() else { break };
            match event.kind() {
                Some(EventKind::Unreachable) => {
                    let too_big = event.flags & EVENT_TOO_BIG != 0;
                    let (local, remote) = (event.key.local_addr(), event.key.remote_addr());
                    if too_big && self.paths.limits(time, local.ip(), remote.ip()).locked {
                        continue;
                    }
                    let unreachable = Unreachable {
                        local: event.key.local_addr(),
                        remote: event.key.remote_addr(),
                        seq: event.seq,
                        mtu: (too_big && event.mtu > 0).then_some(event.mtu),
                        hard: event.flags & EVENT_HARD != 0,
                    };
                    self.endpoint.handle_unreachable(time, unreachable);
                }
                Some(EventKind::RefusalsLimited) => {
                    tracing::warn!(
                        "many MP_JOINs with unknown tokens: only some of them are refused by an answer"
                    );
                }
                None => {}
            }
        }
    }
}
