//! Two endpoints, a virtual clock, and a network in memory between them.

mod addresses;
mod amplification;
mod blackhole;
mod buffers;
mod changes;
mod close;
mod counters;
mod deadlines;
mod decisions;
mod dormant;
mod ecn;
mod fallback;
mod flood;
mod handshake;
mod joins;
mod pair;
mod path_bounds;
mod path_mtu;
mod regular;
mod sans_io;
mod security;
mod subflow_start;
mod transfer;
mod version;
