//! Everything that a store knows, as lines of JSON: to move to another one, or to keep a copy.
//!
//! Secrets are in the clear, since the other store has other keys.

use model::{
    audit::{Entry, Query},
    controls::Controls,
    instance::Instance,
    revocation::Revocation,
};
use serde::{Deserialize, Serialize};

use crate::{AUDIT_KEPT, Claim, Claimant, Claimed, Put, Revoke, Store, StoreError, Write};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The first one: which form the others have.
    Gatehouse {
        /// Raised with every form that this release could not read.
        version: u32,
    },
    /// A service instance, also one that is gone.
    Instance(Box<Instance>),
    /// Whose a host is.
    Claim(Claimed),
    /// What operators decided for a group.
    Controls {
        /// Of nodes.
        group: String,
        /// What.
        controls: Controls,
    },
    /// What was withdrawn before its time.
    Revocation(Box<Revocation>),
    /// An entry of the audit log.
    Audit(Box<Entry>),
}

/// The form of this release.
const VERSION: u32 = 1;

/// State that cannot be moved.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StateError {
    #[error("the store holds {0} service instances already; state is read into an empty one")]
    NotEmpty(usize),
    #[error("the first line must be {{\"record\":\"gatehouse\",\"version\":{VERSION}}}")]
    NotState,
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Everything, in the order in which it is read back: instances, hosts, decisions, revocations, and the audit log from its beginning.
pub async fn export(store: &dyn Store, group: &str) -> Result<Vec<Record>, StoreError> {
    let mut records = vec![Record::Gatehouse { version: VERSION }];
    let (instances, _) = store.changed_since(0).await?;
    records.extend(instances.into_iter().map(|instance| Record::Instance(Box::new(instance))));
    records.extend(store.claims().await?.into_iter().map(Record::Claim));
    let controls = store.controls(group).await?;
    if controls != Controls::default() {
        records.push(Record::Controls { group: group.to_owned(), controls });
    }
    let revocations = store.revocations(None).await?.map(|(entries, _)| entries).unwrap_or_default();
    records.extend(revocations.into_iter().map(|entry| Record::Revocation(Box::new(entry))));
    let (mut entries, mut query) = (Vec::new(), Query::default());
    loop {
        let page = store.audit(&query).await?;
        let Some(oldest) = page.last() else { break };
        query.before = Some(oldest.position);
        entries.extend(page);
    }
    records.extend(entries.into_iter().rev().map(|entry| Record::Audit(Box::new(entry))));
    Ok(records)
}

/// Reads everything into an empty store. Operations that were under way go on: their jobs are sent again.
///
/// # Errors
/// The store is not empty, or something does not fit into it; then it is neither empty nor whole.
pub async fn import(
    store: &dyn Store,
    records: impl IntoIterator<Item = Record>,
) -> Result<usize, StateError> {
    let (known, _) = store.changed_since(0).await?;
    if !known.is_empty() {
        return Err(StateError::NotEmpty(known.len()));
    }
    let mut records = records.into_iter();
    if records.next() != Some(Record::Gatehouse { version: VERSION }) {
        return Err(StateError::NotState);
    }
    let mut instances = 0;
    for record in records {
        match record {
            Record::Gatehouse { .. } => return Err(StateError::NotState),
            Record::Instance(instance) => {
                let instance = Instance { version: 0, ..*instance };
                let job = instance.operation.in_progress().then(|| instance.job());
                let write = Write { job: job.as_ref(), ..Write::of(&instance) };
                if !matches!(store.put(write).await?, Put::Stored(_)) {
                    return Err(StateError::Refused(format!("the instance {} comes twice", instance.id)));
                }
                instances += 1;
            }
            Record::Claim(claimed) => claim(store, &claimed).await?,
            Record::Controls { group, controls } => {
                if !store.decide(&group, &Controls::default(), &controls).await? {
                    return Err(StateError::Refused(format!("there are decisions for {group} already")));
                }
            }
            Record::Revocation(entry) => {
                if let Revoke::Full(full) = store.restore_revocation(&entry).await? {
                    return Err(StateError::Refused(full.to_string()));
                }
            }
            Record::Audit(entry) => store.restore(&entry).await?,
        }
    }
    Ok(instances)
}

/// A host that is kept for its owner is freed now: it is kept a bit longer than it would have been.
async fn claim(store: &dyn Store, claimed: &Claimed) -> Result<(), StateError> {
    let Claimed { host, instance, owner, is_free } = claimed;
    // Long, so that hosts which were freed a moment ago are not taken for cold ones.
    let claimant = Claimant { instance, owner, most: None, cool_down: AUDIT_KEPT };
    if store.claim(std::slice::from_ref(host), &claimant).await? != Claim::Held {
        return Err(StateError::Refused(format!("the host {host} comes twice")));
    }
    if *is_free {
        let held = store.held(instance).await?;
        let keep: Vec<_> = held.into_iter().filter(|one| one != host).collect();
        store.release(instance, &keep).await?;
    }
    Ok(())
}
