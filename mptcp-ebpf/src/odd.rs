//! Packets that are no whole TCP segments. One that surely belongs to a subflow must not reach the kernel,
//! which has no socket for it and would answer with RST in our name.

use crate::packet::Packet;
use crate::shared::{FRAGMENTS, SUBFLOWS};
use crate::{admission, listener, redirect};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use mptcp_common::counter::Counter;
use mptcp_common::fragment::Fragment;
use mptcp_common::headers::{Network, PROTOCOL_TCP, Reason, buried};
use mptcp_common::maps::{FRAGMENT_LIFE_NS, FragmentValue, SubflowKey};
use mptcp_common::octets::{Octets as _, View as _};

/// The fate of a packet whose layers below TCP are of no use.
#[inline(always)]
pub fn network(ctx: &XdpContext, packet: Packet, reason: Reason) -> Counter {
    match reason {
        // The last fragment of a segment may be shorter than any segment.
        Reason::Fragment | Reason::Truncated => match Fragment::decode(&packet) {
            Ok(fragment) => self::fragment(ctx, packet, &fragment),
            Err(_) => reason.into(),
        },
        Reason::ExtensionHeaders => match buried(&packet) {
            Some(key) if is_subflow(&key) => Counter::SubflowMalformed,
            _ => reason.into(),
        },
        reason => reason.into(),
    }
}

/// The fate of a packet whose TCP header is of no use.
#[inline(always)]
pub fn segment(ctx: &XdpContext, network: &Network, reason: Reason) -> Counter {
    let mut ports = [0u8; 4];
    // SAFETY: the context is the program's, and the four octets are on the stack. The helper knows the whole
    // packet, of which the program itself may see the first part only.
    let failed = unsafe { bpf_xdp_load_bytes(ctx.ctx, network.l4 as u32, ports.as_mut_ptr().cast(), 4) };
    if failed != 0 {
        return reason.into();
    }
    let key = SubflowKey {
        local: network.dst,
        remote: network.src,
        local_port: u16::from_be_bytes([ports[2], ports[3]]),
        remote_port: u16::from_be_bytes([ports[0], ports[1]]),
    };
    if is_subflow(&key) { Counter::SubflowMalformed } else { reason.into() }
}

#[inline(always)]
fn is_subflow(key: &SubflowKey) -> bool {
    // SAFETY: without preallocation no element is reused while the program runs.
    unsafe { SUBFLOWS.get(key) }.is_some()
}

/// The first fragment says whose the others are. One that comes before the first is the kernel's, which does
/// not answer it.
#[inline(always)]
fn fragment(ctx: &XdpContext, packet: Packet, fragment: &Fragment) -> Counter {
    if fragment.protocol != PROTOCOL_TCP {
        return Counter::Fragment;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let shard = if fragment.offset == 0 {
        match first_fragment(ctx, packet, fragment) {
            Ok(shard) => {
                let value = FragmentValue { since_ns: now, shard, unused: 0 };
                if FRAGMENTS.insert(&fragment.key, &value, 0).is_err() {
                    return Counter::SubflowMalformed;
                }
                shard
            }
            Err(counter) => {
                // The identification has come to another segment.
                let _ = FRAGMENTS.remove(&fragment.key);
                return counter;
            }
        }
    } else {
        // SAFETY: an element that is reused meanwhile tells of another packet: user space gets a fragment too
        // many.
        match unsafe { FRAGMENTS.get(&fragment.key) } {
            Some(value) if now.wrapping_sub(value.since_ns) < FRAGMENT_LIFE_NS => value.shard,
            _ => return Counter::Fragment,
        }
    };
    if redirect(ctx, shard) { Counter::FragmentOurs } else { Counter::NoSocket }
}

/// The shard that a segment goes to of which this is the first fragment.
#[inline(always)]
fn first_fragment(ctx: &XdpContext, packet: Packet, fragment: &Fragment) -> Result<u32, Counter> {
    let ports = packet.view::<4>(fragment.data).ok_or(Counter::Fragment)?;
    let key = SubflowKey {
        local: fragment.key.dst,
        remote: fragment.key.src,
        local_port: ports.u16::<2>(),
        remote_port: ports.u16::<0>(),
    };
    // SAFETY: as with subflows above.
    if let Some(subflow) = unsafe { SUBFLOWS.get(&key) } {
        return Ok(subflow.shard);
    }
    if !admission::is_own(ctx, key.local) {
        return Err(Counter::Fragment);
    }
    let shard = listener(&key).ok_or(Counter::Fragment)?;
    admission::check(ctx, packet, key.remote)?;
    Ok(shard)
}
