//! Subflows that are over, until their last segments have left.
//!
//! A four-tuple that the XDP program does not know any more is the host's: it answers what the peer still sends with a
//! RST. Were that to overtake the RST with MP_FASTCLOSE of our own, the peer would lose its subflow without learning
//! that the connection is over (Linux waits for a minute then). So the program forgets a subflow only when nothing
//! waits to be sent.

use std::net::SocketAddr;

/// Most subflows kept: where an interface takes nothing for long, the oldest ones are of no use to anybody.
const LIMIT: usize = 4096;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Removals {
    /// Local and remote ends.
    pending: Vec<(SocketAddr, SocketAddr)>,
}

impl Removals {
    /// A subflow is over.
    pub(super) fn add(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.pending.push((local, remote));
    }

    /// A subflow has begun; whether an earlier one of the same four-tuple was to be removed, which it is not any more.
    pub(super) fn revive(&mut self, local: SocketAddr, remote: SocketAddr) -> bool {
        let place = self.pending.iter().position(|pending| *pending == (local, remote));
        place.map(|place| self.pending.swap_remove(place)).is_some()
    }

    /// What is to be removed now. `all_sent`: nothing waits to be sent.
    pub(super) fn due(&mut self, all_sent: bool) -> Vec<(SocketAddr, SocketAddr)> {
        if all_sent || self.pending.len() > LIMIT { std::mem::take(&mut self.pending) } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(port: u16) -> (SocketAddr, SocketAddr) {
        (([192, 0, 2, 1], 80).into(), ([192, 0, 2, 2], port).into())
    }

    #[test]
    fn subflows_are_forgotten_only_when_their_last_segments_have_left() {
        let mut removals = Removals::default();
        removals.add(tuple(1).0, tuple(1).1);
        removals.add(tuple(2).0, tuple(2).1);
        assert_eq!(removals.due(false), []);
        assert_eq!(removals.due(true), [tuple(1), tuple(2)]);
        assert_eq!(removals.due(true), []);
    }

    #[test]
    fn a_four_tuple_that_is_used_again_stays() {
        let mut removals = Removals::default();
        removals.add(tuple(1).0, tuple(1).1);
        assert!(removals.revive(tuple(1).0, tuple(1).1));
        assert!(!removals.revive(tuple(1).0, tuple(1).1));
        assert_eq!(removals.due(true), []);
    }

    #[test]
    fn an_interface_that_takes_nothing_keeps_a_bounded_number() {
        let mut removals = Removals::default();
        for port in 0..=LIMIT {
            assert_eq!(removals.due(false), []);
            let (local, remote) = tuple(u16::try_from(port).expect("few"));
            removals.add(local, remote);
        }
        assert_eq!(removals.due(false).len(), LIMIT + 1);
    }
}
