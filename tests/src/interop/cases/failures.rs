//! Fast close, resets of subflows, and links that are lost and return.

use super::{K, M, ONE, TWO};
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
    outcome: Outcome,
    variants: &'static [Variant],
) -> Row {
    Row { sentence, theme: Theme::Failures, links, words: &[], scenario, outcome, variants }
}

/// Two links that can be silenced.
const TWO_EMULATED: &[&[&str]] = &[&["--both", "delay=2ms"], &["--both", "delay=2ms"]];
/// The client may have opened the lost subflow again.
const OR_AGAIN: Outcome = Outcome::Multipath(2, 3);

pub(super) const ROWS: &[Row] = &[
    row(
        "we give up, with one subflow",
        ONE,
        we_abort,
        Outcome::Ended(141),
        &[v(Ours, V4, Nobody, K), v(Ours, V6, ByUs, K), v(Kernel, V4, ByKernel, K), v(Kernel, V6, Nobody, K)],
    ),
    row(
        "we give up, with two subflows",
        TWO,
        we_abort,
        Outcome::Ended(141),
        &[
            v(Ours, V4, Nobody, K),
            v(Ours, V6ThenV4, Both, K),
            v(Kernel, V4, Nobody, K),
            v(Kernel, V6, ByUs, K),
        ],
    ),
    row(
        "the kernel gives up, with one subflow",
        ONE,
        the_kernel_aborts,
        Outcome::Broken(1),
        &[v(Ours, V4, ByUs, K), v(Ours, V6, Nobody, K), v(Kernel, V4, Nobody, K), v(Kernel, V6, ByKernel, K)],
    ),
    row(
        "the kernel gives up, with two subflows",
        TWO,
        the_kernel_aborts,
        Outcome::Broken(2),
        &[
            v(Ours, V4, Nobody, K),
            v(Ours, V4ThenV6, Nobody, K),
            v(Kernel, V4, ByUs, K),
            v(Kernel, V6, Both, K),
        ],
    ),
    row(
        "the kernel's application goes without having read all",
        TWO,
        unread,
        Outcome::Broken(2),
        &[v(Ours, V4, Nobody, K), v(Kernel, V6, ByUs, K)],
    ),
    row(
        "the kernel resets the second subflow",
        TWO,
        second_is_reset,
        OR_AGAIN,
        &[
            v(Ours, V4, Nobody, M),
            v(Ours, V6, ByKernel, 100 * K),
            v(Kernel, V4, ByUs, M),
            v(Kernel, V6, Nobody, 100 * K),
        ],
    ),
    row(
        "the kernel resets the first subflow",
        TWO,
        first_is_reset,
        OR_AGAIN,
        &[
            v(Ours, V4, ByUs, M),
            v(Ours, V6, Nobody, 100 * K),
            v(Kernel, V4, Nobody, M),
            v(Kernel, V6, ByKernel, 100 * K),
        ],
    ),
    row(
        "the second link falls silent while data flows",
        TWO_EMULATED,
        second_falls_silent,
        OR_AGAIN,
        &[
            v(Ours, V4, Nobody, 10 * M),
            v(Ours, V6, ByUs, 10 * M),
            v(Kernel, V4, Nobody, 10 * M),
            v(Kernel, V6, ByKernel, 10 * M),
        ],
    ),
    row(
        "the first link falls silent while data flows",
        TWO_EMULATED,
        first_falls_silent,
        OR_AGAIN,
        &[
            v(Ours, V4, ByKernel, 10 * M),
            v(Ours, V6ThenV4, Nobody, 10 * M),
            v(Kernel, V4, ByUs, 10 * M),
            v(Kernel, V6, Nobody, 10 * M),
        ],
    ),
    row(
        "a link falls silent and speaks again",
        TWO_EMULATED,
        silent_for_a_while,
        OR_AGAIN,
        &[
            v(Ours, V4, Nobody, 10 * M),
            v(Ours, V6, Nobody, 10 * M),
            v(Kernel, V4, Both, 10 * M),
            v(Kernel, V6, ByUs, 10 * M),
        ],
    ),
    row(
        "our end of the second link goes down",
        TWO,
        our_end_goes_down,
        OR_AGAIN,
        &[
            v(Ours, V4, ByUs, 10 * M),
            v(Ours, V6, Nobody, M),
            v(Kernel, V4, Nobody, M),
            v(Kernel, V6, ByKernel, 10 * M),
        ],
    ),
    row(
        "the kernel's end of the first link goes down",
        TWO,
        their_end_goes_down,
        OR_AGAIN,
        &[v(Ours, V4, Nobody, 10 * M), v(Kernel, V4, ByKernel, 10 * M)],
    ),
    row(
        "our end of a link goes down and up again",
        TWO,
        down_and_up,
        Outcome::Multipath(3, 3),
        &[v(Ours, V4, Nobody, M), v(Ours, V4ThenV6, ByKernel, M)],
    ),
    row(
        "the kernel's listener is gone before we join",
        TWO,
        no_listener,
        Outcome::subflows(1),
        &[v(Ours, V4, Nobody, 100 * K), v(Ours, V6, ByUs, 100 * K)],
    ),
];

fn begin(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    let others = world.lab.links() as i64 - 1;
    if world.we_connect() && others > 0 {
        world.endpoint(2, "signal")?;
    }
    world.connect()?;
    world.greet()?;
    world.joined(others)?;
    // The last segment of the handshake has arrived when these have.
    world.send(Kernel, 1)?;
    world.send(Ours, 1)
}

fn we_abort(world: &mut World) -> Result<()> {
    world.tolerate(&["MPFastcloseRx"]);
    begin(world)?;
    world.flood_while(Kernel, World::close_our_output)?;
    world.kernel_sees_a_reset()?;
    world.at_least("MPFastcloseRx", 1)?;
    world.finish()?;
    world.counters(&[("MPFastcloseTx", 0)])
}

fn the_kernel_aborts(world: &mut World) -> Result<()> {
    world.tolerate(&["MPFastcloseTx"]);
    begin(world)?;
    world.exchange()?;
    world.kernel_aborts()?;
    world.at_least("MPFastcloseTx", 1)?;
    world.finish()?;
    world.counters(&[("MPFastcloseRx", 0)])
}

fn unread(world: &mut World) -> Result<()> {
    world.tolerate(&["MPFastcloseTx"]);
    begin(world)?;
    world.kernel_leaves_data_unread()?;
    world.at_least("MPFastcloseTx", 1)?;
    world.finish()
}

/// Makes the kernel reset its subflow on a link.
fn reset(world: &World, link: usize) -> Result<()> {
    let address = match world.address(Kernel, link) {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    };
    let output = world
        .namespace(Kernel)
        .command("ss")
        .args(["--kill", "--tcp", "--numeric", "state", "established", "src"])
        .arg(address)
        .output()?;
    ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn second_is_reset(world: &mut World) -> Result<()> {
    begin(world)?;
    world.exchange()?;
    reset(world, 2)?;
    world.at_least("MPRstTx", 1)?;
    world.end()
}

fn first_is_reset(world: &mut World) -> Result<()> {
    begin(world)?;
    world.exchange()?;
    reset(world, 1)?;
    world.at_least("MPRstTx", 1)?;
    world.end()
}

fn falls_silent(world: &mut World, link: usize) -> Result<()> {
    begin(world)?;
    world.exchange_while(world.size(), world.size(), |world| {
        world.lab.silence(link, true);
        Ok(())
    })?;
    world.finish()
}

fn second_falls_silent(world: &mut World) -> Result<()> {
    falls_silent(world, 2)
}

fn first_falls_silent(world: &mut World) -> Result<()> {
    falls_silent(world, 1)
}

fn silent_for_a_while(world: &mut World) -> Result<()> {
    // Bytes that the kernel had long since received over the other link come once more.
    world.tolerate(&["NoDSSInWindow"]);
    begin(world)?;
    world.exchange_while(world.size(), world.size(), |world| {
        world.lab.silence(2, true);
        Ok(())
    })?;
    world.lab.silence(2, false);
    world.end()
}

fn our_end_goes_down(world: &mut World) -> Result<()> {
    begin(world)?;
    world.exchange_while(world.size(), world.size(), |world| {
        world.namespace(Ours).set_up(&world.interface(Ours, 2), false)
    })?;
    world.end()
}

fn their_end_goes_down(world: &mut World) -> Result<()> {
    begin(world)?;
    world.exchange_while(world.size(), world.size(), |world| {
        world.namespace(Kernel).set_up(&world.interface(Kernel, 1), false)
    })?;
    world.end()
}

fn down_and_up(world: &mut World) -> Result<()> {
    begin(world)?;
    let interface = world.interface(Ours, 2);
    world.namespace(Ours).set_up(&interface, false)?;
    world.exchange()?;
    world.namespace(Ours).set_up(&interface, true)?;
    if !world.address(Ours, 2).is_ipv4() {
        // The kernel takes them away when an interface goes down.
        world.namespace(Ours).add_address(&interface, &world.prefix(Ours, 2))?;
    }
    world.joined(2)?;
    world.end()
}

fn no_listener(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    world.connect()?;
    world.close_listener();
    world.endpoint(2, "signal")?;
    world.greet()?;
    world.counters(&[("EchoAdd", 1)])?;
    world.end()?;
    world.counters(&[("MPJoinAckRx", 0)])
}
