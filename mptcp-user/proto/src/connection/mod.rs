//! One Multipath TCP connection: its subflows and the data level above them.
//!
//! * [`input`]: what a segment of a subflow does;
//! * [`dss`]: what its Multipath TCP options do;
//! * [`output`]: which segment leaves next;
//! * [`options`]: what options it carries;
//! * [`timers`]: what happens when time passes;
//! * [`deadlines`]: that there is one for all that must not last for ever;
//! * [`paths`]: the coming and going of subflows; [`joins`]: those that the peer opens;
//! * [`refusals`]: pairs of addresses between which none worked out; [`attempts`]: how many may be tried;
//! * [`probing`]: paths that are silent;
//! * [`survival`]: how a connection goes on without a path;
//! * [`addresses`]: what the two sides tell each other of their addresses;
//! * [`fail`]: MP_FAIL and its answer;
//! * [`close`]: the ends of subflows and connection.

mod addresses;
mod attempts;
mod close;
mod deadlines;
mod delivery;
mod dss;
mod fail;
mod handshake;
mod input;
mod joins;
pub(crate) mod options;
pub(crate) mod output;
mod paths;
mod probing;
mod refusals;
pub(crate) mod resume;
mod survival;
mod timers;

use super::Instant;
use super::config::ConnectionConfig;
use super::congestion::{self, CongestionControl, Path};
use super::counters::Counter;
use super::crypto::Key;
use super::data::{DataReceiver, DataSender};
use super::decision::Decision;
use super::endpoint::Shared;
use super::event::{CloseReason, ConnectionId, Event, ListenerId};
use super::info::{ConnectionInfo, ConnectionState, FallbackReason, SubflowInfo};
use super::path::{self, PathManager};
use super::right_sizing::{INITIAL, QueueSizes, ReadRate, SendPath, SendSizes};
use super::scheduler::{self, Guard, Scheduler};
use super::subflow::{Kind, Subflow};
use super::timer::Deadline;
use crate::wire::{DataSeq, MpCapable, Segment, SeqNumber, Version};
use addresses::Addresses;
pub(crate) use addresses::MAX_REMOTE;
use bytes::Bytes;
use close::EndCause;
use fail::FailExchange;
use paths::Paths;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use survival::Survival;

/// Ended subflows remembered for [`ConnectionInfo`].
const MAX_ENDED: usize = 32;

/// How data travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Mode {
    /// The initial subflow's handshake is under way; the flag: MP_CAPABLE is part of it.
    Handshake(bool),
    /// Multipath TCP.
    Multipath,
    /// Regular TCP over the only subflow there is.
    Plain(FallbackReason),
}

/// How the initial subflow begins.
#[derive(Clone, Copy)]
pub(crate) enum Opening<'a> {
    /// With our SYN.
    Active,
    /// With this SYN of the peer.
    Passive(&'a Segment),
    /// With a SYN/ACK of this sequence number that has left already, in answer to a SYN of which this is known.
    Cookie(&'a Segment, SeqNumber),
}

/// The policies a connection was given by name.
#[derive(Debug)]
pub(crate) struct Policies {
    pub(crate) congestion: Box<dyn CongestionControl>,
    pub(crate) scheduler: Box<dyn Scheduler>,
    pub(crate) path_manager: Box<dyn PathManager>,
}

impl Policies {
    /// Looks up the names; the error names the kind of policy that is unknown.
    pub(crate) fn new(config: &ConnectionConfig) -> Result<Self, &'static str> {
        Ok(Self {
            congestion: congestion::by_name(&config.congestion).ok_or("congestion control algorithm")?,
            scheduler: scheduler::by_name(&config.scheduler).ok_or("scheduler")?,
            path_manager: path::by_name(config).ok_or("path manager")?,
        })
    }
}

impl Default for Policies {
    /// Those that a connection has unless something else is asked for.
    fn default() -> Self {
        let Ok(policies) = Self::new(&ConnectionConfig::default()) else {
            unreachable!("there are policies of these names")
        };
        policies
    }
}

/// One connection. What is written down of those at rest is all but the octets that they hold: see
/// [`dormant`](super::dormant).
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    #[serde(skip)]
    pub(crate) config: Arc<ConnectionConfig>,
    /// The listener that has not been told yet, or that accepted the connection.
    pub(crate) listener: Option<ListenerId>,
    /// This side opened the connection.
    pub(crate) client: bool,
    pub(crate) mode: Mode,
    pub(crate) version: Version,
    local_key: Key,
    remote_key: Option<Key>,
    checksum: bool,
    /// The peer is known to have both keys: it has sent a DSS, or the third ACK (RFC 8684 section 3.1).
    fully_established: bool,
    /// A segment that did nothing but acknowledge has had a Data ACK.
    data_ack_sent: bool,
    /// A DSS came at least once: options survive this way.
    dss_received: bool,
    /// Segments without any Multipath TCP option since the last DSS.
    plain_segments: u32,
    /// After a fallback that the peer may not know of: it is told with an infinite mapping on everything that
    /// leaves until this subflow offset is acknowledged.
    infinite_until: Option<u64>,
    /// Our part in an exchange of MP_FAIL.
    fail: FailExchange,
    /// The peer's FIN has come on the last subflow, on which we may go on sending.
    half_closed: bool,
    /// Everything sent so far went over the initial subflow in order, so that falling back is possible.
    contiguous: bool,
    subflows: Vec<Option<Box<Subflow>>>,
    /// Congestion state, one per place in `subflows`.
    congestion_paths: Vec<Path>,
    ended: VecDeque<SubflowInfo>,
    #[serde(skip)]
    pub(crate) policies: Policies,
    /// Keeps slow paths from holding up the others.
    guard: Guard,
    /// The octet that the full window waited for when it was last sent again for that.
    held_up_by: Option<u64>,
    pub(crate) send: DataSender,
    pub(crate) receive: DataReceiver,
    paths: Paths,
    survival: Survival,
    addresses: Addresses,
    /// Told the driver that it is readable; it has not read since.
    readable_told: bool,
    /// The driver saw a full send buffer.
    writable_wanted: bool,
    /// The application has dropped its handle.
    pub(crate) released: bool,
    /// Until when the last subflows are given to end, once one of them has.
    parting: Option<Instant>,
    pub(crate) closed: Option<CloseReason>,
    /// MP_FASTCLOSE goes with the resets.
    fast_close: bool,
    /// The last subflow ended by the peer's reset.
    reset_seen: bool,
    /// What the subflow that ended last died of.
    end_cause: EndCause,
    pub(crate) deadline: Deadline,
    /// When it may rest, unless something happens before.
    rests_at: Option<Instant>,
    /// Waits in the endpoint's queue of connections that may have something to send.
    pub(crate) queued: bool,
    data_deadline: Option<Instant>,
    data_expiries: u32,
    /// Since when something waits for its Data ACK, the last one that came having started it anew.
    data_waits_since: Option<Instant>,
    persist_deadline: Option<Instant>,
    persist_expiries: u32,
    /// When the first of the window probes was sent that the peer has not answered.
    probed_since: Option<Instant>,
    /// The subflow over which the peer was asked what it has, because another one is silent.
    question: Option<usize>,
    /// Octets that were not acknowledged when the application dropped its handle, or at the last look at them
    /// since.
    orphan_left: u64,
    /// What little the peer's window lets through is to be sent: it has not opened further for long enough.
    window_override: bool,
    /// Reading per round trip of the paths that bring data, and of all that may.
    read_rates: [ReadRate; 2],
    /// Octets that count as read, so far.
    reached: u64,
    /// How many octets the send buffer may hold by now.
    send_sizes: SendSizes,
    /// What the endpoint's memory knows of what this connection holds.
    pub(crate) accounted: u64,
    /// Octets of the application's that wait with the driver.
    pub(crate) outside: u64,
    /// The connection is given up at this time: handshake, orphaned close, no subflow left.
    patience: Option<Instant>,
    /// Segments of data sent since the last look at acknowledgments.
    data_run: u8,
    /// The listener wanted Multipath TCP, the peer's SYN did not.
    refused_by_peer: bool,
    /// Our SYNs with MP_CAPABLE were not answered: those that followed were without.
    option_left_out: bool,
    /// How long outstanding data may go without an acknowledgment: what was configured, or agreed on with the peer.
    user_timeout: Duration,
}

impl Connection {
    /// A connection whose initial subflow is about to be added.
    pub(crate) fn new(
        id: ConnectionId,
        config: Arc<ConnectionConfig>,
        policies: Policies,
        client: bool,
        (version, local_key): (Version, Key),
        multipath: bool,
    ) -> Self {
        let receive = DataReceiver::new(config.receive_buffer as u64);
        Self {
            id,
            listener: None,
            client,
            mode: Mode::Handshake(multipath),
            version,
            local_key,
            remote_key: None,
            checksum: config.checksum,
            fully_established: false,
            data_ack_sent: false,
            dss_received: false,
            plain_segments: 0,
            infinite_until: None,
            fail: FailExchange::default(),
            half_closed: false,
            contiguous: true,
            subflows: Vec::new(),
            congestion_paths: Vec::new(),
            ended: VecDeque::new(),
            policies,
            guard: Guard::default(),
            held_up_by: None,
            send: DataSender::default(),
            receive,
            paths: Paths::default(),
            survival: Survival::default(),
            addresses: Addresses::default(),
            readable_told: false,
            writable_wanted: false,
            released: false,
            parting: None,
            closed: None,
            fast_close: false,
            reset_seen: false,
            end_cause: EndCause::default(),
            deadline: Deadline::default(),
            rests_at: None,
            queued: false,
            data_deadline: None,
            data_expiries: 0,
            data_waits_since: None,
            persist_deadline: None,
            persist_expiries: 0,
            probed_since: None,
            question: None,
            orphan_left: 0,
            window_override: false,
            read_rates: Default::default(),
            reached: 0,
            send_sizes: SendSizes::initial(config.send_buffer as u64),
            accounted: 0,
            outside: 0,
            patience: None,
            data_run: 0,
            refused_by_peer: false,
            option_left_out: false,
            user_timeout: config.user_timeout,
            config,
        }
    }

    /// Our token, while the connection is or may become Multipath TCP.
    pub(crate) fn token(&self) -> Option<u32> {
        (!matches!(self.mode, Mode::Plain(_) | Mode::Handshake(false))).then_some(self.local_key.token)
    }

    /// The initial subflow's handshake is under way.
    pub(crate) fn in_handshake(&self) -> bool {
        matches!(self.mode, Mode::Handshake(_))
    }

    /// What the SYN of the peer says of Multipath TCP; `wanted`: whether the listener would have it.
    //= RFC 8684 3.1-14
    pub(crate) fn peer_syn(&mut self, capable: Option<&MpCapable>, wanted: bool) {
        self.refused_by_peer = wanted && capable.is_none();
        if let Some(capable) = capable {
            self.checksum |= capable.checksum;
            self.paths.no_join_initial |= capable.no_join_initial;
            // Version 0 has the key in the SYN already.
            self.remote_key = capable.sender_key.map(|key| Key::new(self.version, key));
        }
    }

    fn is_multipath(&self) -> bool {
        self.mode == Mode::Multipath
    }

    /// Data sequence number of our octet at `offset`.
    //= RFC 8684 3.3.1-3
    fn local_dsn(&self, offset: u64) -> DataSeq {
        self.local_key.idsn + 1 + offset
    }

    /// Data sequence number of the peer's octet at `offset`.
    fn remote_dsn(&self, offset: u64) -> Option<DataSeq> {
        self.remote_key.map(|key| key.idsn + 1 + offset)
    }

    fn living(&self) -> impl Iterator<Item = (usize, &Subflow)> + Clone {
        self.subflows.iter().enumerate().filter_map(|(index, subflow)| Some((index, &**subflow.as_ref()?)))
    }

    fn subflow(&mut self, index: usize) -> Option<&mut Subflow> {
        self.subflows.get_mut(index)?.as_deref_mut()
    }

    /// Octets that may be handed over now; `share`: what the endpoint's memory leaves to this buffer.
    pub(crate) fn send_capacity(&mut self, share: u64) -> usize {
        if self.send.finished || self.closed.is_some() || matches!(self.mode, Mode::Handshake(_)) {
            return 0;
        }
        let room = self.send_room(share);
        if room == 0 {
            self.writable_wanted = true;
        }
        room as usize
    }

    /// Room in the send buffer, as far as what comes into it would not wait for longer than it has to.
    fn send_room(&self, share: u64) -> u64 {
        let SendSizes { capacity, ahead } = self.send_sizes;
        let waiting = self.send.buffer.end() - self.send.nxt;
        let free = capacity.min(share).saturating_sub(self.send.buffer.len());
        free.min(ahead.saturating_sub(waiting))
    }

    /// What is held for this connection, and what holding it costs.
    pub(crate) fn memory(&self) -> u64 {
        let records = self.subflows.iter().flatten().map(|subflow| subflow.snd.cost());
        let outside = if self.closed.is_none() { self.outside } else { 0 };
        self.send.buffer.cost() + self.receive_memory() + records.sum::<u64>() + outside
    }

    /// Gives what waits in the receiving direction memory of its own, exactly as much as it needs.
    pub(crate) fn compact(&mut self) {
        self.receive.compact();
        for subflow in self.subflows.iter_mut().flatten() {
            subflow.rcv.held.compact();
        }
    }

    /// Whether a segment with so many octets, of the subflow at `index`, is certain to be refused: it lies
    /// outside of the window.
    pub(crate) fn refuses(&self, index: usize, segment: &Segment, octets: u32) -> bool {
        let subflow = self.subflows.get(index).and_then(Option::as_deref);
        subflow.is_some_and(|subflow| {
            subflow.is_synchronised() && !subflow.rcv.window_has(segment.seq, segment.seq_len() + octets)
        })
    }

    fn receive_memory(&self) -> u64 {
        let subflows = self.subflows.iter().flatten();
        let held = subflows.map(|subflow| subflow.rcv.held.cost() + subflow.mappings.cost());
        self.receive.cost() + held.sum::<u64>()
    }

    /// How large the queues between the application and this connection should be; super-segments have up to `most` octets.
    pub(crate) fn queue_sizes(&self, most: usize) -> QueueSizes {
        let mss = self.congestion_paths.first().map_or(1, |path| path.mss.max(1) as usize);
        QueueSizes {
            ahead: self.send_sizes.ahead as usize,
            piece: most - most % mss,
            receive: self.receive.capacity() as usize,
        }
    }

    /// Queues octets.
    pub(crate) fn push(&mut self, data: Bytes) {
        if !self.send.finished && self.closed.is_none() {
            self.send.buffer.push(data);
        }
    }

    /// No more octets will be handed over.
    pub(crate) fn finish(&mut self) {
        if !self.send.finished && self.closed.is_none() {
            self.send.finished = true;
        }
    }

    /// Takes received octets out.
    pub(crate) fn take(&mut self, limit: usize, out: &mut Vec<Bytes>) -> (usize, bool) {
        self.readable_told = false;
        let taken = self.receive.take(limit, out);
        if self.receive.ready_octets() > 0 {
            self.readable_told = true;
        }
        taken
    }

    /// The application has read: the window may open, and the peer must learn of it if that makes a difference.
    pub(crate) fn consumed(&mut self, now: Instant, octets: usize) {
        self.receive.consumed(octets as u64);
        self.measure_reading(now);
        let mss = self.congestion_paths.first().map_or(1460, |path| path.mss);
        let scale = self.living().map(|(_, subflow)| subflow.rcv.scale).max().unwrap_or(0);
        if self.receive.owes_update(scale, mss) {
            let all_stale = self.living().all(|(_, subflow)| subflow.stale);
            for subflow in self.subflows.iter_mut().flatten() {
                if subflow.is_synchronised() && (!subflow.stale || all_stale) {
                    subflow.rcv.ack_now = true;
                }
            }
        }
    }

    /// How fast does the application read? What waits for a gap to be filled counts as read, if the application waits for
    /// it: otherwise the buffer would not grow when a loss makes that most necessary.
    pub(crate) fn measure_reading(&mut self, now: Instant) {
        let mut reached = self.receive.reached();
        if self.receive.is_drained() {
            let subflows = self.subflows.iter().flatten();
            reached += subflows.map(|subflow| subflow.rcv.held.octets() as u64).sum::<u64>();
        }
        let fresh = reached.saturating_sub(self.reached);
        if fresh == 0 {
            return;
        }
        self.reached = reached;
        if self.receive.has_grown_up() {
            return;
        }
        let began = self.read_rates[0].began();
        let bring = self.living().filter(|(_, subflow)| subflow.rcv.echo.data_at >= began);
        let may = self.usable(Subflow::is_synchronised);
        let rtts = [longest_round_trip(bring), longest_round_trip(may)];
        for (rate, rtt) in self.read_rates.iter_mut().zip(rtts) {
            if let Some(capacity) = rate.read(now, fresh, rtt) {
                self.receive.grow(capacity);
            }
        }
    }

    /// Those of these subflows that data goes by if it can: neither stale ones nor backups while there are others.
    //= RFC 8684 3.3.8-1
    fn usable(&self, usable: fn(&Subflow) -> bool) -> impl Iterator<Item = (usize, &Subflow)> + Clone {
        let tier =
            |subflow: &Subflow| u8::from(subflow.backup || subflow.peer_backup) + 2 * u8::from(subflow.stale);
        let all = self.living().filter(move |(_, subflow)| usable(subflow));
        let best = all.clone().map(|(_, subflow)| tier(subflow)).min();
        all.filter(move |(_, subflow)| Some(tier(subflow)) == best)
    }

    /// Tells the driver that there is something to read, once.
    fn tell_readable(&mut self, shared: &mut Shared) {
        if self.receive.readable() && !self.readable_told && !self.released {
            self.readable_told = true;
            shared.events.push_back(Event::Readable(self.id));
        }
    }

    /// The application has seen the send buffer full, and has not been told that there is room again.
    fn is_send_buffer_full(&self) -> bool {
        self.writable_wanted && self.send.buffer.len() > self.send_sizes.capacity / 4 * 3
    }

    /// Something has been acknowledged: there may be room again, or more of it.
    fn make_room(&mut self, shared: &mut Shared) {
        self.fit_send_buffer();
        self.tell_writable(shared);
    }

    /// Tells the driver that there is room again, if it had seen none. Not for every octet that becomes free.
    fn tell_writable(&mut self, shared: &mut Shared) {
        if !self.writable_wanted {
            return;
        }
        let share = shared.memory.share();
        let SendSizes { capacity, ahead } = self.send_sizes;
        if self.send_room(share) >= ahead.min(capacity).min(share) / 4 {
            self.writable_wanted = false;
            shared.events.push_back(Event::Writable(self.id));
        }
    }

    /// Where the application keeps the buffer more than half full, the buffer may be what keeps the paths from being busy.
    /// Paths that are not used count as well: with too little waiting, a slow one looks as if it were not worth using. More
    /// than twice the peer's window never helps: it says what the peer reads in some round trips.
    ///
    /// Whoever fills a buffer fills any: when windows have become smaller, it does as well, but not below twice what is
    /// under way. And where it is far larger than what is under way, only the paths' rates say how much of it is filled.
    fn fit_send_buffer(&mut self) {
        let limit = self.config.send_buffer as u64;
        let before = self.send_sizes.capacity;
        if !self.writable_wanted && self.send.buffer.len() < before / 2 {
            return;
        }
        let paths = self.usable(Subflow::can_send).filter_map(|(index, subflow)| {
            Some(SendPath {
                cwnd: self.congestion_paths[index].cwnd,
                srtt: subflow.rtt.srtt()?,
                min_rtt: subflow.rtt.min()?,
            })
        });
        let mut wanted = SendSizes::of(paths);
        if self.is_multipath() {
            wanted.capacity = wanted.capacity.min(2 * self.send.edge.saturating_sub(self.send.una));
        }
        let least = before.min(INITIAL.max(2 * self.send.nxt.saturating_sub(self.send.una)));
        wanted.capacity = wanted.capacity.max(least).min(limit);
        self.send_sizes = wanted;
    }

    /// The handshake is over: tells the driver.
    fn tell_established(&mut self, shared: &mut Shared) {
        self.patience = None;
        let event = match self.listener {
            Some(listener) => Event::Accepted { listener, connection: self.id },
            None => Event::Connected(self.id),
        };
        shared.established(self.listener);
        shared.note_established(Counter::CurrEstab, true);
        if self.is_multipath() {
            shared.note_established(Counter::MpCurrEstab, true);
        }
        shared.events.push_back(event);
    }

    /// Continues as regular TCP over the only subflow (RFC 8684 section 3.7). The octets of the two levels
    /// correspond one to one from the start, which `contiguous` has seen to.
    //= RFC 8684 3.7-13
    //= RFC 8684 3.7-15
    fn fall_back(&mut self, shared: &mut Shared, now: Instant, reason: FallbackReason) {
        if matches!(self.mode, Mode::Plain(_)) {
            return;
        }
        if self.token().is_some() {
            shared.remove_token(self.local_key.token);
        }
        if self.is_multipath() {
            shared.note_established(Counter::MpCurrEstab, false);
        }
        let tell = self.is_multipath() && reason != FallbackReason::PeerFellBack;
        self.mode = Mode::Plain(reason);
        self.send.clear_reinjections();
        self.send.fin_due = false;
        let destination = self.destination();
        self.paths = Paths::default();
        self.addresses = Addresses::default();
        let mut readable = false;
        for index in 0..self.subflows.len() {
            let Some(subflow) = self.subflows[index].as_deref_mut() else { continue };
            if subflow.kind != Kind::Initial {
                self.drop_attempt(shared, index);
                continue;
            }
            subflow.mappings.set_infinite(1, 0);
            // The window was relative to the Data ACK. A peer for which it is relative to the subflow's from now on may have
            // seen a later edge, and what the subflow acknowledges must not be dropped afterwards.
            self.receive.honour(subflow.rcv.edge.saturating_sub(1));
            // What the subflow has delivered so far is acknowledged; of what it delivers from here on its ACKs tell.
            let delivered = subflow.snd.una.saturating_sub(1);
            self.send.acknowledge(delivered.min(self.send.end()));
            if let Some((offset, octets)) = subflow.mappings.take_pending() {
                readable |= self.receive.insert(now, offset, octets);
            }
            if tell {
                self.infinite_until = Some(subflow.snd.nxt + 1);
                subflow.rcv.ack_now = true;
            }
            self.congestion_paths[index].mss = subflow.payload_mss(false);
        }
        let harmful = matches!(reason, FallbackReason::ChecksumFailed | FallbackReason::PeerChecksumFailed);
        if let (true, true, Some(destination)) = (self.client, harmful, destination) {
            shared.remember_blackhole(self.id, destination);
        }
        if reason != FallbackReason::NotRequested {
            shared.decide(self.id, || Decision::FellBack { reason });
            shared.events.push_back(Event::FellBack(self.id, reason));
        }
        self.make_room(shared);
        if readable {
            self.tell_readable(shared);
        }
    }

    /// Whether nothing of the connection is left but what the application holds.
    pub(crate) fn is_gone(&self) -> bool {
        self.closed.is_some() && self.released && self.subflows.iter().all(Option::is_none)
    }

    fn state(&self) -> ConnectionState {
        match (self.closed, self.mode) {
            (Some(_), _) => ConnectionState::Closed,
            (None, Mode::Handshake(_)) => ConnectionState::Connecting,
            (None, _) => match (self.send.finished, self.receive.finished) {
                (false, false) => ConnectionState::Established,
                (true, false) => ConnectionState::FinWait,
                (false, true) => ConnectionState::CloseWait,
                (true, true) => ConnectionState::Closing,
            },
        }
    }

    /// See [`Endpoint::info`](super::Endpoint::info).
    pub(crate) fn info(&self) -> ConnectionInfo {
        let multipath = self.is_multipath();
        let living = self.living().map(|(index, subflow)| subflow.info(&self.congestion_paths[index]));
        ConnectionInfo {
            state: self.state(),
            version: multipath.then_some(self.version as u8),
            fallback: if let Mode::Plain(reason) = self.mode { Some(reason) } else { None },
            checksum: multipath && self.checksum,
            local_token: multipath.then_some(self.local_key.token),
            remote_token: self.remote_key.filter(|_| multipath).map(|key| key.token),
            bytes_sent: self.send.nxt,
            bytes_acked: self.send.una.min(self.send.buffer.end()),
            bytes_received: self.receive.delivered,
            bytes_reinjected: self.send.reinjected,
            head_of_line: self.receive.head_of_line(),
            send_queue: self.send.buffer.len(),
            receive_queue: self.receive.queued(),
            send_buffer: self.send_sizes.capacity,
            send_buffer_limit: self.config.send_buffer as u64,
            receive_buffer: self.receive.capacity(),
            receive_buffer_limit: self.config.receive_buffer as u64,
            receive_window: self.receive.advertised(),
            send_window: self.send.edge.saturating_sub(self.send.una),
            congestion: self.policies.congestion.name().into(),
            scheduler: self.policies.scheduler.name().into(),
            path_manager: self.policies.path_manager.name().into(),
            subflows: living.chain(self.ended.iter().cloned()).collect(),
        }
    }
}

/// The longest round-trip time of these subflows as far as it is known, queues included where data comes.
fn longest_round_trip<'a>(subflows: impl Iterator<Item = (usize, &'a Subflow)>) -> Option<Duration> {
    subflows.filter_map(|(_, subflow)| subflow.rcv.echo.get().max(subflow.rtt.min())).max()
}
