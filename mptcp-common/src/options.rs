//! TCP options (RFC 9293 section 3.1): one bounded walker for the XDP program and for user space.
//!
//! User space iterates over all options with [`OptionIter`]; the XDP program makes one [`scan`] for those
//! that it needs. Both take their steps with [`step`], so they agree on where an option begins, on how long
//! it is, and on malformed options. [`Dss`] and [`JoinSyn`] are the two options of Multipath TCP (RFC 8684
//! sections 3.3 and 3.2; RFC 6824 has the same layout) that XDP reads; user space reads the others by itself.

use crate::octets::{Octets, View};

/// Octets that options can take: a data offset of 15 words less the header of 5.
pub const MAX_OPTIONS_LEN: usize = 40;

/// End of option list.
pub const KIND_END: u8 = 0;
/// No operation.
pub const KIND_NOP: u8 = 1;
/// Maximum segment size.
pub const KIND_MSS: u8 = 2;
/// Window scale (RFC 7323 section 2).
pub const KIND_WINDOW_SCALE: u8 = 3;
/// SACK permitted (RFC 2018 section 2).
pub const KIND_SACK_PERMITTED: u8 = 4;
/// SACK (RFC 2018 section 3).
pub const KIND_SACK: u8 = 5;
/// Timestamps (RFC 7323 section 3).
pub const KIND_TIMESTAMPS: u8 = 8;
/// Multipath TCP (RFC 8684 section 3).
pub const KIND_MPTCP: u8 = 30;

/// MP_CAPABLE.
pub const SUBTYPE_CAPABLE: u8 = 0;
/// MP_JOIN.
pub const SUBTYPE_JOIN: u8 = 1;
/// DSS.
pub const SUBTYPE_DSS: u8 = 2;
/// ADD_ADDR.
pub const SUBTYPE_ADD_ADDR: u8 = 3;
/// REMOVE_ADDR.
pub const SUBTYPE_REMOVE_ADDR: u8 = 4;
/// MP_PRIO.
pub const SUBTYPE_PRIO: u8 = 5;
/// MP_FAIL.
pub const SUBTYPE_FAIL: u8 = 6;
/// MP_FASTCLOSE.
pub const SUBTYPE_FASTCLOSE: u8 = 7;
/// MP_TCPRST (version 1 only).
pub const SUBTYPE_RESET: u8 = 8;

/// DSS flag A: Data ACK present.
pub const DSS_DATA_ACK: u8 = 0x01;
/// DSS flag a: the Data ACK has 8 octets.
pub const DSS_DATA_ACK_LONG: u8 = 0x02;
/// DSS flag M: mapping present.
pub const DSS_MAPPING: u8 = 0x04;
/// DSS flag m: the data sequence number has 8 octets.
pub const DSS_DSN_LONG: u8 = 0x08;
/// DSS flag F: DATA_FIN.
pub const DSS_DATA_FIN: u8 = 0x10;

/// The content of one place of the option area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The end of the options: explicitly, or because the area ends.
    End,
    /// One octet of padding.
    Nop,
    /// An option of `len` octets, kind and length octet included: at least 2, and all inside the area.
    Option {
        /// The kind.
        kind: u8,
        /// Octets from the kind on.
        len: u8,
    },
    /// An option whose length is missing, less than 2, or more than what is left. Where the next one begins
    /// can't be known.
    Malformed,
}

/// The content at `at` of `octets`, in an option area that ends before `end`.
#[inline(always)]
pub fn step<O: Octets>(octets: &O, at: usize, end: usize) -> Step {
    if at >= end {
        return Step::End;
    }
    let kind = match octets.view::<1>(at) {
        Some(view) => view.u8::<0>(),
        None => return Step::Malformed,
    };
    if kind == KIND_NOP {
        return Step::Nop;
    }
    if kind == KIND_END {
        return Step::End;
    }
    if at + 2 > end {
        return Step::Malformed;
    }
    match octets.view::<1>(at + 1) {
        Some(view) => {
            let len = view.u8::<0>();
            if len < 2 || at + len as usize > end { Step::Malformed } else { Step::Option { kind, len } }
        }
        None => Step::Malformed,
    }
}

/// One option as it lies in the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawOption<'a> {
    /// The kind.
    pub kind: u8,
    /// The bytes behind kind and length.
    pub data: &'a [u8],
}

/// The rest of the option area makes no sense: an option's length is missing, less than 2, or more than what
/// is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedOption {
    /// Its kind.
    pub kind: u8,
    /// Its place in the option area.
    pub at: usize,
}

/// Iterates over the options of an option area in their order, without padding. After an error nothing
/// follows.
///
/// ```
/// use mptcp_common::options::{OptionIter, RawOption};
/// let mut options = OptionIter::new(&[1, 2, 4, 5, 180, 0, 99]);
/// assert_eq!(options.next(), Some(Ok(RawOption { kind: 2, data: &[5, 180] })));
/// assert_eq!(options.next(), None);
/// ```
#[derive(Clone, Debug)]
pub struct OptionIter<'a> {
    area: &'a [u8],
    at: usize,
}

impl<'a> OptionIter<'a> {
    /// Iterates over `area`: the octets between TCP header and payload. Bytes beyond the first 40 are
    /// ignored.
    #[inline]
    pub fn new(area: &'a [u8]) -> Self {
        Self { area: area.get(..MAX_OPTIONS_LEN).unwrap_or(area), at: 0 }
    }
}

impl<'a> Iterator for OptionIter<'a> {
    type Item = Result<RawOption<'a>, MalformedOption>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.at;
            match step(&self.area, at, self.area.len()) {
                Step::Nop => self.at = at + 1,
                Step::End => {
                    self.at = self.area.len();
                    return None;
                }
                Step::Malformed => {
                    self.at = self.area.len();
                    let kind = self.area.get(at).copied().unwrap_or_default();
                    return Some(Err(MalformedOption { kind, at }));
                }
                Step::Option { kind, len } => {
                    self.at = at + usize::from(len);
                    let data = self.area.get(at + 2..self.at).unwrap_or_default();
                    return Some(Ok(RawOption { kind, data }));
                }
            }
        }
    }
}

impl core::iter::FusedIterator for OptionIter<'_> {}

/// The result of a [`scan`].
///
/// The sets are built without branches: the verifier of the XDP program follows every path through the loop,
/// and would otherwise have as many states to compare as there are sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Bit n: kind n, or one that differs from it by a multiple of 64, was there.
    pub kinds: u64,
    /// Not 0: a kind of 64 or more was there.
    pub large_kinds: u8,
    /// Bit n: subtype n of Multipath TCP was there.
    pub subtypes: u32,
    /// Bits of `subtypes` for the options that occurred more than once.
    pub repeated: u32,
    /// Not 0: an option's length makes no sense, or there are more options than a scan looks at.
    pub malformed: u32,
    /// Offset in the packet of the last timestamps option; 0: none.
    pub timestamps: u16,
    /// Offset in the packet of the last DSS; 0: none.
    pub dss: u16,
    /// Length of that DSS, kind and length octet included.
    pub dss_len: u8,
    /// Offset in the packet of the last MP_JOIN as a SYN has it (12 octets); 0: none.
    pub join: u16,
}

impl Scan {
    /// 0, if there was nothing but timestamps and options of Multipath TCP, each of these once at most, and
    /// all made sense.
    #[inline(always)]
    pub const fn extra(&self) -> u8 {
        const KNOWN: u64 = 1 << KIND_TIMESTAMPS | 1 << KIND_MPTCP;
        let kinds = self.kinds & !KNOWN;
        // Folded, not compared: a comparison is a branch, and those cost the verifier dearly.
        let kinds = (kinds | kinds >> 32) as u32;
        let bits = kinds | self.repeated | self.malformed | self.large_kinds as u32;
        (bits | bits >> 8 | bits >> 16 | bits >> 24) as u8
    }

    #[inline(always)]
    fn note<O: Octets>(&mut self, octets: &O, at: usize, kind: u8, len: u8) {
        self.kinds |= 1 << (kind & 63);
        self.large_kinds |= kind >> 6;
        if kind == KIND_TIMESTAMPS {
            if len == 10 {
                self.timestamps = octets.forget(at as u64) as u16;
            } else {
                self.malformed = octets.forget(1) as u32;
            }
        } else if kind == KIND_MPTCP {
            // A length of 2 has no subtype; the octet after it may even be missing.
            let subtype = match octets.view::<1>(at + 2) {
                Some(view) if len > 2 => view.u8::<0>() >> 4,
                _ => {
                    self.malformed = octets.forget(1) as u32;
                    return;
                }
            };
            let bit = 1 << subtype;
            self.repeated |= self.subtypes & bit;
            self.subtypes |= bit;
            if subtype == SUBTYPE_DSS {
                self.dss = octets.forget(at as u64) as u16;
                self.dss_len = octets.forget(len.into()) as u8;
            } else if subtype == SUBTYPE_JOIN && len == 12 {
                self.join = octets.forget(at as u64) as u16;
            }
        }
    }
}

/// Options and paddings that a [`scan`] walks over. There can be 40 in 40 octets, but real ones have at least
/// half a dozen octets each, and the verifier goes through each round. More than these count as malformed.
pub const MAX_STEPS: usize = 8;

/// One bounded pass over the options of the packet `octets`, which lie from `start` to before `end`, both
/// less than 2048 (headers are never longer).
#[inline(always)]
pub fn scan<O: Octets>(octets: &O, start: usize, end: usize) -> Scan {
    let unknown = octets.forget(0);
    let mut scan = Scan {
        kinds: unknown,
        subtypes: unknown as u32,
        repeated: unknown as u32,
        large_kinds: unknown as u8,
        malformed: unknown as u32,
        timestamps: unknown as u16,
        dss: unknown as u16,
        dss_len: unknown as u8,
        join: unknown as u16,
    };
    let mut at = start;
    // The layout that RFC 7323 appendix A recommends, and that all use: two paddings, timestamps.
    if octets.blur(start + 12) <= octets.blur(end)
        && let Some(view) = octets.view::<4>(start)
        && view.u32::<0>() == 0x0101_080a
    {
        scan.kinds |= 1 << KIND_TIMESTAMPS;
        scan.timestamps = octets.forget(start as u64 + 2) as u16;
        at += 12;
    }
    let mut left = MAX_STEPS;
    while left > 0 {
        left -= 1;
        at = octets.blur(at);
        match step(octets, at, octets.blur(end)) {
            Step::End => return scan,
            Step::Nop => at += 1,
            Step::Malformed => {
                scan.malformed = octets.forget(1) as u32;
                return scan;
            }
            Step::Option { kind, len } => {
                scan.note(octets, at, kind, len);
                at += len as usize;
            }
        }
    }
    if octets.blur(at) < octets.blur(end) {
        scan.malformed = octets.forget(1) as u32;
    }
    scan
}

/// TSval and TSecr of the timestamps option at `at` (RFC 7323 section 3.2).
#[inline(always)]
pub fn timestamps<O: Octets>(octets: &O, at: usize) -> Option<(u32, u32)> {
    let view = octets.view::<10>(at)?;
    Some((view.u32::<2>(), view.u32::<6>()))
}

/// A DSS option (RFC 8684 section 3.3). Fields whose flag is not set are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dss {
    /// The flags, [`DSS_DATA_ACK`] and so on; the reserved bits are cleared.
    pub flags: u8,
    /// Octets of the mapping's checksum, 2 or none: known by the option's length only.
    pub checksum_len: u8,
    /// Data ACK, 4 octets unless [`DSS_DATA_ACK_LONG`].
    pub data_ack: u64,
    /// Data sequence number of the mapping, 4 octets unless [`DSS_DSN_LONG`].
    pub dsn: u64,
    /// Subflow sequence number of the mapping, relative to the subflow's initial one.
    pub subflow_seq: u32,
    /// Length of the mapping in octets, DATA_FIN included; 0: infinite.
    pub data_len: u16,
    /// Checksum as on the wire.
    pub checksum: u16,
}

impl Dss {
    /// Reads the DSS of `len` octets at `at`. None if `len` is not what the flags ask
    /// for: a DSS has exactly the fields that its flags name, and 2 octets more where there is a checksum.
    ///
    /// A field is read as the last of the eight bytes that end where it ends. These eight bytes always exist
    /// in a packet, since at least the TCP header is in front. So there are no branches by flags, of which
    /// the verifier would follow every combination.
    #[inline(always)]
    pub fn read<O: Octets>(octets: &O, at: usize, len: u8) -> Option<Dss> {
        let flags = octets.view::<4>(at)?.u8::<3>() & 0x1f;
        // Blurred, so that the optimiser doesn't make branches of it, either.
        let bit = |number: u8| octets.blur((flags >> number & 1) as usize);
        let mapping = bit(2);
        let ack_len = bit(0) * (4 + 4 * bit(1));
        let dsn_len = mapping * (4 + 4 * bit(3));
        let ack_end = at + 4 + ack_len;
        let dsn_end = ack_end + dsn_len;
        let end = dsn_end + 6 * mapping;
        let checksum_len = (at + len as usize).wrapping_sub(end);
        if checksum_len & !(2 * mapping) != 0 {
            return None;
        }
        let last = |end: usize, len: usize| -> Option<u64> {
            // In user space the option may have nothing in front of it.
            if O::WHOLE && len == 0 {
                return Some(0);
            }
            Some(octets.view::<8>(end.wrapping_sub(8))?.u64::<0>() & ones(len))
        };
        let rest = last(end, 6 * mapping)?;
        Some(Dss {
            flags,
            checksum_len: checksum_len as u8,
            data_ack: last(ack_end, ack_len)?,
            dsn: last(dsn_end, dsn_len)?,
            subflow_seq: (rest >> 16) as u32,
            data_len: rest as u16,
            checksum: last(end + checksum_len, checksum_len)? as u16,
        })
    }

    /// Whether the mapping has a checksum.
    #[inline(always)]
    pub const fn has_checksum(&self) -> bool {
        self.checksum_len != 0
    }

    /// Whether all `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// As many octets of ones as `len` says, 8 at most.
#[inline(always)]
const fn ones(len: usize) -> u64 {
    // In two steps: a shift by 64 is none.
    (1u64 << (4 * len) << (4 * len)).wrapping_sub(1)
}

/// MP_JOIN as in a SYN (RFC 8684 section 3.2, figure 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JoinSyn {
    /// Flag B: use the subflow as backup.
    pub backup: bool,
    /// Address identifier of the sender's address.
    pub address_id: u8,
    /// The receiver's token.
    pub token: u32,
    /// The sender's random number.
    pub nonce: u32,
}

impl JoinSyn {
    /// Reads the MP_JOIN of 12 octets at `at`.
    #[inline(always)]
    pub fn read<O: Octets>(octets: &O, at: usize) -> Option<JoinSyn> {
        let view = octets.view::<12>(at)?;
        Some(JoinSyn {
            backup: view.u8::<2>() & 1 != 0,
            address_id: view.u8::<3>(),
            token: view.u32::<4>(),
            nonce: view.u32::<8>(),
        })
    }
}
