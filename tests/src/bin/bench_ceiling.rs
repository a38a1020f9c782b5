//! How fast the datapath is without an engine: super-segments from a packet socket to AF_XDP over one veth
//! link.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use mptcp_datapath::xdp::XdpMode;
use mptcp_tests::lab::{Family, Lab};
use mptcp_tests::raw::{Sender, Sink, segment};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Mode {
    Generic,
    Native,
}

/// Measures the datapath without an engine. Makes two namespaces and a veth link, and removes them.
#[derive(Parser)]
struct Args {
    /// How to attach the XDP program.
    #[arg(long, value_enum, default_value = "generic")]
    mode: Mode,
    /// Seconds to measure.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Octets of payload per super-segment.
    #[arg(long, default_value_t = 64_000)]
    payload: usize,
    /// Octets of payload per packet.
    #[arg(long, default_value_t = 1448)]
    mss: u16,
    /// MTU of the link.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Switch the link's offloads off.
    #[arg(long)]
    no_offloads: bool,
    /// Use IPv6.
    #[arg(long)]
    ipv6: bool,
    /// Leave the payload where it is, instead of copying it out as the stack does.
    #[arg(long)]
    no_copy: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Outcome {
    mode: String,
    family: Family,
    payload: usize,
    mtu: u32,
    copied: bool,
    seconds: f64,
    gbps: f64,
    packets_per_second: f64,
    sent_segments: u64,
    received_packets: u64,
    receiver_dropped: u64,
    sender_stalls: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(mptcp_tests::is_root(), "this makes network namespaces and needs root");
    ensure!((0.1..=60.0).contains(&args.seconds), "between 0.1 and 60 seconds");
    let lab = Lab::with_links(1)?;
    lab.set_mtu(args.mtu)?;
    if args.no_offloads {
        lab.without_offloads()?;
    }
    let mode = match args.mode {
        Mode::Generic => XdpMode::Generic,
        Mode::Native => XdpMode::Native,
    };
    let family = if args.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    let mut sink = Sink::new(&lab, mode)?;
    let mut sender = Sender::new(&lab)?;
    let stop = AtomicBool::new(false);
    let payload = Bytes::from(vec![0x5a; args.payload]);
    let (mut packets, mut octets) = (0u64, 0u64);
    let mut elapsed = Duration::ZERO;
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            let mut seq = 0u32;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..16 {
                    if sender.push(segment(family, seq, payload.clone(), args.mss)).is_err() {
                        return;
                    }
                    seq = seq.wrapping_add(args.payload as u32);
                }
                sender.flush(Duration::from_millis(100));
            }
        });
        let started = Instant::now();
        let limit = Duration::from_secs_f64(args.seconds);
        while started.elapsed() < limit {
            let receiver = &mut sink.receiver;
            let got = sink.socket.receive(64, |packet| {
                let len: usize = packet.buffers.iter().map(|buffer| buffer.len()).sum();
                octets += len as u64;
                if !args.no_copy {
                    let _ = receiver.segment(packet.buffers);
                }
            });
            packets += got as u64;
            if got == 0 {
                std::hint::spin_loop();
            }
        }
        elapsed = started.elapsed();
        stop.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    if packets == 0 {
        bail!("nothing arrived; counters: {:?}", sink.program.maps().counters()?.iter().collect::<Vec<_>>());
    }
    let dropped = sink.socket.statistics();
    let outcome = Outcome {
        mode: mode.as_str().into(),
        family,
        payload: args.payload,
        mtu: args.mtu,
        copied: !args.no_copy,
        seconds: elapsed.as_secs_f64(),
        gbps: octets as f64 * 8.0 / elapsed.as_secs_f64() / 1e9,
        packets_per_second: packets as f64 / elapsed.as_secs_f64(),
        sent_segments: sender.counters().segments,
        received_packets: packets,
        receiver_dropped: dropped.dropped + dropped.ring_full + dropped.no_frame,
        sender_stalls: sender.counters().stalls,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        println!(
            "{} {} {} octets: {:.1} Gb/s, {:.0} packets/s, {} dropped at the receiver, {} stalls of the sender",
            outcome.mode,
            family,
            args.payload,
            outcome.gbps,
            outcome.packets_per_second,
            outcome.receiver_dropped,
            outcome.sender_stalls
        );
    }
    Ok(())
}
