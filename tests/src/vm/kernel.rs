//! The kernels that the guests boot: Debian's packages for the cloud, fetched once, unpacked, never
//! installed.
//!
//! The package lists are read with an apt configuration of our own (two small archives), so that the sources
//! of this machine do not matter and stay as they are. A package is kept with its SHA-256, which apt has
//! compared with the signed list: mirrors forget old versions, this cache does not.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A series of kernels, of which the newest version that Debian has is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Series {
    /// Its usual name.
    pub name: &'static str,
    /// Names of its packages, as a regular expression.
    packages: &'static str,
}

/// The kernels of `--kernel all`: the supported ones, and one that is too old, for its error.
pub const ALL: [Series; 5] = [
    Series { name: "6.1", packages: r"^linux-image-6\.1\.[0-9]+-[0-9]+-cloud-amd64$" },
    Series { name: "6.12", packages: r"^linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64$" },
    Series { name: "6.18", packages: r"^linux-image-6\.18\.[0-9]+\+deb13-cloud-amd64$" },
    Series { name: "7.x", packages: r"^linux-image-7\.[0-9]+\.[0-9]+\+deb[0-9]+-cloud-amd64$" },
    Series { name: "5.10", packages: r"^linux-image-5\.10\.0-[0-9]+-cloud-amd64$" },
];

/// Where the packages are: security updates of Debian 11 (5.10) and 12 (6.1 and 6.12), backports for 13 (the
/// others).
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bullseye-security main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main
";

/// A kernel, unpacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Name of its series.
    pub series: &'static str,
    /// Its `uname -r`.
    pub release: String,
    /// The compressed image.
    pub image: PathBuf,
    /// The folder above `lib/modules`, with the lists of `depmod`.
    pub root: PathBuf,
}

/// Where this project keeps what it fetched: `~/.cache/mptcp`.
pub fn cache() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("mptcp"))
}

impl Series {
    /// Whether this one can't do.
    pub fn is_too_old(self) -> bool {
        self.name == "5.10"
    }

    /// The series with this name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|series| series.name == name)
    }

    /// The kernel from the cache, or fetched into it; `update` looks for a newer version.
    pub fn kernel(self, update: bool) -> Result<Kernel> {
        let folder = cache()?.join("kernels");
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        // Several processes may want the same kernel at the same time.
        let lock = File::create(folder.join("lock"))?;
        lock.lock().context("can't lock the cache of kernels")?;
        let cached = folder.join(self.name);
        if !update && let Ok(kernel) = Kernel::read(self.name, &cached) {
            return Ok(kernel);
        }
        let apt = Apt::new(&folder.join("apt"))?;
        let package = apt.newest(self.packages)?.with_context(|| {
            format!("Debian has no kernel {} any more (looked for {})", self.name, self.packages)
        })?;
        if let Ok(kernel) = Kernel::read(self.name, &cached)
            && fs::read_to_string(cached.join("package")).is_ok_and(|text| text.starts_with(&package))
        {
            return Ok(kernel);
        }
        eprintln!("vm: fetching {package}");
        let fresh = folder.join(format!("{}.new", self.name));
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh)?;
        apt.unpack(&package, &fresh)?;
        let _ = fs::remove_dir_all(&cached);
        fs::rename(&fresh, &cached)?;
        Kernel::read(self.name, &cached)
    }
}

impl Kernel {
    fn read(series: &'static str, folder: &Path) -> Result<Self> {
        let release = only_entry(&folder.join("lib/modules"))?;
        // From Linux 7.3 on the image is beside the modules.
        let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
        let image = places.into_iter().map(|place| folder.join(place)).find(|image| image.exists());
        let image = image.filter(|_| folder.join("package").exists());
        let image = image.with_context(|| format!("{} is not complete", folder.display()))?;
        Ok(Self { series, release, image, root: folder.to_owned() })
    }
}

/// The name of the only entry of a folder.
fn only_entry(folder: &Path) -> Result<String> {
    let entries = fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    match (names.next(), names.next()) {
        (Some(name), None) => name,
        _ => bail!("{} should have one entry", folder.display()),
    }
}

/// apt with package lists of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Reads the package lists.
    fn new(folder: &Path) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let list = folder.join("sources.list");
        fs::write(&list, SOURCES)?;
        let options = [
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=-".into(),
            format!("Dir::State={}", folder.join("state").display()),
            "Dir::State::status=/dev/null".into(),
            format!("Dir::Cache={}", folder.join("cache").display()),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            // The downloads go to a folder that apt's own user may not write to.
            "APT::Sandbox::User=root".into(),
        ];
        let apt = Self { options: options.into_iter().flat_map(|option| ["-o".into(), option]).collect() };
        succeed(apt.command("apt-get").args(["update", "--quiet", "--error-on=any"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).stdin(Stdio::null());
        command
    }

    /// The package with the highest version in its name.
    fn newest(&self, packages: &str) -> Result<Option<String>> {
        let text = succeed(self.command("apt-cache").args(["search", "--names-only", packages]))?;
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        Ok(names.max_by_key(|name| numbers(name)).map(str::to_owned))
    }

    /// Downloads a kernel's package, and those with its image, its modules and their lists where they are
    /// packages of their own; unpacks them, and lists the modules.
    fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        let mut text = format!("{package}\n");
        for package in std::iter::once(package.to_owned()).chain(self.parts(package)?) {
            let place = folder.join("packages").join(&package);
            fs::create_dir_all(&place)?;
            succeed(self.command("apt-get").args(["download", "--quiet", &package]).current_dir(&place))?;
            let name = only_entry(&place)?;
            let archive = place.join(&name);
            let sum = Sha256::digest(fs::read(&archive)?).iter().fold(String::new(), |mut text, octet| {
                let _ = write!(text, "{octet:02x}");
                text
            });
            let about = self.about(&package)?;
            ensure!(
                about.contains(&sum),
                "{} has another SHA-256 than the signed list says",
                archive.display()
            );
            succeed(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(folder))?;
            let _ = writeln!(text, "{name}\nSHA-256 {sum}");
        }
        // Where /lib and /usr/lib are one, packages say the latter.
        if !folder.join("lib/modules").exists() {
            // An empty folder at most.
            let _ = fs::remove_dir(folder.join("lib"));
            std::os::unix::fs::symlink("usr/lib", folder.join("lib"))?;
        }
        let release = only_entry(&folder.join("lib/modules"))?;
        succeed(Command::new("depmod").arg("--basedir").arg(folder).arg(&release))?;
        fs::write(folder.join("package"), text)?;
        Ok(())
    }

    /// The lists' entry for a package.
    fn about(&self, package: &str) -> Result<String> {
        succeed(self.command("apt-cache").args(["show", package]))
    }

    /// Packages with parts of a kernel, from Linux 7.3 on.
    fn parts(&self, package: &str) -> Result<Vec<String>> {
        Ok(parts_of(&self.about(package)?).into_iter().map(str::to_owned).collect())
    }
}

/// The packages with parts of a kernel that its own package depends on, as `apt-cache show` tells: the image,
/// the modules and their lists. A kernel whose modules are in its own package has the lists there too; its
/// other dependencies are not needed, and mirrors drop that first.
fn parts_of(about: &str) -> Vec<&str> {
    const KINDS: [&str; 3] = ["linux-base-", "linux-binary-", "linux-modules-"];
    let needed = about.lines().filter_map(|line| line.strip_prefix("Depends: "));
    let words = needed.flat_map(|line| line.split([' ', ',']));
    let parts: Vec<&str> = words.filter(|word| KINDS.iter().any(|kind| word.starts_with(kind))).collect();
    if parts.iter().any(|part| part.starts_with("linux-modules-")) { parts } else { Vec::new() }
}

/// The numbers in a text, in their order.
pub(super) fn numbers(text: &str) -> Vec<u64> {
    text.split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The standard output of a command that succeeds.
fn succeed(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("can't run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-10-cloud-amd64"];
        assert_eq!(names.into_iter().max_by_key(|name| numbers(name)), Some(names[1]));
        let names = ["linux-image-7.9.12+deb13-cloud-amd64", "linux-image-7.10.2+deb13-cloud-amd64"];
        assert_eq!(names.into_iter().max_by_key(|name| numbers(name)), Some(names[1]));
    }

    #[test]
    fn a_kernel_in_parts_names_them() {
        let about = "Package: linux-image-7.3.4-cloud\nPre-Depends: linux-base (>= 4.17~)\n\
                     Depends: dracut | linux-initramfs-tool, linux-base-7.3.4-cloud (= 7.3.4-1), \
                     linux-binary-7.3.4-cloud (= 7.3.4-1), linux-modules-7.3.4-cloud (= 7.3.4-1)\n";
        let parts = ["linux-base-7.3.4-cloud", "linux-binary-7.3.4-cloud", "linux-modules-7.3.4-cloud"];
        assert_eq!(parts_of(about), parts);
        assert!(parts_of("Depends: kmod, linux-base (>= 4.3~), initramfs-tools\n").is_empty());
        assert!(parts_of("Depends: kmod, linux-base-6.18.15-cloud (= 6.18.15-1)\n").is_empty());
    }

    #[test]
    fn an_image_is_found_in_the_folder_of_all_images_and_beside_its_modules() {
        let folder = std::env::temp_dir().join(format!("mptcp-kernel-{}", std::process::id()));
        for (image, modules) in [("boot/vmlinuz-1.2", "lib/modules/1.2"), ("lib/modules/1.2/vmlinuz", "boot")]
        {
            fs::create_dir_all(folder.join(modules)).unwrap();
            let image = folder.join(image);
            fs::create_dir_all(image.parent().unwrap()).unwrap();
            assert!(Kernel::read("1", &folder).is_err());
            fs::write(folder.join("package"), "").unwrap();
            fs::write(&image, "").unwrap();
            let read = Kernel::read("1", &folder).map(|kernel| kernel.image);
            fs::remove_dir_all(&folder).unwrap();
            assert_eq!(read.unwrap(), image);
        }
    }

    #[test]
    fn series_are_found_by_name() {
        assert_eq!(Series::named("6.12"), Some(ALL[1]));
        assert_eq!(Series::named("4.19"), None);
    }
}
