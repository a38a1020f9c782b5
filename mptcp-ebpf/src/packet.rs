//! Direct packet access: the decoder's view of the linear part of a packet.
//!
//! The arithmetic and the loads are assembly, for three reasons. The verifier wants the comparison with the
//! packet's end to be made on the very pointer that is read from, which the optimiser doesn't promise. It
//! accepts `p + 1 > end` but not the `p >= end` that the optimiser makes of it. And fields are loaded in one
//! piece though they are not aligned, which every machine that runs XDP can do, the verifier allows, and
//! Rust's references don't.

use aya_ebpf::programs::XdpContext;
use core::arch::asm;
use mptcp_common::octets::{Octets, View};

/// Offsets stay below this: the verifier has to know a bound, and headers are shorter.
const OFFSETS: u64 = 0x7ff;

/// The linear part of a packet. Not to be kept over helper calls that change the packet.
#[derive(Clone, Copy)]
pub struct Packet {
    data: *const u8,
    end: *const u8,
    zero: u64,
}

/// Always 0, which the verifier doesn't know, because it isn't read-only.
#[unsafe(no_mangle)]
static mut ZERO: u64 = 0;

impl Packet {
    /// The packet of a context.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        // SAFETY: no code writes to it.
        let zero = unsafe { (&raw const ZERO).read_volatile() };
        Self { data: ctx.data() as *const u8, end: ctx.data_end() as *const u8, zero }
    }

    /// A pointer to `offset`, which has to be less than 2048, and the one `len` octets after it.
    #[inline(always)]
    fn range<const LEN: u64>(&self, offset: usize) -> (*const u8, *const u8) {
        let start: *const u8;
        let end: *const u8;
        // SAFETY: only arithmetic.
        unsafe {
            asm!(
                "{start} = {offset}",
                "{start} &= {mask}",
                "{start} += {data}",
                "{end} = {start}",
                "{end} += {len}",
                start = out(reg) start,
                end = out(reg) end,
                offset = in(reg) offset,
                data = in(reg) self.data,
                mask = const OFFSETS,
                len = const LEN,
                options(pure, nomem, nostack),
            );
        }
        (start, end)
    }

    /// A pointer through which `N` octets from `offset` on can be written.
    #[inline(always)]
    pub fn writable<const N: usize>(&self, offset: usize) -> Option<Writable<N>> {
        self.view::<N>(offset).map(|view| Writable(view.0.cast_mut()))
    }
}

impl Octets for Packet {
    type View<const N: usize> = Pointer<N>;
    const WHOLE: bool = false;

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<Pointer<N>> {
        let (start, end) = match N {
            1 => self.range::<1>(offset),
            2 => self.range::<2>(offset),
            4 => self.range::<4>(offset),
            8 => self.range::<8>(offset),
            10 => self.range::<10>(offset),
            12 => self.range::<12>(offset),
            14 => self.range::<14>(offset),
            16 => self.range::<16>(offset),
            20 => self.range::<20>(offset),
            24 => self.range::<24>(offset),
            40 => self.range::<40>(offset),
            54 => self.range::<54>(offset),
            _ => return None,
        };
        if end > self.end { None } else { Some(Pointer(start)) }
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        self.range::<0>(end).0 <= self.end
    }

    #[inline(always)]
    fn forget(&self, value: u64) -> u64 {
        let forgotten: u64;
        // SAFETY: only arithmetic.
        unsafe {
            asm!(
                "{value} += {zero}",
                value = inout(reg) value => forgotten,
                zero = in(reg) self.zero,
                options(pure, nomem, nostack),
            );
        }
        forgotten
    }

    #[inline(always)]
    fn blur(&self, value: usize) -> usize {
        let blurred: u64;
        // SAFETY: only arithmetic.
        unsafe {
            asm!(
                "{value} += {zero}",
                "{value} &= {mask}",
                value = inout(reg) value as u64 => blurred,
                zero = in(reg) self.zero,
                mask = const OFFSETS,
                options(pure, nomem, nostack),
            );
        }
        blurred as usize
    }
}

macro_rules! load {
    ($pointer:expr, $at:expr, $size:literal, $type:ty) => {{
        let value: u64;
        // SAFETY: the octets are inside the packet: the pointer came from `view`, and `View`'s constants from
        // asserted places in it.
        unsafe {
            asm!(
                concat!("{value} = *(", $size, " *)({pointer} + {at})"),
                value = out(reg) value,
                pointer = in(reg) $pointer,
                at = const $at,
                options(pure, readonly, nostack),
            );
        }
        value as $type
    }};
}

macro_rules! store {
    ($pointer:expr, $at:expr, $size:literal, $value:expr) => {{
        // SAFETY: as with loads; the packet belongs to the program while it runs.
        unsafe {
            asm!(
                concat!("*(", $size, " *)({pointer} + {at}) = {value}"),
                value = in(reg) $value,
                pointer = in(reg) $pointer,
                at = const $at,
                options(nostack),
            );
        }
    }};
}

/// `N` octets that are inside the packet.
#[derive(Clone, Copy)]
pub struct Pointer<const N: usize>(*const u8);

impl<const N: usize> View<N> for Pointer<N> {
    #[inline(always)]
    fn u8<const AT: usize>(self) -> u8 {
        const { assert!(AT < N) };
        load!(self.0, AT, "u8", u8)
    }
    #[inline(always)]
    fn raw16<const AT: usize>(self) -> u16 {
        const { assert!(AT + 2 <= N) };
        load!(self.0, AT, "u16", u16)
    }
    #[inline(always)]
    fn raw32<const AT: usize>(self) -> u32 {
        const { assert!(AT + 4 <= N) };
        load!(self.0, AT, "u32", u32)
    }
    #[inline(always)]
    fn raw64<const AT: usize>(self) -> u64 {
        const { assert!(AT + 8 <= N) };
        load!(self.0, AT, "u64", u64)
    }
}

/// `N` octets that are inside the packet, or in front of it as metadata. Values are stored as they lie in
/// memory.
#[derive(Clone, Copy)]
pub struct Writable<const N: usize>(*mut u8);

impl<const N: usize> Writable<N> {
    /// The `M` octets after the first `AT`.
    #[inline(always)]
    pub fn after<const AT: usize, const M: usize>(self) -> Writable<M> {
        const { assert!(AT + M <= N) };
        Writable(self.0.wrapping_add(AT))
    }
    /// # Safety
    /// `pointer` must have been compared with the end of what it points into: the `N` octets have to be
    /// there.
    #[inline(always)]
    pub unsafe fn new(pointer: *mut u8) -> Self {
        Self(pointer)
    }
    /// Stores an octet.
    #[inline(always)]
    pub fn set8<const AT: usize>(self, value: u8) {
        const { assert!(AT < N) };
        store!(self.0, AT, "u8", u64::from(value));
    }
    /// Stores two octets.
    #[inline(always)]
    pub fn set16<const AT: usize>(self, value: u16) {
        const { assert!(AT + 2 <= N) };
        store!(self.0, AT, "u16", u64::from(value));
    }
    /// Stores four octets.
    #[inline(always)]
    pub fn set32<const AT: usize>(self, value: u32) {
        const { assert!(AT + 4 <= N) };
        store!(self.0, AT, "u32", u64::from(value));
    }
    /// Stores eight octets.
    #[inline(always)]
    pub fn set64<const AT: usize>(self, value: u64) {
        const { assert!(AT + 8 <= N) };
        store!(self.0, AT, "u64", value);
    }
}

/// The address `LEN` octets after `start`, as an instruction of its own.
#[inline(always)]
pub fn past<const LEN: usize>(start: *const u8) -> *const u8 {
    let end: *const u8;
    // SAFETY: only arithmetic.
    unsafe {
        asm!(
            "{end} = {start}",
            "{end} += {len}",
            end = out(reg) end,
            start = in(reg) start,
            len = const LEN,
            options(pure, nomem, nostack),
        );
    }
    end
}
