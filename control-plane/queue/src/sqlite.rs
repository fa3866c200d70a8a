//! The embedded queue: a table in the same SQLite file as the store.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use model::job::Job;
use sqlite::{
    Database, Error, Part, after_ms, now_ms,
    rusqlite::{Connection, OptionalExtension as _, params},
};
use tokio::sync::Notify;

use crate::{Lease, Queue, QueueError};

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

/// A queue in one file.
#[derive(Debug)]
pub struct SqliteQueue {
    database: Database,
    sent: Notify,
}

impl SqliteQueue {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        let database = Database::open(path, Part { name: "queue", migrations: &[FIRST] })
            .map_err(|error| failed("opening the database", error))?;
        Ok(Self { database, sent: Notify::new() })
    }

    async fn with<T, F>(&self, operation: &'static str, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    {
        self.database.with(work).await.map_err(|error| failed(operation, error))
    }

    /// The receipt is the attempt's number: a lease that has ended carries an older one.
    async fn lease(&self, lease: Duration) -> Result<Option<Lease>, QueueError> {
        let row = self
            .with("receiving a job", move |db| {
                let until = after_ms(lease);
                let row = db.query_row(
                    "UPDATE jobs SET visible_at_ms = ?2, attempts = attempts + 1
                     WHERE id = (SELECT id FROM jobs WHERE visible_at_ms <= ?1 ORDER BY visible_at_ms LIMIT 1)
                     RETURNING body, attempts",
                    [now_ms(), until],
                    |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)),
                );
                Ok(row.optional()?)
            })
            .await?;
        let Some((body, attempt)) = row else { return Ok(None) };
        let job = serde_json::from_str(&body).map_err(|error| failed("reading a job", error))?;
        Ok(Some(Lease { job, attempt, receipt: attempt.to_string() }))
    }

    async fn update(
        &self,
        operation: &'static str,
        sql: &'static str,
        lease: &Lease,
        at: i64,
    ) -> Result<bool, QueueError> {
        let (id, receipt) = (lease.job.id.clone(), lease.attempt);
        self.with(operation, move |db| Ok(db.execute(sql, params![id, receipt, at])? == 1)).await
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
    async fn send(&self, job: &Job) -> Result<(), QueueError> {
        let body = serde_json::to_string(job).map_err(|error| failed("writing a job", error))?;
        let id = job.id.clone();
        self.with("sending a job", move |db| {
            db.execute(
                "INSERT INTO jobs VALUES (?1, ?2, ?3, 0) ON CONFLICT DO NOTHING",
                params![id, body, now_ms()],
            )?;
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
        let sql = "UPDATE jobs SET visible_at_ms = ?3 WHERE id = ?1 AND attempts = ?2";
        self.update("extending a lease", sql, lease, after_ms(by)).await
    }

    async fn done(&self, lease: &Lease) -> Result<bool, QueueError> {
        let sql = "DELETE FROM jobs WHERE id = ?1 AND attempts = ?2 AND ?3 IS NOT NULL";
        self.update("finishing a job", sql, lease, 0).await
    }

    async fn retry_after(&self, lease: &Lease, pause: Duration) -> Result<bool, QueueError> {
        let sql = "UPDATE jobs SET visible_at_ms = ?3 WHERE id = ?1 AND attempts = ?2";
        self.update("giving a job back", sql, lease, after_ms(pause)).await
    }
}
