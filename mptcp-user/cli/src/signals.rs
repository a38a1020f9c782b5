//! Ctrl-C and SIGTERM: the first one asks for an orderly end, the second one ends the process at once.

use super::exit::ExitCode;
use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells whether the user wants the process to end.
#[derive(Clone, Debug)]
pub(crate) struct Signals(watch::Receiver<Option<ExitCode>>);

impl Signals {
    /// Takes over SIGINT and SIGTERM.
    pub(crate) fn new() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("can't handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("can't handle SIGTERM")?;
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let code = tokio::select! {
                    _ = interrupt.recv() => ExitCode::Interrupted,
                    _ = terminate.recv() => ExitCode::Terminated,
                };
                if sender.borrow().is_some() {
                    // Programs are attached through links that live in descriptors of this process: the
                    // kernel detaches them now.
                    super::exit::end(code);
                }
                sender.send_replace(Some(code));
            }
        });
        Ok(Self(receiver))
    }

    /// Resolves when the user wants an end; at once if that has been said already.
    pub(crate) async fn wanted(&mut self) -> ExitCode {
        match self.0.wait_for(Option::is_some).await.map(|code| *code) {
            Ok(Some(code)) => code,
            // The sender lives as long as the runtime, so the runtime is ending.
            _ => std::future::pending().await,
        }
    }
}
