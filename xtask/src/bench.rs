//! `cargo xtask bench`.

use super::{build, host, run};
use anyhow::Result;
use std::process::Command;

pub(crate) fn run(words: &[String]) -> Result<()> {
    host::need(&[host::IP])?;
    let mptcp = build::mptcp()?;
    let bench = build::tests_program("bench")?;
    run::run(Command::new(bench).args(words).env("MPTCP_BIN", mptcp))
}
