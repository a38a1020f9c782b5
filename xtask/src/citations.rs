//! The requirements of RFC 8684, the code that fulfils each, and the test that proves it.
//!
//! `docs/rfc8684.requirements` lists the requirements: an identifier (section and number), the word of RFC
//! 2119, a short paraphrase, and for those that are not fulfilled, or not by code, the reason. Code and tests
//! cite them by a comment:
//!
//! ```text
//! //= RFC 8684 3.7-5
//! //= RFC 8684 3.7-5 (test)
//! ```
//!
//! Each requirement has a citation of both kinds or a reason, each citation names a requirement, and
//! `docs/rfc8684.md` is the table that follows from them. `MPTCP_UPDATE=1 cargo xtask lint` writes it anew.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The comment that cites.
const MARK: &str = "//= RFC 8684 ";
const REQUIREMENTS: &str = "docs/rfc8684.requirements";
const TABLE: &str = "docs/rfc8684.md";
/// Where code and tests are.
const SOURCES: [&str; 9] = [
    "mptcp-common/src",
    "mptcp-ebpf/src",
    "mptcp-user/proto/src",
    "mptcp-user/sim/src",
    "mptcp-user/sim/tests",
    "mptcp-user/datapath/src",
    "mptcp-user/src",
    "tests/src",
    "tests/tests",
];

/// One requirement.
#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    id: String,
    word: String,
    text: String,
    /// Why there is no code for it, or none that does all of it.
    reason: Option<String>,
}

/// Where a requirement is cited: file and function, and whether as a test.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Citation {
    file: String,
    item: String,
    test: bool,
}

/// Checks the citations and the table, or writes the table if the environment asks for it.
pub(crate) fn check() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace has a root")?;
    let list =
        fs::read_to_string(root.join(REQUIREMENTS)).with_context(|| format!("reading {REQUIREMENTS}"))?;
    let requirements = parse(&list)?;
    let mut citations = BTreeMap::new();
    for source in SOURCES {
        collect(root, &root.join(source), &mut citations)?;
    }
    verify(&requirements, &citations)?;
    let table = table(&requirements, &citations)?;
    let path = root.join(TABLE);
    if std::env::var_os("MPTCP_UPDATE").is_some() {
        return fs::write(&path, table).with_context(|| format!("writing {TABLE}"));
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        committed == table,
        "{TABLE} is not what the citations say; `MPTCP_UPDATE=1 cargo xtask lint` writes it"
    );
    Ok(())
}

/// Reads the list: `id | word | text`, or `id | word | text | reason`.
fn parse(list: &str) -> Result<Vec<Requirement>> {
    let mut requirements: Vec<Requirement> = Vec::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let (id, word, text, reason) = match fields[..] {
            [id, word, text] => (id, word, text, None),
            [id, word, text, reason] => (id, word, text, Some(reason.to_owned())),
            _ => bail!("{REQUIREMENTS}: not `id | word | text` or `id | word | text | reason`: {line}"),
        };
        ensure!(requirements.iter().all(|known| known.id != id), "{REQUIREMENTS}: {id} is there twice");
        requirements.push(Requirement { id: id.into(), word: word.into(), text: text.into(), reason });
    }
    Ok(requirements)
}

/// Finds the citations in all Rust files under a directory.
fn collect(root: &Path, directory: &Path, into: &mut BTreeMap<String, Vec<Citation>>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let file = path.strip_prefix(root)?.to_string_lossy().into_owned();
            for (id, item, test) in cited(&text) {
                into.entry(id).or_default().push(Citation { file: file.clone(), item, test });
            }
        }
    }
    Ok(())
}

/// The citations in a file: identifier, item, and whether it is a test that cites.
fn cited(text: &str) -> Vec<(String, String, bool)> {
    let lines: Vec<_> = text.lines().collect();
    let citations = lines.iter().enumerate().filter_map(|(number, line)| {
        let rest = line.trim_start().strip_prefix(MARK)?.trim();
        let (id, test) = match rest.strip_suffix(" (test)") {
            Some(id) => (id, true),
            None => (rest, false),
        };
        Some((id.to_owned(), item_at(&lines, number), test))
    });
    citations.collect()
}

/// The item that a comment is about: the one that begins after it, or else the last one that began before it.
fn item_at(lines: &[&str], number: usize) -> String {
    let comment = |line: &str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
    let next = lines[number..].iter().find(|line| !comment(line)).and_then(|line| item(line));
    let before = || lines[..number].iter().rev().filter(|line| !comment(line)).find_map(|line| item(line));
    next.or_else(before).unwrap_or("file").to_owned()
}

/// The name of the item that a line begins.
fn item(line: &str) -> Option<&str> {
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let kinds = ["fn", "const", "struct", "enum", "trait", "static"];
    let line_of_item = !line.contains("let ") && !line.trim_start().starts_with('*');
    words.by_ref().take(4).find(|word| kinds.contains(word)).filter(|_| line_of_item)?;
    words.find(|word| *word != "fn")
}

/// Every citation names a requirement, and every requirement is cited as it has to be.
fn verify(requirements: &[Requirement], citations: &BTreeMap<String, Vec<Citation>>) -> Result<()> {
    let mut faults = Vec::new();
    for (id, cited) in citations {
        if requirements.iter().all(|requirement| requirement.id != *id) {
            let files: Vec<_> = cited.iter().map(|citation| citation.file.as_str()).collect();
            faults.push(format!("{id}, cited in {}, is not in {REQUIREMENTS}", files.join(", ")));
        }
    }
    for requirement in requirements.iter().filter(|requirement| requirement.reason.is_none()) {
        let cited = citations.get(&requirement.id).map_or(&[][..], Vec::as_slice);
        for (test, what) in [(false, "code"), (true, "test")] {
            if cited.iter().all(|citation| citation.test != test) {
                faults.push(format!("no {what} cites {} ({})", requirement.id, requirement.text));
            }
        }
    }
    ensure!(faults.is_empty(), "RFC 8684:\n{}", faults.join("\n"));
    Ok(())
}

/// The table for people.
fn table(requirements: &[Requirement], citations: &BTreeMap<String, Vec<Citation>>) -> Result<String> {
    let mut out = String::from(
        "<!-- Written by `MPTCP_UPDATE=1 cargo xtask lint` from docs/rfc8684.requirements and the citations in the code. -->\n\n\
         # RFC 8684, requirement by requirement\n\n\
         The requirements are paraphrased, and numbered within their section. Code and tests cite them by comments of the form\n\
         `//= RFC 8684 3.7-5` and `//= RFC 8684 3.7-5 (test)`; `cargo xtask lint` checks that none is without both, or without a\n\
         reason.\n",
    );
    let fulfilled = requirements.iter().filter(|requirement| requirement.reason.is_none()).count();
    writeln!(out, "\n{} requirements, {fulfilled} of them with code and test.", requirements.len())?;
    out.push_str("\n## Deviations, and what is left to others\n\n| | | requirement | reason |\n| --- | --- | --- | --- |\n");
    for requirement in requirements {
        if let Some(reason) = &requirement.reason {
            writeln!(out, "| {} | {} | {} | {reason} |", requirement.id, requirement.word, requirement.text)?;
        }
    }
    let mut section = "";
    for requirement in requirements.iter().filter(|requirement| requirement.reason.is_none()) {
        let own = requirement.id.rsplit_once('-').map_or("", |(section, _)| section);
        if own != section {
            section = own;
            write!(
                out,
                "\n## Section {section}\n\n| | | requirement | code | test |\n| --- | --- | --- | --- | --- |\n"
            )?;
        }
        let mut cited = citations.get(&requirement.id).cloned().unwrap_or_default();
        cited.sort();
        cited.dedup();
        let places = |test: bool| {
            let names = cited.iter().filter(|citation| citation.test == test);
            names.map(place).collect::<Vec<_>>().join("; ")
        };
        let (id, word, text) = (&requirement.id, &requirement.word, &requirement.text);
        writeln!(out, "| {id} | {word} | {text} | {} | {} |", places(false), places(true))?;
    }
    Ok(out)
}

/// A place in short: the file without what all have in common, and the item.
fn place(citation: &Citation) -> String {
    let file = citation.file.trim_start_matches("mptcp-user/").trim_end_matches(".rs");
    format!("`{file}`: `{}`", citation.item)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# a comment\n\n3.1-1 | MUST | do it\n3.1-2 | SHOULD | do that | not ours\n";

    fn citations(text: &str) -> BTreeMap<String, Vec<Citation>> {
        let mut citations: BTreeMap<String, Vec<Citation>> = BTreeMap::new();
        for (id, item, test) in cited(text) {
            citations.entry(id).or_default().push(Citation { file: "a.rs".into(), item, test });
        }
        citations
    }

    #[test]
    fn a_requirement_needs_code_and_test_or_a_reason() {
        let requirements = parse(LIST).unwrap();
        let both = "//= RFC 8684 3.1-1\nfn code() {}\n//= RFC 8684 3.1-1 (test)\n#[test]\nfn proof() {}\n";
        verify(&requirements, &citations(both)).unwrap();
        let table = table(&requirements, &citations(both)).unwrap();
        assert!(table.contains("| 3.1-1 | MUST | do it | `a`: `code` | `a`: `proof` |"), "{table}");
        assert!(table.contains("| 3.1-2 | SHOULD | do that | not ours |"), "{table}");
        for half in both.split_inclusive("{}\n") {
            let error = verify(&requirements, &citations(half)).unwrap_err().to_string();
            assert!(error.contains("cites 3.1-1"), "{error}");
        }
    }

    #[test]
    fn the_committed_table_is_what_the_citations_say() {
        check().unwrap();
    }

    #[test]
    fn a_citation_of_nothing_is_a_fault() {
        let error = verify(&[], &citations("//= RFC 8684 9-9\nfn code() {}\n")).unwrap_err().to_string();
        assert!(error.contains("9-9"), "{error}");
    }

    #[test]
    fn a_citation_belongs_to_what_follows_it_or_to_what_it_is_in() {
        let text = "impl A {\n    fn outer(&self) {\n        //= RFC 8684 1-1\n        self.call();\n    }\n\
                    //= RFC 8684 1-2\n    #[inline]\n    pub(crate) const fn next() {}\n}\n//= RFC 8684 1-3\nconst N: u8 = 1;\n";
        let items: Vec<_> = cited(text).into_iter().map(|(_, item, _)| item).collect();
        assert_eq!(items, ["outer", "next", "N"]);
    }

    #[test]
    fn a_list_with_a_line_that_is_none_is_refused() {
        assert!(parse("3.1-1 | MUST").is_err());
        assert!(parse("3.1-1 | MUST | a\n3.1-1 | MUST | b\n").is_err());
    }
}
