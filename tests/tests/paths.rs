//! Which subflows there are, and what the two sides tell each other of their addresses, with the kernel as
//! the peer and judge: its counters say what it saw.

use mptcp_proto::{ConnectionConfig, SubflowInfo, SubflowState};
use mptcp_tests::counters::Counters;
use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT};
use mptcp_tests::process::{Finished, Process};
use mptcp_tests::{data, require_root};
use mptcp_user::stack::{MptcpStream, Stack};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// Links slow enough to see what a path does, and for what the machine does besides not to matter.
const SLOW: &[&str] = &["--both", "rate=50mbit,delay=5ms,queue=200"];

/// A client of ours that sends for ever to a kernel that reads.
struct Flood {
    client: Process,
    stream: TcpStream,
    /// The kernel takes joins only while it would take connections.
    _listener: TcpListener,
}

impl Flood {
    fn new(lab: &Lab, words: &[&str]) -> Self {
        lab.prepare_kernel(Side::Right, Family::Ipv4).unwrap();
        Self::to_kernel_as_it_is(lab, words)
    }

    fn to_kernel_as_it_is(lab: &Lab, words: &[&str]) -> Self {
        let local = SocketAddr::new(Family::Ipv4.any(), PORT);
        let listener = kernel::listen(&lab.right, Protocol::Mptcp, local).unwrap();
        let client =
            ours::connect(lab, Family::Ipv4, &[&["-vv", "--file", "/dev/zero"], words].concat()).unwrap();
        let stream = kernel::accept(&listener, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut flood = Self { client, stream, _listener: listener };
        flood.read(100_000);
        flood
    }

    /// Reads so much, and gives how long it took.
    fn read(&mut self, octets: u64) -> Duration {
        let start = Instant::now();
        let read = data::copy((&mut self.stream).take(octets), std::io::sink());
        let read = read.unwrap_or_else(|error| panic!("{error}; the client said: {}", self.client.stderr()));
        assert_eq!(read, octets, "{}", self.client.stderr());
        start.elapsed()
    }

    /// Reads for a while.
    fn read_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.read(50_000);
        }
    }

    /// Reads until a counter of the kernel's has this value.
    fn until(&mut self, lab: &Lab, name: &str, value: i64) {
        self.until_sum(lab, &[name], value);
    }

    /// Reads until counters of the kernel's have this sum.
    fn until_sum(&mut self, lab: &Lab, names: &[&str], value: i64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let counters = Counters::read(&lab.right).unwrap();
            if names.iter().map(|name| counters.get(name)).sum::<i64>() == value {
                return;
            }
            let said = self.client.stderr();
            assert!(Instant::now() < end, "{names:?} don't come to {value}: {counters:?}\n{said}");
            self.read(50_000);
        }
    }

    /// Ends properly; gives what the client says at the end.
    fn end(self) -> Finished {
        self.client.signal(libc::SIGINT);
        data::copy(&self.stream, std::io::sink()).unwrap();
        drop(self.stream);
        let finished = self.client.finish(PATIENCE).unwrap();
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert_eq!(finished.status.code(), Some(130), "{}", finished.stderr);
        finished
    }
}

/// Octets that have left the left side by this link.
fn sent_by(lab: &Lab, link: usize) -> u64 {
    let text = lab.left.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let name = format!("{}:", Side::Left.interface(link));
    let line = text.lines().find(|line| line.trim().starts_with(&name)).expect("the interface is there");
    line.split_whitespace().nth(9).expect("octets sent").parse().expect("a number")
}

fn emulated() -> Lab {
    Lab::emulated(&[SLOW, SLOW], &[Family::Ipv4]).unwrap()
}

#[test]
fn ndiffports_opens_subflows_between_the_same_two_addresses() {
    require_root!();
    let lab = Lab::new().unwrap();
    let mut flood = Flood::new(&lab, &["--path-manager", "ndiffports", "--ndiffports", "4"]);
    flood.until(&lab, "MPTcpExtMPJoinAckRx", 3);
    flood.read(64 << 20);
    let counters = Counters::read(&lab.right).unwrap();
    assert_eq!(counters.get("MPTcpExtMPJoinSynRx"), 3);
    let finished = flood.end();
    let json = finished.json().unwrap();
    let subflows = json["connection"]["subflows"].as_array().unwrap();
    let used = subflows.iter().filter(|subflow| subflow["bytes_sent"].as_u64() > Some(0)).count();
    assert!(used > 1, "{json:#}");
    assert!(subflows.iter().all(|subflow| subflow["remote"] == format!("10.77.1.2:{PORT}")), "{json:#}");
}

#[test]
fn rules_say_which_interfaces_are_used_and_how() {
    require_root!();
    let lab = Lab::new().unwrap();
    let mut flood = Flood::new(&lab, &["--interface-rule", "left2=deny"]);
    flood.read_for(Duration::from_millis(500));
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPJoinSynRx"), 0);
    drop(flood);
    let lab = Lab::new().unwrap();
    let mut flood = Flood::new(&lab, &["--backup", "left2"]);
    flood.until(&lab, "MPTcpExtMPJoinSynBackupRx", 1);
    flood.until(&lab, "MPTcpExtMPJoinAckRx", 1);
    flood.read(64 << 20);
    assert!(sent_by(&lab, 2) < 1 << 20 && sent_by(&lab, 1) > 64 << 20);
    flood.end();
}

#[test]
fn a_backup_takes_over_when_the_regular_path_falls_silent_and_gives_back() {
    require_root!();
    let lab = emulated();
    let mut flood = Flood::new(&lab, &["--path-manager", "backup"]);
    flood.until(&lab, "MPTcpExtMPJoinAckRx", 1);
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPJoinSynBackupRx"), 1);
    flood.read(2 << 20);
    assert!(sent_by(&lab, 2) < 100_000, "the backup is idle: {}", sent_by(&lab, 2));
    lab.silence(1, true);
    // Bytes under way, and then the bytes over the other path, at 6 MB/s.
    let time = flood.read(6 << 20);
    assert!(time < Duration::from_secs(4), "{time:?}");
    assert!(sent_by(&lab, 2) > 1 << 20);
    lab.silence(1, false);
    flood.read_for(Duration::from_secs(3));
    let before = (sent_by(&lab, 1), sent_by(&lab, 2));
    flood.read(4 << 20);
    let after = (sent_by(&lab, 1), sent_by(&lab, 2));
    assert!(after.0 - before.0 > 3 << 20 && after.1 - before.1 < 1 << 20, "{before:?} {after:?}");
    flood.end();
}

#[test]
fn a_single_path_connection_moves_when_its_path_falls_silent() {
    require_root!();
    let lab = emulated();
    let mut flood = Flood::new(&lab, &["--path-manager", "single-path"]);
    flood.until(&lab, "MPTcpExtEchoAdd", 1);
    flood.read(2 << 20);
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPJoinSynRx"), 0);
    lab.silence(1, true);
    let time = flood.read(6 << 20);
    assert!(time < Duration::from_secs(4), "{time:?}");
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPJoinAckRx"), 1);
    let finished = flood.end();
    let json = finished.json().unwrap();
    let subflows = json["connection"]["subflows"].as_array().unwrap();
    assert_eq!(subflows.len(), 2, "{json:#}");
}

#[test]
fn a_single_path_connection_moves_when_its_address_goes() {
    require_root!();
    let lab = Lab::new().unwrap();
    let mut flood = Flood::new(&lab, &["--path-manager", "single-path"]);
    // Without the kernel's other address there is no other path.
    flood.until(&lab, "MPTcpExtEchoAdd", 1);
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPJoinSynRx"), 0);
    lab.left.remove_address("left1", "10.77.1.1/24").unwrap();
    flood.read(256 << 20);
    flood.until(&lab, "MPTcpExtMPJoinAckRx", 1);
    flood.end();
}

#[test]
fn addresses_come_and_go_while_data_flows() {
    require_root!();
    let lab = Lab::new().unwrap();
    let mut flood = Flood::new(&lab, &[]);
    flood.until(&lab, "MPTcpExtMPJoinAckRx", 1);
    for round in 1..=2 {
        lab.left.remove_address("left2", "10.77.2.1/24").unwrap();
        flood.until(&lab, "MPTcpExtRmAddr", round);
        lab.left.add_address("left2", "10.77.2.1/24").unwrap();
        flood.until(&lab, "MPTcpExtMPJoinAckRx", 1 + round);
    }
    // Also that of the initial subflow, whose identifier is 0.
    lab.left.remove_address("left1", "10.77.1.1/24").unwrap();
    flood.until(&lab, "MPTcpExtRmAddr", 3);
    flood.read(64 << 20);
    flood.end();
}

#[test]
fn several_addresses_that_go_at_once_are_each_removed() {
    require_root!();
    let lab = Lab::with_links(4).unwrap();
    let mut flood = Flood::new(&lab, &[]);
    flood.until(&lab, "MPTcpExtMPJoinAckRx", 3);
    let batch = "ip address del 10.77.2.1/24 dev left2; ip address del 10.77.3.1/24 dev left3";
    assert!(lab.left.command("sh").args(["-c", batch]).status().unwrap().success());
    // Linux has room for one REMOVE_ADDR at a time: where the second address goes a moment after the first,
    // it may drop it.
    flood.until_sum(&lab, &["MPTcpExtRmAddr", "MPTcpExtRmAddrDrop"], 2);
    flood.read(32 << 20);
    // The other way round, in one option: the kernel withdraws all that it has announced.
    let before = Counters::read(&lab.right).unwrap().get("MPTcpExtRmAddrTx");
    lab.right.ip("mptcp endpoint flush").unwrap();
    // Each identifier counts.
    flood.until(&lab, "MPTcpExtRmAddrTx", before + 3);
    flood.read(64 << 20);
    let finished = flood.end();
    let json = finished.json().unwrap();
    assert_eq!(json["connection"]["fallback"], serde_json::Value::Null, "{json:#}");
}

#[test]
fn the_kernel_joins_the_port_that_we_announce() {
    require_root!();
    let lab = Lab::of_family(Family::Ipv4).unwrap();
    lab.prepare_kernel(Side::Left, Family::Ipv4).unwrap();
    // The data would fit into the first subflow's window.
    let listener =
        ours::listen(&lab, &["--announce-port", "6000", "--scheduler", "round-robin", "--file", "/dev/zero"])
            .unwrap();
    let remote = Side::Right.socket(1, Family::Ipv4, PORT);
    let stream = kernel::connect(&lab.left, Protocol::Mptcp, None, remote, PATIENCE).unwrap();
    let end = Instant::now() + PATIENCE;
    while kernel::info(&stream).unwrap().additional_subflows == 0 && Instant::now() < end {
        assert_eq!(data::copy((&stream).take(1 << 20), std::io::sink()).unwrap(), 1 << 20);
    }
    assert_eq!(data::copy((&stream).take(64 << 20), std::io::sink()).unwrap(), 64 << 20);
    let counters = Counters::read(&lab.left).unwrap();
    assert_eq!((counters.get("MPTcpExtPortAdd"), counters.get("MPTcpExtMPJoinSynAckRx")), (1, 1));
    listener.signal(libc::SIGINT);
    data::copy(&stream, std::io::sink()).unwrap();
    drop(stream);
    let finished = listener.finish(PATIENCE).unwrap();
    let json = finished.json().unwrap();
    let subflows = json["connection"]["subflows"].as_array().unwrap();
    let joined = subflows.iter().find(|subflow| subflow["local"] == "10.77.2.2:6000");
    assert!(joined.is_some_and(|subflow| subflow["bytes_sent"].as_u64() > Some(0)), "{json:#}");
}

#[test]
fn we_join_the_port_that_the_kernel_announces() {
    require_root!();
    let lab = Lab::of_family(Family::Ipv4).unwrap();
    lab.right.mptcp_limits(8, 8).unwrap();
    lab.right.ip("mptcp endpoint add 10.77.2.2 dev right2 signal port 6000").unwrap();
    let mut flood = Flood::to_kernel_as_it_is(&lab, &[]);
    flood.until(&lab, "MPTcpExtMPJoinPortAckRx", 1);
    flood.read(64 << 20);
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPJoinPortSynRx"), 1);
    flood.end();
}

#[test]
fn a_kernel_that_does_not_want_joins_to_its_first_address_gets_none() {
    require_root!();
    let lab = Lab::new().unwrap();
    lab.right.mptcp_limits(8, 8).unwrap();
    lab.right.sysctl("net.mptcp.allow_join_initial_addr_port", "0").unwrap();
    let mut flood = Flood::to_kernel_as_it_is(&lab, &["--path-manager", "ndiffports"]);
    flood.read_for(Duration::from_millis(700));
    assert_eq!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPJoinSynRx"), 0);
    flood.end();
}

/// Waits until the second subflow is as it should be.
async fn second(stream: &MptcpStream, is: impl Fn(&SubflowInfo) -> bool) -> SubflowInfo {
    for _ in 0..1000 {
        let info = stream.info().await;
        let found = info
            .subflows
            .into_iter()
            .find(|subflow| !subflow.initial && subflow.state == SubflowState::Established && is(subflow));
        if let Some(subflow) = found {
            return subflow;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the second subflow does not come to be as it should: {:#?}", stream.info().await);
}

#[test]
fn priorities_change_in_both_directions() {
    require_root!();
    let lab = Lab::of_family(Family::Ipv4).unwrap();
    lab.prepare_kernel(Side::Right, Family::Ipv4).unwrap();
    let local = SocketAddr::new(Family::Ipv4.any(), PORT);
    let listener = kernel::listen(&lab.right, Protocol::Mptcp, local).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stack = lab.left.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Stack::builder().build()).unwrap()
    });
    let until = |name: &str, value: i64| {
        let end = Instant::now() + PATIENCE;
        while Counters::read(&lab.right).unwrap().get(name) != value {
            assert!(Instant::now() < end, "{name} does not come to {value}");
            thread::sleep(Duration::from_millis(10));
        }
    };
    runtime.block_on(async {
        let remote = Side::Right.socket(1, Family::Ipv4, PORT);
        let config = ConnectionConfig::default();
        let mut stream = stack.connect_with(remote, None, config).await.unwrap();
        let peer = kernel::accept(&listener, PATIENCE).unwrap();
        stream.write_all(b"hello").await.unwrap();
        data::copy((&peer).take(5), std::io::sink()).unwrap();
        let subflow = second(&stream, |subflow| !subflow.backup).await;
        until("MPTcpExtMPJoinAckRx", 1);
        assert!(stream.set_backup(subflow.slot, true).await);
        until("MPTcpExtMPPrioRx", 1);
        assert!(stream.set_backup(subflow.slot, false).await);
        until("MPTcpExtMPPrioRx", 2);
        second(&stream, |subflow| !subflow.backup).await;
        lab.right.ip("mptcp endpoint change 10.77.2.2 backup").unwrap();
        second(&stream, |subflow| subflow.backup).await;
        lab.right.ip("mptcp endpoint change 10.77.2.2 nobackup").unwrap();
        second(&stream, |subflow| !subflow.backup).await;
        assert!(Counters::read(&lab.right).unwrap().get("MPTcpExtMPPrioTx") >= 2);
        assert!(!stream.set_backup(999_999, true).await);
        drop(stream);
        stack.shutdown(Duration::from_secs(3)).await;
    });
}
