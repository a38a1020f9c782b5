//! This stack against the kernel's Multipath TCP: a table of cases, each a sentence. `tests/src/interop` has
//! them.
//!
//! One case alone: `MPTCP_INTEROP_CASE='part of its name' cargo test -p mptcp-tests --test interop_kernel`.

use mptcp_tests::interop::case::Theme;
use mptcp_tests::interop::runner;
use mptcp_tests::require_root;

#[test]
fn data_and_its_end_over_one_subflow() {
    require_root!();
    runner::run(Theme::Transfers);
}

#[test]
fn subflows_opened_by_the_client() {
    require_root!();
    runner::run(Theme::Joins);
}

#[test]
fn addresses_announced() {
    require_root!();
    runner::run(Theme::Announcements);
}

#[test]
fn addresses_that_come_and_go() {
    require_root!();
    runner::run(Theme::Changes);
}

#[test]
fn backup_subflows_and_priorities() {
    require_root!();
    runner::run(Theme::Priorities);
}

#[test]
fn resets_fast_close_and_links_lost() {
    require_root!();
    runner::run(Theme::Failures);
}

#[test]
fn fallback_to_regular_tcp() {
    require_root!();
    runner::run(Theme::Fallback);
}

#[test]
fn mp_fail_and_two_minutes() {
    require_root!();
    runner::run(Theme::Waiting);
}

#[test]
fn middleboxes() {
    require_root!();
    runner::run(Theme::Middleboxes);
}
