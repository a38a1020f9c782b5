//! How near pairs of addresses are to each other: the shortest round trip that any connection has seen between them.
//!
//! A connection that begins while others keep the queues full measures those. How large a burst may be depends on what is
//! behind them: without this, each of many busy connections would send in small pieces for as long as all are busy.

use super::Instant;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Further than this all are alike, and not remembered.
const FAR: Duration = Duration::from_millis(4);
/// For so long a measurement is believed; the kernel's metrics of destinations are as old.
const LASTS: Duration = Duration::from_secs(3600);
/// Most pairs remembered: one more pushes out the one that was measured longest ago.
const MAX_PAIRS: usize = 256;

/// Our address and the peer's.
type Pair = (IpAddr, IpAddr);

/// All of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Distances {
    /// The shortest round trip, and when it was measured.
    pairs: BTreeMap<Pair, (Duration, Instant)>,
}

impl Distances {
    /// A connection has measured `rtt`; the shortest that is known.
    pub(crate) fn measured(&mut self, now: Instant, pair: Pair, rtt: Duration) -> Duration {
        if let Some(known) = self.pairs.get_mut(&pair) {
            if rtt <= known.0 || now > known.1 + LASTS {
                *known = (rtt, now);
            }
            return known.0;
        }
        if rtt > FAR {
            return rtt;
        }
        if self.pairs.len() >= MAX_PAIRS {
            let oldest = self.pairs.iter().min_by_key(|(_, (_, at))| *at).map(|(pair, _)| *pair);
            oldest.and_then(|oldest| self.pairs.remove(&oldest));
        }
        self.pairs.insert(pair, (rtt, now));
        rtt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: usize) -> Pair {
        ([10, 0, 0, 1].into(), [10, 1, (number >> 8) as u8, number as u8].into())
    }

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn the_shortest_is_what_counts_for_an_hour() {
        let (mut distances, start) = (Distances::default(), Instant::ZERO);
        assert_eq!(distances.measured(start, pair(1), micros(300)), micros(300));
        assert_eq!(distances.measured(start, pair(1), micros(50)), micros(50));
        assert_eq!(distances.measured(start + LASTS, pair(1), micros(90_000)), micros(50));
        assert_eq!(distances.measured(start, pair(2), micros(400)), micros(400));
        let later = start + LASTS + micros(1);
        assert_eq!(
            distances.measured(later, pair(1), micros(90_000)),
            micros(90_000),
            "the path has changed"
        );
    }

    #[test]
    fn peers_can_fill_only_so_much() {
        let mut distances = Distances::default();
        for number in 0..2 * MAX_PAIRS {
            distances.measured(Instant::ZERO + micros(number as u64), pair(number), micros(100));
        }
        assert_eq!(distances.pairs.len(), MAX_PAIRS);
        distances.measured(Instant::ZERO + micros(10_000), pair(0), FAR * 2);
        assert_eq!(distances.pairs.len(), MAX_PAIRS);
        assert!(!distances.pairs.contains_key(&pair(0)), "what is far is not remembered");
        assert!(distances.pairs.contains_key(&pair(2 * MAX_PAIRS - 1)));
    }
}
