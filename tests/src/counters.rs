//! The kernel's protocol counters inside a namespace, named as `nstat` names them ("MPTcpExtMPJoinSynRx").

use crate::netns::Namespace;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A snapshot of counters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counters(BTreeMap<String, i64>);

/// Counters of Multipath TCP that say that something went wrong, and must not move between two ends that
/// speak it properly over paths that change nothing. A name that contains one of these is meant.
pub const TROUBLE: [&str; 13] = [
    "Fallback",
    "BadAck",
    "HMacFailure",
    "DSSNotMatching",
    "DSSCorruption",
    "DSSNoMatchTCP",
    "DataCsumErr",
    "InfiniteMap",
    "NoDSSInWindow",
    "MPFail",
    "MPFastclose",
    "JoinNoTokenFound",
    "JoinRejected",
];

impl Counters {
    /// All counters of the namespace.
    pub fn read(namespace: &Namespace) -> Result<Self> {
        namespace.run(Self::read_here)
    }

    /// All counters of the calling thread's namespace.
    pub fn read_here() -> Result<Self> {
        let mut all = Self::default();
        for file in ["netstat", "snmp"] {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))
                .with_context(|| format!("can't read the counters of {file}"))?;
            all.parse(&text);
        }
        Ok(all)
    }

    /// Lines come in pairs: "Prefix: name name …" and "Prefix: value value …".
    fn parse(&mut self, text: &str) {
        let mut lines = text.lines();
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let (Some((prefix, names)), Some((_, values))) = (names.split_once(':'), values.split_once(':'))
            else {
                continue;
            };
            for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                if let Ok(value) = value.parse() {
                    self.0.insert(format!("{prefix}{name}"), value);
                }
            }
        }
    }

    /// One counter; 0 when this kernel has none of that name.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How much each counter moved since `earlier`, those that did.
    pub fn since(&self, earlier: &Self) -> Self {
        let moved = self.0.iter().map(|(name, value)| (name.clone(), value - earlier.get(name)));
        Self(moved.filter(|&(_, change)| change != 0).collect())
    }

    /// Counters of Multipath TCP.
    pub fn multipath(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0
            .iter()
            .filter(|(name, _)| name.starts_with("MPTcpExt"))
            .map(|(name, &value)| (name.as_str(), value))
    }

    /// Counters of [`TROUBLE`] that are not zero, as "name value".
    pub fn trouble(&self) -> Vec<String> {
        self.multipath()
            .filter(|(name, value)| *value != 0 && TROUBLE.iter().any(|part| name.contains(part)))
            .map(|(name, value)| format!("{name} {value}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_nstat() {
        let mut counters = Counters::default();
        counters
            .parse("TcpExt: A B\nTcpExt: 1 2\nMPTcpExt: MPJoinSynRx MPFallbackTokenInit\nMPTcpExt: 3 4\n");
        assert_eq!(counters.get("TcpExtB"), 2);
        assert_eq!(counters.get("MPTcpExtMPJoinSynRx"), 3);
        assert_eq!(counters.get("MPTcpExtNothing"), 0);
        assert_eq!(counters.trouble(), ["MPTcpExtMPFallbackTokenInit 4"]);
        let later = Counters([("TcpExtB".to_owned(), 5)].into());
        assert_eq!(later.since(&counters), Counters([("TcpExtB".to_owned(), 3)].into()));
    }
}
