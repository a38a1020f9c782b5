//! The table in `docs/interop.md`, made from the cases, so that it says what they assert.

use super::case::{Case, Families, Theme, Who};
use super::cases;
use std::fmt::Write as _;

const HEAD: &str = "\
# With the kernel's Multipath TCP

Made by `MPTCP_UPDATE=1 cargo test -p mptcp-tests --lib interop` from the cases in `tests/src/interop/cases`, which
`cargo test -p mptcp-tests --test interop_kernel` runs (as root): this stack's command at one end, the kernel's sockets at
the other, in namespaces of their own, with `mptcp lab` between them where links must be slow, silent or meddled with.

A case passes when all octets arrive as they were sent, in both directions (SHA-256); the number of subflows, the fallback,
the version and the checksums of `--json` are as expected; the command's exit code is; the kernel's own counters say what
they should, and none of those that count trouble has moved unless the case makes trouble; the kernel has no connection
left, and no interface an XDP program.

Families: \"4\" IPv4, \"6\" IPv6, \"46\" the first link IPv4 and the second IPv6, \"64\" the other way round. A letter behind it
says who asks for DSS checksums: u(s), k(ernel), b(oth). \"Exact\" is what the octets are.
";

fn role(theme: Theme, client: Who) -> impl Iterator<Item = Case> {
    cases::all().filter(move |case| case.row.theme == theme && case.variant.client == client)
}

fn short(case: &Case) -> String {
    use super::case::Checksum::{Both, Kernel, Nobody, Ours};
    let families = match case.variant.families {
        Families::V4 => "4",
        Families::V6 => "6",
        Families::V4ThenV6 => "46",
        Families::V6ThenV4 => "64",
    };
    let checksum = match case.variant.checksum {
        Nobody => "",
        Ours => "u",
        Kernel => "k",
        Both => "b",
    };
    format!("{families}{checksum}")
}

/// The whole document.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## Cases by subject, role and family\n\n");
    text.push_str(
        "| | we connect: IPv4 | IPv6 | both | the kernel connects: IPv4 | IPv6 | both | in all |\n",
    );
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for theme in Theme::ALL {
        let mut line = format!("| {} |", theme.title());
        for client in [Who::Ours, Who::Kernel] {
            let count = |wanted: fn(Families) -> bool| {
                role(theme, client).filter(|case| wanted(case.variant.families)).count()
            };
            let counts = [
                count(|families| families == Families::V4),
                count(|families| families == Families::V6),
                count(Families::mixed),
            ];
            for count in counts {
                let _ = write!(line, " {count} |");
            }
        }
        let all = cases::all().filter(|case| case.row.theme == theme).count();
        let _ = writeln!(text, "{line} {all} |");
    }
    let _ = writeln!(text, "\n{} cases in all.", cases::all().count());
    for theme in Theme::ALL {
        let _ = writeln!(text, "\n## {}\n", theme.title());
        text.push_str(
            "| what happens | we connect | the kernel connects | result |\n| --- | --- | --- | --- |\n",
        );
        for row in cases::rows().filter(|row| row.theme == theme) {
            let variants = |client| {
                let all = role(theme, client).filter(|case| std::ptr::eq(case.row, row));
                let all: Vec<_> = all.map(|case| short(&case)).collect();
                if all.is_empty() { "–".to_owned() } else { all.join(", ") }
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                row.sentence,
                variants(Who::Ours),
                variants(Who::Kernel),
                row.outcome
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::case::Checksum;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_says_what_the_cases_are() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/interop.md");
        let now = markdown();
        if std::env::var_os("MPTCP_UPDATE").is_some() {
            std::fs::write(path, &now).expect("the document can be written");
            return;
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == now,
            "the cases changed; if that is meant, run this with MPTCP_UPDATE=1:\n{now}"
        );
    }

    #[test]
    fn names_tell_cases_apart_and_can_be_quoted() {
        let names: BTreeSet<String> = cases::all().map(|case| case.to_string()).collect();
        assert_eq!(names.len(), cases::all().count());
        assert!(names.len() >= 130, "{} cases", names.len());
        assert!(names.iter().all(|name| !name.contains(['"', '`', '$', '\\'])));
    }

    #[test]
    fn all_pairs_of_choices_occur() {
        let missing = |what: &str, occurs: &dyn Fn(&Case) -> bool| {
            (!cases::all().any(|case| occurs(&case))).then(|| what.to_owned())
        };
        let mut gaps = Vec::new();
        for client in [Who::Ours, Who::Kernel] {
            for families in Families::ALL {
                gaps.extend(missing(&format!("{client:?} {families}"), &|case| {
                    (case.variant.client, case.variant.families) == (client, families)
                }));
            }
            for checksum in Checksum::ALL {
                gaps.extend(missing(&format!("{client:?} {checksum}"), &|case| {
                    (case.variant.client, case.variant.checksum) == (client, checksum)
                }));
                // Without checksums there is no MP_FAIL to wait for.
                for theme in Theme::ALL.into_iter().filter(|theme| *theme != Theme::Waiting) {
                    gaps.extend(missing(&format!("{client:?} {checksum} {theme:?}"), &|case| {
                        (case.variant.client, case.variant.checksum, case.row.theme)
                            == (client, checksum, theme)
                    }));
                }
            }
            for size in [0, 1, 1 << 10, 100 << 10, 1 << 20, 10 << 20] {
                gaps.extend(missing(&format!("{client:?} {size} octets"), &|case| {
                    (case.variant.client, case.variant.size) == (client, size)
                }));
            }
        }
        for families in Families::ALL {
            for checksum in Checksum::ALL {
                gaps.extend(missing(&format!("{families} {checksum}"), &|case| {
                    (case.variant.families, case.variant.checksum) == (families, checksum)
                }));
            }
        }
        assert!(cases::all().any(|case| case.variant.size == 1 << 30));
        assert_eq!(gaps, [""; 0]);
    }
}
