//! Errors of attaching to a host, with the remedy.

use crate::af_xdp::BindError;
use crate::xdp::XdpError;
use std::io;

/// Errors name what is wrong and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An interface was asked for that does not exist.
    #[error("there is no interface named {name}; there are: {existing}")]
    NoSuchInterface {
        /// The name asked for.
        name: String,
        /// Names of those that exist.
        existing: String,
    },
    /// An interface was asked for that can't be used.
    #[error("interface {name} can't be used: {reason}")]
    InterfaceUnusable {
        /// Name of the interface.
        name: String,
        /// Why.
        reason: String,
    },
    /// No interface of this host can be used.
    #[error("no interface of this host can be used ({reasons}); `mptcp interfaces` lists them")]
    NothingUsable {
        /// Each interface with the reason.
        reasons: String,
    },
    /// Capabilities are missing.
    #[error(
        "missing {}: run as root, or give the program what it needs with `setcap cap_net_admin,cap_net_raw,cap_bpf,cap_perfmon,cap_ipc_lock+ep PROGRAM` (docs/privileges.md)",
        .missing.join(", ")
    )]
    Privileges {
        /// Names of the capabilities.
        missing: Vec<&'static str>,
    },
    /// The kernel can't do it.
    #[error("this kernel has no AF_XDP sockets: it must be built with CONFIG_XDP_SOCKETS=y")]
    NoAfXdp,
    /// The XDP program can't be loaded or attached.
    #[error("{}: {source}", .interface.as_ref().map_or_else(|| "loading the XDP program".into(), |name| format!("attaching to {name}")))]
    Xdp {
        /// Interface, if it concerns one.
        interface: Option<String>,
        /// Why.
        #[source]
        source: XdpError,
    },
    /// An AF_XDP socket can't be had.
    #[error("interface {interface}: {source}")]
    Socket {
        /// Name of the interface.
        interface: String,
        /// Why.
        #[source]
        source: BindError,
    },
    /// A packet socket can't be had.
    #[error("interface {interface}: can't open a packet socket to send from: {source}")]
    Transmit {
        /// Name of the interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Any other failure of a system call.
    #[error("{0} failed: {1}")]
    System(&'static str, #[source] io::Error),
}
