//! What the XDP program and user space must agree on.
#![no_std]
