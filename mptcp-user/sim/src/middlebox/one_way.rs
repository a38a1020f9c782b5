//! Boxes that stand in one direction only, as where routing is asymmetric.

use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::Segment;

/// Shows a box only what goes one way. Not for boxes that must see both, such as translators.
pub struct OneWay {
    /// The direction it stands in.
    pub way: Way,
    /// The box.
    pub inner: Box<dyn Middlebox>,
}

impl Middlebox for OneWay {
    fn name(&self) -> String {
        format!("{}, {:?} only", self.inner.name(), self.way)
    }
    fn process(&mut self, now: Instant, way: Way, segment: Segment, out: &mut Vec<Segment>) {
        if way == self.way {
            self.inner.process(now, way, segment, out);
        } else {
            out.push(segment);
        }
    }
    fn next_timeout(&self) -> Option<Instant> {
        self.inner.next_timeout()
    }
    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<(Way, Segment)>) {
        self.inner.handle_timeout(now, out);
    }
}
