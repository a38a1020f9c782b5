//! The coming and going of subflows (RFC 8684 section 3.2): which there should be is the path manager's to say, which
//! way they take the driver's.

use super::addresses::MAX_REMOTE;
use super::attempts::Attempts;
use super::refusals::{Refusals, Why};
use super::{Connection, Mode, Opening};
use crate::changes::{Change, Concern};
use crate::congestion::Path;
use crate::counters::Counter;
use crate::decision::Decision;
use crate::endpoint::Shared;
use crate::event::{AddressUse, Event, SubflowSlot};
use crate::path::{Existing, Initial, Local, View};
use crate::secret::Tuple;
use crate::subflow::absence::Double;
use crate::subflow::{Birth, Kind, Subflow};
use crate::wire::ResetReason;
use crate::{ConnectionConfig, Instant, InterfaceUse, LocalAddress};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long it takes until another subflow may be opened, once as many were as there may be at once: bounds
/// the SYNs that a peer can make us send by naming addresses.
const ATTEMPT_EACH: Duration = Duration::from_millis(500);
/// Subflows that may be opened at once, where fewer are allowed to exist.
const MIN_ATTEMPTS: usize = 4;
/// How long a connection of a listener may take to be established, whatever its peer sends.
const HALF_OPEN: Duration = Duration::from_secs(60);

/// A subflow that the driver was asked to open.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Wanted {
    local: IpAddr,
    interface: u32,
    remote: SocketAddr,
    backup: bool,
    /// The subflow that it is to take the place of.
    double: Option<Double>,
}

/// What a connection knows of its paths.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Paths {
    /// How it began.
    pub(super) initial: Option<Initial>,
    /// The peer does not want more subflows to that address (flag C).
    pub(super) no_join_initial: bool,
    wanted: Vec<Wanted>,
    pub(super) refused: Refusals,
    further: Further,
    /// Subflows that were opened lately.
    attempts: Attempts,
    /// The path manager wants another one as soon as it may be opened.
    held_until: Option<Instant>,
    /// The path manager is to be asked when the connection next has its turn: at most once in each.
    ask: bool,
}

/// When there are to be further subflows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
enum Further {
    /// Nobody has asked for any yet.
    #[default]
    Unasked,
    /// From this time on; until then one has to do, while there is little to carry.
    From(Instant),
    /// Now.
    Now,
}

impl Paths {
    /// When something is to be tried again, or for the first time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let further = if let Further::From(time) = self.further { Some(time) } else { None };
        [self.refused.deadline(), further, self.held_until].into_iter().flatten().min()
    }

    /// Whether subflows are about to be opened.
    pub(super) fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The path manager is to be asked soon.
    pub(super) fn ask_soon(&mut self) {
        self.ask = true;
    }

    /// Whether a subflow between these addresses is about to be opened.
    pub(super) fn wants(&self, local: IpAddr, remote: SocketAddr) -> bool {
        self.wanted.iter().any(|wanted| (wanted.local, wanted.remote) == (local, remote))
    }

    /// Nothing more is wanted from this address.
    pub(super) fn forget(&mut self, local: IpAddr) {
        self.wanted.retain(|wanted| wanted.local != local);
        self.refused.forgive_local(local);
    }

    fn take_wanted(&mut self, local: IpAddr, remote: SocketAddr) -> Option<Wanted> {
        let place = self.wanted.iter().position(|wanted| (wanted.local, wanted.remote) == (local, remote))?;
        Some(self.wanted.remove(place))
    }
}

/// What a path manager is shown.
struct Situation {
    client: bool,
    local: Vec<Local>,
    remote: ArrayVec<SocketAddr, MAX_REMOTE>,
    subflows: Vec<Existing>,
    initial: Initial,
    limit: usize,
}

impl Situation {
    fn view(&self) -> View<'_> {
        View {
            client: self.client,
            local: &self.local,
            remote: &self.remote,
            subflows: &self.subflows,
            initial: self.initial,
            limit: self.limit,
        }
    }

    /// Whether there is something better than what costs.
    fn has_unmetered(&self) -> bool {
        self.subflows.iter().any(|subflow| subflow.works && subflow.usage > InterfaceUse::Metered)
    }
}

impl Connection {
    /// Adds the initial subflow.
    pub(crate) fn add_initial_subflow(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        opening: Opening<'_>,
    ) {
        self.addresses.begin(local.ip(), remote);
        let mut birth = self.birth(shared, now, (local, remote), Kind::Initial, 0, 0);
        self.paths.initial = Some(Initial { interface: birth.interface, local: local.ip(), remote });
        let subflow = match opening {
            Opening::Active => {
                self.patience = Some(now + self.config.connect_timeout);
                Subflow::connecting(&birth)
            }
            Opening::Passive(syn) => {
                self.patience = Some(now + HALF_OPEN);
                self.take_user_timeout(syn);
                Subflow::answering(&birth, now, syn)
            }
            Opening::Cookie(syn, sequence) => {
                self.patience = Some(now + HALF_OPEN);
                birth.iss = sequence;
                let mut subflow = Subflow::answering(&birth, now, syn);
                subflow.handshake_due = false;
                subflow.rcv.advertised(u64::from(self.receive.advertise(0, u64::from(subflow.mss))));
                subflow
            }
        };
        self.add_subflow(shared, subflow);
    }

    /// Where the connection was opened to.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        self.paths.initial.map(|initial| initial.remote)
    }

    fn birth(
        &self,
        shared: &mut Shared,
        now: Instant,
        tuple: Tuple,
        kind: Kind,
        local_id: u8,
        remote_id: u8,
    ) -> Birth {
        let slot = shared.take_slot();
        self.birth_in(shared, now, slot, tuple, kind, local_id, remote_id)
    }

    /// A birth in a slot that is taken already, or will be.
    #[allow(clippy::too_many_arguments)] // what a subflow is made of
    pub(super) fn birth_in(
        &self,
        shared: &Shared,
        now: Instant,
        slot: SubflowSlot,
        (local, remote): Tuple,
        kind: Kind,
        local_id: u8,
        remote_id: u8,
    ) -> Birth {
        let link = shared.address(local.ip());
        let interface = link.map_or(0, |link| link.interface);
        Birth {
            slot,
            local,
            remote,
            interface,
            mtu: link.map_or(1500, |link| link.mtu),
            kind,
            iss: shared.secret().initial_sequence(now, (local, remote)),
            stamp_origin: shared.secret().stamp_origin((local, remote)),
            local_id,
            remote_id,
            backup: link.is_some_and(|link| link.backup)
                || self.usage(shared, interface) == InterfaceUse::Backup,
            scale: window_scale(self.config.receive_buffer as u64),
            ecn: self.config.ecn,
            path_timeout: self.config.path_timeout,
        }
    }

    /// Gives the new subflow a place.
    pub(super) fn add_subflow(&mut self, shared: &mut Shared, subflow: Subflow) -> usize {
        let path = Path::new(subflow.payload_mss(true));
        let index = self.subflows.iter().position(Option::is_none).unwrap_or(self.subflows.len());
        shared.add_subflow(self.id, index, &subflow);
        if index == self.subflows.len() {
            // Few have more than two, and many connections have nothing else.
            self.subflows.reserve_exact(1);
            self.congestion_paths.reserve_exact(1);
            self.subflows.push(None);
            self.congestion_paths.push(path);
        } else {
            self.congestion_paths[index] = path;
        }
        self.policies.congestion.on_reset(index);
        self.guard.on_reset(index);
        self.subflows[index] = Some(Box::new(subflow));
        index
    }

    /// The handshake of a subflow is complete: congestion control begins with what the two sides agreed on.
    pub(super) fn subflow_established(&mut self, shared: &mut Shared, index: usize) {
        let multipath = self.is_multipath();
        if let Some(subflow) = self.subflows.get_mut(index).and_then(Option::as_deref_mut) {
            // MP_CAPABLE has no flag for it, as MP_JOIN has.
            subflow.priority_due = multipath && subflow.kind == Kind::Initial && subflow.backup;
            let mut path = Path::new(subflow.payload_mss(multipath));
            path.active = true;
            path.srtt = subflow.rtt.srtt();
            path.min_rtt = subflow.rtt.min();
            shared.measured(&mut path, subflow.local.ip(), subflow.remote.ip());
            self.congestion_paths[index] = path;
            let (local, remote) = subflow.tuple();
            let (slot, initial) = (subflow.slot.0, subflow.kind == Kind::Initial);
            let backup = subflow.backup || subflow.peer_backup;
            let opened = Decision::SubflowOpened { subflow: slot, local, remote, initial, backup };
            shared.decide(self.id, || opened);
            self.paths.refused.worked(local.ip(), remote);
        }
        if self.patience.is_some() && !self.released {
            self.patience = None;
        }
    }

    /// Whether the peer was asked not to open subflows there (flag C).
    pub(super) fn forbids_join_to(&self, address: SocketAddr) -> bool {
        let initial = self.paths.initial.map(|initial| initial.local);
        let port = self.living().find(|(_, subflow)| subflow.kind == Kind::Initial);
        self.config.no_join_initial
            && initial == Some(address.ip())
            && self.config.announce_port != Some(address.port())
            && port.is_none_or(|(_, subflow)| subflow.local.port() == address.port())
    }

    pub(super) fn subflow_limit(&self) -> usize {
        self.config.max_subflows.min(ConnectionConfig::MAX_SUBFLOWS)
    }

    /// Subflows that are established, or that we are opening.
    pub(super) fn subflow_count(&self) -> usize {
        let counts = |subflow: &Subflow| !subflow.is_half_open() && subflow.absent.is_none();
        self.living().filter(|(_, subflow)| counts(subflow)).count()
    }

    /// Forgets a join that was never completed. Nobody is told: its SYN may have come under a false name.
    pub(super) fn drop_half_open(&mut self, shared: &mut Shared, index: usize) {
        if let Some(subflow) = self.subflows[index].take() {
            shared.count(Counter::JoinForgotten);
            shared.remove_subflow(&subflow);
        }
    }

    /// The driver has found a way for a subflow that the path manager wants. `false` if it is not wanted any more.
    pub(crate) fn open_subflow(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        let wanted = self.paths.take_wanted(local.ip(), remote);
        // One that takes the place of another is not one more.
        let full = self.subflow_count() >= self.subflow_limit();
        let full = full && wanted.is_some_and(|wanted| wanted.double.is_none());
        let Some(wanted) = wanted.filter(|_| self.is_multipath() && self.closed.is_none() && !full) else {
            return false;
        };
        let Some(local_id) = self.addresses.local_id(local.ip(), None) else { return false };
        let nonce = shared.random_u32();
        let remote_id = self.addresses.remote_id(remote);
        let kind = Kind::JoinActive { nonce, mac: [0; 20] };
        shared.count(Counter::MpJoinSynTx);
        self.paths.attempts.spend(now);
        let mut birth = self.birth(shared, now, (local, remote), kind, local_id, remote_id);
        birth.backup |= wanted.backup;
        let mut subflow = Subflow::connecting(&birth);
        subflow.double = wanted.double;
        self.add_subflow(shared, subflow);
        true
    }

    /// There is no way between these two addresses. The path manager is asked for others in the connection's
    /// next turn, and not from here: what it wants then may fail at once, too.
    pub(crate) fn open_subflow_failed(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        local: IpAddr,
        remote: SocketAddr,
    ) {
        self.paths.take_wanted(local, remote);
        shared.count(Counter::MpJoinSynTxConnectErr);
        self.paths.refused.add(now, (local, remote), Why::NoWay, false);
        self.paths.ask_soon();
        self.progress_close(shared, now);
    }

    /// Routes of this host have changed.
    fn routes_changed(&mut self) {
        if self.paths.refused.forgive_routes() {
            self.paths.ask_soon();
        }
    }

    /// Something has changed on this host.
    pub(crate) fn host_changed(&mut self, shared: &mut Shared, now: Instant, change: &Change) {
        match *change {
            Change::Address { address, removed, added } => {
                if removed {
                    self.address_removed(shared, now, address);
                }
                if let Some(local) = added {
                    self.address_added(shared, now, local);
                }
            }
            Change::Suspended(address) => self.carrier_lost(shared, now, address),
            Change::Routes => {
                self.routes_changed();
                self.network_changed(shared, now);
            }
            Change::Listener(listener) => {
                if self.listener == Some(listener) && self.in_handshake() {
                    self.abort(shared, now);
                }
            }
        }
    }

    /// Which changes the connection has to be woken for while it rests.
    pub(crate) fn concern(&self) -> Concern {
        let subflows = self.living().map(|(_, subflow)| subflow.local.ip());
        let locals = subflows.chain(self.addresses.locals()).fold(0, |bits, ip| bits | Concern::bit(ip));
        let (manager, config) = (&self.policies.path_manager, &self.config);
        let manages = self.is_multipath() && self.fully_established && config.max_subflows > 1;
        let announces = config.announce_addresses && manager.announces(self.client);
        let could_use = [false, true].map(|v6| {
            let reaches = self.addresses.remotes().any(|remote| remote.is_ipv6() == v6);
            let joins = self.client && self.is_pathless() && reaches;
            joins || manages && (announces || manager.opens(self.client) && reaches)
        });
        Concern { locals, could_use, lacks_routes: self.paths.refused.lacks_routes() || self.is_stranded() }
    }

    /// The subflow at `index` did not work out.
    //= RFC 8684 3.4.1-9
    //= RFC 8684 3.9.3-3
    pub(super) fn refuse_path(&mut self, now: Instant, index: usize, why: Why) {
        let initial = self.paths.initial.map(|initial| initial.remote);
        if let Some(subflow) = self.subflow(index) {
            let (local, remote) = subflow.tuple();
            // Where the connection began the peer is known to be, by some way, and where there is another
            // subflow.
            let doubles = subflow.double.is_some();
            let worked = subflow.is_synchronised() || Some(remote) == initial || doubles;
            self.paths.refused.add(now, (local.ip(), remote), why, worked);
        }
    }

    /// The same, because something on the way does not leave Multipath TCP alone: the next subflow between
    /// these addresses would fare no better, and is tried only while there is no other.
    pub(super) fn refuse_interfered_path(&mut self, now: Instant, index: usize) {
        let why = if self.works_without(index) { Why::Refused } else { Why::Passing };
        self.refuse_path(now, index, why);
    }

    /// Does what [`Paths::ask_soon`] was called for.
    pub(super) fn ask_path_manager(&mut self, shared: &mut Shared, now: Instant) {
        if std::mem::take(&mut self.paths.ask) {
            self.manage_paths(shared, now);
        }
    }

    /// How many subflows may be opened now, those that the driver is asked for already taken off.
    pub(super) fn attempts_left(&mut self, now: Instant) -> usize {
        let most = self.subflow_limit().max(MIN_ATTEMPTS);
        let left = self.paths.attempts.left(now, most, ATTEMPT_EACH);
        left.saturating_sub(self.paths.wanted.len())
    }

    /// Asks the path manager what it wants, and the driver for it.
    pub(crate) fn manage_paths(&mut self, shared: &mut Shared, now: Instant) {
        if !self.is_multipath() || !self.fully_established || self.closed.is_some() {
            return;
        }
        self.manage_wished(shared, now);
        self.rejoin(shared, now);
    }

    /// Asks the path manager.
    fn manage_wished(&mut self, shared: &mut Shared, now: Instant) {
        if (self.send.is_done() && self.receive.finished) || self.config.max_subflows < 2 {
            return;
        }
        let Some(mut situation) = self.situation(shared, None) else { return };
        if self.is_held_back(now, &situation) {
            return;
        }
        let locals = situation.local.iter().filter(|local| local.usage > InterfaceUse::Metered);
        self.announce_addresses(shared, now, locals.map(|local| local.address));
        let mut left = self.attempts_left(now);
        self.paths.held_until = None;
        loop {
            let refused = |local, remote| self.paths.refused.holds(now, local, remote);
            let wish = self.policies.path_manager.next_subflow(&situation.view(), &refused);
            let Some(wish) = wish else { break };
            if left == 0 {
                self.paths.held_until =
                    Some(self.paths.attempts.next(ATTEMPT_EACH).max(now + ATTEMPT_EACH / 8));
                break;
            }
            left -= 1;
            let wanted = self.want(shared, wish.local, wish.remote, wish.backup, None);
            situation.subflows.push(self.expected(shared, &wanted));
        }
        self.close_superfluous(&situation);
    }

    /// Asks the driver for a subflow.
    pub(super) fn want(
        &mut self,
        shared: &mut Shared,
        local: LocalAddress,
        remote: SocketAddr,
        backup: bool,
        double: Option<Double>,
    ) -> Wanted {
        let (local, interface) = (local.address, local.interface);
        let wanted = Wanted { local, interface, remote, backup, double };
        self.paths.wanted.push(wanted);
        let path_manager = self.policies.path_manager.name();
        shared.decide(self.id, || Decision::SubflowWanted { local, remote, path_manager });
        let connection = self.id;
        shared.events.push_back(Event::SubflowWanted { connection, local, interface, remote });
        wanted
    }

    /// Whether it is too early for further subflows, and for telling of addresses: most connections are over before either
    /// would have been of use to them (RFC 8684 section 3.9.2).
    fn is_held_back(&mut self, now: Instant, situation: &Situation) -> bool {
        let age = self.config.subflow_start.age;
        let works = situation.subflows.iter().any(|subflow| subflow.works);
        let from = match self.paths.further {
            Further::Now => return false,
            _ if !works || age.is_zero() || self.is_worth_more_paths() => now,
            Further::From(time) => time,
            Further::Unasked => {
                let rtt = self.living().find_map(|(_, subflow)| subflow.rtt.srtt()).unwrap_or_default();
                now + age.max(rtt * 2)
            }
        };
        self.paths.further = if from > now { Further::From(from) } else { Further::Now };
        from > now
    }

    /// Whether there is enough to carry for several paths to be of use, or has been.
    //= RFC 8684 3.9.2-1
    fn is_worth_more_paths(&self) -> bool {
        self.send.buffer.end() + self.receive.nxt >= self.config.subflow_start.octets
    }

    /// Further subflows are begun with as soon as there is enough to carry.
    pub(super) fn begin_with_more_paths(&mut self, shared: &mut Shared, now: Instant) {
        if matches!(self.paths.further, Further::From(_)) && self.is_worth_more_paths() {
            self.paths.further = Further::Now;
            self.manage_paths(shared, now);
        }
    }

    /// Closes subflows that better ones have taken the place of. What is in flight on them goes over the others.
    fn close_superfluous(&mut self, situation: &Situation) {
        let costs = |subflow: &Existing| subflow.usage == InterfaceUse::Metered;
        let metered = situation.subflows.iter().filter(|subflow| costs(subflow) && situation.has_unmetered());
        let metered: ArrayVec<usize, { ConnectionConfig::MAX_SUBFLOWS }> =
            metered.filter_map(|subflow| subflow.place).take(ConnectionConfig::MAX_SUBFLOWS).collect();
        let superfluous = self.policies.path_manager.superfluous(&situation.view());
        let superfluous = superfluous.and_then(|number| situation.subflows.get(number)?.place);
        for place in metered.into_iter().chain(superfluous) {
            if let Some(subflow) = self.subflow(place) {
                subflow.reset_due.get_or_insert(Some(ResetReason::AdministrativelyProhibited));
            }
        }
    }

    /// Whether the path manager would open another subflow if this one was given up, or is about to.
    pub(super) fn could_replace(&self, shared: &Shared, now: Instant, index: usize) -> bool {
        if !self.is_multipath() || !self.fully_established || self.config.max_subflows < 2 {
            return false;
        }
        let Some(situation) = self.situation(shared, Some(index)) else { return false };
        let refused = |local, remote| self.paths.refused.holds(now, local, remote);
        situation.subflows.iter().any(|subflow| subflow.opening)
            || self.policies.path_manager.next_subflow(&situation.view(), &refused).is_some()
    }

    /// Whether the path manager will want a subflow by then, when what failed is tried again.
    pub(super) fn may_try_again(&self, shared: &Shared, by: Instant) -> bool {
        let refused = |local, remote| self.paths.refused.holds(by, local, remote);
        let next = |situation: Situation| {
            self.policies.path_manager.next_subflow(&situation.view(), &refused).is_some()
        };
        self.fully_established
            && self.config.max_subflows > 1
            && self.situation(shared, None).is_some_and(next)
    }

    /// What there is, with the subflow at `suspect` taken for dead.
    fn situation(&self, shared: &Shared, suspect: Option<usize>) -> Option<Situation> {
        let initial = self.paths.initial?;
        let closed = self.paths.no_join_initial.then_some(initial.remote);
        let remotes = self.usable_remotes(shared).filter(|remote| Some(*remote) != closed);
        let mut situation = Situation {
            client: self.client,
            local: Vec::new(),
            remote: remotes.take(MAX_REMOTE).collect(),
            subflows: Vec::new(),
            initial,
            limit: self.subflow_limit(),
        };
        // One that is to take the place of another is not one more.
        let counts = |subflow: &Subflow| !subflow.is_half_open() && subflow.double.is_none();
        for (index, subflow) in self.living().filter(|(_, subflow)| counts(subflow)) {
            let stale = subflow.stale || suspect == Some(index);
            situation.subflows.push(Existing {
                place: Some(index),
                local: subflow.local.ip(),
                usage: self.usage(shared, subflow.interface),
                remote: subflow.remote,
                opening: !subflow.confirmed || !subflow.is_synchronised(),
                works: subflow.can_send() && !stale,
                stale,
            });
        }
        let wanted = self.paths.wanted.iter().filter(|wanted| wanted.double.is_none());
        let wanted = wanted.map(|wanted| self.expected(shared, wanted));
        situation.subflows.extend(wanted);
        let metered = !situation.has_unmetered();
        for &address in shared.addresses() {
            if shared.address_use(address.address) == AddressUse::Existing {
                continue;
            }
            let usage = self.usage(shared, address.interface);
            if usage > InterfaceUse::Metered || (metered && usage == InterfaceUse::Metered) {
                situation.local.push(Local { address, usage });
            }
        }
        Some(situation)
    }

    fn expected(&self, shared: &Shared, wanted: &Wanted) -> Existing {
        Existing {
            place: None,
            local: wanted.local,
            usage: self.usage(shared, wanted.interface),
            remote: wanted.remote,
            opening: true,
            works: false,
            stale: false,
        }
    }

    /// Waits are over: pairs of addresses may be tried again.
    pub(super) fn paths_timeout(&mut self, shared: &mut Shared, now: Instant) {
        let mut again = matches!(self.paths.further, Further::From(time) if time <= now);
        if again {
            self.paths.further = Further::Now;
        }
        again |= self.paths.refused.expire(now);
        again |= self.paths.held_until.take_if(|until| *until <= now).is_some();
        if again && !matches!(self.mode, Mode::Handshake(_)) {
            self.manage_paths(shared, now);
        }
    }
}

/// The smallest scale under which the window field can promise the whole buffer (RFC 7323 section 2.2).
pub(crate) fn window_scale(buffer: u64) -> u8 {
    (0..14).find(|scale| buffer <= u64::from(u16::MAX) << scale).unwrap_or(14)
}
