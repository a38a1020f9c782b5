//! Boxes that put segments together, as interfaces with large receive offload do on routers.

use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, Segment, coalesce};
use std::time::Duration;

/// Holds data segments back for a moment and merges those that continue each other.
#[derive(Debug)]
pub struct Coalescer {
    /// Largest payload of a merged segment.
    limit: usize,
    /// How long a segment may be held.
    hold: Duration,
    /// Merge also across different options, keeping those of the first: a mapping gets lost.
    careless: bool,
    held: Vec<(Instant, Way, Segment)>,
}

impl Coalescer {
    /// A box that merges segments with the same options to at most `limit` octets of payload. A `careless`
    /// one merges whatever continues in sequence and keeps the options of the first.
    pub fn new(limit: usize, hold: Duration, careless: bool) -> Self {
        Self { limit: limit.min(60_000), hold, careless, held: Vec::new() }
    }

    fn merge(&self, first: &mut Segment, mut next: Segment) -> Result<(), Box<Segment>> {
        if self.careless && !next.payload.is_empty() {
            // `coalesce` compares these fields, so they are made equal. The later acknowledgment and window
            // prevail.
            let kept = next.clone();
            if next.ack.at_or_after(first.ack) {
                (first.ack, first.window) = (next.ack, next.window);
            }
            (next.ack, next.window, next.ecn) = (first.ack, first.window, first.ecn);
            next.options = first.options.clone();
            first.flags = first.flags.without(Flags::PSH);
            first.gso_size = 0;
            let size = first.payload.len();
            next.gso_size = 0;
            if next.payload.len() > size {
                return Err(Box::new(kept));
            }
            return coalesce(first, next, self.limit).map_err(|_| Box::new(kept));
        }
        coalesce(first, next, self.limit)
    }
}

impl Middlebox for Coalescer {
    fn name(&self) -> String {
        let careless = if self.careless { "careless " } else { "" };
        format!("{careless}coalescer to {} for {:?}", self.limit, self.hold)
    }
    fn process(&mut self, now: Instant, way: Way, segment: Segment, out: &mut Vec<Segment>) {
        let same = |held: &(Instant, Way, Segment)| {
            held.1 == way && (held.2.src, held.2.dst) == (segment.src, segment.dst)
        };
        let Some(place) = self.held.iter().position(same) else {
            let holds = !segment.payload.is_empty()
                && !segment.flags.has(Flags::SYN)
                && !segment.flags.has(Flags::RST)
                && !segment.flags.has(Flags::FIN);
            if holds {
                self.held.push((now + self.hold, way, segment));
            } else {
                out.push(segment);
            }
            return;
        };
        let (until, _, mut first) = self.held.remove(place);
        match self.merge(&mut first, segment) {
            Ok(()) => {
                // On the wire it is one segment.
                first.gso_size = 0;
                if first.flags.has(Flags::FIN) || first.payload.len() >= self.limit {
                    out.push(first);
                } else {
                    self.held.push((until, way, first));
                }
            }
            Err(next) => {
                out.push(first);
                self.process(now, way, *next, out);
            }
        }
    }
    fn next_timeout(&self) -> Option<Instant> {
        self.held.iter().map(|(until, ..)| *until).min()
    }
    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<(Way, Segment)>) {
        let mut place = 0;
        while place < self.held.len() {
            if self.held[place].0 <= now {
                let (_, way, segment) = self.held.remove(place);
                out.push((way, segment));
            } else {
                place += 1;
            }
        }
    }
}
