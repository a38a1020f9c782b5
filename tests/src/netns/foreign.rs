//! Somebody else's XDP program: two instructions that pass every packet.

use anyhow::{Context, Result};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_PASS: u64 = 2;

/// Loads and attaches the program in the namespace of the calling thread; detached when the descriptor is
/// closed.
pub(super) fn attach(interface: &str) -> Result<OwnedFd> {
    let name = CString::new(interface).context("an interface name without NUL")?;
    // SAFETY: the name is NUL-terminated and only read.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("no interface {interface}"));
    }
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0xb7 | XDP_PASS << 32, 0x95];
    let license = c"Dual MIT/GPL";
    // union bpf_attr for BPF_PROG_LOAD: type, number of instructions, pointer to them, pointer to the
    // licence.
    let mut load = [0u64; 16];
    load[0] = u64::from(BPF_PROG_TYPE_XDP) | (instructions.len() as u64) << 32;
    load[1] = instructions.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    let program = bpf(BPF_PROG_LOAD, &load).context("can't load an XDP program")?;
    // union bpf_attr for BPF_LINK_CREATE: program, interface, type of attachment, flags.
    let mut link = [0u64; 16];
    link[0] = program.as_raw_fd() as u64 | u64::from(index) << 32;
    link[1] = u64::from(BPF_XDP) | u64::from(XDP_FLAGS_SKB_MODE) << 32;
    bpf(BPF_LINK_CREATE, &link).with_context(|| format!("can't attach an XDP program to {interface}"))
}

fn bpf(command: libc::c_long, attributes: &[u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are a zero-padded union bpf_attr; the memory that they point at lives in the
    // caller's frame.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

#[cfg(test)]
mod tests {
    use crate::netns::Namespace;

    #[test]
    fn a_foreign_program_is_seen_and_goes_with_its_descriptor() {
        crate::require_root!();
        let namespace = Namespace::new("n").unwrap();
        assert!(!namespace.has_xdp("lo").unwrap());
        let program = namespace.foreign_xdp("lo").unwrap();
        assert!(namespace.has_xdp("lo").unwrap());
        drop(program);
        // A program that another thread is just starting may hold a copy of the descriptor for a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while namespace.has_xdp("lo").unwrap() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!namespace.has_xdp("lo").unwrap());
    }
}
