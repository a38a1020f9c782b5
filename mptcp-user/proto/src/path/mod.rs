//! Path managers: which subflows a connection should have.
//!
//! A path manager sees the addresses of both sides and the subflows there are, and answers with what it wants
//! changed. It is asked after each event that may change the answer, and again after a while when an attempt
//! failed. To add a policy, write a file with one type that implements [`PathManager`] and name it in
//! [`POLICIES`].
//!
//! The rules for interfaces are seen to before a manager is asked: denied interfaces are not among its addresses, and
//! metered ones only while nothing else works.

mod backup;
mod full_mesh;
mod ndiffports;
mod nothing;
mod signal;
mod single_path;
#[cfg(test)]
mod tests;

use crate::{ConnectionConfig, InterfaceUse, LocalAddress};
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

/// One of this host's addresses that a connection may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Local {
    /// The address.
    pub(crate) address: LocalAddress,
    /// What the connection's rules say of its interface.
    pub(crate) usage: InterfaceUse,
}

/// A subflow as a path manager sees it: living, or being opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Existing {
    /// Its place in the connection; none as long as the driver has not found a way for it.
    pub(crate) place: Option<usize>,
    /// Our address.
    pub(crate) local: IpAddr,
    /// What the rules say of the interface.
    pub(crate) usage: InterfaceUse,
    /// The peer's address and port.
    pub(crate) remote: SocketAddr,
    /// Whether its handshake is under way.
    pub(crate) opening: bool,
    /// Whether data can be sent, and the path is not suspected dead.
    pub(crate) works: bool,
    /// Whether it is suspected dead.
    pub(crate) stale: bool,
}

/// What a path manager sees.
pub(crate) struct View<'a> {
    /// Whether this side opened the connection.
    pub(crate) client: bool,
    /// This host's addresses.
    pub(crate) local: &'a [Local],
    /// The peer's addresses that may be connected to.
    pub(crate) remote: &'a [SocketAddr],
    /// Living subflows, and those being opened.
    pub(crate) subflows: &'a [Existing],
    /// The interface and the ends that the connection began with.
    pub(crate) initial: Initial,
    /// Most subflows there may be.
    pub(crate) limit: usize,
}

/// How the connection began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Initial {
    /// Index of the interface of our address.
    pub(crate) interface: u32,
    /// Our address.
    pub(crate) local: IpAddr,
    /// The peer's address and port.
    pub(crate) remote: SocketAddr,
}

/// A subflow to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    /// From this address.
    pub(crate) local: LocalAddress,
    /// To this address and port.
    pub(crate) remote: SocketAddr,
    /// Ask the peer to use it only when no others work, and do the same.
    pub(crate) backup: bool,
}

/// Whether an attempt with these two addresses has failed lately.
pub(crate) type Refused<'a> = &'a dyn Fn(IpAddr, SocketAddr) -> bool;

/// A policy.
pub(crate) trait PathManager: Send + Debug {
    /// Name by which it is chosen.
    fn name(&self) -> &'static str;
    /// The next subflow to open, if any: one that `refused` does not name. Called again until there is none. Also
    /// asked what it would want if a subflow was suspected dead, so that the answer must follow from what it is shown.
    fn next_subflow(&self, view: &View<'_>, refused: Refused<'_>) -> Option<Wish>;
    /// Whether this side opens subflows at all: a connection that rests is woken for new addresses only then.
    fn opens(&self, client: bool) -> bool {
        client
    }
    /// Whether this side tells the peer its other addresses.
    fn announces(&self, client: bool) -> bool;
    /// A subflow to close, by its number in the view, since better ones have taken its place.
    fn superfluous(&self, view: &View<'_>) -> Option<usize> {
        let _ = view;
        None
    }
}

/// Constructor by name.
type Policy = (&'static str, fn(&ConnectionConfig) -> Box<dyn PathManager>);

/// All policies.
pub(crate) const POLICIES: &[Policy] = &[
    ("full-mesh", |_| Box::new(full_mesh::FullMesh)),
    ("ndiffports", |config| Box::new(ndiffports::NDiffPorts { wanted: config.ndiffports })),
    ("signal", |_| Box::new(signal::Signal)),
    ("backup", |_| Box::new(backup::Backup)),
    ("single-path", |_| Box::new(single_path::SinglePath)),
    ("none", |_| Box::new(nothing::Nothing)),
];

/// A path manager by its name.
pub(crate) fn by_name(config: &ConnectionConfig) -> Option<Box<dyn PathManager>> {
    POLICIES.iter().find(|(known, _)| *known == config.path_manager).map(|(_, make)| make(config))
}

impl View<'_> {
    /// The pairs of addresses that can be tried.
    fn pairs<'a>(&'a self, refused: Refused<'a>) -> impl Iterator<Item = (&'a Local, SocketAddr)> {
        self.local.iter().flat_map(move |local| {
            self.remote.iter().copied().filter_map(move |remote| {
                let family = local.address.address.is_ipv4() == remote.is_ipv4();
                (family && !refused(local.address.address, remote)).then_some((local, remote))
            })
        })
    }

    /// The pair of addresses without a subflow that promises the most: on the best interface, and with as few of both
    /// addresses in use as can be, since those promise a path of its own.
    fn unused_pair(&self, refused: Refused<'_>) -> Option<(Local, SocketAddr)> {
        // There may be hundreds of pairs, whatever the peer announces: what is looked up in tables comes
        // last.
        let to: Vec<usize> = self
            .remote
            .iter()
            .map(|remote| self.subflows.iter().filter(|subflow| subflow.remote == *remote).count())
            .collect();
        let mut best: Option<((std::cmp::Reverse<InterfaceUse>, usize), Local, SocketAddr)> = None;
        for local in self.local {
            let own = local.address.address;
            let from = self.subflows.iter().filter(|subflow| subflow.local == own).count();
            for (remote, to) in self.remote.iter().zip(&to) {
                let rank = (std::cmp::Reverse(local.usage), from + to);
                let better = best.is_none_or(|(known, ..)| rank < known);
                if better
                    && own.is_ipv4() == remote.is_ipv4()
                    && !refused(own, *remote)
                    && !(from > 0 && *to > 0 && self.has_pair(own, *remote))
                {
                    best = Some((rank, *local, *remote));
                }
            }
        }
        best.map(|(_, local, remote)| (local, remote))
    }

    fn has_pair(&self, local: IpAddr, remote: SocketAddr) -> bool {
        self.subflows.iter().any(|subflow| (subflow.local, subflow.remote) == (local, remote))
    }
}
