//! Keys, tokens, initial data sequence numbers and HMACs (RFC 8684 sections 3.1, 3.2, 3.4.1; RFC 6824 the same
//! with SHA-1).

use crate::wire::{DataSeq, Version};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// One side's key with what is derived from it.
#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// The key as on the wire.
    pub key: u64,
    /// Token: names the connection in MP_JOIN.
    pub token: u32,
    /// Initial data sequence number: the first octet of data has `idsn + 1`.
    pub idsn: DataSeq,
}

impl std::fmt::Debug for Key {
    // The key itself authenticates new subflows and stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key(token {:08x})", self.token)
    }
}

impl Key {
    /// Derives token and IDSN: the most significant 32 and the least significant 64 bits of the key's hash.
    //= RFC 8684 3.1-11
    //= RFC 8684 3.1-12
    //= RFC 8684 3.1-13
    pub fn new(version: Version, key: u64) -> Self {
        let octets = key.to_be_bytes();
        let (head, tail) = match version {
            Version::V1 => ends(&Sha256::digest(octets)),
            Version::V0 => ends(&Sha1::digest(octets)),
        };
        Self { key, token: head, idsn: DataSeq(tail) }
    }
}

fn ends(hash: &[u8]) -> (u32, u64) {
    let head = hash.first_chunk().map_or(0, |octets| u32::from_be_bytes(*octets));
    let tail = hash.last_chunk().map_or(0, |octets| u64::from_be_bytes(*octets));
    (head, tail)
}

/// HMAC of a message under two concatenated keys, up to 32 octets; version 0 leaves the last 12 zero.
fn hmac(version: Version, first: u64, second: u64, message: &[u8]) -> ([u8; 32], usize) {
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&first.to_be_bytes());
    secret[8..].copy_from_slice(&second.to_be_bytes());
    let mut mac = [0; 32];
    match version {
        Version::V1 => {
            let mut hmac = Hmac::<Sha256>::new_from_slice(&secret).expect("HMAC takes keys of any length");
            hmac.update(message);
            mac.copy_from_slice(&hmac.finalize().into_bytes());
            (mac, 32)
        }
        Version::V0 => {
            let mut hmac = Hmac::<Sha1>::new_from_slice(&secret).expect("HMAC takes keys of any length");
            hmac.update(message);
            mac[..20].copy_from_slice(&hmac.finalize().into_bytes());
            (mac, 20)
        }
    }
}

/// HMAC of MP_JOIN made by the holder of `own` (RFC 8684 section 3.2): key `own`‖`peer` over the nonces in the
/// same order. Leftmost 160 bits; the SYN/ACK carries the first 64 of them.
pub fn join_mac(version: Version, own: u64, peer: u64, own_nonce: u32, peer_nonce: u32) -> [u8; 20] {
    let mut message = [0; 8];
    message[..4].copy_from_slice(&own_nonce.to_be_bytes());
    message[4..].copy_from_slice(&peer_nonce.to_be_bytes());
    let (mac, _) = hmac(version, own, peer, &message);
    let mut left = [0; 20];
    left.copy_from_slice(&mac[..20]);
    left
}

/// The 64 bits of [`join_mac`] that the SYN/ACK carries.
pub fn truncated(mac: &[u8; 20]) -> u64 {
    mac.first_chunk().map_or(0, |octets| u64::from_be_bytes(*octets))
}

/// HMAC of ADD_ADDR made by the holder of `own` (RFC 8684 section 3.4.1): rightmost 64 bits over identifier,
/// address and port (0 if there is none).
pub fn address_mac(own: u64, peer: u64, id: u8, address: IpAddr, port: Option<u16>) -> u64 {
    let mut message = [0; 19];
    message[0] = id;
    let end = match address {
        IpAddr::V4(address) => {
            message[1..5].copy_from_slice(&address.octets());
            5
        }
        IpAddr::V6(address) => {
            message[1..17].copy_from_slice(&address.octets());
            17
        }
    };
    message[end..end + 2].copy_from_slice(&port.unwrap_or(0).to_be_bytes());
    let (mac, len) = hmac(Version::V1, own, peer, &message[..end + 2]);
    ends(&mac[..len]).1
}

/// Equality in time that does not depend on where two secrets differ.
pub fn same_secret(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Vectors computed independently (Python's hashlib and hmac) from the formulas of the RFCs.
    #[test]
    //= RFC 8684 3.1-11 (test)
    //= RFC 8684 3.1-12 (test)
    //= RFC 8684 3.1-13 (test)
    fn token_and_idsn_of_a_known_key() {
        let v1 = Key::new(Version::V1, 0x0102_0304_0506_0708);
        let v0 = Key::new(Version::V0, 0x0102_0304_0506_0708);
        assert_eq!((v1.token, v1.idsn), (VECTORS.0, DataSeq(VECTORS.1)));
        assert_eq!((v0.token, v0.idsn), (VECTORS.2, DataSeq(VECTORS.3)));
    }

    #[test]
    fn join_and_address_macs_of_known_keys() {
        let (a, b) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
        let mac = join_mac(Version::V1, a, b, 0xaabb_ccdd, 0x0011_2233);
        assert_eq!(truncated(&mac), JOIN_V1);
        let mac = join_mac(Version::V0, a, b, 0xaabb_ccdd, 0x0011_2233);
        assert_eq!(truncated(&mac), JOIN_V0);
        assert_eq!(address_mac(a, b, 3, "10.1.2.3".parse().unwrap(), None), ADDRESS_4);
        assert_eq!(address_mac(a, b, 3, "2001:db8::1".parse().unwrap(), Some(443)), ADDRESS_6);
    }

    const VECTORS: (u32, u64, u32, u64) =
        (0x6684_0dda, 0xf5a1_01d3_d29d_6f72, 0xdd57_83bc, 0x3a95_ed6e_4ebb_4ad5);
    const JOIN_V1: u64 = 0x0a2b_3913_8126_2a88;
    const JOIN_V0: u64 = 0xc0d1_c29b_33f1_6e24;
    const ADDRESS_4: u64 = 0x1a2c_419e_0f59_ec7d;
    const ADDRESS_6: u64 = 0x832c_494f_044a_c40d;
}
