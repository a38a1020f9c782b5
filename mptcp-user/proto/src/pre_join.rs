//! Joins whose SYN has been answered and whose third ACK has not come (RFC 8684 section 3.2).
//!
//! Whoever has seen the token can send SYNs with it, and proves only with the third ACK that he has the keys.
//! Until then there is no subflow: no four-tuple in the tables, no place in the connection, nothing in the
//! XDP program's maps. As with SYN cookies nothing at all would be best, but the third ACK has neither the
//! token nor the peer's random number, which its HMAC covers, and there are not enough bits in what it does
//! bring back: the sequence number has 32, the two would need 64, and what the SYN's options say would need
//! 13 more. So there is a record of fixed size in a table of fixed size:
//!
//! * A full table gives a random record up, not the oldest. Somebody who floods pushes out an honest join
//!   only if he sends
//!   about as many SYNs as the table has places within its round-trip time.
//! * A SYN that comes again is answered again with the same numbers; nothing is repeated unasked.
//! * Our random number is drawn anew for each record, so that a recorded join is worth nothing when it is
//!   played again.
//!
//! Where no listener takes the third ACK, the XDP program must know the four-tuple for it to come here at
//! all. Such joins have a smaller table of their own.

use super::Instant;
use super::event::{ConnectionId, SubflowSlot};
use super::secret::{Keyed, Tuple, TupleKey};
use crate::wire::{Flags, Join, Segment, SeqNumber, Timestamps};
use rand::Rng;
use std::collections::HashMap;
use std::time::Duration;

/// Places for joins to listeners.
const LISTENED: usize = 1 << 15;
/// Places for joins to other ports.
const STEERED: usize = 256;
/// How long a third ACK is waited for: the peer repeats its SYN after one, three and seven seconds.
const LIFETIME: Duration = Duration::from_secs(10);
/// The same while the table is more than half full.
const SHORT_LIFETIME: Duration = Duration::from_secs(3);

/// One of them: what the third ACK needs of the SYN and of our answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreJoin {
    key: TupleKey,
    pub(crate) tuple: Tuple,
    pub(crate) connection: ConnectionId,
    pub(crate) iss: SeqNumber,
    pub(crate) irs: SeqNumber,
    pub(crate) nonce: u32,
    pub(crate) peer_nonce: u32,
    /// When the SYN was answered first, and how often it was.
    pub(crate) answered: Instant,
    pub(crate) answers: u32,
    /// The place in the XDP program's map, for those that need one.
    pub(crate) slot: Option<SubflowSlot>,
    flags: Flags,
    stamp: Option<u32>,
    mss: Option<u16>,
    scale: Option<u8>,
    sack: bool,
    pub(crate) backup: bool,
    pub(crate) address_id: u8,
}

impl PreJoin {
    /// A record of a SYN with MP_JOIN; `None`: it is something else.
    pub(crate) fn new(
        now: Instant,
        syn: &Segment,
        connection: ConnectionId,
        (iss, nonce): (SeqNumber, u32),
    ) -> Option<Self> {
        let Some(&Join::Syn { backup, address_id, nonce: peer_nonce, .. }) = syn.options.join() else {
            return None;
        };
        let tuple = (syn.dst, syn.src);
        Some(Self {
            key: tuple.into(),
            tuple,
            connection,
            iss,
            irs: syn.seq,
            nonce,
            peer_nonce,
            answered: now,
            answers: 1,
            slot: None,
            flags: syn.flags,
            stamp: syn.options.timestamps.map(|stamps| stamps.value),
            mss: syn.options.mss,
            scale: syn.options.window_scale,
            sack: syn.options.sack_permitted,
            backup,
            address_id,
        })
    }

    /// The SYN, as far as it matters.
    pub(crate) fn syn(&self) -> Segment {
        let mut syn = Segment::new(self.tuple.1, self.tuple.0);
        syn.flags = self.flags;
        syn.seq = self.irs;
        syn.options.mss = self.mss;
        syn.options.window_scale = self.scale;
        syn.options.sack_permitted = self.sack;
        syn.options.timestamps = self.stamp.map(|value| Timestamps { value, echo: 0 });
        syn
    }

    /// Whether this SYN is the one that was answered.
    fn is_of(&self, connection: ConnectionId, syn: &Segment) -> bool {
        let same = matches!(syn.options.join(), Some(Join::Syn { nonce, .. }) if *nonce == self.peer_nonce);
        same && self.irs == syn.seq && self.connection == connection
    }
}

/// A table with so many places.
#[derive(Debug)]
struct Table {
    places: usize,
    records: Vec<PreJoin>,
    by_tuple: HashMap<TupleKey, u32, Keyed>,
    /// Where it is looked next for records whose time is over.
    hand: usize,
}

impl Table {
    fn new(places: usize, keyed: Keyed) -> Self {
        Self { places, records: Vec::new(), by_tuple: HashMap::with_hasher(keyed), hand: 0 }
    }

    fn lifetime(&self) -> Duration {
        if self.records.len() > self.places / 2 { SHORT_LIFETIME } else { LIFETIME }
    }

    fn remove_at(&mut self, place: usize) -> PreJoin {
        let record = self.records.swap_remove(place);
        self.by_tuple.remove(&record.key);
        if let Some(moved) = self.records.get(place) {
            self.by_tuple.insert(moved.key, place as u32);
        }
        record
    }

    fn remove(&mut self, key: TupleKey) -> Option<PreJoin> {
        let place = *self.by_tuple.get(&key)?;
        Some(self.remove_at(place as usize))
    }

    /// Adds one; gives those that went for it.
    fn insert(&mut self, now: Instant, record: PreJoin, rng: &mut impl Rng, mut gone: impl FnMut(PreJoin)) {
        let replaced = self.remove(record.key);
        replaced.into_iter().for_each(&mut gone);
        // Two are looked at for each that comes: what is over goes in time, at no cost at once.
        for _ in 0..2.min(self.records.len()) {
            self.hand = (self.hand + 1) % self.records.len().max(1);
            if self.records.get(self.hand).is_some_and(|known| now - known.answered > self.lifetime()) {
                gone(self.remove_at(self.hand));
            }
        }
        if self.records.len() >= self.places {
            gone(self.remove_at(rng.random_range(0..self.records.len())));
        }
        self.by_tuple.insert(record.key, self.records.len() as u32);
        self.records.push(record);
    }

    /// Lets go of all whose time is over.
    fn expire(&mut self, now: Instant, mut gone: impl FnMut(PreJoin)) {
        let lifetime = self.lifetime();
        for place in (0..self.records.len()).rev() {
            if now - self.records[place].answered >= lifetime {
                gone(self.remove_at(place));
            }
        }
        if self.records.is_empty() {
            // After a flood it is large.
            self.records = Vec::new();
            self.by_tuple.shrink_to_fit();
        }
    }
}

/// All of an endpoint.
#[derive(Debug)]
pub(crate) struct PreJoins {
    listened: Table,
    steered: Table,
    sweep: Option<Instant>,
}

impl PreJoins {
    pub(crate) fn new(keyed: &Keyed) -> Self {
        Self {
            listened: Table::new(LISTENED, keyed.clone()),
            steered: Table::new(STEERED, keyed.clone()),
            sweep: None,
        }
    }

    /// The join of a four-tuple, if its third ACK is waited for.
    pub(crate) fn get(&self, now: Instant, tuple: Tuple) -> Option<PreJoin> {
        // Without one there is no look-up for each odd segment.
        self.sweep?;
        let key = tuple.into();
        [&self.listened, &self.steered].into_iter().find_map(|table| {
            let record = table.records.get(*table.by_tuple.get(&key)? as usize)?;
            (now - record.answered < LIFETIME).then_some(*record)
        })
    }

    /// Whether there is one of this four-tuple.
    pub(crate) fn has(&self, tuple: Tuple) -> bool {
        let key = tuple.into();
        self.listened.by_tuple.contains_key(&key) || self.steered.by_tuple.contains_key(&key)
    }

    /// That of a SYN which comes again.
    pub(crate) fn again(&self, now: Instant, connection: ConnectionId, syn: &Segment) -> Option<PreJoin> {
        self.get(now, (syn.dst, syn.src)).filter(|record| record.is_of(connection, syn))
    }

    /// Keeps one, in place of another with the same four-tuple; gives those that went for it.
    //= RFC 8684 5-2
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        record: PreJoin,
        rng: &mut impl Rng,
        gone: impl FnMut(PreJoin),
    ) {
        let steered = record.slot.is_some();
        let (table, other) = if steered {
            (&mut self.steered, &mut self.listened)
        } else {
            (&mut self.listened, &mut self.steered)
        };
        let mut gone = gone;
        other.remove(record.key).into_iter().for_each(&mut gone);
        table.insert(now, record, rng, gone);
        self.sweep.get_or_insert(now + LIFETIME);
    }

    /// Its SYN is answered once more.
    pub(crate) fn answered_again(&mut self, tuple: Tuple) {
        let key = tuple.into();
        for table in [&mut self.listened, &mut self.steered] {
            if let Some(place) = table.by_tuple.get(&key) {
                table.records[*place as usize].answers += 1;
            }
        }
    }

    /// It is completed, or refused.
    pub(crate) fn remove(&mut self, tuple: Tuple) -> Option<PreJoin> {
        let key = tuple.into();
        self.listened.remove(key).or_else(|| self.steered.remove(key))
    }

    /// When [`expire`](Self::expire) is to be called.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.sweep
    }

    /// Lets go of those whose time is over.
    pub(crate) fn expire(&mut self, now: Instant, mut gone: impl FnMut(PreJoin)) {
        if self.sweep.is_none_or(|sweep| sweep > now) {
            return;
        }
        self.listened.expire(now, &mut gone);
        self.steered.expire(now, &mut gone);
        let left = self.listened.records.len() + self.steered.records.len();
        self.sweep = (left > 0).then_some(now + LIFETIME / 2);
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.listened.records.len() + self.steered.records.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MptcpOption;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;
    use std::net::SocketAddr;

    fn syn(number: u32) -> Segment {
        let from = SocketAddr::from((number.to_be_bytes(), 1));
        let mut syn = Segment::new(from, SocketAddr::from(([10, 0, 0, 1], 2)));
        syn.flags = Flags::SYN;
        syn.seq = SeqNumber(number);
        let join = Join::Syn { backup: false, address_id: 1, token: 5, nonce: !number };
        syn.options.mptcp.push(MptcpOption::Join(join));
        syn
    }

    #[test]
    fn the_table_is_bounded_gives_up_at_random_and_forgets_in_time() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut joins = PreJoins::new(&Keyed::new(&mut rng));
        let (now, id) = (Instant::from_nanos(1), ConnectionId { index: 0, generation: 0 });
        let mut gone = 0;
        let many = 2 * LISTENED as u32;
        for number in 0..many {
            let record = PreJoin::new(now, &syn(number), id, (SeqNumber(9), number)).expect("a join");
            joins.insert(now, record, &mut rng, |_| gone += 1);
        }
        assert_eq!((joins.len(), gone), (LISTENED, LISTENED));
        let left =
            |from: u32| (from..from + 1000).filter(|n| joins.again(now, id, &syn(*n)).is_some()).count();
        // After as many more as there are places, 1 in e of the first are left.
        assert!((300..450).contains(&left(LISTENED as u32 - 500)), "{}", left(LISTENED as u32 - 500));
        assert!(left(many - 1000) > 900);
        for number in 0..many {
            assert!(
                joins.get(now, (syn(number).dst, syn(number).src)).is_none_or(|join| join.nonce == number)
            );
        }
        let later = now + LIFETIME;
        assert!(joins.get(later, (syn(many - 1).dst, syn(many - 1).src)).is_none());
        joins.expire(later, |_| gone += 1);
        assert_eq!((joins.len(), gone, joins.next()), (0, many as usize, None));
    }

    #[test]
    fn two_tables_have_one_record_for_a_four_tuple() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let mut joins = PreJoins::new(&Keyed::new(&mut rng));
        let (now, id) = (Instant::from_nanos(1), ConnectionId { index: 0, generation: 0 });
        for slot in [None, Some(SubflowSlot(3)), None] {
            let record = PreJoin::new(now, &syn(7), id, (SeqNumber(9), 1)).expect("a join");
            joins.insert(now, PreJoin { slot, ..record }, &mut rng, |_| {});
            assert_eq!(joins.len(), 1);
        }
        assert!(joins.remove((syn(7).dst, syn(7).src)).is_some() && joins.len() == 0);
    }
}
