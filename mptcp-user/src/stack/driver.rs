//! The work of a stack, for the application's runtime to do.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The work of a stack that has no thread of its own ([`StackBuilder::build_local`](super::StackBuilder::build_local)).
/// Ends when the stack has been shut down, or when the last clone of it is gone and its connections have ended. Dropped
/// earlier, it takes the stack with it: connections end at once, programs are detached.
#[must_use = "a stack does nothing unless its driver is polled"]
pub struct Driver(Pin<Box<dyn Future<Output = ()>>>);

impl Driver {
    pub(super) fn new(work: impl Future<Output = ()> + 'static) -> Self {
        Self(Box::pin(work))
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
