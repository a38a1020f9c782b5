//! The state of the standard descriptors and of SIGPIPE as this process inherited them.
//!
//! Rust's runtime opens `/dev/null` in place of closed standard descriptors and ignores SIGPIPE, both before
//! `main`. A function in `.init_array` runs earlier and records the state that the caller chose.

use std::sync::atomic::{AtomicU8, Ordering};

/// Bit N: descriptor N was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);
/// SIGPIPE was ignored: its sender wants errors, not signals.
static PIPE_IGNORED: AtomicU8 = AtomicU8::new(0);

// SAFETY: the section holds pointers to functions that the C library calls once, on the only thread, before
// `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    for fd in 0..=2 {
        // SAFETY: asks for the flags of a descriptor, which may be closed.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
    // SAFETY: all zeroes are a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: changes nothing, and `action` is writable.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) };
    if asked == 0 && action.sa_sigaction == libc::SIG_IGN {
        PIPE_IGNORED.store(1, Ordering::Relaxed);
    }
}

/// Whether this standard descriptor (0, 1 or 2) was closed when the process began.
pub(super) fn closed(fd: u8) -> bool {
    CLOSED.load(Ordering::Relaxed) >> fd & 1 == 1
}

/// Whether a pipe without reader ends this process, as the caller of this process has left it.
pub(super) fn sigpipe_ends() -> bool {
    PIPE_IGNORED.load(Ordering::Relaxed) == 0
}

/// Ends the process by SIGPIPE, as if Rust's runtime did not ignore it.
pub(super) fn end_by_sigpipe() {
    // SAFETY: sets the default action, unblocks the signal in this thread and sends it to this thread; the
    // set is initialised before it is read.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(libc::SIGPIPE);
    }
}
