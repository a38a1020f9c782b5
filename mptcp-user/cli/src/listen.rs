//! `mptcp listen`: the server side of a netcat.

use super::args::ListenArgs;
use super::exit::ExitCode;
use super::report::Reporter;
use super::session::{Files, Kept, PATIENCE, Session};
use super::signals::Signals;
use anyhow::{Context, Result};
use mptcp_user::stack::{MptcpListener, Stack};

pub(crate) async fn run(args: ListenArgs) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let (kept, files) = Kept::open(&args.data, !args.keep_open)?;
    let reporter = Reporter::new(&args.data)?;
    let stack = tokio::select! {
        code = signals.wanted() => return Ok(code),
        stack = args.stack.builder(args.connection.config()).build() => stack.context("can't start the stack")?,
    };
    let user_timeout = args.connection.user_timeout;
    let keep_open = args.keep_open;
    let mut session =
        Session { command: "listen", data: args.data, user_timeout, keep_open, kept, reporter, signals };
    let outcome = match stack.listen(args.address.0).await {
        Ok(listener) => {
            args.stack.enter_sandbox(&args.connection, Some(args.address.0.port()));
            serve(&stack, &mut session, listener, files).await
        }
        Err(error) => Err(error).with_context(|| format!("can't listen on {}", args.address.0)),
    };
    stack.shutdown(PATIENCE).await;
    outcome
}

async fn serve(
    stack: &Stack,
    session: &mut Session,
    mut listener: MptcpListener,
    files: Files,
) -> Result<ExitCode> {
    tracing::info!("listening on {} over {}", listener.local_addr(), in_use(stack));
    let mut files = Some(files);
    loop {
        let accepted = next(&mut listener, session).await?;
        let stream = match accepted {
            Ok(stream) => stream,
            Err(code) => return Ok(code),
        };
        tracing::info!("connection from {} to {}", stream.peer_addr(), stream.local_addr());
        let files = match files.take() {
            Some(files) => files,
            None => session.kept.again(&session.data)?,
        };
        let outcome = session.run(stack, stream, files).await;
        match outcome {
            Ok(ExitCode::Success) if session.keep_open => {}
            // One peer that fails is no reason to refuse the next.
            Err(error) if session.keep_open && super::exit::code_of(&error) == ExitCode::Broken => {
                tracing::warn!("{}", super::exit::explain(&error));
            }
            outcome => return outcome,
        }
    }
}

async fn next(
    listener: &mut MptcpListener,
    session: &mut Session,
) -> Result<Result<mptcp_user::stack::MptcpStream, ExitCode>> {
    tokio::select! {
        code = session.signals.wanted() => Ok(Err(code)),
        accepted = listener.accept() => Ok(Ok(accepted.context("can't accept connections any more")?.0)),
    }
}

/// The interfaces of a stack, for people.
pub(super) fn in_use(stack: &Stack) -> String {
    let interfaces = stack.interfaces();
    let names: Vec<String> = interfaces
        .iter()
        .map(|report| format!("{} ({})", report.name, report.mode.as_deref().unwrap_or("unknown mode")))
        .collect();
    names.join(", ")
}
