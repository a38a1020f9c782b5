//! `mptcp connect`: the client side of a netcat.

use super::address::Family;
use super::args::ConnectArgs;
use super::exit::{ExitCode, Failure};
use super::listen::in_use;
use super::report::Reporter;
use super::session::{Kept, PATIENCE, Session};
use super::signals::Signals;
use anyhow::{Context, Result};
use mptcp_proto::ConnectionConfig;
use mptcp_user::stack::{MptcpStream, Stack, StackError};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) async fn run(args: ConnectArgs) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let family = match (args.ipv4, args.ipv6, args.local) {
        (true, _, _) => Family::V4,
        (_, true, _) => Family::V6,
        (_, _, Some(SocketAddr::V4(_))) => Family::V4,
        (_, _, Some(SocketAddr::V6(_))) => Family::V6,
        _ => Family::Any,
    };
    let (kept, files) = Kept::open(&args.data, true)?;
    let reporter = Reporter::new(&args.data)?;
    let config = ConnectionConfig { connect_timeout: args.timeout, ..args.connection.config() };
    let deadline = Instant::now() + args.timeout;

    let addresses = tokio::select! {
        code = signals.wanted() => return Ok(code),
        addresses = tokio::time::timeout(args.timeout, args.target.resolve(family)) => addresses
            .context("no answer from the name server in time")
            .and_then(|addresses| addresses)
            .map_err(|error| error.context(Failure::new(ExitCode::Connect, "can't connect")))?,
    };
    let stack = tokio::select! {
        code = signals.wanted() => return Ok(code),
        stack = args.stack.builder(config.clone()).build() => stack.context("can't start the stack")?,
    };
    args.stack.enter_sandbox(&args.connection, args.local.map(|local| local.port()));
    tracing::info!("using {}", in_use(&stack));
    let connected = tokio::select! {
        code = signals.wanted() => Ok(Err(code)),
        stream = connect(&stack, &addresses, args.local, &config, deadline) => stream.map(Ok),
    };
    let mut patience = PATIENCE;
    let outcome = match connected {
        Ok(Ok(stream)) => {
            tracing::info!("connected to {} from {}", stream.peer_addr(), stream.local_addr());
            let user_timeout = args.connection.user_timeout;
            let mut session = Session {
                command: "connect",
                data: args.data,
                user_timeout,
                keep_open: false,
                kept,
                reporter,
                signals,
            };
            session.run(&stack, stream, files).await
        }
        Ok(Err(code)) => Ok(code),
        Err(error) => {
            patience = Duration::ZERO;
            Err(error)
        }
    };
    stack.shutdown(patience).await;
    outcome
}

/// Tries the addresses, the next one when one does not answer at once.
async fn connect(
    stack: &Stack,
    addresses: &[SocketAddr],
    local: Option<SocketAddr>,
    config: &ConnectionConfig,
    deadline: Instant,
) -> Result<MptcpStream> {
    let left = deadline.saturating_duration_since(Instant::now());
    let config = ConnectionConfig { connect_timeout: left, ..config.clone() };
    let error = match stack.connect_any_with(addresses, local, config).await {
        Ok(stream) => return Ok(stream),
        Err(error @ StackError::Attempts(_)) => error.to_string(),
        Err(error) => match addresses {
            [address] => format!("{address}: {error}"),
            _ => error.to_string(),
        },
    };
    Err(Failure::new(ExitCode::Connect, format!("can't connect to {error}")).into())
}
