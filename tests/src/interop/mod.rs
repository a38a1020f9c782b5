//! This stack against the kernel's Multipath TCP, case by case.
//!
//! * [`case`]: cases; * [`world`]: the stage of a scenario; [`end`]: the applications at both ends;
//! * [`cases`]: all scenarios with their variants, by theme;
//! * [`runner`]: runs the cases of a theme, several at once; [`table`]: the table in `docs/interop.md`.

pub mod case;
pub mod cases;
pub mod end;
pub mod runner;
pub mod table;
pub mod world;
