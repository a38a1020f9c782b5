//! All connections of one shard: demultiplexing by four-tuple and by token, listeners, timers.

use super::{
    ConnectionConfig, ConnectionId, ConnectionInfo, EndpointConfig, Event, Instant, ListenerId, LocalAddress,
    Unreachable,
};
use crate::wire::Segment;
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};

/// Why a connection can't be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The four-tuple is in use.
    #[error("a connection between these two addresses and ports exists already")]
    InUse,
    /// The endpoint is full.
    #[error("the limit on connections is reached")]
    TooManyConnections,
    /// The addresses are of two families.
    #[error("local and remote address are of different families")]
    FamilyMismatch,
    /// No algorithm of that name.
    #[error("no {0} of that name")]
    UnknownPolicy(&'static str),
}

/// Why an address can't be listened on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListenError {
    /// There is a listener on that address and port.
    #[error("another listener has this address and port")]
    InUse,
    /// No algorithm of that name.
    #[error("no {0} of that name")]
    UnknownPolicy(&'static str),
}

/// The engine: all connections and listeners of one shard. See the [module](super) for how to drive it.
pub struct Endpoint {}

#[allow(unused_variables, clippy::todo, clippy::needless_pass_by_value)]
impl Endpoint {
    /// An endpoint without connections. `seed` must come from the operating system's generator; with a fixed
    /// seed, everything the endpoint does is reproducible.
    pub fn new(config: EndpointConfig, seed: [u8; 32]) -> Self {
        todo!()
    }
    /// An address appeared (or its properties changed): path managers may use it.
    pub fn add_local_address(&mut self, now: Instant, address: LocalAddress) {
        todo!()
    }
    /// An address is gone: its subflows are closed, peers are told.
    pub fn remove_local_address(&mut self, now: Instant, address: IpAddr) {
        todo!()
    }
    /// Accepts connections to an address and port. An unspecified address means all of this host's addresses of
    /// that family (of both families for `[::]`).
    pub fn listen(
        &mut self,
        address: SocketAddr,
        config: ConnectionConfig,
    ) -> Result<ListenerId, ListenError> {
        todo!()
    }
    /// Stops accepting; connections that were not announced yet are reset.
    pub fn close_listener(&mut self, now: Instant, listener: ListenerId) {
        todo!()
    }
    /// Opens a connection from an address and port that the driver has reserved. The answer is
    /// [`Event::Connected`] or [`Event::Closed`].
    pub fn connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        config: ConnectionConfig,
    ) -> Result<ConnectionId, ConnectError> {
        todo!()
    }
    /// Answers [`Event::SubflowWanted`] with a reserved address and port: sends the SYN with MP_JOIN. Gives the
    /// port back (`false`) when the connection has no use for it any more.
    pub fn open_subflow(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        todo!()
    }
    /// Answers [`Event::SubflowWanted`] when there is no way to do it (no route, no port).
    pub fn open_subflow_failed(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        local: IpAddr,
        remote: SocketAddr,
    ) {
        todo!()
    }

    /// A segment came in. Checksums of IP and TCP have been verified by the driver. Super-segments are welcome.
    pub fn handle_segment(&mut self, now: Instant, segment: Segment) {
        todo!()
    }
    /// An ICMP error that quotes a segment of ours came in.
    pub fn handle_unreachable(&mut self, now: Instant, unreachable: Unreachable) {
        todo!()
    }
    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, unless something else happens before.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        todo!()
    }
    /// Lets all timers that are due expire.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }
    /// The next segment to send, if any. To be called until it gives `None` after any other call, as far as
    /// there is room to send; acknowledgments of a whole batch of received segments are made here.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Segment> {
        todo!()
    }
    /// The next event, if any. To be called until it gives `None` after any other call.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// How many octets [`send`](Self::send) takes now. When it is 0, [`Event::Writable`] follows.
    pub fn send_capacity(&mut self, connection: ConnectionId) -> usize {
        todo!()
    }
    /// Queues octets of the application; all are taken (an excess over the capacity is the driver's to avoid).
    /// Ignored after [`finish`](Self::finish) or when the connection is closed.
    pub fn send(&mut self, now: Instant, connection: ConnectionId, data: Bytes) {
        todo!()
    }
    /// No more data will be sent: DATA_FIN after what is queued.
    pub fn finish(&mut self, now: Instant, connection: ConnectionId) {
        todo!()
    }
    /// Takes in-order octets out, in the order of the stream: at most `limit` octets into `out`. Gives the number
    /// of octets and whether the stream has ended after them. They count against the receive window until
    /// [`consumed`](Self::consumed) is told about them.
    pub fn recv(&mut self, connection: ConnectionId, limit: usize, out: &mut Vec<Bytes>) -> (usize, bool) {
        todo!()
    }
    /// The application has read `octets` of those taken with [`recv`](Self::recv): the window may open.
    pub fn consumed(&mut self, now: Instant, connection: ConnectionId, octets: usize) {
        todo!()
    }
    /// Ends the connection at once: MP_FASTCLOSE (RFC 8684 section 3.5), or RST after fallback.
    pub fn abort(&mut self, now: Instant, connection: ConnectionId) {
        todo!()
    }
    /// The application has dropped its handle: data that arrives from now on can't be delivered. An orderly close
    /// goes on by itself; unread data makes it an abort (RFC 2525 section 2.17). [`Event::Released`] follows when
    /// nothing is left.
    pub fn release(&mut self, now: Instant, connection: ConnectionId) {
        todo!()
    }
    /// What is known of a connection; `None` once it is released.
    pub fn info(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        todo!()
    }
    /// All connections.
    pub fn connections(&self) -> Vec<ConnectionId> {
        todo!()
    }
}
