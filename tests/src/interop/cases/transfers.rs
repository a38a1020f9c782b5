//! One subflow: all sizes, all orders of the two ends.

use super::{K, M, ONE};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Nobody, Ours as ByUs};
use crate::interop::case::Families::{V4, V6};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, Variant, v};
use crate::interop::world::World;
use anyhow::Result;

const fn row(
    sentence: &'static str,
    scenario: fn(&mut World) -> Result<()>,
    variants: &'static [Variant],
) -> Row {
    let outcome = Outcome::subflows(1);
    Row { sentence, theme: Theme::Transfers, links: ONE, words: &[], scenario, outcome, variants }
}

pub(super) const ROWS: &[Row] = &[
    row(
        "both send at once and finish together",
        both_at_once,
        &[
            v(Ours, V4, Nobody, 0),
            v(Kernel, V6, Nobody, 0),
            v(Ours, V6, ByUs, 1),
            v(Kernel, V4, ByKernel, 1),
            v(Ours, V4, ByKernel, K),
            v(Kernel, V6, ByUs, K),
            v(Ours, V6, Both, 100 * K),
            v(Kernel, V4, Both, 100 * K),
            v(Ours, V4, ByUs, 10 * M),
            v(Kernel, V6, ByKernel, 10 * M),
            v(Ours, V6, Nobody, 10 * M),
            v(Kernel, V4, Nobody, 10 * M),
        ],
    ),
    row(
        "we send and the kernel only finishes",
        we_send,
        &[
            v(Ours, V4, Nobody, 1 << 30),
            v(Kernel, V6, Nobody, 10 * M),
            v(Ours, V6, ByKernel, 10 * M),
            v(Kernel, V4, ByUs, 1),
        ],
    ),
    row(
        "the kernel sends and we only finish",
        the_kernel_sends,
        &[
            v(Ours, V6, Nobody, 10 * M),
            v(Kernel, V4, Both, 10 * M),
            v(Ours, V4, Both, 1),
            v(Kernel, V6, ByKernel, 100 * K),
        ],
    ),
    row(
        "we finish first and the kernel's answer still comes",
        we_finish_first,
        &[
            v(Ours, V4, Nobody, 100 * K),
            v(Kernel, V6, ByUs, 10 * M),
            v(Ours, V6, ByKernel, 1),
            v(Kernel, V4, Nobody, K),
        ],
    ),
    row(
        "the kernel finishes first and our answer still comes",
        the_kernel_finishes_first,
        &[
            v(Ours, V6, Nobody, 10 * M),
            v(Kernel, V4, ByKernel, 100 * K),
            v(Ours, V4, ByUs, K),
            v(Kernel, V6, Nobody, 1),
        ],
    ),
    row(
        "question and answer in turns",
        in_turns,
        &[
            v(Ours, V4, ByUs, K),
            v(Kernel, V6, Nobody, K),
            v(Ours, V6, Nobody, 100 * K),
            v(Kernel, V4, ByUs, 1),
        ],
    ),
    Row {
        links: &[&["--seed", "3", "--both", "delay=3ms,loss=1%,reorder=1%,reorder-by=2ms,duplicate=1%"]],
        ..row(
            "over a link that loses, reorders and duplicates",
            both_at_once,
            &[
                v(Ours, V4, Both, 100 * K),
                v(Kernel, V6, Nobody, 100 * K),
                v(Ours, V6, ByKernel, M),
                v(Kernel, V4, ByUs, M),
            ],
        )
    },
];

fn established(world: &mut World) -> Result<()> {
    world.connect()?;
    if world.we_connect() {
        world.counters(&[("MPCapableSYNRX", 1)])
    } else {
        world.counters(&[("MPCapableSYNTX", 1), ("MPCapableSYNACKRX", 1)])
    }
}

fn one_subflow(world: &mut World) -> Result<()> {
    world.finish()?;
    if world.we_connect() {
        world.counters(&[("MPCapableACKRX", 1)])?;
    }
    world.counters(&[("MPJoinSynRx", 0), ("MPJoinSynTx", 0), ("MPRstTx", 0), ("MPRstRx", 0)])
}

fn both_at_once(world: &mut World) -> Result<()> {
    established(world)?;
    world.exchange()?;
    one_subflow(world)
}

fn we_send(world: &mut World) -> Result<()> {
    established(world)?;
    world.send(Ours, world.size())?;
    one_subflow(world)
}

fn the_kernel_sends(world: &mut World) -> Result<()> {
    established(world)?;
    world.send(Kernel, world.size())?;
    one_subflow(world)
}

fn we_finish_first(world: &mut World) -> Result<()> {
    established(world)?;
    world.send(Ours, world.size())?;
    world.close(Ours)?;
    world.kernel_sees_the_end()?;
    world.send(Kernel, world.size())?;
    one_subflow(world)
}

fn the_kernel_finishes_first(world: &mut World) -> Result<()> {
    established(world)?;
    world.send(Kernel, world.size())?;
    world.close(Kernel)?;
    // Our half stays open although the peer's is closed.
    for _ in 0..2 {
        world.send(Ours, world.size())?;
    }
    one_subflow(world)
}

fn in_turns(world: &mut World) -> Result<()> {
    established(world)?;
    for _ in 0..20 {
        world.send(Ours, world.size())?;
        world.send(Kernel, world.size())?;
    }
    one_subflow(world)
}
