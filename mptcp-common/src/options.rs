//! TCP options (RFC 9293 section 3.1): one bounded walker for the XDP program and for user space.
//!
//! User space iterates over all options with [`OptionIter`]; the XDP program makes one [`scan`] for those that it
//! needs. Both take their steps with [`step`], so they agree on where an option begins, on how long it is, and on
//! what is malformed. [`Dss`] and [`JoinSyn`] are the two options of Multipath TCP (RFC 8684 sections 3.3 and
//! 3.2; RFC 6824 has the same layout) that XDP reads; user space reads the others by itself.

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

/// What lies at one place of the option area.
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
    /// An option whose length is missing, less than 2, or more than what is left. Where the next one begins can't be
    /// known.
    Malformed,
}

/// What lies at `at` of `octets`, in an option area that ends before `end`.
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
    /// What follows kind and length octet.
    pub data: &'a [u8],
}

/// The rest of the option area makes no sense: an option's length is missing, less than 2, or more than what is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedOption {
    /// Its kind.
    pub kind: u8,
    /// Its place in the option area.
    pub at: usize,
}

/// Iterates over the options of an option area in their order, without padding. After an error nothing follows.
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
    /// Iterates over `area`: the octets between TCP header and payload. What is beyond 40 octets is ignored.
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

/// What a [`scan`] has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Bits of [`Scan::TIMESTAMPS`] and so on.
    pub seen: u16,
    /// Offset in the packet of the first timestamps option of the right length; 0: none.
    pub timestamps: u16,
    /// Offset in the packet of the first DSS; 0: none.
    pub dss: u16,
    /// Length of that DSS, kind and length octet included.
    pub dss_len: u8,
    /// Offset in the packet of the first MP_JOIN as a SYN has it (12 octets); 0: none.
    pub join: u16,
}

impl Scan {
    /// Timestamps of the right length.
    pub const TIMESTAMPS: u16 = 1;
    /// A DSS; whether its inside is well-formed is for [`Dss::read`] to say.
    pub const DSS: u16 = 1 << 1;
    /// MP_JOIN as in a SYN: 12 octets.
    pub const JOIN: u16 = 1 << 2;
    /// MP_CAPABLE.
    pub const CAPABLE: u16 = 1 << 3;
    /// Any other option of Multipath TCP, a second one of the above, or MP_JOIN of another length.
    pub const OTHER_MPTCP: u16 = 1 << 4;
    /// SACK blocks.
    pub const SACK: u16 = 1 << 5;
    /// Any other option.
    pub const OTHER: u16 = 1 << 6;
    /// The option area ended in something that makes no sense.
    pub const MALFORMED: u16 = 1 << 7;

    /// Whether all `bits` were seen.
    #[inline(always)]
    pub const fn has(&self, bits: u16) -> bool {
        self.seen & bits == bits
    }

    #[inline(always)]
    fn note<O: Octets>(&mut self, octets: &O, at: usize, kind: u8, len: u8) {
        match kind {
            KIND_TIMESTAMPS if len == 10 && self.seen & Self::TIMESTAMPS == 0 => {
                self.seen |= Self::TIMESTAMPS;
                self.timestamps = at as u16;
            }
            KIND_SACK => self.seen |= Self::SACK,
            KIND_MPTCP if len > 2 => {
                let subtype = match octets.view::<1>(at + 2) {
                    Some(view) => view.u8::<0>() >> 4,
                    None => return self.seen |= Self::MALFORMED,
                };
                match subtype {
                    SUBTYPE_DSS if self.seen & Self::DSS == 0 => {
                        self.seen |= Self::DSS;
                        self.dss = at as u16;
                        self.dss_len = len;
                    }
                    SUBTYPE_JOIN if len == 12 && self.seen & Self::JOIN == 0 => {
                        self.seen |= Self::JOIN;
                        self.join = at as u16;
                    }
                    SUBTYPE_CAPABLE if self.seen & Self::CAPABLE == 0 => self.seen |= Self::CAPABLE,
                    _ => self.seen |= Self::OTHER_MPTCP,
                }
            }
            _ => self.seen |= Self::OTHER,
        }
    }
}

/// One bounded pass over the options of the packet `octets`, which lie from `start` to before `end`.
#[inline(always)]
pub fn scan<O: Octets>(octets: &O, start: usize, end: usize) -> Scan {
    let mut scan = Scan::default();
    let mut at = start;
    let mut left = MAX_OPTIONS_LEN;
    while left > 0 {
        left -= 1;
        match step(octets, at, end) {
            Step::End => break,
            Step::Nop => at += 1,
            Step::Malformed => {
                scan.seen |= Scan::MALFORMED;
                break;
            }
            Step::Option { kind, len } => {
                scan.note(octets, at, kind, len);
                at += len as usize;
            }
        }
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
    /// Whether the mapping has a checksum: known by the option's length only.
    pub has_checksum: bool,
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
    /// Reads the DSS of `len` octets at `at`. None if `len` is not what the flags ask for: a DSS has exactly the
    /// fields that its flags name, and 2 octets more where there is a checksum.
    #[inline(always)]
    pub fn read<O: Octets>(octets: &O, at: usize, len: u8) -> Option<Dss> {
        let mut dss = Dss { flags: octets.view::<4>(at)?.u8::<3>() & 0x1f, ..Dss::default() };
        let mut next = at + 4;
        let mut want = 4;
        if dss.flags & DSS_DATA_ACK != 0 {
            if dss.flags & DSS_DATA_ACK_LONG != 0 {
                dss.data_ack = octets.view::<8>(next)?.u64::<0>();
                next += 8;
                want += 8;
            } else {
                dss.data_ack = u64::from(octets.view::<4>(next)?.u32::<0>());
                next += 4;
                want += 4;
            }
        }
        if dss.flags & DSS_MAPPING != 0 {
            if dss.flags & DSS_DSN_LONG != 0 {
                let view = octets.view::<14>(next)?;
                dss.dsn = view.u64::<0>();
                dss.subflow_seq = view.u32::<8>();
                dss.data_len = view.u16::<12>();
                next += 14;
                want += 14;
            } else {
                let view = octets.view::<10>(next)?;
                dss.dsn = u64::from(view.u32::<0>());
                dss.subflow_seq = view.u32::<4>();
                dss.data_len = view.u16::<8>();
                next += 10;
                want += 10;
            }
            if len == want + 2 {
                dss.checksum = octets.view::<2>(next)?.u16::<0>();
                dss.has_checksum = true;
                want += 2;
            }
        }
        if len == want { Some(dss) } else { None }
    }

    /// Whether all `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
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
