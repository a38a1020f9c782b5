//! `cargo xtask test`.

use super::{host, run};
use anyhow::Result;

pub(crate) fn run(words: &[String]) -> Result<()> {
    if host::is_root() {
        host::need(&[host::IP, host::TSHARK])?;
    } else {
        eprintln!("xtask: not root: tests that make network namespaces will skip themselves and say so");
    }
    let mut command = run::cargo(&["test", "--workspace"]);
    // The namespaces' programs share two cores with each other at best: time limits assume that tests take turns.
    run::run(command.args(words))
}
