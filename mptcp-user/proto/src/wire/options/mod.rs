//! TCP options, parsed and built: those of regular TCP here, those of Multipath TCP in [`mptcp`]
//! (RFC 9293 section 3.1, RFC 7323, RFC 2018, RFC 5482, RFC 8684 section 3, RFC 6824 section 3).
//!
//! The option area of a segment has at most 40 octets ([`OPTION_SPACE`]). Who builds a segment does the
//! budgeting; [`TcpOptions::wire_len`] says what a set of options takes, padding included.

mod mptcp;
#[cfg(test)]
pub(super) mod tests;

use super::{Flags, SeqNumber};
use arrayvec::ArrayVec;
pub use mptcp::{
    AddAddr, Dss, FastClose, Join, Mapping, MpCapable, MptcpOption, RemoveAddr, ResetReason, TcpReset,
    Version,
};
pub use mptcp_common::options::MAX_OPTIONS_LEN as OPTION_SPACE;
use mptcp_common::options::{
    KIND_MPTCP, KIND_MSS, KIND_NOP, KIND_SACK, KIND_SACK_PERMITTED, KIND_TIMESTAMPS, KIND_WINDOW_SCALE, Step,
    step,
};
use std::time::Duration;

/// The kind of the user timeout option; the XDP program has no use for it.
const KIND_USER_TIMEOUT: u8 = 28;

/// The options take more than the 40 octets of the option area.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the TCP options take {octets} octets, {OPTION_SPACE} are there")]
pub struct OptionsTooLong {
    /// What they would take, padding included.
    pub octets: usize,
}

/// The timestamps option (RFC 7323 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamps {
    /// TSval.
    pub value: u32,
    /// TSecr.
    pub echo: u32,
}

/// The user timeout option (RFC 5482 section 3), as on the wire: the highest bit says that the rest counts minutes and
/// not seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserTimeout(pub u16);

impl UserTimeout {
    /// How long.
    pub fn duration(self) -> Duration {
        let unit = if self.0 & 0x8000 == 0 { 1 } else { 60 };
        Duration::from_secs(u64::from(self.0 & 0x7fff) * unit)
    }
}

impl From<Duration> for UserTimeout {
    /// The nearest that is not shorter, as far as the option goes.
    fn from(duration: Duration) -> Self {
        let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        if seconds < 0x8000 {
            Self(seconds.max(1) as u16)
        } else {
            Self(0x8000 | seconds.div_ceil(60).min(0x7fff) as u16)
        }
    }
}

/// One block of a SACK option (RFC 2018 section 3): `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlock {
    /// First sequence number of the block.
    pub start: SeqNumber,
    /// Sequence number after the block.
    pub end: SeqNumber,
}

/// All options of one segment. What could not be parsed is absent, and counted in `malformed`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Maximum segment size (SYN only).
    pub mss: Option<u16>,
    /// Window scale (SYN only), as on the wire.
    pub window_scale: Option<u8>,
    /// SACK permitted (SYN only).
    pub sack_permitted: bool,
    /// User timeout.
    pub user_timeout: Option<UserTimeout>,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks, the first one being the most recent.
    pub sack: ArrayVec<SackBlock, 4>,
    /// Multipath TCP options in their order.
    pub mptcp: ArrayVec<MptcpOption, 4>,
    /// Options that were there but not understood because their length or content was wrong.
    pub malformed: u8,
}

impl TcpOptions {
    /// The DSS, where there is one.
    #[inline]
    pub fn dss(&self) -> Option<&Dss> {
        self.mptcp.iter().find_map(|option| if let MptcpOption::Dss(dss) = option { Some(dss) } else { None })
    }
    /// MP_CAPABLE, where there is one.
    pub fn capable(&self) -> Option<&MpCapable> {
        self.mptcp
            .iter()
            .find_map(|option| if let MptcpOption::Capable(capable) = option { Some(capable) } else { None })
    }
    /// MP_TCPRST, where there is one.
    pub fn reset(&self) -> Option<&TcpReset> {
        self.mptcp
            .iter()
            .find_map(|option| if let MptcpOption::Reset(reset) = option { Some(reset) } else { None })
    }
    /// MP_JOIN, where there is one.
    pub fn join(&self) -> Option<&Join> {
        self.mptcp
            .iter()
            .find_map(|option| if let MptcpOption::Join(join) = option { Some(join) } else { None })
    }
}

/// Rounds up to whole 32-bit words.
const fn padded(octets: usize) -> usize {
    (octets + 3) & !3
}

impl TcpOptions {
    /// Takes off what the wire does not carry: the upper halves of data sequence numbers in their short form.
    pub fn truncate_to_wire(&mut self) {
        for option in &mut self.mptcp {
            let MptcpOption::Dss(dss) = option else { continue };
            if let Some((ack, false)) = &mut dss.data_ack {
                ack.0 &= 0xffff_ffff;
            }
            if let Some(mapping) = &mut dss.mapping
                && !mapping.dsn_long
            {
                mapping.dsn.0 &= 0xffff_ffff;
            }
        }
    }

    /// Octets that [`emit`](Self::emit) writes, padding included: always a multiple of 4, possibly more than the
    /// [`OPTION_SPACE`] there is.
    #[inline]
    pub fn wire_len(&self) -> usize {
        let aligned = self.aligned_len();
        if aligned > OPTION_SPACE { self.tightest(aligned) } else { aligned }
    }

    /// `aligned`, or what the options take without NOPs between them, if that is what makes them fit.
    #[cold]
    fn tightest(&self, aligned: usize) -> usize {
        let packed = padded(self.packed_len());
        if packed <= OPTION_SPACE { packed } else { aligned }
    }

    /// Octets that the options take without any padding.
    pub fn packed_len(&self) -> usize {
        let fixed = [
            (self.mss.is_some(), 4),
            (self.timestamps.is_some(), 10),
            (self.sack_permitted, 2),
            (self.window_scale.is_some(), 3),
            (self.user_timeout.is_some(), 4),
            (!self.sack.is_empty(), 2 + 8 * self.sack.len()),
        ];
        let fixed: usize = fixed.iter().filter(|(there, _)| *there).map(|(_, octets)| octets).sum();
        fixed + self.mptcp.iter().map(MptcpOption::len).sum::<usize>()
    }

    /// Octets that the options take if each fills whole words.
    #[inline]
    fn aligned_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        // SACK permitted takes the place of the two NOPs before the timestamps.
        let timestamps = match (self.timestamps.is_some(), self.sack_permitted) {
            (true, _) => 12,
            (false, true) => 4,
            (false, false) => 0,
        };
        let window_scale = if self.window_scale.is_some() { 4 } else { 0 };
        let user_timeout = if self.user_timeout.is_some() { 4 } else { 0 };
        let sack = if self.sack.is_empty() { 0 } else { 4 + 8 * self.sack.len() };
        let mptcp: usize = self.mptcp.iter().map(|option| padded(option.len())).sum();
        mss + timestamps + window_scale + user_timeout + sack + mptcp
    }

    /// Builds the option area. Every option, with the NOPs around it, fills whole 32-bit words, in the layout that
    /// middleboxes know from other stacks: MSS; SACK permitted (or NOP NOP) and timestamps; NOP and window scale;
    /// user timeout; NOP NOP and SACK; Multipath TCP, each with its NOPs behind. The NOPs are left out where
    /// there is no room for them: TCP asks for no alignment of options (RFC 9293 section 3.1).
    pub fn emit(&self) -> Result<ArrayVec<u8, OPTION_SPACE>, OptionsTooLong> {
        let octets = self.wire_len();
        if octets > OPTION_SPACE {
            return Err(OptionsTooLong { octets });
        }
        let packed = self.aligned_len() > OPTION_SPACE;
        let mut area = ArrayVec::new();
        let nops = |count: usize| if packed { &[] } else { &[KIND_NOP, KIND_NOP][..count] };
        let mut put = |octets: &[u8]| {
            let fits = area.try_extend_from_slice(octets).is_ok();
            debug_assert!(fits, "the options are longer than they were counted");
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[KIND_MSS, 4, high, low]);
        }
        match (self.sack_permitted, self.timestamps.is_some()) {
            (true, true) => put(&[KIND_SACK_PERMITTED, 2]),
            (true, false) => {
                put(nops(2));
                put(&[KIND_SACK_PERMITTED, 2]);
            }
            (false, true) => put(nops(2)),
            (false, false) => {}
        }
        if let Some(timestamps) = self.timestamps {
            put(&[KIND_TIMESTAMPS, 10]);
            put(&timestamps.value.to_be_bytes());
            put(&timestamps.echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            put(nops(1));
            put(&[KIND_WINDOW_SCALE, 3, shift]);
        }
        if let Some(UserTimeout(value)) = self.user_timeout {
            let [high, low] = value.to_be_bytes();
            put(&[KIND_USER_TIMEOUT, 4, high, low]);
        }
        if !self.sack.is_empty() {
            put(nops(2));
            put(&[KIND_SACK, 2 + 8 * self.sack.len() as u8]);
            for block in &self.sack {
                put(&block.start.0.to_be_bytes());
                put(&block.end.0.to_be_bytes());
            }
        }
        for option in &self.mptcp {
            option.emit(&mut area);
            while !packed && !area.len().is_multiple_of(4) {
                area.push(KIND_NOP);
            }
        }
        while !area.len().is_multiple_of(4) {
            area.push(KIND_NOP);
        }
        debug_assert_eq!(area.len(), octets);
        Ok(area)
    }

    /// Parses an option area (what the data offset leaves after the 20 fixed octets of the header). Options of
    /// unknown kind are skipped. Malformed ones are skipped and counted; where their length can't be believed,
    /// nothing after them is read. Options that belong to SYNs are ignored elsewhere.
    pub fn parse(area: &[u8], flags: Flags) -> Self {
        let area = area.get(..OPTION_SPACE).unwrap_or(area);
        let mut options = Self::default();
        let mut at = 0;
        loop {
            match step(&area, at, area.len()) {
                Step::End => return options,
                Step::Nop => at += 1,
                Step::Malformed => {
                    options.malformed += 1;
                    return options;
                }
                Step::Option { kind, len } => {
                    let next = at + usize::from(len);
                    options.parse_one(kind, area.get(at..next).unwrap_or_default(), flags);
                    at = next;
                }
            }
        }
    }

    /// Takes in one option, given all its octets.
    fn parse_one(&mut self, kind: u8, option: &[u8], flags: Flags) {
        let body = option.get(2..).unwrap_or_default();
        let syn = flags.has(Flags::SYN);
        let understood = match kind {
            KIND_MSS | KIND_WINDOW_SCALE | KIND_SACK_PERMITTED if !syn => true,
            KIND_MSS => <[u8; 2]>::try_from(body).map(|mss| self.mss = Some(u16::from_be_bytes(mss))).is_ok(),
            KIND_WINDOW_SCALE => {
                <[u8; 1]>::try_from(body).map(|[shift]| self.window_scale = Some(shift)).is_ok()
            }
            KIND_SACK_PERMITTED => {
                self.sack_permitted |= body.is_empty();
                body.is_empty()
            }
            KIND_USER_TIMEOUT => <[u8; 2]>::try_from(body)
                .map(|value| self.user_timeout = Some(UserTimeout(u16::from_be_bytes(value))))
                .is_ok(),
            KIND_SACK => self.parse_sack(body),
            KIND_TIMESTAMPS => match *body {
                [v0, v1, v2, v3, e0, e1, e2, e3] => {
                    self.timestamps = Some(Timestamps {
                        value: u32::from_be_bytes([v0, v1, v2, v3]),
                        echo: u32::from_be_bytes([e0, e1, e2, e3]),
                    });
                    true
                }
                _ => false,
            },
            KIND_MPTCP => match mptcp::parse(option, flags) {
                mptcp::Parsed::Option(option) => self.mptcp.try_push(option).is_ok(),
                mptcp::Parsed::Unknown => true,
                mptcp::Parsed::Malformed => false,
            },
            _ => true,
        };
        self.malformed += u8::from(!understood);
    }

    fn parse_sack(&mut self, body: &[u8]) -> bool {
        let (blocks, []) = body.as_chunks::<8>() else { return false };
        if blocks.is_empty() || blocks.len() > self.sack.remaining_capacity() {
            return false;
        }
        self.sack.extend(blocks.iter().map(|&[s0, s1, s2, s3, e0, e1, e2, e3]| SackBlock {
            start: SeqNumber(u32::from_be_bytes([s0, s1, s2, s3])),
            end: SeqNumber(u32::from_be_bytes([e0, e1, e2, e3])),
        }));
        true
    }
}
