//! A shard's memory, and its fate when the process is stopped, a round does not end, or
//! interfaces change.

use mptcp_proto::wire::{Flags, Segment, SeqNumber};
use mptcp_tests::kernel;
use mptcp_tests::lab::{Family, Lab, Side};
use mptcp_tests::netns::{End, Namespace, link, link_with};
use mptcp_tests::ours::{self, PATIENCE, PORT};
use mptcp_tests::process::{Process, mptcp_binary};
use mptcp_tests::raw::{Sender, link_of};
use mptcp_tests::{data, require_root};
use mptcp_user::stack::{HostFacts, Stack};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Waits until it is so.
fn eventually(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Octets of a process that lie in memory.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Where a test's peer answers from: an address of the left side's network that the kernel there does not
/// have.
fn hostile(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 77, 1, 77], port))
}

/// Hears the packets of the left side's first interface.
struct Ear(OwnedFd);

impl Ear {
    fn new(lab: &Lab) -> Self {
        let index = link_of(lab, Side::Left).unwrap().index;
        lab.left.run(|| {
            let protocol = (libc::ETH_P_IP as u16).to_be();
            // SAFETY: no pointers involved; the descriptor is new, and nobody else has it.
            let socket = unsafe {
                let raw =
                    libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
                assert!(raw >= 0);
                OwnedFd::from_raw_fd(raw)
            };
            let timeout = libc::timeval { tv_sec: 1, tv_usec: 0 };
            // SAFETY: all zeroes are a valid sockaddr_ll.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = index as i32;
            // SAFETY: both structures are whole, and of the lengths given.
            unsafe {
                let length = size_of_val(&timeout) as libc::socklen_t;
                let set = libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const timeout).cast(),
                    length,
                );
                let length = size_of_val(&address) as libc::socklen_t;
                let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length);
                assert_eq!((set, bound), (0, 0));
            }
            Self(socket)
        })
    }

    /// The sequence number of the SYN/ACK to a port of the hostile peer.
    fn syn_ack(&self, port: u16) -> Option<SeqNumber> {
        let mut frame = vec![0; 70_000];
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            // SAFETY: the buffer is writable, and as long as said.
            let len = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
            let Some(frame) = usize::try_from(len).ok().and_then(|len| frame.get(..len)) else { continue };
            // Without options in the IP header: that is how this stack sends.
            if frame.len() >= 54 && frame[36..38] == port.to_be_bytes() && frame[47] & 0x12 == 0x12 {
                return Some(SeqNumber(u32::from_be_bytes(frame[38..42].try_into().unwrap())));
            }
        }
        None
    }
}

/// A connection of the hostile peer, as far as it needs to know it.
struct Victim {
    port: u16,
    ack: SeqNumber,
}

const FIRST: SeqNumber = SeqNumber(1_000_000_000);

impl Victim {
    fn segment(&self, offset: u32, octets: usize) -> Segment {
        let mut segment = Segment::new(hostile(self.port), Side::Right.socket(1, Family::Ipv4, PORT));
        (segment.seq, segment.ack, segment.window) = (FIRST + 1 + offset, self.ack, 1000);
        segment.flags = Flags::ACK;
        segment.payload = vec![7; octets].into();
        segment
    }

    fn open(sender: &mut Sender, ear: &Ear, port: u16) -> Self {
        let mut syn = Self { port, ack: SeqNumber(0) }.segment(0, 0);
        (syn.seq, syn.flags, syn.options.mss) = (FIRST, Flags::SYN, Some(1460));
        sender.push(syn).unwrap();
        sender.flush(Duration::from_secs(1));
        let theirs = ear.syn_ack(port).expect("an answer");
        let victim = Self { port, ack: theirs + 1 };
        sender.push(victim.segment(0, 0)).unwrap();
        victim
    }
}

/// An honest connection keeps the receiving blocks going, and a hostile peer has a short slice of each of
/// them kept: behind a gap that is never filled, on many connections. (By themselves they are 600 kB, their
/// blocks 75 MiB.)
#[test]
fn short_slices_do_not_hold_on_to_the_blocks_they_came_in() {
    require_root!();
    const LIMIT: u64 = 16 << 20;
    const CONNECTIONS: u16 = 40;
    /// Octets of the honest connection between two slices: more than a block.
    const PACE: u64 = 160 << 10;
    const SLICES: u32 = 15;
    let lab = Lab::with_links(1).unwrap();
    let words = ["-k", "-q", "--memory", "16M", "--output", "/dev/null"];
    let server = ours::listen(&lab, &words).unwrap();
    // The command reads the first one, and the others after that.
    let remote = Side::Right.socket(1, Family::Ipv4, PORT);
    let mut honest = lab.left.run(|| TcpStream::connect(remote)).unwrap();
    let mac = link_of(&lab, Side::Left).unwrap().mac.unwrap().map(|octet| format!("{octet:02x}")).join(":");
    let address = hostile(0).ip();
    lab.right.ip(&format!("neighbour add {address} lladdr {mac} dev right1 nud permanent")).unwrap();
    let (mut sender, ear) = (Sender::new(&lab).unwrap(), Ear::new(&lab));
    let victims: Vec<_> =
        (0..CONNECTIONS).map(|number| Victim::open(&mut sender, &ear, 20_000 + number)).collect();
    sender.flush(Duration::from_secs(1));
    let before = resident(&server);
    let (sent, over, mut most) = (AtomicU64::new(0), AtomicBool::new(false), 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let octets = vec![0; 32 << 10];
            while !over.load(Ordering::Relaxed) {
                honest.write_all(&octets).unwrap();
                sent.fetch_add(octets.len() as u64, Ordering::Relaxed);
            }
        });
        let mut seen = 0;
        for slice in 0..SLICES {
            for victim in &victims {
                sender.push(victim.segment(10 + slice * 1025, 1025)).unwrap();
                sender.flush(Duration::from_secs(1));
                // Another block by the time of the next one.
                let deadline = Instant::now() + Duration::from_secs(5);
                while sent.load(Ordering::Relaxed) < seen + PACE && Instant::now() < deadline {
                    thread::sleep(Duration::from_micros(200));
                }
                seen = sent.load(Ordering::Relaxed);
            }
            most = most.max(resident(&server));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(sent.load(Ordering::Relaxed) > u64::from(SLICES) * u64::from(CONNECTIONS) * (128 << 10));
    let grown = most.saturating_sub(before);
    assert!(grown <= LIMIT + LIMIT / 4, "{} MiB more than in the beginning", grown >> 20);
    server.signal(libc::SIGINT);
    drop(server.finish(PATIENCE));
}

#[test]
fn a_process_that_was_stopped_goes_on() {
    require_root!();
    let lab = Lab::new().unwrap();
    lab.prepare_kernel(Side::Right, Family::Ipv4).unwrap();
    let address = SocketAddr::new(Family::Ipv4.any(), PORT);
    let listener = kernel::listen(&lab.right, kernel::Protocol::Mptcp, address).unwrap();
    let client = ours::connect(&lab, Family::Ipv4, &["--file", "/dev/zero", "--user-timeout", "2"]).unwrap();
    let mut stream = kernel::accept(&listener, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut read = |octets: u64| {
        assert_eq!(data::copy((&mut stream).take(octets), std::io::sink()).unwrap(), octets);
    };
    for _ in 0..2 {
        read(64 << 20);
        client.signal(libc::SIGSTOP);
        thread::sleep(Duration::from_secs(5));
        client.signal(libc::SIGCONT);
    }
    // More than all buffers hold.
    read(256 << 20);
    client.signal(libc::SIGINT);
    data::copy(&mut stream, std::io::sink()).unwrap();
    drop(stream);
    let finished = client.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(130), "{}", finished.stderr);
    assert!(!finished.stderr.contains("detached"), "{}", finished.stderr);
}

/// The next look at the host takes so many milliseconds.
static SLOW: AtomicU64 = AtomicU64::new(0);

fn slowly() -> std::io::Result<HostFacts> {
    thread::sleep(Duration::from_millis(SLOW.swap(0, Ordering::SeqCst)));
    HostFacts::gather()
}

/// The look at the host, in the middle of a round, does not come back for a while.
#[test]
fn a_round_that_does_not_end_detaches_the_programs_until_it_does() {
    require_root!();
    let lab = Lab::new().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let start = |side: Side, probe| {
        lab.namespace(side).run(|| {
            let mut builder = Stack::builder();
            builder.probe = probe;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(builder.build()).unwrap()
        })
    };
    let (left, right) = (start(Side::Left, HostFacts::gather), start(Side::Right, slowly));
    let attached = || lab.attached(Side::Right).unwrap().len();
    assert_eq!(attached(), 2);
    SLOW.store(25_000, Ordering::SeqCst);
    lab.right.ip("link add name more type veth peer name far").unwrap();
    lab.right.set_up("more", true).unwrap();
    eventually(PATIENCE, "it has begun", || SLOW.load(Ordering::SeqCst) == 0);
    let began = Instant::now();
    eventually(Duration::from_secs(23), "detached", || attached() == 0);
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    eventually(Duration::from_secs(60), "attached again", || attached() == 2);
    assert!(began.elapsed() > Duration::from_secs(20), "{:?}", began.elapsed());
    runtime.block_on(async {
        let listener = right.listen("0.0.0.0:5000".parse().unwrap()).await.unwrap();
        let mut listener = listener;
        let remote = Side::Right.socket(1, Family::Ipv4, 5000);
        let stream = tokio::time::timeout(PATIENCE, left.connect(remote)).await.unwrap().unwrap();
        let (accepted, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        drop((stream, accepted));
    });
}

/// Sets the number of queues of an interface, as `ethtool -L` does.
fn set_queues(namespace: &Namespace, interface: &str, queues: u32) {
    namespace.run(|| {
        let ask = |channels: &mut [u32; 9]| {
            // SAFETY: no pointers involved; the descriptor is new, and nobody else has it.
            let socket = unsafe {
                let raw = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
                assert!(raw >= 0);
                OwnedFd::from_raw_fd(raw)
            };
            // SAFETY: all zeroes are a valid ifreq.
            let mut question: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in question.ifr_name.iter_mut().zip(interface.bytes()) {
                *to = from as libc::c_char;
            }
            question.ifr_ifru.ifru_data = channels.as_mut_ptr().cast();
            // SAFETY: the name ends with a zero, and the data is a whole ethtool_channels.
            let result =
                unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut question) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        };
        let mut channels = [0u32; 9];
        channels[0] = 0x3c;
        ask(&mut channels);
        channels[0] = 0x3d;
        (channels[5], channels[6]) = (queues, queues);
        ask(&mut channels);
    });
}

#[test]
fn receive_queues_that_appear_later_are_heard() {
    require_root!();
    let (left, right) = (Namespace::new("left").unwrap(), Namespace::new("right").unwrap());
    link_with(
        &End { namespace: &left, interface: "left1", addresses: &["10.77.1.1/24"] },
        &End { namespace: &right, interface: "right1", addresses: &["10.77.1.2/24"] },
        "numtxqueues 4 numrxqueues 4",
    )
    .unwrap();
    for (namespace, interface) in [(&left, "left1"), (&right, "right1")] {
        set_queues(namespace, interface, 1);
    }
    let mut command = right.command(mptcp_binary());
    command.args(["-v", "listen", "-k", "-q", "--output", "/dev/null", "5000"]);
    let mut server = Process::start(&mut command, true).unwrap();
    server.wait_for("listening on", PATIENCE).unwrap();
    for (namespace, interface) in [(&left, "left1"), (&right, "right1")] {
        set_queues(namespace, interface, 4);
    }
    server.wait_for("right1 has 4 receive queues now", PATIENCE).unwrap();
    // Each of them has its place among the queues, by its port.
    let octets = vec![7; 100_000];
    for _ in 0..40 {
        let remote: SocketAddr = "10.77.1.2:5000".parse().unwrap();
        let mut stream = left.run(|| TcpStream::connect_timeout(&remote, PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&octets).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    server.signal(libc::SIGINT);
    drop(server.finish(PATIENCE));
}

#[test]
fn an_interface_on_which_nothing_comes_costs_less_than_a_mebibyte() {
    require_root!();
    const MORE: usize = 50;
    let (left, right) = (Namespace::new("left").unwrap(), Namespace::new("right").unwrap());
    let add = |number: usize| {
        let addresses = [format!("10.78.{number}.1/24"), format!("10.78.{number}.2/24")];
        let names = [format!("left{number}"), format!("right{number}")];
        link(
            &End { namespace: &left, interface: &names[0], addresses: &[&addresses[0]] },
            &End { namespace: &right, interface: &names[1], addresses: &[&addresses[1]] },
        )
        .unwrap();
    };
    (1..=2).for_each(add);
    let start = || {
        let mut command = right.command(mptcp_binary());
        let mut server = Process::start(command.args(["-v", "listen", "-k", "5000"]), true).unwrap();
        server.wait_for("listening on", PATIENCE).unwrap();
        server
    };
    let few = start();
    let before = resident(&few);
    (3..MORE + 3).for_each(add);
    let last = format!("right{}", MORE + 2);
    eventually(PATIENCE, "the last one is used", || right.has_xdp(&last).unwrap());
    let added = resident(&few).saturating_sub(before) / MORE as u64;
    few.signal(libc::SIGINT);
    drop(few.finish(PATIENCE));
    eventually(PATIENCE, "no program is attached", || !right.has_xdp(&last).unwrap());
    let many = start();
    let from_the_beginning = resident(&many).saturating_sub(before) / MORE as u64;
    many.signal(libc::SIGINT);
    drop(many.finish(PATIENCE));
    assert!(added <= 1 << 20 && from_the_beginning <= 1 << 20, "{added} and {from_the_beginning} octets");
}
