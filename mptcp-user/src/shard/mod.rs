//! The shard: owns an [`Endpoint`] and all that packets go through, on a thread of its own or as a task of the
//! application's.
//!
//! Each round it receives a batch of packets from every socket, lets the engine work, moves the application's
//! octets, and sends what the engine has made of it all. Four-tuples and tokens are put into the XDP program's maps
//! before the segments that need them leave. `run` says when the next round is.

mod events;
mod link_local;
mod locals;
mod news;
mod ports;
mod reach;
mod removals;
mod requests;
mod run;
mod stacked;
mod traffic;
mod watchdog;
mod ways;

use crate::StackError as Error;
use crate::channel::Channel;
use crate::mailbox::{Alarm, Command, Mailbox};
use crate::observe::Capture;
use crate::observe::EventLog;
use bytes::Bytes;
use events::Wish;
use locals::Locals;
use mptcp_datapath::af_xdp::Budget;
use mptcp_datapath::attachment::{Attachment, Manner, Pools, SocketPlaces};
use mptcp_datapath::fragments::Fragments;
use mptcp_datapath::interface::{AttachMode, HostFacts, InterfaceReport};
use mptcp_datapath::netlink::{Monitor, Netlink};
use mptcp_datapath::path::Paths;
use mptcp_datapath::receive::Receiver;
use mptcp_datapath::sys::epoll::Epoll;
use mptcp_datapath::xdp::{self, XdpConfig, XdpMaps, XdpProgram};
use mptcp_proto::wire::Segment;
use mptcp_proto::{
    CloseReason, ConnectionConfig, ConnectionId, Endpoint, EndpointConfig, Instant, ListenerId, LocalAddress,
};
use ports::Ports;
use removals::Removals;
pub(crate) use run::{drive, spawn};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use watchdog::{Pulse, Watchdog};
use ways::Opening;

/// How long news about interfaces settle before interfaces are looked at again.
const SETTLE: Duration = Duration::from_millis(50);
/// Batches that are taken from each socket after a pause, at most: all that a ring holds.
const CATCH_UP: usize = 64;

/// Keys of `epoll`.
const KEY_MAILBOX: u64 = 0;
const KEY_MONITOR: u64 = 1;
const KEY_EVENTS: u64 = 2;
const KEY_SOCKET: u64 = 3;
const KEY_TIMER: u64 = 4;
/// Plus the interface index.
const KEY_TRANSMIT: u64 = 1 << 32;

/// What a shard is made from.
#[derive(Clone)]
pub(crate) struct ShardConfig {
    /// Names of the interfaces; none: all that can be used.
    pub(crate) interfaces: Vec<String>,
    /// How to attach.
    pub(crate) mode: AttachMode,
    /// Try AF_XDP without copying where the mode is native.
    pub(crate) zero_copy: bool,
    /// Where to write a packet capture.
    pub(crate) pcap: Option<PathBuf>,
    /// Where to write what the engine decides.
    pub(crate) events: Option<PathBuf>,
    /// Look for packets all the time, never sleep.
    pub(crate) busy_poll: bool,
    /// Leave by every route that leads there, whatever the host's rules say.
    pub(crate) any_route: bool,
    /// Bounds of the engine.
    pub(crate) endpoint: EndpointConfig,
    /// Looks at the host.
    pub(crate) probe: fn() -> std::io::Result<HostFacts>,
}

/// Who waits for the end of a shard.
type Replies = Vec<oneshot::Sender<()>>;

/// What is shared with the stack while the shard runs.
pub(crate) struct ShardHandle {
    /// Where to send commands.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The interfaces in use.
    pub(crate) interfaces: Arc<Mutex<Vec<InterfaceReport>>>,
}

/// A connection as the shard keeps it.
struct Connection {
    channel: Arc<Channel>,
    /// Waits for the connection to be established.
    opening: Option<Opening>,
    /// Port that our addresses are announced with.
    announced: Option<u16>,
    closed: bool,
    finished: bool,
    released: bool,
}

struct Listener {
    incoming: mpsc::Sender<crate::channel::Handle>,
    config: ConnectionConfig,
    /// What is in the XDP program's map for it.
    entries: Vec<SocketAddr>,
    port: u16,
}

struct Drain {
    deadline: Instant,
    aborted: bool,
    replies: Replies,
}

/// See the [module](self).
pub(crate) struct Shard {
    config: ShardConfig,
    endpoint: Endpoint,
    mailbox: Arc<Mailbox>,
    epoll: Epoll,
    attachments: Vec<Attachment>,
    reports: Arc<Mutex<Vec<InterfaceReport>>>,
    places: SocketPlaces,
    pools: Pools,
    maps: Arc<XdpMaps>,
    program: XdpProgram,
    events: Option<xdp::Events>,
    paths: Paths,
    /// What addresses mean this host.
    locals: Locals,
    monitor: Monitor,
    connections: HashMap<ConnectionId, Connection>,
    listeners: HashMap<ListenerId, Listener>,
    ports: Ports,
    removals: Removals,
    /// What is taken from one socket in one round.
    budget: Budget,
    /// The most connections that were not at rest at the same time, since memory was given back.
    most_awake: usize,
    receiver: Receiver,
    /// Segments of which not all fragments have come.
    fragments: Fragments,
    /// `epoll` tells of packets. Otherwise nobody is woken for each of them, which the sender would pay for.
    listening: bool,
    capture: Option<Capture>,
    log: Option<EventLog>,
    /// When to look for interfaces that have become usable.
    recheck: Option<Instant>,
    link_locals: link_local::LinkLocals,
    /// News were lost and could not be asked for again: to be done at the next look.
    news_lost: bool,
    /// Subflows that are to be opened.
    wanted: VecDeque<Wish>,
    draining: Option<Drain>,
    pulse: Arc<Pulse>,
    /// Ends with the shard.
    watchdog: Option<Watchdog>,
    /// Buffers that are used again each round.
    commands: VecDeque<Command>,
    touched: VecDeque<Arc<Channel>>,
    slices: Vec<Bytes>,
    coalescing: Vec<Segment>,
}

/// Now, on the clock that the kernel's time stamps are of.
fn now() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

impl Shard {
    fn new(config: ShardConfig, alarm: Alarm) -> Result<Self, Error> {
        let system = |what| move |error| Error::System(what, error);
        let facts = (config.probe)().map_err(system("looking at the interfaces"))?;
        let chosen = facts.choose(&config.interfaces, config.mode)?;
        let mut seed = [0; 32];
        rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut seed)
            .map_err(|error| Error::System("getting random numbers", std::io::Error::other(error)))?;
        let peers = &config.endpoint.peers;
        let xdp = XdpConfig { other_peers: peers.others(), ..XdpConfig::default() };
        let failed = |source| mptcp_datapath::Error::Xdp { interface: None, source };
        let mut program = XdpProgram::load(&xdp).map_err(failed)?;
        for (prefix, accepted) in peers.iter() {
            program.maps().insert_peer(prefix.address(), prefix.length(), accepted).map_err(failed)?;
        }
        if peers.is_empty() {
            mptcp_datapath::netfilter::warn();
        }
        // First the news, then the questions: what changes in between is heard.
        let monitor = Monitor::new().map_err(system("listening to netlink"))?;
        let netlink = Netlink::new().map_err(system("opening netlink"))?;
        let mailbox = Arc::new(Mailbox::new(alarm));
        let epoll = Epoll::new().map_err(system("making an epoll descriptor"))?;
        let events = program.take_events();
        let capture = match &config.pcap {
            Some(path) => {
                let interfaces: Vec<_> =
                    chosen.iter().map(|report| (report.index, report.name.clone())).collect();
                let failed = |source| Error::Capture { path: path.clone(), source };
                Some(Capture::create(path, &interfaces).map_err(failed)?)
            }
            None => None,
        };
        let log = match &config.events {
            Some(path) => {
                let failed = |source| Error::Events { path: path.clone(), source };
                Some(EventLog::create(path, now()).map_err(failed)?)
            }
            None => None,
        };
        let register = || -> std::io::Result<()> {
            if let Some(event) = mailbox.alarm().descriptor() {
                epoll.add(event, KEY_MAILBOX)?;
            }
            epoll.add(monitor.as_fd(), KEY_MONITOR)?;
            if let Some(events) = &events {
                epoll.add(events.as_fd(), KEY_EVENTS)?;
            }
            Ok(())
        };
        register().map_err(system("registering with epoll"))?;
        let mut shard = Self {
            endpoint: Endpoint::new(config.endpoint.clone(), seed),
            mailbox,
            epoll,
            attachments: Vec::new(),
            reports: Arc::default(),
            places: SocketPlaces::new(XdpConfig::default().sockets),
            pools: Pools::default(),
            maps: program.maps(),
            program,
            events,
            paths: Paths::new(netlink).map_err(system("asking for neighbours"))?,
            locals: Locals::default(),
            monitor,
            connections: HashMap::new(),
            listeners: HashMap::new(),
            ports: Ports::default(),
            removals: Removals::default(),
            most_awake: 0,
            budget: traffic::BUDGET,
            receiver: Receiver::with_limit(config.endpoint.memory),
            fragments: Fragments::default(),
            listening: true,
            capture,
            log,
            recheck: None,
            link_locals: link_local::LinkLocals::default(),
            news_lost: false,
            wanted: VecDeque::new(),
            draining: None,
            pulse: Arc::default(),
            watchdog: None,
            commands: VecDeque::new(),
            touched: VecDeque::new(),
            slices: Vec::new(),
            coalescing: Vec::new(),
            config,
        };
        if shard.config.any_route {
            shard.paths.take_any_route();
        }
        shard.endpoint.watch_decisions(shard.log.is_some());
        // Before any program is attached: what is for this host must be known first.
        let addresses = shard.paths.netlink().addresses().map_err(system("asking for addresses"))?;
        shard.locals.are(&addresses);
        shard.tell_locals();
        let mut refused = Vec::new();
        let queues: Vec<u32> = chosen.iter().map(|report| report.queues.max(1)).collect();
        shard.pools.expect(&queues);
        for report in chosen {
            let name = report.name.clone();
            match shard.attach(&facts, report) {
                Ok(()) => {}
                // One interface that can't be used is no reason to do without the others, unless it was asked for.
                Err(error) if shard.config.interfaces.is_empty() => {
                    tracing::info!("leaving {name} out: {error}");
                    refused.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        if shard.attachments.is_empty() {
            let first = refused.into_iter().next();
            return Err(first
                .unwrap_or_else(|| mptcp_datapath::Error::NothingUsable { reasons: "none".into() }.into()));
        }
        let (pulse, links) = (shard.pulse.clone(), shard.program.links());
        let watchdog = Watchdog::start(pulse, links, shard.mailbox.clone(), shard.reports.clone());
        shard.watchdog = Some(watchdog.map_err(system("starting the watchdog's thread"))?);
        Ok(shard)
    }

    fn handle(&self) -> ShardHandle {
        ShardHandle { mailbox: self.mailbox.clone(), interfaces: self.reports.clone() }
    }

    /// Brings an interface into use and tells the engine of its addresses.
    fn attach(&mut self, facts: &HostFacts, report: InterfaceReport) -> Result<(), Error> {
        let link = facts.links.iter().find(|link| link.index == report.index);
        let mac = link.and_then(|link| link.mac).ok_or_else(|| mptcp_datapath::Error::InterfaceUnusable {
            name: report.name.clone(),
            reason: "it has no link-layer address".into(),
        })?;
        let (index, name, attached_mtu) = (report.index, report.name.clone(), report.mtu);
        let above = self.detach_above(facts, index);
        let attachment = Attachment::new(
            &mut self.program,
            (&mut self.places, &mut self.pools),
            report,
            mac,
            Manner {
                mode: self.config.mode,
                zero_copy: self.config.zero_copy,
                multi_buffer: facts.multi_buffer,
            },
        );
        self.attach_above_again(&above);
        let attachment = attachment?;
        let register = || -> std::io::Result<()> {
            if self.listening {
                for socket in &attachment.sockets {
                    self.epoll.add(socket.as_fd(), KEY_SOCKET)?;
                }
            }
            self.epoll.add_disarmed(attachment.transmitter.as_fd(), KEY_TRANSMIT + u64::from(index))
        };
        if let Err(error) = register() {
            attachment.remove(&mut self.program, &mut self.places);
            return Err(Error::System("registering with epoll", error));
        }
        tracing::debug!("attached to {name}: {}", attachment.report.reason);
        self.attachments.push(attachment);
        self.endpoint.name_interface(index, &name);
        self.paths.set_interface(index, &name, attached_mtu);
        for address in facts.usable_addresses(index) {
            self.add_address(now(), index, address);
        }
        self.take_link_locals(now(), index);
        self.publish_reports();
        Ok(())
    }

    fn attachment(&mut self, index: u32) -> Option<&mut Attachment> {
        self.attachments.iter_mut().find(|attachment| attachment.index == index)
    }

    fn add_address(&mut self, now: Instant, interface: u32, address: std::net::IpAddr) {
        let Some(attachment) = self.attachment(interface) else { return };
        if !attachment.up {
            return;
        }
        let mtu = attachment.report.mtu;
        if !attachment.report.addresses.contains(&address) && !link_local::is_link_local(address) {
            attachment.report.addresses.push(address);
        }
        self.paths.add_local(address, interface);
        let address_use = self.address_use(interface, address);
        self.endpoint.set_address_use(address, address_use);
        self.endpoint.add_local_address(now, LocalAddress { address, interface, mtu, backup: false });
    }

    fn remove_address(&mut self, now: Instant, address: std::net::IpAddr) {
        self.paths.remove_local(address);
        self.endpoint.remove_local_address(now, address);
    }

    fn publish_reports(&self) {
        let reports = self.attachments.iter().map(|attachment| attachment.report.clone()).collect();
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner) = reports;
    }

    fn interface_names(&self) -> String {
        let names: Vec<&str> =
            self.attachments.iter().map(|attachment| &attachment.report.name[..]).collect();
        names.join(", ")
    }

    /// Work begins that the watchdog is to see the end of.
    fn begin(&mut self, time: Instant) {
        if self.pulse.begin() {
            self.attach_again(time);
        }
    }

    /// One round of work. Whether there was any; at the end of everything, the replies that are due.
    fn round(&mut self, time: Instant) -> ControlFlow<Replies, bool> {
        let mut busy = self.take_mail(time);
        if self.endpoint.next_timeout().is_some_and(|due| due <= time) {
            if self.endpoint.is_late(time) {
                self.catch_up(time);
            }
            self.endpoint.handle_timeout(time);
            busy = true;
        }
        self.housekeeping(time);
        self.handle_events(time);
        self.open_wanted(time);
        // Maps first: nothing leaves before all is known that the answers to it need.
        if self.handle_events(time) {
            busy |= self.transmit(time);
            if self.handle_events(time) {
                self.flush(time);
                self.forget_removed();
            }
        }
        // What comes is answered in the next round: by then the application may have said something, on its own thread or in
        // its turn on this one, which then carries the acknowledgment.
        let time = now();
        busy |= self.receive(time);
        busy |= !self.handle_events(time) || self.has_left_over();
        self.log_decisions();
        match self.finished(time) {
            Some(replies) => ControlFlow::Break(replies),
            None => ControlFlow::Continue(busy),
        }
    }

    /// Nothing was done for long: takes what has come meanwhile before any time is found to be over.
    #[cold]
    fn catch_up(&mut self, time: Instant) {
        for _ in 0..CATCH_UP {
            if !self.receive(time) {
                break;
            }
            self.handle_events(time);
        }
    }

    /// The watchdog has detached the programs from the interfaces during the last round, which has ended
    /// after all.
    #[cold]
    fn attach_again(&mut self, time: Instant) {
        tracing::warn!("the stack goes on after a round of work that took very long, and attaches again");
        let mut lost = Vec::new();
        for attachment in &self.attachments {
            if let Err(error) = attachment.attach_again(&mut self.program) {
                tracing::warn!("{} can't be used any more: {error}", attachment.report.name);
                lost.push(attachment.index);
            }
        }
        for index in lost {
            self.link_gone(time, index);
        }
    }

    /// Hands what the engine has decided to the log, if there is one.
    fn log_decisions(&mut self) {
        let Some(log) = &mut self.log else { return };
        while let Some(decided) = self.endpoint.poll_decision() {
            log.push(decided);
        }
        log.hand_over();
    }

    /// From now on `epoll` tells of packets, or not.
    fn hear_of_packets(&mut self, listening: bool) -> std::io::Result<()> {
        if std::mem::replace(&mut self.listening, listening) == listening {
            return Ok(());
        }
        for socket in self.attachments.iter().flat_map(|attachment| &attachment.sockets) {
            if listening {
                self.epoll.add(socket.as_fd(), KEY_SOCKET)?;
            } else {
                self.epoll.remove(socket.as_fd())?;
            }
        }
        Ok(())
    }

    /// Before sleep: whether `epoll` will tell of packets, those that have come already included.
    fn listens(&mut self) -> bool {
        self.hear_of_packets(true)
            .inspect_err(|error| {
                // Some of them may be: all are tried again.
                self.listening = false;
                tracing::error!("registering with epoll failed: {error}");
            })
            .is_ok()
    }

    fn has_packets(&mut self) -> bool {
        self.attachments
            .iter_mut()
            .any(|attachment| attachment.sockets.iter_mut().any(mptcp_datapath::af_xdp::Socket::has_packets))
    }

    /// When something has to be done even if nothing happens.
    fn next_deadline(&mut self) -> Option<Instant> {
        let retries = self.attachments.iter().filter_map(|attachment| attachment.retry).min();
        let drain = self.draining.as_ref().filter(|drain| !drain.aborted).map(|drain| drain.deadline);
        [self.endpoint.next_timeout(), retries, self.recheck, drain].into_iter().flatten().min()
    }

    /// Waits for descriptors, and attends to those that have something.
    fn wait(&mut self, time: Instant, timeout: Option<Duration>) {
        let mut ready = [0; 64];
        let ready = self.epoll.wait(&mut ready, timeout).unwrap_or_else(|error| {
            tracing::error!("epoll failed: {error}");
            std::thread::sleep(Duration::from_millis(1));
            &[]
        });
        if ready.is_empty() {
            return;
        }
        self.begin(time);
        for key in ready {
            match *key {
                KEY_MONITOR => self.take_news(time),
                KEY_EVENTS => self.take_program_events(time),
                // Looked into in every round anyway; a timer is set anew before the next sleep.
                KEY_MAILBOX | KEY_SOCKET | KEY_TIMER => {}
                key => {
                    if let Some(attachment) = self.attachment((key - KEY_TRANSMIT) as u32) {
                        attachment.blocked = false;
                    }
                }
            }
        }
        self.pulse.end();
    }

    /// What is done rarely.
    fn housekeeping(&mut self, time: Instant) {
        if self.recheck.is_some_and(|due| due <= time) {
            self.recheck = None;
            if self.news_lost {
                self.resynchronise(time);
            }
            self.look_for_interfaces(time);
        }
        for attachment in &mut self.attachments {
            if attachment.retry.is_some_and(|due| due <= time) {
                attachment.retry = None;
            }
        }
        if let Some(drain) = &mut self.draining
            && drain.deadline <= time
            && !drain.aborted
        {
            drain.aborted = true;
            for (id, connection) in &self.connections {
                if !connection.closed {
                    self.endpoint.abort(time, *id);
                }
            }
        }
    }

    /// The replies that are due, when draining is over.
    fn finished(&mut self, _time: Instant) -> Option<Replies> {
        let aborted = self.draining.as_ref()?.aborted;
        // After an abort nobody waits for an interface that takes nothing.
        let over =
            aborted || self.all_sent() && self.connections.values().all(|connection| connection.closed);
        let drain = self.draining.as_mut().filter(|_| over && !self.endpoint.may_transmit())?;
        Some(std::mem::take(&mut drain.replies))
    }
}

impl Drop for Shard {
    /// Whatever ends a shard, a panic too: nobody waits for it in vain, and no interface keeps its program.
    fn drop(&mut self) {
        self.watchdog = None;
        self.mailbox.stop();
        for connection in std::mem::take(&mut self.connections).into_values() {
            connection.channel.close(CloseReason::Aborted, None);
        }
        self.listeners.clear();
        for attachment in std::mem::take(&mut self.attachments) {
            attachment.remove(&mut self.program, &mut self.places);
        }
        self.publish_reports();
    }
}
