//! The protocol engine alone, in memory.

use super::{Effort, Row};
use mptcp_user::sim::Direct;
use std::time::Instant;

/// Octets before the measurement: windows have grown, buffers are warm.
const WARM_UP: u64 = 256 << 20;

/// Gigabits per second and nanoseconds per segment (super-segments and acknowledgments alike) of both ends together, in
/// one thread.
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
    rows
}
