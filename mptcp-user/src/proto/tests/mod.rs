//! Two endpoints, a virtual clock, and a network in memory between them.

mod addresses;
mod amplification;
mod blackhole;
mod buffers;
mod close;
mod counters;
mod decisions;
mod dormant;
mod ecn;
mod fallback;
mod flood;
mod handshake;
mod pair;
mod path_mtu;
mod regular;
mod rfc8684_close;
mod rfc8684_fallback;
mod rfc8684_handshake;
mod sans_io;
mod script;
mod security;
mod subflow_start;
mod transfer;
mod version;
