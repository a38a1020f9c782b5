//! Test data that both ends can know without sharing it, and its SHA-256.

use anyhow::{Context, Result};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A SHA-256.
pub type Sum = [u8; 32];

/// Octets moved at once.
const CHUNK: usize = 256 << 10;

/// Seeded pseudorandom octets: the same seed gives the same octets on every machine.
#[derive(Debug)]
pub struct Seeded {
    generator: ChaCha8Rng,
    left: u64,
}

impl Seeded {
    /// `size` octets from `seed`.
    pub fn new(seed: u64, size: u64) -> Self {
        Self { generator: ChaCha8Rng::seed_from_u64(seed), left: size }
    }
}

impl Read for Seeded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let octets = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.generator.fill_bytes(&mut buffer[..octets]);
        self.left -= octets as u64;
        Ok(octets)
    }
}

/// A file in memory that nobody else can see; gone with the last descriptor, however the process ends.
pub fn memory_file(name: &str) -> Result<File> {
    let name = std::ffi::CString::new(name).context("a name without NUL")?;
    // SAFETY: the name is NUL-terminated and only read.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("can't make a file in memory");
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// A path under which programs started by this process can open one of its files.
pub fn path_of(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Fills a new file in memory with seeded octets and gives it, rewound, with its SHA-256.
pub fn seeded_file(seed: u64, size: u64) -> Result<(File, Sum)> {
    let mut file = memory_file("data")?;
    let mut data = Seeded::new(seed, size);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let octets = data.read(&mut buffer)?;
        if octets == 0 {
            break;
        }
        hash.update(&buffer[..octets]);
        file.write_all(&buffer[..octets]).context("can't write test data (is there enough memory?)")?;
    }
    file.rewind()?;
    Ok((file, hash.finalize().into()))
}

/// Number of octets and SHA-256 of all that a reader gives.
pub fn sum(mut reader: impl Read) -> io::Result<(u64, Sum)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((total, hash.finalize().into())),
            Ok(octets) => {
                hash.update(&buffer[..octets]);
                total += octets as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// [`sum`] of a file from its beginning.
pub fn sum_of_file(path: &Path) -> Result<(u64, Sum)> {
    let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    Ok(sum(file)?)
}

/// A SHA-256 as people write it.
pub fn hex(sum: &Sum) -> String {
    sum.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Copies until the end of `reader`; gives the number of octets. Plain reads and writes, as most programs do.
pub fn copy(mut reader: impl Read, mut writer: impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(octets) => {
                writer.write_all(&buffer[..octets])?;
                total += octets as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_file_has_the_sum_of_its_seed() {
        let (file, expected) = seeded_file(7, 1_000_001).unwrap();
        assert_eq!(sum(&file).unwrap(), (1_000_001, expected));
        assert_eq!(sum_of_file(&path_of(&file)).unwrap(), (1_000_001, expected));
        assert_eq!(sum(Seeded::new(7, 1_000_001)).unwrap().1, expected);
        assert_ne!(sum(Seeded::new(8, 1_000_001)).unwrap().1, expected);
    }
}
