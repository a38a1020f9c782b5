//! The system calls that are left, as a seccomp filter (seccomp(2)) of all threads.
//!
//! The list is closed: a call that is not on it is refused. Calls that reach beyond this process are
//! restricted by their arguments: files are opened for reading only, sockets are of the families that a stack
//! uses (none of them reaches another program of this host by name), no memory becomes executable, no BPF
//! program is loaded.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// Calls that are allowed whatever their arguments are.
const ALWAYS: &[i64] = &[
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    // Looking around: the control socket's directory, namespaces, /proc.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    // The control socket's file, at the end.
    libc::SYS_unlinkat,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Signals to this process.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Time, sleep, events.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Sockets that are open, or that `socket` may make.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Facts.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getcpu,
];

/// The same by the older numbers that x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Families of new sockets.
const FAMILIES: [libc::c_int; 5] =
    [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_XDP];

/// Questions to drivers and terminals. TIOCSTI, which types on a terminal, is none of them.
#[allow(clippy::unnecessary_cast)] // their type depends on the C library
const IOCTLS: [u64; 9] = [
    libc::SIOCETHTOOL as u64,
    libc::SIOCGIFMTU as u64,
    libc::SIOCGIFINDEX as u64,
    libc::SIOCGIFNAME as u64,
    libc::FIONBIO as u64,
    libc::FIOCLEX as u64,
    libc::TIOCGWINSZ as u64,
    libc::TCGETS as u64,
    0x802c_542a, // TCGETS2
];

/// `bpf` commands (linux/bpf.h) on maps and links, and questions. Not among them: BPF_MAP_CREATE,
/// BPF_PROG_LOAD.
const BPF: [u64; 14] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    13, // BPF_PROG_GET_FD_BY_ID
    15, // BPF_OBJ_GET_INFO_BY_FD
    21, // BPF_MAP_LOOKUP_AND_DELETE_ELEM
    24, // BPF_MAP_LOOKUP_BATCH
    25, // BPF_MAP_LOOKUP_AND_DELETE_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
    28, // BPF_LINK_CREATE
    31, // BPF_LINK_GET_NEXT_ID
    34, // BPF_LINK_DETACH
];

/// Permitted `prctl` operations: a thread's name, its timer slack, names of mappings.
const PRCTLS: [u64; 4] =
    [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_TIMERSLACK as u64, 0x5356_4d41];

/// Installs the filter in all threads. Needs CAP_SYS_ADMIN, or no new privileges, as
/// [`keep`](super::capabilities::keep) has made sure of.
pub(super) fn install(kill: bool) -> io::Result<()> {
    let program = program(kill, std::process::id())?;
    let mut filters: Vec<libc::sock_filter> = program
        .iter()
        .map(|filter| libc::sock_filter { code: filter.code, jt: filter.jt, jf: filter.jf, k: filter.k })
        .collect();
    let len = u16::try_from(filters.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: filters.as_mut_ptr() };
    // The kernel logs what it refuses; the library has no form of this call that asks it to.
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG;
    // SAFETY: the kernel copies the program, which is as long as it says.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match result {
        0 => Ok(()),
        1.. => Err(io::Error::other(format!("thread {result} has another filter"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The filter for the process with this number.
fn program(kill: bool, pid: u32) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refused = if kill { SeccompAction::KillProcess } else { SeccompAction::Errno(libc::EPERM as u32) };
    let filter = rules(pid)
        .and_then(|rules| Ok(SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?))
        .and_then(|filter| Ok(BpfProgram::try_from(filter)?));
    filter.map_err(|error: seccompiler::Error| io::Error::other(error))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(pid: u32) -> Result<Rules, seccompiler::Error> {
    let mut rules: Rules = ALWAYS.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let equal = SeccompCmpOp::Eq;
    // open(…) by its flags: nothing is made, truncated or written to.
    let writing = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
    let reading = SeccompCmpOp::MaskedEq(writing as u64);
    rules.insert(libc::SYS_openat, any(2, &reading, [0])?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, any(1, &reading, [0])?);
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, any(2, &executable, [0])?);
    }
    rules.insert(libc::SYS_socket, any(0, &equal, FAMILIES.map(|family| family as u64))?);
    rules.insert(libc::SYS_ioctl, any(1, &equal, IOCTLS)?);
    rules.insert(libc::SYS_bpf, any(0, &equal, BPF)?);
    rules.insert(libc::SYS_prctl, any(0, &equal, PRCTLS)?);
    // Limits of this process.
    rules.insert(libc::SYS_prlimit64, any(0, &equal, [0, u64::from(pid)])?);
    rules.insert(libc::SYS_tgkill, any(0, &equal, [u64::from(pid)])?);
    Ok(rules)
}

/// Allows a call if an argument compares with one of these values.
fn any(
    argument: u8,
    compare: &SeccompCmpOp,
    values: impl IntoIterator<Item = u64>,
) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let rule = |value| {
        let condition =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare.clone(), value & 0xffff_ffff)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    values.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_a_program_that_the_kernel_takes() {
        for kill in [false, true] {
            let program = program(kill, 7).expect("compiles");
            // BPF_MAXINSNS.
            assert!((100..4096).contains(&program.len()), "{}", program.len());
        }
    }

    #[test]
    fn calls_that_reach_beyond_the_process_are_not_on_the_list() {
        let rules = rules(7).expect("valid");
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_renameat2,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_fchmodat,
            libc::SYS_fchownat,
            libc::SYS_mknodat,
            libc::SYS_init_module,
            libc::SYS_io_uring_setup,
            libc::SYS_openat2,
            libc::SYS_pidfd_getfd,
            libc::SYS_keyctl,
            libc::SYS_setuid,
            libc::SYS_capset,
        ] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }

    /// Set for the process in which [`what_is_refused_fails_and_what_is_needed_works`] tries the filter.
    const PROBE: &str = "MPTCP_TEST_SANDBOX_PROBE";

    #[test]
    fn what_is_refused_fails_and_what_is_needed_works() {
        if std::env::var_os(PROBE).is_some() {
            return probe();
        }
        // The filter is for good and for all threads: tried in another process.
        let program = std::env::current_exe().expect("known");
        let (_, module) = module_path!().split_once("::").expect("a module of the crate");
        let name = format!("{module}::what_is_refused_fails_and_what_is_needed_works");
        let output = std::process::Command::new(program)
            .args(["--exact", &name, "--nocapture"])
            .env(PROBE, "1")
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    }

    fn probe() {
        use std::io::ErrorKind::PermissionDenied;
        let path = std::env::temp_dir().join(format!("mptcp-sandbox-{}", std::process::id()));
        // Threads that exist already are in it, too.
        let (begin, wait) = std::sync::mpsc::channel();
        let other = std::thread::spawn({
            let path = path.clone();
            move || {
                wait.recv().expect("told");
                std::fs::File::create(path).map_err(|error| error.kind()).err()
            }
        });
        // SAFETY: numbers only.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        install(false).expect("installed");
        begin.send(()).expect("waits");
        assert_eq!(other.join().expect("no panic"), Some(PermissionDenied), "another thread");

        let refused = |what: io::Result<()>| what.map_err(|error| error.kind()) == Err(PermissionDenied);
        assert!(refused(std::fs::File::create(&path).map(drop)), "a new file");
        assert!(refused(std::fs::File::options().append(true).open("/dev/null").map(drop)), "writing");
        assert!(refused(std::fs::rename("/nonexistent-a", "/nonexistent-b")), "rename");
        assert!(refused(std::fs::create_dir(&path)), "a new directory");
        assert!(refused(std::process::Command::new("/bin/true").spawn().map(drop)), "another program");
        assert!(refused(std::os::unix::net::UnixStream::connect("/nonexistent").map(drop)), "Unix sockets");
        // SAFETY: a signal 0 is none; the mapping is not used.
        unsafe {
            assert_eq!((libc::kill(1, 0), *libc::__errno_location()), (-1, libc::EPERM), "signals to others");
            let (read, run) = (libc::PROT_READ, libc::PROT_EXEC);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let null = std::ptr::null_mut();
            assert_eq!(libc::mmap(null, 4096, read | run, flags, -1, 0), libc::MAP_FAILED, "new code");
            assert_ne!(libc::mmap(null, 4096, read, flags, -1, 0), libc::MAP_FAILED);
        }

        std::fs::read_to_string("/proc/self/status").expect("files are read");
        std::thread::spawn(|| {}).join().expect("threads are made");
        std::net::UdpSocket::bind("127.0.0.1:0").expect("ports are reserved");
    }
}
