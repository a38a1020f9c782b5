//! Transfers with nothing in the way: who with whom, over how many NICs, how fast.

use super::super::lab::{self, Bench, Choices, Lab, Network, PATIENCE};
use super::super::transfer::{Outcome, Transfer};
use crate::demo::Stack::{self, Kernel, Ours};
use crate::lab::{Family, Side};
use anyhow::{Context, Result, ensure};

/// Goodput over three links of 20 Mb/s that Multipath TCP must reach: nine tenths of what they carry.
const EXPECTED_MBPS: f64 = 54.0;

/// The demo in namespaces of the guest: both families, both roles, links taken down.
pub(super) fn demo(bench: Bench<'_>) -> Result<String> {
    let guest = lab::alone(bench, &["modprobe -q veth"])?;
    let words = ["demo", "--size", "16M", "--binary", "/bin/mptcp"];
    let ended = guest.start_program(&words)?.finish(4 * PATIENCE)?;
    ensure!(ended.code == Some(0), "the demo: {ended}");
    guest.finish()?;
    let last = ended.stdout.lines().last().context("the demo says nothing")?;
    Ok(last.trim().to_owned())
}

/// All pairs with our stack at one end at least.
const PAIRS: [(Stack, Stack); 3] = [(Ours, Kernel), (Kernel, Ours), (Ours, Ours)];

pub(super) fn two_nics(bench: Bench<'_>) -> Result<String> {
    all_pairs(bench, 2, &Family::BOTH)
}

pub(super) fn three_nics(bench: Bench<'_>) -> Result<String> {
    all_pairs(bench, 3, &[Family::Ipv4])
}

pub(super) fn six_nics(bench: Bench<'_>) -> Result<String> {
    all_pairs(bench, 6, &[Family::Ipv6])
}

/// Every link must carry data. They have a rate, so that one alone would take its time.
fn all_pairs(bench: Bench<'_>, links: usize, families: &[Family]) -> Result<String> {
    let lab = Lab::boot(bench, Choices { links, ..Choices::default() })?;
    lab.shape("rate 40mbit limit 1000")?;
    for &family in families {
        for (sender, receiver) in PAIRS {
            let transfer = Transfer { family, ..Transfer::new(sender, receiver) };
            let name = transfer.name();
            let outcome = transfer.run(&lab)?;
            outcome.used_all_links(&lab, family).with_context(|| name.clone())?;
            check_counters(&lab, &transfer)?;
        }
    }
    lab.finish()?;
    Ok(String::new())
}

/// The kernel's own view of its side: no complaints, and not a word of our connections.
fn check_counters(lab: &Lab<'_>, transfer: &Transfer) -> Result<()> {
    for (side, stack) in [(Side::Left, transfer.sender), (Side::Right, transfer.receiver)] {
        let counters = lab.counters(side)?;
        let trouble = counters.trouble();
        ensure!(trouble.is_empty(), "{}: {side:?}: the kernel counts {trouble:?}", transfer.name());
        if stack == Ours {
            let resets = counters.get("TcpOutRsts");
            ensure!(resets == 0, "{}: {side:?}: the kernel has sent {resets} resets", transfer.name());
        }
    }
    Ok(())
}

pub(super) fn rate(bench: Bench<'_>) -> Result<String> {
    // One family: the kernel makes a subflow for each link, and ours would make one for each family, too.
    let choices = Choices { links: 3, families: &[Family::Ipv4], ..Choices::default() };
    let lab = Lab::boot(bench, choices)?;
    lab.shape("rate 20mbit delay 5ms limit 1000")?;
    let measure = |sender, receiver| -> Result<Outcome> {
        Transfer { size: 48 << 20, ..Transfer::new(sender, receiver) }.run(&lab)
    };
    let kernels = measure(Kernel, Kernel)?;
    let ours = measure(Ours, Ours)?;
    let text = format!("{:.1} Mb/s, the kernel's own {:.1}", ours.mbps, kernels.mbps);
    ensure!(ours.mbps >= EXPECTED_MBPS, "{text}\n{}", ours.said);
    lab.finish()?;
    Ok(text)
}
