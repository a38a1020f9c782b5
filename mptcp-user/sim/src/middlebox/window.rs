//! Boxes that lower the window a receiver offers, to slow senders down.

use super::flows::Flows;
use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, Segment};

/// Lets no window field through that is larger than its limit, whatever the window scale: in all segments, or
/// in every other one of a connection, which moves the right edge back and forth (RFC 8684 section 3.3.4
/// tells senders to remember the farthest).
pub struct WindowShrinker {
    limit: u16,
    /// Looks at every other segment only.
    wavering: bool,
    flows: Flows<bool>,
}

impl WindowShrinker {
    /// A box with the largest window field it lets through.
    pub fn new(limit: u16, wavering: bool) -> Self {
        Self { limit, wavering, flows: Flows::new() }
    }
}

impl Middlebox for WindowShrinker {
    fn name(&self) -> String {
        let wavering = if self.wavering { " in every other segment" } else { "" };
        format!("window shrinker to {}{wavering}", self.limit)
    }
    fn process(&mut self, now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        if !segment.flags.has(Flags::SYN) {
            let passes = self.flows.of(now, way, &segment, || true);
            *passes = self.wavering && !*passes;
            if !*passes {
                segment.window = segment.window.min(self.limit);
            }
        }
        out.push(segment);
    }
}
