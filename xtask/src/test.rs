//! `cargo xtask test`: all that `cargo test` runs, and a selection of what is tested in guests.

use super::{host, run};
use anyhow::{Result, ensure};
use std::process::Command;

/// Kernel of the selection: the one with most of what kernels can do that a Debian 12 has packages of.
const KERNEL: [&str; 2] = ["--kernel", "6.12"];

pub(crate) fn run(words: &[String]) -> Result<()> {
    if host::is_root() {
        host::need(&[host::IP, host::TSHARK])?;
    } else {
        eprintln!("xtask: not root: tests that make network namespaces will skip themselves and say so");
    }
    // Built first, so that no test has to wait for it.
    let profile = ["build", "--profile", "test", "--package", "mptcp-cli", "--bin", "mptcp"];
    run::run(&mut run::cargo(&profile))?;
    // One that fails hides none of the others.
    let mut command = run::cargo(&["test", "--workspace", "--no-fail-fast"]);
    run::run(command.args(words).env("MPTCP_BIN", run::target().join("debug/mptcp")))?;
    // Words choose among the tests of `cargo test`.
    if !words.is_empty() {
        return Ok(());
    }
    match guests() {
        Ok(()) => run::run(vm().arg("--selection").args(KERNEL)),
        Err(reason) => {
            eprintln!("xtask: SKIPPED: the tests in virtual machines: {reason:#}");
            Ok(())
        }
    }
}

/// Sees to it that there can be guests: qemu and a kernel. The error is why there can't.
fn guests() -> Result<()> {
    ensure!(std::env::consts::ARCH == "x86_64", "their kernels are for x86-64");
    ensure!(host::is_root(), "they need root");
    host::need(&host::GUESTS)?;
    run::run(vm().arg("--fetch").args(KERNEL))
}

/// The program that runs guests, as `cargo test` has built it with the others beside it.
fn vm() -> Command {
    let folder = run::target().join("debug");
    let mut command = Command::new(folder.join("vm"));
    command.env("MPTCP_BIN", folder.join("mptcp"));
    command
}
