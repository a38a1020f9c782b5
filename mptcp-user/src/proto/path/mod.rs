//! Path managers: which subflows a connection should have.
//!
//! A path manager sees the addresses of both sides and the subflows there are, and answers with what it wants
//! changed. It is asked after each event that may change the answer, and again after a while when an attempt
//! failed. To add a policy, write a file with one type that implements [`PathManager`] and name it in
//! [`POLICIES`].

mod full_mesh;

use crate::proto::LocalAddress;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

/// What a path manager sees.
pub(crate) struct View<'a> {
    /// Whether this side opened the connection.
    pub(crate) client: bool,
    /// This host's addresses.
    pub(crate) local: &'a [LocalAddress],
    /// The peer's addresses that may be connected to.
    pub(crate) remote: &'a [SocketAddr],
    /// Living subflows, and those being opened.
    pub(crate) subflows: &'a [(IpAddr, SocketAddr)],
    /// Most subflows there may be.
    pub(crate) limit: usize,
}

/// A subflow to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    /// From this address.
    pub(crate) local: LocalAddress,
    /// To this address and port.
    pub(crate) remote: SocketAddr,
}

/// A policy.
pub(crate) trait PathManager: Send + Debug {
    /// Name by which it is chosen.
    fn name(&self) -> &'static str;
    /// The next subflow to open, if any: one that `refused` does not name. Called again until there is none.
    fn next_subflow(&mut self, view: &View<'_>, refused: &dyn Fn(IpAddr, SocketAddr) -> bool)
    -> Option<Wish>;
    /// Whether this side tells the peer its other addresses.
    fn announces(&self, client: bool) -> bool;
}

/// Constructor by name.
type Policy = (&'static str, fn() -> Box<dyn PathManager>);

/// All policies.
pub(crate) const POLICIES: &[Policy] =
    &[("full-mesh", || Box::new(full_mesh::FullMesh)), ("none", || Box::new(full_mesh::Nothing))];

/// A path manager by its name.
pub(crate) fn by_name(name: &str) -> Option<Box<dyn PathManager>> {
    POLICIES.iter().find(|(known, _)| *known == name).map(|(_, make)| make())
}
