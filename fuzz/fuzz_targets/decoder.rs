//! The decoder that the XDP program and user space share: no panic, and what it says lies inside the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mptcp_common::headers::{Network, Packet, decode};
use mptcp_common::options::{Dss, JoinSyn, OptionIter, Scan, scan, timestamps};

fuzz_target!(|octets: &[u8]| {
    let _ = Network::decode_ip(&octets);
    let Ok(Packet::Tcp(headers)) = decode(&octets) else { return };
    assert!(headers.payload + headers.payload_len <= octets.len());
    assert!(headers.options() <= headers.payload);
    let seen = scan(&octets, headers.options(), headers.payload);
    let mut malformed = false;
    let mut kinds = [0u8; 256];
    for option in OptionIter::new(&octets[headers.options()..headers.payload]) {
        match option {
            Ok(option) => kinds[usize::from(option.kind)] += 1,
            Err(_) => malformed = true,
        }
    }
    // The scan of the XDP program and the iterator of user space see the same.
    assert_eq!(seen.has(Scan::MALFORMED), malformed);
    assert_eq!(seen.has(Scan::SACK), kinds[5] > 0);
    if seen.has(Scan::TIMESTAMPS) {
        assert!(timestamps(&octets, usize::from(seen.timestamps)).is_some());
    }
    if seen.has(Scan::DSS) {
        let at = usize::from(seen.dss);
        assert!(at + usize::from(seen.dss_len) <= headers.payload);
        let _ = Dss::read(&octets, at, seen.dss_len);
    }
    if seen.has(Scan::JOIN) {
        assert!(JoinSyn::read(&octets, usize::from(seen.join)).is_some());
    }
});
