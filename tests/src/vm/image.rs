//! The first and only file system of a guest: Debian's tools, the programs under test, their libraries, and
//! modules.
//!
//! Programs come from this machine, with the libraries that they would use here, under the same paths. The
//! part that all guests share is made once ([`Userland`]); a kernel adds its modules ([`Image`]), a guest its
//! own files.

use super::cpio::Archive;
use super::kernel::Kernel;
use crate::data;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of Debian that guests have, and applets of busybox that tests and people use.
const TOOLS: [&str; 7] = ["ip", "ss", "tc", "nft", "modprobe", "busybox", "dash"];
const APPLETS: [&str; 12] =
    ["cat", "cp", "dmesg", "grep", "head", "ls", "ping", "ps", "rm", "sleep", "tail", "uname"];

/// Modules that tests need. Modules that a kernel has built in, or not at all, are left out.
const MODULES: [&str; 21] = [
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "veth",
    "8021q",
    "sch_netem",
    "sch_fq",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_exthdr",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_reject_inet",
    "nf_conntrack",
    "nf_nat",
    "af_packet_diag",
];

/// Programs of this project that guests have, beside the agent: where they are on this machine.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `mptcp` command.
    pub mptcp: PathBuf,
    /// Process 1 of guests.
    pub agent: PathBuf,
    /// The demo.
    pub demo: PathBuf,
}

/// Files of all guests.
#[derive(Debug)]
pub struct Userland(Vec<u8>);

/// Files of all guests with one kernel.
#[derive(Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: Kernel,
    base: Vec<u8>,
}

impl Userland {
    /// Collects programs and libraries.
    pub fn new(programs: &Programs) -> Result<Self> {
        let mut archive = Archive::default();
        for folder in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root"] {
            archive.directory(folder);
        }
        let mut libraries = BTreeSet::new();
        let mut add = |path: &str, program: &Path| -> Result<()> {
            archive.file(path, &stripped(program)?);
            libraries.extend(libraries_of(program)?);
            Ok(())
        };
        for tool in TOOLS {
            add(&format!("/bin/{tool}"), &find(tool)?)?;
        }
        add("/bin/mptcp", &programs.mptcp)?;
        add("/bin/demo", &programs.demo)?;
        add("/bin/vm-agent", &programs.agent)?;
        archive.link("/init", "/bin/vm-agent");
        // Where the kernel looks for it, and where scripts look for a shell.
        archive.link("/sbin/modprobe", "/bin/modprobe");
        archive.link("/bin/sh", "dash");
        for applet in APPLETS {
            archive.link(&format!("/bin/{applet}"), "busybox");
        }
        for library in libraries {
            let contents = fs::read(&library).with_context(|| format!("can't read {}", library.display()))?;
            archive.file(&library.to_string_lossy(), &contents);
        }
        Ok(Self(archive.finish()))
    }

    /// Adds the modules of a kernel.
    pub fn with(&self, kernel: Kernel) -> Result<Image> {
        let folder = format!("lib/modules/{}", kernel.release);
        let mut archive = Archive::default();
        let source = kernel.root.join(&folder);
        let index =
            fs::read_to_string(source.join("modules.dep")).context("can't read the list of modules")?;
        for file in needed(&index) {
            archive.file(&format!("/{folder}/{file}"), &fs::read(source.join(file))?);
        }
        for list in ["modules.dep.bin", "modules.alias.bin", "modules.builtin.bin", "modules.softdep"] {
            archive.file(&format!("/{folder}/{list}"), &fs::read(source.join(list))?);
        }
        let mut base = self.0.clone();
        base.extend(archive.finish());
        Ok(Image { kernel, base })
    }
}

impl Image {
    /// The file system of one guest: `files` are its own, with their absolute paths.
    pub fn with(&self, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Archive::default();
        for (path, contents) in files {
            archive.file(path, contents);
        }
        [self.base.as_slice(), &archive.finish()].concat()
    }
}

/// The files of [`MODULES`] and of all modules that they need, from the lines "file: file …" of
/// `modules.dep`.
fn needed(index: &str) -> BTreeSet<&str> {
    let lines: BTreeMap<&str, &str> = index.lines().filter_map(|line| line.split_once(':')).collect();
    let name = |file: &str| {
        let file = file.rsplit('/').next().unwrap_or_default();
        file.split('.').next().unwrap_or_default().replace('-', "_")
    };
    let mut files = BTreeSet::new();
    for (file, needs) in lines {
        if MODULES.contains(&name(file).as_str()) {
            files.insert(file);
            // All that is needed, not only the next one.
            files.extend(needs.split_whitespace());
        }
    }
    files
}

/// A program without what only debuggers read, which is most of it; as it is, where there is no `strip`.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = data::memory_file("stripped")?;
    let path = data::path_of(&copy);
    let done = Command::new("strip").arg("--strip-debug").arg("-o").arg(&path).arg(program).output();
    let path = if done.is_ok_and(|output| output.status.success()) { path.as_path() } else { program };
    fs::read(path).with_context(|| format!("can't read {}", program.display()))
}

/// The shared libraries of a program with the loader, as `ldd` finds them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("can't run ldd")?;
    // A static program has none, which `ldd` calls a failure.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!text.contains("not found"), "libraries of {} are missing: {text}", program.display());
    let paths = text.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(paths.map(PathBuf::from).collect())
}

/// Where this machine has a program.
fn find(program: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .with_context(|| format!("this machine has no {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_those_that_they_need() {
        let index = "kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz\n\
                     kernel/net/core/failover.ko.xz:\n\
                     kernel/net/netfilter/nft_chain_nat.ko: kernel/net/a.ko kernel/net/b.ko\n\
                     kernel/fs/ext4.ko:\n";
        let expected = [
            "kernel/drivers/net/virtio_net.ko.xz",
            "kernel/net/a.ko",
            "kernel/net/b.ko",
            "kernel/net/core/failover.ko.xz",
            "kernel/net/netfilter/nft_chain_nat.ko",
        ];
        assert_eq!(needed(index), expected.into());
    }

    #[test]
    fn a_program_comes_with_its_libraries_and_their_loader() {
        let libraries = libraries_of(&std::env::current_exe().unwrap()).unwrap();
        let has = |part: &str| libraries.iter().any(|path| path.to_string_lossy().contains(part));
        assert!(has("libc.so") && has("ld-linux"), "{libraries:?}");
        assert_eq!(libraries_of(Path::new("/bin/busybox")).unwrap_or_default().len(), 0);
    }
}
