//! The control socket: how one process asks the others on its host what their stacks are doing.
//!
//! Each stack listens on a Unix socket of its own in a directory that only its user (root, usually) can
//! enter. A request is one line of JSON, such as `{"ask":"report"}`; the answer is one JSON document, and the
//! end of the stream. The only setting that a request can change is which subflows are backups.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Where the sockets are, unless the environment variable [`DIRECTORY_VARIABLE`] says otherwise.
pub const DIRECTORY: &str = "/run/mptcp";
/// Names another directory.
pub const DIRECTORY_VARIABLE: &str = "MPTCP_RUNTIME_DIR";
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest request.
const MAX_REQUEST: u64 = 1024;
/// Longest answer that is read.
const MAX_ANSWER: u64 = 256 << 20;
/// Stacks of one process.
const MAX_STACKS: u32 = 1000;

/// A question to a stack.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Question {
    /// Everything: interfaces, listeners, connections with their subflows, counters.
    Report,
    /// The same without the connections.
    Counters,
    /// Use subflows only while no others work, or again like any other, and ask their peers to do so, too
    /// (MP_PRIO). The answer says which subflows that were, and whether it was done.
    SetBackup {
        /// Which subflows.
        of: SubflowEnd,
        /// Only while no others work.
        backup: bool,
    },
}

/// A name for subflows by their end on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubflowEnd {
    /// All subflows over the interface of this name.
    Interface(String),
    /// All from this address of ours.
    Address(IpAddr),
    /// The one from this address and port of ours, or those where a listener has several.
    Port(SocketAddr),
}

impl FromStr for SubflowEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(port) = text.parse() {
            Ok(Self::Port(port))
        } else if let Ok(address) = unbracketed.parse() {
            Ok(Self::Address(address))
        } else if text.is_empty() || text.len() > 15 || text.contains(['/', ':', ' ', '*']) {
            Err("neither an interface, nor ADDRESS, ADDRESS:PORT or [IPV6]:PORT".into())
        } else {
            Ok(Self::Interface(text.into()))
        }
    }
}

impl fmt::Display for SubflowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
            Self::Port(port) => port.fmt(f),
        }
    }
}

/// The directory of the sockets.
pub fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY_VARIABLE).map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

/// Makes the directory, or makes sure that it belongs to this user and to nobody else.
fn prepare(directory: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(directory)?;
    // SAFETY: geteuid has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    if !found.is_dir() || found.uid() != own || found.mode() & 0o077 != 0 {
        let what = unusable(directory).unwrap_or_else(|| {
            format!(
                "{} belongs to another user: let {DIRECTORY_VARIABLE} name a directory of your own",
                directory.display()
            )
        });
        return Err(io::Error::new(ErrorKind::PermissionDenied, what));
    }
    Ok(())
}

/// Why the mode of a directory keeps processes from listening there, or their user from asking them, with the
/// remedy.
pub fn unusable(directory: &Path) -> Option<String> {
    // Not there: no process has made it.
    let found = std::fs::symlink_metadata(directory).ok()?;
    let (name, mode) = (directory.display(), found.mode() & 0o777);
    if !found.is_dir() {
        return Some(format!("{name} is no directory, so no mptcp process can be seen: remove it"));
    }
    if mode & 0o077 != 0 {
        return Some(format!(
            "the mode of {name} is {mode:04o}, so mptcp processes do not use it: only its owner may enter. `chmod 700 {name}`, then start them anew"
        ));
    }
    // SAFETY: geteuid has no preconditions and cannot fail.
    let own = found.uid() == unsafe { libc::geteuid() };
    (own && mode != 0o700).then(|| {
        format!("the mode of {name} is {mode:04o}, which keeps out its owner, too: `chmod 700 {name}`")
    })
}

/// The sockets in a directory, with the process ids that their names tell.
fn sockets(directory: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pid = name.strip_suffix(".sock").and_then(|name| name.split('-').next()?.parse().ok());
        found.extend(pid.map(|pid| (pid, path)));
    }
    found.sort();
    Ok(found)
}

/// Removes what processes that were killed have left.
async fn remove_stale(directory: &Path) {
    for (_, path) in sockets(directory).unwrap_or_default() {
        // The owner of a socket that refuses is gone. A live owner keeps its file.
        let outcome = timeout(PATIENCE, UnixStream::connect(&path)).await;
        if matches!(outcome, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The file of a socket, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A socket that answers.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
}

impl ControlSocket {
    /// Listens in the directory, `PID.sock` or, for further stacks of this process, `PID-N.sock`. The file is
    /// separate, so that it can be removed by who ends the stack and not by a task that ends some time later.
    ///
    /// # Errors
    /// The directory can't be made or is not this user's alone.
    pub async fn bind(directory: &Path) -> io::Result<(Self, SocketFile)> {
        prepare(directory)?;
        remove_stale(directory).await;
        for number in 0..MAX_STACKS {
            let pid = std::process::id();
            let suffix = if number == 0 { String::new() } else { format!("-{number}") };
            let path = directory.join(format!("{pid}{suffix}.sock"));
            match UnixListener::bind(&path) {
                Ok(listener) => {
                    let file = SocketFile(path);
                    std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o600))?;
                    return Ok((Self { listener }, file));
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("too many stacks in one process"))
    }

    /// The next question of somebody who may ask, and where the answer goes.
    pub async fn next(&self) -> io::Result<(Question, Asker)> {
        loop {
            let (mut stream, _) = self.listener.accept().await?;
            // SAFETY: geteuid has no preconditions and cannot fail.
            let own = unsafe { libc::geteuid() };
            if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own) {
                continue;
            }
            let mut line = String::new();
            let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
            if !matches!(timeout(PATIENCE, reader.read_line(&mut line)).await, Ok(Ok(1..))) {
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(question) => return Ok((question, Asker(stream))),
                Err(error) => {
                    let answer = serde_json::json!({ "error": error.to_string() });
                    Asker(stream).answer(&answer).await;
                }
            }
        }
    }
}

/// Somebody who waits for an answer.
#[derive(Debug)]
pub struct Asker(UnixStream);

impl Asker {
    /// Answers. A client that no longer listens does not hold up the stack.
    pub async fn answer(mut self, answer: &Value) {
        let text = answer.to_string();
        let _ = timeout(PATIENCE, self.0.write_all(text.as_bytes())).await;
        let _ = timeout(PATIENCE, self.0.shutdown()).await;
    }
}

/// Asks all stacks on this host, or those of one process. Stacks that end meanwhile are left out.
///
/// # Errors
/// The directory can't be read: [`ErrorKind::PermissionDenied`] for those it does not belong to. No directory
/// at all means that there is no stack.
pub async fn ask_all(directory: &Path, pid: Option<u32>, question: &Question) -> io::Result<Vec<Value>> {
    let found = match sockets(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let mut answers = Vec::new();
    for (owner, path) in found {
        if pid.is_some_and(|pid| pid != owner) {
            continue;
        }
        match timeout(PATIENCE, ask(&path, question)).await {
            Ok(Ok(answer)) => answers.push(answer),
            Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => return Err(error),
            Ok(Err(error)) => tracing::debug!("no answer from {}: {error}", path.display()),
            Err(_) => tracing::warn!("no answer from process {owner} in time"),
        }
    }
    Ok(answers)
}

async fn ask(path: &Path, question: &Question) -> io::Result<Value> {
    let mut stream = UnixStream::connect(path).await?;
    let mut line = serde_json::to_string(question)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut text = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is removed on drop.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mptcp-control-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn questions_are_answered_and_nothing_is_left() {
        let directory = Directory::new("answers");
        assert!(ask_all(&directory.0, None, &Question::Report).await.unwrap().is_empty());
        let sockets: Vec<_> = [
            ControlSocket::bind(&directory.0).await.unwrap(),
            ControlSocket::bind(&directory.0).await.unwrap(),
        ]
        .into();
        for (path, mode) in [(directory.0.as_path(), 0o700), (&sockets[0].1.0, 0o600)] {
            assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        let serving = sockets.into_iter().map(|(socket, file)| {
            tokio::spawn(async move {
                let _file = file;
                let (question, asker) = socket.next().await.unwrap();
                asker.answer(&serde_json::json!({ "asked": format!("{question:?}") })).await;
            })
        });
        let serving: Vec<_> = serving.collect();
        // Nonsense is answered with an error and disturbs nobody.
        let mut nonsense =
            UnixStream::connect(directory.0.join(format!("{}.sock", std::process::id()))).await.unwrap();
        nonsense.write_all(b"what?\n").await.unwrap();
        let mut answer = String::new();
        nonsense.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("error"), "{answer}");
        let answers = ask_all(&directory.0, Some(std::process::id()), &Question::Counters).await.unwrap();
        assert_eq!(answers, vec![serde_json::json!({ "asked": "Counters" }); 2]);
        for task in serving {
            task.await.unwrap();
        }
        assert_eq!(std::fs::read_dir(&directory.0).unwrap().count(), 0, "the sockets are removed");
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_removed_by_the_next_one() {
        let directory = Directory::new("stale");
        prepare(&directory.0).unwrap();
        let stale = directory.0.join("1.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        let _socket = ControlSocket::bind(&directory.0).await.unwrap();
        assert!(!stale.exists());
    }

    #[tokio::test]
    async fn a_directory_that_others_can_enter_is_not_used() {
        let directory = Directory::new("open");
        std::fs::create_dir(&directory.0).unwrap();
        std::fs::set_permissions(&directory.0, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = ControlSocket::bind(&directory.0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("0755") && error.to_string().contains("chmod 700"), "{error}");
        std::fs::set_permissions(&directory.0, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(unusable(&directory.0).unwrap().contains("0600"));
        std::fs::set_permissions(&directory.0, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(unusable(&directory.0), None);
        assert!(unusable(Path::new("/dev/null")).unwrap().contains("is no directory"));
        assert_eq!(unusable(Path::new("/nonexistent")), None);
    }

    #[test]
    fn an_end_is_an_interface_an_address_or_an_address_and_port() {
        let port = |text: &str| SubflowEnd::Port(text.parse().unwrap());
        let address = |text: &str| SubflowEnd::Address(text.parse().unwrap());
        for (text, end) in [
            ("wwan0", SubflowEnd::Interface("wwan0".into())),
            ("192.0.2.1", address("192.0.2.1")),
            ("2001:db8::1", address("2001:db8::1")),
            ("[2001:db8::1]", address("2001:db8::1")),
            ("192.0.2.1:5000", port("192.0.2.1:5000")),
            ("[2001:db8::1]:5000", port("[2001:db8::1]:5000")),
        ] {
            assert_eq!(text.parse(), Ok(end), "{text}");
        }
        for wrong in ["", "wl*", "192.0.2.1:", "192.0.2.1:99999", "a/b", "sixteen-letters-"] {
            assert!(wrong.parse::<SubflowEnd>().is_err(), "{wrong}");
        }
        let question = Question::SetBackup { of: "wwan0".parse().unwrap(), backup: true };
        let line = r#"{"ask":"set-backup","of":{"interface":"wwan0"},"backup":true}"#;
        assert_eq!(serde_json::to_string(&question).unwrap(), line);
        assert_eq!(serde_json::from_str::<Question>(line).unwrap(), question);
    }
}
