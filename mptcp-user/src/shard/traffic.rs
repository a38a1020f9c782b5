//! Packets in, packets out.

use super::{KEY_TRANSMIT, Shard};
use mptcp_common::headers::Reason;
use mptcp_datapath::af_xdp::Budget;
use mptcp_datapath::path::{Hop, PathLimits};
use mptcp_datapath::receive::{DropReason, Receiver};
use mptcp_datapath::transmit::Flushed;
use mptcp_proto::wire::packet::{LinkHeader, ParseError};
use mptcp_proto::wire::{Flags, Segment, coalesce};
use mptcp_proto::{Instant, Unreachable};
use std::os::fd::AsFd;
use std::time::Duration;

/// What is taken from one socket in one round.
pub(super) const BUDGET: Budget = Budget { packets: 64, frames: usize::MAX };
/// The same where the application works on the same thread and after the round: what a quarter of a mebibyte of frames holds
/// is in the caches still when it reads it.
pub(super) const CACHED_BUDGET: Budget = Budget { packets: 64, frames: 64 };
/// Packets in one round after which more are looked for before they are told of.
const MANY: usize = 8;
/// Segments sent in one round.
const TRANSMIT_BUDGET: usize = 256;
/// Subflows whose packets are put together at the same time.
const COALESCE_FLOWS: usize = 8;
/// Most octets of a segment that was put together.
const COALESCE_LIMIT: usize = 65_535;
/// How long to wait when an interface's queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_micros(200);

/// Puts `segment` together with the one before of the same subflow, where they fit; what can't wait goes to `emit`.
fn gather(held: &mut Vec<Segment>, segment: Segment, receiver: &mut Receiver, mut emit: impl FnMut(Segment)) {
    let place = held.iter().position(|first| first.src == segment.src && first.dst == segment.dst);
    let Some(place) = place else {
        if held.len() >= COALESCE_FLOWS {
            emit(held.remove(0));
        }
        held.push(segment);
        return;
    };
    match coalesce(&mut held[place], segment, COALESCE_LIMIT) {
        Ok(()) => receiver.counters.coalesced += 1,
        Err(segment) => emit(std::mem::replace(&mut held[place], *segment)),
    }
}

/// Octets of the largest packet of a segment, IP header included.
fn largest_packet(segment: &Segment) -> usize {
    let headers = if segment.src.is_ipv4() { 40 } else { 60 };
    let options = segment.options.emit().map_or(0, |options| options.len());
    let payload = segment.payload.len();
    let cut = if segment.gso_size == 0 { payload } else { payload.min(usize::from(segment.gso_size)) };
    headers + options + cut
}

/// Whether a segment that was kept for the next ones is continued by this one.
fn continues(held: &[Segment], segment: &Segment) -> bool {
    held.iter().any(|first| {
        first.src == segment.src
            && first.dst == segment.dst
            && first.seq_end() == segment.seq
            && !first.payload.is_empty()
            && !first.payload.is_hollow()
    })
}

impl Shard {
    /// Receives a batch from every socket. Whether there was anything.
    pub(super) fn receive(&mut self, time: Instant) -> bool {
        let Self { attachments, receiver, fragments, endpoint, coalescing, capture, paths, budget, .. } =
            self;
        let mut packets = 0;
        for attachment in attachments {
            for socket in &mut attachment.sockets {
                packets += socket.receive(*budget, |packet| {
                    if let Some(capture) = capture {
                        capture.received(attachment.index, packet.buffers);
                    }
                    // What continues a segment of this batch is as welcome as that: nobody is asked for each
                    // packet.
                    let wanted = |segment: &Segment, octets: usize| {
                        continues(coalescing, segment) || !endpoint.refuses(time, segment, octets)
                    };
                    let segment = match receiver.segment_if(packet.buffers, wanted) {
                        Err(DropReason::Malformed(ParseError::Headers(
                            Reason::Fragment | Reason::Truncated,
                        ))) => fragments.add(time, packet.buffers).map(|whole| receiver.segment(&[&whole])),
                        segment => Some(segment),
                    };
                    if let Some(Ok(segment)) = segment {
                        if segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK) {
                            paths.arrived(attachment.index, segment.dst.ip(), segment.src.ip());
                        }
                        gather(coalescing, segment, receiver, |segment| {
                            endpoint.handle_segment(time, segment);
                        });
                    }
                });
            }
        }
        for segment in coalescing.drain(..) {
            endpoint.handle_segment(time, segment);
        }
        if self.receiver.wants_compaction() {
            self.compact();
        }
        if self.mailbox.is_tight() != self.receiver.is_tight() {
            self.mailbox.set_tight(self.receiver.is_tight());
        }
        let Self { receiver, .. } = self;
        receiver.counters.batches += u64::from(packets > 0);
        if packets >= MANY
            && let Err(error) = self.hear_of_packets(false)
        {
            tracing::debug!("leaving epoll failed: {error}");
        }
        packets > 0
    }

    /// Copies what waits, wherever it does, because it holds on to much more memory than it fills.
    #[cold]
    fn compact(&mut self) {
        self.endpoint.compact();
        for connection in self.connections.values() {
            connection.channel.compact();
        }
        self.receiver.compacted();
    }

    /// Takes segments from the engine to their interfaces' queues. Whether there were any.
    pub(super) fn transmit(&mut self, time: Instant) -> bool {
        let mut any = false;
        for _ in 0..TRANSMIT_BUDGET {
            let Some(segment) = self.endpoint.poll_transmit(time) else { break };
            any = true;
            self.send(time, segment);
        }
        any
    }

    fn send(&mut self, time: Instant, segment: Segment) {
        match self.paths.hop(time, segment.src.ip(), segment.dst.ip()) {
            Hop::Ready { interface, mac, limits } if limits == PathLimits::default() => {
                self.push(interface, mac, segment, false);
            }
            Hop::Ready { interface, mac, limits } => self.send_within(time, interface, mac, limits, segment),
            Hop::Resolving { interface, next_hop } => {
                self.paths.wait(time, interface, next_hop, segment);
            }
            Hop::NoRoute => {
                self.endpoint.route_lost(time, segment.src, segment.dst);
            }
        }
    }

    /// Sends a segment by a route that has something to say of the size of packets. One that is too large is
    /// dropped, and the engine is told, as the kernel tells its own sockets (`EMSGSIZE`).
    fn send_within(
        &mut self,
        time: Instant,
        interface: u32,
        mac: [u8; 6],
        limits: PathLimits,
        mut segment: Segment,
    ) {
        if limits.mss > 0 && segment.flags.has(Flags::SYN) {
            segment.options.mss = segment.options.mss.map(|mss| mss.min(limits.mss));
        }
        let mtu = (limits.mtu > 0).then_some(limits.mtu);
        let too_large = mtu.is_some_and(|mtu| largest_packet(&segment) > mtu as usize);
        if too_large || limits.renewed {
            let smaller = self.endpoint.limit_path(time, segment.src, segment.dst, mtu);
            if too_large && smaller {
                return;
            }
        }
        self.push(interface, mac, segment, limits.locked);
    }

    fn push(&mut self, interface: u32, mac: [u8; 6], segment: Segment, fragmentable: bool) {
        let Some(attachment) = self.attachments.iter_mut().find(|attachment| attachment.index == interface)
        else {
            return;
        };
        let link = LinkHeader { src_mac: attachment.mac, dst_mac: mac, vlan: None };
        if let Some(capture) = &mut self.capture {
            capture.sent(interface, &segment, &link);
        }
        let pushed = if fragmentable {
            attachment.transmitter.push_fragmentable(segment, &link)
        } else {
            attachment.transmitter.push(segment, &link)
        };
        if let Err(error) = pushed {
            tracing::debug!("a segment can't be sent: {error}");
        }
    }

    /// Segments that waited for a next hop, which has been resolved or not.
    pub(super) fn resolved(
        &mut self,
        time: Instant,
        reachable: bool,
        waiting: impl IntoIterator<Item = Segment>,
    ) {
        for segment in waiting {
            if reachable {
                self.send(time, segment);
            } else {
                self.unreachable(time, &segment);
            }
        }
    }

    /// Tells the engine that a segment could not be sent. Not a hard error: routes and neighbours come back.
    fn unreachable(&mut self, time: Instant, segment: &Segment) {
        let unreachable = Unreachable {
            local: segment.src,
            remote: segment.dst,
            seq: segment.seq.0,
            mtu: None,
            hard: false,
        };
        self.endpoint.handle_unreachable(time, unreachable);
    }

    /// Whether the kernel has all that was to be sent.
    pub(super) fn all_sent(&self) -> bool {
        self.attachments.iter().all(|attachment| attachment.transmitter.waiting() == 0)
    }

    /// Hands the interfaces' queues to the kernel.
    pub(super) fn flush(&mut self, time: Instant) {
        for attachment in &mut self.attachments {
            if attachment.blocked || attachment.retry.is_some() || attachment.transmitter.waiting() == 0 {
                continue;
            }
            match attachment.transmitter.flush() {
                Flushed::All => {}
                Flushed::SocketFull => {
                    let key = KEY_TRANSMIT + u64::from(attachment.index);
                    match self.epoll.arm_writable(attachment.transmitter.as_fd(), key) {
                        Ok(()) => attachment.blocked = true,
                        Err(_) => attachment.retry = Some(time + QUEUE_FULL_PAUSE),
                    }
                }
                Flushed::QueueFull => attachment.retry = Some(time + QUEUE_FULL_PAUSE),
                Flushed::Down => tracing::debug!("{} is down", attachment.report.name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_proto::wire::SeqNumber;

    fn segment(port: u16, seq: u32, len: usize) -> Segment {
        let mut segment = Segment::new(([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 2).into());
        segment.flags = Flags::ACK;
        segment.seq = SeqNumber(seq);
        segment.payload = vec![port as u8; len].into();
        segment
    }

    #[test]
    fn consecutive_packets_of_interleaved_subflows_become_one_segment_each() {
        let (mut held, mut receiver, mut out) = (Vec::new(), Receiver::default(), Vec::new());
        for index in 0..10 {
            for port in 1..=3 {
                gather(&mut held, segment(port, index * 1000, 1000), &mut receiver, |segment| {
                    out.push(segment);
                });
            }
        }
        assert!(out.is_empty());
        let lengths: Vec<usize> = held.iter().map(|segment| segment.payload.len()).collect();
        assert_eq!(lengths, [10_000; 3]);
        assert_eq!(receiver.counters.coalesced, 27);
    }

    #[test]
    fn what_does_not_continue_is_emitted_in_order() {
        let (mut held, mut receiver, mut out) = (Vec::new(), Receiver::default(), Vec::new());
        for (seq, len) in [(0, 1000), (1000, 1000), (5000, 1000), (6000, 10), (7000, 1000)] {
            gather(&mut held, segment(1, seq, len), &mut receiver, |segment| out.push(segment));
        }
        out.append(&mut held);
        let seen: Vec<_> = out.iter().map(|segment| (segment.seq.0, segment.payload.len())).collect();
        assert_eq!(seen, [(0, 2000), (5000, 1010), (7000, 1000)]);
    }

    #[test]
    fn no_more_than_a_few_subflows_are_held() {
        let (mut held, mut receiver, mut out) = (Vec::new(), Receiver::default(), Vec::new());
        for port in 1..=20 {
            gather(&mut held, segment(port, 0, 100), &mut receiver, |segment| out.push(segment));
        }
        assert_eq!((held.len(), out.len()), (COALESCE_FLOWS, 20 - COALESCE_FLOWS));
        assert_eq!(out[0].src.port(), 1);
    }
}
