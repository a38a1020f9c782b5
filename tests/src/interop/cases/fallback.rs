//! Options that are taken away and data that is changed on the way: regular TCP, or the loss of one subflow.

use super::{K, M, begin};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Nobody, Ours as ByUs};
use crate::interop::case::Families::{V4, V4ThenV6, V6};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, Variant, v};
use crate::interop::world::World;
use anyhow::Result;

const fn row(
    sentence: &'static str,
    links: &'static [&'static [&'static str]],
    scenario: fn(&mut World) -> Result<()>,
    outcome: Outcome,
    variants: &'static [Variant],
) -> Row {
    Row { sentence, theme: Theme::Fallback, links, words: &[], scenario, outcome, variants }
}

const SYN: &[&[&str]] = &[&["--box", "strip,option=mp-capable,when=syn,way=forward"]];
const SYN_ACK: &[&[&str]] = &[&["--box", "strip,option=mp-capable,when=syn,way=reverse"]];
const AFTER_SYN: &[&[&str]] = &[&["--box", "strip,option=mptcp,when=not-syn"]];
const JOIN: &[&[&str]] = &[&[], &["--box", "strip,option=mp-join,when=syn"]];
const JOIN_LOST: &[&[&str]] = &[&[], &["--box", "drop,option=mp-join,when=syn"]];
/// The text that is changed on the way, and the text that arrives.
pub(super) const TEXT: &str = "PORT 10;77;1;1;19;136\r\n";
pub(super) const CHANGED: &str = "PORT 203;0;113;1;19;1\r\n";
const CHANGE_FORWARD: &str = "replace,find=10;77;1;1;19;136,with=203;0;113;1;19;1,way=forward";
const CHANGE_REVERSE: &str = "replace,find=10;77;1;1;19;136,with=203;0;113;1;19;1,way=reverse";
pub(super) const CHANGER: &[&[&str]] = &[&["--box", CHANGE_FORWARD, "--box", CHANGE_REVERSE]];
const CHANGER_ON_THE_SECOND: &[&[&str]] = &[&[], &["--box", CHANGE_FORWARD, "--box", CHANGE_REVERSE]];

pub(super) const ROWS: &[Row] = &[
    row(
        "MP_CAPABLE is stripped from the SYN",
        SYN,
        stripped,
        Outcome::Regular("no-mp-capable"),
        &[
            v(Ours, V4, Nobody, 100 * K),
            v(Ours, V6, ByUs, K),
            v(Kernel, V4, ByKernel, M),
            v(Kernel, V6, Nobody, 1),
        ],
    ),
    row(
        "MP_CAPABLE is stripped from the SYN/ACK to us",
        SYN_ACK,
        stripped,
        Outcome::Regular("no-mp-capable"),
        &[v(Ours, V4, ByKernel, M), v(Ours, V6, Nobody, K)],
    ),
    row(
        "MP_CAPABLE is stripped from our SYN/ACK",
        SYN_ACK,
        stripped,
        Outcome::Regular("option-stripped"),
        &[v(Kernel, V4, Nobody, M), v(Kernel, V6, ByUs, K)],
    ),
    row(
        "options are stripped after the handshake's SYNs",
        AFTER_SYN,
        stripped,
        Outcome::Regular("option-stripped"),
        &[v(Ours, V4, Nobody, M), v(Ours, V6, ByUs, K), v(Kernel, V4, Both, M), v(Kernel, V6, Nobody, K)],
    ),
    row(
        "MP_JOIN is stripped from the second subflow's SYN",
        JOIN,
        join_fails,
        Outcome::subflows(1),
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6, ByUs, 100 * K),
            v(Kernel, V4, ByKernel, M),
            v(Kernel, V6, Nobody, 100 * K),
        ],
    ),
    row(
        "SYNs with MP_JOIN vanish on the second link",
        JOIN_LOST,
        join_fails,
        Outcome::subflows(1),
        &[
            v(Ours, V4, ByKernel, M),
            v(Ours, V4ThenV6, Nobody, 100 * K),
            v(Kernel, V4, Nobody, M),
            v(Kernel, V6, Both, K),
        ],
    ),
    row(
        "what we say is changed on the only path",
        CHANGER,
        we_are_misquoted,
        Outcome::Regular("peer-checksum-failed"),
        &[
            v(Ours, V4, ByUs, 100 * K),
            v(Ours, V6, ByKernel, K),
            v(Kernel, V4, Both, 100 * K),
            v(Kernel, V6, ByKernel, K),
        ],
    ),
    row(
        "what the kernel says is changed on the only path",
        CHANGER,
        the_kernel_is_misquoted,
        Outcome::Regular("checksum-failed"),
        &[v(Ours, V4, ByKernel, K), v(Ours, V6, ByUs, K), v(Kernel, V4, ByUs, K), v(Kernel, V6, Both, K)],
    ),
    row(
        "what is said is changed on the only path, and nobody looks",
        CHANGER,
        nobody_looks,
        Outcome::subflows(1),
        &[v(Ours, V4, Nobody, 100 * K), v(Kernel, V6, Nobody, K)],
    ),
    row(
        "what we say is changed on one of two paths",
        CHANGER_ON_THE_SECOND,
        we_on_one_path,
        Outcome::Multipath(2, 3),
        &[
            v(Ours, V4, ByUs, 100 * K),
            v(Ours, V6, Both, K),
            v(Kernel, V4, ByKernel, 100 * K),
            v(Kernel, V6, ByUs, K),
        ],
    ),
    row(
        "what the kernel says is changed on one of two paths",
        CHANGER_ON_THE_SECOND,
        the_kernel_on_one_path,
        Outcome::Multipath(2, 3),
        &[
            v(Ours, V4, ByKernel, K),
            v(Ours, V6, ByUs, 100 * K),
            v(Kernel, V4, ByUs, K),
            v(Kernel, V6, ByKernel, 100 * K),
        ],
    ),
];

fn stripped(world: &mut World) -> Result<()> {
    world.tolerate(&[
        "MPCapableFallbackACK",
        "MPCapableFallbackSYNACK",
        "DssFallback",
        "MPCapableDataFallback",
    ]);
    begin(world)?;
    world.end()
}

fn join_fails(world: &mut World) -> Result<()> {
    begin(world)?;
    if world.we_connect() {
        world.counters(&[("EchoAdd", 1)])?;
    } else {
        world.at_least("MPJoinSynTx", 1)?;
    }
    world.end()?;
    world.counters(&[("MPJoinAckRx", 0)])
}

pub(super) fn we_are_misquoted(world: &mut World) -> Result<()> {
    world.tolerate(&["DataCsumErr", "MPFailTx", "MPFailRx", "InfiniteMapRx", "DssFallback"]);
    begin(world)?;
    // Checksums have been seen to be right.
    world.exchange()?;
    world.say(Ours, TEXT, CHANGED)?;
    world.counters(&[("DataCsumErr", 1)])?;
    world.at_least("MPFailTx", 1)?;
    // Without our answer the kernel would reset the connection after two minutes.
    world.at_least("MPFailRx", 1)?;
    world.end()?;
    world.counters(&[("InfiniteMapRx", 1)])
}

/// (Not with more than a segment: Linux 6.18 makes the one that has its infinite mapping too large for the
/// link if it is full, and never gets it out.)
fn the_kernel_is_misquoted(world: &mut World) -> Result<()> {
    world.tolerate(&["MPFailRx", "MPFailTx", "InfiniteMapTx"]);
    begin(world)?;
    world.exchange()?;
    world.say(Kernel, TEXT, CHANGED)?;
    world.counters(&[("MPFailRx", 1)])?;
    // The kernel speaks first: it would fall back by our infinite mapping as well, and not send its own then.
    world.send(Kernel, 1)?;
    world.counters(&[("InfiniteMapTx", 1)])?;
    world.end()
}

fn nobody_looks(world: &mut World) -> Result<()> {
    begin(world)?;
    world.say(Kernel, TEXT, CHANGED)?;
    world.say(Ours, TEXT, CHANGED)?;
    world.end()
}

/// Two subflows, the first of which is a backup: data goes over the second.
fn begin_on_the_second(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    if world.we_connect() {
        world.endpoint(2, "signal")?;
    }
    let interface = world.interface(Ours, 1);
    world.connect_with(&["--backup", &interface])?;
    world.greet()?;
    world.joined(1)?;
    world.counters(&[("MPPrioRx", 1)])?;
    world.exchange()
}

fn we_on_one_path(world: &mut World) -> Result<()> {
    world.tolerate(&["DataCsumErr", "MPFailTx"]);
    begin_on_the_second(world)?;
    world.say(Ours, TEXT, TEXT)?;
    world.counters(&[("DataCsumErr", 1), ("MPFailTx", 1), ("MPRstTx", 1)])?;
    world.end()
}

fn the_kernel_on_one_path(world: &mut World) -> Result<()> {
    world.tolerate(&["MPFailRx"]);
    begin_on_the_second(world)?;
    world.say(Kernel, TEXT, TEXT)?;
    world.counters(&[("MPFailRx", 1), ("MPRstRx", 1)])?;
    world.end()
}
