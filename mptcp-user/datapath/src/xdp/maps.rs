//! What the shards tell the XDP program, and what it has counted.

use super::XdpError;
use super::mmap::{Ports, TelemetryArray};
use super::syscall::{self, ANY, EXIST, NO_EXIST};
use mptcp_common::counter::{COUNTERS, Counter};
use mptcp_common::maps::{
    INTERFACE_PROBES, INTERFACE_TABLE, InterfaceValue, ListenerKey, ListenerValue, LocalKey, LocalValue,
    PeerKey, SubflowKey, SubflowValue, Telemetry, TokenValue,
};
use mptcp_proto::SubflowSlot;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

/// The maps of the loaded program. All methods may be called from any thread; none of them is for the packet path.
pub struct XdpMaps {
    subflows: OwnedFd,
    listeners: OwnedFd,
    tokens: OwnedFd,
    locals: OwnedFd,
    peers: OwnedFd,
    interfaces: OwnedFd,
    sockets: OwnedFd,
    counters: OwnedFd,
    ports: Ports,
    telemetry: TelemetryArray,
    /// The open-addressed table of interfaces, as it is in the map.
    table: Mutex<Vec<InterfaceValue>>,
}

impl XdpMaps {
    #[allow(clippy::too_many_arguments)] // one per map
    pub(super) fn new(
        subflows: OwnedFd,
        listeners: OwnedFd,
        tokens: OwnedFd,
        locals: OwnedFd,
        peers: OwnedFd,
        interfaces: OwnedFd,
        sockets: OwnedFd,
        counters: OwnedFd,
        ports: &OwnedFd,
        telemetry: &OwnedFd,
        slots: u32,
    ) -> Result<Self, XdpError> {
        Ok(Self {
            subflows,
            listeners,
            tokens,
            locals,
            peers,
            interfaces,
            sockets,
            counters,
            ports: Ports::new(ports.as_fd())?,
            telemetry: TelemetryArray::new(telemetry.as_fd(), slots)?,
            table: Mutex::new(vec![InterfaceValue::default(); INTERFACE_TABLE as usize]),
        })
    }

    /// From now on segments of this four-tuple go to `shard`, marked with `slot`. Clears the slot's telemetry.
    ///
    /// # Errors
    /// [`XdpError::Full`] at the limit of subflows.
    pub fn insert_subflow(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        slot: SubflowSlot,
        shard: u32,
    ) -> Result<(), XdpError> {
        self.telemetry.clear(slot.0);
        let (key, value) = (SubflowKey::new(local, remote), SubflowValue { slot: slot.0, shard });
        self.insert(self.subflows.as_fd(), &key, &value, local.port(), "subflows")?;
        self.ports.note_subflow(&key, value);
        Ok(())
    }

    /// Segments of this four-tuple are of no interest any more. Nothing happens if they weren't.
    ///
    /// # Errors
    /// [`XdpError::System`] if the kernel refuses.
    pub fn remove_subflow(&self, local: SocketAddr, remote: SocketAddr) -> Result<(), XdpError> {
        self.ports.forget_sole(local.port());
        self.remove(self.subflows.as_fd(), &SubflowKey::new(local, remote), local.port())
    }

    /// From now on SYNs for `local` go to `shards` shards from `shard` on, each four-tuple always to the same. The
    /// address may be the unspecified one of its family.
    ///
    /// # Errors
    /// [`XdpError::Full`] at the limit of listeners.
    pub fn insert_listener(&self, local: SocketAddr, shard: u32, shards: u32) -> Result<(), XdpError> {
        let value = ListenerValue { shard, shards };
        self.insert(self.listeners.as_fd(), &ListenerKey::new(local), &value, local.port(), "listeners")
    }

    /// SYNs for `local` are of no interest any more.
    ///
    /// # Errors
    /// [`XdpError::System`] if the kernel refuses.
    pub fn remove_listener(&self, local: SocketAddr) -> Result<(), XdpError> {
        self.remove(self.listeners.as_fd(), &ListenerKey::new(local), local.port())
    }

    /// What an address means to this host: [`LOCAL_OWN`](mptcp_common::maps::LOCAL_OWN) or
    /// [`LOCAL_BROADCAST`](mptcp_common::maps::LOCAL_BROADCAST); 0: nothing. Segments without a subflow are
    /// ours only if they are for an address of this host.
    ///
    /// # Errors
    /// [`XdpError::Full`] at the limit of addresses.
    pub fn set_local(&self, key: LocalKey, kind: u32) -> Result<(), XdpError> {
        if kind == 0 {
            return syscall::delete(self.locals.as_fd(), &key)
                .map_err(|error| failed(error, "local addresses"))
                .map(|_| ());
        }
        syscall::update(self.locals.as_fd(), &key, &LocalValue { kind }, ANY)
            .map_err(|error| failed(error, "local addresses"))
    }

    /// From now on peers with this prefix, of `length` bits, are accepted or refused; of several prefixes
    /// that a peer has the longest counts. Has an effect only if
    /// [`XdpConfig::other_peers`](super::XdpConfig::other_peers) says that there are rules.
    ///
    /// # Errors
    /// [`XdpError::Full`] at the limit of prefixes.
    pub fn insert_peer(&self, address: IpAddr, length: u8, accepted: bool) -> Result<(), XdpError> {
        let key = PeerKey::new(address.into(), u32::from(length));
        syscall::update(self.peers.as_fd(), &key, &u32::from(accepted), ANY)
            .map_err(|error| failed(error, "peer prefixes"))
    }

    /// From now on MP_JOINs with `token` go to `shard`, whatever address of this host they are for.
    ///
    /// # Errors
    /// [`XdpError::Full`] at the limit of tokens.
    pub fn insert_token(&self, token: u32, shard: u32) -> Result<(), XdpError> {
        syscall::update(self.tokens.as_fd(), &token, &TokenValue { shard }, ANY)
            .map_err(|error| failed(error, "tokens"))
    }

    /// MP_JOINs with `token` are of no interest any more.
    ///
    /// # Errors
    /// [`XdpError::System`] if the kernel refuses.
    pub fn remove_token(&self, token: u32) -> Result<(), XdpError> {
        syscall::delete(self.tokens.as_fd(), &token).map_err(|error| failed(error, "tokens")).map(|_| ())
    }

    /// Tells which sockets an interface has: from `xsk_base` on, `queues` for the first shard, then `queues` for the
    /// next one, for `shards` shards.
    ///
    /// # Errors
    /// [`XdpError::Full`] if the table has no place for it.
    pub fn set_interface(&self, index: u32, xsk_base: u32, queues: u32, shards: u32) -> Result<(), XdpError> {
        let value = InterfaceValue { index, xsk_base, queues, shards };
        let mut table = self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let probes = |wanted: u32| {
            (0..INTERFACE_PROBES)
                .map(|probe| (index.wrapping_add(probe) % INTERFACE_TABLE) as usize)
                .find(|place| table.get(*place).is_some_and(|entry| entry.index == wanted))
        };
        let place = probes(index).or_else(|| probes(0)).ok_or(XdpError::Full("interfaces"))?;
        self.write_interface(&mut table, place, value)
    }

    /// Packets of this interface go to the kernel from now on.
    ///
    /// # Errors
    /// [`XdpError::System`] if the kernel refuses.
    pub fn remove_interface(&self, index: u32) -> Result<(), XdpError> {
        let mut table = self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match table.iter().position(|entry| index != 0 && entry.index == index) {
            Some(place) => self.write_interface(&mut table, place, InterfaceValue::default()),
            None => Ok(()),
        }
    }

    fn write_interface(
        &self,
        table: &mut [InterfaceValue],
        place: usize,
        value: InterfaceValue,
    ) -> Result<(), XdpError> {
        syscall::update(self.interfaces.as_fd(), &(place as u32), &value, ANY)
            .map_err(|error| failed(error, "interfaces"))?;
        if let Some(entry) = table.get_mut(place) {
            *entry = value;
        }
        Ok(())
    }

    /// Puts an AF_XDP socket, whose receive ring is set up, at a place of the socket map. It leaves the map by itself
    /// when it is closed.
    ///
    /// # Errors
    /// [`XdpError::OutOfRange`] if there is no such place.
    pub fn set_socket(&self, xsk_index: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        syscall::update(self.sockets.as_fd(), &xsk_index, &socket.as_raw_fd(), ANY).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::E2BIG) => XdpError::OutOfRange("the place of an AF_XDP socket"),
                _ => failed(error, "sockets"),
            }
        })
    }

    /// Takes the socket at a place out of the socket map.
    ///
    /// # Errors
    /// [`XdpError::System`] if the kernel refuses.
    pub fn clear_socket(&self, xsk_index: u32) -> Result<(), XdpError> {
        syscall::delete(self.sockets.as_fd(), &xsk_index)
            .map_err(|error| failed(error, "sockets"))
            .map(|_| ())
    }

    /// What was last seen of a subflow. None if there is no such slot. Each number is whole, but they may be of two
    /// packets.
    pub fn telemetry(&self, slot: SubflowSlot) -> Option<Telemetry> {
        self.telemetry.read(slot.0)
    }

    /// What happened to packets so far, all CPUs together.
    ///
    /// # Errors
    /// [`XdpError::System`] if the kernel refuses.
    pub fn counters(&self) -> Result<CounterSnapshot, XdpError> {
        let cpus = aya::util::nr_cpus().map_err(|(call, source)| XdpError::System { call, source })?;
        let mut each = vec![[0u64; COUNTERS]; cpus];
        syscall::lookup(self.counters.as_fd(), &0u32, &mut each)
            .map_err(|error| failed(error, "counters"))?;
        let mut sum = [0; COUNTERS];
        for values in &each {
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += value;
            }
        }
        Ok(CounterSnapshot(sum))
    }

    /// Sets an element and counts its port, which is ours as long as an element with it is there.
    fn insert<K, V>(
        &self,
        map: BorrowedFd<'_>,
        key: &K,
        value: &V,
        port: u16,
        what: &'static str,
    ) -> Result<(), XdpError> {
        self.ports.add(port);
        let error = match syscall::update(map, key, value, NO_EXIST) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        self.ports.remove(port);
        if error.raw_os_error() == Some(libc::EEXIST) {
            return syscall::update(map, key, value, EXIST).map_err(|error| failed(error, what));
        }
        Err(failed(error, what))
    }

    fn remove<K>(&self, map: BorrowedFd<'_>, key: &K, port: u16) -> Result<(), XdpError> {
        if syscall::delete(map, key)
            .map_err(|source| XdpError::System { call: "removing an element of a BPF map", source })?
        {
            self.ports.remove(port);
        }
        Ok(())
    }
}

fn failed(error: io::Error, what: &'static str) -> XdpError {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM) => XdpError::Full(what),
        Some(libc::EPERM) => XdpError::NotPermitted,
        _ => XdpError::System { call: "setting an element of a BPF map", source: error },
    }
}

/// What happened to packets, by [`Counter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CounterSnapshot([u64; COUNTERS]);

impl CounterSnapshot {
    /// One counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or_default()
    }
    /// All counters in their order.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|counter| (*counter, self.get(*counter)))
    }
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &CounterSnapshot) -> CounterSnapshot {
        let mut difference = self.0;
        for (value, before) in difference.iter_mut().zip(earlier.0) {
            *value = value.saturating_sub(before);
        }
        CounterSnapshot(difference)
    }
}
