//! What must hold of every segment that an engine sends, judged by what it was told before: nothing that a receiver
//! must reject, nothing taken back.
//!
//! The audit stands at the two hosts, before all links and boxes: it sees what an engine sends, and what arrives there.
//! What boxes do on the way is thus part of what a host was told, and the rules hold in every network:
//!
//! * a packet keeps to the peer's MSS (RFC 6691) and, with its last octet, to the windows of subflow and connection;
//!   sequence numbers have no gaps, and nothing follows a FIN;
//! * acknowledgments, Data ACKs, timestamps and right edges of windows never go back; what is acknowledged has arrived;
//! * SACK blocks lie in what has arrived, above the acknowledgment, apart from each other; a D-SACK comes first
//!   (RFC 2018, RFC 2883);
//! * an octet of a subflow has one place in the data stream for ever, an octet of the data stream one value; mappings
//!   cover what they come with; their checksums are right; the stream ends in one place (RFC 8684 section 3.3).

use crate::crypto::Key;
use crate::wire::{
    DataSeq, Dss, Flags, Mapping, MptcpOption, Payload, SackBlock, Segment, SeqNumber, dss_checksum,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

/// Smallest MSS that an engine believes.
const MIN_MSS: usize = 88;

/// One of the two hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The one that opens connections.
    Client,
    /// The one that listens.
    Server,
}

impl Side {
    /// Both, the client first.
    pub const BOTH: [Side; 2] = [Side::Client, Side::Server];
    /// The other host.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Ranges of offsets that do not overlap.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            (start, end) = (start.min(from), end.max(to));
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    fn contain(&self, start: u64, end: u64) -> bool {
        self.0.range(..=start).next_back().is_some_and(|(_, to)| *to >= end)
    }

    /// End of the range that begins at 0.
    fn first_end(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }
}

/// What a SYN says.
#[derive(Clone, Copy, Debug)]
struct Syn {
    seq: SeqNumber,
    mss: Option<u16>,
    scale: Option<u8>,
}

impl From<&Segment> for Syn {
    fn from(segment: &Segment) -> Self {
        Self { seq: segment.seq, mss: segment.options.mss, scale: segment.options.window_scale }
    }
}

/// One subflow as one host sees it. Offsets count from the SYN.
#[derive(Debug, Default)]
struct Flow {
    connection: Option<u64>,
    /// It came or went with MP_JOIN.
    join: bool,
    /// Data sequence number of our first octet, as the key in MP_CAPABLE says.
    first: Option<DataSeq>,
    ours: Option<Syn>,
    theirs: Option<Syn>,
    arrived: Ranges,
    /// End of what was sent, and of the window that the peer has offered.
    sent: u64,
    edge: u64,
    fin: Option<u64>,
    acked: u64,
    offered: u64,
    stamp: Option<u32>,
    stamps_arrived: BTreeSet<u32>,
    /// Start of a range of this subflow: its end, and what to add for the place in the data stream.
    mapped: BTreeMap<u64, (u64, i64)>,
}

impl Flow {
    /// Scales of the windows that are sent, and that arrive.
    fn scales(&self) -> (u8, u8) {
        match (self.ours.and_then(|syn| syn.scale), self.theirs.and_then(|syn| syn.scale)) {
            (Some(ours), Some(theirs)) => (ours.min(14), theirs.min(14)),
            _ => (0, 0),
        }
    }
}

/// The data stream that one host sends, and what it has said of the other one.
#[derive(Debug, Default)]
struct Stream {
    /// Data sequence number of the first octet.
    base: Option<DataSeq>,
    octets: Vec<u8>,
    /// Where it ends.
    end: Option<u64>,
    /// Right edge of the peer's window.
    edge: u64,
    /// Data ACK sent, and right edge offered.
    acked: Option<DataSeq>,
    offered: Option<DataSeq>,
    plain: bool,
}

/// What one host has sent and was told.
#[derive(Default)]
struct Host {
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    streams: HashMap<u64, Stream>,
}

/// The audit of two hosts.
#[derive(Default)]
pub struct Audit {
    hosts: [Host; 2],
}

impl Audit {
    /// A packet has arrived at a host.
    pub fn arrived(&mut self, side: Side, packet: &Segment) {
        self.hosts[side as usize].arrived(packet);
    }

    /// A host sends a segment; `connection` tells which of its connections has this subflow.
    ///
    /// # Panics
    /// When it breaks a rule.
    pub fn sent(&mut self, side: Side, segment: &Segment, connection: impl FnOnce() -> Option<u64>) {
        let host = &mut self.hosts[side as usize];
        if let Err(rule) = host.sent(segment, connection) {
            panic!("{side:?} must not send {segment:?}: {rule}");
        }
    }
}

/// An error that names the rule unless the condition holds.
macro_rules! rule {
    ($condition:expr, $($words:tt)*) => {
        if !$condition {
            return Err(format!($($words)*));
        }
    };
}

impl Host {
    fn arrived(&mut self, packet: &Segment) {
        let flow = self.flows.entry((packet.dst, packet.src)).or_default();
        if packet.flags.has(Flags::RST) {
            return;
        }
        if packet.flags.has(Flags::SYN) {
            let answers = packet.flags.has(Flags::ACK);
            let fits = flow.ours.is_some_and(|ours| packet.ack == ours.seq + 1);
            if answers && !fits {
                return;
            }
            let known = flow.theirs.is_some_and(|theirs| theirs.seq == packet.seq);
            if !answers && !known && flow.theirs.is_some() {
                *flow = Flow::default();
            }
            flow.theirs = Some(packet.into());
            flow.join |= packet.options.join().is_some();
            flow.arrived.insert(0, 1);
        }
        let Some(theirs) = flow.theirs else { return };
        if let Some(stamps) = packet.options.timestamps {
            flow.stamps_arrived.insert(stamps.value);
        }
        let start = offset(packet.seq, theirs.seq);
        flow.arrived.insert(start, start + u64::from(packet.seq_len()));
        let Some(ours) = flow.ours.filter(|_| packet.flags.has(Flags::ACK)) else { return };
        let scale = if packet.flags.has(Flags::SYN) { 0 } else { flow.scales().1 };
        let window = u64::from(packet.window) << scale;
        let ack = offset(packet.ack, ours.seq);
        if ack <= flow.sent {
            flow.edge = flow.edge.max(ack + window);
        }
        let Some(stream) = flow.connection.and_then(|id| self.streams.get_mut(&id)) else { return };
        match packet.options.dss().and_then(|dss| dss.data_ack) {
            Some((ack, long)) => stream.take_window(ack, long, window),
            None => stream.edge = stream.edge.max(window),
        }
    }

    fn sent(&mut self, segment: &Segment, connection: impl FnOnce() -> Option<u64>) -> Result<(), String> {
        if segment.flags.has(Flags::RST) {
            return Ok(());
        }
        let flow = self.flows.entry((segment.src, segment.dst)).or_default();
        if segment.flags.has(Flags::SYN) {
            let known = flow.ours.is_some_and(|ours| ours.seq == segment.seq);
            if !known && flow.ours.is_some() {
                // Another connection, or the answer to a SYN that came again when the one it had begun was over.
                let theirs = flow.theirs.filter(|_| segment.flags.has(Flags::ACK));
                let stamps_arrived = std::mem::take(&mut flow.stamps_arrived);
                *flow = Flow { theirs, stamps_arrived, ..Flow::default() };
                flow.arrived.insert(0, u64::from(theirs.is_some()));
            }
            flow.ours = Some(segment.into());
            flow.join |= segment.options.join().is_some();
        } else {
            rule!(segment.flags.has(Flags::ACK), "an ACK bit is missing");
        }
        if flow.connection.is_none() {
            flow.connection = connection();
        }
        if let Some((version, Some(key))) =
            segment.options.capable().map(|capable| (capable.version, capable.sender_key))
        {
            flow.first = Some(Key::new(version, key).idsn + 1);
        }
        let Some(ours) = flow.ours else { return Ok(()) };
        flow.judge_sequence(segment, ours)?;
        flow.judge_acknowledgment(segment)?;
        let Some(id) = flow.connection else { return Ok(()) };
        let stream = self.streams.entry(id).or_default();
        stream.base = stream.base.or(flow.first);
        if !segment.flags.has(Flags::SYN) {
            judge_data(flow, stream, segment, ours)?;
            flow.judge_window(stream, segment)?;
        }
        Ok(())
    }
}

/// Distance of a sequence number from an initial one: transfers of less than 4 GiB.
fn offset(seq: SeqNumber, initial: SeqNumber) -> u64 {
    u64::from(seq.0.wrapping_sub(initial.0))
}

impl Flow {
    /// Place, length and timestamps.
    fn judge_sequence(&mut self, segment: &Segment, ours: Syn) -> Result<(), String> {
        let start = offset(segment.seq, ours.seq);
        let end = start + u64::from(segment.seq_len());
        rule!(start <= self.sent, "octets {}..{start} were never sent", self.sent);
        if !segment.payload.is_empty() {
            rule!(
                end <= self.edge + u64::from(segment.flags.has(Flags::FIN)),
                "the window ends at {}, this at {end}",
                self.edge
            );
            let default = if segment.src.is_ipv4() { 536 } else { 1220 };
            let mss = self.theirs.and_then(|syn| syn.mss).map_or(default, usize::from).max(MIN_MSS);
            let payload = match segment.gso_size {
                0 => segment.payload.len(),
                size => segment.payload.len().min(usize::from(size)),
            };
            let size = payload + segment.options.wire_len();
            rule!(size <= mss, "the peer's MSS is {mss}, this has {size} octets");
        }
        if segment.flags.has(Flags::FIN) {
            let fin = self.fin.get_or_insert(end);
            rule!(*fin == end, "the FIN was at {fin} before, is at {end} now");
        }
        rule!(self.fin.is_none_or(|fin| end <= fin), "{end} lies behind the FIN");
        self.sent = self.sent.max(end);
        if let Some(stamps) = segment.options.timestamps {
            let back = self.stamp.is_some_and(|last| (stamps.value.wrapping_sub(last) as i32) < 0);
            rule!(!back, "timestamps go back from {:?}", self.stamp);
            self.stamp = Some(stamps.value);
            let echoes = !segment.flags.has(Flags::ACK) || self.stamps_arrived.contains(&stamps.echo);
            rule!(echoes || self.theirs.is_none(), "no timestamp {} has arrived", stamps.echo);
        }
        Ok(())
    }

    /// Acknowledgment and SACK blocks.
    fn judge_acknowledgment(&mut self, segment: &Segment) -> Result<(), String> {
        let Some(theirs) = self.theirs.filter(|_| segment.flags.has(Flags::ACK)) else { return Ok(()) };
        let ack = offset(segment.ack, theirs.seq);
        rule!(ack >= self.acked, "the acknowledgment was {} before, is {ack} now", self.acked);
        let arrived = self.arrived.first_end();
        rule!(ack <= arrived, "{ack} is acknowledged, {arrived} has arrived");
        self.acked = ack;
        let ranges: Vec<(u64, u64)> = segment
            .options
            .sack
            .iter()
            .map(|SackBlock { start, end }| (offset(*start, theirs.seq), offset(*end, theirs.seq)))
            .collect();
        for (place, &(start, end)) in ranges.iter().enumerate() {
            rule!(start < end && self.arrived.contain(start, end), "{start}..{end} has not arrived");
            let duplicate = place == 0
                && (end <= ack || ranges.get(1).is_some_and(|&(from, to)| from <= start && end <= to));
            if duplicate {
                continue;
            }
            // A first block of what was just reported a second time may be a duplicate above all others.
            rule!(start > ack, "the block {start}..{end} is acknowledged up to {ack}");
            let apart = ranges[place + 1..].iter().all(|&(from, to)| end < from || to < start);
            rule!(apart, "the block {start}..{end} meets another: {ranges:?}");
        }
        Ok(())
    }

    /// The right edge of the window: the connection's, counted from the Data ACK, or the only subflow's.
    fn judge_window(&mut self, stream: &mut Stream, segment: &Segment) -> Result<(), String> {
        let window = u64::from(segment.window) << self.scales().0;
        let full = segment.window == u16::MAX;
        // A promise can't be told between two units of the scale (RFC 7323 section 2.4).
        let unit = (1 << self.scales().0) - 1;
        if let Some((ack, long)) = segment.options.dss().and_then(|dss| dss.data_ack) {
            let ack = match stream.acked {
                Some(last) if !long => last.expand(ack.0 as u32),
                _ if !long => return Ok(()),
                _ => ack,
            };
            let last = stream.acked.unwrap_or(ack);
            rule!(ack.at_or_after(last), "the Data ACK was {last:?} before, is {ack:?} now");
            stream.acked = Some(ack);
            let edge = ack + window;
            let offered = stream.offered.unwrap_or(edge);
            rule!(
                full || (edge + unit).at_or_after(offered),
                "the window was open up to {offered:?}, is up to {edge:?} now"
            );
            stream.offered = Some(offered.later(edge));
        } else if stream.plain {
            let edge = self.acked + window;
            rule!(
                full || edge + unit >= self.offered,
                "the window was open up to {}, is up to {edge} now",
                self.offered
            );
            self.offered = edge.max(self.offered);
        }
        Ok(())
    }
}

impl Stream {
    /// Offset of a data sequence number.
    fn offset(&self, dsn: DataSeq, long: bool) -> Option<i64> {
        let base = self.base?;
        let near = base + self.octets.len() as u64;
        let dsn = if long { dsn } else { near.expand(dsn.0 as u32) };
        Some(dsn.distance(base))
    }

    fn take_window(&mut self, ack: DataSeq, long: bool, window: u64) {
        if let Some(ack) = self.offset(ack, long) {
            self.edge = self.edge.max(ack.max(0) as u64 + window);
        }
    }
}

/// Mappings, and the octets that they place.
fn judge_data(flow: &mut Flow, stream: &mut Stream, segment: &Segment, ours: Syn) -> Result<(), String> {
    let start = offset(segment.seq, ours.seq);
    let len = segment.payload.len() as u64;
    let dss = segment.options.dss();
    let first = segment.options.mptcp.iter().find_map(|option| match option {
        MptcpOption::Capable(capable) => capable.data,
        _ => None,
    });
    let mapping = dss.and_then(|dss| dss.mapping).filter(|mapping| mapping.len > 0);
    let data_fin = dss.is_some_and(|dss| dss.data_fin);
    if let Some(mapping) = mapping {
        rule!(mapping.dsn_long, "the data sequence number is short");
        if mapping.len > 1 || !data_fin {
            place_mapping(flow, stream, &mapping, data_fin)?;
        }
        if data_fin {
            let Some(base) = stream.base else { return Err("a mapping before the key".into()) };
            let end = mapping.dsn.distance(base) + i64::from(mapping.len) - 1;
            let known = *stream.end.get_or_insert(end.max(0) as u64);
            rule!(end as u64 == known, "the data ended at {known} before, end at {end} now");
        }
    } else if let Some((len, _)) = first {
        flow.mapped.entry(1).or_insert((1 + u64::from(len), -1));
    } else if len > 0 && !dss.is_some_and(Dss::is_infinite) {
        // Regular TCP: the streams correspond.
        rule!(!flow.join, "data of a further subflow without a mapping");
    }
    let multipath = mapping.is_some()
        || first.is_some()
        || segment
            .options
            .mptcp
            .iter()
            .any(|option| matches!(option, MptcpOption::Dss(dss) if dss.data_ack.is_some()));
    stream.plain |= !multipath && len > 0;
    rule!(!(stream.plain && multipath), "Multipath TCP again after regular TCP");
    if len == 0 {
        return Ok(());
    }
    let shift = if stream.plain {
        -1
    } else {
        let known = flow.mapped.range(..=start).next_back().filter(|(_, (end, _))| *end >= start + len);
        let Some((_, (_, shift))) = known else {
            return Err("no mapping covers the octets".into());
        };
        *shift
    };
    let at = (start as i64 + shift) as u64;
    let end = at + len;
    if !stream.plain {
        rule!(end <= stream.edge, "the connection's window ends at {}, this at {end}", stream.edge);
    }
    rule!(stream.end.is_none_or(|last| end <= last), "data behind their end");
    let known = stream.octets.len() as u64;
    rule!(at <= known, "data from {at} on, after {known} octets");
    let octets = segment.payload.to_vec();
    let old = (known - at).min(len) as usize;
    rule!(
        octets[..old] == stream.octets[at as usize..at as usize + old],
        "octets from {at} on are others than before"
    );
    stream.octets.extend_from_slice(&octets[old..]);
    if let Some(mapping) = mapping.filter(|mapping| mapping.checksum.is_some()) {
        judge_checksum(stream, &mapping, data_fin)?;
    }
    Ok(())
}

fn place_mapping(
    flow: &mut Flow,
    stream: &mut Stream,
    mapping: &Mapping,
    data_fin: bool,
) -> Result<(), String> {
    let Some(base) = stream.base else { return Err("a mapping before the key".into()) };
    let at = mapping.dsn.distance(base);
    rule!(at >= 0, "a mapping of what lies before the first octet");
    let start = u64::from(mapping.subflow_seq);
    let end = start + u64::from(mapping.len) - u64::from(data_fin);
    let shift = at - start as i64;
    let same = |(from, to, known): (u64, u64, i64)| known == shift || to <= start || end <= from;
    let contradicts = flow.mapped.range(..end).next_back().map(|(from, (to, known))| (*from, *to, *known));
    rule!(contradicts.is_none_or(same), "{start}..{end} was mapped in another way before: {contradicts:?}");
    let known = flow.mapped.entry(start).or_insert((end, shift));
    rule!(known.1 == shift, "{start} was mapped in another way before");
    known.0 = known.0.max(end);
    Ok(())
}

fn judge_checksum(stream: &Stream, mapping: &Mapping, data_fin: bool) -> Result<(), String> {
    let (Some(base), Some(given)) = (stream.base, mapping.checksum) else { return Ok(()) };
    let at = mapping.dsn.distance(base) as usize;
    let len = usize::from(mapping.len) - usize::from(data_fin);
    let Some(octets) = stream.octets.get(at..at + len) else {
        return Err("the mapping goes beyond what was sent".into());
    };
    let payload = Payload::from(octets.to_vec());
    let right = dss_checksum(mapping.dsn, mapping.subflow_seq, mapping.len, &payload);
    rule!(right == given, "the checksum is {given:#06x}, should be {right:#06x}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MpCapable, Timestamps, Version};

    const CLIENT: u32 = 1000;
    const SERVER: u32 = 5000;
    const KEY: u64 = 7;

    /// A segment of the client without SYN.
    fn segment(seq: u32, payload: &[u8]) -> Segment {
        let addresses = ["10.0.0.1:1", "10.0.0.2:2"].map(|text| text.parse().unwrap());
        let mut segment = Segment::new(addresses[0], addresses[1]);
        (segment.seq, segment.ack) = (SeqNumber(seq), SeqNumber(SERVER + 1));
        (segment.flags, segment.window) = (Flags::ACK, 1000);
        segment.payload = payload.to_vec().into();
        segment.options.timestamps = Some(Timestamps { value: 9, echo: 3 });
        segment
    }

    /// The client after a handshake with a server that takes 2000 octets in packets of 500 and has sent octets 1 to 100
    /// and 201 to 300.
    fn client(multipath: bool) -> Host {
        let mut host = Host::default();
        let mut syn = segment(CLIENT, b"");
        syn.flags = Flags::SYN;
        assert_eq!(host.sent(&syn, || Some(1)), Ok(()));
        let mut answer = segment(SERVER, b"");
        std::mem::swap(&mut answer.src, &mut answer.dst);
        (answer.ack, answer.window) = (SeqNumber(CLIENT + 1), 2000);
        answer.options.mss = Some(500);
        answer.options.timestamps = Some(Timestamps { value: 3, echo: 9 });
        host.arrived(&Segment { flags: Flags::SYN.with(Flags::ACK), ..answer.clone() });
        for (from, len) in [(1, 100), (201, 100)] {
            let payload = vec![0; len].into();
            host.arrived(&Segment { seq: SeqNumber(SERVER + from), payload, ..answer.clone() });
        }
        if multipath {
            let mut third = segment(CLIENT + 1, b"");
            let keys = (Some(KEY), Some(8));
            third.options.mptcp.push(MptcpOption::Capable(MpCapable {
                sender_key: keys.0,
                receiver_key: keys.1,
                ..MpCapable::new(Version::V1)
            }));
            assert_eq!(host.sent(&third, || Some(1)), Ok(()));
        }
        host
    }

    fn verdict(host: &mut Host, segment: &Segment) -> String {
        host.sent(segment, || Some(1)).err().unwrap_or_default()
    }

    #[test]
    fn regular_tcp_keeps_to_its_rules() {
        let good = segment(CLIENT + 1, &[1; 400]);
        let sacks = |blocks: &[(u32, u32)]| {
            let mut segment = Segment { ack: SeqNumber(SERVER + 101), ..segment(CLIENT + 401, b"") };
            segment.options.sack.extend(
                blocks
                    .iter()
                    .map(|(a, b)| SackBlock { start: SeqNumber(SERVER + a), end: SeqNumber(SERVER + b) }),
            );
            segment
        };
        let mut stamped = segment(CLIENT + 401, b"");
        stamped.options.timestamps = Some(Timestamps { value: 8, echo: 3 });
        let bad = [
            (segment(CLIENT + 500, b"x"), "never sent"),
            (segment(CLIENT + 401, &[1; 489]), "MSS is 500"),
            (Segment { gso_size: 480, ..segment(CLIENT + 401, &[1; 1601]) }, "window ends at 2001"),
            (segment(CLIENT + 1, &[2; 10]), "others than before"),
            (Segment { flags: Flags::PSH, ..segment(CLIENT + 401, b"x") }, "ACK bit"),
            (Segment { ack: SeqNumber(SERVER + 102), ..segment(CLIENT + 401, b"") }, "101 has arrived"),
            (Segment { window: 900, ..segment(CLIENT + 401, b"") }, "open up to 1001"),
            (stamped, "timestamps go back"),
            (sacks(&[(150, 250)]), "has not arrived"),
            (sacks(&[(201, 301), (210, 220)]), "meets another"),
        ];
        for (segment, words) in bad {
            let mut host = client(false);
            assert_eq!(verdict(&mut host, &good), "");
            let verdict = verdict(&mut host, &segment);
            assert!(verdict.contains(words), "{segment:?}: {verdict}");
        }
        let mut host = client(false);
        assert_eq!(verdict(&mut host, &good), "");
        assert_eq!(verdict(&mut host, &sacks(&[(50, 60), (201, 301)])), "", "a duplicate, and news");
        assert!(verdict(&mut host, &segment(CLIENT + 401, b"")).contains("was 101 before"));
        let mut host = client(false);
        let fin = Segment { flags: Flags::ACK.with(Flags::FIN), ..good };
        assert_eq!(verdict(&mut host, &fin), "");
        assert!(verdict(&mut host, &segment(CLIENT + 402, b"x")).contains("behind the FIN"));
    }

    /// A SYN may come a second time when the connection that it began is over.
    #[test]
    fn the_answer_to_an_old_syn_begins_anew() {
        let mut host = client(false);
        let last = Segment { ack: SeqNumber(SERVER + 101), ..segment(CLIENT + 1, b"x") };
        assert_eq!(verdict(&mut host, &last), "");
        let flags = Flags::SYN.with(Flags::ACK);
        let answer = Segment { flags, ..segment(CLIENT + 77_777, b"") };
        assert_eq!(verdict(&mut host, &answer), "");
    }

    fn mapped(from: u32, payload: &[u8], data: u64) -> Segment {
        let mut segment = segment(CLIENT + from, payload);
        let mapping = Mapping {
            dsn: Key::new(Version::V1, KEY).idsn + 1 + data,
            dsn_long: true,
            subflow_seq: from,
            len: payload.len() as u16,
            checksum: None,
        };
        let data_ack = Some((DataSeq(50), true));
        let dss = Dss { data_ack, mapping: Some(mapping), data_fin: false };
        segment.options.mptcp.push(MptcpOption::Dss(dss));
        segment
    }

    #[test]
    fn data_of_multipath_tcp_keeps_its_place_and_its_value() {
        let mut back = mapped(101, b"x", 100);
        let Some(MptcpOption::Dss(dss)) = back.options.mptcp.first_mut() else { panic!("a DSS") };
        dss.data_ack = Some((DataSeq(49), true));
        let mut checked = mapped(101, b"x", 100);
        let Some(MptcpOption::Dss(dss)) = checked.options.mptcp.first_mut() else { panic!("a DSS") };
        if let Some(mapping) = &mut dss.mapping {
            mapping.checksum = Some(1);
        }
        let mut bare = segment(CLIENT + 101, b"x");
        let acknowledges = Dss { data_ack: Some((DataSeq(50), true)), mapping: None, data_fin: false };
        bare.options.mptcp.push(MptcpOption::Dss(acknowledges));
        let bad = [
            (mapped(101, b"x", 101), "after 100 octets"),
            (mapped(1, &[1; 100], 200), "in another way"),
            (mapped(101, &[2; 50], 50), "others than before"),
            (bare, "no mapping covers"),
            (back, "Data ACK was 50"),
            (checked, "the checksum is 0x0001"),
        ];
        for (segment, words) in bad {
            let mut host = client(true);
            assert_eq!(verdict(&mut host, &mapped(1, &[1; 100], 0)), "");
            assert_eq!(verdict(&mut host, &mapped(101, &[1; 50], 50)), "", "the same octets again");
            let mut host = client(true);
            assert_eq!(verdict(&mut host, &mapped(1, &[1; 100], 0)), "");
            let verdict = verdict(&mut host, &segment);
            assert!(verdict.contains(words), "{segment:?}: {verdict}");
        }
    }
}
