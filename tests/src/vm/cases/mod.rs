//! The tests: each boots the guests that it needs and says what it measured.

mod changes;
mod limits;
mod links;
mod middleboxes;
mod modes;
mod transfers;

use super::lab::Bench;
use anyhow::Result;

/// A test.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For `--test`.
    pub name: &'static str,
    /// Its subject, for people.
    pub what: &'static str,
    /// Where it runs.
    pub on: On,
    /// The test itself; gives what it measured.
    pub run: fn(Bench<'_>) -> Result<String>,
}

/// Where a test runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// On every kernel, and with `--selection`.
    Selection,
    /// On every kernel.
    All,
    /// On the kernel that is too old.
    TooOld,
}

const fn case(name: &'static str, on: On, what: &'static str, run: fn(Bench<'_>) -> Result<String>) -> Case {
    Case { name, what, on, run }
}

/// All of them, in the order of the table.
pub const ALL: &[Case] = &[
    case("demo", On::All, "the demo between namespaces of one guest", transfers::demo),
    case("two-nics", On::All, "each pair of stacks over two NICs, both families", transfers::two_nics),
    case("three-nics", On::All, "each pair of stacks over three NICs", transfers::three_nics),
    case("six-nics", On::All, "each pair of stacks over six NICs, IPv6", transfers::six_nics),
    case("rate", On::All, "three links of 20 Mb/s and 5 ms", transfers::rate),
    case("host", On::All, "a guest and a namespace of the host, by taps", links::host),
    case("modes", On::Selection, "attach and detach, native and generic", modes::modes),
    case("zero-copy", On::All, "AF_XDP without copying, by multi-queue taps", modes::zero_copy),
    case("offloads", On::All, "checksum and segmentation offloads on and off", links::offloads),
    case("vlan", On::All, "addresses in a VLAN", links::vlan),
    case("mtu-9000", On::All, "packets of 9000 octets", links::jumbo),
    case("ipv6-only", On::All, "no IPv4 address anywhere", links::ipv6_only),
    case("ipv4-only", On::All, "a kernel without IPv6", links::ipv4_only),
    case("loss", On::All, "a router that delays 10 ms and drops 0.5 %, each way", middleboxes::loss),
    case("strip", On::All, "a router that strips options, on one path and on all", middleboxes::strip),
    case("nat", On::All, "a router that translates addresses", middleboxes::nat),
    case("link-down", On::All, "a link down and up during a transfer", changes::link_down),
    case("address", On::All, "an address removed and added during a transfer", changes::address),
    case("hotplug", On::Selection, "a card taken out and put back during a transfer", changes::hotplug),
    case("kill", On::Selection, "kill -9 during a transfer", limits::kill),
    case("memory", On::All, "guests of 256 MiB", limits::memory),
    case("too-old", On::TooOld, "a kernel that lacks what it takes", limits::too_old),
];
