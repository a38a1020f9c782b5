//! The conditions of the Linux kernel's `simult_flows` self-test with the kernel as the peer: two paths
//! through the emulator are used at once, in less time than the sum of their rates allows with a tenth to
//! spare.

use mptcp_tests::kernel::{self, Protocol};
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::ours::{self, PATIENCE, PORT, assert_orderly};
use mptcp_tests::process::Process;
use mptcp_tests::{data, require_root};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Octets that the kernel's test transfers.
const SIZE: u64 = 16 << 20;
/// The limit's allowance besides the transfer.
const START: Duration = Duration::from_millis(450);
/// How much longer than kernel to kernel a transfer may take that the kernel's scheduler decides on.
const AS_GOOD: f64 = 1.05;

/// Megabits per second and one-way delay in milliseconds of both paths.
type Links = [(u32, u32); 2];
const CONDITIONS: [Links; 6] = [
    [(10, 1), (10, 1)],
    [(10, 1), (10, 50)],
    [(10, 50), (10, 50)],
    [(30, 1), (10, 1)],
    [(30, 1), (10, 50)],
    [(30, 50), (10, 1)],
];

/// Two emulated links, with queues of half a second.
fn lab(links: &Links) -> Lab {
    let words = links.map(|(rate, delay)| {
        let queue = rate * 1_000_000 / 8 / 2 / 1514;
        format!("delay={delay}ms,rate={rate}mbit,queue={queue}")
    });
    Lab::emulated(&[&["--both", &words[0]], &["--both", &words[1]]], &[Family::Ipv4]).expect("links")
}

/// Reads to the end of the stream, all of which is to come: how long that took.
fn receive(begin: Instant, stream: &mut TcpStream) -> Duration {
    let (mut buffer, mut received, mut last) = (vec![0; 256 << 10], 0, begin);
    loop {
        let octets = stream.read(&mut buffer).expect("data");
        if octets == 0 {
            assert_eq!(received, SIZE);
            return last - begin;
        }
        received += octets as u64;
        last = Instant::now();
    }
}

/// Writes everything, and waits until the peer has acknowledged it: how long that took.
fn send(begin: Instant, stream: &mut TcpStream) -> Duration {
    stream.write_all(&vec![7; SIZE as usize]).expect("room");
    while kernel::unacknowledged(stream).expect("a socket") > 0 {
        assert!(begin.elapsed() < PATIENCE, "not acknowledged");
        std::thread::sleep(Duration::from_millis(2));
    }
    begin.elapsed()
}

/// Both ends are the kernel's.
fn kernel_to_kernel(links: &Links) -> Duration {
    let mut lab = lab(links);
    for side in [Side::Left, Side::Right] {
        lab.prepare_kernel(side, Family::Ipv4).expect("kernel");
    }
    let listener = listener(&lab);
    let remote = Side::Right.socket(1, Family::Ipv4, PORT);
    let mut sender = kernel::connect(&lab.left, Protocol::Mptcp, None, remote, PATIENCE).expect("connection");
    let mut receiver = kernel::accept(&listener, PATIENCE).expect("accept");
    let begin = Instant::now();
    let time = std::thread::scope(|scope| {
        let reader = scope.spawn(|| receive(begin, &mut receiver));
        sender.write_all(&vec![7; SIZE as usize]).expect("room");
        sender.shutdown(Shutdown::Write).expect("shutdown");
        reader.join().expect("all of it")
    });
    lab.end_emulation().expect("the emulators end");
    time
}

fn listener(lab: &Lab) -> std::net::TcpListener {
    let local = SocketAddr::new(Family::Ipv4.any(), PORT);
    kernel::listen(&lab.right, Protocol::Mptcp, local).expect("listener")
}

/// Ours connects to the kernel; one of the two sends. The other one does not finish before it: the kernel
/// takes no more subflows after that.
fn with_ours(links: &Links, ours_sends: bool) -> Duration {
    let mut lab = lab(links);
    lab.prepare_kernel(Side::Right, Family::Ipv4).expect("kernel");
    let listener = listener(&lab);
    let (file, _) = data::seeded_file(3, SIZE).expect("data");
    let path = data::path_of(&file);
    let words = ["--file", path.to_str().expect("a path")];
    let mut command = ours::connect_command(&lab, Family::Ipv4, if ours_sends { &words } else { &[] });
    let mut ours = Process::start(command.stdin(Stdio::piped()), true).expect("ours");
    let input = ours.take_stdin();
    let mut stream = kernel::accept(&listener, PATIENCE).expect("accept");
    let begin = Instant::now();
    let time = if ours_sends { receive(begin, &mut stream) } else { send(begin, &mut stream) };
    drop((stream, input));
    let finished = ours.finish(PATIENCE).expect("an end");
    assert_orderly(&lab, Side::Left, &finished);
    assert!(finished.status.success(), "{}", finished.stderr);
    for (link, (rate, _)) in lab.end_emulation().expect("the emulators end").iter().zip(links) {
        let way = if ours_sends { "forward" } else { "reverse" };
        assert!(link[way]["link"]["offered"].as_u64() > Some(1000), "{rate} Mb/s hardly used: {link:#}");
    }
    time
}

/// The duration of one condition, and whether it is within size × 8 / (0.9 × (r1 + r2)) + 450 ms, each way.
fn measure(links: &Links) -> (bool, String) {
    let [(first, _), (second, _)] = *links;
    let limit = SIZE as f64 * 8.0 / (0.9e6 * f64::from(first + second)) + START.as_secs_f64();
    let times = [kernel_to_kernel(links), with_ours(links, true), with_ours(links, false)];
    let [between, sent, taken] = times.map(|time| time.as_secs_f64());
    let line = format!(
        "{links:?} (Mb/s, ms): limit {limit:.2} s; ours to the kernel {sent:.2} s, the kernel to ours {taken:.2} s, \
         kernel to kernel {between:.2} s"
    );
    println!("{line}");
    // The kernel's scheduler is not judged.
    (sent <= limit && taken <= limit.max(between * AS_GOOD), line)
}

/// All at once, since the links take most of the time. A late one is measured again by itself: others may
/// have needed the processors.
#[test]
fn two_paths_are_used_at_once_with_the_kernel_within_the_time_that_it_allows_itself() {
    require_root!();
    let late: Vec<&Links> = std::thread::scope(|scope| {
        let runs = CONDITIONS.each_ref().map(|links| (links, scope.spawn(|| measure(links))));
        let measured = runs.into_iter().map(|(links, run)| (links, run.join().expect("a condition")));
        measured.filter(|(_, (in_time, _))| !in_time).map(|(links, _)| links).collect()
    });
    let late: Vec<_> = late.into_iter().map(measure).filter(|(in_time, _)| !in_time).collect();
    assert!(late.is_empty(), "{late:#?}");
}
