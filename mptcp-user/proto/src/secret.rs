//! What an endpoint derives from its secret: where a four-tuple's sequence numbers and timestamps begin (RFC 6528,
//! RFC 7323 section 5.4), and the numbers that only it could have made (`syn_cookie`).

use super::Instant;
use crate::wire::SeqNumber;
use mptcp_common::address::Address;
use rand::Rng;
use siphasher::sip::{SipHasher13, SipHasher24};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::SocketAddr;

/// Our address and port, and the peer's.
pub(crate) type Tuple = (SocketAddr, SocketAddr);

/// The same in half of the memory, and as fewer octets to hash: the key of a table with an entry for each subflow. Scopes of
/// link-local addresses, of which there are no subflows, are not in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TupleKey {
    addresses: [Address; 2],
    ports: [u16; 2],
}

impl From<Tuple> for TupleKey {
    #[inline]
    fn from((local, remote): Tuple) -> Self {
        Self { addresses: [local.ip().into(), remote.ip().into()], ports: [local.port(), remote.port()] }
    }
}

/// Tick of the clock that moves initial sequence numbers on (RFC 9293 section 3.4.1).
const SEQUENCE_TICK_NANOS: u64 = 4_000;

/// What a derived number is for: the same tuple gives unrelated numbers for each.
#[derive(Clone, Copy, Hash)]
pub(crate) enum Purpose {
    InitialSequence,
    StampOrigin,
    SynCookie,
    ConnectionKey,
}

/// The secret of one endpoint. Never leaves it, so that nobody else can tell what will be derived.
#[derive(Clone)]
pub(crate) struct Secret(u64, u64);

impl Secret {
    pub(crate) fn new(rng: &mut impl Rng) -> Self {
        Self(rng.random(), rng.random())
    }

    /// A number that nobody can guess who has not seen it.
    pub(crate) fn derive(&self, purpose: Purpose, tuple: Tuple, details: impl Hash) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        (purpose, tuple, details).hash(&mut hasher);
        hasher.finish()
    }

    /// Initial sequence number: those of one four-tuple rise with time, so that an earlier connection's segments
    /// are old to the next one; those of different ones are unrelated (RFC 6528 section 3).
    //= RFC 8684 3-4
    pub(crate) fn initial_sequence(&self, now: Instant, tuple: Tuple) -> SeqNumber {
        let clock = (now.as_nanos() / SEQUENCE_TICK_NANOS) as u32;
        SeqNumber((self.derive(Purpose::InitialSequence, tuple, ()) as u32).wrapping_add(clock))
    }

    /// Where the timestamp clock of a four-tuple begins: rising over all its connections, which lets a peer in
    /// TIME-WAIT take the next one (RFC 6191), and telling nothing of this host's uptime.
    pub(crate) fn stamp_origin(&self, tuple: Tuple) -> u32 {
        self.derive(Purpose::StampOrigin, tuple, ()) as u32
    }
}

/// Builds the hash tables of an endpoint: a peer that chooses its ports can't aim at one bucket.
#[derive(Clone)]
pub(crate) struct Keyed(u64, u64);

impl Keyed {
    pub(crate) fn new(rng: &mut impl Rng) -> Self {
        Self(rng.random(), rng.random())
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;
    use std::time::Duration;

    #[test]
    //= RFC 8684 3-4 (test)
    fn sequence_numbers_rise_for_one_tuple_and_are_unrelated_for_others() {
        let secret = Secret::new(&mut ChaCha12Rng::seed_from_u64(1));
        let tuple =
            |port: u16| (SocketAddr::from(([10, 0, 0, 1], port)), SocketAddr::from(([10, 0, 0, 2], 80)));
        let later = Instant::ZERO + Duration::from_secs(1);
        let first = secret.initial_sequence(Instant::ZERO, tuple(1));
        assert_eq!(secret.initial_sequence(later, tuple(1)).distance(first), 250_000);
        assert!(secret.initial_sequence(later, tuple(2)).distance(first).unsigned_abs() > 1_000_000);
        assert_ne!(secret.stamp_origin(tuple(1)), secret.stamp_origin(tuple(2)));
    }
}
