//! Privileges: those that the command needs to begin with, gives up after set-up, and still works without.

use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::netns::{End, link};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_fails};
use mptcp_tests::process::{Finished, Process, for_anyone, mptcp_binary};
use mptcp_tests::require_root;
use mptcp_tests::runtime::Runtime;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An ordinary user, who owns nothing.
const ANYONE: u32 = 65534;
/// CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK by their bits.
const KEPT: u64 = 1 << 12 | 1 << 13 | 1 << 14;

/// A field of a thread's status in /proc.
fn field(status: &str, name: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

/// The status of each thread of a process.
fn threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    // One that has ended meanwhile has nothing to hide.
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok()).collect()
}

fn capabilities(status: &str, set: &str) -> u64 {
    u64::from_str_radix(&field(status, set), 16).expect("hexadecimal")
}

/// Every thread has these capabilities at most, no groups, no way to new privileges, and a filter.
fn assert_sandboxed(pid: u32, kept: u64) {
    let all = threads(pid);
    assert!(all.len() >= 3, "{all:?}");
    for status in all {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
            // Root's alone can be made smaller; without new programs and privileges there is nothing to get
            // from it.
            if set == "CapBnd" && !field(&status, "Uid").starts_with('0') {
                continue;
            }
            assert_eq!(capabilities(&status, set) & !kept, 0, "{set} of\n{status}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
        assert_eq!(field(&status, "Seccomp"), "2", "{status}");
        assert_eq!(field(&status, "Groups"), "", "{status}");
    }
}

fn transfer(lab: &Lab, family: Family) -> Finished {
    ours::connect(lab, family, &["--file", "/etc/passwd"]).unwrap().finish(PATIENCE).unwrap()
}

#[test]
fn after_set_up_no_thread_has_more_than_is_needed_later() {
    require_root!();
    let lab = Lab::new().unwrap();
    let listener = ours::listen(&lab, &["--keep-open", "--output", "/dev/null"]).unwrap();
    assert_sandboxed(listener.id(), KEPT);
    // Threads that come with connections, too.
    assert!(transfer(&lab, Family::Ipv4).status.success());
    assert_sandboxed(listener.id(), KEPT);
    listener.signal(libc::SIGINT);
    assert_fails(&lab, Side::Right, &listener.finish(PATIENCE).unwrap(), 130, &[]);

    // Ports below 1024, which may be reserved anew for each connection, take one more.
    let low = ours::listen(&lab, &["--keep-open", "--announce-port", "900"]).unwrap();
    assert_sandboxed(low.id(), KEPT | 1 << 10);
    let with_it = threads(low.id()).iter().all(|status| capabilities(status, "CapPrm") >> 10 & 1 == 1);
    assert!(with_it, "CAP_NET_BIND_SERVICE is gone");
    low.signal(libc::SIGINT);
    assert_fails(&lab, Side::Right, &low.finish(PATIENCE).unwrap(), 130, &[]);
}

#[test]
fn the_emulator_has_no_capability_at_all_and_goes_on() {
    require_root!();
    let lab = Lab::new().unwrap();
    let words = ["lab", "left1", "left2", "--down-at", "10ms", "--up-at", "20ms"];
    let mut emulator = Process::start(&mut ours::command(&lab, Side::Left, &words), true).unwrap();
    emulator.wait_for("forwarding between", PATIENCE).unwrap();
    assert_sandboxed(emulator.id(), 0);
    emulator.signal(libc::SIGUSR1);
    emulator.signal(libc::SIGUSR2);
    std::thread::sleep(Duration::from_millis(200));
    assert!(emulator.is_running(), "{}", emulator.stderr());
    emulator.signal(libc::SIGINT);
    let finished = emulator.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(130), "{}", finished.stderr);
}

#[test]
fn an_interface_that_comes_later_is_used_without_the_capabilities_of_set_up() {
    require_root!();
    let lab = Lab::new().unwrap();
    let listener = ours::listen(&lab, &["--keep-open", "--output", "/dev/null"]).unwrap();
    assert_sandboxed(listener.id(), KEPT);
    let (left, right) = (Side::Left.interface(3), Side::Right.interface(3));
    let ends = [
        End { namespace: &lab.left, interface: &left, addresses: &["10.77.3.1/24", "fd77:3::1/64"] },
        End { namespace: &lab.right, interface: &right, addresses: &["10.77.3.2/24", "fd77:3::2/64"] },
    ];
    link(&ends[0], &ends[1]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !lab.right.has_xdp(&right).unwrap() {
        assert!(Instant::now() < deadline, "never attached: {}", listener.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    // An address that comes later still, and packets over it.
    lab.right.add_address(&right, "10.77.3.9/24").unwrap();
    for target in ["10.77.3.2:5000", "[fd77:3::2]:5000", "10.77.3.9:5000"] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let words = ["connect", "-i", &left, "--file", "/etc/passwd", target];
            let finished = ours::run(&lab, Side::Left, &words).unwrap();
            if finished.status.success() {
                break;
            }
            assert!(Instant::now() < deadline, "{target}: {}\n{}", finished.stderr, listener.stderr());
        }
    }
    // And one that goes.
    lab.right.delete_interface(&right).unwrap();
    assert!(transfer(&lab, Family::Ipv6).status.success());
    listener.signal(libc::SIGINT);
    assert_fails(&lab, Side::Right, &listener.finish(PATIENCE).unwrap(), 130, &[]);
}

/// A directory that only this user can enter. Removed on drop.
struct Private(PathBuf);

impl Private {
    fn new(name: &str, user: u32) -> Self {
        let path = std::env::temp_dir().join(format!("mptcp-{name}-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        chown(&path, Some(user), Some(user)).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let owner =
            std::fs::metadata(&self.0).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Files in another user's directory, which root may enter only as long as it has its capabilities.
#[test]
fn files_captures_events_and_the_control_socket_go_on_working() {
    require_root!();
    let lab = Lab::new().unwrap();
    let runtime = Runtime::new("privileges-files");
    let folder = Private::new("privileges-files-of-anyone", ANYONE);
    let (page, output) = (folder.file("page", "a page\n"), folder.file("output", ""));
    let (pcap, events) = (folder.file("pcap", ""), folder.file("events", ""));
    let port = PORT.to_string();
    let words = ["listen", "-k", "--file", &page, "--output", &output, "--pcap", &pcap, "--events", &events];
    let mut command = ours::command(&lab, Side::Right, &[&words[..], &[&port]].concat());
    let mut listener = Process::start(runtime.set(&mut command), true).unwrap();
    listener.wait_for("listening on", PATIENCE).unwrap();
    let question = folder.file("question", "a question\n");
    for _ in 0..3 {
        let finished =
            ours::connect(&lab, Family::Ipv4, &["--file", &question]).unwrap().finish(PATIENCE).unwrap();
        assert!(finished.status.success(), "{}\n{}", finished.stderr, listener.stderr());
        assert_eq!(
            String::from_utf8_lossy(&finished.stdout),
            "a page\n",
            "each gets the file from its begin"
        );
    }
    let reports = runtime.json(&["ss", "--json"]);
    assert_eq!(reports[0]["pid"], listener.id());
    assert!(runtime.run(&["counters", "--json"]).status.success());
    listener.signal(libc::SIGINT);
    assert_fails(&lab, Side::Right, &listener.finish(PATIENCE).unwrap(), 130, &[]);
    assert_eq!(runtime.sockets(), 0, "the control socket's file is left");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "a question\n".repeat(3));
    assert!(std::fs::metadata(&pcap).unwrap().len() > 1000);
    let log = std::fs::read_to_string(&events).unwrap();
    assert!(log.lines().filter(|line| line.contains("\"closed\"")).count() >= 3, "{log}");
}

/// `mptcp` in a namespace as an ordinary user with these capabilities, or none if the host has no setpriv.
fn with_capabilities(lab: &Lab, side: Side, capabilities: &str, words: &[&str]) -> Option<Command> {
    if !Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_ok_and(|ok| ok.success()) {
        eprintln!("SKIPPED: setpriv (Debian package util-linux) is not there");
        return None;
    }
    let list: Vec<String> = capabilities.split(',').map(|name| format!("+{name}")).collect();
    let list = list.join(",");
    let user = ANYONE.to_string();
    let mut command = lab.namespace(side).command("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs"]);
    command.args(["--inh-caps", &list, "--ambient-caps", &list, "--bounding-set", &format!("-all,{list}")]);
    command.arg(for_anyone(mptcp_binary()).unwrap()).arg("-v").args(words);
    Some(command)
}

/// The documented minimum.
const MINIMUM: &str = "net_admin,net_raw,bpf,perfmon,ipc_lock";

#[test]
fn an_ordinary_user_with_the_documented_capabilities_can_do_it_all() {
    require_root!();
    let lab = Lab::new().unwrap();
    let folder = Private::new("privileges-ordinary", ANYONE);
    let port = PORT.to_string();
    let output = folder.file("output", "");
    let words = ["listen", "--keep-open", "--output", &output, &port];
    let Some(mut command) = with_capabilities(&lab, Side::Right, MINIMUM, &words) else { return };
    let mut listener = Process::start(command.env("MPTCP_RUNTIME_DIR", &folder.0), true).unwrap();
    listener.wait_for("listening on", PATIENCE).unwrap();
    assert_sandboxed(listener.id(), KEPT);
    let target = Side::Right.socket(1, Family::Ipv6, PORT).to_string();
    let words = ["connect", "--file", "/etc/passwd", &target];
    let mut command = with_capabilities(&lab, Side::Left, MINIMUM, &words).unwrap();
    let finished = Process::start(command.env("MPTCP_RUNTIME_DIR", &folder.0), true).unwrap();
    let finished = finished.finish(PATIENCE).unwrap();
    assert!(finished.status.success(), "{}\n{}", finished.stderr, listener.stderr());
    listener.signal(libc::SIGINT);
    assert_fails(&lab, Side::Right, &listener.finish(PATIENCE).unwrap(), 130, &[]);
    assert_eq!(std::fs::read(&output).unwrap(), std::fs::read("/etc/passwd").unwrap());
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "the control socket's file is left");
}

#[test]
fn each_capability_that_is_missing_is_named_with_those_that_it_takes() {
    require_root!();
    let lab = Lab::new().unwrap();
    let all: Vec<&str> = MINIMUM.split(',').collect();
    for missing in &all {
        let rest: Vec<&str> = all.iter().copied().filter(|name| name != missing).collect();
        let Some(mut command) = with_capabilities(&lab, Side::Right, &rest.join(","), &["listen", "5000"])
        else {
            return;
        };
        if *missing == "ipc_lock" {
            // Without it the limit on locked memory counts.
            // SAFETY: a system call between fork and exec.
            unsafe {
                std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                    let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
                    libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
                    Ok(())
                });
            }
        }
        let finished = Process::start(&mut command, true).unwrap().finish(PATIENCE).unwrap();
        let name = format!("CAP_{}", missing.to_uppercase());
        assert_fails(&lab, Side::Right, &finished, 1, &[&name]);
        if *missing == "ipc_lock" {
            assert!(finished.stderr.contains("LimitMEMLOCK"), "{}", finished.stderr);
        } else {
            // One round of advice is enough: the next run asks for nothing else.
            for name in &all {
                assert!(finished.stderr.contains(&format!("cap_{name}")), "{}", finished.stderr);
            }
        }
    }
}

#[test]
fn an_empty_list_of_processes_says_so_when_a_directory_s_mode_is_the_reason() {
    let runtime = Runtime::new("privileges-mode");
    let directory = std::env::temp_dir().join(format!("mptcp-privileges-mode-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o755).create(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    for words in [&["ss"][..], &["ss", "--json"], &["counters"]] {
        let finished = runtime.run(words);
        assert!(finished.status.success(), "{}", finished.stderr);
        for word in ["0755", "chmod 700", directory.to_str().unwrap()] {
            assert!(finished.stderr.contains(word), "{word} is not in {}", finished.stderr);
        }
    }
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(runtime.run(&["ss"]).stderr, "");
    require_root!();
    // Another user's.
    let program = for_anyone(mptcp_binary()).unwrap();
    let lab = Lab::new().unwrap();
    let mut command = lab.left.command_as(&program, Some(ANYONE));
    let finished = Process::start(runtime.set(command.arg("ss")), true).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("only the user that runs the mptcp processes"), "{}", finished.stderr);
}
