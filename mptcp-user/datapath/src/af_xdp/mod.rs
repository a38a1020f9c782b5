//! AF_XDP sockets over `libc`: UMEM, rings, sockets. Nothing here knows what a packet means.
//!
//! One [`Umem`] belongs to one interface; the interface's receive queues each have one [`Socket`] and share the
//! UMEM (`XDP_SHARED_UMEM`), each with a fixed share of its frames, so that no frame ever has to move from one
//! queue to another. Kernel documentation: `Documentation/networking/af_xdp.rst`.

mod frames;
mod mmap;
mod ring;
mod socket;
mod stock;
mod syscall;
mod umem;

use super::release::{release, version};
pub use frames::Frames;
pub use ring::{Consumer, Producer, memory_pair};
pub use socket::{Bind, BindError, Budget, CopyMode, Packet, Rings, Socket, Statistics};
pub use umem::{FRAME_SIZE, Umem};

/// A descriptor of the receive and transmit rings: `addr` is an offset into the UMEM.
pub type Descriptor = libc::xdp_desc;

/// Whether the kernel's sockets take packets of several buffers: Linux 6.6. Without the privilege to ask, its version
/// answers.
pub fn multi_buffer() -> bool {
    syscall::knows_multi_buffer()
        .unwrap_or_else(|| version(&release()).is_some_and(|version| version >= (6, 6)))
}
