//! What must survive: instances, claims of hosts, jobs that are not yet in the queue, and what the fleet has
//! acknowledged. One trait, an embedded SQLite twin, and a conformance suite that every twin passes.

use std::fmt;

use async_trait::async_trait;
use model::{
    Host, InstanceId,
    controls::Controls,
    fleet::{FleetReport, ServedSizes},
    instance::Instance,
    job::Job,
};
use tokio::sync::watch;

#[cfg(test)]
mod conformance;
mod sqlite;

pub use sqlite::SqliteStore;

/// A store that cannot do what it was asked for; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in the store")]
pub struct StoreError {
    /// What was tried.
    pub operation: &'static str,
    /// Why not.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The end of a conditional write.
#[derive(Debug, PartialEq)]
pub enum Put {
    /// Written; this is the instance with its new version.
    Stored(Box<Instance>),
    /// Somebody else wrote since this instance was read: read it again.
    Conflict,
}

/// The end of a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The host belongs to the instance, now or already before.
    Held,
    /// It belongs to another one.
    Taken(InstanceId),
}

/// The capability. Every write is atomic and durable when it returns.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// One instance, also when it is gone.
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError>;

    /// All instances that were written after this position, and the new position. 0 is the beginning.
    async fn changed_since(&self, position: u64) -> Result<(Vec<Instance>, u64), StoreError>;

    /// Writes an instance if its version is still the stored one (0: if there is none), and with it a job
    /// for the queue, in one transaction.
    async fn put(&self, instance: &Instance, job: Option<&Job>) -> Result<Put, StoreError>;

    /// Jobs that were written and not yet handed to the queue.
    async fn outbox(&self) -> Result<Vec<Job>, StoreError>;

    /// The queue has this job.
    async fn dispatched(&self, job: &Job) -> Result<(), StoreError>;

    /// Gives a host to an instance, if it belongs to nobody else.
    async fn claim(&self, host: &Host, id: &InstanceId) -> Result<Claim, StoreError>;

    /// Frees the hosts of an instance, except for these.
    async fn release(&self, id: &InstanceId, keep: &[Host]) -> Result<(), StoreError>;

    /// Keeps what a replica knows of a group. A report counts until it is replaced or outdated.
    async fn report(&self, replica: &str, group: &str, report: &FleetReport) -> Result<(), StoreError>;

    /// What all replicas reported of a group in the last seconds.
    async fn reports(&self, group: &str) -> Result<Vec<FleetReport>, StoreError>;

    /// What operators decided for a group; nothing, when nobody ever did.
    async fn controls(&self, group: &str) -> Result<Controls, StoreError>;

    /// Replaces what operators decided, if it still is what it was. Whether it was.
    async fn decide(&self, group: &str, before: &Controls, after: &Controls) -> Result<bool, StoreError>;

    /// Keeps how much was served to a group.
    async fn remember(&self, group: &str, sizes: &ServedSizes) -> Result<(), StoreError>;

    /// How much was served to a group last, by any process.
    async fn remembered(&self, group: &str) -> Result<ServedSizes, StoreError>;

    /// Changes whenever something was written, by this process or another one.
    fn changes(&self) -> watch::Receiver<u64>;
}
