//! Boxes that change a header field or two, keeping next to no state.

use super::flows::Flows;
use super::{Middlebox, Way};
use crate::Random;
use mptcp_proto::Instant;
use mptcp_proto::wire::{Ecn, Flags, Segment};

/// Lowers the MSS option of SYNs, as routers before tunnels do.
#[derive(Clone, Debug)]
pub struct MssClamp {
    /// Largest MSS let through.
    pub mss: u16,
}

impl Middlebox for MssClamp {
    fn name(&self) -> String {
        format!("MSS clamp to {}", self.mss)
    }
    fn process(&mut self, _now: Instant, _way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        segment.options.mss = segment.options.mss.map(|mss| mss.min(self.mss));
        out.push(segment);
    }
}

/// Clears the ECN bits of the IP header.
#[derive(Clone, Debug)]
pub struct EcnBleacher;

impl Middlebox for EcnBleacher {
    fn name(&self) -> String {
        "ECN bleacher".into()
    }
    fn process(&mut self, _now: Instant, _way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        segment.ecn = Ecn::NotEct;
        out.push(segment);
    }
}

/// Adds an offset of its own to the timestamps of each connection and direction, and takes it off the echoes.
#[derive(Debug)]
pub struct TimestampRewriter {
    random: Random,
    flows: Flows<[u32; 2]>,
}

impl TimestampRewriter {
    /// A box without connections yet.
    pub fn new(random: Random) -> Self {
        Self { random, flows: Flows::new() }
    }
}

impl Middlebox for TimestampRewriter {
    fn name(&self) -> String {
        "timestamp rewriter".into()
    }
    fn process(&mut self, now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        let [own, other] = self.flows.offsets(now, way, &segment, &mut self.random);
        if let Some(timestamps) = &mut segment.options.timestamps {
            timestamps.value = timestamps.value.wrapping_add(own);
            if segment.flags.has(Flags::ACK) {
                timestamps.echo = timestamps.echo.wrapping_sub(other);
            }
        }
        out.push(segment);
    }
}
