//! Tools to build the XDP program: a compiler that comes with `core`'s source, and `bpf-linker`; and
//! `cargo-deny`, which checks the dependencies.
//!
//! Nothing is put in the way of anything else: Debian's compiler goes to `/usr` as a package, the others into
//! a cache folder of this project. A tool that is there is used; a missing one is installed, with a message.

use super::run::{has, run};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Version of `bpf-linker`.
const BPF_LINKER: &str = "0.13.0";

/// Version of `cargo-deny`.
const CARGO_DENY: &str = "0.20.2";

/// Debian's packages: a compiler newer than the release's, with `core`'s source.
const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Variables that would send a compiler astray.
const ASTRAY: [&str; 9] = [
    "CARGO",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A compiler that has `core`'s source.
pub(crate) struct Compiler {
    /// `rustc`.
    pub(crate) rustc: PathBuf,
    /// `cargo` of the same version.
    pub(crate) cargo: PathBuf,
    /// Where it is installed.
    pub(crate) sysroot: PathBuf,
    /// The tool's own version line.
    pub(crate) version: String,
    /// Major version of its LLVM.
    llvm: u32,
}

/// All that a build takes.
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// `bpf-linker`, for the compiler's LLVM.
    pub(crate) linker: PathBuf,
}

/// A command that no variable of the environment leads astray.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for variable in ASTRAY {
        command.env_remove(variable);
    }
    command
}

/// Finds or installs what building the XDP program takes.
pub(crate) fn setup() -> Result<Toolchain> {
    let compiler = match find() {
        Some(compiler) => compiler,
        None => install()?,
    };
    eprintln!("setup: {} in {}", compiler.version, compiler.sysroot.display());
    let linker = linker(&compiler)?;
    eprintln!("setup: bpf-linker {BPF_LINKER} for LLVM {} in {}", compiler.llvm, linker.display());
    Ok(Toolchain { compiler, linker })
}

/// A compiler that fits: Debian's, since the stored object is made with it, or one of rustup's.
fn find() -> Option<Compiler> {
    let debian = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    std::iter::once(debian)
        .chain(of_rustup().unwrap_or_default())
        .find_map(|(rustc, cargo)| Compiler::new(rustc, cargo))
}

/// The toolchains of rustup, nightly ones first.
fn of_rustup() -> Option<Vec<(PathBuf, PathBuf)>> {
    let home = match std::env::var_os("RUSTUP_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".rustup"),
    };
    let mut folders: Vec<PathBuf> = std::fs::read_dir(home.join("toolchains"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let is_nightly =
        |folder: &Path| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly"));
    folders.sort_by_key(|folder| (!is_nightly(folder), folder.clone()));
    Some(folders.into_iter().map(|folder| (folder.join("bin/rustc"), folder.join("bin/cargo"))).collect())
}

impl Compiler {
    /// The compiler, if it is there, is recent enough, and has `core`'s source.
    fn new(rustc: PathBuf, cargo: PathBuf) -> Option<Self> {
        let ask = |words: &[&str]| -> Option<String> {
            let output = clean(&rustc).args(words).stderr(Stdio::null()).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let about = ask(&["--version", "--verbose"])?;
        let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let minor: u32 = field("release:")?.split('.').nth(1)?.parse().ok()?;
        let llvm: u32 = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
        let source = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
        // The linker comes in forms for a few versions of LLVM; the crates need edition 2024.
        let fits = minor >= 85 && (20..=22).contains(&llvm) && source.exists() && cargo.exists();
        fits.then(|| Self {
            version: about.lines().next().unwrap_or_default().to_owned(),
            rustc,
            cargo,
            sysroot,
            llvm,
        })
    }

    /// The shared library of the compiler's LLVM.
    fn llvm_library(&self) -> Result<PathBuf> {
        let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let folders = [
            self.sysroot.join("lib"),
            PathBuf::from(multiarch),
            PathBuf::from("/usr/lib64"),
            PathBuf::from("/usr/lib"),
        ];
        let wanted = [format!("libLLVM.so.{}", self.llvm), format!("libLLVM-{}", self.llvm)];
        for folder in &folders {
            let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    wanted.iter().any(|wanted| name.starts_with(wanted.as_str())) && name.contains(".so")
                })
                .collect();
            found.sort();
            if let Some(path) = found.into_iter().next() {
                return Ok(path);
            }
        }
        bail!("the compiler in {} has no shared LLVM {} library beside it", self.sysroot.display(), self.llvm)
    }
}

/// Installs a compiler with `core`'s source.
fn install() -> Result<Compiler> {
    // SAFETY: geteuid has no preconditions and can't fail.
    let root = unsafe { libc::geteuid() } == 0;
    let remedy = "install one: `rustup toolchain install nightly --component rust-src`, or on Debian 12 as root \
                  `apt-get install rustc-web cargo-web rust-web-src`";
    if root && has("apt-get", &["--version"]) {
        eprintln!("setup: installing {} with apt-get", DEBIAN.join(" "));
        let apt = |words: &[&str]| {
            let mut command = clean("apt-get");
            command.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
            run(&mut command)
        };
        apt(&["update", "-q"])?;
        let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
        words.extend(DEBIAN);
        if apt(&words).is_ok()
            && let Some(compiler) = find()
        {
            return Ok(compiler);
        }
    }
    if has("rustup", &["--version"]) {
        eprintln!("setup: adding rust-src to a nightly toolchain with rustup");
        let words = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
        if run(clean("rustup").args(words)).is_ok()
            && let Some(compiler) = find()
        {
            return Ok(compiler);
        }
    }
    bail!("no compiler with the source of `core` is there, and none could be installed; {remedy}")
}

/// The folder of programs that are built for this project.
fn cache() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("mptcp"))
}

/// `cargo-deny`, built if it is not in the cache. Without optimisation, which it does not need: that takes
/// about a minute on two processors, and its work a few seconds.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let folder = cache()?.join(format!("cargo-deny-{CARGO_DENY}"));
    let program = folder.join("bin/cargo-deny");
    let works = || has_program(&program);
    if works() {
        return Ok(program);
    }
    eprintln!("setup: building cargo-deny {CARGO_DENY} (about a minute)");
    let mut command = clean(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", "cargo-deny", "--quiet", "--version", CARGO_DENY, "--locked", "--force", "--debug"])
        .args(["--no-default-features", "--root"])
        .arg(&folder)
        .env("CARGO_TARGET_DIR", folder.join("build"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    run(&mut command)?;
    let _ = std::fs::remove_dir_all(folder.join("build"));
    ensure!(works(), "cargo-deny was built but does not run: remove {} and try again", folder.display());
    Ok(program)
}

/// Whether a program is there and runs.
fn has_program(program: &Path) -> bool {
    let output = clean(program).arg("--version").stderr(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

/// `bpf-linker` for the compiler's LLVM, built if it is not in the cache.
fn linker(compiler: &Compiler) -> Result<PathBuf> {
    let folder = cache()?.join(format!("bpf-linker-{BPF_LINKER}-llvm-{}", compiler.llvm));
    let linker = folder.join("bin/bpf-linker");
    // The linker's search path names this folder, so the link stays; it is renewed since compilers come and
    // go.
    let library = folder.join("llvm/lib/libLLVM.so");
    std::fs::create_dir_all(folder.join("llvm/lib"))
        .with_context(|| format!("can't make {}", folder.display()))?;
    let found = compiler.llvm_library()?;
    if std::fs::read_link(&library).ok().as_deref() != Some(&found) {
        let _ = std::fs::remove_file(&library);
        std::os::unix::fs::symlink(&found, &library)
            .with_context(|| format!("can't link {}", library.display()))?;
    }
    let works = || has_program(&linker);
    if works() {
        return Ok(linker);
    }
    eprintln!("setup: building bpf-linker {BPF_LINKER} (about a minute)");
    let mut command = clean(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", "bpf-linker", "--quiet", "--version", BPF_LINKER, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{}", compiler.llvm), "--root"])
        .arg(&folder)
        .env("LLVM_PREFIX", folder.join("llvm"))
        .env("CARGO_TARGET_DIR", folder.join("build"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    run(&mut command)?;
    let _ = std::fs::remove_dir_all(folder.join("build"));
    ensure!(works(), "bpf-linker was built but does not run: remove {} and try again", folder.display());
    Ok(linker)
}
