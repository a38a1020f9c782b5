//! Building what the other habits run.

use super::run::{cargo, run, target};
use anyhow::Result;
use std::path::PathBuf;

/// Builds the `mptcp` command with optimisation and gives its path.
pub(crate) fn mptcp() -> Result<PathBuf> {
    run(&mut cargo(&["build", "--release", "--package", "mptcp-user", "--bin", "mptcp"]))?;
    Ok(target().join("release/mptcp"))
}

/// Builds a program of the tests crate with optimisation and gives its path.
pub(crate) fn tests_program(name: &str) -> Result<PathBuf> {
    run(&mut cargo(&["build", "--release", "--package", "mptcp-tests", "--bin", name]))?;
    Ok(target().join("release").join(name))
}

/// Builds all programs of the tests crate with optimisation.
pub(crate) fn tests_programs() -> Result<()> {
    run(&mut cargo(&["build", "--release", "--package", "mptcp-tests", "--bins"]))
}
