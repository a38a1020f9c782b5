//! Changes of this host that connections have to be told of, a bounded number of them at a time.
//!
//! An address that comes or goes may concern every connection. To attend to all of them in one call would
//! hold up packets for as long, wake all that rest, and send a segment on each. So changes are gathered, and
//! one set after the other goes once over those that are awake and once over those that rest: of the latter a
//! few at a time, so that the first rest again when the last are woken. A connection that wakes in between is
//! told at once.

use super::Instant;
use super::event::{ListenerId, LocalAddress};
use std::net::IpAddr;
use std::time::Duration;

/// Places that are looked at in one step.
pub(super) const LOOKS: usize = 4096;
/// Connections that are told in one step.
pub(super) const TELLS: usize = 64;
/// Time between two steps that wake connections at rest.
const REST_STEP: Duration = Duration::from_millis(20);
/// How long routes may go on changing before anybody is told. (On a router they never stop.)
const ROUTES_SETTLE: Duration = Duration::from_millis(50);

/// What a connection at rest has to be woken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Concern {
    /// A bit for each of our addresses that it uses or has announced; others may share it.
    pub(crate) locals: u64,
    /// Whether a new address of IPv4, or of IPv6, would be of use to it.
    pub(crate) could_use: [bool; 2],
    /// It has found no way between some addresses.
    pub(crate) lacks_routes: bool,
}

impl Concern {
    /// The bit of an address.
    pub(crate) fn bit(address: IpAddr) -> u64 {
        let fold = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        let hash = match address {
            IpAddr::V4(address) => address.octets().iter().fold(0xcbf2_9ce4_8422_2325, fold),
            IpAddr::V6(address) => address.octets().iter().fold(0xcbf2_9ce4_8422_2325, fold),
        };
        1 << (hash >> 58)
    }
}

/// A change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// An address is gone, has come, or is gone and has come back.
    Address {
        /// Which.
        address: IpAddr,
        /// It was gone, if only for a moment.
        removed: bool,
        /// It is there.
        added: Option<LocalAddress>,
    },
    /// The interface with this address has no carrier.
    Suspended(IpAddr),
    /// There may be a way where there was none.
    Routes,
    /// A listener accepts no more.
    Listener(ListenerId),
}

impl Change {
    /// Whether a connection at rest has to be told. (One whose handshake is under way does not rest.)
    fn concerns(&self, concern: &Concern) -> bool {
        match self {
            Self::Address { address, added, .. } => {
                let useful =
                    added.is_some_and(|local| concern.could_use[usize::from(local.address.is_ipv6())]);
                useful || concern.locals & Concern::bit(*address) != 0
            }
            Self::Suspended(address) => concern.locals & Concern::bit(*address) != 0,
            Self::Routes => concern.lacks_routes,
            Self::Listener(_) => false,
        }
    }
}

/// Changes of which not all connections have been told.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    running: Vec<Change>,
    /// Those that have come since.
    next: Vec<Change>,
    /// The place that is looked at next.
    place: usize,
    /// The second time, for those at rest.
    resting: bool,
    at: Option<Instant>,
}

impl Changes {
    /// Something has changed.
    pub(crate) fn add(&mut self, now: Instant, change: Change) {
        let settle = if change == Change::Routes { ROUTES_SETTLE } else { Duration::ZERO };
        let at = self
            .at
            .map_or(now + settle, |at| if self.running.is_empty() { at.min(now + settle) } else { at });
        self.at = Some(at);
        if let Change::Address { address: new, removed, added } = change {
            // Whoever has not heard of a carrier that was lost need not hear of it any more.
            self.next.retain(|known| *known != Change::Suspended(new));
            for known in &mut self.next {
                if let Change::Address { address, removed: was_removed, added: was_added } = known
                    && *address == new
                {
                    *was_removed |= removed;
                    *was_added = added;
                    return;
                }
            }
        } else if self.next.contains(&change) {
            return;
        }
        if let Change::Suspended(suspended) = change {
            for known in &mut self.next {
                if let Change::Address { address, added, .. } = known
                    && *address == suspended
                {
                    *added = None;
                }
            }
        }
        self.next.push(change);
    }

    /// When the next step is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.at
    }

    /// Whether a step is due; then there are changes to tell of.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return false;
        }
        if self.running.is_empty() {
            std::mem::swap(&mut self.running, &mut self.next);
            (self.place, self.resting) = (0, false);
        }
        !self.running.is_empty()
    }

    /// The next place to look at, of so many, and whether it matters if a connection rests there; `None`: all
    /// have been told.
    pub(crate) fn advance(&mut self, places: usize) -> Option<(usize, bool)> {
        if self.place >= places && !self.resting {
            (self.place, self.resting) = (0, true);
        }
        if self.place >= places {
            self.running.clear();
            return None;
        }
        self.place += 1;
        Some((self.place - 1, self.resting))
    }

    /// The step is over.
    pub(crate) fn end(&mut self, now: Instant) {
        let pause = if self.resting && !self.running.is_empty() { REST_STEP } else { Duration::ZERO };
        let more = !self.running.is_empty() || !self.next.is_empty();
        self.at = more.then_some(now + pause);
    }

    /// Whether any of the changes that are told of now concerns a connection at rest.
    pub(crate) fn concern(&self, concern: &Concern) -> bool {
        self.running.iter().any(|change| change.concerns(concern))
    }

    /// Whether a connection that has rested in this place until now has not been told.
    pub(crate) fn waits_for(&self, place: u32) -> bool {
        !self.running.is_empty() && (!self.resting || place as usize >= self.place)
    }

    /// The changes that are told of now.
    pub(crate) fn running(&self) -> &[Change] {
        &self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(last: u8) -> LocalAddress {
        LocalAddress { address: IpAddr::from([10, 0, 0, last]), interface: 1, mtu: 1500, backup: false }
    }

    fn gone(last: u8) -> Change {
        Change::Address { address: local(last).address, removed: true, added: None }
    }

    fn come(last: u8) -> Change {
        Change::Address { address: local(last).address, removed: false, added: Some(local(last)) }
    }

    #[test]
    fn changes_of_one_address_are_one_and_those_that_come_meanwhile_have_their_turn() {
        let (mut changes, now) = (Changes::default(), Instant::from_nanos(5));
        for change in [gone(1), come(1), come(2), gone(2), gone(1), come(1), Change::Routes, Change::Routes] {
            changes.add(now, change);
        }
        let (address, other) = (local(1).address, local(2).address);
        assert!(changes.begin(now));
        let expected = [
            Change::Address { address, removed: true, added: Some(local(1)) },
            Change::Address { address: other, removed: true, added: None },
            Change::Routes,
        ];
        assert_eq!(changes.running(), expected);
        // A change in each step, and all the same all places are looked at, twice.
        let mut looks = Vec::new();
        while let Some(look) = changes.advance(3) {
            looks.push(look);
            changes.add(now, gone(looks.len() as u8));
            changes.end(now);
            assert!(changes.begin(changes.next().expect("more")));
        }
        let places = |resting| (0..3).map(move |place| (place, resting));
        assert_eq!(looks, places(false).chain(places(true)).collect::<Vec<_>>());
        changes.end(now);
        assert!(changes.begin(now) && changes.running().len() == 6);
    }

    #[test]
    fn who_rests_is_woken_only_for_what_concerns_it() {
        let mut changes = Changes::default();
        let now = Instant::ZERO;
        changes.add(now, gone(1));
        assert!(changes.begin(now));
        let concern = Concern { locals: Concern::bit(local(1).address), ..Concern::default() };
        assert!(changes.concern(&concern) && !changes.concern(&Concern::default()));
        assert!(changes.waits_for(7));
        while changes.advance(3).is_some() {}
        assert!(!changes.waits_for(7));
        changes.end(now);
        changes.add(now, Change::Routes);
        assert!(!changes.begin(now) && changes.begin(now + ROUTES_SETTLE));
        assert!(!changes.concern(&concern));
        assert!(changes.concern(&Concern { lacks_routes: true, ..Concern::default() }));
        while changes.advance(3).is_some() {}
        changes.end(now);
        changes.add(now, come(9));
        assert!(changes.begin(now));
        assert!(changes.concern(&Concern { could_use: [true, false], ..Concern::default() }));
        assert!(!changes.concern(&Concern { could_use: [false, true], ..Concern::default() }));
    }
}
