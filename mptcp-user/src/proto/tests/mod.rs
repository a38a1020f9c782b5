//! Two endpoints, a virtual clock, and a network in memory between them.

mod addresses;
mod counters;
mod ecn;
mod flood;
mod handshake;
mod pair;
mod regular;
mod sans_io;
mod transfer;
mod version;
