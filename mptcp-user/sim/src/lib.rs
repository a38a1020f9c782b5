//! Simulated networks in virtual time.
//!
//! * [`Link`]: one direction of a link: rate, delay, queue, loss, reordering, duplication, damage;
//! * [`middlebox`]: boxes that change TCP segments, one trick each;
//! * [`Network`]: paths made of both, between the addresses of two hosts;
//! * [`Traffic`]: applications, which also check that the bytes they get are the bytes that were sent;
//! * [`Acknowledgments`]: a sender, and the cost of hostile acknowledgments;
//! * [`Direct`]: two engines without a network, to measure what they cost;
//! * [`Simulation`]: two engines, a network, and what happens to them in virtual time;
//! * [`Scenario`]: a random topology with random traffic from one seed, and the judgment of how it went.
//!
//! Links and middleboxes know nothing of virtual time: `mptcp lab` runs the same code over real frames.
//! Everything random comes from one 64-bit seed.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod acknowledgments;
mod direct;
mod head_of_line;
mod hostile;
pub mod link;
pub mod middlebox;
mod network;
mod pauses;
mod pie;
mod queue;
mod random;
mod scenario;
mod script;
mod segment;
mod simulation;
mod traffic;

pub use acknowledgments::{Acknowledgments, Blocks};
pub use direct::Direct;
pub use head_of_line::HeadOfLine;
pub use hostile::run_hostile_script;
pub use link::{Link, LinkConfig, LinkStats, Loss, Packet};
pub use mptcp_proto::audit::Side;
pub use network::{Network, PathConfig, PathId};
pub use queue::{Discipline, Queue, Queued};
pub use random::Random;
pub use scenario::{Kind, Scenario};
pub use script::{run_multipath_script, run_script};
pub use segment::{check_on_the_wire, frame_len};
pub use simulation::{Action, SERVER_PORT, Simulation, SimulationConfig, local_address};
pub use traffic::{App, Outcome, Traffic, pattern};
