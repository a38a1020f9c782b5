//! Accepting connections.

use super::{Inner, MptcpStream, StackError};
use crate::channel::Handle;
use crate::mailbox::{Command, Listening};
use mptcp_proto::ListenerId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Accepts connections. Dropping it stops that; connections that were accepted go on.
pub struct MptcpListener {
    id: ListenerId,
    local: SocketAddr,
    incoming: mpsc::Receiver<Handle>,
    stack: Arc<Inner>,
}

impl MptcpListener {
    pub(super) fn new(listening: Listening, stack: Arc<Inner>) -> Self {
        Self { id: listening.id, local: listening.local, incoming: listening.incoming, stack }
    }

    /// The address and port it accepts on; the port is the one it got if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection, established, with its peer's address. Safe to cancel.
    ///
    /// # Errors
    /// [`StackError::Stopped`] when the stack was shut down.
    pub async fn accept(&mut self) -> Result<(MptcpStream, SocketAddr), StackError> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Polls for the next connection; see [`accept`](Self::accept).
    ///
    /// # Errors
    /// As those of [`accept`](Self::accept).
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(MptcpStream, SocketAddr), StackError>> {
        self.incoming.poll_recv(cx).map(|handle| {
            let stream = MptcpStream::new(handle.ok_or(StackError::Stopped)?, self.stack.clone());
            let peer = stream.peer_addr();
            Ok((stream, peer))
        })
    }
}

impl Drop for MptcpListener {
    fn drop(&mut self) {
        self.stack.mailbox.send(Command::CloseListener(self.id));
    }
}
