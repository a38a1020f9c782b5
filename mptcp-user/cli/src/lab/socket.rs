//! A packet socket on one interface: all frames in, any frame out, in batches (packet(7)).

use super::frame::{Frame, VNET_LEN};
use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Messages per system call.
pub(super) const BATCH: usize = 32;
/// The longest super-segment with its headers.
const BUFFER_LEN: usize = VNET_LEN + 65_536 + 128;
/// Octets that wait in the kernel, in each direction.
const SOCKET_BUFFER: libc::c_int = 32 << 20;

/// A packet socket with the buffers it receives into.
pub(super) struct PacketSocket {
    fd: OwnedFd,
    buffers: Vec<u8>,
    control: Vec<[u64; 8]>,
}

/// Frames a kernel gave up because nobody fetched them, and frames it refused to send.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SendOutcome {
    pub(super) sent: usize,
    pub(super) refused: usize,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Index of an interface.
pub(super) fn interface_index(name: &str) -> io::Result<libc::c_int> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `name` is a C string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index as libc::c_int) }
}

impl PacketSocket {
    /// Opens a socket that gets everything that arrives on an interface, whoever it is for.
    pub(super) fn open(index: libc::c_int) -> io::Result<Self> {
        // SAFETY: the call has no pointer arguments. Protocol 0: nothing arrives before the socket is bound.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd, buffers: vec![0; BATCH * BUFFER_LEN], control: vec![[0; 8]; BATCH] };
        const PACKET_VNET_HDR: libc::c_int = 15;
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        socket.set(libc::SOL_PACKET, PACKET_VNET_HDR, &1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
        // Older kernels do not know the option. The receiver drops their outgoing packets.
        let _ = socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1);
        // More than an ordinary user may have, where we may.
        for (force, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            if socket.set(libc::SOL_SOCKET, force, &SOCKET_BUFFER).is_err() {
                socket.set(libc::SOL_SOCKET, plain, &SOCKET_BUFFER)?;
            }
        }
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index;
        // SAFETY: `address` is a sockaddr_ll and the length says so.
        check(unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        let promiscuous = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
        Ok(socket)
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is valid for reads of its size, which is what the kernel is told.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (value as *const T).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        check(result).map(|_| ())
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether the interface has Ethernet headers.
    pub(super) fn is_ethernet(&self) -> io::Result<bool> {
        const ARPHRD_ETHER: u16 = 1;
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: both pointers are valid, `len` is the size of what the first points to.
        check(unsafe { libc::getsockname(self.fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
        Ok(address.sll_hatype == ARPHRD_ETHER)
    }

    /// Longest IP packet that the interface of this name sends.
    pub(super) fn mtu(&self, interface: &str) -> io::Result<usize> {
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { zeroed() };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: the name ends with a zero; the kernel writes a number into the request.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) })?;
        // SAFETY: the call that succeeded has set the MTU.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        usize::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Frames that the kernel dropped since the last call because the socket's buffer was full.
    pub(super) fn dropped(&self) -> u64 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: both pointers are valid, `len` is the size of what the first points to.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if result == 0 { u64::from(stats.tp_drops) } else { 0 }
    }

    /// Takes what has arrived, at most a batch; does not wait. Gives the number of messages.
    pub(super) fn receive(&mut self, mut take: impl FnMut(Frame)) -> io::Result<usize> {
        // SAFETY: all zeros are valid values of these three types.
        let (mut messages, mut addresses): ([libc::mmsghdr; BATCH], [libc::sockaddr_ll; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let buffers = self.buffers.chunks_exact_mut(BUFFER_LEN);
        for ((((message, part), address), buffer), control) in
            messages.iter_mut().zip(&mut parts).zip(&mut addresses).zip(buffers).zip(&mut self.control)
        {
            *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_name = (&raw mut *address).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of_val(control) as _;
        }
        // SAFETY: each message points to an address, a buffer and control data of its own that outlive the
        // call.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // An interface that went down says so once; it may come back.
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(0),
                _ => Err(error),
            };
        }
        let count = count as usize;
        for ((message, address), buffer) in
            messages[..count].iter().zip(&addresses).zip(self.buffers.chunks_exact(BUFFER_LEN))
        {
            let Some((vnet, octets)) =
                buffer.get(..message.msg_len as usize).and_then(<[u8]>::split_first_chunk::<VNET_LEN>)
            else {
                continue;
            };
            if address.sll_pkttype == libc::PACKET_OUTGOING
                || message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0
            {
                continue;
            }
            match vlan_tag(&message.msg_hdr) {
                None => Frame::receive(vnet, octets, &mut take),
                Some(tag) => {
                    // The kernel takes the tag off; put it back.
                    let Some((addresses, rest)) = octets.split_first_chunk::<12>() else { continue };
                    let tagged = [&addresses[..], &tag, rest].concat();
                    let mut vnet = *vnet;
                    let start = u16::from_ne_bytes([vnet[6], vnet[7]]) + tag.len() as u16;
                    vnet[6..8].copy_from_slice(&start.to_ne_bytes());
                    Frame::receive(&vnet, &tagged, &mut take);
                }
            }
        }
        Ok(count)
    }

    /// Sends frames, in order. A frame that the kernel refuses (longer than the MTU, interface down) is
    /// skipped.
    pub(super) fn send(&self, frames: &[Frame]) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        for frames in frames.chunks(BATCH) {
            let mut vnets = [[0u8; VNET_LEN]; BATCH];
            // SAFETY: all zeros are valid values of both types.
            let (mut messages, mut parts): ([libc::mmsghdr; BATCH], [[libc::iovec; 2]; BATCH]) =
                unsafe { (zeroed(), zeroed()) };
            for (((message, parts), vnet), frame) in
                messages.iter_mut().zip(&mut parts).zip(&mut vnets).zip(frames)
            {
                *vnet = frame.vnet_header();
                parts[0] = libc::iovec { iov_base: vnet.as_mut_ptr().cast(), iov_len: VNET_LEN };
                parts[1] = libc::iovec {
                    iov_base: frame.octets().as_ptr().cast_mut().cast(),
                    iov_len: frame.octets().len(),
                };
                message.msg_hdr.msg_iov = parts.as_mut_ptr();
                message.msg_hdr.msg_iovlen = 2;
            }
            let mut done = 0;
            while done < frames.len() {
                // SAFETY: the messages from `done` on point to headers and frames that outlive the call; the
                // kernel only reads them.
                let sent = unsafe {
                    libc::sendmmsg(
                        self.fd.as_raw_fd(),
                        messages[done..].as_mut_ptr(),
                        (frames.len() - done) as libc::c_uint,
                        0,
                    )
                };
                if sent > 0 {
                    done += sent as usize;
                    outcome.sent += sent as usize;
                } else if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                    done += 1;
                    outcome.refused += 1;
                }
            }
        }
        outcome
    }
}

/// The VLAN tag that the kernel took off a frame, if it did.
fn vlan_tag(header: &libc::msghdr) -> Option<[u8; 4]> {
    // `struct tpacket_auxdata` of linux/if_packet.h.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Auxdata {
        status: u32,
        len: u32,
        snaplen: u32,
        mac: u16,
        net: u16,
        vlan_tci: u16,
        vlan_tpid: u16,
    }
    const VLAN_VALID: u32 = 1 << 4;
    const VLAN_TPID_VALID: u32 = 1 << 6;
    // SAFETY: the header was filled by recvmmsg; its control buffer is still there.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give pointers to whole headers inside the control buffer.
        let message = unsafe { *control };
        if (message.cmsg_level, message.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            // SAFETY: the kernel puts a tpacket_auxdata into a message of this type; it need not be aligned.
            let data = unsafe { libc::CMSG_DATA(control).cast::<Auxdata>().read_unaligned() };
            if data.status & VLAN_VALID == 0 {
                return None;
            }
            let tpid = if data.status & VLAN_TPID_VALID != 0 { data.vlan_tpid } else { 0x8100 };
            let ([t0, t1], [c0, c1]) = (tpid.to_be_bytes(), data.vlan_tci.to_be_bytes());
            return Some([t0, t1, c0, c1]);
        }
        // SAFETY: as for CMSG_FIRSTHDR; `control` came from there.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}
