//! Local ports of listeners and subflows.
//!
//! A port is reserved in the kernel by a socket of its own, which costs several kilobytes. It can carry a subflow to
//! each pair of a local address and a remote end, so that a stack with many subflows need not reserve one for each.

use mptcp_datapath::port::{PortError, PortReservation};
use std::collections::HashMap;

/// Ports of the kernel's choice that are reserved before one is used twice: a sequence of guesses by somebody who is
/// not on the path has so many to begin with (RFC 6056).
const BEFORE_SHARING: usize = 256;
/// How many of them are tried for a pair of ends before another one is reserved, at most: half as many after each time that it
/// was in vain, as it is for who opens one connection after the other to the same place.
const TRIES: usize = 8;

struct Port {
    _reservation: PortReservation,
    /// Listeners and subflows that have it, and connections whose addresses are announced with it.
    users: u32,
    /// Where it is among those that were chosen by the kernel.
    place: Option<u16>,
}

/// All ports of a shard.
#[derive(Default)]
pub(super) struct Ports {
    all: HashMap<u16, Port>,
    /// Those that were chosen by the kernel.
    chosen: Vec<u16>,
    /// How often in a row none that was tried was free.
    failures: u32,
}

impl Ports {
    /// Reserves a certain port, with nobody using it yet.
    pub(super) fn reserve(&mut self, port: u16) -> Result<u16, PortError> {
        let reservation = PortReservation::of(port)?;
        Ok(self.insert(reservation, false))
    }

    /// Reserves a port of the kernel's choice that no subflow is to have.
    pub(super) fn listening(&mut self) -> Result<u16, PortError> {
        let reservation = PortReservation::any()?;
        Ok(self.insert(reservation, false))
    }

    /// A port of the kernel's choice for a subflow: one for which `is_free` holds, or a new one.
    pub(super) fn any(&mut self, is_free: impl Fn(u16) -> bool) -> Result<u16, PortError> {
        if self.chosen.len() >= BEFORE_SHARING {
            let mut some = (0..(TRIES >> self.failures).max(1))
                .map(|_| self.chosen[rand::random_range(0..self.chosen.len())]);
            if let Some(port) = some.find(|port| is_free(*port)) {
                self.failures = 0;
                return Ok(port);
            }
            self.failures = (self.failures + 1).min(TRIES.ilog2());
        }
        match PortReservation::any() {
            Ok(reservation) => Ok(self.insert(reservation, true)),
            Err(error) => self.chosen.iter().copied().find(|port| is_free(*port)).ok_or(error),
        }
    }

    fn insert(&mut self, reservation: PortReservation, chosen: bool) -> u16 {
        let port = reservation.port();
        let place = chosen.then_some(self.chosen.len() as u16);
        if chosen {
            self.chosen.push(port);
        }
        self.all.insert(port, Port { _reservation: reservation, users: 0, place });
        port
    }

    /// Whether the port is ours.
    pub(super) fn has(&self, port: u16) -> bool {
        self.all.contains_key(&port)
    }

    /// Somebody uses the port.
    pub(super) fn add_user(&mut self, port: u16) {
        if let Some(port) = self.all.get_mut(&port) {
            port.users += 1;
        }
    }

    /// Somebody does not use it any more; the last one gives it back.
    pub(super) fn remove_user(&mut self, port: u16) {
        if let Some(port) = self.all.get_mut(&port) {
            port.users = port.users.saturating_sub(1);
        }
        self.release_if_unused(port);
    }

    /// Gives a port back that nothing came to use.
    pub(super) fn release_if_unused(&mut self, port: u16) {
        if self.all.get(&port).is_none_or(|port| port.users > 0) {
            return;
        }
        if let Some(place) = self.all.remove(&port).and_then(|port| port.place) {
            self.chosen.swap_remove(usize::from(place));
            let moved = self.chosen.get(usize::from(place)).and_then(|port| self.all.get_mut(port));
            if let Some(moved) = moved {
                moved.place = Some(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ports_are_shared_only_among_many_and_where_they_are_free() {
        let mut ports = Ports::default();
        let mut taken = [HashSet::new(), HashSet::new()];
        for round in 0..BEFORE_SHARING + 100 {
            for taken in &mut taken {
                let port = ports.any(|port| !taken.contains(&port)).expect("a port");
                ports.add_user(port);
                assert!(taken.insert(port), "port {port} twice to the same place");
            }
            let distinct = ports.chosen.len();
            assert!(distinct <= 2 * (round + 1));
            assert!(distinct >= BEFORE_SHARING.min(2 * (round + 1)));
        }
        let (subflows, reserved) = (2 * (BEFORE_SHARING + 100), ports.chosen.len());
        assert!(reserved < subflows - BEFORE_SHARING / 2, "{reserved} ports for {subflows} subflows");
        for port in taken.iter().flatten() {
            ports.remove_user(*port);
        }
        assert!(ports.chosen.is_empty() && ports.all.is_empty());
    }

    #[test]
    fn a_port_that_was_named_is_nobody_elses_choice() {
        let mut ports = Ports::default();
        let port = PortReservation::any().expect("a port").port();
        ports.reserve(port).expect("free");
        assert!(ports.has(port) && ports.chosen.is_empty());
        ports.add_user(port);
        ports.add_user(port);
        ports.remove_user(port);
        assert!(ports.has(port));
        ports.remove_user(port);
        assert!(!ports.has(port));
    }
}
