//! The forwarding loop: frames from one interface, through middleboxes and a link, to the other.

use super::frame::Frame;
use super::socket::{PacketSocket, interface_index};
use super::{LabConfig, Outage};
use mptcp_proto::Instant;
use mptcp_proto::wire::Segment;
use mptcp_proto::wire::packet::LinkHeader;
use mptcp_sim::middlebox::{Chain, Way};
use mptcp_sim::{Link, LinkStats, Random};
use serde::Serialize;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Why the emulator can't run.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// There is no such interface.
    #[error("there is no interface {name}: {error}; `ip link` lists those of this network namespace")]
    NoInterface {
        /// Its name.
        name: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// Both names mean one interface.
    #[error("{0} is given twice: frames are forwarded between two different interfaces")]
    SameInterface(String),
    /// The interface has no Ethernet headers.
    #[error("{0} is not an Ethernet interface; the emulator forwards Ethernet frames")]
    NotEthernet(String),
    /// No packet socket.
    #[error("can't open a packet socket on {name}: {error}{}", remedy(error))]
    Socket {
        /// The interface.
        name: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// An interface failed while running.
    #[error("{name} failed: {error}")]
    Failed {
        /// The interface.
        name: String,
        /// The kernel's error.
        error: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; it takes CAP_NET_RAW: run as root, or in a user and network namespace of your own"
    } else {
        ""
    }
}

/// Counts of forwarded frames and bytes.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct LabReport {
    /// How long it ran.
    pub seconds: f64,
    /// From the first interface to the second.
    pub forward: DirectionReport,
    /// From the second to the first.
    pub reverse: DirectionReport,
    /// Longest time that a frame went out later than it should have, in microseconds.
    pub max_lateness_us: u64,
    /// Mean of the same, over all frames.
    pub mean_lateness_us: f64,
}

/// One direction of a [`LabReport`].
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct DirectionReport {
    /// Counters of the link.
    pub link: LinkStats,
    /// Frames that arrived faster than they could be fetched: if there are any, the emulator was the
    /// bottleneck.
    pub missed: u64,
    /// Frames that the kernel refused to send: longer than the MTU, interface down.
    pub refused: u64,
}

struct Port {
    name: String,
    socket: PacketSocket,
    /// Longest packet that can leave here.
    mtu: usize,
    /// Link header of the last segment that arrived here.
    last_header: LinkHeader,
    missed: u64,
    refused: u64,
}

/// An emulated network between two interfaces.
pub struct Lab {
    /// First and second interface.
    ports: [Port; 2],
    /// To the second and to the first interface.
    links: [Link<Frame>; 2],
    chain: Chain,
    outages: Vec<Outage>,
    /// Somebody says that nothing is to get through.
    switched_off: Arc<AtomicBool>,
    up: bool,
    sent: u64,
    lateness_total: Duration,
    lateness_max: Duration,
}

/// Frames handed over in one go.
const SEND_BATCH: usize = 256;
/// Waits shorter than this are spent spinning: a sleeping thread wakes up later than that.
const SPIN: Duration = Duration::from_micros(60);
/// How often to look whether the end has come.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

fn clock() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes. The monotonic clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The interface that a direction begins at, and the link it takes.
const fn index(way: Way) -> usize {
    match way {
        Way::Forward => 0,
        Way::Reverse => 1,
    }
}

impl Lab {
    /// Opens both interfaces. The first one is on the side of those who open connections.
    ///
    /// # Errors
    /// When there is no such interface, or no right to a packet socket.
    pub fn open(first: &str, second: &str, config: &LabConfig) -> Result<Self, LabError> {
        let lookup = |name: &str| {
            interface_index(name).map_err(|error| LabError::NoInterface { name: name.into(), error })
        };
        let (first_index, second_index) = (lookup(first)?, lookup(second)?);
        if first_index == second_index {
            return Err(LabError::SameInterface(first.into()));
        }
        let port = |name: &str, index| {
            let failed = |error| LabError::Socket { name: name.to_owned(), error };
            let socket = PacketSocket::open(index).map_err(failed)?;
            if !socket.is_ethernet().map_err(failed)? {
                return Err(LabError::NotEthernet(name.to_owned()));
            }
            let mtu = socket.mtu(name).map_err(failed)?;
            let last_header = LinkHeader::default();
            Ok(Port { name: name.to_owned(), socket, mtu, last_header, missed: 0, refused: 0 })
        };
        let mut random = Random::new(config.seed);
        let boxes = config.boxes.iter().map(|config| config.build(random.fork())).collect();
        Ok(Self {
            ports: [port(first, first_index)?, port(second, second_index)?],
            links: [config.forward, config.reverse].map(|config| Link::new(config, random.fork())),
            chain: Chain::new(boxes),
            outages: config.outages.clone(),
            switched_off: Arc::default(),
            up: true,
            sent: 0,
            lateness_total: Duration::ZERO,
            lateness_max: Duration::ZERO,
        })
    }

    /// While this is set, everything is dropped.
    pub fn switch(&self) -> Arc<AtomicBool> {
        self.switched_off.clone()
    }

    /// Takes the links down and up as the schedule and the switch say. `time` from the start on.
    fn attend_to_outages(&mut self, time: Duration) {
        let scheduled = self.outages.iter().any(|outage| outage.lasts(time));
        let up = !scheduled && !self.switched_off.load(Ordering::Relaxed);
        if up != std::mem::replace(&mut self.up, up) {
            tracing::info!("the link is {}", if up { "up" } else { "down" });
            self.links.iter_mut().for_each(|link| link.set_up(up));
        }
    }

    /// Forwards until `stop` is set or `limit` is over.
    ///
    /// # Errors
    /// When an interface is gone.
    pub fn run(&mut self, stop: &AtomicBool, limit: Option<Duration>) -> Result<LabReport, LabError> {
        precise_timers();
        let start = clock();
        let mut batch = Vec::with_capacity(SEND_BATCH);
        loop {
            let now = clock();
            if stop.load(Ordering::Relaxed) || limit.is_some_and(|limit| now - start >= limit) {
                return Ok(self.report(now - start));
            }
            self.attend_to_outages(now - start);
            let mut busy = false;
            for way in [Way::Forward, Way::Reverse] {
                busy |= self.receive(way, now)?;
            }
            self.release_held(now);
            for way in [Way::Forward, Way::Reverse] {
                busy |= self.deliver(way, &mut batch);
            }
            if !busy {
                self.wait(clock());
            }
        }
    }

    fn receive(&mut self, way: Way, now: Instant) -> Result<bool, LabError> {
        let Self { ports, links, chain, .. } = self;
        let mtu = ports[index(way.opposite())].mtu;
        let port = &mut ports[index(way)];
        let (socket, last_header) = (&mut port.socket, &mut port.last_header);
        let mut out = Vec::new();
        let received = socket.receive(|frame| {
            let looked_into = if chain.is_empty() { None } else { frame.segment() };
            let Some((header, segment)) = looked_into else {
                links[index(way)].push(now, frame);
                return;
            };
            *last_header = header;
            chain.process(now, way, segment.clone(), &mut out);
            for changed in out.drain(..) {
                // A frame that no box changed goes on as it came, with the parts that a `Segment` does not
                // know.
                if changed == segment {
                    links[index(way)].push(now, frame.clone());
                    continue;
                }
                for frame in Frame::from_segment(&header, &changed, mtu) {
                    links[index(way)].push(now, frame);
                }
            }
        });
        match received {
            Ok(count) => Ok(count > 0),
            Err(error) => Err(LabError::Failed { name: port.name.clone(), error }),
        }
    }

    /// Sends on what boxes held back until now.
    fn release_held(&mut self, now: Instant) {
        if self.chain.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        let mut released: Vec<(Way, Segment)> = Vec::new();
        self.chain.handle_timeout(now, &mut released);
        for (way, segment) in released {
            let mtu = self.ports[index(way.opposite())].mtu;
            for frame in Frame::from_segment(&self.ports[index(way)].last_header, &segment, mtu) {
                self.links[index(way)].push(now, frame);
            }
        }
    }

    /// Hands over what has arrived at the end of a link.
    fn deliver(&mut self, way: Way, batch: &mut Vec<Frame>) -> bool {
        let now = clock();
        let link = &mut self.links[index(way)];
        let port = &mut self.ports[index(way.opposite())];
        while batch.len() < SEND_BATCH
            && let Some((due, frame)) = link.pop_due(now)
        {
            let late = now - due;
            self.sent += 1;
            self.lateness_total += late;
            self.lateness_max = self.lateness_max.max(late);
            let alone = match batch.last_mut() {
                Some(before) => before.merge(frame).err(),
                None => Some(frame),
            };
            batch.extend(alone);
        }
        if batch.is_empty() {
            return false;
        }
        let outcome = port.socket.send(batch);
        port.refused += outcome.refused as u64;
        batch.clear();
        true
    }

    fn wait(&mut self, now: Instant) {
        let next = self.links.iter().map(Link::next_event).chain([self.chain.next_timeout()]).flatten().min();
        let wait = next.map_or(LONGEST_WAIT, |next| next.saturating_since(now)).min(LONGEST_WAIT);
        if wait < SPIN {
            std::hint::spin_loop();
            return;
        }
        let wait = wait - SPIN / 2;
        let timeout =
            libc::timespec { tv_sec: wait.as_secs() as _, tv_nsec: libc::c_long::from(wait.subsec_nanos()) };
        let mut fds = [0, 1].map(|port| libc::pollfd {
            fd: self.ports[port].socket.raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: `fds` and `timeout` outlive the call, the count is that of `fds`. Errors show in the next
        // receive.
        unsafe { libc::ppoll(fds.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
    }

    fn report(&mut self, ran: Duration) -> LabReport {
        for port in &mut self.ports {
            port.missed += port.socket.dropped();
        }
        let direction = |way| DirectionReport {
            link: self.links[index(way)].stats(),
            missed: self.ports[index(way)].missed,
            refused: self.ports[index(way.opposite())].refused,
        };
        LabReport {
            seconds: ran.as_secs_f64(),
            forward: direction(Way::Forward),
            reverse: direction(Way::Reverse),
            max_lateness_us: self.lateness_max.as_micros() as u64,
            mean_lateness_us: self.lateness_total.as_secs_f64() * 1e6 / self.sent.max(1) as f64,
        }
    }
}

/// Lets timers of this thread expire on time instead of up to 50 microseconds late.
fn precise_timers() {
    // SAFETY: the call takes numbers only and changes nothing but the calling thread's timer slack.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}
