//! What is counted where the two sides behave. What is counted where one does not: `security`.

use super::pair::{Pair, PathConfig, pattern};
use crate::wire::Flags;
use crate::{ConnectionConfig, Counter};
use std::time::Duration;

/// Values of some counters of the client and of the server.
fn counted<const N: usize>(pair: &Pair, counters: [Counter; N]) -> ([u64; N], [u64; N]) {
    let of = |endpoint: &crate::Endpoint| counters.map(|counter| endpoint.counters().get(counter));
    (of(&pair.client.endpoint), of(&pair.server.endpoint))
}

#[test]
fn each_step_of_handshake_and_join_is_counted_on_its_side() {
    let mut pair = Pair::new(1, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    // Not before each side has heard that the other has both keys are subflows added.
    pair.send_only(pattern(500_000, 1), pattern(500_000, 2));
    assert!(pair.run_until(Duration::from_secs(1), |pair| pair.server.connection.is_some()
        && pair.server.info().subflows.len() == 2));
    let established = [Counter::CurrEstab, Counter::MpCurrEstab];
    assert_eq!(counted(&pair, established), ([1, 1], [1, 1]));
    pair.exchange(500_000, 500_000);
    assert_eq!(counted(&pair, established), ([0, 0], [0, 0]));
    let steps = [
        Counter::ActiveOpens,
        Counter::PassiveOpens,
        Counter::MpCapableSynTx,
        Counter::MpCapableSynRx,
        Counter::MpCapableSynAckRx,
        Counter::MpCapableAckRx,
        Counter::MpJoinSynTx,
        Counter::MpJoinSynRx,
        Counter::MpJoinSynAckRx,
        Counter::MpJoinAckRx,
        Counter::AddAddrTx,
        Counter::AddAddr,
        Counter::EchoAddTx,
        Counter::EchoAdd,
    ];
    let client = [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0];
    let server = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1];
    assert_eq!(counted(&pair, steps), (client, server));
    // Nothing went wrong, and nothing is counted that would say so.
    for endpoint in [&pair.client.endpoint, &pair.server.endpoint] {
        let bad = endpoint.counters().iter().filter(|(counter, value)| {
            *value > 0 && (counter.name().starts_with("Mptcp") || counter.name().contains("allback"))
        });
        assert_eq!(bad.collect::<Vec<_>>(), []);
    }
}

#[test]
fn a_path_that_dies_and_returns_is_counted_stale_and_recovered() {
    let mut pair = Pair::new(4, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    pair.send(pattern(60_000_000, 1), Vec::new());
    assert!(pair.run_until(Duration::from_secs(10), |pair| pair.server.received.len() > 5_000_000));
    pair.paths[1].up = false;
    assert!(pair.run_until(Duration::from_secs(10), |pair| {
        pair.client.info().subflows.iter().any(|subflow| subflow.stale)
    }));
    pair.paths[1].up = true;
    assert!(pair.run(Duration::from_secs(60)), "{}", pair.tail());
    let counters = [Counter::SubflowStale, Counter::SubflowRecover, Counter::MptcpRetrans, Counter::Timeouts];
    let (client, _) = counted(&pair, counters);
    assert!(client.iter().all(|value| *value > 0), "{client:?}");
}

#[test]
fn a_fallback_is_counted_by_what_was_missing() {
    for (case, counter, on_client) in [
        (0, Counter::MpCapableFallbackSynAck, true),
        (1, Counter::MpCapableFallbackAck, false),
        (2, Counter::MpCapableSynTxDrop, true),
    ] {
        let mut pair = Pair::new(7, vec![PathConfig::default()], false, &ConnectionConfig::default());
        pair.middlebox = Some(Box::new(move |from_client, mut segment| {
            let syn = segment.flags.has(Flags::SYN);
            match case {
                0 if syn && !from_client => segment.options.mptcp.clear(),
                1 if !syn => segment.options.mptcp.clear(),
                2 if syn && segment.options.capable().is_some() => return None,
                _ => {}
            }
            Some(segment)
        }));
        pair.exchange(10_000, 10_000);
        let (client, server) = counted(&pair, [counter]);
        assert_eq!((client[0], server[0]), (u64::from(on_client), u64::from(!on_client)), "case {case}");
    }
}
