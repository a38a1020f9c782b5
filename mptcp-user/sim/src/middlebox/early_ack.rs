//! Boxes that acknowledge in the receiver's name, as performance enhancing proxies on wireless and satellite
//! links do (RFC 3135 section 2.1.1), the connection otherwise being left as it is.

use super::flows::Flows;
use super::{Middlebox, Way};
use mptcp_proto::Instant;
use mptcp_proto::wire::{Flags, Segment, SeqNumber, TcpOptions};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Answers data that goes one way with an acknowledgment at once, keeps it until the receiver has it, and
/// sends it again when that takes too long. Its acknowledgments carry no Multipath TCP: a sender must not
/// take them for delivery at the data level (RFC 8684 section 3.3.2), nor the lack of a DSS for the lack of
/// Multipath TCP.
pub struct EarlyAcker {
    way: Way,
    flows: Flows<Held>,
    /// Acknowledgments to leave, back to the sender.
    answers: VecDeque<Segment>,
    /// Connections with something to be sent again at a time.
    waiting: Vec<(Instant, SocketAddr, SocketAddr)>,
}

/// The state of one connection.
#[derive(Default)]
struct Held {
    /// Next sequence number to be acknowledged early; none before the handshake is over.
    next: Option<SeqNumber>,
    /// Data acknowledged early, not yet by the receiver.
    kept: VecDeque<Segment>,
    octets: usize,
    /// The receiver's last segment, the model of the acknowledgments.
    model: Option<Segment>,
}

/// Bytes kept of one connection. Bytes beyond them are not acknowledged early.
const MAX_KEPT: usize = 1 << 20;
/// Time after which data is sent again.
const PATIENCE: Duration = Duration::from_millis(300);

impl EarlyAcker {
    /// A box that acknowledges data going this way.
    pub fn new(way: Way) -> Self {
        Self { way, flows: Flows::new(), answers: VecDeque::new(), waiting: Vec::new() }
    }

    fn data(&mut self, now: Instant, segment: &Segment) {
        let (way, key) = (self.way, (segment.src, segment.dst));
        let held = self.flows.of(now, way, segment, Held::default);
        let (Some(next), Some(model)) = (held.next, &held.model) else { return };
        let len = segment.payload.len();
        let plain = !segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::FIN);
        if !plain || segment.seq != next || held.octets + len > MAX_KEPT {
            return;
        }
        held.next = Some(segment.seq_end());
        held.octets += len;
        held.kept.push_back(segment.clone());
        let answer = Segment {
            seq: model.seq,
            ack: segment.seq_end(),
            flags: Flags::ACK,
            options: TcpOptions {
                // The echo that the receiver would send.
                timestamps: model.options.timestamps.map(|mut timestamps| {
                    timestamps.echo = segment.options.timestamps.map_or(timestamps.echo, |own| own.value);
                    timestamps
                }),
                ..TcpOptions::default()
            },
            window: model.window,
            ..Segment::new(segment.dst, segment.src)
        };
        self.answers.push_back(answer);
        if !self.waiting.iter().any(|(_, src, dst)| (*src, *dst) == key) {
            self.waiting.push((now + PATIENCE, key.0, key.1));
        }
    }

    fn acknowledgment(&mut self, now: Instant, segment: &mut Segment) {
        let opposite = self.way.opposite();
        let held = self.flows.of(now, opposite, segment, Held::default);
        if segment.flags.has(Flags::RST) {
            *held = Held::default();
            return;
        }
        if !segment.flags.has(Flags::ACK) {
            return;
        }
        if segment.flags.has(Flags::SYN) || held.next.is_none_or(|next| segment.ack.at_or_after(next)) {
            held.next = Some(segment.ack);
        }
        while let Some(first) = held.kept.front()
            && segment.ack.at_or_after(first.seq_end())
        {
            held.octets -= first.payload.len();
            held.kept.pop_front();
        }
        let mut model = segment.clone();
        model.seq = segment.seq_end();
        held.model = Some(model);
        // An acknowledgment is never taken back.
        if let Some(next) = held.next
            && next.at_or_after(segment.ack)
        {
            segment.ack = next;
            segment.options.sack.clear();
        }
    }
}

impl Middlebox for EarlyAcker {
    fn name(&self) -> String {
        format!("early acknowledgments of data going {:?}", self.way)
    }
    fn process(&mut self, now: Instant, way: Way, mut segment: Segment, out: &mut Vec<Segment>) {
        if way == self.way {
            if !segment.payload.is_empty() {
                self.data(now, &segment);
            }
        } else {
            self.acknowledgment(now, &mut segment);
        }
        out.push(segment);
    }
    fn next_timeout(&self) -> Option<Instant> {
        if self.answers.is_empty() {
            self.waiting.iter().map(|(at, ..)| *at).min()
        } else {
            Some(Instant::ZERO)
        }
    }
    fn handle_timeout(&mut self, now: Instant, out: &mut Vec<(Way, Segment)>) {
        let way = self.way;
        out.extend(self.answers.drain(..).map(|answer| (way.opposite(), answer)));
        let flows = &mut self.flows;
        self.waiting.retain_mut(|(at, src, dst)| {
            if *at > now {
                return true;
            }
            let held = flows.of(now, way, &Segment::new(*src, *dst), Held::default);
            let Some(first) = held.kept.front() else { return false };
            out.push((way, first.clone()));
            *at = now + PATIENCE;
            true
        });
    }
}
