//! Virtual machines: the whole stack on real network drivers, with several NICs, on the kernels that people
//! have.
//!
//! A [`case`](cases) is a test that boots guests, gives them links, and tells them what to do; [`suite`] runs
//! cases on [`kernel`]s and makes a table of what came of them. A guest is a qemu process ([`guest`]) that
//! starts a Debian kernel with an initial file system of our own ([`image`]: the programs under test with
//! their libraries, as they lie on this machine). Process 1 in there is [`agent`], which does over a serial
//! line what the test on the host asks for, so that a test with three guests reads as one sequence of events.
//!
//! Links, file systems and serial lines are file descriptors that qemu inherits, and qemu dies with the
//! thread that started it: nothing is left behind, even by a test that is killed.

pub mod agent;
pub mod cases;
pub mod cpio;
pub mod guest;
pub mod host;
pub mod image;
pub mod kernel;
pub mod lab;
pub mod link;
pub mod shell;
pub mod station;
pub mod suite;
pub mod transfer;
