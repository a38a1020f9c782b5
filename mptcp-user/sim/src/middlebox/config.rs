//! Middleboxes as configuration, for random scenarios and for `mptcp lab`.

use super::{
    Action, Coalescer, EarlyAcker, EcnBleacher, Middlebox, MssClamp, Nat, OneWay, OptionFilter, OptionKind,
    Passing, PayloadChanger, SackLiar, SequenceRandomiser, Splitter, TcpProxy, TimestampRewriter, Way, When,
    WindowShrinker,
};
use crate::Random;
use std::net::IpAddr;
use std::time::Duration;

/// One middlebox.
#[derive(Clone, PartialEq, Debug)]
pub enum BoxConfig {
    /// [`OptionFilter`].
    Option {
        /// The option.
        option: OptionKind,
        /// In which segments.
        when: When,
        /// In which direction; none: both.
        way: Option<Way>,
        /// Strip the option or drop the segment.
        action: Action,
    },
    /// [`MssClamp`].
    MssClamp {
        /// Largest MSS let through.
        mss: u16,
    },
    /// [`EcnBleacher`].
    EcnBleacher,
    /// [`SackLiar`].
    SackLiar,
    /// [`TimestampRewriter`].
    TimestampRewriter,
    /// [`SequenceRandomiser`].
    SequenceRandomiser {
        /// Whether SACK blocks are shifted too.
        translate_sack: bool,
    },
    /// [`Splitter`].
    Splitter {
        /// Largest payload that passes whole.
        size: u16,
        /// Repeat the options on every piece.
        repeat_options: bool,
    },
    /// [`Coalescer`].
    Coalescer {
        /// Largest payload of a merged segment.
        limit: usize,
        /// How long a segment may be held.
        hold: Duration,
        /// Merge across different options.
        careless: bool,
    },
    /// [`Nat`].
    Nat {
        /// The address outside.
        external: IpAddr,
        /// How long a mapping lives without use.
        idle: Duration,
    },
    /// [`PayloadChanger`].
    PayloadChanger {
        /// Direction of the payload that is changed.
        way: Way,
        /// The bytes to be replaced.
        needle: Vec<u8>,
        /// The bytes that take their place.
        replacement: Vec<u8>,
        /// Most replacements in a connection.
        limit: usize,
    },
    /// [`WindowShrinker`].
    WindowShrinker {
        /// Largest window field let through.
        limit: u16,
        /// In every other segment only.
        wavering: bool,
    },
    /// [`EarlyAcker`].
    EarlyAcker {
        /// Direction of the data that is acknowledged.
        way: Way,
    },
    /// [`TcpProxy`].
    TcpProxy {
        /// The treatment of options that it does not know.
        passing: Passing,
    },
    /// [`OneWay`].
    OneWay {
        /// The direction it stands in.
        way: Way,
        /// The box.
        inner: Box<BoxConfig>,
    },
}

impl BoxConfig {
    /// Builds the box.
    pub fn build(&self, random: Random) -> Box<dyn Middlebox> {
        match self.clone() {
            Self::OneWay { way, inner } => Box::new(OneWay { way, inner: inner.build(random) }),
            Self::Option { option, when, way, action } => {
                Box::new(OptionFilter::new(option, when, way, action))
            }
            Self::MssClamp { mss } => Box::new(MssClamp { mss }),
            Self::EcnBleacher => Box::new(EcnBleacher),
            Self::SackLiar => Box::new(SackLiar::new(random)),
            Self::TimestampRewriter => Box::new(TimestampRewriter::new(random)),
            Self::SequenceRandomiser { translate_sack } => {
                Box::new(SequenceRandomiser::new(translate_sack, random))
            }
            Self::Splitter { size, repeat_options } => Box::new(Splitter { size, repeat_options }),
            Self::Coalescer { limit, hold, careless } => Box::new(Coalescer::new(limit, hold, careless)),
            Self::Nat { external, idle } => Box::new(Nat::new(external, idle)),
            Self::WindowShrinker { limit, wavering } => Box::new(WindowShrinker::new(limit, wavering)),
            Self::EarlyAcker { way } => Box::new(EarlyAcker::new(way)),
            Self::TcpProxy { passing } => Box::new(TcpProxy::new(passing, random)),
            Self::PayloadChanger { way, needle, replacement, limit } => {
                Box::new(PayloadChanger::new(way, &needle, &replacement, limit))
            }
        }
    }
}
