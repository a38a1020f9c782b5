//! `cargo xtask lint`.

use super::run::{cargo, root, run, target};
use super::{citations, setup};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// Manifests with a lock file of their own.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "fuzz/Cargo.toml", "mptcp-ebpf/Cargo.toml"];

/// Crates that only a driver of the engine may use.
const DRIVERS: [&str; 8] = ["aya", "getrandom", "libc", "mio", "netlink-sys", "nix", "rustix", "tokio"];

/// Forbidden dependencies of the workspace's crates, also through another crate.
const LAYERS: [(&str, &[&str]); 5] = [
    ("mptcp-proto", &DRIVERS),
    ("mptcp-sim", &DRIVERS),
    ("mptcp-control", &["aya", "clap", "mptcp-datapath", "mptcp-proto", "mptcp-sim"]),
    ("mptcp-datapath", &["clap", "mptcp-control", "mptcp-sim", "mptcp-user", "serde_json", "tokio"]),
    ("mptcp-user", &["anyhow", "clap", "indicatif", "mptcp-cli", "tracing-subscriber"]),
];

pub(crate) fn run_all() -> Result<()> {
    citations::check()?;
    locks()?;
    layers()?;
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    run(cargo(&["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    fuzz_targets()?;
    dependencies()
}

/// Every lock file is what its manifest asks for.
fn locks() -> Result<()> {
    for manifest in MANIFESTS {
        let words = ["metadata", "--locked", "--format-version", "1", "--manifest-path", manifest];
        run(cargo(&words).stdout(Stdio::null())).with_context(|| {
            format!(
                "the lock file of {manifest} is not current: run `cargo metadata --manifest-path {manifest} > /dev/null` and commit it"
            )
        })?;
    }
    Ok(())
}

/// Dependencies point one way. The engine reaches no socket, clock or interface through its dependencies;
/// `clippy.toml` beside it keeps it from those of the standard library.
fn layers() -> Result<()> {
    for (package, forbidden) in LAYERS {
        let words = ["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none"];
        let output = cargo(&words).output().context("can't run cargo tree")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout)?;
        ensure!(tree.starts_with(&format!("{package} ")), "cargo tree said: {tree}");
        for line in tree.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            ensure!(
                !forbidden.contains(&name),
                "{package} depends on {name}, which belongs to a layer above it. `cargo tree -p {package} -i {name}` shows why"
            );
        }
    }
    Ok(())
}

/// The fuzz targets compile. Nothing is linked, so neither nightly nor a C++ compiler for libFuzzer is
/// needed.
fn fuzz_targets() -> Result<()> {
    let words = ["check", "--quiet", "--locked", "--manifest-path", "fuzz/Cargo.toml"];
    run(cargo(&words)
        .env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libfuzzer.a")
        .env("CARGO_TARGET_DIR", target().join("fuzz-check")))
}

/// Licences, bans and sources of all dependencies. Not advisories: their database is not on every network.
fn dependencies() -> Result<()> {
    let program = setup::cargo_deny().context("the dependencies were not checked")?;
    for manifest in MANIFESTS {
        let mut command = Command::new(&program);
        command.args(["--manifest-path", manifest, "--locked", "--config", "deny.toml", "check"]);
        command.args(["--hide-inclusion-graph", "licenses", "bans", "sources"]).current_dir(root());
        run(&mut command)?;
    }
    Ok(())
}
