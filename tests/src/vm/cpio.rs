//! Archives that the kernel unpacks as its first file system ("newc",
//! Documentation/driver-api/early-userspace).
//!
//! Archives may follow one another, each padded to four octets: a base is made once, and what one guest needs
//! beside it is appended.

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    octets: Vec<u8>,
    directories: BTreeSet<String>,
    number: u32,
}

impl Archive {
    /// Adds a file at an absolute path, with the folders above it. Every file may be executed.
    pub fn file(&mut self, path: &str, contents: &[u8]) {
        self.above(path);
        self.entry(path, PROGRAM, contents);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.above(path);
        self.entry(path, LINK, target.as_bytes());
    }

    /// Adds a folder, with those above it.
    pub fn directory(&mut self, path: &str) {
        self.above(path);
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, &[]);
        }
    }

    /// The archive, ended and padded.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("/TRAILER!!!", 0, &[]);
        self.octets
    }

    fn above(&mut self, path: &str) {
        let Some(parent) = Path::new(path).parent().and_then(Path::to_str).filter(|parent| *parent != "/")
        else {
            return;
        };
        self.directory(parent);
    }

    /// One header and the contents; both are padded to four octets.
    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let name = path.trim_start_matches('/');
        self.number += 1;
        let fields = [
            self.number,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            contents.len() as u32,
            0,
            0, // device of the file
            0,
            0, // device that it is
            name.len() as u32 + 1,
            0, // no sum
        ];
        self.octets.extend_from_slice(b"070701");
        for field in fields {
            self.octets.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.octets.extend_from_slice(name.as_bytes());
        self.octets.push(0);
        self.pad();
        self.octets.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn folders_come_before_what_is_in_them_and_only_once() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/a", b"12345");
        archive.link("/usr/bin/b", "a");
        let octets = archive.finish();
        assert_eq!(octets.len() % 4, 0);
        let text = String::from_utf8_lossy(&octets);
        let names = ["usr\0", "usr/bin\0", "usr/bin/a\0", "usr/bin/b\0", "TRAILER!!!\0"];
        let places: Vec<usize> = names.iter().filter_map(|name| text.find(name)).collect();
        assert!(places.len() == names.len() && places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("070701").count(), names.len());
    }

    #[test]
    fn another_program_reads_it() {
        let Ok(mut cpio) = Command::new("busybox")
            .args(["cpio", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            eprintln!("SKIPPED: there is no busybox to read the archive with");
            return;
        };
        let mut archive = Archive::default();
        archive.file("/etc/odd", b"123");
        archive.link("/etc/alias", "odd");
        cpio.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "etc\netc/odd\netc/alias\n");
    }
}
