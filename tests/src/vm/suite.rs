//! Cases on kernels, one after the other, and the table of what came of them.

use super::cases::{self, Case, On};
use super::guest::Accelerator;
use super::host;
use super::image::{Image, Programs, Userland};
use super::kernel::{self, Series};
use super::lab::Bench;
use super::shell;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::time::Instant;

/// The tests to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// On which kernels.
    pub kernels: Vec<Series>,
    /// Which cases.
    pub cases: Vec<&'static Case>,
    /// Whether to go on after a failure.
    pub keep_going: bool,
    /// Whether to look for newer kernels.
    pub update: bool,
}

/// The outcome of a case on a kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the case.
    pub test: String,
    /// Whether all was as it should be.
    pub passed: bool,
    /// The measurement, or the fault.
    pub detail: String,
    /// With the guests' boot and end.
    pub seconds: f64,
}

/// The cases with these names; none: all.
pub fn named(names: &[String]) -> Result<Vec<&'static Case>> {
    for name in names {
        let known = || cases::ALL.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
        ensure!(
            cases::ALL.iter().any(|case| case.name == name),
            "there is no test {name}; there are: {}",
            known()
        );
    }
    Ok(cases::ALL
        .iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| name == case.name))
        .collect())
}

/// Fetches a kernel and makes the file system of its guests.
pub fn image(userland: &Userland, series: Series, update: bool) -> Result<Image> {
    let kernel = series.kernel(update).with_context(|| format!("kernel {}", series.name))?;
    userland.with(kernel)
}

/// A prompt in a lab with this kernel.
pub fn shell(series: Series, programs: &Programs) -> Result<()> {
    let image = image(&Userland::new(programs)?, series, false)?;
    let accelerator = host::accelerator(&image)?;
    shell::run(Bench { image: &image, accelerator, programs })
}

/// Runs a plan. `watch` is told of each row as soon as it is there.
pub fn run(plan: &Plan, programs: &Programs, watch: &mut dyn FnMut(&Row)) -> Result<Vec<Row>> {
    let userland = Userland::new(programs)?;
    let mut rows = Vec::new();
    let mut accelerator: Option<Accelerator> = None;
    for series in &plan.kernels {
        let cases: Vec<&Case> = plan
            .cases
            .iter()
            .copied()
            .filter(|case| (case.on == On::TooOld) == series.is_too_old())
            .collect();
        if cases.is_empty() {
            continue;
        }
        let image = image(&userland, *series, plan.update)?;
        let accelerator = match accelerator {
            Some(known) => known,
            None => *accelerator.insert(host::accelerator(&image)?),
        };
        let bench = Bench { image: &image, accelerator, programs };
        for case in cases {
            let start = Instant::now();
            let result = (case.run)(bench);
            let row = Row {
                kernel: image.kernel.release.clone(),
                test: case.name.to_owned(),
                passed: result.is_ok(),
                detail: result.unwrap_or_else(|error| format!("{error:#}")),
                seconds: start.elapsed().as_secs_f64(),
            };
            watch(&row);
            let stop = !row.passed && !plan.keep_going;
            rows.push(row);
            if stop {
                return Ok(rows);
            }
        }
    }
    Ok(rows)
}

/// Takes a row in the place of an older one of the same test on the same kernel.
pub fn put(rows: &mut Vec<Row>, row: &Row) {
    rows.retain(|old| (&old.kernel, &old.test) != (&row.kernel, &row.test));
    rows.push(row.clone());
}

/// A row on one line, for people who wait.
pub fn line(row: &Row) -> String {
    let result = if row.passed { "ok" } else { "FAILED" };
    let line =
        format!("{:<24} {:<12} {result:<7} {:>5.1} s  {}", row.kernel, row.test, row.seconds, row.detail);
    line.trim_end().to_owned()
}

/// The table of `docs/vm.md`: a row for each case, a column for each kernel, then what was measured.
pub fn markdown(rows: &[Row]) -> String {
    let mut kernels: Vec<&str> = Vec::new();
    for row in rows {
        if !kernels.contains(&row.kernel.as_str()) {
            kernels.push(&row.kernel);
        }
    }
    kernels.sort_by_key(|kernel| kernel::numbers(kernel));
    let mut text = format!("| test | {} |\n", kernels.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(kernels.len()));
    for case in cases::ALL {
        let cells: Vec<String> = kernels
            .iter()
            .map(|kernel| rows.iter().find(|row| row.test == case.name && row.kernel == *kernel))
            .map(|row| match row {
                None => "not run".into(),
                Some(row) if row.passed => {
                    let detail =
                        if row.detail.is_empty() { String::new() } else { format!(": {}", row.detail) };
                    format!("ok, {:.0} s{detail}", row.seconds)
                }
                Some(row) => format!("**failed**, {:.0} s", row.seconds),
            })
            .collect();
        if cells.iter().any(|cell| cell != "not run") {
            let _ = writeln!(text, "| `{}`: {} | {} |", case.name, case.what, cells.join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: &str, passed: bool) -> Row {
        let test = cases::ALL[0].name.to_owned();
        Row { kernel: kernel.into(), test, passed, detail: "5 Mb/s".into(), seconds: 4.4 }
    }

    #[test]
    fn the_table_has_a_column_for_each_kernel_and_shows_failures() {
        let text = markdown(&[row("6.1", true), row("7.0", false)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| test | 6.1 | 7.0 |");
        assert!(lines[2].ends_with("| ok, 4 s: 5 Mb/s | **failed**, 4 s |"), "{text}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_later_result_takes_the_place_of_an_older_one() {
        let mut rows = vec![row("6.1", false), row("7.0", true)];
        put(&mut rows, &row("6.1", true));
        assert_eq!(rows, [row("7.0", true), row("6.1", true)]);
    }

    #[test]
    fn unknown_tests_are_named() {
        assert!(named(&["no-such".into()]).unwrap_err().to_string().contains("no-such"));
        assert_eq!(named(&[]).unwrap().len(), cases::ALL.len());
    }
}
