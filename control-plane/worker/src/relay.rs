//! From the store's outbox to the queue: a job was written together with its instance, and is lost by no crash
//! between the two.

use std::{sync::Arc, time::Duration};

use queue::Queue;
use store::Store;
use tokio::task::JoinSet;

/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Jobs on their way: the writes of those that go together share a sync.
const MAX_AT_ONCE: usize = 64;

/// Hands jobs over, for ever.
pub async fn relay(store: Arc<dyn Store>, queue: Arc<dyn Queue>) {
    let mut changes = store.changes();
    loop {
        changes.mark_unchanged();
        if let Err(error) = hand_over(&store, &queue).await {
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
    store: &Arc<dyn Store>,
    queue: &Arc<dyn Queue>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut under_way = JoinSet::new();
    let mut jobs = store.outbox().await?.into_iter();
    loop {
        while under_way.len() < MAX_AT_ONCE
            && let Some(job) = jobs.next()
        {
            let (store, queue) = (Arc::clone(store), Arc::clone(queue));
            under_way.spawn(async move {
                // Sent twice after a crash here; the queue keeps one.
                queue.send(&job).await?;
                store.dispatched(&job).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            });
        }
        match under_way.join_next().await {
            None => return Ok(()),
            Some(ended) => ended??,
        }
    }
}
