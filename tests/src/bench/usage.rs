//! What a measurement takes of the machine: processor time and memory, the kernel's included.

use crate::process::Process;
use anyhow::{Context, Result};

/// Octets of a page.
const PAGE: u64 = 4096;
/// Units of `/proc/stat` per second (USER_HZ, which the kernel's interface fixes).
const TICKS: f64 = 100.0;

/// Processor time that all processors have spent so far on anything (interrupts included) but waiting, in seconds.
pub(super) fn processor_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("can't read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal, and two that user and nice have in them.
    let busy = ticks.iter().take(7).enumerate().filter(|(place, _)| !matches!(place, 3 | 4));
    Ok(busy.map(|(_, ticks)| *ticks as f64).sum::<f64>() / TICKS)
}

/// Memory of the given processes, and of the kernel what sockets, maps and buffers are made of, in octets.
///
/// The kernel's part is the whole machine's: it is good for differences, on a machine with nothing else to do.
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
