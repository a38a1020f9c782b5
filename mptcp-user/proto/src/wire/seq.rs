//! Sequence numbers that wrap, one type per space (RFC 9293 section 3.4, RFC 8684 section 3.3.1).

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

macro_rules! sequence_number {
    ($(#[$doc:meta])* $name:ident, $unsigned:ty, $signed:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $unsigned);

        impl $name {
            /// Signed distance from `earlier` to `self`, correct while the two are less than half the space apart.
            #[inline]
            pub fn distance(self, earlier: Self) -> $signed {
                self.0.wrapping_sub(earlier.0) as $signed
            }
            /// `self` comes before `other` in the wrapping order.
            #[inline]
            pub fn before(self, other: Self) -> bool {
                self.distance(other) < 0
            }
            /// `self` comes after `other` in the wrapping order.
            #[inline]
            pub fn after(self, other: Self) -> bool {
                self.distance(other) > 0
            }
            /// `self` is `other` or comes after it.
            #[inline]
            pub fn at_or_after(self, other: Self) -> bool {
                self.distance(other) >= 0
            }
            /// `self` is `other` or comes before it.
            #[inline]
            pub fn at_or_before(self, other: Self) -> bool {
                self.distance(other) <= 0
            }
            /// The later of two numbers in the wrapping order.
            #[inline]
            pub fn later(self, other: Self) -> Self {
                if self.before(other) { other } else { self }
            }
            /// The earlier of two numbers in the wrapping order.
            #[inline]
            pub fn earlier(self, other: Self) -> Self {
                if self.before(other) { self } else { other }
            }
        }

        impl Add<$unsigned> for $name {
            type Output = Self;
            #[inline]
            fn add(self, octets: $unsigned) -> Self {
                Self(self.0.wrapping_add(octets))
            }
        }
        impl AddAssign<$unsigned> for $name {
            #[inline]
            fn add_assign(&mut self, octets: $unsigned) {
                *self = *self + octets;
            }
        }
        impl Sub<$unsigned> for $name {
            type Output = Self;
            #[inline]
            fn sub(self, octets: $unsigned) -> Self {
                Self(self.0.wrapping_sub(octets))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

sequence_number!(
    /// A TCP sequence number of one subflow: 32 bits, counted in octets.
    SeqNumber,
    u32,
    i32
);
sequence_number!(
    /// A data sequence number of a connection: 64 bits, counted in octets.
    DataSeq,
    u64,
    i64
);

impl DataSeq {
    /// The 64-bit number closest to `self` whose low 32 bits are `low`: what a 4-octet DSN or Data ACK stands for
    /// (RFC 8684 section 3.3.1).
    #[inline]
    //= RFC 8684 3.3.1-6
    pub fn expand(self, low: u32) -> Self {
        self + i64::from(low.wrapping_sub(self.0 as u32) as i32) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    //= RFC 8684 3.3.1-3 (test)
    fn order_survives_the_wrap() {
        assert!(SeqNumber(u32::MAX).before(SeqNumber(3)));
        assert_eq!(SeqNumber(2).distance(SeqNumber(u32::MAX)), 3);
        assert_eq!((SeqNumber(u32::MAX) + 1), SeqNumber(0));
        assert!(DataSeq(1).after(DataSeq(u64::MAX)));
        assert_eq!(SeqNumber(5).later(SeqNumber(u32::MAX)), SeqNumber(5));
        assert_eq!(SeqNumber(5).earlier(SeqNumber(u32::MAX)), SeqNumber(u32::MAX));
    }

    #[test]
    //= RFC 8684 3.3.1-6 (test)
    fn a_short_number_expands_to_the_nearest_long_one() {
        let near = DataSeq(0x1_ffff_fff0);
        assert_eq!(near.expand(0xffff_fff8), DataSeq(0x1_ffff_fff8));
        assert_eq!(near.expand(0x0000_0008), DataSeq(0x2_0000_0008));
        assert_eq!(DataSeq(0x2_0000_0008).expand(0xffff_fff0), DataSeq(0x1_ffff_fff0));
        assert_eq!(DataSeq(4).expand(0xffff_ffff), DataSeq(u64::MAX));
    }
}
