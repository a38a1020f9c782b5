//! Options: no panic, and what was understood is built and understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mptcp_proto::wire::{Flags, OPTION_SPACE, TcpOptions};

fuzz_target!(|octets: &[u8]| {
    let [first, second, area @ ..] = octets else { return };
    let flags = Flags(u16::from_be_bytes([first & 1, *second]));
    let mut options = TcpOptions::parse(area, flags);
    options.malformed = 0;
    match options.emit() {
        Ok(again) => {
            assert_eq!(again.len(), options.wire_len());
            assert_eq!(TcpOptions::parse(&again, flags), options);
        }
        // Padding may take more room than the sender had used.
        Err(error) => assert!(error.octets > OPTION_SPACE && error.octets == options.wire_len()),
    }
});
