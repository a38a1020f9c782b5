//! Connections at rest. One on which nothing happens takes several kilobytes, most of it for what only data in motion needs. So
//! after a while it is written down, in as few octets as its numbers have, and read again when something happens.

use super::config::ConnectionConfig;
use super::connection::{Connection, Policies};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A policy that can be written down: whatever its state is, if that can be.
pub(crate) trait Written {
    /// What it has learnt.
    fn write(&self) -> Vec<u8>;
    /// Takes over what another one of its kind has [written](Self::write).
    fn read(&mut self, octets: &[u8]);
}

impl<T: Serialize + DeserializeOwned> Written for T {
    fn write(&self) -> Vec<u8> {
        let Ok(octets) = postcard::to_allocvec(self) else {
            unreachable!("numbers and lists of them can be written down")
        };
        octets
    }

    fn read(&mut self, octets: &[u8]) {
        if let Ok(state) = postcard::from_bytes(octets) {
            *self = state;
        }
    }
}

/// What is seldom anything but what it began as takes one octet until then.
pub(crate) mod sparse {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T, S>(value: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Serialize + Default + PartialEq,
        S: Serializer,
    {
        Some(value).filter(|value| **value != T::default()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: Deserialize<'de> + Default,
        D: Deserializer<'de>,
    {
        Ok(Option::deserialize(deserializer)?.unwrap_or_default())
    }
}

/// Leaves out zeroes, which a third of the octets are: of each eight, one octet tells which are none, and those follow.
fn pack(octets: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(octets.len() + octets.len() / 8 + 1);
    for group in octets.chunks(8) {
        let there = |(bit, octet): (usize, &u8)| u8::from(*octet != 0) << bit;
        packed.push(group.iter().enumerate().map(there).sum());
        packed.extend(group.iter().filter(|octet| **octet != 0));
    }
    packed.shrink_to_fit();
    packed
}

/// What was [packed](pack), with up to seven zeroes behind it.
fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(packed.len() * 2);
    let mut packed = packed.iter();
    while let Some(there) = packed.next() {
        let next = |bit: u32| if there >> bit & 1 == 1 { packed.next().copied() } else { Some(0) };
        octets.extend((0..8).map_while(next));
    }
    octets
}

/// A connection that holds no octets and waits for nothing.
#[derive(PartialEq, Eq)]
pub(crate) struct Dormant {
    config: Arc<ConnectionConfig>,
    octets: Box<[u8]>,
}

impl Dormant {
    /// Writes it down.
    pub(crate) fn new(connection: &Connection) -> Self {
        let policies = &connection.policies;
        let learnt = (policies.congestion.write(), policies.scheduler.write());
        let Ok(octets) = postcard::to_allocvec(&(connection, learnt)) else {
            unreachable!("all that a connection consists of can be written down")
        };
        Self { config: connection.config.clone(), octets: pack(&octets).into() }
    }

    /// In how many octets.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.octets.len()
    }

    /// The connection as it was.
    pub(crate) fn wake(&self) -> Box<Connection> {
        let written = postcard::from_bytes::<(Box<Connection>, (Vec<u8>, Vec<u8>))>(&unpack(&self.octets));
        let (Ok((mut connection, learnt)), Ok(mut policies)) = (written, Policies::new(&self.config)) else {
            unreachable!("this is what was written, and these are the policies that it had")
        };
        policies.congestion.read(&learnt.0);
        policies.scheduler.read(&learnt.1);
        connection.policies = policies;
        connection.config = self.config.clone();
        connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_is_found_again(octets in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..100)) {
            let unpacked = unpack(&pack(&octets));
            prop_assert_eq!(&unpacked[..octets.len()], &octets[..]);
            prop_assert!(unpacked[octets.len()..].iter().all(|octet| *octet == 0));
            prop_assert!(unpacked.len() < octets.len() + 8);
        }
    }
}
