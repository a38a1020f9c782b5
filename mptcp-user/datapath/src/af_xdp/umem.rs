//! UMEM: the memory that packets are received into and sent from, cut into frames.

use super::mmap::Mapping;
use std::io;

/// Octets of a frame. A page is the most that the kernel takes without huge pages.
pub const FRAME_SIZE: u32 = 4096;

/// A region of frames.
#[derive(Debug)]
pub struct Umem {
    memory: Mapping,
    frames: u32,
}

impl Umem {
    /// A region of at least `frames` frames (rounded up to whole huge pages).
    pub fn new(frames: u32) -> io::Result<Self> {
        let frames = frames.next_multiple_of((2 << 20) / FRAME_SIZE);
        Ok(Self { memory: Mapping::anonymous(frames as usize * FRAME_SIZE as usize)?, frames })
    }

    /// Number of frames.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Octets of the region.
    pub(super) fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// What `XDP_UMEM_REG` wants to know.
    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.start().as_ptr() as u64,
            len: self.memory.len() as u64,
            chunk_size: FRAME_SIZE,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// The octets a descriptor names; `None` if they leave their frame or the region.
    ///
    /// # Safety
    /// The frame must belong to this process (received and not yet handed back) for as long as the slice lives.
    pub(super) unsafe fn slice(&self, addr: u64, len: u32) -> Option<&[u8]> {
        let start = self.place(addr, len)?;
        // SAFETY: inside the region, initialised (anonymous memory is zeroed); the caller vouches for the owner.
        Some(unsafe { std::slice::from_raw_parts(self.memory.start().as_ptr().add(start), len as usize) })
    }

    /// Copies octets into a frame: `false` if they do not fit.
    ///
    /// # Safety
    /// The frame must belong to this process, and nothing may borrow from it.
    pub(super) unsafe fn write(&self, addr: u64, octets: &[u8]) -> bool {
        let Some(start) = u32::try_from(octets.len()).ok().and_then(|len| self.place(addr, len)) else {
            return false;
        };
        // SAFETY: inside the region; the caller vouches that nobody else reads or writes the frame now.
        unsafe {
            std::ptr::copy_nonoverlapping(
                octets.as_ptr(),
                self.memory.start().as_ptr().add(start),
                octets.len(),
            );
        }
        true
    }

    fn place(&self, addr: u64, len: u32) -> Option<usize> {
        let frame_left = u64::from(FRAME_SIZE) - addr % u64::from(FRAME_SIZE);
        let start = usize::try_from(addr).ok()?;
        (start < self.memory.len() && u64::from(len) <= frame_left).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_leave_their_frame_are_refused() {
        let umem = Umem::new(1).expect("memory");
        assert_eq!(umem.frames(), 512);
        let end = u64::from(umem.frames() * FRAME_SIZE);
        // SAFETY: no kernel, no other thread: all frames are ours.
        unsafe {
            assert!(umem.slice(0, FRAME_SIZE).is_some());
            assert!(umem.slice(1, FRAME_SIZE).is_none());
            assert!(umem.slice(end - 1, 1).is_some());
            assert!(umem.slice(end - 1, 2).is_none());
            assert!(umem.slice(end, 0).is_none());
            assert!(umem.slice(u64::MAX, 1).is_none());
            assert!(umem.write(4096 + 256, b"hello"));
            assert_eq!(umem.slice(4096 + 256, 5), Some(&b"hello"[..]));
            assert!(!umem.write(end - 1, b"xy"));
        }
    }
}
