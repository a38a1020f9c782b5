//! Standard output and standard error that are closed, full, or pipes that nobody reads: every subcommand
//! ends as the conventions say, and what is only a log ends nothing.

use anyhow::Result;
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT};
use mptcp_tests::process::{Process, mptcp_binary};
use mptcp_tests::require_root;
use mptcp_tests::runtime::Runtime;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Kinds of standard descriptors that take no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    /// Not open at all (`>&-`).
    Closed,
    /// A device that is always full.
    Full,
    /// A pipe whose reader has gone.
    NoReader,
}

const ALL: [Broken; 3] = [Broken::Closed, Broken::Full, Broken::NoReader];

impl Broken {
    /// Makes a descriptor (1 or 2) of a command so.
    fn set(self, command: &mut Command, fd: i32) {
        let stdio: Stdio = match self {
            Broken::Closed => {
                // SAFETY: a system call between fork and exec.
                unsafe {
                    command.pre_exec(move || {
                        libc::close(fd);
                        Ok(())
                    });
                }
                return;
            }
            Broken::Full => File::options().write(true).open("/dev/full").expect("every Linux has it").into(),
            Broken::NoReader => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                drop(reader);
                OwnedFd::from(writer).into()
            }
        };
        if fd == 1 {
            command.stdout(stdio)
        } else {
            command.stderr(stdio)
        };
    }
}

fn end_of(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{child:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The end of a command and its standard error, which is read while it runs.
fn run(command: &mut Command) -> (ExitStatus, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    (end_of(child), said)
}

/// Commands that need no privileges, and their usual exit code.
const QUESTIONS: [(&[&str], i32); 16] = [
    (&["interfaces"], 0),
    (&["interfaces", "--json"], 0),
    (&["ss"], 0),
    (&["ss", "--json"], 0),
    (&["ss", "--watch"], 0),
    (&["counters", "--all"], 0),
    (&["counters", "--all", "--explain"], 0),
    (&["counters", "--all", "--json"], 0),
    (&["backup", "--json", "eth0"], 1),
    (&["--help"], 0),
    (&["listen", "--help"], 0),
    (&["lab", "-h"], 0),
    (&["--version"], 0),
    (&["connect", "--version"], 0),
    (&["nonsense"], 2),
    (&["connect", "--version", "0", "host:1"], 2),
];

fn question(runtime: &Runtime, words: &[&str]) -> Command {
    let mut command = Command::new(mptcp_binary());
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    runtime.set(&mut command);
    command
}

#[test]
fn an_answer_that_can_not_be_written_is_an_error_and_no_panic() {
    let runtime = Runtime::new("outputs-answers");
    for (words, _) in QUESTIONS.into_iter().filter(|(_, usual)| *usual != 2) {
        for broken in ALL {
            let mut command = question(&runtime, words);
            broken.set(&mut command, 1);
            let (status, said) = run(&mut command);
            let about = format!("{words:?} {broken:?}: {status}, {said}");
            assert!(!said.contains("panicked"), "{about}");
            if broken == Broken::NoReader {
                assert_eq!(status.signal(), Some(libc::SIGPIPE), "{about}");
                assert_eq!(said, "", "{about}");
            } else {
                assert_eq!(status.code(), Some(1), "{about}");
                assert!(said.contains("can't write to standard output"), "{about}");
            }
        }
    }
}

#[test]
fn where_sigpipe_is_switched_off_the_error_is_said() {
    let runtime = Runtime::new("outputs-ignored");
    let mut command = question(&runtime, &["interfaces"]);
    Broken::NoReader.set(&mut command, 1);
    // SAFETY: a system call between fork and exec; an ignored signal stays ignored.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            Ok(())
        });
    }
    let (status, said) = run(&mut command);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("Broken pipe"), "{said}");
}

#[test]
fn messages_that_can_not_be_written_change_no_exit_code() {
    let runtime = Runtime::new("outputs-messages");
    for (words, usual) in QUESTIONS.into_iter().filter(|(words, _)| !words.contains(&"--watch")) {
        for broken in ALL {
            let mut command = question(&runtime, words);
            broken.set(&mut command, 2);
            let status = end_of(command.spawn().expect("starts"));
            assert_eq!(status.code(), Some(usual), "{words:?} {broken:?}: {status}");
        }
    }
}

#[test]
fn the_version_is_that_of_the_program() {
    for words in [&["--version"][..], &["listen", "--version"]] {
        let output = Command::new(mptcp_binary()).args(words).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.starts_with("mptcp 0."), "{words:?}: {said}");
    }
    let old = ["connect", "--version", "0", "host:1"];
    let output = Command::new(mptcp_binary()).args(old).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("--mptcp-version 0"), "{said}");
}

/// Transfers a file to a listener that is started with `words` and a standard error that takes nothing; gives
/// how the listener ends after SIGINT.
fn serve_without_stderr(broken: Broken, words: &[&str]) -> Result<ExitStatus> {
    let lab = Lab::new()?;
    let port = PORT.to_string();
    // The events go to a reader who leaves.
    let events = std::env::temp_dir().join(format!("mptcp-outputs-{broken:?}-{}", std::process::id()));
    let events = events.to_str().expect("ASCII").to_owned();
    assert!(Command::new("mkfifo").arg(&events).status()?.success());
    let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&events)?;
    let mut reader = Some(reader);
    let listen = ["listen", "--keep-open", "--output", "/dev/null", "--events", &events];
    let all = [&listen[..], words, &[&port[..]]].concat();
    let mut command = ours::command(&lab, Side::Right, &all);
    broken.set(command.arg("-v"), 2);
    let listener = command.stdout(Stdio::null()).spawn()?;
    for _ in 0..3 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let finished = ours::connect(&lab, Family::Ipv4, &["--file", "/etc/passwd"])?.finish(PATIENCE)?;
            if finished.status.success() {
                reader = None;
                break;
            }
            // It may not listen yet.
            assert!(Instant::now() < deadline, "{broken:?}: {}", finished.stderr);
        }
    }
    // SAFETY: a signal to a child that was not waited for.
    unsafe { libc::kill(listener.id() as i32, libc::SIGINT) };
    let status = end_of(listener);
    assert!(reader.is_none() && lab.left_attached(Side::Right)?.is_empty(), "programs are left");
    std::fs::remove_file(&events)?;
    Ok(status)
}

#[test]
fn a_service_goes_on_when_its_log_statistics_events_or_capture_can_not_be_written() {
    require_root!();
    for broken in ALL {
        let words = ["--json", "--pcap", "/dev/full"];
        let status = serve_without_stderr(broken, &words).unwrap();
        assert_eq!(status.code(), Some(130), "{broken:?}: {status}");
    }
}

#[test]
fn a_service_goes_on_when_nobody_reads_its_log() {
    require_root!();
    let lab = Lab::new().unwrap();
    let port = PORT.to_string();
    // The log of everything is more than a pipe holds.
    let words = ["-vv", "listen", "--keep-open", "--output", "/dev/null", &port];
    let mut command = ours::command(&lab, Side::Right, &words);
    let (reader, writer) = std::io::pipe().unwrap();
    let listener =
        command.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(OwnedFd::from(writer)).spawn().unwrap();
    for _ in 0..4 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let words = ["--file", "/etc/passwd"];
            let finished = ours::connect(&lab, Family::Ipv4, &words).unwrap().finish(PATIENCE).unwrap();
            if finished.status.success() {
                break;
            }
            assert!(Instant::now() < deadline, "{}", finished.stderr);
        }
    }
    // SAFETY: a signal to a child that was not waited for.
    unsafe { libc::kill(listener.id() as i32, libc::SIGINT) };
    let status = end_of(listener);
    drop(reader);
    assert_eq!(status.code(), Some(130), "{status}");
}

#[test]
fn received_data_that_can_not_be_written_ends_by_the_conventions() {
    require_root!();
    for broken in ALL {
        let lab = Lab::new().unwrap();
        let port = PORT.to_string();
        let mut command = ours::command(&lab, Side::Right, &["listen", &port]);
        broken.set(&mut command, 1);
        let mut listener = Process::start(&mut command, false).unwrap();
        listener.wait_for("listening on", PATIENCE).unwrap();
        let client = ours::connect(&lab, Family::Ipv4, &["--file", "/dev/zero"]).unwrap();
        let finished = listener.finish(PATIENCE).unwrap();
        let about = format!("{broken:?}: {}, {}", finished.status, finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{about}");
        if broken == Broken::NoReader {
            assert_eq!(finished.status.signal(), Some(libc::SIGPIPE), "{about}");
        } else {
            assert_eq!(finished.status.code(), Some(1), "{about}");
            assert!(finished.stderr.contains("can't write what was received"), "{about}");
        }
        assert!(lab.left_attached(Side::Right).unwrap().is_empty(), "programs are left");
        let finished = client.finish(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(4), "{}", finished.stderr);
    }
}

#[test]
fn statistics_of_a_single_connection_that_can_not_be_written_are_an_error() {
    require_root!();
    for broken in ALL {
        let lab = Lab::new().unwrap();
        let listener = ours::listen(&lab, &["--output", "/dev/null"]).unwrap();
        let mut command = ours::connect_command(&lab, Family::Ipv4, &["--file", "/etc/passwd"]);
        broken.set(command.stdout(Stdio::null()), 2);
        let status = end_of(command.spawn().unwrap());
        if broken == Broken::NoReader {
            assert_eq!(status.signal(), Some(libc::SIGPIPE), "{status}");
        } else {
            assert_eq!(status.code(), Some(1), "{broken:?}: {status}");
        }
        assert!(listener.finish(PATIENCE).unwrap().status.success(), "the peer has everything");
    }
}

#[test]
fn the_emulator_s_report_that_can_not_be_written_is_an_error() {
    require_root!();
    let lab = Lab::new().unwrap();
    for (words, fd) in [(&["--json"][..], 1), (&[], 2)] {
        for broken in ALL {
            let all = [&["lab", "--seconds", "1", "left1", "left2"], words].concat();
            let mut command = lab.left.command(mptcp_binary());
            command.args(all).stdout(Stdio::null()).stderr(Stdio::null());
            broken.set(&mut command, fd);
            let status = end_of(command.spawn().unwrap());
            match broken {
                Broken::NoReader => assert_eq!(status.signal(), Some(libc::SIGPIPE), "{status}"),
                _ => assert_eq!(status.code(), Some(1), "{words:?} {broken:?}: {status}"),
            }
        }
    }
}

#[test]
fn the_report_counts_the_subflows_that_the_peer_has_accepted() {
    require_root!();
    let lab = Lab::of_family(Family::Ipv4).unwrap();
    // The kernel announces its second address, and drops joins to it: it has no way back.
    lab.prepare_kernel(Side::Right, Family::Ipv4).unwrap();
    let away = Side::Left.address(2, Family::Ipv4);
    lab.right.ip(&format!("route add blackhole {away}/32")).unwrap();
    let any = SocketAddr::new(Family::Ipv4.any(), PORT);
    let listener = kernel::listen(&lab.right, Protocol::Mptcp, any).unwrap();
    let client = ours::connect(&lab, Family::Ipv4, &["--file", "/dev/zero", "--subflow-delay", "0"]).unwrap();
    let mut stream = kernel::accept(&listener, PATIENCE).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        stream.read_exact(&mut [0; 100_000]).unwrap();
    }
    client.signal(libc::SIGINT);
    std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    drop(stream);
    let finished = client.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(130), "{}", finished.stderr);
    let subflows = finished.json().unwrap()["connection"]["subflows"].as_array().unwrap().len();
    assert!(subflows > 1, "no join was tried: {}", finished.stderr);
    let expected = format!("over 1 subflow ({} more did not come about)", subflows - 1);
    assert!(finished.stderr.contains(&expected), "{expected}: {}", finished.stderr);
}
