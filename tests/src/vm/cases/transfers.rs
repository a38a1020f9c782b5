//! Transfers with nothing in the way: pairs of stacks, numbers of NICs, rates.

use super::super::lab::{self, Bench, Choices, Lab, Network, PATIENCE};
use super::super::transfer::{Outcome, Transfer};
use crate::counters::Counters;
use crate::demo::Stack::{self, Kernel, Ours};
use crate::lab::{Family, Side};
use anyhow::{Context, Result, ensure};

/// Goodput over three links of 20 Mb/s that Multipath TCP must reach: nine tenths of what they carry.
const EXPECTED_MBPS: f64 = 54.0;

/// The demo in namespaces of the guest: both families, both roles, links taken down. Without tshark, which
/// guests do not have.
pub(super) fn demo(bench: Bench<'_>) -> Result<String> {
    let guest = lab::alone(bench, &["modprobe -q veth"])?;
    // Less may be through before the second path is there, where a processor serves both ends.
    let words = ["demo", "--size", "64M", "--no-captures", "--binary", "/bin/mptcp"];
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
            let before = [lab.counters(Side::Left)?, lab.counters(Side::Right)?];
            let outcome = transfer.run(&lab)?;
            outcome.used_all_links(&lab, family).with_context(|| name.clone())?;
            check_counters(&lab, &transfer, &before)?;
        }
    }
    lab.finish()?;
    Ok(String::new())
}

/// The kernel's own view of its side since `before` (left, right): no complaints, and not a word of our
/// connections. Its resets to end its own connection, in the transfer before, do not count.
fn check_counters(lab: &Lab<'_>, transfer: &Transfer, before: &[Counters; 2]) -> Result<()> {
    let sides = [(Side::Left, transfer.sender), (Side::Right, transfer.receiver)];
    for ((side, stack), before) in sides.into_iter().zip(before) {
        let counters = lab.counters(side)?.since(before);
        let trouble = counters.trouble();
        ensure!(trouble.is_empty(), "{}: {side:?}: the kernel counts {trouble:?}", transfer.name());
        if stack == Ours {
            let resets = counters.get("TcpOutRsts");
            ensure!(resets == 0, "{}: {side:?}: the kernel has sent {resets} resets", transfer.name());
        }
    }
    Ok(())
}

/// At least [`EXPECTED_MBPS`]; where this machine is too slow for that in guests, what the kernel's own gets
/// there. Both have the same number of tries, since others may want the machine's processors meanwhile.
pub(super) fn rate(bench: Bench<'_>) -> Result<String> {
    const ROUNDS: usize = 3;
    // One family: the kernel makes a subflow for each link, and ours would make one for each family, too.
    let choices = Choices { links: 3, families: &[Family::Ipv4], ..Choices::default() };
    let lab = Lab::boot(bench, choices)?;
    lab.shape("rate 20mbit delay 5ms limit 1000")?;
    let measure = |sender, receiver| -> Result<Outcome> {
        Transfer { size: 48 << 20, ..Transfer::new(sender, receiver) }.run(&lab)
    };
    let (mut kernels, mut ours) = (0f64, 0f64);
    let mut said = String::new();
    for _ in 0..ROUNDS {
        kernels = kernels.max(measure(Kernel, Kernel)?.mbps);
        let outcome = measure(Ours, Ours)?;
        ours = ours.max(outcome.mbps);
        said = outcome.said;
        if ours >= EXPECTED_MBPS {
            break;
        }
    }
    lab.finish()?;
    verdict(ours, kernels).with_context(|| said)
}

/// The verdict on our rate beside the kernel's own, both in Mb/s.
fn verdict(ours: f64, kernels: f64) -> Result<String> {
    let text = format!("{ours:.1} Mb/s, the kernel's own {kernels:.1}");
    if ours >= EXPECTED_MBPS {
        return Ok(text);
    }
    ensure!(ours >= kernels, "{text}; wanted: {EXPECTED_MBPS}");
    Ok(format!("{text} (neither {EXPECTED_MBPS}: the machine was too slow or too busy)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_below_what_is_wanted_must_not_be_below_the_kernels() {
        assert_eq!(verdict(54.2, 56.0).unwrap(), "54.2 Mb/s, the kernel's own 56.0");
        assert!(verdict(42.2, 39.4).unwrap().contains("too slow"));
        assert!(verdict(53.4, 55.7).is_err());
        assert!(verdict(42.2, 42.3).is_err());
    }
}
