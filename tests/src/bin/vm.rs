//! The tests in virtual machines, as `cargo xtask vm` starts them.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use mptcp_tests::vm::cases::{self, On};
use mptcp_tests::vm::host;
use mptcp_tests::vm::image::Programs;
use mptcp_tests::vm::kernel::{self, Series};
use mptcp_tests::vm::suite::{self, Plan, Row};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run the tests in guests with several NICs, on several kernels.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask vm", max_term_width = 110)]
struct Arguments {
    /// Kernels to test on (repeatable): 6.1, 6.12, 6.18, 7.x, 5.10 (too old) or all
    #[arg(short, long = "kernel", value_name = "SERIES", default_value = "6.12")]
    kernels: Vec<String>,
    /// Tests to run (repeatable; default: all of them)
    #[arg(short, long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// Only a short selection of the tests
    #[arg(long, conflicts_with = "tests")]
    selection: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
    /// A prompt in a lab of two guests instead of tests
    #[arg(long, conflicts_with_all = ["tests", "selection"])]
    shell: bool,
    /// Only fetch the kernels
    #[arg(long, conflicts_with_all = ["tests", "selection", "shell"])]
    fetch: bool,
    /// List the tests and end
    #[arg(long)]
    list: bool,
    /// Look for newer versions of the kernels that are in the cache
    #[arg(long)]
    update: bool,
    /// Write the results to FILE as JSON, each as soon as it is there; results of other tests in FILE stay
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table of results to FILE, between the two marks that are in it (`docs/vm.md`): with `--json`
    /// of all that is in that file, and with `--table` alone of this run
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// The programs under test; set by `cargo xtask vm`
    #[arg(long, env = "MPTCP_BIN", hide = true)]
    binary: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for case in cases::ALL {
            println!("{:<14} {}", case.name, case.what);
        }
        return Ok(());
    }
    let missing = host::missing();
    ensure!(missing.is_empty(), "these Debian packages are missing: {}", missing.join(" "));
    let beside = std::env::current_exe()?;
    let programs = Programs {
        mptcp: arguments.binary.clone(),
        agent: beside.with_file_name("vm_agent"),
        demo: beside.with_file_name("demo"),
    };
    let kernels = series(&arguments.kernels)?;
    if arguments.fetch {
        for series in kernels {
            let kernel =
                series.kernel(arguments.update).with_context(|| format!("kernel {}", series.name))?;
            println!("{:<5} {}", series.name, kernel.release);
        }
        return Ok(());
    }
    if arguments.shell {
        return suite::shell(*kernels.first().context("no kernel")?, &programs);
    }
    let mut cases = suite::named(&arguments.tests)?;
    cases.retain(|case| case.on == On::Selection || !arguments.selection);
    let plan = Plan { kernels, cases, keep_going: arguments.keep_going, update: arguments.update };
    let mut all = match &arguments.json {
        Some(path) => earlier(path)?,
        None => Vec::new(),
    };
    let mut unwritten = Ok(());
    let rows = suite::run(&plan, &programs, &mut |row| {
        println!("{}", suite::line(row));
        suite::put(&mut all, row);
        if let Some(path) = &arguments.json {
            unwritten = write(path, &all);
        }
    })?;
    unwritten?;
    if let Some(path) = &arguments.table {
        replace_table(path, &suite::markdown(&all))?;
    }
    let failed = rows.iter().filter(|row| !row.passed).count();
    if failed > 0 {
        bail!("{failed} of {} tests failed", rows.len());
    }
    println!("all {} tests passed", rows.len());
    Ok(())
}

/// The results that a file has, if there is one.
fn earlier(path: &Path) -> Result<Vec<Row>> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} has no results", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

fn series(names: &[String]) -> Result<Vec<Series>> {
    if names.iter().any(|name| name == "all") {
        return Ok(kernel::ALL.to_vec());
    }
    let known = || kernel::ALL.map(|series| series.name).join(", ");
    let find = |name: &String| {
        Series::named(name).with_context(|| format!("there is no kernel {name}; there are: {}, all", known()))
    };
    names.iter().map(find).collect()
}

/// Puts a new table between the marks.
fn replace_table(path: &Path, table: &str) -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- results -->\n", "<!-- end of results -->\n"];
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let (before, rest) =
        text.split_once(MARKS[0]).context("the file has no mark for the beginning of the table")?;
    let (_, after) = rest.split_once(MARKS[1]).context("the file has no mark for the end of the table")?;
    let text = format!("{before}{}\n{table}\n{}{after}", MARKS[0], MARKS[1]);
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}
