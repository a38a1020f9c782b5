//! Segments without a subflow: whether they are for this host, and come from where a peer can be.
//!
//! Segments of subflows are not asked: the engine has made those with peers that passed.

use crate::packet::Packet;
use crate::shared::{LOCALS, OTHER_PEERS, PEERS, trie_key};
use aya_ebpf::programs::XdpContext;
use mptcp_common::address::Address;
use mptcp_common::counter::Counter;
use mptcp_common::maps::{LOCAL_OWN, LocalKey, PEERS_ACCEPTED, PEERS_UNRULED, PeerKey};
use mptcp_common::octets::{Octets as _, View as _};

/// The meaning that user space has given to an address; 0: none.
#[inline(always)]
fn local(ctx: &XdpContext, address: Address) -> u32 {
    let key = LocalKey::new(address, ctx.ingress_ifindex() as u32);
    // SAFETY: without preallocation no element is reused while the program runs.
    match unsafe { LOCALS.get(&key) } {
        Some(value) => value.kind,
        None => 0,
    }
}

/// Whether packets to this address end at this host. Routers and hosts of containers see others, too.
#[inline(always)]
pub fn is_own(ctx: &XdpContext, address: Address) -> bool {
    local(ctx, address) == LOCAL_OWN
}

/// Whether the segment may begin something. An error says why it is dropped.
#[inline(always)]
pub fn check(ctx: &XdpContext, packet: Packet, remote: Address) -> Result<(), Counter> {
    // The group bit: a frame for several hosts.
    if packet.view::<1>(0).is_none_or(|ethernet| ethernet.u8::<0>() & 1 != 0) {
        return Err(Counter::LinkBroadcast);
    }
    if !remote.is_unicast() || local(ctx, remote) != 0 {
        return Err(Counter::MartianSource);
    }
    let others = OTHER_PEERS.load();
    if others == PEERS_UNRULED {
        return Ok(());
    }
    let accepted = match PEERS.get(trie_key(PeerKey::of(remote))) {
        Some(accepted) => *accepted != 0,
        None => others == PEERS_ACCEPTED,
    };
    if accepted { Ok(()) } else { Err(Counter::PeerRefused) }
}
