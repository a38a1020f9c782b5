//! Interfaces and addresses that come and go while a transfer runs, on the side that is ours.

use super::super::guest::Guest;
use super::super::lab::{Bench, Choices, Lab, Network, PATIENCE};
use super::super::station::Station;
use super::super::transfer::Transfer;
use crate::demo::Stack::{self, Kernel, Ours};
use crate::lab::{Family, Side};
use anyhow::{Context, Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// Octets of a transfer; with links of [`SHAPE`] it takes seven seconds.
const SIZE: u64 = 16 << 20;
const SHAPE: &str = "rate 10mbit delay 2ms limit 1000";
/// The link that changes.
const NUMBER: usize = 2;

/// A change, and the command that undoes it.
type Change = fn(&Lab<'_>, Side) -> Result<()>;

/// A transfer each way: a quarter over both links, a quarter while the second link is gone, and the rest with
/// both.
fn during_transfers(bench: Bench<'_>, gone: Change, back: Change) -> Result<String> {
    let lab = Lab::boot(bench, Choices { families: &[Family::Ipv4], ..Choices::default() })?;
    for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours)] {
        lab.shape(SHAPE)?;
        one(&lab, sender, receiver, gone, back).with_context(|| format!("{sender}→{receiver}"))?;
    }
    lab.finish()?;
    Ok(String::new())
}

fn one(lab: &Lab<'_>, sender: Stack, receiver: Stack, gone: Change, back: Change) -> Result<()> {
    let ours = if sender == Ours { Side::Left } else { Side::Right };
    let mut transfer = Transfer { size: SIZE, ..Transfer::new(sender, receiver) }.start(lab)?;
    transfer.wait_until_arrived(SIZE / 4)?;
    gone(lab, ours)?;
    transfer.wait_until_arrived(SIZE / 2)?;
    back(lab, ours)?;
    until_attached(lab, ours)?;
    let outcome = transfer.finish(2 * PATIENCE)?;
    outcome.used_all_links(lab, Family::Ipv4)
}

/// The interface of the link that came back has our program again.
fn until_attached(lab: &Lab<'_>, side: Side) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let link = lab.guest(side).run(&format!("ip link show dev {}", side.interface(NUMBER)))?;
        if link.contains("prog/xdp") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no program came back: {link}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn ip(lab: &Lab<'_>, side: Side, line: &str) -> Result<()> {
    lab.guest(side).run(&format!("ip {line}")).map(drop)
}

pub(super) fn link_down(bench: Bench<'_>) -> Result<String> {
    during_transfers(
        bench,
        |lab, side| ip(lab, side, &format!("link set dev {} down", side.interface(NUMBER))),
        |lab, side| ip(lab, side, &format!("link set dev {} up", side.interface(NUMBER))),
    )
}

fn address_words(lab: &Lab<'_>, side: Side) -> String {
    format!("{}/24 dev {}", lab.address(side, NUMBER, Family::Ipv4), side.interface(NUMBER))
}

pub(super) fn address(bench: Bench<'_>) -> Result<String> {
    during_transfers(
        bench,
        |lab, side| ip(lab, side, &format!("address del {}", address_words(lab, side))),
        |lab, side| ip(lab, side, &format!("address add {}", address_words(lab, side))),
    )
}

/// Name of the card that was plugged in: the first that is free, which is not the one it had before the
/// others were renamed. The driver takes a moment to find it.
fn plugged(guest: &Guest) -> Result<String> {
    let address = guest.hardware_address(NUMBER - 1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let links = guest.run("ip -oneline link show")?;
        let line = links.lines().find(|line| line.contains(&address));
        if let Some(name) = line.and_then(|line| line.split(": ").nth(1)) {
            return Ok(name.to_owned());
        }
        ensure!(Instant::now() < deadline, "the card that was plugged in is not found: {links}");
        thread::sleep(Duration::from_millis(50));
    }
}

pub(super) fn hotplug(bench: Bench<'_>) -> Result<String> {
    during_transfers(
        bench,
        |lab, side| lab.guest(side).unplug(NUMBER - 1),
        |lab, side| {
            let guest = lab.guest(side);
            guest.plug(NUMBER - 1)?;
            let card = plugged(guest)?;
            let interface = side.interface(NUMBER);
            ip(lab, side, &format!("link set dev {card} name {interface}"))?;
            Station::run(guest, &format!("tc qdisc replace dev {interface} root netem {SHAPE}"))?;
            ip(lab, side, &format!("link set dev {interface} up"))?;
            ip(lab, side, &format!("address add {}", address_words(lab, side)))
        },
    )
}
