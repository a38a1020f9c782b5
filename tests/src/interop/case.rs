//! A case: a scenario, its expected outcome, and its variants.

use super::world::World;
use crate::lab::Family;
use anyhow::Result;
use std::fmt;

/// One of the two implementations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// This stack, behind the `mptcp` command.
    Ours,
    /// The kernel's.
    Kernel,
}

impl Who {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Ours => Self::Kernel,
            Self::Kernel => Self::Ours,
        }
    }
}

/// Families of the links: every other one has the second of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as they say
pub enum Families {
    V4,
    V6,
    V4ThenV6,
    V6ThenV4,
}

impl Families {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::V4, Self::V6, Self::V4ThenV6, Self::V6ThenV4];

    /// The family of link `number` (from 1).
    pub const fn of_link(self, number: usize) -> Family {
        match (self, number % 2) {
            (Self::V4, _) | (Self::V4ThenV6, 1) | (Self::V6ThenV4, 0) => Family::Ipv4,
            _ => Family::Ipv6,
        }
    }

    /// Whether both are in use.
    pub const fn mixed(self) -> bool {
        matches!(self, Self::V4ThenV6 | Self::V6ThenV4)
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::V4ThenV6 => "IPv4 then IPv6",
            Self::V6ThenV4 => "IPv6 then IPv4",
        })
    }
}

/// The side that asks for DSS checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as they say
pub enum Checksum {
    Nobody,
    Ours,
    Kernel,
    Both,
}

impl Checksum {
    /// All choices.
    pub const ALL: [Self; 4] = [Self::Nobody, Self::Ours, Self::Kernel, Self::Both];

    /// Whether this stack asks.
    pub const fn by_us(self) -> bool {
        matches!(self, Self::Ours | Self::Both)
    }

    /// Whether the kernel does.
    pub const fn by_the_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::Both)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "no checksum",
            Self::Ours => "checksum asked for by us",
            Self::Kernel => "checksum asked for by the kernel",
            Self::Both => "checksum asked for by both",
        })
    }
}

/// The subject of a scenario; each is a test of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[allow(missing_docs)] // described by their titles
pub enum Theme {
    Transfers,
    Joins,
    Announcements,
    Changes,
    Priorities,
    Failures,
    Fallback,
    Waiting,
    Middleboxes,
}

impl Theme {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Transfers,
        Self::Joins,
        Self::Announcements,
        Self::Changes,
        Self::Priorities,
        Self::Failures,
        Self::Fallback,
        Self::Waiting,
        Self::Middleboxes,
    ];

    /// Its title in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Transfers => "Data and its end over one subflow",
            Self::Joins => "Subflows opened by the client",
            Self::Announcements => "Addresses announced",
            Self::Changes => "Addresses that come and go",
            Self::Priorities => "Backup subflows and priorities",
            Self::Failures => "Resets, fast close, links lost",
            Self::Fallback => "Fallback to regular TCP",
            Self::Waiting => "MP_FAIL, and more than two minutes",
            Self::Middleboxes => "Middleboxes on both paths, or on one of two",
        }
    }
}

/// The outcome of a scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Multipath TCP to the end; that many subflows were ever established, at least and at most.
    Multipath(usize, usize),
    /// Regular TCP, for this reason (as in `--json`).
    Regular(&'static str),
    /// Multipath TCP over that many subflows, broken off on purpose: this stack's command ends with exit code
    /// 4.
    Broken(usize),
    /// Multipath TCP, ended by this stack's own command for a reason of its own, with this exit code.
    Ended(i32),
}

impl Outcome {
    /// Multipath TCP with exactly so many subflows.
    pub const fn subflows(count: usize) -> Self {
        Self::Multipath(count, count)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        match *self {
            Self::Multipath(least, most) if least == most => {
                write!(f, "{least} subflow{}, exact", plural(least))
            }
            Self::Multipath(least, most) => write!(f, "{least} to {most} subflows, exact"),
            Self::Regular(reason) => write!(f, "regular TCP ({reason}), exact"),
            Self::Broken(count) => write!(f, "{count} subflow{}, broken off", plural(count)),
            Self::Ended(code) => write!(f, "ended by us, exit code {code}"),
        }
    }
}

/// One way to run a scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// The side that connects; the other side listens.
    pub client: Who,
    /// Families of the links.
    pub families: Families,
    /// The side that asks for checksums.
    pub checksum: Checksum,
    /// Octets in each direction, as far as the scenario leaves that open.
    pub size: u64,
}

/// A variant in a row.
pub const fn v(client: Who, families: Families, checksum: Checksum, size: u64) -> Variant {
    Variant { client, families, checksum, size }
}

/// A scenario with its variants.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The scenario as a sentence.
    pub sentence: &'static str,
    /// Its subject.
    pub theme: Theme,
    /// The links: for each the options of `mptcp lab`, or nothing for one without an emulator.
    pub links: &'static [&'static [&'static str]],
    /// Further words for the `mptcp` command.
    pub words: &'static [&'static str],
    /// The code of the scenario.
    pub scenario: fn(&mut World) -> Result<()>,
    /// The expected outcome.
    pub outcome: Outcome,
    /// How it is run.
    pub variants: &'static [Variant],
}

/// A row in one of its variants.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The scenario.
    pub row: &'static Row,
    /// The variant.
    pub variant: Variant,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Variant { client, families, checksum, size } = self.variant;
        let client = if client == Who::Ours { "we connect" } else { "the kernel connects" };
        write!(f, "{}: {client}, {families}, {checksum}, {}", self.row.sentence, octets(size))
    }
}

/// A size as people say it.
fn octets(size: u64) -> String {
    match size {
        0 => "nothing".into(),
        1 => "1 octet".into(),
        _ if size.is_multiple_of(1 << 30) => format!("{} GiB", size >> 30),
        _ if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        _ if size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        _ => format!("{size} octets"),
    }
}
