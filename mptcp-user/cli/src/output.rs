//! Text for standard output and standard error that is a command's result. A result that can't be written is
//! an error, unlike a message of the log (`log`).

use super::exit::{ExitCode, Failure};
use super::inherited;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::{self, Write};

/// Writes to standard output.
pub(super) fn print(text: &str) -> Result<()> {
    write(1, &mut io::stdout().lock(), text).map_err(|error| failed(error, "standard output"))
}

/// Writes a value to standard output as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes to standard error.
pub(super) fn print_error(text: &str) -> Result<()> {
    write(2, &mut io::stderr().lock(), text).map_err(|error| failed(error, "standard error"))
}

fn write(fd: u8, out: &mut impl Write, text: &str) -> io::Result<()> {
    if inherited::closed(fd) {
        // The standard library has put /dev/null in its place.
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The error of a result that can't be written to `place`, marked with its exit code.
pub(super) fn failed(error: io::Error, place: &str) -> anyhow::Error {
    let code = code_of(&error);
    anyhow::Error::new(error).context(Failure::new(code, format!("can't write to {place}")))
}

/// The exit code for a result that can't be written: the end by SIGPIPE for a pipe without reader.
pub(super) fn code_of(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe { ExitCode::Pipe } else { ExitCode::Host }
}

/// Standard output without the buffering of the standard library, for data. One that was closed refuses every
/// octet.
pub(super) fn standard_output() -> Result<Box<dyn Write + Send>> {
    use std::os::fd::AsFd;
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(libc::EBADF))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    if inherited::closed(1) {
        return Ok(Box::new(Closed));
    }
    let fd = io::stdout().as_fd().try_clone_to_owned().context("can't use standard output")?;
    Ok(Box::new(std::fs::File::from(fd)))
}
