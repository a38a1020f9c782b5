//! `cargo xtask test`: all that `cargo test` runs, and a selection of the tests in virtual machines.

use super::{host, run};
use anyhow::{Result, ensure};
use std::process::Command;

pub(crate) fn run(words: &[String]) -> Result<()> {
    if host::is_root() {
        host::need(&[host::IP, host::TSHARK])?;
    } else {
        eprintln!("xtask: not root: tests that make network namespaces will skip themselves and say so");
    }
    // Built first, so that no test has to wait for it.
    let profile = ["build", "--profile", "test", "--package", "mptcp-user", "--bin", "mptcp"];
    run::run(&mut run::cargo(&profile))?;
    let mut command = run::cargo(&["test", "--workspace"]);
    run::run(command.args(words).env("MPTCP_BIN", run::target().join("debug/mptcp")))?;
    // Whoever asks for certain tests does not want these.
    if words.is_empty() { in_guests() } else { Ok(()) }
}

/// A short selection of the tests in virtual machines, where this machine has or gets what they take.
fn in_guests() -> Result<()> {
    // One kernel is enough here: the whole is `cargo xtask vm --kernel all`.
    let vm = || {
        let mut command = Command::new(run::target().join("debug/vm"));
        command.args(["--kernel", "6.12"]).env("MPTCP_BIN", run::target().join("debug/mptcp"));
        command
    };
    let ready = || -> Result<()> {
        ensure!(host::is_root(), "they need root");
        host::need(&host::GUESTS)?;
        run::run(vm().arg("--fetch"))
    };
    if let Err(error) = ready() {
        eprintln!("xtask: SKIPPED: the tests in virtual machines: {error:#}");
        return Ok(());
    }
    run::run(vm().args(["--selection", "--keep-going"]))
}
