//! The coming and going of subflows (RFC 8684 section 3.2): which there should be is the path manager's to say, which
//! way they take the driver's.

use super::addresses::MAX_REMOTE;
use super::{Connection, Mode, Opening};
use crate::proto::congestion::Path;
use crate::proto::counters::Counter;
use crate::proto::decision::Decision;
use crate::proto::endpoint::Shared;
use crate::proto::event::Event;
use crate::proto::path::{Existing, Initial, Local, View};
use crate::proto::secret::Tuple;
use crate::proto::subflow::absence::Double;
use crate::proto::subflow::{Birth, Kind, Subflow};
use crate::proto::{ConnectionConfig, Instant, InterfaceUse, LocalAddress};
use crate::wire::{Join, ResetReason, Segment};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Joins of the peer whose third ACK has not come yet. They do not count as subflows; one more pushes the oldest out, so
/// that neither memory nor room for honest joins runs out when somebody who has seen the token sends SYNs.
const MAX_HALF_OPEN: usize = 16;
/// Pairs of addresses that did not work out and are remembered.
const MAX_REFUSED: usize = 64;
/// First wait before a failed pair of addresses is tried again; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest: what a path that has come back may be left unused without anybody having said so.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// A pair of addresses that did not work.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Refusal {
    local: IpAddr,
    remote: SocketAddr,
    until: Instant,
    failures: u32,
}

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
    refused: Vec<Refusal>,
    further: Further,
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
        let refused = self.refused.iter().map(|refusal| refusal.until);
        let further = if let Further::From(time) = self.further { Some(time) } else { None };
        refused.filter(|until| *until != Instant::ZERO).chain(further).min()
    }

    /// Whether subflows are about to be opened.
    pub(super) fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether a subflow between these addresses is about to be opened.
    pub(super) fn wants(&self, local: IpAddr, remote: SocketAddr) -> bool {
        self.wanted.iter().any(|wanted| (wanted.local, wanted.remote) == (local, remote))
    }

    /// What failed from this address may work now.
    pub(super) fn forgive(&mut self, local: IpAddr) {
        self.refused.retain(|refusal| refusal.local != local);
    }

    /// Nothing more is wanted from this address.
    pub(super) fn forget(&mut self, local: IpAddr) {
        self.wanted.retain(|wanted| wanted.local != local);
        self.forgive(local);
    }

    fn take_wanted(&mut self, local: IpAddr, remote: SocketAddr) -> Option<Wanted> {
        let place = self.wanted.iter().position(|wanted| (wanted.local, wanted.remote) == (local, remote))?;
        Some(self.wanted.remove(place))
    }

    fn is_refused(&self, now: Instant, local: IpAddr, remote: SocketAddr) -> bool {
        let mut refused = self.refused.iter();
        refused.any(|known| (known.local, known.remote) == (local, remote) && known.until > now)
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
                self.take_user_timeout(syn);
                Subflow::answering(&birth, now, syn)
            }
            Opening::Cookie(syn, sequence) => {
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
        (local, remote): Tuple,
        kind: Kind,
        local_id: u8,
        remote_id: u8,
    ) -> Birth {
        let link = shared.address(local.ip());
        let interface = link.map_or(0, |link| link.interface);
        Birth {
            slot: shared.take_slot(),
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

    fn add_subflow(&mut self, shared: &mut Shared, subflow: Subflow) {
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
            self.paths.refused.retain(|refusal| (refusal.local, refusal.remote) != (local.ip(), remote));
        }
        if self.patience.is_some() && !self.released {
            self.patience = None;
        }
    }

    /// The peer wants another subflow: SYN with MP_JOIN and our token. An error is why it is to be refused.
    pub(crate) fn accept_join(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        syn: &Segment,
    ) -> Result<(), ResetReason> {
        let Some(&Join::Syn { backup, address_id, nonce: peer_nonce, .. }) = syn.options.join() else {
            return Err(ResetReason::MptcpSpecific);
        };
        if !self.is_multipath() || !self.fully_established || self.closed.is_some() {
            return Err(ResetReason::MptcpSpecific);
        }
        let link = shared.address(syn.dst.ip());
        let denied = link.is_none_or(|link| self.usage(shared, link.interface) == InterfaceUse::Deny);
        if denied || self.forbids_join_to(syn.dst) {
            return Err(ResetReason::AdministrativelyProhibited);
        }
        let local_id = self.addresses.joined_id(syn.dst);
        let Some(local_id) = local_id.filter(|_| self.subflow_count() < self.subflow_limit()) else {
            return Err(ResetReason::LackOfResources);
        };
        if self.half_open() >= MAX_HALF_OPEN {
            self.drop_oldest_half_open(shared);
        }
        let nonce = shared.random_u32();
        let kind = Kind::JoinPassive { nonce, peer_nonce };
        let birth = self.birth(shared, now, (syn.dst, syn.src), kind, local_id, address_id);
        let mut subflow = Subflow::answering(&birth, now, syn);
        subflow.peer_backup = backup;
        self.add_subflow(shared, subflow);
        Ok(())
    }

    /// Whether the peer was asked not to open subflows there (flag C).
    fn forbids_join_to(&self, address: SocketAddr) -> bool {
        let initial = self.paths.initial.map(|initial| initial.local);
        let port = self.living().find(|(_, subflow)| subflow.kind == Kind::Initial);
        self.config.no_join_initial
            && initial == Some(address.ip())
            && self.config.announce_port != Some(address.port())
            && port.is_none_or(|(_, subflow)| subflow.local.port() == address.port())
    }

    fn subflow_limit(&self) -> usize {
        self.config.max_subflows.min(ConnectionConfig::MAX_SUBFLOWS)
    }

    /// Subflows that are established, or that we are opening.
    pub(super) fn subflow_count(&self) -> usize {
        let counts = |subflow: &Subflow| !subflow.is_half_open() && subflow.absent.is_none();
        self.living().filter(|(_, subflow)| counts(subflow)).count()
    }

    /// Joins of the peer that it has not completed.
    fn half_open(&self) -> usize {
        self.living().filter(|(_, subflow)| subflow.is_half_open()).count()
    }

    /// Whether so many joins are half-open that no more is done for them than must be.
    pub(super) fn joins_crowded(&self) -> bool {
        self.half_open() > MAX_HALF_OPEN / 2
    }

    fn drop_oldest_half_open(&mut self, shared: &mut Shared) {
        let half_open = self.living().filter(|(_, subflow)| subflow.is_half_open());
        if let Some((index, _)) = half_open.min_by_key(|(_, subflow)| subflow.heard) {
            self.drop_half_open(shared, index);
        }
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
        let mut birth = self.birth(shared, now, (local, remote), kind, local_id, remote_id);
        birth.backup |= wanted.backup;
        let mut subflow = Subflow::connecting(&birth);
        subflow.double = wanted.double;
        self.add_subflow(shared, subflow);
        true
    }

    /// There is no way between these two addresses.
    pub(crate) fn open_subflow_failed(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        local: IpAddr,
        remote: SocketAddr,
    ) {
        self.paths.take_wanted(local, remote);
        shared.count(Counter::MpJoinSynTxConnectErr);
        self.refuse(now, local, remote);
        self.manage_paths(shared, now);
        self.progress_close(shared, now);
    }

    /// The subflow at `index` did not work out.
    pub(super) fn refuse_path(&mut self, now: Instant, index: usize) {
        if let Some((local, remote)) = self.subflow(index).map(|subflow| subflow.tuple()) {
            self.refuse(now, local.ip(), remote);
        }
    }

    fn refuse(&mut self, now: Instant, local: IpAddr, remote: SocketAddr) {
        let known =
            self.paths.refused.iter().position(|refusal| (refusal.local, refusal.remote) == (local, remote));
        let index = known.unwrap_or_else(|| {
            if self.paths.refused.len() >= MAX_REFUSED {
                self.paths.refused.remove(0);
            }
            self.paths.refused.push(Refusal { local, remote, until: now, failures: 0 });
            self.paths.refused.len() - 1
        });
        let refusal = &mut self.paths.refused[index];
        if refusal.until > now {
            // Several segments may show the same failure.
            return;
        }
        refusal.until = now + (FIRST_RETRY * (1 << refusal.failures.min(10))).min(MAX_RETRY);
        refusal.failures += 1;
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
        loop {
            let refused = |local, remote| self.paths.is_refused(now, local, remote);
            let wish = self.policies.path_manager.next_subflow(&situation.view(), &refused);
            let Some(wish) = wish else { break };
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
        let refused = |local, remote| self.paths.is_refused(now, local, remote);
        situation.subflows.iter().any(|subflow| subflow.opening)
            || self.policies.path_manager.next_subflow(&situation.view(), &refused).is_some()
    }

    /// Whether the path manager will want a subflow by then, when what failed is tried again.
    pub(super) fn may_try_again(&self, shared: &Shared, by: Instant) -> bool {
        let refused = |local, remote| self.paths.is_refused(by, local, remote);
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
        let mut situation = Situation {
            client: self.client,
            local: Vec::new(),
            remote: self.addresses.remotes().filter(|remote| Some(*remote) != closed).collect(),
            subflows: Vec::new(),
            initial,
            limit: self.subflow_limit(),
        };
        for (index, subflow) in self.living().filter(|(_, subflow)| !subflow.is_half_open()) {
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
        let wanted = self.paths.wanted.iter().map(|wanted| self.expected(shared, wanted));
        situation.subflows.extend(wanted);
        let metered = !situation.has_unmetered();
        for &address in shared.addresses() {
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
        for refusal in &mut self.paths.refused {
            if refusal.until != Instant::ZERO && refusal.until <= now {
                refusal.until = Instant::ZERO;
                again = true;
            }
        }
        if again && !matches!(self.mode, Mode::Handshake(_)) {
            self.manage_paths(shared, now);
        }
    }
}

/// The smallest scale under which the window field can promise the whole buffer (RFC 7323 section 2.2).
pub(crate) fn window_scale(buffer: u64) -> u8 {
    (0..14).find(|scale| buffer <= u64::from(u16::MAX) << scale).unwrap_or(14)
}
