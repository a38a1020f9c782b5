//! Two endpoints, a virtual clock, and a network in memory between them.

mod pair;
mod transfer;
mod handshake;
