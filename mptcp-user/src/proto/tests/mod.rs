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
mod exchanges;
mod fallback;
mod flood;
mod handshake;
mod pair;
mod path_mtu;
mod regular;
mod sans_io;
mod script;
mod security;
mod subflow_start;
mod transfer;
mod version;
