//! `cargo xtask lint`.

use super::citations;
use super::run::{cargo, has, run};
use anyhow::Result;

pub(crate) fn run_all() -> Result<()> {
    citations::check()?;
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    run(cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    if has("cargo-deny", &["--version"]) {
        run(&mut cargo(&["deny", "check"]))?;
    } else {
        eprintln!("xtask: cargo-deny is not installed: licences and advisories were not checked");
    }
    Ok(())
}
