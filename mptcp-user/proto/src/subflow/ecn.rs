//! Explicit congestion notification on one subflow: RFC 3168, and accurate ECN (RFC 9768) where the peer has it.
//!
//! Here it is agreed on, marks are counted and told, and the peer's reports are read. What they do to the window is
//! congestion control's. Accurate ECN is done with the three bits of the header alone (the ACE field): its options are
//! optional, and a segment with a Data Sequence Signal has no room for them.

use crate::config::EcnPolicy;
use crate::wire::{Ecn, Flags, Segment};

/// The three header bits of ECN, the ACE field of RFC 9768.
const FIELD: Flags = Flags(Flags::AE.0 | Flags::CWR.0 | Flags::ECE.0);
/// Where both counters of marks begin (RFC 9768 section 3.2.1): not with what a box that clears the field makes of it.
const FIRST_COUNT: u8 = 5;
/// Marks that are told at once if nothing was acknowledged meanwhile (RFC 9768 section 3.2.2.5.1 asks for 2 to 6).
const MARKS_PER_ACK: u8 = 2;

/// How the peer is told of marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
enum Feedback {
    /// Not at all: ECN is not in use.
    #[default]
    None,
    /// ECE until CWR comes (RFC 3168 section 6.1).
    Classic,
    /// A count modulo 8 (RFC 9768 section 3.2.2).
    Accurate,
}

/// State of one subflow.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct EcnState {
    feedback: Feedback,
    /// Our data may say that it is ECN-capable: nothing on the path has been seen to spoil that.
    sends_capable: bool,
    /// Code point of the peer's SYN or SYN/ACK, while it is owed to the peer.
    handshake: Option<Ecn>,
    /// ECE is set until the peer says CWR (classic).
    echo: bool,
    /// Marked packets received, and of these told (accurate), modulo 8.
    marked: u8,
    told: u8,
    /// The peer's count of our marked packets as far as it was taken, modulo 8.
    reported: u8,
}

impl EcnState {
    /// Flags of a SYN that asks for accurate ECN, and for the classic one from those who know no other; none on the
    /// second repetition, in case they are what makes it disappear (RFC 9768 section 3.1.4.1).
    pub(crate) fn syn_flags(policy: EcnPolicy, sent_before: u32) -> Flags {
        if policy == EcnPolicy::Ask && sent_before < 2 { FIELD } else { Flags::default() }
    }

    /// What a SYN asks for, as far as it is granted.
    pub(crate) fn asked(policy: EcnPolicy, syn: &Segment) -> Self {
        let field = field_of(syn);
        let feedback = match policy {
            EcnPolicy::Off => Feedback::None,
            _ if field == FIELD => Feedback::Accurate,
            _ if field == Flags::ECE.with(Flags::CWR) => Feedback::Classic,
            _ => Feedback::None,
        };
        Self::new(feedback, syn.ecn)
    }

    /// What a SYN/ACK says of our question (RFC 9768 section 3.1.2, table 2).
    pub(crate) fn answered(policy: EcnPolicy, syn_ack: &Segment) -> Self {
        let field = field_of(syn_ack);
        let feedback = match policy {
            EcnPolicy::Off | EcnPolicy::Accept => Feedback::None,
            // No ECN, or a peer that sends back whatever it gets.
            EcnPolicy::Ask if field == Flags::default() || field == FIELD => Feedback::None,
            EcnPolicy::Ask if field.without(Flags::AE) == Flags::ECE => Feedback::Classic,
            EcnPolicy::Ask => Feedback::Accurate,
        };
        let mut state = Self::new(feedback, syn_ack.ecn);
        if feedback == Feedback::Accurate {
            if syn_ack.ecn == Ecn::Ce {
                // Counted, and told in the field of the acknowledgment (RFC 9768 section 3.2.2.1, table 4).
                (state.marked, state.told) = (FIRST_COUNT + 1, FIRST_COUNT + 1);
            }
            state.judge_path(decoded(field));
        }
        state
    }

    fn new(feedback: Feedback, handshake: Ecn) -> Self {
        Self {
            feedback,
            sends_capable: feedback != Feedback::None,
            handshake: (feedback == Feedback::Accurate).then_some(handshake),
            echo: false,
            marked: FIRST_COUNT,
            told: FIRST_COUNT,
            reported: FIRST_COUNT,
        }
    }

    /// Our SYN or SYN/ACK was not ECN-capable. If it arrived as something else, or the field was cleared, the path
    /// changes what it should not, and what it says of congestion can't be believed (RFC 9768 section 3.2.2.3).
    fn judge_path(&mut self, arrived: Option<Ecn>) {
        self.sends_capable &= arrived == Some(Ecn::NotEct);
    }

    /// Flags of our SYN/ACK.
    pub(crate) fn syn_ack_flags(&self) -> Flags {
        match self.feedback {
            Feedback::None => Flags::default(),
            Feedback::Classic => Flags::ECE,
            Feedback::Accurate => encoded(self.handshake.unwrap_or_default()),
        }
    }

    /// The segment that completes the handshake has come to the server.
    pub(crate) fn completed(&mut self, segment: &Segment) {
        self.handshake = None;
        if self.feedback == Feedback::Accurate
            && segment.payload.is_empty()
            && segment.options.sack.is_empty()
        {
            // Codes without a meaning yet are taken for the usual one.
            let field = field_of(segment);
            if decoded(field) == Some(Ecn::Ce) {
                // The client's count has begun with our SYN/ACK.
                self.reported = FIRST_COUNT + 1;
            }
            let arrived = decoded(field).or((field != Flags::default()).then_some(Ecn::NotEct));
            self.judge_path(arrived);
        }
    }

    /// Code point for data. What is sent again, and what carries none, is not ECN-capable (RFC 3168 section 6.1.5).
    pub(crate) fn code_point(&self, again: bool) -> Ecn {
        if self.sends_capable && !again { Ecn::Ect0 } else { Ecn::NotEct }
    }

    /// A segment of an established subflow came in; `true` if it is to be acknowledged at once because of its mark.
    pub(crate) fn received(&mut self, segment: &Segment) -> bool {
        let marked = segment.ecn == Ecn::Ce;
        match self.feedback {
            Feedback::None => false,
            Feedback::Classic => {
                self.echo &= !segment.flags.has(Flags::CWR);
                // Only data is ECN-capable: a mark on anything else is forged or a mistake.
                let news = marked && !segment.payload.is_empty() && !self.echo;
                self.echo |= news;
                news
            }
            Feedback::Accurate => {
                if marked {
                    self.marked = (self.marked + (segment.packets() % 8) as u8) % 8;
                }
                (self.marked + 8 - self.told) % 8 >= MARKS_PER_ACK
            }
        }
    }

    /// Flags for a segment that leaves. `bare`: an acknowledgment without data and without SACK blocks.
    pub(crate) fn flags(&mut self, bare: bool) -> Flags {
        match self.feedback {
            Feedback::Classic if self.echo => Flags::ECE,
            Feedback::None | Feedback::Classic => Flags::default(),
            Feedback::Accurate => match self.handshake.take().filter(|_| bare) {
                Some(arrived) => encoded(arrived),
                None => {
                    self.told = self.marked;
                    counted(self.marked)
                }
            },
        }
    }

    /// What the next data says after the window was reduced because of a report.
    pub(crate) fn reduced_flag(&self) -> Flags {
        if self.feedback == Feedback::Classic { Flags::CWR } else { Flags::default() }
    }

    /// Whether segments must leave one packet each: kernels and interfaces clear CWR in all packets of a super-segment
    /// but the first, which is wrong where the bit is part of a count.
    pub(crate) fn forbids_super_segments(&self) -> bool {
        self.feedback == Feedback::Accurate && counted(self.marked).has(Flags::CWR)
    }

    /// Whether an acknowledgment of something new reports marks on what we sent: one that acknowledges nothing new can't,
    /// and the one that completes the handshake has no count. With accurate ECN a report of exactly
    /// eight (or 16, …) marks between two acknowledgments goes unnoticed; the next one will not.
    pub(crate) fn reports_marks(&mut self, segment: &Segment) -> bool {
        match self.feedback {
            Feedback::None => false,
            Feedback::Classic => segment.flags.has(Flags::ECE),
            Feedback::Accurate => {
                let count = count_of(field_of(segment));
                std::mem::replace(&mut self.reported, count) != count
            }
        }
    }
}

fn field_of(segment: &Segment) -> Flags {
    Flags(segment.flags.0 & FIELD.0)
}

/// The field as a number: AE is the highest bit, ECE the lowest one.
fn count_of(field: Flags) -> u8 {
    u8::from(field.has(Flags::AE)) << 2
        | u8::from(field.has(Flags::CWR)) << 1
        | u8::from(field.has(Flags::ECE))
}

fn counted(count: u8) -> Flags {
    let bit = |bit: u8, flag: Flags| if count & bit == 0 { Flags::default() } else { flag };
    bit(4, Flags::AE).with(bit(2, Flags::CWR)).with(bit(1, Flags::ECE))
}

/// How the code point of a SYN or SYN/ACK is told (RFC 9768 sections 3.1.2 and 3.2.2.1).
fn encoded(arrived: Ecn) -> Flags {
    counted(match arrived {
        Ecn::NotEct => 0b010,
        Ecn::Ect1 => 0b011,
        Ecn::Ect0 => 0b100,
        Ecn::Ce => 0b110,
    })
}

fn decoded(field: Flags) -> Option<Ecn> {
    [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce].into_iter().find(|arrived| encoded(*arrived) == field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn segment(field: u8, ecn: Ecn) -> Segment {
        let mut segment =
            Segment::new(SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 2)));
        segment.flags = Flags::ACK.with(counted(field));
        segment.ecn = ecn;
        segment
    }

    fn data(ecn: Ecn) -> Segment {
        Segment { payload: vec![0; 10].into(), ..segment(0, ecn) }
    }

    /// RFC 9768 table 2, with what the client makes of each answer.
    #[test]
    fn the_answer_decides() {
        let expected = [
            (0b000, Feedback::None, false),
            (0b001, Feedback::Classic, true),
            (0b010, Feedback::Accurate, true),
            (0b011, Feedback::Accurate, false),
            (0b100, Feedback::Accurate, false),
            (0b101, Feedback::Classic, true),
            (0b110, Feedback::Accurate, false),
            (0b111, Feedback::None, false),
        ];
        for (field, feedback, capable) in expected {
            let state = EcnState::answered(EcnPolicy::Ask, &segment(field, Ecn::NotEct));
            assert_eq!((state.feedback, state.sends_capable), (feedback, capable), "{field:03b}");
            let unasked = EcnState::answered(EcnPolicy::Accept, &segment(field, Ecn::NotEct));
            assert_eq!(unasked.feedback, Feedback::None);
        }
    }

    #[test]
    fn what_was_asked_for_is_granted_unless_it_is_switched_off() {
        for (field, feedback) in
            [(0b111, Feedback::Accurate), (0b011, Feedback::Classic), (0, Feedback::None)]
        {
            for policy in [EcnPolicy::Accept, EcnPolicy::Ask] {
                assert_eq!(EcnState::asked(policy, &segment(field, Ecn::NotEct)).feedback, feedback);
            }
            assert_eq!(
                EcnState::asked(EcnPolicy::Off, &segment(field, Ecn::NotEct)).feedback,
                Feedback::None
            );
        }
        assert_eq!(EcnState::syn_flags(EcnPolicy::Ask, 1), FIELD);
        assert_eq!(EcnState::syn_flags(EcnPolicy::Ask, 2), Flags::default());
        assert_eq!(EcnState::syn_flags(EcnPolicy::Accept, 0), Flags::default());
    }

    #[test]
    fn a_mark_is_echoed_until_the_window_was_reduced() {
        let mut receiver = EcnState::asked(EcnPolicy::Accept, &segment(0b011, Ecn::NotEct));
        assert_eq!(receiver.syn_ack_flags(), Flags::ECE);
        assert!(!receiver.received(&data(Ecn::Ect0)));
        assert_eq!(receiver.flags(true), Flags::default());
        assert!(receiver.received(&data(Ecn::Ce)));
        assert!(!receiver.received(&data(Ecn::Ce)), "known already");
        assert_eq!((receiver.flags(true), receiver.flags(false)), (Flags::ECE, Flags::ECE));
        let mut reduced = data(Ecn::Ect0);
        reduced.flags = reduced.flags.with(Flags::CWR);
        receiver.received(&reduced);
        assert_eq!(receiver.flags(true), Flags::default());
        reduced.ecn = Ecn::Ce;
        assert!(receiver.received(&reduced), "marked again");
        assert!(!receiver.received(&segment(0, Ecn::Ce)) && receiver.code_point(false) == Ecn::Ect0);
        assert_eq!(receiver.code_point(true), Ecn::NotEct);
        assert_eq!(receiver.reduced_flag(), Flags::CWR);
    }

    #[test]
    fn marks_are_counted_and_reported_modulo_eight() {
        let mut client = EcnState::answered(EcnPolicy::Ask, &segment(0b010, Ecn::NotEct));
        let mut server = EcnState::asked(EcnPolicy::Accept, &segment(0b111, Ecn::NotEct));
        assert_eq!(server.syn_ack_flags(), counted(0b010));
        let third = Segment { flags: Flags::ACK.with(client.flags(true)), ..segment(0, Ecn::NotEct) };
        assert_eq!(third.flags, Flags::ACK.with(counted(0b010)), "the handshake's code");
        server.completed(&third);
        assert_eq!((server.code_point(false), client.code_point(false)), (Ecn::Ect0, Ecn::Ect0));

        assert!(!server.forbids_super_segments());
        assert!(!server.received(&data(Ecn::Ce)) && server.received(&data(Ecn::Ce)));
        let report = Segment { flags: Flags::ACK.with(server.flags(true)), ..segment(0, Ecn::NotEct) };
        assert_eq!(count_of(field_of(&report)), 7);
        assert!(server.forbids_super_segments(), "CWR is part of the count");
        assert!(client.reports_marks(&report) && !client.reports_marks(&report));
        let mut burst = Segment { payload: vec![0; 3000].into(), gso_size: 1000, ..segment(0, Ecn::Ce) };
        assert!(server.received(&burst));
        assert_eq!(count_of(server.flags(true)), 2, "seven and three marks");
        burst.ecn = Ecn::Ect0;
        assert!(!server.received(&burst));
    }

    /// RFC 9768 section 3.2.2.1, table 4: a marked SYN/ACK is the first that both sides count.
    #[test]
    fn a_marked_syn_ack_counts_on_both_sides() {
        let mut client = EcnState::answered(EcnPolicy::Ask, &segment(0b010, Ecn::Ce));
        let mut server = EcnState::asked(EcnPolicy::Accept, &segment(0b111, Ecn::NotEct));
        let third = Segment { flags: Flags::ACK.with(client.flags(true)), ..segment(0, Ecn::NotEct) };
        assert_eq!(third.flags, Flags::ACK.with(counted(0b110)), "the handshake's code");
        server.completed(&third);
        let next = segment(count_of(client.flags(true)), Ecn::NotEct);
        assert_eq!(count_of(field_of(&next)), 6);
        assert!(!server.reports_marks(&next), "told already");
        assert!(server.reports_marks(&segment(7, Ecn::NotEct)));
        // A marked SYN does not count.
        let mut server = EcnState::asked(EcnPolicy::Accept, &segment(0b111, Ecn::Ce));
        assert_eq!(server.syn_ack_flags(), counted(0b110));
        server.completed(&segment(0b010, Ecn::NotEct));
        assert_eq!(count_of(server.flags(true)), 5);
    }

    /// A box that clears the field, or marks everything, is found in the handshake.
    #[test]
    fn a_path_that_spoils_the_bits_is_not_told_that_we_are_capable() {
        for (field, capable) in [(0b000, false), (0b010, true), (0b110, false), (0b001, true), (0b011, false)]
        {
            let mut server = EcnState::asked(EcnPolicy::Accept, &segment(0b111, Ecn::NotEct));
            server.completed(&segment(field, Ecn::NotEct));
            assert_eq!(server.code_point(false) == Ecn::Ect0, capable, "{field:03b}");
        }
        let mut server = EcnState::asked(EcnPolicy::Accept, &segment(0b111, Ecn::NotEct));
        server.completed(&data(Ecn::NotEct));
        assert_eq!(
            server.code_point(false),
            Ecn::Ect0,
            "data has a count, which says nothing of the SYN/ACK"
        );
    }
}
