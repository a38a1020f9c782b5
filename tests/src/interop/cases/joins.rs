//! Subflows that the client opens from its own further addresses, and the limits of both sides.

use super::{K, M, THREE, TWO, TWO_SLOW};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Nobody, Ours as ByUs};
use crate::interop::case::Families::{V4, V4ThenV6, V6, V6ThenV4};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, Variant, v};
use crate::interop::world::World;
use anyhow::Result;

const fn row(
    sentence: &'static str,
    links: &'static [&'static [&'static str]],
    scenario: fn(&mut World) -> Result<()>,
    subflows: usize,
    variants: &'static [Variant],
) -> Row {
    let outcome = Outcome::subflows(subflows);
    Row { sentence, theme: Theme::Joins, links, words: &[], scenario, outcome, variants }
}

pub(super) const ROWS: &[Row] = &[
    row(
        "no subflow where neither side wants one",
        TWO,
        no_join,
        1,
        &[
            v(Ours, V4, Nobody, 100 * K),
            v(Kernel, V6, ByUs, 100 * K),
            v(Ours, V6ThenV4, Both, 1),
            v(Kernel, V4ThenV6, ByKernel, K),
        ],
    ),
    row(
        "one subflow from the client's second address",
        TWO,
        one_join,
        2,
        &[
            v(Ours, V4, Nobody, 10 * M),
            v(Ours, V6, ByUs, 10 * M),
            v(Kernel, V4, ByKernel, 10 * M),
            v(Kernel, V6, Nobody, 10 * M),
            v(Ours, V6, Both, 1),
            v(Kernel, V4, Both, K),
        ],
    ),
    row(
        "two subflows from the client's further addresses",
        THREE,
        two_joins,
        3,
        &[
            v(Ours, V4, ByKernel, 10 * M),
            v(Ours, V6, Nobody, 100 * K),
            v(Kernel, V4, Nobody, 10 * M),
            v(Kernel, V6, ByUs, K),
        ],
    ),
    row(
        "two subflows wanted, one within the client's limit",
        THREE,
        limited_by_the_client,
        2,
        &[
            v(Ours, V4, ByUs, 100 * K),
            v(Ours, V6, Nobody, M),
            v(Kernel, V4, Nobody, 100 * K),
            v(Kernel, V6, Both, M),
        ],
    ),
    row(
        "one subflow wanted, none within the server's limit",
        TWO,
        refused_by_the_server,
        1,
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6, ByKernel, 100 * K),
            v(Kernel, V4, ByUs, M),
            v(Kernel, V6, Nobody, 1),
        ],
    ),
    row(
        "two subflows wanted, one within the server's limit",
        THREE,
        limited_by_the_server,
        2,
        &[
            v(Ours, V6, ByUs, M),
            v(Ours, V4, Nobody, 100 * K),
            v(Kernel, V6, ByKernel, M),
            v(Kernel, V4, Both, 100 * K),
        ],
    ),
    row(
        "a subflow joins while data flows both ways",
        TWO_SLOW,
        join_while_data_flows,
        2,
        &[
            v(Ours, V4, ByUs, 10 * M),
            v(Ours, V6, Nobody, 10 * M),
            v(Kernel, V4, Nobody, 10 * M),
            v(Kernel, V6, ByKernel, 10 * M),
        ],
    ),
];

/// Settings that let the client open subflows to the server's first address, up to a limit of subflows beside
/// the first.
fn prepare(world: &mut World, client: u32, server: u32) -> Result<()> {
    world.route_everywhere()?;
    if world.we_connect() {
        return world.limits(server, 0);
    }
    world.limits(client, 0)?;
    (2..=world.lab.links()).try_for_each(|link| world.endpoint(link, "subflow"))
}

fn no_join(world: &mut World) -> Result<()> {
    world.route_everywhere()?;
    world.limits(8, 8)?;
    world.connect_with(&["--path-manager", "none"])?;
    world.exchange()?;
    world.finish()?;
    world.counters(&[("MPJoinSynRx", 0), ("MPJoinSynTx", 0), ("MPCurrEstab", 0)])
}

fn join(world: &mut World, count: usize) -> Result<()> {
    prepare(world, 8, 8)?;
    world.connect()?;
    // The client opens further subflows when it knows that the server has both keys.
    world.send(Ours, 1)?;
    world.subflows(count + 1)?;
    // It counts those that it has only begun; a short exchange would be over before their handshakes.
    world.joined(count as i64)?;
    world.exchange()?;
    world.finish()?;
    world.joined(count as i64)
}

fn one_join(world: &mut World) -> Result<()> {
    join(world, 1)
}

fn two_joins(world: &mut World) -> Result<()> {
    join(world, 2)
}

fn limited_by_the_client(world: &mut World) -> Result<()> {
    prepare(world, 1, 8)?;
    world.connect_with(if world.we_connect() { &["--max-subflows", "2"] } else { &[] })?;
    world.send(Ours, 1)?;
    world.subflows(2)?;
    world.exchange()?;
    world.finish()?;
    world.joined(1)
}

fn refused_by_the_server(world: &mut World) -> Result<()> {
    prepare(world, 8, 0)?;
    world.connect_with(if world.we_connect() { &[] } else { &["--max-subflows", "1"] })?;
    world.send(Ours, 1)?;
    if world.we_connect() {
        world.tolerate(&["MPJoinRejected"]);
        world.at_least("MPJoinSynRx", 1)?;
    } else {
        world.at_least("MPJoinSynTx", 1)?;
    }
    world.exchange()?;
    world.finish()?;
    world.counters(&[("MPJoinAckRx", 0), ("MPJoinSynAckRx", 0)])
}

fn limited_by_the_server(world: &mut World) -> Result<()> {
    prepare(world, 8, 1)?;
    world.connect_with(if world.we_connect() { &[] } else { &["--max-subflows", "2"] })?;
    world.send(Ours, 1)?;
    if world.we_connect() {
        world.tolerate(&["MPJoinRejected"]);
        world.at_least("MPJoinSynRx", 2)?;
        world.counters(&[("MPJoinAckRx", 1)])?;
    } else {
        // We may find only by the third ACK that there is no room: the first to complete its handshake gets
        // it.
        world.counters(&[("MPJoinSynTx", 2)])?;
        world.at_least("MPJoinSynAckRx", 1)?;
    }
    world.exchange()?;
    world.finish()
}

fn join_while_data_flows(world: &mut World) -> Result<()> {
    world.route_everywhere()?;
    world.limits(8, 8)?;
    world.connect_with(if world.we_connect() {
        &["--interface", "left1", "--interface", "left2"]
    } else {
        // The kernel would join to what we announce before it is told of its own second address.
        &["--no-announce"]
    })?;
    if !world.we_connect() {
        // Before it is sure that we speak Multipath TCP, a new address is of no interest to the kernel.
        world.greet()?;
    }
    world.exchange_while(world.size(), world.size(), |world| {
        if !world.we_connect() {
            world.endpoint(2, "subflow")?;
        }
        world.joined(1)
    })?;
    world.finish()
}
