//! Boxes through which Multipath TCP gets, and boxes that cost one of two subflows.

use super::{K, M, begin};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Nobody, Ours as ByUs};
use crate::interop::case::Families::{V4, V4ThenV6, V6, V6ThenV4};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, Variant, v};
use crate::interop::world::World;
use anyhow::Result;

type Links = &'static [&'static [&'static str]];

const fn row(
    sentence: &'static str,
    links: Links,
    scenario: fn(&mut World) -> Result<()>,
    outcome: Outcome,
    variants: &'static [Variant],
) -> Row {
    Row { sentence, theme: Theme::Middleboxes, links, words: &[], scenario, outcome, variants }
}

/// The same box on both links.
const fn on_both(sentence: &'static str, links: Links, variants: &'static [Variant]) -> Row {
    row(sentence, links, through, Outcome::subflows(2), variants)
}

const USUAL: &[Variant] =
    &[v(Ours, V4, Nobody, M), v(Ours, V6, ByUs, M), v(Kernel, V4, ByKernel, M), v(Kernel, V6, Nobody, M)];
const MIXED: &[Variant] = &[
    v(Ours, V4ThenV6, Both, M),
    v(Ours, V6, Nobody, 100 * K),
    v(Kernel, V4, Nobody, 100 * K),
    v(Kernel, V6ThenV4, ByUs, M),
];

macro_rules! both {
    ($($word:expr),*) => {
        &[&["--both", "delay=2ms", $("--box", $word),*], &["--both", "delay=2ms", $("--box", $word),*]]
    };
}

const TRANSLATED_V4: Links = &[
    &["--both", "delay=2ms", "--box", "nat,external=10.77.1.9"],
    &["--both", "delay=2ms", "--box", "nat,external=10.77.2.9"],
];
const TRANSLATED_V6: Links = &[
    &["--both", "delay=2ms", "--box", "nat,external=fd77:1::9"],
    &["--both", "delay=2ms", "--box", "nat,external=fd77:2::9"],
];
const TRANSLATED_AND_MORE: Links = &[
    &[
        "--both",
        "delay=2ms,loss=0.5%",
        "--box",
        "nat,external=10.77.1.9",
        "--box",
        "randomise-sequence",
        "--box",
        "mss-clamp,mss=1200",
        "--box",
        "rewrite-timestamps",
    ],
    &["--both", "delay=2ms", "--box", "nat,external=10.77.2.9", "--box", "split,size=700"],
];
const STRIPPER_ON_THE_SECOND: Links =
    &[&["--both", "delay=2ms"], &["--both", "delay=2ms", "--box", "strip,option=mptcp"]];
const LATE_STRIPPER_ON_THE_SECOND: Links =
    &[&["--both", "delay=2ms"], &["--both", "delay=2ms", "--box", "strip,option=mptcp,when=not-syn"]];
const PROXY_ON_THE_SECOND: Links = &[&["--both", "delay=2ms"], &["--both", "delay=2ms", "--box", "proxy"]];
const ADDRESSES_STRIPPED: Links =
    &[&["--both", "delay=2ms", "--box", "strip,option=add-addr"], &["--both", "delay=2ms"]];

pub(super) const ROWS: &[Row] = &[
    row(
        "addresses are translated on both paths",
        TRANSLATED_V4,
        translated,
        Outcome::subflows(2),
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V4, Both, 100 * K),
            v(Kernel, V4, Both, M),
            v(Kernel, V4, Nobody, K),
        ],
    ),
    row(
        "addresses of the younger family are translated on both paths",
        TRANSLATED_V6,
        translated,
        Outcome::subflows(2),
        &[v(Ours, V6, ByKernel, M), v(Kernel, V6, Nobody, M)],
    ),
    row(
        "several boxes stand one behind the other",
        TRANSLATED_AND_MORE,
        translated,
        Outcome::subflows(2),
        &[v(Ours, V4, Nobody, M), v(Ours, V4, Both, M), v(Kernel, V4, Nobody, M), v(Kernel, V4, ByKernel, M)],
    ),
    on_both("sequence numbers are randomised", both!("randomise-sequence"), USUAL),
    on_both(
        "sequence numbers are randomised, SACK blocks are not",
        both!("randomise-sequence,sack=no"),
        MIXED,
    ),
    on_both("SACK is stripped from the handshakes", both!("strip,option=sack,when=syn"), MIXED),
    on_both("SACK blocks are stripped", both!("strip,option=sack,when=not-syn"), USUAL),
    on_both("timestamps are stripped from the handshakes", both!("strip,option=timestamps,when=syn"), USUAL),
    on_both(
        "timestamps are stripped after the handshakes",
        both!("strip,option=timestamps,when=not-syn"),
        MIXED,
    ),
    on_both("timestamps are rewritten", both!("rewrite-timestamps"), USUAL),
    on_both("the window scale is removed", both!("strip,option=window-scale"), MIXED),
    on_both("the window is shrunk", both!("shrink-window,limit=300"), MIXED),
    on_both("the MSS is clamped", both!("mss-clamp,mss=700"), USUAL),
    on_both("the MSS is removed", both!("strip,option=mss"), MIXED),
    on_both("segments are split", both!("split,size=333"), USUAL),
    on_both("ECN is bleached", both!("ecn-bleach"), MIXED),
    row(
        "Multipath TCP is stripped on the second path",
        STRIPPER_ON_THE_SECOND,
        one_is_left,
        Outcome::subflows(1),
        USUAL,
    ),
    row(
        "Multipath TCP is stripped after the SYNs on the second path",
        LATE_STRIPPER_ON_THE_SECOND,
        one_is_left,
        Outcome::Multipath(1, 2),
        MIXED,
    ),
    row("a proxy stands on the second path", PROXY_ON_THE_SECOND, one_is_left, Outcome::subflows(1), MIXED),
    row(
        "announcements are stripped on the first path",
        ADDRESSES_STRIPPED,
        not_announced,
        Outcome::subflows(1),
        USUAL,
    ),
];

fn through(world: &mut World) -> Result<()> {
    begin(world)?;
    world.joined(1)?;
    world.end()
}

/// The server's side must find the addresses that clients are hidden behind, which no interface has.
fn translated(world: &mut World) -> Result<()> {
    for link in 1..=world.lab.links() {
        world.lab.hide_left(link, world.variant().families.of_link(link))?;
    }
    through(world)
}

fn one_is_left(world: &mut World) -> Result<()> {
    world.tolerate(&["MPRstTx", "MPRstRx", "MPJoinRejected", "DssCorruptionReset", "MPJoinAckHMacFailure"]);
    begin(world)?;
    world.end()
}

fn not_announced(world: &mut World) -> Result<()> {
    begin(world)?;
    world.end()?;
    world.counters(&[("AddAddr", 0), ("MPJoinSynRx", 0), ("MPJoinSynTx", 0)])
}
