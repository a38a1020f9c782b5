//! What the two sides tell each other of their addresses: ADD_ADDR, REMOVE_ADDR and MP_PRIO (RFC 8684 sections 3.3.8 and
//! 3.4; RFC 6824 has the same without HMACs and echoes).

use super::Connection;
use crate::proto::counters::Counter;
use crate::proto::crypto;
use crate::proto::decision::ReinjectionCause;
use crate::proto::endpoint::Shared;
use crate::proto::event::SubflowSlot;
use crate::proto::subflow::link_mss;
use crate::proto::{Instant, InterfaceUse, LocalAddress};
use crate::wire::{AddAddr, MptcpOption, RemoveAddr, Version};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Addresses of the peer that are remembered.
pub(super) const MAX_REMOTE: usize = 32;
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
    /// Identifiers of addresses that we no longer have, to be told.
    removals: ArrayVec<u8, 64>,
}

impl Addresses {
    /// The addresses that the connection begins with.
    pub(super) fn begin(&mut self, local: IpAddr, remote: SocketAddr) {
        self.local_ids.push(LocalId { address: local, port: None, id: 0 });
        self.remote.push(Remote { id: 0, address: remote });
    }

    /// The identifier of one of our addresses; none if all are taken.
    pub(super) fn local_id(&mut self, address: IpAddr, port: Option<u16>) -> Option<u8> {
        if let Some(known) = self.known_id(address, port) {
            return Some(known);
        }
        let next = |id: u8| if id == u8::MAX { 1 } else { id + 1 };
        let mut id = next(self.last_id);
        for _ in 1..u8::MAX {
            if self.local_ids.iter().all(|known| known.id != id) {
                self.last_id = id;
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
        times.min()
    }

    /// Whether there is anything to tell.
    pub(super) fn has_news(&self, now: Instant) -> bool {
        !self.echoes.is_empty() || !self.removals.is_empty() || self.due(now).is_some()
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
    fn remove_local(&mut self, address: IpAddr) -> bool {
        self.announcements.retain(|known| known.address != address);
        let mut told = true;
        for known in self.local_ids.iter().filter(|known| known.address == address) {
            told &= self.removals.try_push(known.id).is_ok();
        }
        self.local_ids.retain(|known| known.address != address);
        told
    }

    /// Whether this identifier is among those that the peer is about to be told are gone.
    pub(super) fn is_leaving(&self, id: u8) -> bool {
        self.removals.contains(&id)
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
    pub(super) fn address_news(&mut self, now: Instant) -> Option<MptcpOption> {
        if let Some(echo) = self.addresses.echoes.pop_at(0) {
            return Some(MptcpOption::AddAddr(echo));
        }
        if !self.addresses.removals.is_empty() {
            let count = self.addresses.removals.len().min(MAX_REMOVED);
            let ids = self.addresses.removals.drain(..count).collect();
            return Some(MptcpOption::RemoveAddr(RemoveAddr { ids }));
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
        let mut addresses: Vec<IpAddr> = locals.map(|local| local.address).collect();
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
    pub(crate) fn address_added(&mut self, shared: &mut Shared, now: Instant, local: LocalAddress) {
        self.paths.forgive(local.address);
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
        self.manage_paths(shared, now);
    }

    /// This host does not have the address any more: the peer is told as soon as a subflow can carry it.
    pub(super) fn forget_address(&mut self, shared: &mut Shared, address: IpAddr) {
        if !self.addresses.remove_local(address) {
            shared.count(Counter::RmAddrTxDrop);
        }
    }

    /// ADD_ADDR: authentic ones are remembered, echoed, and may lead to subflows.
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
        let address = SocketAddr::new(add.address, add.port.unwrap_or(initial.remote.port()));
        if !self.remember_remote(Remote { id: add.address_id, address }) {
            shared.count(Counter::AddAddrDrop);
        }
        let echoes = &mut self.addresses.echoes;
        if self.version == Version::V1
            && echoes.iter().all(|echo| echo.address_id != add.address_id)
            && echoes.try_push(AddAddr { echo: true, mac: None, ..*add }).is_err()
        {
            shared.count(Counter::EchoAddTxDrop);
        }
        self.manage_paths(shared, now);
    }

    /// An identifier that a subflow has goes on meaning the same address until the peer has removed it (RFC 8684
    /// section 3.4.1). `false` if the address is not remembered.
    fn remember_remote(&mut self, new: Remote) -> bool {
        let place = self.addresses.remote.iter().position(|known| known.id == new.id);
        let in_use = self
            .living()
            .any(|(_, subflow)| subflow.remote_id == new.id && subflow.remote.ip() != new.address.ip());
        let room = place.is_some() || self.addresses.remote.len() < MAX_REMOTE;
        if in_use || !room || !usable_remote(new.address.ip()) {
            return false;
        }
        match place {
            Some(place) => self.addresses.remote[place] = new,
            None => self.addresses.remote.push(new),
        }
        true
    }

    /// REMOVE_ADDR: no new subflows go there. Those that exist are asked whether they are alive, and end unless they
    /// answer (RFC 8684 section 3.4.2); until then the others do their work. Who still has the address closes its
    /// subflows by itself.
    pub(super) fn take_remove_address(&mut self, shared: &mut Shared, now: Instant, ids: &[u8]) {
        shared.count(Counter::RmAddr);
        for id in ids {
            let known = self.addresses.remote.iter().any(|known| known.id == *id)
                || self.living().any(|(_, subflow)| subflow.remote_id == *id);
            if !known {
                shared.count(Counter::RmAddrDrop);
            }
        }
        self.addresses.remote.retain(|known| !ids.contains(&known.id));
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

    /// See [`Endpoint::set_backup`](crate::proto::Endpoint::set_backup).
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
        crate::proto::InterfaceRule::first(&self.config.interface_rules, shared.interface_name(interface))
    }
}

/// Addresses that a peer may not make us send to.
fn usable_remote(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_loopback()
        && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}
