//! The protocol engine alone, in memory.

use super::{Effort, Row};
use mptcp_sim::{Acknowledgments, Blocks, Direct};
use std::time::Instant;

/// Octets before the measurement: windows have grown, buffers are warm.
const WARM_UP: u64 = 256 << 20;

/// Octets in flight while acknowledgments are measured, how many hostile ones come first, and how many are
/// measured.
const IN_FLIGHT: u32 = 16 << 20;
const HOSTILE: u32 = 100_000;
const MEASURED: u32 = 10_000;

/// Gigabits per second and nanoseconds per segment (super-segments and acknowledgments alike) of both ends
/// together, in one thread.
pub fn engine(effort: Effort, say: &dyn Fn(&str)) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, paths, checksum) in [
        ("one path", 1, false),
        ("two paths", 2, false),
        ("six paths", 6, false),
        ("two paths, checksum", 2, true),
    ] {
        let mut direct = Direct::new(paths, 1500, &Direct::spread(checksum));
        while direct.received < WARM_UP {
            direct.round();
        }
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            let (octets, segments, start) = (direct.received, direct.segments, Instant::now());
            while direct.received < octets + effort.bulk {
                direct.round();
            }
            let seconds = start.elapsed().as_secs_f64();
            rates.push((direct.received - octets) as f64 * 8e-9 / seconds);
            costs.push(seconds * 1e9 / (direct.segments - segments) as f64);
        }
        for (metric, unit, values) in [("", "Gb/s", rates), (", per segment", "ns", costs)] {
            let row = Row::new("engine", "ours", &format!("{name}{metric}"), unit, values);
            say(&format!("engine: {} {:.1} {unit}", row.metric, row.median));
            rows.push(row);
        }
    }
    acknowledgments(effort, say, &mut rows);
    rows
}

/// Nanoseconds that an acknowledgment costs a sender with 16 MB in flight, with what it lets out: an ordinary
/// one, and hostile ones after 100,000 of their kind.
fn acknowledgments(effort: Effort, say: &dyn Fn(&str), rows: &mut Vec<Row>) {
    for (name, hostile) in [
        ("acknowledgment of two packets", None),
        ("SACK of single octets, after 100,000", Some(Blocks::Octets)),
        ("SACK of every other packet, after 100,000", Some(Blocks::Packets)),
    ] {
        let mut flow = Acknowledgments::new(IN_FLIGHT);
        // A record for every two packets, as many as an ordinary peer can make of the flight.
        for _ in 0..IN_FLIGHT / 2000 {
            flow.ordinary();
        }
        for _ in 0..HOSTILE {
            match hostile {
                Some(blocks) => flow.hostile(blocks),
                None => flow.ordinary(),
            }
        }
        let mut costs = Vec::new();
        for _ in 0..effort.runs {
            let start = Instant::now();
            for _ in 0..MEASURED {
                match hostile {
                    Some(blocks) => flow.hostile(blocks),
                    None => flow.ordinary(),
                }
            }
            costs.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(MEASURED));
        }
        let row = Row::new("engine", "ours", name, "ns", costs);
        say(&format!("engine: {} {:.1} ns", row.metric, row.median));
        rows.push(row);
    }
}
