//! Where a shard is told things: one [`Mailbox`] per shard.
//!
//! A shard that is awake looks into its mailbox by itself: only one that sleeps is woken, by an eventfd where it has a
//! thread of its own, by its task's waker where it is driven by the application's runtime.

use crate::StackError as Error;
use crate::channel::{Channel, Handle, lock};
use mptcp_datapath::sys::event::Event;
use mptcp_datapath::xdp::CounterSnapshot;
use mptcp_proto::{
    BlackholeInfo, ConnectionConfig, ConnectionId, ConnectionInfo, Counters, ListenerId, SubflowSlot,
};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What the stack asks of a shard.
pub(crate) enum Command {
    /// Opens a connection.
    Connect {
        /// Where to.
        remote: SocketAddr,
        /// From where; an unspecified address or port 0 leaves that to the shard.
        local: Option<SocketAddr>,
        /// Choices for the connection.
        config: Box<ConnectionConfig>,
        /// By which [`Command::GiveUp`] means it.
        ticket: u64,
        /// Answered when the connection is established or has failed.
        reply: oneshot::Sender<Result<Handle, Error>>,
    },
    /// Nobody waits for this connection any more: unless it is established, it is forgotten without a
    /// segment.
    GiveUp(u64),
    /// Asks from which addresses, besides the one that the kernel would take, a destination can be reached.
    Ways {
        /// The destination.
        remote: SocketAddr,
        /// Choices for the connection.
        config: Box<ConnectionConfig>,
        /// The addresses, the best first.
        reply: oneshot::Sender<Vec<IpAddr>>,
    },
    /// Accepts connections.
    Listen {
        /// Address and port; port 0 leaves it to the kernel.
        local: SocketAddr,
        /// Choices for the connections.
        config: Box<ConnectionConfig>,
        /// The answer.
        reply: oneshot::Sender<Result<Listening, Error>>,
    },
    /// Stops accepting.
    CloseListener(ListenerId),
    /// What is known of a connection; the channel keeps the last of it.
    Info(ConnectionId, oneshot::Sender<Option<ConnectionInfo>>),
    /// Changes the priority of a subflow (MP_PRIO).
    SetBackup {
        /// The connection.
        connection: ConnectionId,
        /// The subflow.
        subflow: SubflowSlot,
        /// Whether to use it only when no others work.
        backup: bool,
        /// Whether there is such a subflow.
        reply: oneshot::Sender<bool>,
    },
    /// What is known of the shard as a whole.
    Status(oneshot::Sender<Status>),
    /// What is known of each of these connections, as far as they still exist.
    Infos(Vec<ConnectionId>, oneshot::Sender<Vec<(ConnectionId, ConnectionInfo)>>),
    /// Interfaces have more or fewer receive queues than before.
    LookAtQueues,
    /// Ends the shard when all connections have ended, or after `patience`.
    Stop {
        /// How long to wait for connections.
        patience: Duration,
        /// Answered when all is cleaned up.
        reply: Option<oneshot::Sender<()>>,
    },
}

/// What is known of a shard.
pub(crate) struct Status {
    /// What the engine has counted.
    pub(crate) counters: Counters,
    /// What the XDP program has counted, if the kernel tells.
    pub(crate) xdp: Option<CounterSnapshot>,
    /// Where is listened.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Destinations that do not like Multipath TCP.
    pub(crate) blackholes: Vec<BlackholeInfo>,
    /// All connections.
    pub(crate) connections: Vec<ConnectionId>,
}

/// A listener as the stack gets it.
pub(crate) struct Listening {
    /// The listener.
    pub(crate) id: ListenerId,
    /// Its address, with the port it got.
    pub(crate) local: SocketAddr,
    /// Its connections.
    pub(crate) incoming: mpsc::Receiver<Handle>,
}

/// What wakes a shard that sleeps.
#[derive(Debug)]
pub(crate) enum Alarm {
    /// A descriptor that becomes readable.
    Event(Event),
    /// The task that drives the shard.
    Task(Mutex<Option<Waker>>),
}

impl Alarm {
    /// For a shard that sleeps in `epoll`.
    pub(crate) fn event() -> io::Result<Self> {
        Event::new().map(Self::Event)
    }

    /// For a shard that is a task.
    pub(crate) fn task() -> Self {
        Self::Task(Mutex::default())
    }

    fn ring(&self) {
        match self {
            Self::Event(event) => event.notify(),
            Self::Task(waker) => {
                let waker = lock(waker).take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    fn turn_off(&self) {
        if let Self::Event(event) = self {
            event.clear();
        }
    }

    /// What there is to wait for, besides a task's waker.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Event(event) => Some(event.as_fd()),
            Self::Task(_) => None,
        }
    }
}

/// See the [module](self).
pub(crate) struct Mailbox {
    commands: Mutex<VecDeque<Command>>,
    touched: Mutex<VecDeque<Arc<Channel>>>,
    /// Something was put in since the shard last looked.
    pending: AtomicBool,
    /// The shard sleeps, or is about to.
    asleep: AtomicBool,
    /// The shard is gone.
    stopped: AtomicBool,
    /// What applications take for long is to be copied: it holds on to more memory than it fills.
    tight: AtomicBool,
    alarm: Alarm,
}

impl Mailbox {
    pub(crate) fn new(alarm: Alarm) -> Self {
        Self {
            commands: Mutex::default(),
            touched: Mutex::default(),
            pending: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            tight: AtomicBool::new(false),
            alarm,
        }
    }

    /// Slices hold on to more memory than they fill, or no more.
    pub(super) fn set_tight(&self, tight: bool) {
        self.tight.store(tight, Ordering::Relaxed);
    }

    /// Whether what applications take for long is to be copied.
    pub(super) fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    pub(crate) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Sends a command; `false` if there is no shard any more. A reply that the command carries is then dropped.
    pub(crate) fn send(&self, command: Command) -> bool {
        {
            let mut commands = lock(&self.commands);
            if self.stopped.load(Ordering::Acquire) {
                return false;
            }
            commands.push_back(command);
        }
        self.notify();
        true
    }

    /// The shard is to look at a channel.
    pub(super) fn touch(&self, channel: Arc<Channel>) {
        {
            let mut touched = lock(&self.touched);
            // A channel that nobody takes out would keep the mailbox that it is in.
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            touched.push_back(channel);
        }
        self.notify();
    }

    /// Publishes what was put in, and wakes the shard if it sleeps. The two sequentially consistent accesses pair
    /// with those of [`prepare_sleep`](Self::prepare_sleep): either the shard sees `pending` or we see `asleep`.
    fn notify(&self) {
        self.pending.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.alarm.ring();
        }
    }

    /// Whether something waits. Cheap enough for a spinning loop.
    pub(crate) fn has_mail(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Takes out all that waits.
    pub(crate) fn take(&self, commands: &mut VecDeque<Command>, touched: &mut VecDeque<Arc<Channel>>) {
        if self.pending.swap(false, Ordering::SeqCst) {
            commands.append(&mut lock(&self.commands));
            touched.append(&mut lock(&self.touched));
        }
    }

    /// Announces sleep; `false` if there is mail, and sleep is off.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            self.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// For the task of a shard that sleeps: ready once there is mail.
    pub(crate) fn poll_woken(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Alarm::Task(waker) = &self.alarm {
            let mut waker = lock(waker);
            if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        // Looked at last: whoever rang before the waker was there has said so here.
        if self.asleep.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The shard is awake again.
    pub(crate) fn awake(&self) {
        if !self.asleep.swap(false, Ordering::SeqCst) {
            self.alarm.turn_off();
        }
    }

    /// There will be no shard any more: commands that wait are dropped, and with them their replies.
    pub(crate) fn stop(&self) {
        let commands = {
            let mut commands = lock(&self.commands);
            self.stopped.store(true, Ordering::Release);
            std::mem::take(&mut *commands)
        };
        drop(commands);
        let touched = std::mem::take(&mut *lock(&self.touched));
        drop(touched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::tests::{Count, channel_with};
    use bytes::Bytes;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::atomic::AtomicUsize;

    fn is_readable(mailbox: &Mailbox) -> bool {
        let fd = mailbox.alarm.descriptor().expect("a descriptor");
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
    }

    #[test]
    fn only_a_sleeping_shard_is_woken() {
        let (channel, mailbox) = channel_with(Alarm::event().expect("eventfd"));
        channel.send(Bytes::from_static(b"hello"));
        assert!(mailbox.has_mail() && !is_readable(&mailbox));
        assert!(!mailbox.prepare_sleep(), "there is mail");
        let (mut commands, mut touched) = (VecDeque::new(), VecDeque::new());
        mailbox.take(&mut commands, &mut touched);
        assert_eq!((commands.len(), touched.len()), (0, 1));
        touched[0].begin();
        assert!(mailbox.prepare_sleep());
        channel.send(Bytes::from_static(b"hello"));
        assert!(is_readable(&mailbox));
        mailbox.awake();
        assert!(!is_readable(&mailbox));
    }

    #[test]
    fn a_sleeping_task_is_woken_once_and_not_before_it_sleeps() {
        let (channel, mailbox) = channel_with(Alarm::task());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(mailbox.prepare_sleep());
        assert!(mailbox.poll_woken(&mut cx).is_pending());
        assert!(mailbox.send(Command::GiveUp(1)));
        channel.send(Bytes::from_static(b"hello"));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(mailbox.poll_woken(&mut cx).is_ready());
        mailbox.awake();
        mailbox.take(&mut VecDeque::new(), &mut VecDeque::new());
        // Rung between the decision to sleep and the first look: there was no waker yet.
        assert!(mailbox.prepare_sleep());
        assert!(mailbox.send(Command::GiveUp(1)));
        assert!(mailbox.poll_woken(&mut cx).is_ready());
    }

    #[test]
    fn a_stopped_shard_is_told_nothing_and_keeps_nothing() {
        let (channel, mailbox) = channel_with(Alarm::task());
        mailbox.stop();
        assert!(!mailbox.send(Command::Stop { patience: Duration::ZERO, reply: None }));
        channel.send(Bytes::from_static(b"hello"));
        assert_eq!(Arc::strong_count(&channel), 1);
    }
}
