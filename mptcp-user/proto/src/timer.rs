//! Deadlines of all connections of an endpoint.
//!
//! Each connection has one deadline, the earliest of all its timers. Deadlines move later with nearly every
//! acknowledgment and are seldom reached, so moving one later costs nothing here: the queue keeps the early entry
//! and looks up the real deadline when that entry comes due.

use super::Instant;
use arrayvec::ArrayVec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Entries of one connection that are kept track of: its timers are of fewer different orders of magnitude.
const TRACKED: usize = 8;

/// What a connection knows of its place in the queue.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Deadline {
    /// When the connection wants to be called.
    pub(crate) wanted: Option<Instant>,
    /// The entries that the queue has for it, the latest first. Those that a shorter wait came before are of
    /// use again after it.
    queued: ArrayVec<Instant, TRACKED>,
}

/// The queue. Entries name connections by index and generation; stale ones are skipped.
#[derive(Debug, Default)]
pub(crate) struct TimerQueue {
    heap: BinaryHeap<Reverse<(Instant, u32, u32)>>,
}

impl TimerQueue {
    /// Notes that `deadline.wanted` may have changed.
    pub(crate) fn update(&mut self, index: u32, generation: u32, deadline: &mut Deadline) {
        if let Some(wanted) = deadline.wanted
            && deadline.queued.last().is_none_or(|queued| wanted < *queued)
        {
            if deadline.queued.is_full() {
                deadline.queued.remove(0);
            }
            deadline.queued.push(wanted);
            self.heap.push(Reverse((wanted, index, generation)));
        }
    }

    /// When the next entry comes due. It may turn out to be early.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Takes the next entry that is due: time, index, generation.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, u32, u32)> {
        let Reverse((at, _, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Deadline {
    /// An entry for `at` left the queue: whether the deadline has come. If not, the caller queues it again.
    pub(crate) fn came(&mut self, at: Instant, now: Instant) -> bool {
        if self.queued.last() == Some(&at) {
            self.queued.pop();
        }
        self.wanted.is_some_and(|wanted| wanted <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn short_waits_before_a_long_one_leave_nothing_behind() {
        let (mut queue, mut deadline) = (TimerQueue::default(), Deadline::default());
        let mut now = Instant::ZERO;
        for _ in 0..10_000 {
            // A keep-alive in two hours; before that a delayed acknowledgment, and a rest.
            for wait in [7_200_000, 100, 40] {
                deadline.wanted = Some(now + Duration::from_millis(wait));
                queue.update(0, 0, &mut deadline);
            }
            deadline.wanted = Some(now + Duration::from_secs(7200));
            now += Duration::from_millis(500);
            while let Some((entry, ..)) = queue.pop(now) {
                assert!(!deadline.came(entry, now));
                queue.update(0, 0, &mut deadline);
            }
            assert!(queue.heap.len() <= 3, "{}", queue.heap.len());
        }
        let last = deadline.wanted.expect("wanted");
        let mut came = false;
        while let Some((entry, ..)) = queue.pop(last) {
            came |= deadline.came(entry, last);
        }
        assert!(came);
    }

    #[test]
    fn a_deadline_moved_later_fires_once_and_on_time() {
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let (mut queue, mut deadline) = (TimerQueue::default(), Deadline::default());
        for millis in 10..20 {
            deadline.wanted = Some(at(millis));
            queue.update(0, 0, &mut deadline);
        }
        assert_eq!(queue.heap.len(), 1);
        let (entry, ..) = queue.pop(at(15)).unwrap();
        assert!(!deadline.came(entry, at(15)));
        queue.update(0, 0, &mut deadline);
        assert_eq!(queue.next(), Some(at(19)));
        assert!(queue.pop(at(18)).is_none());
        let (entry, ..) = queue.pop(at(19)).unwrap();
        assert!(deadline.came(entry, at(19)));
        deadline.wanted = Some(at(30));
        queue.update(0, 0, &mut deadline);
        deadline.wanted = Some(at(25));
        queue.update(0, 0, &mut deadline);
        assert_eq!(queue.next(), Some(at(25)));
    }
}
