//! The process gives up privileges once it is set up, before it reads the first packet of a peer:
//! supplementary groups, all capabilities but a few, new privileges, and all system calls but those that
//! running takes (`docs/privileges.md`).
//!
//! The user stays the same. A process without capabilities that is still root owns root's files, so the
//! filter of system calls opens no file for writing and reaches no other process.

mod calls;
mod capabilities;

use capabilities::{Capabilities, IPC_LOCK, NET_ADMIN, NET_BIND_SERVICE, NET_RAW};
use std::io;

/// The outcome of a system call that is not on the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Sandbox {
    /// It fails (EPERM), and the kernel's audit log tells of it
    On,
    /// It ends the process (SIGSYS)
    Kill,
    /// Nothing is given up
    Off,
}

/// Capabilities for what comes after set-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Needs(Capabilities);

impl Needs {
    /// Of a stack: AF_XDP and packet sockets on interfaces that come up later (CAP_NET_RAW), their memory
    /// (CAP_IPC_LOCK), neighbours that the kernel is asked to find (CAP_NET_ADMIN), and these ports, if
    /// reserving them takes a capability.
    pub(crate) fn of_stack(ports: impl IntoIterator<Item = u16>) -> Self {
        let privileged = ports.into_iter().any(|port| (1..1024).contains(&port));
        let bind = if privileged { NET_BIND_SERVICE } else { Capabilities::NONE };
        Self(NET_ADMIN | NET_RAW | IPC_LOCK | bind)
    }

    /// Of the emulator: its sockets are open.
    pub(crate) fn of_emulator() -> Self {
        Self(Capabilities::NONE)
    }
}

impl Sandbox {
    /// Gives up all but `needs`, in all threads that there are. A host that can't do part of it is told of in
    /// the log.
    pub(crate) fn enter(self, needs: Needs) {
        if self == Sandbox::Off {
            return;
        }
        drop_groups();
        if let Err(error) = capabilities::keep(needs.0) {
            tracing::warn!("can't give up capabilities: {error}");
        }
        match calls::install(self == Sandbox::Kill) {
            Ok(()) => tracing::debug!("in the sandbox, with {}", capabilities::permitted()),
            Err(error) => tracing::warn!("can't restrict system calls: {error}"),
        }
    }
}

/// Raises the limit on locked memory as far as it goes: packet buffers count against it where CAP_IPC_LOCK is
/// missing.
pub(crate) fn raise_locked_memory() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable, then readable. A refusal shows when memory is locked.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
        }
    }
}

/// Supplementary groups, in all threads: the C library sees to that.
fn drop_groups() {
    // SAFETY: an empty list is not read.
    let result = unsafe { libc::setgroups(0, std::ptr::null()) };
    if result != 0 {
        // The groups of an ordinary user stay.
        tracing::debug!("supplementary groups stay: {}", io::Error::last_os_error());
    }
}
