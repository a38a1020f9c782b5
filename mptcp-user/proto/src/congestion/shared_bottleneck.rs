//! Two subflows and a regular TCP behind one bottleneck: what coupling is for (RFC 6356 section 2). Packets, a queue that
//! drops at random the more it holds, and nothing else of a network.

use super::{Ack, Cause, CongestionControl, Path, by_name};
use crate::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

const MSS: u64 = 1000;
/// Packets per second, and of queue.
const RATE: u64 = 2000;
const QUEUE: u64 = 200;
const DELAY: Duration = Duration::from_millis(50);

/// A packet's fate is known: to which sender and path, sent when, as which of the path's, and whether it arrived.
struct Fate {
    sender: usize,
    path: usize,
    sent_at: Instant,
    number: u64,
    arrived: bool,
}

#[derive(Default)]
struct Progress {
    sent: u64,
    /// Losses of packets before this one belong to the same round trip.
    recovered: u64,
    round: u64,
    delivered: u64,
}

struct Sender {
    control: Box<dyn CongestionControl>,
    paths: Vec<Path>,
    progress: Vec<Progress>,
}

struct Bottleneck {
    now: Instant,
    free_at: Instant,
    senders: Vec<Sender>,
    fates: BTreeMap<(Instant, u64), Fate>,
    random: u64,
    packets: u64,
}

impl Bottleneck {
    fn new(senders: &[(&str, usize)]) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let senders = senders.iter().map(|(name, paths)| Sender {
            control: by_name(name).unwrap(),
            paths: (0..*paths).map(|_| Path { active: true, ..Path::new(MSS) }).collect(),
            progress: (0..*paths).map(|_| Progress::default()).collect(),
        });
        let senders = senders.collect();
        Self { now, free_at: now, senders, fates: BTreeMap::new(), random: 1, packets: 0 }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 11) as f64 / (1u64 << 53) as f64) < probability
    }

    fn send(&mut self, sender: usize, path: usize) {
        let queued = (self.free_at - self.now).as_nanos() as u64 * RATE / 1_000_000_000;
        let lost = self.chance((queued as f64 / QUEUE as f64 - 0.3).max(0.0) / 10.0) || queued >= QUEUE;
        if !lost {
            self.free_at = self.free_at.max(self.now) + Duration::from_nanos(1_000_000_000 / RATE);
        }
        let known = self.free_at.max(self.now) + DELAY;
        self.packets += 1;
        let number = self.senders[sender].progress[path].sent;
        self.senders[sender].progress[path].sent += 1;
        self.senders[sender].paths[path].in_flight += MSS;
        let fate = Fate { sender, path, sent_at: self.now, number, arrived: !lost };
        self.fates.insert((known, self.packets), fate);
    }

    fn settle(&mut self, fate: &Fate) {
        let now = self.now;
        let Sender { control, paths, progress } = &mut self.senders[fate.sender];
        let (index, progress) = (fate.path, &mut progress[fate.path]);
        let limited = paths[index].in_flight + MSS > paths[index].cwnd;
        paths[index].in_flight -= MSS;
        paths[index].limited = limited;
        if !fate.arrived {
            if fate.number >= progress.recovered {
                progress.recovered = progress.sent;
                control.on_congestion(now, index, Cause::Loss, paths);
                paths[index].cwnd = paths[index].ssthresh;
            }
            return;
        }
        progress.delivered += 1;
        let rtt = now - fate.sent_at;
        let path = &mut paths[index];
        path.srtt = Some(path.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8));
        path.min_rtt = Some(path.min_rtt.map_or(rtt, |min| min.min(rtt)));
        let round = fate.number >= progress.round;
        if round {
            progress.round = progress.sent;
        }
        let ack = Ack { delivered: MSS, rtt: Some(rtt), limited, round, ..Ack::default() };
        control.on_ack(now, index, &ack, paths);
    }

    /// Runs for a while; gives what each sender's packets were of all.
    fn shares(&mut self, span: Duration) -> Vec<f64> {
        let end = self.now + span;
        let delivered = |senders: &[Sender]| -> Vec<u64> {
            senders.iter().map(|sender| sender.progress.iter().map(|path| path.delivered).sum()).collect()
        };
        let before = delivered(&self.senders);
        while self.now < end {
            for sender in 0..self.senders.len() {
                for path in 0..self.senders[sender].paths.len() {
                    while self.senders[sender].paths[path].in_flight + MSS
                        <= self.senders[sender].paths[path].cwnd
                    {
                        self.send(sender, path);
                    }
                }
            }
            let ((at, _), fate) = self.fates.pop_first().unwrap();
            self.now = at.max(self.now);
            self.settle(&fate);
        }
        let gained: Vec<_> = delivered(&self.senders).iter().zip(before).map(|(is, was)| is - was).collect();
        let all: u64 = gained.iter().sum();
        gained.iter().map(|packets| *packets as f64 / all as f64).collect()
    }
}

/// The share of two subflows beside one regular TCP, in the long run.
fn share(name: &str) -> f64 {
    let mut bottleneck = Bottleneck::new(&[(name, 2), ("reno", 1)]);
    bottleneck.shares(Duration::from_secs(20));
    bottleneck.shares(Duration::from_secs(300))[0]
}

#[test]
fn two_uncoupled_subflows_take_two_shares() {
    let share = share("reno");
    assert!((0.6..0.73).contains(&share), "{share}");
}

#[test]
fn two_coupled_subflows_take_about_the_share_of_one_tcp() {
    for name in ["lia", "olia", "balia"] {
        let share = share(name);
        assert!((0.38..=0.55).contains(&share), "{name}: {share}");
    }
}

#[test]
fn a_delay_based_subflow_pair_gives_way_and_yet_fills_an_empty_path() {
    assert!(share("wvegas") < 0.5);
    let mut alone = Bottleneck::new(&[("wvegas", 2)]);
    alone.shares(Duration::from_secs(10));
    let before: u64 = alone.senders[0].progress.iter().map(|path| path.delivered).sum();
    alone.shares(Duration::from_secs(20));
    let after: u64 = alone.senders[0].progress.iter().map(|path| path.delivered).sum();
    assert!(after - before > 19 * RATE, "{}", after - before);
}
