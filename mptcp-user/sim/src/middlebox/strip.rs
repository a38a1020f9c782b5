//! Boxes that remove options they do not know, or drop segments that carry them.

use super::flows::Flows;
use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, MptcpOption, Segment};
use std::time::Duration;

/// Kinds of options a box may dislike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionKind {
    /// Maximum segment size.
    Mss,
    /// Window scale.
    WindowScale,
    /// SACK permitted, and SACK.
    Sack,
    /// Timestamps.
    Timestamps,
    /// All of Multipath TCP.
    Mptcp,
    /// MP_CAPABLE only.
    MpCapable,
    /// MP_JOIN only.
    MpJoin,
    /// DSS only.
    Dss,
    /// ADD_ADDR only.
    AddAddr,
    /// All that a box of the year 2000 does not know: Multipath TCP, the user timeout.
    Unknown,
}

/// Which segments a box looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// All.
    Always,
    /// Segments with SYN.
    Syn,
    /// Segments without SYN.
    NotSyn,
    /// Segments with payload.
    Data,
    /// SYNs that open a connection.
    OpeningSyn,
    /// Their answers.
    SynAck,
    /// The first segment after the SYN from the side that opened the connection.
    ThirdAck,
    /// From so long after the first segment of a connection on.
    Later(Duration),
}

/// The action of the box.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Removes the option.
    Strip,
    /// Drops the segment.
    Drop,
}

/// Removes an option, or drops what carries it.
#[derive(Debug)]
pub struct OptionFilter {
    kind: OptionKind,
    when: When,
    way: Option<Way>,
    action: Action,
    flows: Flows<Seen>,
}

/// The state of a connection, where that matters.
#[derive(Debug)]
struct Seen {
    since: Instant,
    third_ack: bool,
}

impl OptionFilter {
    /// Strips an option from all segments in both directions.
    pub fn strip(kind: OptionKind, when: When) -> Self {
        Self::new(kind, when, None, Action::Strip)
    }

    /// Does something to segments that carry an option, in one direction or in both.
    pub fn new(kind: OptionKind, when: When, way: Option<Way>, action: Action) -> Self {
        Self { kind, when, way, action, flows: Flows::new() }
    }

    /// The state of the segment's connection. A SYN begins anew.
    fn seen(&mut self, now: Instant, way: Way, segment: &Segment) -> &mut Seen {
        let seen = self.flows.of(now, way, segment, || Seen { since: now, third_ack: false });
        if segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
            *seen = Seen { since: now, third_ack: false };
        }
        seen
    }

    /// Whether it is one of the segments that the box looks at.
    fn looks(&mut self, now: Instant, way: Way, segment: &Segment) -> bool {
        let syn = segment.flags.has(Flags::SYN);
        let wanted = match self.when {
            When::Always => true,
            When::Syn => syn,
            When::NotSyn => !syn,
            When::Data => !segment.payload.is_empty(),
            When::OpeningSyn => syn && !segment.flags.has(Flags::ACK),
            When::SynAck => syn && segment.flags.has(Flags::ACK),
            When::ThirdAck => {
                let seen = self.seen(now, way, segment);
                way == Way::Forward && !syn && !std::mem::replace(&mut seen.third_ack, true)
            }
            When::Later(after) => now.saturating_since(self.seen(now, way, segment).since) >= after,
        };
        wanted && self.way.is_none_or(|only| only == way)
    }

    /// Removes the option; says whether it was there.
    fn remove(&self, segment: &mut Segment) -> bool {
        let options = &mut segment.options;
        let count = options.mptcp.len();
        match self.kind {
            OptionKind::Mss => return options.mss.take().is_some(),
            OptionKind::WindowScale => return options.window_scale.take().is_some(),
            OptionKind::Timestamps => return options.timestamps.take().is_some(),
            OptionKind::Sack => {
                let had = options.sack_permitted || !options.sack.is_empty();
                options.sack_permitted = false;
                options.sack.clear();
                return had;
            }
            OptionKind::Mptcp => options.mptcp.clear(),
            OptionKind::Unknown => {
                options.mptcp.clear();
                return options.user_timeout.take().is_some() || count > 0;
            }
            OptionKind::MpCapable => {
                options.mptcp.retain(|option| !matches!(option, MptcpOption::Capable(_)));
            }
            OptionKind::MpJoin => options.mptcp.retain(|option| !matches!(option, MptcpOption::Join(_))),
            OptionKind::Dss => options.mptcp.retain(|option| !matches!(option, MptcpOption::Dss(_))),
            OptionKind::AddAddr => {
                options.mptcp.retain(|option| !matches!(option, MptcpOption::AddAddr(_)));
            }
        }
        options.mptcp.len() != count
    }
}

impl Middlebox for OptionFilter {
    fn name(&self) -> String {
        format!("{:?} {:?} {:?} {:?}", self.action, self.kind, self.when, self.way)
    }
    fn process(&mut self, now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        if self.looks(now, way, &segment) && self.remove(&mut segment) && self.action == Action::Drop {
            return;
        }
        out.push(segment);
    }
}
