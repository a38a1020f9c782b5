//! Statistics of a connection that has ended, for programs.

use super::args::DataArgs;
use super::output::{failed, print_error};
use anyhow::{Context, Result};
use mptcp_proto::ConnectionInfo;
use mptcp_user::stack::InterfaceReport;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One line of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Statistics {
    /// "listen" or "connect".
    pub(crate) command: &'static str,
    /// Our address and port of the first subflow.
    pub(crate) local: SocketAddr,
    /// The peer's.
    pub(crate) peer: SocketAddr,
    /// Octets given to the connection.
    pub(crate) bytes_sent: u64,
    /// Octets taken from the connection.
    pub(crate) bytes_received: u64,
    /// From the establishment of the connection until both sides had finished.
    pub(crate) seconds: f64,
    /// Octets of both directions over that time, in Gb/s.
    pub(crate) gbps: f64,
    /// How the connection ended, for people.
    pub(crate) outcome: String,
    /// The interfaces in use.
    pub(crate) interfaces: Vec<InterfaceUse>,
    /// All that is known of the connection.
    pub(crate) connection: ConnectionInfo,
}

/// One interface of [`Statistics`].
#[derive(Clone, Debug, Serialize)]
pub(crate) struct InterfaceUse {
    name: String,
    mode: Option<String>,
}

impl From<&InterfaceReport> for InterfaceUse {
    fn from(report: &InterfaceReport) -> Self {
        Self { name: report.name.clone(), mode: report.mode.clone() }
    }
}

impl Statistics {
    /// Octets over time, in Gb/s.
    pub(crate) fn rate(octets: u64, time: Duration) -> f64 {
        octets as f64 * 8.0 / time.as_secs_f64().max(1e-9) / 1e9
    }
}

/// Where statistics go: nowhere, to standard error, or to a file that is opened before anything else happens.
#[derive(Debug)]
pub(crate) enum Reporter {
    Nobody,
    StandardError,
    File(File, PathBuf),
}

impl Reporter {
    pub(crate) fn new(args: &DataArgs) -> Result<Self> {
        match &args.json {
            None => Ok(Self::Nobody),
            Some(path) if path.as_os_str() == "-" => Ok(Self::StandardError),
            Some(path) => {
                let file = File::create(path)
                    .with_context(|| format!("can't create {} for statistics", path.display()))?;
                Ok(Self::File(file, path.clone()))
            }
        }
    }

    /// Writes one line.
    pub(crate) fn report(&mut self, statistics: &Statistics) -> Result<()> {
        let line = serde_json::to_string(statistics)?;
        match self {
            Self::Nobody => Ok(()),
            Self::StandardError => print_error(&format!("{line}\n")),
            Self::File(file, path) => writeln!(file, "{line}")
                .map_err(|error| failed(error, &format!("{} (statistics)", path.display()))),
        }
    }
}
