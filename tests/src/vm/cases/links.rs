//! Kinds of links: VLANs, large packets, one family only, offloads, and the way to the host.

use super::super::lab::{Bench, Between, Choices, HostLab, Lab, Network, PATIENCE};
use super::super::transfer::Transfer;
use super::modes::left_attached;
use crate::demo::Stack::{Kernel, Ours};
use crate::lab::{Family, Side};
use anyhow::{Context, Result, ensure};

/// Both directions between our stack and the kernel's.
fn both_ways(network: &dyn Network, family: Family) -> Result<()> {
    for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours)] {
        let transfer = Transfer { family, ..Transfer::new(sender, receiver) };
        transfer.run(network)?.used_all_links(network, family).with_context(|| transfer.name())?;
    }
    Ok(())
}

/// So slow that one link alone would take its time, and both are used.
const SHAPE: &str = "rate 40mbit limit 1000";

/// Where generic mode is needed, which VLANs have only, and the kernel does not have it for us, that is said.
pub(super) fn vlan(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices { vlan: Some(7), ..Choices::default() })?;
    if lab.left.run("mptcp interfaces")?.contains("Linux 6.6") {
        let ended = lab.left.start_program(&["mptcp", "listen", "6000"])?.finish(PATIENCE)?;
        ensure!(ended.code == Some(1) && ended.stderr.contains("Linux 6.6"), "not said clearly: {ended}");
        left_attached(&lab, Side::Left)?;
        lab.finish()?;
        return Ok("not before Linux 6.6, said so".into());
    }
    lab.shape(SHAPE)?;
    both_ways(&lab, Family::Ipv4)?;
    lab.finish()?;
    Ok(String::new())
}

/// Large packets, in generic mode. A limit of kernel or driver is said clearly.
pub(super) fn jumbo(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices { mtu: 9000, ..Choices::default() })?;
    lab.shape(SHAPE)?;
    let interfaces = lab.left.run("mptcp interfaces")?;
    if interfaces.contains("Linux 6.6") {
        ensure!(interfaces.contains("mtu 3498"), "no remedy is named: {interfaces}");
        lab.finish()?;
        return Ok("not before Linux 6.6, said so".into());
    }
    both_ways(&lab, Family::Ipv4)?;
    let words = ["mptcp", "listen", "6000", "--mode", "native"];
    let ended = lab.left.start_program(&words)?.finish(PATIENCE)?;
    let clear = ended.code == Some(1) && ended.stderr.contains("generic mode");
    ensure!(clear, "native mode with large packets: {ended}");
    lab.finish()?;
    Ok("generic mode; native refused, said so".into())
}

pub(super) fn ipv6_only(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices { families: &[Family::Ipv6], ..Choices::default() })?;
    lab.shape(SHAPE)?;
    both_ways(&lab, Family::Ipv6)?;
    lab.finish()?;
    Ok(String::new())
}

/// A kernel without IPv6 at all.
pub(super) fn ipv4_only(bench: Bench<'_>) -> Result<String> {
    let choices = Choices { families: &[Family::Ipv4], kernel_words: "ipv6.disable=1", ..Choices::default() };
    let lab = Lab::boot(bench, choices)?;
    lab.shape(SHAPE)?;
    let transfer = Transfer::new(Ours, Kernel);
    transfer.run(&lab)?.used_all_links(&lab, Family::Ipv4)?;
    lab.finish()?;
    Ok(String::new())
}

/// Super-segments and partial checksums from card to card, then neither.
pub(super) fn offloads(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices { between: Between::Bridges, ..Choices::default() })?;
    for on in ["on", "off"] {
        for side in [Side::Left, Side::Right] {
            for number in 1..=2 {
                let interface = side.interface(number);
                lab.guest(side).run(&format!("vm-agent offloads {interface} {on}"))?;
            }
        }
        for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours), (Ours, Ours)] {
            let outcome =
                Transfer::new(sender, receiver).run(&lab).with_context(|| format!("offloads {on}"))?;
            ensure!(!outcome.fallback, "offloads {on}: the connection fell back to regular TCP");
        }
    }
    lab.finish()?;
    Ok(String::new())
}

/// A guest and the machine that it runs on, which has a kernel of its own.
pub(super) fn host(bench: Bench<'_>) -> Result<String> {
    let lab = HostLab::boot(bench)?;
    for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours), (Ours, Ours)] {
        let transfer = Transfer::new(sender, receiver);
        let outcome = transfer.run(&lab)?;
        ensure!(!outcome.fallback, "{}: the connection fell back to regular TCP", transfer.name());
    }
    lab.left.finish()?;
    Ok(String::new())
}
