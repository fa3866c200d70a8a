//! What must survive: instances, claims of hosts, jobs that are not yet in the queue, the audit log, and what the fleet
//! has acknowledged. One trait, an embedded SQLite twin and one in DynamoDB, and a conformance suite that both pass.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use model::{
    Host, InstanceId,
    audit::{Entry, Query},
    controls::Controls,
    drift::Drift,
    fleet::{FleetReport, ServedSizes},
    instance::Instance,
    job::Job,
    platforms::{Owner, Platforms},
    revocation::{Revocation, table::Full},
};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

#[cfg(test)]
mod conformance;
mod dynamodb;
mod keys;
mod sqlite;
pub mod state;

pub use dynamodb::{DynamoStore, KmsKeys, Sealing};
pub use keys::{InvalidKey, Keys};
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

/// A conditional write of an instance, and what is written with it or not at all.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Written if its version is still the stored one (0: if there is none).
    pub instance: &'a Instance,
    /// For the queue.
    pub job: Option<&'a Job>,
    /// For the audit log.
    pub entry: Option<&'a Entry>,
    /// Refused, if this makes one more and its owner then has more than so many.
    pub most: Option<u32>,
}

impl<'a> Write<'a> {
    /// The instance alone.
    pub fn of(instance: &'a Instance) -> Self {
        Self { instance, job: None, entry: None, most: None }
    }
}

/// The end of a conditional write.
#[derive(Debug, PartialEq)]
pub enum Put {
    /// Written; this is the instance with its new version.
    Stored(Box<Instance>),
    /// Somebody else wrote since this instance was read: read it again.
    Conflict,
    /// The owner has as many instances as it may.
    OverQuota,
}

/// Who wants hosts.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'a> {
    /// Which is to have them.
    pub instance: &'a InstanceId,
    /// Whose that is.
    pub owner: &'a Owner,
    /// Hosts that the owner's instances may hold together.
    pub most: Option<u32>,
    /// How long a host that was freed is kept for the owner that had it.
    pub cool_down: Duration,
}

impl<'a> Claimant<'a> {
    /// Within what the platforms allow the owner.
    pub fn of(platforms: &Platforms, instance: &'a InstanceId, owner: &'a Owner) -> Self {
        let (most, cool_down) = (platforms.quota(owner).hosts, platforms.host_cool_down());
        Self { instance, owner, most, cool_down }
    }
}

/// A host that somebody has, or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// Which.
    pub host: Host,
    /// Whose it is.
    pub instance: InstanceId,
    /// Whose that is.
    pub owner: Owner,
    /// It is kept for its owner, and nobody has it.
    pub is_free: bool,
}

/// The end of a claim, which is for all hosts or none.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The hosts belong to the instance, now or already before.
    Held,
    /// One of them is not to be had.
    Refused {
        /// Which, of the list.
        at: usize,
        /// Why not.
        why: Refusal,
    },
}

/// Why a host is not to be had.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It belongs to another instance.
    Taken(InstanceId),
    /// It was another owner's, for whom it is kept until then.
    Cooling(OffsetDateTime),
    /// The owner has as many hosts as it may.
    OverQuota,
}

impl Claim {
    /// What whoever claimed is told, with the place in its list; nothing, when it has the hosts.
    pub fn refusal(&self, hosts: &[Host], claimant: &Claimant<'_>) -> Option<String> {
        let Self::Refused { at, why } = self else { return None };
        let host = hosts.get(*at).map(Host::as_str).unwrap_or_default();
        let why = match why {
            Refusal::Taken(_) => "belongs to another service instance".to_owned(),
            Refusal::Cooling(until) => {
                let until =
                    until.replace_nanosecond(0).unwrap_or(*until).format(&Rfc3339).unwrap_or_default();
                format!("was another tenant's, and is kept for it until {until}")
            }
            Refusal::OverQuota => {
                let (tenant, most) = (&claimant.owner.tenant, claimant.most.unwrap_or_default());
                format!("would be one more than the {most} hosts that {tenant:?} may have")
            }
        };
        Some(format!("hosts[{at}]: {host} {why}"))
    }
}

/// A claim, as it lies in a store.
fn claimed(host: String, instance: String, owner: &str, is_free: bool) -> Result<Claimed, String> {
    Ok(Claimed {
        host: Host::try_from(host).map_err(|error| error.to_string())?,
        instance: InstanceId::try_from(instance).map_err(|error| error.to_string())?,
        owner: Owner::parse(owner).ok_or_else(|| format!("an owner without a platform: {owner:?}"))?,
        is_free,
    })
}

/// The end of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoke {
    /// It holds.
    Stored {
        /// The entries that say so: its own, or what a full table was widened to.
        entries: Vec<Revocation>,
        /// Those of them that stand for others.
        widened: Vec<Revocation>,
    },
    /// There is no room, and nothing was changed.
    Full(Full),
}

/// Whether a write has its entry in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    InTheLog,
    /// It is another store's, which has its own.
    Nowhere,
}

/// Jobs that go to the queue together.
pub const OUTBOX_PAGE: u32 = 200;
/// Entries that one answer holds.
pub const AUDIT_PAGE: u32 = 200;
/// An entry is kept for so long: more than a year, since that is what auditors ask for.
pub const AUDIT_KEPT: Duration = Duration::from_secs(400 * 24 * 3_600);

/// Nobody takes a turn for longer.
pub const LONGEST_TURN: Duration = Duration::from_secs(3_600);
/// One that lasts longer was taken by a clock that was ahead, and is over. Clocks that differ a little take none away.
const TURN_OF_THE_FUTURE: Duration = Duration::from_secs(2 * 3_600);

/// A replica reports every few seconds; one that is silent for so long is gone.
const REPORT_LIFETIME: Duration = Duration::from_secs(15);

/// The capability. Every write is atomic and durable when it returns.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// One instance, also when it is gone.
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError>;

    /// All instances that were written after this position, and the new position. 0 is the beginning.
    async fn changed_since(&self, position: u64) -> Result<(Vec<Instance>, u64), StoreError>;

    /// Writes an instance and what goes with it, in one transaction.
    async fn put(&self, write: Write<'_>) -> Result<Put, StoreError>;

    /// Entries of the audit log, newest first; at most [`AUDIT_PAGE`].
    async fn audit(&self, query: &Query) -> Result<Vec<Entry>, StoreError>;

    /// Jobs that were written and not yet handed to the queue; at most [`OUTBOX_PAGE`], the oldest first.
    async fn outbox(&self) -> Result<Vec<Job>, StoreError>;

    /// The queue has these jobs.
    async fn dispatched(&self, jobs: &[Job]) -> Result<(), StoreError>;

    /// Gives hosts to an instance, if none belongs to anybody else: all or none.
    async fn claim(&self, hosts: &[Host], claimant: &Claimant<'_>) -> Result<Claim, StoreError>;

    /// What a claim would end in, now.
    async fn may_claim(&self, hosts: &[Host], claimant: &Claimant<'_>) -> Result<Claim, StoreError>;

    /// The hosts of an instance.
    async fn held(&self, id: &InstanceId) -> Result<Vec<Host>, StoreError>;

    /// Frees the hosts of an instance, except for these. Who had them may claim them again at once, others after the
    /// cool-down.
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

    /// All claims, also of hosts that were freed.
    async fn claims(&self) -> Result<Vec<Claimed>, StoreError>;

    /// Writes an entry of another store's audit log.
    async fn restore(&self, entry: &Entry) -> Result<(), StoreError>;

    /// Revokes something, with its entry in the audit log. What was revoked under its name stays so. A full table widens.
    async fn revoke(&self, revocation: &Revocation) -> Result<Revoke, StoreError>;

    /// Takes a revocation back, with its entry in the audit log; nothing, when there is none of this name.
    async fn take_back(&self, name: &str, by: &str) -> Result<Option<Revocation>, StoreError>;

    /// Writes a revocation of another store, as it was there.
    async fn restore_revocation(&self, revocation: &Revocation) -> Result<Revoke, StoreError>;

    /// One revocation, if there is one of this name.
    async fn revocation(&self, name: &str) -> Result<Option<Revocation>, StoreError>;

    /// All revocations and their version, which is another one after each change; nothing while it is the known one.
    async fn revocations(&self, known: Option<u64>) -> Result<Option<(Vec<Revocation>, u64)>, StoreError>;

    /// Takes away revocations of what has expired. How many.
    async fn sweep_revocations(&self) -> Result<usize, StoreError>;

    /// Keeps what the last look around found.
    async fn note_drift(&self, drift: &Drift) -> Result<(), StoreError>;

    /// What the last look around found; nothing, when there was none.
    async fn drift(&self) -> Result<Option<Drift>, StoreError>;

    /// Whether a task is this process's for a while: it is nobody else's, or was its own already. To give it up, take it
    /// for no time.
    async fn take_turn(&self, task: &str, holder: &str, time: Duration) -> Result<bool, StoreError>;

    /// Changes whenever something was written, by this process or another one.
    fn changes(&self) -> watch::Receiver<u64>;
}
