//! The store in one DynamoDB table, for as many processes in as many zones as there are.
//!
//! Every write of an instance takes the next place in a log, so that readers get changes in order and miss none. A place
//! is taken before the write, so a reader may meet one that is still empty: it goes no further, and if the place stays
//! empty, because its writer died or was refused, it closes it. A writer that comes after that takes a new one.

mod hosts;
mod kms;
mod log;
mod revocations;
mod rows;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use aws::{Action, Error, Item, Key, Order, Page, Table};
use model::{
    Host, InstanceId,
    audit::{Entry, Query},
    controls::Controls,
    drift::Drift,
    fleet::{FleetReport, ServedSizes},
    instance::Instance,
    job::Job,
    revocation::{Revocation, table::MOST},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

pub use self::kms::KmsKeys;
use self::{
    log::Log,
    rows::{
        CONTROLS, DRIFT, MOST_ACTIONS, OUTBOX, SHARDS, SIZES, TURNS, audit_partitions, bounded, count,
        expiring, instance_key, instances_of, millis, now_ms, place, reports_of, whose,
    },
};
use crate::{
    AUDIT_KEPT, AUDIT_PAGE, Claim, Claimant, Claimed, InvalidKey, Keys, Noted, OUTBOX_PAGE, Put,
    REPORT_LIFETIME, Revoke, Store, StoreError, TURN_OF_THE_FUTURE, Write,
};

/// How often writes of other processes are looked for. Those of this process are announced at once.
const FOREIGN_WRITES: Duration = Duration::from_millis(250);
/// Somebody else was faster, so often in a row.
const TRIES: u32 = 20;

/// A store in a DynamoDB table with the string keys `pk` and `sk`, and `expires` as its time to live.
#[derive(Debug)]
pub struct DynamoStore {
    table: Table,
    log: Arc<Log>,
    keys: RwLock<Arc<Keys>>,
    wrapped: Option<KmsKeys>,
    changes: watch::Sender<u64>,
    most_revocations: usize,
}

/// With what secrets are sealed.
#[derive(Debug)]
pub enum Sealing {
    /// With these keys.
    With(Keys),
    /// With keys in the table, which KMS wraps.
    Kms(KmsKeys),
}

impl DynamoStore {
    /// Uses a table that is there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The table cannot be read, or KMS does not open the keys.
    pub async fn open(table: Table, sealing: Sealing) -> Result<Self, StoreError> {
        let (keys, wrapped) = match sealing {
            Sealing::With(keys) => (keys, None),
            Sealing::Kms(wrapped) => {
                let keys = wrapped.read().await;
                (keys.map_err(|error| failed("opening the keys", error))?, Some(wrapped))
            }
        };
        let log = Arc::new(Log::new(table.clone()));
        log.last().await.map_err(|error| failed("opening the table", error))?;
        let changes = watch::Sender::new(0);
        tokio::spawn(announce_writes(Arc::clone(&log), changes.clone()));
        Ok(Self { table, log, keys: RwLock::new(Arc::new(keys)), wrapped, changes, most_revocations: MOST })
    }

    #[cfg(test)]
    pub(crate) fn with_most_revocations(self, most_revocations: usize) -> Self {
        Self { most_revocations, ..self }
    }

    /// Makes a new key, where KMS wraps them: it seals from now on. Whether there is one.
    ///
    /// # Errors
    /// KMS makes none, or the table cannot be written.
    pub async fn add_key(&self) -> Result<bool, StoreError> {
        let Some(wrapped) = &self.wrapped else { return Ok(false) };
        wrapped.add().await.map_err(|error| failed("making a key", error))?;
        self.read_keys().await?;
        Ok(true)
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn read_keys(&self) -> Result<(), StoreError> {
        if let Some(wrapped) = &self.wrapped {
            let keys = wrapped.read().await.map_err(|error| failed("opening the keys", error))?;
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        }
        Ok(())
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    async fn opened(&self, row: &Item) -> Result<Instance, StoreError> {
        let instance: Instance = parsed(row)?;
        match self.keys().opened(instance.clone()) {
            Ok(instance) => Ok(instance),
            // Another process may have made a new key.
            Err(InvalidKey::Unknown { .. }) if self.wrapped.is_some() => {
                self.read_keys().await?;
                self.keys().opened(instance).map_err(unsealed)
            }
            Err(error) => Err(unsealed(error)),
        }
    }

    /// All instances, whatever their place in the log.
    async fn everything(&self) -> Result<Vec<Instance>, StoreError> {
        let mut all = Vec::new();
        for shard in 0..SHARDS {
            let rows = self.table.read(Page::all(&instances_of(shard))).await;
            for row in rows.map_err(|error| failed("reading all instances", error))? {
                all.push(self.opened(&row).await?);
            }
        }
        Ok(all)
    }

    /// What has to be written for an instance, at a place in the log; nothing, if it cannot be.
    fn actions(&self, write: &Write<'_>, before: Option<&Item>, at: u64) -> Result<Actions, StoreError> {
        let Write { instance, job, entry, most } = *write;
        let mut stored = instance.clone();
        stored.version += 1;
        let body = json(&self.keys().sealed(stored.clone()).map_err(unsealed)?)?;
        let (owner, present) = (instance.request.owner.to_string(), !instance.gone);
        let row = Item::at(&instance_key(&instance.id))
            .text("body", body)
            .text("owner", &owner)
            .number("version", stored.version)
            .number("present", u8::from(present));
        let put = Action::put(row);
        let put = if instance.version == 0 {
            put.only_new()
        } else {
            put.only_if("#version = :version").with_number("version", instance.version)
        };
        let mut actions =
            Actions { stored, quota_at: None, all: vec![put, Log::entry(at, Some(&instance.id))] };
        let was = before.map(whose).transpose().map_err(|error| failed("reading an instance", error))?;
        let was = was.filter(|(_, present)| *present).map(|(owner, _)| owner);
        if was.as_ref() != present.then_some(&owner) {
            if let Some(was) = was {
                actions.all.push(count(&was, "instances", -1));
            }
            if present {
                actions.quota_at = Some(actions.all.len());
                actions.all.push(bounded(count(&owner, "instances", 1), "instances", 1, most));
            }
        }
        if let Some(job) = job {
            let row = Item::at(&Key::new(OUTBOX, &job.id)).number("position", at).text("body", json(job)?);
            actions.all.push(Action::put(row));
        }
        if let Some(entry) = entry {
            actions.all.extend(audit_rows(entry, at)?);
        }
        Ok(actions)
    }
}

/// An entry of the audit log, wherever it is looked for.
fn audit_rows(entry: &Entry, at: u64) -> Result<Vec<Action>, StoreError> {
    let entry = Entry { position: at, ..entry.clone() };
    let body = json(&entry)?;
    let partitions = audit_partitions(Some(&entry.instance), Some(&entry.owner.platform));
    let row = |partition| Item::at(&Key::new(partition, place(at))).text("body", &body);
    Ok(partitions.into_iter().map(|one| Action::put(expiring(row(one), AUDIT_KEPT))).collect())
}

/// What is written together for an instance.
struct Actions {
    stored: Instance,
    /// Which of them counts the owner's instances.
    quota_at: Option<usize>,
    all: Vec<Action>,
}

/// In [`Actions`]: the instance, and its place in the log.
const INSTANCE_AT: usize = 0;
const LOG_AT: usize = 1;

async fn announce_writes(log: Arc<Log>, changes: watch::Sender<u64>) {
    let mut ticks = tokio::time::interval(FOREIGN_WRITES);
    let mut known = 0;
    while !changes.is_closed() || Arc::strong_count(&log) > 1 {
        ticks.tick().await;
        match log.last().await {
            Ok(last) if last == known && !log.has_gaps() => {}
            Ok(last) => {
                known = last;
                changes.send_modify(|count| *count += 1);
            }
            Err(error) => tracing::warn!(%error, "writes of other processes cannot be seen"),
        }
    }
}

fn failed(operation: &'static str, error: Error) -> StoreError {
    StoreError { operation, source: error.into() }
}

fn unsealed(error: InvalidKey) -> StoreError {
    StoreError { operation: "opening or sealing a secret", source: error.into() }
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError { operation: "writing a row", source: error.into() })
}

fn parsed<T: DeserializeOwned>(row: &Item) -> Result<T, StoreError> {
    let wrong = |source| StoreError { operation: "reading a row", source };
    let body = row.get_text("body").map_err(|error| wrong(error.into()))?;
    serde_json::from_str(body).map_err(|error| wrong(error.into()))
}

/// The body of a row that may not be there.
fn body_or_default<T: DeserializeOwned + Default>(row: Option<&Item>) -> Result<T, StoreError> {
    row.map_or_else(|| Ok(T::default()), parsed)
}

fn busy(operation: &'static str) -> StoreError {
    failed(operation, Error::told(format!("others were faster {TRIES} times in a row")))
}

#[async_trait]
impl Store for DynamoStore {
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let row = self.table.get(&instance_key(id)).await;
        let row = row.map_err(|error| failed("reading an instance", error))?;
        match row {
            Some(row) => self.opened(&row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn changed_since(&self, position: u64) -> Result<(Vec<Instance>, u64), StoreError> {
        let news = self.log.since(position).await.map_err(|error| failed("reading changes", error))?;
        let log::News::Changed(ids, settled) = news else {
            let log::News::Everything(settled) = news else { return Ok((Vec::new(), position)) };
            return Ok((self.everything().await?, settled));
        };
        let keys: Vec<_> = ids.iter().map(instance_key).collect();
        let mut rows = self.table.get_all(&keys).await.map_err(|error| failed("reading changes", error))?;
        let mut instances = Vec::with_capacity(keys.len());
        for row in keys.iter().filter_map(|key| rows.remove(key)) {
            instances.push(self.opened(&row).await?);
        }
        Ok((instances, settled))
    }

    async fn put(&self, write: Write<'_>) -> Result<Put, StoreError> {
        let failed = |error| failed("writing an instance", error);
        let key = instance_key(&write.instance.id);
        for _ in 0..TRIES {
            // What is known to be in vain takes no place in the log.
            let before = self.table.get(&key).await.map_err(failed)?;
            let version = before.as_ref().map(|row| row.get_number("version")).transpose().map_err(failed)?;
            if version.flatten().unwrap_or(0) != write.instance.version {
                return Ok(Put::Conflict);
            }
            let at = self.log.take().await.map_err(failed)?;
            let Actions { stored, quota_at, all } = self.actions(&write, before.as_ref(), at)?;
            let refused = match self.table.write(all).await.map_err(failed)? {
                Ok(()) => {
                    self.announce();
                    return Ok(Put::Stored(Box::new(stored)));
                }
                Err(refused) => refused,
            };
            if refused.contains(&LOG_AT) {
                continue;
            }
            self.log.close(at).await.map_err(failed)?;
            if !refused.contains(&INSTANCE_AT) && refused.iter().any(|at| Some(*at) == quota_at) {
                return Ok(Put::OverQuota);
            }
            return Ok(Put::Conflict);
        }
        Err(busy("writing an instance"))
    }

    async fn audit(&self, query: &Query) -> Result<Vec<Entry>, StoreError> {
        let Query { instance, platform, before } = query;
        let partitions = audit_partitions(instance.as_ref(), platform.as_deref());
        // The last one says most.
        let pk = partitions.last().map(String::as_str).unwrap_or_default();
        let most = usize::try_from(AUDIT_PAGE).unwrap_or(usize::MAX);
        let mut entries: Vec<Entry> = Vec::new();
        let mut to = before.map(|before| place(before.saturating_sub(1)));
        while entries.len() < most {
            let page = Page { pk, from: None, to: to.as_deref(), order: Order::Descending, most: Some(most) };
            let rows = self.table.read(page).await.map_err(|error| failed("reading the audit log", error))?;
            let read: Vec<Entry> = rows.iter().map(parsed).collect::<Result<_, _>>()?;
            let next = read.last().map(|entry| place(entry.position.saturating_sub(1)));
            let whole = read.len() == most;
            let is_asked_for = |entry: &Entry| {
                instance.as_ref().is_none_or(|id| *id == entry.instance)
                    && platform.as_ref().is_none_or(|name| *name == entry.owner.platform)
            };
            entries.extend(read.into_iter().filter(is_asked_for));
            if !whole {
                break;
            }
            to = next;
        }
        entries.truncate(most);
        Ok(entries)
    }

    async fn outbox(&self) -> Result<Vec<Job>, StoreError> {
        let reading = |error| failed("reading the outbox", error);
        let rows = self.table.read(Page::all(OUTBOX)).await.map_err(reading)?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in &rows {
            let position: Option<u64> = row.get_number("position").map_err(reading)?;
            jobs.push((position, parsed::<Job>(row)?));
        }
        jobs.sort_by_key(|(position, _)| *position);
        jobs.truncate(usize::try_from(OUTBOX_PAGE).unwrap_or(usize::MAX));
        Ok(jobs.into_iter().map(|(_, job)| job).collect())
    }

    async fn dispatched(&self, jobs: &[Job]) -> Result<(), StoreError> {
        for jobs in jobs.chunks(MOST_ACTIONS) {
            let deletes = jobs.iter().map(|job| Action::delete(Key::new(OUTBOX, &job.id))).collect();
            let written = self.table.write(deletes).await;
            // Without conditions nothing is refused.
            let _written = written.map_err(|error| failed("clearing the outbox", error))?;
        }
        Ok(())
    }

    async fn claim(&self, hosts: &[Host], claimant: &Claimant<'_>) -> Result<Claim, StoreError> {
        let claimed = hosts::claim(&self.table, hosts, claimant).await;
        claimed.map_err(|error| failed("claiming hosts", error))
    }

    async fn may_claim(&self, hosts: &[Host], claimant: &Claimant<'_>) -> Result<Claim, StoreError> {
        let judged = hosts::judge(&self.table, hosts, claimant).await;
        Ok(judged.map_err(|error| failed("looking hosts up", error))?.0)
    }

    async fn held(&self, id: &InstanceId) -> Result<Vec<Host>, StoreError> {
        hosts::held(&self.table, id).await.map_err(|error| failed("looking hosts up", error))
    }

    async fn release(&self, id: &InstanceId, keep: &[Host]) -> Result<(), StoreError> {
        hosts::release(&self.table, id, keep).await.map_err(|error| failed("releasing hosts", error))
    }

    async fn report(&self, replica: &str, group: &str, report: &FleetReport) -> Result<(), StoreError> {
        let row = Item::at(&Key::new(reports_of(group), replica)).text("body", json(report)?);
        let row = expiring(row.number("at_ms", now_ms()), REPORT_LIFETIME);
        self.table.put(row).await.map_err(|error| failed("reporting", error))?;
        self.announce();
        Ok(())
    }

    async fn reports(&self, group: &str) -> Result<Vec<FleetReport>, StoreError> {
        let reading = |error| failed("reading reports", error);
        // One of the future is of a clock that was ahead, and would never grow old.
        let (now, lifetime) = (now_ms(), millis(REPORT_LIFETIME));
        let valid = now.saturating_sub(lifetime)..=now.saturating_add(lifetime);
        let rows = self.table.read(Page::all(&reports_of(group))).await.map_err(reading)?;
        let mut reports = Vec::new();
        for row in rows {
            if row.get_number::<u64>("at_ms").map_err(reading)?.is_some_and(|at| valid.contains(&at)) {
                reports.push(parsed(&row)?);
            }
        }
        Ok(reports)
    }

    async fn controls(&self, group: &str) -> Result<Controls, StoreError> {
        let row = self.table.get(&Key::new(CONTROLS, group)).await;
        body_or_default(row.map_err(|error| failed("reading the controls", error))?.as_ref())
    }

    async fn decide(&self, group: &str, before: &Controls, after: &Controls) -> Result<bool, StoreError> {
        let failed = |error| failed("writing the controls", error);
        let key = Key::new(CONTROLS, group);
        for _ in 0..TRIES {
            let row = self.table.get(&key).await.map_err(failed)?;
            if body_or_default::<Controls>(row.as_ref())? != *before {
                return Ok(false);
            }
            let put = Action::put(Item::at(&key).text("body", json(after)?));
            let put = match &row {
                None => put.only_new(),
                Some(row) => {
                    put.only_if("#body = :before").with_text("before", row.get_text("body").map_err(failed)?)
                }
            };
            // A place in the log, so that other processes look.
            let at = self.log.take().await.map_err(failed)?;
            match self.table.write(vec![put, Log::entry(at, None)]).await.map_err(failed)? {
                Ok(()) => {
                    self.announce();
                    return Ok(true);
                }
                Err(refused) if refused.contains(&LOG_AT) => {}
                Err(_) => {
                    self.log.close(at).await.map_err(failed)?;
                    return Ok(false);
                }
            }
        }
        Err(busy("writing the controls"))
    }

    async fn remember(&self, group: &str, sizes: &ServedSizes) -> Result<(), StoreError> {
        let row = Item::at(&Key::new(SIZES, group)).text("body", json(sizes)?);
        self.table.put(row).await.map_err(|error| failed("writing sizes", error))
    }

    async fn remembered(&self, group: &str) -> Result<ServedSizes, StoreError> {
        let row = self.table.get(&Key::new(SIZES, group)).await;
        body_or_default(row.map_err(|error| failed("reading sizes", error))?.as_ref())
    }

    async fn claims(&self) -> Result<Vec<Claimed>, StoreError> {
        hosts::all(&self.table).await.map_err(|error| failed("reading claims", error))
    }

    async fn restore(&self, entry: &Entry) -> Result<(), StoreError> {
        let failed = |error| failed("writing the audit log", error);
        let at = self.log.take().await.map_err(failed)?;
        let mut actions = audit_rows(entry, at)?;
        actions.push(Log::entry(at, None));
        match self.table.write(actions).await.map_err(failed)? {
            Ok(()) => Ok(()),
            Err(_) => Err(busy("writing the audit log")),
        }
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoke, StoreError> {
        self.put_revocation(revocation, Noted::InTheLog).await
    }

    async fn take_back(&self, name: &str, by: &str) -> Result<Option<Revocation>, StoreError> {
        self.remove_revocation(name, by).await
    }

    async fn restore_revocation(&self, revocation: &Revocation) -> Result<Revoke, StoreError> {
        self.put_revocation(revocation, Noted::Nowhere).await
    }

    async fn revocation(&self, name: &str) -> Result<Option<Revocation>, StoreError> {
        self.read_revocation(name).await
    }

    async fn revocations(&self, known: Option<u64>) -> Result<Option<(Vec<Revocation>, u64)>, StoreError> {
        self.revocations_since(known).await
    }

    async fn sweep_revocations(&self) -> Result<usize, StoreError> {
        self.sweep_expired().await
    }

    async fn note_drift(&self, drift: &Drift) -> Result<(), StoreError> {
        let row = Item::at(&Key::new(DRIFT, "last")).text("body", json(drift)?);
        self.table.put(row).await.map_err(|error| failed("noting drift", error))
    }

    async fn drift(&self) -> Result<Option<Drift>, StoreError> {
        let row = self.table.get(&Key::new(DRIFT, "last")).await;
        row.map_err(|error| failed("reading drift", error))?.as_ref().map(parsed).transpose()
    }

    async fn take_turn(&self, task: &str, holder: &str, time: Duration) -> Result<bool, StoreError> {
        let now = now_ms();
        let row = Item::at(&Key::new(TURNS, task)).text("holder", holder);
        let put = Action::put(row.number("until_ms", now.saturating_add(millis(time))));
        let free =
            "attribute_not_exists(pk) OR #holder = :holder OR #until_ms <= :now OR #until_ms > :longest";
        let put = put.only_if(free).with_text("holder", holder).with_number("now", now);
        let put = put.with_number("longest", now.saturating_add(millis(TURN_OF_THE_FUTURE)));
        let written = self.table.write(vec![put]).await.map_err(|error| failed("taking a turn", error))?;
        Ok(written.is_ok())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
