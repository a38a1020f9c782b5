//! Connections at rest. One on which nothing happens takes several kilobytes, most of it for what only data in motion needs. So
//! after a while it is written down, in as few octets as its numbers have, and read again when something happens.

use super::config::ConnectionConfig;
use super::connection::Connection;
use std::sync::Arc;

/// A connection that holds no octets and waits for nothing.
pub(crate) struct Dormant {
    config: Arc<ConnectionConfig>,
    octets: Box<[u8]>,
}

impl Dormant {
    /// Writes it down.
    pub(crate) fn new(connection: &Connection) -> Self {
        let Ok(octets) = postcard::to_allocvec(connection) else {
            unreachable!("all that a connection consists of can be written down")
        };
        Self { config: connection.config.clone(), octets: octets.into() }
    }

    /// The connection as it was.
    pub(crate) fn wake(&self) -> Box<Connection> {
        let Ok(mut connection) = postcard::from_bytes::<Box<Connection>>(&self.octets) else {
            unreachable!("this is what was written")
        };
        connection.woken(self.config.clone());
        connection
    }
}
