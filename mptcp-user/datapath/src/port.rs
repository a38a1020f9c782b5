//! Local ports, reserved in the kernel so that it hands them to nobody else.
//!
//! A reservation is a TCP socket that is bound to the port with the wildcard address of both families and does
//! nothing else. As it has no SO_REUSEADDR, no other socket can get the port while it lives, by name or by
//! chance; and it only comes to be if nobody has the port already, not even a connection in TIME_WAIT.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Why a port can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody has it.
    #[error("TCP port {0} is in use on this host (see who has it with `ss -tanp 'sport = :{0}'`)")]
    InUse(u16),
    /// No port is free.
    #[error("no free local port is left (see `sysctl net.ipv4.ip_local_port_range`)")]
    Exhausted,
    /// Ports below `net.ipv4.ip_unprivileged_port_start`.
    #[error("TCP port {0} needs the capability CAP_NET_BIND_SERVICE")]
    Privileges(u16),
    /// Too many open files or the like.
    #[error("can't reserve a local port: {0}")]
    Io(#[from] io::Error),
}

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub struct PortReservation {
    _socket: OwnedFd,
    port: u16,
}

impl PortReservation {
    /// Reserves a certain port, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The port is in use, or may not be used; never `Exhausted`.
    pub fn of(port: u16) -> Result<Self, PortError> {
        Self::bind(port)
    }

    /// Reserves a port of the kernel's choice.
    pub fn any() -> Result<Self, PortError> {
        Self::bind(0)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn bind(port: u16) -> Result<Self, PortError> {
        match Self::bind_family(libc::AF_INET6, port) {
            // No IPv6 in this kernel or namespace.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                Self::bind_family(libc::AF_INET, port)
            }
            result => result,
        }
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) if port == 0 => PortError::Exhausted,
            Some(libc::EADDRINUSE) => PortError::InUse(port),
            Some(libc::EACCES) => PortError::Privileges(port),
            _ => PortError::Io(error),
        })
    }

    fn bind_family(family: libc::c_int, port: u16) -> io::Result<Self> {
        // SAFETY: no pointers involved.
        let raw = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: all zeroes are the wildcard address, of either family.
        let mut address: libc::sockaddr_in6 = unsafe { zeroed() };
        // Family and port have the same place in both families' structures.
        address.sin6_family = family as u16;
        address.sin6_port = port.to_be();
        let len = if family == libc::AF_INET6 {
            let off: libc::c_int = 0;
            // SAFETY: `off` is readable for the length given.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IPV6,
                    libc::IPV6_V6ONLY,
                    (&raw const off).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            size_of::<libc::sockaddr_in6>()
        } else {
            size_of::<libc::sockaddr_in>()
        };
        let mut len = len as libc::socklen_t;
        // SAFETY: a sockaddr_in fits into the sockaddr_in6, and `len` is the length of the one that is meant.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `address` is writable for `len` octets.
        let named = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
        if named != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { _socket: socket, port: u16::from_be(address.sin6_port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn nobody_else_gets_a_reserved_port() {
        let ours = PortReservation::any().expect("a port");
        for address in ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"] {
            // TcpListener sets SO_REUSEADDR, and must be refused nevertheless.
            let taken = TcpListener::bind(format!("{address}:{}", ours.port()));
            assert!(
                matches!(&taken, Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)),
                "{address}: {taken:?}"
            );
        }
        let port = ours.port();
        drop(ours);
        PortReservation::of(port).expect("free again");
    }

    #[test]
    fn a_port_in_use_is_reported_whoever_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        assert!(
            matches!(PortReservation::of(address.port()), Err(PortError::InUse(port)) if port == address.port())
        );
        let client = TcpStream::connect(address).expect("connect");
        let port = client.local_addr().expect("address").port();
        let error = PortReservation::of(port).expect_err("in use by a connection");
        assert!(error.to_string().contains("in use"), "{error}");
    }
}
