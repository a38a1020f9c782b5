//! Two engines with one subflow, and a script that decides what becomes of each packet between them: no
//! panic, no unbounded memory, no endless exchange.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mptcp_sim::run_script;

fuzz_target!(|script: &[u8]| run_script(script));
