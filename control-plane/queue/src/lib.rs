//! Jobs from the broker to the workers: at least once, leased, and handed out again when a worker dies.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use model::job::Job;

#[cfg(test)]
mod conformance;
mod sqlite;

pub use sqlite::SqliteQueue;

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

/// The capability.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync {
    /// Adds a job. A job whose id is already there is not added again.
    async fn send(&self, job: &Job) -> Result<(), QueueError>;

    /// Waits for a job, and hides it from other workers for the time of the lease.
    async fn receive(&self, lease: Duration) -> Result<Lease, QueueError>;

    /// Goes on hiding the job. `false`: the lease had ended, and the job may be another's.
    async fn extend(&self, lease: &Lease, by: Duration) -> Result<bool, QueueError>;

    /// The job is done. `false`: the lease had ended, and the job may come again.
    async fn done(&self, lease: &Lease) -> Result<bool, QueueError>;

    /// Gives the job back, to be handed out after a pause.
    async fn retry_after(&self, lease: &Lease, pause: Duration) -> Result<bool, QueueError>;
}
