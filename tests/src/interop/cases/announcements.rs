//! Addresses that a side tells the other one (ADD_ADDR), their echoes, and what comes of them.

use super::{K, M, THREE, TWO, TWO_SLOW};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Nobody, Ours as ByUs};
use crate::interop::case::Families::{V4, V4ThenV6, V6, V6ThenV4};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, Variant, v};
use crate::interop::world::World;
use anyhow::{Result, ensure};

const fn row(
    sentence: &'static str,
    links: &'static [&'static [&'static str]],
    scenario: fn(&mut World) -> Result<()>,
    subflows: usize,
    variants: &'static [Variant],
) -> Row {
    let outcome = Outcome::subflows(subflows);
    Row { sentence, theme: Theme::Announcements, links, words: &[], scenario, outcome, variants }
}

/// Echoes of announcements get lost on the first link.
const NO_ECHO: &[&[&str]] = &[&["--box", "strip,option=add-addr,way=forward"], &[]];
/// Announcements of the server get lost on the first link.
const NO_ANNOUNCEMENT: &[&[&str]] = &[&["--box", "strip,option=add-addr,way=reverse"], &[]];

pub(super) const ROWS: &[Row] = &[
    row(
        "an announced address that the client does not use",
        TWO,
        unused,
        1,
        &[
            v(Ours, V4, Nobody, 100 * K),
            v(Ours, V6, ByUs, K),
            v(Kernel, V4, ByKernel, 100 * K),
            v(Kernel, V6, Nobody, 1),
        ],
    ),
    row(
        "one announced address",
        TWO,
        announced,
        2,
        &[
            v(Ours, V4, ByKernel, 10 * M),
            v(Ours, V6, Nobody, 100 * K),
            v(Ours, V4ThenV6, Nobody, 10 * M),
            v(Ours, V6ThenV4, ByUs, 100 * K),
            v(Kernel, V4, ByUs, 10 * M),
            v(Kernel, V6, Nobody, 100 * K),
            v(Kernel, V4ThenV6, Both, M),
            v(Kernel, V6ThenV4, Nobody, 10 * M),
        ],
    ),
    row(
        "two announced addresses",
        THREE,
        announced,
        3,
        &[
            v(Ours, V4, Nobody, 10 * M),
            v(Ours, V6ThenV4, ByKernel, 10 * M),
            v(Kernel, V6, Both, 10 * M),
            v(Kernel, V4ThenV6, Nobody, K),
        ],
    ),
    row(
        "two announced addresses, one within the client's limit",
        THREE,
        one_of_two,
        2,
        &[
            v(Ours, V4, ByUs, 100 * K),
            v(Ours, V6, Nobody, M),
            v(Kernel, V4, Nobody, M),
            v(Kernel, V6, ByKernel, 100 * K),
        ],
    ),
    row(
        "one announced address that can be reached, one that can't",
        TWO,
        one_unreachable,
        2,
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6, ByKernel, 100 * K),
            v(Kernel, V4, ByUs, M),
            v(Kernel, V6, Nobody, 100 * K),
        ],
    ),
    row(
        "an announced address and a subflow of the client's own",
        THREE,
        both_kinds,
        3,
        &[v(Kernel, V4, Nobody, 10 * M), v(Kernel, V6, ByUs, 100 * K)],
    ),
    row(
        "all pairs of two addresses of each side",
        TWO,
        full_mesh,
        4,
        &[
            v(Ours, V4, ByKernel, 10 * M),
            v(Ours, V6, ByUs, M),
            v(Kernel, V4, Nobody, 10 * M),
            v(Kernel, V6, Nobody, M),
        ],
    ),
    row(
        "an address announced with a port of its own",
        TWO,
        with_port,
        2,
        &[v(Ours, V4, Nobody, M), v(Ours, V6, Both, 100 * K), v(Ours, V4ThenV6, ByKernel, K)],
    ),
    row(
        "the client announces an address",
        TWO,
        by_the_client,
        2,
        &[v(Kernel, V4, Nobody, 100 * K), v(Kernel, V6, ByUs, M)],
    ),
    row(
        "an address announced while data flows",
        TWO_SLOW,
        while_data_flows,
        2,
        &[v(Ours, V4, Nobody, 10 * M), v(Ours, V6, ByKernel, 10 * M)],
    ),
    row(
        "an announcement is repeated while its echo gets lost",
        NO_ECHO,
        echo_lost,
        2,
        &[
            v(Ours, V4, ByUs, 100 * K),
            v(Ours, V6, Nobody, K),
            v(Kernel, V4, Both, K),
            v(Kernel, V6, ByKernel, 100 * K),
        ],
    ),
    row(
        "an announcement is repeated while it gets lost",
        NO_ANNOUNCEMENT,
        announcement_lost,
        1,
        &[v(Ours, V4, Nobody, K), v(Ours, V6, Both, 100 * K)],
    ),
    row(
        "no subflow to the first address where that is denied",
        TWO,
        initial_denied,
        1,
        &[v(Ours, V4, ByUs, 100 * K), v(Ours, V6, Nobody, K)],
    ),
    row(
        "subflows to the announced address alone where the first is denied",
        TWO,
        only_announced,
        3,
        &[v(Ours, V4, Nobody, M), v(Ours, V6, ByKernel, 100 * K)],
    ),
    row(
        "one subflow to a server that uses SYN cookies",
        TWO,
        cookies_and_join,
        2,
        &[v(Ours, V4, Nobody, 100 * K), v(Ours, V6, ByUs, M)],
    ),
    row(
        "an address announced by a server that uses SYN cookies",
        TWO,
        cookies_and_announcement,
        2,
        &[v(Ours, V4, ByKernel, 10 * M), v(Ours, V6, Nobody, K)],
    ),
    row(
        "the kernel answers an announcement from an address nobody told it of",
        TWO,
        implicit,
        2,
        &[v(Kernel, V4, ByUs, K), v(Kernel, V6, Nobody, 100 * K)],
    ),
];

/// The server's addresses beside the first are announced. The kernel's limit bounds how many of ours it
/// takes.
fn prepare(world: &mut World, accepted: u32) -> Result<()> {
    world.limits(8, accepted)?;
    if world.we_connect() {
        return (2..=world.lab.links()).try_for_each(|link| world.endpoint(link, "signal"));
    }
    Ok(())
}

/// Octets over the first subflow, so that the client may open more.
fn begin(world: &mut World, words: &[&str]) -> Result<()> {
    world.connect_with(words)?;
    world.greet()
}

/// Counters say that so many addresses were announced by the server, and echoed.
fn echoed(world: &World, count: i64) -> Result<()> {
    if world.we_connect() {
        world.counters(&[("AddAddrTx", count), ("EchoAdd", count)])
    } else {
        world.counters(&[("AddAddr", count), ("EchoAddTx", count)])
    }
}

fn unused(world: &mut World) -> Result<()> {
    prepare(world, 0)?;
    begin(world, if world.we_connect() { &["--path-manager", "none"] } else { &[] })?;
    echoed(world, 1)?;
    world.end()?;
    world.counters(&[("MPJoinSynRx", 0), ("MPJoinSynTx", 0)])
}

fn announced(world: &mut World) -> Result<()> {
    prepare(world, 8)?;
    begin(world, &[])?;
    let others = world.lab.links() - 1;
    world.joined(others as i64)?;
    world.subflows(others + 1)?;
    echoed(world, others as i64)?;
    world.end()
}

fn one_of_two(world: &mut World) -> Result<()> {
    prepare(world, 1)?;
    begin(world, if world.we_connect() { &["--max-subflows", "2"] } else { &[] })?;
    world.joined(1)?;
    echoed(world, 2)?;
    world.end()?;
    world.joined(1)
}

fn one_unreachable(world: &mut World) -> Result<()> {
    let server = world.variant().client.other();
    // Neither host has a route to it.
    let (address, length) = match world.address(server, 1).is_ipv4() {
        true => ("10.99.0.1", 32),
        false => ("fd99::1", 128),
    };
    world.namespace(server).add_address(&world.interface(server, 1), &format!("{address}/{length}"))?;
    prepare(world, 8)?;
    if world.we_connect() {
        world.path_manager(&format!("endpoint add {address} id 9 signal"))?;
    }
    begin(world, &[])?;
    echoed(world, 2)?;
    world.counters(&[if world.we_connect() { ("MPJoinAckRx", 1) } else { ("MPJoinSynAckRx", 1) }])?;
    world.end()
}

fn both_kinds(world: &mut World) -> Result<()> {
    world.route_everywhere()?;
    prepare(world, 1)?;
    world.endpoint(3, "subflow")?;
    begin(world, &[])?;
    world.joined(2)?;
    world.end()
}

fn full_mesh(world: &mut World) -> Result<()> {
    world.route_everywhere()?;
    prepare(world, 8)?;
    if !world.we_connect() {
        world.endpoint(1, "subflow fullmesh")?;
        world.endpoint(2, "subflow fullmesh")?;
    }
    begin(world, &[])?;
    world.joined(3)?;
    world.end()
}

fn with_port(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    if !world.address(Kernel, 2).is_ipv4() {
        // The kernel does not send ADD_ADDR with an IPv6 address and a port beside timestamps: both don't
        // fit.
        world.namespace(Kernel).sysctl("net.ipv4.tcp_timestamps", "0")?;
    }
    world.endpoint(2, "signal port 10100")?;
    begin(world, &[])?;
    world.counters(&[("MPJoinPortSynRx", 1), ("MPJoinPortAckRx", 1), ("AddAddrTx", 1), ("EchoAdd", 1)])?;
    world.end()?;
    world.counters(&[("MismatchPortSynRx", 0), ("MismatchPortAckRx", 0)])
}

fn by_the_client(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    world.endpoint(2, "signal")?;
    begin(world, &[])?;
    world.counters(&[("AddAddrTx", 1), ("EchoAdd", 1)])?;
    world.joined(1)?;
    world.end()
}

fn while_data_flows(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    world.connect()?;
    world.exchange_while(world.size(), world.size(), |world| {
        world.endpoint(2, "signal")?;
        world.joined(1)
    })?;
    world.finish()
}

fn echo_lost(world: &mut World) -> Result<()> {
    world.namespace(Kernel).sysctl("net.mptcp.add_addr_timeout", "1")?;
    prepare(world, 8)?;
    begin(world, &[])?;
    world.joined(1)?;
    world.at_least(if world.we_connect() { "AddAddrTx" } else { "AddAddr" }, 2)?;
    world.end()?;
    world.counters(&[("EchoAdd", 0)])?;
    world.joined(1)
}

fn announcement_lost(world: &mut World) -> Result<()> {
    world.namespace(Kernel).sysctl("net.mptcp.add_addr_timeout", "1")?;
    prepare(world, 8)?;
    begin(world, &[])?;
    world.at_least("AddAddrTx", 2)?;
    world.end()?;
    world.counters(&[("EchoAdd", 0), ("MPJoinSynRx", 0)])
}

fn initial_denied(world: &mut World) -> Result<()> {
    world.namespace(Kernel).sysctl("net.mptcp.allow_join_initial_addr_port", "0")?;
    world.route_everywhere()?;
    world.limits(8, 8)?;
    begin(world, &[])?;
    world.end()?;
    world.counters(&[("MPJoinSynRx", 0)])
}

fn only_announced(world: &mut World) -> Result<()> {
    world.namespace(Kernel).sysctl("net.mptcp.allow_join_initial_addr_port", "0")?;
    world.route_everywhere()?;
    prepare(world, 8)?;
    begin(world, &[])?;
    // From each of our two addresses.
    world.joined(2)?;
    world.end()
}

/// Cookies for every connection, not only under a flood.
fn cookies(world: &World) -> Result<()> {
    world.namespace(Kernel).sysctl("net.ipv4.tcp_syncookies", "2")
}

fn cookies_and_join(world: &mut World) -> Result<()> {
    cookies(world)?;
    world.route_everywhere()?;
    world.limits(8, 8)?;
    begin(world, &[])?;
    world.joined(1)?;
    world.end()
}

fn cookies_and_announcement(world: &mut World) -> Result<()> {
    cookies(world)?;
    prepare(world, 8)?;
    begin(world, &[])?;
    world.joined(1)?;
    echoed(world, 1)?;
    world.end()
}

fn implicit(world: &mut World) -> Result<()> {
    prepare(world, 8)?;
    begin(world, &[])?;
    world.joined(1)?;
    let endpoints = world.path_manager("endpoint show")?;
    // Tools that don't know the flag's name print its bit.
    let marked = ["implicit", "rawflags 10"].iter().any(|mark| endpoints.contains(mark));
    ensure!(marked, "the kernel's endpoints: {endpoints}");
    world.end()
}
