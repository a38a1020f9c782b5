//! What this machine must have before a habit can work: found, or installed, or asked for.

use super::run::{has, run};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// A program of a Debian package.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    program: &'static str,
    /// Words that make it end well and do nothing.
    probe: &'static str,
    package: &'static str,
}

/// `ip`, with `ip mptcp`.
pub(crate) const IP: Tool = Tool { program: "ip", probe: "-V", package: "iproute2" };
/// Wireshark's dissector.
pub(crate) const TSHARK: Tool = Tool { program: "tshark", probe: "--version", package: "tshark" };

/// What virtual machines take: qemu, and what their file system is made from.
pub(crate) const GUESTS: [Tool; 6] = [
    IP,
    Tool { program: "qemu-system-x86_64", probe: "--version", package: "qemu-system-x86" },
    Tool { program: "busybox", probe: "true", package: "busybox-static" },
    Tool { program: "modprobe", probe: "--version", package: "kmod" },
    Tool { program: "nft", probe: "--version", package: "nftables" },
    Tool { program: "strip", probe: "--version", package: "binutils" },
];

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    // The owner of a process's own directory in /proc is its effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Sees to it that these tools are there: installs what is missing when it may (root, apt), says so, and otherwise
/// ends with what to install.
pub(crate) fn need(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> =
        tools.iter().filter(|tool| !has(tool.program, &[tool.probe])).map(|tool| tool.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() || !has("apt-get", &["--version"]) {
        bail!(
            "these are missing: {list}. Install them (on Debian: `apt-get install {list}`) and run this again"
        );
    }
    eprintln!("xtask: installing with apt-get, because it is missing: {list}");
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        run(&mut command)
    };
    let mut install = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    // Lists that are there may do; fresh ones are fetched only if not.
    apt(&install)
        .or_else(|_| {
            apt(&["update", "--quiet"])?;
            apt(&install)
        })
        .with_context(|| format!("can't install {list}"))
}
