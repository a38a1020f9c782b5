//! Decisions one by one; what comes of them in a network is in `tests/multipath.txt`.

use super::*;

const MSS: u64 = 1000;

/// A path with its round-trip time in milliseconds, window and octets in flight; in congestion avoidance.
fn path(subflow: usize, rtt: u64, cwnd: u64, in_flight: u64) -> Candidate {
    Candidate {
        subflow,
        srtt: Some(Duration::from_millis(rtt)),
        rttvar: Duration::from_millis(rtt / 10),
        room: cwnd - in_flight,
        mss: MSS,
        cwnd,
        slow_start: false,
        in_flight,
        pacing_rate: None,
        backup: false,
        stale: false,
        carried: 0,
    }
}

/// So much waits, nothing is under way, the peer's window is wide.
fn waiting(octets: u64) -> Queue {
    Queue { now: Instant::from_nanos(1 << 40), una: 0, start: 0, end: octets, edge: 1 << 30, again: false }
}

fn pick(name: &str, candidates: &[Candidate], queue: &Queue) -> Option<usize> {
    by_name(name).unwrap().pick(candidates, queue).map(|pick| pick.candidate)
}

#[test]
fn whoever_has_room_and_is_fastest_is_taken_by_all_but_round_robin() {
    let candidates = [path(0, 50, 10_000, 0), path(1, 20, 10_000, 0)];
    for (name, ..) in POLICIES.iter().filter(|(name, ..)| *name != "round-robin") {
        assert_eq!(pick(name, &candidates, &waiting(1 << 20)), Some(1), "{name}");
    }
    let mut round_robin = by_name("round-robin").unwrap();
    let turns = [0; 4].map(|_| round_robin.pick(&candidates, &waiting(1 << 20)).unwrap().candidate);
    assert_eq!(turns, [1, 0, 1, 0]);
}

#[test]
fn nobody_takes_a_path_that_is_full() {
    let candidates = [path(0, 50, 10_000, 9_500), path(1, 20, 10_000, 10_000)];
    for (name, ..) in POLICIES {
        assert_eq!(pick(name, &candidates, &waiting(1 << 20)), None, "{name}");
        assert_eq!(pick(name, &candidates, &waiting(400)), Some(0), "{name}");
    }
}

#[test]
fn the_name_of_a_policy_is_its_own() {
    for (name, purpose, make) in POLICIES {
        assert_eq!(make().name(), *name);
        assert!(purpose.len() > 20);
    }
    assert!(by_name("nothing").is_none());
}

#[test]
fn backups_come_after_the_others_and_stale_paths_last() {
    let marked = |backup, stale| Candidate { backup, stale, ..path(0, 10, 10_000, 0) };
    let all = [marked(true, true), marked(false, true), marked(true, false), marked(false, false)];
    for left in (1..=4).rev() {
        let mut candidates: Candidates = all[..left].iter().copied().collect();
        best_tier(&mut candidates);
        assert_eq!(candidates.len(), 1);
        let best = [(true, true), (false, true), (true, false), (false, false)][left - 1];
        assert_eq!((candidates[0].backup, candidates[0].stale), best);
    }
}

/// The fast path sends 12 segments a round trip, ten times during one of the slow path: 12 × (10 + 9 / 2) × 10 segments
/// in the paper's formula, 174,000 octets.
#[test]
fn blest_spares_the_slow_path_when_the_window_would_run_out() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    for (edge, expected) in [(1 << 30, Some(1)), (176_000, Some(1)), (174_000, None), (20_000, None)] {
        let queue = Queue { edge, ..waiting(1 << 20) };
        assert_eq!(pick("blest", &candidates, &queue), expected, "{edge}");
    }
}

#[test]
fn blest_corrects_its_estimate_by_what_came_of_it() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    let mut queue = Queue { edge: 180_000, ..waiting(1 << 20) };
    let mut blest = by_name("blest").unwrap();
    assert!(blest.pick(&candidates, &queue).is_some());
    blest.on_blocked(queue.now);
    queue.now += Duration::from_millis(201);
    assert!(blest.pick(&candidates, &queue).is_none());
    for _ in 0..2 {
        queue.now += Duration::from_millis(201);
        blest.pick(&candidates, &queue);
    }
    assert!(blest.pick(&candidates, &queue).is_some());
}

/// The fast path needs (1 + k / 10,000) × 20 ms for what waits, the slow one 200 + 20 ms for anything: from 100,000 octets
/// on the slow one helps.
#[test]
fn ecf_waits_for_the_fast_path_while_that_is_done_earlier() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    for (octets, expected) in [(20_000, None), (99_000, None), (101_000, Some(1)), (1 << 20, Some(1))] {
        assert_eq!(pick("ecf", &candidates, &waiting(octets)), expected, "{octets}");
    }
    // Having waited, it does so until a quarter more than that waits.
    let mut ecf = by_name("ecf").unwrap();
    let mut decide = |octets| ecf.pick(&candidates, &waiting(octets)).is_some();
    assert_eq!([99_000, 120_000, 129_000, 120_000].map(&mut decide), [false, false, true, true]);
}

#[test]
fn redundant_sends_everything_on_every_path_and_skips_what_has_arrived() {
    let mut redundant = by_name("redundant").unwrap();
    let mut candidates = [path(0, 20, 10_000, 0), path(1, 200, 10_000, 0)];
    candidates[0].carried = 30_000;
    candidates[1].carried = 4_000;
    let queue = Queue { una: 12_000, start: 30_000, end: 50_000, ..waiting(0) };
    let mut pick = |candidates: &[Candidate], queue: &Queue| redundant.pick(candidates, queue);
    assert_eq!(pick(&candidates, &queue), Some(Pick { candidate: 0, start: 30_000, end: 50_000 }));
    candidates[0].room = 0;
    assert_eq!(pick(&candidates, &queue), Some(Pick { candidate: 1, start: 12_000, end: 50_000 }));
    candidates[1].carried = 30_000;
    assert_eq!(pick(&candidates, &queue), Some(Pick { candidate: 1, start: 30_000, end: 50_000 }));
    // Nothing new: what was sent on one path only goes on the other.
    let queue = Queue { end: 30_000, ..queue };
    assert_eq!(pick(&candidates, &queue), None);
    candidates[1].carried = 29_500;
    assert_eq!(pick(&candidates, &queue), Some(Pick { candidate: 1, start: 29_500, end: 30_000 }));
}

fn admitted(guard: &mut Guard, candidates: &[Candidate], queue: &Queue) -> Vec<usize> {
    let mut candidates: Candidates = candidates.iter().copied().collect();
    guard.admit(&mut candidates, queue);
    candidates.iter().map(|candidate| candidate.subflow).collect()
}

/// The fast path is done with 40,000 octets after 10 + 4 × 20 ms, the slow one has delivered its first after 100 ms.
#[test]
fn a_path_that_delivers_later_than_the_others_are_done_is_not_offered() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    assert_eq!(admitted(&mut Guard::default(), &candidates, &waiting(40_000)), [0]);
    assert_eq!(admitted(&mut Guard::default(), &candidates, &waiting(46_000)), [0, 1]);
    // In slow start the fast one is done earlier: after 10 + 20 × log2(1 + k / 10,000) ms.
    let candidates = [Candidate { slow_start: true, ..candidates[0] }, candidates[1]];
    assert_eq!(admitted(&mut Guard::default(), &candidates, &waiting(200_000)), [0]);
    assert_eq!(admitted(&mut Guard::default(), &candidates, &waiting(300_000)), [0, 1]);
}

/// The fast path carries 500,000 octets a second, 100,000 during a round trip of the slow one.
#[test]
fn a_path_that_would_hold_up_the_window_is_not_offered() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    let with = |edge| admitted(&mut Guard::default(), &candidates, &Queue { edge, ..waiting(1 << 20) });
    assert_eq!(with(99_000), [0]);
    assert_eq!(with(101_000), [0, 1]);
}

/// BBR has taken a token bucket that was full for the bandwidth: paced at 2.5 GB/s, but 8 MB a round trip are what leaves, 10 MB
/// in a round trip of the other.
#[test]
fn a_pacing_rate_that_is_too_high_excludes_no_other_path() {
    let bursty = Candidate { pacing_rate: Some(2_500_000_000), ..path(0, 40, 8_000_000, 8_000_000) };
    let candidates = [bursty, path(1, 50, 8_000_000, 0)];
    let with = |edge| admitted(&mut Guard::default(), &candidates, &Queue { edge, ..waiting(20_000_000) });
    assert_eq!(with(60_000_000), [0, 1]);
    assert_eq!(with(9_000_000), [0]);
    let done = admitted(&mut Guard::default(), &candidates, &waiting(900_000));
    assert_eq!(done, [0], "it delivers the first octet after 25 ms, the other is done after 20 + 4.5");
}

/// The peer's window may be waiting for data on the slow path before it grows (the fast one sends 100,000 octets during
/// a round trip of 200 ms).
#[test]
fn a_path_for_which_the_window_is_too_small_gets_copies_ever_more_seldom_while_the_window_stays() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    let (mut guard, mut queue) =
        (Guard::default(), Queue { start: 50_000, edge: 60_000, ..waiting(1 << 20) });
    let mut copies = |window: u64, millis: u64| -> Vec<u64> {
        let begin = queue.now;
        queue.edge = queue.una + window;
        let mut copies = Vec::new();
        for at in (0..millis).step_by(10) {
            queue.now = begin + Duration::from_millis(at);
            let mut offered: Candidates = candidates.iter().copied().collect();
            if guard.admit(&mut offered, &queue) == Some(1) {
                copies.push(at);
            }
            assert_eq!(offered.len(), 1);
        }
        queue.now = begin + Duration::from_millis(millis);
        copies
    };
    assert_eq!(copies(60_000, 2600), [0, 800, 2400]);
    assert_eq!(copies(80_000, 1400), [200, 1000], "the window grew: 400 ms after the last one");
    assert_eq!(copies(60_000, 40_000), [1200, 4400, 10_800, 23_600, 36_400]);
}

#[test]
fn nothing_is_copied_where_nothing_is_under_way_or_the_path_is_busy() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    let copied = |candidates: &[Candidate], queue: Queue| {
        let mut candidates: Candidates = candidates.iter().copied().collect();
        Guard::default().admit(&mut candidates, &queue)
    };
    let queue = Queue { start: 50_000, edge: 60_000, ..waiting(1 << 20) };
    assert_eq!(copied(&candidates, queue), Some(1));
    assert_eq!(copied(&candidates, Queue { again: true, ..queue }), None);
    assert_eq!(copied(&candidates, Queue { start: MSS - 1, ..queue }), None);
    assert_eq!(copied(&candidates, Queue { edge: 1 << 20, ..queue }), None);
    assert_eq!(copied(&[candidates[0], path(1, 200, 10_000, 1000)], queue), None);
}

/// The fast path is done with 40,000 octets before the slow one has delivered its first. That may be an old measurement.
#[test]
fn a_path_that_would_deliver_too_late_is_measured_again_from_time_to_time() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    let mut guard = Guard::default();
    let mut copied = |millis: u64| {
        let queue = Queue { start: 10_000, end: 50_000, ..waiting(0) };
        let queue = Queue { now: queue.now + Duration::from_millis(millis), ..queue };
        let mut offered: Candidates = candidates.iter().copied().collect();
        let copy = guard.admit(&mut offered, &queue);
        assert_eq!(offered.len(), 1);
        copy
    };
    assert_eq!([0, 10, 799, 800, 2399, 2400].map(&mut copied), [Some(1), None, None, Some(1), None, Some(1)]);
}

/// Lets the connection deliver at a rate (octets per millisecond) for so long.
fn deliver(queue: &mut Queue, millis: u64, rate: u64) {
    queue.now += Duration::from_millis(millis);
    queue.una += millis * rate;
    queue.start = queue.start.max(queue.una);
    queue.end = queue.start + (1 << 20);
    queue.edge = queue.una + (1 << 20);
}

#[test]
fn a_path_that_holds_up_the_window_is_barred_for_longer_and_longer_if_it_is_not_missed() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    let (mut guard, mut queue) = (Guard::default(), waiting(1 << 20));
    let slow = Duration::from_millis(200);
    assert_eq!(admitted(&mut guard, &candidates, &queue), [0, 1]);
    guard.blocked(queue.now, queue.una, 1, slow);
    assert_eq!(admitted(&mut guard, &candidates, &queue), [0, 1], "too early to tell");
    for bar in [800, 1600, 3200] {
        deliver(&mut queue, 500, 100);
        guard.blocked(queue.now, queue.una, 1, slow);
        deliver(&mut queue, bar - 1, 150);
        assert_eq!(admitted(&mut guard, &candidates, &queue), [0]);
        assert_eq!(admitted(&mut guard, &candidates[1..], &queue), [1], "nothing else is left");
        deliver(&mut queue, 1, 150);
        assert_eq!(admitted(&mut guard, &candidates, &queue), [0, 1], "probed again");
    }
    guard.on_reset(1);
    deliver(&mut queue, 500, 100);
    guard.blocked(queue.now, queue.una, 1, slow);
    deliver(&mut queue, 800, 150);
    assert_eq!(admitted(&mut guard, &candidates, &queue), [0, 1], "it was a new path");
}

#[test]
fn a_path_that_is_missed_is_not_barred_again_soon() {
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 10_000, 0)];
    let (mut guard, mut queue) = (Guard::default(), waiting(1 << 20));
    let slow = Duration::from_millis(200);
    admitted(&mut guard, &candidates, &queue);
    deliver(&mut queue, 500, 100);
    guard.blocked(queue.now, queue.una, 1, slow);
    deliver(&mut queue, 800, 50);
    for _ in 0..12 {
        assert_eq!(admitted(&mut guard, &candidates, &queue), [0, 1]);
        deliver(&mut queue, 1000, 100);
        guard.blocked(queue.now, queue.una, 1, slow);
    }
    deliver(&mut queue, 1000, 100);
    guard.blocked(queue.now, queue.una, 1, slow);
    assert_eq!(admitted(&mut guard, &candidates, &queue), [0]);
}

#[test]
fn the_example_in_the_documentation_is_the_one_that_is_tried() {
    let example = include_str!("example.rs");
    let shown = example.split_once("\n\n").unwrap().1;
    let documentation = include_str!("../../../../docs/extending.md");
    assert!(documentation.contains(shown.trim_end()), "docs/extending.md does not show scheduler/example.rs");
    let mut scheduler = example::EarliestDelivery;
    assert_eq!(scheduler.name(), "earliest-delivery");
    // The fast path needs 20 × (1 + k / 10,000) ms, the slow one 200 ms as long as it has room for all.
    let candidates = [path(0, 20, 10_000, 10_000), path(1, 200, 500_000, 0)];
    for (octets, expected) in [(85_000, None), (95_000, Some(1))] {
        assert_eq!(scheduler.pick(&candidates, &waiting(octets)).map(|pick| pick.candidate), expected);
    }
}
