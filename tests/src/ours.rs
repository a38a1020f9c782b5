//! The `mptcp` command in one of the two namespaces of a [`Lab`], as the tests use it.

use crate::lab::{Family, Lab, Side};
use crate::process::{Finished, Process, mptcp_binary};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// Port that the listeners of the tests use.
pub const PORT: u16 = 5000;
/// Time within which anything that works at all has happened.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A command line of `mptcp -v`, not started yet.
pub fn command(lab: &Lab, side: Side, words: &[&str]) -> Command {
    let mut command = lab.namespace(side).command(mptcp_binary());
    command.arg("-v").args(words);
    command
}

/// Starts `mptcp -v listen --json … PORT` on the right side; returns once it listens.
pub fn listen(lab: &Lab, words: &[&str]) -> Result<Process> {
    let port = PORT.to_string();
    let mut all = vec!["listen", "--json"];
    all.extend(words);
    all.push(&port);
    let mut process = Process::start(&mut command(lab, Side::Right, &all), true)?;
    process.wait_for("listening on", PATIENCE)?;
    Ok(process)
}

/// A command line of `mptcp -v connect --json …` from the left to the right side's first address, not started
/// yet.
pub fn connect_command(lab: &Lab, family: Family, words: &[&str]) -> Command {
    let target = Side::Right.socket(1, family, PORT).to_string();
    let mut all = vec!["connect", "--json"];
    all.extend(words);
    all.push(&target);
    command(lab, Side::Left, &all)
}

/// Starts [`connect_command`].
pub fn connect(lab: &Lab, family: Family, words: &[&str]) -> Result<Process> {
    Process::start(&mut connect_command(lab, family, words), true)
}

/// Runs `mptcp -v` with these words on one side to its end.
pub fn run(lab: &Lab, side: Side, words: &[&str]) -> Result<Finished> {
    Process::start(&mut command(lab, side, words), true)?.finish(PATIENCE)
}

/// Checks that the command ended well: no panic, an exit code of its own, no program left.
pub fn assert_orderly(lab: &Lab, side: Side, finished: &Finished) {
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(
        finished.status.code().is_some_and(|code| code != 101),
        "{}: {}",
        finished.status,
        finished.stderr
    );
    let attached = lab.left_attached(side).expect("interfaces can be listed");
    assert!(attached.is_empty(), "programs left on {attached:?}");
}

/// [`assert_orderly`], and the command failed with this exit code, and says all of these words.
pub fn assert_fails(lab: &Lab, side: Side, finished: &Finished, code: i32, words: &[&str]) {
    assert_orderly(lab, side, finished);
    assert_eq!(finished.status.code(), Some(code), "{}", finished.stderr);
    for word in words {
        let said = finished.stderr.to_lowercase();
        assert!(said.contains(&word.to_lowercase()), "{word:?} is not said:\n{}", finished.stderr);
    }
}
