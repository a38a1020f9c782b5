//! Boxes that remove options they do not know, or drop segments that carry them.

use super::{Middlebox, Way};
use crate::proto::Instant;
use crate::wire::{Flags, MptcpOption, Segment};

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
}

/// Which segments a box looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// All.
    Always,
    /// Those with SYN.
    Syn,
    /// Those without SYN.
    NotSyn,
    /// Those with payload.
    Data,
}

/// What the box does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Removes the option.
    Strip,
    /// Drops the segment.
    Drop,
}

/// Removes an option, or drops what carries it.
#[derive(Clone, Debug)]
pub struct OptionFilter {
    /// The option.
    pub kind: OptionKind,
    /// Where it is disliked.
    pub when: When,
    /// In which direction; none: both.
    pub way: Option<Way>,
    /// What happens.
    pub action: Action,
}

impl OptionFilter {
    /// Strips an option from all segments in both directions.
    pub fn strip(kind: OptionKind, when: When) -> Self {
        Self { kind, when, way: None, action: Action::Strip }
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
    fn process(&mut self, _now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        let syn = segment.flags.has(Flags::SYN);
        let looks = self.way.is_none_or(|only| only == way)
            && match self.when {
                When::Always => true,
                When::Syn => syn,
                When::NotSyn => !syn,
                When::Data => !segment.payload.is_empty(),
            };
        if looks && self.remove(&mut segment) && self.action == Action::Drop {
            return;
        }
        out.push(segment);
    }
}
