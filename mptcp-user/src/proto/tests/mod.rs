//! Two endpoints, a virtual clock, and a network in memory between them.

mod addresses;
mod handshake;
mod pair;
mod sans_io;
mod transfer;
