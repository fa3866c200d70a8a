//! One SQLite file in WAL mode, synced at each commit, of which each part of the control plane has tables of its own:
//! it opens, brings a part's tables up to date, and works on them away from the async threads. It knows no table.

use std::{
    fmt,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

pub use rusqlite;

/// A writer of another process holds the lock for a few milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const VERSIONS: &str =
    "CREATE TABLE IF NOT EXISTS schemas (part TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database itself.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A row that this release cannot read.
    #[error("a row that cannot be read")]
    Row(#[from] serde_json::Error),
    /// A row that can be read, and says what cannot be.
    #[error("{0}")]
    Meaning(String),
    /// The file is of a newer release; an older one must not write to it.
    #[error("the tables of the {part} have version {found}, and this release knows up to {known}")]
    Newer {
        /// Whose tables.
        part: &'static str,
        /// In the file.
        found: u32,
        /// By this program.
        known: u32,
    },
    /// The work panicked, or the process is at its end.
    #[error("the work was not finished")]
    Unfinished(#[from] tokio::task::JoinError),
}

/// A part of the control plane that keeps tables.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// For the version of its tables, and for errors.
    pub name: &'static str,
    /// What leads from each version of the tables to the next one, the first from nothing. A script that a release has
    /// had is never changed.
    pub migrations: &'static [&'static str],
}

/// A connection to the file.
pub struct Database(Arc<Mutex<Connection>>);

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

/// Which write of another process was seen last.
#[derive(Debug)]
pub struct ForeignWrites {
    connection: Weak<Mutex<Connection>>,
    seen: Option<i64>,
}

impl Database {
    /// Opens the file, or makes it, and brings the part's tables up to this release.
    ///
    /// # Errors
    /// It is no database, cannot be written, or is of a newer release.
    pub fn open(path: &Path, part: Part) -> Result<Self, Error> {
        private(path)?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut connection, part)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs a read or write away from the async threads.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn with<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    {
        let connection = Arc::clone(&self.0);
        let run = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(run).await?
    }

    /// To be asked for other processes' writes, for as long as the database is open.
    pub fn foreign_writes(&self) -> ForeignWrites {
        ForeignWrites { connection: Arc::downgrade(&self.0), seen: None }
    }
}

impl ForeignWrites {
    /// Whether somebody else wrote since the last call; the first call says so too. `None` when the database is closed.
    /// It reads a counter in shared memory (`PRAGMA data_version`).
    pub async fn look(&mut self) -> Option<bool> {
        let connection = self.connection.upgrade()?;
        let read = move || {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            connection.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0)).ok()
        };
        let version = tokio::task::spawn_blocking(read).await.ok().flatten();
        Some(version.is_some() && std::mem::replace(&mut self.seen, version) != version)
    }
}

/// Makes the file readable by its owner only, before SQLite would make it readable by all; its `-wal` and `-shm`
/// take the same mode.
fn private(path: &Path) -> std::io::Result<()> {
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

/// All steps in one transaction: a crash leaves the tables as they were, and of two processes one finds it done.
fn migrate(connection: &mut Connection, part: Part) -> Result<(), Error> {
    let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    write.execute_batch(VERSIONS)?;
    let found = write
        .query_row("SELECT version FROM schemas WHERE part = ?1", [part.name], |row| row.get::<_, u32>(0))
        .optional()?
        .unwrap_or(0);
    let known = u32::try_from(part.migrations.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(Error::Newer { part: part.name, found, known });
    }
    for script in part.migrations.iter().skip(found as usize) {
        write.execute_batch(script)?;
    }
    write.execute("INSERT OR REPLACE INTO schemas VALUES (?1, ?2)", params![part.name, known])?;
    Ok(write.commit()?)
}

/// Milliseconds since 1970, as rows keep them.
pub fn now_ms() -> i64 {
    after_ms(Duration::ZERO)
}

/// The same, of a moment that is to come.
pub fn after_ms(pause: Duration) -> i64 {
    let at = SystemTime::now() + pause;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "CREATE TABLE things (name TEXT) STRICT; INSERT INTO things VALUES ('old');";
    const SECOND: &str = "ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 7;";

    fn part(migrations: &'static [&'static str]) -> Part {
        Part { name: "tests", migrations }
    }

    #[tokio::test]
    async fn a_part_is_brought_forward_once_and_never_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        Database::open(&path, part(&[FIRST])).unwrap();
        for _ in 0..2 {
            let database = Database::open(&path, part(&[FIRST, SECOND])).unwrap();
            let row = database.with(|db| {
                Ok(db.query_row("SELECT name, size FROM things", [], |row| Ok((row.get(0)?, row.get(1)?)))?)
            });
            let row: (String, i64) = row.await.unwrap();
            assert_eq!(row, ("old".into(), 7));
        }
        let refused = Database::open(&path, part(&[FIRST])).unwrap_err().to_string();
        assert_eq!(refused, "the tables of the tests have version 2, and this release knows up to 1");
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        assert!(Database::open(&path, part(&[FIRST, "CREATE NONSENSE"])).is_err());
        Database::open(&path, part(&[FIRST])).unwrap();
    }

    #[tokio::test]
    async fn another_processs_write_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        let (here, there) =
            (Database::open(&path, part(&[FIRST])).unwrap(), Database::open(&path, part(&[FIRST])).unwrap());
        let mut writes = there.foreign_writes();
        assert_eq!(writes.look().await, Some(true), "the first look");
        assert_eq!(writes.look().await, Some(false));
        here.with(|db| Ok(db.execute("INSERT INTO things VALUES ('new')", [])?)).await.unwrap();
        assert_eq!(writes.look().await, Some(true));
        drop(there);
        assert_eq!(writes.look().await, None);
    }
}
