//! Where an endpoint keeps a connection, awake or dormant.

use super::connection::Connection;
use super::dormant::Dormant;

/// A place for a connection; the generation tells apart those that had it one after the other.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) generation: u32,
    pub(crate) occupant: Occupant,
}

/// Who has a place.
#[derive(Default)]
pub(crate) enum Occupant {
    #[default]
    Nobody,
    Awake(Box<Connection>),
    /// A connection on which nothing has happened for a while.
    Dormant(Dormant),
}

impl Place {
    pub(crate) fn is_taken(&self) -> bool {
        !matches!(self.occupant, Occupant::Nobody)
    }

    /// The connection, if it is not dormant.
    pub(crate) fn awake(&mut self) -> Option<&mut Connection> {
        if let Occupant::Awake(connection) = &mut self.occupant { Some(connection) } else { None }
    }

    /// The connection is dormant no more. Whether it was.
    pub(crate) fn wake(&mut self) -> bool {
        let Occupant::Dormant(dormant) = &self.occupant else { return false };
        self.occupant = Occupant::Awake(dormant.wake());
        true
    }

    /// What the connection says; a dormant one stays so.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Connection) -> T) -> Option<T> {
        match &self.occupant {
            Occupant::Nobody => None,
            Occupant::Awake(connection) => Some(question(connection)),
            Occupant::Dormant(dormant) => Some(question(&dormant.wake())),
        }
    }
}
