//! The thread that writes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, Written};

/// Writes of one transaction: enough that the sync is a small part, few enough that none waits long for the others.
const MAX_BATCH: usize = 256;
/// Writes that wait for the thread; whoever comes then waits too.
const MAX_WAITING: usize = 4_096;

/// Begun or failed, for all writes of one transaction.
type Begun<'a> = Result<&'a Connection, Arc<rusqlite::Error>>;
/// What a write leaves to be told when the transaction has ended.
type Told = Box<dyn FnOnce(&Result<(), Arc<rusqlite::Error>>) + Send>;
type Work = Box<dyn FnOnce(Begun<'_>) -> Told + Send>;

/// A way to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Writer(mpsc::Sender<Work>);

impl Writer {
    pub(crate) fn start(connection: Connection) -> std::io::Result<Self> {
        let (sender, works) = mpsc::channel(MAX_WAITING);
        thread::Builder::new().name("sqlite-writer".into()).spawn(move || run(&connection, works))?;
        Ok(Self(sender))
    }

    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<Written<T>, Error> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let work: Work = Box::new(move |begun| {
            let result = begun.map_err(Error::Transaction).and_then(|db| alone(db, work));
            Box::new(move |ended| {
                let result = match ended {
                    Ok(()) => result,
                    Err(error) => result.and(Err(Error::Transaction(Arc::clone(error)))),
                };
                // Whoever asked may be gone.
                let _gone = sender.send(result);
            })
        });
        self.0.send(work).await.map_err(|_| Error::Unfinished)?;
        receiver.await.map_err(|_| Error::Unfinished)?
    }
}

/// Takes what is there into one transaction, and then what came meanwhile into the next.
fn run(connection: &Connection, mut works: mpsc::Receiver<Work>) {
    while let Some(first) = works.blocking_recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(Arc::new);
        let mut told = Vec::new();
        let mut next = Some(first);
        while let Some(work) = next {
            told.push(work(begun.as_ref().map(|()| connection).map_err(Arc::clone)));
            next = if told.len() < MAX_BATCH { works.try_recv().ok() } else { None };
        }
        let ended = begun.and_then(|()| connection.execute_batch("COMMIT").map_err(Arc::new));
        if ended.is_err() && !connection.is_autocommit() {
            // Fails only when the transaction is gone already.
            let _gone = connection.execute_batch("ROLLBACK");
        }
        for tell in told {
            tell(&ended);
        }
    }
}

/// Runs a write so that it can be undone without the others. A panic ends the write, and not the thread.
fn alone<T>(
    db: &Connection,
    work: impl FnOnce(&Connection) -> Result<Written<T>, Error>,
) -> Result<T, Error> {
    db.execute_batch("SAVEPOINT one")?;
    let undo = || db.execute_batch("ROLLBACK TO one; RELEASE one");
    match catch_unwind(AssertUnwindSafe(|| work(db))) {
        Ok(Ok(Written::Keep(value))) => {
            db.execute_batch("RELEASE one")?;
            Ok(value)
        }
        Ok(Ok(Written::Undo(value))) => {
            undo()?;
            Ok(value)
        }
        Ok(Err(error)) => {
            undo()?;
            Err(error)
        }
        Err(_panic) => {
            undo()?;
            Err(Error::Unfinished)
        }
    }
}
