//! Fallback and what may look like it, segment by segment (RFC 8684 sections 3.3 and 3.7), in both roles and
//! versions.

use super::script::{ROLES, Role, Script, fail, reset_reason};
use crate::wire::{Dss, Flags, Mapping, MptcpOption, ResetReason, Segment, Version};
use crate::{CloseReason, ConnectionConfig, Counter, FallbackReason};
use std::time::Duration;

fn with_checksum() -> ConnectionConfig {
    ConnectionConfig { checksum: true, ..ConnectionConfig::default() }
}

/// The reason that version 1 gives; version 0 has no MP_TCPRST.
fn reason(role: Role, reason: ResetReason) -> Option<ResetReason> {
    (role.version == Version::V1).then_some(reason)
}

fn assert_reset(role: Role, out: &[Segment], expected: ResetReason) {
    let reset = out.iter().find(|segment| segment.flags.has(Flags::RST));
    let reset = reset.unwrap_or_else(|| panic!("{role:?}: no reset in {out:?}"));
    assert_eq!(reset_reason(reset), reason(role, expected), "{role:?}: {reset:?}");
}

#[test]
//= RFC 8684 3.3.3-6 (test)
fn a_fin_without_options_is_not_the_end_of_the_stream() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        let data = script.data(0, b"some", false);
        script.feed(data);
        // Also if something of ours has been acknowledged before, with a Data ACK.
        script.write(b"answer");
        let mut ack = script.bare(0);
        ack.options.mptcp.push(script.data_ack());
        script.feed(ack);
        script.take();
        let mut fin = script.bare(0);
        fin.flags = Flags::ACK.with(Flags::FIN);
        script.feed(fin);
        script.flows[0].seq += 1;
        assert_eq!(script.read(), (b"some".to_vec(), false), "{role:?}");
        let info = script.info();
        assert_eq!((info.fallback, script.closed()), (None, None), "{role:?}");
        let out = script.take();
        assert!(out.iter().any(|segment| segment.ack == script.flows[0].seq), "{role:?}: {out:?}");
    }
}

#[test]
fn a_fin_without_options_that_acknowledges_data_without_a_data_ack_is_that_of_a_peer_that_fell_back() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        script.write(b"question");
        script.take();
        let mut fin = script.bare(0);
        fin.flags = Flags::ACK.with(Flags::FIN);
        script.feed(fin);
        assert_eq!(script.info().fallback, Some(FallbackReason::OptionStripped), "{role:?}");
        assert_eq!(script.read(), (Vec::new(), true), "{role:?}");
    }
}

#[test]
fn a_fin_without_options_after_a_fallback_is_the_end_of_the_stream() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        let mut plain = script.data(0, b"some", false);
        plain.options.mptcp.clear();
        script.feed(plain);
        assert_eq!(script.info().fallback, Some(FallbackReason::MappingMissing), "{role:?}");
        let mut fin = script.bare(0);
        fin.flags = Flags::ACK.with(Flags::FIN);
        script.feed(fin);
        assert_eq!(script.read(), (b"some".to_vec(), true), "{role:?}");
    }
}

#[test]
//= RFC 8684 3.3-1 (test)
fn a_mapping_without_the_checksum_that_was_negotiated_resets_the_subflow() {
    for role in ROLES {
        for (payload, data_fin) in [(&b"some"[..], false), (b"some", true), (b"", true)] {
            let mut script = Script::established(role, &with_checksum());
            assert!(script.info().checksum);
            let mut data = script.data(0, payload, data_fin);
            let MptcpOption::Dss(Dss { mapping: Some(mapping), .. }) = &mut data.options.mptcp[0] else {
                panic!("no mapping")
            };
            mapping.checksum = None;
            script.feed(data);
            let out = script.take();
            assert_reset(role, &out, ResetReason::MptcpSpecific);
            assert_eq!((script.read(), script.alive()), ((Vec::new(), false), 0), "{role:?}");
            assert_eq!(script.info().fallback, None);
            assert_eq!(script.endpoint.counters().get(Counter::DssChecksumUnagreed), 1);
        }
    }
}

#[test]
//= RFC 8684 3.3-2 (test)
fn a_checksum_that_was_not_negotiated_resets_the_subflow_in_version_1_and_is_ignored_in_version_0() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        script.checksum = true;
        let data = script.data(0, b"some", false);
        script.feed(data);
        let out = script.take();
        if role.version == Version::V1 {
            assert_reset(role, &out, ResetReason::MptcpSpecific);
            assert_eq!((script.read(), script.alive()), ((Vec::new(), false), 0));
        } else {
            assert_eq!((script.read(), script.alive()), ((b"some".to_vec(), false), 1));
        }
    }
}

#[test]
//= RFC 8684 3.3-3 (test)
fn first_data_with_the_keys_but_without_its_checksum_resets_the_subflow() {
    let role = ROLES[0];
    for (checksum, sent) in [(true, None), (false, Some(7))] {
        let config = ConnectionConfig { checksum, ..ConnectionConfig::default() };
        let mut script = Script::established(role, &config);
        let MptcpOption::Capable(mut capable) = script.keys() else { panic!("no keys") };
        capable.data = Some((4, sent));
        let mut data = script.data(0, b"some", false);
        data.options.mptcp.clear();
        data.options.mptcp.push(MptcpOption::Capable(capable));
        script.feed(data);
        assert_reset(role, &script.take(), ResetReason::MptcpSpecific);
        assert_eq!(script.read(), (Vec::new(), false));
    }
}

/// Data of the script whose checksum is wrong, or MP_FAIL of a script for which the endpoint's was.
#[test]
//= RFC 8684 3.3-4 (test)
//= RFC 8684 3.7-10 (test)
fn mp_fail_is_answered_with_mp_fail_each_time_that_it_comes() {
    for role in ROLES {
        let mut script = Script::established(role, &with_checksum());
        let data = script.data(0, b"some", false);
        script.feed(data);
        script.write(b"a question");
        script.take();
        let mut failed = script.bare(0);
        failed.ack = script.flows[0].ack;
        failed.options.mptcp.push(MptcpOption::Fail(script.theirs.idsn + 1));
        failed.options.mptcp.push(script_data_ack_of_nothing(&script));
        script.feed(failed.clone());
        let out = script.take();
        let expected = Some(script.ours.idsn + 1 + 4);
        assert_eq!(out.iter().map(fail).next(), Some(expected), "{role:?}: {out:?}");
        assert!(out[0].options.dss().is_some_and(Dss::is_infinite), "{role:?}: {out:?}");
        assert_eq!(script.info().fallback, Some(FallbackReason::PeerChecksumFailed));
        // It was lost: the peer says it again, and is answered again.
        script.feed(failed);
        assert_eq!(fail(&script.take()[0]), expected, "{role:?}");
        // Not unasked: Linux takes a second one for a new failure. The kernel would have reset after 120 s
        // without the first.
        script.pass(Duration::from_secs(400));
        assert!(script.take().iter().all(|segment| fail(segment).is_none()), "{role:?}");
        assert_eq!(script.closed(), None, "{role:?}");
        script.write(b"more");
        let more = script.only();
        assert_eq!((fail(&more), more.payload.to_vec()), (None, b"more".to_vec()), "{role:?}");
        assert!(more.options.dss().is_some_and(Dss::is_infinite), "{role:?}: {more:?}");
        script.feed(script.bare(0));
        script.pass(Duration::from_millis(10));
        let mut plain = script.bare(0);
        plain.payload = b"plain".to_vec().into();
        script.feed(plain);
        assert_eq!(script.read().0, b"someplain", "{role:?}");
    }
}

fn script_data_ack_of_nothing(script: &Script) -> MptcpOption {
    MptcpOption::Dss(Dss { data_ack: Some((script.theirs.idsn + 1, true)), mapping: None, data_fin: false })
}

#[test]
fn mp_fail_beside_an_infinite_mapping_is_answered_in_either_order() {
    for role in ROLES {
        for fail_first in [true, false] {
            let mut script = Script::established(role, &with_checksum());
            script.write(b"a question");
            script.take();
            let mut failed = script.bare(0);
            let mapping = Mapping {
                dsn: script.ours.idsn + 1,
                dsn_long: false,
                subflow_seq: 1,
                len: 0,
                checksum: Some(0),
            };
            let infinite = MptcpOption::Dss(Dss { data_ack: None, mapping: Some(mapping), data_fin: false });
            let fails = MptcpOption::Fail(script.theirs.idsn + 1);
            failed.options.mptcp.extend(if fail_first { [fails, infinite] } else { [infinite, fails] });
            script.feed(failed);
            let out = script.take();
            assert!(out.iter().any(|segment| fail(segment).is_some()), "{role:?}: {out:?}");
            assert_eq!(script.info().fallback, Some(FallbackReason::PeerChecksumFailed));
        }
    }
}

/// The endpoint finds a wrong checksum; the script answers with MP_FAIL after a while, or never.
#[test]
fn a_wrong_checksum_is_told_until_the_peer_answers() {
    for role in ROLES {
        for answers in [true, false] {
            let mut script = Script::established(role, &with_checksum());
            let mut data = script.data(0, b"some", false);
            data.payload = b"sane".to_vec().into();
            script.feed(data);
            assert_eq!(fail(&script.only()), Some(script.ours.idsn + 1), "{role:?}");
            script.pass(Duration::from_secs(2));
            assert!(script.take().iter().any(|segment| fail(segment).is_some()), "{role:?}");
            if answers {
                let mut answer = script.bare(0);
                answer.options.mptcp.push(MptcpOption::Fail(script.theirs.idsn + 1));
                script.feed(answer);
                assert_eq!(script.take(), [], "{role:?}: an answer is not answered");
                script.pass(Duration::from_secs(400));
                assert_eq!(script.take(), [], "{role:?}");
            } else {
                script.pass(Duration::from_secs(400));
                assert!(script.take().len() < 8, "{role:?}");
            }
            assert_eq!((script.read().0, script.closed()), (b"sane".to_vec(), None), "{role:?}");
            assert_eq!(script.info().fallback, Some(FallbackReason::ChecksumFailed));
        }
    }
}

fn infinite(script: &Script, back: u32) -> Segment {
    let position = script.sent as u32 + 1 - back;
    let mapping = Mapping {
        dsn: script.ours.idsn + u64::from(position),
        dsn_long: true,
        subflow_seq: position,
        len: 0,
        checksum: None,
    };
    let mut segment = script.bare(0);
    segment.options.mptcp.push(MptcpOption::Dss(Dss {
        data_ack: None,
        mapping: Some(mapping),
        data_fin: false,
    }));
    segment
}

#[test]
//= RFC 8684 3.7-14 (test)
//= RFC 8684 3.7-16 (test)
fn an_infinite_mapping_that_acts_on_the_past_is_followed() {
    for role in ROLES {
        for back in [0, 1, 5, 10] {
            let mut script = Script::established(role, &ConnectionConfig::default());
            let data = script.data(0, b"0123456789", false);
            script.feed(data);
            let mut segment = infinite(&script, back);
            segment.payload = b"more".to_vec().into();
            script.feed(segment);
            assert_eq!(script.info().fallback, Some(FallbackReason::PeerFellBack), "{role:?} {back}");
            assert_eq!(script.read().0, b"0123456789more", "{role:?} {back}");
            assert!(script.take().iter().all(|segment| !segment.flags.has(Flags::RST)));
        }
    }
}

#[test]
fn an_infinite_mapping_where_the_streams_do_not_correspond_resets_the_subflow() {
    for role in ROLES {
        for (dsn, subflow_seq) in [(0, 5), (5, 1), (u64::MAX / 2, 0), (u64::MAX / 2 + 1, u32::MAX)] {
            let mut script = Script::established(role, &ConnectionConfig::default());
            let data = script.data(0, b"0123456789", false);
            script.feed(data);
            script.take();
            let mut segment = infinite(&script, 0);
            let MptcpOption::Dss(Dss { mapping: Some(mapping), .. }) = &mut segment.options.mptcp[0] else {
                panic!("no mapping")
            };
            (mapping.dsn, mapping.subflow_seq) = (script.ours.idsn + 1 + dsn, subflow_seq);
            script.feed(segment);
            assert_reset(role, &script.take(), ResetReason::MiddleboxInterference);
            assert_eq!(script.info().fallback, None, "{role:?}");
        }
    }
}

#[test]
//= RFC 8684 3.3.2-3 (test)
//= RFC 8684 3.7-3 (test)
//= RFC 8684 3.7-4 (test)
fn an_additional_subflow_acknowledged_without_a_data_ack_is_reset() {
    for role in ROLES {
        for with_data_acks in [0, 1, 20] {
            let mut script = Script::joined(role, &ConnectionConfig::default());
            assert_eq!(script.alive(), 2, "{role:?}");
            // All data goes by the second one.
            let mut backup = script.bare(0);
            backup.options.mptcp.push(script.data_ack());
            backup.options.mptcp.push(MptcpOption::Priority { backup: true, address_id: None });
            script.feed(backup);
            let mut reset = Vec::new();
            for round in 0..40 {
                script.write(&[7; 5000]);
                script.pass(Duration::from_millis(1));
                for flow in 0..2 {
                    let mut ack = script.bare(flow);
                    if flow == 0 || round < with_data_acks {
                        ack.options.mptcp.push(script.data_ack());
                    }
                    script.feed(ack);
                }
                reset = script.take();
                reset.retain(|segment| segment.flags.has(Flags::RST));
                if !reset.is_empty() {
                    break;
                }
            }
            if with_data_acks > 0 {
                // Later ones may be missing where they would say nothing new (section 3.3.2).
                assert_eq!((reset.len(), script.alive()), (0, 2), "{role:?}: {reset:?}");
                continue;
            }
            assert_reset(role, &reset, ResetReason::MiddleboxInterference);
            assert_eq!(reset[0].dst, script.flows[1].here, "{role:?}");
            assert_eq!((script.alive(), script.closed()), (1, None), "{role:?}");
        }
    }
}

#[test]
fn a_connection_whose_only_subflow_breaks_the_agreement_ends() {
    // A client would try to join again.
    for role in [ROLES[0], ROLES[2]] {
        let mut script = Script::established(role, &with_checksum());
        script.checksum = false;
        let data = script.data(0, b"some", false);
        script.feed(data);
        script.pass(Duration::from_secs(2000));
        assert!(
            matches!(script.closed(), Some(CloseReason::AllPathsLost | CloseReason::TimedOut)),
            "{role:?}"
        );
    }
}
