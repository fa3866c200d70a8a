//! The embedded store: tables in one SQLite file.

mod revocations;
mod tables;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
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
use sqlite::{
    Database, Error, Written, after_ms, now_ms,
    rusqlite::{Connection, OptionalExtension as _, params},
};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::{
    AUDIT_KEPT, AUDIT_PAGE, Claim, Claimant, Claimed, InvalidKey, Keys, Noted, OUTBOX_PAGE, Put,
    REPORT_LIFETIME, Refusal, Revoke, Store, StoreError, TURN_OF_THE_FUTURE, Write, claimed,
};

/// How often writes of other processes are looked for. Those of this process are announced at once.
const FOREIGN_WRITES: Duration = Duration::from_millis(10);

/// The hosts of an instance.
const HELD: &str = "SELECT host FROM hosts WHERE instance = ?1 AND freed_at_ms IS NULL";

/// A store in one file.
#[derive(Debug)]
pub struct SqliteStore {
    database: Database,
    keys: Keys,
    changes: watch::Sender<u64>,
    most_revocations: usize,
}

impl SqliteStore {
    /// Opens the file, or makes it; secrets are sealed with the keys. Must be called within a tokio runtime.
    pub fn open(path: &Path, keys: Keys) -> Result<Self, StoreError> {
        let opened = Database::open(path).map_err(|error| failed("opening the database", error))?;
        Self::on(opened, keys)
    }

    /// In a file that is open already.
    pub fn on(database: Database, keys: Keys) -> Result<Self, StoreError> {
        let opening = |error| failed("opening the database", error);
        database.bring_forward(tables::TABLES).map_err(opening)?;
        let writes = database.writes().map_err(opening)?;
        let changes = watch::Sender::new(0);
        tokio::spawn(announce_writes(writes, changes.clone()));
        Ok(Self { database, keys, changes, most_revocations: MOST })
    }

    #[cfg(test)]
    pub(crate) fn with_most_revocations(self, most_revocations: usize) -> Self {
        Self { most_revocations, ..self }
    }

    async fn write_revocation(&self, new: &Revocation, noted: Noted) -> Result<Revoke, StoreError> {
        let (new, most) = (new.clone(), self.most_revocations);
        let written = self.write("revoking", move |db| revocations::put(db, &new, most, noted)).await?;
        self.announce();
        Ok(written)
    }

    async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        self.database.read(work).await.map_err(|error| failed(operation, error))
    }

    async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<Written<T>, Error> + Send + 'static,
    {
        self.database.write(work).await.map_err(|error| failed(operation, error))
    }

    fn opened(&self, instance: Instance) -> Result<Instance, StoreError> {
        self.keys.opened(instance).map_err(unsealed)
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

async fn announce_writes(mut writes: sqlite::Writes, changes: watch::Sender<u64>) {
    let mut ticks = tokio::time::interval(FOREIGN_WRITES);
    while let Some(something) = {
        ticks.tick().await;
        writes.look().await
    } {
        if something {
            changes.send_modify(|count| *count += 1);
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
    serde_json::to_string(value).map_err(|error| failed("writing a row", error.into()))
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    Ok(serde_json::from_str(text)?)
}

fn one(db: &Connection, query: &str, key: &str) -> Result<Option<String>, Error> {
    Ok(db.query_row(query, [key], |row| row.get(0)).optional()?)
}

fn count(db: &Connection, query: &str, key: &str) -> Result<u32, Error> {
    Ok(db.prepare_cached(query)?.query_row([key], |row| row.get(0))?)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What is written of an instance.
struct Row {
    id: String,
    expected: i64,
    body: String,
    owner: String,
    present: bool,
    most: Option<u32>,
}

/// An instance, upon the version that was read; the end of it, if it was not written.
fn write_instance(write: &Connection, row: &Row) -> Result<Option<Put>, Error> {
    let Row { id, expected, body, owner, present, most } = row;
    let was_present = write
        .prepare_cached("SELECT present FROM instances WHERE id = ?1 AND version = ?2")?
        .query_row(params![id, expected], |row| row.get::<_, bool>(0))
        .optional()?;
    if let (Some(most), true, false) = (most, present, was_present.unwrap_or(false)) {
        let have = count(write, "SELECT count(*) FROM instances WHERE owner = ?1 AND present", owner)?;
        if have >= *most {
            return Ok(Some(Put::OverQuota));
        }
    }
    write.prepare_cached("UPDATE positions SET last = last + 1")?.execute([])?;
    let rows = if *expected == 0 {
        let sql = "INSERT INTO instances SELECT ?1, 1, last, ?2, ?3, ?4 FROM positions WHERE TRUE
                   ON CONFLICT DO NOTHING";
        write.prepare_cached(sql)?.execute(params![id, body, owner, present])?
    } else {
        let sql = "UPDATE instances SET version = version + 1, body = ?2, owner = ?3, present = ?4,
                   position = (SELECT last FROM positions) WHERE id = ?1 AND version = ?5";
        write.prepare_cached(sql)?.execute(params![id, body, owner, present, expected])?
    };
    Ok((rows == 0).then_some(Put::Conflict))
}

fn write_entry(write: &Connection, entry: &Entry, body: &str) -> Result<(), Error> {
    let at_ms = i64::try_from(entry.at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
    write
        .prepare_cached("DELETE FROM audit WHERE at_ms < ?1")?
        .execute([now_ms().saturating_sub(millis(AUDIT_KEPT))])?;
    write
        .prepare_cached("INSERT INTO audit (at_ms, platform, instance, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![at_ms, entry.owner.platform, entry.instance.as_str(), body])?;
    Ok(())
}

/// A claim, as it is sent to the thread of the database.
struct Wanted {
    hosts: Vec<String>,
    instance: String,
    owner: String,
    most: Option<u32>,
    cool_down: Duration,
}

impl Wanted {
    fn of(hosts: &[Host], claimant: &Claimant<'_>) -> Self {
        Self {
            hosts: hosts.iter().map(ToString::to_string).collect(),
            instance: claimant.instance.to_string(),
            owner: claimant.owner.to_string(),
            most: claimant.most,
            cool_down: claimant.cool_down,
        }
    }

    /// The end of the claim, and what has to be written for it.
    fn judge(&self, db: &Connection) -> Result<(Claim, Vec<&str>), Error> {
        let held = "SELECT count(*) FROM hosts WHERE owner = ?1 AND freed_at_ms IS NULL";
        let held = if self.most.is_some() { count(db, held, &self.owner)? } else { 0 };
        let mut news = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            let refused = |why| Ok((Claim::Refused { at, why }, Vec::new()));
            match self.found(db, host)? {
                Found::Own => continue,
                Found::Refused(why) => return refused(why),
                Found::Free => {}
            }
            let after = held.saturating_add(u32::try_from(news.len()).unwrap_or(u32::MAX)).saturating_add(1);
            if self.most.is_some_and(|most| after > most) {
                return refused(Refusal::OverQuota);
            }
            news.push(host.as_str());
        }
        Ok((Claim::Held, news))
    }

    fn found(&self, db: &Connection, host: &str) -> Result<Found, Error> {
        let known = db
            .prepare_cached("SELECT instance, owner, freed_at_ms FROM hosts WHERE host = ?1")?
            .query_row([host], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<i64>>(2)?))
            })
            .optional()?;
        let unreadable = |error: &dyn std::fmt::Display| Error::Meaning(error.to_string());
        Ok(match known {
            Some((holder, _, None)) if holder == self.instance => Found::Own,
            Some((holder, _, None)) => Found::Refused(Refusal::Taken(
                InstanceId::try_from(holder).map_err(|error| unreadable(&error))?,
            )),
            Some((_, owner, Some(freed))) if owner != self.owner => {
                let until = freed.saturating_add(millis(self.cool_down));
                if until <= now_ms() {
                    return Ok(Found::Free);
                }
                let until = OffsetDateTime::from_unix_timestamp_nanos(i128::from(until) * 1_000_000);
                Found::Refused(Refusal::Cooling(until.map_err(|error| unreadable(&error))?))
            }
            _ => Found::Free,
        })
    }
}

/// Whose a host is.
enum Found {
    Own,
    Free,
    Refused(Refusal),
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let id = id.to_string();
        let found = self
            .read("reading an instance", move |db| {
                let body = one(db, "SELECT body FROM instances WHERE id = ?1", &id)?;
                body.map(|body| parsed(&body)).transpose()
            })
            .await?;
        found.map(|instance| self.opened(instance)).transpose()
    }

    async fn changed_since(&self, position: u64) -> Result<(Vec<Instance>, u64), StoreError> {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let read = self.read("reading changes", move |db| {
            let last: i64 = db.query_row("SELECT last FROM positions", [], |row| row.get(0))?;
            let mut query =
                db.prepare_cached("SELECT body FROM instances WHERE position > ?1 ORDER BY position")?;
            let bodies = query.query_map([position], |row| row.get::<_, String>(0))?;
            let instances = bodies.map(|body| parsed(&body?)).collect::<Result<Vec<_>, Error>>()?;
            Ok((instances, u64::try_from(last).unwrap_or(0)))
        });
        let (instances, last) = read.await?;
        let instances =
            instances.into_iter().map(|instance| self.opened(instance)).collect::<Result<_, _>>()?;
        Ok((instances, last))
    }

    async fn put(&self, write: Write<'_>) -> Result<Put, StoreError> {
        let Write { instance, job, entry, most } = write;
        let mut stored = instance.clone();
        stored.version += 1;
        let row = Row {
            id: instance.id.to_string(),
            expected: i64::try_from(instance.version).unwrap_or(i64::MAX),
            body: json(&self.keys.sealed(stored.clone()).map_err(unsealed)?)?,
            owner: instance.request.owner.to_string(),
            present: !instance.gone,
            most,
        };
        let job = job.map(|job| Ok::<_, StoreError>((job.id.clone(), json(job)?))).transpose()?;
        let entry = entry.map(|entry| Ok::<_, StoreError>((entry.clone(), json(entry)?))).transpose()?;
        let refused = self
            .write("writing an instance", move |db| {
                if let Some(refused) = write_instance(db, &row)? {
                    return Ok(Written::Undo(Some(refused)));
                }
                if let Some((job_id, job)) = job {
                    db.prepare_cached("INSERT OR IGNORE INTO outbox VALUES (?1, ?2)")?
                        .execute(params![job_id, job])?;
                }
                if let Some((entry, body)) = entry {
                    write_entry(db, &entry, &body)?;
                }
                Ok(Written::Keep(None))
            })
            .await?;
        if let Some(refused) = refused {
            return Ok(refused);
        }
        self.announce();
        Ok(Put::Stored(Box::new(stored)))
    }

    async fn audit(&self, query: &Query) -> Result<Vec<Entry>, StoreError> {
        let Query { instance, platform, before } = query.clone();
        self.read("reading the audit log", move |db| {
            let mut query = db.prepare_cached(
                "SELECT position, body FROM audit WHERE position < ?1 AND (?2 IS NULL OR instance = ?2)
                 AND (?3 IS NULL OR platform = ?3) ORDER BY position DESC LIMIT ?4",
            )?;
            let before = before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
            let instance = instance.map(|id| id.to_string());
            let rows = query.query_map(params![before, instance, platform, AUDIT_PAGE], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
            })?;
            rows.map(|row| {
                let (position, body) = row?;
                Ok(Entry { position: u64::try_from(position).unwrap_or(0), ..parsed(&body)? })
            })
            .collect()
        })
        .await
    }

    async fn outbox(&self) -> Result<Vec<Job>, StoreError> {
        self.read("reading the outbox", |db| {
            let mut query = db.prepare_cached("SELECT body FROM outbox ORDER BY rowid LIMIT ?1")?;
            let bodies = query.query_map([OUTBOX_PAGE], |row| row.get::<_, String>(0))?;
            bodies.map(|body| parsed(&body?)).collect()
        })
        .await
    }

    async fn dispatched(&self, jobs: &[Job]) -> Result<(), StoreError> {
        let ids: Vec<_> = jobs.iter().map(|job| job.id.clone()).collect();
        self.write("clearing the outbox", move |db| {
            let mut delete = db.prepare_cached("DELETE FROM outbox WHERE id = ?1")?;
            for id in ids {
                delete.execute([id])?;
            }
            Ok(Written::Keep(()))
        })
        .await
    }

    async fn claim(&self, hosts: &[Host], claimant: &Claimant<'_>) -> Result<Claim, StoreError> {
        let wanted = Wanted::of(hosts, claimant);
        self.write("claiming hosts", move |db| {
            let (end, news) = wanted.judge(db)?;
            if !news.is_empty() {
                // A name that is free for everybody again needs no row.
                let cold = now_ms().saturating_sub(millis(wanted.cool_down));
                db.prepare_cached("DELETE FROM hosts WHERE freed_at_ms < ?1")?.execute([cold])?;
                let mut insert = db.prepare_cached(
                    "INSERT OR REPLACE INTO hosts (host, instance, owner) VALUES (?1, ?2, ?3)",
                )?;
                for host in news {
                    insert.execute([host, &wanted.instance, &wanted.owner])?;
                }
            }
            Ok(Written::Keep(end))
        })
        .await
    }

    async fn may_claim(&self, hosts: &[Host], claimant: &Claimant<'_>) -> Result<Claim, StoreError> {
        let wanted = Wanted::of(hosts, claimant);
        self.read("looking hosts up", move |db| Ok(wanted.judge(db)?.0)).await
    }

    async fn held(&self, id: &InstanceId) -> Result<Vec<Host>, StoreError> {
        let id = id.to_string();
        self.read("looking hosts up", move |db| {
            let mut query = db.prepare_cached(HELD)?;
            let hosts = query.query_map([id], |row| row.get::<_, String>(0))?;
            hosts
                .map(|host| Host::try_from(host?).map_err(|error| Error::Meaning(error.to_string())))
                .collect()
        })
        .await
    }

    async fn release(&self, id: &InstanceId, keep: &[Host]) -> Result<(), StoreError> {
        let id = id.to_string();
        let keep: Vec<String> = keep.iter().map(ToString::to_string).collect();
        self.write("releasing hosts", move |db| {
            let held: Vec<String> = {
                let mut query = db.prepare_cached(HELD)?;
                query.query_map([&id], |row| row.get(0))?.collect::<Result<_, _>>()?
            };
            for host in held.iter().filter(|host| !keep.contains(host)) {
                db.execute("UPDATE hosts SET freed_at_ms = ?2 WHERE host = ?1", params![host, now_ms()])?;
            }
            Ok(Written::Keep(()))
        })
        .await
    }

    async fn report(&self, replica: &str, group: &str, report: &FleetReport) -> Result<(), StoreError> {
        let (replica, group, body) = (replica.to_owned(), group.to_owned(), json(report)?);
        self.write("reporting", move |db| {
            db.execute(
                "INSERT OR REPLACE INTO reports VALUES (?1, ?2, ?3, ?4)",
                params![replica, group, body, now_ms()],
            )?;
            Ok(Written::Keep(()))
        })
        .await?;
        self.announce();
        Ok(())
    }

    async fn reports(&self, group: &str) -> Result<Vec<FleetReport>, StoreError> {
        let group = group.to_owned();
        // One of the future is of a clock that was ahead, and would never grow old.
        let (oldest, newest) = (now_ms() - millis(REPORT_LIFETIME), after_ms(REPORT_LIFETIME));
        self.read("reading reports", move |db| {
            let mut query =
                db.prepare_cached("SELECT body FROM reports WHERE grp = ?1 AND at_ms BETWEEN ?2 AND ?3")?;
            let bodies = query.query_map(params![group, oldest, newest], |row| row.get::<_, String>(0))?;
            bodies.map(|body| parsed(&body?)).collect()
        })
        .await
    }

    async fn controls(&self, group: &str) -> Result<Controls, StoreError> {
        let group = group.to_owned();
        self.read("reading the controls", move |db| {
            let body = one(db, "SELECT body FROM controls WHERE grp = ?1", &group)?;
            body.map_or_else(|| Ok(Controls::default()), |body| parsed(&body))
        })
        .await
    }

    async fn decide(&self, group: &str, before: &Controls, after: &Controls) -> Result<bool, StoreError> {
        let (group, before, body) = (group.to_owned(), before.clone(), json(after)?);
        let written = self.write("writing the controls", move |db| {
            let known = one(db, "SELECT body FROM controls WHERE grp = ?1", &group)?;
            let known = known.map_or_else(|| Ok(Controls::default()), |body| parsed(&body))?;
            if known != before {
                return Ok(Written::Undo(false));
            }
            db.execute("INSERT OR REPLACE INTO controls VALUES (?1, ?2)", [group, body])?;
            Ok(Written::Keep(true))
        });
        let written = written.await?;
        self.announce();
        Ok(written)
    }

    async fn remember(&self, group: &str, sizes: &ServedSizes) -> Result<(), StoreError> {
        let (group, body) = (group.to_owned(), json(sizes)?);
        self.write("writing sizes", move |db| {
            db.execute("INSERT OR REPLACE INTO sizes VALUES (?1, ?2)", [group, body])?;
            Ok(Written::Keep(()))
        })
        .await
    }

    async fn remembered(&self, group: &str) -> Result<ServedSizes, StoreError> {
        let group = group.to_owned();
        self.read("reading sizes", move |db| {
            let body = one(db, "SELECT body FROM sizes WHERE grp = ?1", &group)?;
            body.map_or_else(|| Ok(ServedSizes::default()), |body| parsed(&body))
        })
        .await
    }

    async fn claims(&self) -> Result<Vec<Claimed>, StoreError> {
        self.read("reading claims", |db| {
            let mut query =
                db.prepare_cached("SELECT host, instance, owner, freed_at_ms IS NOT NULL FROM hosts")?;
            let rows = query.query_map([], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, String>(2)?,
                    row.get(3)?,
                ))
            })?;
            rows.map(|row| {
                let (host, instance, owner, is_free) = row?;
                claimed(host, instance, &owner, is_free).map_err(Error::Meaning)
            })
            .collect()
        })
        .await
    }

    async fn restore(&self, entry: &Entry) -> Result<(), StoreError> {
        let (entry, body) = (entry.clone(), json(entry)?);
        self.write("writing the audit log", move |db| {
            write_entry(db, &entry, &body)?;
            Ok(Written::Keep(()))
        })
        .await
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<Revoke, StoreError> {
        self.write_revocation(revocation, Noted::InTheLog).await
    }

    async fn take_back(&self, name: &str, by: &str) -> Result<Option<Revocation>, StoreError> {
        let (name, by) = (name.to_owned(), by.to_owned());
        let gone = self.write("taking a revocation back", move |db| revocations::remove(db, &name, &by));
        let gone = gone.await?;
        self.announce();
        Ok(gone)
    }

    async fn restore_revocation(&self, revocation: &Revocation) -> Result<Revoke, StoreError> {
        self.write_revocation(revocation, Noted::Nowhere).await
    }

    async fn revocation(&self, name: &str) -> Result<Option<Revocation>, StoreError> {
        let name = name.to_owned();
        self.read("reading a revocation", move |db| revocations::read_one(db, &name)).await
    }

    async fn revocations(&self, known: Option<u64>) -> Result<Option<(Vec<Revocation>, u64)>, StoreError> {
        self.read("reading revocations", move |db| revocations::since(db, known)).await
    }

    async fn sweep_revocations(&self) -> Result<usize, StoreError> {
        let swept = self.write("sweeping revocations", |db| {
            Ok(Written::Keep(revocations::sweep(db, revocations::now_secs(), MOST)?))
        });
        let swept = swept.await?;
        self.announce();
        Ok(swept)
    }

    async fn note_drift(&self, drift: &Drift) -> Result<(), StoreError> {
        let body = json(drift)?;
        self.write("noting drift", move |db| {
            db.execute("DELETE FROM drift", [])?;
            db.execute("INSERT INTO drift VALUES (?1)", [body])?;
            Ok(Written::Keep(()))
        })
        .await
    }

    async fn drift(&self) -> Result<Option<Drift>, StoreError> {
        self.read("reading drift", |db| {
            let body =
                db.query_row("SELECT body FROM drift", [], |row| row.get::<_, String>(0)).optional()?;
            body.map(|body| parsed(&body)).transpose()
        })
        .await
    }

    async fn take_turn(&self, task: &str, holder: &str, time: Duration) -> Result<bool, StoreError> {
        let (task, holder) = (task.to_owned(), holder.to_owned());
        self.write("taking a turn", move |db| {
            let sql = "INSERT INTO turns VALUES (?1, ?2, ?4) ON CONFLICT (task)
                       DO UPDATE SET holder = ?2, until_ms = ?4
                       WHERE holder = ?2 OR until_ms <= ?3 OR until_ms > ?5";
            let now = params![task, holder, now_ms(), after_ms(time), after_ms(TURN_OF_THE_FUTURE)];
            let rows = db.execute(sql, now)?;
            Ok(Written::Keep(rows == 1))
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
