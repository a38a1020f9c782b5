//! The XDP program: which packets are ours, what their DSS says, and which AF_XDP socket takes them.
//!
//! A segment of one of our subflows gets what the options say written in front of it ([`metadata`]) and into
//! the telemetry array, and goes to the socket of the shard that owns the connection. A SYN for one of our
//! listeners, and an MP_JOIN with one of our tokens, go up the slow path to the same sockets. An MP_JOIN with
//! an unknown token is refused on the spot ([`refuse`]). A segment without a subflow is ours only if it is
//! for an address of this host, and must come from where a peer can be ([`admission`]). Everything else is
//! the kernel's, and so is whatever can't be made sense of, unless it surely belongs to a subflow: then user
//! space puts it together if it is a fragment, and otherwise it is dropped ([`odd`]).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod admission;
mod metadata;
mod odd;
mod packet;
mod refuse;
mod shared;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use mptcp_common::counter::Counter;
use mptcp_common::event::{EVENT_HARD, EVENT_TOO_BIG, Event, EventKind};
use mptcp_common::headers::{Headers, Network, PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};
use mptcp_common::icmp::Quote;
use mptcp_common::maps::{
    INTERFACE_PROBES, INTERFACE_TABLE, InterfaceValue, ListenerKey, PortValue, SubflowKey, SubflowValue,
    Telemetry,
};
use mptcp_common::metadata::{Kind, NO_SLOT};
use mptcp_common::octets::Octets as _;
use mptcp_common::options::{self, Dss, JoinSyn, Scan};
use packet::Packet;
use shared::{Counts, EVENTS, INTERFACES, LISTENERS, PORTS, SOCKETS, SUBFLOWS, TELEMETRY, TOKENS};

/// Multi-buffer packets are welcome: the headers are in the first buffer.
#[xdp(frags)]
pub fn mptcp_xdp(ctx: XdpContext) -> u32 {
    let Some(counts) = Counts::new() else { return XDP_PASS };
    match handle(&ctx, counts) {
        Ok(()) => XDP_REDIRECT,
        Err(counter) => {
            counts.add(counter);
            #[cfg(feature = "log")]
            aya_log_ebpf::debug!(&ctx, "not for user space: counter {}", counter as u32);
            match counter {
                Counter::JoinRefused => XDP_TX,
                Counter::FragmentOurs => XDP_REDIRECT,
                Counter::JoinDropped
                | Counter::MartianSource
                | Counter::LinkBroadcast
                | Counter::PeerRefused
                | Counter::NoSocket
                | Counter::SubflowMalformed => XDP_DROP,
                _ => XDP_PASS,
            }
        }
    }
}

/// Hands the packet to user space, or says what else becomes of it.
#[inline(always)]
fn handle(ctx: &XdpContext, counts: Counts) -> Result<(), Counter> {
    let packet = Packet::new(ctx);
    let network = match Network::decode(&packet) {
        Ok(network) => network,
        Err(reason) => return Err(odd::network(ctx, packet, reason)),
    };
    if network.protocol != PROTOCOL_TCP {
        return Err(unreachable(ctx, counts, &Quote::decode(&packet, &network)?));
    }
    let headers = match Headers::decode(&packet, network) {
        Ok(headers) => headers,
        Err(reason) => return Err(odd::segment(ctx, &network, reason)),
    };
    // Most of the kernel's own traffic ends here, before any hash is computed.
    let Some(port) = PORTS.get(u32::from(headers.dst_port)) else { return Err(Counter::ForeignPort) };
    if port.users == 0 && !is_syn(&headers) {
        return Err(Counter::ForeignPort);
    }
    let scan = options::scan(&packet, headers.options(), headers.payload);
    let mut target = target(ctx, packet, &headers, &scan, port)?;
    // Knowledge of the values on each path would make the verifier follow the paths separately.
    target.kind = packet.forget(target.kind);
    target.slot = packet.forget(target.slot);

    let mut dss = None;
    if scan.dss != 0 {
        dss = Dss::read(&packet, scan.dss as usize, scan.dss_len);
        if dss.is_none() {
            counts.add(Counter::MalformedDss);
        }
    }
    if scan.malformed != 0 {
        counts.add(Counter::MalformedOptions);
    }
    // If there are none this reads something else, which nobody looks at.
    let stamps = options::timestamps(&packet, scan.timestamps as usize).unwrap_or_default();
    if !redirect(ctx, target.shard) {
        return Err(Counter::NoSocket);
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if let Some(telemetry) = TELEMETRY.get_ptr_mut(target.slot as u32) {
        // SAFETY: an element of the array; user space reads it by whole words at any time.
        note(unsafe { &mut *telemetry }, &headers, dss.as_ref(), now);
    }
    let kind = target.kind as usize;
    counts.add_up(kind);
    metadata::write(ctx, counts, &headers, &scan, dss, stamps, kind as u8, target.slot as u32, now);
    Ok(())
}

/// SYN and nothing that makes it anything else than the first segment of a connection.
#[inline(always)]
fn is_syn(headers: &Headers) -> bool {
    headers.flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN
}

/// Where a segment of ours goes.
struct Target {
    kind: u64,
    slot: u64,
    shard: u32,
}

/// The owner of a segment. An error, if it isn't for user space.
#[inline(always)]
fn target(
    ctx: &XdpContext,
    packet: Packet,
    headers: &Headers,
    scan: &Scan,
    port: &PortValue,
) -> Result<Target, Counter> {
    let key = SubflowKey {
        local: headers.network.dst,
        remote: headers.network.src,
        local_port: headers.dst_port,
        remote_port: headers.src_port,
    };
    let of = |subflow: &SubflowValue| Target {
        kind: Kind::Subflow as u64,
        slot: u64::from(subflow.slot),
        shard: subflow.shard,
    };
    if port.is_sole(&key) {
        return Ok(of(&port.value));
    }
    // SAFETY: without preallocation no element is reused while the program runs.
    if let Some(subflow) = unsafe { SUBFLOWS.get(&key) } {
        return Ok(of(subflow));
    }
    let syn = is_syn(headers);
    let join = syn && scan.join != 0;
    if port.users == 0 && !join || !admission::is_own(ctx, key.local) {
        return Err(Counter::Foreign);
    }
    if join
        && let Some(join) = JoinSyn::read(&packet, scan.join as usize)
        // SAFETY: as above.
        && let Some(token) = unsafe { TOKENS.get(join.token) }
    {
        admission::check(ctx, packet, key.remote)?;
        return Ok(Target { kind: Kind::Join as u64, slot: u64::from(NO_SLOT), shard: token.shard });
    }
    let Some(shard) = listener(&key) else { return Err(Counter::Foreign) };
    admission::check(ctx, packet, key.remote)?;
    if !join {
        let kind = if syn { Kind::ListenerSyn } else { Kind::ListenerSegment };
        return Ok(Target { kind: kind as u64, slot: u64::from(NO_SLOT), shard });
    }
    match refuse::refuse(ctx, headers) {
        Some(counter) => Err(counter),
        None => Ok(Target { kind: Kind::JoinToRefuse as u64, slot: u64::from(NO_SLOT), shard }),
    }
}

/// Whether a subflow or a listener of ours uses the local port.
#[inline(always)]
fn uses(port: u16) -> bool {
    match PORTS.get(u32::from(port)) {
        Some(port) => port.users != 0,
        None => false,
    }
}

/// The shard for a segment that belongs to no subflow, if a listener of ours has its address and port.
#[inline(always)]
pub(crate) fn listener(key: &SubflowKey) -> Option<u32> {
    let mut wanted = ListenerKey { address: key.local, port: u32::from(key.local_port) };
    // SAFETY: as with subflows.
    let exact = unsafe { LISTENERS.get(&wanted) };
    let listener = match exact {
        Some(listener) => listener,
        None => {
            wanted.address = key.local.any();
            // SAFETY: as with subflows.
            unsafe { LISTENERS.get(&wanted) }?
        }
    };
    Some(listener.shard + key.spread(listener.shards))
}

/// The entry of the interface that the packet came by.
#[inline(always)]
fn interface(ctx: &XdpContext) -> Option<&'static InterfaceValue> {
    // No loop: kernels before 6.3 refuse some that have a call in them.
    const { assert!(INTERFACE_PROBES == 4) };
    let index = ctx.ingress_ifindex() as u32;
    probe(index, 0).or_else(|| probe(index, 1)).or_else(|| probe(index, 2)).or_else(|| probe(index, 3))
}

/// One place where the entry of an interface may be.
#[inline(always)]
fn probe(index: u32, probe: u32) -> Option<&'static InterfaceValue> {
    let entry = INTERFACES.get((index + probe) & (INTERFACE_TABLE - 1))?;
    if entry.index == index { Some(entry) } else { None }
}

/// Names the socket of a shard as the packet's destination, if there is one. Changes of the packet until the
/// program returns still reach it.
#[inline(always)]
pub(crate) fn redirect(ctx: &XdpContext, shard: u32) -> bool {
    let Some(entry) = interface(ctx) else { return false };
    match entry.xsk_index(shard, ctx.rx_queue_index()) {
        Some(place) => SOCKETS.redirect(place, XDP_DROP.into()).is_ok(),
        None => false,
    }
}

#[inline(always)]
fn note(telemetry: &mut Telemetry, headers: &Headers, dss: Option<&Dss>, now: u64) {
    telemetry.packets += 1;
    telemetry.octets += headers.payload_len as u64;
    telemetry.seen_ns = now;
    telemetry.ack = headers.ack;
    telemetry.window = u32::from(headers.window);
    if let Some(dss) = dss {
        telemetry.dss_packets += 1;
        if dss.has(options::DSS_DATA_ACK) {
            telemetry.data_ack = dss.data_ack;
        }
        if dss.has(options::DSS_MAPPING) {
            telemetry.dsn = dss.dsn;
            telemetry.subflow_seq = dss.subflow_seq;
            telemetry.data_len = u32::from(dss.data_len);
        }
    }
}

/// An ICMP error: if it is about a subflow of ours, user space is told. The kernel gets the packet in any
/// case, since it keeps the path MTU of its routes by it.
#[inline(always)]
fn unreachable(ctx: &XdpContext, counts: Counts, quote: &Quote) -> Counter {
    if !uses(quote.local_port) {
        return Counter::IcmpForeign;
    }
    let key = SubflowKey {
        local: quote.local,
        remote: quote.remote,
        local_port: quote.local_port,
        remote_port: quote.remote_port,
    };
    // SAFETY: without preallocation no element is reused while the program runs.
    let Some(subflow) = (unsafe { SUBFLOWS.get(&key) }) else { return Counter::IcmpForeign };
    let event = Event {
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        kind: EventKind::Unreachable as u32,
        interface: ctx.ingress_ifindex() as u32,
        slot: subflow.slot,
        shard: subflow.shard,
        flags: if quote.too_big { EVENT_TOO_BIG } else { 0 } | if quote.hard { EVENT_HARD } else { 0 },
        mtu: quote.mtu,
        seq: quote.seq,
        key,
    };
    if EVENTS.output::<Event>(&event, 0).is_err() {
        counts.add(Counter::EventLost);
    }
    Counter::IcmpOurs
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
