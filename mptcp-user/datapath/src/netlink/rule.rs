//! Policy rules (`ip rule`): which routing tables are searched for which packets (`net/core/fib_rules.c`).

use super::policy::Flow;
use super::route::{Refusal, contains};
use super::{Netlink, family_of};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use std::io;
use std::net::IpAddr;

/// What a rule does with the packets that it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Searches a table. Routes with a prefix of at most `suppressed` bits do not count.
    Table { table: u32, suppressed: Option<u8> },
    /// Goes on with the rules of this priority.
    Goto(u32),
    /// Refuses them.
    Refuse(Refusal),
    /// Nothing.
    Nothing,
}

/// A rule. Without a condition it is about all packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    pub(super) priority: u32,
    pub(super) action: Action,
    source: (Option<IpAddr>, u8),
    destination: (Option<IpAddr>, u8),
    input: Option<String>,
    output: Option<String>,
    /// Mark and mask.
    mark: (u32, u32),
    /// First and last user.
    users: Option<(u32, u32)>,
    protocol: Option<u8>,
    /// First and last port of the destination.
    ports: Option<(u16, u16)>,
    /// A condition that segments of this stack never fulfil, or that can't be told before there is one.
    other: bool,
    inverted: bool,
}

impl Rule {
    pub(super) fn parse(message: &RuleMessage) -> Self {
        let header = &message.header;
        let mut rule = Rule {
            priority: 0,
            action: Action::Nothing,
            source: (None, header.src_len),
            destination: (None, header.dst_len),
            input: None,
            output: None,
            mark: (0, 0),
            users: None,
            protocol: None,
            ports: None,
            other: header.tos != 0,
            inverted: header.flags.contains(RuleFlags::Invert),
        };
        let (mut table, mut suppressed, mut target) = (u32::from(header.table), None, 0);
        let mut mask = None;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Destination(prefix) => rule.destination.0 = Some(*prefix),
                RuleAttribute::Source(prefix) => rule.source.0 = Some(*prefix),
                RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
                RuleAttribute::Oifname(name) => rule.output = Some(name.clone()),
                RuleAttribute::Goto(priority) => target = *priority,
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::FwMark(mark) => rule.mark.0 = *mark,
                RuleAttribute::FwMask(bits) => mask = Some(*bits),
                RuleAttribute::Table(number) => table = *number,
                // -1 where there is none.
                RuleAttribute::SuppressPrefixLen(bits) => suppressed = u8::try_from(*bits).ok(),
                RuleAttribute::UidRange(range) => rule.users = Some((range.start, range.end)),
                RuleAttribute::IpProtocol(protocol) => rule.protocol = Some(u8::from(*protocol)),
                RuleAttribute::DestinationPortRange(range) => rule.ports = Some((range.start, range.end)),
                RuleAttribute::SourcePortRange(_) | RuleAttribute::L3MDev(true) => rule.other = true,
                RuleAttribute::TunId(id) => rule.other |= *id != 0,
                _ => {}
            }
        }
        // A mark of 0 without a mask says nothing.
        rule.mark.1 = mask.unwrap_or(if rule.mark.0 == 0 { 0 } else { u32::MAX });
        rule.action = match header.action {
            RuleAction::ToTable => Action::Table { table, suppressed },
            RuleAction::Goto => Action::Goto(target),
            RuleAction::Blackhole => Action::Refuse(Refusal::Blackhole),
            RuleAction::Unreachable => Action::Refuse(Refusal::Unreachable),
            RuleAction::Prohibit => Action::Refuse(Refusal::Prohibit),
            _ => Action::Nothing,
        };
        rule
    }

    /// Whether the rule is about what this stack sends in a flow: made by this host, without a mark, bound to
    /// the interface.
    pub(super) fn matches(&self, flow: &Flow<'_>) -> bool {
        let within = |(prefix, length): (Option<IpAddr>, u8), address| {
            length == 0 || contains(prefix, length, address)
        };
        let fulfilled = !self.other
            && within(self.source, flow.source)
            && within(self.destination, flow.destination)
            && self.input.as_deref().is_none_or(|name| name == "lo")
            && self.output.as_deref().is_none_or(|name| name == flow.interface_name)
            && self.mark.0 & self.mark.1 == 0
            && self.users.is_none_or(|(first, last)| (first..=last).contains(&flow.user))
            && self.protocol.is_none_or(|protocol| i32::from(protocol) == libc::IPPROTO_TCP)
            && self
                .ports
                .is_none_or(|(first, last)| flow.port.is_some_and(|port| (first..=last).contains(&port)));
        fulfilled != self.inverted
    }
}

impl Netlink {
    /// All rules of a family, in the order in which the kernel goes through them.
    pub(super) fn rules(&mut self, of: IpAddr) -> io::Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = family_of(of);
        let mut rules = Vec::new();
        self.dump_each(RouteNetlinkMessage::GetRule(message), |answer| {
            if let RouteNetlinkMessage::NewRule(message) = answer {
                rules.push(Rule::parse(&message));
            }
        })?;
        Ok(rules)
    }
}
