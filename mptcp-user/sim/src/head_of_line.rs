//! How long octets wait at a receiver for earlier ones of the data stream, on whichever subflow those come:
//! the head-of-line delay of several paths. Counted from an octet's first arrival until all before it have
//! come.

use mptcp_proto::Instant;
use mptcp_proto::crypto::Key;
use mptcp_proto::wire::{DataSeq, Flags, MptcpOption, Segment, SeqNumber, Version};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

/// Watches what arrives at one side of the one connection that there is, in version 1.
#[derive(Debug, Default)]
pub struct HeadOfLine {
    /// Where the sequence numbers of each subflow begin.
    subflows: HashMap<(SocketAddr, SocketAddr), SeqNumber>,
    /// Data sequence number of the first octet.
    first: Option<DataSeq>,
    next: u64,
    /// Octets beyond the next one, disjoint: start to end, and when they came.
    held: BTreeMap<u64, (u64, Instant)>,
    /// Octets that have waited for so long, in microseconds.
    waited: BTreeMap<u64, u64>,
}

impl HeadOfLine {
    /// A segment arrives.
    pub(super) fn arrived(&mut self, now: Instant, segment: &Segment) {
        let tuple = (segment.src, segment.dst);
        if segment.flags.has(Flags::SYN) {
            self.subflows.insert(tuple, segment.seq);
        }
        let capable = segment.options.capable();
        if let Some(key) = capable.and_then(|capable| capable.sender_key) {
            self.first.get_or_insert(Key::new(Version::V1, key).idsn + 1);
        }
        let (Some(first), Some(&begin)) = (self.first, self.subflows.get(&tuple)) else { return };
        let at = segment.seq.0.wrapping_sub(begin.0);
        let start = segment.options.mptcp.iter().find_map(|option| match option {
            MptcpOption::Dss(dss) => dss.mapping.map(|mapping| {
                mapping.dsn.distance(first) + i64::from(at.wrapping_sub(mapping.subflow_seq) as i32)
            }),
            MptcpOption::Capable(capable) => capable.data.map(|_| i64::from(at) - 1),
            _ => None,
        });
        if let Some(start) = start.filter(|start| *start >= 0 && !segment.payload.is_empty()) {
            self.take(now, start as u64, start as u64 + segment.payload.len() as u64);
        }
    }

    fn take(&mut self, now: Instant, mut start: u64, end: u64) {
        start = start.max(self.next);
        while start < end {
            if let Some((_, &(known, _))) = self.held.range(..=start).next_back()
                && known > start
            {
                start = known;
                continue;
            }
            let gap = self.held.range(start..end).next().map_or(end, |(&next, _)| next);
            self.held.insert(start, (gap, now));
            start = gap;
        }
        while let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= self.next) {
            let (end, since) = entry.remove();
            let waited = (now - since).as_micros() as u64;
            *self.waited.entry(waited).or_default() += end - self.next;
            self.next = end;
        }
    }

    /// How long the given share of all octets has waited at most: 0.5 the median, 1.0 the longest wait.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.waited.values().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let found = self.waited.iter().find(|(_, octets)| {
            seen += **octets;
            seen >= wanted
        });
        Duration::from_micros(found.map_or(0, |(waited, _)| *waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn an_octet_waits_from_its_first_arrival_until_those_before_it_have_come() {
        let mut watch = HeadOfLine::default();
        watch.take(at(0), 0, 40);
        watch.take(at(10), 60, 80);
        watch.take(at(20), 50, 90);
        assert_eq!(watch.quantile(1.0), Duration::ZERO);
        watch.take(at(50), 40, 50);
        // 40 and 10 octets have not waited, 10 and 10 for 30 ms, 20 for 40 ms.
        assert_eq!(watch.next, 90);
        let millis = [0.5, 0.56, 0.77, 0.78, 1.0].map(|share| watch.quantile(share).as_millis());
        assert_eq!(millis, [0, 30, 30, 40, 40]);
    }
}
