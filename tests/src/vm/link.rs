//! The other end of a guest's network card: a cable to another guest, or an interface of a namespace.
//!
//! Both are file descriptors that qemu inherits; they have no names and end with the guests. A cable loses
//! nothing: a guest that sends faster than the other receives has to wait. A tap hands super-segments over
//! whole, with partial checksums, as the hosts of clouds do.

use crate::netns::Namespace;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The end of a link that goes into a guest.
#[derive(Debug)]
pub enum Plug {
    /// A cable to another guest.
    Cable(OwnedFd),
    /// An interface of a namespace, by its queues.
    Tap(Vec<File>),
}

/// A network card of a guest.
#[derive(Debug)]
pub struct Nic {
    /// Its other end.
    pub plug: Plug,
    /// More properties of the device, as qemu knows them ("mq=on,vectors=6").
    pub properties: &'static str,
}

/// Two ends of a cable.
pub fn cable() -> Result<(Plug, Plug)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let failed = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr())
    };
    ensure!(failed == 0, "can't make a pair of sockets: {}", io::Error::last_os_error());
    // SAFETY: new descriptors that nothing else owns.
    let [a, b] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    for end in [&a, &b] {
        let size: libc::c_int = 4 << 20;
        // SAFETY: an integer of the size that is named.
        let failed = unsafe {
            let size = (&raw const size).cast();
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(end.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, size, length)
        };
        ensure!(failed == 0, "can't make a cable's buffer larger: {}", io::Error::last_os_error());
    }
    Ok((Plug::Cable(a), Plug::Cable(b)))
}

/// An interface of a namespace, down, that a guest's card with as many queues is plugged into.
pub fn tap(namespace: &Namespace, name: &str, queues: usize) -> Result<Plug> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    let open = || -> Result<File> {
        // The interface is made in the namespace of the thread that opens the device.
        let file =
            File::options().read(true).write(true).open("/dev/net/tun").context("can't open /dev/net/tun")?;
        // SAFETY: plain old data; all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name[..libc::IF_NAMESIZE - 1].iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the request outlives the call.
        let failed = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        ensure!(failed == 0, "can't make the tap {name}: {}", io::Error::last_os_error());
        Ok(file)
    };
    namespace.run(|| (0..queues).map(|_| open()).collect::<Result<Vec<_>>>()).map(Plug::Tap)
}

impl Plug {
    /// The descriptors that qemu must inherit.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Cable(end) => vec![end.as_raw_fd()],
            Self::Tap(queues) => queues.iter().map(AsRawFd::as_raw_fd).collect(),
        }
    }

    /// Qemu's `-netdev` for it.
    pub(super) fn netdev(&self, id: &str) -> String {
        let list = self.descriptors().iter().map(ToString::to_string).collect::<Vec<_>>().join(":");
        match self {
            Self::Cable(_) => format!("dgram,id={id},local.type=fd,local.str={list}"),
            Self::Tap(queues) if queues.len() == 1 => format!("tap,id={id},fd={list},vhost=off"),
            Self::Tap(_) => format!("tap,id={id},fds={list},vhost=off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_lives_in_its_namespace_as_long_as_its_plug() {
        crate::require_root!();
        let namespace = Namespace::new("n").unwrap();
        let Ok(plug) = tap(&namespace, "tap0", 2) else {
            eprintln!("SKIPPED: no /dev/net/tun on this machine");
            return;
        };
        assert_eq!(plug.descriptors().len(), 2);
        assert!(namespace.ip("link show dev tap0").is_ok());
        drop(plug);
        assert!(namespace.ip("link show dev tap0").is_err());
    }
}
