//! What the two sides tell each other of their addresses: ADD_ADDR, REMOVE_ADDR and MP_PRIO (RFC 8684 sections 3.3.8 and
//! 3.4; RFC 6824 has the same without HMACs and echoes).

use super::Connection;
use super::attempts::Attempts;
use crate::counters::Counter;
use crate::crypto;
use crate::decision::ReinjectionCause;
use crate::endpoint::Shared;
use crate::event::{AddressUse, SubflowSlot};
use crate::remote_address::may_be_named;
use crate::subflow::link_mss;
use crate::wire::{AddAddr, MptcpOption, RemoveAddr, Version};
use crate::{Instant, InterfaceUse, LocalAddress};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Addresses of the peer that are remembered.
pub(crate) const MAX_REMOTE: usize = 32;
/// Addresses of ours that the peer is told of.
const MAX_ANNOUNCED: usize = 32;
/// How long the next address waits for the echo of the one before. Linux keeps one ADD_ADDR at a time and drops,
/// without an echo, those that come before it has dealt with it.
const ECHO_WAIT: Duration = Duration::from_millis(500);
/// How long it waits after that echo. Linux sends the echo first, then opens a subflow to the address, and only then counts the address
/// among those that it may accept: one that comes in between is taken, too, although it is one too many.
const AFTER_ECHO: Duration = Duration::from_millis(5);
/// Times an address is announced before its echo is given up.
const ANNOUNCEMENTS: u32 = 6;
/// Identifiers in one REMOVE_ADDR: what fits beside timestamps.
const MAX_REMOVED: usize = 24;
/// Times a REMOVE_ADDR is sent: it goes with acknowledgments, which get lost without anybody noticing, and
/// has no echo. The waits between them double, from one retransmission timeout on.
const REMOVALS: u32 = 4;
/// How long it takes until the peer may name, or name anew, another address, once it has named twice as many
/// as are accepted.
const NAMED_EACH: Duration = Duration::from_secs(5);

/// An address of ours that the peer is told of.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Announcement {
    id: u8,
    address: IpAddr,
    port: Option<u16>,
    sends: u32,
    sent: Instant,
    /// To be sent (again) from this time on; none once it is echoed or given up.
    at: Option<Instant>,
}

/// One of our addresses, with the port if it was announced with one of its own, and its identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
struct LocalId {
    address: IpAddr,
    port: Option<u16>,
    id: u8,
}

/// One of the peer's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
struct Remote {
    id: u8,
    address: SocketAddr,
}

/// One of our addresses that is gone, by its identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
struct Removal {
    id: u8,
    sends: u32,
    /// To be told (again) from this time on.
    at: Instant,
}

/// What became of an address that the peer has named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Named {
    /// It is remembered.
    Taken,
    /// It is not connected to.
    Refused,
    /// The peer names addresses too often. As long as it has no echo it will do so again.
    TooOften,
}

/// What a connection knows of addresses, and what it has to tell.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Addresses {
    /// Identifiers of our addresses; that of the initial subflow has 0.
    local_ids: Vec<LocalId>,
    /// The identifier given last. One that is free again is given out as late as can be, so that a REMOVE_ADDR that is
    /// still on its way does not hit its next owner.
    last_id: u8,
    /// The peer's addresses, that of the initial subflow included.
    remote: Vec<Remote>,
    announcements: Vec<Announcement>,
    /// ADD_ADDRs of the peer to be echoed.
    echoes: ArrayVec<AddAddr, 4>,
    /// Addresses that we no longer have, to be told.
    removals: ArrayVec<Removal, 64>,
    /// Addresses that the peer has named lately.
    named: Attempts,
}

impl Addresses {
    /// The addresses that the connection begins with.
    //= RFC 8684 3.2-2
    pub(super) fn begin(&mut self, local: IpAddr, remote: SocketAddr) {
        self.local_ids.push(LocalId { address: local, port: None, id: 0 });
        self.remote.push(Remote { id: 0, address: remote });
    }

    /// The identifier of one of our addresses; none if all are taken.
    //= RFC 8684 3.4.1-3
    pub(super) fn local_id(&mut self, address: IpAddr, port: Option<u16>) -> Option<u8> {
        if let Some(known) = self.known_id(address, port) {
            return Some(known);
        }
        let next = |id: u8| if id == u8::MAX { 1 } else { id + 1 };
        let mut id = next(self.last_id);
        for _ in 1..u8::MAX {
            if self.local_ids.iter().all(|known| known.id != id) {
                self.last_id = id;
                // Not to be told any more: the next owner would be hit.
                self.removals.retain(|removal| removal.id != id);
                self.local_ids.push(LocalId { address, port, id });
                return Some(id);
            }
            id = next(id);
        }
        None
    }

    fn known_id(&self, address: IpAddr, port: Option<u16>) -> Option<u8> {
        let known = self.local_ids.iter().find(|known| (known.address, known.port) == (address, port));
        known.map(|known| known.id)
    }

    /// The identifier of the address and port that a peer's MP_JOIN goes to.
    pub(super) fn joined_id(&mut self, address: SocketAddr) -> Option<u8> {
        let announced = self.known_id(address.ip(), Some(address.port()));
        announced.or_else(|| self.local_id(address.ip(), None))
    }

    /// The identifier of one of the peer's addresses, as far as it has said.
    pub(super) fn remote_id(&self, address: SocketAddr) -> u8 {
        self.remote.iter().find(|known| known.address == address).map_or(0, |known| known.id)
    }

    /// Our addresses that have identifiers.
    pub(super) fn locals(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.local_ids.iter().map(|known| known.address)
    }

    /// The peer's addresses.
    pub(super) fn remotes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.remote.iter().map(|known| known.address)
    }

    /// When something is to be sent again. An announcement that is due already leaves with the next segment.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let times = self.announcements.iter().filter_map(|announcement| match announcement.at {
            Some(at) if at <= now => self.echo_wait(now),
            at => at,
        });
        let removals = self.removals.iter().map(|removal| removal.at).filter(|at| *at > now);
        times.chain(removals).min()
    }

    /// Whether there is anything to tell.
    pub(super) fn has_news(&self, now: Instant) -> bool {
        let removed = self.removals.iter().any(|removal| removal.at <= now);
        !self.echoes.is_empty() || removed || self.due(now).is_some()
    }

    /// The identifiers of addresses that the peer is to be told now are gone; `again`: after which time it is
    /// told again.
    fn due_removals(&mut self, now: Instant, again: Duration) -> Option<RemoveAddr> {
        let due = self.removals.iter_mut().filter(|removal| removal.at <= now).take(MAX_REMOVED);
        let ids = due.map(|removal| {
            removal.at = now + again * (1 << removal.sends.min(6));
            removal.sends += 1;
            removal.id
        });
        let ids: ArrayVec<u8, MAX_REMOVED> = ids.collect();
        self.removals.retain(|removal| removal.sends < REMOVALS);
        (!ids.is_empty()).then(|| RemoveAddr { ids: ids.into_iter().collect() })
    }

    /// Until when an echo is waited for before the next address is announced.
    fn echo_wait(&self, now: Instant) -> Option<Instant> {
        let waiting = self.announcements.iter().filter(|known| known.sends > 0 && known.at.is_some());
        waiting.map(|known| known.sent + ECHO_WAIT).filter(|until| *until > now).max()
    }

    /// The peer has echoed this announcement of ours; `false`: there is none.
    fn echoed(&mut self, now: Instant, add: &AddAddr) -> bool {
        let same = |known: &&mut Announcement| {
            (known.id, known.address, known.port) == (add.address_id, add.address, add.port)
        };
        let Some(known) = self.announcements.iter_mut().find(same) else { return false };
        known.at = None;
        for next in &mut self.announcements {
            next.at = next.at.map(|at| at.max(now + AFTER_ECHO));
        }
        true
    }

    /// The announcement that is to leave now, if any.
    fn due(&self, now: Instant) -> Option<usize> {
        if self.announcements.is_empty() || self.echo_wait(now).is_some() {
            return None;
        }
        let due = self.announcements.iter().enumerate();
        let due = due.filter(|(_, known)| known.at.is_some_and(|at| at <= now));
        // Those that were never sent come before repetitions.
        due.min_by_key(|(_, known)| known.sends).map(|(place, _)| place)
    }

    /// The peer is to be told of this address, unless it is already. `false`: there are too many.
    fn announce(&mut self, now: Instant, address: IpAddr, port: Option<u16>) -> bool {
        let known = self.announcements.iter().any(|known| (known.address, known.port) == (address, port));
        if known || self.announcements.len() >= MAX_ANNOUNCED {
            return known;
        }
        // The address of the initial subflow, which has 0, needs no telling.
        if let Some(id) = self.local_id(address, port).filter(|id| *id != 0) {
            let announcement =
                Announcement { id, address, port, sends: 0, sent: Instant::ZERO, at: Some(now) };
            self.announcements.push(announcement);
        }
        true
    }

    /// We no longer have this address. `false`: there is more to tell than fits.
    //= RFC 8684 3.4.1-5
    fn remove_local(&mut self, address: IpAddr) -> bool {
        self.announcements.retain(|known| known.address != address);
        let mut told = true;
        for known in self.local_ids.iter().filter(|known| known.address == address) {
            let removal = Removal { id: known.id, sends: 0, at: Instant::ZERO };
            told &= self.removals.try_push(removal).is_ok();
        }
        self.local_ids.retain(|known| known.address != address);
        told
    }

    /// Whether this identifier is among those that the peer is about to be told are gone.
    pub(super) fn is_leaving(&self, id: u8) -> bool {
        self.removals.iter().any(|removal| removal.id == id)
    }
}

/// Whether a peer that has connected to or from `initial` can have a way to one of our addresses.
fn may_be_told(shared: &Shared, initial: IpAddr, local: &LocalAddress) -> bool {
    match shared.address_use(local.address) {
        AddressUse::Any => true,
        AddressUse::Link => shared.address(initial).is_some_and(|known| known.interface == local.interface),
        AddressUse::Existing => false,
    }
}

impl Connection {
    /// The subflow that carries what there is to tell of addresses: one that is thought to work, and whose own address
    /// is not what is to be told of.
    pub(super) fn news_carrier(&self) -> Option<usize> {
        self.living()
            .filter(|(_, subflow)| {
                let open = subflow.is_synchronised() && subflow.confirmed && subflow.reset_due.is_none();
                open && subflow.absent.is_none()
            })
            .min_by_key(|(_, subflow)| (subflow.stale, self.addresses.is_leaving(subflow.local_id)))
            .map(|(index, _)| index)
    }

    /// The next thing to tell of addresses.
    //= RFC 8684 3.4.1-2
    pub(super) fn address_news(&mut self, now: Instant) -> Option<MptcpOption> {
        if let Some(echo) = self.addresses.echoes.pop_at(0) {
            return Some(MptcpOption::AddAddr(echo));
        }
        let carriers = self.living().filter(|(_, subflow)| subflow.is_synchronised());
        let rto = carriers.map(|(_, subflow)| subflow.rtt.rto()).max().unwrap_or(ECHO_WAIT);
        if let Some(removed) = self.addresses.due_removals(now, rto) {
            return Some(MptcpOption::RemoveAddr(removed));
        }
        let (version, keys) = (self.version, self.remote_key.map(|remote| (self.local_key.key, remote.key)));
        let due = self.addresses.due(now)?;
        let known = &mut self.addresses.announcements[due];
        known.sends += 1;
        known.sent = now;
        // In version 0 nobody would say that it has arrived.
        let again = version == Version::V1 && known.sends < ANNOUNCEMENTS;
        known.at = again.then(|| now + Duration::from_secs(1) * (1 << known.sends));
        let (id, address, port) = (known.id, known.address, known.port);
        let keys = keys.filter(|_| version == Version::V1);
        let mac = keys.map(|(ours, theirs)| crypto::address_mac(ours, theirs, id, address, port));
        Some(MptcpOption::AddAddr(AddAddr { echo: false, address_id: id, address, port, mac }))
    }

    /// Tells the peer our other addresses, as far as it is not told already.
    pub(super) fn announce_addresses(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        locals: impl Iterator<Item = LocalAddress>,
    ) {
        if !self.config.announce_addresses || !self.policies.path_manager.announces(self.client) {
            return;
        }
        let Some(initial) = self.paths.initial else { return };
        // Those that do not reach as far as the peer's would only make it try in vain.
        let reaches = |address: &IpAddr| may_be_named(*address, initial.remote.ip());
        let locals = locals.filter(|local| may_be_told(shared, initial.local, local));
        let mut addresses: Vec<IpAddr> = locals.map(|local| local.address).filter(reaches).collect();
        // Most peers can use those of the connection's own family; they come first.
        addresses.sort_by_key(|address| address.is_ipv4() != initial.remote.is_ipv4());
        let port = self.config.announce_port;
        for address in addresses {
            // The initial one only where that is not to be joined as it is.
            let wanted = address != initial.local || (self.config.no_join_initial && port.is_some());
            if wanted && !self.addresses.announce(now, address, port) {
                shared.count(Counter::AddAddrTxDrop);
            }
        }
    }

    /// An address of this host appeared, or its properties changed.
    pub(super) fn address_added(&mut self, shared: &mut Shared, now: Instant, local: LocalAddress) {
        self.paths.refused.forgive_local(local.address);
        self.address_returned(shared, now, local.address, local.interface);
        for index in 0..self.subflows.len() {
            if let Some(subflow) = self.subflow(index)
                && subflow.local.ip() == local.address
            {
                let mss = link_mss(subflow.local, local.mtu);
                subflow.snd.path_mtu.link_changed(mss);
                self.follow_path_mtu(index);
            }
        }
        self.paths.ask_soon();
    }

    /// This host does not have the address any more: the peer is told as soon as a subflow can carry it.
    //= RFC 8684 3.4.2-1
    pub(super) fn forget_address(&mut self, shared: &mut Shared, address: IpAddr) {
        if !self.addresses.remove_local(address) {
            shared.count(Counter::RmAddrTxDrop);
        }
    }

    /// ADD_ADDR: authentic ones are remembered, echoed, and may lead to subflows.
    //= RFC 8684 3.4.1-1
    //= RFC 8684 3.4.1-4
    pub(super) fn take_add_address(&mut self, shared: &mut Shared, now: Instant, add: &AddAddr) {
        if add.echo {
            let known = self.addresses.echoed(now, add);
            shared.count(if known { Counter::EchoAdd } else { Counter::BadEcho });
            return;
        }
        let (Some(remote_key), Some(initial)) = (self.remote_key, self.paths.initial) else { return };
        if self.version == Version::V1 {
            let (theirs, ours) = (remote_key.key, self.local_key.key);
            let expected = crypto::address_mac(theirs, ours, add.address_id, add.address, add.port);
            let given = add.mac.unwrap_or_default();
            if add.mac.is_none() || !crypto::same_secret(&expected.to_be_bytes(), &given.to_be_bytes()) {
                shared.count(Counter::AddAddrHmacFailure);
                return;
            }
        }
        shared.count(Counter::AddAddr);
        if add.port.is_some() {
            shared.count(Counter::PortAdd);
        }
        // Who can authenticate an address has both keys.
        self.fully_established = true;
        //= RFC 8684 3.4.1-8
        //= RFC 8684 3.9.1-1
        let address = SocketAddr::new(add.address, add.port.unwrap_or(initial.remote.port()));
        let named = self.remember_remote(shared, now, Remote { id: add.address_id, address });
        if named != Named::Taken {
            shared.count(Counter::AddAddrDrop);
        }
        if named == Named::TooOften {
            return;
        }
        let echoes = &mut self.addresses.echoes;
        if self.version == Version::V1
            && echoes.iter().all(|echo| echo.address_id != add.address_id)
            && echoes.try_push(AddAddr { echo: true, mac: None, ..*add }).is_err()
        {
            shared.count(Counter::EchoAddTxDrop);
        }
        self.paths.ask_soon();
    }

    /// An identifier that a subflow has goes on meaning the same address until the peer has removed it (RFC 8684
    /// section 3.4.1). One that is said again may be tried again.
    //= RFC 8684 3.4.1-6
    //= RFC 8684 3.4.1-7
    fn remember_remote(&mut self, shared: &Shared, now: Instant, new: Remote) -> Named {
        let Some(initial) = self.paths.initial else { return Named::Refused };
        let in_use = self
            .living()
            .any(|(_, subflow)| subflow.remote_id == new.id && subflow.remote.ip() != new.address.ip());
        let usable = new.address.port() != 0
            && may_be_named(new.address.ip(), initial.remote.ip())
            && shared.address(new.address.ip()).is_none();
        if in_use || !usable {
            return Named::Refused;
        }
        let most = self.config.max_addresses.min(MAX_REMOTE - 1);
        let known = &mut self.addresses.remote;
        let place = known.iter().position(|known| known.id == new.id);
        // The address that the connection began with is one more, under one identifier.
        let first = known.iter().any(|known| known.address == initial.remote);
        let most_known = most + usize::from(first || new.address == initial.remote);
        if place.is_some_and(|place| known[place] == new) && !self.paths.refused.waits_for(new.address) {
            return Named::Taken;
        }
        if most == 0 || (place.is_none() && known.len() >= most_known) {
            return Named::Refused;
        }
        if self.addresses.named.left(now, 2 * most, NAMED_EACH) == 0 {
            return Named::TooOften;
        }
        self.addresses.named.spend(now);
        let before = match place {
            Some(place) => std::mem::replace(&mut known[place], new).address,
            None => {
                known.push(new);
                new.address
            }
        };
        self.paths.refused.forgive_remote(new.address);
        if known.iter().all(|known| known.address != before) {
            // What is not known needs no refusal.
            self.paths.refused.forgive_remote(before);
        }
        Named::Taken
    }

    /// The peer's addresses that may be connected to: not those that this host has by now.
    pub(super) fn usable_remotes<'a>(&'a self, shared: &'a Shared) -> impl Iterator<Item = SocketAddr> + 'a {
        let initial = self.paths.initial.map(|initial| initial.remote.ip());
        let own = |address: IpAddr| shared.address(address).is_some();
        self.addresses.remotes().filter(move |remote| Some(remote.ip()) == initial || !own(remote.ip()))
    }

    /// REMOVE_ADDR: no new subflows go there. Those that exist are asked whether they are alive, and end unless they
    /// answer (RFC 8684 section 3.4.2); until then the others do their work. Who still has the address closes its
    /// subflows by itself.
    //= RFC 8684 3.4.2-2
    //= RFC 8684 3.4.2-3
    //= RFC 8684 3.8-2
    pub(super) fn take_remove_address(&mut self, shared: &mut Shared, now: Instant, ids: &[u8]) {
        shared.count(Counter::RmAddr);
        for id in ids {
            let known = self.addresses.remote.iter().any(|known| known.id == *id)
                || self.living().any(|(_, subflow)| subflow.remote_id == *id);
            if !known {
                shared.count(Counter::RmAddrDrop);
            }
        }
        let gone = |known: &Remote| ids.contains(&known.id);
        for remote in self.addresses.remote.iter().filter(|known| gone(known)) {
            self.paths.refused.forgive_remote(remote.address);
        }
        self.addresses.remote.retain(|known| !gone(known));
        let others = self
            .living()
            .any(|(_, subflow)| !ids.contains(&subflow.remote_id) && subflow.can_send() && !subflow.stale);
        for index in 0..self.subflows.len() {
            if let Some(subflow) = self.subflow(index)
                && ids.contains(&subflow.remote_id)
                && subflow.is_synchronised()
                && subflow.reset_due.is_none()
            {
                subflow.window_probe_due = true;
                subflow.must_answer_by = Some(now + subflow.rtt.rto());
                subflow.stale |= others;
                if others {
                    self.reinject_outstanding(shared, index, ReinjectionCause::AddressRemoved);
                } else {
                    shared.count(Counter::RmAddrLast);
                }
            }
        }
        self.manage_paths(shared, now);
    }

    /// MP_PRIO: how the peer wants a subflow to be used; in version 0, all subflows of one of its addresses.
    pub(super) fn take_priority(&mut self, index: usize, backup: bool, address_id: Option<u8>) {
        for (place, subflow) in self.subflows.iter_mut().enumerate() {
            if let Some(subflow) = subflow
                && address_id.map_or(place == index, |id| subflow.remote_id == id)
            {
                subflow.peer_backup = backup;
            }
        }
    }

    /// See [`Endpoint::set_backup`](crate::Endpoint::set_backup).
    pub(crate) fn set_backup(&mut self, slot: SubflowSlot, backup: bool) -> bool {
        let multipath = self.is_multipath();
        let found = self.subflows.iter_mut().flatten().find(|subflow| subflow.slot == slot);
        let Some(subflow) = found.filter(|_| multipath) else { return false };
        subflow.priority_due |= subflow.backup != backup;
        subflow.backup = backup;
        true
    }

    /// What the rules of this connection say of an interface.
    pub(super) fn usage(&self, shared: &Shared, interface: u32) -> InterfaceUse {
        crate::InterfaceRule::first(&self.config.interface_rules, shared.interface_name(interface))
    }
}
