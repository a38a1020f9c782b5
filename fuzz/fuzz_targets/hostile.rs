//! An engine against a peer that has the keys and lies, on a host whose links come and go: bounded work,
//! memory that is counted, and every connection ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mptcp_sim::run_hostile_script;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts the octets that are allocated.
struct Counting;

static LIVE: AtomicU64 = AtomicU64::new(0);

// SAFETY: all calls go to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: the pointer came from `alloc` above, which is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|script: &[u8]| run_hostile_script(script, &|| LIVE.load(Relaxed)));
