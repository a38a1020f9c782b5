//! Committed tables of what the simulator measures: the work on several threads, and the comparison with what
//! was committed. Lines that begin with `#` are explanations, the next one is the heading, and the rest rows:
//! a few words that name them, then figures.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Does the work for all conditions; gives the results in their order.
pub(crate) fn measure<C: Sync, R: Send>(conditions: &[C], work: impl Fn(&C) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let place = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(condition) = conditions.get(place)
                {
                    let result = work(condition);
                    results.lock().unwrap().push((place, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Names (of so many words) and figures of the rows.
pub(crate) fn rows(table: &str, words: usize) -> Vec<(String, Vec<f64>)> {
    let rows = table.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|line| {
        let cells: Vec<_> = line.split_whitespace().collect();
        (
            cells[..words].join(" "),
            cells[words..].iter().map(|cell| cell.parse().unwrap_or(f64::NAN)).collect(),
        )
    })
    .collect()
}

/// Compares with the committed table: a figure that differs by more than a tenth and `slack` fails. With
/// `MPTCP_UPDATE=1` the table is written anew instead.
pub(crate) fn compare(file: &str, now: &str, words: usize, slack: f64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    if std::env::var_os("MPTCP_UPDATE").is_some() {
        std::fs::write(&path, now).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let (was, is) = (rows(&committed, words), rows(now, words));
    assert_eq!(was.len(), is.len(), "the table has other rows: {now}");
    let mut changed = Vec::new();
    for ((name, was), (same, is)) in was.iter().zip(&is) {
        assert_eq!((name, was.len()), (same, is.len()), "the table has other rows: {now}");
        for (column, (was, is)) in was.iter().zip(is).enumerate() {
            let differs = (was - is).abs() > was.abs() * 0.1 + slack;
            if differs || was.is_nan() != is.is_nan() {
                changed.push(format!("{name}, figure {}: {was} before, {is} now", column + 1));
            }
        }
    }
    assert!(
        changed.is_empty(),
        "{file} changed; if that is meant, run the test with MPTCP_UPDATE=1:\n{}\n{now}",
        changed.join("\n")
    );
}
