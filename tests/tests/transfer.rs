//! The demo's transfers at small size: one connection, two links, exact, over both, without fallback.

use mptcp_tests::demo::{self, Case, Source, Stack, Watch};
use mptcp_tests::lab::{Family, Side};
use mptcp_tests::process::mptcp_binary;
use mptcp_tests::{capture, require_root};
use std::path::Path;

/// Enough for the second subflow to be there long before the end, also on a machine that is busy with other
/// tests.
const SIZE: u64 = 1 << 30;

fn transfer(family: Family, sender: Stack, receiver: Stack, cut: Option<Side>) {
    transfer_with(family, sender, receiver, cut, &[]);
}

fn transfer_with(family: Family, sender: Stack, receiver: Stack, cut: Option<Side>, options: &[&str]) {
    let case = Case { family, sender, receiver, cut };
    let source = Source::new(1, SIZE).unwrap();
    let row = demo::run(&case, &source, mptcp_binary(), &Watch { options, ..Watch::default() }).unwrap();
    assert!(row.passed(), "{row:#?}");
}

macro_rules! transfers {
    ($($name:ident: $family:ident, $sender:ident, $receiver:ident, $cut:expr;)*) => {$(
        #[test]
        fn $name() {
            require_root!();
            transfer(Family::$family, Stack::$sender, Stack::$receiver, $cut);
        }
    )*};
}

transfers! {
    ours_sends_to_the_kernel_over_ipv4: Ipv4, Ours, Kernel, None;
    ours_sends_to_the_kernel_over_ipv6: Ipv6, Ours, Kernel, None;
    the_kernel_sends_to_ours_over_ipv4: Ipv4, Kernel, Ours, None;
    the_kernel_sends_to_ours_over_ipv6: Ipv6, Kernel, Ours, None;
    ours_sends_to_ours_over_ipv4: Ipv4, Ours, Ours, None;
    ours_sends_to_ours_over_ipv6: Ipv6, Ours, Ours, None;
    a_link_goes_down_at_the_sender_over_ipv4: Ipv4, Ours, Kernel, Some(Side::Left);
    a_link_goes_down_at_the_sender_over_ipv6: Ipv6, Ours, Kernel, Some(Side::Left);
    a_link_goes_down_at_the_receiver_over_ipv4: Ipv4, Ours, Kernel, Some(Side::Right);
    a_link_goes_down_at_the_receiver_over_ipv6: Ipv6, Ours, Kernel, Some(Side::Right);
    a_link_goes_down_under_a_kernel_that_sends: Ipv4, Kernel, Ours, Some(Side::Left);
    a_link_goes_down_between_two_of_ours: Ipv4, Ours, Ours, Some(Side::Right);
}

#[test]
fn checksums_are_used_when_we_ask_for_them() {
    require_root!();
    for (sender, receiver) in [(Stack::Ours, Stack::Kernel), (Stack::Kernel, Stack::Ours)] {
        transfer_with(Family::Ipv4, sender, receiver, None, &["--checksum"]);
    }
}

#[test]
fn both_modes_of_attachment_work() {
    require_root!();
    for mode in ["native", "generic"] {
        for (sender, receiver) in [(Stack::Ours, Stack::Kernel), (Stack::Kernel, Stack::Ours)] {
            transfer_with(Family::Ipv4, sender, receiver, None, &["--mode", mode]);
        }
    }
}

#[test]
fn wireshark_finds_nothing_to_complain_about() {
    require_root!();
    if !capture::has_tshark() {
        eprintln!("SKIPPED: tshark is not installed");
        return;
    }
    let source = Source::new(2, 128 << 20).unwrap();
    for (sender, receiver) in [(Stack::Ours, Stack::Kernel), (Stack::Kernel, Stack::Ours)] {
        let file = mptcp_tests::data::memory_file("capture").unwrap();
        let path = mptcp_tests::data::path_of(&file);
        let case = Case { family: Family::Ipv4, sender, receiver, cut: None };
        let watch = Watch { capture: Some(&path), ..Watch::default() };
        let row = demo::run(&case, &source, Path::new(mptcp_binary()), &watch).unwrap();
        assert!(row.passed(), "{row:#?}");
        let analysis = capture::analyse(&path).unwrap();
        assert_eq!(analysis.complaints, [""; 0]);
        assert_eq!((analysis.connections, analysis.subflows), (1, 2), "{analysis:?}");
    }
}
