//! One endpoint, and a peer that is a script: segments that a test makes by hand, and what the endpoint
//! answers to each. The endpoint is the server or the client, in either version of Multipath TCP.

use super::pair::address;
use crate::crypto::{Key, join_mac, truncated};
use crate::wire::{
    DataSeq, Dss, Flags, Join, Mapping, MpCapable, MptcpOption, Payload, Segment, SeqNumber, Version,
    dss_checksum,
};
use crate::{
    CloseReason, ConnectionConfig, ConnectionId, ConnectionInfo, Endpoint, EndpointConfig, Event, Instant,
    LocalAddress, SubflowState, Versions,
};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// The script's key, and its nonce in joins.
const KEY: u64 = 0x1122_3344_5566_7788;
const NONCE: u32 = 0x0bad_cafe;

/// One four-tuple as the script sees it.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) here: SocketAddr,
    pub(super) there: SocketAddr,
    /// What the script sends next, and what it has received up to.
    pub(super) seq: SeqNumber,
    pub(super) ack: SeqNumber,
    iss: SeqNumber,
}

/// An endpoint with a script for a peer.
pub(super) struct Script {
    pub(super) endpoint: Endpoint,
    pub(super) now: Instant,
    pub(super) connection: ConnectionId,
    pub(super) version: Version,
    /// The endpoint has opened the connection.
    pub(super) client: bool,
    pub(super) checksum: bool,
    pub(super) ours: Key,
    pub(super) theirs: Key,
    pub(super) flows: Vec<Flow>,
    pub(super) events: Vec<Event>,
    /// Octets of data that the script has sent, and that have come from the endpoint.
    pub(super) sent: u64,
    pub(super) received: u64,
    out: Vec<Segment>,
    next_port: u16,
}

/// How a script begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Role {
    pub(super) client: bool,
    pub(super) version: Version,
}

/// Both roles of both versions.
pub(super) const ROLES: [Role; 4] = [
    Role { client: false, version: Version::V1 },
    Role { client: true, version: Version::V1 },
    Role { client: false, version: Version::V0 },
    Role { client: true, version: Version::V0 },
];

impl Script {
    fn prepare(role: Role, config: &ConnectionConfig) -> (Self, ConnectionConfig) {
        let versions = if role.version == Version::V1 { Versions::One } else { Versions::Zero };
        let config = ConnectionConfig { versions, ..config.clone() };
        let mut endpoint = Endpoint::new(EndpointConfig::default(), [7; 32]);
        let now = Instant::from_nanos(1_000_000_000);
        for path in 0..2 {
            let address = address(path, 2, false);
            let interface = path as u32 + 1;
            endpoint.add_local_address(now, LocalAddress { address, interface, mtu: 1500, backup: false });
        }
        let script = Self {
            endpoint,
            now,
            connection: ConnectionId { index: u32::MAX, generation: 0 },
            version: role.version,
            client: role.client,
            checksum: config.checksum,
            ours: Key::new(role.version, KEY),
            theirs: Key::new(role.version, 0),
            flows: Vec::new(),
            events: Vec::new(),
            sent: 0,
            received: 0,
            out: Vec::new(),
            next_port: 50_000,
        };
        (script, config)
    }

    /// A connection that is established and has exchanged its keys.
    pub(super) fn established(role: Role, config: &ConnectionConfig) -> Self {
        let mut script = Self::with_third_ack(role, config, |_| {});
        if role.client {
            // The first Data ACK: the script has had the keys.
            let mut ack = script.bare(0);
            ack.options.mptcp.push(script.data_ack());
            script.feed(ack);
            script.take();
        }
        script
    }

    /// The same; `change` sees the third ACK before it leaves (as a server: the endpoint's own is not
    /// changed).
    pub(super) fn with_third_ack(
        role: Role,
        config: &ConnectionConfig,
        change: impl FnOnce(&mut Segment),
    ) -> Self {
        let (mut script, config) = Self::prepare(role, config);
        let here = SocketAddr::new(address(0, 1, false), if role.client { 5000 } else { 40_000 });
        let there = SocketAddr::new(address(0, 2, false), if role.client { 40_000 } else { 5000 });
        let iss = SeqNumber(0xffff_ff00);
        script.flows.push(Flow { here, there, seq: iss, ack: SeqNumber(0), iss });
        if role.client {
            let connection = script.endpoint.connect(script.now, there, here, config);
            script.connection = connection.expect("the port is free");
            script.collect();
            let syn = script.only();
            assert!(syn.flags == Flags::SYN && syn.options.capable().is_some(), "{syn:?}");
            if role.version == Version::V0 {
                script.learn(syn.options.capable().and_then(|capable| capable.sender_key));
            }
        } else {
            script.endpoint.listen(there, config).expect("the address is ours");
        }
        let mut syn = script.bare(0);
        syn.flags = if role.client { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        syn.options.mss = Some(1460);
        syn.options.sack_permitted = true;
        let with_key = role.client || role.version == Version::V0;
        syn.options.mptcp.push(MptcpOption::Capable(MpCapable {
            checksum: script.checksum,
            sender_key: with_key.then_some(KEY),
            ..MpCapable::new(role.version)
        }));
        script.flows[0].seq += 1;
        script.feed(syn);
        let answer = script.only();
        let capable = *answer.options.capable().expect("MP_CAPABLE is answered");
        script.learn(capable.sender_key);
        if !role.client {
            let mut third = script.bare(0);
            third.options.mptcp.push(script.keys());
            change(&mut third);
            script.feed(third);
            script.take();
        }
        script
    }

    fn learn(&mut self, key: Option<u64>) {
        self.theirs = Key::new(self.version, key.expect("the option has the key"));
    }

    /// MP_CAPABLE with both keys, as the script's third ACK has it.
    pub(super) fn keys(&self) -> MptcpOption {
        MptcpOption::Capable(MpCapable {
            checksum: self.checksum,
            sender_key: Some(self.ours.key),
            receiver_key: Some(self.theirs.key),
            ..MpCapable::new(self.version)
        })
    }

    /// A second subflow, complete; as the client the endpoint opens it.
    pub(super) fn joined(role: Role, config: &ConnectionConfig) -> Self {
        let mut script = Self::established(role, config);
        let third = script.join();
        script.feed(third);
        script.take();
        script
    }

    /// Begins to join; gives the script's last segment of the handshake, which has not been sent.
    pub(super) fn join(&mut self) -> Segment {
        let iss = SeqNumber(0x7fff_ff00);
        let here = SocketAddr::new(address(1, 1, false), if self.client { 5000 } else { 40_001 });
        if self.client {
            self.pass(Duration::from_secs(1));
            let syn = |segment: &Segment| matches!(segment.options.join(), Some(Join::Syn { .. }));
            let out = self.take();
            let syn = out.iter().find(|segment| syn(segment)).expect("the client joins");
            let Some(&Join::Syn { token, nonce, .. }) = syn.options.join() else { unreachable!() };
            assert_eq!(token, self.ours.token);
            self.flows.push(Flow { here: syn.dst, there: syn.src, seq: iss, ack: syn.seq + 1, iss });
            let mac = join_mac(self.version, self.ours.key, self.theirs.key, NONCE, nonce);
            let mut answer = self.bare(1);
            answer.flags = Flags::SYN.with(Flags::ACK);
            answer.options.mss = Some(1460);
            let mac = truncated(&mac);
            let answered = Join::SynAck { backup: false, address_id: 1, mac, nonce: NONCE };
            answer.options.mptcp.push(MptcpOption::Join(answered));
            self.flows[1].seq += 1;
            self.feed(answer);
            let third = self.only();
            assert!(matches!(third.options.join(), Some(Join::Ack { .. })), "{third:?}");
            let mut answer = self.bare(1);
            answer.options.mptcp.push(self.data_ack());
            return answer;
        }
        let there = SocketAddr::new(address(1, 2, false), 5000);
        self.flows.push(Flow { here, there, seq: iss, ack: SeqNumber(0), iss });
        let mut syn = self.bare(1);
        syn.flags = Flags::SYN;
        syn.options.mss = Some(1460);
        let token = self.theirs.token;
        let join = Join::Syn { backup: false, address_id: 1, token, nonce: NONCE };
        syn.options.mptcp.push(MptcpOption::Join(join));
        self.flows[1].seq += 1;
        self.feed(syn);
        let answer = self.only();
        let Some(&Join::SynAck { mac, nonce, .. }) = answer.options.join() else { panic!("{answer:?}") };
        let expected = join_mac(self.version, self.theirs.key, self.ours.key, nonce, NONCE);
        assert_eq!(mac, truncated(&expected));
        let mac = join_mac(self.version, self.ours.key, self.theirs.key, NONCE, nonce);
        let mut third = self.bare(1);
        third.options.mptcp.push(MptcpOption::Join(Join::Ack { mac }));
        third
    }

    /// An acknowledgment without options.
    pub(super) fn bare(&self, flow: usize) -> Segment {
        let flow = &self.flows[flow];
        let mut segment = Segment::new(flow.here, flow.there);
        segment.flags = Flags::ACK;
        (segment.seq, segment.ack, segment.window) = (flow.seq, flow.ack, 60_000);
        segment
    }

    /// A Data ACK of everything that has come.
    pub(super) fn data_ack(&self) -> MptcpOption {
        let data_ack = Some((self.theirs.idsn + 1 + self.received, true));
        MptcpOption::Dss(Dss { data_ack, mapping: None, data_fin: false })
    }

    /// A DSS whose mapping names the next octets of the script's data, on a flow.
    pub(super) fn mapping(&self, flow: usize, payload: &[u8], data_fin: bool) -> Dss {
        let dsn = self.ours.idsn + 1 + self.sent;
        let flow = &self.flows[flow];
        let alone = payload.is_empty();
        let subflow_seq = if alone { 0 } else { flow.seq.distance(flow.iss) as u32 };
        let len = payload.len() as u16 + u16::from(data_fin);
        let checksum =
            self.checksum.then(|| dss_checksum(dsn, subflow_seq, len, &Payload::from(payload.to_vec())));
        Dss {
            data_ack: Some((self.theirs.idsn + 1 + self.received, true)),
            mapping: Some(Mapping { dsn, dsn_long: true, subflow_seq, len, checksum }),
            data_fin,
        }
    }

    /// The next data of the script, which has not been sent; what comes after it is numbered as if it had
    /// been.
    pub(super) fn data(&mut self, flow: usize, payload: &[u8], data_fin: bool) -> Segment {
        let dss = self.mapping(flow, payload, data_fin);
        let mut segment = self.bare(flow);
        segment.options.mptcp.push(MptcpOption::Dss(dss));
        segment.payload = payload.to_vec().into();
        self.sent += payload.len() as u64 + u64::from(data_fin);
        self.flows[flow].seq += payload.len() as u32;
        segment
    }

    /// The script ends its half of a flow, whose data is not the whole stream: a FIN with a Data ACK.
    pub(super) fn end_flow(&mut self, flow: usize) {
        let mut fin = self.bare(flow);
        fin.options.mptcp.push(self.data_ack());
        fin.flags = Flags::ACK.with(Flags::FIN);
        self.feed(fin);
        self.flows[flow].seq += 1;
    }

    /// The endpoint receives a segment, and answers.
    pub(super) fn feed(&mut self, segment: Segment) {
        self.endpoint.handle_segment(self.now, segment);
        self.collect();
    }

    fn collect(&mut self) {
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                match &event {
                    Event::Accepted { connection, .. } => self.connection = *connection,
                    Event::SubflowWanted { connection, local, remote, .. } => {
                        self.next_port += 1;
                        let local = SocketAddr::new(*local, self.next_port);
                        self.endpoint.open_subflow(self.now, *connection, local, *remote);
                    }
                    _ => {}
                }
                self.events.push(event);
            }
            let Some(segment) = self.endpoint.poll_transmit(self.now) else { break };
            assert!(segment.options.wire_len() <= 40);
            let dss = segment.options.dss();
            if let Some(mapping) = dss.and_then(|dss| dss.mapping).filter(|mapping| mapping.len > 0) {
                let end = mapping.dsn + u64::from(mapping.len);
                self.received = self.received.max(end.distance(self.theirs.idsn + 1) as u64);
            }
            for flow in &mut self.flows {
                if (flow.here, flow.there) == (segment.dst, segment.src) {
                    flow.ack = match flow.ack {
                        SeqNumber(0) => segment.seq_end(),
                        ack => ack.later(segment.seq_end()),
                    };
                }
            }
            self.out.push(segment);
        }
    }

    /// What the endpoint has sent since the last time.
    pub(super) fn take(&mut self) -> Vec<Segment> {
        std::mem::take(&mut self.out)
    }

    /// The only segment that the endpoint has sent.
    pub(super) fn only(&mut self) -> Segment {
        let mut out = self.take();
        assert_eq!(out.len(), 1, "{out:?}");
        out.remove(0)
    }

    /// Time passes.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.endpoint.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.endpoint.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    /// The application sends octets.
    pub(super) fn write(&mut self, octets: &[u8]) {
        self.endpoint.send(self.now, self.connection, Bytes::copy_from_slice(octets));
        self.collect();
    }

    /// The application has sent all it has to.
    pub(super) fn finish(&mut self) {
        self.endpoint.finish(self.now, self.connection);
        self.collect();
    }

    /// The application gives up.
    pub(super) fn abort(&mut self) {
        self.endpoint.abort(self.now, self.connection);
        self.collect();
    }

    /// What the application can read, and whether the stream ends after it.
    pub(super) fn read(&mut self) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let (octets, ended) = self.endpoint.recv(self.connection, usize::MAX, &mut out);
        if octets > 0 {
            self.endpoint.consumed(self.now, self.connection, octets);
            self.collect();
        }
        (out.concat(), ended)
    }

    pub(super) fn info(&self) -> ConnectionInfo {
        self.endpoint.info(self.connection).expect("the connection is there")
    }

    /// Why the connection has ended, if it has.
    pub(super) fn closed(&self) -> Option<CloseReason> {
        self.events.iter().find_map(|event| match event {
            Event::Closed(_, reason) => Some(*reason),
            _ => None,
        })
    }

    /// Subflows whose handshake has begun with an answer, and that have not ended.
    pub(super) fn alive(&self) -> usize {
        let subflows = self.info().subflows;
        let over = [SubflowState::SynSent, SubflowState::Closed, SubflowState::TimeWait];
        subflows.iter().filter(|subflow| !over.contains(&subflow.state)).count()
    }
}

/// The MP_FAIL of a segment.
pub(super) fn fail(segment: &Segment) -> Option<DataSeq> {
    segment.options.mptcp.iter().find_map(|option| match option {
        MptcpOption::Fail(dsn) => Some(*dsn),
        _ => None,
    })
}

/// The key in the MP_FASTCLOSE of a segment.
pub(super) fn fast_close(segment: &Segment) -> Option<u64> {
    segment.options.mptcp.iter().find_map(|option| match option {
        MptcpOption::FastClose(close) => Some(close.receiver_key),
        _ => None,
    })
}

/// The reason in the MP_TCPRST of a reset.
pub(super) fn reset_reason(segment: &Segment) -> Option<crate::wire::ResetReason> {
    let reset = segment.flags.has(Flags::RST);
    segment.options.mptcp.iter().filter(|_| reset).find_map(|option| match option {
        MptcpOption::Reset(reset) => Some(reset.reason),
        _ => None,
    })
}
