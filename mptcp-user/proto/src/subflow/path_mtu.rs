//! The largest packets a subflow's path takes (path MTU discovery), as sizes of what follows IP and TCP header: TCP
//! options and payload, which is what an MSS counts.
//!
//! It begins with what our link and the peer's MSS allow. Three things lower it: a router's word (ICMP, RFC 1191 and
//! 8201), believed within limits (RFC 5927); a link that has changed; and a *black hole*, a path on which large packets
//! disappear without a word, as timeouts in a row show. After a black hole packets of a base size are sent that passes
//! nearly everywhere, and larger ones are tried: segments of real data that are larger than the others, whose loss says
//! nothing of congestion (packetization layer path MTU discovery, RFC 4821 sections 7.2 to 7.7; RFC 8899 section 5).
//!
//! When to send a probe and finding out its fate are the [sender's](super::send).

use crate::Instant;
use std::time::Duration;

/// What nearly every path takes (BASE_PLPMTU of RFC 8899): the smallest MTU of IPv6, and for IPv4 1024 octets, which
/// RFC 4821 section 7.2 proposes.
const BASE_V4: u16 = 1024;
const BASE_V6: u16 = 1220;
/// Never below: packets of 552 octets, as Linux has it for IPv4 (hosts must take 576), and the smallest MTU of IPv6.
const FLOOR_V4: u16 = 512;
const FLOOR_V6: u16 = 1220;
/// Timeouts in a row of a full-sized segment after which it is sent in smaller ones, and after which in the smallest.
const TIMEOUTS_TO_BASE: u32 = 2;
const TIMEOUTS_TO_FLOOR: u32 = 4;
/// Probes of one size that must be lost (MAX_PROBES of RFC 8899 is 3): a wrong verdict costs a few octets a packet.
const PROBES: u32 = 2;
/// The search ends when so few octets are undecided.
const PRECISION: u16 = 16;
/// How long the result of a search stands (PMTU_RAISE_TIMER of RFC 8899).
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Words of routers believed in a minute: as many as there may be tunnels behind each other.
const TOO_BIG_PER_MINUTE: u32 = 8;

/// A probe on its way.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Probe {
    size: u16,
    /// Offset behind its last octet.
    end: u64,
}

/// What is known of the packet sizes on one subflow's path.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct PathMtu {
    v6: bool,
    /// What our link takes, and what the peer does.
    link: u16,
    peer: u16,
    /// What the host's route takes, if that is less; 0: it says nothing.
    route: u16,
    /// What is sent.
    size: u16,
    /// Smallest size found not to pass; more than our link and the peer take if none was.
    fails: u16,
    probe: Option<Probe>,
    /// Probes of the size being tried that were lost.
    lost: u32,
    /// The search is over until then.
    rests_until: Option<Instant>,
    /// Minute, and words of routers believed in it.
    told: (u64, u32),
}

impl Default for PathMtu {
    fn default() -> Self {
        Self::new(false, u16::MAX - 1)
    }
}

impl PathMtu {
    /// Before the handshake: `link` is the MSS that fits our link.
    pub(crate) fn new(v6: bool, link: u16) -> Self {
        let link = link.min(u16::MAX - 1);
        Self {
            v6,
            link,
            peer: u16::MAX - 1,
            route: 0,
            size: link,
            fails: link + 1,
            probe: None,
            lost: 0,
            rests_until: None,
            told: (0, 0),
        }
    }

    /// The peer announced its MSS.
    pub(crate) fn agree(&mut self, peer: u16) {
        self.peer = peer.min(u16::MAX - 1);
        self.size = self.limit();
        self.fails = self.size + 1;
    }

    /// TCP options and payload of a full packet.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// What our link, the host's route and the peer take.
    fn limit(&self) -> u16 {
        let limit = self.link.min(self.peer);
        if self.route == 0 { limit } else { limit.min(self.route) }
    }

    fn base(&self) -> u16 {
        if self.v6 { BASE_V6 } else { BASE_V4 }
    }

    fn floor(&self) -> u16 {
        if self.v6 { FLOOR_V6 } else { FLOOR_V4 }
    }

    /// The size to try next, if one is to be tried now: all of what may pass, and if that does not, what lies half way
    /// between what passes and what does not.
    pub(crate) fn wanted(&self, now: Instant) -> Option<u16> {
        if self.size >= self.limit() || self.probe.is_some() {
            return None;
        }
        match self.rests_until {
            Some(until) if now < until => None,
            None if self.fails <= self.limit() => Some(self.size + (self.fails - self.size) / 2),
            _ => Some(self.limit()),
        }
    }

    fn search_anew(&mut self) {
        self.fails = self.limit() + 1;
        self.lost = 0;
        self.rests_until = None;
    }

    /// A probe leaves; `end` is the offset behind its last octet.
    pub(crate) fn probe_sent(&mut self, size: u16, end: u64) {
        if self.rests_until.is_some() {
            self.search_anew();
        }
        self.probe = Some(Probe { size, end });
    }

    /// What was sent once only, as a probe, arrived up to this offset.
    pub(crate) fn probe_arrived(&mut self, now: Instant, end: u64) {
        if let Some(probe) = self.probe.take_if(|probe| probe.end == end) {
            self.size = self.size.max(probe.size).min(self.limit());
            self.lost = 0;
            self.rest(now);
        }
    }

    /// The probe is lost.
    pub(crate) fn probe_lost(&mut self, now: Instant) {
        let Some(probe) = self.probe.take() else { return };
        self.lost += 1;
        if self.lost >= PROBES && probe.size > self.size {
            self.fails = probe.size;
            self.lost = 0;
            self.rest(now);
        }
    }

    /// Ends the search if what is undecided is not worth it.
    fn rest(&mut self, now: Instant) {
        if self.fails <= self.limit() && self.fails - self.size <= PRECISION {
            self.rests_until = Some(now + RAISE_AFTER);
        }
    }

    /// Everything before this offset is acknowledged: a probe that ended before without a verdict has none.
    pub(crate) fn acknowledged(&mut self, una: u64) {
        self.probe.take_if(|probe| probe.end <= una);
    }

    /// The retransmission timer has expired so many times in a row, the segment it is about being of this size.
    pub(crate) fn timed_out(&mut self, times: u32, size: u64) {
        let smaller = match times {
            TIMEOUTS_TO_FLOOR.. => self.floor(),
            TIMEOUTS_TO_BASE.. => self.base(),
            _ => return,
        };
        if self.size > smaller && size > u64::from(smaller) {
            self.size = smaller;
            self.probe = None;
            self.search_anew();
        }
    }

    /// A router says that it takes packets of at most `mtu` octets; the caller has seen that the packet it quotes is in
    /// flight. Headers of IP and TCP take `headers` octets. `true` if packets become smaller with it.
    ///
    /// What a host need not be able to send in one piece is not believed: smaller packets would only make work, which is
    /// what somebody who made up the message wants (RFC 5927 section 7). In IPv6 such messages are to be ignored (RFC 8201
    /// section 4); in IPv4 there may be such links, and the floor is the best that can be done.
    pub(crate) fn too_big(&mut self, now: Instant, mtu: u32, headers: u32) -> bool {
        let told = mtu.saturating_sub(headers).min(u32::from(u16::MAX - 1)) as u16;
        if (self.v6 && told < self.floor()) || told.max(self.floor()) >= self.size {
            return false;
        }
        let minute = now.as_millis() / 60_000;
        if self.told.0 != minute {
            self.told = (minute, 0);
        }
        self.told.1 += 1;
        if self.told.1 > TOO_BIG_PER_MINUTE {
            return false;
        }
        self.size = told.max(self.floor());
        self.fails = self.size + 1;
        (self.probe, self.lost) = (None, 0);
        self.rests_until = Some(now + RAISE_AFTER);
        true
    }

    /// The host's route to the peer takes packets of this size at most (RFC 1191 section 6.1: the host's
    /// word, so it needs no proof). `None`: the route says nothing.
    pub(crate) fn route_changed(&mut self, route: Option<u16>) {
        let route = route.map_or(0, |route| route.clamp(1, u16::MAX - 1));
        if route == std::mem::replace(&mut self.route, route) {
            return;
        }
        self.size = self.size.min(self.limit());
        self.search_anew();
    }

    /// Our link takes packets of another size from now on: larger ones are tried, smaller ones sent at once.
    pub(crate) fn link_changed(&mut self, link: u16) {
        let link = link.min(u16::MAX - 1);
        if link == std::mem::replace(&mut self.link, link) {
            return;
        }
        self.size = self.size.min(self.limit());
        self.search_anew();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    /// Lets probes find out what a path takes; gives the sizes that were tried.
    fn search(mtu: &mut PathMtu, now: Instant, passes: u16) -> Vec<u16> {
        let mut tried = Vec::new();
        while let Some(size) = mtu.wanted(now) {
            tried.push(size);
            mtu.probe_sent(size, tried.len() as u64);
            assert_eq!(mtu.wanted(now), None, "one at a time");
            if size <= passes {
                mtu.probe_arrived(now, tried.len() as u64);
            } else {
                mtu.probe_lost(now);
            }
            assert!(tried.len() < 40, "{tried:?}");
        }
        tried
    }

    fn in_black_hole() -> PathMtu {
        let mut mtu = PathMtu::new(false, 1460);
        mtu.agree(1460);
        mtu.timed_out(1, 1460);
        assert_eq!(mtu.size(), 1460, "one timeout is a loss");
        mtu.timed_out(2, 1460);
        assert_eq!(mtu.size(), BASE_V4);
        mtu
    }

    #[test]
    fn nothing_is_tried_while_everything_passes() {
        let mut mtu = PathMtu::new(true, 1440);
        mtu.agree(1400);
        assert_eq!((mtu.size(), mtu.wanted(at(1))), (1400, None));
    }

    #[test]
    fn a_black_hole_leads_to_the_base_size_and_probes_to_what_passes() {
        for passes in [1024, 1100, 1240, 1357, 1459] {
            let mut mtu = in_black_hole();
            let tried = search(&mut mtu, at(1), passes);
            assert!(mtu.size() <= passes && passes - mtu.size() <= PRECISION, "{passes}: {tried:?}");
            assert_eq!(tried[..2], [1460, 1460]);
            assert!(tried.len() <= 14, "{passes}: {tried:?}");
        }
    }

    #[test]
    fn a_path_that_was_only_dead_for_a_while_costs_one_probe() {
        let mut mtu = in_black_hole();
        assert_eq!(search(&mut mtu, at(1), 1460), [1460]);
        assert_eq!(mtu.size(), 1460);
    }

    #[test]
    fn one_lost_probe_proves_nothing() {
        let mut mtu = in_black_hole();
        mtu.probe_sent(1460, 5);
        mtu.probe_lost(at(1));
        assert_eq!(mtu.wanted(at(1)), Some(1460));
        mtu.probe_sent(1460, 9);
        mtu.acknowledged(9);
        assert_eq!(mtu.wanted(at(1)), Some(1460), "no verdict");
    }

    #[test]
    fn small_segments_that_time_out_are_not_the_size_s_fault() {
        let mut mtu = PathMtu::new(false, 1460);
        for times in 1..10 {
            mtu.timed_out(times, 500);
        }
        assert_eq!(mtu.size(), 1460);
        for times in 1..4 {
            mtu.timed_out(times, 1460);
        }
        assert_eq!(mtu.size(), BASE_V4);
        mtu.timed_out(4, u64::from(BASE_V4));
        assert_eq!(mtu.size(), FLOOR_V4, "a path of small packets only");
        let mut v6 = PathMtu::new(true, 1440);
        v6.timed_out(9, 1440);
        assert_eq!(v6.size(), FLOOR_V6);
    }

    #[test]
    fn after_ten_minutes_larger_packets_are_tried_again() {
        let mut mtu = in_black_hole();
        search(&mut mtu, at(1), 1300);
        assert_eq!(mtu.wanted(at(600)), None);
        search(&mut mtu, at(602), 1460);
        assert_eq!(mtu.size(), 1460);
    }

    #[test]
    fn routers_are_believed_within_limits() {
        let mut mtu = PathMtu::new(false, 1460);
        assert!(mtu.too_big(at(1), 1400, 40));
        assert_eq!((mtu.size(), mtu.wanted(at(600))), (1360, None));
        assert!(!mtu.too_big(at(1), 1400, 40) && !mtu.too_big(at(1), 1500, 40), "no news");
        assert_eq!(mtu.wanted(at(602)), Some(1460), "routes change");
        assert!(mtu.too_big(at(603), 68, 40));
        assert_eq!(mtu.size(), FLOOR_V4);
        let mut v6 = PathMtu::new(true, 1440);
        assert!(!v6.too_big(at(1), 1279, 60), "less than any IPv6 link takes");
        assert!(v6.too_big(at(1), 1280, 60));
    }

    #[test]
    fn a_flood_of_reports_is_not_worked_off() {
        let mut mtu = PathMtu::new(false, 8960);
        let believed = (0..1000).filter(|step| mtu.too_big(at(60), 9000 - step, 40)).count();
        assert_eq!(believed, TOO_BIG_PER_MINUTE as usize);
        assert!(mtu.too_big(at(120), 2000, 40));
    }

    #[test]
    fn a_link_that_grows_is_made_use_of_as_far_as_the_peer_goes() {
        let mut mtu = PathMtu::new(false, 1460);
        mtu.agree(8960);
        mtu.link_changed(17_960);
        assert_eq!((mtu.size(), mtu.wanted(at(1))), (1460, Some(8960)));
        search(&mut mtu, at(1), 4000);
        assert!((3984..=4000).contains(&mtu.size()), "{}", mtu.size());
        mtu.link_changed(1460);
        assert_eq!((mtu.size(), mtu.wanted(at(2))), (1460, None));
    }

    #[test]
    fn a_route_with_a_smaller_mtu_counts_as_long_as_it_is_there() {
        let mut mtu = PathMtu::new(false, 1460);
        mtu.route_changed(Some(1260));
        assert_eq!(mtu.size(), 1260, "before the handshake");
        mtu.agree(1400);
        assert_eq!((mtu.size(), mtu.wanted(at(1))), (1260, None));
        mtu.link_changed(1300);
        assert_eq!(mtu.size(), 1260, "the link has less to say");
        mtu.route_changed(None);
        assert_eq!((mtu.size(), mtu.wanted(at(2))), (1260, Some(1300)), "larger packets are tried first");
    }
}
