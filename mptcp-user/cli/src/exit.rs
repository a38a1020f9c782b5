//! How the process ends, as a number; `mptcp --help` documents them.

use super::{inherited, log};
use std::fmt;

/// Exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExitCode {
    Success = 0,
    /// Privileges, interfaces, addresses in use, files.
    Host = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The connection could not be set up.
    Connect = 3,
    /// The connection broke.
    Broken = 4,
    /// The reader of a pipe is gone: the process ends by SIGPIPE, which shells call 141.
    Pipe = 141,
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

/// Says what went wrong, and gives the exit code for it. The reader of a pipe may leave: nothing is said
/// then, unless the caller has switched SIGPIPE off and wants an error.
pub(crate) fn complain(error: &anyhow::Error) -> ExitCode {
    let code = match code_of(error) {
        ExitCode::Pipe if inherited::sigpipe_ends() => return ExitCode::Pipe,
        ExitCode::Pipe => ExitCode::Host,
        code => code,
    };
    log::say(&format!("mptcp: {}", explain(error)));
    code
}

/// Ends the process. By `exit` rather than by return: a thread that is blocked in a read of a terminal must
/// not hold up the end.
pub(crate) fn end(code: ExitCode) -> ! {
    log::flush();
    if code == ExitCode::Pipe {
        inherited::end_by_sigpipe();
    }
    std::process::exit(code as i32)
}

/// The error and its causes on one line. Some errors name their cause themselves: it is not said twice.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
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

    #[test]
    fn a_cause_that_was_named_is_not_named_again() {
        let error = anyhow!("disk full").context("can't write: disk full").context("can't receive");
        assert_eq!(explain(&error), "can't receive: can't write: disk full");
    }
}
