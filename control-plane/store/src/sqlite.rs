//! The embedded store: one SQLite file in WAL mode, synced at each commit.

use std::{
    fmt,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use model::{
    Host, InstanceId,
    controls::Controls,
    fleet::{FleetReport, ServedSizes},
    instance::Instance,
    job::Job,
};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use crate::{Claim, Put, Store, StoreError};

/// How often another process's writes are looked for: `PRAGMA data_version` reads a counter in shared memory.
/// Writes of this process are announced at once.
const FOREIGN_WRITES: Duration = Duration::from_millis(10);
/// A writer of another process holds the lock for a few milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A replica reports every few seconds; one that is silent for so long is gone.
const REPORT_LIFETIME: Duration = Duration::from_secs(15);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS instances (
        id TEXT PRIMARY KEY, version INTEGER NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS instances_by_position ON instances (position);
    CREATE TABLE IF NOT EXISTS hosts (host TEXT PRIMARY KEY, instance TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS hosts_by_instance ON hosts (instance);
    CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS reports (
        replica TEXT NOT NULL, grp TEXT NOT NULL, body TEXT NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (replica, grp)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS controls (grp TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS sizes (grp TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS positions (last INTEGER NOT NULL) STRICT;
    INSERT INTO positions SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM positions);
";

/// A store in one file.
pub struct SqliteStore {
    connection: Arc<Mutex<Connection>>,
    changes: watch::Sender<u64>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteStore")
    }
}

/// Why a call failed: the database, or a row that this release cannot read.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error("a row that cannot be read")]
    Row(#[from] serde_json::Error),
}

impl SqliteStore {
    /// Opens the file, or makes it. Must be called within a tokio runtime.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = || -> Result<Connection, Cause> {
            private(path)?;
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.execute_batch(SCHEMA)?;
            Ok(connection)
        };
        let connection = open().map_err(|cause| failed("opening the database", cause))?;
        let store = Self { connection: Arc::new(Mutex::new(connection)), changes: watch::Sender::new(0) };
        store.watch_foreign_writes();
        Ok(store)
    }

    fn watch_foreign_writes(&self) {
        let (connection, changes) = (Arc::downgrade(&self.connection), self.changes.clone());
        tokio::spawn(async move {
            let mut known = None;
            let mut ticks = tokio::time::interval(FOREIGN_WRITES);
            while let Some(connection) = {
                ticks.tick().await;
                connection.upgrade()
            } {
                let read = move || {
                    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                    connection.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0)).ok()
                };
                let version = tokio::task::spawn_blocking(read).await.ok().flatten();
                if version.is_some() && known.replace(version) != Some(version) {
                    changes.send_modify(|count| *count += 1);
                }
            }
        });
    }

    /// Runs a read or write away from the async threads.
    async fn with<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Cause> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        let run = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(run).await {
            Ok(result) => result.map_err(|cause| failed(operation, cause)),
            Err(gone) => Err(StoreError { operation, source: gone.into() }),
        }
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Makes the file readable by its owner only, before SQLite would make it readable by all; its `-wal` and `-shm`
/// take the same mode.
fn private(path: &Path) -> Result<(), Cause> {
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok(())
}

fn failed(operation: &'static str, cause: Cause) -> StoreError {
    StoreError { operation, source: cause.into() }
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| failed("writing a row", error.into()))
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, Cause> {
    Ok(serde_json::from_str(text)?)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn one(db: &Connection, query: &str, key: &str) -> Result<Option<String>, Cause> {
    Ok(db.query_row(query, [key], |row| row.get(0)).optional()?)
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        let id = id.to_string();
        self.with("reading an instance", move |db| {
            let body = one(db, "SELECT body FROM instances WHERE id = ?1", &id)?;
            body.map(|body| parsed(&body)).transpose()
        })
        .await
    }

    async fn changed_since(&self, position: u64) -> Result<(Vec<Instance>, u64), StoreError> {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        self.with("reading changes", move |db| {
            let read = db.transaction()?;
            let last: i64 = read.query_row("SELECT last FROM positions", [], |row| row.get(0))?;
            let mut query =
                read.prepare_cached("SELECT body FROM instances WHERE position > ?1 ORDER BY position")?;
            let bodies = query.query_map([position], |row| row.get::<_, String>(0))?;
            let instances = bodies.map(|body| parsed(&body?)).collect::<Result<_, Cause>>()?;
            Ok((instances, u64::try_from(last).unwrap_or(0)))
        })
        .await
    }

    async fn put(&self, instance: &Instance, job: Option<&Job>) -> Result<Put, StoreError> {
        let expected = i64::try_from(instance.version).unwrap_or(i64::MAX);
        let mut stored = instance.clone();
        stored.version += 1;
        let body = json(&stored)?;
        let id = instance.id.to_string();
        let job = job.map(|job| Ok::<_, StoreError>((job.id.clone(), json(job)?))).transpose()?;
        let written = self
            .with("writing an instance", move |db| {
                let write = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                write.execute("UPDATE positions SET last = last + 1", [])?;
                let rows = if expected == 0 {
                    write.execute(
                        "INSERT INTO instances SELECT ?1, 1, last, ?2 FROM positions WHERE TRUE ON CONFLICT DO NOTHING",
                        params![id, body],
                    )?
                } else {
                    write.execute(
                        "UPDATE instances SET version = version + 1, body = ?2,
                         position = (SELECT last FROM positions) WHERE id = ?1 AND version = ?3",
                        params![id, body, expected],
                    )?
                };
                if rows == 0 {
                    return Ok(false);
                }
                if let Some((job_id, job)) = job {
                    write.execute("INSERT OR IGNORE INTO outbox VALUES (?1, ?2)", params![job_id, job])?;
                }
                write.commit()?;
                Ok(true)
            })
            .await?;
        if !written {
            return Ok(Put::Conflict);
        }
        self.announce();
        Ok(Put::Stored(Box::new(stored)))
    }

    async fn outbox(&self) -> Result<Vec<Job>, StoreError> {
        self.with("reading the outbox", |db| {
            let mut query = db.prepare_cached("SELECT body FROM outbox ORDER BY rowid")?;
            let bodies = query.query_map([], |row| row.get::<_, String>(0))?;
            bodies.map(|body| parsed(&body?)).collect()
        })
        .await
    }

    async fn dispatched(&self, job: &Job) -> Result<(), StoreError> {
        let id = job.id.clone();
        self.with("clearing the outbox", move |db| {
            db.execute("DELETE FROM outbox WHERE id = ?1", [id])?;
            Ok(())
        })
        .await
    }

    async fn claim(&self, host: &Host, id: &InstanceId) -> Result<Claim, StoreError> {
        let (host, id) = (host.to_string(), id.to_string());
        let owner = self
            .with("claiming a host", {
                let id = id.clone();
                move |db| {
                    let write = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                    write
                        .execute("INSERT INTO hosts VALUES (?1, ?2) ON CONFLICT DO NOTHING", [&host, &id])?;
                    let owner: String =
                        write.query_row("SELECT instance FROM hosts WHERE host = ?1", [&host], |row| {
                            row.get(0)
                        })?;
                    write.commit()?;
                    Ok(owner)
                }
            })
            .await?;
        if owner == id {
            return Ok(Claim::Held);
        }
        let taken = InstanceId::try_from(owner);
        taken
            .map(Claim::Taken)
            .map_err(|error| StoreError { operation: "claiming a host", source: error.into() })
    }

    async fn release(&self, id: &InstanceId, keep: &[Host]) -> Result<(), StoreError> {
        let id = id.to_string();
        let keep: Vec<String> = keep.iter().map(ToString::to_string).collect();
        self.with("releasing hosts", move |db| {
            let write = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let held: Vec<String> = {
                let mut query = write.prepare_cached("SELECT host FROM hosts WHERE instance = ?1")?;
                query.query_map([&id], |row| row.get(0))?.collect::<Result<_, _>>()?
            };
            for host in held.iter().filter(|host| !keep.contains(host)) {
                write.execute("DELETE FROM hosts WHERE host = ?1", [host])?;
            }
            write.commit()?;
            Ok(())
        })
        .await
    }

    async fn report(&self, replica: &str, group: &str, report: &FleetReport) -> Result<(), StoreError> {
        let (replica, group, body) = (replica.to_owned(), group.to_owned(), json(report)?);
        self.with("reporting", move |db| {
            db.execute(
                "INSERT OR REPLACE INTO reports VALUES (?1, ?2, ?3, ?4)",
                params![replica, group, body, now_ms()],
            )?;
            Ok(())
        })
        .await?;
        self.announce();
        Ok(())
    }

    async fn reports(&self, group: &str) -> Result<Vec<FleetReport>, StoreError> {
        let group = group.to_owned();
        let oldest = now_ms() - i64::try_from(REPORT_LIFETIME.as_millis()).unwrap_or(0);
        self.with("reading reports", move |db| {
            let mut query = db.prepare_cached("SELECT body FROM reports WHERE grp = ?1 AND at_ms >= ?2")?;
            let bodies = query.query_map(params![group, oldest], |row| row.get::<_, String>(0))?;
            bodies.map(|body| parsed(&body?)).collect()
        })
        .await
    }

    async fn controls(&self, group: &str) -> Result<Controls, StoreError> {
        let group = group.to_owned();
        self.with("reading the controls", move |db| {
            let body = one(db, "SELECT body FROM controls WHERE grp = ?1", &group)?;
            body.map_or_else(|| Ok(Controls::default()), |body| parsed(&body))
        })
        .await
    }

    async fn decide(&self, group: &str, before: &Controls, after: &Controls) -> Result<bool, StoreError> {
        let (group, before, body) = (group.to_owned(), before.clone(), json(after)?);
        let written = self.with("writing the controls", move |db| {
            let write = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let known = one(&write, "SELECT body FROM controls WHERE grp = ?1", &group)?;
            let known = known.map_or_else(|| Ok(Controls::default()), |body| parsed(&body))?;
            if known != before {
                return Ok(false);
            }
            write.execute("INSERT OR REPLACE INTO controls VALUES (?1, ?2)", [group, body])?;
            write.commit()?;
            Ok(true)
        });
        let written = written.await?;
        self.announce();
        Ok(written)
    }

    async fn remember(&self, group: &str, sizes: &ServedSizes) -> Result<(), StoreError> {
        let (group, body) = (group.to_owned(), json(sizes)?);
        self.with("writing sizes", move |db| {
            db.execute("INSERT OR REPLACE INTO sizes VALUES (?1, ?2)", [group, body])?;
            Ok(())
        })
        .await
    }

    async fn remembered(&self, group: &str) -> Result<ServedSizes, StoreError> {
        let group = group.to_owned();
        self.with("reading sizes", move |db| {
            let body = one(db, "SELECT body FROM sizes WHERE grp = ?1", &group)?;
            body.map_or_else(|| Ok(ServedSizes::default()), |body| parsed(&body))
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
