//! A thread that looks after a shard: whether its rounds end, and whether its interfaces have the queues that
//! they had.
//!
//! All traffic that the XDP program takes goes to the shard. If a round does not end, because of an endless
//! loop or a system call that does not return, the watchdog detaches the programs, and the kernel gets
//! everything, as when the process ends. When the round ends after all, the shard attaches again: some of its
//! connections may have survived.
//!
//! Only time inside of a round counts. A shard that sleeps, or whose task the application's runtime does not
//! poll, is in none: what an application does on its own thread is no fault of the shard's. Nor does time in
//! which the watchdog itself did not run: then the whole process was stopped, or the machine suspended.

use crate::mailbox::{Command, Mailbox};
use mptcp_datapath::ethtool::Ethtool;
use mptcp_datapath::interface::InterfaceReport;
use mptcp_datapath::xdp::XdpLinks;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the watchdog looks.
const TICK: Duration = Duration::from_millis(500);
/// Looks in a row that find the shard in the same round before it counts as hanging: five seconds. No round
/// takes a hundredth of that.
const PATIENCE: u32 = 10;
/// A look that comes so long after the one before does not count.
const LATE: Duration = Duration::from_secs(2);
/// More interfaces than this are asked for their queues less often, in turn: each question takes the kernel's
/// lock on all interfaces.
const ASKED: usize = 16;
/// Interfaces that are remembered, those that are gone included.
const MOST_SEEN: usize = 4096;

/// What the shard lets the watchdog see.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Counts beginnings and ends of rounds: odd while in a round.
    count: AtomicU64,
    /// The programs have been detached.
    detached: AtomicBool,
    /// The shard is gone.
    over: AtomicBool,
}

impl Pulse {
    /// A round begins. Whether the programs have been detached since the last one.
    #[inline]
    pub(super) fn begin(&self) -> bool {
        self.count.store(self.count.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        self.detached.load(Ordering::Relaxed) && self.detached.swap(false, Ordering::AcqRel)
    }

    /// It has ended.
    #[inline]
    pub(super) fn end(&self) {
        self.count.store((self.count.load(Ordering::Relaxed) | 1) + 1, Ordering::Relaxed);
    }
}

/// How long the same round has been seen.
#[derive(Debug, Default)]
struct Watch {
    last: u64,
    looks: u32,
}

impl Watch {
    /// `late`: the watchdog did not run when it wanted to. Whether the shard hangs; told once for each round.
    fn look(&mut self, count: u64, late: bool) -> bool {
        if count != self.last || count.is_multiple_of(2) {
            *self = Self { last: count, looks: 0 };
            return false;
        }
        if late {
            return false;
        }
        self.looks = self.looks.saturating_add(1);
        self.looks == PATIENCE
    }
}

/// The thread. It ends when this is dropped.
pub(super) struct Watchdog {
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts it, in the calling thread's network namespace.
    pub(super) fn start(
        pulse: Arc<Pulse>,
        links: XdpLinks,
        mailbox: Arc<Mailbox>,
        reports: Arc<Mutex<Vec<InterfaceReport>>>,
    ) -> io::Result<Self> {
        let watched = pulse.clone();
        let work = move || watch(&watched, &links, &mailbox, &reports);
        let thread = thread::Builder::new().name("mptcp-watchdog".into()).spawn(work)?;
        Ok(Self { pulse, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.pulse.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn watch(pulse: &Pulse, links: &XdpLinks, mailbox: &Mailbox, reports: &Mutex<Vec<InterfaceReport>>) {
    let (mut state, mut queues) = (Watch::default(), Queues::default());
    loop {
        let asleep = Instant::now();
        thread::park_timeout(TICK);
        if pulse.over.load(Ordering::Acquire) {
            return;
        }
        let late = asleep.elapsed() > LATE;
        if state.look(pulse.count.load(Ordering::Relaxed), late) {
            let interfaces = links.detach_all();
            // Told afterwards, so that a shard that comes back in this moment does not attach too early; and
            // woken, because no packet will do that.
            pulse.detached.store(true, Ordering::Release);
            mailbox.send(Command::LookAtQueues);
            tracing::error!(
                "the stack has been busy with one round of work for {} s: the XDP programs of {interfaces} interfaces are \
                 detached, and the kernel gets their traffic; connections of the stack will break",
                (TICK * PATIENCE).as_secs()
            );
        }
        if state.looks < PATIENCE && queues.have_changed(reports) {
            mailbox.send(Command::LookAtQueues);
        }
    }
}

/// How many receive queues interfaces have.
#[derive(Default)]
struct Queues {
    driver: Option<Ethtool>,
    next: usize,
    /// What was seen last, by interface.
    seen: HashMap<u32, u32>,
}

impl Queues {
    /// Whether an interface has another number of receive queues than when it was asked last.
    fn have_changed(&mut self, reports: &Mutex<Vec<InterfaceReport>>) -> bool {
        if self.driver.is_none() {
            self.driver = Ethtool::new().ok();
        }
        let Some(driver) = &self.driver else { return false };
        let known: Vec<_> = {
            let reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = reports.iter().cycle().skip(self.next).take(reports.len().min(ASKED));
            self.next = if reports.len() > ASKED { (self.next + ASKED) % reports.len() } else { 0 };
            asked.map(|report| (report.index, report.name.clone(), report.queues)).collect()
        };
        let mut changed = false;
        if self.seen.len() > MOST_SEEN {
            self.seen.clear();
        }
        for (index, name, queues) in known {
            if let Some(now) = driver.receive_queues(&name) {
                changed |= self.seen.insert(index, now).unwrap_or(queues) < now;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_round_that_does_not_end_is_a_hang() {
        let (pulse, mut watch) = (Pulse::default(), Watch::default());
        let mut look = |late| watch.look(pulse.count.load(Ordering::Relaxed), late);
        for _ in 0..100 {
            assert!(!look(false), "asleep");
        }
        for _ in 0..100 {
            assert!(!pulse.begin());
            assert!(!look(false), "each time in another round");
            pulse.end();
        }
        pulse.begin();
        for _ in 0..100 {
            assert!(!look(true), "the process was stopped");
        }
        assert!((1..PATIENCE).all(|_| !look(false)));
        assert!(look(false));
        assert!(!look(true));
        for _ in 0..100 {
            assert!(!look(false), "told once");
        }
        pulse.end();
        pulse.begin();
        assert!((0..PATIENCE).all(|_| !look(false)));
        assert!(look(false), "the next one");
    }
}
