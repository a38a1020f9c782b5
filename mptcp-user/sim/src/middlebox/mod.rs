//! Middleboxes, which change TCP segments on their way (RFC 8684 section 6, RFC 3234, "Is it still possible
//! to extend TCP?", IMC 2011).
//!
//! Each box is small and knows one trick. A [`Chain`] passes segments through several, forwards in one
//! direction and in the reverse order in the other, as if they stood one behind the other on the path.

mod coalesce;
mod config;
mod early_ack;
mod flows;
mod nat;
mod one_way;
mod payload;
mod proxy;
mod rewrite;
mod sack;
mod sequence;
mod split;
mod strip;
mod window;

pub use coalesce::Coalescer;
pub use config::BoxConfig;
pub use early_ack::EarlyAcker;
pub use nat::Nat;
pub use one_way::OneWay;
pub use payload::PayloadChanger;
pub use proxy::{Passing, TcpProxy};
pub use rewrite::{EcnBleacher, MssClamp, TimestampRewriter};
pub use sack::SackLiar;
pub use sequence::SequenceRandomiser;
pub use split::Splitter;
pub use strip::{Action, OptionFilter, OptionKind, When};
pub use window::WindowShrinker;

use mptcp_proto::Instant;
use mptcp_proto::wire::Segment;

/// Which way a segment goes through a box.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Way {
    /// From the side where connections come from (the client, the inside) to the other.
    Forward,
    /// Back.
    Reverse,
}

impl Way {
    /// The other way.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reverse,
            Self::Reverse => Self::Forward,
        }
    }
}

/// Something on the path that looks into segments.
pub trait Middlebox: Send {
    /// Its name in logs.
    fn name(&self) -> String;
    /// A segment comes in. The box pushes to `out` the segment itself, changed or not, several segments, or
    /// none.
    fn process(&mut self, now: Instant, way: Way, segment: Segment, out: &mut Vec<Segment>);
    /// When the box wants to be called without a segment.
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    /// Lets go what was held back until now, and what the box has to say by itself, in either direction. A
    /// box with an answer to a segment wants to be called at once.
    fn handle_timeout(&mut self, _now: Instant, _out: &mut Vec<(Way, Segment)>) {}
}

/// Boxes one behind the other, the first one on the side where connections come from.
#[derive(Default)]
pub struct Chain {
    boxes: Vec<Box<dyn Middlebox>>,
    spare: Vec<Segment>,
}

impl Chain {
    /// A chain of boxes.
    pub fn new(boxes: Vec<Box<dyn Middlebox>>) -> Self {
        Self { boxes, spare: Vec::new() }
    }
    /// Whether there is no box.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
    /// A segment comes in at one end. The chain pushes the segments that leave at the other end to `out`.
    pub fn process(&mut self, now: Instant, way: Way, segment: Segment, out: &mut Vec<Segment>) {
        let entry = match way {
            Way::Forward => 0,
            Way::Reverse => self.boxes.len(),
        };
        self.pass(now, way, entry, segment, out);
    }
    /// When a box wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.boxes.iter().filter_map(|middlebox| middlebox.next_timeout()).min()
    }
    /// Lets boxes release what they held back until now.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<(Way, Segment)>) {
        for place in 0..self.boxes.len() {
            if self.boxes[place].next_timeout().is_none_or(|at| at > now) {
                continue;
            }
            let mut released = Vec::new();
            self.boxes[place].handle_timeout(now, &mut released);
            for (way, segment) in released {
                let entry = match way {
                    Way::Forward => place + 1,
                    Way::Reverse => place,
                };
                let mut passed = Vec::new();
                self.pass(now, way, entry, segment, &mut passed);
                out.extend(passed.into_iter().map(|segment| (way, segment)));
            }
        }
    }

    /// Passes a segment on from between two boxes: `entry` boxes are before that place.
    fn pass(&mut self, now: Instant, way: Way, entry: usize, segment: Segment, out: &mut Vec<Segment>) {
        let count = self.boxes.len();
        let steps = match way {
            Way::Forward => count - entry,
            Way::Reverse => entry,
        };
        let mut current = vec![segment];
        let mut next = std::mem::take(&mut self.spare);
        for step in 0..steps {
            let place = match way {
                Way::Forward => entry + step,
                Way::Reverse => entry - 1 - step,
            };
            for segment in current.drain(..) {
                self.boxes[place].process(now, way, segment, &mut next);
            }
            std::mem::swap(&mut current, &mut next);
        }
        out.append(&mut current);
        next.clear();
        self.spare = next;
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.boxes.iter().map(|middlebox| middlebox.name())).finish()
    }
}

#[cfg(test)]
mod tests;
