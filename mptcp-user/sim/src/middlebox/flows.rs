//! Per-connection state of a middlebox, bounded.

use super::Way;
use crate::Random;
use mptcp_proto::Instant;
use mptcp_proto::wire::Segment;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Connections by their addresses as seen in the forward direction. Holds 65536; beyond that, the one that
/// was idle longest is forgotten.
#[derive(Debug)]
pub(super) struct Flows<S> {
    flows: BTreeMap<(SocketAddr, SocketAddr), (Instant, S)>,
}

const LIMIT: usize = 65_536;

impl<S> Flows<S> {
    pub(super) fn new() -> Self {
        Self { flows: BTreeMap::new() }
    }

    /// The state of the segment's connection; made when there is none.
    pub(super) fn of(
        &mut self,
        now: Instant,
        way: Way,
        segment: &Segment,
        make: impl FnOnce() -> S,
    ) -> &mut S {
        let key = match way {
            Way::Forward => (segment.src, segment.dst),
            Way::Reverse => (segment.dst, segment.src),
        };
        if self.flows.len() >= LIMIT && !self.flows.contains_key(&key) {
            let idlest = self.flows.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            if let Some(idlest) = idlest {
                self.flows.remove(&idlest);
            }
        }
        match self.flows.entry(key) {
            std::collections::btree_map::Entry::Vacant(place) => &mut place.insert((now, make())).1,
            std::collections::btree_map::Entry::Occupied(place) => {
                let (used, state) = place.into_mut();
                *used = now;
                state
            }
        }
    }
}

impl Flows<[u32; 2]> {
    /// Random numbers that a connection keeps: one for the segment's direction, one for the opposite
    /// direction.
    pub(super) fn offsets(
        &mut self,
        now: Instant,
        way: Way,
        segment: &Segment,
        random: &mut Random,
    ) -> [u32; 2] {
        let make = || {
            let bits = random.bits();
            [bits as u32, (bits >> 32) as u32]
        };
        let [forward, reverse] = *self.of(now, way, segment, make);
        if way == Way::Forward { [forward, reverse] } else { [reverse, forward] }
    }
}
