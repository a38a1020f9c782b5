//! One face of both stacks, for many connections at once.

use super::{Args, ours};
use anyhow::{Context as _, Result};
use mptcp_tests::kernel::{self, Protocol};
use mptcp_user::stack::{MptcpListener, MptcpStream, Stack};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A stack.
#[derive(Clone)]
pub(super) enum Net {
    Ours(Stack),
    Kernel(Protocol),
}

/// A listener of either stack.
pub(super) enum Listener {
    Ours(MptcpListener),
    Kernel(TcpListener),
}

/// A connection of either stack.
pub(super) type Stream = Box<dyn Connection>;

/// The use of a connection.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {
    /// Subflows that carry data or could, the first one included.
    fn subflows(&self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>>;
}

impl Connection for MptcpStream {
    fn subflows(&self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>> {
        Box::pin(async {
            let info = self.info().await;
            let established =
                |subflow: &&mptcp_proto::SubflowInfo| subflow.state == mptcp_proto::SubflowState::Established;
            info.subflows.iter().filter(established).count()
        })
    }
}

impl Connection for TcpStream {
    fn subflows(&self) -> Pin<Box<dyn Future<Output = usize> + Send + '_>> {
        Box::pin(async {
            let info = kernel::info(self).filter(|info| !info.fallback);
            info.map_or(1, |info| 1 + usize::from(info.additional_subflows))
        })
    }
}

impl Net {
    pub(super) async fn new(args: &Args) -> Result<Self> {
        Ok(match args.contender.protocol() {
            None => Self::Ours(ours::stack(args).await?),
            Some(protocol) => Self::Kernel(protocol),
        })
    }

    pub(super) async fn listen(&self, local: SocketAddr) -> Result<Listener> {
        Ok(match self {
            Self::Ours(stack) => Listener::Ours(stack.listen(local).await?),
            Self::Kernel(protocol) => {
                let listener = kernel::listen_here(*protocol, local)?;
                listener.set_nonblocking(true)?;
                Listener::Kernel(TcpListener::from_std(listener)?)
            }
        })
    }

    pub(super) async fn connect(&self, remote: SocketAddr) -> Result<Stream> {
        Ok(match self {
            Self::Ours(stack) => Box::new(stack.connect(remote).await?),
            Self::Kernel(protocol) => {
                let socket = kernel::unconnected_here(*protocol, remote)?;
                socket.set_nonblocking(true)?;
                let stream = TcpSocket::from_std_stream(socket).connect(remote).await.context("connect")?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }

    /// Nothing is left behind afterwards.
    pub(super) async fn shutdown(self) {
        if let Self::Ours(stack) = self {
            stack.shutdown(Duration::from_secs(3)).await;
        }
    }
}

impl Listener {
    pub(super) async fn accept(&mut self) -> Result<Stream> {
        Ok(match self {
            Self::Ours(listener) => Box::new(listener.accept().await?.0),
            Self::Kernel(listener) => Box::new(listener.accept().await?.0),
        })
    }
}
