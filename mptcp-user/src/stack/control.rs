//! Answers what is asked through the control socket.

use super::StackError;
use crate::mailbox::{Command, Mailbox, Status};
use mptcp_control::{ControlSocket, Question, SocketFile, SubflowEnd, directory};
use mptcp_datapath::interface::InterfaceReport;
use mptcp_datapath::xdp::CounterSnapshot;
use mptcp_proto::{SubflowInfo, SubflowSlot, SubflowState};
use serde_json::{Map, Value, json};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Connections that the shard describes at a time: packets wait no longer than that.
const CHUNK: usize = 64;

/// The task that answers, and the file of its socket; both end on drop.
pub(super) struct Control {
    task: AbortHandle,
    _file: SocketFile,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What all answers begin with.
struct Process {
    /// Inode of the network namespace.
    netns: Option<u64>,
    command: String,
    interfaces: Arc<Mutex<Vec<InterfaceReport>>>,
}

impl Process {
    fn interfaces(&self) -> Vec<InterfaceReport> {
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The network namespace of the calling thread, by its inode.
pub(super) fn namespace() -> Option<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").ok().map(|namespace| namespace.ino())
}

/// Begins to answer. A host on which that is not possible does without.
pub(super) async fn start(
    mailbox: Arc<Mailbox>,
    interfaces: Arc<Mutex<Vec<InterfaceReport>>>,
    netns: Option<u64>,
) -> Option<Control> {
    let (socket, file) = match ControlSocket::bind(&directory()).await {
        Ok(socket) => socket,
        Err(error) => {
            let directory = directory();
            tracing::warn!(
                "`mptcp ss` will not see this process, which can't listen in {}: {error}",
                directory.display()
            );
            return None;
        }
    };
    let command = std::fs::read_to_string("/proc/self/comm").unwrap_or_default().trim().to_owned();
    let process = Process { netns, command, interfaces };
    let task = tokio::spawn(async move {
        while let Ok((question, asker)) = socket.next().await {
            let answer = match question {
                Question::Report => describe(&process, &mailbox, true).await,
                Question::Counters => describe(&process, &mailbox, false).await,
                Question::SetBackup { of, backup } => set_backup(&process, &mailbox, &of, backup).await,
            };
            match answer {
                Ok(answer) => asker.answer(&answer).await,
                Err(error) => asker.answer(&json!({ "error": error.to_string() })).await,
            }
        }
    });
    Some(Control { task: task.abort_handle(), _file: file })
}

async fn ask<T>(
    mailbox: &Mailbox,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, StackError> {
    let (reply, answer) = oneshot::channel();
    mailbox.send(command(reply));
    answer.await.map_err(|_| StackError::Stopped)
}

async fn describe(process: &Process, mailbox: &Mailbox, whole: bool) -> Result<Value, StackError> {
    let status = ask(mailbox, Command::Status).await?;
    let mut report = json!({
        "pid": std::process::id(),
        "command": process.command,
        "netns": process.netns,
        "version": env!("CARGO_PKG_VERSION"),
        "interfaces": process.interfaces(),
        "listeners": status.listeners,
        "blackholes": status.blackholes,
        "counters": counters(&status),
    });
    if whole {
        let mut connections = Vec::new();
        for chunk in status.connections.chunks(CHUNK) {
            let infos = ask(mailbox, |reply| Command::Infos(chunk.to_vec(), reply)).await?;
            for (id, info) in infos {
                let mut value = serde_json::to_value(info).unwrap_or_default();
                value["id"] = json!(id.number());
                connections.push(value);
            }
        }
        report["connections"] = Value::Array(connections);
    }
    Ok(report)
}

/// Sets the priority of all subflows with this end.
async fn set_backup(
    process: &Process,
    mailbox: &Mailbox,
    of: &SubflowEnd,
    backup: bool,
) -> Result<Value, StackError> {
    let interfaces = process.interfaces();
    let meant = |subflow: &SubflowInfo| match of {
        SubflowEnd::Interface(name) => {
            interfaces.iter().any(|interface| interface.index == subflow.interface && interface.name == *name)
        }
        SubflowEnd::Address(address) => subflow.local.ip() == *address,
        SubflowEnd::Port(port) => subflow.local == *port,
    };
    let mut subflows = Vec::new();
    for chunk in ask(mailbox, Command::Status).await?.connections.chunks(CHUNK) {
        let infos = ask(mailbox, |reply| Command::Infos(chunk.to_vec(), reply)).await?;
        for (connection, info) in infos {
            for subflow in info.subflows.iter().filter(|subflow| is_open(subflow.state) && meant(subflow)) {
                let slot = SubflowSlot(subflow.slot);
                let command = |reply| Command::SetBackup { connection, subflow: slot, backup, reply };
                subflows.push(json!({
                    "connection": connection.number(),
                    "local": subflow.local,
                    "remote": subflow.remote,
                    "done": ask(mailbox, command).await?,
                }));
            }
        }
    }
    Ok(json!({ "pid": std::process::id(), "command": process.command, "subflows": subflows }))
}

/// Whether a subflow may carry data in one direction at least.
fn is_open(state: SubflowState) -> bool {
    use SubflowState::{CloseWait, Established, FinWait1, FinWait2};
    matches!(state, Established | FinWait1 | FinWait2 | CloseWait)
}

/// All counters by name: the engine's, and those of the XDP program.
fn counters(status: &Status) -> Map<String, Value> {
    let engine = status.counters.iter().map(|(counter, value)| (counter.name().to_owned(), json!(value)));
    let program = status.xdp.iter().flat_map(CounterSnapshot::iter);
    let program = program.map(|(counter, value)| (xdp_name(counter.name()), json!(value)));
    engine.chain(program).collect()
}

/// `join_refused` is `XdpJoinRefused` among the other names.
fn xdp_name(name: &str) -> String {
    let mut text = "Xdp".to_owned();
    for word in name.split('_') {
        let mut letters = word.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_program_have_names_like_the_others() {
        assert_eq!(xdp_name("join_refused"), "XdpJoinRefused");
    }
}
