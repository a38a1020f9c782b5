//! One direction of a link: a queue, a bottleneck, and the wire with all that can happen on it.
//!
//! The same code serves simulated segments in virtual time and, in `mptcp lab`, real frames in real time:
//! [`Link::push`] what is sent, ask [`Link::next_event`] when to come back, [`Link::pop`] what has arrived.

use super::queue::{Discipline, Queue, Queued};
use super::random::Random;
use mptcp_proto::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Octets of a frame that an MTU does not count.
const ETHERNET_HEADER: usize = 14;

/// A packet as a link needs it.
pub trait Packet: Queued + Clone {
    /// Damages one bit. Says whether anything arrives: a simulated receiver would throw the packet away.
    fn corrupt(&mut self, random: &mut Random) -> bool;
}

/// After so long without packets a burst of losses is over.
const BURST_MEMORY: Duration = Duration::from_secs(1);

/// How packets get lost on the wire.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Loss {
    /// Not at all.
    #[default]
    None,
    /// Each with this probability.
    Random(f64),
    /// In bursts: two states with a loss probability each (Gilbert and Elliott). A burst does not outlast a
    /// second without packets: counted in packets alone, it would swallow all that a sender tries at ever
    /// longer intervals.
    GilbertElliott {
        /// Probability, per packet, that a good state turns bad.
        to_bad: f64,
        /// Probability, per packet, that a bad state turns good.
        to_good: f64,
        /// Loss probability while good.
        loss_good: f64,
        /// Loss probability while bad.
        loss_bad: f64,
    },
}

/// Properties of one direction of a link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinkConfig {
    /// Bits per second, link headers counted; none: no bottleneck.
    pub rate: Option<u64>,
    /// Propagation delay.
    pub delay: Duration,
    /// Each packet's delay deviates by up to this, uniformly, up or down.
    pub jitter: Duration,
    /// Whether jitter may let packets overtake each other.
    pub jitter_reorders: bool,
    /// Loss on the wire, after the bottleneck.
    pub loss: Loss,
    /// Probability that a packet comes later than those after it.
    pub reorder: f64,
    /// How much later.
    pub reorder_by: Duration,
    /// Probability that a packet comes twice.
    pub duplicate: f64,
    /// Probability that a bit of a packet flips.
    pub corrupt: f64,
    /// Most packets that wait before the bottleneck.
    pub queue_packets: usize,
    /// Most octets that wait before the bottleneck.
    pub queue_octets: usize,
    /// How the queue is managed.
    pub discipline: Discipline,
    /// Longest packet that passes, from the IP header on; longer ones disappear.
    pub mtu: Option<usize>,
    /// The router before the link says so to the sender of a packet that is too long (simulations only).
    pub reports_mtu: bool,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            rate: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_reorders: false,
            loss: Loss::None,
            reorder: 0.0,
            reorder_by: Duration::from_millis(10),
            duplicate: 0.0,
            corrupt: 0.0,
            queue_packets: 1000,
            queue_octets: usize::MAX,
            discipline: Discipline::DropTail,
            mtu: None,
            reports_mtu: false,
        }
    }
}

impl LinkConfig {
    /// A link of a rate in bits per second and a one-way delay, its queue holding one bandwidth-delay product
    /// of a round trip over it (at least ten full packets).
    pub fn new(rate: u64, delay: Duration) -> Self {
        let octets = (rate as f64 / 8.0 * delay.as_secs_f64() * 2.0) as usize;
        Self {
            rate: Some(rate),
            delay,
            queue_packets: usize::MAX,
            queue_octets: octets.max(15_140),
            ..Self::default()
        }
    }
    /// Whether a frame of so many octets is longer than what passes.
    pub fn is_too_long(&self, frame: usize) -> bool {
        self.mtu.is_some_and(|mtu| frame > ETHERNET_HEADER + mtu)
    }
    /// The same with a loss probability.
    #[must_use]
    pub fn with_loss(self, probability: f64) -> Self {
        Self { loss: Loss::Random(probability), ..self }
    }
}

/// Counters of a link, in packets unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct LinkStats {
    /// Offered to the link.
    pub offered: u64,
    /// Delivered.
    pub delivered: u64,
    /// Octets delivered.
    pub delivered_octets: u64,
    /// Dropped because the queue was full.
    pub queue_drops: u64,
    /// Dropped by the queue's management.
    pub managed_drops: u64,
    /// Marked "congestion experienced".
    pub marks: u64,
    /// Lost on the wire.
    pub lost: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Duplicated.
    pub duplicated: u64,
    /// Held back so that others overtook them.
    pub reordered: u64,
    /// Dropped because they were longer than the link's MTU.
    pub too_long: u64,
    /// Dropped because the link was down.
    pub down_drops: u64,
    /// Most octets that ever waited.
    pub max_queue_octets: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link<P> {
    config: LinkConfig,
    queue: Queue<P>,
    /// When the bottleneck is free again.
    free_at: Instant,
    /// On the wire, by time of arrival.
    wire: VecDeque<(Instant, P)>,
    /// Latest arrival so far, where order is kept.
    last_arrival: Instant,
    bad: bool,
    /// When a packet last left the bottleneck.
    last_sent: Instant,
    up: bool,
    random: Random,
    stats: LinkStats,
}

impl<P: Packet> Link<P> {
    /// An idle link.
    pub fn new(config: LinkConfig, random: Random) -> Self {
        // The discipline draws from numbers of its own, so that it does not change what the wire draws.
        let dice = random.clone().fork();
        Self {
            queue: Queue::new(config.queue_packets, config.queue_octets, config.discipline, dice),
            config,
            free_at: Instant::ZERO,
            wire: VecDeque::new(),
            last_arrival: Instant::ZERO,
            bad: false,
            last_sent: Instant::ZERO,
            up: true,
            random,
            stats: LinkStats::default(),
        }
    }
    /// Its properties.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }
    /// Changes rate, delay and impairments. The queue keeps its limits.
    pub fn reconfigure(&mut self, config: LinkConfig) {
        self.config = LinkConfig {
            queue_packets: self.config.queue_packets,
            queue_octets: self.config.queue_octets,
            discipline: self.config.discipline,
            ..config
        };
    }
    /// Takes the link down, losing all that is on it, or up.
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
        if !up {
            self.stats.down_drops += (self.queue.len() + self.wire.len()) as u64;
            self.queue.clear();
            self.wire.clear();
        }
    }
    /// The counters so far.
    pub fn stats(&self) -> LinkStats {
        LinkStats { managed_drops: self.queue.managed_drops, marks: self.queue.marks, ..self.stats }
    }
    /// Octets that wait before the bottleneck.
    pub fn queued_octets(&self) -> usize {
        self.queue.octets()
    }

    /// Sends a packet. Times must not go backwards.
    pub fn push(&mut self, now: Instant, packet: P) {
        self.stats.offered += 1;
        if !self.up {
            self.stats.down_drops += 1;
            return;
        }
        if self.config.is_too_long(packet.wire_len()) {
            self.stats.too_long += 1;
            return;
        }
        self.transmit(now);
        if self.queue.push(now, packet).is_err() {
            self.stats.queue_drops += 1;
        }
        self.stats.max_queue_octets = self.stats.max_queue_octets.max(self.queue.octets() as u64);
        self.transmit(now);
    }

    /// When something happens next: a packet leaves the queue or arrives.
    pub fn next_event(&self) -> Option<Instant> {
        let leaves = self.queue.head_since().map(|since| since.max(self.free_at));
        let arrives = self.wire.front().map(|(at, _)| *at);
        match (leaves, arrives) {
            (Some(leaves), Some(arrives)) => Some(leaves.min(arrives)),
            (leaves, arrives) => leaves.or(arrives),
        }
    }

    /// The next packet that has arrived by now.
    pub fn pop(&mut self, now: Instant) -> Option<P> {
        self.pop_due(now).map(|(_, packet)| packet)
    }

    /// The next packet that has arrived by now, and when it did.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, P)> {
        self.transmit(now);
        if self.wire.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (at, packet) = self.wire.pop_front()?;
        self.stats.delivered += 1;
        self.stats.delivered_octets += packet.wire_len() as u64;
        Some((at, packet))
    }

    /// Moves what the bottleneck has let through by now onto the wire.
    fn transmit(&mut self, now: Instant) {
        while let Some(since) = self.queue.head_since() {
            let start = since.max(self.free_at);
            if start > now {
                return;
            }
            let Some(packet) = self.queue.pop(start) else { return };
            let sent = match self.config.rate {
                Some(rate) => start + serialisation(packet.wire_len(), rate),
                None => start,
            };
            self.free_at = sent;
            self.carry(sent, packet);
        }
    }

    /// Takes a packet that left the bottleneck at `sent` over the wire.
    fn carry(&mut self, sent: Instant, mut packet: P) {
        if self.loses(sent) {
            self.stats.lost += 1;
            return;
        }
        if self.random.chance(self.config.duplicate) {
            self.stats.duplicated += 1;
            let again = packet.clone();
            let at = self.arrival(sent);
            self.insert(at, again);
        }
        let mut arrives = true;
        if self.random.chance(self.config.corrupt) {
            self.stats.corrupted += 1;
            arrives = packet.corrupt(&mut self.random);
        }
        if arrives {
            let at = self.arrival(sent);
            self.insert(at, packet);
        }
    }

    fn loses(&mut self, sent: Instant) -> bool {
        let pause = sent - std::mem::replace(&mut self.last_sent, sent);
        self.bad &= pause < BURST_MEMORY;
        match self.config.loss {
            Loss::None => false,
            Loss::Random(probability) => self.random.chance(probability),
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                self.bad ^= self.random.chance(if self.bad { to_good } else { to_bad });
                self.random.chance(if self.bad { loss_bad } else { loss_good })
            }
        }
    }

    fn arrival(&mut self, sent: Instant) -> Instant {
        let jitter = self.config.jitter.as_nanos() as u64;
        let delay = if jitter == 0 {
            self.config.delay
        } else {
            let up = Duration::from_nanos(self.random.between(0, 2 * jitter));
            (self.config.delay + up).saturating_sub(self.config.jitter)
        };
        let mut at = sent + delay;
        if !self.config.jitter_reorders {
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        if self.random.chance(self.config.reorder) {
            self.stats.reordered += 1;
            at += self.config.reorder_by;
        }
        at
    }

    fn insert(&mut self, at: Instant, packet: P) {
        // Nearly always the last one.
        let mut place = self.wire.len();
        while place > 0 && self.wire[place - 1].0 > at {
            place -= 1;
        }
        self.wire.insert(place, (at, packet));
    }
}

/// How long a packet occupies the bottleneck.
fn serialisation(octets: usize, rate: u64) -> Duration {
    let nanos = octets as u128 * 8 * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Numbered(u64);
    impl Queued for Numbered {
        fn wire_len(&self) -> usize {
            1250
        }
        fn mark_congestion(&mut self) -> bool {
            false
        }
    }
    impl Packet for Numbered {
        fn corrupt(&mut self, _random: &mut Random) -> bool {
            self.0 |= 1 << 63;
            true
        }
    }

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    /// Sends packets with a pause between them; gives what arrives and when.
    fn run(config: LinkConfig, packets: u64, pause_micros: u64) -> (Vec<(Instant, u64)>, LinkStats) {
        let mut link = Link::new(config, Random::new(1));
        let mut arrived = Vec::new();
        let mut sent = 0;
        loop {
            let next_send = (sent < packets).then(|| at(sent * pause_micros));
            let now = match (next_send, link.next_event()) {
                (None, None) => return (arrived, link.stats()),
                (Some(a), Some(b)) => a.min(b),
                (a, b) => a.or(b).unwrap(),
            };
            if next_send == Some(now) {
                link.push(now, Numbered(sent));
                sent += 1;
            }
            while let Some(packet) = link.pop(now) {
                arrived.push((now, packet.0));
            }
        }
    }

    #[test]
    fn rate_and_delay_add_up_to_the_microsecond() {
        // 1250 octets at 10 Mb/s take a millisecond.
        let (arrived, _) = run(LinkConfig::new(10_000_000, Duration::from_millis(7)), 3, 0);
        assert_eq!(arrived, [(at(8000), 0), (at(9000), 1), (at(10_000), 2)]);
        let (arrived, _) = run(LinkConfig::new(10_000_000, Duration::from_millis(7)), 3, 5000);
        assert_eq!(arrived, [(at(8000), 0), (at(13_000), 1), (at(18_000), 2)]);
    }

    #[test]
    fn the_queue_drops_what_does_not_fit() {
        let config = LinkConfig { queue_packets: 10, ..LinkConfig::new(10_000_000, Duration::ZERO) };
        let (arrived, stats) = run(LinkConfig { queue_octets: usize::MAX, ..config }, 100, 0);
        // One is in the bottleneck, ten wait.
        assert_eq!((arrived.len(), stats.queue_drops), (11, 89));
    }

    #[test]
    fn losses_come_as_often_as_asked_for() {
        let base = LinkConfig { queue_packets: usize::MAX, ..LinkConfig::default() };
        let (arrived, stats) = run(base.with_loss(0.1), 100_000, 1);
        assert_eq!(arrived.len() as u64 + stats.lost, 100_000);
        assert!((9_500..10_500).contains(&stats.lost), "{stats:?}");
        let bursty = Loss::GilbertElliott { to_bad: 0.01, to_good: 0.19, loss_good: 0.0, loss_bad: 1.0 };
        let (arrived, stats) = run(LinkConfig { loss: bursty, ..base }, 100_000, 1);
        // A twentieth of the time is bad, in bursts of 1 / 0.19.
        assert!((4_000..6_000).contains(&stats.lost), "{stats:?}");
        let bursts = arrived.windows(2).filter(|pair| pair[1].1 != pair[0].1 + 1).count() as f64;
        let mean = stats.lost as f64 / bursts;
        assert!((4.5..6.0).contains(&mean), "mean burst {mean}");
    }

    #[test]
    fn no_burst_of_losses_outlasts_a_second_without_packets() {
        let bursty = Loss::GilbertElliott { to_bad: 0.5, to_good: 0.01, loss_good: 0.0, loss_bad: 1.0 };
        let config = LinkConfig { loss: bursty, ..LinkConfig::default() };
        assert!(run(config, 1000, 900_000).1.lost > 900, "one burst");
        let lost = run(config, 1000, 1_000_000).1.lost;
        assert!((400..600).contains(&lost), "each packet for itself: {lost}");
    }

    #[test]
    fn jitter_keeps_the_order_unless_told_otherwise() {
        let config = LinkConfig {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(5),
            ..LinkConfig::default()
        };
        let in_order = |arrived: &[(Instant, u64)]| arrived.windows(2).all(|pair| pair[0].1 < pair[1].1);
        let (arrived, _) = run(config, 1000, 100);
        assert!(in_order(&arrived));
        assert!(arrived.iter().all(|(time, number)| *time - at(number * 100) >= Duration::from_millis(5)));
        let (arrived, _) = run(LinkConfig { jitter_reorders: true, ..config }, 1000, 100);
        assert!(!in_order(&arrived));
        let (arrived, stats) = run(
            LinkConfig {
                jitter: Duration::ZERO,
                reorder: 0.02,
                reorder_by: Duration::from_millis(1),
                ..config
            },
            1000,
            100,
        );
        assert!(!in_order(&arrived) && stats.reordered > 5, "{stats:?}");
    }

    #[test]
    fn duplicates_and_damage_are_counted() {
        let config = LinkConfig { duplicate: 0.5, corrupt: 0.25, ..LinkConfig::default() };
        let (arrived, stats) = run(config, 1000, 100);
        assert_eq!(arrived.len() as u64, 1000 + stats.duplicated);
        assert_eq!(arrived.iter().filter(|(_, number)| number >> 63 == 1).count() as u64, stats.corrupted);
        assert!((400..600).contains(&stats.duplicated) && (200..300).contains(&stats.corrupted), "{stats:?}");
    }

    #[test]
    fn a_link_that_goes_down_loses_what_it_carries() {
        let mut link = Link::new(LinkConfig::new(10_000_000, Duration::from_millis(7)), Random::new(1));
        link.push(at(0), Numbered(0));
        link.push(at(0), Numbered(1));
        link.set_up(false);
        link.push(at(10), Numbered(2));
        assert_eq!(link.next_event(), None);
        link.set_up(true);
        link.push(at(20), Numbered(3));
        assert_eq!(link.pop(at(20_000)), Some(Numbered(3)));
        assert_eq!(link.stats().down_drops, 3);
    }

    #[test]
    fn one_seed_gives_one_history() {
        let config = LinkConfig {
            jitter: Duration::from_millis(3),
            reorder: 0.1,
            duplicate: 0.1,
            ..LinkConfig::new(10_000_000, Duration::from_millis(5)).with_loss(0.1)
        };
        assert_eq!(run(config, 500, 300), run(config, 500, 300));
    }
}
