//! The decoder that the XDP program and user space share: no panic, and what it says lies inside the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mptcp_common::fragment::Fragment;
use mptcp_common::headers::{Network, Packet, buried, decode};
use mptcp_common::options::{Dss, JoinSyn, OptionIter, RawOption, scan, timestamps};

fuzz_target!(|octets: &[u8]| {
    let _ = Network::decode_ip(&octets);
    let _ = buried(&octets);
    if let Ok(fragment) = Fragment::decode(&octets) {
        assert!(fragment.next_at < fragment.headers_end && fragment.headers_end <= fragment.data);
        assert!(fragment.data < fragment.end && fragment.end <= octets.len());
    }
    let Ok(Packet::Tcp(headers)) = decode(&octets) else { return };
    assert!(headers.payload + headers.payload_len <= octets.len());
    assert!(headers.options() <= headers.payload);
    let seen = scan(&octets, headers.options(), headers.payload);
    let options: Vec<_> = OptionIter::new(&octets[headers.options()..headers.payload]).collect();
    // The iterator of user space sees well-formed options in the same way as the XDP program's scan.
    if seen.malformed == 0 {
        for option in options {
            let RawOption { kind, data } = option.expect("the scan found nothing malformed");
            assert!(seen.kinds & 1 << (kind & 63) != 0);
            if let (30, Some(first)) = (kind, data.first()) {
                assert!(seen.subtypes & 1 << (first >> 4) != 0);
            }
        }
    }
    if seen.timestamps != 0 {
        assert!(timestamps(&octets, usize::from(seen.timestamps)).is_some());
    }
    if seen.dss != 0 {
        let at = usize::from(seen.dss);
        assert!(at + usize::from(seen.dss_len) <= headers.payload);
        let _ = Dss::read(&octets, at, seen.dss_len);
    }
    if seen.join != 0 {
        assert!(JoinSyn::read(&octets, usize::from(seen.join)).is_some());
    }
});
