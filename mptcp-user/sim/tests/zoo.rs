//! The middlebox zoo: every box alone and in pairs, on the first path, on the second, on both. Whichever box
//! stands in the way, the transfer completes if regular TCP's does, in both directions, and every octet is
//! the right one.
//!
//! The table in `docs/middleboxes.md` says whether Multipath TCP survives. If a change of it is meant, write
//! it anew with `MPTCP_UPDATE=1 cargo test -p mptcp-sim --test zoo` and commit it with the change.
//!
//! A pair that fails is named as `MPTCP_ZOO_CASE="NAT then proxy on Both"` takes it: that one alone, and all
//! that happens is printed (with `--nocapture`).

use mptcp_proto::{CloseReason, ConnectionConfig, FallbackReason};
use mptcp_sim::middlebox::{Action, BoxConfig, OptionKind, Passing, Way, When};
use mptcp_sim::{LinkConfig, PathConfig, PathId, Side, Simulation, SimulationConfig, Traffic, pattern};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Octets in each direction.
const SIZE: u64 = 120_000;
/// Time within which everything is over.
const LIMIT: Duration = Duration::from_secs(120);
const SEED: u64 = 11;
/// Names the one pair to be tried.
const REPLAY: &str = "MPTCP_ZOO_CASE";

/// An animal: its name in the table, and the boxes it is made of on a path with this address outside.
struct Animal {
    name: &'static str,
    boxes: fn(IpAddr) -> Vec<BoxConfig>,
    /// It changes octets: regular TCP can't notice.
    changes: bool,
}

const fn animal(name: &'static str, boxes: fn(IpAddr) -> Vec<BoxConfig>) -> Animal {
    Animal { name, boxes, changes: false }
}

fn strip(option: OptionKind, when: When, way: Option<Way>) -> Vec<BoxConfig> {
    vec![BoxConfig::Option { option, when, way, action: Action::Strip }]
}

/// Twelve octets of what the client, or the server, sends first.
fn greeting(way: Way) -> Vec<u8> {
    pattern(SEED ^ if way == Way::Forward { 1 } else { 2 }, 0, 12)
}

fn gateway(way: Way, replacement: &[u8]) -> Vec<BoxConfig> {
    vec![BoxConfig::PayloadChanger {
        way,
        needle: greeting(way),
        replacement: replacement.to_vec(),
        limit: 1,
    }]
}

const ZOO: &[Animal] = &[
    animal("nothing", |_| Vec::new()),
    animal("NAT", |external| vec![BoxConfig::Nat { external, idle: Duration::from_secs(300) }]),
    animal("Multipath TCP stripped everywhere", |_| strip(OptionKind::Mptcp, When::Always, None)),
    animal("unknown options stripped everywhere", |_| strip(OptionKind::Unknown, When::Always, None)),
    animal("Multipath TCP stripped from SYN", |_| strip(OptionKind::Mptcp, When::OpeningSyn, None)),
    animal("Multipath TCP stripped from SYN/ACK", |_| strip(OptionKind::Mptcp, When::SynAck, None)),
    animal("Multipath TCP stripped from the third ACK", |_| strip(OptionKind::Mptcp, When::ThirdAck, None)),
    animal("Multipath TCP stripped after the SYNs", |_| strip(OptionKind::Mptcp, When::NotSyn, None)),
    animal("Multipath TCP stripped from data, forward", |_| {
        strip(OptionKind::Mptcp, When::Data, Some(Way::Forward))
    }),
    animal("Multipath TCP stripped from data, reverse", |_| {
        strip(OptionKind::Mptcp, When::Data, Some(Way::Reverse))
    }),
    animal("Multipath TCP stripped after the SYNs, forward", |_| {
        strip(OptionKind::Mptcp, When::NotSyn, Some(Way::Forward))
    }),
    animal("Multipath TCP stripped after the SYNs, reverse", |_| {
        strip(OptionKind::Mptcp, When::NotSyn, Some(Way::Reverse))
    }),
    animal("Multipath TCP stripped after 80 ms", |_| {
        strip(OptionKind::Mptcp, When::Later(Duration::from_millis(80)), None)
    }),
    animal("DSS stripped after 80 ms, forward", |_| {
        strip(OptionKind::Dss, When::Later(Duration::from_millis(80)), Some(Way::Forward))
    }),
    animal("DSS stripped after 80 ms, reverse", |_| {
        strip(OptionKind::Dss, When::Later(Duration::from_millis(80)), Some(Way::Reverse))
    }),
    animal("MP_JOIN stripped", |_| strip(OptionKind::MpJoin, When::Always, None)),
    animal("ADD_ADDR stripped", |_| strip(OptionKind::AddAddr, When::Always, None)),
    animal("SYN with Multipath TCP dropped", |_| {
        vec![BoxConfig::Option {
            option: OptionKind::Mptcp,
            when: When::Syn,
            way: None,
            action: Action::Drop,
        }]
    }),
    animal("sequence numbers randomised", |_| vec![BoxConfig::SequenceRandomiser { translate_sack: true }]),
    animal("sequence numbers randomised, SACK not", |_| {
        vec![BoxConfig::SequenceRandomiser { translate_sack: false }]
    }),
    animal("SACK stripped", |_| strip(OptionKind::Sack, When::Always, None)),
    animal("SACK blocks that lie", |_| vec![BoxConfig::SackLiar]),
    animal("timestamps stripped from SYNs", |_| strip(OptionKind::Timestamps, When::Syn, None)),
    animal("timestamps stripped after the SYNs", |_| strip(OptionKind::Timestamps, When::NotSyn, None)),
    animal("timestamps rewritten", |_| vec![BoxConfig::TimestampRewriter]),
    animal("window scale removed", |_| strip(OptionKind::WindowScale, When::Always, None)),
    animal("window shrunk", |_| vec![BoxConfig::WindowShrinker { limit: 120, wavering: false }]),
    animal("window shrunk now and then", |_| vec![BoxConfig::WindowShrinker { limit: 120, wavering: true }]),
    animal("MSS clamped", |_| vec![BoxConfig::MssClamp { mss: 700 }]),
    animal("MSS removed", |_| strip(OptionKind::Mss, When::Always, None)),
    animal("segments split", |_| vec![BoxConfig::Splitter { size: 400, repeat_options: true }]),
    animal("segments split, options on the first piece", |_| {
        vec![BoxConfig::Splitter { size: 400, repeat_options: false }]
    }),
    animal("segments coalesced", |_| {
        vec![BoxConfig::Coalescer { limit: 20_000, hold: Duration::from_millis(1), careless: false }]
    }),
    animal("segments coalesced, mappings lost", |_| {
        vec![BoxConfig::Coalescer { limit: 20_000, hold: Duration::from_millis(1), careless: true }]
    }),
    animal("ECN bleached", |_| vec![BoxConfig::EcnBleacher]),
    animal("data acknowledged early, forward", |_| vec![BoxConfig::EarlyAcker { way: Way::Forward }]),
    animal("data acknowledged early, reverse", |_| vec![BoxConfig::EarlyAcker { way: Way::Reverse }]),
    animal("proxy", |_| vec![BoxConfig::TcpProxy { passing: Passing::Nothing }]),
    animal("proxy that copies options of SYNs", |_| vec![BoxConfig::TcpProxy { passing: Passing::Syn }]),
    animal("proxy that copies options", |_| vec![BoxConfig::TcpProxy { passing: Passing::All }]),
    Animal {
        changes: true,
        ..animal("payload changed, forward", |_| gateway(Way::Forward, b"203,0,113,99"))
    },
    Animal {
        changes: true,
        ..animal("payload changed, reverse", |_| gateway(Way::Reverse, b"203,0,113,99"))
    },
    Animal {
        changes: true,
        ..animal("payload lengthened, forward", |_| gateway(Way::Forward, b"203,0,113,99,19,136"))
    },
    Animal {
        changes: true,
        ..animal("payload lengthened, reverse", |_| gateway(Way::Reverse, b"203,0,113,99,19,136"))
    },
    Animal { changes: true, ..animal("payload shortened, forward", |_| gateway(Way::Forward, b"10,1")) },
    Animal { changes: true, ..animal("payload shortened, reverse", |_| gateway(Way::Reverse, b"10,1")) },
];

/// On which of the two paths the boxes stand.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Where {
    First,
    Second,
    Both,
}

/// The outcome.
struct Result {
    complete: bool,
    fallback: Option<FallbackReason>,
    /// Whether each path carried data.
    carried: [bool; 2],
    closed: Option<CloseReason>,
}

fn run(animals: &[&Animal], place: Where, multipath: bool) -> Result {
    let paths = [1u8, 2].map(|number| {
        let link = LinkConfig::new(20_000_000, Duration::from_millis(10));
        let (client, server) = ([10, number, 0, 1].into(), [10, number, 0, 2].into());
        let stands = match place {
            Where::First => number == 1,
            Where::Second => number == 2,
            Where::Both => true,
        };
        let mut boxes = Vec::new();
        for (index, animal) in (0u8..).zip(animals) {
            let external = IpAddr::from([203, 0, number, index + 1]);
            boxes.extend(if stands { (animal.boxes)(external) } else { Vec::new() });
        }
        PathConfig { boxes, ..PathConfig::new(client, server, link) }
    });
    let (client, server) = (paths[0].client, paths[0].server);
    let changes = animals.iter().any(|animal| animal.changes);
    let log = multipath && std::env::var_os(REPLAY).is_some();
    let config = SimulationConfig { check_wire: false, log, ..SimulationConfig::new(SEED, paths.to_vec()) };
    let mut simulation = Simulation::new(&config);
    let connection = ConnectionConfig { multipath, checksum: changes, ..ConnectionConfig::default() };
    simulation.listen(connection.clone(), Traffic::send(SIZE)).unwrap();
    simulation.connect(client, server, connection, Traffic::send(SIZE)).unwrap();
    let mut result = Result { complete: false, fallback: None, carried: [false; 2], closed: None };
    let end = simulation.now() + LIMIT;
    simulation.run_until(end, |simulation| {
        for side in Side::BOTH {
            let Some(info) = simulation.info(side, 0) else { continue };
            for subflow in &info.subflows {
                let second = subflow.local.ip() == paths[1].client || subflow.local.ip() == paths[1].server;
                // More than the segment that a join is tried with.
                result.carried[usize::from(second)] |= subflow.bytes_received > 3000;
            }
        }
        let outcomes = Side::BOTH.map(|side| simulation.outcomes(side).first().copied());
        let [Some(client), Some(server)] = outcomes else { return false };
        // Ours is the client's view; a server may notice what a client need not.
        result.fallback = client.fell_back.or(server.fell_back);
        result.closed = client.closed.map(|(_, reason)| reason);
        let whole = |outcome: mptcp_sim::Outcome| outcome.end.is_some();
        result.complete = whole(client) && whole(server);
        client.closed.is_some() && server.closed.is_some()
    });
    result
}

/// In words of the table.
fn outcome(result: &Result) -> String {
    if !result.complete {
        return format!("**fails** ({:?})", result.closed);
    }
    match (result.fallback, result.carried) {
        (Some(reason), _) => {
            let reason = serde_json::to_value(reason).unwrap();
            format!("fell back ({})", reason.as_str().unwrap())
        }
        (None, [true, true]) => "multipath".into(),
        (None, [false, true]) => "first subflow lost".into(),
        (None, _) => "second subflow lost".into(),
    }
}

/// Does the work for each of them on all processors, in the order of the cases.
fn at_once<C: Sync, R: Send>(cases: &[C], work: impl Fn(&C) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let place = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(case) = cases.get(place)
                {
                    let result = work(case);
                    done.lock().unwrap().push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

const PLACES: [Where; 3] = [Where::First, Where::Second, Where::Both];

/// Runs it, naming the case if it panics.
fn named(animals: &[&Animal], place: Where, multipath: bool) -> Result {
    let names: Vec<_> = animals.iter().map(|animal| animal.name).collect();
    std::panic::catch_unwind(|| run(animals, place, multipath)).unwrap_or_else(|panic| {
        eprintln!("that was {names:?} on {place:?}, multipath {multipath}");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn what_becomes_of_multipath_tcp_is_what_the_committed_table_says() {
    let results = at_once(ZOO, |animal| {
        let regular = named(&[animal], Where::First, false);
        assert!(regular.complete, "regular TCP fails through {}: {:?}", animal.name, regular.closed);
        PLACES.map(|place| named(&[animal], place, true))
    });
    let mut table = String::from(
        "# Middleboxes and what becomes of a connection\n\n\
         Two paths with the same link; on the first, on the second or on both of them stands a middlebox. Through each of\n\
         them regular TCP works, and so does Multipath TCP: the transfers complete, both ways. What the table says is how:\n\
         with both subflows, with one of them, or as regular TCP (and why, in the words of `mptcp connect --json`). Where\n\
         a box changes octets, DSS checksums are in use.\n\n\
         Boxes that begin to strip options from all paths while several subflows carry data leave no one stream that regular\n\
         TCP could go on with: there the subflows are reset, and new ones opened in their place.\n\n\
         The table is made in simulation by `mptcp-user/sim/tests/zoo.rs`, which also tries all pairs of boxes: through each of\n\
         them that regular TCP gets through, Multipath TCP does, with one exception: where one box strips options from the\n\
         subflows that there are, and another acknowledges the data of those that are joined then, without Data ACKs, these\n\
         are reset as RFC 8684 section 3.7 demands.\n\n\
         | middlebox | on the first path | on the second path | on both |\n| --- | --- | --- | --- |\n",
    );
    let mut failed = Vec::new();
    for (animal, results) in ZOO.iter().zip(&results) {
        let [first, second, both] = results.each_ref().map(outcome);
        let _ = writeln!(table, "| {} | {first} | {second} | {both} |", animal.name);
        if results.iter().any(|result| !result.complete) {
            failed.push(animal.name);
        }
    }
    assert!(failed.is_empty(), "regular TCP completes, Multipath TCP does not: {failed:?}\n{table}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/middleboxes.md");
    if std::env::var_os("MPTCP_UPDATE").is_some() {
        std::fs::write(&path, &table).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == table,
        "{} says something else; if that is meant, MPTCP_UPDATE=1\n{table}",
        path.display()
    );
}

/// Boxes that regular TCP gets through and Multipath TCP does not, in either order: the first ends the
/// subflows on which the options cease to get through, the other acknowledges data on the next ones without
/// Data ACKs (RFC 8684 section 3.7).
const KNOWN: [[&str; 2]; 2] = [
    ["Multipath TCP stripped after 80 ms", "data acknowledged early, reverse"],
    ["DSS stripped after 80 ms, reverse", "data acknowledged early, reverse"],
];

#[test]
fn through_every_pair_of_boxes_a_transfer_completes_if_regular_tcp_s_does() {
    let mut cases = Vec::new();
    for (place, first) in ZOO.iter().enumerate().skip(1) {
        for (other, second) in ZOO.iter().enumerate().skip(1) {
            if place != other {
                // All pairs in both orders; where they stand changes from one to the next.
                cases.push(([first, second], PLACES[(place + other) % 3]));
            }
        }
    }
    let name = |pair: &[&Animal; 2], place| format!("{} then {} on {place:?}", pair[0].name, pair[1].name);
    if let Ok(wanted) = std::env::var(REPLAY) {
        cases.retain(|(pair, place)| name(pair, *place) == wanted);
        assert_eq!(cases.len(), 1, "{REPLAY}: not one of the pairs");
    }
    let failed: Vec<_> = at_once(&cases, |(pair, place)| {
        let result = named(pair, *place, true);
        // Only where it matters: regular TCP nearly always completes.
        let fails = !result.complete && named(pair, *place, false).complete;
        let names = [pair[0].name, pair[1].name];
        let known = KNOWN.iter().any(|known| *known == names || [known[1], known[0]] == names);
        (fails && !known).then(|| format!("{}: {:?}", name(pair, *place), result.closed))
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

/// A router that translates addresses is restarted, on one path or on both, at some moment of a transfer.
/// Regular TCP does not survive that. (In the first round trip nor does Multipath TCP: there is no joining
/// before both have the keys.)
#[test]
fn a_transfer_completes_though_a_nat_forgets_its_connections() {
    let places: &[&[usize]] = &[&[0], &[1], &[0, 1]];
    let cases: Vec<_> = [1usize, 2]
        .into_iter()
        .flat_map(|paths| places.iter().map(move |places| (paths, *places)))
        .filter(|(paths, places)| places.iter().all(|place| place < paths))
        .flat_map(|(paths, places)| (2..14).map(move |part| (paths, places, 25 * part)))
        .flat_map(|(paths, places, at)| {
            [(0, SIZE), (SIZE, 0), (SIZE, SIZE)].map(|sizes| (paths, places, at, sizes))
        })
        .collect();
    let failed: Vec<_> = at_once(&cases, |&(count, places, at, (up, down))| {
        let paths: Vec<_> = (1..=count as u8)
            .map(|number| {
                let link = LinkConfig::new(4_000_000, Duration::from_millis(10));
                let nat =
                    BoxConfig::Nat { external: [203, 0, number, 1].into(), idle: Duration::from_secs(300) };
                let ends = ([10, number, 0, 1].into(), [10, number, 0, 2].into());
                PathConfig { boxes: vec![nat], ..PathConfig::new(ends.0, ends.1, link) }
            })
            .collect();
        let (client, server) = (paths[0].client, paths[0].server);
        let config = SimulationConfig { check_wire: false, ..SimulationConfig::new(SEED, paths) };
        let mut simulation = Simulation::new(&config);
        simulation.listen(ConnectionConfig::default(), Traffic::send(down)).unwrap();
        simulation.connect(client, server, ConnectionConfig::default(), Traffic::send(up)).unwrap();
        for place in places {
            simulation.schedule(Duration::from_millis(at), mptcp_sim::Action::Forget(PathId(*place)));
        }
        simulation.run(LIMIT);
        let outcome = |side| simulation.outcomes(side).first().copied().unwrap_or_default();
        let [client, server] = Side::BOTH.map(outcome);
        let complete = client.received == down && server.received == up;
        let over = [client, server].map(|outcome| outcome.closed.map(|(_, reason)| reason));
        let well = complete && client.end.is_some() && server.end.is_some();
        (!well).then(|| {
            format!("{count} paths, {places:?} forget after {at} ms, {up} up, {down} down: {over:?}")
        })
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
