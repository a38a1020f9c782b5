//! One connection as an asynchronous stream of octets.

use super::Inner;
use super::blocks::{BLOCK, Filling};
use crate::channel::Handle;
use crate::mailbox::Command;
use bytes::{Buf, Bytes};
use mptcp_proto::{CloseReason, ConnectionInfo, ConnectionState, HeadOfLineInfo, SubflowSlot};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::coop;

/// A connection. Reading gives 0 octets at the end of the peer's data; `shutdown` sends DATA_FIN.
///
/// Writing puts octets into a queue and waits only while that is full; `flush` has nothing to do. Dropping the stream
/// closes the connection: in the background and properly, if all that has arrived was read; otherwise it is
/// aborted, so that the peer learns that its data was lost (RFC 2525 section 2.17).
///
/// Nothing is copied by [`read_bytes`](Self::read_bytes), [`write_bytes`](Self::write_bytes) and [`AsyncBufRead`].
pub struct MptcpStream {
    handle: Handle,
    stack: Arc<Inner>,
    /// Slices taken from the channel and not read to the end.
    received: VecDeque<Bytes>,
    /// Memory for what is written, once something is.
    filling: Option<Box<Filling>>,
}

impl MptcpStream {
    pub(super) fn new(handle: Handle, stack: Arc<Inner>) -> Self {
        Self { handle, stack, received: VecDeque::new(), filling: None }
    }

    /// The peer's address and port on the initial subflow.
    pub fn peer_addr(&self) -> SocketAddr {
        self.handle.0.remote()
    }

    /// Our address and port on the initial subflow.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.0.local()
    }

    /// All that is known of the connection and each of its subflows (also after it has closed).
    pub async fn info(&self) -> ConnectionInfo {
        let channel = &self.handle.0;
        if let Some(info) = channel.final_info() {
            return info;
        }
        let (reply, answer) = oneshot::channel();
        self.stack.mailbox.send(Command::Info(channel.id(), reply));
        let info = answer.await.ok().flatten();
        info.or_else(|| channel.final_info()).unwrap_or_else(nothing_known)
    }

    /// Asks the peer to use a subflow (its `slot` in [`info`](Self::info)) only when no others work, or again like any
    /// other, and does so, too (MP_PRIO, RFC 8684 section 3.3.8). `false` if there is no such subflow any more.
    pub async fn set_backup(&self, slot: u32, backup: bool) -> bool {
        let (reply, answer) = oneshot::channel();
        let (connection, subflow) = (self.handle.0.id(), SubflowSlot(slot));
        self.stack.mailbox.send(Command::SetBackup { connection, subflow, backup, reply });
        answer.await.unwrap_or(false)
    }

    /// Resolves when the connection is over at the protocol level, with the reason.
    pub async fn closed(&self) -> CloseReason {
        self.handle.0.closed().await
    }

    /// Ends the connection at once (MP_FASTCLOSE, RFC 8684 section 3.5): the peer sees a reset.
    pub fn abort(&self) {
        self.handle.0.abort();
    }

    /// The next octets, at most `most` of them, without copying them; none at the end of the peer's data. `most` of 0
    /// gives an empty slice at once.
    ///
    /// The slice shares memory with others that came with it: who keeps it for long had better copy it.
    /// Cancel-safe: no octets are lost when the future is dropped.
    ///
    /// # Errors
    /// The connection ended otherwise than by the peer's DATA_FIN.
    pub async fn read_bytes(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_read_bytes(cx, most)).await
    }

    /// See [`read_bytes`](Self::read_bytes).
    pub fn poll_read_bytes(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Option<Bytes>>> {
        if most == 0 {
            return Poll::Ready(Ok(Some(Bytes::new())));
        }
        let turn = ready!(coop::poll_proceed(cx));
        ready!(self.poll_received(cx, None))?;
        turn.made_progress();
        let Some(front) = self.received.front_mut() else { return Poll::Ready(Ok(None)) };
        let octets = front.split_to(front.len().min(most));
        if front.is_empty() {
            self.received.pop_front();
        }
        self.handle.0.consume(octets.len());
        Poll::Ready(Ok(Some(octets)))
    }

    /// Queues all of `octets` without copying them, and waits while the queue is full.
    ///
    /// Their memory is held until the peer has acknowledged them. Cancel-safe: what is not queued yet when the future is
    /// dropped is still in `octets`.
    ///
    /// # Errors
    /// The connection is over, or this side has finished.
    pub async fn write_bytes(&mut self, octets: &mut Bytes) -> io::Result<()> {
        while !octets.is_empty() {
            poll_fn(|cx| self.poll_write_bytes(cx, octets)).await?;
        }
        Ok(())
    }

    /// Queues as many of `octets` as there is room for, and takes them off; gives how many. See
    /// [`write_bytes`](Self::write_bytes).
    pub fn poll_write_bytes(&mut self, cx: &mut Context<'_>, octets: &mut Bytes) -> Poll<io::Result<usize>> {
        if octets.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let turn = ready!(coop::poll_proceed(cx));
        let room = ready!(self.handle.0.poll_room(cx))?;
        turn.made_progress();
        let now = octets.split_to(octets.len().min(room));
        let queued = now.len();
        self.handle.0.send(now);
        Poll::Ready(Ok(queued))
    }

    /// Waits until there is something to read or the stream has ended. `at_once`: so many octets are read at
    /// once.
    fn poll_received(&mut self, cx: &mut Context<'_>, at_once: Option<usize>) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            self.handle.0.poll_receive(cx, at_once, &mut self.received)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn queue(&mut self, len: usize, write: impl FnOnce(&mut [u8])) {
        let slice = self.filling.get_or_insert_default().slice(&self.stack.blocks, len, write);
        self.handle.0.send(slice);
    }
}

/// A connection of which the stack has no record: it was shut down before the connection had ended.
fn nothing_known() -> ConnectionInfo {
    ConnectionInfo {
        state: ConnectionState::Closed,
        version: None,
        fallback: None,
        checksum: false,
        local_token: None,
        remote_token: None,
        bytes_sent: 0,
        bytes_acked: 0,
        bytes_received: 0,
        bytes_reinjected: 0,
        head_of_line: HeadOfLineInfo::default(),
        send_queue: 0,
        receive_queue: 0,
        send_buffer: 0,
        send_buffer_limit: 0,
        receive_buffer: 0,
        receive_buffer_limit: 0,
        receive_window: 0,
        send_window: 0,
        congestion: String::new(),
        scheduler: String::new(),
        path_manager: String::new(),
        subflows: Vec::new(),
    }
}

impl Drop for MptcpStream {
    fn drop(&mut self) {
        if !self.received.is_empty() {
            self.handle.0.abort();
        }
    }
}

impl AsyncRead for MptcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // Gives other tasks a turn when there is always something to read or room to write.
        let turn = ready!(coop::poll_proceed(cx));
        ready!(this.poll_received(cx, Some(buf.remaining())))?;
        turn.made_progress();
        let mut octets = 0;
        while let Some(front) = this.received.front_mut() {
            let part = front.len().min(buf.remaining());
            buf.put_slice(&front[..part]);
            octets += part;
            if part < front.len() {
                front.advance(part);
                break;
            }
            this.received.pop_front();
        }
        if octets > 0 {
            this.handle.0.consume(octets);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for MptcpStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_received(cx, None))?;
        Poll::Ready(Ok(this.received.front().map_or(&[], |front| &front[..])))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        let mut left = amount;
        while left > 0
            && let Some(front) = this.received.front_mut()
        {
            let part = front.len().min(left);
            front.advance(part);
            left -= part;
            if front.is_empty() {
                this.received.pop_front();
            }
        }
        if amount > left {
            this.handle.0.consume(amount - left);
        }
    }
}

impl AsyncWrite for MptcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let turn = ready!(coop::poll_proceed(cx));
        let room = ready!(this.handle.0.poll_room(cx))?;
        turn.made_progress();
        let len = buf.len().min(room).min(BLOCK);
        this.queue(len, |to| to.copy_from_slice(&buf[..len]));
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total = bufs.iter().fold(0usize, |sum, buf| sum.saturating_add(buf.len()));
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let turn = ready!(coop::poll_proceed(cx));
        let room = ready!(this.handle.0.poll_room(cx))?;
        turn.made_progress();
        let len = total.min(room).min(BLOCK);
        this.queue(len, |mut to| {
            for buf in bufs {
                let part = buf.len().min(to.len());
                let (now, later) = to.split_at_mut(part);
                now.copy_from_slice(&buf[..part]);
                to = later;
            }
        });
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is on its way by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends DATA_FIN after what was written. [`closed`](MptcpStream::closed) tells when all has been acknowledged.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.handle.0.finish())
    }
}
