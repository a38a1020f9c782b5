//! Which of several ways to a service answers first: Happy Eyeballs (RFC 8305) over addresses of the peer
//! *and* of this host. The addresses come in the order of the resolver (RFC 6724) and families take turns,
//! each over the way that the kernel would take; after those come the host's other ways. One that does not
//! answer within 250 ms is not waited for.

use super::{MptcpStream, Stack, StackError};
use crate::mailbox::{Command, Mailbox};
use mptcp_proto::{CloseReason, ConnectionConfig};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// Time between the beginnings of two attempts (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Most attempts for one connection.
const MAX_ATTEMPTS: usize = 32;
/// What is left to an attempt that begins last.
const LEAST_TIME: Duration = Duration::from_secs(1);

/// Tickets of attempts, of all stacks.
static TICKETS: AtomicU64 = AtomicU64::new(0);

/// Where an attempt goes: the peer's address, and ours if it is not for the kernel to choose.
type Way = (SocketAddr, Option<IpAddr>);
type Attempt<'a> = Pin<Box<dyn Future<Output = Result<MptcpStream, StackError>> + Send + 'a>>;

/// Gives an attempt up that nobody waits for any more.
struct Ticket {
    number: u64,
    /// None once it is answered.
    mailbox: Option<Arc<Mailbox>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(mailbox) = &self.mailbox {
            mailbox.send(Command::GiveUp(self.number));
        }
    }
}

/// One attempt.
async fn attempt(
    stack: &Stack,
    remote: SocketAddr,
    local: Option<SocketAddr>,
    config: ConnectionConfig,
) -> Result<MptcpStream, StackError> {
    let (reply, answer) = oneshot::channel();
    let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
    let config = Box::new(config);
    stack.inner.mailbox.send(Command::Connect { remote, local, config, ticket, reply });
    let mut ticket = Ticket { number: ticket, mailbox: Some(stack.inner.mailbox.clone()) };
    let answer = answer.await;
    ticket.mailbox = None;
    let handle = answer.map_err(|_| StackError::Stopped)??;
    Ok(MptcpStream::new(handle, stack.inner.clone()))
}

/// Families take turns, that of the first address first (RFC 8305 section 4).
fn interleave(remotes: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first = remotes.first().is_some_and(SocketAddr::is_ipv4);
    let (mut these, mut others): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) =
        remotes.iter().partition(|remote| remote.is_ipv4() == first);
    let mut order = VecDeque::with_capacity(remotes.len());
    while !these.is_empty() || !others.is_empty() {
        order.extend(these.pop_front().into_iter().chain(others.pop_front()));
    }
    order
}

/// What is still to be tried.
struct Plan {
    remotes: Vec<SocketAddr>,
    queue: VecDeque<Way>,
    /// The host's other ways are in the queue, or not wanted.
    complete: bool,
}

impl Plan {
    fn new(remotes: &[SocketAddr], local: Option<SocketAddr>) -> Self {
        let remotes: Vec<SocketAddr> = interleave(remotes).into_iter().take(MAX_ATTEMPTS).collect();
        let queue = remotes.iter().map(|remote| (*remote, None)).collect();
        let complete = local.is_some_and(|local| !local.ip().is_unspecified());
        Self { remotes, queue, complete }
    }

    /// Looks for the host's other ways.
    async fn complete(&mut self, stack: &Stack, config: &ConnectionConfig) -> Result<(), StackError> {
        self.complete = true;
        let mut ways = Vec::new();
        for &remote in &self.remotes {
            let (reply, answer) = oneshot::channel();
            stack.inner.mailbox.send(Command::Ways { remote, config: Box::new(config.clone()), reply });
            // The first is the one that was tried already.
            let locals: Vec<IpAddr> = answer.await.map_err(|_| StackError::Stopped)?;
            ways.push((remote, locals.into_iter().skip(1).collect::<VecDeque<_>>()));
        }
        let mut left = MAX_ATTEMPTS.saturating_sub(self.remotes.len());
        while left > 0 && ways.iter().any(|(_, locals)| !locals.is_empty()) {
            for (remote, locals) in &mut ways {
                if let Some(local) = locals.pop_front() {
                    self.queue.push_back((*remote, Some(local)));
                    left = left.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// The host itself has said no: there is no use in asking it by another way.
    fn refused(&mut self, remote: SocketAddr) {
        self.remotes.retain(|known| *known != remote);
        self.queue.retain(|(known, _)| *known != remote);
    }
}

/// See [`Stack::connect_any_with`].
pub(super) async fn connect(
    stack: &Stack,
    remotes: &[SocketAddr],
    local: Option<SocketAddr>,
    config: &ConnectionConfig,
) -> Result<MptcpStream, StackError> {
    let deadline = Instant::now() + config.connect_timeout;
    let mut plan = Plan::new(remotes, local);
    let mut running: Vec<(Way, Attempt<'_>)> = Vec::new();
    let mut failures = Vec::new();
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            if plan.queue.is_empty() && !plan.complete {
                plan.complete(stack, config).await?;
            }
            if let Some((remote, from)) = plan.queue.pop_front() {
                let mut config = config.clone();
                if !running.is_empty() || !failures.is_empty() {
                    // The first attempt has all the time. Its choices stay as they are, since connections
                    // whose choices are equal share them in memory.
                    let time = deadline.saturating_duration_since(Instant::now()).max(LEAST_TIME);
                    config.connect_timeout = time.min(config.connect_timeout);
                }
                let port = local.map_or(0, |local| local.port());
                let local = from.map(|ip| SocketAddr::new(ip, port)).or(local);
                running.push(((remote, from), Box::pin(attempt(stack, remote, local, config))));
                next = Instant::now() + ATTEMPT_DELAY;
            }
        }
        let more = !plan.queue.is_empty() || !plan.complete;
        if running.is_empty() && !more {
            return Err(failed(failures));
        }
        let ended = poll_fn(|context| {
            for (place, (_, attempt)) in running.iter_mut().enumerate() {
                if let Poll::Ready(outcome) = attempt.as_mut().poll(context) {
                    return Poll::Ready((place, outcome));
                }
            }
            Poll::Pending
        });
        let (place, outcome) = tokio::select! {
            biased;
            ended = ended => ended,
            () = sleep_until(next), if more => continue,
        };
        let ((remote, from), _) = running.swap_remove(place);
        match outcome {
            Ok(stream) => return Ok(stream),
            Err(StackError::Stopped) => return Err(StackError::Stopped),
            Err(error) => {
                tracing::info!("{remote}: {error}");
                if matches!(error, StackError::NotConnected { reason: CloseReason::Refused, .. }) {
                    plan.refused(remote);
                }
                failures.push((remote, from, error));
                next = Instant::now();
            }
        }
    }
}

/// Nothing is left to be tried.
fn failed(mut failures: Vec<(SocketAddr, Option<IpAddr>, StackError)>) -> StackError {
    match failures.len() {
        1 => failures.remove(0).2,
        _ => StackError::Attempts(failures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().expect("an address")).collect()
        };
        let given = parse(&["[fd00::1]:1", "[fd00::2]:1", "[fd00::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        let order = parse(&["[fd00::1]:1", "10.0.0.1:1", "[fd00::2]:1", "10.0.0.2:1", "[fd00::3]:1"]);
        assert_eq!(interleave(&given), order);
        assert!(interleave(&[]).is_empty());
        let plan = Plan::new(&given, Some("10.0.0.9:0".parse().expect("an address")));
        assert!(plan.complete, "who names an address wants no other");
        let mut plan = Plan::new(&given, Some("0.0.0.0:7".parse().expect("an address")));
        assert!(!plan.complete);
        plan.refused(given[1]);
        assert!(plan.queue.iter().all(|(remote, _)| *remote != given[1]) && plan.queue.len() == 4);
    }
}
