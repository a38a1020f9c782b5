//! Arrays of the XDP program, mapped into this process: read and written without system calls.

use super::XdpError;
use mptcp_common::maps::{PortValue, SubflowKey, SubflowValue, Telemetry};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mapping of a memory-mappable array map.
struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: plain memory, accessed only through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, len: usize) -> Result<Self, XdpError> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, len }),
            _ => Err(XdpError::System { call: "mapping a BPF array", source: io::Error::last_os_error() }),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}

/// Words of a [`PortValue`], and where its fields begin.
const PORT_WORDS: usize = size_of::<PortValue>() / 4;
const USERS: usize = offset_of!(PortValue, users) / 4;
const SOLE: usize = offset_of!(PortValue, sole) / 4;
const SUBFLOW: usize = offset_of!(PortValue, subflow) / 4;
const VALUE: usize = offset_of!(PortValue, value) / 4;

/// What each local port is used for.
pub(super) struct Ports {
    mapping: Mapping,
    /// One change at a time: several shards may use a port.
    change: Mutex<()>,
}

impl Ports {
    pub(super) fn new(map: BorrowedFd<'_>) -> Result<Self, XdpError> {
        Ok(Self { mapping: Mapping::new(map, 65536 * size_of::<PortValue>())?, change: Mutex::new(()) })
    }

    fn words(&self, port: u16) -> &[AtomicU32; PORT_WORDS] {
        // SAFETY: inside the mapping, aligned to 64, and accessed by atomics only.
        unsafe { self.mapping.start.byte_add(usize::from(port) * size_of::<PortValue>()).cast().as_ref() }
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One user more: until more is said, nobody is the only one.
    pub(super) fn add(&self, port: u16) {
        let (_change, words) = (self.change(), self.words(port));
        words[SOLE].store(0, Ordering::SeqCst);
        words[USERS].fetch_add(1, Ordering::SeqCst);
    }

    /// One user less; if it was the only one, that has been forgotten before.
    pub(super) fn remove(&self, port: u16) {
        let _change = self.change();
        self.words(port)[USERS].fetch_sub(1, Ordering::SeqCst);
    }

    /// Nobody is to be taken for the only user.
    pub(super) fn forget_sole(&self, port: u16) {
        let _change = self.change();
        self.words(port)[SOLE].store(0, Ordering::SeqCst);
    }

    /// This subflow is among the users: the only one, if there are no others.
    pub(super) fn note_subflow(&self, key: &SubflowKey, value: SubflowValue) {
        let (_change, words) = (self.change(), self.words(key.local_port));
        words[SOLE].store(0, Ordering::SeqCst);
        if words[USERS].load(Ordering::SeqCst) != 1 {
            return;
        }
        // SAFETY: integers without padding, as asserted with the type.
        let key: [u32; size_of::<SubflowKey>() / 4] = unsafe { std::mem::transmute(*key) };
        for (word, part) in words[VALUE..].iter().zip([value.slot, value.shard]) {
            word.store(part, Ordering::SeqCst);
        }
        for (word, part) in words[SUBFLOW..].iter().zip(key) {
            word.store(part, Ordering::SeqCst);
        }
        words[SOLE].store(1, Ordering::SeqCst);
    }
}

/// Words of a [`Telemetry`] entry.
const WORDS: usize = size_of::<Telemetry>() / 8;

/// The telemetry array.
pub(super) struct TelemetryArray {
    mapping: Mapping,
    slots: u32,
}

impl TelemetryArray {
    pub(super) fn new(map: BorrowedFd<'_>, slots: u32) -> Result<Self, XdpError> {
        Ok(Self { mapping: Mapping::new(map, slots as usize * size_of::<Telemetry>())?, slots })
    }
    fn words(&self, slot: u32) -> Option<&[AtomicU64; WORDS]> {
        if slot >= self.slots {
            return None;
        }
        // SAFETY: inside the mapping, aligned to 64, and accessed by atomics only.
        Some(unsafe { self.mapping.start.byte_add(slot as usize * size_of::<Telemetry>()).cast().as_ref() })
    }
    pub(super) fn read(&self, slot: u32) -> Option<Telemetry> {
        let words = self.words(slot)?;
        let mut copy = [0; WORDS];
        for (copy, word) in copy.iter_mut().zip(words) {
            *copy = word.load(Ordering::Relaxed);
        }
        // SAFETY: 64 octets, any value of which is a `Telemetry`: integers without padding.
        Some(unsafe { std::mem::transmute::<[u64; WORDS], Telemetry>(copy) })
    }
    pub(super) fn clear(&self, slot: u32) {
        for word in self.words(slot).into_iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
    }
}
