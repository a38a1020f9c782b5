//! Connections at rest. One on which nothing happens takes several kilobytes, most of it for what only data in motion needs. So
//! after a while it is written down, in as few octets as its numbers have, and read again when something happens.

use super::changes::Concern;
use super::config::ConnectionConfig;
use super::connection::{Connection, Policies};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Connections awake at the same time from which on each rests the sooner the more there are, down to a tenth of the time:
/// memory that was needed once is not easily given back, so that the most that is needed at a time counts.
const MANY_AWAKE: usize = 32;
/// What a rest that somebody ended counts for against one that began: where it is more than one of so many, only those rest on
/// which nothing happens for long. (What a timer ends was to be expected.)
const REGRET: u32 = 2;
/// As long as the sum of that is above half of this, which it does not exceed.
const MAX_REGRET: u32 = 8192;
/// They wait so many times as long.
const PATIENT: u32 = 16;

/// How many connections of an endpoint rest, and how soon others do.
#[derive(Debug, Default)]
pub(crate) struct Rests {
    count: usize,
    regret: u32,
}

impl Rests {
    /// How many rest.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// One more does.
    pub(crate) fn began(&mut self) {
        self.count += 1;
        self.regret = self.regret.saturating_sub(1);
    }

    /// One does no more, as was to be expected.
    pub(crate) fn ended(&mut self) {
        self.count -= 1;
    }

    /// One does no more: something has happened.
    pub(crate) fn broken(&mut self) {
        self.ended();
        self.regret = (self.regret + REGRET).min(MAX_REGRET);
    }

    /// How long nothing has to happen on a connection of `awake`; `usual`: where there are few.
    pub(crate) fn after(&self, usual: Duration, awake: usize) -> Duration {
        if self.regret > MAX_REGRET / 2 {
            return usual * PATIENT;
        }
        usual / (awake / MANY_AWAKE).clamp(1, 10) as u32
    }
}

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
fn pack(octets: &[u8]) -> Box<[u8]> {
    let mut packed = Vec::with_capacity(octets.len() + octets.len() / 8 + 1);
    for group in octets.chunks(8) {
        let there = |(bit, octet): (usize, &u8)| u8::from(*octet != 0) << bit;
        packed.push(group.iter().enumerate().map(there).sum());
        packed.extend(group.iter().filter(|octet| **octet != 0));
    }
    packed.into()
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
    concern: Concern,
}

impl Dormant {
    /// Writes it down.
    pub(crate) fn new(connection: &Connection) -> Self {
        let policies = &connection.policies;
        let learnt = (policies.congestion.write(), policies.scheduler.write());
        let Ok(octets) = postcard::to_allocvec(&(connection, learnt)) else {
            unreachable!("all that a connection consists of can be written down")
        };
        Self { config: connection.config.clone(), octets: pack(&octets), concern: connection.concern() }
    }

    /// What it has to be woken for.
    pub(crate) fn concern(&self) -> &Concern {
        &self.concern
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

    #[test]
    fn many_rest_sooner_and_where_rests_are_ended_soon_none_does() {
        let (usual, mut rests) = (Duration::from_millis(100), Rests::default());
        let after = |rests: &Rests, awake| rests.after(usual, awake).as_millis();
        assert_eq!([10, 63, 64, 160, 5000].map(|awake| after(&rests, awake)), [100, 100, 50, 20, 10]);
        for _ in 0..10_000 {
            rests.began();
            rests.ended();
        }
        assert_eq!(after(&rests, 5000), 10, "ended by timers");
        for _ in 0..10_000 {
            rests.began();
            rests.broken();
        }
        assert_eq!((after(&rests, 5000), rests.count()), (1600, 0));
        for _ in 0..5000 {
            rests.began();
        }
        assert_eq!((after(&rests, 5000), rests.count()), (10, 5000));
    }

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
