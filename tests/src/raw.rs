//! The datapath's two ends without an engine: segments into a packet socket here, out of AF_XDP there.

use crate::lab::{Family, Lab, Side};
use anyhow::{Context, Result};
use mptcp_datapath::Receiver;
use mptcp_datapath::af_xdp::{Bind, CopyMode, Socket, Umem};
use mptcp_datapath::netlink::{Link, Netlink};
use mptcp_datapath::transmit::{Flushed, Transmitter};
use mptcp_datapath::xdp::{XdpConfig, XdpMode, XdpProgram};
use mptcp_proto::SubflowSlot;
use mptcp_proto::wire::packet::LinkHeader;
use mptcp_proto::wire::{Flags, Segment, SeqNumber, Timestamps};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames of the receiving end.
const FRAMES: u32 = 4096;

/// The interface of a side on the first link, as the kernel describes it.
pub fn link_of(lab: &Lab, side: Side) -> Result<Link> {
    let name = side.interface(1);
    let links = lab.namespace(side).run(|| Netlink::new()?.links())?;
    links.into_iter().find(|link| link.name == name).with_context(|| format!("no interface {name}"))
}

/// A segment from left to right over the first link, with the options that data has.
pub fn segment(family: Family, seq: u32, payload: bytes::Bytes, gso_size: u16) -> Segment {
    let (src, dst) = ends(family);
    let mut segment = Segment::new(src, dst);
    segment.seq = SeqNumber(seq);
    segment.flags = Flags::ACK;
    segment.window = 1000;
    segment.options.timestamps = Some(Timestamps { value: 1, echo: 2 });
    segment.payload = payload.into();
    segment.gso_size = gso_size;
    segment
}

/// The four-tuple of [`segment`].
pub fn ends(family: Family) -> (SocketAddr, SocketAddr) {
    (Side::Left.socket(1, family, 40_000), Side::Right.socket(1, family, 50_000))
}

/// The sending end, in the left namespace.
pub struct Sender {
    transmitter: Transmitter,
    link: LinkHeader,
}

impl Sender {
    /// Opens a packet socket on the first link.
    pub fn new(lab: &Lab) -> Result<Self> {
        let (left, right) = (link_of(lab, Side::Left)?, link_of(lab, Side::Right)?);
        let transmitter =
            lab.left.run(|| Transmitter::new(left.index, true)).context("can't open a packet socket")?;
        let src_mac = left.mac.context("no link-layer address")?;
        let dst_mac = right.mac.context("no link-layer address")?;
        Ok(Self { transmitter, link: LinkHeader { src_mac, dst_mac, vlan: None } })
    }

    /// Queues a segment.
    pub fn push(&mut self, segment: Segment) -> Result<()> {
        self.transmitter.push(segment, &self.link).context("the segment can't be a packet")
    }

    /// Sends what is queued, waiting for room at most for `patience`.
    pub fn flush(&mut self, patience: Duration) -> Flushed {
        let deadline = Instant::now() + patience;
        loop {
            match self.transmitter.flush() {
                Flushed::SocketFull | Flushed::QueueFull if Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                outcome => return outcome,
            }
        }
    }

    /// Counters of sent packets.
    pub fn counters(&self) -> mptcp_datapath::transmit::TransmitCounters {
        self.transmitter.counters
    }
}

/// The receiving end, in the right namespace. Dropping it detaches the program.
pub struct Sink {
    /// The loaded program.
    pub program: XdpProgram,
    /// The socket of the only queue.
    pub socket: Socket,
    /// The parser of the packets.
    pub receiver: Receiver,
}

impl Sink {
    /// Attaches to the first link and claims the four-tuples of [`ends`].
    pub fn new(lab: &Lab, mode: XdpMode) -> Result<Self> {
        let index = link_of(lab, Side::Right)?.index;
        lab.right.run(|| {
            let mut program = XdpProgram::load(&XdpConfig::default())?;
            program.attach(index, mode)?;
            let umem = Arc::new(Umem::new(FRAMES)?);
            let bind = Bind {
                interface: index,
                queue: 0,
                receive_frames: 0..FRAMES,
                transmit_frames: 0..0,
                copy: CopyMode::Copy,
                multi_buffer: true,
            };
            let socket = Socket::bind(&umem, None, &bind)?;
            let maps = program.maps();
            maps.set_socket(0, socket.as_fd())?;
            maps.set_interface(index, 0, 1, 1)?;
            for (slot, family) in (0..).zip(Family::BOTH) {
                let (remote, local) = ends(family);
                maps.insert_subflow(local, remote, SubflowSlot(slot), 0)?;
            }
            Ok(Self { program, socket, receiver: Receiver::default() })
        })
    }

    /// Segments that come within `patience`, until there are `count`.
    pub fn collect(&mut self, count: usize, patience: Duration) -> Vec<Segment> {
        let deadline = Instant::now() + patience;
        let mut segments = Vec::new();
        while segments.len() < count && Instant::now() < deadline {
            let receiver = &mut self.receiver;
            if self.socket.receive(64, |packet| segments.extend(receiver.segment(packet.buffers).ok())) == 0 {
                std::thread::yield_now();
            }
        }
        segments
    }
}
