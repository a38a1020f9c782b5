//! Writes the metadata in front of a packet.

use crate::packet::{Writable, past};
use crate::shared::Counts;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_meta;
use aya_ebpf::programs::XdpContext;
use core::mem::offset_of;
use mptcp_common::counter::Counter;
use mptcp_common::headers::Headers;
use mptcp_common::metadata::{FLAG_DSS, FLAG_LONG, FLAG_VLANS_SHIFT, LONG_LEN, MAGIC, Metadata, SHORT_LEN};
use mptcp_common::options::{Dss, Scan};

/// The length that the short form leaves out.
const HEAD: usize = LONG_LEN - SHORT_LEN;

/// Place of a field in the short form.
macro_rules! short {
    ($field:ident) => {{ offset_of!(Metadata, $field) - HEAD }};
}

/// Writes the long form; the short one where the kernel has no room for more; none where there is none.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // all that is known of the packet
pub fn write(
    ctx: &XdpContext,
    counts: Counts,
    headers: &Headers,
    scan: &Scan,
    dss: Option<Dss>,
    stamps: (u32, u32),
    kind: u8,
    slot: u32,
    now: u64,
) {
    let mut flags = headers.network.vlans << FLAG_VLANS_SHIFT;
    if let Some(dss) = dss {
        flags |= FLAG_DSS | dss.checksum_len;
    }
    let dss = dss.unwrap_or_default();
    let area = match area::<LONG_LEN>(ctx) {
        Some(area) => {
            area.set64::<{ offset_of!(Metadata, data_ack) }>(dss.data_ack);
            area.set64::<{ offset_of!(Metadata, dsn) }>(dss.dsn);
            area.set32::<{ offset_of!(Metadata, subflow_seq) }>(dss.subflow_seq);
            area.set16::<{ offset_of!(Metadata, data_len) }>(dss.data_len);
            area.set16::<{ offset_of!(Metadata, checksum) }>(dss.checksum);
            area.set32::<{ offset_of!(Metadata, ts_value) }>(stamps.0);
            area.set32::<{ offset_of!(Metadata, ts_echo) }>(stamps.1);
            flags |= FLAG_LONG;
            area.after::<HEAD, SHORT_LEN>()
        }
        None => match area::<SHORT_LEN>(ctx) {
            Some(area) => {
                counts.add(Counter::ShortMetadata);
                area
            }
            None => return counts.add(Counter::NoMetadata),
        },
    };
    area.set64::<{ short!(received_ns) }>(now);
    area.set32::<{ short!(slot) }>(slot);
    area.set16::<{ short!(l4) }>(headers.network.l4 as u16);
    area.set16::<{ short!(payload) }>(headers.payload as u16);
    area.set16::<{ short!(payload_len) }>(headers.payload_len as u16);
    area.set16::<{ short!(subtypes) }>(scan.subtypes as u16);
    area.set16::<{ short!(dss_at) }>(scan.dss);
    area.set16::<{ short!(ts_at) }>(scan.timestamps);
    area.set8::<{ short!(dss_flags) }>(dss.flags);
    area.set8::<{ short!(extra) }>(scan.extra());
    area.set8::<{ short!(kind) }>(kind);
    area.set8::<{ short!(flags) }>(flags);
    area.set32::<{ short!(magic) }>(MAGIC);
}

/// Makes room for `N` octets in front of the packet, in place of what the driver may have put there. Pointers
/// into the packet are no good after this.
#[inline(always)]
fn area<const N: usize>(ctx: &XdpContext) -> Option<Writable<N>> {
    let present = ctx.data() as i64 - ctx.metadata() as i64;
    // SAFETY: the context is the program's.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, (present - N as i64) as i32) } != 0 {
        return None;
    }
    let start = ctx.metadata() as *const u8;
    if past::<N>(start) > ctx.data() as *const u8 {
        return None;
    }
    // SAFETY: just compared.
    Some(unsafe { Writable::new(start.cast_mut()) })
}
