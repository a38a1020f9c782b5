//! `cargo xtask test`: all that `cargo test` runs.

use super::{host, run};
use anyhow::Result;

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
    if words.is_empty() {
        eprintln!(
            "xtask: not among these: the tests in virtual machines (`cargo xtask vm --selection --kernel 6.12`)"
        );
    }
    Ok(())
}
