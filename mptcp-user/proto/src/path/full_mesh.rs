//! A subflow between each of our addresses and each of the peer's. The client opens them, since the server is
//! seldom reachable the other way round; the server tells its addresses.

use super::{PathManager, Refused, View, Wish};
use crate::InterfaceUse;

/// The policy.
#[derive(Debug)]
pub(super) struct FullMesh;

impl PathManager for FullMesh {
    fn name(&self) -> &'static str {
        "full-mesh"
    }

    fn next_subflow(&self, view: &View<'_>, refused: Refused<'_>) -> Option<Wish> {
        if !view.client || view.subflows.len() >= view.limit {
            return None;
        }
        let (local, remote) = view.unused_pair(refused)?;
        let backup = local.address.backup || local.usage == InterfaceUse::Backup;
        Some(Wish { local: local.address, remote, backup })
    }

    fn announces(&self, client: bool) -> bool {
        !client
    }
}
