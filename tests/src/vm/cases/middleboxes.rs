//! A router between two guests that delays, drops and rewrites.

use super::super::guest::Guest;
use super::super::lab::{Bench, Between, Choices, Lab};
use super::super::transfer::{Outcome, Transfer};
use crate::demo::Stack::{Kernel, Ours};
use crate::lab::{Family, Side};
use anyhow::{Context, Result, ensure};

fn boot(bench: Bench<'_>) -> Result<Lab<'_>> {
    Lab::boot(bench, Choices { between: Between::Router, families: &[Family::Ipv4], ..Choices::default() })
}

fn router<'l>(lab: &'l Lab<'_>) -> Result<&'l Guest> {
    lab.router.as_ref().context("a router")
}

/// The router's queues on all links, both directions.
fn impair(lab: &Lab<'_>, words: &str) -> Result<()> {
    for side in [Side::Left, Side::Right] {
        for number in 1..=2 {
            let interface = side.interface(number);
            router(lab)?.run(&format!("tc qdisc replace dev {interface} root netem {words}"))?;
        }
    }
    Ok(())
}

/// Our stack sends and receives; both outcomes.
fn both_ways(lab: &Lab<'_>, size: u64) -> Result<Vec<Outcome>> {
    [(Ours, Kernel), (Kernel, Ours)]
        .into_iter()
        .map(|(sender, receiver)| Transfer { size, ..Transfer::new(sender, receiver) }.run(lab))
        .collect()
}

pub(super) fn loss(bench: Bench<'_>) -> Result<String> {
    let lab = boot(bench)?;
    impair(&lab, "delay 10ms 2ms loss 0.5% rate 50mbit limit 1000")?;
    let outcomes = both_ways(&lab, 8 << 20)?;
    for outcome in &outcomes {
        outcome.used_all_links(&lab, Family::Ipv4)?;
    }
    lab.finish()?;
    Ok(format!("sending {:.0} Mb/s, receiving {:.0}", outcomes[0].mbps, outcomes[1].mbps))
}

/// All of the router's rules, gone.
fn flush(lab: &Lab<'_>) -> Result<()> {
    router(lab)?.run("nft flush ruleset").map(drop)
}

pub(super) fn strip(bench: Bench<'_>) -> Result<String> {
    let lab = boot(bench)?;
    impair(&lab, "rate 40mbit limit 1000")?;
    let strip = |interface: &str| -> Result<()> {
        flush(&lab)?;
        let router = router(&lab)?;
        router.run("nft add table inet box")?;
        router.run("nft add chain inet box forward { type filter hook forward priority 0 ; }")?;
        router.run(&format!("nft add rule inet box forward iifname {interface} reset tcp option mptcp"))?;
        router
            .run(&format!("nft add rule inet box forward oifname {interface} reset tcp option mptcp"))
            .map(drop)
    };
    // On the second path only: Multipath TCP on the first one, and no harm done.
    strip("left2")?;
    for outcome in both_ways(&lab, 4 << 20)? {
        ensure!(!outcome.fallback, "a second path without options ended Multipath TCP:\n{}", outcome.said);
    }
    // On the first path: regular TCP.
    strip("left1")?;
    for outcome in both_ways(&lab, 4 << 20)? {
        ensure!(outcome.fallback, "options are stripped, and yet this is Multipath TCP:\n{}", outcome.said);
    }
    lab.finish()?;
    Ok(String::new())
}

pub(super) fn nat(bench: Bench<'_>) -> Result<String> {
    let lab = boot(bench)?;
    impair(&lab, "rate 40mbit limit 1000")?;
    let router = router(&lab)?;
    router.run("nft add table ip box")?;
    router.run("nft add chain ip box leave { type nat hook postrouting priority 100 ; }")?;
    for number in 1..=2 {
        let interface = Side::Right.interface(number);
        router.run(&format!("nft add rule ip box leave oifname {interface} masquerade"))?;
    }
    for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours), (Ours, Ours)] {
        let transfer = Transfer::new(sender, receiver);
        transfer.run(&lab)?.used_all_links(&lab, Family::Ipv4).with_context(|| transfer.name())?;
    }
    lab.finish()?;
    Ok(String::new())
}
