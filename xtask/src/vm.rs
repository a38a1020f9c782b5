//! `cargo xtask vm`.

use super::{build, host, run};
use anyhow::Result;
use std::process::Command;

pub(crate) fn run(words: &[String]) -> Result<()> {
    host::need(&host::GUESTS)?;
    let mptcp = build::mptcp()?;
    // `vm` takes the others, which lie beside it, into the guests.
    build::tests_programs(&["vm", "vm_agent", "demo"])?;
    run::run(Command::new(run::target().join("release/vm")).args(words).env("MPTCP_BIN", mptcp))
}
