//! The queue before a bottleneck: bounded, dropping at the tail, or managed by CoDel (RFC 8289) or PIE (RFC
//! 8033).

use super::pie::{Fate, Pie};
use super::random::Random;
use mptcp_proto::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// The properties of a packet that the queue needs.
pub trait Queued {
    /// Octets on the wire.
    fn wire_len(&self) -> usize;
    /// Sets "congestion experienced" if the packet is ECN-capable, says whether it is.
    fn mark_congestion(&mut self) -> bool;
}

/// How a queue is managed.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Discipline {
    /// Drop what does not fit.
    #[default]
    DropTail,
    /// Controlled delay (RFC 8289).
    CoDel {
        /// Sojourn time to aim at.
        target: Duration,
        /// Time that the sojourn time may be above it.
        interval: Duration,
        /// Mark ECN-capable packets instead of dropping them.
        ecn: bool,
    },
    /// Proportional integral controller enhanced (RFC 8033).
    Pie {
        /// Waiting time to aim at.
        target: Duration,
        /// Mark ECN-capable packets instead of dropping them, as long as drops would be few.
        ecn: bool,
    },
}

impl Discipline {
    /// PIE with the parameters the RFC recommends.
    pub const PIE: Discipline = Discipline::Pie { target: Duration::from_millis(15), ecn: true };
    /// CoDel with the parameters the RFC recommends.
    pub const CODEL: Discipline = Discipline::CoDel {
        target: Duration::from_millis(5),
        interval: Duration::from_millis(100),
        ecn: true,
    };
}

/// A bounded queue of packets.
#[derive(Debug)]
pub struct Queue<P> {
    packets: VecDeque<(Instant, P)>,
    octets: usize,
    limit_packets: usize,
    limit_octets: usize,
    discipline: Discipline,
    codel: CoDelState,
    pie: Pie,
    /// Packets dropped by the discipline, not by the limits.
    pub managed_drops: u64,
    /// Packets marked "congestion experienced".
    pub marks: u64,
}

#[derive(Debug, Default)]
struct CoDelState {
    first_above: Option<Instant>,
    dropping: bool,
    drop_next: Instant,
    count: u32,
    last_count: u32,
}

impl<P: Queued> Queue<P> {
    /// An empty queue; `random` is for disciplines that throw dice.
    pub fn new(limit_packets: usize, limit_octets: usize, discipline: Discipline, random: Random) -> Self {
        Self {
            packets: VecDeque::new(),
            octets: 0,
            limit_packets,
            limit_octets,
            discipline,
            codel: CoDelState::default(),
            pie: Pie::new(random),
            managed_drops: 0,
            marks: 0,
        }
    }
    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
    /// Packets that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets.len()
    }
    /// Octets that wait.
    #[inline]
    pub fn octets(&self) -> usize {
        self.octets
    }
    /// When the first packet came.
    #[inline]
    pub fn head_since(&self) -> Option<Instant> {
        self.packets.front().map(|(since, _)| *since)
    }
    /// Drops all.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.octets = 0;
    }
    /// Appends a packet; gives it back if there is no room. An empty queue takes any packet. A discipline may
    /// drop it at once, too.
    pub fn push(&mut self, now: Instant, mut packet: P) -> Result<(), P> {
        let len = packet.wire_len();
        let full = self.packets.len() >= self.limit_packets || self.octets + len > self.limit_octets;
        if full && !self.packets.is_empty() {
            return Err(packet);
        }
        if let Discipline::Pie { target, ecn } = self.discipline {
            self.pie.update(now, target, self.head_since());
            let dropped = match self.pie.judge(target, self.octets) {
                Fate::Enqueue => false,
                Fate::MarkOrDrop if ecn && packet.mark_congestion() => {
                    self.marks += 1;
                    false
                }
                Fate::MarkOrDrop | Fate::Drop => true,
            };
            if dropped {
                self.managed_drops += 1;
                return Ok(());
            }
        }
        self.octets += len;
        self.packets.push_back((now, packet));
        Ok(())
    }
    /// Takes the next packet out. Times must not go backwards.
    pub fn pop(&mut self, now: Instant) -> Option<P> {
        match self.discipline {
            Discipline::DropTail => self.take().map(|(_, packet)| packet),
            Discipline::CoDel { target, interval, ecn } => self.pop_codel(now, target, interval, ecn),
            Discipline::Pie { target, .. } => {
                self.pie.update(now, target, self.head_since());
                self.take().map(|(_, packet)| packet)
            }
        }
    }

    fn take(&mut self) -> Option<(Instant, P)> {
        let (since, packet) = self.packets.pop_front()?;
        self.octets -= packet.wire_len();
        Some((since, packet))
    }

    /// The RFC's `dodequeue`: a packet, and whether CoDel may drop it.
    fn take_and_judge(&mut self, now: Instant, target: Duration, interval: Duration) -> Option<(P, bool)> {
        const MTU: usize = 1514;
        let Some((since, packet)) = self.take() else {
            self.codel.first_above = None;
            return None;
        };
        if now.saturating_since(since) < target || self.octets <= MTU {
            self.codel.first_above = None;
            return Some((packet, false));
        }
        match self.codel.first_above {
            None => {
                self.codel.first_above = Some(now + interval);
                Some((packet, false))
            }
            Some(first) => Some((packet, now >= first)),
        }
    }

    fn pop_codel(&mut self, now: Instant, target: Duration, interval: Duration, ecn: bool) -> Option<P> {
        let control_law = |from: Instant, count: u32| from + interval.div_f64(f64::from(count.max(1)).sqrt());
        let mut next = self.take_and_judge(now, target, interval);
        if self.codel.dropping {
            while let Some((mut packet, ok_to_drop)) = next {
                if !ok_to_drop {
                    self.codel.dropping = false;
                }
                if !self.codel.dropping || now < self.codel.drop_next {
                    return Some(packet);
                }
                self.codel.count += 1;
                self.codel.drop_next = control_law(self.codel.drop_next, self.codel.count);
                if ecn && packet.mark_congestion() {
                    self.marks += 1;
                    return Some(packet);
                }
                self.managed_drops += 1;
                next = self.take_and_judge(now, target, interval);
            }
            self.codel.dropping = false;
            return None;
        }
        let (mut packet, ok_to_drop) = next?;
        if !ok_to_drop {
            return Some(packet);
        }
        self.codel.dropping = true;
        // A queue that was dropping a moment ago goes on about where it was.
        let delta = self.codel.count.saturating_sub(self.codel.last_count);
        let recent = now.saturating_since(self.codel.drop_next) < interval * 16;
        self.codel.count = if delta > 1 && recent { delta } else { 1 };
        self.codel.last_count = self.codel.count;
        self.codel.drop_next = control_law(now, self.codel.count);
        if ecn && packet.mark_congestion() {
            self.marks += 1;
            return Some(packet);
        }
        self.managed_drops += 1;
        self.take_and_judge(now, target, interval).map(|(packet, _)| packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Sized(usize, bool, bool);
    impl Queued for Sized {
        fn wire_len(&self) -> usize {
            self.0
        }
        fn mark_congestion(&mut self) -> bool {
            self.2 |= self.1;
            self.1
        }
    }
    fn packet(len: usize) -> Sized {
        Sized(len, false, false)
    }
    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn packets_and_octets_are_both_limited() {
        let mut queue = Queue::new(3, 2000, Discipline::DropTail, Random::new(1));
        assert!(queue.push(at(0), packet(3000)).is_ok(), "an empty queue takes any packet");
        assert!(queue.push(at(0), packet(1)).is_err());
        assert_eq!(queue.pop(at(1)), Some(packet(3000)));
        for _ in 0..3 {
            assert!(queue.push(at(1), packet(100)).is_ok());
        }
        assert_eq!(queue.push(at(1), packet(100)), Err(packet(100)));
        assert_eq!((queue.len(), queue.octets()), (3, 300));
    }

    /// Offers twice what goes out for a second; gives the longest sojourn time of the last half second.
    fn overload(discipline: Discipline, ecn_capable: bool) -> (Duration, u64, u64) {
        let mut queue = Queue::new(10_000, usize::MAX, discipline, Random::new(1));
        let mut worst = Duration::ZERO;
        for millis in 0..4000 {
            // The senders slow down when they are told: offered load falls to the rate of the link after the
            // first signals.
            let told = queue.managed_drops + queue.marks;
            let offered = if told < 20 { 2 } else { 1 };
            for _ in 0..offered {
                let _ = queue.push(at(millis), Sized(1000, ecn_capable, false));
            }
            let since = queue.head_since();
            let _ = queue.pop(at(millis));
            if millis > 3500 {
                worst = worst.max(since.map_or(Duration::ZERO, |since| at(millis) - since));
            }
        }
        (worst, queue.managed_drops, queue.marks)
    }

    #[test]
    fn codel_drops_until_the_sender_slows_down_and_marks_where_it_may() {
        let (_, drops, marks) = overload(Discipline::CODEL, false);
        assert!(drops >= 20 && marks == 0, "{drops} {marks}");
        let (_, drops, marks) = overload(Discipline::CODEL, true);
        assert!(marks >= 20 && drops == 0, "{drops} {marks}");
        let (worst, ..) = overload(Discipline::DropTail, false);
        assert!(worst > Duration::from_secs(1), "{worst:?}");
    }

    #[test]
    fn pie_drops_until_the_sender_slows_down_and_marks_where_it_may() {
        let (_, drops, marks) = overload(Discipline::PIE, false);
        assert!(drops >= 20 && marks == 0, "{drops} {marks}");
        let (_, drops, marks) = overload(Discipline::PIE, true);
        // Above a tenth it drops whatever comes (RFC 8033 section 5.1).
        assert!(marks > 0 && drops + marks >= 20, "{drops} {marks}");
    }

    #[test]
    fn pie_keeps_the_waiting_time_near_its_target() {
        let mut queue = Queue::new(10_000, usize::MAX, Discipline::PIE, Random::new(1));
        let (mut total, mut count) = (0.0, 0);
        // A fifth more than what goes out, by a sender that does not care.
        for millis in 0..20_000u64 {
            for _ in 0..if millis % 5 == 0 { 2 } else { 1 } {
                let _ = queue.push(at(millis), packet(1000));
            }
            let since = queue.head_since();
            let _ = queue.pop(at(millis));
            if millis > 10_000 {
                total += since.map_or(0.0, |since| (at(millis) - since).as_secs_f64());
                count += 1;
            }
        }
        let mean = total / f64::from(count);
        assert!((0.005..0.03).contains(&mean), "{mean} seconds");
    }

    #[test]
    fn a_short_burst_is_left_alone() {
        for discipline in [Discipline::CODEL, Discipline::PIE] {
            let mut queue = Queue::new(1000, usize::MAX, discipline, Random::new(1));
            for _ in 0..50 {
                queue.push(at(0), packet(1000)).unwrap();
            }
            for millis in 1..=50 {
                assert!(queue.pop(at(millis)).is_some());
            }
            assert_eq!(queue.managed_drops, 0);
        }
    }
}
