//! What path management may cost: how often subflows are tried, where to, and for how long, whatever the two
//! sides announce and whatever becomes of the attempts.

use super::pair::{Host, Middlebox, Pair, PathConfig, address, pattern};
use crate::wire::{AddAddr, Flags, Join, MptcpOption, ResetReason, Segment, TcpReset};
use crate::{
    ConnectionConfig, Counter, Event, Instant, LocalAddress, SubflowInfo, SubflowStart, SubflowState, crypto,
};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

fn config(max_subflows: usize) -> ConnectionConfig {
    ConnectionConfig {
        max_subflows,
        max_addresses: 31,
        subflow_start: SubflowStart::AT_ONCE,
        ..ConnectionConfig::default()
    }
}

/// Subflows that the path manager has asked the driver for.
fn wanted(host: &Host) -> Vec<(IpAddr, SocketAddr)> {
    let wanted = |event: &Event| match event {
        Event::SubflowWanted { local, remote, .. } => Some((*local, *remote)),
        _ => None,
    };
    host.events.iter().filter_map(wanted).collect()
}

fn established(host: &Host) -> Vec<SubflowInfo> {
    let mut subflows = host.info().subflows;
    subflows.retain(|subflow| subflow.state == SubflowState::Established);
    subflows
}

fn local(ip: IpAddr, interface: u32) -> LocalAddress {
    LocalAddress { address: ip, interface, mtu: 1500, backup: false }
}

fn pass(pair: &mut Pair, seconds: u64) {
    pair.run_until(Duration::from_secs(seconds), |_| false);
}

/// SYNs with MP_JOIN that have left the client: where to and, in milliseconds, when.
type Joins = Rc<RefCell<Vec<(SocketAddr, SocketAddr)>>>;

fn join_of(segment: &Segment) -> bool {
    segment.flags.has(Flags::SYN) && matches!(segment.options.join(), Some(Join::Syn { .. }))
}

fn watch_joins(joins: &Joins, mut then: impl FnMut(bool, Segment) -> Option<Segment> + 'static) -> Middlebox {
    let joins = joins.clone();
    Box::new(move |from_client, segment| {
        if from_client && join_of(&segment) {
            joins.borrow_mut().push((segment.src, segment.dst));
        }
        then(from_client, segment)
    })
}

#[test]
fn two_hosts_with_nine_links_find_nine_paths_and_try_each_of_the_others_once() {
    // Checks of silent paths are no attempts to find others.
    let config = ConnectionConfig { path_check: None, ..config(32) };
    let mut pair = Pair::new(1, vec![PathConfig::default(); 9], false, &config);
    pair.send_only(pattern(3_000_000, 1), Vec::new());
    pass(&mut pair, 5);
    assert_eq!(established(&pair.client).len(), 9, "{:#?}", pair.client.info());
    let tried = wanted(&pair.client);
    let mut pairs = tried.clone();
    pairs.sort();
    pairs.dedup();
    assert_eq!((tried.len(), pairs.len()), (80, 80), "all pairs but the first, once each");
    let (before, packets) = (pair.client.events.len(), pair.packets);
    pass(&mut pair, 3600);
    assert_eq!(wanted(&pair.client).len(), 80, "no way is not looked for again and again");
    assert_eq!((pair.client.events.len() - before, pair.packets - packets), (0, 0), "an hour of rest");
    // Routes have changed: each is asked for once more.
    let now = pair.now;
    pair.client.endpoint.routes_changed(now);
    pass(&mut pair, 5);
    assert_eq!(wanted(&pair.client).len(), 80 + 72);
}

#[test]
fn addresses_to_which_there_is_no_way_are_tried_once_however_many_a_peer_announces() {
    let mut pair = Pair::new(2, vec![PathConfig::default(); 3], false, &config(8));
    for number in 0..31 {
        let now = pair.now;
        pair.server.endpoint.add_local_address(now, local(IpAddr::from([10, 100 + number, 0, 2]), 7));
    }
    pair.send_only(pattern(300_000, 1), Vec::new());
    pass(&mut pair, 30);
    let tried = wanted(&pair.client);
    assert!((31..=3 * 33).contains(&tried.len()), "{}", tried.len());
    assert!(established(&pair.client).len() == 3, "{:#?}", pair.client.info());
    let told = pair.client.endpoint.counters().get(Counter::AddAddr);
    assert!(told >= 31, "{told} addresses");
}

#[test]
fn a_storm_of_address_changes_brings_a_bounded_number_of_events_and_subflows() {
    let mut pair = Pair::new(3, vec![PathConfig::default(); 4], false, &config(8));
    let joins = Joins::default();
    pair.middlebox = Some(watch_joins(&joins, |_, segment| Some(segment)));
    pair.send_only(pattern(300_000, 1), Vec::new());
    pass(&mut pair, 1);
    let before = (wanted(&pair.client).len(), joins.borrow().len());
    for number in 0..1000 {
        let (now, ip) = (pair.now, address(1 + number % 3, 1, false));
        pair.client.endpoint.remove_local_address(now, ip);
        pair.client.endpoint.add_local_address(now, local(ip, 2 + number as u32 % 3));
        pair.run_until(Duration::from_millis(10), |_| false);
    }
    let tried = wanted(&pair.client).len() - before.0;
    let begun = joins.borrow().len() - before.1;
    // Ten seconds: the allowance, and two more each second; every change lets failed pairs be asked for
    // again.
    assert!(begun <= 8 + 22, "{begun} SYNs");
    assert!(tried <= 8 * 1000, "{tried} attempts");
    pass(&mut pair, 20);
    assert_eq!(established(&pair.client).len(), 4, "{:#?}", pair.client.info());
}

/// A pair whose client takes forged announcements for the server's: what is needed for that.
struct Liar {
    keys: Rc<Cell<Option<(u64, u64)>>>,
    last: Rc<RefCell<Option<Segment>>>,
    joins: Joins,
}

impl Liar {
    fn new(pair: &mut Pair) -> Self {
        let liar = Self { keys: Rc::default(), last: Rc::default(), joins: Joins::default() };
        let (keys, last) = (liar.keys.clone(), liar.last.clone());
        pair.middlebox = Some(watch_joins(&liar.joins, move |from_client, segment| {
            if from_client && let Some(capable) = segment.options.capable() {
                // The server's key, the client's.
                keys.set(capable.receiver_key.zip(capable.sender_key).or(keys.get()));
            }
            if !from_client && segment.src.ip() == address(0, 2, false) && !segment.flags.has(Flags::SYN) {
                *last.borrow_mut() = Some(segment.clone());
            }
            Some(segment)
        }));
        liar
    }

    /// The server says that it has another address.
    fn announce(&self, pair: &mut Pair, id: u8, address: IpAddr, port: Option<u16>) {
        let (theirs, ours) = self.keys.get().expect("the third ACK has both");
        let mut segment = self.last.borrow().clone().expect("the server has sent something");
        segment.seq = segment.seq_end();
        segment.flags = Flags::ACK;
        segment.payload = Vec::new().into();
        segment.gso_size = 0;
        segment.options.mptcp.clear();
        segment.options.sack.clear();
        let mac = Some(crypto::address_mac(theirs, ours, id, address, port));
        segment.options.mptcp.push(MptcpOption::AddAddr(AddAddr {
            echo: false,
            address_id: id,
            address,
            port,
            mac,
        }));
        let now = pair.now;
        pair.client.endpoint.handle_segment(now, segment);
    }

    /// SYNs to any but the true addresses.
    fn scanned(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let real =
            |to: &SocketAddr| to.port() == 5000 && (0..3).any(|path| to.ip() == address(path, 2, false));
        self.joins.borrow().iter().filter(|(_, to)| !real(to)).copied().collect()
    }
}

/// A pair over three paths, whose client may be lied to.
fn deceived(config: &ConnectionConfig) -> (Pair, Liar) {
    let mut pair = Pair::new(5, vec![PathConfig::default(); 3], false, config);
    let liar = Liar::new(&mut pair);
    pair.send_only(pattern(100_000, 1), pattern(100_000, 2));
    pass(&mut pair, 2);
    (pair, liar)
}

#[test]
fn a_server_can_not_make_its_client_scan_a_network() {
    for (name, id_of) in [("one identifier", 0), ("many", 1)] {
        let (mut pair, liar) = deceived(&ConnectionConfig::default());
        for number in 0..3000_u32 {
            let to = IpAddr::from([10, (number % 3) as u8, 9, (number % 200) as u8]);
            let id = 99 + (number * id_of % 100) as u8;
            liar.announce(&mut pair, id, to, Some(1 + (number % 1000) as u16));
            pair.run_until(Duration::from_millis(2), |_| false);
        }
        let scanned = liar.scanned();
        assert!(!scanned.is_empty() && scanned.len() <= 40, "{name}: {} SYNs in six seconds", scanned.len());
        let mut targets: Vec<SocketAddr> = scanned.iter().map(|(_, to)| *to).collect();
        targets.sort();
        targets.dedup();
        assert!(targets.len() <= 18, "{name}: {} places", targets.len());
    }
}

#[test]
fn the_setting_says_how_many_addresses_are_accepted() {
    for most in [0, 2] {
        let config =
            ConnectionConfig { max_addresses: most, max_subflows: 32, ..ConnectionConfig::default() };
        let mut pair = Pair::new(5, vec![PathConfig::default(); 1], false, &config);
        let liar = Liar::new(&mut pair);
        pair.send_only(pattern(100_000, 1), pattern(100_000, 2));
        pass(&mut pair, 2);
        for number in 0..20 {
            liar.announce(&mut pair, 10 + number, IpAddr::from([10, 0, 7, number]), None);
            pass(&mut pair, 1);
        }
        let mut targets: Vec<SocketAddr> = liar.scanned().iter().map(|(_, to)| *to).collect();
        targets.sort();
        targets.dedup();
        assert_eq!(targets.len(), most);
        assert_eq!(pair.client.endpoint.counters().get(Counter::AddAddrDrop), 20 - most as u64);
    }
}

/// The bug that this was: the address that the connection began with did not count, under however many
/// identifiers.
#[test]
fn the_first_address_counts_under_each_further_identifier() {
    let (mut pair, liar) = deceived(&config(32));
    for number in 0..50 {
        liar.announce(&mut pair, 10 + number, address(0, 2, false), None);
        pair.run_until(Duration::from_millis(200), |_| false);
    }
    let dropped = pair.client.endpoint.counters().get(Counter::AddAddrDrop);
    assert!((19..50).contains(&dropped), "{dropped} of 50");
    assert!(pair.client.closed.is_none());
}

#[test]
fn addresses_that_no_peer_may_name_are_not_connected_to() {
    let (mut pair, liar) = deceived(&config(32));
    let now = pair.now;
    pair.client.endpoint.add_local_address(now, local("10.0.0.77".parse().unwrap(), 1));
    for (id, forbidden) in [
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.77",
        "10.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "169.254.3.4",
        "255.255.255.255",
    ]
    .into_iter()
    .enumerate()
    {
        liar.announce(&mut pair, 50 + id as u8, forbidden.parse().unwrap(), Some(80));
        pass(&mut pair, 1);
    }
    assert!(liar.scanned().is_empty(), "{:?}", liar.scanned());
    let forbidden = |(_, remote): &(IpAddr, SocketAddr)| remote.port() == 80;
    assert!(!wanted(&pair.client).iter().any(forbidden), "nor is the driver asked for a way");
    // An address that becomes ours is not connected to any more.
    liar.announce(&mut pair, 70, "10.0.0.78".parse().unwrap(), Some(81));
    pass(&mut pair, 1);
    let tried = |pair: &Pair| wanted(&pair.client).iter().filter(|(_, to)| to.port() == 81).count();
    let before = tried(&pair);
    assert!(before > 0 && !liar.scanned().is_empty());
    let now = pair.now;
    pair.client.endpoint.add_local_address(now, local("10.0.0.78".parse().unwrap(), 1));
    pass(&mut pair, 300);
    assert_eq!(tried(&pair), before);
}

/// Turns answers to joins into resets with this option.
fn refuse_joins(pair: &mut Pair, option: Option<TcpReset>) -> Joins {
    let joins = Joins::default();
    pair.middlebox = Some(watch_joins(&joins, move |from_client, mut segment| {
        if !from_client && matches!(segment.options.join(), Some(Join::SynAck { .. })) {
            segment.flags = Flags::RST.with(Flags::ACK);
            segment.options.mptcp.clear();
            segment.options.mptcp.extend(option.map(MptcpOption::Reset));
        }
        Some(segment)
    }));
    joins
}

#[test]
fn a_join_that_is_refused_is_not_tried_again_until_something_changes() {
    let reasons =
        [ResetReason::AdministrativelyProhibited, ResetReason::LackOfResources, ResetReason::Other(200)];
    let options = reasons.map(|reason| Some(TcpReset { transient: false, reason }));
    for option in [None].into_iter().chain(options) {
        let mut pair = Pair::new(7, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
        let joins = refuse_joins(&mut pair, option);
        pair.send_only(pattern(300_000, 1), Vec::new());
        pass(&mut pair, 3600);
        assert_eq!(joins.borrow().len(), 1, "{option:?}");
        // Our address goes and comes back.
        let (now, ip) = (pair.now, address(1, 1, false));
        pair.client.endpoint.remove_local_address(now, ip);
        pair.client.endpoint.add_local_address(now, local(ip, 2));
        pass(&mut pair, 100);
        assert_eq!(joins.borrow().len(), 2, "{option:?}");
        // The peer says its address anew.
        let (now, ip) = (pair.now, address(1, 2, false));
        pair.server.endpoint.remove_local_address(now, ip);
        pass(&mut pair, 10);
        let now = pair.now;
        pair.server.endpoint.add_local_address(now, local(ip, 2));
        pass(&mut pair, 100);
        assert_eq!(joins.borrow().len(), 3, "{option:?}");
    }
}

#[test]
fn a_refusal_that_is_said_to_pass_is_tried_again_some_times() {
    let mut pair = Pair::new(7, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let option = TcpReset { transient: true, reason: ResetReason::LackOfResources };
    let joins = refuse_joins(&mut pair, Some(option));
    pair.send_only(pattern(300_000, 1), Vec::new());
    pass(&mut pair, 20);
    assert!((4..=6).contains(&joins.borrow().len()), "{:?}", joins.borrow());
    pass(&mut pair, 24 * 3600);
    assert_eq!(joins.borrow().len(), 8);
}

#[test]
fn a_reset_without_the_flag_for_what_passes_ends_a_path_for_good() {
    for (transient, after_a_minute) in [(false, 1), (true, 2)] {
        let mut pair = Pair::new(8, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
        let joins = Joins::default();
        let reset = Rc::new(Cell::new(false));
        let now = reset.clone();
        pair.middlebox = Some(watch_joins(&joins, move |from_client, mut segment| {
            let second = segment.src.ip() == address(1, 2, false) && !segment.flags.has(Flags::SYN);
            if !from_client && second && now.take() {
                segment.flags = Flags::RST.with(Flags::ACK);
                segment.payload = Vec::new().into();
                segment.options.mptcp.clear();
                segment.options.sack.clear();
                let reason = ResetReason::Unspecified;
                segment.options.mptcp.push(MptcpOption::Reset(TcpReset { transient, reason }));
            }
            Some(segment)
        }));
        pair.send_only(pattern(60_000_000, 1), Vec::new());
        let two = |pair: &Pair| pair.server.connection.is_some() && established(&pair.client).len() == 2;
        assert!(pair.run_until(Duration::from_secs(5), two), "{}", pair.tail());
        pair.run_until(Duration::from_millis(50), |_| false);
        reset.set(true);
        pass(&mut pair, 60);
        assert!(!reset.get(), "the reset was sent");
        assert_eq!(joins.borrow().len(), after_a_minute, "transient: {transient}");
    }
}

#[test]
fn a_removed_address_is_told_again_until_it_has_arrived_and_not_for_ever() {
    for lost in [0, 1, 2] {
        let mut pair = Pair::new(9, vec![PathConfig::default(); 3], false, &ConnectionConfig::default());
        pair.send_only(pattern(1_000_000, 1), Vec::new());
        let three = |pair: &Pair| pair.server.connection.is_some() && established(&pair.server).len() == 3;
        assert!(pair.run_until(Duration::from_secs(5), three), "{}", pair.tail());
        pass(&mut pair, 2);
        let told: Rc<RefCell<Vec<Instant>>> = Rc::default();
        let seen = told.clone();
        let mut left = lost;
        pair.middlebox = Some(Box::new(move |from_client, segment| {
            let removes = |option: &MptcpOption| matches!(option, MptcpOption::RemoveAddr(_));
            if from_client && segment.options.mptcp.iter().any(removes) {
                seen.borrow_mut().push(Instant::ZERO);
                if left > 0 {
                    left -= 1;
                    return None;
                }
            }
            Some(segment)
        }));
        pair.paths[2].up = false;
        let now = pair.now;
        pair.client.endpoint.remove_local_address(now, address(2, 1, false));
        let gone = |pair: &Pair| established(&pair.server).len() == 2;
        assert!(pair.run_until(Duration::from_secs(5), gone), "{lost} lost: {:#?}", pair.server.info());
        pass(&mut pair, 600);
        assert!((lost + 1..=4).contains(&told.borrow().len()), "{lost} lost, {} sent", told.borrow().len());
        assert_eq!(established(&pair.server).len(), 2, "the others are left alone");
    }
}

#[test]
fn only_addresses_that_reach_as_far_as_the_peer_are_announced() {
    let mut pair = Pair::new(10, vec![PathConfig::default(); 2], false, &ConnectionConfig::default());
    let told: Rc<RefCell<Vec<IpAddr>>> = Rc::default();
    let seen = told.clone();
    pair.middlebox = Some(Box::new(move |from_client, segment| {
        for option in &segment.options.mptcp {
            if let (false, MptcpOption::AddAddr(AddAddr { echo: false, address, .. })) = (from_client, option)
            {
                seen.borrow_mut().push(*address);
            }
        }
        Some(segment)
    }));
    for other in ["169.254.1.1", "fe80::1", "203.0.113.7", "10.1.0.9"] {
        let now = pair.now;
        pair.server.endpoint.add_local_address(now, local(other.parse().unwrap(), 2));
    }
    pair.send_only(pattern(100_000, 1), Vec::new());
    pass(&mut pair, 30);
    let mut told = told.borrow().clone();
    told.sort();
    told.dedup();
    let expected: [IpAddr; 3] = ["10.1.0.2", "10.1.0.9", "203.0.113.7"].map(|ip| ip.parse().unwrap());
    assert_eq!(told, expected);
}
