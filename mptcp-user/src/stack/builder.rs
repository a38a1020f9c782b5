//! Choices for a stack.

use super::driver::Driver;
use super::{AttachMode, HostFacts, Inner, Stack, StackError};
use crate::shard::{self, ShardConfig, ShardHandle};
use mptcp_proto::{ConnectionConfig, EndpointConfig, Prefix};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a stack is made from. Without interfaces: all that are up and routable.
#[derive(Clone, Debug)]
pub struct StackBuilder {
    /// Names of the interfaces to use. None: all that can be used, those that come up later included.
    pub interfaces: Vec<String>,
    /// How XDP programs are attached.
    pub mode: AttachMode,
    /// Let the network card write packets to our memory by itself, where the mode is native and the driver can.
    pub zero_copy: bool,
    /// Write all packets of the stack, received and sent, to this file (pcapng).
    pub pcap: Option<PathBuf>,
    /// Write what the engine decides to this file, as lines of JSON ([`EventLog`](crate::observe::EventLog)).
    pub events: Option<PathBuf>,
    /// Let `mptcp ss` and `mptcp counters` see this stack ([`control`](mptcp_control)).
    pub control: bool,
    /// Choices for connections that are made without others.
    pub connection: ConnectionConfig,
    /// Look for packets all the time instead of sleeping when there are none: the shortest delays, for a processor of its
    /// own.
    pub busy_poll: bool,
    /// Let connections and subflows leave by any route over the right interface, also where the host's
    /// routing policy (`ip rule`, tunnels that take all traffic) leads elsewhere. What the host refuses stays
    /// refused. Answers always leave by the interface that the peer's SYN was for.
    pub any_route: bool,
    /// Bounds on what peers can make the stack keep.
    pub endpoint: EndpointConfig,
    /// Looks at the host. Tests put another one in its place to see what happens on other hosts.
    pub probe: fn() -> std::io::Result<HostFacts>,
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: AttachMode::default(),
            zero_copy: false,
            pcap: None,
            events: None,
            control: false,
            connection: ConnectionConfig::default(),
            busy_poll: false,
            any_route: false,
            endpoint: EndpointConfig::default(),
            probe: HostFacts::gather,
        }
    }
}

impl StackBuilder {
    /// Accepts connections and subflows from peers with this prefix, and opens them to these; from now on to
    /// no others, unless they are allowed, too ([`PeerRules`](mptcp_proto::PeerRules)).
    pub fn allow_peer(&mut self, prefix: Prefix) -> &mut Self {
        self.endpoint.peers.allow(prefix);
        self
    }

    /// Accepts no connections and subflows from peers with this prefix, and opens none to them. They get no
    /// answer.
    pub fn deny_peer(&mut self, prefix: Prefix) -> &mut Self {
        self.endpoint.peers.deny(prefix);
        self
    }

    /// Starts the stack: loads the XDP program, attaches it, opens sockets, starts the shard's thread. All in the
    /// network namespace of the thread that polls this first.
    ///
    /// # Errors
    /// An interface can't be used, capabilities are missing, or the kernel can't do it; the error says what to do.
    pub async fn build(self) -> Result<Stack, StackError> {
        let namespace = super::control::namespace();
        let (ready, outcome) = oneshot::channel();
        let (config, rest) = self.split();
        shard::spawn(config, ready).map_err(|error| StackError::System("starting a thread", error))?;
        let handle = outcome.await.map_err(|_| StackError::Stopped)??;
        Ok(rest.stack(handle, namespace).await)
    }

    /// Makes a stack without a thread (but one that looks twice a second whether the stack's rounds of work
    /// end, and whether interfaces have new queues): all of its work is done where the [`Driver`] is polled,
    /// which must go on beside whatever uses the stack. The fewest changes of thread, and so the shortest
    /// delays, for applications that leave enough of their thread to it.
    ///
    /// What uses the stack is best a task of the same `LocalSet`: an answer then leaves without the runtime looking at all that it
    /// waits for first, as it does between a future that it was started with and a task.
    ///
    /// ```no_run
    /// # use mptcp_user::stack::Stack;
    /// # async fn serve(_: Stack) {}
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let (stack, driver) = Stack::builder().build_local().await?;
    /// let tasks = tokio::task::LocalSet::new();
    /// tasks.spawn_local(driver);
    /// let served = tasks.spawn_local(serve(stack));
    /// tasks.run_until(served).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As those of [`build`](Self::build).
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub async fn build_local(self) -> Result<(Stack, Driver), StackError> {
        let namespace = super::control::namespace();
        let (config, rest) = self.split();
        let (handle, work) = shard::drive(config)?;
        Ok((rest.stack(handle, namespace).await, Driver::new(work)))
    }

    fn split(self) -> (ShardConfig, Rest) {
        let config = ShardConfig {
            interfaces: self.interfaces,
            mode: self.mode,
            zero_copy: self.zero_copy,
            pcap: self.pcap,
            events: self.events,
            busy_poll: self.busy_poll,
            any_route: self.any_route,
            endpoint: self.endpoint,
            probe: self.probe,
        };
        (config, Rest { connection: self.connection, control: self.control })
    }
}

/// What the shard does not need to know.
struct Rest {
    connection: ConnectionConfig,
    control: bool,
}

impl Rest {
    /// The stack on a shard. `namespace`: inode of the network namespace that it is in.
    async fn stack(self, shard: ShardHandle, namespace: Option<u64>) -> Stack {
        let ShardHandle { mailbox, interfaces } = shard;
        let blocks = Default::default();
        let mut inner = Inner { mailbox, interfaces, connection: self.connection, blocks, _control: None };
        if self.control {
            // From here on the stack ends if this future is dropped.
            let (mailbox, interfaces) = (inner.mailbox.clone(), inner.interfaces.clone());
            inner._control = super::control::start(mailbox, interfaces, namespace).await;
        }
        Stack { inner: Arc::new(inner) }
    }
}
