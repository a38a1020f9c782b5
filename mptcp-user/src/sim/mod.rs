//! Simulated networks in virtual time.
//!
//! * [`Link`]: one direction of a link: rate, delay, queue, loss, reordering, duplication, damage;
//! * [`middlebox`]: what networks do to TCP segments, one trick per box.
//!
//! Links and middleboxes know nothing of virtual time: `mptcp lab` runs the same code over real frames.
//! Everything random comes from one 64-bit seed.

pub mod link;
pub mod middlebox;
mod queue;
mod random;
mod segment;

pub use link::{Link, LinkConfig, LinkStats, Loss, Packet};
pub use queue::{Discipline, Queue, Queued};
pub use random::Random;
pub use segment::{check_on_the_wire, frame_len};
