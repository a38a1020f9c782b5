//! The project's habits as commands: `cargo xtask --help` lists them.
//!
//! Everything that takes long or needs privileges happens in programs that this one builds and starts, so
//! that it is itself small and quickly built.

mod bench;
mod build;
mod citations;
mod demo;
mod ebpf;
mod host;
mod lint;
mod load;
mod run;
mod setup;
mod soak;
mod test;
mod vm;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

/// Build, demonstrate, test and measure this project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    habit: Habit,
}

#[derive(Debug, Subcommand)]
enum Habit {
    /// Find or install what building the XDP program takes (a compiler with core's source, bpf-linker), and
    /// cargo-deny
    Setup,
    /// Build the `mptcp` command, optimised
    Build,
    /// Build the XDP program and store it beside its source
    BuildEbpf(ebpf::Options),
    /// Prove that the stored XDP program is what its source builds
    CheckEbpf,
    /// Build the XDP program, attach it to interfaces, and print what it counts and logs (root; `--help` for
    /// its options)
    #[command(disable_help_flag = true)]
    Load(Rest),
    /// Send files over one connection and two links, to and from the kernel (root; `--help` for its options)
    #[command(disable_help_flag = true)]
    Demo(Rest),
    /// Run all tests; as root also those that need namespaces, and some in guests. Further words go to `cargo
    /// test`, alone
    #[command(disable_help_flag = true)]
    Test(Rest),
    /// Test in virtual machines with several NICs, on several kernels (`--help` for its options)
    #[command(disable_help_flag = true)]
    Vm(Rest),
    /// Run the engine through a million random networks; every failure is a seed to replay
    Soak(soak::Options),
    /// Measure against the kernel (root; `--help` for its options)
    #[command(disable_help_flag = true)]
    Bench(Rest),
    /// Check formatting, lints, documentation, dependencies, and what cites RFC 8684
    Lint,
    /// All that CI does: test, lint, check the stored XDP program
    Ci,
}

/// Words for the program behind the habit.
#[derive(Debug, Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

fn main() -> ExitCode {
    match habit(Arguments::parse().habit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn habit(habit: Habit) -> Result<()> {
    // `load` has an object of its own, built from the source as it is.
    if !matches!(habit, Habit::Setup | Habit::BuildEbpf(_) | Habit::CheckEbpf | Habit::Load(_))
        && let Some(warning) = ebpf::stale()
    {
        eprintln!("xtask: {warning}");
    }
    match habit {
        Habit::Setup => setup::setup().and_then(|_| setup::cargo_deny()).map(|_| ()),
        Habit::BuildEbpf(options) => ebpf::build(&options),
        Habit::CheckEbpf => ebpf::check(),
        Habit::Load(rest) => load::run(&rest.words),
        Habit::Build => build::mptcp().map(|path| println!("{}", path.display())),
        Habit::Demo(rest) => demo::run(&rest.words),
        Habit::Test(rest) => test::run(&rest.words),
        Habit::Vm(rest) => vm::run(&rest.words),
        Habit::Soak(options) => soak::run(&options),
        Habit::Bench(rest) => bench::run(&rest.words),
        Habit::Lint => lint::run_all(),
        Habit::Ci => {
            test::run(&[])?;
            lint::run_all()?;
            ebpf::check()
        }
    }
}
