//! Captures in the pcapng format (draft-ietf-opsawg-pcapng), as tcpdump and Wireshark read it.
//!
//! What XDP redirects, no capture tool on this host sees; so the process writes down its packets itself: both
//! directions, all interfaces, nanoseconds. Super-segments stand in the file as they went through, checksums of
//! what was sent possibly partial, as in any capture on a host that offloads segmentation.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Which way a packet went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Received.
    Inbound,
    /// Sent.
    Outbound,
}

/// What a packet begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// An IPv4 or IPv6 header.
    Ip,
}

/// Writes one pcapng file (or stream). Buffered; [`flush`](Self::flush) or dropping writes all out.
pub struct PcapWriter<W: Write = BufWriter<File>> {
    out: W,
    /// Interface indexes in the order of their blocks.
    interfaces: Vec<u32>,
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const OPTION_END: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;

impl PcapWriter {
    /// Creates a file (an existing one is replaced) for Ethernet interfaces, each with its index and name.
    pub fn create(path: impl AsRef<Path>, interfaces: &[(u32, String)]) -> io::Result<Self> {
        let mut writer = Self::new(BufWriter::with_capacity(1 << 18, File::create(path)?))?;
        for (index, name) in interfaces {
            writer.add_interface(*index, name, LinkType::Ethernet)?;
        }
        Ok(writer)
    }
}

impl<W: Write> PcapWriter<W> {
    /// Begins a capture without interfaces.
    pub fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out, interfaces: Vec::new() };
        let mut body = Vec::with_capacity(64);
        body.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        // Length of the section: not known in advance.
        body.extend(u64::MAX.to_ne_bytes());
        option(&mut body, SHB_USERAPPL, concat!("mptcp ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, OPTION_END, &[]);
        writer.block(SECTION_HEADER, &[&body])?;
        Ok(writer)
    }

    /// Adds an interface.
    pub fn add_interface(&mut self, index: u32, name: &str, link: LinkType) -> io::Result<()> {
        let link_type: u16 = match link {
            LinkType::Ethernet => 1,
            LinkType::Ip => 101,
        };
        let mut body = Vec::with_capacity(64);
        body.extend(link_type.to_ne_bytes());
        body.extend(0u16.to_ne_bytes());
        // No limit on the length of a packet.
        body.extend(0u32.to_ne_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        // Timestamps count 10^-9 seconds.
        option(&mut body, IF_TSRESOL, &[9]);
        option(&mut body, OPTION_END, &[]);
        self.block(INTERFACE_DESCRIPTION, &[&body])?;
        self.interfaces.push(index);
        Ok(())
    }

    /// Writes a packet, given in parts. `nanos`: nanoseconds since 1970. An interface that was not announced gets a
    /// name made from its index.
    pub fn write(
        &mut self,
        interface: u32,
        direction: Direction,
        nanos: u64,
        parts: &[&[u8]],
    ) -> io::Result<()> {
        let place = match self.interfaces.iter().position(|known| *known == interface) {
            Some(place) => place,
            None => {
                self.add_interface(interface, &format!("if{interface}"), LinkType::Ethernet)?;
                self.interfaces.len() - 1
            }
        };
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut head = [0; 20];
        for (field, value) in head.chunks_exact_mut(4).zip([
            place as u32,
            (nanos >> 32) as u32,
            nanos as u32,
            len as u32,
            len as u32,
        ]) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
        let padding = &[0; 3][..len.wrapping_neg() % 4];
        let flags: u32 = match direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        let mut tail = [0; 12];
        tail[..2].copy_from_slice(&EPB_FLAGS.to_ne_bytes());
        tail[2..4].copy_from_slice(&4u16.to_ne_bytes());
        tail[4..8].copy_from_slice(&flags.to_ne_bytes());
        let total = 12 + head.len() + len + padding.len() + tail.len();
        self.out.write_all(&ENHANCED_PACKET.to_ne_bytes())?;
        self.out.write_all(&(total as u32).to_ne_bytes())?;
        self.out.write_all(&head)?;
        for part in parts {
            self.out.write_all(part)?;
        }
        self.out.write_all(padding)?;
        self.out.write_all(&tail)?;
        self.out.write_all(&(total as u32).to_ne_bytes())
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes a block around its body, which is a whole number of 32-bit words.
    fn block(&mut self, kind: u32, body: &[&[u8]]) -> io::Result<()> {
        let total = 12 + body.iter().map(|part| part.len()).sum::<usize>() as u32;
        self.out.write_all(&kind.to_ne_bytes())?;
        self.out.write_all(&total.to_ne_bytes())?;
        for part in body {
            self.out.write_all(part)?;
        }
        self.out.write_all(&total.to_ne_bytes())
    }
}

/// Appends an option, padded to 32-bit words. A name longer than an option can be is cut.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_proto::wire::{Segment, packet};

    /// Reads blocks back: kind and body of each, checking that both lengths agree.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |octets: &[u8]| u32::from_ne_bytes(octets[..4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let len = word(&file[4..]) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(word(&file[len - 4..]) as usize, len);
            blocks.push((word(file), file[8..len - 4].to_vec()));
            file = &file[len..];
        }
        blocks
    }

    #[test]
    fn packets_follow_the_description_of_their_interface() {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        writer.add_interface(7, "eth0", LinkType::Ethernet).unwrap();
        writer.write(7, Direction::Outbound, 0x1_0000_0002, &[b"abc", b"", b"de"]).unwrap();
        writer.write(9, Direction::Inbound, 5, &[b"wxyz"]).unwrap();
        let blocks = blocks(&writer.out);
        let kinds: Vec<_> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(
            kinds,
            [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET, INTERFACE_DESCRIPTION, ENHANCED_PACKET]
        );
        assert!(blocks[1].1.windows(4).any(|name| name == b"eth0"));
        let packet = &blocks[2].1;
        let words: Vec<u32> =
            packet.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words[..5], [0, 1, 2, 5, 5]);
        assert_eq!(&packet[20..28], b"abcde\0\0\0");
        assert_eq!(words[8], 2, "outbound");
        assert!(blocks[3].1.windows(3).any(|name| name == b"if9"));
    }

    #[test]
    fn tshark_reads_the_file() {
        let path = std::env::temp_dir().join(format!("mptcp-pcap-test-{}.pcapng", std::process::id()));
        let mut segment =
            Segment::new("[2001:db8::1]:40000".parse().unwrap(), "[2001:db8::2]:80".parse().unwrap());
        segment.payload = b"GET / HTTP/1.0\r\n\r\n".to_vec().into();
        let mut frame = Vec::new();
        packet::emit_frame(&segment, Some(&packet::LinkHeader::default()), &mut frame).unwrap();
        let mut writer = PcapWriter::create(&path, &[(3, "wlan0".to_owned())]).unwrap();
        writer
            .write(3, Direction::Outbound, 1_700_000_000_123_456_789, &[&frame[..54], &frame[54..]])
            .unwrap();
        drop(writer);
        let tshark = std::process::Command::new("tshark")
            .arg("-r")
            .arg(&path)
            .args(["-o", "tcp.check_checksum:TRUE", "-T", "fields"])
            .args(["-e", "frame.interface_name", "-e", "frame.time_epoch", "-e", "tcp.checksum.status"])
            .args(["-e", "ipv6.src", "-e", "tcp.len", "-e", "frame.packet_flags_direction"])
            .output();
        std::fs::remove_file(&path).unwrap();
        let Ok(output) = tshark else {
            eprintln!("tshark is not installed: only the writer itself was tested");
            return;
        };
        let line = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            line.trim_end(),
            "wlan0\t1700000000.123456789\t1\t2001:db8::1\t18\t0x00000002",
            "{output:?}"
        );
    }
}
