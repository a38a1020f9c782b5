//! Namespaces, kernel peers and processes for the integration tests, the demo and the benchmarks.
//!
//! * [`netns`]: network namespaces and the links between them;
//! * [`process`]: programs inside a namespace, never left behind;
//! * [`kernel`]: the kernel's own Multipath TCP (and regular TCP) as the peer;
//! * [`interop`]: this stack against the kernel, case by case;
//! * [`counters`]: the kernel's SNMP and MIB counters in a namespace;
//! * [`xdp`]: the XDP program and crafted packets;
//! * [`data`]: seeded test data and its SHA-256;
//! * [`mod@bench`], [`beside`]: benchmarks, this stack and the kernel's in turns;
//! * [`runtime`]: reports of running processes;
//! * [`raw`]: the datapath's two ends without an engine between them;
//! * [`vm`]: guests with several NICs on several kernels.
//!
//! Nothing else here depends on the stack under test: it is driven through its command line, as users drive
//! it. (Only the benchmark's end points, a program of their own, use it as a library.)

pub mod bench;
pub mod beside;
pub mod capture;
pub mod counters;
pub mod data;
pub mod demo;
pub mod failover;
pub mod interop;
pub mod kernel;
pub mod lab;
pub mod netns;
pub mod ours;
pub mod process;
pub mod raw;
pub mod runtime;
pub mod vm;
pub mod xdp;

/// Whether this process may create namespaces and attach programs.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Leaves the test, loudly, when it is not run by root.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::is_root() {
            eprintln!(
                "SKIPPED {}:{}: this test makes network namespaces and needs root (run `cargo xtask test` as root)",
                file!(),
                line!()
            );
            return;
        }
    };
}
