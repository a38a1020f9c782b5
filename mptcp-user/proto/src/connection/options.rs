//! The options of every kind of segment. The 40 octets of option space are budgeted here and nowhere else:
//!
//! | segment | options | octets |
//! | --- | --- | --- |
//! | SYN | MSS, SACK permitted, timestamps, window scale; MP_CAPABLE or MP_JOIN; user timeout, if wanted | 20 + 4 or 12 + 4 |
//! | SYN/ACK | the same; MP_CAPABLE or MP_JOIN | 20 + 12 or 16 + 4 |
//! | third ACK | timestamps; MP_CAPABLE or MP_JOIN | 12 + 20 or 24 |
//! | first data (version 1) | timestamps; MP_CAPABLE with length and checksum | 12 + 24 |
//! | data, DATA_FIN | timestamps; DSS with 8-octet Data ACK and DSN | 12 + 28 |
//! | ACK | timestamps; DSS with 8-octet Data ACK | 12 + 12 |
//! | ACK with SACK | timestamps; DSS with 8-octet Data ACK; two blocks; no NOPs between them | 10 + 12 + 18 |
//! | ACK after a wrong checksum | timestamps; MP_FAIL | 12 + 12 |
//! | answer to MP_FAIL | timestamps; MP_FAIL; infinite DSS with 4-octet DSN | 12 + 12 + 16 |
//! | ACK with ADD_ADDR | timestamps; ADD_ADDR; DSS if it still fits | 12 + 8 to 28 |
//!
//! Where not all of it fits, [`fit`] takes away, in this order: SACK blocks, the oldest first, since the next
//! acknowledgment repeats them; the DSS of a pure acknowledgment, which the next one carries, too; timestamps, which
//! other segments have. What is left must fit: it is the reason for the segment. NOPs between options are the
//! first to go.

use super::output::Sent;
use super::paths::window_scale;
use super::{Connection, Mode};
use crate::crypto;
use crate::info::SubflowState;
use crate::subflow::{Kind, Subflow};
use crate::syn_cookie::Cookie;
use crate::wire::{
    Dss, Join, Mapping, MpCapable, MptcpOption, OPTION_SPACE, Payload, TcpOptions, UserTimeout, Version,
    dss_checksum,
};
use crate::{ConnectionConfig, Instant, Versions};

impl Connection {
    /// Options of a SYN or SYN/ACK.
    //= RFC 8684 3.1-3
    pub(super) fn handshake_options(&self, now: Instant, index: usize) -> Option<TcpOptions> {
        Some(self.handshake_options_of(now, self.subflows.get(index)?.as_deref()?))
    }

    /// The same for a subflow that the connection need not have.
    pub(super) fn handshake_options_of(&self, now: Instant, subflow: &Subflow) -> TcpOptions {
        let offered = self.mode == Mode::Handshake(true);
        let syn_ack = subflow.state == SubflowState::SynReceived;
        let scaling = !syn_ack || subflow.rcv.scale > 0 || subflow.snd.scale > 0;
        let mut options = TcpOptions {
            mss: Some(subflow.link_mss),
            sack_permitted: !syn_ack || subflow.snd.sack_ok,
            timestamps: subflow.timestamps(now),
            window_scale: scaling.then_some(subflow.rcv.scale),
            ..TcpOptions::default()
        };
        if self.config.negotiate_user_timeout && subflow.kind == Kind::Initial {
            options.user_timeout = Some(UserTimeout::from(self.config.user_timeout));
        }
        let (address_id, backup) = (subflow.local_id, subflow.backup);
        let (local, remote) = (self.local_key.key, self.remote_key.map_or(0, |key| key.key));
        options.mptcp.extend(match subflow.kind {
            Kind::Initial if offered => Some(MptcpOption::Capable(MpCapable {
                checksum: self.checksum,
                no_join_initial: self.config.no_join_initial,
                sender_key: (syn_ack || self.version == Version::V0).then_some(local),
                ..MpCapable::new(self.version)
            })),
            Kind::Initial => None,
            Kind::JoinActive { nonce, .. } => {
                let token = self.remote_key.map_or(0, |key| key.token);
                Some(MptcpOption::Join(Join::Syn { backup, address_id, token, nonce }))
            }
            Kind::JoinPassive { nonce, peer_nonce } => {
                let mac = crypto::join_mac(self.version, local, remote, nonce, peer_nonce);
                let mac = crypto::truncated(&mac);
                Some(MptcpOption::Join(Join::SynAck { backup, address_id, mac, nonce }))
            }
        });
        options
    }

    /// Options of a segment with data, or with a subflow's FIN.
    //= RFC 8684 3.1-1
    //= RFC 8684 3.3.1-5
    //= RFC 8684 3.7-2
    pub(super) fn data_options(&self, now: Instant, subflow: &Subflow, sent: &Sent) -> TcpOptions {
        let mut options = TcpOptions { timestamps: subflow.timestamps(now), ..TcpOptions::default() };
        let first = self.client && !self.fully_established;
        options.mptcp.extend(match sent.mapping {
            _ if !self.is_multipath() => self.infinite_mapping(sent.start),
            Some(mapping) if first && mapping.data == 0 && sent.start == 1 && self.version == Version::V1 => {
                Some(self.capable_option(Some((mapping.len, mapping.checksum))))
            }
            mapping => Some(MptcpOption::Dss(Dss {
                data_ack: self.remote_dsn(self.receive.nxt).map(|ack| (ack, true)),
                data_fin: mapping.is_some_and(|mapping| mapping.fin),
                mapping: mapping.map(|mapping| Mapping {
                    dsn: self.local_dsn(mapping.data),
                    dsn_long: true,
                    subflow_seq: mapping.subflow_seq,
                    len: mapping.len + u16::from(mapping.fin),
                    checksum: mapping.checksum,
                }),
            })),
        });
        options
    }

    /// Options of a DATA_FIN without data: a mapping of one octet that is not there (RFC 8684 section 3.3.3).
    //= RFC 8684 3.3.3-1
    pub(super) fn data_fin_options(&self, now: Instant, index: usize) -> TcpOptions {
        let timestamps = self.subflows[index].as_deref().and_then(|subflow| subflow.timestamps(now));
        let mut options = TcpOptions { timestamps, ..TcpOptions::default() };
        let dsn = self.local_dsn(self.send.buffer.end());
        let mapping = Mapping {
            dsn,
            dsn_long: true,
            subflow_seq: 0,
            len: 1,
            checksum: self.checksum.then(|| dss_checksum(dsn, 0, 1, &Payload::new())),
        };
        let data_ack = self.remote_dsn(self.receive.nxt).map(|ack| (ack, true));
        options.mptcp.push(MptcpOption::Dss(Dss { data_ack, mapping: Some(mapping), data_fin: true }));
        options
    }

    /// Options of a segment that only acknowledges, with what there is to tell besides.
    //= RFC 8684 3.3.2-2
    //= RFC 8684 3.7-14
    pub(super) fn acknowledgment_options(&mut self, now: Instant, index: usize) -> TcpOptions {
        let data_ack = self.remote_dsn(self.receive.nxt);
        let multipath = self.is_multipath();
        let news = self.news_option(now, index);
        let capable =
            (self.client && !self.fully_established && multipath).then(|| self.capable_option(None));
        let nxt = self.subflows[index].as_deref().map(|subflow| subflow.snd.nxt);
        let infinite = nxt.and_then(|nxt| self.infinite_mapping(nxt));
        let fail_answer = self.fail_answer();
        self.fail_answered();
        let mut options = TcpOptions::default();
        let Some(subflow) = self.subflows[index].as_deref_mut() else { return options };
        options.timestamps = subflow.timestamps(now);
        let blocks = subflow.snd.sack_ok && subflow.rcv.has_blocks();
        if multipath {
            options.mptcp.push(match (subflow.kind, capable) {
                (Kind::Initial, Some(capable)) => capable,
                (Kind::JoinActive { mac, .. }, _) if !subflow.confirmed => {
                    MptcpOption::Join(Join::Ack { mac })
                }
                _ => {
                    let data_ack = data_ack.map(|ack| (ack, true));
                    MptcpOption::Dss(Dss { data_ack, mapping: None, data_fin: false })
                }
            });
            options.mptcp.extend(news);
        } else if let Some(dsn) = subflow.fail_due {
            options.mptcp.push(MptcpOption::Fail(dsn));
        } else {
            options.mptcp.extend(fail_answer);
            options.mptcp.extend(infinite);
        }
        fit(&mut options);
        if blocks {
            // Kind and length take 2 octets, each block 8; NOPs are left out where the blocks need the room.
            let left = OPTION_SPACE.saturating_sub(options.packed_len());
            options.sack = subflow.rcv.sack_blocks(left.saturating_sub(2) / 8);
        }
        options
    }

    /// What there is to tell besides the acknowledgment: address and priority changes.
    fn news_option(&mut self, now: Instant, index: usize) -> Option<MptcpOption> {
        if !self.fully_established || !self.is_multipath() {
            return None;
        }
        let backup = {
            let subflow = self.subflows[index].as_deref_mut().filter(|subflow| subflow.confirmed)?;
            std::mem::take(&mut subflow.priority_due).then_some(subflow.backup)
        };
        if let Some(backup) = backup {
            return Some(MptcpOption::Priority { backup, address_id: None });
        }
        if self.news_carrier() != Some(index) {
            return None;
        }
        // An announcement may leave no room for the Data ACK. If it is stripped on the way, and the client has nothing
        // else from us, it takes that for the end of Multipath TCP: so it has a Data ACK first.
        if !self.client && !std::mem::replace(&mut self.data_ack_sent, true) {
            return None;
        }
        self.address_news(now)
    }

    /// After a fallback: from this octet on the two streams correspond one to one (RFC 8684 section 3.7).
    //= RFC 8684 3.3-4
    fn infinite_mapping(&self, start: u64) -> Option<MptcpOption> {
        self.infinite_until?;
        let mapping = Mapping {
            dsn: self.local_dsn(start - 1),
            // Beside MP_FAIL there is no room for more.
            dsn_long: self.fail_answer().is_none(),
            subflow_seq: start as u32,
            len: 0,
            checksum: self.checksum.then_some(0),
        };
        Some(MptcpOption::Dss(Dss { data_ack: None, mapping: Some(mapping), data_fin: false }))
    }

    /// MP_CAPABLE with both keys: the third ACK, and the first data until the peer is known to have the keys.
    //= RFC 8684 3.1-2
    fn capable_option(&self, data: Option<(u16, Option<u16>)>) -> MptcpOption {
        MptcpOption::Capable(MpCapable {
            checksum: self.checksum,
            no_join_initial: self.config.no_join_initial,
            sender_key: Some(self.local_key.key),
            receiver_key: self.remote_key.map(|key| key.key),
            data,
            ..MpCapable::new(self.version)
        })
    }
}

/// Options of the SYN/ACK that answers a SYN without keeping state: what [`Connection::handshake_options`] would say
/// of a new connection.
pub(crate) fn stateless_syn_ack_options(
    cookie: &Cookie,
    syn: &TcpOptions,
    config: &ConnectionConfig,
    link_mss: u16,
) -> TcpOptions {
    let stamps = cookie.timestamps.is_some();
    let scaling = stamps && syn.window_scale.is_some();
    let mut options = TcpOptions {
        mss: Some(link_mss),
        sack_permitted: stamps && syn.sack_permitted,
        timestamps: cookie.timestamps,
        window_scale: scaling.then(|| window_scale(config.receive_buffer as u64)),
        ..TcpOptions::default()
    };
    // In version 0 nothing but the third ACK has both keys, and nobody would repeat it if it was lost.
    let usable = |capable: &&MpCapable| capable.version == Version::V1 && is_usable(capable, config.versions);
    let capable = syn.capable().filter(|capable| config.multipath && usable(capable));
    options.mptcp.extend(capable.map(|capable| {
        MptcpOption::Capable(MpCapable {
            checksum: config.checksum || capable.checksum,
            no_join_initial: config.no_join_initial,
            sender_key: Some(cookie.key),
            ..MpCapable::new(capable.version)
        })
    }));
    options
}

/// Whether MP_CAPABLE offers what we can do: HMAC with the version's hash and no extensions (RFC 8684 section 3.1).
//= RFC 8684 3.1-4
//= RFC 8684 3.1-7
//= RFC 8684 3.1-10
pub(crate) fn is_usable(capable: &MpCapable, versions: Versions) -> bool {
    versions.accept(capable.version) && capable.hmac && !capable.extensible
}

/// Takes away what gives way to the rest, until the options fit; the order is in this file's head. The first of
/// several Multipath TCP options is the acknowledgment, the last one is why the segment leaves.
//= RFC 8684 6-1
fn fit(options: &mut TcpOptions) {
    while options.wire_len() > OPTION_SPACE && options.sack.pop().is_some() {}
    while options.wire_len() > OPTION_SPACE && options.mptcp.len() > 1 {
        options.mptcp.remove(0);
    }
    if options.wire_len() > OPTION_SPACE {
        options.timestamps = None;
    }
    debug_assert!(options.wire_len() <= OPTION_SPACE, "{options:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AddAddr, DataSeq, SackBlock, Timestamps};
    use std::net::IpAddr;

    fn acknowledgment(sack: usize, news: Option<MptcpOption>) -> TcpOptions {
        let mut options = TcpOptions { timestamps: Some(Timestamps::default()), ..TcpOptions::default() };
        options.sack.extend((0..sack).map(|_| SackBlock::default()));
        let data_ack = Some((DataSeq(1), true));
        options.mptcp.push(MptcpOption::Dss(Dss { data_ack, mapping: None, data_fin: false }));
        options.mptcp.extend(news);
        fit(&mut options);
        options
    }

    fn announcement(address: &str, port: Option<u16>) -> MptcpOption {
        let address: IpAddr = address.parse().expect("an address");
        MptcpOption::AddAddr(AddAddr { echo: false, address_id: 1, address, port, mac: Some(7) })
    }

    #[test]
    //= RFC 8684 6-1 (test)
    fn blocks_give_way_first_then_the_data_ack_then_the_timestamps() {
        let kept = |options: &TcpOptions| {
            (options.sack.len(), options.dss().is_some(), options.timestamps.is_some())
        };
        assert_eq!(kept(&acknowledgment(1, None)), (1, true, true));
        assert_eq!(kept(&acknowledgment(4, None)), (2, true, true));
        assert_eq!(kept(&acknowledgment(4, Some(announcement("192.0.2.1", None)))), (0, true, true));
        assert_eq!(kept(&acknowledgment(1, Some(announcement("2001:db8::1", None)))), (0, false, true));
        let longest = acknowledgment(4, Some(announcement("2001:db8::1", Some(80))));
        assert_eq!(kept(&longest), (0, false, true));
        assert!(longest.wire_len() <= OPTION_SPACE && longest.mptcp.len() == 1);
    }
}
