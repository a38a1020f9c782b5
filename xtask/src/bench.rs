//! `cargo xtask bench`.

use super::{build, host, run};
use anyhow::Result;
use std::process::Command;

pub(crate) fn run(words: &[String]) -> Result<()> {
    host::need(&[host::IP])?;
    // `bench` starts the others, which lie beside it.
    build::tests_programs(&[])?;
    let binary = build::mptcp()?;
    run::run(Command::new(run::target().join("release/bench")).args(words).env("MPTCP_BIN", binary))
}
