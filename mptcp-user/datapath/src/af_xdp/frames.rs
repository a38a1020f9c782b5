//! A UMEM that the sockets of many queues share: each has as many frames as its packets need, an idle one
//! only a few.

use super::umem::{FRAME_SIZE, Umem};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// No socket has the frame.
const NOBODY: u32 = 0;

/// The frames of a UMEM, and who has them.
#[derive(Debug)]
pub struct Frames {
    umem: Arc<Umem>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: Vec<u64>,
    /// By frame: the number of the socket that has it.
    owners: Vec<u32>,
    last_owner: u32,
    /// Sockets that have the UMEM: the kernel wants one of them named when another one joins.
    sharers: Vec<Weak<OwnedFd>>,
}

impl Frames {
    /// A UMEM of at least `frames` frames, all of them free.
    pub fn new(frames: u32) -> io::Result<Self> {
        let umem = Arc::new(Umem::new(frames)?);
        let count = umem.frames();
        let free = (0..count).rev().map(|frame| u64::from(frame) * u64::from(FRAME_SIZE)).collect();
        let owners = vec![NOBODY; count as usize];
        let state = State { free, owners, last_owner: NOBODY, sharers: Vec::new() };
        Ok(Self { umem, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames that nobody has, and all.
    pub fn count(&self) -> (usize, usize) {
        let state = self.state();
        (state.free.len(), state.owners.len())
    }

    pub(super) fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// A socket that has the UMEM, if there is one.
    pub(super) fn sharer(&self) -> Option<Arc<OwnedFd>> {
        let mut state = self.state();
        state.sharers.retain(|sharer| sharer.strong_count() > 0);
        state.sharers.iter().rev().find_map(Weak::upgrade)
    }

    pub(super) fn add_sharer(&self, socket: &Arc<OwnedFd>) {
        self.state().sharers.push(Arc::downgrade(socket));
    }
}

/// What one socket has of it. Dropping it gives everything back: the kernel must be done with the socket by
/// then.
#[derive(Debug)]
pub(super) struct Share {
    frames: Arc<Frames>,
    owner: u32,
}

impl Share {
    /// A socket's share, nothing yet.
    pub(super) fn new(frames: &Arc<Frames>) -> Self {
        let mut state = frames.state();
        state.last_owner += 1;
        let owner = state.last_owner;
        drop(state);
        Self { frames: frames.clone(), owner }
    }

    /// Takes at most `count` frames.
    pub(super) fn take(&self, count: u32, into: &mut Vec<u64>) -> u32 {
        let mut state = self.frames.state();
        let from = state.free.len().saturating_sub(count as usize);
        let taken = state.free.split_off(from);
        for addr in &taken {
            if let Some(owner) = state.owners.get_mut((addr / u64::from(FRAME_SIZE)) as usize) {
                *owner = self.owner;
            }
        }
        into.extend_from_slice(&taken);
        taken.len() as u32
    }

    /// Gives these back.
    pub(super) fn give_back(&self, addresses: impl IntoIterator<Item = u64>) {
        let mut state = self.frames.state();
        for addr in addresses {
            if let Some(owner) = state.owners.get_mut((addr / u64::from(FRAME_SIZE)) as usize)
                && *owner == self.owner
            {
                *owner = NOBODY;
                state.free.push(addr);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.frames.state();
        let State { free, owners, .. } = &mut *state;
        for (frame, owner) in (0u64..).zip(owners) {
            if *owner == self.owner {
                *owner = NOBODY;
                free.push(frame * u64::from(FRAME_SIZE));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_change_hands_and_come_back_with_the_socket() {
        let frames = Arc::new(Frames::new(512).expect("memory"));
        let (one, two) = (Share::new(&frames), Share::new(&frames));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        assert_eq!((one.take(500, &mut first), two.take(500, &mut second)), (500, 12));
        assert!(first.iter().all(|addr| !second.contains(addr)));
        two.give_back(first.drain(..10).collect::<Vec<_>>());
        assert_eq!(frames.count().0, 0, "they are not its own");
        one.give_back(first.drain(..10).collect::<Vec<_>>());
        assert_eq!((frames.count(), two.take(100, &mut second)), ((10, 512), 10));
        drop(one);
        assert_eq!(frames.count().0, 490);
        drop(two);
        assert_eq!(frames.count().0, 512);
    }
}
