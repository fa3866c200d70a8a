//! When to stop: SIGTERM or Ctrl-C begins a drain, and everything that serves watches it.

use std::{future::Future, io};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Watches for the end. Cheap to clone; resolves for all clones at once.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Begins to listen for SIGTERM and SIGINT.
pub fn shutdown() -> io::Result<Shutdown> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "draining");
        sender.send_replace(true);
        // The channel stays open, so that late watchers see the value and not its end.
        std::future::pending::<()>().await;
    });
    Ok(Shutdown(receiver))
}

impl Shutdown {
    /// Resolves when the process was asked to stop.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.0.clone();
        async move {
            // An error means that the sender is gone, and with it the runtime.
            let _ = receiver.wait_for(|stop| *stop).await;
        }
    }
}
