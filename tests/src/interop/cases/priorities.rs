//! Backup subflows: asked for when they join, announced, or changed afterwards (MP_PRIO).

use super::{K, M, TWO};
use crate::interop::case::Checksum::{Both, Kernel as ByKernel, Nobody, Ours as ByUs};
use crate::interop::case::Families::{V4, V4ThenV6, V6, V6ThenV4};
use crate::interop::case::Who::{Kernel, Ours};
use crate::interop::case::{Outcome, Row, Theme, Variant, v};
use crate::interop::world::World;
use anyhow::{Context, Result, ensure};

const fn row(
    sentence: &'static str,
    scenario: fn(&mut World) -> Result<()>,
    variants: &'static [Variant],
) -> Row {
    let outcome = Outcome::subflows(2);
    Row { sentence, theme: Theme::Priorities, links: TWO, words: &[], scenario, outcome, variants }
}

pub(super) const ROWS: &[Row] = &[
    row(
        "the kernel joins with a backup subflow",
        kernel_joins_as_backup,
        &[v(Kernel, V4, Nobody, M), v(Kernel, V6, ByUs, 100 * K)],
    ),
    row(
        "the kernel announces an address for backup",
        kernel_announces_backup,
        &[v(Ours, V4, ByKernel, M), v(Ours, V6, Nobody, 100 * K), v(Ours, V4ThenV6, Nobody, K)],
    ),
    row(
        "the kernel announces an address with a port for backup",
        kernel_announces_backup_port,
        &[v(Ours, V4, Nobody, 100 * K), v(Ours, V6, Both, M)],
    ),
    row(
        "the kernel makes the second subflow a backup",
        kernel_changes_the_second,
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6, ByUs, 100 * K),
            v(Kernel, V4, ByKernel, 100 * K),
            v(Kernel, V6, Nobody, M),
        ],
    ),
    row(
        "the kernel makes the second subflow a backup and takes it back",
        kernel_changes_and_back,
        &[
            v(Ours, V4, Nobody, K),
            v(Ours, V6, Nobody, M),
            v(Kernel, V4, ByUs, M),
            v(Kernel, V6, ByKernel, 100 * K),
        ],
    ),
    row(
        "the kernel makes the first subflow a backup",
        kernel_changes_the_first,
        &[
            v(Ours, V4, ByKernel, M),
            v(Ours, V6, Nobody, K),
            v(Kernel, V4, Nobody, 100 * K),
            v(Kernel, V6, Both, M),
        ],
    ),
    row(
        "we join with a backup subflow",
        we_join_as_backup,
        &[v(Ours, V4, Nobody, M), v(Ours, V6, ByUs, 100 * K), v(Ours, V6ThenV4, Nobody, 10 * M)],
    ),
    row(
        "we announce an address on an interface for backup",
        we_announce_backup,
        &[v(Kernel, V4, ByKernel, M), v(Kernel, V6, Nobody, 100 * K)],
    ),
    row(
        "a backup subflow takes over when the first link goes down",
        backup_takes_over,
        &[v(Ours, V4, Nobody, M), v(Ours, V6, ByUs, M), v(Kernel, V4, ByKernel, M), v(Kernel, V6, Nobody, M)],
    ),
    row(
        "an unused backup subflow is lost with its link",
        unused_backup_is_lost,
        &[v(Ours, V4, ByUs, 100 * K), v(Kernel, V6, Nobody, M)],
    ),
];

/// Both sides have a subflow on each link. The kernel's endpoint of the second one has these flags beside its
/// kind.
fn join(world: &mut World, flags: &str, words: &[&str]) -> Result<()> {
    world.limits(8, 8)?;
    if world.we_connect() {
        world.endpoint(2, &format!("signal {flags}"))?;
    } else {
        world.route_everywhere()?;
        world.endpoint(2, &format!("subflow {flags}"))?;
    }
    world.connect_with(words)?;
    world.greet()?;
    world.joined(1)?;
    world.subflows(2)
}

/// The statistics of the subflow on a link.
fn subflow(world: &World, link: usize) -> Result<&serde_json::Value> {
    let ours = world.address(Ours, link);
    let theirs = world.address(Kernel, link);
    let of = |value: &serde_json::Value, address: std::net::IpAddr| {
        value.as_str().is_some_and(|text| {
            text.parse::<std::net::SocketAddr>().is_ok_and(|socket| socket.ip() == address)
        })
    };
    let subflows = world.statistics()["connection"]["subflows"].as_array().context("subflows")?;
    let mut found = subflows.iter().filter(|subflow| {
        // The client's address tells the links apart; the server's may be the first one's for both.
        if world.we_connect() { of(&subflow["local"], ours) } else { of(&subflow["remote"], theirs) }
    });
    found.next().with_context(|| format!("no subflow on link {link}"))
}

fn is_backup(world: &World, link: usize, expected: bool) -> Result<()> {
    ensure!(
        subflow(world, link)?["backup"] == expected,
        "the subflow on link {link} is not that: {expected}"
    );
    Ok(())
}

/// Data took one link only.
fn unused(world: &World, link: usize) -> Result<()> {
    let subflow = subflow(world, link)?;
    for key in ["bytes_sent", "bytes_received"] {
        ensure!(subflow[key] == 0, "{key} of the backup subflow: {}", subflow[key]);
    }
    Ok(())
}

fn kernel_joins_as_backup(world: &mut World) -> Result<()> {
    join(world, "backup", &["--no-announce"])?;
    world.end()?;
    is_backup(world, 1, false)?;
    is_backup(world, 2, true)?;
    unused(world, 2)
}

fn kernel_announces_backup(world: &mut World) -> Result<()> {
    join(world, "backup", &[])?;
    world.end()?;
    is_backup(world, 1, false)?;
    is_backup(world, 2, true)?;
    unused(world, 2)
}

fn kernel_announces_backup_port(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    if !world.address(Kernel, 2).is_ipv4() {
        // The kernel does not send ADD_ADDR with an IPv6 address and a port beside timestamps: both don't
        // fit.
        world.namespace(Kernel).sysctl("net.ipv4.tcp_timestamps", "0")?;
    }
    world.endpoint(2, "signal backup port 10100")?;
    world.connect()?;
    world.greet()?;
    world.counters(&[("MPJoinPortSynRx", 1), ("MPJoinPortAckRx", 1)])?;
    world.end()?;
    is_backup(world, 2, true)?;
    unused(world, 2)
}

fn kernel_changes_the_second(world: &mut World) -> Result<()> {
    join(world, "", &["--no-announce"])?;
    world.exchange()?;
    world.path_manager("endpoint change id 2 backup")?;
    world.counters(&[("MPPrioTx", 1)])?;
    world.end()?;
    is_backup(world, 1, false)?;
    is_backup(world, 2, true)
}

fn kernel_changes_and_back(world: &mut World) -> Result<()> {
    join(world, "", &["--no-announce"])?;
    world.path_manager("endpoint change id 2 backup")?;
    world.counters(&[("MPPrioTx", 1)])?;
    world.exchange()?;
    world.path_manager("endpoint change id 2 nobackup")?;
    world.counters(&[("MPPrioTx", 2)])?;
    world.end()?;
    is_backup(world, 1, false)?;
    is_backup(world, 2, false)
}

fn kernel_changes_the_first(world: &mut World) -> Result<()> {
    world.endpoint(1, if world.we_connect() { "signal" } else { "subflow" })?;
    join(world, "", &["--no-announce"])?;
    world.path_manager("endpoint change id 1 backup")?;
    world.counters(&[("MPPrioTx", 1)])?;
    world.end()?;
    is_backup(world, 1, true)?;
    is_backup(world, 2, false)
}

fn we_join_as_backup(world: &mut World) -> Result<()> {
    let interface = world.interface(Ours, 2);
    join(world, "", &["--backup", &interface])?;
    world.counters(&[("MPJoinSynBackupRx", 1)])?;
    world.end()?;
    is_backup(world, 1, false)?;
    is_backup(world, 2, true)?;
    unused(world, 2)
}

fn we_announce_backup(world: &mut World) -> Result<()> {
    let interface = world.interface(Ours, 2);
    world.limits(8, 8)?;
    world.connect_with(&["--backup", &interface])?;
    world.greet()?;
    world.joined(1)?;
    world.counters(&[("MPJoinSynAckBackupRx", 1)])?;
    world.end()?;
    is_backup(world, 2, true)?;
    unused(world, 2)
}

/// The subflow on the second link is a backup, between addresses of that link.
fn join_by_announcement(world: &mut World) -> Result<()> {
    if world.we_connect() {
        return join(world, "backup", &[]);
    }
    let interface = world.interface(Ours, 2);
    world.limits(8, 8)?;
    world.connect_with(&["--backup", &interface])?;
    world.greet()?;
    world.joined(1)
}

fn backup_takes_over(world: &mut World) -> Result<()> {
    join_by_announcement(world)?;
    world.exchange()?;
    world.namespace(Ours).set_up(&world.interface(Ours, 1), false)?;
    world.end()?;
    let used = subflow(world, 2)?["bytes_sent"].as_u64().unwrap_or_default();
    ensure!(used >= world.size(), "{used} octets went over the backup subflow");
    Ok(())
}

fn unused_backup_is_lost(world: &mut World) -> Result<()> {
    join_by_announcement(world)?;
    world.exchange_while(world.size(), world.size(), |world| {
        world.namespace(Kernel).set_up(&world.interface(Kernel, 2), false)
    })?;
    world.end()?;
    unused(world, 2)
}
