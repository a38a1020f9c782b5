//! What an observer sees: every packet that the shard receives and sends, as it is handed over.
//!
//! `tcpdump` does not see packets that XDP redirects, so the process writes them itself. Partial checksums are
//! completed, since no reader of captures could tell them from wrong ones.

use super::{Direction, PcapWriter};
use mptcp_proto::wire::packet::{ChecksumMode, LinkHeader, MAX_HEADERS, emit_headers, parse_headers};
use mptcp_proto::wire::{Checksum, Segment};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A capture that is being written.
pub(crate) struct Capture {
    writer: PcapWriter,
    path: PathBuf,
    failed: bool,
    scratch: Vec<u8>,
}

impl Capture {
    /// Creates the file.
    pub(crate) fn create(path: &Path, interfaces: &[(u32, String)]) -> io::Result<Self> {
        let writer = PcapWriter::create(path, interfaces)?;
        Ok(Self { writer, path: path.into(), failed: false, scratch: Vec::new() })
    }

    /// A packet came in.
    pub(crate) fn received(&mut self, interface: u32, buffers: &[&[u8]]) {
        let head = buffers.first().copied().unwrap_or_default();
        let len = buffers.iter().map(|buffer| buffer.len()).sum();
        if let Ok(headers) = parse_headers(head, len)
            && headers.has_partial_checksum()
        {
            let mut frame = std::mem::take(&mut self.scratch);
            frame.clear();
            buffers.iter().for_each(|buffer| frame.extend_from_slice(buffer));
            // The field holds the pseudo-header's sum: what is missing is the sum of header and payload.
            let end = headers.payload_offset + headers.payload_len;
            let mut sum = Checksum::new();
            if let Some(segment) = frame.get(headers.tcp_offset..end) {
                sum.add(segment);
            }
            let field = headers.tcp_offset + 16;
            if let Some(field) = frame.get_mut(field..field + 2) {
                field.copy_from_slice(&sum.finish().to_be_bytes());
            }
            self.write(interface, Direction::Inbound, &[&frame]);
            self.scratch = frame;
        } else {
            self.write(interface, Direction::Inbound, buffers);
        }
    }

    /// A segment goes out.
    pub(crate) fn sent(&mut self, interface: u32, segment: &Segment, link: &LinkHeader) {
        let mut headers = [0; MAX_HEADERS];
        let Ok(layout) = emit_headers(segment, Some(link), ChecksumMode::Full, &mut headers) else { return };
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + segment.payload.chunks().len());
        parts.push(&headers[..layout.len]);
        parts.extend(segment.payload.chunks().iter().map(|chunk| &chunk[..]));
        self.write(interface, Direction::Outbound, &parts);
    }

    fn write(&mut self, interface: u32, direction: Direction, parts: &[&[u8]]) {
        if self.failed {
            return;
        }
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let written = self.writer.write(interface, direction, nanos, parts);
        self.judge(written);
    }

    /// Traffic goes on without the capture.
    fn judge(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::error!(
                "can't write the packet capture {}, which ends here: {error}",
                self.path.display()
            );
            self.failed = true;
        }
    }
}

impl Drop for Capture {
    /// The last packets are in a buffer: a file that can't take them is as bad as one that is full earlier.
    fn drop(&mut self) {
        if !self.failed {
            let written = self.writer.flush();
            self.judge(written);
        }
    }
}
