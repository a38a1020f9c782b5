//! The two ends of a measurement: the program `bench_peer` in each of a lab's namespaces.

use super::{Contender, sibling};
use crate::lab::{Family, Lab, Side};
use crate::process::{Finished, Process};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Port of the listening end.
const PORT: u16 = 5000;
/// Longest wait for an end.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// Starts one end of a measurement: the `bench_peer` program at `peer` with these words.
pub fn start_peer(
    lab: &Lab,
    side: Side,
    peer: &Path,
    contender: Contender,
    words: &[&str],
) -> Result<Process> {
    let mut command = lab.namespace(side).command(peer);
    command.args(["--contender", contender.name()]).args(words).stdin(Stdio::piped());
    Process::start(&mut command, true)
}

/// Both ends, running.
pub(super) struct Pair {
    pub(super) listening: Process,
    pub(super) connecting: Process,
}

impl Pair {
    /// Starts the listening end in a role, and when it is ready, the connecting one in another, with these
    /// words after the address. `options` are for both; `apart`: each end stays on a processor of its own.
    pub(super) fn start(
        lab: &Lab,
        peer: &Path,
        contender: Contender,
        (options, apart): (&[&str], bool),
        (listener, listener_words): (&str, &[&str]),
        (connector, connector_words): (&str, &[&str]),
    ) -> Result<Self> {
        let local = SocketAddr::new(Family::Ipv4.any(), PORT).to_string();
        let place = |processor| if apart { vec!["--processor", processor] } else { Vec::new() };
        let words = [options, &place("1"), &[listener, &local], listener_words].concat();
        let mut listening = start_peer(lab, Side::Right, peer, contender, &words)?;
        listening.wait_for("ready", PATIENCE)?;
        let remote = Side::Right.socket(1, Family::Ipv4, PORT).to_string();
        let words = [options, &place("0"), &[connector, &remote], connector_words].concat();
        let connecting = start_peer(lab, Side::Left, peer, contender, &words)?;
        Ok(Self { listening, connecting })
    }

    /// Waits for both ends. Returns the last line of the listening end and of the connecting end.
    pub(super) fn finish(self) -> Result<(serde_json::Value, serde_json::Value)> {
        let connecting = line(self.connecting.finish(PATIENCE)?).context("the connecting end")?;
        let listening = line(self.listening.finish(PATIENCE)?).context("the listening end")?;
        Ok((listening, connecting))
    }
}

/// The output of an end.
#[allow(clippy::needless_pass_by_value)] // what is left of a program is looked at once
fn line(finished: Finished) -> Result<serde_json::Value> {
    ensure!(finished.status.success(), "{}: {}", finished.status, finished.stderr.trim());
    serde_json::from_slice(&finished.stdout).context("its line is not JSON")
}

/// Gigabits per second of super-segments that the datapath carries over one link without a protocol, which no
/// stack on it can exceed.
///
/// Without offloads the kernel cuts them before they cross the link.
pub fn ceiling(mtu: u32, offloads: bool) -> Result<f64> {
    let (mtu, mss) = (mtu.to_string(), (mtu - 52).to_string());
    let mut command = Command::new(sibling("bench_ceiling")?);
    command.args(["--json", "--mtu", &mtu, "--mss", &mss]).stdin(Stdio::null()).stderr(Stdio::inherit());
    if !offloads {
        command.arg("--no-offloads");
    }
    let output = command.output().context("can't run bench_ceiling")?;
    ensure!(output.status.success(), "bench_ceiling ended with {}", output.status);
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    outcome["gbps"].as_f64().context("bench_ceiling gave no rate")
}
