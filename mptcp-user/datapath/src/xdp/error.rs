//! What can go wrong with the XDP program, with the remedy.

use super::super::release::version;
use super::XdpMode;
use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use std::io;

/// Why the XDP program can't be loaded, attached or told something.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// Capabilities are missing.
    #[error(
        "not permitted to load XDP programs: run as root of the host, or with its capabilities CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON (those of a user namespace, as in a container without privileges, do not count)"
    )]
    NotPermitted,
    /// The kernel can't do it.
    #[error(
        "this kernel lacks {0}: Linux 6.1 or newer with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS is needed"
    )]
    Unsupported(&'static str),
    /// The kernel is older than any that this is made for.
    #[error("Linux {release} is too old: Linux 6.1 or newer is needed")]
    TooOld {
        /// What `uname -r` says.
        release: String,
    },
    /// The verifier found something.
    #[error(
        "the kernel's verifier refused the XDP program, please report this with the kernel's version: {0}"
    )]
    Refused(String),
    /// The object has no such map or program, or it is malformed: not built from this source.
    #[error("the eBPF object lacks {0}: rebuild it with `cargo xtask build-ebpf`")]
    Object(&'static str),
    /// The object can't be read.
    #[error("the eBPF object is malformed: rebuild it with `cargo xtask build-ebpf`: {0}")]
    Malformed(#[source] Box<EbpfError>),
    /// Another program is attached to the interface.
    #[error("interface {interface} has an XDP program {}, which won't be replaced: detach it first (`ip link set dev NAME xdp off`) or leave the interface out",
        if *.ours { "of this process" } else { "already" })]
    Occupied {
        /// Interface index.
        interface: u32,
        /// Whether this process has attached it.
        ours: bool,
    },
    /// The driver can't run the program in this mode.
    #[error("interface {interface} can't run the XDP program in {} mode ({source}); {}", .mode.as_str(),
        match .mode { XdpMode::Native => "generic mode works with every driver, from Linux 6.6 on", XdpMode::Generic => "leave the interface out" })]
    ModeUnsupported {
        /// Interface index.
        interface: u32,
        /// The mode asked for.
        mode: XdpMode,
        /// What the kernel says.
        source: io::Error,
    },
    /// The interface is gone.
    #[error("there is no interface with index {0} any more")]
    NoInterface(u32),
    /// A map is full.
    #[error("the map of {0} is full: raise its size in the configuration")]
    Full(&'static str),
    /// An argument is out of range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// Any other failure of a system call.
    #[error("{call} failed: {source}")]
    System {
        /// What was tried.
        call: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// The oldest kernel that has all that the program needs.
const OLDEST: (u32, u32) = (6, 1);

impl XdpError {
    /// What to make of a failure to load on the kernel with this release. An older one fails in as many ways as it
    /// lacks things, mostly with "invalid argument", and none of them helps as much as its age.
    pub(super) fn on_kernel(self, release: &str) -> Self {
        match (&self, version(release)) {
            (XdpError::NotPermitted, _) | (_, None) => self,
            (_, Some(version)) if version >= OLDEST => self,
            _ => XdpError::TooOld { release: release.to_owned() },
        }
    }

    /// Makes sense of what aya says about loading the object and making the maps.
    pub(super) fn load(error: EbpfError) -> Self {
        match error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => {
                match io_error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => XdpError::NotPermitted,
                    Some(libc::ENOSYS) => XdpError::Unsupported("the bpf system call"),
                    // The kernel doesn't know this type of map.
                    Some(libc::EINVAL | libc::EOPNOTSUPP) if name == mptcp_common::maps::name::SOCKETS => {
                        XdpError::Unsupported("AF_XDP")
                    }
                    Some(libc::EINVAL) if name == mptcp_common::maps::name::EVENTS => {
                        XdpError::Unsupported("BPF ring buffers")
                    }
                    _ => XdpError::System { call: "making a BPF map", source: io_error },
                }
            }
            EbpfError::ProgramError(error) => Self::program(error),
            other => XdpError::Malformed(Box::new(other)),
        }
    }

    /// Makes sense of what aya says about loading the program.
    pub(super) fn program(error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => match io_error.raw_os_error() {
                Some(libc::EPERM) => XdpError::NotPermitted,
                Some(libc::ENOSYS) => XdpError::Unsupported("the bpf system call"),
                Some(libc::EINVAL) if verifier_log.to_string().trim().is_empty() => {
                    XdpError::System { call: "loading the XDP program", source: io_error }
                }
                // The end of the log has the reason.
                _ => {
                    let log = verifier_log.to_string();
                    let lines: Vec<&str> = log.lines().rev().take(60).collect();
                    XdpError::Refused(lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
                }
            },
            ProgramError::SyscallError(error) => {
                XdpError::System { call: error.call, source: error.io_error }
            }
            other => XdpError::Malformed(Box::new(EbpfError::ProgramError(other))),
        }
    }

    /// Makes sense of what the kernel says about attaching.
    pub(super) fn attach(error: io::Error, interface: u32, mode: XdpMode) -> Self {
        match error.raw_os_error() {
            // The kernel says the same of an interface that is gone as of a driver that can't do it.
            _ if !exists(interface) => XdpError::NoInterface(interface),
            Some(libc::EBUSY | libc::EEXIST) => XdpError::Occupied { interface, ours: false },
            Some(libc::EPERM | libc::EACCES) => XdpError::NotPermitted,
            _ => XdpError::ModeUnsupported { interface, mode, source: error },
        }
    }
}

/// Whether there is an interface with this index in the thread's network namespace.
fn exists(interface: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: room for as many octets as a name may have.
    let found = unsafe { libc::if_indextoname(interface, name.as_mut_ptr()) };
    !found.is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_old_kernel_lacks_its_age_is_said() {
        let invalid = || XdpError::System {
            call: "loading the XDP program",
            source: io::Error::from_raw_os_error(libc::EINVAL),
        };
        let text = invalid().on_kernel("5.10.0-34-cloud-amd64").to_string();
        assert!(text.contains("5.10.0-34-cloud-amd64") && text.contains("Linux 6.1 or newer"), "{text}");
        // A newer one has another reason, and so has somebody without privileges.
        assert!(matches!(invalid().on_kernel("6.1.0-9-amd64"), XdpError::System { .. }));
        assert!(matches!(invalid().on_kernel("7.0"), XdpError::System { .. }));
        assert!(matches!(invalid().on_kernel("strange"), XdpError::System { .. }));
        assert!(matches!(XdpError::NotPermitted.on_kernel("5.10.0"), XdpError::NotPermitted));
    }
}
