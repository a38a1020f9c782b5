//! The tokio face of the stack: [`Stack`], [`MptcpStream`], [`MptcpListener`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use mptcp_user::stack::Stack;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let stack = Stack::builder().build().await?;
//! let mut stream = stack.connect("192.0.2.1:80".parse()?).await?;
//! stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! println!("{} octets over {} subflows", answer.len(), stream.info().await.subflows.len());
//! # Ok(())
//! # }
//! ```
//!
//! A stack lives as long as any clone of it, any listener and any stream. When the last of them goes, connections
//! that are being closed are given time to end in the background, then the XDP programs are detached. They are also
//! detached when the process ends, however it ends.

mod blocks;
mod builder;
mod control;
mod driver;
mod eyeballs;
mod listener;
mod stream;

pub use crate::error::StackError;
pub use builder::StackBuilder;
pub use driver::Driver;
pub use listener::MptcpListener;
pub use mptcp_datapath::interface::{AttachMode, HostFacts, InterfaceReport};
pub use stream::MptcpStream;

use crate::mailbox::{Command, Mailbox};
use blocks::Blocks;
use mptcp_proto::ConnectionConfig;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long connections that nobody holds any more are given to end when the last clone of a stack goes.
const LINGER: Duration = Duration::from_secs(30);

/// A running stack; cheap to clone. When the last clone and the last stream are gone, programs are detached.
#[derive(Clone)]
pub struct Stack {
    inner: Arc<Inner>,
}

/// What clones, listeners and streams share.
pub(crate) struct Inner {
    mailbox: Arc<Mailbox>,
    interfaces: Arc<Mutex<Vec<InterfaceReport>>>,
    connection: ConnectionConfig,
    blocks: Arc<Blocks>,
    /// Answers the questions of other processes.
    _control: Option<control::Control>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.mailbox.send(Command::Stop { patience: LINGER, reply: None });
    }
}

impl Stack {
    /// Choices for a stack; [`StackBuilder::build`] starts it.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// Which interfaces could be used. Needs no root.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn probe_interfaces() -> Result<Vec<InterfaceReport>, StackError> {
        let facts =
            HostFacts::gather().map_err(|error| StackError::System("looking at the interfaces", error))?;
        Ok(facts.reports(AttachMode::Auto))
    }

    /// The interfaces this stack is attached to now.
    pub fn interfaces(&self) -> Vec<InterfaceReport> {
        self.inner.interfaces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects with the stack's [`StackBuilder::connection`] choices.
    ///
    /// # Errors
    /// As those of [`connect_with`](Self::connect_with).
    pub async fn connect(&self, remote: SocketAddr) -> Result<MptcpStream, StackError> {
        self.connect_with(remote, None, self.inner.connection.clone()).await
    }

    /// Connects. Without `local` (or with an unspecified address, or port 0), address and port are chosen as
    /// the kernel would; where that does not succeed within 250 ms, this host's other ways to `remote` are
    /// tried, too. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// No way to `remote`, no free port, or no connection: [`StackError::NotConnected`] says why.
    pub async fn connect_with(
        &self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        config: ConnectionConfig,
    ) -> Result<MptcpStream, StackError> {
        self.connect_any_with(&[remote], local, config).await
    }

    /// Connects to whichever of several addresses of one service answers first, with the stack's
    /// [`StackBuilder::connection`] choices.
    ///
    /// # Errors
    /// As those of [`connect_any_with`](Self::connect_any_with).
    pub async fn connect_any(&self, remotes: &[SocketAddr]) -> Result<MptcpStream, StackError> {
        self.connect_any_with(remotes, None, self.inner.connection.clone()).await
    }

    /// Connects to whichever of several addresses answers first (Happy Eyeballs, RFC 8305). They are tried in
    /// their order, but families take turns; then again over this host's other ways. The next attempt begins
    /// 250 ms after the last one, or as soon as one fails, and all end with the first that succeeds, or after
    /// the [`connect_timeout`](ConnectionConfig::connect_timeout).
    ///
    /// # Errors
    /// As those of [`connect_with`](Self::connect_with); where several attempts failed,
    /// [`StackError::Attempts`] has all.
    pub async fn connect_any_with(
        &self,
        remotes: &[SocketAddr],
        local: Option<SocketAddr>,
        config: ConnectionConfig,
    ) -> Result<MptcpStream, StackError> {
        eyeballs::connect(self, remotes, local, &config).await
    }

    /// Accepts connections to an address and port, with the stack's [`StackBuilder::connection`] choices. An
    /// unspecified address means all addresses of the stack's interfaces, `[::]` those of both families. Port 0
    /// means any that is free.
    ///
    /// # Errors
    /// The port is in use on this host, or the address is not one of the stack's interfaces.
    pub async fn listen(&self, local: SocketAddr) -> Result<MptcpListener, StackError> {
        self.listen_with(local, self.inner.connection.clone()).await
    }

    /// Like [`listen`](Self::listen), with other choices for the connections.
    ///
    /// # Errors
    /// As those of [`listen`](Self::listen).
    pub async fn listen_with(
        &self,
        local: SocketAddr,
        config: ConnectionConfig,
    ) -> Result<MptcpListener, StackError> {
        let (reply, answer) = oneshot::channel();
        self.inner.mailbox.send(Command::Listen { local, config: Box::new(config), reply });
        let listening = answer.await.map_err(|_| StackError::Stopped)??;
        Ok(MptcpListener::new(listening, self.inner.clone()))
    }

    /// Waits until all connections have ended properly (at most `patience`), then aborts those left and detaches.
    /// Nothing is left on the host when this returns.
    pub async fn shutdown(self, patience: Duration) {
        let (reply, answer) = oneshot::channel();
        if self.inner.mailbox.send(Command::Stop { patience, reply: Some(reply) }) {
            // An error means that the shard has ended already.
            let _ = answer.await;
        }
    }
}
