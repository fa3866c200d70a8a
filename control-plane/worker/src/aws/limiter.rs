//! How often an API of AWS may be called: by all workers together, since the account is theirs together.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws::{Key, Table};

/// Waits until the next call may be made.
#[async_trait]
pub trait Pace: std::fmt::Debug + Send + Sync {
    /// Returns when a call may be made.
    async fn turn(&self);
}

/// So many calls a second, counted in the table that all workers share.
#[derive(Debug)]
pub struct Limiter {
    table: Table,
    api: &'static str,
    per_second: u64,
}

/// A counted second is of no use afterwards.
const KEPT: Duration = Duration::from_secs(3_600);

impl Limiter {
    /// For one API.
    pub fn new(table: Table, api: &'static str, per_second: u64) -> Self {
        Self { table, api, per_second }
    }
}

#[async_trait]
impl Pace for Limiter {
    async fn turn(&self) {
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let key = Key::new("calls", format!("{}#{}", self.api, now.as_secs()));
            match self.table.count_up_expiring(&key, "calls", KEPT).await {
                Ok(calls) if calls > self.per_second => {
                    let left = Duration::from_nanos(u64::from(1_000_000_000 - now.subsec_nanos()));
                    // Not all at the same moment.
                    tokio::time::sleep(left + runtime::jitter::jittered(left / 4)).await;
                }
                Ok(_) => return,
                // The SDK waits and comes again when it is throttled; that is the worse way, and it is one.
                Err(error) => {
                    tracing::warn!(%error, api = self.api, "calls are not counted");
                    return;
                }
            }
        }
    }
}
