//! `cargo xtask load`: the XDP program as its source is now, on interfaces of one's choice.
//!
//! The program `load` of the tests crate has all options, and does all but the build of the object.

use super::{build, ebpf};
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

pub(crate) fn run(words: &[String]) -> Result<()> {
    let program = build::plain_tests_program("load")?;
    let load = || {
        let mut command = Command::new(&program);
        command.args(words);
        command
    };
    if !names_object(words) {
        // The build of the object takes half a minute, so a wrong word or a missing interface is told before
        // it.
        let status =
            load().arg("--check").status().with_context(|| format!("can't run {}", program.display()))?;
        if !status.success() || asks_for_help(words) {
            std::process::exit(code(status));
        }
    }
    let mut command = load();
    if !names_object(words) {
        command.arg("--object").arg(ebpf::build_to_load(words.iter().any(|word| word == "--log"))?);
    }
    // The program takes the place of this one: the signals that end it reach it, and its exit code is the
    // command's.
    Err(command.exec()).with_context(|| format!("can't run {}", program.display()))
}

/// Whether the words name an object that was built elsewhere.
fn names_object(words: &[String]) -> bool {
    words.iter().any(|word| word == "--object" || word.starts_with("--object="))
}

fn asks_for_help(words: &[String]) -> bool {
    words.iter().any(|word| word == "--help" || word == "-h")
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(1)
}
