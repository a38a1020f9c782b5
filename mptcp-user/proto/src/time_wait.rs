//! Four-tuples of subflows that have ended and may still receive something (RFC 9293 section 3.6.1, TIME-WAIT).

use super::Instant;
use super::event::{ConnectionId, Event, SubflowSlot};
use super::fast_close::FastCloseWait;
use super::secret::{Tuple, TupleKey};
use super::subflow::Subflow;
use crate::wire::{Flags, Segment, SeqNumber, Timestamps};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// How long: as the Linux kernel has it.
const DURATION: Duration = Duration::from_secs(60);
/// Most tuples kept; beyond that the oldest go early.
const MAX_WAITING: usize = 65_536;
/// Entries of tuples that have been used again, beside as many as there are others.
const STALE: usize = 64;

#[derive(Debug)]
struct TimeWait {
    slot: SubflowSlot,
    connection: ConnectionId,
    snd_nxt: SeqNumber,
    rcv_nxt: SeqNumber,
    /// Our timestamp clock's origin is gone; the last value sent is not needed more precisely than this.
    stamps: Option<Timestamps>,
    until: Instant,
    /// It ended with MP_FASTCLOSE.
    fast_close: Option<FastCloseWait>,
    /// Its place in the order; earlier ones of the same four-tuple mean nothing any more.
    entry: u64,
}

impl TimeWait {
    /// Acknowledges everything, the peer's FIN included.
    fn acknowledgment(&self, (local, remote): Tuple) -> Segment {
        let mut segment = Segment::new(local, remote);
        segment.flags = Flags::ACK;
        segment.seq = self.snd_nxt;
        segment.ack = self.rcv_nxt;
        segment.window = u16::MAX;
        segment.options.timestamps = self.stamps;
        segment
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct TimeWaits {
    waiting: HashMap<TupleKey, TimeWait>,
    /// When MP_FASTCLOSE is to be repeated, and where.
    fast_closes: BTreeSet<(Instant, Tuple)>,
    /// When tuples are to be looked at, the earliest first, and which entry of theirs it is. Entries of
    /// tuples that have been used again are left, and swept out when they are many.
    order: VecDeque<(Instant, u64, Tuple)>,
    entries: u64,
    /// Tuples per connection, and whether the connection itself is gone.
    connections: HashMap<ConnectionId, (usize, bool)>,
}

impl TimeWaits {
    /// Adds a subflow's four-tuple; gives the acknowledgment of the peer's FIN, which is still owed.
    pub(crate) fn add(&mut self, now: Instant, connection: ConnectionId, subflow: &Subflow) -> Segment {
        self.insert(now, connection, subflow, None)
    }

    fn insert(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        subflow: &Subflow,
        fast_close: Option<FastCloseWait>,
    ) -> Segment {
        let until = now + DURATION;
        let entry = TimeWait {
            slot: subflow.slot,
            connection,
            snd_nxt: subflow.snd.seq(subflow.snd.nxt),
            rcv_nxt: subflow.rcv.ack_seq(),
            stamps: subflow.timestamps(now),
            until,
            fast_close,
            entry: self.entries,
        };
        let acknowledgment = entry.acknowledgment(subflow.tuple());
        self.waiting.insert(subflow.tuple().into(), entry);
        self.order.push_back((until, self.entries, subflow.tuple()));
        self.entries += 1;
        if self.order.len() > 2 * self.waiting.len() + STALE {
            let waiting = &self.waiting;
            self.order.retain(|(_, entry, tuple)| {
                waiting.get(&(*tuple).into()).is_some_and(|waiting| waiting.entry == *entry)
            });
        }
        self.connections.entry(connection).or_default().0 += 1;
        acknowledgment
    }

    /// Adds the four-tuple of a subflow that has left with MP_FASTCLOSE.
    pub(crate) fn add_fast_close(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        subflow: &Subflow,
        wait: FastCloseWait,
    ) {
        self.insert(now, connection, subflow, Some(wait));
        if self.fast_closes.len() < MAX_WAITING {
            self.fast_closes.extend(wait.repeats_at(now).map(|at| (at, subflow.tuple())));
        }
    }

    /// Repeats MP_FASTCLOSE where it has not been answered, as long as there are not more than `most`
    /// replies.
    //= RFC 8684 3.5-3
    pub(crate) fn repeat_fast_closes(&mut self, now: Instant, replies: &mut VecDeque<Segment>, most: usize) {
        while let Some(&(at, tuple)) = self.fast_closes.first()
            && at <= now
        {
            self.fast_closes.pop_first();
            let Some(entry) = self.waiting.get_mut(&tuple.into()) else { continue };
            let mut segment = entry.acknowledgment(tuple);
            let Some(wait) = entry.fast_close.as_mut().filter(|wait| wait.repeats_at(now).is_some()) else {
                continue;
            };
            wait.repeated();
            wait.dress(&mut segment);
            if replies.len() < most {
                replies.push_back(segment);
            }
            self.fast_closes.extend(wait.repeats_at(now).map(|at| (at, tuple)));
        }
    }

    /// Whether it is one of these.
    pub(crate) fn has(&self, tuple: Tuple) -> bool {
        self.waiting.contains_key(&tuple.into())
    }

    /// A segment of one of these tuples came in: `Some` with the answer, if there is one. `None`: not ours, or a
    /// SYN that may begin a new life (RFC 6191).
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        tuple: Tuple,
        segment: &Segment,
    ) -> Option<Option<Segment>> {
        let entry = self.waiting.get_mut(&tuple.into())?;
        if let Some(wait) = &mut entry.fast_close {
            if segment.flags.has(Flags::RST) {
                wait.answered();
                return Some(None);
            }
            if segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
                return None;
            }
            return Some(wait.answer(tuple, segment, entry.snd_nxt));
        }
        if segment.flags.has(Flags::RST) {
            return Some(None);
        }
        if segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
            let newer_stamp = match (entry.stamps, segment.options.timestamps) {
                (Some(old), Some(new)) => (new.value.wrapping_sub(old.echo) as i32) > 0,
                _ => false,
            };
            if newer_stamp || segment.seq.after(entry.rcv_nxt) {
                return None;
            }
        }
        if segment.payload.is_empty() && !segment.flags.has(Flags::FIN) && !segment.flags.has(Flags::SYN) {
            return Some(None);
        }
        // Our last acknowledgment was lost.
        entry.until = now + DURATION;
        Some(Some(entry.acknowledgment(tuple)))
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        let fast_close = self.fast_closes.first().map(|(at, _)| *at);
        self.order.front().map(|(until, ..)| *until).into_iter().chain(fast_close).min()
    }

    /// Lets go of those whose time is over.
    pub(crate) fn expire(&mut self, now: Instant, slots: &mut Vec<u32>, events: &mut VecDeque<Event>) {
        while let Some(&(queued, number, tuple)) = self.order.front() {
            if queued > now && self.waiting.len() <= MAX_WAITING {
                break;
            }
            self.order.pop_front();
            let Some(entry) = self.waiting.get(&tuple.into()).filter(|entry| entry.entry == number) else {
                continue;
            };
            if entry.until > now && self.waiting.len() <= MAX_WAITING {
                self.order.push_back((entry.until, number, tuple));
                continue;
            }
            self.forget(tuple, slots, events);
        }
    }

    /// Lets go of one.
    pub(crate) fn forget(&mut self, tuple: Tuple, slots: &mut Vec<u32>, events: &mut VecDeque<Event>) {
        let Some(entry) = self.waiting.remove(&tuple.into()) else { return };
        slots.push(entry.slot.0);
        events.push_back(Event::SubflowRemoved { slot: entry.slot, local: tuple.0, remote: tuple.1 });
        if let Some((count, gone)) = self.connections.get_mut(&entry.connection) {
            *count -= 1;
            if *count == 0 {
                if *gone {
                    events.push_back(Event::Released(entry.connection));
                }
                self.connections.remove(&entry.connection);
            }
        }
    }

    /// The connection itself is gone; `true` if the release has to wait for its tuples.
    pub(crate) fn release(&mut self, connection: ConnectionId) -> bool {
        match self.connections.get_mut(&connection) {
            Some((_, gone)) => {
                *gone = true;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subflow::{Birth, Kind};

    #[test]
    fn a_four_tuple_that_is_used_again_and_again_takes_one_place() {
        let (mut waits, mut slots, mut events) = (TimeWaits::default(), Vec::new(), VecDeque::new());
        let id = ConnectionId { index: 0, generation: 0 };
        let (local, remote) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let subflow = Subflow::connecting(&Birth {
            slot: SubflowSlot(1),
            local,
            remote,
            interface: 1,
            mtu: 1500,
            kind: Kind::Initial,
            iss: SeqNumber(1),
            stamp_origin: 0,
            local_id: 0,
            remote_id: 0,
            backup: false,
            scale: 0,
            ecn: crate::EcnPolicy::default(),
            path_timeout: Duration::MAX,
        });
        let mut now = Instant::ZERO;
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            waits.add(now, id, &subflow);
            waits.forget((local, remote), &mut slots, &mut events);
        }
        waits.add(now, id, &subflow);
        assert!(waits.order.len() <= 2 * STALE, "{}", waits.order.len());
        // Of its lives only the last one counts.
        waits.expire(now + (DURATION - Duration::from_millis(1)), &mut slots, &mut events);
        assert!(waits.has((local, remote)));
        waits.expire(now + DURATION, &mut slots, &mut events);
        assert!(!waits.has((local, remote)) && waits.order.is_empty());
    }
}
