//! How the process ends, as a number; `mptcp --help` documents them.

use std::fmt;

/// Exit codes. 2 is clap's, for wrong usage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExitCode {
    Success = 0,
    /// Privileges, interfaces, addresses in use, files.
    Host = 1,
    /// The connection could not be set up.
    Connect = 3,
    /// The connection broke.
    Broken = 4,
    /// SIGINT.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

/// Marks an error with the exit code that it leads to.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    what: String,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, what: impl Into<String>) -> Self {
        Self { code, what: what.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// The exit code for an error: that of the mark anywhere in its chain, else [`ExitCode::Host`].
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    error.downcast_ref::<Failure>().map_or(ExitCode::Host, |failure| failure.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_mark_anywhere_in_the_chain_decides() {
        assert_eq!(code_of(&anyhow!("disk full")), ExitCode::Host);
        let marked = anyhow!(std::io::Error::other("no answer"))
            .context(Failure::new(ExitCode::Connect, "can't connect"));
        assert_eq!(code_of(&marked.context("while trying")), ExitCode::Connect);
    }
}
