//! Moves octets between a connection and the process's files, both directions at once.
//!
//! Files, pipes and terminals block, so each gets a thread. Between thread and connection a fixed set of
//! buffers goes round: full ones one way, empty ones back. When the slow side has them all, the fast side
//! waits; nothing is allocated on the way.

use super::exit::{ExitCode, Failure};
use anyhow::{Context as _, Result};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Octets of one buffer.
const BUFFER: usize = 256 << 10;
/// Buffers of each direction.
const BUFFERS: usize = 8;
/// Buffers moved in one go before other futures of the task get their turn.
const TURN: usize = 32;

/// The source of the bytes that go to the peer.
#[derive(Debug)]
pub(crate) struct Input {
    full: UnboundedReceiver<io::Result<Vec<u8>>>,
    empty: UnboundedSender<Vec<u8>>,
}

/// Where to put what the peer sends.
#[derive(Debug)]
pub(crate) struct Output {
    full: UnboundedSender<Vec<u8>>,
    empty: UnboundedReceiver<Vec<u8>>,
    /// None once its error has been told.
    written: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Input {
    /// Reads ahead from `reader` on a thread of its own until it ends. A reader that blocks for ever holds up
    /// nothing but that thread.
    pub(crate) fn from_reader(mut reader: impl Read + Send + 'static) -> Result<Self> {
        let (full, full_out) = unbounded_channel();
        let (empty, mut empty_out) = unbounded_channel();
        for _ in 0..BUFFERS {
            let _ = empty.send(Vec::new());
        }
        thread::Builder::new()
            .name("input".into())
            .spawn(move || {
                while let Some(mut buffer) = empty_out.blocking_recv() {
                    buffer.resize(BUFFER, 0);
                    let octets = match reader.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(octets) => octets,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                        Err(error) => {
                            let _ = full.send(Err(error));
                            return;
                        }
                    };
                    buffer.truncate(octets);
                    if full.send(Ok(buffer)).is_err() {
                        return;
                    }
                }
            })
            .context("can't start a thread")?;
        Ok(Self { full: full_out, empty })
    }

    /// An input that has ended already.
    pub(crate) fn nothing() -> Self {
        Self { full: unbounded_channel().1, empty: unbounded_channel().0 }
    }
}

impl Output {
    /// Writes to `writer` on a thread of its own.
    pub(crate) fn to_writer(mut writer: impl Write + Send + 'static) -> Result<Self> {
        let (full, mut full_out) = unbounded_channel::<Vec<u8>>();
        let (empty, empty_out) = unbounded_channel();
        let (result, written) = oneshot::channel();
        for _ in 0..BUFFERS {
            let _ = empty.send(Vec::new());
        }
        thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                let mut write = || {
                    while let Some(buffer) = full_out.blocking_recv() {
                        writer.write_all(&buffer)?;
                        // Latency counts on a terminal; on a file this costs nothing.
                        writer.flush()?;
                        let _ = empty.send(buffer);
                    }
                    Ok(())
                };
                let outcome = write();
                // Only now may the reader find the buffers gone: the reason is there before it asks.
                let _ = result.send(outcome);
                drop(empty);
            })
            .context("can't start a thread")?;
        Ok(Self { full, empty: empty_out, written: Some(written) })
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(self) -> Result<()> {
        drop(self.full);
        let Some(written) = self.written else { return Ok(()) };
        written.await.context("the thread that writes the output is gone")?.map_err(output_failed)
    }
}

fn output_failed(error: io::Error) -> anyhow::Error {
    let code = super::output::code_of(&error);
    anyhow::Error::new(error).context(Failure::new(code, "can't write what was received"))
}

/// Both directions of one connection.
#[derive(Debug)]
pub(crate) struct Pump {
    input: Input,
    output: Output,
    sending: Option<(Vec<u8>, usize)>,
    filling: Option<Vec<u8>>,
    input_ended: bool,
    finished: bool,
    peer_ended: bool,
    after_peer: bool,
    /// Octets the connection has taken.
    pub(crate) sent: u64,
    /// Octets the connection has given.
    pub(crate) received: u64,
}

impl Pump {
    pub(crate) fn new(input: Input, output: Output) -> Self {
        Self {
            input,
            output,
            sending: None,
            filling: None,
            input_ended: false,
            finished: false,
            peer_ended: false,
            after_peer: false,
            sent: 0,
            received: 0,
        }
    }

    /// If there is nothing at all to send, our end waits for the peer's: many hosts (Linux among them) refuse
    /// further subflows once either side has finished. Only one of two sides may do so, or both wait for
    /// ever.
    pub(crate) fn end_after_peer(mut self) -> Self {
        self.after_peer = true;
        self
    }

    /// Sends no more than the connection has taken already: the next thing the peer sees is our end.
    pub(crate) fn stop_input(&mut self) {
        self.sending = None;
        self.input_ended = true;
        self.after_peer = false;
    }

    /// Whether our side is closed.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Waits until everything received is written.
    pub(crate) async fn flush(self) -> Result<()> {
        self.output.finish().await
    }

    /// Moves what can be moved; ready when both sides have finished. May be dropped and called again at any
    /// time.
    pub(crate) fn poll<S: AsyncRead + AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut S>,
    ) -> Poll<Result<()>> {
        let back = self.poll_receive(cx, stream.as_mut())?;
        let out = self.poll_send(cx, stream)?;
        match (out, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn poll_send<S: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut S>,
    ) -> Poll<Result<()>> {
        for _ in 0..TURN {
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            if self.sending.is_none() && !self.input_ended {
                match ready!(self.input.full.poll_recv(cx)) {
                    Some(Ok(buffer)) => self.sending = Some((buffer, 0)),
                    Some(Err(error)) => return Poll::Ready(Err(error).context("can't read the input")),
                    None => self.input_ended = true,
                }
            }
            let Some((buffer, taken)) = &mut self.sending else {
                if self.after_peer && self.sent == 0 && !self.peer_ended {
                    // Polled again when the peer's end comes.
                    return Poll::Pending;
                }
                ready!(stream.as_mut().poll_shutdown(cx)).map_err(|error| self.broken(error))?;
                self.finished = true;
                continue;
            };
            if *taken < buffer.len() {
                match ready!(stream.as_mut().poll_write(cx, &buffer[*taken..])) {
                    Ok(octets) => {
                        *taken += octets;
                        self.sent += octets as u64;
                    }
                    Err(error) => return Poll::Ready(Err(self.broken(error))),
                }
            }
            if let Some((buffer, _)) = self.sending.take_if(|(buffer, taken)| *taken == buffer.len()) {
                let _ = self.input.empty.send(buffer);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_receive<S: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut S>,
    ) -> Poll<Result<()>> {
        for _ in 0..TURN {
            if self.peer_ended {
                return Poll::Ready(Ok(()));
            }
            if self.filling.is_none() {
                let Some(mut buffer) = ready!(self.output.empty.poll_recv(cx)) else {
                    let error = match self.output.written.take().map(|mut written| written.try_recv()) {
                        Some(Ok(Err(error))) => error,
                        _ => io::Error::other("the thread that writes it is gone"),
                    };
                    return Poll::Ready(Err(output_failed(error)));
                };
                buffer.resize(BUFFER, 0);
                self.filling = Some(buffer);
            }
            let Some(buffer) = &mut self.filling else { continue };
            // Several short reads share a buffer, as long as they don't have to be waited for.
            let mut filled = 0;
            let state = loop {
                let mut space = ReadBuf::new(&mut buffer[filled..]);
                match stream.as_mut().poll_read(cx, &mut space) {
                    Poll::Ready(Ok(())) => match space.filled().len() {
                        0 => break Poll::Ready(Ok(true)),
                        octets => filled += octets,
                    },
                    Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                    Poll::Pending => break Poll::Pending,
                }
                if filled == buffer.len() {
                    break Poll::Ready(Ok(false));
                }
            };
            self.received += filled as u64;
            if filled > 0 {
                buffer.truncate(filled);
                if let Some(buffer) = self.filling.take() {
                    let _ = self.output.full.send(buffer);
                }
            }
            match ready!(state) {
                Ok(ended) => self.peer_ended = ended,
                Err(error) => return Poll::Ready(Err(self.broken(error))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn broken(&self, error: io::Error) -> anyhow::Error {
        let Self { sent, received, .. } = self;
        anyhow::Error::new(error).context(Failure::new(
            ExitCode::Broken,
            format!("the connection broke after {sent} octets sent and {received} received"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn both_directions_arrive_whole_and_the_peer_may_answer_after_our_end() {
        let question: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let (ours, mut theirs) = tokio::io::duplex(10_000);
        let sink = Sink::default();
        let mut pump = Pump::new(
            Input::from_reader(io::Cursor::new(question.clone())).expect("thread"),
            Output::to_writer(sink.clone()).expect("thread"),
        );
        let peer = tokio::spawn(async move {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.expect("reads");
            theirs.write_all(&got).await.expect("writes");
            got
        });
        let mut ours = pin!(ours);
        poll_fn(|cx| pump.poll(cx, ours.as_mut())).await.expect("ends well");
        assert_eq!((pump.sent, pump.received), (3_000_000, 3_000_000));
        pump.flush().await.expect("written");
        assert!(peer.await.expect("peer") == question);
        assert!(*sink.0.lock().expect("no panic") == question);
    }

    #[tokio::test]
    async fn a_side_with_nothing_to_send_may_end_after_its_peer() {
        let (ours, mut theirs) = tokio::io::duplex(10_000);
        let mut pump =
            Pump::new(Input::nothing(), Output::to_writer(Sink::default()).expect("thread")).end_after_peer();
        let mut ours = pin!(ours);
        let moved = async { poll_fn(|cx| pump.poll(cx, ours.as_mut())).await.expect("ends well") };
        let peer = async {
            let early = tokio::time::timeout(std::time::Duration::from_millis(50), theirs.read_u8()).await;
            assert!(early.is_err(), "our end came before the peer's");
            theirs.shutdown().await.expect("shuts down");
            assert_eq!(theirs.read(&mut [0; 1]).await.expect("reads"), 0);
        };
        tokio::join!(moved, peer);
    }

    #[tokio::test]
    async fn an_output_that_fails_ends_the_transfer_with_its_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (ours, mut theirs) = tokio::io::duplex(10_000);
        let mut pump = Pump::new(Input::nothing(), Output::to_writer(Full).expect("thread"));
        tokio::spawn(async move { while theirs.write_all(&[0; 5000]).await.is_ok() {} });
        let mut ours = pin!(ours);
        let error = poll_fn(|cx| pump.poll(cx, ours.as_mut())).await.expect_err("the disk is full");
        assert!(format!("{error:#}").contains("can't write what was received"), "{error:#}");
        pump.flush().await.expect("the error has been told");
        assert_eq!(crate::exit::code_of(&error), ExitCode::Host);
        let gone = output_failed(io::ErrorKind::BrokenPipe.into());
        assert_eq!(crate::exit::code_of(&gone), ExitCode::Pipe);
    }
}
