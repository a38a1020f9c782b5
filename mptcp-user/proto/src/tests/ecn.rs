//! Explicit congestion notification between two ends (RFC 3168, RFC 9768).

use super::pair::{Pair, PathConfig, pattern};
use crate::wire::{Ecn, Flags, Segment};
use crate::{ConnectionConfig, EcnPolicy};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const FIELD: Flags = Flags(Flags::AE.0 | Flags::CWR.0 | Flags::ECE.0);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Both sides know accurate ECN.
    Accurate,
    /// The AE bit of the SYN does not arrive, as with a peer that does not know it.
    Classic,
    /// The server wants none.
    Refused,
}

#[derive(Default)]
struct Seen {
    capable: Cell<u32>,
    marked: Cell<u32>,
    echoes: Cell<u32>,
    cwr: Cell<u32>,
}

/// A connection whose every `mark`th data packet towards the server is marked; what was seen, and the client's largest
/// window at the end.
fn transfer(kind: Kind, mark: u32, server_cleared: bool) -> (Pair, Rc<Seen>) {
    let asks = ConnectionConfig { ecn: EcnPolicy::Ask, ..ConnectionConfig::default() };
    let policy = if kind == Kind::Refused { EcnPolicy::Off } else { EcnPolicy::Accept };
    let server = ConnectionConfig { ecn: policy, ..ConnectionConfig::default() };
    let mut pair = Pair::with_configs(1, vec![PathConfig::default(); 2], false, &asks, &server);
    let seen = Rc::new(Seen::default());
    let tally = seen.clone();
    pair.middlebox = Some(Box::new(move |from_client, mut segment: Segment| {
        let syn = segment.flags.has(Flags::SYN);
        if syn && kind == Kind::Classic {
            segment.flags = segment.flags.without(Flags::AE);
        }
        if server_cleared && !from_client {
            segment.flags = segment.flags.without(FIELD);
        }
        let count = |cell: &Cell<u32>| {
            cell.set(cell.get() + 1);
            cell.get()
        };
        assert!(segment.ecn != Ecn::Ect0 || !segment.payload.is_empty(), "{segment:?}");
        if from_client && segment.ecn == Ecn::Ect0 && count(&tally.capable).is_multiple_of(mark) {
            segment.ecn = Ecn::Ce;
            count(&tally.marked);
        }
        if !syn && !from_client && segment.flags.0 & FIELD.0 != 0 && kind != Kind::Accurate {
            count(&tally.echoes);
        }
        if !syn && from_client && segment.flags.has(Flags::CWR) && kind != Kind::Accurate {
            count(&tally.cwr);
        }
        Some(segment)
    }));
    pair.send_only(pattern(4_000_000, 1), pattern(400_000, 2));
    let done = |pair: &Pair| pair.server.received.len() == 4_000_000 && pair.client.received.len() == 400_000;
    assert!(pair.run_until(Duration::from_secs(60), done), "{kind:?}\n{}", pair.tail());
    assert!(pair.server.received == pattern(4_000_000, 1) && pair.client.received == pattern(400_000, 2));
    (pair, seen)
}

fn client_windows(pair: &Pair) -> (u64, u64) {
    let info = pair.client.endpoint.info(pair.client.connection.unwrap()).unwrap();
    let again = info.subflows.iter().map(|subflow| subflow.bytes_retransmitted).sum();
    (info.subflows.iter().map(|subflow| subflow.cwnd).max().unwrap_or(0), again)
}

#[test]
fn marks_slow_the_sender_down_and_cost_no_data() {
    let (unmarked, _) = transfer(Kind::Accurate, u32::MAX, false);
    let (free, _) = client_windows(&unmarked);
    for kind in [Kind::Accurate, Kind::Classic] {
        let (pair, seen) = transfer(kind, 50, false);
        let (cwnd, again) = client_windows(&pair);
        assert!(seen.marked.get() > 20, "{kind:?}: {} marks", seen.marked.get());
        assert!(cwnd < free / 4, "{kind:?}: {cwnd} octets against {free} without marks");
        assert_eq!(again, 0, "{kind:?}: nothing was lost");
        if kind == Kind::Classic {
            assert!(seen.echoes.get() > 0 && seen.cwr.get() > 0);
            assert!(seen.cwr.get() <= seen.marked.get(), "{} reductions", seen.cwr.get());
        }
    }
}

#[test]
fn a_server_that_wants_none_sees_none() {
    let (_, seen) = transfer(Kind::Refused, 50, false);
    assert_eq!((seen.capable.get(), seen.echoes.get(), seen.cwr.get()), (0, 0, 0));
}

#[test]
fn a_box_that_clears_the_answers_keeps_us_from_claiming_to_be_capable() {
    let (_, seen) = transfer(Kind::Accurate, 50, true);
    assert_eq!(seen.capable.get(), 0);
}
