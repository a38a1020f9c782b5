//! Whether this host's packet filter drops what no rule of it accepts.
//!
//! Segments of this stack never come to the filter (`docs/security.md`). If it drops by default, its owner
//! relies on it and should know that. Nothing is changed; whatever can't be asked is left out.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The hooks that packets pass which come to this host or leave it (`enum nf_inet_hooks`), and the others.
const HOOKS: [Option<&str>; 5] =
    [Some("prerouting"), Some("input"), None, Some("output"), Some("postrouting")];

/// Warns if the filter drops by default.
pub fn warn() {
    let chains = dropping();
    if !chains.is_empty() {
        tracing::warn!(
            "this host's packet filter drops by default ({}), but does not see the segments of this stack: say who may connect with --allow-peer and --deny-peer",
            chains.join(", ")
        );
    }
}

/// Chains of the calling thread's network namespace that drop by default.
fn dropping() -> Vec<String> {
    let mut chains = nftables().unwrap_or_default();
    for (family, command, names) in [
        (libc::AF_INET, "iptables", "/proc/thread-self/net/ip_tables_names"),
        (libc::AF_INET6, "ip6tables", "/proc/thread-self/net/ip6_tables_names"),
    ] {
        // Asking for another table would make the kernel load it.
        for table in std::fs::read_to_string(names).unwrap_or_default().lines() {
            for hook in tables(family, table).unwrap_or_default() {
                chains.push(format!("{command} {table} {hook}"));
            }
        }
    }
    chains
}

/// Base chains of nftables that drop by default.
fn nftables() -> io::Result<Vec<String>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let patience = libc::timeval { tv_sec: 0, tv_usec: 500_000 };
    // SAFETY: the option is a timeval.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const patience).cast(),
            size_of::<libc::timeval>() as u32,
        )
    };
    socket.send(&question(), 0)?;
    let mut chains = Vec::new();
    // More messages than any host has chains.
    for _ in 0..10_000 {
        let (received, _) = socket.recv_from_full()?;
        if !read_chains(&received, &mut chains) {
            break;
        }
    }
    Ok(chains)
}

const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;

/// A dump of all chains of all families: `struct nlmsghdr`, `struct nfgenmsg`.
fn question() -> [u8; 20] {
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_DUMP: u16 = 0x300;
    let mut message = [0; 20];
    message[0] = 20;
    message[4..6].copy_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN).to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message
}

/// Adds the chains of an answer that drop by default; `false` if it was the last one.
fn read_chains(mut messages: &[u8], chains: &mut Vec<String>) -> bool {
    while let Some((header, _)) = messages.split_first_chunk::<16>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(message) = messages.get(16..len) else { return false };
        match kind {
            NLMSG_DONE | NLMSG_ERROR => return false,
            _ if kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN => chains.extend(chain(message)),
            _ => {}
        }
        messages = messages.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// Name of a chain, if it is one that drops by default what comes to this host or leaves it.
fn chain(message: &[u8]) -> Option<String> {
    const NFTA_CHAIN_TABLE: u16 = 1;
    const NFTA_CHAIN_NAME: u16 = 3;
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_POLICY: u16 = 5;
    const NFTA_HOOK_HOOKNUM: u16 = 1;
    const NF_DROP: u32 = 0;
    let (generic, attributes) = message.split_first_chunk::<4>()?;
    let family = match generic[0] {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        5 => "netdev",
        _ => return None,
    };
    let number = |octets: &[u8]| octets.first_chunk().map(|octets| u32::from_be_bytes(*octets));
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim_end_matches('\0').to_owned();
    if number(attribute(attributes, NFTA_CHAIN_POLICY)?)? != NF_DROP {
        return None;
    }
    let hook = number(attribute(attribute(attributes, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM)?)? as usize;
    if family != "netdev" {
        HOOKS.get(hook).copied().flatten()?;
    }
    let (table, name) = (attribute(attributes, NFTA_CHAIN_TABLE)?, attribute(attributes, NFTA_CHAIN_NAME)?);
    Some(format!("nftables {family} {} {}", text(table), text(name)))
}

/// What the first attribute of a kind holds (`struct nlattr`).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Flags for "nested" and "network order".
    const KIND: u16 = 0x3fff;
    loop {
        let (&[l0, l1, k0, k1], _) = attributes.split_first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..len)?;
        if u16::from_ne_bytes([k0, k1]) & KIND == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

/// `struct ipt_getinfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TableInfo {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

/// Octets of `struct ipt_get_entries` before the rules.
const ENTRIES_HEAD: usize = 40;

/// Hooks of a table of iptables or ip6tables that drop by default.
fn tables(family: libc::c_int, table: &str) -> io::Result<Vec<&'static str>> {
    const GET_INFO: libc::c_int = 64;
    const GET_ENTRIES: libc::c_int = 65;
    // SAFETY: no pointers involved.
    let raw = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let level = if family == libc::AF_INET { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
    let mut info = TableInfo {
        name: [0; 32],
        valid_hooks: 0,
        hook_entry: [0; 5],
        underflow: [0; 5],
        entries: 0,
        size: 0,
    };
    let name = table.as_bytes().get(..31).unwrap_or(table.as_bytes());
    info.name[..name.len()].copy_from_slice(name);
    let mut len = size_of::<TableInfo>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` octets.
    if unsafe { libc::getsockopt(socket.as_raw_fd(), level, GET_INFO, (&raw mut info).cast(), &raw mut len) }
        != 0
    {
        return Err(io::Error::last_os_error());
    }
    // Eight octets each, as the kernel wants them aligned; no host has 64 MiB of rules.
    let size = (info.size as usize).min(64 << 20);
    let mut words = vec![0u64; (ENTRIES_HEAD + size).div_ceil(8)];
    // SAFETY: the vector's memory, written as octets.
    let buffer = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * 8) };
    buffer[..32].copy_from_slice(&info.name);
    buffer[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
    let mut len = (ENTRIES_HEAD + size) as libc::socklen_t;
    // SAFETY: as above.
    if unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, GET_ENTRIES, buffer.as_mut_ptr().cast(), &raw mut len)
    } != 0
    {
        return Err(io::Error::last_os_error());
    }
    let rules = buffer.get(ENTRIES_HEAD..ENTRIES_HEAD + size).unwrap_or_default();
    let dropping = (0..HOOKS.len()).filter(|hook| {
        info.valid_hooks >> hook & 1 == 1
            && policy(rules, info.underflow[*hook] as usize, family == libc::AF_INET) == Some(VERDICT_DROP)
    });
    Ok(dropping.filter_map(|hook| HOOKS[hook]).collect())
}

/// NF_DROP as a standard target has it: negative, so as not to be taken for a place to jump to.
const VERDICT_DROP: i32 = -1;

/// The verdict of the rule that holds a chain's policy: a standard target, whose name is empty.
fn policy(rules: &[u8], at: usize, v4: bool) -> Option<i32> {
    // Place of `target_offset` in `struct ipt_entry` and `struct ip6t_entry`.
    let rule = rules.get(at..)?;
    let place = if v4 { 88 } else { 140 };
    let target = u16::from_ne_bytes(*rule.get(place..)?.first_chunk()?);
    let target = rule.get(usize::from(target)..)?;
    (*target.get(2)? == 0).then_some(())?;
    Some(i32::from_ne_bytes(*target.get(32..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.extend(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut octets = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.extend([0; 10]);
        octets.extend(body);
        octets
    }

    fn new_chain(family: u8, name: &str, hook: Option<u32>, policy: Option<u32>) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(attr(1, b"filter\0"));
        body.extend(attr(2, &[0; 8]));
        body.extend(attr(3, format!("{name}\0").as_bytes()));
        if let Some(hook) = hook {
            let nested = [attr(1, &hook.to_be_bytes()), attr(2, &[0; 4])].concat();
            body.extend(attr(4 | 0x8000, &nested));
        }
        if let Some(policy) = policy {
            body.extend(attr(5, &policy.to_be_bytes()));
        }
        message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN, &body)
    }

    #[test]
    fn chains_that_drop_what_comes_or_leaves_are_named() {
        let messages = [
            new_chain(1, "input", Some(1), Some(0)),
            new_chain(2, "in", Some(1), Some(1)),
            new_chain(1, "forward", Some(2), Some(0)),
            new_chain(10, "OUTPUT", Some(3), Some(0)),
            new_chain(1, "services", None, None),
            new_chain(7, "bridge", Some(1), Some(0)),
            new_chain(5, "wire", Some(0), Some(0)),
        ]
        .concat();
        let mut chains = Vec::new();
        assert!(read_chains(&messages, &mut chains));
        let expected =
            ["nftables inet filter input", "nftables ip6 filter OUTPUT", "nftables netdev filter wire"];
        assert_eq!(chains, expected);
        assert!(!read_chains(&message(NLMSG_DONE, &[0; 4]), &mut chains));
        assert!(!read_chains(&message(NLMSG_ERROR, &[0; 20]), &mut chains));
        // Cut anywhere.
        for len in 0..messages.len() {
            read_chains(&messages[..len], &mut Vec::new());
        }
        for at in 0..messages.len() {
            let mut broken = messages.clone();
            broken[at] = 0xff;
            read_chains(&broken, &mut Vec::new());
        }
    }

    #[test]
    fn the_policy_of_a_table_is_its_last_rules_verdict() {
        for (v4, head, place) in [(true, 112_usize, 88), (false, 168, 140)] {
            let mut rules = vec![0; 64];
            let at = rules.len();
            rules.resize(at + head + 40, 0);
            rules[at + place..at + place + 2].copy_from_slice(&(head as u16).to_ne_bytes());
            rules[at + head..at + head + 2].copy_from_slice(&40_u16.to_ne_bytes());
            rules[at + head + 32..at + head + 36].copy_from_slice(&VERDICT_DROP.to_ne_bytes());
            assert_eq!(policy(&rules, at, v4), Some(VERDICT_DROP));
            assert_eq!(policy(&rules, at + 1000, v4), None);
            rules[at + head + 2] = b'E';
            assert_eq!(policy(&rules, at, v4), None);
        }
    }

    /// Whatever this kernel has, asking is harmless.
    #[test]
    fn a_kernel_without_packet_filter_is_no_error() {
        dropping();
    }
}
