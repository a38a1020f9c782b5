//! Attempts to connect, of which an application makes several at a time: over which ways, and how they are
//! given up.

use super::Shard;
use crate::StackError as Error;
use crate::channel::Handle;
use mptcp_datapath::netlink::{Answer, Verdict};
use mptcp_proto::{ConnectionConfig, Instant, InterfaceUse};
use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use tokio::sync::oneshot;

/// Who waits for a connection to be established.
pub(super) struct Opening {
    /// By which the attempt is given up.
    pub(super) ticket: u64,
    /// Where to answer.
    pub(super) reply: oneshot::Sender<Result<Handle, Error>>,
}

impl Shard {
    /// Our addresses from which a destination can be reached: the kernel's own choice first, then by the
    /// rules for their interfaces. Metered ones are among them only where there is nothing else.
    pub(super) fn ways(
        &mut self,
        time: Instant,
        remote: SocketAddr,
        config: &ConnectionConfig,
    ) -> Vec<IpAddr> {
        let kernels =
            self.paths.own_way(time, remote).ok().and_then(Answer::way).and_then(|route| route.source);
        let locals: Vec<(IpAddr, u32)> =
            self.paths.locals().filter(|(local, _)| local.is_ipv4() == remote.is_ipv4()).collect();
        let mut ways = Vec::new();
        for (local, interface) in locals {
            let usage = self.usage(interface, config);
            let verdict = self.paths.verdict(local, remote.ip(), Some(remote.port()));
            if usage > InterfaceUse::Deny && matches!(verdict, Ok(Verdict::Allowed(_))) {
                ways.push((Reverse(usage), kernels != Some(local), local));
            }
        }
        ways.sort();
        let costly = |usage: &Reverse<InterfaceUse>| usage.0 <= InterfaceUse::Metered;
        if ways.iter().any(|(usage, ..)| !costly(usage)) {
            ways.retain(|(usage, ..)| !costly(usage));
        }
        ways.into_iter().map(|(.., local)| local).collect()
    }

    /// Forgets an attempt. Its SYN may still be answered: by a reset, as any segment of a connection that
    /// does not exist.
    pub(super) fn give_up(&mut self, time: Instant, ticket: u64) {
        let attempt = self.connections.iter_mut().find(|(_, connection)| {
            connection.opening.as_ref().is_some_and(|opening| opening.ticket == ticket)
        });
        let Some((&id, connection)) = attempt else { return };
        connection.opening = None;
        connection.released = true;
        self.endpoint.abort(time, id);
        self.endpoint.release(time, id);
    }
}
