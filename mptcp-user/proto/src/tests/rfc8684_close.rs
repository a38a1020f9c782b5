//! Half-closed connections and MP_FASTCLOSE, segment by segment (RFC 8684 sections 3.3.3 and 3.5), in both
//! roles and versions.

use super::script::{ROLES, Role, Script, fast_close};
use crate::wire::{FastClose, Flags, MptcpOption, ResetReason, Segment, TcpReset, Version};
use crate::{CloseReason, ConnectionConfig, SubflowState};
use std::time::Duration;

fn data_fin_of(out: &[Segment]) -> bool {
    out.iter().any(|segment| segment.options.dss().is_some_and(|dss| dss.data_fin))
}

/// The whole answer is sent after the peer's end of the stream, and the end of ours; `octets` of it.
fn answer(script: &mut Script, octets: usize) {
    let mut received = 0;
    let answer = vec![7; octets];
    script.write(&answer);
    script.finish();
    let mut out = script.take();
    for _ in 0..1000 {
        received += out.iter().map(|segment| segment.payload.len()).sum::<usize>();
        if received >= octets && data_fin_of(&out) {
            break;
        }
        let mut ack = script.bare(0);
        ack.options.mptcp.push(script.data_ack());
        script.feed(ack);
        script.pass(Duration::from_millis(5));
        out = script.take();
    }
    assert_eq!(received, octets, "{:?}", script.info());
    let mut ack = script.bare(0);
    ack.options.mptcp.push(script.data_ack());
    script.feed(ack);
}

#[test]
//= RFC 8684 3.3.3-3 (test)
fn data_fin_and_fin_in_one_segment_leave_the_answer_to_be_sent() {
    for role in ROLES {
        for payload in [&b"a question"[..], b""] {
            let mut script = Script::established(role, &ConnectionConfig::default());
            let mut last = script.data(0, payload, true);
            last.flags = last.flags.with(Flags::FIN);
            script.flows[0].seq += 1;
            script.feed(last);
            assert_eq!(script.read(), (payload.to_vec(), true), "{role:?}");
            script.pass(Duration::from_secs(2));
            let out = script.take();
            assert!(out.iter().all(|segment| !segment.flags.has(Flags::FIN)), "{role:?}: {out:?}");
            answer(&mut script, 100_000);
            let fin = script.take();
            assert!(fin.iter().any(|segment| segment.flags.has(Flags::FIN)), "{role:?}: {fin:?}");
            script.feed(script.bare(0));
            script.pass(Duration::from_secs(1));
            assert_eq!(script.closed(), Some(CloseReason::Finished), "{role:?}");
        }
    }
}

#[test]
//= RFC 8684 3.3.3-5 (test)
fn a_fin_on_the_last_subflow_does_not_stop_what_we_send() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        script.end_flow(0);
        assert_eq!(script.read(), (Vec::new(), false), "{role:?}");
        answer(&mut script, 100_000);
        let out = script.take();
        assert!(out.iter().any(|segment| segment.flags.has(Flags::FIN)), "{role:?}: {out:?}");
    }
}

#[test]
fn a_fin_on_one_of_two_subflows_is_answered_with_a_fin_there() {
    for role in ROLES {
        for ended in 0..2 {
            let mut script = Script::joined(role, &ConnectionConfig::default());
            script.end_flow(ended);
            let out = script.take();
            let fins: Vec<_> = out.iter().filter(|segment| segment.flags.has(Flags::FIN)).collect();
            assert_eq!(fins.len(), 1, "{role:?}: {out:?}");
            assert_eq!(fins[0].dst, script.flows[ended].here);
            assert_eq!(script.closed(), None);
        }
    }
}

#[test]
fn a_subflow_that_the_peer_has_ended_is_left_when_another_can_be_used() {
    for role in [ROLES[0], ROLES[2]] {
        let mut script = Script::established(role, &ConnectionConfig::default());
        script.end_flow(0);
        script.take();
        let third = script.join();
        script.feed(third);
        let out = script.take();
        let fin = out.iter().find(|segment| segment.flags.has(Flags::FIN));
        assert_eq!(fin.map(|segment| segment.dst), Some(script.flows[0].here), "{role:?}: {out:?}");
    }
}

/// Nothing comes any more, nothing is to be sent, and the peer never said that its stream has ended.
#[test]
fn a_connection_whose_last_subflow_was_ended_without_data_fin_does_not_live_for_ever() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        script.end_flow(0);
        script.take();
        for _ in 0..20 {
            script.pass(Duration::from_secs(60));
            script.feed(script.bare(0));
        }
        assert!(script.closed().is_some(), "{role:?}: {:?}", script.info());
    }
}

/// The peer goes on sending on its half of a subflow for longer than an orphan would be waited for.
#[test]
fn a_half_that_the_peer_goes_on_using_stays() {
    for role in ROLES {
        let mut script = Script::joined(role, &ConnectionConfig::default());
        script.end_flow(1);
        script.take();
        for _ in 0..30 {
            script.pass(Duration::from_secs(10));
            let data = script.data(0, b"octets", false);
            script.feed(data);
        }
        assert_eq!(script.read().0.len(), 180, "{role:?}");
    }
}

fn abort(role: Role, joined: bool) -> (Script, Vec<Segment>) {
    let config = ConnectionConfig::default();
    let mut script = if joined { Script::joined(role, &config) } else { Script::established(role, &config) };
    script.write(&[7; 3000]);
    let data = script.take();
    assert!(!data.is_empty());
    script.abort();
    (script, data)
}

#[test]
//= RFC 8684 3.5-6 (test)
fn a_reset_with_mp_fastclose_that_overtakes_a_segment_is_repeated_in_answer_to_the_challenge() {
    for role in ROLES.into_iter().filter(|role| role.version == Version::V1) {
        let (mut script, lost) = abort(role, true);
        let out = script.take();
        let key = Some(script.ours.key);
        assert_eq!(out.iter().map(fast_close).collect::<Vec<_>>(), [key; 2], "{role:?}: {out:?}");
        // The data before it was lost on both: neither reset has the sequence number that is waited for.
        for _ in 0..3 {
            for flow in 0..2 {
                let mut challenge = script.bare(flow);
                let first = lost.iter().find(|segment| segment.dst == challenge.src);
                challenge.ack = first.map_or(challenge.ack, |segment| segment.seq);
                script.feed(challenge.clone());
                let reset = script.only();
                assert!(reset.flags.has(Flags::RST) && fast_close(&reset) == key, "{role:?}: {reset:?}");
                assert_eq!((reset.seq, reset.dst), (challenge.ack, challenge.src), "{role:?}");
            }
            script.pass(Duration::from_secs(5));
            assert_eq!(script.take(), [], "{role:?}: not unasked");
        }
        // A reset is not answered, and another connection may begin there.
        let mut reset = script.bare(0);
        reset.flags = Flags::RST;
        script.feed(reset);
        assert_eq!(script.take(), []);
    }
}

#[test]
//= RFC 8684 3.5-2 (test)
//= RFC 8684 3.5-3 (test)
//= RFC 8684 3.5-4 (test)
fn version_0_repeats_an_acknowledgment_with_mp_fastclose_until_a_reset_answers_it() {
    for role in ROLES.into_iter().filter(|role| role.version == Version::V0) {
        for answered in [false, true] {
            let (mut script, _) = abort(role, true);
            let out = script.take();
            let key = Some(script.ours.key);
            let closes: Vec<_> = out.iter().filter(|segment| fast_close(segment).is_some()).collect();
            assert_eq!((closes.len(), closes[0].flags), (1, Flags::ACK), "{role:?}: {out:?}");
            let resets = out.iter().filter(|segment| segment.flags.has(Flags::RST)).count();
            assert_eq!(resets, 1, "{role:?}: the other subflow");
            if answered {
                let mut reset = script.bare(0);
                reset.flags = Flags::RST;
                script.feed(reset);
            }
            script.pass(Duration::from_secs(59));
            let repeated = script.take();
            assert!(repeated.iter().all(|segment| fast_close(segment) == key && segment.flags == Flags::ACK));
            assert_eq!(repeated.len(), if answered { 0 } else { 3 }, "{role:?}: {repeated:?}");
        }
    }
}

/// MP_FASTCLOSE of the script, in its form with ACK or with RST.
fn closes(script: &Script, flow: usize, key: u64, rst: bool) -> Segment {
    let mut segment = script.bare(flow);
    if rst {
        segment.flags = Flags::RST.with(Flags::ACK);
    }
    segment.options.mptcp.push(MptcpOption::FastClose(FastClose { receiver_key: key }));
    segment
}

#[test]
//= RFC 8684 3.5-5 (test)
fn mp_fastclose_of_the_peer_resets_all_other_subflows() {
    for role in ROLES {
        for rst in [false, true] {
            for flow in 0..2 {
                let mut script = Script::joined(role, &ConnectionConfig::default());
                let segment = closes(&script, flow, script.theirs.key, rst);
                script.feed(segment);
                let out = script.take();
                let mut to: Vec<_> = out.iter().filter(|segment| segment.flags.has(Flags::RST)).collect();
                to.sort_by_key(|segment| segment.dst);
                let mut expected: Vec<_> = script.flows.iter().map(|flow| flow.here).collect();
                if rst {
                    expected.remove(flow);
                }
                assert_eq!(to.iter().map(|segment| segment.dst).collect::<Vec<_>>(), expected, "{role:?}");
                assert_eq!(script.closed(), Some(CloseReason::Reset), "{role:?}");
            }
        }
    }
}

#[test]
//= RFC 8684 3.5-1 (test)
fn mp_fastclose_with_a_wrong_key_does_not_end_the_connection() {
    for role in ROLES {
        for (joined, flow) in [(false, 0), (true, 0), (true, 1)] {
            for rst in [false, true] {
                let config = ConnectionConfig::default();
                let mut script =
                    if joined { Script::joined(role, &config) } else { Script::established(role, &config) };
                let segment = closes(&script, flow, script.theirs.key ^ 1, rst);
                script.feed(segment);
                assert!(script.take().iter().all(|segment| !segment.flags.has(Flags::RST)), "{role:?}");
                assert!(script.closed().is_none() || role.client, "{role:?} {joined} {rst}");
                if !rst {
                    let data = script.data(0, b"some", false);
                    script.feed(data);
                    assert_eq!(script.read().0, b"some", "{role:?}");
                } else if !role.client {
                    // Another subflow may still come.
                    script.pass(Duration::from_secs(1));
                    assert_eq!(script.closed(), None, "{role:?}");
                }
            }
        }
    }
}

#[test]
fn a_reset_that_is_out_of_order_is_challenged_whatever_option_it_has() {
    for role in ROLES {
        let mut script = Script::established(role, &ConnectionConfig::default());
        let mut segment = closes(&script, 0, script.theirs.key, true);
        segment.seq += 100;
        script.feed(segment);
        let challenge = script.only();
        assert!(!challenge.flags.has(Flags::RST) && challenge.ack == script.flows[0].seq, "{role:?}");
        let segment = closes(&script, 0, script.theirs.key, true);
        script.feed(segment);
        assert_eq!(script.closed(), Some(CloseReason::Reset), "{role:?}");
    }
}

#[test]
//= RFC 8684 3.6-1 (test)
fn a_reset_without_mp_fastclose_ends_a_subflow_only() {
    let role = ROLES[0];
    let mut script = Script::joined(role, &ConnectionConfig::default());
    let mut reset = script.bare(1);
    reset.flags = Flags::RST.with(Flags::ACK);
    let why = TcpReset { transient: false, reason: ResetReason::UnacceptablePerformance };
    reset.options.mptcp.push(MptcpOption::Reset(why));
    script.feed(reset);
    assert_eq!((script.alive(), script.closed()), (1, None));
    assert_eq!(script.info().subflows[0].state, SubflowState::Established);
}
