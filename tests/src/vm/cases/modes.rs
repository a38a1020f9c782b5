//! How programs are attached to a card: in the driver, behind it, and without copying.

use super::super::lab::{Bench, Between, Choices, Lab, PATIENCE};
use super::super::transfer::Transfer;
use crate::demo::Stack::{Kernel, Ours};
use crate::lab::{Family, Side};
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

pub(super) fn modes(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices::default())?;
    for (options, mode, shown) in
        [(&["--mode", "native"], "native", "xdp "), (&["--mode", "generic"], "generic", "xdpgeneric ")]
    {
        if !attach_and_detach(&lab, &options[..], shown)? {
            lab.finish()?;
            return Ok("no generic mode before Linux 6.6, said so".into());
        }
        for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours)] {
            let transfer = Transfer { options, size: 2 << 20, ..Transfer::new(sender, receiver) };
            let outcome = transfer.run(&lab)?;
            ensure!(outcome.modes == [mode; 2], "asked for {mode}, got {:?}", outcome.modes);
            ensure!(!outcome.fallback, "{mode}: the connection fell back to regular TCP");
        }
    }
    lab.finish()?;
    Ok(String::new())
}

/// A listener that is told to end leaves its interfaces as they were. Not so where the kernel can't do it,
/// which must be said.
fn attach_and_detach(lab: &Lab<'_>, options: &[&str], shown: &str) -> Result<bool> {
    let words = [&["mptcp", "-v", "listen", "6000"], options].concat();
    let mut listener = lab.left.start_program(&words)?;
    if let Err(error) = listener.wait_for("listening on", PATIENCE) {
        ensure!(options.contains(&"generic") && format!("{error:#}").contains("Linux 6.6"), "{error:#}");
        return Ok(false);
    }
    for number in 1..=2 {
        let link = lab.left.run(&format!("ip link show dev {}", Side::Left.interface(number)))?;
        ensure!(link.contains(shown), "{options:?}: {link}");
    }
    listener.signal(libc::SIGTERM)?;
    let ended = listener.finish(PATIENCE)?;
    ensure!(ended.code == Some(143), "{options:?}: {ended}");
    left_attached(lab, Side::Left)?;
    Ok(true)
}

/// No program is attached on a side, a moment from now at the latest.
pub(super) fn left_attached(lab: &Lab<'_>, side: Side) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let links = lab.guest(side).run("ip link show")?;
        if !links.contains("prog/xdp") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a program is still attached: {links}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Where the kernel and the card can, without copying; where not, that is said, and copying does.
pub(super) fn zero_copy(bench: Bench<'_>) -> Result<String> {
    // Virtio's conditions for zero-copy, from Linux 6.13 on: queues for XDP, and memory by way of the DMA
    // interface.
    const PROPERTIES: &str = "mq=on,vectors=6,disable-legacy=on,iommu_platform=on";
    let choices =
        Choices { between: Between::Bridges, queues: 2, properties: PROPERTIES, ..Choices::default() };
    let lab = Lab::boot(bench, choices)?;
    // So slow that one link alone would take its time, and both are used.
    lab.shape("rate 40mbit limit 1000")?;
    let mut copied = false;
    for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours)] {
        // How packets arrive is said at the second step of verbosity.
        let options = &["--mode", "native", "--zero-copy", "-vv"];
        let outcome = Transfer { options, ..Transfer::new(sender, receiver) }.run(&lab)?;
        outcome.used_all_links(&lab, Family::Ipv4)?;
        ensure!(outcome.modes == ["native"; 2], "asked for native mode, got {:?}", outcome.modes);
        let zero = outcome.said.contains("packets arrive without copying");
        ensure!(
            zero != outcome.said.contains("no zero-copy"),
            "nothing is said about zero-copy:\n{}",
            outcome.said
        );
        copied |= !zero;
    }
    lab.finish()?;
    let version: Vec<u32> =
        bench.image.kernel.release.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
    ensure!(!(copied && version >= vec![6, 18]), "this kernel's virtio has zero-copy, and it was not used");
    Ok(if copied { "not in this kernel's driver, said so, copied" } else { "zero-copy" }.into())
}
