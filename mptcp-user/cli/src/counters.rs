//! `mptcp counters`: the counters of all `mptcp` processes on this host, by name.

use super::args::CountersArgs;
use super::exit::ExitCode;
use super::output::{print, print_json};
use super::ss::fetch;
use anyhow::Result;
use mptcp_control::Question;
use mptcp_proto::Counter;
use serde_json::{Map, Value};
use std::fmt::Write as _;

pub(crate) async fn run(args: CountersArgs) -> Result<ExitCode> {
    let reports = fetch(args.pid, &Question::Counters).await?;
    let mut sum = sum(&reports);
    if !args.all {
        sum.retain(|_, value| value.as_u64() != Some(0));
    }
    if args.json {
        print_json(&sum)?;
    } else {
        print(&table(&sum, args.explain))?;
    }
    Ok(ExitCode::Success)
}

/// The counters of all processes together; all of them even if there is no process.
fn sum(reports: &[Value]) -> Map<String, Value> {
    let mut sum: Map<String, Value> =
        Counter::ALL.iter().map(|counter| (counter.name().to_owned(), 0.into())).collect();
    for (name, value) in reports.iter().filter_map(|report| report["counters"].as_object()).flatten() {
        let so_far = sum.get(name).and_then(Value::as_u64).unwrap_or_default();
        sum.insert(name.clone(), so_far.wrapping_add(value.as_u64().unwrap_or_default()).into());
    }
    sum
}

/// A table like that of `nstat`, in the order of the list of counters. The XDP program's counters come last.
fn table(sum: &Map<String, Value>, explain: bool) -> String {
    let known = Counter::ALL.iter().map(|counter| (counter.name(), counter.meaning()));
    let others = sum.keys().filter(|name| Counter::ALL.iter().all(|counter| counter.name() != *name));
    let rows = known.chain(others.map(|name| (&name[..], "")));
    let width = sum.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (name, meaning) in rows {
        let Some(value) = sum.get(name) else { continue };
        let meaning = if explain { meaning } else { "" };
        let line = format!("{name:<width$}  {value:<16}  {meaning}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn processes_are_added_up_and_shown_in_order() {
        let report = |joins: u64| json!({ "counters": { "MPTcpExtMPJoinSynRx": joins, "XdpJoin": 1 } });
        let mut sum = sum(&[report(2), report(3)]);
        assert_eq!(sum["MPTcpExtMPCapableSYNRX"], 0);
        sum.retain(|_, value| value.as_u64() != Some(0));
        let text = table(&sum, false);
        assert_eq!(text, "MPTcpExtMPJoinSynRx  5\nXdpJoin              2\n");
        assert!(table(&sum, true).contains("SYNs with MP_JOIN received."));
    }
}
