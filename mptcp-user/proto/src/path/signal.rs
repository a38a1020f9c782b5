//! Tells the peer all addresses and opens nothing by itself: for servers, whose clients know best which paths they have.
//! On a client, it tells the server the client's addresses, too.

use super::{PathManager, Refused, View, Wish};

/// The policy.
#[derive(Debug)]
pub(super) struct Signal;

impl PathManager for Signal {
    fn name(&self) -> &'static str {
        "signal"
    }

    fn next_subflow(&self, _: &View<'_>, _: Refused<'_>) -> Option<Wish> {
        None
    }

    fn opens(&self, _: bool) -> bool {
        false
    }

    fn announces(&self, _: bool) -> bool {
        true
    }
}
