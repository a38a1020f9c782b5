//! Errors of a stack, with the remedy.

use mptcp_datapath::port::PortError;
use mptcp_proto::{CloseReason, ConnectError, ConnectionConfig, ListenError};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Each error names the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Interfaces, programs or sockets can't be used.
    #[error(transparent)]
    Datapath(#[from] mptcp_datapath::Error),
    /// A system call failed.
    #[error("{0} failed: {1}")]
    System(&'static str, #[source] io::Error),
    /// A port can't be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// There is no way to the destination.
    #[error("no route to {remote} over {interfaces} (see `ip route get {remote}`)")]
    NoRoute {
        /// The destination.
        remote: IpAddr,
        /// Names of the interfaces in use.
        interfaces: String,
    },
    /// The host's routes or rules refuse packets to the destination.
    #[error(
        "the routing of this host refuses packets to {remote}{}: a route or rule of type {kind} (see `ip route get {remote}{}` and `ip rule`)",
        .local.map_or(String::new(), |local| format!(" from {local}")),
        .local.map_or(String::new(), |local| format!(" from {local}"))
    )]
    RouteRefused {
        /// The destination.
        remote: IpAddr,
        /// The address asked for.
        local: Option<IpAddr>,
        /// Type of the route or rule.
        kind: &'static str,
    },
    /// The host sends packets to the destination out by an interface that can't be used, or not by that of
    /// the address asked for.
    #[error(
        "this host sends packets to {remote} out by {interface} ({reason}): use regular TCP, bind to an address that the rules lead elsewhere (--local), or leave by {interfaces} in spite of the routing policy (--any-route)"
    )]
    RoutedElsewhere {
        /// The destination.
        remote: IpAddr,
        /// Name of the interface.
        interface: String,
        /// Why that won't do.
        reason: String,
        /// Names of the interfaces in use.
        interfaces: String,
    },
    /// The destination is this host.
    #[error(
        "{0} is an address of this host: programs on one host reach each other by regular TCP, not by this stack"
    )]
    OwnAddress(IpAddr),
    /// A link-local address does not say which link it means, or one that is not in use.
    #[error(
        "{address} is an address of one link only: say by which interface, as in [{address}%{example}]:PORT (in use: {interfaces})"
    )]
    NoScope {
        /// The address.
        address: IpAddr,
        /// Name of an interface in use.
        example: String,
        /// Names of the interfaces in use.
        interfaces: String,
    },
    /// No TCP connection can go there.
    #[error("{0} is not an address that TCP can connect to")]
    BadRemote(SocketAddr),
    /// A local address was asked for that this stack does not have.
    #[error("{local} is not an address of {interfaces}")]
    BadLocal {
        /// The address asked for.
        local: IpAddr,
        /// Names of the interfaces in use.
        interfaces: String,
    },
    /// There is no algorithm of that name.
    #[error("there is no {kind} named {name}")]
    UnknownPolicy {
        /// What it would be: congestion control, scheduler, path manager.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The engine refused to connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The engine refused to listen.
    #[error("can't listen on {1}: {0}")]
    Listen(#[source] ListenError, SocketAddr),
    /// The connection did not come to be.
    #[error("{reason}{hint}")]
    NotConnected {
        /// Why.
        reason: CloseReason,
        /// What to look at.
        hint: &'static str,
    },
    /// Several attempts to connect have failed: where to, and over which address of ours if not the usual
    /// one.
    #[error("{}", list(.0))]
    Attempts(Vec<(SocketAddr, Option<IpAddr>, StackError)>),
    /// The packet capture can't be written.
    #[error("can't write the packet capture {}: {source}", .path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The event log can't be written.
    #[error("can't write the events {}: {source}", .path.display())]
    Events {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stack was shut down, or its thread has ended.
    #[error("the stack has been shut down")]
    Stopped,
}

/// Failed attempts, in the order in which they failed.
fn list(attempts: &[(SocketAddr, Option<IpAddr>, StackError)]) -> String {
    let texts: Vec<String> = attempts
        .iter()
        .map(|(remote, local, error)| match local {
            Some(local) => format!("{remote} from {local}: {error}"),
            None => format!("{remote}: {error}"),
        })
        .collect();
    texts.join("; ")
}

impl StackError {
    /// A name in the choices for a connection that nothing has.
    pub(crate) fn unknown_policy(kind: &'static str, config: &ConnectionConfig) -> Self {
        let name = match kind {
            "scheduler" => &config.scheduler,
            "path manager" => &config.path_manager,
            _ => &config.congestion,
        };
        StackError::UnknownPolicy { kind, name: name.clone() }
    }

    /// A connection that ended before it was established.
    pub(crate) fn not_connected(reason: CloseReason) -> Self {
        let hint = match reason {
            CloseReason::Refused => ": nothing listens on that port, or a firewall says so",
            CloseReason::ConnectTimeout => ": the host is down, or a firewall drops the packets",
            CloseReason::Unreachable => ": no such host on the link, or a router has no way to it",
            _ => "",
        };
        StackError::NotConnected { reason, hint }
    }
}
