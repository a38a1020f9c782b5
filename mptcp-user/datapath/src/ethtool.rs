//! What the driver of an interface says of itself (`SIOCETHTOOL`). Unlike `/sys`, this always speaks of the calling
//! thread's network namespace. Needs no privileges.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Asks drivers.
pub struct Ethtool {
    socket: OwnedFd,
}

impl Ethtool {
    /// Opens a socket to ask through.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers involved.
        let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(raw) } })
    }

    /// Name of the driver.
    pub fn driver(&self, interface: &str) -> Option<String> {
        const ETHTOOL_GDRVINFO: u32 = 0x03;
        let mut info = [0u32; 49];
        info[0] = ETHTOOL_GDRVINFO;
        self.ask(interface, &mut info)?;
        let name: Vec<u8> = info[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = name.split(|octet| *octet == 0).next().filter(|name| !name.is_empty())?;
        String::from_utf8(name.to_vec()).ok()
    }

    /// Number of receive queues in use.
    pub fn receive_queues(&self, interface: &str) -> Option<u32> {
        const ETHTOOL_GCHANNELS: u32 = 0x3c;
        let mut channels = [0u32; 9];
        channels[0] = ETHTOOL_GCHANNELS;
        self.ask(interface, &mut channels)?;
        let (rx, combined) = (channels[5], channels[8]);
        Some(rx.saturating_add(combined)).filter(|queues| *queues > 0)
    }

    /// Whether the card puts 802.1Q tags into packets that it sends.
    pub fn inserts_tags(&self, interface: &str) -> Option<bool> {
        const ETHTOOL_GFLAGS: u32 = 0x25;
        const ETH_FLAG_TXVLAN: u32 = 1 << 7;
        let mut value = [ETHTOOL_GFLAGS, 0];
        self.ask(interface, &mut value)?;
        Some(value[1] & ETH_FLAG_TXVLAN != 0)
    }

    fn ask(&self, interface: &str, request: &mut [u32]) -> Option<()> {
        let name = interface.as_bytes();
        if name.len() >= libc::IFNAMSIZ {
            return None;
        }
        // SAFETY: all zeroes are a valid ifreq.
        let mut question: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in question.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        question.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        // SAFETY: the name ends with a zero; the data is as long as the command's structure, which the kernel fills.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut question) };
        (result == 0).then_some(())
    }
}
