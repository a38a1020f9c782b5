//! BBR beside a path that delivers at a fixed rate, an acknowledgment for each packet.

use super::*;
use crate::congestion::{LossSample, RateSample};
use std::collections::VecDeque;

const MSS: u64 = 1000;
const RTT: Duration = Duration::from_millis(40);

/// A bottleneck without bound on its queue, and the sender before it.
struct Bench {
    now: Instant,
    bbr: Bbr,
    paths: [Path; 1],
    /// When each packet arrives, when it was sent, and what was delivered by then.
    flying: VecDeque<(Instant, Instant, u64, Instant)>,
    free_at: Instant,
    next_departure: Instant,
    delivered: u64,
    delivered_at: Instant,
    longest_queue: Duration,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let mut path = Path::new(MSS);
        path.srtt = Some(RTT);
        let mut bbr = Bbr::default();
        bbr.on_restart(now, 0, Duration::ZERO, Duration::ZERO, std::slice::from_mut(&mut path));
        Self {
            now,
            bbr,
            paths: [path],
            flying: VecDeque::new(),
            free_at: now,
            next_departure: now,
            delivered: 0,
            delivered_at: now,
            longest_queue: Duration::ZERO,
        }
    }

    /// Runs for a while at a bottleneck rate in packets per second; gives the packets delivered per second.
    fn run(&mut self, span: Duration, rate: u64) -> u64 {
        let (end, before) = (self.now + span, self.delivered);
        let spacing = Duration::from_nanos(1_000_000_000 / rate);
        self.longest_queue = Duration::ZERO;
        while self.now < end {
            let arrival = self.flying.front().map(|packet| packet.0);
            let room = (self.flying.len() as u64 + 1) * MSS <= self.paths[0].cwnd;
            if room && arrival.is_none_or(|at| self.next_departure <= at) {
                self.now = self.now.max(self.next_departure);
                let pacing = self.paths[0].pacing_rate.unwrap();
                self.next_departure = self.now + Duration::from_nanos(MSS * 1_000_000_000 / pacing);
                self.free_at = self.free_at.max(self.now) + spacing;
                self.longest_queue = self.longest_queue.max(self.free_at - self.now);
                let arrives = self.free_at + RTT;
                self.flying.push_back((arrives, self.now, self.delivered, self.delivered_at));
            } else {
                self.acknowledge(None);
            }
        }
        (self.delivered - before) / MSS * 1000 / span.as_millis() as u64
    }

    /// The next packet arrives.
    fn acknowledge(&mut self, loss: Option<LossSample>) {
        let (at, sent_at, prior_delivered, prior_at) = self.flying.pop_front().unwrap();
        self.now = at;
        self.delivered += MSS;
        self.delivered_at = at;
        self.paths[0].in_flight = self.flying.len() as u64 * MSS;
        let delivered = self.delivered - prior_delivered;
        let rate = RateSample {
            rate: Some((u128::from(delivered) * 1_000_000_000 / (at - prior_at).as_nanos()) as u64),
            delivered,
            prior_delivered,
            total_delivered: self.delivered,
            lost: loss.map_or(0, |loss| loss.since_sent),
            in_flight: delivered,
            app_limited: false,
        };
        let limited = (self.flying.len() as u64 + 2) * MSS > self.paths[0].cwnd;
        let rtt = Some(at - sent_at);
        let ack = Ack { delivered: MSS, rtt, limited, rate: Some(rate), loss, ..Ack::default() };
        self.bbr.on_ack(at, 0, &ack, &mut self.paths);
    }

    fn flow(&mut self) -> &mut Flow {
        self.bbr.paths.at(0)
    }
}

#[test]
fn it_finds_the_rate_of_the_path_and_keeps_the_queue_short() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(2), 1000);
    assert!(matches!(bench.flow().state, State::ProbeBw(_)), "{:?}", bench.flow().state);
    let rate = bench.run(Duration::from_secs(4), 1000);
    assert!((950..=1001).contains(&rate), "{rate} packets per second");
    let model = &bench.flow().model;
    let bdp = model.bdp(model.bw(), &Path::new(MSS));
    assert!((36_000..=46_000).contains(&bdp), "{bdp} octets");
    assert!(bench.longest_queue < RTT * 3 / 2, "{:?}", bench.longest_queue);
}

#[test]
fn it_follows_when_the_path_gets_faster_and_slower() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(3), 1000);
    bench.run(Duration::from_secs(10), 2000);
    let faster = bench.run(Duration::from_secs(5), 2000);
    assert!(faster > 1850, "{faster}");
    bench.run(Duration::from_secs(10), 500);
    let slower = bench.run(Duration::from_secs(5), 500);
    assert!(slower > 470, "{slower}");
    assert!(bench.longest_queue < RTT * 2, "{:?}", bench.longest_queue);
}

#[test]
fn the_delay_is_probed_with_a_small_window_every_few_seconds() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(3), 1000);
    let mut probes = 0;
    let mut probing = false;
    for _ in 0..2000 {
        bench.run(Duration::from_millis(10), 1000);
        let now = bench.flow().state == State::ProbeRtt;
        probes += u32::from(now && !probing);
        probing = now;
        assert!(!now || bench.paths[0].cwnd <= 25 * MSS);
    }
    assert!((2..=5).contains(&probes), "{probes} in 20 seconds");
}

#[test]
fn heavy_loss_while_probing_bounds_the_flight_and_light_loss_does_not() {
    for (lost, bounded) in [(MSS / 2, false), (10 * MSS, true)] {
        let mut bench = Bench::new();
        bench.run(Duration::from_secs(3), 1000);
        for _ in 0..10_000 {
            if bench.flow().state == State::ProbeBw(Phase::Up) {
                break;
            }
            bench.run(Duration::from_millis(1), 1000);
        }
        assert_eq!(bench.flow().state, State::ProbeBw(Phase::Up));
        let in_flight = bench.paths[0].in_flight;
        let loss = LossSample { octets: lost, since_sent: lost, in_flight, app_limited: false };
        bench.acknowledge(Some(loss));
        assert_eq!(bench.flow().model.inflight_hi != UNBOUNDED, bounded);
        assert_eq!(bench.flow().state == State::ProbeBw(Phase::Down), bounded);
    }
}
