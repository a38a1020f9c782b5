//! MP_FAIL on the only subflow, and then nothing for longer than the kernel waits for the answer: it resets a
//! connection whose MP_FAIL was not answered within two minutes (RFC 8684 section 3.7 asks for the answer).

use super::begin;
use super::fallback::{CHANGED, CHANGER, TEXT};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Ours as ByUs};
use crate::interop::case::Families::{V4, V6};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, v};
use crate::interop::world::World;
use anyhow::Result;
use std::thread;
use std::time::Duration;

/// The kernel's two minutes (`MPTCP_FAIL_TIMEOUT`, which follows `add_addr_timeout`), and some more.
const WAIT: Duration = Duration::from_secs(126);

pub(super) const ROWS: &[Row] = &[
    Row {
        sentence: "what we say is changed on the only path, and data follows 126 s later",
        theme: Theme::Waiting,
        links: CHANGER,
        words: &[],
        scenario: we_are_misquoted_and_wait,
        outcome: Outcome::Regular("peer-checksum-failed"),
        variants: &[v(Ours, V4, ByUs, 1024), v(Kernel, V6, ByKernel, 1024)],
    },
    Row {
        sentence: "what the kernel says is changed on the only path, and data follows 126 s later",
        theme: Theme::Waiting,
        links: CHANGER,
        words: &[],
        scenario: the_kernel_is_misquoted_and_waits,
        outcome: Outcome::Regular("checksum-failed"),
        variants: &[v(Ours, V6, ByKernel, 1024), v(Kernel, V4, Both, 1024)],
    },
];

fn we_are_misquoted_and_wait(world: &mut World) -> Result<()> {
    world.tolerate(&["DataCsumErr", "MPFailTx", "MPFailRx", "InfiniteMapRx", "DssFallback"]);
    begin(world)?;
    world.exchange()?;
    world.say(Ours, TEXT, CHANGED)?;
    world.at_least("MPFailTx", 1)?;
    world.at_least("MPFailRx", 1)?;
    thread::sleep(WAIT);
    world.end()
}

fn the_kernel_is_misquoted_and_waits(world: &mut World) -> Result<()> {
    world.tolerate(&["MPFailRx", "MPFailTx", "InfiniteMapTx"]);
    begin(world)?;
    world.exchange()?;
    world.say(Kernel, TEXT, CHANGED)?;
    world.counters(&[("MPFailRx", 1)])?;
    thread::sleep(WAIT);
    // The kernel speaks first, as in the case without a wait.
    world.send(Kernel, 1)?;
    world.end()
}
