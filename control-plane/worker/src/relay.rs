//! From the store's outbox to the queue: a job was written together with its instance, and is lost by no crash
//! between the two.

use std::{sync::Arc, time::Duration};

use queue::Queue;
use store::Store;

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Hands jobs over, for ever.
pub async fn relay(store: Arc<dyn Store>, queue: Arc<dyn Queue>) {
    let mut changes = store.changes();
    loop {
        changes.mark_unchanged();
        if let Err(error) = hand_over(&*store, &*queue).await {
            tracing::error!(%error, "jobs wait in the outbox");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn hand_over(
    store: &dyn Store,
    queue: &dyn Queue,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    loop {
        let jobs = store.outbox().await?;
        if jobs.is_empty() {
            return Ok(());
        }
        // Sent twice after a crash here; the queue keeps one.
        queue.send(&jobs).await?;
        store.dispatched(&jobs).await?;
    }
}
