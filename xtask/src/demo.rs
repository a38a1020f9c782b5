//! `cargo xtask demo`.

use super::{build, host, run};
use anyhow::Result;
use std::process::Command;

pub(crate) fn run(words: &[String]) -> Result<()> {
    host::need(&[host::IP, host::TSHARK])?;
    let mptcp = build::mptcp()?;
    let demo = build::tests_program("demo")?;
    run::run(Command::new(demo).args(words).env("MPTCP_BIN", mptcp))
}
