//! The `bpf` system call, as far as aya has no form of it that is usable from several threads, or none at all.

use mptcp_common::metadata::LONG_LEN;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_XDP: u32 = 37;

/// Makes a new element or replaces the present one.
pub(super) const ANY: u64 = 0;
/// Only makes a new element.
pub(super) const NO_EXIST: u64 = 1;
/// Only replaces the present one.
pub(super) const EXIST: u64 = 2;

/// `union bpf_attr` for elements of maps.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for a new link.
#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr` for a test run.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    verdict: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress: u32,
    queue: u32,
    egress: u32,
}

/// # Safety
/// `attribute` must be the form of `union bpf_attr` that `command` takes, and the addresses in it valid for it.
unsafe fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most as many octets of `attribute` as it is told; the rest is the
    // caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sets an element. `K` and `V` must be what the map was made with.
pub(super) fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V, flags: u64) -> io::Result<()> {
    let mut element = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: &raw const *key as u64,
        value: &raw const *value as u64,
        flags,
    };
    // SAFETY: the kernel reads as many octets as key and value of the map have, which are those of `K` and `V`.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut element) }.map(|_| ())
}

/// Removes an element; whether there was one.
pub(super) fn delete<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut element =
        Element { map: map.as_raw_fd() as u32, padding: 0, key: &raw const *key as u64, value: 0, flags: 0 };
    // SAFETY: as in `update`.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut element) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads an element of `V`s, one for each possible CPU in a per-CPU map, into `values`.
pub(super) fn lookup<K, V>(map: BorrowedFd<'_>, key: &K, values: &mut [V]) -> io::Result<()> {
    let mut element = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: &raw const *key as u64,
        value: values.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: as in `update`; the caller gives as many values as there are.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut element) }.map(|_| ())
}

/// Attaches an XDP program to an interface for as long as the descriptor is open.
pub(super) fn link_create(program: RawFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut link = Link { program: program as u32, target: interface, attach_type: BPF_XDP, flags };
    // SAFETY: no addresses in it.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut link) }?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `union bpf_attr` for detaching a link.
#[repr(C)]
struct Detach {
    link: u32,
}

/// Detaches the program of a link from its interface at once. Closing the descriptor does the same only when
/// no child that is about to start another program has a copy of it.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut detach = Detach { link: link.as_raw_fd() as u32 };
    // SAFETY: no addresses in it.
    unsafe { bpf(BPF_LINK_DETACH, &mut detach) }.map(drop)
}

/// What a test run gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestRun {
    /// The program's return value: 0 aborted, 1 drop, 2 pass, 3 transmit, 4 redirect.
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// The metadata in front of it.
    pub metadata: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

pub(super) fn test_run(program: RawFd, packet: &[u8], linear: usize, repeat: u32) -> io::Result<TestRun> {
    let mut out = vec![0; packet.len() + LONG_LEN];
    let linear = linear.min(packet.len()) as u32;
    let context_in = Context { data_end: linear, ingress: 1, ..Context::default() };
    let mut context_out = Context::default();
    let mut run = Run {
        program: program as u32,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        context_size_in: size_of::<Context>() as u32,
        context_size_out: size_of::<Context>() as u32,
        context_in: &raw const context_in as u64,
        context_out: &raw mut context_out as u64,
        ..Run::default()
    };
    // SAFETY: buffers and contexts live on and have the sizes named.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut run) }?;
    out.truncate(run.data_size_out as usize);
    let metadata = (context_out.data - context_out.data_meta) as usize;
    let packet = out.split_off(metadata.min(out.len()));
    Ok(TestRun {
        verdict: run.verdict,
        packet,
        metadata: out,
        duration: Duration::from_nanos(u64::from(run.duration)),
    })
}
