//! The tokio face of the stack: [`Stack`], [`MptcpStream`], [`MptcpListener`].
#![allow(unused_variables, clippy::todo, missing_docs)] // the agreed shape; bodies are under way

pub use crate::datapath::Error as StackError;
pub use crate::datapath::interface::{AttachMode, HostFacts, InterfaceReport};

use crate::proto::{CloseReason, ConnectionConfig, ConnectionInfo};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a stack is made from. Without interfaces: all that are up and routable.
#[derive(Clone, Debug, Default)]
pub struct StackBuilder {
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    pub pcap: Option<PathBuf>,
    pub connection: ConnectionConfig,
}

/// A running stack; cheap to clone. When the last clone and the last stream are gone, programs are detached.
#[derive(Clone)]
pub struct Stack {}

impl Stack {
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }
    /// Which interfaces could be used. Needs no root.
    pub fn probe_interfaces() -> Result<Vec<InterfaceReport>, StackError> {
        let facts =
            HostFacts::gather().map_err(|error| StackError::System("looking at the interfaces", error))?;
        Ok(facts.reports(AttachMode::Auto))
    }
    /// The interfaces this stack is attached to.
    pub fn interfaces(&self) -> Vec<InterfaceReport> {
        todo!()
    }
    pub async fn connect(&self, remote: SocketAddr) -> Result<MptcpStream, StackError> {
        todo!()
    }
    pub async fn connect_with(
        &self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        config: ConnectionConfig,
    ) -> Result<MptcpStream, StackError> {
        todo!()
    }
    pub async fn listen(&self, local: SocketAddr) -> Result<MptcpListener, StackError> {
        todo!()
    }
    /// Waits until all connections have ended properly (at most `patience`), then aborts those left and detaches.
    pub async fn shutdown(self, patience: Duration) {
        todo!()
    }
}

impl StackBuilder {
    pub async fn build(self) -> Result<Stack, StackError> {
        todo!()
    }
}

pub struct MptcpListener {}

impl MptcpListener {
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    pub async fn accept(&mut self) -> Result<(MptcpStream, SocketAddr), StackError> {
        todo!()
    }
}

/// A connection. Reading gives 0 octets at the end of the peer's data; `shutdown` sends DATA_FIN.
pub struct MptcpStream {}

impl MptcpStream {
    pub fn peer_addr(&self) -> SocketAddr {
        todo!()
    }
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    /// All that is known of the connection and each of its subflows (also after it has closed).
    pub async fn info(&self) -> ConnectionInfo {
        todo!()
    }
    /// Resolves when the connection is over at the protocol level, with the reason.
    pub async fn closed(&self) -> CloseReason {
        todo!()
    }
    /// MP_FASTCLOSE.
    pub fn abort(&self) {
        todo!()
    }
}

impl AsyncRead for MptcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl AsyncWrite for MptcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}
