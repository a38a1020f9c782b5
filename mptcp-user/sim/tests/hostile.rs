//! A peer that has the keys and lies, and a host whose links come and go: random scripts, and all that
//! fuzzers found.
//!
//! ```text
//! MPTCP_HOSTILE_SEED=17 cargo test -p mptcp-sim --test hostile
//! ```
//!
//! replays one seed; `MPTCP_HOSTILE_SEEDS=100000` runs that many, `MPTCP_HOSTILE_FIRST=…` begins at another
//! one. This test counts what is allocated, so it has a program of its own.

use mptcp_sim::{Random, run_hostile_script};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the octets that each thread has allocated and not freed. Segments never change threads here.
struct Counting;

thread_local! {
    static LIVE: Cell<u64> = const { Cell::new(0) };
}

fn add(octets: u64) {
    // A thread that ends frees its memory after its locals are gone, when the count no longer matters.
    let _ = LIVE.try_with(|live| live.set(live.get().wrapping_add(octets)));
}

// SAFETY: all calls go to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as u64);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add((layout.size() as u64).wrapping_neg());
        // SAFETY: the pointer came from `alloc` above, which is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> u64 {
    LIVE.with(Cell::get)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The script of a seed. Decisions that send segments are twice as likely as those that end something.
fn script(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let len = random.between_log(10, 4000);
    let octet = |_| {
        let most = if random.chance(0.5) { 255 } else { 127 };
        random.between(0, most) as u8
    };
    (0..len).map(octet).collect()
}

#[test]
fn no_script_of_a_hostile_peer_finds_anything() {
    if let Some(seed) = number("MPTCP_HOSTILE_SEED") {
        run_hostile_script(&script(seed), &live);
        return;
    }
    let (first, count) =
        (number("MPTCP_HOSTILE_FIRST").unwrap_or(0), number("MPTCP_HOSTILE_SEEDS").unwrap_or(2000));
    let next = AtomicU64::new(first);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.lock().unwrap().len() >= 5 {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| run_hostile_script(&script(seed), &live))).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let replays: Vec<_> = failed
        .iter()
        .map(|seed| format!("MPTCP_HOSTILE_SEED={seed} cargo test -p mptcp-sim --test hostile"))
        .collect();
    assert!(failed.is_empty(), "{} of {count} seeds failed:\n{}", failed.len(), replays.join("\n"));
}

/// All that fuzzers found worth keeping.
#[test]
fn the_corpus_runs_without_a_finding() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/hostile");
    let files = std::fs::read_dir(&corpus).expect("the corpus is in the repository");
    let mut failed = Vec::new();
    for file in files {
        let file = file.expect("the corpus can be read").path();
        let script = std::fs::read(&file).expect("the corpus can be read");
        if catch_unwind(AssertUnwindSafe(|| run_hostile_script(&script, &live))).is_err() {
            failed.push(file);
        }
    }
    assert!(failed.is_empty(), "these fail: {failed:#?}");
}
