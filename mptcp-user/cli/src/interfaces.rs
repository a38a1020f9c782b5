//! `mptcp interfaces`: which interfaces can be used, how, and why the others can't.

use super::args::InterfacesArgs;
use super::exit::ExitCode;
use super::output::{print, print_json};
use anyhow::{Context, Result};
use mptcp_user::stack::{InterfaceReport, Stack};
use std::fmt::Write as _;

pub(crate) fn run(args: &InterfacesArgs) -> Result<ExitCode> {
    let reports = Stack::probe_interfaces().context("can't list the interfaces of this host")?;
    if args.json {
        print_json(&reports)?;
    } else {
        print(&table(&reports))?;
    }
    Ok(ExitCode::Success)
}

/// A table for people: one row per interface, one line per address.
fn table(reports: &[InterfaceReport]) -> String {
    let head = ["INTERFACE", "USABLE", "MTU", "QUEUES", "DRIVER", "ADDRESSES", "WHY"];
    let mut rows = vec![head.map(str::to_owned)];
    for report in reports {
        let usable = match (&report.mode, report.usable) {
            (Some(mode), true) => mode.clone(),
            (None, true) => "yes".into(),
            (_, false) => "no".into(),
        };
        let mut addresses = report.addresses.iter().map(ToString::to_string);
        rows.push([
            report.name.clone(),
            usable,
            report.mtu.to_string(),
            report.queues.to_string(),
            report.driver.clone().unwrap_or_else(|| "-".into()),
            addresses.next().unwrap_or_else(|| "-".into()),
            report.reason.clone(),
        ]);
        rows.extend(addresses.map(|address| {
            let mut row = [const { String::new() }; 7];
            row[5] = address;
            row
        }));
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_per_address_and_says_why() {
        let report = |name: &str, usable, addresses: &[&str], reason: &str| InterfaceReport {
            name: name.into(),
            index: 1,
            usable,
            mode: usable.then(|| "generic".into()),
            reason: reason.into(),
            driver: Some("veth".into()),
            mtu: 1500,
            queues: 1,
            super_segments: true,
            addresses: addresses.iter().map(|address| address.parse().expect("valid")).collect(),
            up: true,
        };
        let text = table(&[
            report(
                "veth0",
                true,
                &["10.0.0.1", "fd00::1"],
                "veth keeps super-segments whole in generic mode",
            ),
            report("dummy0", false, &[], "no address"),
        ]);
        assert_eq!(
            text,
            "INTERFACE  USABLE   MTU   QUEUES  DRIVER  ADDRESSES  WHY\n\
             veth0      generic  1500  1       veth    10.0.0.1   veth keeps super-segments whole in generic mode\n\
             \u{20}                                         fd00::1\n\
             dummy0     no       1500  1       veth    -          no address\n"
        );
    }
}
