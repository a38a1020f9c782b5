//! Sending: an `AF_PACKET` socket per interface that takes super-segments (`PACKET_VNET_HDR`).
//!
//! The kernel, or the device, cuts a super-segment into packets and completes the checksums. Payload goes from the
//! engine's buffers straight into the kernel (`sendmmsg` with one vector per slice). The socket has protocol 0, so
//! that it receives nothing. `PACKET_QDISC_BYPASS` stays off: with it, veth refuses every super-segment.

use arrayvec::ArrayVec;
use bytes::Bytes;
use mptcp_proto::wire::packet::{ChecksumMode, EmitError, LinkHeader, MAX_HEADERS, emit_headers};
use mptcp_proto::wire::{Payload, Segment, segmentize};
use std::collections::VecDeque;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Octets of `struct virtio_net_hdr`.
const VNET_HEADER: usize = 10;
/// Messages per system call.
const BATCH: usize = 64;
/// Vectors per system call.
const VECTORS: usize = 512;
/// A payload in more slices than this is copied into one.
const MAX_SLICES: usize = 32;
/// Segments that wait for one interface; more are dropped, as a full queue does.
const MAX_QUEUE: usize = 4096;

/// A packet that waits to be sent.
struct Outgoing {
    /// virtio_net_hdr and headers.
    headers: [u8; VNET_HEADER + MAX_HEADERS],
    /// Octets used of `headers`.
    len: usize,
    payload: Payload,
}

/// How a [`flush`](Transmitter::flush) ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flushed {
    /// Nothing waits.
    All,
    /// The socket's buffer is full: try again when the descriptor is writable.
    SocketFull,
    /// The interface's queue is full: try again a little later.
    QueueFull,
    /// The interface is down or gone; what waited was dropped.
    Down,
}

/// Counters of one interface's sending side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct TransmitCounters {
    /// Segments handed to the kernel (super-segments count once).
    pub segments: u64,
    /// Octets of payload handed to the kernel.
    pub octets: u64,
    /// System calls.
    pub calls: u64,
    /// Times the kernel could take no more.
    pub stalls: u64,
    /// Segments dropped because too many waited or the interface was down.
    pub dropped: u64,
    /// Segments the kernel refused: too long for the interface, or malformed.
    pub refused: u64,
}

/// The sending side of one interface.
pub struct Transmitter {
    fd: OwnedFd,
    super_segments: bool,
    queue: VecDeque<Outgoing>,
    /// What was counted so far.
    pub counters: TransmitCounters,
}

impl Transmitter {
    /// Opens the socket. Needs CAP_NET_RAW. `super_segments`: whether the interface takes them.
    pub fn new(interface: u32, super_segments: bool) -> io::Result<Self> {
        // SAFETY: no pointers involved.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        // A few super-segments per microsecond of bandwidth-delay product; without the privilege, what is allowed.
        const BUFFER: libc::c_int = 16 << 20;
        if set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER).is_err() {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER)?;
        }
        // SAFETY: all zeroes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = interface as i32;
        // SAFETY: `address` is a whole sockaddr_ll of the length given.
        let result = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, super_segments, queue: VecDeque::new(), counters: TransmitCounters::default() })
    }

    /// Queues a segment.
    ///
    /// # Errors
    /// The segment can't be made a packet.
    pub fn push(&mut self, segment: Segment, link: &LinkHeader) -> Result<(), EmitError> {
        self.push_with(segment, link, false)
    }

    /// Queues a segment whose packets routers may cut into fragments: IPv4 without "don't fragment".
    ///
    /// # Errors
    /// The segment can't be made a packet.
    pub fn push_fragmentable(&mut self, segment: Segment, link: &LinkHeader) -> Result<(), EmitError> {
        self.push_with(segment, link, true)
    }

    fn push_with(
        &mut self,
        segment: Segment,
        link: &LinkHeader,
        fragmentable: bool,
    ) -> Result<(), EmitError> {
        if self.super_segments || segment.packets() == 1 {
            return self.push_whole(segment, link, fragmentable);
        }
        segmentize(&segment).try_for_each(|packet| self.push_whole(packet, link, fragmentable))
    }

    fn push_whole(
        &mut self,
        segment: Segment,
        link: &LinkHeader,
        fragmentable: bool,
    ) -> Result<(), EmitError> {
        if self.queue.len() >= MAX_QUEUE {
            self.counters.dropped += 1;
            return Ok(());
        }
        let mut headers = [0; VNET_HEADER + MAX_HEADERS];
        let (vnet, packet) = headers.split_at_mut(VNET_HEADER);
        let layout = emit_headers(&segment, Some(link), ChecksumMode::Partial, packet)
            .inspect_err(|_| self.counters.refused += 1)?;
        if fragmentable && segment.src.is_ipv4() {
            allow_fragments(&mut packet[if link.vlan.is_some() { 18 } else { 14 }..]);
        }
        vnet.copy_from_slice(&layout.virtio_net_header());
        let mut payload = segment.payload;
        if payload.chunks().len() > MAX_SLICES {
            payload = Payload::from(Bytes::from(payload.to_vec()));
        }
        self.queue.push_back(Outgoing { headers, len: VNET_HEADER + layout.len, payload });
        Ok(())
    }

    /// Packets that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Hands as much as possible to the kernel.
    pub fn flush(&mut self) -> Flushed {
        while !self.queue.is_empty() {
            match self.send_batch() {
                Ok(sent) => {
                    for outgoing in self.queue.drain(..sent.min(self.queue.len())) {
                        self.counters.segments += 1;
                        self.counters.octets += outgoing.payload.len() as u64;
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        self.counters.stalls += 1;
                        return Flushed::SocketFull;
                    }
                    Some(libc::ENOBUFS | libc::ENOMEM) => {
                        self.counters.stalls += 1;
                        return Flushed::QueueFull;
                    }
                    Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                        self.counters.dropped += self.queue.len() as u64;
                        self.queue.clear();
                        return Flushed::Down;
                    }
                    // EMSGSIZE and whatever else concerns this one packet.
                    _ => {
                        self.queue.pop_front();
                        self.counters.refused += 1;
                    }
                },
            }
        }
        Flushed::All
    }

    /// One `sendmmsg`; how many packets it took.
    fn send_batch(&mut self) -> io::Result<usize> {
        let mut vectors = ArrayVec::<libc::iovec, VECTORS>::new();
        let mut lengths = ArrayVec::<usize, BATCH>::new();
        for outgoing in self.queue.iter().take(BATCH) {
            let slices = outgoing.payload.chunks();
            if vectors.remaining_capacity() < slices.len() + 1 {
                break;
            }
            let octets = std::iter::once(&outgoing.headers[..outgoing.len])
                .chain(slices.iter().map(|slice| &slice[..]));
            vectors.extend(
                octets.map(|part| libc::iovec {
                    iov_base: part.as_ptr().cast_mut().cast(),
                    iov_len: part.len(),
                }),
            );
            lengths.push(slices.len() + 1);
        }
        let mut messages = ArrayVec::<libc::mmsghdr, BATCH>::new();
        let mut at = 0;
        for length in &lengths {
            // SAFETY: all zeroes are a valid mmsghdr: no address, no control data.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = vectors[at..].as_mut_ptr();
            message.msg_hdr.msg_iovlen = *length as _;
            messages.push(message);
            at += length;
        }
        self.counters.calls += 1;
        // SAFETY: the messages point to `vectors`, these to the queue's packets; neither moves until the call is
        // over, and the kernel only reads the octets.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

/// Clears "don't fragment" of an IPv4 header and brings its checksum up to date (RFC 1624).
fn allow_fragments(header: &mut [u8]) {
    const DONT_FRAGMENT: u8 = 0x40;
    if let [_, _, _, _, _, _, flags, _, _, _, high, low, ..] = header
        && *flags & DONT_FRAGMENT != 0
    {
        *flags &= !DONT_FRAGMENT;
        let before = u32::from(u16::from_be_bytes([*high, *low]));
        let sum = before + u32::from(DONT_FRAGMENT) * 256;
        let folded = (sum & 0xffff) + (sum >> 16);
        [*high, *low] = (folded as u16).to_be_bytes();
    }
}

impl AsFd for Transmitter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is readable for the length given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_allows_fragments_has_the_right_checksum() {
        let sum = |header: &[u8]| {
            let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            let sum: u32 = words.sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            (folded & 0xffff) + (folded >> 16)
        };
        for id in (0..=u16::MAX).step_by(13) {
            let mut header = [0x45, 0, 5, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            header[4..6].copy_from_slice(&id.to_be_bytes());
            let checksum = !(sum(&header) as u16);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            assert_eq!(sum(&header), 0xffff);
            allow_fragments(&mut header);
            assert_eq!((header[6], sum(&header)), (0, 0xffff), "{id}");
        }
    }
}
