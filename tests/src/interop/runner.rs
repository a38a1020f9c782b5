//! Runs the cases of a theme.

use super::case::{Case, Theme};
use super::cases;
use super::world::World;
use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Instant;

/// Cases run at once by one theme.
const WORKERS: usize = 2;
/// Cases run at once that do nothing for minutes: all of them.
const WAITING_WORKERS: usize = 4;
/// Cases run at once by all themes. Most of a case is waiting: for processes, programs to attach, round
/// trips.
const AT_ONCE: usize = 3;

/// Places for running cases.
static PLACES: (Mutex<usize>, Condvar) = (Mutex::new(AT_ONCE), Condvar::new());

/// A place, while it lives.
struct Place;

impl Place {
    fn take() -> Self {
        let mut free = PLACES.0.lock().expect("no panic while locked");
        while *free == 0 {
            free = PLACES.1.wait(free).expect("no panic while locked");
        }
        *free -= 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *PLACES.0.lock().expect("no panic while locked") += 1;
        PLACES.1.notify_one();
    }
}

fn run_case(case: Case) -> Result<(), String> {
    let run = || -> Result<()> {
        let mut world = World::new(case)?;
        (case.row.scenario)(&mut world)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(panic) => Err(format!(
            "panicked: {}",
            panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("of something that is no text")
        )),
    }
}

/// Runs all cases of a theme, or those whose names contain `$MPTCP_INTEROP_CASE`.
///
/// # Panics
/// When a case fails; after all have run.
pub fn run(theme: Theme) {
    let wanted = std::env::var("MPTCP_INTEROP_CASE").unwrap_or_default();
    let cases: Vec<Case> =
        cases::all().filter(|case| case.row.theme == theme && case.to_string().contains(&wanted)).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let waiting = theme == Theme::Waiting;
    let workers = if waiting { WAITING_WORKERS } else { WORKERS };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let place = (!waiting).then(Place::take);
                    let start = Instant::now();
                    let outcome = run_case(case);
                    drop(place);
                    println!("{:6.2} s  {case}", start.elapsed().as_secs_f64());
                    if let Err(failure) = outcome {
                        failures.lock().expect("no panic while locked").push(format!(
                            "{case}\n  {failure}\n  replay: MPTCP_INTEROP_CASE=\"{case}\" cargo test -p mptcp-tests --test interop_kernel"
                        ));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic while locked");
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n\n")
    );
}
