//! Refuses an MP_JOIN with an unknown token: RST with MP_TCPRST (RFC 8684 sections 3.2 and 3.6), made of the
//! SYN itself.
//!
//! No state is needed for that, neither here nor in user space; but a limit is, so that a flood of such SYNs
//! doesn't become a flood of answers.

use crate::packet::{Packet, Writable};
use crate::shared::{EVENTS, REFUSALS, REFUSALS_PER_SECOND};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use mptcp_common::address::Address;
use mptcp_common::counter::Counter;
use mptcp_common::event::{Event, EventKind};
use mptcp_common::headers::{Headers, PROTOCOL_TCP, TCP_ACK, TCP_RST};
use mptcp_common::maps::SubflowKey;
use mptcp_common::octets::{Octets as _, View as _};

/// Octets of the RST's TCP header: MP_TCPRST is its only option.
const TCP_LEN: u16 = 24;
/// MP_TCPRST: kind, length, subtype and flags (nothing transient about it), reason 1 "MPTCP-specific error".
const MP_TCPRST: u32 = 0x1e04_8001;
/// Octets of the shortest Ethernet frame, without its checksum.
const MIN_FRAME: usize = 60;
/// Time to live and hop limit.
const HOPS: u8 = 64;

const SECOND: u64 = 1_000_000_000;

/// Makes the packet the answer to itself. None if user space should do that.
#[inline(always)]
pub fn refuse(ctx: &XdpContext, headers: &Headers) -> Option<Counter> {
    let limit = u64::from(REFUSALS_PER_SECOND.load());
    let (l3, l4) = (headers.network.l3, headers.network.l4);
    // Options and extension headers would have to be left out; no known stack sends such SYNs.
    if limit == 0 || l4 - l3 != if headers.network.dst.is_v4() { 20 } else { 40 } {
        return None;
    }
    if !allowed(ctx, headers, limit)? {
        return Some(Counter::JoinDropped);
    }
    let frame = if l4 + (TCP_LEN as usize) < MIN_FRAME { MIN_FRAME } else { l4 + TCP_LEN as usize };
    // SAFETY: the context is the program's.
    let len = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as i32;
    // SAFETY: as above. The SYN had at least 32 octets of TCP header, so this makes it shorter.
    let shortened = unsafe { bpf_xdp_adjust_tail(ctx.ctx, frame as i32 - len) } == 0;
    // From here on the packet may be changed: it can't be handed on any more.
    if shortened && write(ctx, headers).is_some() {
        Some(Counter::JoinRefused)
    } else {
        Some(Counter::JoinDropped)
    }
}

/// Whether one more refusal in this second is within the limit.
#[inline(always)]
fn allowed(ctx: &XdpContext, headers: &Headers, limit: u64) -> Option<bool> {
    // SAFETY: the element is this CPU's own.
    let refusals = unsafe { &mut *REFUSALS.get_ptr_mut(0)? };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if now - refusals.since_ns > SECOND {
        refusals.since_ns = now;
        refusals.count = 0;
    }
    refusals.count += 1;
    if refusals.count == limit + 1 {
        let event = Event {
            time_ns: now,
            kind: EventKind::RefusalsLimited as u32,
            interface: ctx.ingress_ifindex() as u32,
            slot: 0,
            shard: 0,
            flags: 0,
            mtu: 0,
            seq: 0,
            key: SubflowKey {
                local: headers.network.dst,
                remote: headers.network.src,
                local_port: headers.dst_port,
                remote_port: headers.src_port,
            },
        };
        let _ = EVENTS.output::<Event>(&event, 0);
    }
    Some(refusals.count <= limit)
}

#[inline(always)]
fn write(ctx: &XdpContext, headers: &Headers) -> Option<()> {
    let packet = Packet::new(ctx);
    let network = &headers.network;

    let ethernet = packet.writable::<12>(0)?;
    let macs = packet.view::<12>(0)?;
    let (to, to_end) = (macs.raw32::<0>(), macs.raw16::<4>());
    let (from, from_end) = (macs.raw32::<6>(), macs.raw16::<10>());
    ethernet.set32::<0>(from);
    ethernet.set16::<4>(from_end);
    ethernet.set32::<6>(to);
    ethernet.set16::<10>(to_end);

    let (local, remote) = (network.dst, network.src);
    if local.is_v4() {
        ipv4(packet.writable::<20>(network.l3)?, local, remote);
    } else {
        ipv6(packet.writable::<40>(network.l3)?, local, remote);
    }

    // RFC 9293 section 3.10.7.1: no ACK in the SYN, so the RST has sequence number 0 and acknowledges all of
    // it.
    let ack = headers.seq.wrapping_add(1).wrapping_add(headers.payload_len as u32);
    let offset_and_flags = TCP_LEN / 4 << 12 | TCP_RST | TCP_ACK;
    let sum = addresses(local, remote)
        + u64::from(PROTOCOL_TCP)
        + u64::from(TCP_LEN)
        + u64::from(headers.dst_port)
        + u64::from(headers.src_port)
        + u64::from(ack)
        + u64::from(offset_and_flags)
        + u64::from(MP_TCPRST);
    let tcp = packet.writable::<24>(network.l4)?;
    tcp.set16::<0>(headers.dst_port.to_be());
    tcp.set16::<2>(headers.src_port.to_be());
    tcp.set32::<4>(0);
    tcp.set32::<8>(ack.to_be());
    tcp.set16::<12>(offset_and_flags.to_be());
    tcp.set16::<14>(0);
    tcp.set16::<16>(checksum(sum).to_be());
    tcp.set16::<18>(0);
    tcp.set32::<20>(MP_TCPRST.to_be());
    Some(())
}

#[inline(always)]
fn ipv4(ip: Writable<20>, local: Address, remote: Address) {
    const FIRST: u32 = 0x4500_0000 | (20 + TCP_LEN) as u32;
    const DONT_FRAGMENT: u32 = 0x0000_4000;
    const THIRD: u32 = (HOPS as u32) << 24 | (PROTOCOL_TCP as u32) << 16;
    let sum = addresses(local, remote) + FIRST as u64 + DONT_FRAGMENT as u64 + THIRD as u64;
    // The mapped form has 0xffff in front of each address: nothing in ones' complement.
    ip.set32::<0>(FIRST.to_be());
    ip.set32::<4>(DONT_FRAGMENT.to_be());
    ip.set32::<8>((THIRD | u32::from(checksum(sum))).to_be());
    ip.set32::<12>(local.0[3]);
    ip.set32::<16>(remote.0[3]);
}

#[inline(always)]
fn ipv6(ip: Writable<40>, local: Address, remote: Address) {
    ip.set32::<0>(0x6000_0000_u32.to_be());
    ip.set16::<4>(TCP_LEN.to_be());
    ip.set8::<6>(PROTOCOL_TCP);
    ip.set8::<7>(HOPS);
    ip.set32::<8>(local.0[0]);
    ip.set32::<12>(local.0[1]);
    ip.set32::<16>(local.0[2]);
    ip.set32::<20>(local.0[3]);
    ip.set32::<24>(remote.0[0]);
    ip.set32::<28>(remote.0[1]);
    ip.set32::<32>(remote.0[2]);
    ip.set32::<36>(remote.0[3]);
}

/// Sum of both addresses' 32-bit words.
#[inline(always)]
fn addresses(a: Address, b: Address) -> u64 {
    let word = |word: u32| u64::from(u32::from_be(word));
    word(a.0[0])
        + word(a.0[1])
        + word(a.0[2])
        + word(a.0[3])
        + word(b.0[0])
        + word(b.0[1])
        + word(b.0[2])
        + word(b.0[3])
}

/// Folds a sum of 16-bit and 32-bit words into a checksum (RFC 1071: 32-bit words may be summed as such).
#[inline(always)]
const fn checksum(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
