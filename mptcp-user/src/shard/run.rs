//! When a shard works, looks around, and sleeps: on a thread of its own, or as a task of the application's runtime.
//!
//! A wake-up costs more than a packet, so a shard without work looks for more for a moment before it sleeps.
//!
//! On a thread of its own it works while the application does, which is what bulk transfers want. As a task, on the
//! application's thread, nobody waits for another thread to be woken: a request and its response take two changes of
//! thread less at each end.

use super::traffic::CACHED_BUDGET;
use super::{KEY_TIMER, Replies, Shard, ShardConfig, ShardHandle, now};
use crate::StackError as Error;
use crate::mailbox::Alarm;
use mptcp_datapath::sys::timer::Timer;
use mptcp_proto::Instant;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use std::{io, thread};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::yield_now;

/// How long a shard without work spins before it sleeps, where there is another processor to bring it work meanwhile.
/// Whatever sleep was like: the application, which works at the same time, is about to bring more.
const SPIN: Duration = Duration::from_micros(20);
/// The longest for one whose thread is the application's, too: nobody else waits for that, but while it spins nothing
/// comes from there either.
const SPIN_ALONE: Duration = Duration::from_micros(50);
/// There spinning begins with this.
const FIRST_SPIN: Duration = Duration::from_micros(10);
/// Who is woken sooner than this had better not have slept.
const SHORT_SLEEP: Duration = Duration::from_micros(50);
/// How often a shard without work looks into its rings before the runtime has its turn, which takes about as long as all these
/// looks together.
const LOOKS: usize = 32;
/// How often a shard that is always busy looks at what only `epoll` tells.
const GLANCE: Duration = Duration::from_millis(1);

/// What comes after a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// Another one.
    Round,
    /// Another one, after a look at all descriptors.
    Glance,
    /// Another one: there may be work by then.
    Spin,
    /// Sleep.
    Sleep,
}

/// When a shard sleeps.
#[derive(Debug)]
struct Pace {
    busy_poll: bool,
    idle_since: Option<Instant>,
    glanced: Instant,
    /// How long to spin now: `least` after a long sleep, longer after each short one.
    spin: Duration,
    least: Duration,
    longest: Duration,
}

impl Pace {
    fn new(busy_poll: bool, (least, longest): (Duration, Duration), now: Instant) -> Self {
        Self { busy_poll, idle_since: None, glanced: now, spin: least, least, longest }
    }

    /// What comes after a round that began at `time`.
    fn next(&mut self, time: Instant, busy: bool) -> Next {
        if (busy || self.busy_poll) && time - self.glanced >= GLANCE {
            self.glanced = time;
            return Next::Glance;
        }
        if busy {
            self.idle_since = None;
            return Next::Round;
        }
        let idle = *self.idle_since.get_or_insert(time);
        if self.busy_poll || time - idle < self.spin { Next::Spin } else { Next::Sleep }
    }

    /// There was sleep between these times.
    fn slept(&mut self, from: Instant, until: Instant) {
        // Where work comes seldom, looking for it costs more than being woken.
        self.spin = if until - from < SHORT_SLEEP {
            (self.spin * 2).max(FIRST_SPIN).min(self.longest)
        } else {
            self.least
        };
        (self.glanced, self.idle_since) = (until, None);
    }
}

/// How long to spin, at least and at most, on a thread of its own. Not at all where the application has to have the same
/// processor: it brings nothing meanwhile.
fn beside_the_application() -> (Duration, Duration) {
    let alone = thread::available_parallelism().is_ok_and(|number| number.get() == 1);
    if alone { Default::default() } else { (SPIN, SPIN) }
}

/// The same on the application's thread. Packets may come from another processor, whichever one this process is bound to.
fn on_the_application_s_thread() -> (Duration, Duration) {
    // SAFETY: no pointers involved.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    if online == 1 { Default::default() } else { (Duration::ZERO, SPIN_ALONE) }
}

/// Starts a shard on a thread of its own, in the calling thread's network namespace. `ready` gets the outcome.
pub(crate) fn spawn(
    config: ShardConfig,
    ready: oneshot::Sender<Result<ShardHandle, Error>>,
) -> io::Result<()> {
    let work = move || {
        let made = Alarm::event()
            .map_err(|error| Error::System("making an eventfd", error))
            .and_then(|alarm| Shard::new(config, alarm));
        let mut shard = match made {
            Ok(shard) => shard,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        if ready.send(Ok(shard.handle())).is_err() {
            return; // whoever wanted a stack has gone
        }
        let replies = shard.run();
        end(shard, replies);
    };
    thread::Builder::new().name("mptcp-shard".into()).spawn(work)?;
    Ok(())
}

/// Makes a shard that works while the future is polled, in the calling thread's network namespace.
///
/// # Panics
/// Outside of a tokio runtime with I/O.
pub(crate) fn drive(config: ShardConfig) -> Result<(ShardHandle, impl Future<Output = ()>), Error> {
    let system = |what| move |error| Error::System(what, error);
    let mut shard = Shard::new(config, Alarm::task())?;
    shard.budget = CACHED_BUDGET;
    let timer = Timer::new().map_err(system("making a timer"))?;
    shard.epoll.add(timer.as_fd(), KEY_TIMER).map_err(system("registering with epoll"))?;
    let epoll = shard.epoll.try_clone().map_err(system("copying a descriptor"))?;
    // SAFETY: an open descriptor that is owned, and is not replaced, for as long as it is registered.
    let woken = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }
        .map_err(|error| Error::System("registering with the runtime", error.into()))?;
    let handle = shard.handle();
    Ok((handle, async move {
        let mut shard = shard;
        let replies = shard.work(timer, &woken).await;
        end(shard, replies);
    }))
}

/// Programs are detached, sockets closed and captures written before anyone hears that it is over.
fn end(shard: Shard, replies: Replies) {
    drop(shard);
    for reply in replies {
        let _ = reply.send(());
    }
}

impl Shard {
    /// A round, when it began, and what comes after it.
    fn step(&mut self, pace: &mut Pace) -> ControlFlow<Replies, (Instant, Next)> {
        let time = now();
        self.begin(time);
        let outcome = self.round(time);
        self.pulse.end();
        outcome.map_continue(|busy| (time, pace.next(time, busy)))
    }

    /// Works until it is told to stop and everything is done. Gives the replies that are due then.
    fn run(&mut self) -> Replies {
        let mut pace = Pace::new(self.config.busy_poll, beside_the_application(), now());
        loop {
            let (time, next) = match self.step(&mut pace) {
                ControlFlow::Continue(step) => step,
                ControlFlow::Break(replies) => return replies,
            };
            match next {
                Next::Round => {}
                Next::Glance => self.wait(time, Some(Duration::ZERO)),
                Next::Spin => std::hint::spin_loop(),
                Next::Sleep => {
                    if self.mailbox.prepare_sleep() {
                        if !self.has_packets() && self.listens() {
                            let timeout = self.next_deadline().map(|due| due - time);
                            self.wait(time, timeout);
                        }
                        self.mailbox.awake();
                    }
                    pace.slept(time, now());
                }
            }
        }
    }

    /// [`run`](Self::run) as a task, which lets others have their turn after every round.
    async fn work(&mut self, mut timer: Timer, woken: &AsyncFd<OwnedFd>) -> Replies {
        let mut pace = Pace::new(self.config.busy_poll, on_the_application_s_thread(), now());
        // A look into the rings has found something, and there was no turn for others since.
        let mut found = false;
        loop {
            let (time, next) = match self.step(&mut pace) {
                ControlFlow::Continue(step) => step,
                ControlFlow::Break(replies) => return replies,
            };
            match next {
                Next::Round | Next::Spin => {
                    // Not twice in a row, whatever it is that is there and is no work.
                    found = next == Next::Spin && !found && self.linger();
                    if !found {
                        self.give_way().await;
                    }
                }
                Next::Glance => {
                    self.wait(time, Some(Duration::ZERO));
                    self.give_way().await;
                }
                Next::Sleep => {
                    if self.mailbox.prepare_sleep() {
                        if !self.has_packets() && self.listens() {
                            timer.set(self.next_deadline());
                            poll_fn(|cx| {
                                let mail = self.mailbox.poll_woken(cx);
                                let descriptors = woken.poll_read_ready(cx).map(|guard| {
                                    // An error leaves nothing to wait for but time: rounds go on.
                                    if let Ok(mut guard) = guard {
                                        guard.clear_ready();
                                    }
                                });
                                if mail.is_ready() { mail } else { descriptors }
                            })
                            .await;
                            self.wait(now(), Some(Duration::ZERO));
                        }
                        self.mailbox.awake();
                    }
                    pace.slept(time, now());
                }
            }
        }
    }

    /// Looks for work for about a microsecond; whether there is some.
    fn linger(&mut self) -> bool {
        (0..LOOKS).any(|_| {
            std::hint::spin_loop();
            self.has_packets() || self.mailbox.has_mail()
        })
    }

    /// Lets others have their turn, until all have and the runtime has looked at what it waits for, or one of them has brought
    /// something: an answer does not wait for the runtime.
    async fn give_way(&self) {
        if !self.mailbox.prepare_sleep() {
            return yield_now().await;
        }
        let mut turn = pin!(yield_now());
        poll_fn(|cx| {
            if turn.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { self.mailbox.poll_woken(cx) }
        })
        .await;
        self.mailbox.awake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    #[test]
    fn a_shard_spins_where_sleep_is_short_and_not_where_it_is_long() {
        let mut pace = Pace::new(false, (Duration::ZERO, SPIN_ALONE), at(0));
        assert_eq!(pace.next(at(10), true), Next::Round);
        assert_eq!(pace.next(at(20), false), Next::Sleep);
        pace.slept(at(20), at(60));
        assert_eq!(pace.next(at(80), false), Next::Spin);
        assert_eq!(pace.next(at(89), false), Next::Spin);
        assert_eq!(pace.next(at(90), false), Next::Sleep);
        for _ in 0..10 {
            pace.slept(at(90), at(130));
        }
        assert_eq!(pace.next(at(140), false), Next::Spin);
        assert_eq!(pace.next(at(189), false), Next::Spin);
        assert_eq!(pace.next(at(190), false), Next::Sleep);
        pace.slept(at(190), at(900));
        assert_eq!(pace.next(at(910), false), Next::Sleep);
    }

    #[test]
    fn a_shard_on_a_thread_of_its_own_always_spins_for_a_moment() {
        let mut pace = Pace::new(false, (SPIN, SPIN), at(0));
        for until in [50, 5000] {
            assert_eq!(pace.next(at(10), false), Next::Spin);
            assert_eq!(pace.next(at(29), false), Next::Spin);
            assert_eq!(pace.next(at(30), false), Next::Sleep);
            pace.slept(at(30), at(until));
        }
    }

    #[test]
    fn a_busy_shard_looks_around_every_millisecond() {
        let mut pace = Pace::new(true, (SPIN, SPIN), at(0));
        assert_eq!(pace.next(at(999), true), Next::Round);
        assert_eq!(pace.next(at(1000), true), Next::Glance);
        assert_eq!(pace.next(at(1001), true), Next::Round);
        // Busy polling never sleeps.
        assert_eq!(pace.next(at(1500), false), Next::Spin);
        assert_eq!(pace.next(at(2000), false), Next::Glance);
        assert_eq!(pace.next(at(2999), false), Next::Spin);
    }
}
