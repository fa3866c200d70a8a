//! The embedded queue: a table in the same SQLite file as the store.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use model::job::Job;
use sqlite::{
    Database, Error, Part, Written, after_ms, now_ms,
    rusqlite::{Connection, OptionalExtension as _, params},
};
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::{DEAD_PAGE, DeadLetter, Depth, HIDDEN_BY_THE_FUTURE, Lease, Queue, QueueError};

/// Jobs that this process sends wake a worker at once; those of another process, and those whose lease has
/// ended, are found at this pace.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Files that are older than the numbering have this table already.
const FIRST: &str = "
    CREATE TABLE IF NOT EXISTS jobs (
        id TEXT PRIMARY KEY, body TEXT NOT NULL, visible_at_ms INTEGER NOT NULL, attempts INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS jobs_by_visibility ON jobs (visible_at_ms);
";

/// Jobs that are given up stay, out of the way.
const DEAD_LETTERS: &str = "
    ALTER TABLE jobs ADD COLUMN dead_since_ms INTEGER;
    ALTER TABLE jobs ADD COLUMN cause TEXT;
    ALTER TABLE jobs ADD COLUMN forgiven INTEGER NOT NULL DEFAULT 0;
    DROP INDEX jobs_by_visibility;
    CREATE INDEX jobs_by_visibility ON jobs (visible_at_ms) WHERE dead_since_ms IS NULL;
    CREATE INDEX jobs_by_death ON jobs (dead_since_ms) WHERE dead_since_ms IS NOT NULL;
";

/// Which job: the one that the lease is for, if it still is.
const HELD: &str = "WHERE id = ?1 AND attempts = CAST(?2 AS INTEGER) AND dead_since_ms IS NULL";

/// A queue in one file.
#[derive(Debug)]
pub struct SqliteQueue {
    database: Database,
    sent: Notify,
}

impl SqliteQueue {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        Self::on(Database::open(path).map_err(|error| failed("opening the database", error))?)
    }

    /// In a file that is open already.
    pub fn on(database: Database) -> Result<Self, QueueError> {
        database
            .bring_forward(Part { name: "queue", migrations: &[FIRST, DEAD_LETTERS] })
            .map_err(|error| failed("opening the database", error))?;
        Ok(Self { database, sent: Notify::new() })
    }

    async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        self.database.read(work).await.map_err(|error| failed(operation, error))
    }

    async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let kept = |db: &Connection| Ok(Written::Keep(work(db)?));
        self.database.write(kept).await.map_err(|error| failed(operation, error))
    }

    /// Whether there is something to take: to look writes nothing.
    async fn is_waiting(&self) -> Result<bool, QueueError> {
        self.read("looking for a job", |db| {
            let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE visible_at_ms <= ?1 AND dead_since_ms IS NULL)
                 OR EXISTS (SELECT 1 FROM jobs WHERE visible_at_ms > ?2 AND dead_since_ms IS NULL)";
            let now = params![now_ms(), after_ms(HIDDEN_BY_THE_FUTURE)];
            Ok(db.prepare_cached(sql)?.query_row(now, |row| row.get(0))?)
        })
        .await
    }

    /// The receipt says how often the job was ever handed out: a lease that has ended carries a smaller number.
    async fn lease(&self, lease: Duration) -> Result<Option<Lease>, QueueError> {
        while self.is_waiting().await? {
            let row = self
                .write("receiving a job", move |db| {
                    let mut take = db.prepare_cached(
                        "UPDATE jobs SET visible_at_ms = ?2, attempts = attempts + 1
                         WHERE id = COALESCE(
                             (SELECT id FROM jobs WHERE visible_at_ms <= ?1 AND dead_since_ms IS NULL
                              ORDER BY visible_at_ms LIMIT 1),
                             (SELECT id FROM jobs WHERE visible_at_ms > ?3 AND dead_since_ms IS NULL LIMIT 1))
                         RETURNING id, body, attempts, forgiven",
                    )?;
                    let now = params![now_ms(), after_ms(lease), after_ms(HIDDEN_BY_THE_FUTURE)];
                    let row = take.query_row(now, |row| {
                        Ok((
                            row.get::<_, String>(0)?,
                            row.get::<_, String>(1)?,
                            row.get::<_, u32>(2)?,
                            row.get::<_, u32>(3)?,
                        ))
                    });
                    Ok(row.optional()?)
                })
                .await?;
            // Another worker was faster.
            let Some((id, body, times, forgiven)) = row else { return Ok(None) };
            match serde_json::from_str(&body) {
                Ok(job) => {
                    let attempt = times.saturating_sub(forgiven);
                    return Ok(Some(Lease { job, attempt, receipt: times.to_string() }));
                }
                // Of another release, or damaged: it must not keep the others waiting.
                Err(error) => {
                    self.give_up(id, times.to_string(), format!("cannot be read: {error}")).await?;
                }
            }
        }
        Ok(None)
    }

    async fn give_up(&self, id: String, receipt: String, cause: String) -> Result<bool, QueueError> {
        self.write("giving a job up", move |db| {
            let sql = format!("UPDATE jobs SET dead_since_ms = ?3, cause = ?4 {HELD}");
            Ok(db.execute(&sql, params![id, receipt, now_ms(), cause])? == 1)
        })
        .await
    }

    /// Hides the job for so long, from now on.
    async fn hide(
        &self,
        operation: &'static str,
        lease: &Lease,
        pause: Duration,
    ) -> Result<bool, QueueError> {
        let (id, receipt) = (lease.job.id.clone(), lease.receipt.clone());
        self.write(operation, move |db| {
            let sql = format!("UPDATE jobs SET visible_at_ms = ?3 {HELD}");
            Ok(db.prepare_cached(&sql)?.execute(params![id, receipt, after_ms(pause)])? == 1)
        })
        .await
    }
}

fn failed(
    operation: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> QueueError {
    QueueError { operation, source: source.into() }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn send(&self, jobs: &[Job]) -> Result<(), QueueError> {
        let rows = jobs.iter().map(|job| Ok((job.id.clone(), serde_json::to_string(job)?)));
        let rows: Vec<_> = rows
            .collect::<Result<_, _>>()
            .map_err(|error: serde_json::Error| failed("writing a job", error))?;
        self.write("sending jobs", move |db| {
            let sql = "INSERT INTO jobs (id, body, visible_at_ms, attempts) VALUES (?1, ?2, ?3, 0)
                       ON CONFLICT DO NOTHING";
            let mut insert = db.prepare_cached(sql)?;
            for (id, body) in rows {
                insert.execute(params![id, body, now_ms()])?;
            }
            Ok(())
        })
        .await?;
        self.sent.notify_one();
        Ok(())
    }

    async fn receive(&self, lease: Duration) -> Result<Lease, QueueError> {
        loop {
            if let Some(found) = self.lease(lease).await? {
                // There may be more: wake the next worker too.
                self.sent.notify_one();
                return Ok(found);
            }
            let _looked_again = tokio::time::timeout(LOOK_AGAIN, self.sent.notified()).await;
        }
    }

    async fn extend(&self, lease: &Lease, by: Duration) -> Result<bool, QueueError> {
        self.hide("extending a lease", lease, by).await
    }

    async fn done(&self, lease: &Lease) -> Result<bool, QueueError> {
        let (id, receipt) = (lease.job.id.clone(), lease.receipt.clone());
        self.write("finishing a job", move |db| {
            let sql = format!("DELETE FROM jobs {HELD}");
            Ok(db.prepare_cached(&sql)?.execute(params![id, receipt])? == 1)
        })
        .await
    }

    async fn retry_after(&self, lease: &Lease, pause: Duration) -> Result<bool, QueueError> {
        self.hide("giving a job back", lease, pause).await
    }

    async fn bury(&self, lease: &Lease, cause: &str) -> Result<bool, QueueError> {
        self.give_up(lease.job.id.clone(), lease.receipt.clone(), cause.to_owned()).await
    }

    async fn dead(&self) -> Result<Vec<DeadLetter>, QueueError> {
        self.read("reading the dead letters", |db| {
            let mut query = db.prepare_cached(
                "SELECT id, body, cause, attempts - forgiven, dead_since_ms FROM jobs
                 WHERE dead_since_ms IS NOT NULL ORDER BY dead_since_ms LIMIT ?1",
            )?;
            let letters = query.query_map([DEAD_PAGE], |row| {
                let since = i128::from(row.get::<_, i64>(4)?) * 1_000_000;
                Ok(DeadLetter {
                    id: row.get(0)?,
                    job: serde_json::from_str(&row.get::<_, String>(1)?).ok(),
                    cause: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
                    attempts: row.get(3)?,
                    since: OffsetDateTime::from_unix_timestamp_nanos(since)
                        .unwrap_or(OffsetDateTime::UNIX_EPOCH),
                })
            })?;
            Ok(letters.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn revive(&self, id: &str) -> Result<bool, QueueError> {
        let id = id.to_owned();
        let sql =
            "UPDATE jobs SET dead_since_ms = NULL, cause = NULL, forgiven = attempts, visible_at_ms = ?2
                   WHERE id = ?1 AND dead_since_ms IS NOT NULL";
        let revived =
            self.write("reviving a job", move |db| Ok(db.execute(sql, params![id, now_ms()])? == 1)).await?;
        self.sent.notify_one();
        Ok(revived)
    }

    async fn drop_dead(&self, id: &str) -> Result<bool, QueueError> {
        let id = id.to_owned();
        let sql = "DELETE FROM jobs WHERE id = ?1 AND dead_since_ms IS NOT NULL";
        self.write("dropping a job", move |db| Ok(db.execute(sql, [id])? == 1)).await
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        self.read("counting jobs", |db| {
            let sql = "SELECT count(*) FILTER (WHERE visible_at_ms <= ?1), count(*) FILTER (WHERE visible_at_ms > ?1)
                       FROM jobs WHERE dead_since_ms IS NULL";
            let (visible, hidden) = db.query_row(sql, [now_ms()], |row| {
                Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?))
            })?;
            Ok(Depth { visible: visible.into(), hidden: hidden.into() })
        })
        .await
    }
}
