//! Builds the XDP program, stores it beside its source, and proves that what is stored is what the source
//! builds.
//!
//! The stored object holds code, maps and BTF, and no debug information. Paths are mapped away, so that it is
//! the same wherever it is built; another compiler still makes another one, so the compiler is stored with
//! it.

use super::run::{root, run, target};
use super::setup::{self, Toolchain, clean};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use object::build::elf::{Builder, SectionData};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The stored object, below the top of the source tree.
const OBJECT: &str = "mptcp-ebpf/object/mptcp.bpf.o";
/// The sources and tools of the committed object.
const PROVENANCE: &str = "mptcp-ebpf/object/provenance.txt";
/// Sources of the object: folders and files below the top.
const SOURCES: [&str; 5] = [
    "mptcp-common/Cargo.toml",
    "mptcp-common/src",
    "mptcp-ebpf/Cargo.lock",
    "mptcp-ebpf/Cargo.toml",
    "mptcp-ebpf/src",
];

/// Command line of `cargo xtask build-ebpf`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask build-ebpf                             the object that is stored and compiled into the library
  cargo xtask build-ebpf --log --output log.bpf.o    one that logs, for `cargo xtask load --object` elsewhere")]
pub(crate) struct Options {
    /// Write the object to this file; the stored one stays as it is
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Let the program log through aya-log. Such an object is never stored
    #[arg(long, requires = "output")]
    log: bool,
}

/// Builds the XDP program, and stores it unless another file is named.
pub(crate) fn build(options: &Options) -> Result<()> {
    match &options.output {
        None => store(),
        Some(path) => {
            let object = current(options.log)?;
            write(path, &object)?;
            println!("ebpf: {}, {} octets", path.display(), object.len());
            Ok(())
        }
    }
}

/// The object of the source as it is now, with or without the feature `log`.
fn current(log: bool) -> Result<Vec<u8>> {
    let toolchain = setup::setup().context(
        "the XDP program can't be built; `cargo xtask setup` installs the compiler and bpf-linker",
    )?;
    compile(&toolchain, root(), &target().join("ebpf"), if log { &["log"] } else { &[] })
}

/// Builds the object of the source as it is now for `cargo xtask load` and gives its path.
pub(crate) fn build_to_load(log: bool) -> Result<PathBuf> {
    let path = target().join("ebpf").join(if log { "mptcp-log.bpf.o" } else { "mptcp.bpf.o" });
    write(&path, &current(log)?)?;
    Ok(path)
}

/// Writes a file at once, so that another process that reads it gets all of it.
fn write(path: &Path, object: &[u8]) -> Result<()> {
    let failed = || format!("can't write {}", path.display());
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}", std::process::id()));
    std::fs::write(&part, object).with_context(failed)?;
    std::fs::rename(&part, path).with_context(failed)
}

/// Builds the XDP program and stores it.
fn store() -> Result<()> {
    let toolchain = setup::setup()?;
    let object = compile(&toolchain, root(), &target().join("ebpf"), &[])?;
    let path = root().join(OBJECT);
    std::fs::create_dir_all(path.parent().context("no folder")?)?;
    std::fs::write(&path, &object).with_context(|| format!("can't write {}", path.display()))?;
    let path = root().join(PROVENANCE);
    let text = provenance(&sources()?, &toolchain.compiler.version, &hex(&Sha256::digest(&object)));
    std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    println!("ebpf: {OBJECT}, {} octets", object.len());
    Ok(())
}

/// Proves that the stored object is what its source builds, from a copy of the source at another path.
pub(crate) fn check() -> Result<()> {
    let stored = stored()?;
    ensure!(
        stored.sources == sources()?,
        "{OBJECT} was not built from this source: run `cargo xtask build-ebpf` and commit what it makes"
    );
    let object = std::fs::read(root().join(OBJECT))?;
    ensure!(
        stored.object == hex(&Sha256::digest(&object)),
        "{OBJECT} is not the one that {PROVENANCE} describes"
    );
    let toolchain = setup::setup()?;
    let folder = target().join("ebpf-check");
    let copy = folder.join(format!("source-{}", std::process::id()));
    let built = copy_sources(&copy).and_then(|()| compile(&toolchain, &copy, &folder.join("target"), &[]));
    let _ = std::fs::remove_dir_all(&copy);
    let built = built?;
    if stored.compiler != toolchain.compiler.version {
        println!(
            "ebpf: {OBJECT} was built with {}, here is {}: the source is the same and builds, the machine code can't be compared",
            stored.compiler, toolchain.compiler.version
        );
        return Ok(());
    }
    if built != object {
        let path = folder.join("mptcp.bpf.o");
        std::fs::write(&path, &built)?;
        bail!("{OBJECT} is not what its source builds, which is in {}", path.display());
    }
    println!("ebpf: {OBJECT} is what its source builds, octet by octet");
    Ok(())
}

/// A warning, if the stored object is older than its source. Needs no toolchain.
pub(crate) fn stale() -> Option<String> {
    let stored = stored().ok()?;
    let sources = sources().ok()?;
    (stored.sources != sources).then(|| {
        format!("{OBJECT} was built from another source than this: run `cargo xtask build-ebpf` for your changes to take effect")
    })
}

/// Compiles the source below `top` with these features and gives the object without debug information.
fn compile(toolchain: &Toolchain, top: &Path, target: &Path, features: &[&str]) -> Result<Vec<u8>> {
    let compiler = &toolchain.compiler;
    // Builds with other features put their objects at the same place.
    let _locked = lock(target)?;
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // Separated by the unit separator, since paths may have spaces.
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        // Kernels before 6.3 refuse a loop whose end falls through into its head, which is how blocks get
        // placed.
        "-Clink-arg=--llvm-args=--disable-block-placement".to_owned(),
        remap(&cargo_home, "cargo"),
        remap(&compiler.sysroot.join("lib/rustlib/src/rust"), "rust"),
        remap(&std::fs::canonicalize(top)?, "mptcp"),
    ]
    .join("\u{1f}");
    run(clean(&compiler.cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
            "--features",
            &features.join(","),
        ])
        .current_dir(top.join("mptcp-ebpf"))
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags))?;
    let path = target.join("bpfel-unknown-none/release/mptcp");
    let object = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    strip(&object).with_context(|| format!("can't strip {}", path.display()))
}

/// Keeps other processes from building in this folder until it is dropped.
fn lock(target: &Path) -> Result<File> {
    let path = target.join(".built-by-xtask");
    let failed = || format!("can't lock {}", path.display());
    std::fs::create_dir_all(target).with_context(failed)?;
    let file = File::create(&path).with_context(failed)?;
    file.lock().with_context(failed)?;
    Ok(file)
}

/// Removes the sections that only debuggers read; BTF stays.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.to_vec();
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // The linker has one table for the names of symbols and sections; the builder wants two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// The content of [`PROVENANCE`].
struct Stored {
    sources: String,
    compiler: String,
    object: String,
}

fn stored() -> Result<Stored> {
    let text = std::fs::read_to_string(root().join(PROVENANCE))
        .with_context(|| format!("can't read {PROVENANCE}: run `cargo xtask build-ebpf`"))?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(str::to_owned).with_context(|| format!("{PROVENANCE} has no `{name}`"))
    };
    Ok(Stored { sources: field("sources")?, compiler: field("compiler")?, object: field("object")? })
}

fn provenance(sources: &str, compiler: &str, object: &str) -> String {
    format!(
        "Written by `cargo xtask build-ebpf`.\nsources: {sources}\ncompiler: {compiler}\nobject: {object}\n"
    )
}

/// SHA-256 over the names and contents of all that the object is built from.
fn sources() -> Result<String> {
    let mut hash = Sha256::new();
    for path in files()? {
        let contents =
            std::fs::read(root().join(&path)).with_context(|| format!("can't read {}", path.display()))?;
        let name = path.to_string_lossy().into_owned();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update((contents.len() as u64).to_be_bytes());
        hash.update(contents);
    }
    Ok(hex(&hash.finalize()))
}

/// All files of [`SOURCES`], below the top, in their order.
fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = SOURCES.iter().map(PathBuf::from).collect();
    while let Some(path) = folders.pop() {
        let full = root().join(&path);
        if !full.is_dir() {
            files.push(path);
            continue;
        }
        for entry in std::fs::read_dir(&full).with_context(|| format!("can't read {}", full.display()))? {
            folders.push(path.join(entry?.file_name()));
        }
    }
    files.sort();
    Ok(files)
}

/// Copies all that the object is built from. The workspace's manifest comes along, since `mptcp-common`
/// inherits from it; its other members are left out.
fn copy_sources(to: &Path) -> Result<()> {
    for path in files()? {
        let copy = to.join(&path);
        std::fs::create_dir_all(copy.parent().context("no folder")?)?;
        std::fs::copy(root().join(&path), &copy).with_context(|| format!("can't copy {}", path.display()))?;
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let mut alone = String::new();
    for line in manifest.lines() {
        match line.split_once(" = ") {
            Some(("members", _)) => alone.push_str("members = [\"mptcp-common\"]"),
            Some(("default-members", _)) => {}
            _ => alone.push_str(line),
        }
        alone.push('\n');
    }
    std::fs::write(to.join("Cargo.toml"), alone)?;
    Ok(())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}
