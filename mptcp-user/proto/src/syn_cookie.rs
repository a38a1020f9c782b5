//! SYN cookies: the stateless answer to SYNs while a listener has all the half-open connections it may have
//! (RFC 4987 section 3.6).
//!
//! Everything that the third ACK must bring back is in what it acknowledges and echoes. The initial sequence number
//! has, from the top, the time (2 bits), the peer's MSS (3 bits, an index) and a keyed hash of all of it with the
//! four-tuple and the peer's sequence number (27 bits). The lowest bits of our timestamp have the window scale and
//! whether SACK is permitted; without timestamps neither is used. Multipath TCP loses nothing: our key is derived
//! from the cookie, and the third ACK has both keys (RFC 8684 section 3.1).

use super::Instant;
use super::config::ConnectionConfig;
use super::connection::options::stateless_syn_ack_options;
use super::crypto;
use super::secret::{Purpose, Secret, Tuple};
use super::subflow::link_mss;
use crate::wire::{Flags, Segment, SeqNumber, Timestamps};
use std::time::Duration;

/// The time is counted in these; a cookie is good for one to two of them.
const SLOT: Duration = Duration::from_secs(32);
/// MSS values that can be remembered: the largest one that is not larger than the peer's.
const MSS: [u16; 8] = [88, 536, 1220, 1340, 1400, 1440, 1460, 8900];
/// Bits of the timestamp that carry options: the window scale, and SACK permitted above it.
const STAMP_BITS: u32 = 0x1f;
const STAMP_SACK: u32 = 0x10;
/// The window scale field of a peer that has none.
const NO_SCALE: u32 = 0x0f;
const HASH_BITS: u32 = 27;

/// Whether, and since when, a listener of this endpoint answers without state.
#[derive(Debug, Default)]
pub(crate) struct SynCookies {
    issued: Option<Instant>,
}

/// What the answer to a SYN begins with.
pub(crate) struct Cookie {
    pub(crate) sequence: SeqNumber,
    /// Our key for the connection, should it be Multipath TCP.
    pub(crate) key: u64,
    pub(crate) timestamps: Option<Timestamps>,
}

impl Cookie {
    /// The answer to the SYN, over a link with this MTU.
    pub(crate) fn syn_ack(&self, syn: &Segment, config: &ConnectionConfig, mtu: u32) -> Segment {
        let mut segment = Segment::new(syn.dst, syn.src);
        segment.flags = Flags::SYN.with(Flags::ACK);
        segment.seq = self.sequence;
        segment.ack = syn.seq + 1;
        segment.window = config.receive_buffer.min(usize::from(u16::MAX)) as u16;
        segment.options = stateless_syn_ack_options(self, &syn.options, config, link_mss(syn.dst, mtu));
        segment
    }
}

/// What a third ACK brings back.
pub(crate) struct Redeemed {
    /// The SYN, as far as it was remembered.
    pub(crate) syn: Segment,
    pub(crate) sequence: SeqNumber,
    /// Our key for the connection, should it be Multipath TCP.
    pub(crate) key: u64,
}

impl SynCookies {
    /// A cookie for a SYN.
    pub(crate) fn issue(&mut self, now: Instant, secret: &Secret, syn: &Segment) -> Cookie {
        self.issued = Some(now);
        let tuple = (syn.dst, syn.src);
        let announced = syn.options.mss.unwrap_or(536);
        let mss = MSS.iter().rposition(|mss| *mss <= announced).unwrap_or(0);
        let slot = slot_of(now);
        let sequence = sequence(secret, tuple, slot, mss, syn.seq);
        let timestamps = syn.options.timestamps.map(|stamps| {
            let scale = syn.options.window_scale.map_or(NO_SCALE, |scale| u32::from(scale.min(14)));
            let sack = if syn.options.sack_permitted { STAMP_SACK } else { 0 };
            let clock = (now.as_millis() as u32).wrapping_add(secret.stamp_origin(tuple));
            // Never ahead of the clock: what follows must not look older.
            let base = (clock & !STAMP_BITS).wrapping_sub(STAMP_BITS + 1);
            Timestamps { value: base | scale | sack, echo: stamps.value }
        });
        Cookie { sequence, key: key(secret, tuple, sequence, syn.seq), timestamps }
    }

    /// Whether a cookie may still come back.
    pub(crate) fn outstanding(&self, now: Instant) -> bool {
        self.issued.is_some_and(|issued| now - issued < SLOT * 2)
    }

    /// The segment that completes a handshake of which we kept nothing, if it is one.
    pub(crate) fn redeem(&self, now: Instant, secret: &Secret, segment: &Segment) -> Option<Redeemed> {
        let tuple = (segment.dst, segment.src);
        let (given, peer) = (segment.ack + u32::MAX, segment.seq + u32::MAX);
        let slot = (0..2)
            .filter_map(|age| slot_of(now).checked_sub(age))
            .find(|slot| slot & 3 == u64::from(given.0 >> 30))?;
        let mss = (given.0 >> HASH_BITS & 7) as usize;
        let expected = sequence(secret, tuple, slot, mss, peer);
        if !crypto::same_secret(&expected.0.to_be_bytes(), &given.0.to_be_bytes()) {
            return None;
        }
        let mut syn = Segment::new(segment.src, segment.dst);
        syn.flags = Flags::SYN;
        syn.seq = peer;
        syn.options.mss = Some(MSS[mss]);
        if let Some(stamps) = segment.options.timestamps {
            syn.options.timestamps = Some(stamps);
            let scale = stamps.echo & (STAMP_SACK - 1);
            syn.options.window_scale = (scale != NO_SCALE).then_some(scale as u8);
            syn.options.sack_permitted = stamps.echo & STAMP_SACK != 0;
        }
        Some(Redeemed { syn, sequence: given, key: key(secret, tuple, given, peer) })
    }
}

fn slot_of(now: Instant) -> u64 {
    now.as_millis() / SLOT.as_millis() as u64
}

fn sequence(secret: &Secret, tuple: Tuple, slot: u64, mss: usize, peer: SeqNumber) -> SeqNumber {
    let hash = secret.derive(Purpose::SynCookie, tuple, (slot, mss, peer.0)) as u32;
    SeqNumber((slot as u32) << 30 | (mss as u32) << HASH_BITS | hash >> (32 - HASH_BITS))
}

fn key(secret: &Secret, tuple: Tuple, sequence: SeqNumber, peer: SeqNumber) -> u64 {
    secret.derive(Purpose::ConnectionKey, tuple, (sequence.0, peer.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;
    use std::net::SocketAddr;

    fn syn(mss: u16, stamps: bool) -> Segment {
        let mut syn =
            Segment::new(SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 80)));
        syn.flags = Flags::SYN;
        syn.seq = SeqNumber(u32::MAX);
        syn.options.mss = Some(mss);
        syn.options.sack_permitted = true;
        syn.options.window_scale = Some(7);
        syn.options.timestamps = stamps.then_some(Timestamps { value: 5, echo: 0 });
        syn
    }

    fn third_ack(syn: &Segment, cookie: &Cookie) -> Segment {
        let mut ack = Segment::new(syn.src, syn.dst);
        ack.flags = Flags::ACK;
        ack.seq = syn.seq + 1;
        ack.ack = cookie.sequence + 1;
        ack.options.timestamps = cookie.timestamps.map(|stamps| Timestamps { value: 6, echo: stamps.value });
        ack
    }

    #[test]
    fn what_matters_comes_back() {
        let secret = Secret::new(&mut ChaCha12Rng::seed_from_u64(1));
        let now = Instant::from_nanos(123_456_789_000);
        for (announced, remembered) in [(1460, 1460), (1459, 1440), (60, 88), (9000, 8900)] {
            let mut cookies = SynCookies::default();
            let syn = syn(announced, true);
            let cookie = cookies.issue(now, &secret, &syn);
            let stamp = cookie.timestamps.expect("the SYN has timestamps").value;
            let clock = (now.as_millis() as u32).wrapping_add(secret.stamp_origin((syn.dst, syn.src)));
            assert!((1..=64).contains(&clock.wrapping_sub(stamp)), "{clock} {stamp}");
            let redeemed = cookies.redeem(now + SLOT, &secret, &third_ack(&syn, &cookie)).expect("valid");
            let options = &redeemed.syn.options;
            assert_eq!((options.mss, options.window_scale), (Some(remembered), Some(7)));
            assert!(options.sack_permitted);
            assert_eq!(
                (redeemed.syn.seq, redeemed.key, redeemed.sequence),
                (syn.seq, cookie.key, cookie.sequence)
            );
        }
    }

    #[test]
    fn without_timestamps_scale_and_sack_are_done_without() {
        let secret = Secret::new(&mut ChaCha12Rng::seed_from_u64(2));
        let mut cookies = SynCookies::default();
        let syn = syn(1460, false);
        let cookie = cookies.issue(Instant::ZERO, &secret, &syn);
        let redeemed = cookies.redeem(Instant::ZERO, &secret, &third_ack(&syn, &cookie)).expect("valid");
        assert_eq!(redeemed.syn.options.window_scale, None);
        assert!(!redeemed.syn.options.sack_permitted);
    }

    #[test]
    fn old_and_forged_cookies_are_worth_nothing() {
        let secret = Secret::new(&mut ChaCha12Rng::seed_from_u64(3));
        let mut cookies = SynCookies::default();
        assert!(!cookies.outstanding(Instant::ZERO));
        let syn = syn(1460, true);
        let cookie = cookies.issue(Instant::ZERO, &secret, &syn);
        let good = third_ack(&syn, &cookie);
        assert!(cookies.redeem(Instant::ZERO + SLOT * 2, &secret, &good).is_none());
        assert!(cookies.outstanding(Instant::ZERO + SLOT) && !cookies.outstanding(Instant::ZERO + SLOT * 2));
        for bit in 0..32 {
            let mut forged = good.clone();
            forged.ack = SeqNumber((forged.ack + u32::MAX).0 ^ 1 << bit) + 1;
            assert!(cookies.redeem(Instant::ZERO, &secret, &forged).is_none(), "bit {bit}");
            let mut moved = good.clone();
            moved.seq = SeqNumber(moved.seq.0 ^ 1 << bit);
            assert!(cookies.redeem(Instant::ZERO, &secret, &moved).is_none(), "bit {bit}");
        }
        let mut other = good.clone();
        other.src.set_port(2);
        assert!(cookies.redeem(Instant::ZERO, &secret, &other).is_none());
    }
}
