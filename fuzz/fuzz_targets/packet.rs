//! Whole packets: no panic, and what was understood is built and understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mptcp_proto::wire::packet::{LinkHeader, emit_frame, parse_frame, parse_headers, parse_ip_packet};

fuzz_target!(|octets: &[u8]| {
    let _ = parse_ip_packet(octets);
    let _ = parse_headers(octets, octets.len() + 10_000);
    let Ok((segment, _)) = parse_frame(octets) else { return };
    let mut again = Vec::new();
    if emit_frame(&segment, Some(&LinkHeader::default()), &mut again).is_ok() {
        let (parsed, _) = parse_frame(&again).expect("what was built can be parsed");
        assert_eq!(parsed.payload.to_vec(), segment.payload.to_vec());
        assert_eq!((parsed.src, parsed.dst, parsed.seq), (segment.src, segment.dst, segment.seq));
        assert_eq!((parsed.ack, parsed.flags, parsed.window), (segment.ack, segment.flags, segment.window));
    }
});
