//! All connections of one shard: demultiplexing by four-tuple and by token, listeners, timers.

use super::Instant;
use super::blackhole::{BlackholeInfo, Blackholes};
use super::changes::{Change, Changes, LOOKS, TELLS};
use super::config::{ConnectionConfig, EndpointConfig};
use super::congestion::Path;
use super::connection::options::is_usable;
use super::connection::output::reset_for;
use super::connection::resume::{ASKING, PAUSE};
use super::connection::{Connection, Opening, Policies};
use super::counters::{Counter, Counters};
use super::crypto::Key;
use super::decision::{Decided, Decision, Decisions};
use super::distance::Distances;
use super::dormant::{Dormant, Rests};
use super::event::{AddressUse, ConnectionId, Event, ListenerId, LocalAddress, SubflowSlot, Unreachable};
use super::fast_close::FastCloseWait;
use super::host::{HostAddress, HostAddresses};
use super::info::ConnectionInfo;
use super::memory::Memory;
use super::place::{Occupant, Place};
use super::pre_join::{PreJoin, PreJoins};
use super::right_sizing::QueueSizes;
use super::secret::{Keyed, Secret, TupleKey};
use super::subflow::Subflow;
use super::syn_ack_budget::SynAckBudget;
use super::syn_cookie::SynCookies;
use super::time_wait::TimeWaits;
use super::timer::TimerQueue;
use crate::wire::{Flags, Join, ResetReason, Segment, Version};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Segments that no connection sends, waiting to leave. More are not answered.
const MAX_REPLIES: usize = 256;
/// Why a connection can't be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The four-tuple is in use.
    #[error("a connection between these two addresses and ports exists already")]
    InUse,
    /// The endpoint is full.
    #[error("the limit on connections is reached")]
    TooManyConnections,
    /// The addresses are of two families.
    #[error("local and remote address are of different families")]
    FamilyMismatch,
    /// No algorithm of that name.
    #[error("no {0} of that name")]
    UnknownPolicy(&'static str),
    /// [`EndpointConfig::peers`] refuses it.
    #[error("the rules for peers (--allow-peer, --deny-peer) refuse this address")]
    PeerRefused,
}

/// Why an address can't be listened on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListenError {
    /// There is a listener on that address and port.
    #[error("another listener has this address and port")]
    InUse,
    /// No algorithm of that name.
    #[error("no {0} of that name")]
    UnknownPolicy(&'static str),
}

/// What connections share and change: everything of the endpoint but the connections themselves.
pub(crate) struct Shared {
    pub(crate) config: EndpointConfig,
    pub(crate) memory: Memory,
    rng: ChaCha12Rng,
    secret: Secret,
    cookies: SynCookies,
    syn_acks: SynAckBudget,
    pub(crate) events: VecDeque<Event>,
    counters: Counters,
    blackholes: Blackholes,
    distances: Distances,
    /// What was decided, if anybody wants to know.
    decisions: Option<Box<Decisions>>,
    /// The time of the call that is being attended to.
    now: Instant,
    /// That call comes after a pause: what arrives may have waited for it.
    pub(crate) late: bool,
    addresses: Vec<LocalAddress>,
    /// What addresses are for, where that is not everything.
    address_uses: Vec<(IpAddr, AddressUse)>,
    host: HostAddresses,
    /// Names of the interfaces that addresses are on.
    interface_names: BTreeMap<u32, Box<str>>,
    /// The place of a connection, and the subflow's in it.
    tuples: HashMap<TupleKey, (u32, u32), Keyed>,
    tokens: HashMap<u32, u32, Keyed>,
    free_slots: Vec<u32>,
    next_slot: u32,
    time_waits: TimeWaits,
    pre_joins: PreJoins,
    listeners: BTreeMap<u32, Listener>,
    replies: VecDeque<Segment>,
}

struct Listener {
    address: SocketAddr,
    config: Arc<ConnectionConfig>,
    /// Connections whose handshake is under way.
    half_open: usize,
}

impl Shared {
    /// A path has measured its shortest round trip so far.
    pub(crate) fn measured(&mut self, path: &mut Path, local: IpAddr, remote: IpAddr) {
        if let Some(rtt) = path.min_rtt {
            path.distance = Some(self.distances.measured(self.now, (local, remote), rtt));
        }
    }

    /// It happened.
    #[inline]
    pub(crate) fn count(&mut self, counter: Counter) {
        self.counters.add(counter, 1);
    }

    /// Something was decided. Costs a branch if nobody wants to know.
    #[inline]
    pub(crate) fn decide(&mut self, connection: ConnectionId, decision: impl FnOnce() -> Decision) {
        if self.decisions.is_some() {
            self.note_decision(connection, decision());
        }
    }

    /// Whether anybody wants to know.
    #[inline]
    pub(crate) fn watched(&self) -> bool {
        self.decisions.is_some()
    }

    #[cold]
    fn note_decision(&mut self, connection: ConnectionId, decision: Decision) {
        let kept = self.decisions.as_mut().is_none_or(|known| known.push(self.now, connection, decision));
        if !kept {
            self.count(Counter::DecisionsLost);
        }
    }

    /// Multipath TCP did not work with a destination: for a while, regular TCP will be spoken with it.
    //= RFC 8684 3.9.3-1
    pub(crate) fn remember_blackhole(&mut self, connection: ConnectionId, destination: SocketAddr) {
        let first = self.config.blackhole_timeout;
        if let Some(wait) = self.blackholes.failed(self.now, destination, first) {
            self.count(Counter::Blackhole);
            self.decide(connection, || Decision::Remembered { destination, seconds: wait.as_secs() });
        }
    }

    /// Multipath TCP works with a destination.
    pub(crate) fn forget_blackhole(&mut self, destination: SocketAddr) {
        self.blackholes.worked(destination);
    }

    /// A connection is established, or no more.
    pub(crate) fn note_established(&mut self, counter: Counter, now: bool) {
        let before = self.counters.get(counter);
        self.counters.set(counter, if now { before + 1 } else { before.saturating_sub(1) });
    }

    /// A SYN with MP_JOIN is about to be answered: what is remembered of it; `None`: it is something else.
    pub(crate) fn note_join(&mut self, now: Instant, id: ConnectionId, syn: &Segment) -> Option<PreJoin> {
        let tuple = (syn.dst, syn.src);
        if let Some(known) = self.pre_joins.again(now, id, syn) {
            self.pre_joins.answered_again(tuple);
            return Some(known);
        }
        let numbers = (self.secret.initial_sequence(now, tuple), self.random_u32());
        let mut record = PreJoin::new(now, syn, id, numbers)?;
        if self.listener_for(syn.dst).is_none() {
            // Nothing else would bring the third ACK here.
            let slot = self.take_slot();
            self.events.push_back(Event::SubflowAdded { slot, local: tuple.0, remote: tuple.1 });
            record.slot = Some(slot);
        }
        let Self { pre_joins, rng, free_slots, events, counters, .. } = self;
        pre_joins.insert(now, record, rng, |gone| {
            counters.add(Counter::JoinForgotten, 1);
            unsteer(&gone, free_slots, events);
        });
        Some(record)
    }

    /// A join is completed or refused.
    pub(crate) fn end_join(&mut self, record: &PreJoin) {
        if let Some(gone) = self.pre_joins.remove(record.tuple) {
            unsteer(&gone, &mut self.free_slots, &mut self.events);
        }
    }

    pub(crate) fn random_u32(&mut self) -> u32 {
        self.rng.random()
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn addresses(&self) -> &[LocalAddress] {
        &self.addresses
    }

    pub(crate) fn address(&self, address: IpAddr) -> Option<LocalAddress> {
        self.addresses.iter().find(|known| known.address == address).copied()
    }

    /// What one of our addresses is for.
    pub(crate) fn address_use(&self, address: IpAddr) -> AddressUse {
        self.address_uses.iter().find(|(known, _)| *known == address).map_or(AddressUse::Any, |known| known.1)
    }

    /// The name of an interface; empty if nobody has said.
    pub(crate) fn interface_name(&self, interface: u32) -> &str {
        self.interface_names.get(&interface).map_or("", |name| name)
    }

    pub(crate) fn take_slot(&mut self) -> SubflowSlot {
        SubflowSlot(self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        }))
    }

    pub(crate) fn add_subflow(&mut self, id: ConnectionId, index: usize, subflow: &Subflow) {
        let (local, remote) = subflow.tuple();
        self.time_waits.forget((local, remote), &mut self.free_slots, &mut self.events);
        self.tuples.insert((local, remote).into(), (id.index, index as u32));
        self.events.push_back(Event::SubflowAdded { slot: subflow.slot, local, remote });
    }

    pub(crate) fn remove_subflow(&mut self, subflow: &Subflow) {
        let (local, remote) = subflow.tuple();
        self.tuples.remove(&(local, remote).into());
        self.free_slots.push(subflow.slot.0);
        self.events.push_back(Event::SubflowRemoved { slot: subflow.slot, local, remote });
    }

    /// The subflow's four-tuple stays known for a while, to answer what is still on its way.
    pub(crate) fn enter_time_wait(&mut self, now: Instant, id: ConnectionId, subflow: &Subflow) {
        self.tuples.remove(&subflow.tuple().into());
        let acknowledgment = self.time_waits.add(now, id, subflow);
        if subflow.rcv.ack_now && self.replies.len() < MAX_REPLIES {
            self.replies.push_back(acknowledgment);
        }
    }

    /// The subflow has left with MP_FASTCLOSE: its four-tuple stays known for a while, to say so again.
    pub(crate) fn enter_fast_close(
        &mut self,
        now: Instant,
        id: ConnectionId,
        subflow: &Subflow,
        wait: FastCloseWait,
    ) {
        self.tuples.remove(&subflow.tuple().into());
        self.time_waits.add_fast_close(now, id, subflow, wait);
    }

    pub(crate) fn remove_token(&mut self, token: u32) {
        if self.tokens.remove(&token).is_some() {
            self.events.push_back(Event::TokenRemoved(token));
        }
    }

    /// Whether a SYN/ACK may be repeated unasked.
    pub(crate) fn may_repeat_syn_ack(&mut self, now: Instant) -> bool {
        self.syn_acks.spend(now)
    }

    /// A peer has completed the handshake that it began.
    pub(crate) fn handshake_completed(&mut self) {
        self.syn_acks.earn();
    }

    /// Whether so many connections of this listener are half-open that no more is done for them than must be.
    pub(crate) fn crowded(&self, listener: Option<ListenerId>) -> bool {
        let listener = listener.and_then(|id| self.listeners.get(&id.0));
        listener.is_some_and(|listener| listener.half_open > self.config.backlog / 2)
    }

    /// A connection of this listener is half-open no more.
    pub(crate) fn established(&mut self, listener: Option<ListenerId>) {
        if let Some(listener) = listener.and_then(|id| self.listeners.get_mut(&id.0)) {
            listener.half_open = listener.half_open.saturating_sub(1);
        }
    }

    /// Answers a segment with a reset, as far as there is room for answers.
    pub(crate) fn reply_reset(&mut self, segment: &Segment) {
        self.reply_reset_because(segment, None);
    }

    /// Sends a segment that no subflow sends, as far as there is room for such.
    pub(crate) fn reply(&mut self, segment: impl FnOnce() -> Segment) {
        if self.replies.len() < MAX_REPLIES {
            self.replies.push_back(segment());
        } else {
            self.count(Counter::ReplyDropped);
        }
    }

    //= RFC 8684 3.2-8
    fn reply_reset_because(&mut self, segment: &Segment, reason: Option<ResetReason>) {
        if segment.flags.has(Flags::RST) {
            return;
        }
        if self.replies.len() < MAX_REPLIES {
            self.replies.push_back(reset_for(segment, reason));
        } else {
            self.count(Counter::ReplyDropped);
        }
    }

    /// A key whose token no other connection has.
    //= RFC 8684 3.1-21
    //= RFC 8684 5-1
    fn new_key(&mut self, version: Version) -> Key {
        loop {
            let key = Key::new(version, self.rng.random());
            if !self.tokens.contains_key(&key.token) {
                return key;
            }
            self.count(Counter::TokenCollision);
        }
    }

    /// Whether a segment without a subflow may begin something. Otherwise it is not answered.
    fn check_ends(&self, local: IpAddr, remote: IpAddr) -> Result<(), Counter> {
        self.host.check(local, remote)?;
        if self.config.peers.accept(remote) { Ok(()) } else { Err(Counter::PeerRefused) }
    }

    fn listener_for(&self, address: SocketAddr) -> Option<u32> {
        let exact = self.listeners.iter().find(|(_, listener)| listener.address == address);
        let any = || self.listeners.iter().find(|(_, listener)| covers(listener.address, address));
        exact.or_else(any).map(|(id, _)| *id)
    }
}

/// The segments of a join are of no interest any more.
fn unsteer(join: &PreJoin, slots: &mut Vec<u32>, events: &mut VecDeque<Event>) {
    if let Some(slot) = join.slot {
        slots.push(slot.0);
        events.push_back(Event::SubflowRemoved { slot, local: join.tuple.0, remote: join.tuple.1 });
    }
}

/// Whether a listener on `address` takes connections to `to`. As with sockets, `[::]` takes both families.
fn covers(address: SocketAddr, to: SocketAddr) -> bool {
    let any = match address.ip() {
        IpAddr::V4(ip) => ip == Ipv4Addr::UNSPECIFIED && to.is_ipv4(),
        IpAddr::V6(ip) => ip == Ipv6Addr::UNSPECIFIED,
    };
    address.port() == to.port() && (any || address.ip() == to.ip())
}

/// The engine: all connections and listeners of one shard. See the [module](super) for how to drive it.
pub struct Endpoint {
    shared: Shared,
    places: Vec<Place>,
    free: Vec<u32>,
    living: usize,
    rests: Rests,
    timers: TimerQueue,
    changes: Changes,
    /// Connections that may have something to send.
    ready: VecDeque<ConnectionId>,
    next_listener: u32,
    /// Choices of the connection that was opened last.
    last_config: Option<Arc<ConnectionConfig>>,
}

impl Endpoint {
    /// An endpoint without connections. `seed` must come from the operating system's generator; with a fixed
    /// seed, everything the endpoint does is reproducible.
    pub fn new(config: EndpointConfig, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let (keyed, secret) = (Keyed::new(&mut rng), Secret::new(&mut rng));
        Self {
            shared: Shared {
                memory: Memory::new(config.memory),
                config,
                rng,
                secret,
                cookies: SynCookies::default(),
                syn_acks: SynAckBudget::default(),
                events: VecDeque::new(),
                counters: Counters::default(),
                blackholes: Blackholes::default(),
                distances: Distances::default(),
                decisions: None,
                now: Instant::ZERO,
                late: false,
                addresses: Vec::new(),
                address_uses: Vec::new(),
                host: HostAddresses::default(),
                interface_names: BTreeMap::new(),
                tuples: HashMap::with_hasher(keyed.clone()),
                tokens: HashMap::with_hasher(keyed.clone()),
                free_slots: Vec::new(),
                next_slot: 0,
                time_waits: TimeWaits::default(),
                pre_joins: PreJoins::new(&keyed),
                listeners: BTreeMap::new(),
                replies: VecDeque::new(),
            },
            places: Vec::new(),
            free: Vec::new(),
            living: 0,
            rests: Rests::default(),
            timers: TimerQueue::default(),
            changes: Changes::default(),
            ready: VecDeque::new(),
            next_listener: 0,
            last_config: None,
        }
    }

    /// What an interface is called: to be told before its addresses, so that [`InterfaceRule`](super::InterfaceRule)s
    /// find them.
    pub fn name_interface(&mut self, interface: u32, name: &str) {
        self.shared.interface_names.insert(interface, name.into());
    }

    /// An address appeared (or its properties changed): path managers may use it.
    pub fn add_local_address(&mut self, now: Instant, address: LocalAddress) {
        self.shared.addresses.retain(|known| known.address != address.address);
        self.shared.addresses.push(address);
        let (address, added) = (address.address, Some(address));
        self.changes.add(now, Change::Address { address, removed: false, added });
        self.attend_to_changes(now);
    }

    /// An address is gone: its subflows are closed, peers are told.
    pub fn remove_local_address(&mut self, now: Instant, address: IpAddr) {
        self.shared.addresses.retain(|known| known.address != address);
        self.changes.add(now, Change::Address { address, removed: true, added: None });
        self.attend_to_changes(now);
    }

    /// Routes of this host have changed: where there was no way, there may be one now.
    pub fn routes_changed(&mut self, now: Instant) {
        self.changes.add(now, Change::Routes);
    }

    /// The interface with this address has lost its carrier. Its subflows stay, and go on with
    /// [`add_local_address`](Self::add_local_address); no new ones are opened from it in the meantime.
    pub fn suspend_local_address(&mut self, now: Instant, address: IpAddr) {
        self.shared.addresses.retain(|known| known.address != address);
        self.changes.add(now, Change::Suspended(address));
        self.attend_to_changes(now);
    }

    /// A segment between these ends could not leave, since there is no route.
    pub fn route_lost(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) {
        if let Some(&(place, subflow)) = self.shared.tuples.get(&(local, remote).into())
            && let Some(id) = self.id_at(place)
        {
            self.with(now, id, |connection, shared| connection.route_lost(shared, now, subflow as usize));
        }
    }

    /// What an address means to the host, whether path managers may use it or not. Once the driver has told
    /// of any, segments that belong to no subflow are ignored unless they are for one of the host's own.
    pub fn set_host_address(&mut self, address: IpAddr, meaning: Option<HostAddress>) {
        self.shared.host.set(address, meaning);
    }

    /// Accepts connections to an address and port. An unspecified address means all of this host's addresses of
    /// that family (of both families for `[::]`).
    pub fn listen(
        &mut self,
        address: SocketAddr,
        config: ConnectionConfig,
    ) -> Result<ListenerId, ListenError> {
        Policies::new(&config).map_err(ListenError::UnknownPolicy)?;
        if self.shared.listeners.values().any(|listener| listener.address == address) {
            return Err(ListenError::InUse);
        }
        let id = self.next_listener;
        self.next_listener += 1;
        self.shared.listeners.insert(id, Listener { address, config: Arc::new(config), half_open: 0 });
        Ok(ListenerId(id))
    }

    /// Stops accepting; connections that were not announced yet are reset.
    pub fn close_listener(&mut self, now: Instant, listener: ListenerId) {
        self.shared.listeners.remove(&listener.0);
        self.changes.add(now, Change::Listener(listener));
        self.attend_to_changes(now);
    }

    /// Opens a connection from an address and port that the driver has reserved. The answer is
    /// [`Event::Connected`] or [`Event::Closed`].
    pub fn connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        config: ConnectionConfig,
    ) -> Result<ConnectionId, ConnectError> {
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(ConnectError::FamilyMismatch);
        }
        if !self.shared.config.peers.accept(remote.ip()) {
            return Err(ConnectError::PeerRefused);
        }
        if self.shared.tuples.contains_key(&(local, remote).into()) {
            return Err(ConnectError::InUse);
        }
        if self.living >= self.shared.config.max_connections {
            return Err(ConnectError::TooManyConnections);
        }
        let policies = Policies::new(&config).map_err(ConnectError::UnknownPolicy)?;
        let version = config.versions.asked();
        self.shared.count(Counter::ActiveOpens);
        let avoided = config.multipath && self.shared.blackholes.avoids(now, remote);
        if avoided {
            self.shared.count(Counter::MpCapableSynTxDisabled);
        } else if config.multipath {
            self.shared.count(Counter::MpCapableSynTx);
        }
        let multipath = config.multipath && !avoided;
        let config = self.shared_config(config);
        let id = self.add_connection(config, policies, None, (version, None), multipath);
        self.with(now, id, |connection, shared| {
            connection.add_initial_subflow(shared, now, local, remote, Opening::Active);
        });
        Ok(id)
    }

    /// One copy for connections that are opened one after the other with the same choices.
    fn shared_config(&mut self, config: ConnectionConfig) -> Arc<ConnectionConfig> {
        match &self.last_config {
            Some(last) if **last == config => last.clone(),
            _ => self.last_config.insert(Arc::new(config)).clone(),
        }
    }

    fn add_connection(
        &mut self,
        config: Arc<ConnectionConfig>,
        policies: Policies,
        listener: Option<ListenerId>,
        (version, key): (Version, Option<u64>),
        multipath: bool,
    ) -> ConnectionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        let id = ConnectionId { index, generation: place.generation };
        let key = key.map(|key| Key::new(version, key)).unwrap_or_else(|| self.shared.new_key(version));
        let mut connection =
            Connection::new(id, config, policies, listener.is_none(), (version, key), multipath);
        connection.listener = listener;
        if multipath {
            self.shared.tokens.insert(key.token, index);
            self.shared.events.push_back(Event::TokenAdded(key.token));
        }
        place.occupant = Occupant::Awake(Box::new(connection));
        self.living += 1;
        id
    }

    /// Whether a subflow has these two ends, or had them a moment ago.
    pub fn has_tuple(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.shared.tuples.contains_key(&(local, remote).into())
            || self.shared.time_waits.has((local, remote))
            || self.shared.pre_joins.has((local, remote))
    }

    /// Answers [`Event::SubflowWanted`] with a reserved address and port: sends the SYN with MP_JOIN. Gives the
    /// port back (`false`) when the connection has no use for it any more.
    pub fn open_subflow(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        if self.shared.tuples.contains_key(&(local, remote).into()) || local.is_ipv4() != remote.is_ipv4() {
            return false;
        }
        if !self.shared.config.peers.accept(remote.ip()) {
            self.open_subflow_failed(now, connection, local.ip(), remote);
            return false;
        }
        self.with(now, connection, |connection, shared| connection.open_subflow(shared, now, local, remote))
            .unwrap_or(false)
    }

    /// Answers [`Event::SubflowWanted`] when there is no way to do it (no route, no port).
    pub fn open_subflow_failed(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        local: IpAddr,
        remote: SocketAddr,
    ) {
        self.with(now, connection, |connection, shared| {
            connection.open_subflow_failed(shared, now, local, remote);
        });
    }

    /// A segment came in. Checksums of IP and TCP have been verified by the driver. Super-segments are welcome.
    pub fn handle_segment(&mut self, now: Instant, segment: Segment) {
        self.shared.counters.received(&segment);
        self.shared.late = self.is_late(now);
        let tuple = (segment.dst, segment.src);
        if let Some(&(place, subflow)) = self.shared.tuples.get(&tuple.into()) {
            if let Some(id) = self.id_at(place) {
                self.with(now, id, |connection, shared| {
                    connection.handle_segment(shared, now, subflow as usize, segment);
                });
            }
            return;
        }
        let syn =
            segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::RST);
        if !syn && let Some(join) = self.shared.pre_joins.get(now, tuple) {
            self.handle_join_ack(now, &join, &segment);
            return;
        }
        if let Some(reply) = self.shared.time_waits.handle(now, tuple, &segment) {
            match reply {
                Some(reply) if self.shared.replies.len() < MAX_REPLIES => {
                    self.shared.replies.push_back(reply);
                }
                Some(_) => self.shared.count(Counter::ReplyDropped),
                None => {}
            }
            return;
        }
        let unanswerable = !segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::RST);
        if let Err(counter) = self.shared.check_ends(tuple.0.ip(), tuple.1.ip()) {
            self.shared.count(counter);
        } else if syn {
            self.handle_syn(now, &segment);
        } else if unanswerable && self.shared.listener_for(segment.dst).is_some() {
            // No listener is in any other state than LISTEN (RFC 9293 section 3.10.7.2, fourth).
            self.shared.count(Counter::NoAck);
        } else if !self.handle_third_ack(now, &segment) {
            self.shared.count(Counter::NoConnection);
            self.shared.reply_reset(&segment);
        }
    }

    /// Whether it is certain that nobody takes the `octets` that came with a segment, of which the driver has
    /// read the headers only: the driver need not copy them, and hands the segment in with a
    /// [hollow](crate::wire::Payload::hollow) payload. What is taken after all, because something has come in
    /// between, counts as lost on the way.
    pub fn refuses(&self, now: Instant, segment: &Segment, octets: usize) -> bool {
        let Some(&(place, subflow)) = self.shared.tuples.get(&(segment.dst, segment.src).into()) else {
            return !segment.flags.has(Flags::SYN) && !self.shared.cookies.outstanding(now);
        };
        match self.places.get(place as usize).map(|place| &place.occupant) {
            Some(Occupant::Awake(connection)) => connection.refuses(subflow as usize, segment, octets as u32),
            _ => false,
        }
    }

    /// Gives all octets that wait memory of their own. The driver calls it when the blocks that it receives
    /// into are held on to by little: what is held is then as much as [`memory_used`](Self::memory_used)
    /// says.
    pub fn compact(&mut self) {
        for place in &mut self.places {
            if let Some(connection) = place.awake() {
                connection.compact();
            }
        }
    }

    /// A SYN of an unknown four-tuple: a further subflow, a new connection, or nothing for us.
    //= RFC 8684 3.2-7
    //= RFC 8684 3.2-13
    fn handle_syn(&mut self, now: Instant, syn: &Segment) {
        if let Some(Join::Syn { token, backup, .. }) = syn.options.join() {
            self.shared.count(Counter::MpJoinSynRx);
            if *backup {
                self.shared.count(Counter::MpJoinSynBackupRx);
            }
            let place = self.shared.tokens.get(token).copied();
            let joined = place.and_then(|place| self.id_at(place)).and_then(|id| {
                self.with(now, id, |connection, shared| connection.answer_join(shared, now, syn))
            });
            let outcome = joined.unwrap_or(Err(ResetReason::MptcpSpecific));
            if let Err(reason) = outcome {
                let unknown = joined.is_none();
                self.shared.count(if unknown { Counter::MpJoinNoToken } else { Counter::MpJoinRejected });
                self.shared.reply_reset_because(syn, Some(reason));
            }
            return;
        }
        let Some(id) = self.shared.listener_for(syn.dst) else {
            self.shared.count(Counter::NoConnection);
            self.shared.reply_reset(syn);
            return;
        };
        if syn.options.capable().is_some() {
            self.shared.count(Counter::MpCapableSynRx);
        }
        if self.living >= self.shared.config.max_connections {
            // The peer tries again; by then there may be room.
            self.shared.count(Counter::ListenOverflows);
            return;
        }
        let crowded = self
            .shared
            .listeners
            .get(&id)
            .is_none_or(|listener| listener.half_open >= self.shared.config.backlog);
        if crowded {
            self.answer_without_state(now, id, syn);
        } else {
            self.accept(now, id, syn, Opening::Passive(syn), None);
        }
    }

    /// A segment of a four-tuple from which a SYN with MP_JOIN has come: the third ACK, or something that has
    /// no business here (RFC 9293 section 3.10.7.4, as far as it is about SYN-RECEIVED).
    fn handle_join_ack(&mut self, now: Instant, join: &PreJoin, segment: &Segment) {
        let flags = segment.flags;
        let next = segment.seq == join.irs + 1;
        if flags.has(Flags::RST) {
            if next {
                self.shared.end_join(join);
            } else {
                self.shared.count(Counter::BadReset);
            }
        } else if flags.has(Flags::SYN) {
            self.shared.count(Counter::OutOfWindow);
        } else if !flags.has(Flags::ACK) {
            self.shared.count(Counter::NoAck);
        } else if segment.ack != join.iss + 1 {
            self.shared.count(Counter::BadAck);
            self.shared.reply_reset(segment);
        } else if !next {
            self.shared.count(Counter::OutOfWindow);
        } else {
            let completed = self.with(now, join.connection, |connection, shared| {
                let reasons = connection.version == Version::V1;
                connection.complete_join(shared, now, join, segment).map_err(|why| reasons.then_some(why))
            });
            if completed.is_none() {
                self.shared.end_join(join);
            }
            // MP_TCPRST is of version 1.
            if let Err(reason) = completed.unwrap_or(Err(Some(ResetReason::MptcpSpecific))) {
                self.shared.reply_reset_because(segment, reason);
            }
        }
    }

    /// The SYN/ACK that needs no memory until the third ACK is there.
    fn answer_without_state(&mut self, now: Instant, listener: u32, syn: &Segment) {
        let shared = &mut self.shared;
        let Some(config) = shared.listeners.get(&listener).map(|listener| listener.config.clone()) else {
            return;
        };
        if shared.replies.len() < MAX_REPLIES {
            let cookie = shared.cookies.issue(now, &shared.secret, syn);
            let mtu = shared.address(syn.dst.ip()).map_or(1500, |local| local.mtu);
            shared.replies.push_back(cookie.syn_ack(syn, &config, mtu));
            shared.count(Counter::SyncookiesSent);
        } else {
            shared.count(Counter::ReplyDropped);
        }
    }

    /// A segment of an unknown four-tuple that is no SYN: it may complete a handshake of which nothing was kept.
    /// `false` if it is to be refused.
    fn handle_third_ack(&mut self, now: Instant, segment: &Segment) -> bool {
        let flags = segment.flags;
        // RFC 9293 section 3.10.7.4: with SYN it would begin a connection, with RST end one.
        let completes = flags.has(Flags::ACK) && !flags.has(Flags::SYN) && !flags.has(Flags::RST);
        if !completes || !self.shared.cookies.outstanding(now) {
            return false;
        }
        let Some(listener) = self.shared.listener_for(segment.dst) else { return false };
        // What follows a third ACK that was lost: the peer sends that again, too.
        let Some(redeemed) = self.shared.cookies.redeem(now, &self.shared.secret, segment) else {
            self.shared.count(Counter::SyncookiesFailed);
            return true;
        };
        let token = Key::new(Version::V1, redeemed.key).token;
        let keys =
            segment.options.capable().map(|capable| (capable.receiver_key, capable.sender_key.is_some()));
        let usable = match keys {
            Some(keys) => keys == (Some(redeemed.key), true) && !self.shared.tokens.contains_key(&token),
            // Data without the keys came first.
            None => segment.options.mptcp.is_empty(),
        };
        let overflows = self.living >= self.shared.config.max_connections;
        if overflows || !usable && keys.is_none() {
            self.shared.count(if overflows { Counter::ListenOverflows } else { Counter::NoConnection });
            return true;
        }
        self.shared.count(Counter::SyncookiesRecv);
        let opening = Opening::Cookie(&redeemed.syn, redeemed.sequence);
        if usable {
            self.accept(now, listener, segment, opening, Some(redeemed.key));
        } else {
            // Keys that are not those of this handshake make it regular TCP (RFC 8684 section 3.1).
            self.shared.count(Counter::BadKeys);
            let mut plain = segment.clone();
            plain.options.mptcp.clear();
            self.accept(now, listener, &plain, opening, Some(redeemed.key));
        }
        true
    }

    /// A new connection of a listener. `first` is the segment that says whether the peer speaks Multipath TCP.
    //= RFC 8684 3.1-16
    //= RFC 8684 3.1-18
    fn accept(&mut self, now: Instant, id: u32, first: &Segment, opening: Opening<'_>, key: Option<u64>) {
        let Some(listener) = self.shared.listeners.get_mut(&id) else { return };
        let Ok(policies) = Policies::new(&listener.config) else { return };
        listener.half_open += 1;
        let mut config = listener.config.clone();
        let wanted = config.multipath;
        let capable = first.options.capable().filter(|capable| is_usable(capable, config.versions));
        self.shared.count(Counter::PassiveOpens);
        if capable.is_none() && first.options.capable().is_some() {
            self.shared.count(Counter::CapableUnusable);
        }
        if capable.is_none() && wanted {
            let plain = ConnectionConfig { multipath: false, ..ConnectionConfig::clone(&config) };
            config = Arc::new(plain);
        }
        let version = capable.map_or(Version::V1, |capable| capable.version);
        let multipath = config.multipath;
        let id = self.add_connection(config, policies, Some(ListenerId(id)), (version, key), multipath);
        let redeemed = matches!(opening, Opening::Cookie(..));
        self.with(now, id, |connection, shared| {
            connection.peer_syn(capable, wanted);
            connection.add_initial_subflow(shared, now, first.dst, first.src, opening);
            if redeemed {
                connection.handle_segment(shared, now, 0, first.clone());
            }
        });
    }

    /// An ICMP error that quotes a segment of ours came in.
    pub fn handle_unreachable(&mut self, now: Instant, unreachable: Unreachable) {
        let tuple = (unreachable.local, unreachable.remote);
        if let Some(&(place, subflow)) = self.shared.tuples.get(&tuple.into())
            && let Some(id) = self.id_at(place)
        {
            self.with(now, id, |connection, shared| {
                connection.handle_unreachable(shared, now, subflow as usize, &unreachable);
            });
        }
    }

    /// The host's route for a subflow takes packets of at most `mtu` octets, IP header included, which is
    /// less than the interface takes. `None`: there is no such limit any more. `true`: packets become smaller
    /// with it, and those that were sent larger go again.
    pub fn limit_path(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        mtu: Option<u32>,
    ) -> bool {
        let mut smaller = false;
        let tuple = (local, remote);
        if let Some(&(place, subflow)) = self.shared.tuples.get(&tuple.into())
            && let Some(id) = self.id_at(place)
        {
            self.with(now, id, |connection, _| smaller = connection.limit_path(subflow as usize, mtu));
        }
        smaller
    }

    /// Whether an address may be used for more than the connections that are made to it or from it.
    pub fn set_address_use(&mut self, address: IpAddr, address_use: AddressUse) {
        self.shared.address_uses.retain(|(known, _)| *known != address);
        if address_use != AddressUse::Any {
            self.shared.address_uses.push((address, address_use));
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, unless something else happens before.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        let others = [self.shared.time_waits.next(), self.shared.pre_joins.next(), self.changes.next()];
        self.timers.next().into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Lets all timers that are due expire.
    ///
    /// A call that comes much later than was asked for ends a pause (see [`is_late`](Self::is_late)): what
    /// has come meanwhile is to be handed in before.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_late(now) {
            self.resume(now);
        }
        self.attend_to_changes(now);
        while let Some((at, index, generation)) = self.timers.pop(now) {
            let id = ConnectionId { index, generation };
            let Some(place) = at_place(&mut self.places, id) else { continue };
            let woken = place.wake();
            if woken {
                self.rests.ended();
                self.catch_up(now, id);
            }
            let Some(connection) = at_place(&mut self.places, id).and_then(Place::awake) else { continue };
            if woken && now - at >= PAUSE {
                connection.resume(now, now - at);
            }
            let came = connection.deadline.came(at, now);
            if came && connection.begin_rest(now) {
                self.put_to_rest(id);
                continue;
            }
            self.with(now, id, |connection, shared| {
                if came {
                    connection.handle_timeout(shared, now);
                }
            });
        }
        let shared = &mut self.shared;
        shared.time_waits.repeat_fast_closes(now, &mut shared.replies, MAX_REPLIES);
        shared.time_waits.expire(now, &mut shared.free_slots, &mut shared.events);
        let Shared { pre_joins, free_slots, events, counters, .. } = shared;
        pre_joins.expire(now, |gone| {
            counters.add(Counter::JoinForgotten, 1);
            unsteer(&gone, free_slots, events);
        });
    }

    /// Whether [`handle_timeout`](Self::handle_timeout) should have been called long ago: the process was
    /// stopped, or something else kept the driver from its work.
    pub fn is_late(&mut self, now: Instant) -> bool {
        // Asking all peers takes time itself: after a short pause it would become the next one.
        let least = PAUSE.max(ASKING * u32::try_from(self.awake()).unwrap_or(u32::MAX));
        self.next_timeout().is_some_and(|due| now - due >= least)
    }

    /// The time that has passed does not count for those that wait.
    #[cold]
    fn resume(&mut self, now: Instant) {
        let pause = self.next_timeout().map_or(Duration::ZERO, |due| now - due);
        for index in 0..self.places.len() {
            let place = &mut self.places[index];
            let id = ConnectionId { index: index as u32, generation: place.generation };
            if place.awake().is_some_and(|connection| connection.resume(now, pause)) {
                self.with(now, id, |_, _| ());
            }
        }
    }

    /// The next segment to send, if any. To be called until it gives `None` after any other call, as far as
    /// there is room to send; acknowledgments of a whole batch of received segments are made here.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Segment> {
        let segment = self.next_segment(now)?;
        self.shared.counters.sent(&segment);
        Some(segment)
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has not been called until it gave `None`.
    pub fn may_transmit(&self) -> bool {
        !self.ready.is_empty() || !self.shared.replies.is_empty()
    }

    fn next_segment(&mut self, now: Instant) -> Option<Segment> {
        self.shared.now = now;
        if let Some(reply) = self.shared.replies.pop_front() {
            return Some(reply);
        }
        while let Some(&id) = self.ready.front() {
            let shared = &mut self.shared;
            let Some(connection) = at_place(&mut self.places, id).and_then(Place::awake) else {
                self.ready.pop_front();
                continue;
            };
            if let Some(segment) = connection.poll_transmit(shared, now) {
                // One segment each in turn, so that a busy connection does not starve the others.
                if self.ready.len() > 1 {
                    self.ready.rotate_left(1);
                }
                return Some(segment);
            }
            connection.queued = false;
            self.ready.pop_front();
            self.settle(now, id);
        }
        None
    }

    /// The next event, if any. To be called until it gives `None` after any other call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// How many octets [`send`](Self::send) takes now. When it is 0, [`Event::Writable`] follows.
    pub fn send_capacity(&mut self, connection: ConnectionId) -> usize {
        let share = self.shared.memory.share();
        self.connection(connection).map_or(0, |connection| connection.send_capacity(share))
    }

    /// Queues octets of the application; all are taken (an excess over the capacity is the driver's to avoid).
    /// Ignored after [`finish`](Self::finish) or when the connection is closed.
    pub fn send(&mut self, now: Instant, connection: ConnectionId, data: Bytes) {
        self.with(now, connection, |connection, _| connection.push(data));
    }

    /// So many octets wait with the driver until there is room for them: they count against the memory, too.
    pub fn waits_outside(&mut self, now: Instant, connection: ConnectionId, octets: usize) {
        let octets = octets as u64;
        let changed = self.place(connection).is_some_and(|place| match &place.occupant {
            Occupant::Awake(connection) => connection.outside != octets,
            _ => octets > 0,
        });
        if changed {
            self.with(now, connection, |connection, _| connection.outside = octets);
        }
    }

    /// No more data will be sent: DATA_FIN after what is queued.
    pub fn finish(&mut self, now: Instant, connection: ConnectionId) {
        self.with(now, connection, |connection, _| connection.finish());
    }

    /// Takes in-order octets out, in the order of the stream: at most `limit` octets into `out`. Gives the number
    /// of octets and whether the stream has ended after them. They count against the receive window until
    /// [`consumed`](Self::consumed) is told about them.
    pub fn recv(&mut self, connection: ConnectionId, limit: usize, out: &mut Vec<Bytes>) -> (usize, bool) {
        match at_place(&mut self.places, connection).map(|place| &mut place.occupant) {
            Some(Occupant::Awake(connection)) => connection.take(limit, out),
            // It has nothing, and nobody need wake it for that.
            Some(Occupant::Dormant(_)) => (0, false),
            Some(Occupant::Nobody) | None => (0, true),
        }
    }

    /// The application has read `octets` of those taken with [`recv`](Self::recv): the window may open.
    pub fn consumed(&mut self, now: Instant, connection: ConnectionId, octets: usize) {
        self.with(now, connection, |connection, _| connection.consumed(now, octets));
    }

    /// How large the queues between the application and the engine should be by now.
    pub fn queue_sizes(&self, connection: ConnectionId) -> Option<QueueSizes> {
        let most = self.shared.config.max_super_segment;
        self.place(connection)?.ask(|connection| connection.queue_sizes(most))
    }

    /// Octets that all connections hold, with what holding them costs, out of [`EndpointConfig::memory`].
    pub fn memory_used(&self) -> u64 {
        self.shared.memory.used()
    }

    /// Changes [`EndpointConfig::memory`]. Nothing that is held is given up.
    pub fn limit_memory(&mut self, octets: u64) {
        self.shared.memory.set_limit(octets);
    }

    /// Ends the connection at once: MP_FASTCLOSE (RFC 8684 section 3.5), or RST after fallback.
    pub fn abort(&mut self, now: Instant, connection: ConnectionId) {
        self.with(now, connection, |connection, shared| connection.abort(shared, now));
    }

    /// The application has dropped its handle: data that arrives from now on can't be delivered. An orderly close
    /// goes on by itself; unread data makes it an abort (RFC 2525 section 2.17). [`Event::Released`] follows when
    /// nothing is left.
    pub fn release(&mut self, now: Instant, connection: ConnectionId) {
        self.with(now, connection, |connection, shared| connection.release(shared, now));
    }

    /// Asks the peer to use a subflow only when no others work, or again like any other (MP_PRIO, RFC 8684 section
    /// 3.3.8), and does so, too. `false` if the connection has no such subflow.
    pub fn set_backup(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        subflow: SubflowSlot,
        backup: bool,
    ) -> bool {
        self.with(now, connection, |connection, _| connection.set_backup(subflow, backup)).unwrap_or(false)
    }

    /// What is known of a connection; `None` once it is released.
    pub fn info(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        self.place(connection)?.ask(Connection::info)
    }

    /// Destinations that are remembered as not liking Multipath TCP.
    pub fn blackholes(&self, now: Instant) -> Vec<BlackholeInfo> {
        self.shared.blackholes.info(now)
    }

    /// Forgets them, as is sensible when the host has moved to another network.
    pub fn forget_blackholes(&mut self) {
        self.shared.blackholes.clear();
    }

    /// Whether decisions are kept for [`poll_decision`](Self::poll_decision). They are not unless this is called: each
    /// of them costs an allocation or more.
    pub fn watch_decisions(&mut self, watch: bool) {
        self.shared.decisions = watch.then(Box::default);
    }

    /// The oldest decision that was not fetched.
    pub fn poll_decision(&mut self) -> Option<Decided> {
        self.shared.decisions.as_mut()?.pop()
    }

    /// What happened so far, by name.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// All connections.
    pub fn connections(&self) -> Vec<ConnectionId> {
        (0..self.places.len() as u32).filter_map(|index| self.id_at(index)).collect()
    }

    fn id_at(&self, index: u32) -> Option<ConnectionId> {
        let place = self.places.get(index as usize).filter(|place| place.is_taken())?;
        Some(ConnectionId { index, generation: place.generation })
    }

    fn place(&self, id: ConnectionId) -> Option<&Place> {
        self.places.get(id.index as usize).filter(|place| place.generation == id.generation)
    }

    /// Somebody wants something of a connection: it is dormant no more.
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.rouse(self.shared.now, id);
        at_place(&mut self.places, id)?.awake()
    }

    /// Wakes a connection for something that has happened, if it rests.
    fn rouse(&mut self, now: Instant, id: ConnectionId) {
        if at_place(&mut self.places, id).is_some_and(Place::wake) {
            self.rests.broken();
            self.catch_up(now, id);
        }
    }

    /// Tells a connection that has rested until now of the changes that it has not been told of.
    fn catch_up(&mut self, now: Instant, id: ConnectionId) {
        if self.changes.waits_for(id.index) {
            self.tell_changes(now, id);
        }
    }

    /// Tells a connection of the changes of this host.
    fn tell_changes(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = at_place(&mut self.places, id).and_then(Place::awake) else { return };
        self.shared.now = now;
        for change in self.changes.running() {
            connection.host_changed(&mut self.shared, now, change);
        }
        if !std::mem::replace(&mut connection.queued, true) {
            self.ready.push_back(id);
        }
    }

    /// Tells some more connections of what has changed on this host, if it is time.
    fn attend_to_changes(&mut self, now: Instant) {
        if !self.changes.begin(now) {
            return;
        }
        let (mut looks, mut tells) = (0, 0);
        while looks < LOOKS && tells < TELLS {
            let Some((index, resting)) = self.changes.advance(self.places.len()) else { break };
            looks += 1;
            let place = &self.places[index];
            let concerned = match &place.occupant {
                Occupant::Nobody => false,
                Occupant::Awake(_) => !resting,
                Occupant::Dormant(dormant) => resting && self.changes.concern(dormant.concern()),
            };
            if concerned {
                tells += 1;
                let id = ConnectionId { index: index as u32, generation: place.generation };
                if resting {
                    self.places[index].wake();
                    self.rests.ended();
                }
                self.tell_changes(now, id);
            }
        }
        self.changes.end(now);
    }

    /// Connections that are not dormant.
    pub fn awake(&self) -> usize {
        self.living - self.rests.count()
    }

    /// Joins whose third ACK is waited for.
    #[cfg(test)]
    pub(crate) fn pre_joins(&self) -> usize {
        self.shared.pre_joins.len()
    }

    /// What is written down of a connection, if it is dormant.
    #[cfg(test)]
    pub(crate) fn dormant(&self, id: ConnectionId) -> Option<&Dormant> {
        if let Occupant::Dormant(dormant) = &self.place(id)?.occupant { Some(dormant) } else { None }
    }

    /// Nothing has happened on a connection for long.
    fn put_to_rest(&mut self, id: ConnectionId) {
        let Some(place) = at_place(&mut self.places, id) else { return };
        let Some(connection) = place.awake() else { return };
        self.timers.update(id.index, id.generation, &mut connection.deadline);
        place.occupant = Occupant::Dormant(Dormant::new(connection));
        self.rests.began();
        self.shared.events.push_back(Event::Rests(id));
    }

    /// Does something to a connection and what follows from it: it may have something to send, another deadline,
    /// or be over.
    fn with<T>(
        &mut self,
        now: Instant,
        id: ConnectionId,
        action: impl FnOnce(&mut Connection, &mut Shared) -> T,
    ) -> Option<T> {
        self.rouse(now, id);
        let connection = at_place(&mut self.places, id)?.awake()?;
        self.shared.now = now;
        let result = action(connection, &mut self.shared);
        if !std::mem::replace(&mut connection.queued, true) {
            self.ready.push_back(id);
        }
        Some(result)
    }

    /// Nothing is left to send for now: sets the timer, and forgets the connection if it is over.
    fn settle(&mut self, now: Instant, id: ConnectionId) {
        let rest_after = self.rests.after(self.shared.config.rest_after, self.awake());
        let Some(connection) = self.places[id.index as usize].awake() else { return };
        connection.measure_reading(now);
        let held = if connection.is_gone() { 0 } else { connection.memory() };
        self.shared.memory.settle(std::mem::replace(&mut connection.accounted, held), held);
        if connection.is_gone() {
            let place = &mut self.places[id.index as usize];
            place.occupant = Occupant::Nobody;
            place.generation = place.generation.wrapping_add(1);
            self.free.push(id.index);
            self.living -= 1;
            if !self.shared.time_waits.release(id) {
                self.shared.events.push_back(Event::Released(id));
            }
            return;
        }
        if !connection.ensure_deadlines(now) {
            debug_assert!(false, "something waits for ever: {connection:#?}");
            self.shared.count(Counter::DeadlineMissing);
        }
        connection.update_deadline(now, rest_after);
        self.timers.update(id.index, id.generation, &mut connection.deadline);
    }
}

/// The place of a connection, if it still has it.
fn at_place(places: &mut [Place], id: ConnectionId) -> Option<&mut Place> {
    places.get_mut(id.index as usize).filter(|place| place.generation == id.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8684 section 3.1: a token must be unique on its host. A key whose token another connection has is not used.
    #[test]
    //= RFC 8684 3.1-21 (test)
    fn a_key_whose_token_is_taken_is_drawn_again() {
        let mut endpoint = Endpoint::new(EndpointConfig::default(), [3; 32]);
        let mut rng = endpoint.shared.rng.clone();
        let taken: Vec<u32> = (0..3).map(|_| Key::new(Version::V1, rng.random()).token).collect();
        endpoint.shared.tokens.extend(taken.iter().map(|token| (*token, u32::MAX)));
        let (local, remote) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let id = endpoint.connect(Instant::ZERO, local, remote, ConnectionConfig::default());
        let token = endpoint.connection(id.expect("free")).and_then(|connection| connection.token());
        assert!(token.is_some_and(|token| !taken.contains(&token)));
        assert_eq!(endpoint.counters().get(Counter::TokenCollision), 3);
    }
}
