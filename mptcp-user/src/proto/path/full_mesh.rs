//! A subflow between each of our addresses and each of the peer's. The client opens them, since the server is
//! seldom reachable the other way round; the server tells its addresses.

use super::{PathManager, View, Wish};
use std::net::{IpAddr, SocketAddr};

/// The policy.
#[derive(Debug)]
pub(super) struct FullMesh;

impl PathManager for FullMesh {
    fn name(&self) -> &'static str {
        "full-mesh"
    }

    fn next_subflow(
        &mut self,
        view: &View<'_>,
        refused: &dyn Fn(IpAddr, SocketAddr) -> bool,
    ) -> Option<Wish> {
        if !view.client || view.subflows.len() >= view.limit {
            return None;
        }
        // Pairs whose two addresses are both unused come first: they promise a path of its own.
        let mut best: Option<(usize, Wish)> = None;
        for &local in view.local {
            for &remote in view.remote {
                if local.address.is_ipv4() != remote.is_ipv4()
                    || view.subflows.contains(&(local.address, remote))
                    || refused(local.address, remote)
                {
                    continue;
                }
                let uses = view
                    .subflows
                    .iter()
                    .map(|(ours, theirs)| {
                        usize::from(*ours == local.address) + usize::from(*theirs == remote)
                    })
                    .sum();
                if best.is_none_or(|(fewest, _)| uses < fewest) {
                    best = Some((uses, Wish { local, remote }));
                }
            }
        }
        best.map(|(_, wish)| wish)
    }

    fn announces(&self, client: bool) -> bool {
        !client
    }
}

/// No further subflows than those the peer opens.
#[derive(Debug)]
pub(super) struct Nothing;

impl PathManager for Nothing {
    fn name(&self) -> &'static str {
        "none"
    }

    fn next_subflow(
        &mut self,
        _view: &View<'_>,
        _refused: &dyn Fn(IpAddr, SocketAddr) -> bool,
    ) -> Option<Wish> {
        None
    }

    fn announces(&self, _client: bool) -> bool {
        false
    }
}
