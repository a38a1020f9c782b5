//! Addresses of both sides, and the coming and going of subflows (RFC 8684 sections 3.2 and 3.4).

use super::{Connection, Mode, Opening};
use crate::proto::congestion::Path;
use crate::proto::counters::Counter;
use crate::proto::crypto;
use crate::proto::endpoint::Shared;
use crate::proto::event::Event;
use crate::proto::path::View;
use crate::proto::secret::Tuple;
use crate::proto::subflow::{Birth, Kind, Subflow};
use crate::proto::{Instant, LocalAddress};
use crate::wire::{AddAddr, Join, ResetReason, Segment, Version};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Addresses of the peer that are remembered.
const MAX_REMOTE: usize = 32;
/// Joins of the peer whose third ACK has not come yet. They do not count as subflows; one more pushes the oldest out, so
/// that neither memory nor room for honest joins runs out when somebody who has seen the token sends SYNs.
const MAX_HALF_OPEN: usize = 16;
/// Pairs of addresses that did not work out and are remembered.
const MAX_REFUSED: usize = 64;
/// First wait before a failed pair of addresses is tried again; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(120);
/// How long the next address waits for the echo of the one before. Linux keeps one ADD_ADDR at a time and drops,
/// without an echo, those that come before it has dealt with it.
const ECHO_WAIT: Duration = Duration::from_millis(500);
/// Times an address is announced before its echo is given up.
const ANNOUNCEMENTS: u32 = 6;

/// An address of ours that the peer is told of.
#[derive(Clone, Debug)]
pub(super) struct Announcement {
    pub(super) id: u8,
    pub(super) address: IpAddr,
    sends: u32,
    sent: Instant,
    /// To be sent (again) from this time on; none once it is echoed or given up.
    pub(super) at: Option<Instant>,
}

/// A pair of addresses that did not work.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    local: IpAddr,
    remote: SocketAddr,
    until: Instant,
    failures: u32,
}

/// What a connection knows of addresses.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Identifiers of our addresses; that of the initial subflow has 0.
    local_ids: Vec<(IpAddr, u8)>,
    /// The peer's addresses besides that of the initial subflow.
    remote: Vec<(u8, SocketAddr)>,
    /// Where the initial subflow goes.
    initial_remote: Option<SocketAddr>,
    /// The peer does not want more subflows to that address (flag C).
    pub(super) no_join_initial: bool,
    /// Subflows that the driver was asked to open.
    pub(super) wanted: Vec<(IpAddr, SocketAddr)>,
    refused: Vec<Refusal>,
    pub(super) announcements: Vec<Announcement>,
    /// ADD_ADDRs of the peer to be echoed.
    pub(super) echoes: ArrayVec<AddAddr, 4>,
    /// Identifiers of addresses that we no longer have, to be told.
    pub(super) removals: ArrayVec<u8, 8>,
    announced: bool,
}

impl Paths {
    /// When something is to be tried again. An announcement that is due already leaves with the next segment.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let announcements = self.announcements.iter().filter_map(|announcement| match announcement.at {
            Some(at) if at <= now => self.echo_wait(now),
            at => at,
        });
        let refused =
            self.refused.iter().map(|refusal| refusal.until).filter(|until| *until != Instant::ZERO);
        announcements.chain(refused).min()
    }

    /// The identifier of one of our addresses.
    fn local_id(&mut self, address: IpAddr) -> u8 {
        if let Some((_, id)) = self.local_ids.iter().find(|(known, _)| *known == address) {
            return *id;
        }
        let id =
            (0..=u8::MAX).find(|id| self.local_ids.iter().all(|(_, used)| used != id)).unwrap_or(u8::MAX);
        self.local_ids.push((address, id));
        id
    }

    /// Until when an echo is waited for before the next address is announced.
    fn echo_wait(&self, now: Instant) -> Option<Instant> {
        let waiting = self.announcements.iter().filter(|known| known.sends > 0 && known.at.is_some());
        waiting.map(|known| known.sent + ECHO_WAIT).filter(|until| *until > now).max()
    }

    /// The announcement that is to leave now, if any.
    fn due(&self, now: Instant) -> Option<&Announcement> {
        if self.echo_wait(now).is_some() {
            return None;
        }
        let due = self.announcements.iter().filter(|known| known.at.is_some_and(|at| at <= now));
        // Those that were never sent come before repetitions.
        due.min_by_key(|known| known.sends)
    }

    /// An announcement has left.
    pub(super) fn announced(&mut self, id: u8, now: Instant, version: Version) {
        if let Some(known) = self.announcements.iter_mut().find(|known| known.id == id) {
            known.sends += 1;
            known.sent = now;
            // In version 0 nobody would say that it has arrived.
            let again = version == Version::V1 && known.sends < ANNOUNCEMENTS;
            known.at = again.then(|| now + Duration::from_secs(1) * (1 << known.sends));
        }
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
        self.paths.local_ids.push((local.ip(), 0));
        self.paths.initial_remote = Some(remote);
        let mut birth = self.birth(shared, now, (local, remote), Kind::Initial, 0, 0);
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
        Birth {
            slot: shared.take_slot(),
            local,
            remote,
            interface: link.map_or(0, |link| link.interface),
            mtu: link.map_or(1500, |link| link.mtu),
            kind,
            iss: shared.secret().initial_sequence(now, (local, remote)),
            stamp_origin: shared.secret().stamp_origin((local, remote)),
            local_id,
            remote_id,
            backup: link.is_some_and(|link| link.backup),
            scale: window_scale(self.config.receive_buffer as u64),
            ecn: self.config.ecn,
        }
    }

    fn add_subflow(&mut self, shared: &mut Shared, subflow: Subflow) {
        let path = Path::new(subflow.payload_mss(true));
        let index = self.subflows.iter().position(Option::is_none).unwrap_or(self.subflows.len());
        shared.add_subflow(self.id, index, &subflow);
        if index == self.subflows.len() {
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
    pub(super) fn subflow_established(&mut self, index: usize) {
        let multipath = self.is_multipath();
        if let Some(subflow) = self.subflows.get(index).and_then(Option::as_deref) {
            let mut path = Path::new(subflow.payload_mss(multipath));
            path.active = true;
            path.srtt = subflow.rtt.srtt();
            path.min_rtt = subflow.rtt.min();
            self.congestion_paths[index] = path;
            let (local, remote) = subflow.tuple();
            self.paths.refused.retain(|refusal| (refusal.local, refusal.remote) != (local.ip(), remote));
        }
        if self.patience.is_some() && !self.released {
            self.patience = None;
        }
    }

    /// The peer wants another subflow: SYN with MP_JOIN and our token. `false` if it is to be refused.
    pub(crate) fn accept_join(&mut self, shared: &mut Shared, now: Instant, syn: &Segment) -> bool {
        let Some(&Join::Syn { backup, address_id, nonce: peer_nonce, .. }) = syn.options.join() else {
            return false;
        };
        let full = self.subflow_count() >= self.config.max_subflows;
        if !self.is_multipath() || !self.fully_established || full || self.closed.is_some() {
            return false;
        }
        if self.half_open() >= MAX_HALF_OPEN {
            self.drop_oldest_half_open(shared);
        }
        let nonce = shared.random_u32();
        let local_id = self.paths.local_id(syn.dst.ip());
        let kind = Kind::JoinPassive { nonce, peer_nonce };
        let birth = self.birth(shared, now, (syn.dst, syn.src), kind, local_id, address_id);
        let mut subflow = Subflow::answering(&birth, now, syn);
        subflow.peer_backup = backup;
        self.add_subflow(shared, subflow);
        true
    }

    /// Subflows that are established, or that we are opening.
    pub(super) fn subflow_count(&self) -> usize {
        self.living().filter(|(_, subflow)| !subflow.is_half_open()).count()
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
        let before = self.paths.wanted.len();
        self.paths.wanted.retain(|wanted| *wanted != (local.ip(), remote));
        let full = self.subflow_count() >= self.config.max_subflows;
        if before == self.paths.wanted.len() || !self.is_multipath() || self.closed.is_some() || full {
            return false;
        }
        let nonce = shared.random_u32();
        let local_id = self.paths.local_id(local.ip());
        let remote_id =
            self.paths.remote.iter().find(|(_, address)| *address == remote).map_or(0, |(id, _)| *id);
        let kind = Kind::JoinActive { nonce, mac: [0; 20] };
        shared.count(Counter::MpJoinSynTx);
        let birth = self.birth(shared, now, (local, remote), kind, local_id, remote_id);
        self.add_subflow(shared, Subflow::connecting(&birth));
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
        self.paths.wanted.retain(|wanted| *wanted != (local, remote));
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
        refusal.until = now + (FIRST_RETRY * (1 << refusal.failures.min(10))).min(MAX_RETRY);
        refusal.failures += 1;
    }

    /// Asks the path manager what it wants, and the driver for it.
    pub(crate) fn manage_paths(&mut self, shared: &mut Shared, now: Instant) {
        if !self.is_multipath() || !self.fully_established || self.closed.is_some() {
            return;
        }
        if (self.send.is_done() && self.receive.finished) || self.config.max_subflows < 2 {
            return;
        }
        self.announce_addresses(shared, now);
        let initial = self.paths.initial_remote.filter(|_| !self.paths.no_join_initial);
        let remote: ArrayVec<SocketAddr, { MAX_REMOTE + 1 }> =
            initial.into_iter().chain(self.paths.remote.iter().map(|(_, address)| *address)).collect();
        loop {
            let living = self.living().filter(|(_, subflow)| !subflow.is_half_open());
            let living = living.map(|(_, subflow)| (subflow.local.ip(), subflow.remote));
            let subflows: Vec<_> = living.chain(self.paths.wanted.iter().copied()).collect();
            let view = View {
                client: self.client,
                local: shared.addresses(),
                remote: &remote,
                subflows: &subflows,
                limit: self.config.max_subflows,
            };
            let refused = &self.paths.refused;
            let is_refused = |local, remote| {
                refused
                    .iter()
                    .any(|known| (known.local, known.remote) == (local, remote) && known.until > now)
            };
            let Some(wish) = self.policies.path_manager.next_subflow(&view, &is_refused) else { break };
            self.paths.wanted.push((wish.local.address, wish.remote));
            shared.events.push_back(Event::SubflowWanted {
                connection: self.id,
                local: wish.local.address,
                interface: wish.local.interface,
                remote: wish.remote,
            });
        }
    }

    /// Tells the peer our other addresses, once each.
    fn announce_addresses(&mut self, shared: &mut Shared, now: Instant) {
        if !self.config.announce_addresses || !self.policies.path_manager.announces(self.client) {
            return;
        }
        if !std::mem::replace(&mut self.paths.announced, true) {
            let mut addresses = shared.addresses().to_vec();
            // Most peers can use those of the connection's own family; they come first.
            let family = self.paths.initial_remote.map(|remote| remote.is_ipv4());
            addresses.sort_by_key(|local| Some(local.address.is_ipv4()) != family);
            for address in addresses {
                self.announce(shared, now, address);
            }
        }
    }

    fn announce(&mut self, shared: &mut Shared, now: Instant, local: LocalAddress) {
        let known = self.paths.announcements.iter().any(|known| known.address == local.address);
        let id = self.paths.local_id(local.address);
        if id != 0 && !known && self.paths.announcements.len() >= MAX_REMOTE {
            shared.count(Counter::AddAddrTxDrop);
        } else if id != 0 && !known {
            self.paths.announcements.push(Announcement {
                id,
                address: local.address,
                sends: 0,
                sent: Instant::ZERO,
                at: Some(now),
            });
        }
    }

    /// An address of this host appeared.
    pub(crate) fn address_added(&mut self, shared: &mut Shared, now: Instant, local: LocalAddress) {
        self.paths.refused.retain(|refusal| refusal.local != local.address);
        if self.paths.announced {
            self.announce(shared, now, local);
        }
        self.manage_paths(shared, now);
    }

    /// An address of this host is gone: its subflows are over, the peer is told on the others.
    pub(crate) fn address_removed(&mut self, shared: &mut Shared, now: Instant, address: IpAddr) {
        let affected: ArrayVec<usize, 64> = self
            .living()
            .filter_map(|(index, subflow)| (subflow.local.ip() == address).then_some(index))
            .take(64)
            .collect();
        self.paths.wanted.retain(|(local, _)| *local != address);
        self.paths.announcements.retain(|known| known.address != address);
        if self.is_multipath() {
            if let Some((_, id)) = self.paths.local_ids.iter().find(|(known, _)| *known == address)
                && self.paths.removals.try_push(*id).is_err()
            {
                shared.count(Counter::RmAddrTxDrop);
            }
            for index in affected {
                shared.count(Counter::RmSubflow);
                self.end_subflow(shared, now, index);
            }
        }
    }

    /// ADD_ADDR: authentic ones are remembered, echoed, and may lead to subflows.
    pub(super) fn take_add_address(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        index: usize,
        add: &AddAddr,
    ) {
        if add.echo {
            if let Some(known) = self.paths.announcements.iter_mut().find(|known| known.id == add.address_id)
            {
                known.at = None;
                shared.count(Counter::EchoAdd);
            } else {
                shared.count(Counter::BadEcho);
            }
            return;
        }
        let (Some(remote_key), Some(subflow)) = (self.remote_key, self.subflow(index)) else { return };
        let port = subflow.remote.port();
        if self.version == Version::V1 {
            let expected = crypto::address_mac(
                remote_key.key,
                self.local_key.key,
                add.address_id,
                add.address,
                add.port,
            );
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
        let initial_port = self.paths.initial_remote.map_or(port, |initial| initial.port());
        let address = SocketAddr::new(add.address, add.port.unwrap_or(initial_port));
        self.paths.remote.retain(|(id, _)| *id != add.address_id);
        if self.paths.remote.len() < MAX_REMOTE && usable_remote(add.address) {
            self.paths.remote.push((add.address_id, address));
        } else {
            shared.count(Counter::AddAddrDrop);
        }
        if self.version == Version::V1
            && self.paths.echoes.iter().all(|echo| echo.address_id != add.address_id)
            && self.paths.echoes.try_push(AddAddr { echo: true, mac: None, ..*add }).is_err()
        {
            shared.count(Counter::EchoAddTxDrop);
        }
        self.manage_paths(shared, now);
    }

    /// REMOVE_ADDR: no new subflows there, and those that exist end (RFC 8684 section 3.4.2).
    pub(super) fn take_remove_address(&mut self, shared: &mut Shared, now: Instant, ids: &[u8]) {
        shared.count(Counter::RmAddr);
        for id in ids {
            let known = self.paths.remote.iter().any(|(known, _)| known == id)
                || self.living().any(|(_, subflow)| subflow.remote_id == *id);
            if !known {
                shared.count(Counter::RmAddrDrop);
            }
        }
        self.paths.remote.retain(|(id, _)| !ids.contains(id));
        let others =
            self.living().any(|(_, subflow)| subflow.is_synchronised() && !ids.contains(&subflow.remote_id));
        for index in 0..self.subflows.len() {
            if let Some(subflow) = self.subflow(index)
                && ids.contains(&subflow.remote_id)
            {
                if !others {
                    shared.count(Counter::RmAddrLast);
                    continue;
                }
                shared.count(Counter::RmSubflow);
                subflow.reset_due = Some(Some(ResetReason::Unspecified));
            }
        }
        self.manage_paths(shared, now);
    }

    /// The HMAC for one of our announcements.
    pub(super) fn announcement_mac(&self, id: u8, address: IpAddr) -> Option<u64> {
        let remote = self.remote_key.filter(|_| self.version == Version::V1)?;
        Some(crypto::address_mac(self.local_key.key, remote.key, id, address, None))
    }

    /// Waits are over: pairs of addresses may be tried again.
    pub(super) fn paths_timeout(&mut self, shared: &mut Shared, now: Instant) {
        let mut again = false;
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

    /// Whether any announcement is due.
    pub(super) fn announcement_due(&self, now: Instant) -> Option<&Announcement> {
        self.paths.due(now)
    }
}

/// The smallest scale under which the window field can promise the whole buffer (RFC 7323 section 2.2).
pub(crate) fn window_scale(buffer: u64) -> u8 {
    (0..14).find(|scale| buffer <= u64::from(u16::MAX) << scale).unwrap_or(14)
}

/// Addresses that a peer may not make us send to.
fn usable_remote(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && !address.is_loopback()
        && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}
