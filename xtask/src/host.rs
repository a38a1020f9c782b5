//! Programs that a command needs on this machine: found, installed, or asked for.

use super::run::{has, run, target};
use anyhow::{Context, Result, bail};
use std::fs;
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

/// Packages for virtual machines: qemu, and the parts of their file system.
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
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Sees to it that these tools are there: installs what is missing when it may (root, apt), says so, and
/// otherwise ends with what to install.
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
    install(&missing).with_context(|| format!("can't install {list}"))
}

/// Installs packages and removes none, because this machine's own are wanted, too.
fn install(packages: &[&str]) -> Result<()> {
    let apt = |options: &[String], words: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(options)
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        run(&mut command)
    };
    let words =
        [&["install", "--quiet", "--yes", "--no-install-recommends", "--no-remove"], packages].concat();
    // Lists that are there may do; fresh ones are fetched only if not.
    if apt(&[], &words).is_ok() {
        return Ok(());
    }
    apt(&[], &["update", "--quiet"])?;
    let Err(error) = apt(&[], &words) else { return Ok(()) };
    // Packages that belong together (qemu's) may be here from backports already, and those of the release
    // would replace them. The lists for that are kept apart, so that this machine's sources stay as they are.
    let Some(backports) = backports()? else { return Err(error) };
    eprintln!("xtask: trying {}, which removes nothing", backports.suite);
    apt(&backports.options, &["update", "--quiet"])?;
    apt(&backports.options, &[&words[..], &["--target-release", &backports.suite]].concat())
}

/// How apt is told to look into this Debian's backports, too.
struct Backports {
    options: Vec<String>,
    suite: String,
}

/// None on other systems than Debian.
fn backports() -> Result<Option<Backports>> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let (Some("debian"), Some(code)) = (value("ID").as_deref(), value("VERSION_CODENAME")) else {
        return Ok(None);
    };
    let folder = target().join("apt");
    fs::create_dir_all(folder.join("lists/partial"))?;
    let (suite, list) = (format!("{code}-backports"), folder.join("backports.list"));
    let signed = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(&list, format!("deb [{signed}] http://deb.debian.org/debian {suite} main\n"))?;
    let options = [
        format!("--option=Dir::Etc::SourceList={}", list.display()),
        format!("--option=Dir::State::Lists={}", folder.join("lists").display()),
        "--option=Acquire::Languages=none".into(),
        // The lists are in a folder that apt's own user may not write to.
        "--option=APT::Sandbox::User=root".into(),
    ];
    Ok(Some(Backports { options: options.into(), suite }))
}
