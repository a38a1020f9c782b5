//! Capabilities of all threads of this process.
//!
//! The kernel lets each thread change its own only. The threads of a stack belong to a library that knows
//! nothing of this, so each gets a signal whose handler does it. The files in `/proc/self/task` tell when all
//! have.

use std::fmt;
use std::io;
use std::ops::BitOr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A set of capabilities (capabilities(7)), bit by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Capabilities(u64);

pub(super) const NET_BIND_SERVICE: Capabilities = Capabilities(1 << 10);
pub(super) const NET_ADMIN: Capabilities = Capabilities(1 << 12);
pub(super) const NET_RAW: Capabilities = Capabilities(1 << 13);
pub(super) const IPC_LOCK: Capabilities = Capabilities(1 << 14);

/// Threads have that long to follow.
const PATIENCE: Duration = Duration::from_secs(3);
/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;
/// More than there are.
const NUMBERS: u64 = 64;

impl Capabilities {
    pub(super) const NONE: Self = Self(0);
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
            (NET_ADMIN, "CAP_NET_ADMIN"),
            (NET_RAW, "CAP_NET_RAW"),
            (IPC_LOCK, "CAP_IPC_LOCK"),
        ];
        let known: Vec<&str> =
            names.into_iter().filter(|(one, _)| self.0 & one.0 != 0).map(|(_, name)| name).collect();
        let others = names.into_iter().fold(self.0, |rest, (one, _)| rest & !one.0);
        match (&known[..], others) {
            ([], 0) => f.write_str("no capabilities"),
            (known, 0) => f.write_str(&known.join(", ")),
            (known, others) => write!(f, "{} and others ({others:#x})", known.join(", ")),
        }
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities that the signal handler leaves to its thread.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Leaves to all threads no more than these capabilities, and makes new privileges impossible.
pub(super) fn keep(kept: Capabilities) -> io::Result<()> {
    KEPT.store(kept.0, Ordering::SeqCst);
    let signal = libc::SIGRTMAX() - 2;
    let before = handle(signal, handler as *const () as libc::sighandler_t)?;
    let result = everywhere(signal, kept);
    handle(signal, before)?;
    result
}

/// Signals threads until none has too many capabilities. A new thread inherits the capabilities of its maker.
fn everywhere(signal: libc::c_int, kept: Capabilities) -> io::Result<()> {
    reduce();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = 0;
        for entry in std::fs::read_dir("/proc/self/task")? {
            let name = entry?.file_name();
            let Some(thread) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // A thread that has ended meanwhile has nothing.
            let Ok(status) = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")) else {
                continue;
            };
            if held(&status) & !kept.0 != 0 {
                left += 1;
                // SAFETY: a signal to a thread of this process, whose handler is installed.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
            }
        }
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{left} threads still have more")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All capabilities that a thread has or can take, from its `status`.
fn held(status: &str) -> u64 {
    let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
    let values = status.lines().filter_map(|line| {
        let value = sets.iter().find_map(|name| line.strip_prefix(name))?;
        u64::from_str_radix(value.trim(), 16).ok()
    });
    values.fold(0, |all, value| all | value)
}

/// The calling thread's permitted capabilities.
pub(super) fn permitted() -> Capabilities {
    Capabilities(std::fs::read_to_string("/proc/thread-self/status").map_or(0, |status| held(&status)))
}

/// Changes what a signal does; gives what it did before.
fn handle(signal: libc::c_int, action: libc::sighandler_t) -> io::Result<libc::sighandler_t> {
    // SAFETY: all zeroes are a valid action with an empty mask.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    new.sa_sigaction = action;
    new.sa_flags = libc::SA_RESTART;
    // SAFETY: both are valid for the call; the handler is a function that lives for ever.
    match unsafe { libc::sigaction(signal, &raw const new, &raw mut old) } {
        0 => Ok(old.sa_sigaction),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn handler(_: libc::c_int) {
    // The interrupted code may be about to read its error.
    // SAFETY: the calling thread's own variable.
    let error = unsafe { *libc::__errno_location() };
    reduce();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = error };
}

/// Leaves to the calling thread no more than [`KEPT`]. Makes system calls and nothing else: signal handlers
/// may.
fn reduce() {
    let kept = KEPT.load(Ordering::SeqCst);
    let header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    for number in (0..NUMBERS).filter(|number| kept >> number & 1 == 0) {
        // Takes CAP_SETPCAP. Without it the bounding set stays, which only a new program could draw from.
        // SAFETY: numbers only.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    // SAFETY: header and data of version 3: two halves.
    if unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) } != 0 {
        return;
    }
    for (half, kept) in data.iter_mut().zip([kept as u32, (kept >> 32) as u32]) {
        half.permitted &= kept;
        half.effective &= kept;
        // And with it the ambient set, which is no larger.
        half.inheritable &= kept;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sets_of_a_thread_count() {
        let status = "Name:\tx\nCapInh:\t0000000000000001\nCapPrm:\t0000000000003000\nCapEff:\t0000000000001000\n\
                      CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000002\nNoNewPrivs:\t1\n";
        assert_eq!(held(status), 0x3003);
    }

    #[test]
    fn sets_have_names() {
        assert_eq!(Capabilities::NONE.to_string(), "no capabilities");
        assert_eq!((NET_RAW | IPC_LOCK).to_string(), "CAP_NET_RAW, CAP_IPC_LOCK");
        assert_eq!((NET_RAW | Capabilities(1 << 21)).to_string(), "CAP_NET_RAW and others (0x200000)");
    }
}
