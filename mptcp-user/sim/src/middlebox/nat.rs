//! Network address (and port) translation.

use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, Segment};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Puts its own address, and a port of its own, in the place of the source of what goes forward. Only SYNs
/// that go forward make a mapping; all else that fits none is dropped.
#[derive(Debug)]
pub struct Nat {
    external: IpAddr,
    /// How long a mapping lives without use.
    idle: Duration,
    next_port: u16,
    /// Inside address and port, and remote ones, to the port outside.
    ports: BTreeMap<(SocketAddr, SocketAddr), u16>,
    mappings: BTreeMap<u16, Mapping>,
}

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    remote: SocketAddr,
    used: Instant,
}

const FIRST_PORT: u16 = 20_000;

impl Nat {
    /// A translator with one address outside.
    pub fn new(external: IpAddr, idle: Duration) -> Self {
        Self { external, idle, next_port: FIRST_PORT, ports: BTreeMap::new(), mappings: BTreeMap::new() }
    }

    fn map(&mut self, now: Instant, segment: &Segment) -> Option<u16> {
        let key = (segment.src, segment.dst);
        if let Some(port) = self.ports.get(&key).copied() {
            let mapping = self.mappings.get_mut(&port)?;
            if now.saturating_since(mapping.used) <= self.idle {
                mapping.used = now;
                return Some(port);
            }
            self.ports.remove(&key);
            self.mappings.remove(&port);
        }
        if !segment.flags.has(Flags::SYN) {
            return None;
        }
        for _ in FIRST_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            let idle = self
                .mappings
                .get(&port)
                .map(|old| (now.saturating_since(old.used) > self.idle).then_some((old.inside, old.remote)));
            match idle {
                Some(None) => continue,
                Some(Some(old)) => _ = self.ports.remove(&old),
                None => {}
            }
            self.ports.insert(key, port);
            self.mappings.insert(port, Mapping { inside: segment.src, remote: segment.dst, used: now });
            return Some(port);
        }
        None
    }
}

impl Middlebox for Nat {
    fn name(&self) -> String {
        format!("NAT to {}", self.external)
    }
    fn process(&mut self, now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        match way {
            Way::Forward => {
                let Some(port) = self.map(now, &segment) else { return };
                segment.src = SocketAddr::new(self.external, port);
            }
            Way::Reverse => {
                if segment.dst.ip() != self.external {
                    return;
                }
                let Some(mapping) = self.mappings.get_mut(&segment.dst.port()) else { return };
                if mapping.remote != segment.src || now.saturating_since(mapping.used) > self.idle {
                    return;
                }
                mapping.used = now;
                segment.dst = mapping.inside;
            }
        }
        out.push(segment);
    }
}
