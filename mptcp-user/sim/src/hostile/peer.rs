//! A peer that has the keys of a connection and keeps to no rule: it builds segments from what it has seen
//! and from what a script chooses.

use crate::script::Script;
use bytes::Bytes;
use mptcp_proto::crypto::{self, Key};
use mptcp_proto::wire::checksum::dss_checksum;
use mptcp_proto::wire::{
    AddAddr, Dss, FastClose, Flags, Join, Mapping, MpCapable, MptcpOption, Payload, RemoveAddr, ResetReason,
    SackBlock, Segment, SeqNumber, TcpOptions, TcpReset, Timestamps, Version,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Subflows that the peer remembers; it forgets the oldest one beyond that.
const MAX_FLOWS: usize = 64;
/// Each payload is a slice of a block of this size, as the receive path hands them over.
pub(super) const BLOCK: usize = 64 << 10;

/// One four-tuple as the peer sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// The peer's address and port.
    local: SocketAddr,
    /// The host's address and port.
    remote: SocketAddr,
    /// The peer's initial sequence number.
    isn: SeqNumber,
    /// The next sequence number of the peer.
    next: SeqNumber,
    /// The host's initial sequence number, once it is known.
    host_isn: SeqNumber,
    /// The highest sequence number of the host so far.
    host_next: SeqNumber,
    nonce: u32,
    host_nonce: u32,
    /// Whether the host sends timestamps, and its last one.
    stamp: Option<u32>,
    join: bool,
}

/// The peer of one host.
pub(super) struct Peer {
    version: Version,
    key: Key,
    /// The host's key, once it has said it.
    host_key: Option<Key>,
    checksum: bool,
    timestamps: bool,
    flows: Vec<Flow>,
    /// Octets of data sent in order so far.
    data_next: u64,
    /// The highest data sequence number of the host, as an offset.
    host_data: u64,
    clock: u32,
    /// Makes repetitions of one decision name other addresses and identifiers.
    pub(super) salt: u8,
    block: Bytes,
}

/// An address of the peer.
pub(super) fn address(index: u8) -> IpAddr {
    Ipv4Addr::new(10, 2, index % 4, 1).into()
}

impl Peer {
    pub(super) fn new(options: u8) -> Self {
        Self {
            version: Version::V1,
            key: Key::new(Version::V1, 0x0123_4567_89ab_cdef),
            host_key: None,
            checksum: options & 2 != 0,
            timestamps: options & 4 != 0,
            flows: Vec::new(),
            data_next: 0,
            host_data: 0,
            clock: 1,
            salt: 0,
            block: Bytes::new(),
        }
    }

    fn capable(&self, sender: bool, receiver: bool) -> MptcpOption {
        MptcpOption::Capable(MpCapable {
            checksum: self.checksum,
            sender_key: sender.then_some(self.key.key),
            receiver_key: if receiver { self.host_key.map(|key| key.key) } else { None },
            ..MpCapable::new(self.version)
        })
    }

    /// The newest subflow that a choice names.
    fn flow(&self, choice: u8) -> Option<Flow> {
        let count = self.flows.len();
        (count > 0).then(|| self.flows[count - 1 - usize::from(choice) % count])
    }

    fn position(&self, segment: &Segment) -> Option<usize> {
        self.flows.iter().position(|flow| flow.local == segment.dst && flow.remote == segment.src)
    }

    fn remember(&mut self, flow: Flow) {
        self.flows.retain(|known| (known.local, known.remote) != (flow.local, flow.remote));
        if self.flows.len() >= MAX_FLOWS {
            // The first one is the connection's initial subflow.
            self.flows.remove(1);
        }
        self.flows.push(flow);
    }

    fn segment(&mut self, flow: &Flow, flags: Flags) -> Segment {
        let mut segment = Segment::new(flow.local, flow.remote);
        (segment.seq, segment.ack, segment.flags) = (flow.next, flow.host_next, flags);
        segment.window = 0xffff;
        if self.timestamps {
            self.clock = self.clock.wrapping_add(1);
            let stamps = Timestamps { value: self.clock, echo: flow.stamp.unwrap_or_default() };
            segment.options.timestamps =
                Some(stamps).filter(|_| flow.stamp.is_some() || flags.has(Flags::SYN));
        }
        segment
    }

    fn syn_options(&self, options: &mut TcpOptions, choice: u8) {
        options.mss = Some(if choice & 1 != 0 { 100 } else { 1460 });
        options.window_scale = (choice & 2 == 0).then_some(choice >> 4 & 15);
        options.sack_permitted = choice & 4 == 0;
    }

    /// A SYN from a port of the peer: with MP_CAPABLE, with MP_JOIN and the right token, or with neither.
    pub(super) fn syn(&mut self, kind: u8, port: u16, to: SocketAddr, choice: u8) -> Segment {
        let local = SocketAddr::new(address(choice), port);
        let isn = SeqNumber(u32::from(port) << 16 | u32::from(choice));
        let nonce = isn.0 ^ 0x5555_5555;
        let join = kind == 1;
        let zero = SeqNumber(0);
        let mut flow = Flow {
            local,
            remote: to,
            isn,
            next: isn,
            host_isn: zero,
            host_next: zero,
            nonce,
            host_nonce: 0,
            stamp: None,
            join,
        };
        let mut syn = self.segment(&flow, Flags::SYN);
        self.syn_options(&mut syn.options, choice);
        match kind {
            0 => syn.options.mptcp.push(self.capable(false, false)),
            1 => {
                let token = self.host_key.map_or(0, |key| key.token);
                let join = Join::Syn { backup: choice & 8 != 0, address_id: choice, token, nonce };
                syn.options.mptcp.push(MptcpOption::Join(join));
            }
            _ => {}
        }
        flow.next = isn + 1;
        self.remember(flow);
        syn
    }

    /// The peer sees a segment of the host. A SYN opens a subflow; `true`: it waits for an answer.
    pub(super) fn observe(&mut self, segment: &Segment) -> bool {
        if let Some(dss) = segment.options.dss()
            && let (Some(mapping), Some(key)) = (dss.mapping, self.host_key)
        {
            let end = mapping.dsn.distance(key.idsn + 1).wrapping_add(i64::from(mapping.len));
            self.host_data = self.host_data.max(u64::try_from(end).unwrap_or(0));
        }
        if let Some(key) = segment.options.capable().and_then(|capable| capable.sender_key) {
            self.host_key.get_or_insert(Key::new(self.version, key));
        }
        let syn = segment.flags.has(Flags::SYN);
        if syn && !segment.flags.has(Flags::ACK) {
            let isn = SeqNumber(u32::from(segment.src.port()) << 16);
            let nonce = match segment.options.join() {
                Some(Join::Syn { nonce, .. }) => Some(*nonce),
                _ => None,
            };
            self.remember(Flow {
                local: segment.dst,
                remote: segment.src,
                isn,
                next: isn,
                host_isn: segment.seq,
                host_next: segment.seq + 1,
                nonce: isn.0,
                host_nonce: nonce.unwrap_or_default(),
                stamp: segment.options.timestamps.map(|stamps| stamps.value),
                join: nonce.is_some(),
            });
            return true;
        }
        let Some(index) = self.position(segment) else { return false };
        let flow = &mut self.flows[index];
        if syn {
            flow.host_isn = segment.seq;
            flow.host_next = segment.seq + 1;
            if let Some(Join::SynAck { nonce, .. }) = segment.options.join() {
                flow.host_nonce = *nonce;
            }
        }
        flow.host_next = flow.host_next.later(segment.seq_end());
        if let Some(stamps) = segment.options.timestamps {
            flow.stamp = Some(stamps.value);
        }
        syn
    }

    /// An answer to the SYN of the host that came last: a SYN/ACK that a choice makes right or wrong.
    pub(super) fn syn_ack(&mut self, choice: u8) -> Option<Segment> {
        let mut flow = self.flow(0)?;
        let (mut segment, join) = (self.segment(&flow, Flags::SYN.with(Flags::ACK)), flow.join);
        self.syn_options(&mut segment.options, choice & 0xf0);
        let option = match (join, self.host_key) {
            (true, Some(host)) => {
                let mac = crypto::join_mac(self.version, self.key.key, host.key, flow.nonce, flow.host_nonce);
                let mac = crypto::truncated(&mac) ^ u64::from(choice & 15 == 1);
                let (backup, address_id) = (choice & 16 != 0, choice >> 4);
                MptcpOption::Join(Join::SynAck { backup, address_id, mac, nonce: flow.nonce })
            }
            _ => self.capable(true, false),
        };
        match choice & 15 {
            2 => {}
            3 => segment.flags = Flags::RST.with(Flags::ACK),
            4 => segment.ack += 1,
            _ => segment.options.mptcp.push(option),
        }
        flow.next = flow.isn + 1;
        self.remember(flow);
        Some(segment)
    }

    /// The third ACK of a subflow that the peer has opened, right or wrong, with flags of its choice.
    pub(super) fn third_ack(&mut self, which: u8, choice: u8) -> Option<Segment> {
        let flow = self.flow(which)?;
        let flags = match choice & 7 {
            1 => Flags::SYN.with(Flags::ACK),
            2 => Flags::RST.with(Flags::ACK),
            3 => Flags::FIN.with(Flags::ACK),
            _ => Flags::ACK,
        };
        let mut segment = self.segment(&flow, flags);
        match (flow.join, self.host_key) {
            (true, Some(host)) => {
                let mut mac =
                    crypto::join_mac(self.version, self.key.key, host.key, flow.nonce, flow.host_nonce);
                mac[0] ^= u8::from(choice & 8 != 0);
                segment.options.mptcp.push(MptcpOption::Join(Join::Ack { mac }));
            }
            _ if choice & 16 != 0 => {}
            _ => segment.options.mptcp.push(self.capable(true, choice & 8 == 0)),
        }
        Some(segment)
    }

    fn payload(&mut self, len: usize) -> Payload {
        let mut payload = Payload::new();
        if len > 0 {
            if self.block.len() < len {
                self.block = vec![7; BLOCK].into();
            }
            payload.push(self.block.split_to(len));
        }
        payload
    }

    fn data_ack(&self, behind: u64) -> Option<(mptcp_proto::wire::DataSeq, bool)> {
        let key = self.host_key?;
        Some((key.idsn + 1 + self.host_data.wrapping_sub(behind), behind & 1 == 0))
    }

    /// Data at an offset that a script chooses, with a mapping that fits or does not.
    pub(super) fn data(&mut self, which: u8, script: &mut Script<'_>) -> Option<Segment> {
        let flow = self.flow(which)?;
        let mut segment = self.segment(&flow, Flags::ACK);
        let (shape, size) = (script.octet(), script.octet());
        let len = match shape & 3 {
            0 => usize::from(size),
            1 => usize::from(size) * 5,
            2 => 1,
            _ => 1025,
        };
        // Mostly in order; else ahead or behind by a little or a lot.
        let ahead = match shape >> 2 & 7 {
            0..=3 => 0,
            4 => u32::from(script.octet()),
            5 => u32::from(script.octet()) << 8,
            6 => u32::from(script.octet()).wrapping_neg(),
            _ => script.word(),
        };
        segment.seq += ahead;
        let payload = self.payload(len);
        let data = match shape >> 5 {
            0..=3 => self.data_next.wrapping_add(u64::from(ahead)),
            4 => self.data_next.wrapping_add(u64::from(script.octet()) << 8),
            5 => self.data_next.wrapping_sub(u64::from(script.octet())),
            6 => u64::from(script.word()) << 32 | u64::from(script.word()),
            _ => u64::MAX,
        };
        let relative = segment.seq.distance(flow.isn) as u32;
        let mut data_fin = false;
        let mapping = (data != u64::MAX).then(|| {
            let kind = script.octet();
            data_fin = kind & 0xf0 == 0x10;
            let mapped = match kind & 15 {
                1 => 0,
                2 => u16::MAX,
                3 => (len as u16).wrapping_sub(1),
                4 => len as u16 + 700,
                _ => len as u16 + u16::from(data_fin),
            };
            let dsn = self.key.idsn + 1 + data;
            let subflow_seq = relative.wrapping_add(u32::from(kind & 15 == 5));
            let checksum = self.checksum.then(|| {
                dss_checksum(dsn, subflow_seq, mapped, &payload).wrapping_add(u16::from(kind & 15 == 6))
            });
            Mapping { dsn, dsn_long: kind & 0x20 == 0, subflow_seq, len: mapped, checksum }
        });
        let data_ack = self.data_ack(0);
        segment.options.mptcp.push(MptcpOption::Dss(Dss { data_ack, mapping, data_fin }));
        segment.payload = payload;
        if ahead == 0 {
            self.advance(&flow, len as u32);
            self.data_next += len as u64;
        }
        Some(segment)
    }

    /// A super-segment of data in order, as large as the script says.
    pub(super) fn bulk(&mut self, which: u8, size: u8) -> Option<Segment> {
        let flow = self.flow(which)?;
        let mut segment = self.segment(&flow, Flags::ACK);
        let len = usize::from(size) * 100;
        let dsn = self.key.idsn + 1 + self.data_next;
        let subflow_seq = segment.seq.distance(flow.isn) as u32;
        let payload = self.payload(len);
        let checksum = self.checksum.then(|| dss_checksum(dsn, subflow_seq, len as u16, &payload));
        let mapping = Some(Mapping { dsn, dsn_long: true, subflow_seq, len: len as u16, checksum });
        let data_ack = self.data_ack(0);
        segment.options.mptcp.push(MptcpOption::Dss(Dss { data_ack, mapping, data_fin: false }));
        segment.payload = payload;
        self.advance(&flow, len as u32);
        self.data_next += len as u64;
        Some(segment)
    }

    fn advance(&mut self, flow: &Flow, octets: u32) {
        let known =
            self.flows.iter_mut().find(|known| (known.local, known.remote) == (flow.local, flow.remote));
        if let Some(known) = known {
            known.next += octets;
        }
    }

    /// An acknowledgment of what was sent or of what was not, with SACK blocks at any octet.
    pub(super) fn acknowledge(&mut self, which: u8, script: &mut Script<'_>) -> Option<Segment> {
        let flow = self.flow(which)?;
        let mut segment = self.segment(&flow, Flags::ACK);
        let shape = script.octet();
        let behind = match shape & 3 {
            0 => 0,
            1 => u32::from(script.octet()),
            2 => u32::from(script.octet()) << 8,
            _ => flow.host_next.distance(flow.host_isn) as u32,
        };
        segment.ack = flow.host_next + behind.wrapping_neg();
        for _ in 0..shape >> 2 & 3 {
            let start = segment.ack + 1 + u32::from(script.octet()) * 7;
            let end = start + 1 + u32::from(script.octet() >> 2);
            segment.options.sack.push(SackBlock { start, end });
        }
        segment.window = match shape >> 4 & 3 {
            0 | 1 => 0xffff,
            2 => 0,
            _ => u16::from(script.octet()),
        };
        let behind = if shape & 0x40 != 0 { u64::from(behind) } else { u64::from(script.octet()) };
        if shape & 0x80 == 0 {
            let (mapping, data_fin) = (None, false);
            let data_ack = self.data_ack(behind);
            segment.options.mptcp.push(MptcpOption::Dss(Dss { data_ack, mapping, data_fin }));
        }
        Some(segment)
    }

    /// Addresses that are said to be the peer's: its own, the host's, those that mean something else.
    fn announced(choice: u8) -> IpAddr {
        match choice >> 5 {
            0 => address(choice),
            1 => Ipv4Addr::new(10, 1, choice & 3, 1).into(),
            2 => Ipv4Addr::new(172, 16, 0, choice).into(),
            3 => Ipv4Addr::new(169, 254, 169, 254).into(),
            4 => Ipv4Addr::new(127, 0, 0, choice).into(),
            5 => Ipv4Addr::new(224, 0, 0, choice).into(),
            6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, choice.into()).into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, choice.into()).into(),
        }
    }

    /// An acknowledgment with an option that says something of addresses, priorities, or the end.
    pub(super) fn signal(&mut self, which: u8, script: &mut Script<'_>) -> Option<Segment> {
        let flow = self.flow(which)?;
        let mut segment = self.segment(&flow, Flags::ACK);
        let (kind, choice) = (script.octet(), script.octet());
        let host = self.host_key.map_or(0, |key| key.key);
        let option = match kind & 15 {
            0..=4 => {
                let choice = choice & 0xe0 | choice.wrapping_add(self.salt) & 0x1f;
                let (address, address_id) = (Self::announced(choice), script.octet().wrapping_add(self.salt));
                let port = (kind & 16 != 0).then(|| u16::from(script.octet()) + 1);
                let mac = crypto::address_mac(self.key.key, host, address_id, address, port);
                let mac = Some(mac).filter(|_| kind & 32 == 0);
                MptcpOption::AddAddr(AddAddr { echo: kind & 32 != 0, address_id, address, port, mac })
            }
            5 | 6 => {
                let ids = (choice..=choice.saturating_add(kind >> 4)).collect();
                MptcpOption::RemoveAddr(RemoveAddr { ids })
            }
            7 | 8 => {
                let address_id = (kind & 32 != 0).then_some(choice);
                MptcpOption::Priority { backup: kind & 16 != 0, address_id }
            }
            9 | 10 => MptcpOption::Fail(self.key.idsn + 1 + self.data_next.wrapping_sub(u64::from(choice))),
            11 => {
                let receiver_key = host ^ u64::from(choice & 7 != 0);
                if kind & 16 != 0 {
                    segment.flags = Flags::RST.with(Flags::ACK);
                }
                MptcpOption::FastClose(FastClose { receiver_key })
            }
            12 => {
                segment.flags = Flags::RST.with(Flags::ACK);
                let transient = choice & 128 != 0;
                MptcpOption::Reset(TcpReset { transient, reason: ResetReason::from(choice & 15) })
            }
            13 => {
                let dsn = self.key.idsn + 1 + self.data_next;
                let checksum = self.checksum.then(|| dss_checksum(dsn, 0, 1, &Payload::new()));
                let mapping = Some(Mapping { dsn, dsn_long: true, subflow_seq: 0, len: 1, checksum });
                MptcpOption::Dss(Dss { data_ack: self.data_ack(0), mapping, data_fin: true })
            }
            14 => self.capable(true, true),
            _ => {
                segment.flags = segment.flags.with(Flags::FIN);
                MptcpOption::Dss(Dss { data_ack: self.data_ack(0), ..Dss::default() })
            }
        };
        if kind & 128 == 0 {
            segment.options.mptcp.push(option);
        }
        Some(segment)
    }
}
