//! The sender, acknowledgment by acknowledgment. Segments are numbered from 0; each has 1000 octets.

use super::record::TxMapping;
use super::send::{AckInput, AckOutcome, SendSide, TimerAction};
use crate::Instant;
use crate::congestion::{Cause, Path};
use crate::rtt::RttEstimator;
use crate::wire::{Payload, SeqNumber};
use std::time::Duration;

const MSS: u64 = 1000;
const RTT: Duration = Duration::from_millis(100);

struct Sender {
    now: Instant,
    snd: SendSide,
    path: Path,
    rtt: RttEstimator,
}

/// Offset of the first octet of a segment.
fn offset(segment: u64) -> u64 {
    1 + segment * MSS
}

impl Sender {
    /// With a window of ten segments, all of which are in flight.
    fn new(sack: bool) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let mut snd = SendSide::new(SeqNumber(7));
        snd.syn_acknowledged(now);
        (snd.sack_ok, snd.edge) = (sack, u64::MAX);
        let mut rtt = RttEstimator::new();
        rtt.sample(now, RTT);
        let mut sender = Self { now, snd, path: Path::new(MSS), rtt };
        sender.send(10);
        sender
    }

    fn send(&mut self, segments: u64) {
        for _ in 0..segments {
            let payload = Payload::from(vec![0; MSS as usize]);
            self.snd.send(self.now, payload, None, false, &self.path, &self.rtt);
        }
    }

    /// All that may be sent again; the numbers of the segments.
    fn retransmit(&mut self) -> Vec<u64> {
        let mut again = Vec::new();
        while self.snd.may_retransmit() && self.snd.in_flight() < self.path.cwnd {
            let stamp = self.now.as_millis() as u32;
            let record = self.snd.retransmit(self.now, MSS, stamp, &self.path, &self.rtt).unwrap();
            again.push((record.start - 1) / MSS);
        }
        again
    }

    fn input<'a>(&self, segments: u64, sacks: &'a [(u64, u64)]) -> AckInput<'a> {
        let ack = offset(segments);
        AckInput {
            ack,
            sacks,
            duplicate_reported: None,
            ecn_echo: false,
            echo: None,
            stamp_rtt: None,
            duplicate: ack == self.snd.una,
        }
    }

    /// Everything before a segment is acknowledged, and some segments beyond, without timestamps.
    fn ack(&mut self, segments: u64, sacked: &[(u64, u64)]) -> AckOutcome {
        let sacks: Vec<_> = sacked.iter().map(|(from, to)| (offset(*from), offset(*to))).collect();
        let input = self.input(segments, &sacks);
        self.take(&input)
    }

    /// The same, the first block reporting `octets` that came twice.
    fn duplicates(&mut self, segments: u64, octets: u64) -> AckOutcome {
        let input = AckInput { duplicate_reported: Some(octets), ..self.input(segments, &[]) };
        self.take(&input)
    }

    /// Takes it as a connection does whose algorithm halves the window.
    fn take(&mut self, input: &AckInput<'_>) -> AckOutcome {
        let outcome = self.snd.acknowledge(self.now, input, &self.path, &mut self.rtt);
        if outcome.undone
            && let Some((cwnd, ssthresh)) = self.snd.undone()
        {
            (self.path.cwnd, self.path.ssthresh) = (cwnd, ssthresh);
        }
        if let Some(cause) = outcome.congestion {
            let before = (self.path.cwnd, self.path.ssthresh);
            self.path.ssthresh = self.path.cwnd / 2;
            self.snd.begin_recovery(cause, outcome.delivered, before);
        }
        if outcome.recovered || (outcome.congestion.is_some() && !self.snd.in_fast_recovery()) {
            self.path.cwnd = self.path.ssthresh;
        }
        self.snd.reduce_proportionally(outcome.delivered, outcome.safe, &mut self.path);
        outcome
    }

    /// Nothing comes until the retransmission timer has expired.
    fn time_out(&mut self) {
        let timeout = |action| matches!(action, TimerAction::Timeout { .. });
        self.wait_for(timeout);
        (self.path.ssthresh, self.path.cwnd) = (self.path.cwnd / 2, MSS);
    }

    /// Timers expire, until one asks for this.
    fn wait_for(&mut self, wanted: impl Fn(TimerAction) -> bool) {
        for _ in 0..6 {
            self.now = self.snd.next_timeout().unwrap();
            if self.snd.handle_timeout(self.now, &self.path, &self.rtt).is_some_and(&wanted) {
                return;
            }
        }
        panic!("no timer asks for it");
    }
}

#[test]
fn a_timeout_for_nothing_is_found_out_by_new_data_and_undone() {
    for sack in [true, false] {
        let mut sender = Sender::new(sack);
        sender.time_out();
        assert_eq!(sender.retransmit(), [0]);
        // The acknowledgment of the original, late: no more is sent again, but two new segments are.
        sender.now += Duration::from_millis(10);
        assert!(!sender.ack(1, &[]).undone);
        sender.path.cwnd += MSS;
        assert!(sender.retransmit().is_empty());
        assert_eq!(sender.snd.room(&sender.path), 2 * MSS);
        sender.send(2);
        assert_eq!(sender.snd.room(&sender.path), 0);
        // And that of the second original.
        assert!(sender.ack(2, &[]).undone, "sack {sack}");
        assert_eq!(sender.path.cwnd, 10 * MSS);
        assert_eq!((sender.retransmit(), sender.snd.in_flight()), (vec![], 10 * MSS));
    }
}

#[test]
fn a_timeout_is_believed_when_new_data_brings_duplicate_acknowledgments() {
    for sack in [true, false] {
        let mut sender = Sender::new(sack);
        sender.time_out();
        assert_eq!(sender.retransmit(), [0]);
        sender.ack(1, &[]);
        sender.path.cwnd += MSS;
        sender.send(2);
        let blocks: &[_] = if sack { &[(10, 11)] } else { &[] };
        assert!(!sender.ack(1, blocks).undone);
        sender.path.cwnd = 20 * MSS;
        assert_eq!(sender.retransmit(), (1..10).collect::<Vec<_>>(), "sack {sack}");
    }
}

#[test]
fn without_new_data_a_timeout_is_believed_at_once() {
    let mut sender = Sender::new(true);
    sender.time_out();
    assert_eq!(sender.retransmit(), [0]);
    assert!(!sender.snd.lacks_new_data());
    sender.ack(1, &[]);
    sender.path.cwnd += MSS;
    assert!(sender.snd.lacks_new_data());
    assert_eq!(sender.retransmit(), [1, 2]);
}

#[test]
fn a_reduction_is_undone_when_all_retransmissions_came_twice() {
    let mut sender = Sender::new(true);
    // Segments 0 and 1 are late, not lost.
    let outcome = sender.ack(0, &[(2, 7)]);
    assert_eq!(outcome.congestion, Some(Cause::Loss));
    sender.path.cwnd = 20 * MSS;
    assert_eq!(sender.retransmit(), [0, 1]);
    sender.now += Duration::from_millis(90);
    assert!(!sender.ack(10, &[]).undone);
    assert!(sender.path.cwnd == 5 * MSS);
    sender.send(3);
    assert!(!sender.duplicates(10, MSS).undone);
    assert!(sender.duplicates(10, MSS).undone);
    assert_eq!((sender.path.cwnd, sender.path.ssthresh), (10 * MSS, u64::MAX));
}

#[test]
fn duplicates_much_later_undo_nothing() {
    let mut sender = Sender::new(true);
    sender.ack(0, &[(1, 7)]);
    sender.path.cwnd = 20 * MSS;
    assert_eq!(sender.retransmit(), [0]);
    sender.ack(10, &[]);
    sender.send(3);
    sender.ack(13, &[]);
    sender.send(1);
    assert!(!sender.duplicates(13, MSS).undone);
}

#[test]
fn without_sack_each_duplicate_acknowledgment_lets_a_segment_out() {
    let mut sender = Sender::new(false);
    for duplicates in 1..3 {
        assert_eq!(sender.snd.room(&sender.path), 0);
        assert_eq!(sender.ack(0, &[]).congestion, None);
        assert_eq!(sender.snd.room(&sender.path), MSS, "after {duplicates}");
        sender.send(1);
    }
    let outcome = sender.ack(0, &[]);
    assert_eq!((outcome.congestion, sender.retransmit()), (Some(Cause::Loss), vec![0]));
    // Twelve were sent, three have arrived, one was sent again.
    assert_eq!(sender.snd.in_flight(), 9 * MSS);
    // All arrive but the first of them: the acknowledgment of the retransmission covers everything.
    for _ in 0..8 {
        sender.ack(0, &[]);
    }
    assert_eq!(sender.snd.in_flight(), MSS);
    let outcome = sender.ack(12, &[]);
    assert_eq!((outcome.delivered, outcome.recovered, sender.snd.in_flight()), (MSS, true, 0));
}

#[test]
fn an_ecn_echo_reduces_the_window_once_per_round_trip_and_is_answered_once() {
    let mut sender = Sender::new(true);
    let echo = |sender: &mut Sender, segments| {
        let input = AckInput { ecn_echo: true, ..sender.input(segments, &[]) };
        sender.take(&input)
    };
    assert_eq!(echo(&mut sender, 1).congestion, Some(Cause::EcnEcho));
    assert!(sender.snd.take_cwr());
    assert!(!sender.snd.take_cwr());
    for segments in 2..=10 {
        // The peer repeats the echo until it sees CWR, which comes with segment 10.
        sender.send(u64::from(segments % 2 == 0));
        assert_eq!(echo(&mut sender, segments).congestion, None);
    }
    assert_eq!(sender.path.cwnd, 5 * MSS);
    assert_eq!(echo(&mut sender, 11).congestion, Some(Cause::EcnEcho));
    assert!(sender.snd.take_cwr());
}

#[test]
fn a_loss_that_the_tail_probe_repaired_costs_half_the_window_and_no_recovery() {
    let mut sender = Sender::new(true);
    sender.wait_for(|action| action == TimerAction::Probe);
    let probe = sender.snd.retransmit_tail(sender.now, MSS, 1, &sender.path, &sender.rtt).unwrap();
    assert_eq!(probe.start, offset(9));
    sender.send(1);
    assert_eq!(sender.ack(11, &[]).congestion, Some(Cause::Loss));
    assert!(!sender.snd.in_fast_recovery());
    assert_eq!(sender.snd.room(&sender.path), 5 * MSS);
}

/// A peer that has every other segment of very many has as many gaps. Not each may cost an entry in a queue.
#[test]
fn the_gaps_that_go_over_another_path_at_once_are_bounded() {
    let mut sender = Sender::new(true);
    assert_eq!(sender.snd.waited_for().count(), 0);
    for segment in 10..2000 {
        let payload = Payload::from(vec![0; MSS as usize]);
        let (data, subflow_seq) = (segment * MSS, offset(segment) as u32);
        let mapping = Some(TxMapping { data, subflow_seq, len: MSS as u16, fin: false, checksum: None });
        sender.snd.send(sender.now, payload, mapping, false, &sender.path, &sender.rtt);
    }
    for segment in (11..1999).step_by(2) {
        sender.ack(10, &[(segment, segment + 1)]);
    }
    let gaps: Vec<_> = sender.snd.waited_for().collect();
    assert_eq!(gaps.len(), 256);
    assert_eq!(gaps[..2], [(10 * MSS, 11 * MSS), (12 * MSS, 13 * MSS)]);
}
