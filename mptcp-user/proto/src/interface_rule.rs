//! What interfaces may be used for, by name: the user's rules for the paths of a connection.

use std::fmt;
use std::str::FromStr;

/// What an interface is good for, from worst to best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum InterfaceUse {
    /// Not at all: no subflow from its addresses, and the peer is not told of them.
    Deny,
    /// It costs: subflows over it exist only while nothing else works.
    Metered,
    /// Subflows over it are opened in advance, and used when no others work (RFC 8684 section 3.3.8, flag B).
    Backup,
    /// Like any other.
    Allow,
    /// Before others: where a connection begins, what is opened first, and what the path managers `backup` and
    /// `single-path` take for the regular path.
    Prefer,
}

impl InterfaceUse {
    const NAMES: [(&'static str, Self); 7] = [
        ("deny", Self::Deny),
        ("metered", Self::Metered),
        ("backup", Self::Backup),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        // What other tools say.
        ("avoid", Self::Backup),
        ("normal", Self::Allow),
    ];
}

impl fmt::Display for InterfaceUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, usage)| usage == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// One rule: interfaces of this name are for this. A `*` at the end of the name stands for anything.
///
/// ```
/// use mptcp_proto::{InterfaceRule, InterfaceUse};
///
/// let rules: Vec<InterfaceRule> = vec!["wlan0=prefer".parse()?, "ww*=metered".parse()?, "*=deny".parse()?];
/// assert_eq!(InterfaceRule::first(&rules, "wwan0"), InterfaceUse::Metered);
/// assert_eq!(InterfaceRule::first(&rules, "eth0"), InterfaceUse::Deny);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceRule {
    /// Name of the interface, or the beginning of names and a `*`.
    pub pattern: String,
    /// What it is for.
    pub usage: InterfaceUse,
}

impl InterfaceRule {
    /// What an interface is for: as the first rule says that its name fits, `Allow` if there is none.
    pub fn first(rules: &[Self], name: &str) -> InterfaceUse {
        rules.iter().find(|rule| rule.fits(name)).map_or(InterfaceUse::Allow, |rule| rule.usage)
    }

    fn fits(&self, name: &str) -> bool {
        match self.pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => self.pattern == name,
        }
    }
}

impl fmt::Display for InterfaceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.usage)
    }
}

impl FromStr for InterfaceRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a rule such as wlan0=prefer");
        let (pattern, usage) = text.split_once('=').ok_or_else(wrong)?;
        let (pattern, usage) = (pattern.trim(), usage.trim());
        if pattern.is_empty() || pattern.trim_end_matches('*').contains('*') {
            return Err(wrong());
        }
        let known = InterfaceUse::NAMES.iter().find(|(name, _)| *name == usage);
        let usage = known.map(|(_, usage)| *usage).ok_or_else(|| {
            format!("an interface is none of '{usage}'; it is deny, metered, backup, allow or prefer")
        })?;
        Ok(Self { pattern: pattern.to_owned(), usage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules: Vec<InterfaceRule> = ["eth1=backup", "eth*=prefer", "*=deny"]
            .map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")))
            .into();
        let usage = |name| InterfaceRule::first(&rules, name);
        assert_eq!(usage("eth1"), InterfaceUse::Backup);
        assert_eq!(usage("eth10"), InterfaceUse::Prefer);
        assert_eq!(usage("wlan0"), InterfaceUse::Deny);
        assert_eq!(InterfaceRule::first(&[], "wlan0"), InterfaceUse::Allow);
        assert_eq!(rules[0].to_string(), "eth1=backup");
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for wrong in ["eth0", "=deny", "eth0=fast", "e*h=deny", "eth0="] {
            assert!(wrong.parse::<InterfaceRule>().is_err(), "{wrong}");
        }
    }
}
