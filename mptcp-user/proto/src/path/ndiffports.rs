//! Several subflows between the two addresses that the connection began with, from different ports: routers that spread
//! flows by a hash of addresses and ports (equal-cost multipath) let them take different ways.

use super::{PathManager, Refused, View, Wish};
use crate::InterfaceUse;

/// The policy.
#[derive(Debug)]
pub(super) struct NDiffPorts {
    /// How many subflows, the first one included.
    pub(super) wanted: usize,
}

impl PathManager for NDiffPorts {
    fn name(&self) -> &'static str {
        "ndiffports"
    }

    fn next_subflow(&self, view: &View<'_>, refused: Refused<'_>) -> Option<Wish> {
        if !view.client || view.subflows.len() >= view.limit.min(self.wanted) {
            return None;
        }
        // The address may have come back with another interface.
        let mut pairs = view.pairs(refused);
        let ends = (view.initial.local, view.initial.remote);
        let (local, remote) = pairs.find(|(local, remote)| (local.address.address, *remote) == ends)?;
        let backup = local.address.backup || local.usage == InterfaceUse::Backup;
        Some(Wish { local: local.address, remote, backup })
    }

    fn announces(&self, _: bool) -> bool {
        false
    }
}
