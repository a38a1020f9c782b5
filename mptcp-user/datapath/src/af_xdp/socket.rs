//! One AF_XDP socket: the rings of one receive queue of one interface.

use super::frames::{Frames, Share};
use super::ring::{Consumer, Producer};
use super::stock::Stock;
use super::umem::{FRAME_SIZE, Umem};
use super::{Descriptor, mmap::Mapping, syscall};
use arrayvec::ArrayVec;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Most buffers of one packet: 512 KiB, the largest that the kernel aggregates (`gro_max_size`), in frames.
const MAX_BUFFERS: usize = 160;

/// Frames that the kernel has at least, where it copies packets into them: two mebibytes, a burst of thirty super-segments.
const LEAST_FRAMES: u32 = 512;

/// How packets get into the UMEM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CopyMode {
    /// The kernel copies them: works with every driver, and the only way in generic mode.
    #[default]
    Copy,
    /// The device writes them: needs a driver that can, and native mode.
    ZeroCopy,
}

/// What a socket is bound to and with how many entries.
#[derive(Clone, Debug)]
pub struct Bind {
    /// Interface index.
    pub interface: u32,
    /// Receive queue.
    pub queue: u32,
    /// Frames of the UMEM to receive into. Each queue has its own.
    pub receive_frames: Range<u32>,
    /// Frames of the UMEM to send from; empty for a socket that only receives.
    pub transmit_frames: Range<u32>,
    /// Copy or zero-copy. Ignored for a socket that shares a UMEM: it inherits the first one's.
    pub copy: CopyMode,
    /// Take packets of several buffers, where [the kernel can](super::multi_buffer). Inherited like `copy`.
    pub multi_buffer: bool,
}

/// Why a socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The kernel knows no AF_XDP at all.
    #[error("this kernel has no AF_XDP sockets; it must be built with CONFIG_XDP_SOCKETS=y")]
    NoAfXdp,
    /// Capability missing.
    #[error("AF_XDP sockets need the capability CAP_NET_RAW; run as root, or give it with `setcap`")]
    Privileges,
    /// Another socket has the queue.
    #[error(
        "receive queue {queue} of this interface is in use by another AF_XDP socket; stop the program that has it"
    )]
    Busy {
        /// The queue.
        queue: u32,
    },
    /// No such queue.
    #[error("the kernel refuses to bind queue {queue} (EINVAL): no such queue")]
    Refused {
        /// The queue.
        queue: u32,
    },
    /// The driver can't do it.
    #[error("the driver does not support {0} AF_XDP on this interface")]
    NotSupported(&'static str),
    /// The interface is gone or down.
    #[error("the interface is gone or down")]
    NoInterface,
    /// Not enough memory or locked-memory limit.
    #[error(
        "no memory for packet buffers: give the process CAP_IPC_LOCK, or raise its limit on locked memory (`ulimit -l`, LimitMEMLOCK= of a systemd unit): {0}"
    )]
    Memory(io::Error),
    /// Anything else.
    #[error("{0} failed: {1}")]
    Io(&'static str, #[source] io::Error),
}

/// Counters of the kernel for one socket (`XDP_STATISTICS`), in packets or descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Dropped for reasons other than the two below.
    pub dropped: u64,
    /// Dropped because the receive ring was full.
    pub ring_full: u64,
    /// Dropped because there was no frame to receive into.
    pub no_frame: u64,
}

/// How much is received at once, at most: the last packet may take more frames than are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Packets.
    pub packets: usize,
    /// Frames that they lie in.
    pub frames: usize,
}

impl From<usize> for Budget {
    /// So many packets, whatever they take.
    fn from(packets: usize) -> Self {
        Self { packets, frames: usize::MAX }
    }
}

/// A received packet: its octets from the Ethernet header on, in order, in as many buffers as it took.
pub struct Packet<'a> {
    /// Not empty. The first one holds at least the headers, unless the sender was up to something.
    pub buffers: &'a [&'a [u8]],
    /// The octets in front of the packet in its first frame; what the XDP program put there is at the end.
    pub headroom: &'a [u8],
}

/// The four rings with the frames that circulate through them. Knows nothing of the kernel, so that tests can
/// play its part.
pub struct Rings {
    umem: Arc<Umem>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rx: Consumer<Descriptor>,
    tx: Option<Producer<Descriptor>>,
    /// Frames to send from that neither we nor the kernel use.
    tx_free: Vec<u64>,
    stock: Stock,
    /// Packets thrown away because they had more buffers than any sane packet has, or impossible descriptors.
    pub malformed: u64,
}

impl Rings {
    /// Puts the parts together. Of the receive frames the kernel has `least` or more at all times.
    pub fn new(
        umem: Arc<Umem>,
        (fill, completion): (Producer<u64>, Consumer<u64>),
        rx: Consumer<Descriptor>,
        tx: Option<Producer<Descriptor>>,
        (receive_frames, least): (Range<u32>, u32),
        transmit_frames: Range<u32>,
    ) -> Self {
        let addresses = |frames: Range<u32>| {
            let frames = frames.take_while(|frame| *frame < umem.frames());
            frames.map(|frame| u64::from(frame) * u64::from(FRAME_SIZE)).collect()
        };
        let stock = Stock::new(addresses(receive_frames), least);
        let tx_free = addresses(transmit_frames);
        Self::with_stock(umem, (fill, completion), rx, tx, stock, tx_free)
    }

    fn with_stock(
        umem: Arc<Umem>,
        (mut fill, completion): (Producer<u64>, Consumer<u64>),
        rx: Consumer<Descriptor>,
        tx: Option<Producer<Descriptor>>,
        mut stock: Stock,
        tx_free: Vec<u64>,
    ) -> Self {
        stock.supply(&mut fill);
        Self { umem, fill, completion, rx, tx, tx_free, stock, malformed: 0 }
    }

    /// Shows packets to `handle`, as many as `budget` allows, then gives their frames back to the kernel. Returns how many
    /// there were.
    pub fn receive(&mut self, budget: impl Into<Budget>, mut handle: impl FnMut(Packet<'_>)) -> usize {
        self.stock.waiting(self.rx.available(u32::MAX));
        let budget = budget.into();
        let (mut packets, mut frames) = (0, 0);
        while packets < budget.packets && frames < budget.frames {
            // The end of the packet first: a driver may hand over a packet in parts.
            let mut count = 0;
            loop {
                match self.rx.peek(count) {
                    Some(descriptor) if descriptor.options & libc::XDP_PKT_CONTD == 0 => break,
                    Some(_) => count += 1,
                    None => {
                        self.finish(packets);
                        return packets;
                    }
                }
            }
            let count = count + 1;
            self.show(count, &mut handle);
            for index in 0..count {
                let Some(descriptor) = self.rx.peek(index) else { break };
                if descriptor.addr < self.umem.len() {
                    self.stock.back(descriptor.addr - descriptor.addr % u64::from(FRAME_SIZE));
                }
            }
            self.rx.take(count);
            packets += 1;
            frames += count as usize;
            // Frames go back early enough for the kernel to keep receiving while we work.
            if packets.is_multiple_of(16) {
                self.finish(packets);
            }
        }
        self.finish(packets);
        packets
    }

    /// Shows the packet made of the next `count` descriptors.
    fn show(&mut self, count: u32, handle: &mut impl FnMut(Packet<'_>)) {
        let mut frames = ArrayVec::<&[u8], MAX_BUFFERS>::new();
        let mut headroom: &[u8] = &[];
        let mut whole = count as usize <= MAX_BUFFERS;
        for index in 0..if whole { count } else { 0 } {
            let Some(descriptor) = self.rx.peek(index) else { break };
            // SAFETY: the kernel gave us the frame with this descriptor, and we give it back only below.
            match unsafe { self.umem.slice(descriptor.addr, descriptor.len) } {
                Some(buffer) => {
                    if index == 0 {
                        let in_frame = descriptor.addr % u64::from(FRAME_SIZE);
                        // SAFETY: the same frame, up to where the packet begins.
                        headroom = unsafe { self.umem.slice(descriptor.addr - in_frame, in_frame as u32) }
                            .unwrap_or_default();
                    }
                    frames.push(buffer);
                }
                None => whole = false,
            }
        }
        if whole && !frames.is_empty() {
            handle(Packet { buffers: &frames, headroom });
        } else {
            self.malformed += 1;
        }
    }

    fn finish(&mut self, packets: usize) {
        if packets > 0 {
            self.rx.release();
            self.stock.supply(&mut self.fill);
        }
    }

    /// Whether packets wait.
    pub fn has_packets(&mut self) -> bool {
        self.rx.available(1) > 0
    }

    /// Queues one packet of at most one frame. `false` if there is no room, or it is too long.
    pub fn send(&mut self, packet: &[u8]) -> bool {
        self.complete();
        let Some(tx) = self.tx.as_mut() else { return false };
        if tx.free(1) == 0 {
            return false;
        }
        let Some(addr) = self.tx_free.pop() else { return false };
        // SAFETY: the frame is on our free list: the kernel is done with it and nothing borrows from it.
        if !unsafe { self.umem.write(addr, packet) } {
            self.tx_free.push(addr);
            return false;
        }
        tx.push(Descriptor { addr, len: packet.len() as u32, options: 0 })
    }

    /// Hands queued packets to the kernel; says whether it wants to be kicked.
    pub fn flush(&mut self) -> bool {
        let Some(tx) = self.tx.as_mut() else { return false };
        tx.submit();
        tx.needs_wakeup()
    }

    /// Takes back the frames of packets that have been sent.
    fn complete(&mut self) {
        let done = self.completion.available(u32::MAX);
        for index in 0..done {
            if let Some(addr) = self.completion.peek(index) {
                self.tx_free.push(addr - addr % u64::from(FRAME_SIZE));
            }
        }
        if done > 0 {
            self.completion.take(done);
            self.completion.release();
        }
    }
}

/// A bound socket.
pub struct Socket {
    // Closed first: the kernel writes into no frame any more when the rings give theirs back.
    fd: Arc<OwnedFd>,
    rings: Rings,
    queue: u32,
}

impl Socket {
    /// Binds to a queue. The first socket of an interface registers the UMEM; the others name it as `share_with`.
    ///
    /// A queue is released asynchronously after its socket was closed, so a busy queue is tried again for up to a
    /// second.
    pub fn bind(umem: &Arc<Umem>, share_with: Option<&Socket>, bind: &Bind) -> Result<Self, BindError> {
        let (fd, (fill, done), rx, tx) =
            Self::prepare(umem, share_with.map(|socket| socket.fd.as_fd()), bind)?;
        // A driver without copying has frames in its own ring, as many as it likes.
        let least = if bind.copy == CopyMode::Copy { LEAST_FRAMES } else { u32::MAX };
        let frames = (bind.receive_frames.clone(), least);
        let rings = Rings::new(umem.clone(), (fill, done), rx, tx, frames, bind.transmit_frames.clone());
        Ok(Self { fd: Arc::new(fd), rings, queue: bind.queue })
    }

    /// Binds to a queue, with frames of a UMEM that other sockets, also those of other interfaces, have as
    /// well: `idle` of them until packets come. `bind.receive_frames` says how many there may be at most.
    /// Copies only.
    pub fn bind_shared(frames: &Arc<Frames>, idle: u32, bind: &Bind) -> Result<Self, BindError> {
        let sharer = frames.sharer();
        let umem = frames.umem();
        let (fd, (fill, done), rx, tx) = Self::prepare(umem, sharer.as_deref().map(OwnedFd::as_fd), bind)?;
        let fd = Arc::new(fd);
        frames.add_sharer(&fd);
        let amounts = (idle, LEAST_FRAMES, bind.receive_frames.len() as u32);
        let stock = Stock::shared(Share::new(frames), amounts);
        let rings = Rings::with_stock(umem.clone(), (fill, done), rx, tx, stock, Vec::new());
        Ok(Self { fd, rings, queue: bind.queue })
    }

    /// A socket that is bound, and its rings.
    #[allow(clippy::type_complexity)] // four rings and a descriptor, for two callers
    fn prepare(
        umem: &Arc<Umem>,
        share_with: Option<BorrowedFd<'_>>,
        bind: &Bind,
    ) -> Result<
        (OwnedFd, (Producer<u64>, Consumer<u64>), Consumer<Descriptor>, Option<Producer<Descriptor>>),
        BindError,
    > {
        let fd = syscall::socket().map_err(|error| match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => BindError::NoAfXdp,
            Some(libc::EPERM | libc::EACCES) => BindError::Privileges,
            _ => BindError::Io("socket(AF_XDP)", error),
        })?;
        let memory = |what| {
            move |error: io::Error| match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM) => BindError::Memory(error),
                Some(libc::EPERM) => BindError::Privileges,
                _ => BindError::Io(what, error),
            }
        };
        if share_with.is_none() {
            syscall::set_option(fd.as_fd(), libc::XDP_UMEM_REG, &umem.registration())
                .map_err(memory("registering the UMEM"))?;
        }
        let receive = (bind.receive_frames.len() as u32).next_power_of_two().max(64);
        let transmit = match bind.transmit_frames.len() as u32 {
            0 => 0,
            frames => frames.next_power_of_two(),
        };
        let completion = transmit.max(64);
        for (option, entries) in [
            (libc::XDP_UMEM_FILL_RING, receive),
            (libc::XDP_UMEM_COMPLETION_RING, completion),
            (libc::XDP_RX_RING, receive),
            (libc::XDP_TX_RING, transmit),
        ] {
            if entries > 0 {
                syscall::set_option(fd.as_fd(), option, &entries).map_err(memory("making a ring"))?;
            }
        }
        // SAFETY: a structure of integers.
        let offsets: libc::xdp_mmap_offsets =
            unsafe { syscall::get_option(fd.as_fd(), libc::XDP_MMAP_OFFSETS) }
                .map_err(|error| BindError::Io("reading the ring layout", error))?;
        let map = |parts: &libc::xdp_ring_offset, entries: u32, entry: usize, at: u64| {
            Mapping::of_fd(fd.as_fd(), at as libc::off_t, parts.desc as usize + entries as usize * entry)
                .map_err(memory("mapping a ring"))
        };
        let layout = || BindError::Io("reading the ring layout", io::Error::from(io::ErrorKind::InvalidData));
        let fill = map(&offsets.fr, receive, 8, libc::XDP_UMEM_PGOFF_FILL_RING)?;
        let fill = Producer::of_mapping(fill, &offsets.fr, receive).ok_or_else(layout)?;
        let done = map(&offsets.cr, completion, 8, libc::XDP_UMEM_PGOFF_COMPLETION_RING)?;
        let done = Consumer::of_mapping(done, &offsets.cr, completion).ok_or_else(layout)?;
        let entry = size_of::<Descriptor>();
        let rx = map(&offsets.rx, receive, entry, libc::XDP_PGOFF_RX_RING as u64)?;
        let rx = Consumer::of_mapping(rx, &offsets.rx, receive).ok_or_else(layout)?;
        let tx = if transmit > 0 {
            let tx = map(&offsets.tx, transmit, entry, libc::XDP_PGOFF_TX_RING as u64)?;
            Some(Producer::of_mapping(tx, &offsets.tx, transmit).ok_or_else(layout)?)
        } else {
            None
        };
        let several = if bind.multi_buffer { libc::XDP_USE_SG } else { 0 };
        let flags = match (share_with, bind.copy) {
            (Some(_), _) => libc::XDP_SHARED_UMEM,
            (None, CopyMode::Copy) => libc::XDP_USE_NEED_WAKEUP | several | libc::XDP_COPY,
            (None, CopyMode::ZeroCopy) => libc::XDP_USE_NEED_WAKEUP | several | libc::XDP_ZEROCOPY,
        };
        let mut attempts = 0;
        while let Err(error) = syscall::bind(fd.as_fd(), bind.interface, bind.queue, flags, share_with) {
            match error.raw_os_error() {
                Some(libc::EBUSY) if attempts < 50 => {
                    attempts += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Some(libc::EBUSY) => return Err(BindError::Busy { queue: bind.queue }),
                Some(libc::EINVAL) => return Err(BindError::Refused { queue: bind.queue }),
                Some(libc::EOPNOTSUPP) => {
                    return Err(BindError::NotSupported(match bind.copy {
                        CopyMode::Copy => "multi-buffer",
                        CopyMode::ZeroCopy => "zero-copy",
                    }));
                }
                Some(libc::ENODEV | libc::ENXIO | libc::ENETDOWN) => return Err(BindError::NoInterface),
                Some(libc::EPERM) => return Err(BindError::Privileges),
                Some(libc::ENOMEM | libc::ENOBUFS) => return Err(BindError::Memory(error)),
                _ => return Err(BindError::Io("binding an AF_XDP socket", error)),
            }
        }
        Ok((fd, (fill, done), rx, tx))
    }

    /// The queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// See [`Rings::receive`].
    pub fn receive(&mut self, budget: impl Into<Budget>, handle: impl FnMut(Packet<'_>)) -> usize {
        let packets = self.rings.receive(budget, handle);
        if packets > 0 && self.rings.fill.needs_wakeup() {
            syscall::kick_receive(self.fd.as_fd());
        }
        packets
    }

    /// Whether packets wait.
    pub fn has_packets(&mut self) -> bool {
        self.rings.has_packets()
    }

    /// Queues one packet of at most one frame; see [`Rings::send`].
    pub fn send(&mut self, packet: &[u8]) -> bool {
        self.rings.send(packet)
    }

    /// Hands queued packets to the kernel.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.rings.flush()
            && let Err(error) = syscall::kick_transmit(self.fd.as_fd())
            && !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS))
        {
            return Err(error);
        }
        Ok(())
    }

    /// Counters of the kernel.
    pub fn statistics(&self) -> Statistics {
        // SAFETY: a structure of integers.
        unsafe { syscall::get_option::<libc::xdp_statistics>(self.fd.as_fd(), libc::XDP_STATISTICS) }
            .map(|raw| Statistics {
                dropped: raw.rx_dropped,
                ring_full: raw.rx_ring_full,
                no_frame: raw.rx_fill_ring_empty_descs,
            })
            .unwrap_or_default()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::memory_pair;
    use super::*;

    /// The kernel's ends of the rings.
    struct Kernel {
        umem: Arc<Umem>,
        fill: Consumer<u64>,
        completion: Producer<u64>,
        rx: Producer<Descriptor>,
        tx: Consumer<Descriptor>,
    }

    fn pair(frames: u32) -> (Rings, Kernel) {
        let umem = Arc::new(Umem::new(512).expect("memory"));
        let (fill, kernel_fill) = memory_pair(64);
        let (kernel_completion, completion) = memory_pair(64);
        let (kernel_rx, rx) = memory_pair(64);
        let (tx, kernel_tx) = memory_pair(4);
        let rings =
            Rings::new(umem.clone(), (fill, completion), rx, Some(tx), (0..frames, u32::MAX), 100..102);
        let kernel =
            Kernel { umem, fill: kernel_fill, completion: kernel_completion, rx: kernel_rx, tx: kernel_tx };
        (rings, kernel)
    }

    impl Kernel {
        /// Writes a packet as the kernel does: 256 octets of headroom, as many frames as it takes.
        fn deliver(&mut self, packet: &[u8]) -> bool {
            let pieces: Vec<&[u8]> = packet.chunks(FRAME_SIZE as usize - 256).collect();
            if (self.fill.available(u32::MAX) as usize) < pieces.len() {
                return false;
            }
            for (index, piece) in pieces.iter().enumerate() {
                let frame = self.fill.peek(0).expect("a frame");
                self.fill.take(1);
                // SAFETY: the frame came from the fill ring: it is the kernel's, whose part this plays.
                assert!(unsafe { self.umem.write(frame + 256, piece) });
                let options = if index + 1 < pieces.len() { libc::XDP_PKT_CONTD } else { 0 };
                assert!(self.rx.push(Descriptor { addr: frame + 256, len: piece.len() as u32, options }));
            }
            self.fill.release();
            self.rx.submit();
            true
        }
    }

    #[test]
    fn super_segments_come_whole_and_frames_circulate() {
        let (mut rings, mut kernel) = pair(40);
        for round in 0..50usize {
            let long: Vec<u8> = (0..65_549).map(|i| (i * 7 + round) as u8).collect();
            assert!(kernel.deliver(&long));
            assert!(kernel.deliver(b"short"));
            let mut seen = Vec::new();
            let packets = rings.receive(10, |packet| {
                assert_eq!(packet.headroom.len(), 256);
                seen.push((packet.buffers.len(), packet.buffers.concat()));
            });
            assert_eq!(packets, 2);
            assert_eq!(seen, [(18, long), (1, b"short".to_vec())]);
        }
    }

    #[test]
    fn a_packet_whose_end_has_not_come_waits() {
        let (mut rings, mut kernel) = pair(4);
        let first = kernel.fill.peek(0).expect("frame");
        let second = kernel.fill.peek(1).expect("frame");
        kernel.rx.push(Descriptor { addr: first, len: 10, options: libc::XDP_PKT_CONTD });
        kernel.rx.submit();
        assert_eq!(rings.receive(8, |_| panic!("not whole")), 0);
        kernel.rx.push(Descriptor { addr: second, len: 5, options: 0 });
        kernel.rx.submit();
        let mut length = 0;
        assert_eq!(rings.receive(8, |packet| length = packet.buffers.concat().len()), 1);
        assert_eq!(length, 15);
    }

    #[test]
    fn the_budget_bounds_a_batch() {
        let (mut rings, mut kernel) = pair(40);
        for _ in 0..30 {
            assert!(kernel.deliver(b"x"));
        }
        assert_eq!(rings.receive(20, |_| ()), 20);
        assert!(rings.has_packets());
        assert_eq!(rings.receive(20, |_| ()), 10);
        assert_eq!(kernel.fill.available(u32::MAX), 40, "all frames are back");
        for _ in 0..4 {
            assert!(kernel.deliver(&[7; 10_000]));
        }
        let budget = Budget { packets: 20, frames: 4 };
        assert_eq!(rings.receive(budget, |_| ()), 2, "of three frames each");
        assert_eq!(rings.receive(budget, |_| ()), 2);
    }

    #[test]
    fn impossible_descriptors_are_counted_and_harmless() {
        let (mut rings, mut kernel) = pair(4);
        for descriptor in [
            Descriptor { addr: u64::MAX, len: 100, options: 0 },
            Descriptor { addr: 4000, len: 4096, options: 0 },
        ] {
            kernel.rx.push(descriptor);
        }
        kernel.rx.submit();
        assert_eq!(rings.receive(8, |_| panic!("not a packet")), 2);
        assert_eq!(rings.malformed, 2);
    }

    #[test]
    fn sent_frames_come_back_by_the_completion_ring() {
        let (mut rings, mut kernel) = pair(4);
        assert!(rings.send(b"one") && rings.send(b"two"));
        assert!(!rings.send(b"three"), "both frames are under way");
        assert!(!rings.send(&[0; 4097]), "longer than a frame");
        rings.flush();
        for expected in [&b"one"[..], b"two"] {
            let sent = kernel.tx.peek(0).expect("descriptor");
            // SAFETY: the descriptor made the frame the kernel's, whose part this plays.
            assert_eq!(unsafe { kernel.umem.slice(sent.addr, sent.len) }, Some(expected));
            kernel.tx.take(1);
            kernel.completion.push(sent.addr);
        }
        kernel.tx.release();
        kernel.completion.submit();
        assert!(rings.send(b"three"));
    }
}
