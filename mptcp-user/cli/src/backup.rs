//! `mptcp backup`: sets the priority of subflows of running connections.

use super::args::BackupArgs;
use super::exit::{ExitCode, Failure};
use super::output::{print, print_json};
use super::ss::{fetch, list, text};
use anyhow::Result;
use mptcp_control::Question;
use serde_json::Value;

pub(crate) async fn run(args: BackupArgs) -> Result<ExitCode> {
    let question = Question::SetBackup { of: args.of.clone(), backup: !args.off };
    let answers = fetch(args.pid, &question).await?;
    if args.json {
        print_json(&answers)?;
    } else {
        let mut lines = String::new();
        let usage = if args.off { "like any other" } else { "backup" };
        for (process, subflow) in subflows(&answers).filter(|(_, subflow)| subflow["done"] == true) {
            let ends = format!("{} > {}", text(&subflow["local"]), text(&subflow["remote"]));
            let (command, pid) = (text(&process["command"]), text(&process["pid"]));
            lines.push_str(&format!("{ends} {usage} ({command} {pid})\n"));
        }
        print(&lines)?;
    }
    judge(&args, &answers)?;
    Ok(ExitCode::Success)
}

/// Subflows that were meant, each with the process that it belongs to.
fn subflows(answers: &[Value]) -> impl Iterator<Item = (&Value, &Value)> {
    answers.iter().flat_map(|answer| list(&answer["subflows"]).iter().map(move |subflow| (answer, subflow)))
}

/// Why nothing was done, or not all.
fn judge(args: &BackupArgs, answers: &[Value]) -> Result<(), Failure> {
    let fail = |what: String| Err(Failure::new(ExitCode::Host, what));
    if let Some(error) = answers.iter().find_map(|answer| answer["error"].as_str()) {
        return fail(format!("a process did not do it ({error}): it may be of another version; restart it"));
    }
    match (answers.is_empty(), args.pid) {
        (true, Some(pid)) => {
            return fail(format!("process {pid} has no connections of mptcp; `mptcp ss` shows which have"));
        }
        (true, None) => return fail("no mptcp process runs on this host; start one first".into()),
        (false, _) => {}
    }
    if subflows(answers).next().is_none() {
        let of = &args.of;
        return fail(format!("no subflow is open over or from {of}; `mptcp ss` shows those that are"));
    }
    let refused = subflows(answers).find(|(_, subflow)| subflow["done"] != true);
    match refused {
        Some((_, subflow)) => fail(format!(
            "{} has not changed: its connection is regular TCP or has just ended; `mptcp ss` tells which",
            text(&subflow["local"])
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_not_done_is_an_error_that_names_cause_and_remedy() {
        let args = |pid| BackupArgs { of: "wwan0".parse().unwrap(), off: false, json: false, pid };
        let subflow =
            |done: bool| json!({ "local": "10.0.0.1:4000", "remote": "10.0.0.2:5000", "done": done });
        let answer = |subflows: &[Value]| json!({ "pid": 7, "command": "mptcp", "subflows": subflows });
        let failed =
            |args: &BackupArgs, answers: &[Value]| judge(args, answers).map_err(|error| error.to_string());
        assert_eq!(failed(&args(None), &[answer(&[]), answer(&[subflow(true)])]), Ok(()));
        for (pid, answers, words) in [
            (None, vec![], "no mptcp process"),
            (Some(9), vec![], "process 9"),
            (None, vec![answer(&[])], "from wwan0; `mptcp ss`"),
            (None, vec![answer(&[subflow(true), subflow(false)])], "10.0.0.1:4000 has not changed"),
            (None, vec![json!({ "error": "unknown variant" })], "unknown variant"),
        ] {
            let error = failed(&args(pid), &answers).unwrap_err();
            assert!(error.contains(words), "{words} is not in: {error}");
        }
    }
}
