//! Between an application and the shard: one [`Channel`] per connection.
//!
//! Only shared slices change hands under a lock; octets are copied by the application's task, outside of it. A task is
//! woken only when it waits.

use crate::mailbox::Mailbox;
use bytes::Bytes;
use mptcp_common::maps::SubflowKey;
use mptcp_proto::wire::join_small;
use mptcp_proto::{CloseReason, ConnectionId, ConnectionInfo, QueueSizes};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is consistent at every point where something could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reader that waits has reported all but so many octets: the window may be no larger than a few of these.
const WAIT_STEP: usize = 4096;

/// Octets in `to_send`: a super-segment's at least, and no more than keeps a task busy for a while.
const LEAST_TO_SEND: usize = 16 << 10;
const MOST_TO_SEND: usize = 1 << 20;

/// Octets of the blocks that slices are copied together into when they wait for long.
const COMPACTED: usize = 64 << 10;
/// Octets that are handed over at once to applications that read slice after slice.
const AHEAD: usize = 64 << 10;

#[derive(Default)]
struct State {
    /// In-order slices that the application has not taken.
    received: VecDeque<Bytes>,
    /// So many of them, from the front, share no memory with anything else.
    own: usize,
    /// The peer's data ends after `received`.
    received_end: bool,
    reader: Option<Waker>,
    /// Slices that the engine has not taken.
    to_send: VecDeque<Bytes>,
    to_send_octets: usize,
    finish: bool,
    abort: bool,
    released: bool,
    writer: Option<Waker>,
    /// The connection is over.
    closed: Option<CloseReason>,
    final_info: Option<Box<ConnectionInfo>>,
}

impl State {
    /// Takes the first slices, at most `octets` in at most `slices` of them. `copied`: none of them holds on
    /// to more memory than it fills.
    fn hand_over(&mut self, mut octets: usize, slices: usize, copied: bool, into: &mut VecDeque<Bytes>) {
        for _ in 0..slices {
            if octets == 0 {
                break;
            }
            let Some(mut slice) = self.received.pop_front() else { break };
            let own = self.own > 0;
            if slice.len() > octets {
                self.received.push_front(slice.split_off(octets));
            } else {
                self.own = self.own.saturating_sub(1);
            }
            octets -= slice.len();
            into.push_back(if copied && !own { Bytes::copy_from_slice(&slice) } else { slice });
        }
    }

    /// Gives all slices memory of their own. Each is copied once.
    fn compact(&mut self) {
        let loose = self.received.split_off(self.own.min(self.received.len()));
        let mut block = Vec::new();
        let mut left: usize = loose.iter().map(Bytes::len).sum();
        for slice in loose {
            if block.capacity() == 0 {
                block.reserve_exact(left.min(COMPACTED.max(slice.len())));
            }
            block.extend_from_slice(&slice);
            left -= slice.len();
            if block.len() >= COMPACTED || left == 0 {
                self.received.push_back(Bytes::from(std::mem::take(&mut block)));
            }
        }
        self.own = self.received.len();
    }
}

/// What the application's side wants from the engine, as the shard finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wishes {
    /// End the stream after what is queued.
    pub(crate) finish: bool,
    /// End the connection at once.
    pub(crate) abort: bool,
    /// The handle is gone; unread data makes that an abort.
    pub(crate) released: bool,
}

/// A connection, shared by the application's handle and the shard.
pub(crate) struct Channel {
    id: ConnectionId,
    /// Of the initial subflow.
    ends: SubflowKey,
    mailbox: Arc<Mailbox>,
    state: Mutex<State>,
    /// Octets read and not yet reported to the engine.
    consumed: AtomicUsize,
    /// In the mailbox's list already.
    touched: AtomicBool,
    /// Wakes those who wait for the end.
    over: Notify,
    /// Most octets in `to_send`.
    send_limit: AtomicUsize,
    /// What a writer that waits is woken for.
    send_piece: AtomicUsize,
    /// Octets after which reading is reported, so that the window opens.
    consume_step: AtomicUsize,
}

impl Channel {
    pub(crate) fn new(
        id: ConnectionId,
        (local, remote): (SocketAddr, SocketAddr),
        mailbox: Arc<Mailbox>,
        sizes: QueueSizes,
    ) -> Arc<Self> {
        let channel = Self {
            id,
            ends: SubflowKey::new(local, remote),
            mailbox,
            state: Mutex::default(),
            consumed: AtomicUsize::new(0),
            touched: AtomicBool::new(false),
            over: Notify::new(),
            send_limit: AtomicUsize::new(0),
            send_piece: AtomicUsize::new(0),
            consume_step: AtomicUsize::new(0),
        };
        channel.set_sizes(sizes);
        Arc::new(channel)
    }

    /// The engine's queues should be so large.
    pub(crate) fn set_sizes(&self, QueueSizes { ahead, piece, receive }: QueueSizes) {
        let piece = piece.clamp(LEAST_TO_SEND, MOST_TO_SEND);
        let most = (ahead / 2).min(MOST_TO_SEND);
        self.send_limit.store((most - most % piece).max(piece), Ordering::Relaxed);
        self.send_piece.store(piece, Ordering::Relaxed);
        self.consume_step.store((receive / 8).clamp(1, 512 << 10), Ordering::Relaxed);
    }

    fn send_limit(&self) -> usize {
        self.send_limit.load(Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.ends.local_addr()
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.ends.remote_addr()
    }

    fn touch(self: &Arc<Self>) {
        if !self.touched.swap(true, Ordering::AcqRel) {
            self.mailbox.touch(self.clone());
        }
    }

    // The application's side.

    /// Takes in-order slices: those with the octets that are read `at_once`, or some to be read one after the
    /// other. At the end of the stream there are none. All others stay here, where the shard can copy them
    /// when they hold on to too much.
    pub(crate) fn poll_receive(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        at_once: Option<usize>,
        into: &mut VecDeque<Bytes>,
    ) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        if !state.received.is_empty() {
            match at_once {
                Some(octets) => state.hand_over(octets, usize::MAX, false, into),
                None if self.mailbox.is_tight() => state.hand_over(usize::MAX, 1, true, into),
                None => state.hand_over(AHEAD, usize::MAX, false, into),
            }
            return Poll::Ready(Ok(()));
        }
        if state.received_end {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = state.closed {
            return Poll::Ready(end_of(reason));
        }
        state.reader = Some(cx.waker().clone());
        drop(state);
        if self.consumed.load(Ordering::Acquire) >= WAIT_STEP {
            self.touch();
        }
        Poll::Pending
    }

    /// Tells how many octets the application has read.
    pub(crate) fn consume(self: &Arc<Self>, octets: usize) {
        let unreported = self.consumed.fetch_add(octets, Ordering::AcqRel) + octets;
        if unreported >= self.consume_step.load(Ordering::Relaxed) {
            self.touch();
        }
    }

    /// Room to send, in octets; waits while there is none.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.state);
        if let Some(reason) = state.closed {
            return Poll::Ready(Err(broken(reason)));
        }
        if state.finish || state.abort {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "this side has already finished sending",
            )));
        }
        let room = self.send_limit().saturating_sub(state.to_send_octets);
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// Queues a slice.
    pub(crate) fn send(self: &Arc<Self>, slice: Bytes) {
        {
            let mut state = lock(&self.state);
            state.to_send_octets += slice.len();
            state.to_send.push_back(slice);
        }
        self.touch();
    }

    /// No more will be sent.
    pub(crate) fn finish(self: &Arc<Self>) -> io::Result<()> {
        {
            let mut state = lock(&self.state);
            if state.finish {
                return Ok(());
            }
            if let Some(reason) = state.closed {
                return end_of(reason);
            }
            state.finish = true;
        }
        self.touch();
        Ok(())
    }

    /// Ends the connection at once.
    pub(crate) fn abort(self: &Arc<Self>) {
        lock(&self.state).abort = true;
        self.touch();
    }

    /// Waits until the connection is over.
    pub(crate) async fn closed(&self) -> CloseReason {
        loop {
            let mut over = pin!(self.over.notified());
            // Listening first, then looking: the end can't come in between unnoticed.
            over.as_mut().enable();
            if let Some(reason) = lock(&self.state).closed {
                return reason;
            }
            over.await;
        }
    }

    /// What was known of the connection when it ended.
    pub(crate) fn final_info(&self) -> Option<ConnectionInfo> {
        lock(&self.state).final_info.as_deref().cloned()
    }

    // The shard's side.

    /// Begins to look at a channel from the mailbox's list; gives the octets that the application has read since
    /// the last time.
    pub(crate) fn begin(&self) -> usize {
        // Cleared first: what is put in from now on touches the channel again.
        self.touched.store(false, Ordering::SeqCst);
        self.consumed.swap(0, Ordering::SeqCst)
    }

    /// What is wished, after [`take_to_send`](Self::take_to_send).
    pub(crate) fn wishes(&self) -> Wishes {
        let state = lock(&self.state);
        let all_sent = state.to_send.is_empty();
        Wishes {
            finish: state.finish && all_sent,
            abort: state.abort || state.released && !state.received.is_empty(),
            released: state.released && all_sent,
        }
    }

    /// Takes slices that are to be sent, up to about `capacity` octets. How many octets are left.
    pub(crate) fn take_to_send(&self, mut capacity: usize, into: &mut Vec<Bytes>) -> usize {
        let mut state = lock(&self.state);
        let before = state.to_send_octets;
        while capacity > 0
            && let Some(mut slice) = state.to_send.pop_front()
        {
            if slice.len() > capacity {
                let now = slice.split_to(capacity);
                state.to_send.push_front(slice);
                slice = now;
            }
            capacity -= slice.len();
            state.to_send_octets -= slice.len();
            into.push(slice);
        }
        // A writer is woken when there is room for a good piece, not for every octet.
        let limit = self.send_limit();
        let room = self.send_piece.load(Ordering::Relaxed).max(limit / 2);
        let wake = before != state.to_send_octets && state.to_send_octets + room <= limit;
        let writer = if wake { state.writer.take() } else { None };
        let left = state.to_send_octets;
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        left
    }

    /// Hands in-order slices to the application.
    pub(crate) fn deliver(&self, slices: &mut Vec<Bytes>, end: bool) {
        let mut state = lock(&self.state);
        for slice in slices.drain(..) {
            // What waits for a slow reader must not hold on to more memory than it is worth.
            if !state.received.back_mut().is_some_and(|last| join_small(last, &slice)) {
                state.received.push_back(slice);
            }
        }
        state.received_end |= end;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// What waits for the application holds on to more memory than it fills: it gets memory of its own.
    pub(crate) fn compact(&self) {
        lock(&self.state).compact();
    }

    /// Nothing has happened for a while: empty queues give their memory back.
    pub(crate) fn rest(&self) {
        let mut state = lock(&self.state);
        state.received.shrink_to_fit();
        state.to_send.shrink_to_fit();
    }

    /// The connection is over.
    pub(crate) fn close(&self, reason: CloseReason, info: Option<ConnectionInfo>) {
        let mut state = lock(&self.state);
        state.final_info = info.map(Box::new).or(state.final_info.take());
        state.to_send.clear();
        state.to_send_octets = 0;
        let (reader, writer) = (state.reader.take(), state.writer.take());
        state.closed.get_or_insert(reason);
        drop(state);
        self.over.notify_waiters();
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// The application's hold on a connection: when it goes, so does the connection, in an orderly way if all that was
/// received was read.
pub(crate) struct Handle(pub(crate) Arc<Channel>);

impl Drop for Handle {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.0.state);
            state.finish = true;
            state.released = true;
            state.reader = None;
            state.writer = None;
        }
        self.0.touch();
    }
}

/// What a reader sees when the connection is over.
fn end_of(reason: CloseReason) -> io::Result<()> {
    if reason == CloseReason::Finished { Ok(()) } else { Err(broken(reason)) }
}

fn broken(reason: CloseReason) -> io::Error {
    let kind = match reason {
        CloseReason::Finished => io::ErrorKind::BrokenPipe,
        CloseReason::Refused => io::ErrorKind::ConnectionRefused,
        CloseReason::Reset => io::ErrorKind::ConnectionReset,
        CloseReason::ConnectTimeout | CloseReason::TimedOut => io::ErrorKind::TimedOut,
        CloseReason::AllPathsLost | CloseReason::Unreachable => io::ErrorKind::HostUnreachable,
        CloseReason::Corrupted => io::ErrorKind::InvalidData,
        CloseReason::Aborted => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, reason)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mailbox::Alarm;
    use std::task::Wake;

    /// Counts how often it wakes.
    pub(crate) struct Count(pub(crate) AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A channel of a shard that is woken by this.
    pub(crate) fn channel_with(alarm: Alarm) -> (Arc<Channel>, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::new(alarm));
        let id = ConnectionId::from_number(1 << 32 | 1);
        let ends = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let sizes = QueueSizes { ahead: 32 << 10, piece: 1000, receive: 8000 };
        (Channel::new(id, ends, mailbox.clone(), sizes), mailbox)
    }

    fn channel() -> (Arc<Channel>, Arc<Mailbox>) {
        channel_with(Alarm::task())
    }

    #[test]
    fn a_channel_is_in_the_mailbox_once_until_it_is_looked_at() {
        let (channel, mailbox) = channel();
        let (mut commands, mut touched) = (VecDeque::new(), VecDeque::new());
        for _ in 0..3 {
            channel.send(Bytes::from_static(b"x"));
        }
        mailbox.take(&mut commands, &mut touched);
        assert_eq!(touched.len(), 1);
        touched[0].begin();
        channel.send(Bytes::from_static(b"x"));
        mailbox.take(&mut commands, &mut touched);
        assert_eq!(touched.len(), 2);
    }

    #[test]
    fn a_full_queue_holds_the_writer_until_half_of_it_and_a_piece_are_gone() {
        let (channel, _) = channel();
        channel.set_sizes(QueueSizes { ahead: 100 << 10, piece: 20_000, receive: 8000 });
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let Poll::Ready(Ok(room)) = channel.poll_room(&mut cx) else { panic!("room") };
        assert_eq!(room, 40_000, "whole pieces");
        channel.send(Bytes::from(vec![7; room]));
        assert!(channel.poll_room(&mut cx).is_pending());
        let mut taken = Vec::new();
        assert_eq!(channel.take_to_send(19_000, &mut taken), 21_000);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        assert_eq!(channel.take_to_send(1000, &mut taken), 20_000);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(channel.take_to_send(1 << 20, &mut taken), 0);
        assert_eq!(taken.iter().map(Bytes::len).sum::<usize>(), room);
    }

    #[test]
    fn a_writer_that_may_be_little_ahead_still_hands_over_a_piece_at_a_time() {
        let (channel, _) = channel();
        let mut cx = Context::from_waker(Waker::noop());
        for (ahead, piece, room) in
            [(64 << 10, 62_480, 62_480), (0, 0, LEAST_TO_SEND), (usize::MAX, 100_000, 1_000_000)]
        {
            channel.set_sizes(QueueSizes { ahead, piece, receive: 8000 });
            assert!(matches!(channel.poll_room(&mut cx), Poll::Ready(Ok(found)) if found == room), "{ahead}");
        }
    }

    #[test]
    fn readers_get_what_was_delivered_then_the_end_or_the_reason() {
        let (channel, _) = channel();
        let mut cx = Context::from_waker(Waker::noop());
        let mut into = VecDeque::new();
        let all = Some(usize::MAX);
        assert!(channel.poll_receive(&mut cx, all, &mut into).is_pending());
        channel.deliver(&mut vec![Bytes::from_static(b"last words")], false);
        channel.close(CloseReason::Reset, None);
        assert!(matches!(channel.poll_receive(&mut cx, all, &mut into), Poll::Ready(Ok(()))));
        assert_eq!(into.pop_front().as_deref(), Some(&b"last words"[..]));
        let Poll::Ready(Err(error)) = channel.poll_receive(&mut cx, all, &mut into) else { panic!("over") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        channel.deliver(&mut Vec::new(), true);
        assert!(matches!(channel.poll_receive(&mut cx, all, &mut into), Poll::Ready(Ok(()))), "the end");
    }

    #[test]
    fn slices_that_wait_are_copied_once_and_stay_in_order() {
        let (channel, _) = channel();
        let mut cx = Context::from_waker(Waker::noop());
        let (mut sent, mut got, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..200usize {
            let block = Bytes::from(vec![round as u8; 128 << 10]);
            let slice = block.slice(..2000 + round);
            sent.extend_from_slice(&slice);
            blocks.push(block);
            channel.deliver(&mut vec![slice], false);
            if round % 7 == 0 {
                channel.compact();
                assert!(blocks.iter().all(Bytes::is_unique), "round {round}");
            }
            if round % 3 == 0 {
                let mut into = VecDeque::new();
                let most = Some(777 + 50 * round).filter(|_| round % 2 == 0);
                channel.mailbox.set_tight(round % 4 == 1);
                assert!(channel.poll_receive(&mut cx, most, &mut into).is_ready());
                let octets = into.iter().map(Bytes::len).sum::<usize>();
                assert!(octets <= most.unwrap_or(AHEAD));
                assert!(most.is_some() || round % 4 != 1 || into.len() <= 1);
                into.iter().for_each(|slice| got.extend_from_slice(slice));
            }
        }
        let mut into = VecDeque::new();
        assert!(channel.poll_receive(&mut cx, Some(usize::MAX), &mut into).is_ready());
        into.iter().for_each(|slice| got.extend_from_slice(slice));
        assert!(got == sent);
        assert_eq!(lock(&channel.state).own, 0);
    }

    #[test]
    fn reading_is_reported_in_steps() {
        let (channel, mailbox) = channel();
        channel.consume(999);
        assert!(!mailbox.has_mail());
        channel.consume(1);
        assert!(mailbox.has_mail());
        assert_eq!(channel.begin(), 1000);
        assert_eq!(channel.begin(), 0);
    }

    #[test]
    fn dropping_a_handle_with_unread_data_is_an_abort() {
        let (read, _) = channel();
        drop(Handle(read.clone()));
        let wishes = read.wishes();
        assert!(wishes.released && wishes.finish && !wishes.abort);
        let (unread, _) = channel();
        unread.deliver(&mut vec![Bytes::from_static(b"unread")], false);
        drop(Handle(unread.clone()));
        assert!(unread.wishes().abort);
    }
}
