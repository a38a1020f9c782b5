//! Boxes that cut segments.

use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::{Segment, segmentize};

/// Cuts segments into smaller ones.
#[derive(Clone, Debug)]
pub struct Splitter {
    /// Largest payload that passes whole.
    pub size: u16,
    /// Repeat the options on every piece, as interfaces do; otherwise Multipath TCP's stay on the first only,
    /// which is enough for a mapping.
    pub repeat_options: bool,
}

impl Middlebox for Splitter {
    fn name(&self) -> String {
        let options = if self.repeat_options { "" } else { ", options on the first piece" };
        format!("splitter to {}{options}", self.size)
    }
    fn process(&mut self, _now: Instant, _way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        if segment.payload.len() <= usize::from(self.size) {
            out.push(segment);
            return;
        }
        segment.gso_size = self.size.max(1);
        let first = out.len();
        out.extend(segmentize(&segment));
        if !self.repeat_options {
            for piece in &mut out[first + 1..] {
                piece.options.mptcp.clear();
            }
        }
    }
}
