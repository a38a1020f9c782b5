//! Single-path mode: one subflow at a time. Another one is opened when it is lost: its address is gone, the peer has
//! closed it, or nothing that is sent over it is acknowledged any more. What costs least while nothing fails, and takes
//! the longest when something does: a handshake.
//!
//! When a better interface comes (back), the connection moves there, and the subflow on the worse one is closed once the
//! other one works.

use super::{Existing, Local, PathManager, Refused, View, Wish};
use std::cmp::Reverse;

/// The policy.
#[derive(Debug)]
pub(super) struct SinglePath;

impl PathManager for SinglePath {
    fn name(&self) -> &'static str {
        "single-path"
    }

    fn next_subflow(&self, view: &View<'_>, refused: Refused<'_>) -> Option<Wish> {
        // Room for the one that is being opened beside the one that is suspected dead.
        let opening = view.subflows.iter().any(|subflow| subflow.opening);
        if !view.client || opening || view.subflows.len() >= view.limit {
            return None;
        }
        let current = view.subflows.iter().filter(|subflow| subflow.works).map(|subflow| subflow.usage).max();
        let untried = |local: &Local, remote| {
            view.subflows
                .iter()
                .all(|subflow| (subflow.local, subflow.remote) != (local.address.address, remote))
        };
        // Where several are as good, the interface that the connection began with.
        let rank = |local: &Local| (local.usage, local.address.interface == view.initial.interface);
        let (local, remote) = view
            .pairs(refused)
            .filter(|(local, remote)| untried(local, *remote))
            .filter(|(local, _)| current.is_none_or(|current| local.usage > current))
            .min_by_key(|(local, remote)| {
                // One address of the peer's after the other, that of the beginning first.
                (Reverse(rank(local)), *remote != view.initial.remote)
            })?;
        Some(Wish { local: local.address, remote, backup: false })
    }

    fn announces(&self, client: bool) -> bool {
        !client
    }

    fn superfluous(&self, view: &View<'_>) -> Option<usize> {
        if !view.client {
            return None;
        }
        let works = |subflow: &&Existing| subflow.works;
        let best = view.subflows.iter().filter(works).map(|subflow| subflow.usage).max()?;
        // The one that works, the newest of several, stays.
        let stays = view.subflows.iter().rposition(|subflow| subflow.works && subflow.usage == best)?;
        view.subflows
            .iter()
            .enumerate()
            .find(|(number, subflow)| {
                *number != stays && subflow.place.is_some() && (subflow.works || subflow.stale)
            })
            .map(|(number, _)| number)
    }
}
