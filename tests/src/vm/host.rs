//! Programs that this machine needs to run guests, and whether its processor can execute them.

use super::guest::{Accelerator, Guest, QEMU, Spec};
use super::image::Image;
use super::kernel;
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Within this time a guest that KVM can execute is up, several times over.
const PROBE: Duration = Duration::from_secs(8);

/// Programs that it takes, with their Debian packages.
pub const NEEDED: [(&str, &str); 8] = [
    (QEMU, "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("dash", "dash"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
];

/// Debian packages that are missing.
pub fn missing() -> Vec<&'static str> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let has = |program: &str| folders.iter().any(|folder| Path::new(folder).join(program).exists());
    NEEDED.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect()
}

/// KVM where it really boots a guest, else qemu's own. (A device file says little: some machines have one
/// that boots no stock kernel.) The answer is remembered for this machine's kernel.
pub fn accelerator(image: &Image) -> Result<Accelerator> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    let memory = kernel::cache()?.join("kvm");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    if let Some((_, answer)) = fs::read_to_string(&memory)
        .ok()
        .as_deref()
        .and_then(|text| text.trim().split_once(' '))
        .filter(|known| known.0 == release)
    {
        return Ok(if answer == "boots" { Accelerator::Kvm } else { Accelerator::Tcg });
    }
    eprintln!("vm: trying whether KVM boots a guest");
    let guest = Guest::start(image, Accelerator::Kvm, Spec::new("probe"))?;
    let boots = guest.wait_until_up(Some(PROBE)).is_ok();
    fs::write(&memory, format!("{release} {}\n", if boots { "boots" } else { "boots nothing" }))?;
    Ok(if boots { Accelerator::Kvm } else { Accelerator::Tcg })
}
