//! Processor time and memory that a measurement takes, the kernel's included.

use crate::process::Process;
use anyhow::{Context, Result};

/// Octets of a page.
const PAGE: u64 = 4096;
/// Units of `/proc/stat` per second (USER_HZ, which the kernel's interface fixes).
const TICKS: f64 = 100.0;

/// Processor time that all processors have spent so far on anything (interrupts included) but waiting, in
/// seconds.
pub fn processor_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("can't read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal, and two that user and nice have in them.
    let busy = ticks.iter().take(7).enumerate().filter(|(place, _)| !matches!(place, 3 | 4));
    Ok(busy.map(|(_, ticks)| *ticks as f64).sum::<f64>() / TICKS)
}

/// Processor time that this process has spent so far, the kernel's work for it included, in seconds. The
/// kernel charges interrupts to the process that they interrupt.
pub fn own_processor_seconds() -> f64 {
    // SAFETY: all zeroes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// How many descriptors a program that is started here may open: the hard limit, or with `CAP_SYS_RESOURCE`
/// the kernel's.
pub(super) fn descriptors() -> Result<u64> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").context("can't read /proc/self/status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    if (u64::from_str_radix(capabilities.trim(), 16)? >> CAP_SYS_RESOURCE) & 1 == 1 {
        return Ok(std::fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse()?);
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(std::io::Error::last_os_error()).context("can't read the limit on descriptors");
    }
    Ok(limit.rlim_max)
}

/// Memory of the given processes, and of the kernel what sockets, maps and buffers are made of, in octets.
///
/// The kernel's part is the whole machine's: it is good for differences, on a machine with nothing else to
/// do.
pub(super) fn memory(processes: &[&Process]) -> Result<u64> {
    let mut octets = 0;
    for process in processes {
        let path = format!("/proc/{}/statm", process.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
        let resident: u64 = text.split_whitespace().nth(1).context("statm has no second field")?.parse()?;
        octets += resident * PAGE;
    }
    let text = std::fs::read_to_string("/proc/meminfo").context("can't read /proc/meminfo")?;
    for name in ["SUnreclaim:", "VmallocUsed:", "Percpu:", "KernelStack:"] {
        let line = text.lines().find(|line| line.starts_with(name));
        let kib: u64 =
            line.and_then(|line| line.split_whitespace().nth(1)).context("a field is missing")?.parse()?;
        octets += kib << 10;
    }
    let text = std::fs::read_to_string("/proc/net/sockstat").context("can't read /proc/net/sockstat")?;
    let pages =
        text.lines().find(|line| line.starts_with("TCP:")).and_then(|line| line.split_whitespace().last());
    octets += pages.context("no memory of TCP")?.parse::<u64>()? * PAGE;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_and_memory_grow_with_what_is_done() {
        let (before, start) = (processor_seconds().unwrap(), std::time::Instant::now());
        while processor_seconds().unwrap() < before + 0.05 {
            assert!(start.elapsed().as_secs() < 10, "processor time stands still");
        }
        let process = Process::start(std::process::Command::new("sleep").arg("10"), false).unwrap();
        assert!(memory(&[&process]).unwrap() > memory(&[]).unwrap() / 2);
        assert!(memory(&[&process]).unwrap() > 1 << 20);
    }
}
