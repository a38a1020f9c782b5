//! `mptcp lab`: an emulated network between two interfaces.

use super::exit::ExitCode;
use super::output::{print_error, print_json};
use super::sandbox::{Needs, Sandbox};
use super::signals::Signals;
use crate::lab::{BoxSettings, ConfigError, Lab, LabConfig, LabReport, LinkSettings, Outage, units};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Emulate a network between two Ethernet interfaces: rate, delay, loss, queues, middleboxes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A direction is a list of settings:
  rate=100mbit           the bottleneck; without it there is none
  delay=20ms             propagation delay, jitter=2ms around it (jitter-reorders: packets may overtake)
  loss=1%                random loss on the wire; burst=5: in bursts of so many packets on average
  reorder=1%             packets held back by reorder-by=10ms
  duplicate=1% corrupt=0.1%
  queue=100              packets that wait before the bottleneck (queue-octets=64kB: or octets); codel or
                         pie: managed by it, dropping or marking early
  mtu=1300               longer packets disappear without a word: a black hole for path MTU discovery

A box stands between FIRST and the link and is one of:
  strip,option=mptcp,when=syn   remove an option (drop,…: drop the segment); when=always, syn, opening-syn,
                                syn-ack, third-ack, not-syn, data, or after:5s: of a connection from then on;
                                options: mss, window-scale, sack, timestamps, mptcp, mp-capable, mp-join, dss,
                                add-addr, unknown (all that were not known in 2000)
  randomise-sequence            sack=no: leave SACK blocks alone
  rewrite-timestamps   ecn-bleach   lie-in-sack   mss-clamp,mss=1300
  split,size=500                repeat-options=no: Multipath TCP options on the first piece only
  coalesce,limit=64kB,hold=1ms  careless: merge across different options, keeping the first
  nat,external=203.0.113.1      clients are on the side of FIRST
  replace,find=abc,with=xyz     change payload of the direction way=forward (or reverse)
  shrink-window,limit=200       no window field above that; wavering: in every other segment only
  early-ack,way=forward         acknowledge data going that way in the receiver's name
  proxy                         end each connection and begin another one in its place, with the same addresses;
                                options=syn: copy Multipath TCP options of SYNs, options=pass: all of them
All but randomise-sequence, rewrite-timestamps, nat and proxy take way=forward or way=reverse: stand in one direction only.

A file for --config has the same: tables [both], [forward], [reverse] with these keys, [[box]] with kind = \"strip\"
and so on, down-at = [\"3s\"], up-at = [\"8s\"], and seed = 1.

SIGUSR1 makes it drop everything from then on, what is under way included; SIGUSR2 ends that.

Examples:
  mptcp lab veth0 veth1 --both rate=100mbit,delay=10ms --forward loss=1%
  mptcp lab eth1 eth2 --both delay=50ms,queue=200 --box strip,option=mptcp,when=syn
  mptcp lab eth1 eth2 --both rate=20mbit,pie --box nat,external=203.0.113.1 --box proxy,options=syn
  mptcp lab eth1 eth2 --box strip,option=dss,when=after:5s,way=reverse
  mptcp lab eth1 eth2 --config satellite.toml --seconds 60 --json
  mptcp lab eth1 eth2 --both rate=20mbit,delay=25ms --down-at 3s --up-at 8s

The interfaces need no addresses; everything that arrives on one is forwarded to the other. It takes CAP_NET_RAW.")]
pub(crate) struct LabArgs {
    /// The interface on the side of those who open connections
    first: String,
    /// The interface on the other side
    second: String,
    /// Settings of both directions
    #[arg(short, long, value_name = "SETTINGS", value_parser = LinkSettings::parse)]
    both: Vec<LinkSettings>,
    /// Settings of the direction from FIRST to SECOND
    #[arg(short, long, value_name = "SETTINGS", value_parser = LinkSettings::parse)]
    forward: Vec<LinkSettings>,
    /// Settings of the direction from SECOND to FIRST
    #[arg(short, long, value_name = "SETTINGS", value_parser = LinkSettings::parse)]
    reverse: Vec<LinkSettings>,
    /// A middlebox; repeat it for a chain, the one nearest to FIRST first
    #[arg(short = 'x', long = "box", value_name = "BOX", value_parser = BoxSettings::parse)]
    boxes: Vec<BoxSettings>,
    /// Drop everything from so long after the start on (repeatable), as 3s or 500ms
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    down_at: Vec<Duration>,
    /// Forward again from so long after the start on
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    up_at: Vec<Duration>,
    /// Read settings from a TOML file; flags override them
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Seed of everything random
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// End after so many seconds instead of with Ctrl-C
    #[arg(short, long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Once all is set up, give up all privileges and system calls that are not needed any more
    #[arg(long, value_enum, env = "MPTCP_SANDBOX", hide_env = true, default_value_t = Sandbox::On)]
    sandbox: Sandbox,
    /// Print what was forwarded as JSON on standard output instead of as a table
    #[arg(long)]
    json: bool,
}

impl LabArgs {
    fn config(&self) -> Result<LabConfig> {
        let mut config = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("can't read the configuration {}", path.display()))?;
                LabConfig::from_toml(&text)
                    .with_context(|| format!("can't use the configuration {}", path.display()))?
            }
            None => LabConfig::default(),
        };
        for settings in self.both.iter().chain(&self.forward) {
            settings.apply(&mut config.forward)?;
        }
        for settings in self.both.iter().chain(&self.reverse) {
            settings.apply(&mut config.reverse)?;
        }
        let boxes = self.boxes.iter().map(BoxSettings::build).collect::<Result<Vec<_>, ConfigError>>()?;
        config.boxes.extend(boxes);
        config.outages.extend(Outage::pair(&self.down_at, &self.up_at)?);
        config.seed = self.seed.unwrap_or(config.seed);
        Ok(config)
    }
}

pub(crate) async fn run(args: LabArgs) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut lab = Lab::open(&args.first, &args.second, &args.config()?)?;
    args.sandbox.enter(Needs::of_emulator());
    let stop = Arc::new(AtomicBool::new(false));
    let switch = lab.switch();
    let mut down = signal(SignalKind::user_defined1()).context("can't listen to signals")?;
    let mut up = signal(SignalKind::user_defined2()).context("can't listen to signals")?;
    let limit = args.seconds.map(Duration::from_secs);
    let mut thread = tokio::task::spawn_blocking({
        let stop = stop.clone();
        move || lab.run(&stop, limit)
    });
    tracing::info!("forwarding between {} and {}", args.first, args.second);
    let (report, code) = loop {
        tokio::select! {
            report = &mut thread => break (report, ExitCode::Success),
            code = signals.wanted() => {
                stop.store(true, Ordering::Relaxed);
                break (thread.await, code);
            }
            Some(()) = down.recv() => switch.store(true, Ordering::Relaxed),
            Some(()) = up.recv() => switch.store(false, Ordering::Relaxed),
        }
    };
    let report = report.context("the forwarding thread failed")??;
    if args.json {
        print_json(&report)?;
    } else {
        print_error(&table(&args, &report))?;
    }
    Ok(code)
}

fn table(args: &LabArgs, report: &LabReport) -> String {
    let mut text = format!("{:<32}{:>16}{:>16}\n", "", "forward", "reverse");
    let mut row = |what: &str, forward: String, reverse: String| {
        text.push_str(&format!("{what:<32}{forward:>16}{reverse:>16}\n"));
    };
    let (forward, reverse) = (&report.forward, &report.reverse);
    row("from", args.first.clone(), args.second.clone());
    let rate = |octets: u64| format!("{:.2} Mb/s", octets as f64 * 8.0 / 1e6 / report.seconds.max(1e-9));
    row("rate", rate(forward.link.delivered_octets), rate(reverse.link.delivered_octets));
    let counts: [(&str, u64, u64); 10] = [
        ("packets in", forward.link.offered, reverse.link.offered),
        ("packets out", forward.link.delivered, reverse.link.delivered),
        ("dropped, queue full", forward.link.queue_drops, reverse.link.queue_drops),
        ("dropped by the queue's manager", forward.link.managed_drops, reverse.link.managed_drops),
        ("marked by the queue's manager", forward.link.marks, reverse.link.marks),
        ("lost on the wire", forward.link.lost, reverse.link.lost),
        ("damaged", forward.link.corrupted, reverse.link.corrupted),
        ("duplicated", forward.link.duplicated, reverse.link.duplicated),
        ("missed: too fast for this host", forward.missed, reverse.missed),
        ("refused by the interface", forward.refused, reverse.refused),
    ];
    for (what, forward, reverse) in counts {
        if forward + reverse > 0 || what.starts_with("packets") {
            row(what, forward.to_string(), reverse.to_string());
        }
    }
    text.push_str(&format!(
        "{:.1} seconds; packets left {:.0} microseconds late on average, {} at most\n",
        report.seconds, report.mean_lateness_us, report.max_lateness_us
    ));
    text
}
