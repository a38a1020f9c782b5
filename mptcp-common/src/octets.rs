//! Bounds-checked reads from a packet.
//!
//! The decoder asks for a *view* of a constant number of octets at some offset and then reads fields at
//! constant places in it. One comparison per view, none per field; over a slice that is what the optimiser
//! likes, over packet pointers it is the only thing the verifier accepts.

/// A packet, or the part of it that can be read directly.
pub trait Octets {
    /// A view of `N` octets that are there.
    type View<const N: usize>: View<N>;

    /// Whether what [`reaches`](Self::reaches) knows is the whole packet. It is not in XDP, where a
    /// multi-buffer packet has only its first part in reach; lengths that IP claims are then left for user
    /// space to check.
    const WHOLE: bool;

    /// The `N` octets from `offset` on, if the packet has them.
    fn view<const N: usize>(&self, offset: usize) -> Option<Self::View<N>>;

    /// Whether the first `end` octets are there.
    fn reaches(&self, end: usize) -> bool;

    /// `value`. In XDP the verifier forgets what it knows of it: it follows every path through a program with
    /// all that it has learnt on the way, unless two paths look alike to it.
    #[inline(always)]
    fn forget(&self, value: u64) -> u64 {
        value
    }
    /// `value`, which has to be less than 2048, and that is all that the verifier knows of it then.
    #[inline(always)]
    fn blur(&self, value: usize) -> usize {
        value
    }
}

/// `N` octets of a packet. The places `AT` are constants, checked when the code is compiled.
pub trait View<const N: usize>: Copy {
    /// The octet at `AT`.
    fn u8<const AT: usize>(self) -> u8;
    /// Two octets as they lie in memory.
    fn raw16<const AT: usize>(self) -> u16;
    /// Four octets as they lie in memory.
    fn raw32<const AT: usize>(self) -> u32;
    /// Eight octets as they lie in memory.
    fn raw64<const AT: usize>(self) -> u64;

    /// Two octets in network order.
    #[inline(always)]
    fn u16<const AT: usize>(self) -> u16 {
        u16::from_be(self.raw16::<AT>())
    }
    /// Four octets in network order.
    #[inline(always)]
    fn u32<const AT: usize>(self) -> u32 {
        u32::from_be(self.raw32::<AT>())
    }
    /// Eight octets in network order.
    #[inline(always)]
    fn u64<const AT: usize>(self) -> u64 {
        u64::from_be(self.raw64::<AT>())
    }
}

impl<'a> Octets for &'a [u8] {
    type View<const N: usize> = &'a [u8; N];
    const WHOLE: bool = true;

    #[inline]
    fn view<const N: usize>(&self, offset: usize) -> Option<&'a [u8; N]> {
        self.get(offset..)?.first_chunk()
    }
    #[inline]
    fn reaches(&self, end: usize) -> bool {
        end <= self.len()
    }
}

impl<const N: usize> View<N> for &[u8; N] {
    #[inline]
    fn u8<const AT: usize>(self) -> u8 {
        const { assert!(AT < N) };
        self[AT]
    }
    #[inline]
    fn raw16<const AT: usize>(self) -> u16 {
        const { assert!(AT + 2 <= N) };
        u16::from_ne_bytes([self[AT], self[AT + 1]])
    }
    #[inline]
    fn raw32<const AT: usize>(self) -> u32 {
        const { assert!(AT + 4 <= N) };
        u32::from_ne_bytes([self[AT], self[AT + 1], self[AT + 2], self[AT + 3]])
    }
    #[inline]
    fn raw64<const AT: usize>(self) -> u64 {
        const { assert!(AT + 8 <= N) };
        u64::from_ne_bytes([
            self[AT],
            self[AT + 1],
            self[AT + 2],
            self[AT + 3],
            self[AT + 4],
            self[AT + 5],
            self[AT + 6],
            self[AT + 7],
        ])
    }
}
