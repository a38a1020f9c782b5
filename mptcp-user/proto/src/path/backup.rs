//! Backup mode: one regular path, and subflows over all the others that are used only when it fails.
//!
//! The regular path is that of the interface that the connection began with, or those of the preferred interfaces, if
//! the rules name any. The subflows in reserve exist already when they are needed, so that nothing but the discovery of
//! the failure takes time. When the regular path comes back, its subflow is opened again as a regular one.

use super::{Local, PathManager, Refused, View, Wish};
use crate::InterfaceUse;

/// The policy.
#[derive(Debug)]
pub(super) struct Backup;

impl PathManager for Backup {
    fn name(&self) -> &'static str {
        "backup"
    }

    fn next_subflow(&self, view: &View<'_>, refused: Refused<'_>) -> Option<Wish> {
        if !view.client || view.subflows.len() >= view.limit {
            return None;
        }
        let (local, remote) = view.unused_pair(refused)?;
        // To another address of the peer's, the regular interface has a reserve, too.
        let taken = view.subflows.iter().any(|subflow| {
            subflow.local == local.address.address && subflow.remote != remote && !subflow.stale
        });
        let backup = !is_regular(view, &local) || taken;
        Some(Wish { local: local.address, remote, backup })
    }

    fn announces(&self, client: bool) -> bool {
        !client
    }
}

fn is_regular(view: &View<'_>, local: &Local) -> bool {
    if view.local.iter().any(|local| local.usage == InterfaceUse::Prefer) {
        local.usage == InterfaceUse::Prefer
    } else {
        local.address.interface == view.initial.interface
    }
}
