//! Addresses that come and go while the connection lives.

use super::{K, M, THREE, TWO};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Nobody, Ours as ByUs};
use crate::interop::case::Families::{V4, V4ThenV6, V6, V6ThenV4};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, Variant, Who, v};
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
    Row { sentence, theme: Theme::Changes, links, words: &[], scenario, outcome, variants }
}

pub(super) const ROWS: &[Row] = &[
    row(
        "the server gets an address",
        TWO,
        server_gains,
        2,
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6ThenV4, ByKernel, 100 * K),
            v(Kernel, V4, ByUs, M),
            v(Kernel, V6, Nobody, 100 * K),
        ],
    ),
    row(
        "the client gets an address",
        TWO,
        client_gains,
        2,
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6, Both, 100 * K),
            v(Kernel, V4, Nobody, K),
            v(Kernel, V6, ByKernel, M),
        ],
    ),
    row(
        "the client gets two addresses",
        THREE,
        client_gains,
        3,
        &[
            v(Ours, V4, ByUs, 100 * K),
            v(Ours, V6, Nobody, M),
            v(Kernel, V4, Nobody, M),
            v(Kernel, V6, ByUs, K),
        ],
    ),
    row(
        "the server loses an address",
        TWO,
        server_loses,
        2,
        &[
            v(Ours, V4, ByKernel, M),
            v(Ours, V6, Nobody, 100 * K),
            v(Kernel, V4, Nobody, M),
            v(Kernel, V6, ByUs, 100 * K),
            v(Ours, V4ThenV6, ByUs, K),
            v(Kernel, V6ThenV4, Both, K),
        ],
    ),
    row(
        "the server loses two addresses, one after the other",
        THREE,
        server_loses,
        3,
        &[
            v(Ours, V4, Nobody, 100 * K),
            v(Ours, V6, ByUs, M),
            v(Kernel, V4, ByKernel, 100 * K),
            v(Kernel, V6, Nobody, M),
        ],
    ),
    row(
        "the kernel withdraws all its addresses at once",
        THREE,
        flush,
        3,
        &[v(Ours, V4, Nobody, M), v(Ours, V6, ByKernel, K), v(Kernel, V4, ByUs, M), v(Kernel, V6, Nobody, K)],
    ),
    row(
        "the client loses its second address",
        TWO,
        client_loses,
        2,
        &[
            v(Ours, V4, ByUs, 100 * K),
            v(Ours, V6, Nobody, M),
            v(Kernel, V4, Nobody, 100 * K),
            v(Kernel, V6, ByKernel, M),
        ],
    ),
    row(
        "the client loses its first address",
        TWO,
        client_loses_the_first,
        2,
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6, ByUs, K),
            v(Kernel, V4, Both, M),
            v(Kernel, V6, Nobody, 100 * K),
        ],
    ),
    row(
        "the server loses its first address",
        TWO,
        server_loses_the_first,
        2,
        &[
            v(Ours, V4, Nobody, 100 * K),
            v(Ours, V6, ByKernel, M),
            v(Kernel, V4, ByUs, M),
            v(Kernel, V6, Nobody, 100 * K),
        ],
    ),
    row(
        "an address is lost and comes back",
        TWO,
        lost_and_back,
        3,
        &[
            v(Ours, V4, Nobody, 100 * K),
            v(Ours, V6, ByKernel, M),
            v(Kernel, V4, ByUs, M),
            v(Kernel, V6, Nobody, 100 * K),
        ],
    ),
    row(
        "the kernel withdraws an address that has no subflow",
        TWO,
        withdraw_unused,
        2,
        &[v(Ours, V4, Both, 100 * K), v(Ours, V6, Nobody, K)],
    ),
];

fn begin(world: &mut World) -> Result<()> {
    world.connect()?;
    world.greet()
}

fn others(world: &World) -> std::ops::RangeInclusive<usize> {
    2..=world.lab.links()
}

/// Somebody gets the address of a link: the kernel's path manager is told, this stack sees it on the
/// interface.
fn gain(world: &World, who: Who, link: usize, flags: &str) -> Result<()> {
    match who {
        Kernel => world.endpoint(link, flags),
        Ours => {
            let (interface, prefix) = (world.interface(Ours, link), world.prefix(Ours, link));
            world.namespace(Ours).add_address(&interface, &prefix)
        }
    }
}

/// Somebody loses the address of a link: the kernel's path manager is told, this stack sees it on the
/// interface.
fn lose(world: &World, who: Who, link: usize) -> Result<()> {
    match who {
        Kernel => world.path_manager(&format!("endpoint delete id {link}")).map(drop),
        Ours => {
            let (interface, prefix) = (world.interface(Ours, link), world.prefix(Ours, link));
            world.namespace(Ours).remove_address(&interface, &prefix)
        }
    }
}

/// All the server's further addresses are announced.
fn announce(world: &World) -> Result<()> {
    world.limits(8, 8)?;
    if world.we_connect() {
        others(world).try_for_each(|link| world.endpoint(link, "signal"))?;
    }
    Ok(())
}

/// The kernel counts the removal of `count` addresses by one of the two sides.
fn removed(world: &World, by: Who, count: i64) -> Result<()> {
    match by {
        Kernel => world.counters(&[("RmAddrTx", count)]),
        Ours => world.counters(&[("RmAddr", count)]),
    }
}

fn server_gains(world: &mut World) -> Result<()> {
    let server = world.variant().client.other();
    world.limits(8, 8)?;
    if server == Ours {
        lose(world, Ours, 2)?;
    }
    begin(world)?;
    gain(world, server, 2, "signal")?;
    world.joined(1)?;
    world.end()
}

fn client_gains(world: &mut World) -> Result<()> {
    let client = world.variant().client;
    if client == Ours {
        announce(world)?;
        others(world).try_for_each(|link| lose(world, Ours, link))?;
    } else {
        world.route_everywhere()?;
        world.limits(8, 0)?;
    }
    begin(world)?;
    others(world).try_for_each(|link| gain(world, client, link, "subflow"))?;
    world.joined(world.lab.links() as i64 - 1)?;
    world.end()
}

fn server_loses(world: &mut World) -> Result<()> {
    let server = world.variant().client.other();
    announce(world)?;
    begin(world)?;
    let count = world.lab.links() as i64 - 1;
    world.joined(count)?;
    world.subflows(world.lab.links())?;
    world.exchange()?;
    for link in others(world) {
        lose(world, server, link)?;
        removed(world, server, link as i64 - 1)?;
    }
    world.subflows(1)?;
    world.end()?;
    world.joined(count)
}

fn flush(world: &mut World) -> Result<()> {
    if world.we_connect() {
        announce(world)?;
    } else {
        world.route_everywhere()?;
        world.limits(8, 0)?;
        others(world).try_for_each(|link| world.endpoint(link, "subflow"))?;
    }
    begin(world)?;
    world.joined(2)?;
    world.subflows(3)?;
    world.exchange()?;
    world.path_manager("endpoint flush")?;
    world.subflows(1)?;
    world.end()?;
    world.joined(2)
}

/// The client joins from its second address.
fn join(world: &mut World) -> Result<()> {
    if world.we_connect() {
        announce(world)?;
    } else {
        world.route_everywhere()?;
        world.limits(8, 0)?;
        world.endpoint(2, "subflow")?;
    }
    begin(world)?;
    world.joined(1)?;
    world.subflows(2)?;
    world.exchange()
}

fn client_loses(world: &mut World) -> Result<()> {
    let client = world.variant().client;
    join(world)?;
    lose(world, client, 2)?;
    removed(world, client, 1)?;
    world.subflows(1)?;
    world.end()
}

fn client_loses_the_first(world: &mut World) -> Result<()> {
    let client = world.variant().client;
    join(world)?;
    lose_the_first(world, client)?;
    world.end()
}

fn server_loses_the_first(world: &mut World) -> Result<()> {
    let server = world.variant().client.other();
    announce(world)?;
    begin(world)?;
    world.joined(1)?;
    world.subflows(2)?;
    world.exchange()?;
    lose_the_first(world, server)?;
    world.end()
}

fn lose_the_first(world: &World, who: Who) -> Result<()> {
    match who {
        Kernel => {
            let address = world.address(Kernel, 1);
            world.path_manager(&format!("endpoint delete id 0 {address}"))?;
        }
        Ours => lose(world, Ours, 1)?,
    }
    removed(world, who, 1)
}

fn lost_and_back(world: &mut World) -> Result<()> {
    let server = world.variant().client.other();
    announce(world)?;
    begin(world)?;
    world.joined(1)?;
    world.subflows(2)?;
    lose(world, server, 2)?;
    removed(world, server, 1)?;
    world.exchange()?;
    gain(world, server, 2, "signal")?;
    world.joined(2)?;
    world.end()
}

fn withdraw_unused(world: &mut World) -> Result<()> {
    announce(world)?;
    let address = if world.address(Kernel, 1).is_ipv4() { "10.99.0.1" } else { "fd99::1" };
    world.path_manager(&format!("endpoint add {address} id 9 signal"))?;
    begin(world)?;
    world.joined(1)?;
    world.counters(&[("EchoAdd", 2)])?;
    world.path_manager("endpoint delete id 9")?;
    world.counters(&[("RmAddrTx", 1)])?;
    world.subflows(2)?;
    world.end()?;
    world.joined(1)
}
