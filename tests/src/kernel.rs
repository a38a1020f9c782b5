//! The kernel as the peer: sockets of its Multipath TCP, and of regular TCP, inside a namespace.
//!
//! Once made, a kernel socket is used through the standard library's types: they only read, write and close.

use crate::netns::Namespace;
use anyhow::{Context, Result, bail};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The protocol of a kernel socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Regular TCP.
    Tcp,
    /// Multipath TCP, version 1 of the protocol.
    Mptcp,
}

/// The kernel's report on one of its Multipath TCP connections (`struct mptcp_info`, its first fields).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelInfo {
    /// Subflows beside the first one.
    pub additional_subflows: u8,
    /// Addresses accepted from the peer's ADD_ADDR.
    pub accepted_addresses: u8,
    /// Whether the connection is regular TCP.
    pub fallback: bool,
}

/// A listening socket. An unspecified IPv6 address listens on both families.
pub fn listen(namespace: &Namespace, protocol: Protocol, local: SocketAddr) -> Result<TcpListener> {
    namespace.run(|| listen_here(protocol, local))
}

/// [`listen`] in the namespace of the calling thread.
pub fn listen_here(protocol: Protocol, local: SocketAddr) -> Result<TcpListener> {
    let socket = socket(protocol, local)?;
    let on: libc::c_int = 1;
    option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on)?;
    let (address, length) = sockaddr(local);
    // SAFETY: the address is valid for its length during the calls; the descriptor is open.
    let failed = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) != 0
            || libc::listen(socket.as_raw_fd(), 4096) != 0
    };
    if failed {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("the kernel can't listen on {local}"));
    }
    Ok(TcpListener::from(socket))
}

/// Accepts a connection, at most `patience` from now.
pub fn accept(listener: &TcpListener, patience: Duration) -> Result<TcpStream> {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, valid during the call.
    match unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as libc::c_int) } {
        0 => bail!("nobody connected to the kernel's listener within {patience:?}"),
        1.. => Ok(listener.accept().context("accept")?.0),
        _ => Err(io::Error::last_os_error()).context("poll"),
    }
}

/// Connects, giving up after `patience`. Reads and writes that wait longer than `patience` for the peer fail
/// too.
pub fn connect(
    namespace: &Namespace,
    protocol: Protocol,
    local: Option<SocketAddr>,
    remote: SocketAddr,
    patience: Duration,
) -> Result<TcpStream> {
    namespace.run(|| connect_here(protocol, local, remote, patience))
}

/// [`connect`] in the namespace of the calling thread.
pub fn connect_here(
    protocol: Protocol,
    local: Option<SocketAddr>,
    remote: SocketAddr,
    patience: Duration,
) -> Result<TcpStream> {
    let socket = socket(protocol, remote)?;
    if let Some(local) = local {
        let (address, length) = sockaddr(local);
        // SAFETY: the address is valid for its length; the descriptor is open.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
            return Err(io::Error::last_os_error()).context("bind");
        }
    }
    let timeout = libc::timeval {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(patience.subsec_micros()),
    };
    option(&socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &timeout)?;
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
    let (address, length) = sockaddr(remote);
    // SAFETY: the address is valid for its length; the descriptor is open.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("the kernel can't connect to {remote}"));
    }
    Ok(TcpStream::from(socket))
}

/// A socket that is not connected yet, for a connection to `remote`, in the namespace of the calling thread.
pub fn unconnected_here(protocol: Protocol, remote: SocketAddr) -> Result<TcpStream> {
    Ok(TcpStream::from(socket(protocol, remote)?))
}

/// Chooses the congestion control of a connection by its name. Root may choose any that the kernel has,
/// whatever is allowed to others.
pub fn set_congestion(stream: &TcpStream, name: &str) -> Result<()> {
    // SAFETY: the name is valid for its length, which is what the kernel is told.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).with_context(|| format!("the kernel can't use {name}"))
    }
}

/// The kernel's report on a Multipath TCP connection; none if it was regular TCP from the beginning.
pub fn info(stream: &impl AsRawFd) -> Option<KernelInfo> {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    const FLAG_FALLBACK: u8 = 1;
    // Counters of one octet each, then 32-bit flags at offset 8 (linux/mptcp.h).
    let mut info = [0u8; 12];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer is valid for `length` octets; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), SOL_MPTCP, MPTCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    (result == 0 && length as usize == info.len()).then(|| KernelInfo {
        additional_subflows: info[0],
        accepted_addresses: info[2],
        fallback: u32::from_ne_bytes([info[8], info[9], info[10], info[11]]) & u32::from(FLAG_FALLBACK) != 0,
    })
}

fn socket(protocol: Protocol, address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Mptcp => libc::IPPROTO_MPTCP,
    };
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, number) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).with_context(|| {
            format!("no {protocol:?} socket from the kernel (CONFIG_MPTCP, net.mptcp.enabled?)")
        });
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Octets written that the peer has not acknowledged yet; with Multipath TCP at the data level.
pub fn unacknowledged(stream: &impl AsRawFd) -> Result<u64> {
    let mut octets: libc::c_int = 0;
    // SAFETY: the number is valid during the call, which writes nothing else.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("the kernel does not say what is unacknowledged");
    }
    Ok(u64::try_from(octets).unwrap_or_default())
}

/// Closing the connection will be a reset: a fast close, where it is Multipath TCP.
pub fn abort_on_close(stream: &TcpStream) -> Result<()> {
    option(stream, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

fn option<T>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &T) -> Result<()> {
    // SAFETY: the value is valid for its size during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("setsockopt") }
}

/// The address in the kernel's layout. IPv4 addresses fit in the IPv6 structure's space.
fn sockaddr(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: plain old data; all zeroes is a valid value.
    let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V6(address) => {
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = address.port().to_be();
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
        SocketAddr::V4(address) => {
            // SAFETY: sockaddr_in is smaller than sockaddr_in6 and has no stricter alignment.
            let v4 = unsafe { &mut *(&raw mut raw).cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;
    use crate::netns::{End, link};
    use crate::{data, require_root};
    use std::net::Shutdown;

    #[test]
    fn two_kernels_speak_multipath_tcp_over_two_links() {
        require_root!();
        let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
        for n in 1..=2 {
            link(
                &End { namespace: &a, interface: &format!("l{n}"), addresses: &[&format!("10.9.{n}.1/24")] },
                &End { namespace: &b, interface: &format!("r{n}"), addresses: &[&format!("10.9.{n}.2/24")] },
            )
            .unwrap();
        }
        for namespace in [&a, &b] {
            namespace.mptcp_limits(4, 4).unwrap();
        }
        b.mptcp_endpoint("10.9.2.2".parse().unwrap(), "r2", "signal").unwrap();
        let patience = Duration::from_secs(10);
        // The kernel takes an MP_JOIN only where a listener would take a connection: on all addresses here.
        let listener = listen(&b, Protocol::Mptcp, "[::]:5000".parse().unwrap()).unwrap();
        let receiver = std::thread::spawn(move || {
            let stream = accept(&listener, patience).unwrap();
            data::sum(stream).unwrap()
        });
        let remote = "10.9.1.2:5000".parse().unwrap();
        let mut stream = connect(&a, Protocol::Mptcp, None, remote, patience).unwrap();
        let deadline = std::time::Instant::now() + patience;
        while info(&stream).unwrap().additional_subflows == 0 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            info(&stream).unwrap(),
            KernelInfo { additional_subflows: 1, accepted_addresses: 1, fallback: false }
        );
        data::copy(data::Seeded::new(1, 4 << 20), &mut stream).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receiver.join().unwrap(), data::sum(data::Seeded::new(1, 4 << 20)).unwrap());
        let counters = Counters::read(&b).unwrap();
        assert_eq!(counters.get("MPTcpExtMPCapableSYNRX"), 1);
        assert_eq!(counters.get("MPTcpExtMPJoinSynRx"), 1);
        assert_eq!(counters.trouble(), [""; 0]);
    }

    #[test]
    fn regular_tcp_has_no_multipath_information() {
        require_root!();
        let n = Namespace::new("n").unwrap();
        let address = "[::1]:5000".parse().unwrap();
        let listener = listen(&n, Protocol::Tcp, address).unwrap();
        let stream = connect(&n, Protocol::Tcp, None, address, Duration::from_secs(5)).unwrap();
        assert_eq!(info(&stream), None);
        drop(accept(&listener, Duration::from_secs(5)).unwrap());
        let refused =
            connect(&n, Protocol::Mptcp, None, "[::1]:5001".parse().unwrap(), Duration::from_secs(5));
        assert!(format!("{:#}", refused.unwrap_err()).contains("refused"));
    }
}
