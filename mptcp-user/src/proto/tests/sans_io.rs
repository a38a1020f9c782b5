//! The engine stays free of input, output, clocks and global randomness: its sources do not name them.

use std::path::{Path, PathBuf};

/// What only a driver may use.
const FORBIDDEN: &[&str] = &[
    "std::time::Instant",
    "SystemTime",
    "std::thread",
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "TcpStream",
    "UdpSocket",
    "tokio",
    "aya",
    "libc",
    "OsRng",
    "rand::rng",
    "from_os_rng",
    "crate::datapath",
    "crate::stack",
    "crate::observe",
    "crate::sim",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // Tests may read files; what they test may not.
            if path.file_name().is_some_and(|name| name != "tests") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_engine_names_nothing_of_the_operating_system() {
    let mut found = Vec::new();
    for layer in ["proto", "wire"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(layer), &mut found);
    }
    assert!(found.len() > 25, "only {} source files found", found.len());
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            for name in FORBIDDEN {
                let named = line.match_indices(name).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + name.len()..].chars().next();
                    let in_word =
                        |next: Option<char>| next.is_some_and(|next| next.is_alphanumeric() || next == '_');
                    !in_word(before) && !in_word(after)
                });
                assert!(!named, "{}:{}: the engine must not use {name}: {line}", path.display(), number + 1);
            }
        }
    }
}
