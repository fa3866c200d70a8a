//! One SQLite file in WAL mode, synced at each commit, of which each part of the control plane has tables of its own:
//! it opens, brings a part's tables up to date, and works on them away from the async threads. It knows no table.
//!
//! One thread writes. What comes while it commits goes into its next transaction, so that a disk that syncs 1,000 times
//! a second carries many thousand writes; each stands for itself all the same. Reads do not wait for writes.

mod writer;

use std::{
    fmt,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use tokio::sync::Semaphore;

use crate::writer::Writer;

pub use rusqlite;

/// A writer of another process holds the lock for a few milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections for reads. One read takes microseconds and a core, so more would only cost memory.
const READERS: usize = 8;

const VERSIONS: &str =
    "CREATE TABLE IF NOT EXISTS schemas (part TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT;";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database itself.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction that this write shared with others.
    #[error("the transaction failed, and nothing was written")]
    Transaction(#[source] Arc<rusqlite::Error>),
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
    #[error("the work was not finished, and nothing was written")]
    Unfinished,
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

/// What becomes of what a write has done.
#[derive(Debug)]
pub enum Written<T> {
    /// It is kept.
    Keep(T),
    /// It is undone: the answer is a refusal.
    Undo(T),
}

/// The open file. Clones share it: parts that lie in one file should, since only one can write at a time.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    path: PathBuf,
    writer: Writer,
    /// Of which each lets one connection be used, or opened.
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

/// Which write was seen last.
#[derive(Debug)]
pub struct Writes {
    inner: Weak<Inner>,
    /// Its own, since the counter is one connection's view.
    connection: Arc<Mutex<Connection>>,
    seen: Option<i64>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It is no database, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        private(path)?;
        let connection = connect(path)?;
        let writer = Writer::start(connection)?;
        let turns = Arc::new(Semaphore::new(READERS));
        Ok(Self(Arc::new(Inner { path: path.to_owned(), writer, turns, idle: Mutex::default() })))
    }

    /// Brings a part's tables up to this release.
    ///
    /// # Errors
    /// The file is of a newer release, or a script cannot be carried out; the tables are as they were then.
    pub fn bring_forward(&self, part: Part) -> Result<(), Error> {
        migrate(&mut connect(&self.0.path)?, part)
    }

    /// Runs a read, on one consistent state.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn read<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let turn = Arc::clone(&self.0.turns).acquire_owned().await.map_err(|_| Error::Unfinished)?;
        let inner = Arc::clone(&self.0);
        let run = move || {
            // Held to the end of the work, also when nobody waits for it any more.
            let _turn = turn;
            let idle = inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = idle.map_or_else(|| connect(&inner.path), Ok)?;
            let read = connection.transaction()?;
            let result = work(&read);
            drop(read);
            inner.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            result
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| Error::Unfinished)?
    }

    /// Runs a write. When this returns, it is on disk or undone; an error undoes it.
    ///
    /// # Errors
    /// Those of the work, and of the transaction.
    pub async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<Written<T>, Error> + Send + 'static,
    {
        self.0.writer.write(work).await
    }

    /// To be asked for writes, of this process and of others, for as long as the database is open.
    ///
    /// # Errors
    /// The file cannot be opened once more.
    pub fn writes(&self) -> Result<Writes, Error> {
        let connection = Arc::new(Mutex::new(connect(&self.0.path)?));
        Ok(Writes { inner: Arc::downgrade(&self.0), connection, seen: None })
    }
}

impl Writes {
    /// Whether somebody wrote since the last call; the first call says so too. `None` when the database is closed.
    /// It reads a counter in shared memory (`PRAGMA data_version`).
    pub async fn look(&mut self) -> Option<bool> {
        self.inner.upgrade()?;
        let connection = Arc::clone(&self.connection);
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

fn connect(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
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

    fn open(path: &Path, migrations: &'static [&'static str]) -> Result<Database, Error> {
        let database = Database::open(path)?;
        database.bring_forward(Part { name: "tests", migrations })?;
        Ok(database)
    }

    async fn count(database: &Database) -> u32 {
        let count = |db: &Connection| Ok(db.query_row("SELECT count(*) FROM things", [], |row| row.get(0))?);
        database.read(count).await.unwrap()
    }

    fn insert(db: &Connection) -> Result<Written<()>, Error> {
        db.execute("INSERT INTO things VALUES ('new')", [])?;
        Ok(Written::Keep(()))
    }

    #[tokio::test]
    async fn a_part_is_brought_forward_once_and_never_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        open(&path, &[FIRST]).unwrap();
        for _ in 0..2 {
            let database = open(&path, &[FIRST, SECOND]).unwrap();
            let query = |db: &Connection| {
                Ok(db.query_row("SELECT name, size FROM things", [], |row| Ok((row.get(0)?, row.get(1)?)))?)
            };
            let row: (String, i64) = database.read(query).await.unwrap();
            assert_eq!(row, ("old".into(), 7));
        }
        let refused = open(&path, &[FIRST]).unwrap_err().to_string();
        assert_eq!(refused, "the tables of the tests have version 2, and this release knows up to 1");
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        assert!(open(&path, &[FIRST, "CREATE NONSENSE"]).is_err());
        open(&path, &[FIRST]).unwrap();
    }

    #[tokio::test]
    async fn a_write_is_seen_once_whoever_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        let (here, there) = (open(&path, &[FIRST]).unwrap(), open(&path, &[FIRST]).unwrap());
        let mut writes = there.writes().unwrap();
        assert_eq!(writes.look().await, Some(true), "the first look");
        assert_eq!(writes.look().await, Some(false));
        for database in [&here, &there] {
            database.write(insert).await.unwrap();
            assert_eq!(writes.look().await, Some(true));
            assert_eq!(writes.look().await, Some(false));
        }
        drop(there);
        assert_eq!(writes.look().await, None);
    }

    /// They go into few transactions, in which each still stands for itself.
    #[tokio::test]
    async fn of_writes_that_come_together_each_is_kept_or_undone_alone() {
        let folder = tempfile::tempdir().unwrap();
        let database = open(&folder.path().join("file.db"), &[FIRST]).unwrap();
        let mut all = tokio::task::JoinSet::new();
        for at in 0..400 {
            let database = database.clone();
            all.spawn(async move {
                let work = move |db: &Connection| {
                    insert(db)?;
                    match at % 4 {
                        0 => Ok(Written::Keep(at)),
                        1 => Ok(Written::Undo(at)),
                        2 => Err(Error::Meaning("refused".into())),
                        _ => panic!("a mistake in a write"),
                    }
                };
                let result = database.write(work).await.map_err(|error| error.to_string());
                let expected = match at % 4 {
                    0 | 1 => Ok(at),
                    2 => Err("refused".to_owned()),
                    _ => Err("the work was not finished, and nothing was written".to_owned()),
                };
                assert_eq!(result, expected);
            });
        }
        while let Some(one) = all.join_next().await {
            one.unwrap();
        }
        assert_eq!(count(&database).await, 1 + 100);
        drop(database);
        assert_eq!(count(&open(&folder.path().join("file.db"), &[FIRST]).unwrap()).await, 1 + 100);
    }

    #[tokio::test]
    async fn a_transaction_that_cannot_begin_is_told_to_all_who_wait_and_the_next_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.db");
        let database = open(&path, &[FIRST]).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let refused = database.write(insert).await.unwrap_err();
        assert!(matches!(refused, Error::Transaction(_)), "{refused:?}");
        other.execute_batch("ROLLBACK").unwrap();
        database.write(insert).await.unwrap();
        assert_eq!(count(&database).await, 2);
    }
}
