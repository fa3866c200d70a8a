//! Jobs from the broker to the workers: at least once, leased, and handed out again when a worker dies.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use model::job::Job;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

#[cfg(test)]
mod conformance;
mod sqlite;
mod sqs;

pub use sqlite::SqliteQueue;
pub use sqs::SqsQueue;

/// A queue that cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in the queue")]
pub struct QueueError {
    /// What was tried.
    pub operation: &'static str,
    /// Why not.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A job that belongs to one worker, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What is to be done.
    pub job: Job,
    /// Which time it is handed out, from 1.
    pub attempt: u32,
    /// Proves that the lease is still this worker's.
    pub receipt: String,
}

/// A job that is given up, with its reason: nobody works on it until an operator says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names the letter.
    pub id: String,
    /// What was to be done; nothing, when it cannot be read.
    pub job: Option<Job>,
    /// Why it is here.
    pub cause: String,
    /// How often it was handed out.
    pub attempts: u32,
    /// Since when it is here.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// Jobs that are waiting, or being worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Could be handed out now.
    pub visible: u64,
    /// Are hidden: a worker has them, or they rest before the next try.
    pub hidden: u64,
}

/// Dead letters that one answer holds; the oldest come first, and the rest when those are dealt with.
pub const DEAD_PAGE: u32 = 500;

/// No lease is longer, and no pause.
pub const LONGEST_LEASE: Duration = Duration::from_secs(600);
/// What is hidden for longer was hidden by a clock that was ahead, and is not hidden. Clocks may differ a little.
const HIDDEN_BY_THE_FUTURE: Duration = Duration::from_secs(900);

/// The capability.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync {
    /// Adds jobs. One whose id is already there is not added again. After an error some may have been added.
    async fn send(&self, jobs: &[Job]) -> Result<(), QueueError>;

    /// Waits for a job, and hides it from other workers for the time of the lease.
    async fn receive(&self, lease: Duration) -> Result<Lease, QueueError>;

    /// Goes on hiding the job. `false`: the lease had ended, and the job may be another's.
    async fn extend(&self, lease: &Lease, by: Duration) -> Result<bool, QueueError>;

    /// The job is done. `false`: the lease had ended, and the job may come again.
    async fn done(&self, lease: &Lease) -> Result<bool, QueueError>;

    /// Gives the job back, to be handed out after a pause.
    async fn retry_after(&self, lease: &Lease, pause: Duration) -> Result<bool, QueueError>;

    /// Gives the job up: it goes to the dead letters. `false`: the lease had ended.
    async fn bury(&self, lease: &Lease, cause: &str) -> Result<bool, QueueError>;

    /// The dead letters; at most [`DEAD_PAGE`].
    async fn dead(&self) -> Result<Vec<DeadLetter>, QueueError>;

    /// Hands a dead letter out again, as if it were new. `false`: there is none of this id.
    async fn revive(&self, id: &str) -> Result<bool, QueueError>;

    /// Throws a dead letter away. `false`: there is none of this id.
    async fn drop_dead(&self, id: &str) -> Result<bool, QueueError>;

    /// How much there is to do.
    async fn depth(&self) -> Result<Depth, QueueError>;
}
