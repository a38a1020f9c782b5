//! Who has attached an XDP program to an interface: for errors that say what to do about it.

use aya::programs::links::LinkType;
use aya::programs::{loaded_links, loaded_programs};
use mptcp_common::maps::name;
use std::fs;
use std::path::Path;

/// An attached XDP program, as far as this process may know about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Occupant {
    /// Identifier of the program.
    id: u32,
    /// Its name.
    program: Option<String>,
    /// The process that holds it: number and name.
    process: Option<(u32, String)>,
    /// The `bpf_link` that it is attached by. Without one it was attached by netlink, and stays when its
    /// process ends.
    link: Option<u32>,
}

impl Occupant {
    /// Finds out what there is to know. Reads `/proc`, and asks the kernel for all programs and links.
    pub(crate) fn of(id: u32) -> Self {
        let program = loaded_programs().flatten().find(|program| program.id() == id);
        let program = program.and_then(|program| program.name_as_str().map(str::to_owned));
        let held = holder(id);
        let link = held.as_ref().and_then(|held| held.link).or_else(|| {
            let is_xdp = |kind| matches!(kind, Ok(LinkType::Xdp));
            let mut links = loaded_links().flatten();
            links.find(|link| link.program_id() == id && is_xdp(link.link_type())).map(|link| link.id())
        });
        let process = held.map(|held| (held.process, held.name));
        Self { id, program: program.filter(|name| !name.is_empty()), process, link }
    }

    /// Why the interface can't be used, and the remedy. `mode`: the word of `ip link` for how the program is
    /// attached.
    pub(crate) fn reason(&self, interface: &str, mode: &str) -> String {
        let of = match &self.process {
            Some((pid, name)) => format!(" of {name} (pid {pid})"),
            None => String::new(),
        };
        if self.program.as_deref() == Some(name::PROGRAM) {
            let who = match &self.process {
                Some((pid, name)) => format!("{name}, pid {pid}"),
                None => "its pid can't be told from here".into(),
            };
            return format!(
                "another mptcp process uses the interface ({who}; XDP program {}): one at a time can, so end that one or give each its own interfaces (-i)",
                self.id
            );
        }
        let program = self.program.as_deref().map_or(String::new(), |name| format!(" {name}"));
        let remedy = match (self.link, &self.process) {
            (Some(link), Some(_)) => format!("end that process, or `bpftool link detach id {link}`"),
            (Some(link), None) => format!("`bpftool link detach id {link}` detaches it"),
            (None, _) => {
                // Without privileges the kernel tells neither its name nor how it is attached.
                let told = self.program.is_some() || self.process.is_some();
                let whose = if told { "" } else { " (`mptcp interfaces` as root names it)" };
                format!(
                    "stop the program that it belongs to{whose}, or detach it with `ip link set dev {interface} {mode} off`"
                )
            }
        };
        format!("another XDP program{program} (id {}){of} is attached: {remedy}", self.id)
    }
}

/// A process that has a program open, or a link of it.
struct Holder {
    process: u32,
    name: String,
    link: Option<u32>,
}

/// The process that holds a program by its link; if none does, one that holds the program itself.
fn holder(id: u32) -> Option<Holder> {
    let mut found: Option<Holder> = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some(link) = held_by(&entry.path(), id) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let holder = Holder { process, name: name.trim().to_owned(), link };
        if link.is_some() {
            return Some(holder);
        }
        found.get_or_insert(holder);
    }
    found
}

/// Whether a process has this program open, and by which link. `None`: it has not, or we may not look.
#[allow(clippy::option_option)] // a program that is held without a link is held
fn held_by(process: &Path, id: u32) -> Option<Option<u32>> {
    let mut held = None;
    for descriptor in fs::read_dir(process.join("fd")).ok()?.flatten() {
        let Ok(target) = fs::read_link(descriptor.path()) else { continue };
        if !target.to_str().is_some_and(|target| target.starts_with("anon_inode:bpf")) {
            continue;
        }
        let info = process.join("fdinfo").join(descriptor.file_name());
        let Ok(info) = fs::read_to_string(info) else { continue };
        match fields(&info) {
            (Some(program), link) if program == id => {
                if link.is_some() {
                    return Some(link);
                }
                held = Some(None);
            }
            _ => {}
        }
    }
    held
}

/// Program and link that a file of `/proc/PID/fdinfo` tells of.
fn fields(info: &str) -> (Option<u32>, Option<u32>) {
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    (field("prog_id:"), field("link_id:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_descriptors_is_read() {
        let link = "pos:\t0\nlink_type:\txdp\nlink_id:\t14\nprog_tag:\ta04f5eef06a7f555\nprog_id:\t32\nifindex:\t3\n";
        assert_eq!(fields(link), (Some(32), Some(14)));
        assert_eq!(fields("pos:\t0\nprog_type:\t6\nprog_id:\t9\n"), (Some(9), None));
        assert_eq!(fields("pos:\t0\nflags:\t02\n"), (None, None));
    }

    #[test]
    fn remedies_fit_how_the_program_is_attached() {
        let occupant = |program: &str, process: Option<u32>, link| Occupant {
            id: 7,
            program: Some(program.into()),
            process: process.map(|pid| (pid, "worker".into())),
            link,
        };
        let says = |occupant: &Occupant, words: &[&str]| {
            let text = occupant.reason("eth0", "xdpgeneric");
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        says(
            &occupant("filter", Some(5), Some(3)),
            &["filter", "id 7", "worker (pid 5)", "link detach id 3"],
        );
        says(&occupant("filter", None, Some(3)), &["bpftool link detach id 3"]);
        says(&occupant("filter", None, None), &["ip link set dev eth0 xdpgeneric off"]);
        says(&occupant(name::PROGRAM, Some(5), Some(3)), &["another mptcp process", "worker, pid 5", "-i"]);
    }
}
