//! How large a connection's buffers should be: dynamic right-sizing.
//!
//! Receiving: what the application reads in one round trip says what can be under way. Twice that lets the sender double
//! its window; the rest is for the octets that come behind a loss for a round trip or two, and for the time until the news
//! of a larger window has an effect. RFC 8684 section 3.3.1 asks for the sum of the bandwidths times the longest
//! round-trip time, which is what is read in the longest one. It must be that of all paths that may be used, also of those
//! that bring nothing: a sender that is cautious leaves a slow path alone for as long as the window is too small for it.
//! Sending: the same product, from congestion windows.
//!
//! A receive buffer only grows: what a connection needed once it will need again, and an empty one costs nothing. A send
//! buffer is as full as it can be where there is much to send, so that it follows the windows down, too.

use super::Instant;
use std::time::Duration;

/// Capacity of each buffer in the beginning: as many octets as slow start sends in its first few round trips.
pub(crate) const INITIAL: u64 = 128 << 10;
/// Capacity over octets per round trip.
const FACTOR: u64 = 4;
/// Shorter round trips are not told apart: below this, how often tasks are scheduled decides.
const SHORTEST: Duration = Duration::from_millis(1);
/// An application that reads once in so long a time is taken for a steady reader; up to `FACTOR` times as long, its buffer may
/// still grow. One that has many connections to look after comes back the later the more it finds, which must have an end.
/// (It is not what makes 100 busy connections large: those were the same with 100 ms here.)
const BURST: Duration = Duration::from_millis(10);
/// How long an application that is told that it may write can be away, with others to look after: as long as its paths are, at
/// least so long.
const AWAY: Duration = Duration::from_millis(10);

/// What is known of the application's reading.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct ReadRate {
    began: Option<Instant>,
    /// Octets read since.
    read: u64,
    /// Octets of the round before.
    before: u64,
}

impl ReadRate {
    /// The application has read `octets` more; `rtt`: the longest round-trip time of the paths. Gives the capacity that
    /// is wanted, at the end of each round.
    pub(crate) fn read(&mut self, now: Instant, octets: u64, rtt: Option<Duration>) -> Option<u64> {
        let began = *self.began.get_or_insert(now);
        self.read += octets;
        let (rtt, passed) = (rtt.unwrap_or_default().max(SHORTEST), now - began);
        if passed < rtt {
            return None;
        }
        // A round that was long because nothing was read is no measure of speed.
        let span = rtt.max(BURST);
        let scaled = u128::from(self.read) * span.as_nanos() / passed.max(span).as_nanos();
        let read = scaled as u64;
        let growth = read.saturating_sub(self.before).min(self.before);
        (self.began, self.read, self.before) = (Some(now), 0, read);
        Some(FACTOR.saturating_mul(read + growth))
    }

    /// When the round in progress began.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.began
    }
}

/// Round-trip time as a receiver sees it: the time between an acknowledgment and the data that echoes its timestamp. What
/// is sent later than it could have been makes it longer, so that the smallest one of a round counts.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct EchoTime {
    current: Option<Duration>,
    least: Option<Duration>,
    since: Instant,
    /// When data came last.
    pub(crate) data_at: Option<Instant>,
}

impl EchoTime {
    /// Data came; it echoes a timestamp of so long ago.
    pub(crate) fn data(&mut self, now: Instant, echo: Option<Duration>) {
        self.data_at = Some(now);
        let Some(echo) = echo else { return };
        let least = self.least.map_or(echo, |least| least.min(echo));
        self.least = Some(least);
        if now - self.since >= least {
            self.current = self.least.take();
            self.since = now;
        }
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        self.current
    }
}

/// A path that a send buffer is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendPath {
    pub(crate) cwnd: u64,
    pub(crate) srtt: Duration,
    pub(crate) min_rtt: Duration,
}

impl SendPath {
    fn srtt(&self) -> Duration {
        self.srtt.max(SHORTEST)
    }

    /// Octets that leave in so long a time.
    fn during(&self, time: Duration) -> u64 {
        (u128::from(self.cwnd) * time.as_nanos() / self.srtt().as_nanos()).min(u128::from(u32::MAX)) as u64
    }
}

/// How many octets a send buffer may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct SendSizes {
    /// Under way and waiting.
    pub(crate) capacity: u64,
    /// Waiting, of these: how far the application may be ahead of the paths.
    pub(crate) ahead: u64,
}

impl SendSizes {
    /// Before anything is known of the paths; `limit`: what the user allows.
    pub(crate) fn initial(limit: u64) -> Self {
        Self { capacity: INITIAL.min(limit), ahead: INITIAL }
    }

    /// What keeps these paths busy.
    ///
    /// Octets are under way for the longest round-trip time, until the peer has all before them (RFC 8684 section 3.3.1,
    /// RFC 8041 section 3.3). Those that wait are there so that nothing stands still until the application, once it is
    /// woken, has brought more; and so that a path is used the packets on which are longer under way than on another one: it
    /// is worth using for what that one would still have waiting when they arrive. More of them would only take memory, and
    /// be out of all caches by the time they leave.
    pub(crate) fn of(paths: impl Iterator<Item = SendPath> + Clone) -> Self {
        let longest = paths.clone().map(|path| path.srtt()).max().unwrap_or(SHORTEST);
        let away = paths.clone().map(|path| path.min_rtt).max().unwrap_or_default().max(AWAY);
        let per_round: u64 = paths.clone().map(|path| path.during(longest)).sum();
        // A packet arrives half a round trip after it left. A third more, because the application is not woken for each of them.
        let ahead: u64 = paths.map(|path| path.during(away + (longest - path.srtt()) * 2 / 3)).sum();
        Self { capacity: FACTOR * per_round, ahead: ahead.max(INITIAL / 2) }
    }
}

/// What those who stand between an application and the engine should know of a connection, in octets. It changes with the paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueSizes {
    /// How far the application may be ahead of the paths.
    pub ahead: usize,
    /// What a super-segment carries. What is handed over in pieces of this size leaves in super-segments without small ones
    /// in between.
    pub piece: usize,
    /// What the receive buffer may hold.
    pub receive: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The capacity after ten seconds of reading `rate` octets a second, `every` so often.
    fn capacity(rate: u64, rtt: Duration, every: Duration) -> u64 {
        let (mut reads, mut now, mut capacity) = (ReadRate::default(), Instant::ZERO, INITIAL);
        while now < Instant::ZERO + Duration::from_secs(10) {
            now += every;
            let octets = (rate as f64 * every.as_secs_f64()) as u64;
            capacity = capacity.max(reads.read(now, octets, Some(rtt)).unwrap_or(0));
        }
        capacity
    }

    #[test]
    fn the_buffer_grows_with_rate_and_round_trip_time() {
        for (rate, rtt) in [(10_000_000, 20), (10_000_000, 200), (1_000_000, 400)] {
            let product = rate * rtt / 1000;
            let capacity = capacity(rate, millis(rtt), millis(1));
            assert!(capacity >= 2 * product, "{rate} {rtt}: {capacity}");
            assert!(capacity <= (9 * product).max(INITIAL), "{rate} {rtt}: {capacity}");
        }
    }

    #[test]
    fn a_slow_reader_gets_no_more_than_it_began_with() {
        assert_eq!(capacity(50_000, millis(20), millis(20)), INITIAL);
        assert_eq!(capacity(50_000, millis(200), millis(20)), INITIAL);
        // Much at once, but seldom.
        assert_eq!(capacity(100_000, millis(20), Duration::from_secs(2)), INITIAL);
    }

    #[test]
    fn a_reader_that_doubles_its_speed_is_not_held_back() {
        let (mut reads, mut now, mut octets, mut capacity) =
            (ReadRate::default(), Instant::ZERO, 14_000, INITIAL);
        for _ in 0..10 {
            for _ in 0..10 {
                now += millis(10);
                capacity = capacity.max(reads.read(now, octets / 10, Some(millis(100))).unwrap_or(0));
            }
            octets *= 2;
            assert!(capacity * 2 >= octets * 3, "{capacity} for {octets}");
        }
    }

    #[test]
    fn a_pause_does_not_count_as_round_trip_time() {
        let (mut echo, mut now) = (EchoTime::default(), Instant::ZERO + millis(1000));
        for _ in 0..100 {
            now += millis(5);
            echo.data(now, Some(millis(50)));
        }
        assert_eq!(echo.get(), Some(millis(50)));
        now += millis(5000);
        for step in 0..20 {
            now += millis(5);
            echo.data(now, Some(if step < 10 { millis(5000) } else { millis(50) }));
        }
        now += millis(50);
        echo.data(now, Some(millis(55)));
        assert!(echo.get().unwrap() <= millis(55), "{echo:?}");
    }

    #[test]
    fn the_slow_path_makes_octets_of_the_fast_one_wait() {
        let path = |srtt, min_rtt| SendPath { cwnd: 100_000, srtt: millis(srtt), min_rtt: millis(min_rtt) };
        let one = SendSizes::of([path(20, 20)].into_iter());
        assert_eq!(one, SendSizes { capacity: 400_000, ahead: 100_000 });
        let two = SendSizes::of([path(20, 20), path(200, 200)].into_iter());
        assert_eq!(two.capacity, 4 * (1_000_000 + 100_000));
        assert_eq!(two.ahead, 1_000_000 + 600_000 + 100_000);
    }

    #[test]
    fn time_spent_in_queues_does_not_let_an_application_be_further_ahead() {
        let path = |cwnd, srtt| SendPath { cwnd, srtt: millis(srtt), min_rtt: millis(1) };
        let (short, long) = (path(200_000, 20), path(2_000_000, 200));
        assert_eq!(SendSizes::of([short].into_iter()).ahead, 100_000);
        assert_eq!(SendSizes::of([long].into_iter()).ahead, 100_000);
        // But where the queues differ, the longer one is to be used, too.
        let both = SendSizes::of([short, long].into_iter()).ahead;
        assert!(both >= short.during(millis(200 - 20) / 2) * 4 / 3, "{both}");
    }
}
