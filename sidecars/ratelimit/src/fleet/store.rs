//! What a fleet counts in: a place that adds to numbers, one key at a time, so that any Redis, Valkey or cluster will do.

#[cfg(test)]
use std::{collections::HashMap, sync::Mutex};

/// One thing to do, of which a batch has many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) key: String,
    pub(crate) act: Act,
}

/// What is done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Adds, and tells the sum. With seconds to live where it may be the first.
    Add { amount: i64, live_secs: Option<u64> },
    /// Tells the number; 0 for a key that is not there.
    Look,
}

/// Why a store gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The connection, or an answer that is none.
    #[error("the store")]
    Redis(#[source] redis::RedisError),
    #[error("no connection within {0:?}")]
    Connecting(std::time::Duration),
    #[error("{got} answers to {asked} questions")]
    Answers { asked: usize, got: usize },
}

/// Counts for a fleet.
#[async_trait::async_trait]
pub(crate) trait Store: Send + Sync + 'static {
    /// Does all of them, and answers each. An error says nothing of which were done.
    async fn run(&self, batch: &[Op]) -> Result<Vec<i64>, StoreError>;
}

/// The embedded twin, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Memory {
    numbers: Mutex<HashMap<String, i64>>,
}

#[cfg(test)]
#[async_trait::async_trait]
impl Store for Memory {
    async fn run(&self, batch: &[Op]) -> Result<Vec<i64>, StoreError> {
        let mut numbers = self.numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut run = |op: &Op| match op.act {
            Act::Look => numbers.get(&op.key).copied().unwrap_or(0),
            Act::Add { amount, .. } => {
                let number = numbers.entry(op.key.clone()).or_default();
                *number = number.saturating_add(amount);
                *number
            }
        };
        Ok(batch.iter().map(&mut run).collect())
    }
}

#[cfg(test)]
pub(crate) mod conformance {
    use super::*;

    /// What every store does.
    pub(crate) async fn check(store: &dyn Store) {
        static CHECKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        // A store may hold what another check has left.
        let check = CHECKS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let key = |name: &str| format!("conformance:{check}:{name}");
        let add = |name: &str, amount| Op { key: key(name), act: Act::Add { amount, live_secs: Some(60) } };
        let look = |name: &str| Op { key: key(name), act: Act::Look };
        let answers =
            store.run(&[look("a"), add("a", 3), add("b", 2), add("a", 4), look("a")]).await.unwrap();
        assert_eq!(answers, [0, 3, 2, 7, 7], "in order, each key on its own");
        assert_eq!(store.run(&[add("a", -2)]).await.unwrap(), [5]);
        assert_eq!(store.run(&[]).await.unwrap(), [0; 0]);
        let many: Vec<Op> = (0..1_000).map(|at| add(&at.to_string(), at)).collect();
        assert_eq!(store.run(&many).await.unwrap(), (0..1_000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_embedded_store_does_what_every_store_does() {
        check(&Memory::default()).await;
    }
}
