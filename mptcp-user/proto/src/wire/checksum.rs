//! The Internet checksum (RFC 1071), over slices in any cut, and the DSS checksum made with it
//! (RFC 8684 section 3.3.1).

use super::{DataSeq, Payload};
use std::net::IpAddr;

/// A one's complement sum in progress. Octets may come in slices of any length, odd ones too.
#[derive(Clone, Copy, Default, Debug)]
pub struct Checksum {
    /// Sum of 16-bit words in the machine's byte order. Far from overflow: 2^40 octets fit.
    sum: u64,
    /// Whether an odd number of octets was added so far.
    odd: bool,
}

/// Sums 32-bit words as the machine reads them; the carries gather in the upper half of the accumulators.
/// Written so that the compiler vectorises it: nothing overflows before 2^32 blocks, and a check of each
/// addition would make it twice as slow.
#[inline(always)]
fn sum_words(octets: &[u8]) -> u64 {
    let (blocks, tail) = octets.as_chunks::<64>();
    let mut lanes = [0u64; 16];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    let (words, rest) = tail.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_ne_bytes(last));
    // Each lane holds less than 2^32 x the number of blocks; folding keeps the total small for later additions.
    for lane in lanes {
        sum += (lane & 0xffff_ffff) + (lane >> 32);
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_words_avx2(octets: &[u8]) -> u64 {
    sum_words(octets)
}

/// Sum of a slice that begins at an even position, reduced to 32 bits and a bit.
#[inline]
fn sum_slice(octets: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if octets.len() >= 256 && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was just checked.
        return unsafe { sum_words_avx2(octets) };
    }
    sum_words(octets)
}

/// Folds to 16 bits, in the machine's byte order.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

impl Checksum {
    /// Nothing added yet.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds octets after those added before.
    #[inline]
    pub fn add(&mut self, octets: &[u8]) {
        let sum = sum_slice(octets);
        self.append(sum, octets.len());
    }
    #[inline]
    fn append(&mut self, sum: u64, len: usize) {
        // After an odd number of octets, the slice's octets have the other place in their words: RFC 1071 section
        // 2 (B), a sum of swapped words is the swapped sum.
        self.sum += u64::from(if self.odd { fold(sum).swap_bytes() } else { fold(sum) });
        self.odd ^= len % 2 == 1;
    }
    /// Adds a 16-bit word. Only after an even number of octets.
    #[inline]
    pub fn add_u16(&mut self, word: u16) {
        debug_assert!(!self.odd);
        self.sum += u64::from(word.to_be());
    }
    /// Adds a 32-bit word. Only after an even number of octets.
    #[inline]
    pub fn add_u32(&mut self, word: u32) {
        debug_assert!(!self.odd);
        self.sum += u64::from(word.to_be());
    }
    /// Adds what another sum was made of, after the octets added before.
    #[inline]
    pub fn add_checksum(&mut self, other: Checksum) {
        self.append(other.sum, usize::from(other.odd));
    }
    /// Adds all octets of a payload.
    #[inline]
    pub fn add_payload(&mut self, payload: &Payload) {
        for chunk in payload.chunks() {
            self.add(chunk);
        }
    }
    /// Copies octets and adds them, reading the source from memory once.
    ///
    /// # Panics
    /// When the two slices are not equally long.
    #[inline]
    pub fn add_copying(&mut self, from: &[u8], to: &mut [u8]) {
        assert_eq!(from.len(), to.len());
        // A piece that was just copied is still in the first-level cache when it is summed.
        const PIECE: usize = 4096;
        for (from, to) in from.chunks(PIECE).zip(to.chunks_mut(PIECE)) {
            to.copy_from_slice(from);
            self.add(from);
        }
    }
    /// The sum, folded to 16 bits, not complemented: what stands in the checksum field of a segment whose checksum
    /// the network interface is to complete.
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.sum))
    }
    /// The checksum: complement of the folded sum.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.folded()
    }
    /// Whether octets that include their own checksum sum up as they must.
    #[inline]
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The pseudo-header of TCP over IPv4 (RFC 9293 section 3.1) or IPv6 (RFC 8200 section 8.1). `len`: octets of TCP
/// header and payload. Both addresses are of one family.
#[inline]
pub fn tcp_pseudo_header(src: IpAddr, dst: IpAddr, len: u32) -> Checksum {
    let mut sum = Checksum::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(address) => sum.add_u32(address.to_bits()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    sum.add_u32(len);
    sum.add_u16(6);
    sum
}

/// The pseudo-header of a DSS checksum (RFC 8684 section 3.3.1): the data sequence number with all its 64 bits
/// whatever the option carries, the relative subflow sequence number, the length (DATA_FIN included), zero.
#[inline]
//= RFC 8684 3.3.1-7
pub fn dss_pseudo_header(dsn: DataSeq, subflow_seq: u32, len: u16) -> Checksum {
    let mut sum = Checksum::new();
    sum.add_u32((dsn.0 >> 32) as u32);
    sum.add_u32(dsn.0 as u32);
    sum.add_u32(subflow_seq);
    sum.add_u16(len);
    sum
}

/// The DSS checksum of a mapping (RFC 8684 section 3.3.1), to be put into the option. `data` is all the mapping's
/// data; the octet that a DATA_FIN counts for is in `len` but not in it.
#[inline]
pub fn dss_checksum(dsn: DataSeq, subflow_seq: u32, len: u16, data: &Payload) -> u16 {
    let mut sum = dss_pseudo_header(dsn, subflow_seq, len);
    sum.add_payload(data);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    /// RFC 1071 section 1, word by word.
    fn reference(octets: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let mut sum = Checksum::new();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn a_syn_summed_by_hand() {
        // A SYN from 10.0.0.1:40000 to 10.0.0.2:80.
        let header = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
        let mut sum =
            tcp_pseudo_header(Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into(), 20);
        // 0a00 + 0001 + 0a00 + 0002 + 0014 + 0006 = 141d; 9c40 + 0050 + 0001 + 5002 + ffff = 1 ec92 -> ec93
        assert_eq!(sum.folded(), 0x141d);
        sum.add(&header);
        assert_eq!(sum.folded(), 0x00b1);
    }

    #[test]
    //= RFC 8684 3.3.1-7 (test)
    fn the_dss_pseudo_header_counts_all_64_bits() {
        // 0001 + 0002 + 0003 + 0004 + 0000 + 0010 + 0002 + 0000, and the data 0102 0300.
        let data = Payload::from(vec![1, 2, 3]);
        assert_eq!(dss_checksum(DataSeq(0x0001_0002_0003_0004), 0x10, 2, &data), !0x041e);
        let mut again = dss_pseudo_header(DataSeq(0x0001_0002_0003_0004), 0x10, 2);
        again.add_u16(!0x041e);
        again.add_payload(&data);
        assert!(again.is_valid());
    }

    #[test]
    fn a_large_run_of_ones_does_not_overflow() {
        let octets = vec![0xff; 1 << 20];
        let mut sum = Checksum::new();
        for _ in 0..64 {
            sum.add(&octets);
        }
        assert_eq!(sum.folded(), 0xffff);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_sum_of_the_whole(
            octets in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(0usize..700, 0..12),
        ) {
            let mut sum = Checksum::new();
            let (mut parts, mut copy) = (Checksum::new(), Checksum::new());
            let mut to = vec![0; octets.len()];
            sum.add(&octets);
            let mut at = 0;
            let mut payload = Payload::new();
            for len in cuts.into_iter().chain([octets.len()]) {
                let end = (at + len).min(octets.len());
                let mut part = Checksum::new();
                part.add(&octets[at..end]);
                parts.add_checksum(part);
                copy.add_copying(&octets[at..end], &mut to[at..end]);
                payload.push(Bytes::copy_from_slice(&octets[at..end]));
                at = end;
            }
            let mut of_payload = Checksum::new();
            of_payload.add_payload(&payload);
            let expected = reference(&octets);
            for sum in [sum, parts, copy, of_payload] {
                // 0 and 0xffff are the same number, and only all zeros sum up to 0.
                prop_assert_eq!(sum.folded(), expected);
            }
            prop_assert_eq!(to, octets);
        }
    }

    /// `cargo test --release -p mptcp-proto checksum::tests::rate -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn rate() {
        use std::hint::black_box;
        use std::time::Instant;
        let mut to = vec![0; 1 << 16];
        for len in [64, 256, 1460, 9000, 65536] {
            let octets: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let rounds = (1 << 31) / len;
            let mut rates = [0.0; 3];
            for (which, rate) in rates.iter_mut().enumerate() {
                let start = Instant::now();
                for _ in 0..rounds {
                    let mut sum = Checksum::new();
                    match which {
                        0 => sum.add(black_box(&octets)),
                        1 => sum.add_copying(black_box(&octets), &mut to[..len]),
                        _ => black_box(&mut to)[..len].copy_from_slice(black_box(&octets)),
                    }
                    black_box((sum.folded(), &mut to));
                }
                *rate = (rounds * len) as f64 / start.elapsed().as_secs_f64() / 1e9;
            }
            println!(
                "{len:6} octets: sum {:.1} GB/s, copy and sum {:.1} GB/s, copy {:.1} GB/s",
                rates[0], rates[1], rates[2]
            );
        }
    }
}
