//! No further subflows than those the peer opens.

use super::{PathManager, Refused, View, Wish};

/// The policy.
#[derive(Debug)]
pub(super) struct Nothing;

impl PathManager for Nothing {
    fn name(&self) -> &'static str {
        "none"
    }

    fn next_subflow(&self, _: &View<'_>, _: Refused<'_>) -> Option<Wish> {
        None
    }

    fn opens(&self, _: bool) -> bool {
        false
    }

    fn announces(&self, _: bool) -> bool {
        false
    }
}
