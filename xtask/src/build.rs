//! Building what the other habits run.

use super::run::{cargo, run, target};
use anyhow::Result;
use std::path::PathBuf;

/// Builds the `mptcp` command with optimisation and gives its path.
pub(crate) fn mptcp() -> Result<PathBuf> {
    run(&mut cargo(&["build", "--release", "--package", "mptcp-cli", "--bin", "mptcp"]))?;
    Ok(target().join("release/mptcp"))
}

/// Builds a program of the tests crate with optimisation and gives its path.
pub(crate) fn tests_program(name: &str) -> Result<PathBuf> {
    tests_programs(&[name])?;
    Ok(target().join("release").join(name))
}

/// Builds a program of the tests crate as `cargo test` does, which takes less time and shares what that has
/// built, and gives its path.
pub(crate) fn plain_tests_program(name: &str) -> Result<PathBuf> {
    run(&mut cargo(&["build", "--quiet", "--profile", "test", "--package", "mptcp-tests", "--bin", name]))?;
    Ok(target().join("debug").join(name))
}

/// Builds these programs of the tests crate with optimisation; all of them, if none is named.
pub(crate) fn tests_programs(names: &[&str]) -> Result<()> {
    let mut words = vec!["build", "--release", "--package", "mptcp-tests"];
    words.extend(names.iter().flat_map(|name| ["--bin", name]));
    if names.is_empty() {
        words.push("--bins");
    }
    run(&mut cargo(&words))
}
