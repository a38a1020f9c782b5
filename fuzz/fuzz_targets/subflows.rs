//! As `engine`, from a connection of several established subflows on: the Multipath TCP level.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mptcp_sim::run_multipath_script;

fuzz_target!(|script: &[u8]| run_multipath_script(script));
