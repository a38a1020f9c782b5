//! Thin faces of system calls: descriptors that close themselves, and errors instead of negative numbers.

pub mod epoll;
pub mod event;
pub mod timer;
