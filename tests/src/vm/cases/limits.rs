//! The end of the process, of the memory, and of what old kernels can.

use super::super::lab::{Bench, Choices, Lab, PATIENCE};
use super::super::transfer::Transfer;
use super::modes::left_attached;
use crate::demo::Stack::{Kernel, Ours};
use crate::lab::Side;
use anyhow::{Result, ensure};

/// After `kill -9` in the middle of a transfer no program is attached, and the guest's kernel has its
/// network.
pub(super) fn kill(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices::default())?;
    lab.shape("rate 10mbit limit 1000")?;
    let size = 8 << 20;
    let mut transfer = Transfer { size, ..Transfer::new(Ours, Kernel) }.start(&lab)?;
    transfer.wait_until_arrived(size / 8)?;
    let links = lab.left.run("ip link show")?;
    ensure!(links.matches("prog/xdp").count() == 2, "programs should be attached to two interfaces: {links}");
    transfer.sender().signal(libc::SIGKILL)?;
    transfer.receiver().signal(libc::SIGKILL)?;
    let (sender, _) = transfer.abandon(PATIENCE)?;
    ensure!(sender.code.is_none(), "the sender was not killed: {sender}");
    left_attached(&lab, Side::Left)?;
    let kernels = Transfer { size: 1 << 20, regular: true, ..Transfer::new(Kernel, Kernel) };
    kernels.run(&lab)?;
    // And nothing stands in the way of the next one of ours.
    ensure!(!Transfer { size: 1 << 20, ..Transfer::new(Ours, Ours) }.run(&lab)?.fallback, "it fell back");
    lab.finish()?;
    Ok(String::new())
}

/// A guest with little memory sends and receives, and nothing is killed for want of memory.
pub(super) fn memory(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices { memory: [256, 256], ..Choices::default() })?;
    for (sender, receiver) in [(Ours, Kernel), (Kernel, Ours)] {
        let outcome = Transfer { size: 24 << 20, ..Transfer::new(sender, receiver) }.run(&lab)?;
        ensure!(!outcome.fallback, "the connection fell back to regular TCP");
    }
    for side in [Side::Left, Side::Right] {
        let log = lab.guest(side).run("dmesg")?;
        ensure!(!log.contains("Out of memory"), "{side:?}: {log}");
    }
    lab.finish()?;
    Ok(String::new())
}

/// A kernel that is too old is told so in words, and nothing is left attached.
pub(super) fn too_old(bench: Bench<'_>) -> Result<String> {
    let lab = Lab::boot(bench, Choices { links: 1, ..Choices::default() })?;
    let ended = lab.left.start_program(&["mptcp", "listen", "6000"])?.finish(PATIENCE)?;
    let says = "Linux 6.1 or newer";
    ensure!(ended.code == Some(1) && ended.stderr.contains(says), "{says:?} is not said: {ended}");
    left_attached(&lab, Side::Left)?;
    lab.finish()?;
    Ok(ended.stderr.trim().trim_start_matches("mptcp: ").to_owned())
}
