//! Network namespaces as values, and veth links between them.
//!
//! A [`Namespace`] has no name: it is held by a file descriptor (and by the processes that run in it), so the
//! kernel removes it, with its interfaces, routes, sysctls and attached programs, as soon as the guard and
//! those processes are gone. That holds for a panic, for Ctrl-C and for `kill -9` alike; nothing can be left
//! behind. Programs started through [`Namespace::command`] die with the process that started them.

mod foreign;

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// A network namespace of its own with `lo` up. Removed by the kernel when the last user is gone.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    label: String,
}

/// One end of a veth link.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// Namespace the interface lives in.
    pub namespace: &'a Namespace,
    /// Name of the interface there.
    pub interface: &'a str,
    /// Addresses with prefix lengths, both families ("10.0.1.1/24", "fd00:1::1/64").
    pub addresses: &'a [&'a str],
}

/// Kinds of offload that an interface can do for its users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// TCP segmentation offload.
    Tso,
    /// Generic segmentation offload (in the kernel, just above the driver).
    Gso,
    /// Generic receive offload.
    Gro,
    /// Checksums are filled in by the device (on veth: left partial).
    TxChecksum,
    /// Checksums are verified by the device.
    RxChecksum,
    /// Packets may consist of several pieces.
    ScatterGather,
}

impl Offload {
    /// All of them, in an order in which each may be switched on.
    pub const ALL: [Offload; 6] =
        [Self::RxChecksum, Self::TxChecksum, Self::ScatterGather, Self::Tso, Self::Gso, Self::Gro];

    /// `ETHTOOL_S…` command of linux/ethtool.h.
    const fn ethtool_command(self) -> u32 {
        match self {
            Self::RxChecksum => 0x15,
            Self::TxChecksum => 0x17,
            Self::ScatterGather => 0x19,
            Self::Tso => 0x1f,
            Self::Gso => 0x24,
            Self::Gro => 0x2c,
        }
    }
}

impl Namespace {
    /// A new, empty namespace. `label` is for messages only. Needs root.
    pub fn new(label: &str) -> Result<Self> {
        let fd = thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: only the calling thread changes its namespace; the thread ends right after.
            let gone = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            if gone != 0 {
                return Err(io::Error::last_os_error())
                    .context("can't create a network namespace (this needs root and CONFIG_NET_NS)");
            }
            Ok(File::open("/proc/thread-self/ns/net").context("can't open the new namespace")?.into())
        })
        .join()
        .expect("the thread that makes a namespace does not panic")?;
        let namespace = Self { fd, label: label.into() };
        namespace.ip("link set lo up")?;
        // A link-local address that is still being checked for duplicates keeps the kernel from neighbour
        // discovery for the first second or two of a link's life.
        if Path::new("/proc/sys/net/ipv6").exists() {
            namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        }
        Ok(namespace)
    }

    /// The label given to [`new`](Self::new).
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A path under which other programs of this host find the namespace while this guard lives
    /// (`nsenter --net=PATH`, `ip link set … netns PATH`).
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets it opens belong to the namespace for
    /// good. A panic in `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(move || {
                enter(self.fd.as_raw_fd()).expect("a namespace whose descriptor is open can be entered");
                work()
            });
            match entered.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run inside the namespace, with stdin from nowhere, and be killed when the thread
    /// that starts it ends. (`ip netns exec` would remount `/sys`; this does not.)
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_as(program, None)
    }

    /// Like [`command`](Self::command), as another user and group when `id` is given.
    pub fn command_as(&self, program: impl AsRef<OsStr>, id: Option<u32>) -> Command {
        let fd = self.fd.as_raw_fd();
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        // A system call that the sandbox of `mptcp` does not know of ends it: every test proves that the list
        // is whole.
        if std::env::var_os("MPTCP_SANDBOX").is_none() {
            command.env("MPTCP_SANDBOX", "kill");
        }
        // SAFETY: between fork and exec only system calls are made, nothing is allocated. The descriptor
        // stays open: a fork has a copy of the table of its parent, which holds the guard while it spawns.
        unsafe {
            command.pre_exec(move || {
                enter(fd)?;
                if let Some(id) = id {
                    become_user(id)?;
                }
                // After the change of user, which would clear it.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command
    }

    /// Runs `ip` with these words inside the namespace and gives its output.
    pub fn ip(&self, words: &str) -> Result<String> {
        let output = self
            .command("ip")
            .args(words.split_whitespace())
            .output()
            .context("can't run `ip` (Debian package iproute2)")?;
        ensure!(
            output.status.success(),
            "`ip {words}` in namespace {}: {}",
            self.label,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Attaches an XDP program that passes everything, as somebody else's program would be. Detached on drop.
    pub fn foreign_xdp(&self, interface: &str) -> Result<OwnedFd> {
        self.run(|| foreign::attach(interface))
    }

    /// Whether a program is attached to the interface by XDP, in any mode.
    pub fn has_xdp(&self, interface: &str) -> Result<bool> {
        Ok(self.ip(&format!("link show dev {interface}"))?.contains("prog/xdp"))
    }

    /// Sets a sysctl below `/proc/sys` ("net.mptcp.checksum_enabled") inside the namespace.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))
            .with_context(|| format!("can't set {name} to {value} in namespace {}", self.label))
    }

    /// Reads a sysctl inside the namespace.
    pub fn sysctl_value(&self, name: &str) -> Result<String> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value =
            self.run(|| std::fs::read_to_string(&path)).with_context(|| format!("can't read {name}"))?;
        Ok(value.trim().to_owned())
    }

    /// Sets the interface up or down.
    pub fn set_up(&self, interface: &str, up: bool) -> Result<()> {
        self.ip(&format!("link set dev {interface} {}", if up { "up" } else { "down" })).map(drop)
    }

    /// Sets the MTU of an interface, in octets.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.ip(&format!("link set dev {interface} mtu {mtu}")).map(drop)
    }

    /// Adds an address with prefix length, without duplicate address detection.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("address add {address} dev {interface}{nodad}")).map(drop)
    }

    /// Removes an address.
    pub fn remove_address(&self, interface: &str, address: &str) -> Result<()> {
        self.ip(&format!("address del {address} dev {interface}")).map(drop)
    }

    /// Removes an interface.
    pub fn delete_interface(&self, interface: &str) -> Result<()> {
        self.ip(&format!("link delete dev {interface}")).map(drop)
    }

    /// Switches offloads of an interface on or off (`ethtool -K`).
    pub fn set_offloads(&self, interface: &str, offloads: &[Offload], on: bool) -> Result<()> {
        self.run(|| set_offloads_here(interface, offloads, on))
    }

    /// Limits of the kernel's own path manager: additional subflows of a connection, addresses accepted from
    /// peers.
    pub fn mptcp_limits(&self, subflows: u32, accepted_addresses: u32) -> Result<()> {
        self.ip(&format!("mptcp limits set subflow {subflows} add_addr_accepted {accepted_addresses}"))
            .map(drop)
    }

    /// Endpoint of the kernel's own path manager; `flags` as in ip-mptcp(8): "signal", "subflow", "subflow
    /// backup".
    pub fn mptcp_endpoint(&self, address: IpAddr, interface: &str, flags: &str) -> Result<()> {
        self.ip(&format!("mptcp endpoint add {address} dev {interface} {flags}")).map(drop)
    }
}

/// Joins two namespaces by a veth pair, MTU 1500, offloads as the kernel gives them (on), both ends up.
pub fn link(a: &End<'_>, b: &End<'_>) -> Result<()> {
    link_with(a, b, "")
}

/// Like [`link`], with more words for `ip link add` ("numtxqueues 2 numrxqueues 2"), for both ends.
pub fn link_with(a: &End<'_>, b: &End<'_>, words: &str) -> Result<()> {
    a.namespace.ip(&format!(
        "link add name {} {words} type veth peer name {} {words} netns {}",
        a.interface,
        b.interface,
        b.namespace.path()
    ))?;
    for end in [a, b] {
        for address in end.addresses {
            end.namespace.add_address(end.interface, address)?;
        }
    }
    for end in [a, b] {
        end.namespace.set_up(end.interface, true)?;
    }
    // A link-local address is tentative for a second. Global addresses are not, so tests need not wait.
    Ok(())
}

/// [`Namespace::set_offloads`] in the namespace of the calling thread.
pub fn set_offloads_here(interface: &str, offloads: &[Offload], on: bool) -> Result<()> {
    for &offload in offloads {
        set_offload(interface, offload, on)
            .with_context(|| format!("can't switch {offload:?} of {interface} {}", on_off(on)))?;
    }
    Ok(())
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Moves the calling thread into a namespace.
fn enter(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns changes the namespace of this thread only and takes no pointer.
    match unsafe { libc::setns(fd, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives up root for good: supplementary groups, group, user.
fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: plain system calls; the empty list of groups needs no pointer.
    let failed = unsafe {
        libc::setgroups(0, std::ptr::null()) != 0
            || libc::setresgid(id, id, id) != 0
            || libc::setresuid(id, id, id) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

fn set_offload(interface: &str, offload: Offload, on: bool) -> Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").context("no socket for ioctl")?;
    let mut value = EthtoolValue { cmd: offload.ethtool_command(), data: u32::from(on) };
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        bail!("interface name {interface} is too long");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names a NUL-terminated interface and points at a value that outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_link_carries_both_families_and_its_properties_can_be_changed() {
        crate::require_root!();
        let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
        link(
            &End { namespace: &a, interface: "l0", addresses: &["10.9.1.1/24", "fd09:1::1/64"] },
            &End { namespace: &b, interface: "r0", addresses: &["10.9.1.2/24", "fd09:1::2/64"] },
        )
        .unwrap();
        for (here, there) in [("10.9.1.1:0", "10.9.1.2:700"), ("[fd09:1::1]:0", "[fd09:1::2]:700")] {
            let receiver = b.run(|| UdpSocket::bind(there)).unwrap();
            receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            a.run(|| UdpSocket::bind(here)).unwrap().send_to(b"hello", there).unwrap();
            let mut buffer = [0; 16];
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);
        }
        a.set_mtu("l0", 9000).unwrap();
        assert!(a.ip("link show dev l0").unwrap().contains("mtu 9000"));
        a.set_offloads("l0", &[Offload::Tso, Offload::Gso, Offload::Gro], false).unwrap();
        a.set_offloads("l0", &Offload::ALL, true).unwrap();
        a.sysctl("net.mptcp.checksum_enabled", "1").unwrap();
        assert_eq!(a.sysctl_value("net.mptcp.checksum_enabled").unwrap(), "1");
        assert_eq!(b.sysctl_value("net.mptcp.checksum_enabled").unwrap(), "0");
        a.mptcp_limits(4, 4).unwrap();
        a.mptcp_endpoint("10.9.1.1".parse().unwrap(), "l0", "signal").unwrap();
        assert!(!a.has_xdp("l0").unwrap());
        assert!(a.ip("link show dev nothing").unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn a_command_runs_inside_the_namespace_and_can_give_up_root() {
        crate::require_root!();
        let namespace = Namespace::new("n").unwrap();
        let output =
            namespace.command_as("sh", Some(65534)).args(["-c", "id -u; ip -o link"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("65534\n"), "{text}");
        assert_eq!(text.lines().count(), 2, "only lo: {text}");
    }
}
