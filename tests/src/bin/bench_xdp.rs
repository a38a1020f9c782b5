//! The cost of the XDP program: nanoseconds per packet for each verdict, measured by the kernel
//! (`BPF_PROG_TEST_RUN`), and its size. Needs root, and no interface.

use anyhow::{Result, ensure};
use clap::Parser;
use mptcp_common::counter::Counter;
use mptcp_proto::SubflowSlot;
use mptcp_tests::bench::Row;
use mptcp_tests::xdp::{Frame, TOKEN, XdpLab, addr, subflows};
use std::net::SocketAddr;

/// Measures the XDP program.
#[derive(Parser)]
struct Args {
    /// Fewer runs.
    #[arg(long)]
    quick: bool,
    /// Print an array of rows as JSON.
    #[arg(long)]
    json: bool,
}

/// One of the lab's subflows, with a local port that nothing else uses.
fn sole(number: usize) -> (SocketAddr, SocketAddr, u32) {
    let (local, remote, shard) = subflows()[number];
    (SocketAddr::new(local.ip(), 9000 + number as u16), remote, shard)
}

/// Packets of one kind, and what counts them.
fn cases() -> Vec<(&'static str, Vec<u8>, Counter)> {
    let peer = addr("203.0.113.9:50000");
    let (local, remote, _) = subflows()[0];
    let sole = |number: usize| {
        let (local, remote, _) = sole(number);
        Frame { src: remote, dst: local, ..Frame::data(number, 1400) }.build()
    };
    let plain = Frame { options: Vec::new(), ..Frame::new(remote, local) };
    let mut arp = vec![0xff; 12];
    arp.extend([8, 6]);
    arp.resize(60, 0);
    vec![
        ("only subflow of its port, IPv4, timestamps and DSS", sole(0), Counter::Subflow),
        ("only subflow of its port, IPv6, timestamps and DSS", sole(1), Counter::Subflow),
        ("subflow, IPv4, timestamps and DSS", Frame::data(0, 1400).build(), Counter::Subflow),
        ("subflow, IPv6, timestamps and DSS", Frame::data(1, 1400).build(), Counter::Subflow),
        ("subflow, IPv4, no options", plain.build(), Counter::Subflow),
        ("SYN for a listener", Frame::syn(peer, addr("192.0.2.1:80")).build(), Counter::ListenerSyn),
        ("MP_JOIN, our token", Frame::join(peer, addr("192.0.2.1:80"), TOKEN).build(), Counter::Join),
        ("MP_JOIN, unknown token", Frame::join(peer, addr("192.0.2.1:80"), 1).build(), Counter::JoinRefused),
        ("passed: TCP, port not ours", Frame::new(peer, addr("192.0.2.1:22")).build(), Counter::ForeignPort),
        ("passed: TCP, our port, not ours", Frame::new(peer, addr("192.0.2.9:80")).build(), Counter::Foreign),
        ("passed: UDP", Frame { protocol: 17, ..Frame::data(0, 1400) }.build(), Counter::NotTcp),
        ("passed: neither IPv4 nor IPv6", arp, Counter::NotIp),
    ]
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(mptcp_tests::is_root(), "measuring the XDP program needs root");
    let (runs, repeat) = if args.quick { (5, 100_000) } else { (15, 1_000_000) };
    let mut lab = XdpLab::new(u32::MAX)?;
    for number in 0..2 {
        let (local, remote, shard) = sole(number);
        lab.maps.insert_subflow(local, remote, SubflowSlot(100 + number as u32), shard)?;
    }
    let mut rows = Vec::new();
    let mut values = vec![Vec::new(); cases().len()];
    // Interleaved, so that a slow moment of the machine touches all of them.
    for _ in 0..runs {
        for ((name, packet, counter), values) in cases().iter().zip(&mut values) {
            let (_, counted) = lab.run(packet, packet.len())?;
            ensure!(counted == *counter, "{name} counts as {counted:?}");
            if *counter == Counter::JoinRefused {
                // The answer takes the packet's place, so it can't be repeated by the kernel. Measured one at
                // a time, this includes what it costs to start the clock.
                let mut each = Vec::new();
                for _ in 0..1000 {
                    each.push(lab.program.test_run(packet, packet.len(), 1)?.duration.as_nanos() as f64);
                }
                each.sort_unstable_by(f64::total_cmp);
                values.push(each[each.len() / 2]);
            } else {
                values.push(lab.program.test_run(packet, packet.len(), repeat)?.duration.as_nanos() as f64);
            }
        }
    }
    for ((name, _, _), values) in cases().iter().zip(values) {
        rows.push(Row::new("xdp", "ours", name, "ns", values));
    }
    let size = lab.program.size()?;
    for (name, value, unit) in [
        ("machine code", f64::from(size.machine_code), "octets"),
        ("eBPF instructions", f64::from(size.instructions), ""),
        ("instructions verified", f64::from(size.verified), ""),
    ] {
        rows.push(Row::new("xdp", "ours", name, unit, vec![value]));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for row in &rows {
        println!(
            "{:<36} {:>9.0} {:<6} (min {:.0}, max {:.0}, {} runs)",
            row.metric, row.median, row.unit, row.min, row.max, row.runs
        );
    }
    Ok(())
}
