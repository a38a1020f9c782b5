//! Congestion control: how many octets each subflow may have in flight.
//!
//! One controller serves a whole connection and sees all of its paths, which is what coupling needs; an
//! uncoupled algorithm looks at one of them. To add an algorithm, write a file with one type that implements
//! [`CongestionControl`] and name it in [`ALGORITHMS`].
//!
//! An algorithm sets a window, and a rate at which the window leaves if it wants that (pacing).
//!
//! Loss detection, the pace at which the window shrinks during recovery (PRR, RFC 6937) and the undo of a
//! reduction that turned out to be unfounded are the subflow's and the same for all algorithms.

mod balia;
mod bbr;
mod cubic;
mod lia;
mod olia;
mod reno;
#[cfg(test)]
mod shared_bottleneck;
mod slow_start;
mod wvegas;

use super::Instant;
use super::dormant::Written;
use std::fmt::Debug;
use std::time::Duration;

/// A burst, or a super-segment, is about so much time long at the path's rate, so that it does not delay others.
const QUANTUM: Duration = Duration::from_millis(1);
/// To a peer that is near a burst may be as large as a super-segment, however low the rate: what others wait for it is less
/// than what cutting it costs. Half of that for each of these steps that it is further away.
const NEAR_BURST: u64 = 64 << 10;
const NEAR_STEP: Duration = Duration::from_micros(256);
/// No burst need be a larger part of the window than this, or the path would stand still between them.
const BURSTS_PER_WINDOW: u64 = 3;
/// Initial window in segments (RFC 6928).
const INITIAL_SEGMENTS: u64 = 10;
/// No threshold is lower than this many segments (RFC 5681, equation 4).
const MIN_SEGMENTS: u64 = 2;

/// A subflow as congestion control sees it. Windows are in octets.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Path {
    /// Congestion window.
    pub(crate) cwnd: u64,
    /// Slow-start threshold; `u64::MAX` until there was a loss.
    pub(crate) ssthresh: u64,
    /// Octets per second at which the window leaves; none: as acknowledgments come.
    pub(crate) pacing_rate: Option<u64>,
    /// Payload of a full packet.
    pub(crate) mss: u64,
    /// Smoothed round-trip time.
    pub(crate) srtt: Option<Duration>,
    /// Smallest round-trip time.
    pub(crate) min_rtt: Option<Duration>,
    /// The smallest that any connection has seen between these addresses.
    #[serde(skip)]
    pub(crate) distance: Option<Duration>,
    /// Octets in flight.
    pub(crate) in_flight: u64,
    /// Whether the subflow is established and can carry data.
    pub(crate) active: bool,
    /// In fast recovery: the window follows what is in flight, and says little of the path.
    pub(crate) recovering: bool,
    /// The window was what limited the sender when the last acknowledgment came.
    pub(crate) limited: bool,
    /// Another path may be dead, and this one carries the stream instead.
    pub(crate) careful: bool,
}

impl Path {
    pub(crate) fn new(mss: u64) -> Self {
        Self {
            cwnd: INITIAL_SEGMENTS * mss,
            ssthresh: u64::MAX,
            pacing_rate: None,
            mss,
            srtt: None,
            min_rtt: None,
            distance: None,
            in_flight: 0,
            active: false,
            recovering: false,
            limited: false,
            careful: false,
        }
    }

    pub(crate) fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Octets that should leave in one burst, given the round-trip time.
    pub(crate) fn quantum(&self, srtt: Option<Duration>) -> u64 {
        let quantum = |octets: u64, time: Duration| {
            (u128::from(octets) * QUANTUM.as_nanos() / time.as_nanos().max(1)) as u64
        };
        match self.pacing_rate {
            Some(rate) => quantum(rate, Duration::from_secs(1)),
            None => quantum(self.cwnd, srtt.unwrap_or(QUANTUM)).max(self.near_burst()),
        }
    }

    /// How large a burst to a near peer has to be to be worth waiting for, where the window lets through less than that. What
    /// an acknowledgment frees is as large as the segment was that it is for: without this, small ones would stay small. More
    /// is in flight than is waited for, so that it will come, and soon. Further away, larger bursts would find queues full.
    pub(crate) fn worthwhile_burst(&self, srtt: Option<Duration>) -> u64 {
        self.near_burst().min(self.quantum(srtt)).min(self.cwnd / BURSTS_PER_WINDOW)
    }

    fn near_burst(&self) -> u64 {
        let Some(distance) = self.distance.or(self.min_rtt) else { return 0 };
        let steps = distance.as_nanos() / NEAR_STEP.as_nanos();
        NEAR_BURST.checked_shr(steps.min(64) as u32).unwrap_or(0)
    }

    /// Halves the window, which is not to grow back at once.
    pub(crate) fn penalise(&mut self) {
        self.reduce(0.5);
        self.cwnd = self.cwnd.min(self.ssthresh);
    }

    /// Sets the threshold after a congestion signal to `factor` of the window.
    fn reduce(&mut self, factor: f64) {
        self.reduce_to(factor, MIN_SEGMENTS);
    }

    /// The same with a smallest threshold of so many segments.
    fn reduce_to(&mut self, factor: f64, least: u64) {
        self.ssthresh = ((self.cwnd as f64 * factor) as u64).max(least * self.mss);
    }

    /// Round-trip time in seconds, a millisecond where none was measured.
    fn rtt(&self) -> f64 {
        self.srtt.map_or(1e-3, |rtt| rtt.as_secs_f64()).max(1e-6)
    }

    /// The window by which other paths take account of this one (RFC 6356 section 3): in fast recovery what it will be
    /// after that, and where it is not what limits the sender, no more than is in flight. Octets.
    fn window_in_use(&self) -> u64 {
        let window = if self.recovering { self.ssthresh } else { self.cwnd };
        if self.limited { window } else { window.min(self.in_flight) }
    }

    /// A window that was not used says less and less of the path: it halves with each timeout's worth of idle time,
    /// down to the initial one (RFC 5681 section 4.1, in the gentler form of RFC 2861), and can be won back quickly.
    fn decay(&mut self, mut idle: Duration, rto: Duration) {
        let floor = self.cwnd.min(INITIAL_SEGMENTS * self.mss);
        while idle > rto && self.cwnd > floor {
            self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
            self.cwnd = (self.cwnd / 2).max(floor);
            idle -= rto;
        }
    }
}

/// How fast a path delivered (draft-cheng-iccrg-delivery-rate-estimation), measured over the flight of the newest segment
/// that an acknowledgment delivered: from its departure on. Octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSample {
    /// Octets per second; none where the time was too short to tell.
    pub(crate) rate: Option<u64>,
    /// Delivered during the flight.
    pub(crate) delivered: u64,
    /// Delivered since the path began, before the flight and by now.
    pub(crate) prior_delivered: u64,
    pub(crate) total_delivered: u64,
    /// Lost during the flight.
    pub(crate) lost: u64,
    /// In flight at its beginning, the segment included.
    pub(crate) in_flight: u64,
    /// The application did not send enough for the rate to say what the path can do.
    pub(crate) app_limited: bool,
}

/// What losing a segment says of the flight it was part of. Octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossSample {
    /// Lost since the last acknowledgment.
    pub(crate) octets: u64,
    /// Lost since the last of them was sent.
    pub(crate) since_sent: u64,
    /// In flight when it was sent, itself included.
    pub(crate) in_flight: u64,
    pub(crate) app_limited: bool,
}

/// What an acknowledgment said about one path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ack {
    /// Octets that left the network, by cumulative acknowledgment or SACK.
    pub(crate) delivered: u64,
    /// Round-trip time measured with it.
    pub(crate) rtt: Option<Duration>,
    /// Whether the window was what limited the sender. If not, it must not grow (RFC 7661).
    pub(crate) limited: bool,
    /// Whether a new round (window's worth of data) began with it.
    pub(crate) round: bool,
    /// How fast the path delivered.
    pub(crate) rate: Option<RateSample>,
    /// What was found lost since the last one.
    pub(crate) loss: Option<LossSample>,
    /// Fast recovery ended with it.
    pub(crate) recovered: bool,
}

/// Why the window must come down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// Segments were lost.
    Loss,
    /// The peer echoed a congestion mark (RFC 3168): a queue has begun to grow.
    EcnEcho,
}

/// An algorithm. `path` indexes `paths`.
pub(crate) trait CongestionControl: Written + Send + Debug {
    /// Name by which it is chosen.
    fn name(&self) -> &'static str;
    /// Whether the algorithm sets the window in recovery, too: then PRR leaves it alone, and acknowledgments are told
    /// then as well.
    fn rules_recovery(&self) -> bool {
        false
    }
    /// An acknowledgment came while the path is not in recovery.
    fn on_ack(&mut self, now: Instant, path: usize, ack: &Ack, paths: &mut [Path]);
    /// Congestion: once per round trip at most. Sets `ssthresh`; recovery brings the window down to it.
    fn on_congestion(&mut self, now: Instant, path: usize, cause: Cause, paths: &mut [Path]);
    /// Retransmission timeout. Sets `ssthresh`; the window starts again from one segment.
    fn on_timeout(&mut self, now: Instant, path: usize, paths: &mut [Path]) {
        self.on_congestion(now, path, Cause::Loss, paths);
    }
    /// Sending begins after `idle` without anything in flight, `rto` being the retransmission timeout.
    fn on_restart(&mut self, _now: Instant, path: usize, idle: Duration, rto: Duration, paths: &mut [Path]) {
        paths[path].decay(idle, rto);
    }
    /// The last reduction was a mistake and window and threshold have been restored.
    fn on_undo(&mut self, _path: usize) {}
    /// The path sent nothing for a while or is new in this place: forget what was learnt.
    fn on_reset(&mut self, path: usize);
}

/// Name, what it is for, and constructor.
type Algorithm = (&'static str, &'static str, fn() -> Box<dyn CongestionControl>);

/// All algorithms.
pub(crate) const ALGORITHMS: &[Algorithm] = &[
    (
        "cubic",
        "each path by itself, as most hosts do it; grows back quickly where the bandwidth is large",
        || Box::new(cubic::Cubic::default()),
    ),
    ("reno", "each path by itself, the standard's plain rules", || Box::new(reno::Reno::default())),
    (
        "bbr",
        "each path by itself, by its measured rate; keeps queues short and does not mind random losses",
        || Box::new(bbr::Bbr::default()),
    ),
    ("lia", "all paths together no more than one TCP on the best of them (RFC 6356)", || {
        Box::new(lia::Lia::default())
    }),
    ("olia", "as lia, and moves from congested paths to better ones sooner", || {
        Box::new(olia::Olia::default())
    }),
    ("balia", "as lia, a compromise between friendliness and quick reactions", || {
        Box::new(balia::Balia::default())
    }),
    ("wvegas", "all paths together, by delay; gives way to everybody who fills queues", || {
        Box::new(wvegas::WVegas::default())
    }),
];

/// A controller by its name.
pub(crate) fn by_name(name: &str) -> Option<Box<dyn CongestionControl>> {
    ALGORITHMS.iter().find(|(known, ..)| *known == name).map(|(_, _, make)| make())
}

/// Per-path state of an algorithm, made as paths appear.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct PerPath<T>(Vec<T>);

impl<T: Default> PerPath<T> {
    fn at(&mut self, path: usize) -> &mut T {
        if path >= self.0.len() {
            self.0.reserve_exact(path + 1 - self.0.len());
            self.0.resize_with(path + 1, T::default);
        }
        &mut self.0[path]
    }
}

impl<T> Default for PerPath<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Octets to add to the window so that it grows by `increase` octets for each window's worth acknowledged;
/// `credit` carries what is less than a whole octet.
fn additive(path: &Path, delivered: u64, increase: f64, credit: &mut f64) -> u64 {
    *credit += delivered as f64 * increase / path.cwnd.max(1) as f64;
    let whole = credit.max(0.0) as u64;
    *credit -= whole as f64;
    whole
}

/// The paths that a coupled algorithm reckons with when something happens on the one in place `index`: that one, with its
/// whole window, and those that carry data. Place, path, and window in octets.
//= RFC 8684 3.3.7-1
fn coupled(index: usize, paths: &[Path]) -> impl Iterator<Item = (usize, &Path, f64)> {
    paths.iter().enumerate().filter_map(move |(place, path)| match () {
        () if place == index => Some((place, path, path.cwnd as f64)),
        () if path.active => {
            Some((place, path, path.window_in_use() as f64)).filter(|(.., window)| *window > 0.0)
        }
        () => None,
    })
}

/// Smallest threshold of a path in segments, as OLIA and BALIA have it: one, so that a congested path carries next to
/// nothing while there are others.
fn least_segments(paths: &[Path]) -> u64 {
    if paths.iter().filter(|path| path.active).count() > 1 { 1 } else { MIN_SEGMENTS }
}

/// Two paths of 50 ms in congestion avoidance with these windows, for the tests of coupled algorithms.
#[cfg(test)]
fn avoiding(windows: [u64; 2]) -> [Path; 2] {
    windows.map(|cwnd| Path {
        cwnd,
        ssthresh: 10_000,
        srtt: Some(Duration::from_millis(50)),
        active: true,
        limited: true,
        ..Path::new(1000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_waited_for_near_peers_only_and_no_longer_than_part_of_a_window() {
        let path = |cwnd, min_rtt, distance: Option<u64>| Path {
            cwnd,
            srtt: Some(Duration::from_millis(20)),
            min_rtt: Some(Duration::from_micros(min_rtt)),
            distance: distance.map(Duration::from_micros),
            ..Path::new(1000)
        };
        let worthwhile = |path: Path| path.worthwhile_burst(path.srtt);
        assert_eq!(worthwhile(path(3_000_000, 50, None)), NEAR_BURST);
        assert_eq!(worthwhile(path(30_000, 50, None)), 10_000);
        assert_eq!(worthwhile(path(3_000_000, 600, None)), NEAR_BURST / 4);
        assert_eq!(worthwhile(path(3_000_000, 20_000, None)), 0, "far away");
        // One that began while the queues were full is as near as those before it.
        assert_eq!(worthwhile(path(3_000_000, 20_000, Some(50))), NEAR_BURST);
        // What is paced leaves at its rate: here 200 octets in a millisecond.
        let paced = Path { pacing_rate: Some(200_000), ..path(3_000_000, 50, None) };
        assert_eq!(worthwhile(paced), 200);
    }

    /// A window of 100000 that is not what limits the sender counts as the 30000 in flight; one in fast recovery as its
    /// threshold, 60000, or what is in flight; an idle path not at all; the path itself with its whole window.
    #[test]
    fn other_paths_count_with_the_window_they_use() {
        let mut paths = avoiding([50_000, 100_000]);
        let windows =
            |paths: &[Path]| coupled(0, paths).map(|(place, _, window)| (place, window)).collect::<Vec<_>>();
        assert_eq!(windows(&paths), [(0, 50_000.0), (1, 100_000.0)]);
        (paths[1].limited, paths[1].in_flight) = (false, 30_000);
        assert_eq!(windows(&paths), [(0, 50_000.0), (1, 30_000.0)]);
        (paths[1].recovering, paths[1].ssthresh) = (true, 60_000);
        assert_eq!(windows(&paths), [(0, 50_000.0), (1, 30_000.0)]);
        (paths[1].limited, paths[1].cwnd) = (true, 20_000);
        assert_eq!(windows(&paths), [(0, 50_000.0), (1, 60_000.0)]);
        paths[1].active = false;
        assert_eq!(windows(&paths), [(0, 50_000.0)]);
        paths[1].active = true;
        (paths[1].limited, paths[1].in_flight) = (false, 0);
        assert_eq!(windows(&paths), [(0, 50_000.0)]);
        (paths[0].limited, paths[0].in_flight) = (false, 0);
        assert_eq!(windows(&paths), [(0, 50_000.0)]);
    }

    #[test]
    fn a_burst_lasts_a_millisecond_and_is_a_super_segment_to_those_who_are_near() {
        let mut path = Path { cwnd: 20_000, ..Path::new(1000) };
        let srtt = Some(Duration::from_millis(10));
        assert_eq!(path.quantum(srtt), 2000);
        for (micros, octets) in
            [(255, 64 << 10), (256, 32 << 10), (600, 16 << 10), (3000, 2000), (1 << 40, 2000)]
        {
            path.min_rtt = Some(Duration::from_micros(micros));
            assert_eq!(path.quantum(srtt), octets, "{micros} µs away");
        }
        // A rate that somebody has chosen is kept to.
        path = Path { pacing_rate: Some(5_000_000), min_rtt: Some(Duration::ZERO), ..path };
        assert_eq!(path.quantum(srtt), 5000);
    }
}
